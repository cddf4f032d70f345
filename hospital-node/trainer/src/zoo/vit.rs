//! A vision transformer (\[DBK+21\]), its normalisations before the parts that they serve.

use burn::tensor::Tensor;

use super::convolution::patches;
use super::layers::{Walk, Window};
use super::tokens::{attention, bent, layer_norm, linear};

/// Blocks of attention and two linear layers.
const BLOCKS: usize = 12;
/// Heads of each attention.
const HEADS: usize = 3;

/// `patch` is the side of what is one token, in pixels.
pub(super) fn scores(at: &mut Walk<'_>, images: Tensor<5>, patch: usize) -> Tensor<3> {
    let count = images.dims()[0];
    let (class, places) = (at.per_image(count), at.per_image(count));
    let window = Window { stride: [1, patch, patch], padding: [0; 3] };
    let seen = linear(at, patches(images, [1, patch, patch], window));
    let [_, tokens, width] = seen.dims();
    let [rows, _] = class.dims();
    let class = class.reshape([rows, 1, width]);
    let class = if rows == count { class } else { class.repeat_dim(0, count) };
    let mut x = Tensor::cat(vec![class, seen], 1) + places.reshape([rows, tokens + 1, width]);
    for _ in 0..BLOCKS {
        let y = layer_norm(at, x.clone());
        x = x + attention(at, y, HEADS);
        let y = layer_norm(at, x.clone());
        let y = bent(linear(at, y));
        x = x + linear(at, y);
    }
    // Only the class token is scored; the others' normalisation would be for nothing.
    let class = layer_norm(at, x.narrow(1, 0, 1));
    linear(at, class)
}

// [DBK+21]: Dosovitskiy et al.: An Image is Worth 16x16 Words, ICLR 2021, arXiv 2010.11929.
