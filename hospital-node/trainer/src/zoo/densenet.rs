//! `DenseNet-121` (\[HLMW17\]): within a block, every layer sees what all before it have found.

use aggregation::architecture::DENSE_BLOCKS;
use burn::tensor::Tensor;

use super::layers::{
    Walk, Window, averaged, conv3x3, convolution, group_norm_relu, halved, scored, smaller,
};

/// Groups of every normalisation; all of the network's channels are multiples of it.
const GROUPS: usize = 32;

/// `full` says that the images are so small that the stem keeps every pixel.
pub(super) fn scores(at: &mut Walk<'_>, images: Tensor<5>, full: bool) -> Tensor<3> {
    let mut x =
        if full { conv3x3(at, images, 1) } else { convolution(at, images, Window::flat(2, 3)) };
    x = group_norm_relu(at, x, GROUPS);
    if !full {
        x = halved(x);
    }
    for (block, layers) in DENSE_BLOCKS.into_iter().enumerate() {
        if block > 0 {
            x = group_norm_relu(at, x, GROUPS);
            x = convolution(at, x, Window::flat(1, 0));
            x = smaller(x);
        }
        for _ in 0..layers {
            let mut new = group_norm_relu(at, x.clone(), GROUPS);
            new = convolution(at, new, Window::flat(1, 0));
            new = group_norm_relu(at, new, GROUPS);
            new = conv3x3(at, new, 1);
            x = Tensor::cat(vec![x, new], 4);
        }
    }
    x = group_norm_relu(at, x, GROUPS);
    scored(at, averaged(x))
}

// [HLMW17]: Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, CVPR
//   2017, arXiv 1608.06993.
