//! What happens between the tensors of each architecture, from images to scores.

use aggregation::architecture::Architecture;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use super::layers::{
    Walk, Window, averaged, conv3x3, convolution, group_norm, group_norm_relu, halved, linear,
    pooled,
};

/// Groups of every normalisation of the residual network, as its authors' (\[WH18\] section 4.1).
const RESIDUAL_GROUPS: usize = 32;

/// The scores of each class, `[images, classes]`, of images `[images, channels, height, width]`. `full` says that the images are so small that
/// the stem keeps every pixel.
pub(super) fn scores(
    architecture: Architecture,
    full: bool,
    at: &mut Walk<'_>,
    images: Tensor<4>,
) -> Tensor<2> {
    let stem = if full { 1 } else { 2 };
    let channels_last = images.clone().permute([0, 2, 3, 1]);
    match architecture {
        Architecture::CnnTiny => plain(at, channels_last, &[(stem, 4), (2, 8), (2, 8)]),
        Architecture::CnnSmall => {
            plain(at, channels_last, &[(stem, 4), (2, 8), (1, 8), (2, 8), (1, 8)])
        }
        Architecture::Resnet18Gn => residual(at, channels_last, full),
        Architecture::Linear | Architecture::ScatterLinear => linear(at, images.flatten(1, 3)),
    }
}

/// Convolutions one after the other, each with its stride and its groups.
fn plain(at: &mut Walk<'_>, images: Tensor<4>, blocks: &[(usize, usize)]) -> Tensor<2> {
    let mut x = images;
    for (stride, groups) in blocks {
        x = conv3x3(at, x, *stride);
        x = group_norm_relu(at, x, *groups);
    }
    linear(at, pooled(x))
}

/// Four stages of two residual blocks.
fn residual(at: &mut Walk<'_>, images: Tensor<4>, full: bool) -> Tensor<2> {
    let mut x = if full {
        conv3x3(at, images, 1)
    } else {
        convolution(at, images, Window { stride: 2, padding: 3 })
    };
    x = group_norm_relu(at, x, RESIDUAL_GROUPS);
    if !full {
        x = halved(x);
    }
    for stage in 0..4 {
        let halves = stage > 0;
        x = residual_block(at, x, halves);
        x = residual_block(at, x, false);
    }
    linear(at, averaged(x))
}

/// Two convolutions beside a way past them (\[He+16\] figure 2). Where a block halves the image, a
/// 1x1 convolution makes the way past fit.
fn residual_block(at: &mut Walk<'_>, x: Tensor<4>, halves: bool) -> Tensor<4> {
    let stride = if halves { 2 } else { 1 };
    let mut y = conv3x3(at, x.clone(), stride);
    y = group_norm_relu(at, y, RESIDUAL_GROUPS);
    y = conv3x3(at, y, 1);
    y = group_norm(at, y, RESIDUAL_GROUPS);
    let past = if halves {
        let narrowed = convolution(at, x, Window { stride: 2, padding: 0 });
        group_norm(at, narrowed, RESIDUAL_GROUPS)
    } else {
        x
    };
    relu(y + past)
}

// [WH18]: Wu, He: Group Normalization, ECCV 2018, arXiv 1803.08494.
// [He+16]: He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, arXiv 1512.03385.
