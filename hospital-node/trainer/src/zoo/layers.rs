//! The layers that networks are made of, each taking its parameters from one walk along the flat
//! vector. A layer is written once and runs in three ways, as the walk was made: with constants,
//! with parameters whose mean gradient is wanted, or with taps that give gradients patient by
//! patient (`ghost.rs`). Hence no layer is taken from burn as a module, and there is
//! no layer that mixes the examples of a batch.
//!
//! Between layers, images are `[images, depth, height, width, channels]`; a flat one is one slice
//! deep.

use aggregation::architecture::ModelLayout;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Gradients, Tensor, TensorData};

use super::convolution::{convolve, convolve_tapped};
use super::ghost::Tap;
use super::normalisation::normalise;
use super::patches::{weight_from_layout, weight_to_layout};
use super::tokens;

/// The parameters of a network, one flat tensor for each of the layout's.
#[derive(Debug)]
pub struct Parameters {
    tensors: Vec<Tensor<1>>,
    orders: Vec<Order>,
}

/// How a tensor's values are ordered.
#[derive(Clone, Debug)]
enum Order {
    /// As in the layout.
    Plain(Vec<usize>),
    /// A convolution's weight: `[out, depth, height, width, in]` for the layout's
    /// `[out, in, depth, height, width]` or `[out, in, height, width]`, as its patches are. Turned
    /// round once for all passes.
    Patches([usize; 5]),
}

impl Order {
    fn new(shape: &[usize]) -> Self {
        match *shape {
            [outputs, inputs, high, wide] => Self::Patches([outputs, 1, high, wide, inputs]),
            [outputs, inputs, deep, high, wide] => {
                Self::Patches([outputs, deep, high, wide, inputs])
            }
            _ => Self::Plain(shape.to_vec()),
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Plain(shape) => shape,
            Self::Patches(shape) => shape,
        }
    }

    /// From the layout's order.
    fn ordered(&self, values: &[f32]) -> Vec<f32> {
        match *self {
            Self::Plain(_) => values.to_vec(),
            Self::Patches([_, deep, high, wide, inputs]) => {
                weight_from_layout(values, inputs, deep * high * wide)
            }
        }
    }

    /// Back to the layout's order.
    fn restore(&self, values: &[f32], place: &mut [f32]) {
        match *self {
            Self::Plain(_) => place.copy_from_slice(values),
            Self::Patches([_, deep, high, wide, inputs]) => {
                weight_to_layout(values, place, inputs, deep * high * wide);
            }
        }
    }
}

impl Parameters {
    /// Parameters to run a network with.
    #[must_use]
    pub fn constant(model: &[f32], layout: &ModelLayout, device: &Device) -> Self {
        let mut rest = model;
        let mut tensors = Vec::with_capacity(layout.tensors.len());
        let mut orders = Vec::with_capacity(layout.tensors.len());
        for spec in &layout.tensors {
            let (values, after) = rest.split_at(spec.values().min(rest.len()));
            rest = after;
            let order = Order::new(&spec.shape);
            let data = TensorData::new(order.ordered(values), [values.len()]);
            tensors.push(Tensor::from_data(data, device));
            orders.push(order);
        }
        Self { tensors, orders }
    }

    /// Parameters whose gradients are wanted.
    #[must_use]
    pub fn tracked(model: &[f32], layout: &ModelLayout, device: &Device) -> Self {
        let Self { tensors, orders } = Self::constant(model, layout, device);
        let tensors = tensors.into_iter().map(|t| t.autodiff().require_grad()).collect();
        Self { tensors, orders }
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
        self.flat(self.tensors.iter().map(|tensor| tensor.grad_remove(gradients)))
    }

    /// Values for each parameter, as the layers had them, in the layout's order. `None` when some
    /// are missing.
    pub(super) fn flat(
        &self,
        of_each: impl Iterator<Item = Option<Tensor<1>>>,
    ) -> Option<Vec<f32>> {
        let length = self.orders.iter().map(|order| order.shape().iter().product::<usize>()).sum();
        let mut flat = vec![0.0; length];
        let mut rest = flat.as_mut_slice();
        let mut of_each = of_each;
        for order in &self.orders {
            let (place, after) = rest.split_at_mut(order.shape().iter().product());
            rest = after;
            let values = of_each.next()??.try_into_vec_as::<f32>().ok()?;
            if values.len() != place.len() {
                return None;
            }
            order.restore(&values, place);
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
    /// The next tensor, flat, its shape and its place in the layout.
    fn take(&mut self) -> (usize, &[usize], Tensor<1>) {
        let index = self.next;
        self.next += 1;
        let shape = self.parameters.orders[index].shape();
        (index, shape, self.parameters.tensors[index].clone())
    }

    /// The weight of a convolution, in the order of patches, and its place.
    fn weight(&mut self) -> (usize, Tensor<5>) {
        let (place, shape, values) = self.take();
        let mut sides = [1; 5];
        sides.copy_from_slice(shape);
        (place, values.reshape(sides))
    }

    /// A weight as a matrix with a row for each entry along its first axis, and its place.
    pub(super) fn matrix(&mut self) -> (usize, Tensor<2>) {
        let (place, shape, values) = self.take();
        let (rows, columns) = (shape[0], shape[1..].iter().product());
        (place, values.reshape([rows, columns]))
    }

    /// All values of a tensor, and its place.
    pub(super) fn vector(&mut self) -> (usize, Tensor<1>) {
        let (place, _, values) = self.take();
        (place, values)
    }

    /// A vector to be added to, or multiplied with, each row of a batch: `[1, n]`, or a copy for
    /// each image `[images, n]` whose gradients are then the images' own.
    pub(super) fn per_image(&mut self, images: usize) -> Tensor<2> {
        let (place, values) = self.vector();
        let values = values.unsqueeze::<2>();
        let Some(taps) = &mut self.taps else { return values };
        let copies = values.repeat_dim(0, images).autodiff().require_grad();
        taps.push(Tap::Copies { place, copies: copies.clone() });
        copies
    }

    /// Where taps are left, when they are wanted.
    pub(super) fn taps(&mut self) -> Option<&mut Vec<Tap>> {
        self.taps.as_mut()
    }

    /// The taps that were left, in the order of the layers.
    pub(super) fn into_taps(self) -> Vec<Tap> {
        self.taps.unwrap_or_default()
    }
}

/// How the window of a convolution moves along depth, height and width.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Pixels from one place to the next.
    pub stride: [usize; 3],
    /// Pixels of zeros around the image.
    pub padding: [usize; 3],
}

impl Window {
    /// The same along height and width, within each slice.
    #[must_use]
    pub const fn flat(stride: usize, padding: usize) -> Self {
        Self { stride: [1, stride, stride], padding: [0, padding, padding] }
    }

    /// The same along all three.
    #[must_use]
    pub const fn solid(stride: usize, padding: usize) -> Self {
        Self { stride: [stride; 3], padding: [padding; 3] }
    }
}

/// A convolution without bias.
pub fn convolution(at: &mut Walk<'_>, x: Tensor<5>, window: Window) -> Tensor<5> {
    let (place, weight) = at.weight();
    let Some(taps) = &mut at.taps else { return convolve(x, weight, window) };
    let (input, [_, deep, high, wide, _]) = (x.clone().inner(), weight.dims());
    let (output, slope) = convolve_tapped(x, weight, window);
    taps.push(Tap::Convolution { place, input, kernel: [deep, high, wide], window, slope });
    output
}

/// A 3x3 convolution with one pixel of zeros around the image and no bias.
pub fn conv3x3(at: &mut Walk<'_>, x: Tensor<5>, stride: usize) -> Tensor<5> {
    convolution(at, x, Window::flat(stride, 1))
}

/// Group normalisation (\[WH18\]): mean 0 and variance 1 within each group of channels of each image,
/// then a scale and a shift per channel.
pub fn group_norm(at: &mut Walk<'_>, x: Tensor<5>, groups: usize) -> Tensor<5> {
    let images = x.dims()[0];
    let (scale, shift) = (at.per_image(images), at.per_image(images));
    normalise(x, scale, shift, groups, false)
}

/// As [`group_norm`], and what would be negative becomes zero.
pub fn group_norm_relu(at: &mut Walk<'_>, x: Tensor<5>, groups: usize) -> Tensor<5> {
    let images = x.dims()[0];
    let (scale, shift) = (at.per_image(images), at.per_image(images));
    normalise(x, scale, shift, groups, true)
}

/// The greatest of each 3x3 window of each slice, at every second pixel: half the height, half the
/// width.
#[must_use]
pub fn halved(x: Tensor<5>) -> Tensor<5> {
    let [images, depth, height, width, channels] = x.dims();
    let options = MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1]);
    let slices = x.reshape([images * depth, height, width, channels]).permute([0, 3, 1, 2]);
    let slices = max_pool2d(slices, options).permute([0, 2, 3, 1]);
    let [_, height, width, channels] = slices.dims();
    slices.reshape([images, depth, height, width, channels])
}

/// The mean of each 2x2 pixels of each slice; an odd last row or column is left out.
#[must_use]
pub fn smaller(x: Tensor<5>) -> Tensor<5> {
    let [images, depth, height, width, channels] = x.dims();
    let (down, right) = (height / 2, width / 2);
    let x = x.narrow(2, 0, 2 * down).narrow(3, 0, 2 * right);
    let pairs: Tensor<4> = x.reshape([images * depth * down, 2, right * 2, channels]);
    let rows: Tensor<4> = pairs.mean_dim(1).reshape([images * depth * down, right, 2, channels]);
    rows.mean_dim(2).reshape([images, depth, down, right, channels])
}

/// The mean of each channel over the image.
#[must_use]
pub fn averaged(x: Tensor<5>) -> Tensor<2> {
    let [images, depth, height, width, channels] = x.dims();
    x.reshape([images, depth * height * width, channels]).mean_dim(1).reshape([images, channels])
}

/// The mean and the greatest value of each channel over the image: how much of a feature there is,
/// and whether it is anywhere at all.
#[must_use]
pub fn pooled(x: Tensor<5>) -> Tensor<2> {
    let [images, depth, height, width, channels] = x.dims();
    let greatest = x.clone().reshape([images, depth * height * width, channels]).max_dim(1);
    Tensor::cat(vec![averaged(x), greatest.reshape([images, channels])], 1)
}

/// Scores of whole images from a vector for each: a linear layer.
pub fn scored(at: &mut Walk<'_>, x: Tensor<2>) -> Tensor<3> {
    tokens::linear(at, x.unsqueeze_dim(1))
}

// [WH18]: Wu, He: Group Normalization, ECCV 2018, arXiv 1803.08494.
