//! Layers over lists of vectors, `[images, places, values]`: a vector for each token of a
//! transformer, for each pixel of an image, or a single one for a whole image.

use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, softmax};

use super::cpu::on_cpu;
use super::ghost::Tap;
use super::layers::Walk;

/// Keeps the variance of a flat vector away from zero; timm's.
const NORM_EPSILON: f64 = 1e-6;

/// A linear layer on each vector: `x W^T + b`. A weight with a window, as of a convolution, is taken
/// as a matrix whose columns are in the order of patches.
pub(super) fn linear(at: &mut Walk<'_>, x: Tensor<3>) -> Tensor<3> {
    let (place, weight) = at.matrix();
    let y = on_rows(&x, weight.transpose());
    let input = x.inner();
    let [images, places, outputs] = y.dims();
    let (of_bias, bias) = at.vector();
    let bias = bias.reshape([1, 1, outputs]);
    let Some(taps) = at.taps() else { return y + bias };
    // A leaf for each image and place gets the gradient at the output.
    let slope = bias.repeat(&[images, places, 1]).autodiff().require_grad();
    taps.push(Tap::Linear { place, input, slope: slope.clone(), turned: false });
    taps.push(Tap::Sum { place: of_bias, slope: slope.clone() });
    y + slope
}

/// A linear layer without bias, whose weight is `[in, out]`, as that of a transposed convolution
/// (its outputs in the order of patches).
pub(super) fn spread(at: &mut Walk<'_>, x: Tensor<3>) -> Tensor<3> {
    let (place, weight) = at.matrix();
    let device = weight.device();
    let y = on_rows(&x, weight);
    let Some(taps) = at.taps() else { return y };
    let slope = Tensor::zeros(y.dims(), &device).autodiff().require_grad();
    taps.push(Tap::Linear { place, input: x.inner(), slope: slope.clone(), turned: true });
    y + slope
}

/// Each vector times a matrix `[in, out]`: one product for all.
fn on_rows(x: &Tensor<3>, matrix: Tensor<2>) -> Tensor<3> {
    let ([images, places, inputs], [_, outputs]) = (x.dims(), matrix.dims());
    let rows = x.clone().reshape([images * places, inputs]);
    rows.matmul(matrix).reshape([images, places, outputs])
}

/// Mean 0 and variance 1 within each vector, then a scale and a shift per value (\[BKH16\]).
pub(super) fn layer_norm(at: &mut Walk<'_>, x: Tensor<3>) -> Tensor<3> {
    let [images, _, values] = x.dims();
    let per_vector = |vector: Tensor<2>| {
        let [rows, _] = vector.dims();
        vector.reshape([rows, 1, values])
    };
    let (scale, shift) = (per_vector(at.per_image(images)), per_vector(at.per_image(images)));
    let centred = x.clone() - x.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    centred / (variance + NORM_EPSILON).sqrt() * scale + shift
}

/// What each vector gets from all of its image (\[VSP+17\] section 3.2), in so many heads side by
/// side.
pub(super) fn attention(at: &mut Walk<'_>, x: Tensor<3>, heads: usize) -> Tensor<3> {
    let [images, places, values] = x.dims();
    let of_head = values / heads;
    // Queries, keys and values, each `[images, heads, places, of_head]`.
    let all = linear(at, x).reshape([images, places, 3, heads, of_head]).permute([2, 0, 3, 1, 4]);
    let part = |index: usize| -> Tensor<4> {
        all.clone().narrow(0, index, 1).reshape([images, heads, places, of_head])
    };
    let (query, key, value) = (part(0), part(1), part(2));
    let scale = super::count(of_head).sqrt();
    let likeness = (query / scale).matmul(key.swap_dims(2, 3));
    let mixed = softmax(likeness, 3).matmul(value);
    let mixed = mixed.swap_dims(1, 2).reshape([images, places, values]);
    linear(at, mixed)
}

/// The Gaussian error linear unit with the error function (\[HG16\]). Other devices are given its
/// parts: burn's own slope there is that of an approximation.
pub(super) fn bent(x: Tensor<3>) -> Tensor<3> {
    if on_cpu(&x).is_some() {
        return gelu(x);
    }
    let half = (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0;
    x * half * 0.5
}

// [BKH16]: Ba, Kiros, Hinton: Layer Normalization, arXiv 1607.06450.
// [VSP+17]: Vaswani et al.: Attention Is All You Need, NeurIPS 2017, arXiv 1706.03762.
// [HG16]: Hendrycks, Gimpel: Gaussian Error Linear Units, arXiv 1606.08415.
