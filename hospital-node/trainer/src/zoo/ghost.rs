//! Gradients patient by patient without a pass for each patient: ghost norms (\[LTLH22\]
//! section 3.2, convolutions as in \[BMX22\]) with book-keeping (\[BWZK23\] section 2).
//!
//! A layer leaves a [`Tap`] with its input and with a leaf that gets the gradient at its output.
//! A patient's gradient of the layer's weight is the product of the two, and its norm can often be
//! had without the product. The sum of clipped gradients is then one more product, in which each
//! patient's share is scaled. One backward pass, and none of it computes a weight's gradient.

use burn::tensor::{Gradients, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::convolution::{patches, portion};
use super::cpu::{made, on_cpu, on_tensor, values};
use super::layers::Window;

/// What a layer keeps for the gradient of one tensor of the layout, `place`.
#[derive(Debug)]
pub(super) enum Tap {
    /// A vector that every image has its own copy of: a bias, a scale, a shift.
    Copies { place: usize, copies: Tensor<2> },
    /// The weight of a linear layer on vectors. `input` is `[images, places, in]`, `slope`
    /// `[images, places, out]`; the weight is `[out, in]`, or `[in, out]` where it is `turned`.
    Linear { place: usize, input: Tensor<3>, slope: Tensor<3>, turned: bool },
    /// A vector that is added at every place of `slope`, `[images, places, n]`.
    Sum { place: usize, slope: Tensor<3> },
    /// The weight of a convolution, whose window has so many pixels along its sides.
    Convolution {
        place: usize,
        input: Tensor<5>,
        kernel: [usize; 3],
        window: Window,
        slope: Tensor<5>,
    },
}

/// One tensor's gradients, patient by patient, as far as they had to be computed.
#[derive(Debug)]
pub(super) struct Share {
    place: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The gradients themselves, `[patients, out, in]`, some patients after the others.
    Whole(Vec<Tensor<3>>),
    /// The pair whose product they are: `[patients, places, in]` and `[patients, places, out]`.
    Pair(Box<(Tensor<3>, Tensor<3>)>),
}

impl Tap {
    /// Reads the tap after the backward pass: the share, and each patient's squared norm of it,
    /// `[patients]`. `None` when the backend gave no gradient.
    ///
    /// `views` images in a row belong to one patient, whose gradient is their sum.
    pub(super) fn read(self, gradients: &Gradients, views: usize) -> Option<(Share, Tensor<1>)> {
        let (place, (kind, squares)) = match self {
            Self::Copies { place, copies } => {
                let [images, values] = copies.dims();
                let own = copies.grad(gradients)?.reshape([images / views, views, values]);
                (place, summed(own))
            }
            Self::Sum { place, slope } => {
                (place, summed(by_patient(slope.grad(gradients)?, views)))
            }
            Self::Linear { place, input, slope, turned } => {
                let slope = by_patient(slope.grad(gradients)?, views);
                let input = by_patient(input, views);
                let pair = if turned { (slope, input) } else { (input, slope) };
                (place, linear(pair.0, pair.1))
            }
            Self::Convolution { place, input, kernel, window, slope } => {
                let slope = slope.grad(gradients)?;
                (place, convolution(input, kernel, window, slope, views))
            }
        };
        Some((Share { place, kind }, squares))
    }
}

/// The gradient of a vector from those at every place, `[patients, places, n]`.
fn summed(slope: Tensor<3>) -> (Kind, Tensor<1>) {
    let own = slope.sum_dim(1);
    let norms = norms(&own);
    (Kind::Whole(vec![own]), norms)
}

fn linear(input: Tensor<3>, slope: Tensor<3>) -> (Kind, Tensor<1>) {
    if pays(&input, &slope) {
        let squares = squares(&input, &slope);
        (Kind::Pair(Box::new((input, slope))), squares)
    } else {
        let (own, squares) = product(input, slope);
        (Kind::Whole(vec![own]), squares)
    }
}

fn convolution(
    input: Tensor<5>,
    kernel: [usize; 3],
    window: Window,
    slope: Tensor<5>,
    views: usize,
) -> (Kind, Tensor<1>) {
    let [images, _, _, _, channels] = input.dims();
    let [_, deep, down, right, outputs] = slope.dims();
    let inputs = channels * kernel.iter().product::<usize>();
    let places = views * deep * down * right;
    let patients = images / views;
    let slope = slope.reshape([patients, places, outputs]);
    // Patches are large where there are many places: some patients at a time.
    let at_once = portion(patients, inputs * places);
    let parts = (0..patients).step_by(at_once).map(|first| {
        let count = at_once.min(patients - first);
        let input = input.clone().narrow(0, first * views, count * views);
        let input = patches(input, kernel, window).reshape([count, places, inputs]);
        linear(input, slope.clone().narrow(0, first, count))
    });
    let (mut whole, mut pair, mut norms) = (Vec::new(), (Vec::new(), Vec::new()), Vec::new());
    for (kind, squares) in parts {
        norms.push(squares);
        match kind {
            Kind::Whole(own) => whole.extend(own),
            Kind::Pair(of_part) => {
                pair.0.push(of_part.0);
                pair.1.push(of_part.1);
            }
        }
    }
    // All parts are of one shape, but for the number of patients, and so of one kind.
    let kind = if whole.is_empty() {
        Kind::Pair(Box::new((Tensor::cat(pair.0, 0), Tensor::cat(pair.1, 0))))
    } else {
        Kind::Whole(whole)
    };
    (kind, Tensor::cat(norms, 0))
}

impl Share {
    /// What it has of some of the patients, by their places in order.
    pub(super) fn only(self, patients: &[usize]) -> Self {
        let select = |own: Tensor<3>, rows: Vec<i64>| {
            let count = rows.len();
            let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &own.device());
            own.select(0, rows)
        };
        let within = |first: usize, count: usize| {
            let here = patients.iter().filter(|patient| (first..first + count).contains(*patient));
            here.filter_map(|patient| i64::try_from(patient - first).ok()).collect::<Vec<_>>()
        };
        let kind = match self.kind {
            Kind::Whole(parts) => {
                let mut first = 0;
                let kept = parts.into_iter().filter_map(|own| {
                    let rows = within(first, own.dims()[0]);
                    first += own.dims()[0];
                    (!rows.is_empty()).then(|| select(own, rows))
                });
                Kind::Whole(kept.collect())
            }
            Kind::Pair(pair) => {
                let (input, slope) = *pair;
                let rows = within(0, input.dims()[0]);
                Kind::Pair(Box::new((select(input, rows.clone()), select(slope, rows))))
            }
        };
        Self { place: self.place, kind }
    }

    /// The sum over patients, each times its factor of `[patients]`, with its place in the layout.
    pub(super) fn sum(self, factors: &Tensor<1>) -> (usize, Tensor<1>) {
        let patients = factors.dims()[0];
        let sum = match self.kind {
            Kind::Whole(parts) => {
                let mut first = 0;
                let shape = parts.first().map(Tensor::dims).unwrap_or_default();
                let sums = parts.into_iter().map(|own| {
                    let [patients, outputs, inputs] = own.dims();
                    let factors = factors.clone().narrow(0, first, patients);
                    first += patients;
                    let own = own.reshape([patients, outputs * inputs]);
                    if on_cpu(&own).is_some() {
                        factors.unsqueeze::<2>().matmul(own)
                    } else {
                        // No product of matrices: see `pays`.
                        (own * factors.unsqueeze_dim(1)).sum_dim(0)
                    }
                });
                let sum = sums.reduce(|sum, part| sum + part);
                let none = || Tensor::zeros([shape[1], shape[2]], &factors.device());
                sum.map_or_else(none, |sum| sum.reshape([shape[1], shape[2]]))
            }
            Kind::Pair(pair) => {
                let (input, slope) = *pair;
                let [_, places, inputs] = input.dims();
                let outputs = slope.dims()[2];
                let scaled = slope * factors.clone().reshape([patients, 1, 1]);
                let scaled = scaled.reshape([patients * places, outputs]).transpose();
                scaled.matmul(input.reshape([patients * places, inputs]))
            }
        };
        (self.place, sum.flatten(0, 1))
    }
}

/// Whether norms without products are less work. A product that is formed has its values written
/// and read again, each worth about as much time as [`TOUCH`] multiplications; without it there
/// are `places^2` products of pairs of places, over the inputs and over the outputs (\[BMX22\]
/// section 4 counts memory instead). Only the processor is known to multiply matrices in single
/// precision, which the bound of [`squares`] rests on; others may cut factors down to eleven bits
/// (TF32). There the gradient is formed, however it is rounded, and what is clipped and summed is that
/// and no other.
fn pays(input: &Tensor<3>, slope: &Tensor<3>) -> bool {
    if on_cpu(input).is_none() {
        return false;
    }
    let ([_, places, inputs], [_, _, outputs]) = (input.dims(), slope.dims());
    places * places * (inputs + outputs) < TOUCH * inputs * outputs
}

/// Estimated from the shapes, not tuned; see [`pays`].
const TOUCH: usize = 32;

/// Of `[images, places, values]` all places of a patient's images: `[patients, places, values]`.
fn by_patient(x: Tensor<3>, views: usize) -> Tensor<3> {
    let [images, places, values] = x.dims();
    x.reshape([images / views, views * places, values])
}

/// Of `[patients, places, in]` and `[patients, places, out]`: each patient's product
/// `[patients, out, in]`, and the squares of their norms.
fn product(input: Tensor<3>, slope: Tensor<3>) -> (Tensor<3>, Tensor<1>) {
    let own = slope.swap_dims(1, 2).matmul(input);
    let squares = norms(&own);
    (own, squares)
}

/// The squares of each patient's norm.
fn norms(own: &Tensor<3>) -> Tensor<1> {
    let [patients, a, b] = own.dims();
    if let Some(cpu) = on_cpu(own) {
        // Without a copy of all values squared.
        let cpu = cpu.to_contiguous();
        let squares = values(&cpu).par_chunks_exact((a * b).max(1)).map(square);
        return on_tensor(made(squares.collect(), [patients]));
    }
    // In two sums, each of them short: rounding adds up.
    own.clone().square().sum_dim(2).sum_dim(1).reshape([patients])
}

/// The sum of squares, short runs of it in single precision.
#[expect(clippy::cast_possible_truncation, reason = "what follows is in single precision")]
fn square(values: &[f32]) -> f32 {
    let of_run = |run: &[f32]| {
        let mut lanes = [0.0_f32; 16];
        let (whole, rest) = run.as_chunks::<16>();
        for chunk in whole {
            lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += value * value);
        }
        lanes.iter_mut().zip(rest).for_each(|(lane, value)| *lane += value * value);
        lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>()
    };
    values.chunks(1024).map(of_run).sum::<f64>() as f32
}

/// The squares of the norms of the products that [`product`] forms, without forming them: for
/// places `p` and `q`, the sum of `<a_p, a_q> <g_p, g_q>`. Never less than they are, and hardly more
/// unless places cancel each other (PROTOCOL D-11): in single precision each scalar product, and each
/// sum over places, is off by at most its length times 2^-24 of what its terms' sizes add up to, which
/// over all pairs of places is `(sum over p of |a_p| |g_p|)^2`.
fn squares(input: &Tensor<3>, slope: &Tensor<3>) -> Tensor<1> {
    let ([patients, places, inputs], [_, _, outputs]) = (input.dims(), slope.dims());
    let within = |x: &Tensor<3>| x.clone().matmul(x.clone().swap_dims(1, 2));
    let (input, slope) = (within(input), within(slope));
    let itself = Tensor::<2>::eye(places, &input.device()).unsqueeze::<3>();
    let sizes = |x: &Tensor<3>| (x.clone() * itself.clone()).sum_dim(2).sqrt();
    let greatest = (sizes(&input) * sizes(&slope)).sum_dim(1).square();
    let sum = (input * slope).sum_dim(2).sum_dim(1);
    (sum + greatest.mul_scalar(slack(inputs + outputs + 2 * places))).reshape([patients])
}

/// What so many roundings of single precision may add up to, relative to the sizes of the terms.
#[expect(clippy::cast_precision_loss, reason = "a bound, and far below 2^24")]
fn slack(roundings: usize) -> f32 {
    (roundings + 4) as f32 * f32::EPSILON / 2.0
}

// [LTLH22]: Li, Tramèr, Liang, Hashimoto: Large Language Models Can Be Strong Differentially
//   Private Learners, ICLR 2022, arXiv 2110.05679.
// [BMX22]: Bu, Mao, Xu: Scalable and Efficient Training of Large Convolutional Neural Networks with
//   Differential Privacy, NeurIPS 2022, arXiv 2205.10683.
// [BWZK23]: Bu, Wang, Zha, Karypis: Differentially Private Optimization on Large Model at Small
//   Cost, ICML 2023, arXiv 2210.00038.

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::random::Random;

    /// Inputs that are almost the same at every place, and slopes that take each other away.
    #[expect(clippy::cast_possible_truncation, reason = "test values")]
    fn cancelling(seed: u8, places: usize) -> (Vec<f32>, Vec<f32>) {
        let mut random = Random::new("cancelling", &[&[seed]]);
        let common: Vec<f64> = (0..512).map(|_| random.normal()).collect();
        let slope: Vec<f64> = (0..64).map(|_| 1e3 * random.normal()).collect();
        let (mut inputs, mut slopes) = (Vec::new(), Vec::new());
        for place in 0..places {
            let sign = if place % 2 == 0 { 1.0 } else { -1.0 };
            inputs.extend(common.iter().map(|x| (x * (1.0 + 1e-5 * random.normal())) as f32));
            slopes.extend(slope.iter().map(|x| (sign * x * (1.0 + 1e-7 * random.normal())) as f32));
        }
        (inputs, slopes)
    }

    fn exact(inputs: &[f32], slopes: &[f32]) -> f64 {
        let mut square = 0.0;
        for output in 0..64 {
            for input in 0..512 {
                let pairs = slopes.chunks_exact(64).zip(inputs.chunks_exact(512));
                let value = pairs.map(|(g, a)| f64::from(g[output]) * f64::from(a[input]));
                square += value.sum::<f64>().powi(2);
            }
        }
        square
    }

    /// PROTOCOL D-11: a patient whose places cancel is not taken for one without a gradient.
    #[test]
    fn a_norm_is_never_less_than_it_is() {
        let device = Device::flex();
        for places in [2, 16] {
            for seed in 0..12 {
                let (inputs, slopes) = cancelling(seed, places);
                let exact = exact(&inputs, &slopes);
                let input = Tensor::from_data(TensorData::new(inputs, [1, places, 512]), &device);
                let slope = Tensor::from_data(TensorData::new(slopes, [1, places, 64]), &device);
                let found = squares(&input, &slope).into_scalar::<f32>();
                assert!(f64::from(found) >= exact, "{places} places: {found} for {exact}");
            }
        }
    }
}
