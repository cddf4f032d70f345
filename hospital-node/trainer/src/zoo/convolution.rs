//! Convolutions without bias over `[images, height, width, channels]`. On the CPU our own stand in
//! for burn's: patches as the rows of a matrix, and one product of matrices each for the output,
//! the input's gradient and the weight's. Other devices run burn's.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata as _};
use burn::tensor::Tensor;
use burn::tensor::module::conv2d;

use super::cpu::{made, on_cpu, on_tensor, primitive, values};
use super::layers::Window;
use super::patches::Geometry;

/// The most values of patches that are held at once, unless one image alone has more: 4 MiB, which
/// a processor's cache may hold from their making to their use.
const HELD: usize = 1 << 20;

/// A convolution. `weight` is `[out, height, width, in]`.
pub(super) fn convolve(x: Tensor<4>, weight: Tensor<4>, window: Window) -> Tensor<4> {
    match (on_cpu(&x), on_cpu(&weight)) {
        (Some(cpu_x), Some(cpu_weight)) => {
            if x.is_autodiff() || weight.is_autodiff() {
                let nobody = Tensor::zeros([1; 4], &x.device());
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
    x: Tensor<4>,
    weight: Tensor<4>,
    window: Window,
) -> (Tensor<4>, Tensor<4>) {
    let weight = weight.inner();
    let device = weight.device();
    let leaf = |shape| Tensor::zeros(shape, &device).autodiff().require_grad();
    if on_cpu(&x).is_some() && on_cpu(&weight).is_some() {
        let tap = leaf([1; 4]);
        return (recorded(x, weight, tap.clone(), window), tap);
    }
    // A sum's parts have its gradient.
    let output = elsewhere(x, weight, window);
    let tap = leaf(output.dims());
    (output + tap.clone(), tap)
}

/// By burn's own means, which want the channels first.
fn elsewhere(x: Tensor<4>, weight: Tensor<4>, window: Window) -> Tensor<4> {
    let first = |x: Tensor<4>| x.permute([0, 3, 1, 2]);
    conv2d(first(x), first(weight), None, window.options()).permute([0, 2, 3, 1])
}

/// The patches that the window sees, `[images, places, kernel * in]`.
pub(super) fn patches(x: Tensor<4>, kernel: [usize; 2], window: Window) -> Tensor<3> {
    let Some(cpu) = on_cpu(&x) else { return patches_elsewhere(x, kernel, window) };
    let [images, height, width, channels] = x.dims();
    let geometry = Geometry::new([height, width, channels], kernel, window);
    let cpu = cpu.to_contiguous();
    let shape = [images, geometry.area(), geometry.depth()];
    on_tensor(made(geometry.gather(values(&cpu)), shape))
}

/// [`patches`] by burn's own means.
fn patches_elsewhere(x: Tensor<4>, kernel: [usize; 2], window: Window) -> Tensor<3> {
    let ([high, wide], Window { stride, padding }) = (kernel, window);
    let x = x.permute([0, 3, 1, 2]).pad((padding, padding, padding, padding), 0.0);
    let x: Tensor<6> = x.unfold::<5, _>(2, high, stride).unfold::<6, _>(3, wide, stride);
    let [images, channels, down, right, _, _] = x.dims();
    x.permute([0, 2, 3, 4, 5, 1]).reshape([images, down * right, high * wide * channels])
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
    /// Height and width.
    sides: [usize; 2],
}

impl Kernel {
    fn new(weight: FloatTensor<Flex>) -> Self {
        let [outputs, high, wide, inputs] = weight.shape().dims();
        let matrix = on_tensor::<4>(weight).reshape([outputs, high * wide * inputs]);
        Self { matrix, sides: [high, wide] }
    }

    fn outputs(&self) -> usize {
        self.matrix.dims()[0]
    }

    /// Its way over images, and their number.
    fn over(&self, x: &FloatTensor<Flex>, window: Window) -> (usize, Geometry) {
        let [images, height, width, channels] = x.shape().dims();
        (images, Geometry::new([height, width, channels], self.sides, window))
    }
}

/// Puts a convolution into the graph of whoever of the three is tracked. `tap` gets the gradient
/// at the output as its own, whatever its shape.
fn recorded(x: Tensor<4>, weight: Tensor<4>, tap: Tensor<4>, window: Window) -> Tensor<4> {
    let part = |tensor: Tensor<4>| {
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
    let x = x.to_contiguous();
    let of_portion = portion(images, depth * area) * geometry.pixels();
    let weight = kernel.matrix.clone().transpose();
    let parts = values(&x).chunks(of_portion).map(|portion| {
        let rows = portion.len() / geometry.pixels() * area;
        let patches = on_tensor::<2>(made(geometry.gather(portion), [rows, depth]));
        patches.matmul(weight.clone())
    });
    let parts: Vec<_> = parts.collect();
    let [down, right] = geometry.places;
    let shape = [images, down, right, kernel.outputs()];
    if parts.is_empty() {
        return made(Vec::new(), shape);
    }
    primitive(Tensor::cat(parts, 0).reshape(shape))
}

fn input_gradient(
    x: &FloatTensor<Flex>,
    kernel: &Kernel,
    slope: &FloatTensor<Flex>,
    window: Window,
) -> FloatTensor<Flex> {
    let (images, geometry) = kernel.over(x, window);
    let (depth, area) = (geometry.depth(), geometry.area());
    let slope = on_tensor::<4>(slope.clone()).reshape([images * area, kernel.outputs()]);
    let of_portion = portion(images, depth * area);
    let mut gradient = Vec::new();
    for first in (0..images).step_by(of_portion) {
        let count = of_portion.min(images - first);
        let slope = slope.clone().narrow(0, first * area, count * area);
        let patches = primitive(slope.matmul(kernel.matrix.clone()));
        let part = geometry.scatter(values(&patches));
        if gradient.is_empty() { gradient = part } else { gradient.extend(part) }
    }
    made(gradient, x.shape().dims::<4>())
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
    let slope = on_tensor::<4>(slope.clone()).reshape([images * area, outputs]).transpose();
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
    let [high, wide] = kernel.sides;
    primitive(sum.reshape([outputs, high, wide, depth / (high * wide)]))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::super::tests::normals;
    use super::*;

    /// `[images, channels in, height, width]`, channels out, `[height, width]` of the window.
    type Case = ([usize; 4], usize, [usize; 2], Window);

    fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for (stride, padding) in [(1, 0), (1, 1), (2, 0), (2, 1), (2, 3), (3, 1), (1, 3)] {
            let window = Window { stride, padding };
            for (image, outputs, kernel) in [
                ([3, 2, 7, 9], 5, [3, 3]),
                ([2, 1, 8, 8], 4, [3, 3]),
                ([1, 3, 15, 13], 6, [7, 7]),
                ([4, 6, 5, 5], 3, [1, 1]),
                ([2, 5, 9, 6], 7, [5, 2]),
                ([1, 17, 33, 31], 19, [3, 3]),
            ] {
                cases.push((image, outputs, kernel, window));
            }
        }
        // More than is held at once, with an uneven rest.
        cases.push(([7, 32, 28, 28], 8, [3, 3], Window { stride: 1, padding: 1 }));
        cases
    }

    fn tensor(label: &str, shape: [usize; 4]) -> Tensor<4> {
        let values = normals(label, shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn single(tensor: Tensor<4>) -> Vec<f32> {
        tensor.try_into_vec_as::<f32>().expect("on the CPU")
    }

    /// Calls `each` with the places of a weight, an input value and an output value that meet, all
    /// with the channels last.
    fn meetings(case: &Case, mut each: impl FnMut(usize, usize, usize)) -> [usize; 4] {
        let ([images, inputs, height, width], outputs, [high, wide], window) = *case;
        let Window { stride, padding } = window;
        let down = (height + 2 * padding - high) / stride + 1;
        let right = (width + 2 * padding - wide) / stride + 1;
        for (image, y, x) in
            (0..images * down * right).map(|i| (i / (down * right), i / right % down, i % right))
        {
            for (i, j) in (0..high * wide).map(|k| (k / wide, k % wide)) {
                let (Some(row), Some(column)) =
                    ((y * stride + i).checked_sub(padding), (x * stride + j).checked_sub(padding))
                else {
                    continue;
                };
                if row >= height || column >= width {
                    continue;
                }
                for (input, output) in (0..inputs * outputs).map(|c| (c / outputs, c % outputs)) {
                    each(
                        ((output * high + i) * wide + j) * inputs + input,
                        ((image * height + row) * width + column) * inputs + input,
                        ((image * down + y) * right + x) * outputs + output,
                    );
                }
            }
        }
        [images, down, right, outputs]
    }

    fn assert_near(found: &[f32], expected: &[f64], what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        let apart = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).powi(2));
        let size = expected.iter().map(|b| b.powi(2)).sum::<f64>();
        let apart = (apart.sum::<f64>() / size).sqrt();
        assert!(apart < 1e-6, "{what}: {apart} off");
    }

    #[test]
    fn outputs_and_gradients_are_those_of_the_definition_in_double_precision() {
        for case in cases() {
            let (image @ [images, inputs, height, width], outputs, kernel, window) = case;
            let what = format!("{image:?} to {outputs} by {kernel:?}, {window:?}");
            let x = tensor("x", [images, height, width, inputs]).autodiff().require_grad();
            let weight = tensor("w", [outputs, kernel[0], kernel[1], inputs]);
            let weight = weight.autodiff().require_grad();
            let y = convolve(x.clone(), weight.clone(), window);
            let slope = tensor("slope", y.dims());
            let gradients = (y.clone() * slope.clone()).sum().backward();

            let double = |tensor: &Tensor<4>| -> Vec<f64> {
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
            let gradient = |of: &Tensor<4>| single(of.grad(&gradients).expect("it is a leaf"));
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
        for ([images, inputs, height, width], _, kernel, window) in cases() {
            let x = tensor("x", [images, height, width, inputs]);
            let ours = patches(x.clone(), kernel, window);
            let burns = patches_elsewhere(x, kernel, window);
            assert_eq!(ours.dims(), burns.dims());
            ours.into_data().assert_eq(&burns.into_data(), true);
        }
    }

    #[test]
    fn no_images_give_no_output() {
        let x = tensor("x", [0, 8, 8, 2]);
        let y = convolve(x, tensor("w", [3, 3, 3, 2]), Window { stride: 2, padding: 1 });
        assert_eq!(y.dims(), [0, 4, 4, 3]);
    }
}
