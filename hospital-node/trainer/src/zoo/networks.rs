//! What happens between the tensors of each architecture, from images to scores.

use aggregation::architecture::{Architecture, FULL_RESOLUTION, vit_patch};
use aggregation::study::InputShape;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use super::layers::{
    Walk, Window, averaged, conv3x3, convolution, group_norm, group_norm_relu, halved, pooled,
    scored,
};
use super::{densenet, unet, vit};

/// Groups of every normalisation of the residual network, as its authors' (\[WH18\] section 4.1).
const RESIDUAL_GROUPS: usize = 32;

/// What an input's size decides about a network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Whether the images are so small that a stem keeps every pixel.
    full: bool,
    /// The side of a transformer's patch.
    patch: usize,
}

impl Size {
    pub(super) fn of(input: &InputShape) -> Self {
        let full = input.height.max(input.width) <= FULL_RESOLUTION;
        Self { full, patch: vit_patch(input).into() }
    }
}

/// The scores of each class, `[images, places, classes]`, of images
/// `[images, channels, depth, height, width]`: one place for a whole image, or one for each voxel.
pub(super) fn scores(
    architecture: Architecture,
    size: Size,
    at: &mut Walk<'_>,
    images: Tensor<5>,
) -> Tensor<3> {
    let Size { full, patch } = size;
    let stem = if full { 1 } else { 2 };
    let rows = images.clone();
    let images = images.permute([0, 2, 3, 4, 1]);
    match architecture {
        Architecture::CnnTiny => plain(at, images, &[(stem, 4), (2, 8), (2, 8)]),
        Architecture::CnnSmall => plain(at, images, &[(stem, 4), (2, 8), (1, 8), (2, 8), (1, 8)]),
        Architecture::Resnet18Gn => residual(at, images, full),
        Architecture::DenseNet121Gn => densenet::scores(at, images, full),
        Architecture::VitTiny => vit::scores(at, images, patch),
        Architecture::Unet2d => unet::scores(at, images, false),
        Architecture::Unet3d => unet::scores(at, images, true),
        Architecture::Linear | Architecture::ScatterLinear => scored(at, rows.flatten(1, 4)),
    }
}

/// Convolutions one after the other, each with its stride and its groups.
fn plain(at: &mut Walk<'_>, images: Tensor<5>, blocks: &[(usize, usize)]) -> Tensor<3> {
    let mut x = images;
    for (stride, groups) in blocks {
        x = conv3x3(at, x, *stride);
        x = group_norm_relu(at, x, *groups);
    }
    scored(at, pooled(x))
}

/// Four stages of two residual blocks.
fn residual(at: &mut Walk<'_>, images: Tensor<5>, full: bool) -> Tensor<3> {
    let mut x =
        if full { conv3x3(at, images, 1) } else { convolution(at, images, Window::flat(2, 3)) };
    x = group_norm_relu(at, x, RESIDUAL_GROUPS);
    if !full {
        x = halved(x);
    }
    for stage in 0..4 {
        let halves = stage > 0;
        x = residual_block(at, x, halves);
        x = residual_block(at, x, false);
    }
    scored(at, averaged(x))
}

/// Two convolutions beside a way past them (\[He+16\] figure 2). Where a block halves the image, a
/// 1x1 convolution makes the way past fit.
fn residual_block(at: &mut Walk<'_>, x: Tensor<5>, halves: bool) -> Tensor<5> {
    let stride = if halves { 2 } else { 1 };
    let mut y = conv3x3(at, x.clone(), stride);
    y = group_norm_relu(at, y, RESIDUAL_GROUPS);
    y = conv3x3(at, y, 1);
    y = group_norm(at, y, RESIDUAL_GROUPS);
    let past = if halves {
        let narrowed = convolution(at, x, Window::flat(2, 0));
        group_norm(at, narrowed, RESIDUAL_GROUPS)
    } else {
        x
    };
    relu(y + past)
}

// [WH18]: Wu, He: Group Normalization, ECCV 2018, arXiv 1803.08494.
// [He+16]: He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, arXiv 1512.03385.
