//! Convolutions without bias. On the CPU our own stand in for burn's: patches as the columns of a
//! matrix, and one product of matrices each for the output, the input's gradient and the weight's.
//! Other devices run burn's.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata as _};
use burn::tensor::module::conv2d;
use burn::tensor::{Tensor, TensorData};

use super::layers::Window;
use super::patches::Geometry;

/// The most values of patches that are held at once, unless one image alone has more: 8 MiB, which
/// a processor's cache may hold from their making to their use.
const HELD: usize = 1 << 21;
/// Places in an image from which on each image is a product of its own. For fewer, several images
/// make one, so that the weight is not read again for a handful of columns.
const OWN_PRODUCT: usize = 96;

/// A convolution. `weight` is `[out, in, height, width]`.
pub(super) fn convolve(x: Tensor<4>, weight: Tensor<4>, window: Window) -> Tensor<4> {
    match (on_cpu(&x), on_cpu(&weight)) {
        (Some(cpu_x), Some(cpu_weight)) => {
            if x.is_autodiff() || weight.is_autodiff() {
                let nobody = Tensor::zeros([1; 4], &x.device());
                recorded(x, weight, nobody, window)
            } else {
                on_tensor(forward(&cpu_x, cpu_weight, window))
            }
        }
        (None, _) | (_, None) => conv2d(x, weight, None, window.options()),
    }
}

/// A convolution with constants, and a leaf that gets the gradient at its output.
pub(super) fn convolve_tapped(
    x: Tensor<4>,
    weight: Tensor<4>,
    window: Window,
) -> (Tensor<4>, Tensor<4>) {
    let weight = weight.inner();
    let leaf = |shape| Tensor::zeros(shape, &weight.device()).autodiff().require_grad();
    if on_cpu(&x).is_some() && on_cpu(&weight).is_some() {
        let tap = leaf([1; 4]);
        return (recorded(x, weight, tap.clone(), window), tap);
    }
    // A sum's parts have its gradient.
    let output = conv2d(x, weight.clone(), None, window.options());
    let tap = leaf(output.dims());
    (output + tap.clone(), tap)
}

/// The patches that the window sees: `[in * kernel, images, places]`.
pub(super) fn columns(x: Tensor<4>, kernel: [usize; 2], window: Window) -> Tensor<3> {
    let [images, channels, height, width] = x.dims();
    if let Some(cpu) = on_cpu(&x) {
        let geometry = Geometry::new([channels, height, width], kernel, window);
        let cpu = cpu.to_contiguous();
        let patches = geometry.gather(values(&cpu));
        let shape = [geometry.depth(), images, geometry.area()];
        return Tensor::from_data(TensorData::new(patches, shape), &x.device());
    }
    windows(x, kernel, window)
}

/// [`columns`] by burn's own means.
fn windows(x: Tensor<4>, kernel: [usize; 2], window: Window) -> Tensor<3> {
    let ([high, wide], Window { stride, padding }) = (kernel, window);
    let x = x.pad((padding, padding, padding, padding), 0.0);
    let x: Tensor<6> = x.unfold::<5, _>(2, high, stride).unfold::<6, _>(3, wide, stride);
    let [images, channels, rows, columns, _, _] = x.dims();
    x.permute([1, 4, 5, 0, 2, 3]).reshape([channels * high * wide, images, rows * columns])
}

/// How many images' patches may be held at once, each with so many values; in portions of nearly
/// one size, so that the last is not left with a handful.
pub(super) fn portion(images: usize, values: usize) -> usize {
    let most = (HELD / values.max(1)).clamp(1, images.max(1));
    images.div_ceil(images.div_ceil(most).max(1)).max(1)
}

/// The tensor on the CPU, without its gradient's history; nothing when it is elsewhere.
fn on_cpu(x: &Tensor<4>) -> Option<FloatTensor<Flex>> {
    x.clone().inner().try_into_primitive::<Flex>().ok()
}

fn on_tensor<const D: usize>(cpu: FloatTensor<Flex>) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(cpu)
}

fn values(cpu: &FloatTensor<Flex>) -> &[f32] {
    cpu.as_slice().expect("its caller made it contiguous, and every tensor here is of f32")
}

/// Puts a convolution into the graph of whoever of the three is tracked. `tap` gets the gradient
/// at the output as its own, whatever its shape.
fn recorded(x: Tensor<4>, weight: Tensor<4>, tap: Tensor<4>, window: Window) -> Tensor<4> {
    let part = |tensor: Tensor<4>| {
        let part = tensor.autodiff().try_into_primitive::<Autodiff<Flex>>();
        part.expect("its caller found it on the CPU").into_parts()
    };
    let ((x, of_x), (weight, of_weight), (_, of_tap)) = (part(x), part(weight), part(tap));
    let output = forward(&x, weight.clone(), window);
    let prepared = Convolution.prepare::<NoCheckpointing>([of_x, of_weight, of_tap]);
    let output = match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(Kept { x, weight, window }, output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(output)
}

#[derive(Debug)]
struct Convolution;

/// What the way back needs.
#[derive(Clone, Debug)]
struct Kept {
    x: FloatTensor<Flex>,
    weight: FloatTensor<Flex>,
    window: Window,
}

impl Backward<Flex, 3> for Convolution {
    type State = Kept;

    fn backward(self, ops: Ops<Kept, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [of_x, of_weight, of_tap] = ops.parents;
        let slope = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let Kept { x, weight, window } = ops.state;
        if let Some(node) = of_x {
            let gradient = input_gradient(&x, weight.clone(), &slope, window);
            gradients.register::<Flex>(node.id, gradient);
        }
        if let Some(node) = of_weight {
            let gradient = weight_gradient(&x, &weight, &slope, window);
            gradients.register::<Flex>(node.id, gradient);
        }
        if let Some(node) = of_tap {
            gradients.register::<Flex>(node.id, slope);
        }
    }
}

/// Of images `[n, in, ..]` and a weight `[out, in, ..]`: `n`, the window's way and `out`.
fn shapes(
    x: &FloatTensor<Flex>,
    weight: &FloatTensor<Flex>,
    window: Window,
) -> (usize, Geometry, usize) {
    let [images, channels, height, width] = x.shape().dims();
    let [outputs, _, high, wide] = weight.shape().dims();
    (images, Geometry::new([channels, height, width], [high, wide], window), outputs)
}

fn forward(x: &FloatTensor<Flex>, weight: FloatTensor<Flex>, window: Window) -> FloatTensor<Flex> {
    let (images, geometry, outputs) = shapes(x, &weight, window);
    let (depth, area) = (geometry.depth(), geometry.area());
    let weight = on_tensor::<4>(weight).reshape([outputs, depth]);
    let device = weight.device();
    let x = x.to_contiguous();
    let of_portion = portion(images, depth * area) * geometry.pixels();
    let mut parts = Vec::new();
    for portion in values(&x).chunks(of_portion) {
        let count = portion.len() / geometry.pixels();
        let patches = TensorData::new(geometry.gather(portion), [depth, count, area]);
        let patches = Tensor::<3>::from_data(patches, &device);
        parts.push(if area < OWN_PRODUCT {
            let product = weight.clone().matmul(patches.reshape([depth, count * area]));
            product.reshape([outputs, count, area]).swap_dims(0, 1)
        } else {
            weight.clone().unsqueeze::<3>().matmul(patches.swap_dims(0, 1))
        });
    }
    let [down, right] = geometry.places;
    let output = if parts.is_empty() {
        Tensor::zeros([images, outputs, area], &device)
    } else {
        Tensor::cat(parts, 0)
    };
    primitive(output.reshape([images, outputs, down, right]))
}

fn input_gradient(
    x: &FloatTensor<Flex>,
    weight: FloatTensor<Flex>,
    slope: &FloatTensor<Flex>,
    window: Window,
) -> FloatTensor<Flex> {
    let (images, geometry, outputs) = shapes(x, &weight, window);
    let (depth, area) = (geometry.depth(), geometry.area());
    let weight = on_tensor::<4>(weight).reshape([outputs, depth]).transpose();
    let slope = on_tensor::<4>(slope.clone()).reshape([images, outputs, area]);
    let of_portion = portion(images, depth * area);
    let mut gradient = Vec::new();
    for first in (0..images).step_by(of_portion) {
        let count = of_portion.min(images - first);
        let slope = slope.clone().narrow(0, first, count);
        let (patches, apart) = if area < OWN_PRODUCT {
            let slope = slope.swap_dims(0, 1).reshape([outputs, count * area]);
            (primitive(weight.clone().matmul(slope)), (count * area, area))
        } else {
            let patches = weight.clone().unsqueeze::<3>().matmul(slope);
            (primitive(patches), (area, depth * area))
        };
        let part = geometry.scatter(values(&patches), count, apart);
        if gradient.is_empty() { gradient = part } else { gradient.extend(part) }
    }
    let gradient = TensorData::new(gradient, x.shape());
    primitive(Tensor::<4>::from_data(gradient, &weight.device()))
}

/// The sum over the images.
fn weight_gradient(
    x: &FloatTensor<Flex>,
    weight: &FloatTensor<Flex>,
    slope: &FloatTensor<Flex>,
    window: Window,
) -> FloatTensor<Flex> {
    let (images, geometry, outputs) = shapes(x, weight, window);
    let (depth, area) = (geometry.depth(), geometry.area());
    let slope = on_tensor::<4>(slope.clone()).reshape([images, outputs, area]);
    let device = slope.device();
    let x = x.to_contiguous();
    let of_portion = portion(images, depth * area);
    let mut sum = Tensor::<2>::zeros([outputs, depth], &device);
    for (index, portion) in values(&x).chunks(of_portion * geometry.pixels()).enumerate() {
        let count = portion.len() / geometry.pixels();
        let patches = TensorData::new(geometry.gather(portion), [depth, count * area]);
        let patches = Tensor::<2>::from_data(patches, &device);
        let slope = slope.clone().narrow(0, index * of_portion, count);
        let slope = slope.swap_dims(0, 1).reshape([outputs, count * area]);
        sum = sum + slope.matmul(patches.transpose());
    }
    primitive(sum.reshape(weight.shape().dims::<4>()))
}

fn primitive<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Flex> {
    tensor.try_into_primitive::<Flex>().expect("it was made on the CPU, without a graph")
}
