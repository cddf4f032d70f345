//! Group normalisation, with the rectifier that often follows. On the CPU one step of our own
//! stands in for a dozen of burn's, each of which would write all values anew. Other devices run
//! burn's.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata as _};
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use super::cpu::{made, on_cpu, on_tensor, primitive, values};
use super::groups::{Moments, PerChannel, Shape};

/// Keeps the variance of a flat group away from zero.
const NORM_EPSILON: f64 = 1e-5;

/// Mean 0 and variance 1 within each group of channels of each image of
/// `[images, depth, height, width, channels]`, then a scale and a shift per channel: `[1, channels]`, or `[images, channels]`.
pub(super) fn normalise(
    x: Tensor<5>,
    scale: Tensor<2>,
    shift: Tensor<2>,
    groups: usize,
    rectified: bool,
) -> Tensor<5> {
    let [_, depth, height, width, channels] = x.dims();
    let shape = Shape { channels, groups, pixels: depth * height * width, rectified };
    match (on_cpu(&x), on_cpu(&scale), on_cpu(&shift)) {
        (Some(cpu_x), Some(cpu_scale), Some(cpu_shift)) => {
            if x.is_autodiff() || scale.is_autodiff() || shift.is_autodiff() {
                recorded(x, scale, shift, shape)
            } else {
                on_tensor(forward(&cpu_x, &cpu_scale, &cpu_shift, shape).0)
            }
        }
        _ => step_by_step(x, scale, shift, shape),
    }
}

/// [`normalise`] by burn's own means.
fn step_by_step(x: Tensor<5>, scale: Tensor<2>, shift: Tensor<2>, shape: Shape) -> Tensor<5> {
    let dims @ [images, _, _, _, channels] = x.dims();
    let grouped = x.reshape([images, shape.pixels, shape.groups, channels / shape.groups]);
    let mean = |x: Tensor<4>| x.mean_dim(1).mean_dim(3);
    let centred = grouped.clone() - mean(grouped);
    let variance = mean(centred.clone().square());
    let normed = centred / (variance + NORM_EPSILON).sqrt();
    let per_channel = |vector: Tensor<2>| {
        let [rows, channels] = vector.dims();
        vector.reshape([rows, 1, 1, 1, channels])
    };
    let normed = normed.reshape(dims) * per_channel(scale) + per_channel(shift);
    if shape.rectified { relu(normed) } else { normed }
}

fn forward(
    x: &FloatTensor<Flex>,
    scale: &FloatTensor<Flex>,
    shift: &FloatTensor<Flex>,
    shape: Shape,
) -> (FloatTensor<Flex>, Vec<Moments>) {
    let (x, scale, shift) = (x.to_contiguous(), scale.to_contiguous(), shift.to_contiguous());
    let per_channel = |vector| PerChannel::new(vector, shape.channels);
    let (scale, shift) = (per_channel(values(&scale)), per_channel(values(&shift)));
    let (normed, moments) = shape.normalise(values(&x), scale, shift, NORM_EPSILON);
    (made(normed, x.shape().dims::<5>()), moments)
}

/// Puts a normalisation into the graph of whoever of the three is tracked.
fn recorded(x: Tensor<5>, scale: Tensor<2>, shift: Tensor<2>, shape: Shape) -> Tensor<5> {
    const FOUND: &str = "its caller found it on the CPU";
    let x = x.autodiff().try_into_primitive::<Autodiff<Flex>>().expect(FOUND).into_parts();
    let scale = scale.autodiff().try_into_primitive::<Autodiff<Flex>>().expect(FOUND).into_parts();
    let shift = shift.autodiff().try_into_primitive::<Autodiff<Flex>>().expect(FOUND).into_parts();
    let ((x, of_x), (scale, of_scale), (shift, of_shift)) = (x, scale, shift);
    let (normed, moments) = forward(&x, &scale, &shift, shape);
    let prepared = Normalisation.prepare::<NoCheckpointing>([of_x, of_scale, of_shift]);
    let normed = match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            prepared.finish(Kept { x, scale, shift, shape, moments }, normed)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(normed),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(normed)
}

#[derive(Debug)]
struct Normalisation;

/// What the way back needs.
#[derive(Clone, Debug)]
struct Kept {
    x: FloatTensor<Flex>,
    scale: FloatTensor<Flex>,
    shift: FloatTensor<Flex>,
    shape: Shape,
    moments: Vec<Moments>,
}

impl Backward<Flex, 3> for Normalisation {
    type State = Kept;

    fn backward(self, ops: Ops<Kept, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [of_x, of_scale, of_shift] = ops.parents;
        let slope = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let Kept { x, scale, shift, shape, moments } = ops.state;
        let (x, scale, shift) = (x.to_contiguous(), scale.to_contiguous(), shift.to_contiguous());
        let per_channel = |vector| PerChannel::new(vector, shape.channels);
        let affine = (per_channel(values(&scale)), per_channel(values(&shift)));
        let slopes = shape.slopes(values(&x), affine, &moments, values(&slope));
        let [images, _, _, _, channels] = x.shape().dims::<5>();
        // A vector that all images share gets the sum.
        let of_vector = |slopes: Vec<f32>, vector: &FloatTensor<Flex>| {
            let each = made(slopes, [images, channels]);
            if vector.shape().dims::<2>()[0] == images {
                return each;
            }
            primitive(on_tensor::<2>(each).sum_dim(0))
        };
        if let Some(node) = of_scale {
            gradients.register::<Flex>(node.id, of_vector(slopes.scale, &scale));
        }
        if let Some(node) = of_shift {
            gradients.register::<Flex>(node.id, of_vector(slopes.shift, &shift));
        }
        if let Some(node) = of_x {
            gradients.register::<Flex>(node.id, made(slopes.x, x.shape().dims::<5>()));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::super::tests::normals;
    use super::*;

    fn tensor<const D: usize>(label: &str, shape: [usize; D]) -> Tensor<D> {
        let values = normals(label, shape.iter().product());
        Tensor::<D>::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn assert_near<const D: usize>(found: Tensor<D>, expected: Tensor<D>, what: &str) {
        assert_eq!(found.dims(), expected.dims(), "{what}");
        let apart = (found - expected.clone()).square().sum().sqrt();
        let size = expected.square().sum().sqrt();
        let apart = (apart / size).try_into_scalar::<f32>().expect("on the CPU");
        assert!(apart < 2e-6, "{what}: {apart} off");
    }

    #[test]
    fn one_step_gives_what_a_dozen_of_burns_give() {
        for (dims, groups) in [
            ([2, 1, 5, 7, 8], 4),
            ([3, 1, 28, 28, 16], 4),
            ([1, 1, 1, 1, 6], 1),
            ([2, 1, 3, 3, 64], 32),
            ([4, 1, 9, 8, 5], 5),
            ([2, 6, 5, 7, 8], 4),
        ] {
            for (rectified, own) in [(false, false), (true, false), (false, true), (true, true)] {
                let [images, depth, height, width, channels] = dims;
                let what = format!("{dims:?} in {groups}, {rectified}, {own}");
                let rows = if own { images } else { 1 };
                let shape = Shape { channels, groups, pixels: depth * height * width, rectified };
                let leaf = |label, shape| tensor::<2>(label, shape).autodiff().require_grad();
                // Away from zero, as images are.
                let x = (tensor("x", dims) * 3.0 + 2.0).autodiff().require_grad();
                let (scale, shift) = (leaf("scale", [rows, channels]), leaf("b", [rows, channels]));
                let slope = tensor::<5>("slope", dims);
                let run = |y: Tensor<5>| {
                    let gradients = (y.clone() * slope.clone()).sum().backward();
                    let of = |leaf: &Tensor<2>| leaf.grad(&gradients).expect("a leaf");
                    let of_x = x.grad(&gradients).expect("a leaf");
                    (y.inner(), of_x, of(&scale), of(&shift))
                };
                let ours =
                    run(normalise(x.clone(), scale.clone(), shift.clone(), groups, rectified));
                let burns = run(step_by_step(x.clone(), scale.clone(), shift.clone(), shape));
                assert_near(ours.0.clone(), burns.0, &what);
                // A group of equal values has no slope but rounding's.
                if depth * height * width * channels > groups * 6 {
                    assert_near(ours.1, burns.1, &what);
                }
                assert_near(ours.2, burns.2, &what);
                assert_near(ours.3, burns.3, &what);
                let inner = |leaf: &Tensor<2>| leaf.clone().inner();
                let plain =
                    normalise(x.clone().inner(), inner(&scale), inner(&shift), groups, rectified);
                assert_near(plain, ours.0, &what);
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        let mut values = normals("x", 2 * 4 * 8);
        values[5] = f32::NAN;
        let x = Tensor::<5>::from_data(TensorData::new(values, [2, 1, 2, 2, 8]), &Device::flex());
        let vector = |label| tensor::<2>(label, [1, 8]);
        let y = normalise(x, vector("scale"), vector("shift"), 2, true);
        let y = y.try_into_vec_as::<f32>().expect("on the CPU");
        // The first image's second group, and nobody else.
        for (index, value) in y.iter().enumerate() {
            assert_eq!(value.is_nan(), index < 32 && index % 8 >= 4, "{index}");
        }
    }
}
