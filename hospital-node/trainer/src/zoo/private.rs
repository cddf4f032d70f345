//! The step that differential privacy needs: the sum of the patients' gradients, each clipped
//! before it meets another's.

use aggregation::units::ClipNorm;
use burn::tensor::{Int, Tensor, TensorData};

use super::layers::Parameters;
use super::{BackendFault, Network};

/// Keeps a gradient of zero from being divided by its norm.
const NORM_FLOOR: f32 = 1e-6;

/// What one micro-batch of patients says about the parameters. Nothing in it is one patient's.
#[derive(Clone, Debug)]
pub struct ClippedSum {
    /// The sum over patients of `min(1, C / (norm + 1e-6)) * gradient`, in the layout's order.
    /// Finite. Not divided by anything.
    pub sum: Vec<f32>,
}

/// A network with the model that several micro-batches meet.
#[derive(Debug)]
pub struct Loaded<'a> {
    network: &'a Network,
    parameters: Parameters,
}

impl Network {
    /// Gets a model ready for as many micro-batches as there are.
    #[must_use]
    pub fn load(&self, model: &[f32]) -> Loaded<'_> {
        let parameters = Parameters::constant(model, &self.layout, &self.device);
        Loaded { network: self, parameters }
    }

    /// [`Loaded::clipped_sum`] of a single micro-batch.
    ///
    /// # Errors
    /// [`BackendFault`] when the images are not `views` for each patient, or the backend fails.
    pub fn clipped_sum(
        &self,
        model: &[f32],
        images: Vec<f32>,
        classes: &[usize],
        views: usize,
        clip: ClipNorm,
    ) -> Result<ClippedSum, BackendFault> {
        self.load(model).clipped_sum(images, classes, views, clip)
    }
}

impl Loaded<'_> {
    /// The sum over patients of their gradients of the softmax cross-entropy, each of them clipped
    /// to a norm of `clip` over all parameters.
    ///
    /// `classes` has one entry for each patient, and `images` holds `views` images in a row for
    /// each of them: one image, or several augmentations of it, whose mean loss is the patient's.
    /// A patient whose gradient is not finite adds nothing. No patients give zeros.
    ///
    /// # Errors
    /// [`BackendFault`] when the images are not `views` for each patient, or the backend fails.
    pub fn clipped_sum(
        &self,
        images: Vec<f32>,
        classes: &[usize],
        views: usize,
        clip: ClipNorm,
    ) -> Result<ClippedSum, BackendFault> {
        self.clipped(images, classes, views, clip).map(|(sum, _)| sum)
    }

    /// The sum, and the norm of each patient whom it rests on.
    fn clipped(
        &self,
        images: Vec<f32>,
        classes: &[usize],
        views: usize,
        clip: ClipNorm,
    ) -> Result<(ClippedSum, Vec<f32>), BackendFault> {
        let network = self.network;
        let expected = classes.len() * views * network.values();
        if views == 0 || images.len() != expected {
            return Err(BackendFault("a batch of the declared size"));
        }
        let mut images = network.batch(images);
        let mut classes = classes.to_vec();
        // A value that is not finite would reach the others through the sum, even times zero. So
        // whoever has one is left out and the rest is done again; as a rule once is all.
        while !classes.is_empty() {
            let (sum, norms) = self.attempt(&images, &classes, views, clip)?;
            if let Some(sum) = sum {
                return Ok((ClippedSum { sum }, norms));
            }
            let finite: Vec<usize> =
                (0..norms.len()).filter(|patient| norms[*patient].is_finite()).collect();
            images = self.only(images, &finite, views);
            classes = finite.iter().map(|patient| classes[*patient]).collect();
        }
        Ok((ClippedSum { sum: vec![0.0; network.layout.parameters()] }, Vec::new()))
    }

    /// The images of some of the patients.
    fn only(&self, images: Tensor<4>, patients: &[usize], views: usize) -> Tensor<4> {
        let rows = patients.iter().flat_map(|patient| patient * views..(patient + 1) * views);
        let rows: Vec<i64> = rows.filter_map(|row| i64::try_from(row).ok()).collect();
        let count = rows.len();
        let rows =
            Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &self.network.device);
        images.select(0, rows)
    }

    /// The patients' norms, and the sum of their clipped gradients if all norms are finite.
    fn attempt(
        &self,
        images: &Tensor<4>,
        classes: &[usize],
        views: usize,
        clip: ClipNorm,
    ) -> Result<(Option<Vec<f32>>, Vec<f32>), BackendFault> {
        let network = self.network;
        let mut at = self.parameters.tapped();
        let scores = network.forward(&mut at, images.clone());
        let of_images: Vec<usize> =
            classes.iter().flat_map(|class| std::iter::repeat_n(*class, views)).collect();
        let loss = network.loss(scores, &of_images).div_scalar(super::count(views));
        let gradients = loss.backward();
        let mut shares = Vec::new();
        let mut squares: Option<Tensor<1>> = None;
        for tap in at.into_taps() {
            let (share, of_share) =
                tap.read(&gradients, views).ok_or(BackendFault("a gradient"))?;
            shares.push(share);
            squares = Some(match squares {
                Some(sum) => sum + of_share,
                None => of_share,
            });
        }
        drop(gradients);
        let squares = squares.ok_or(BackendFault("a norm"))?;
        let squares = squares.try_into_vec_as::<f32>().map_err(|_| BackendFault("norms"))?;
        // Rounding may leave a square a little below zero; `max` would hide what is not a number.
        let norms: Vec<f32> =
            squares.iter().map(|s| if *s < 0.0 { 0.0 } else { s.sqrt() }).collect();
        if norms.iter().any(|norm| !norm.is_finite()) {
            return Ok((None, norms));
        }
        let clip = single(clip);
        let factors: Vec<f32> =
            norms.iter().map(|norm| (clip / (norm + NORM_FLOOR)).min(1.0)).collect();
        let factors = Tensor::from_data(TensorData::new(factors, [norms.len()]), &network.device);
        let mut sums: Vec<Option<Tensor<1>>> = vec![None; network.layout.tensors.len()];
        for share in shares {
            let (place, sum) = share.sum(&factors);
            if let Some(of_tensor) = sums.get_mut(place) {
                *of_tensor = Some(sum);
            }
        }
        let flat = self.parameters.flat(sums.into_iter());
        let flat = flat.ok_or(BackendFault("a clipped sum"))?;
        Ok((Some(flat), norms))
    }
}

/// The largest single that is not above the clipping norm.
#[expect(clippy::cast_possible_truncation, reason = "what rounding adds is taken off again")]
fn single(clip: ClipNorm) -> f32 {
    let near = clip.get() as f32;
    if f64::from(near) > clip.get() { near.next_down() } else { near }
}

#[cfg(test)]
mod tests {
    use aggregation::architecture::Architecture;

    use super::super::tests::{model_of, network, normals};
    use super::*;

    fn clip(norm: f64) -> ClipNorm {
        ClipNorm::new(norm).expect("above zero")
    }

    /// Images of three classes whose patients' gradients are of very different lengths.
    fn batch(network: &Network, patients: usize, views: usize) -> (Vec<f32>, Vec<usize>) {
        let pixels = network.values();
        let mut images = normals("patients", patients * views * pixels);
        let mut scale = 0.25;
        for of_patient in images.chunks_exact_mut(views * pixels) {
            of_patient.iter_mut().for_each(|value| *value *= scale);
            scale = if scale > 3.0 { 0.25 } else { scale * 1.7 };
        }
        (images, (0..patients).map(|patient| (patient * 2) % 3).collect())
    }

    /// Each patient alone, by the mean gradient of its views: the slow way.
    fn one_by_one(
        network: &Network,
        model: &[f32],
        images: &[f32],
        classes: &[usize],
        views: usize,
        clip: f64,
    ) -> (Vec<f64>, Vec<f64>) {
        let mut sum = vec![0.0; model.len()];
        let mut norms = Vec::new();
        let of_each = images.len() / classes.len();
        for (images, class) in images.chunks_exact(of_each).zip(classes) {
            let own = network.gradient(model, images.to_vec(), &vec![*class; views]);
            let own = own.expect("the CPU computes").mean;
            let norm = own.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let factor = (clip / (norm + 1e-6)).min(1.0);
            sum.iter_mut().zip(&own).for_each(|(sum, g)| *sum += factor * f64::from(*g));
            norms.push(norm);
        }
        (sum, norms)
    }

    fn distance(found: &[f32], expected: &[f64]) -> f64 {
        let apart = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).powi(2));
        let size = expected.iter().map(|b| b.powi(2)).sum::<f64>();
        (apart.sum::<f64>() / size).sqrt()
    }

    #[test]
    fn the_clipped_sum_is_that_of_the_patients_one_by_one() {
        for architecture in Architecture::ALL {
            // Sides, patients and views; the large network's slow way is slow indeed.
            let cases: &[(u16, usize, usize)] = if architecture == Architecture::Resnet18Gn {
                &[(16, 3, 1), (17, 1, 2), (44, 2, 1)]
            } else {
                &[(16, 5, 1), (16, 2, 3), (17, 1, 1), (28, 16, 1), (64, 2, 1), (64, 1, 3)]
            };
            for &(side, patients, views) in cases {
                let network = network(architecture, side);
                let model = model_of(&network);
                let (images, classes) = batch(&network, patients, views);
                for norm in [1e-3, 1.0, 1e9] {
                    let (expected, of_each) =
                        one_by_one(&network, &model, &images, &classes, views, norm);
                    let (found, norms) = network
                        .load(&model)
                        .clipped(images.clone(), &classes, views, clip(norm))
                        .expect("the CPU computes");
                    let what = format!("{architecture} {side} px, {patients} x {views}, {norm}");
                    let apart = distance(&found.sum, &expected);
                    assert!(apart <= 1e-5, "{what}: the sum is {apart} off");
                    assert_eq!(norms.len(), patients);
                    for (norm, expected) in norms.iter().zip(&of_each) {
                        let apart = (f64::from(*norm) / expected - 1.0).abs();
                        assert!(apart <= 1e-5, "{what}: a norm is {apart} off");
                    }
                }
            }
        }
    }

    #[test]
    fn no_patient_moves_the_sum_by_more_than_the_clipping_norm() {
        let network = network(Architecture::CnnTiny, 28);
        let model = model_of(&network);
        let (images, classes) = batch(&network, 7, 1);
        let of_one = images.len() / 7;
        let sum = |count: usize| {
            let images = images[..count * of_one].to_vec();
            network.clipped_sum(&model, images, &classes[..count], 1, clip(0.05)).expect("computed")
        };
        let mut before = sum(0).sum;
        assert!(before.iter().all(|value| value.to_bits() == 0));
        assert_eq!(before.len(), network.layout().parameters());
        for count in 1..=7 {
            let after = sum(count).sum;
            let moved = after.iter().zip(&before).map(|(a, b)| f64::from(a - b).powi(2));
            let moved = moved.sum::<f64>().sqrt();
            assert!(moved <= 0.05 * 1.000_1, "patient {count} moved the sum by {moved}");
            assert!(moved >= 0.05 * 0.9, "patient {count} was not clipped: {moved}");
            before = after;
        }
    }

    #[test]
    fn a_patient_whose_gradient_is_not_finite_adds_nothing() {
        for architecture in [Architecture::CnnTiny, Architecture::Linear] {
            let network = network(architecture, 16);
            let model = model_of(&network);
            let (mut images, classes) = batch(&network, 4, 2);
            let of_one = images.len() / 4;
            let kept = [&images[..of_one], &images[2 * of_one..3 * of_one]].concat();
            // One view of the second patient and one pixel of the last.
            images[of_one..of_one + 256].fill(f32::INFINITY);
            images[4 * of_one - 1] = f32::NAN;
            let found = network.clipped_sum(&model, images, &classes, 2, clip(0.1));
            let found = found.expect("computed").sum;
            let classes = [classes[0], classes[2]];
            let expected = network.clipped_sum(&model, kept, &classes, 2, clip(0.1));
            let bits = |sum: &[f32]| sum.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&expected.expect("computed").sum));
            assert!(found.iter().any(|value| *value != 0.0));

            let (mut images, classes) = batch(&network, 2, 1);
            images.fill(f32::NAN);
            let none = network.clipped_sum(&model, images, &classes, 1, clip(0.1));
            assert!(none.expect("computed").sum.iter().all(|value| value.to_bits() == 0));
        }
    }

    #[test]
    fn a_batch_of_another_size_is_refused() {
        let network = network(Architecture::Linear, 16);
        let model = model_of(&network);
        for (images, classes, views) in [(255, 1, 1), (256, 2, 1), (512, 1, 1), (256, 1, 0)] {
            let images = vec![0.0; images];
            let refused = network.clipped_sum(&model, images, &vec![0; classes], views, clip(1.0));
            assert!(refused.is_err());
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit_of_the_sum() {
        let network = network(Architecture::CnnSmall, 64);
        let model = model_of(&network);
        let (images, classes) = batch(&network, 8, 2);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let sum = pool
                .expect("threads start")
                .install(|| network.clipped_sum(&model, images.clone(), &classes, 2, clip(0.5)));
            let sum = sum.expect("computed").sum;
            sum.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        let alone = with(1);
        assert_eq!(alone, with(1));
        assert_eq!(alone, with(2));
        assert_eq!(alone, with(3));
    }
}
