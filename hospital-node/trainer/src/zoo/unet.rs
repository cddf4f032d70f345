//! U-shaped networks for images and for volumes: down to ever coarser views, and up again with what
//! the way down saw at each resolution.

use aggregation::architecture::unet_channels;
use burn::tensor::Tensor;

use super::layers::{Walk, Window, convolution, group_norm_relu};
use super::tokens::{linear, spread};

/// The most groups of a normalisation.
const GROUPS: usize = 8;

/// Scores of each voxel. `solid` says that images are volumes.
pub(super) fn scores(at: &mut Walk<'_>, images: Tensor<5>, solid: bool) -> Tensor<3> {
    let channels = unet_channels(solid);
    let mut seen = Vec::new();
    let mut x = images;
    for (level, channels) in channels.into_iter().enumerate() {
        x = twice(at, x, channels, if level == 0 { 1 } else { 2 }, solid);
        seen.push(x.clone());
    }
    seen.pop();
    for (channels, seen) in channels.into_iter().rev().skip(1).zip(seen.into_iter().rev()) {
        let up = doubled(at, x, channels, solid);
        x = twice(at, Tensor::cat(vec![seen, up], 4), channels, 1, solid);
    }
    let [images, depth, height, width, channels] = x.dims();
    linear(at, x.reshape([images, depth * height * width, channels]))
}

/// Two convolutions, the first of them with a stride.
fn twice(
    at: &mut Walk<'_>,
    x: Tensor<5>,
    channels: usize,
    stride: usize,
    solid: bool,
) -> Tensor<5> {
    let window = |stride| if solid { Window::solid(stride, 1) } else { Window::flat(stride, 1) };
    let groups = GROUPS.min(channels / 2);
    let x = convolution(at, x, window(stride));
    let x = group_norm_relu(at, x, groups);
    let x = convolution(at, x, window(1));
    group_norm_relu(at, x, groups)
}

/// A transposed convolution whose window of two pixels a side moves by two: no two places share a
/// pixel, so it is a linear layer on each, and its outputs laid out.
fn doubled(at: &mut Walk<'_>, x: Tensor<5>, channels: usize, solid: bool) -> Tensor<5> {
    let [images, depth, height, width, inputs] = x.dims();
    let deep = if solid { 2 } else { 1 };
    let places = depth * height * width;
    let y = spread(at, x.reshape([images, places, inputs]));
    // Of each axis the coarse place, then the place within it.
    let y: Tensor<6> = y.reshape([images * depth, height * width, deep, 2, 2, channels]);
    let y = y.permute([0, 2, 1, 3, 4, 5]);
    let y: Tensor<6> = y.reshape([images * depth * deep, height, width, 2, 2, channels]);
    let y = y.permute([0, 1, 3, 2, 4, 5]);
    y.reshape([images, depth * deep, height * 2, width * 2, channels])
}
