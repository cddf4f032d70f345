//! Convolutions without bias over `[images, depth, height, width, channels]`, where a flat image is
//! one slice deep. On the CPU our own stand in for burn's: patches as the rows of a matrix, and one
//! product of matrices each for the output, the input's gradient and the weight's. Other devices run
//! burn's.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata as _};
use burn::tensor::module::{conv2d, conv3d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Slice, Tensor};

use super::cpu::{made, on_cpu, on_tensor, primitive, values};
use super::layers::Window;
use super::patches::Geometry;

/// The most values of patches that are held at once, unless one image alone has more: 4 MiB, which
/// a processor's cache may hold from their making to their use.
const HELD: usize = 1 << 20;

/// A convolution. `weight` is `[out, depth, height, width, in]`.
pub(super) fn convolve(x: Tensor<5>, weight: Tensor<5>, window: Window) -> Tensor<5> {
    match (on_cpu(&x), on_cpu(&weight)) {
        (Some(cpu_x), Some(cpu_weight)) => {
            if x.is_autodiff() || weight.is_autodiff() {
                let nobody = Tensor::zeros([1; 5], &x.device());
                recorded(x, weight, nobody, window)
            } else {
                let kernel = Kernel::new(cpu_weight);
                on_tensor(forward(&cpu_x, &kernel, window))
            }
        }
        (None, _) | (_, None) => elsewhere(x, weight, window),
    }
}

/// A convolution with constants, and a leaf that gets the gradient at its output.
pub(super) fn convolve_tapped(
    x: Tensor<5>,
    weight: Tensor<5>,
    window: Window,
) -> (Tensor<5>, Tensor<5>) {
    let weight = weight.inner();
    let device = weight.device();
    let leaf = |shape| Tensor::zeros(shape, &device).autodiff().require_grad();
    if on_cpu(&x).is_some() && on_cpu(&weight).is_some() {
        let tap = leaf([1; 5]);
        return (recorded(x, weight, tap.clone(), window), tap);
    }
    // A sum's parts have its gradient.
    let output = elsewhere(x, weight, window);
    let tap = leaf(output.dims());
    (output + tap.clone(), tap)
}

/// By burn's own means, which want the channels first.
fn elsewhere(x: Tensor<5>, weight: Tensor<5>, window: Window) -> Tensor<5> {
    let Window { stride, padding } = window;
    let ([images, depth, height, width, inputs], kernel) = (x.dims(), weight.dims());
    if depth == 1 && kernel[1] == 1 && padding[0] == 0 {
        let [outputs, _, high, wide, _] = kernel;
        let x = x.reshape([images, height, width, inputs]).permute([0, 3, 1, 2]);
        let weight = weight.reshape([outputs, high, wide, inputs]).permute([0, 3, 1, 2]);
        let stride = [stride[1], stride[2]];
        let options = ConvOptions::new(stride, [padding[1], padding[2]], [1, 1], 1);
        let y = conv2d(x, weight, None, options).permute([0, 2, 3, 1]);
        return y.unsqueeze_dim(1);
    }
    let first = |x: Tensor<5>| x.permute([0, 4, 1, 2, 3]);
    let options = ConvOptions::new(stride, padding, [1, 1, 1], 1);
    conv3d(first(x), first(weight), None, options).permute([0, 2, 3, 4, 1])
}

/// The patches that the window sees, `[images, places, kernel * in]`.
pub(super) fn patches(x: Tensor<5>, kernel: [usize; 3], window: Window) -> Tensor<3> {
    let [images, depth, height, width, channels] = x.dims();
    let geometry = Geometry::new([depth, height, width, channels], kernel, window);
    let shape = [images, geometry.area(), geometry.depth()];
    if geometry.is_pointwise() {
        return x.reshape(shape);
    }
    let Some(cpu) = on_cpu(&x) else { return patches_elsewhere(x, kernel, window) };
    let cpu = cpu.to_contiguous();
    on_tensor(made(geometry.gather(values(&cpu)), shape))
}

/// [`patches`] by burn's own means: what each pixel of the window sees, side by side.
fn patches_elsewhere(x: Tensor<5>, kernel: [usize; 3], window: Window) -> Tensor<3> {
    let [images, depth, height, width, channels] = x.dims();
    let geometry = Geometry::new([depth, height, width, channels], kernel, window);
    let Window { stride, padding } = window;
    let around = padding.map(|pixels| (pixels, pixels));
    let x = x.pad([(0, 0), around[0], around[1], around[2], (0, 0)], 0.0);
    let seen = |x: Tensor<5>, axis: usize, at: usize| {
        let last = (geometry.places[axis] - 1) * stride[axis];
        let step = isize::try_from(stride[axis]).unwrap_or(isize::MAX);
        x.slice_dim(axis + 1, Slice::from_range_stepped(at..at + last + 1, step))
    };
    let mut pixels = Vec::new();
    for z in 0..kernel[0] {
        for y in 0..kernel[1] {
            for column in 0..kernel[2] {
                pixels.push(seen(seen(seen(x.clone(), 0, z), 1, y), 2, column));
            }
        }
    }
    Tensor::cat(pixels, 4).reshape([images, geometry.area(), geometry.depth()])
}

/// How many images' patches may be held at once, each with so many values; in portions of nearly
/// one size, so that the last is not left with a handful.
pub(super) fn portion(images: usize, values: usize) -> usize {
    let most = (HELD / values.max(1)).clamp(1, images.max(1));
    images.div_ceil(images.div_ceil(most).max(1)).max(1)
}

/// A weight as the way through the patches needs it.
#[derive(Clone, Debug)]
struct Kernel {
    /// `[out, kernel * in]`.
    matrix: Tensor<2>,
    /// Depth, height and width.
    sides: [usize; 3],
}

impl Kernel {
    fn new(weight: FloatTensor<Flex>) -> Self {
        let [outputs, deep, high, wide, inputs] = weight.shape().dims();
        let matrix = on_tensor::<5>(weight).reshape([outputs, deep * high * wide * inputs]);
        Self { matrix, sides: [deep, high, wide] }
    }

    fn outputs(&self) -> usize {
        self.matrix.dims()[0]
    }

    /// Its way over images, and their number.
    fn over(&self, x: &FloatTensor<Flex>, window: Window) -> (usize, Geometry) {
        let [images, depth, height, width, channels] = x.shape().dims();
        (images, Geometry::new([depth, height, width, channels], self.sides, window))
    }
}

/// Puts a convolution into the graph of whoever of the three is tracked. `tap` gets the gradient
/// at the output as its own, whatever its shape.
fn recorded(x: Tensor<5>, weight: Tensor<5>, tap: Tensor<5>, window: Window) -> Tensor<5> {
    let part = |tensor: Tensor<5>| {
        let part = tensor.autodiff().try_into_primitive::<Autodiff<Flex>>();
        part.expect("its caller found it on the CPU").into_parts()
    };
    let ((x, of_x), (weight, of_weight), (_, of_tap)) = (part(x), part(weight), part(tap));
    let kernel = Kernel::new(weight);
    let output = forward(&x, &kernel, window);
    let prepared = Convolution.prepare::<NoCheckpointing>([of_x, of_weight, of_tap]);
    let output = match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(Kept { x, kernel, window }, output),
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
    kernel: Kernel,
    window: Window,
}

impl Backward<Flex, 3> for Convolution {
    type State = Kept;

    fn backward(self, ops: Ops<Kept, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [of_x, of_weight, of_tap] = ops.parents;
        let slope = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let Kept { x, kernel, window } = ops.state;
        if let Some(node) = of_x {
            let gradient = input_gradient(&x, &kernel, &slope, window);
            gradients.register::<Flex>(node.id, gradient);
        }
        if let Some(node) = of_weight {
            let gradient = weight_gradient(&x, &kernel, &slope, window);
            gradients.register::<Flex>(node.id, gradient);
        }
        if let Some(node) = of_tap {
            gradients.register::<Flex>(node.id, slope);
        }
    }
}

fn forward(x: &FloatTensor<Flex>, kernel: &Kernel, window: Window) -> FloatTensor<Flex> {
    let (images, geometry) = kernel.over(x, window);
    let (depth, area) = (geometry.depth(), geometry.area());
    let [deep, down, right] = geometry.places;
    let shape = [images, deep, down, right, kernel.outputs()];
    let weight = kernel.matrix.clone().transpose();
    if images == 0 {
        return made(Vec::new(), shape);
    }
    if geometry.is_pointwise() {
        let rows = on_tensor::<5>(x.clone()).reshape([images * area, depth]);
        return primitive(rows.matmul(weight).reshape(shape));
    }
    let x = x.to_contiguous();
    let of_portion = portion(images, depth * area) * geometry.pixels();
    let parts = values(&x).chunks(of_portion).map(|portion| {
        let rows = portion.len() / geometry.pixels() * area;
        let patches = on_tensor::<2>(made(geometry.gather(portion), [rows, depth]));
        patches.matmul(weight.clone())
    });
    primitive(Tensor::cat(parts.collect(), 0).reshape(shape))
}

fn input_gradient(
    x: &FloatTensor<Flex>,
    kernel: &Kernel,
    slope: &FloatTensor<Flex>,
    window: Window,
) -> FloatTensor<Flex> {
    let (images, geometry) = kernel.over(x, window);
    let (depth, area) = (geometry.depth(), geometry.area());
    let slope = on_tensor::<5>(slope.clone()).reshape([images * area, kernel.outputs()]);
    if geometry.is_pointwise() {
        return primitive(slope.matmul(kernel.matrix.clone()).reshape(x.shape().dims::<5>()));
    }
    let of_portion = portion(images, depth * area);
    let mut gradient = Vec::new();
    for first in (0..images).step_by(of_portion) {
        let count = of_portion.min(images - first);
        let slope = slope.clone().narrow(0, first * area, count * area);
        let patches = primitive(slope.matmul(kernel.matrix.clone()));
        let part = geometry.scatter(values(&patches));
        if gradient.is_empty() { gradient = part } else { gradient.extend(part) }
    }
    made(gradient, x.shape().dims::<5>())
}

/// The sum over the images.
fn weight_gradient(
    x: &FloatTensor<Flex>,
    kernel: &Kernel,
    slope: &FloatTensor<Flex>,
    window: Window,
) -> FloatTensor<Flex> {
    let (images, geometry) = kernel.over(x, window);
    let (depth, area, outputs) = (geometry.depth(), geometry.area(), kernel.outputs());
    let slope = on_tensor::<5>(slope.clone()).reshape([images * area, outputs]).transpose();
    let [deep, high, wide] = kernel.sides;
    let shape = [outputs, deep, high, wide, depth / (deep * high * wide)];
    if images > 0 && geometry.is_pointwise() {
        let rows = on_tensor::<5>(x.clone()).reshape([images * area, depth]);
        return primitive(slope.matmul(rows).reshape(shape));
    }
    let x = x.to_contiguous();
    let of_portion = portion(images, depth * area);
    let mut sum: Option<Tensor<2>> = None;
    for (index, portion) in values(&x).chunks(of_portion * geometry.pixels()).enumerate() {
        let rows = portion.len() / geometry.pixels() * area;
        let patches = on_tensor::<2>(made(geometry.gather(portion), [rows, depth]));
        let slope = slope.clone().narrow(1, index * of_portion * area, rows);
        let part = slope.matmul(patches);
        sum = Some(match sum {
            Some(sum) => sum + part,
            None => part,
        });
    }
    let sum = sum.unwrap_or_else(|| on_tensor(made(vec![0.0; outputs * depth], [outputs, depth])));
    primitive(sum.reshape(shape))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::super::tests::normals;
    use super::*;

    /// `[images, channels in, depth, height, width]`, channels out, `[depth, height, width]` of the
    /// window.
    type Case = ([usize; 5], usize, [usize; 3], Window);

    fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for (stride, padding) in [(1, 0), (1, 1), (2, 0), (2, 1), (2, 3), (3, 1), (1, 3)] {
            for (image, outputs, kernel) in [
                ([3, 2, 1, 7, 9], 5, [1, 3, 3]),
                ([2, 1, 1, 8, 8], 4, [1, 3, 3]),
                ([1, 3, 1, 15, 13], 6, [1, 7, 7]),
                ([4, 6, 1, 5, 5], 3, [1, 1, 1]),
                ([2, 5, 1, 9, 6], 7, [1, 5, 2]),
                ([1, 17, 1, 33, 31], 19, [1, 3, 3]),
            ] {
                cases.push((image, outputs, kernel, Window::flat(stride, padding)));
            }
            for (image, outputs, kernel) in [
                ([2, 3, 5, 6, 7], 4, [3, 3, 3]),
                ([1, 1, 8, 8, 8], 2, [3, 3, 3]),
                ([2, 4, 4, 3, 5], 3, [1, 1, 1]),
                ([1, 2, 9, 5, 6], 5, [2, 5, 3]),
                ([3, 2, 7, 1, 6], 2, [3, 1, 2]),
            ] {
                cases.push((image, outputs, kernel, Window::solid(stride, padding)));
            }
        }
        // More than is held at once, with an uneven rest.
        cases.push(([7, 32, 1, 28, 28], 8, [1, 3, 3], Window::flat(1, 1)));
        cases.push(([3, 8, 16, 16, 16], 4, [3, 3, 3], Window::solid(1, 1)));
        // Each axis by itself.
        let uneven = Window { stride: [1, 2, 3], padding: [2, 0, 1] };
        cases.push(([2, 2, 5, 8, 9], 3, [3, 2, 4], uneven));
        cases
    }

    fn tensor(label: &str, shape: [usize; 5]) -> Tensor<5> {
        let values = normals(label, shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn single(tensor: Tensor<5>) -> Vec<f32> {
        tensor.try_into_vec_as::<f32>().expect("on the CPU")
    }

    /// Calls `each` with the places of a weight, an input value and an output value that meet, all
    /// with the channels last.
    fn meetings(case: &Case, mut each: impl FnMut(usize, usize, usize)) -> [usize; 5] {
        let ([images, inputs, sides @ ..], outputs, kernel, window) = *case;
        let along = |axis: usize| {
            (sides[axis] + 2 * window.padding[axis] - kernel[axis]) / window.stride[axis] + 1
        };
        let places = [along(0), along(1), along(2)];
        let volume = |[a, b, c]: [usize; 3]| a * b * c;
        let split =
            |index: usize, [_, b, c]: [usize; 3]| [index / (b * c), index / c % b, index % c];
        let flat = |[z, y, x]: [usize; 3], [_, b, c]: [usize; 3]| (z * b + y) * c + x;
        for place in 0..volume(places) {
            for of_kernel in 0..volume(kernel) {
                let (at, of) = (split(place, places), split(of_kernel, kernel));
                let seen = [0, 1, 2].map(|axis| {
                    let at = at[axis] * window.stride[axis] + of[axis];
                    at.checked_sub(window.padding[axis]).filter(|at| *at < sides[axis])
                });
                let [Some(z), Some(y), Some(x)] = seen else { continue };
                for image in 0..images {
                    let pixel = image * volume(sides) + flat([z, y, x], sides);
                    let place = image * volume(places) + place;
                    for (input, output) in (0..inputs * outputs).map(|c| (c / outputs, c % outputs))
                    {
                        each(
                            (output * volume(kernel) + of_kernel) * inputs + input,
                            pixel * inputs + input,
                            place * outputs + output,
                        );
                    }
                }
            }
        }
        [images, places[0], places[1], places[2], outputs]
    }

    fn assert_near(found: &[f32], expected: &[f64], what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        let apart = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).powi(2));
        let size = expected.iter().map(|b| b.powi(2)).sum::<f64>();
        let apart = apart.sum::<f64>().sqrt();
        // A window that sees nothing but padding gives zeros, and exactly those.
        assert!(apart <= 1e-6 * size.sqrt(), "{what}: {apart} of {} off", size.sqrt());
    }

    #[test]
    fn outputs_and_gradients_are_those_of_the_definition_in_double_precision() {
        for case in cases() {
            let (image @ [images, inputs, sides @ ..], outputs, kernel, window) = case;
            let [depth, height, width] = sides;
            let what = format!("{image:?} to {outputs} by {kernel:?}, {window:?}");
            let x = tensor("x", [images, depth, height, width, inputs]).autodiff().require_grad();
            let weight = tensor("w", [outputs, kernel[0], kernel[1], kernel[2], inputs]);
            let weight = weight.autodiff().require_grad();
            let y = convolve(x.clone(), weight.clone(), window);
            let slope = tensor("slope", y.dims());
            let gradients = (y.clone() * slope.clone()).sum().backward();

            let double = |tensor: &Tensor<5>| -> Vec<f64> {
                single(tensor.clone().inner()).into_iter().map(f64::from).collect()
            };
            let (w, v, s) = (double(&weight), double(&x), double(&slope));
            let mut expected = vec![0.0; s.len()];
            let (mut of_w, mut of_x) = (vec![0.0; w.len()], vec![0.0; v.len()]);
            let shape = meetings(&case, |weight, input, output| {
                expected[output] += w[weight] * v[input];
                of_w[weight] += s[output] * v[input];
                of_x[input] += s[output] * w[weight];
            });
            assert_eq!(y.dims(), shape, "{what}");
            assert_near(&single(y.clone().inner()), &expected, &what);
            let gradient = |of: &Tensor<5>| single(of.grad(&gradients).expect("it is a leaf"));
            assert_near(&gradient(&weight), &of_w, &what);
            assert_near(&gradient(&x), &of_x, &what);

            // Without a graph, by a tap, and by burn's own means.
            let plain = convolve(x.clone().inner(), weight.clone().inner(), window);
            assert_near(&single(plain), &expected, &what);
            let (tapped, tap) = convolve_tapped(x.clone().inner(), weight.clone(), window);
            let gradients = (tapped * slope.clone()).sum().backward();
            let of_output = single(tap.grad(&gradients).expect("it is a leaf"));
            assert_near(&of_output, &s, &what);
            let burns = elsewhere(x.clone().inner(), weight.clone().inner(), window);
            assert_near(&single(burns), &expected, &what);
        }
    }

    #[test]
    fn patches_are_the_same_by_burns_means() {
        for ([images, inputs, depth, height, width], _, kernel, window) in cases() {
            let x = tensor("x", [images, depth, height, width, inputs]);
            let ours = patches(x.clone(), kernel, window);
            let burns = patches_elsewhere(x, kernel, window);
            assert_eq!(ours.dims(), burns.dims());
            ours.into_data().assert_eq(&burns.into_data(), true);
        }
    }

    #[test]
    fn no_images_give_no_output() {
        let x = tensor("x", [0, 1, 8, 8, 2]);
        let y = convolve(x, tensor("w", [3, 1, 3, 3, 2]), Window::flat(2, 1));
        assert_eq!(y.dims(), [0, 1, 4, 4, 3]);
    }
}
