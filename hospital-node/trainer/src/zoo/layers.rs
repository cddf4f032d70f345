//! The layers that networks are made of, each taking its parameters from one walk along the flat
//! vector. A layer is written once and runs in three ways, as the walk was made: with constants,
//! with parameters whose mean gradient is wanted, or with taps that give gradients patient by
//! patient ([`ghost`](super::ghost)). Hence no layer is taken from burn as a module, and there is
//! no layer that mixes the examples of a batch.

use aggregation::architecture::ModelLayout;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Gradients, Tensor, TensorData};

use super::convolution::{convolve, convolve_tapped};
use super::ghost::Tap;

/// Keeps the variance of a flat group away from zero.
const NORM_EPSILON: f64 = 1e-5;

/// The parameters of a network, one flat tensor for each of the layout's.
#[derive(Debug)]
pub struct Parameters {
    tensors: Vec<Tensor<1>>,
    shapes: Vec<Vec<usize>>,
}

impl Parameters {
    /// Parameters to run a network with.
    #[must_use]
    pub fn constant(model: &[f32], layout: &ModelLayout, device: &Device) -> Self {
        let mut rest = model;
        let mut tensors = Vec::with_capacity(layout.tensors.len());
        for spec in &layout.tensors {
            let (values, after) = rest.split_at(spec.values().min(rest.len()));
            rest = after;
            let data = TensorData::new(values.to_vec(), [values.len()]);
            tensors.push(Tensor::from_data(data, device));
        }
        let shapes = layout.tensors.iter().map(|spec| spec.shape.clone()).collect();
        Self { tensors, shapes }
    }

    /// Parameters whose gradients are wanted.
    #[must_use]
    pub fn tracked(model: &[f32], layout: &ModelLayout, device: &Device) -> Self {
        let Self { tensors, shapes } = Self::constant(model, layout, device);
        let tensors = tensors.into_iter().map(|t| t.autodiff().require_grad()).collect();
        Self { tensors, shapes }
    }

    /// Goes along the parameters in the layout's order.
    #[must_use]
    pub fn walk(&self) -> Walk<'_> {
        Walk { parameters: self, next: 0, taps: None }
    }

    /// As [`Self::walk`] along constant parameters, leaving a tap at every layer that has some.
    #[must_use]
    pub(super) fn tapped(&self) -> Walk<'_> {
        Walk { parameters: self, next: 0, taps: Some(Vec::new()) }
    }

    /// The gradients, flat, in the layout's order. `None` when one is missing.
    #[must_use]
    pub fn gradients(&self, gradients: &mut Gradients) -> Option<Vec<f32>> {
        let mut flat = Vec::new();
        for tensor in &self.tensors {
            let gradient = tensor.grad_remove(gradients)?;
            flat.extend(gradient.try_into_vec_as::<f32>().ok()?);
        }
        Some(flat)
    }
}

/// A place in the parameters; each layer takes what it needs from here on.
#[derive(Debug)]
pub struct Walk<'a> {
    parameters: &'a Parameters,
    next: usize,
    /// Those left so far, when they are wanted.
    taps: Option<Vec<Tap>>,
}

impl Walk<'_> {
    /// The next tensor, and its place in the layout.
    fn take<const D: usize>(&mut self) -> (usize, Tensor<D>) {
        let index = self.next;
        self.next += 1;
        let mut shape = [1; D];
        shape.copy_from_slice(&self.parameters.shapes[index]);
        (index, self.parameters.tensors[index].clone().reshape(shape))
    }

    /// A vector to be added to, or multiplied with, each row of a batch: `[1, n]`, or a copy for
    /// each image `[images, n]` whose gradients are then the images' own.
    fn per_image(&mut self, images: usize) -> Tensor<2> {
        let (place, values) = self.take::<1>();
        let values = values.unsqueeze::<2>();
        let Some(taps) = &mut self.taps else { return values };
        let copies = values.repeat_dim(0, images).autodiff().require_grad();
        taps.push(Tap::Copies { place, copies: copies.clone() });
        copies
    }

    /// As [`Self::per_image`], ready to meet a batch of images.
    fn per_channel(&mut self, images: usize) -> Tensor<4> {
        let values = self.per_image(images);
        let [images, channels] = values.dims();
        values.reshape([images, channels, 1, 1])
    }

    /// The taps that were left, in the order of the layers.
    pub(super) fn into_taps(self) -> Vec<Tap> {
        self.taps.unwrap_or_default()
    }
}

/// How the window of a convolution moves: the same along both sides.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Pixels from one place to the next.
    pub stride: usize,
    /// Pixels of zeros around the image.
    pub padding: usize,
}

impl Window {
    pub(super) fn options(self) -> ConvOptions<2> {
        let Self { stride, padding } = self;
        ConvOptions::new([stride, stride], [padding, padding], [1, 1], 1)
    }
}

/// A convolution without bias.
pub fn convolution(at: &mut Walk<'_>, x: Tensor<4>, window: Window) -> Tensor<4> {
    let (place, weight) = at.take::<4>();
    let Some(taps) = &mut at.taps else { return convolve(x, weight, window) };
    let (input, [_, _, high, wide]) = (x.clone().inner(), weight.dims());
    let (output, slope) = convolve_tapped(x, weight, window);
    taps.push(Tap::Convolution { place, input, kernel: [high, wide], window, slope });
    output
}

/// A 3x3 convolution with one pixel of zeros around the image and no bias.
pub fn conv3x3(at: &mut Walk<'_>, x: Tensor<4>, stride: usize) -> Tensor<4> {
    convolution(at, x, Window { stride, padding: 1 })
}

/// Group normalisation (\[WH18\]): mean 0 and variance 1 within each group of channels of each image,
/// then a scale and a shift per channel.
pub fn group_norm(at: &mut Walk<'_>, x: Tensor<4>, groups: usize) -> Tensor<4> {
    let [images, channels, height, width] = x.dims();
    let grouped = x.reshape([images, groups, channels / groups * height * width]);
    let mean = grouped.clone().mean_dim(2);
    let centred = grouped - mean;
    let variance = centred.clone().square().mean_dim(2);
    let normed = centred / (variance + NORM_EPSILON).sqrt();
    let normed = normed.reshape([images, channels, height, width]);
    normed * at.per_channel(images) + at.per_channel(images)
}

/// The greatest of each 3x3 window, at every second pixel: half the height, half the width.
#[must_use]
pub fn halved(x: Tensor<4>) -> Tensor<4> {
    let options = MaxPoolOptions::new([3, 3]).with_stride([2, 2]);
    max_pool2d(x, options.with_padding([1, 1]))
}

/// The mean of each channel over the image.
#[must_use]
pub fn averaged(x: Tensor<4>) -> Tensor<2> {
    let [images, channels, height, width] = x.dims();
    x.reshape([images, channels, height * width]).mean_dim(2).reshape([images, channels])
}

/// The mean and the greatest value of each channel over the image: how much of a feature there is,
/// and whether it is anywhere at all.
#[must_use]
pub fn pooled(x: Tensor<4>) -> Tensor<2> {
    let [images, channels, height, width] = x.dims();
    let greatest = x.clone().reshape([images, channels, height * width]).max_dim(2);
    Tensor::cat(vec![averaged(x), greatest.reshape([images, channels])], 1)
}

/// A linear layer: `x W^T + b`.
pub fn linear(at: &mut Walk<'_>, x: Tensor<2>) -> Tensor<2> {
    let images = x.dims()[0];
    let input = x.clone().inner();
    let (place, weight) = at.take::<2>();
    let bias = at.per_image(images);
    if let Some(taps) = &mut at.taps {
        // Each image has a bias of its own, whose gradient is the one at the output.
        taps.push(Tap::Linear { place, input, slope: bias.clone() });
    }
    x.matmul(weight.transpose()) + bias
}

// [WH18]: Wu, He: Group Normalization, ECCV 2018, arXiv 1803.08494.
