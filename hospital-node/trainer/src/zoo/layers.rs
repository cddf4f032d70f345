//! The layers that networks are made of, each taking its parameters from one walk along the flat
//! vector. Gradients per patient (ghost norms) hook in here and nowhere else, which is why no layer
//! is taken from burn as a module, and why there is no layer that mixes the examples of a batch.

use aggregation::architecture::ModelLayout;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Gradients, Tensor, TensorData};

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
        Walk { parameters: self, next: 0 }
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
}

impl Walk<'_> {
    fn take<const D: usize>(&mut self) -> Tensor<D> {
        let index = self.next;
        self.next += 1;
        let mut shape = [1; D];
        shape.copy_from_slice(&self.parameters.shapes[index]);
        self.parameters.tensors[index].clone().reshape(shape)
    }

    /// A vector of one value per channel, ready to meet a batch of images.
    fn per_channel(&mut self) -> Tensor<4> {
        let values = self.take::<1>();
        let channels = values.dims()[0];
        values.reshape([1, channels, 1, 1])
    }
}

/// A 3x3 convolution with one pixel of zeros around the image and no bias.
pub fn conv3x3(at: &mut Walk<'_>, x: Tensor<4>, stride: usize) -> Tensor<4> {
    conv2d(x, at.take(), None, ConvOptions::new([stride, stride], [1, 1], [1, 1], 1))
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
    normed.reshape([images, channels, height, width]) * at.per_channel() + at.per_channel()
}

/// The mean and the greatest value of each channel over the image: how much of a feature there is,
/// and whether it is anywhere at all.
#[must_use]
pub fn pooled(x: Tensor<4>) -> Tensor<2> {
    let [images, channels, height, width] = x.dims();
    let x = x.reshape([images, channels, height * width]);
    let means = x.clone().mean_dim(2).reshape([images, channels]);
    let greatest = x.max_dim(2).reshape([images, channels]);
    Tensor::cat(vec![means, greatest], 1)
}

/// A linear layer: `x W^T + b`.
pub fn linear(at: &mut Walk<'_>, x: Tensor<2>) -> Tensor<2> {
    let weight = at.take::<2>();
    let bias = at.take::<1>();
    x.matmul(weight.transpose()) + bias.unsqueeze()
}

// [WH18]: Wu, He: Group Normalization, ECCV 2018, arXiv 1803.08494.
