//! The step that differential privacy needs: the sum of the patients' gradients, each clipped
//! before it meets another's.

use aggregation::units::ClipNorm;
use burn::tensor::{Tensor, TensorData};

use super::layers::Parameters;
use super::{BackendFault, Network, Targets};

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
    /// [`BackendFault`] when images, targets and views do not go together, or the backend fails.
    pub fn clipped_sum<'t>(
        &self,
        model: &[f32],
        images: Vec<f32>,
        targets: impl Into<Targets<'t>>,
        views: usize,
        clip: ClipNorm,
    ) -> Result<ClippedSum, BackendFault> {
        self.load(model).clipped_sum(images, targets, views, clip)
    }
}

impl Loaded<'_> {
    /// The sum over patients of their gradients of the study's loss, each of them clipped to a norm
    /// of `clip` over all parameters.
    ///
    /// `images` and `targets` hold `views` images in a row for each patient: one image, or several
    /// augmentations of it, whose mean loss is the patient's. A patient whose gradient is not finite
    /// adds nothing. No patients give zeros.
    ///
    /// # Errors
    /// [`BackendFault`] when images, targets and views do not go together, or the backend fails.
    pub fn clipped_sum<'t>(
        &self,
        images: Vec<f32>,
        targets: impl Into<Targets<'t>>,
        views: usize,
        clip: ClipNorm,
    ) -> Result<ClippedSum, BackendFault> {
        self.clipped(&images, targets.into(), views, clip).map(|(sum, _)| sum)
    }

    /// The sum, and the norm of each patient whom it rests on.
    fn clipped(
        &self,
        images: &[f32],
        targets: Targets<'_>,
        views: usize,
        clip: ClipNorm,
    ) -> Result<(ClippedSum, Vec<f32>), BackendFault> {
        let network = self.network;
        let count = network.loss.images(targets);
        if views == 0 || !count.is_multiple_of(views) || images.len() != count * network.values() {
            return Err(BackendFault("a batch of the declared size"));
        }
        let of_patient = views * network.values();
        let mut whole: Option<Vec<f32>> = None;
        let mut norms = Vec::new();
        network.micro_batches.passes(count / views, |patients| {
            let of_part = patients.start * of_patient..patients.end * of_patient;
            // A copy: a part that does not fit is tried again.
            let images = images[of_part].to_vec();
            let targets = network.loss.part(targets, patients.start * views, patients.end * views);
            let (sum, of_part) = self.finite(images, targets, views, clip)?;
            norms.extend(of_part);
            match &mut whole {
                None => whole = Some(sum),
                Some(whole) => whole.iter_mut().zip(&sum).for_each(|(sum, part)| *sum += part),
            }
            Ok(())
        })?;
        let sum = whole.unwrap_or_else(|| vec![0.0; network.layout.parameters()]);
        Ok((ClippedSum { sum }, norms))
    }

    /// The sum over those patients whose gradient is finite, and their norms.
    ///
    /// There is one pass whoever is in it: that one gradient is not finite must not show in the time
    /// that a step takes (PROTOCOL D-17).
    fn finite(
        &self,
        images: Vec<f32>,
        targets: Targets<'_>,
        views: usize,
        clip: ClipNorm,
    ) -> Result<(Vec<f32>, Vec<f32>), BackendFault> {
        let network = self.network;
        let wanted = network.loss.wanted(targets, &network.device)?;
        let mut at = self.parameters.tapped();
        let scores = network.forward(&mut at, network.batch(images));
        let loss = network.loss.of(scores, wanted).div_scalar(super::count(views));
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
        // What is below zero has no root and counts as not finite.
        let mut norms: Vec<f32> = squares.iter().map(|square| square.sqrt()).collect();
        // A value that is not finite would reach the others through the sum, even times zero.
        let finite: Vec<usize> =
            (0..norms.len()).filter(|patient| norms[*patient].is_finite()).collect();
        if finite.is_empty() {
            return Ok((vec![0.0; network.layout.parameters()], Vec::new()));
        }
        if finite.len() < norms.len() {
            shares = shares.into_iter().map(|share| share.only(&finite)).collect();
            norms.retain(|norm| norm.is_finite());
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
        Ok((flat.ok_or(BackendFault("a clipped sum"))?, norms))
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

    use super::super::room::Room;
    use super::super::tests::{Answers, model_of, network, normals};
    use super::*;

    fn clip(norm: f64) -> ClipNorm {
        ClipNorm::new(norm).expect("above zero")
    }

    /// Images of three classes whose patients' gradients are of very different lengths.
    fn batch(network: &Network, patients: usize, views: usize) -> (Vec<f32>, Answers) {
        let pixels = network.values();
        let mut images = normals("patients", patients * views * pixels);
        let mut scale = 0.25;
        for of_patient in images.chunks_exact_mut(views * pixels) {
            of_patient.iter_mut().for_each(|value| *value *= scale);
            scale = if scale > 3.0 { 0.25 } else { scale * 1.7 };
        }
        (images, Answers::of(network, patients * views))
    }

    /// Each patient alone, by the mean gradient of its views: the slow way.
    fn one_by_one(
        network: &Network,
        model: &[f32],
        images: &[f32],
        targets: Targets<'_>,
        views: usize,
    ) -> Vec<Vec<f32>> {
        let of_each = views * network.values();
        let patients = images.chunks_exact(of_each).enumerate();
        let own = patients.map(|(patient, images)| {
            let own = network.loss.part(targets, patient * views, (patient + 1) * views);
            network.gradient(model, images.to_vec(), own).expect("the CPU computes").mean
        });
        own.collect()
    }

    fn norm(gradient: &[f32]) -> f64 {
        gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt()
    }

    /// The sum of gradients, each clipped as one of that norm is.
    fn summed(gradients: &[Vec<f32>], norms: &[f32], clip: f64) -> Vec<f64> {
        let mut sum = vec![0.0; gradients[0].len()];
        for (own, norm) in gradients.iter().zip(norms) {
            let factor = (clip / (f64::from(*norm) + 1e-6)).min(1.0);
            sum.iter_mut().zip(own).for_each(|(sum, g)| *sum += factor * f64::from(*g));
        }
        sum
    }

    fn distance(found: &[f32], expected: &[f64]) -> f64 {
        let apart = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).powi(2));
        let size = expected.iter().map(|b| b.powi(2)).sum::<f64>();
        (apart.sum::<f64>() / size).sqrt()
    }

    #[test]
    fn the_clipped_sum_is_that_of_the_patients_one_by_one() {
        for architecture in Architecture::ALL {
            // Sides, patients and views; the large networks' slow way is slow indeed.
            let cases: &[(u16, usize, usize)] = match architecture {
                Architecture::Resnet18Gn => &[(16, 3, 1), (17, 1, 2), (44, 2, 1)],
                Architecture::DenseNet121Gn => &[(16, 3, 1), (17, 1, 2), (44, 2, 1)],
                Architecture::VitTiny => &[(16, 5, 1), (28, 2, 2), (48, 2, 1)],
                Architecture::Unet2d => &[(16, 3, 1), (24, 2, 2)],
                Architecture::Unet3d => &[(16, 3, 1), (16, 1, 2)],
                Architecture::CnnTiny
                | Architecture::CnnSmall
                | Architecture::Linear
                | Architecture::ScatterLinear => {
                    &[(16, 5, 1), (16, 2, 3), (17, 1, 1), (28, 16, 1), (64, 2, 1), (64, 1, 3)]
                }
            };
            for &(side, patients, views) in cases {
                let network = network(architecture, side);
                let model = model_of(&network);
                let (images, answers) = batch(&network, patients, views);
                let each = one_by_one(&network, &model, &images, answers.targets(), views);
                for most in [1e-3, 1.0, 1e9] {
                    let (found, norms) = network
                        .load(&model)
                        .clipped(&images, answers.targets(), views, clip(most))
                        .expect("the CPU computes");
                    let what = format!("{architecture} {side} px, {patients} x {views}, {most}");
                    let apart = distance(&found.sum, &summed(&each, &norms, most));
                    assert!(apart <= 1e-5, "{what}: the sum is {apart} off");
                    assert_eq!(norms.len(), patients);
                    for (found, own) in norms.iter().zip(&each) {
                        // A bound from above, and a close one.
                        let over = f64::from(*found) / norm(own) - 1.0;
                        assert!((-1e-5..=1e-2).contains(&over), "{what}: a norm is {over} over");
                    }
                }
            }
        }
    }

    #[test]
    fn no_patient_moves_the_sum_by_more_than_the_clipping_norm() {
        let network = network(Architecture::CnnTiny, 28);
        let model = model_of(&network);
        let (images, answers) = batch(&network, 7, 1);
        let of_one = images.len() / 7;
        let sum = |count: usize| {
            let images = images[..count * of_one].to_vec();
            let targets = network.loss.part(answers.targets(), 0, count);
            network.clipped_sum(&model, images, targets, 1, clip(0.05)).expect("computed")
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
            let mut images = batch(&network, 4, 2).0;
            let classes = [0, 0, 2, 2, 1, 1, 0, 0];
            let of_one = images.len() / 4;
            let kept = [&images[..of_one], &images[2 * of_one..3 * of_one]].concat();
            // One view of the second patient and one pixel of the last.
            images[of_one..of_one + 256].fill(f32::INFINITY);
            images[4 * of_one - 1] = f32::NAN;
            let found = network.clipped_sum(&model, images, &classes, 2, clip(0.1));
            let found = found.expect("computed").sum;
            let classes = [0, 0, 1, 1];
            let expected = network.clipped_sum(&model, kept, &classes, 2, clip(0.1));
            let bits = |sum: &[f32]| sum.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&expected.expect("computed").sum));
            assert!(found.iter().any(|value| *value != 0.0));

            let mut images = batch(&network, 2, 1).0;
            images.fill(f32::NAN);
            let none = network.clipped_sum(&model, images, &[0, 2], 1, clip(0.1));
            assert!(none.expect("computed").sum.iter().all(|value| value.to_bits() == 0));
        }
    }

    #[test]
    fn how_patients_are_cut_into_passes_changes_nothing_but_rounding() {
        for architecture in [Architecture::CnnSmall, Architecture::Unet2d] {
            let mut network = network(architecture, 16);
            let model = model_of(&network);
            let (images, answers) = batch(&network, 7, 2);
            let whole = network.load(&model).clipped(&images, answers.targets(), 2, clip(0.5));
            let (whole, norms) = whole.expect("the CPU computes");
            for most in [1, 2, 3, 6] {
                network.micro_batches = Room::new(most, None);
                let parts = network.load(&model).clipped(&images, answers.targets(), 2, clip(0.5));
                let (parts, of_parts) = parts.expect("the CPU computes");
                let expected: Vec<f64> = whole.sum.iter().map(|value| f64::from(*value)).collect();
                let apart = distance(&parts.sum, &expected);
                assert!(apart <= 1e-6, "{architecture}, {most} at once: {apart} off");
                for (part, norm) in of_parts.iter().zip(&norms) {
                    assert!((part / norm - 1.0).abs() <= 1e-5, "{part} for {norm}");
                }
                assert_eq!(of_parts.len(), 7);
            }
        }
    }

    #[test]
    fn a_batch_of_another_size_is_refused() {
        let network = network(Architecture::Linear, 16);
        let model = model_of(&network);
        for (images, classes, views) in
            [(255, 1, 1), (256, 2, 1), (512, 1, 1), (256, 1, 0), (256, 1, 2)]
        {
            let images = vec![0.0; images];
            let refused = network.clipped_sum(&model, images, &vec![0; classes], views, clip(1.0));
            assert!(refused.is_err());
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit_of_the_sum() {
        let network = network(Architecture::CnnSmall, 64);
        let model = model_of(&network);
        let (images, answers) = batch(&network, 8, 2);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let sum = pool.expect("threads start").install(|| {
                network.clipped_sum(&model, images.clone(), answers.targets(), 2, clip(0.5))
            });
            let sum = sum.expect("computed").sum;
            sum.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        let alone = with(1);
        assert_eq!(alone, with(1));
        assert_eq!(alone, with(2));
        assert_eq!(alone, with(3));
    }
}
