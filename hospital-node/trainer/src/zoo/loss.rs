//! What a study's answers are measured by: a loss for each image, summed over images, so that a
//! gradient is the patients' own gradients added up.
//!
//! Scores are `[images, places, classes]`, with one place for a whole image and one for each pixel
//! or voxel of a segmentation.

use aggregation::study::{Task, TaskKind};
use burn::tensor::activation::{log_sigmoid, log_softmax};
use burn::tensor::{Device, Tensor, TensorData};

use super::BackendFault;

/// Added to both parts of a Dice coefficient, in voxels: a class that is nowhere, neither in the
/// answer nor in the mask, fits.
const SMOOTH: f64 = 1.0;

/// What images should give, one image after the other.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a> {
    /// The class of each.
    Classes(&'a [usize]),
    /// For each image, for each class, whether the image has it.
    Labels(&'a [bool]),
    /// For each image, for each pixel or voxel, its class.
    Masks(&'a [u8]),
}

impl<'a> From<&'a [usize]> for Targets<'a> {
    fn from(classes: &'a [usize]) -> Self {
        Self::Classes(classes)
    }
}

impl<'a> From<&'a Vec<usize>> for Targets<'a> {
    fn from(classes: &'a Vec<usize>) -> Self {
        Self::Classes(classes)
    }
}

impl<'a, const N: usize> From<&'a [usize; N]> for Targets<'a> {
    fn from(classes: &'a [usize; N]) -> Self {
        Self::Classes(classes)
    }
}

/// A study's loss.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    kind: TaskKind,
    /// One for each class.
    weights: Vec<f32>,
    /// Pixels or voxels that have answers of their own.
    places: usize,
}

/// Targets as numbers on a device: 1 where a class is wanted, `[images, places, classes]`.
#[derive(Clone, Debug)]
pub(super) struct Wanted(Tensor<3>);

impl Wanted {
    /// How many images it is for.
    pub(super) fn images(&self) -> usize {
        self.0.dims()[0]
    }
}

impl Loss {
    pub(super) fn new(task: &Task, voxels: usize) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "training runs in single precision")]
        let mut weights: Vec<f32> = task.class_weights.iter().map(|w| *w as f32).collect();
        weights.resize(task.classes.len(), 1.0);
        let places = match task.kind {
            TaskKind::Classification | TaskKind::MultiLabel => 1,
            TaskKind::Segmentation => voxels,
        };
        Self { kind: task.kind, weights, places }
    }

    /// The number of classes.
    pub(super) fn classes(&self) -> usize {
        self.weights.len()
    }

    /// How many images the targets are for.
    pub(super) fn images(&self, targets: Targets<'_>) -> usize {
        match targets {
            Targets::Classes(classes) => classes.len(),
            Targets::Labels(labels) => labels.len() / self.classes(),
            Targets::Masks(masks) => masks.len() / self.places,
        }
    }

    /// The targets of images `from` up to `to`.
    pub(super) fn part<'t>(&self, targets: Targets<'t>, from: usize, to: usize) -> Targets<'t> {
        let (classes, places) = (self.classes(), self.places);
        match targets {
            Targets::Classes(of_all) => Targets::Classes(&of_all[from..to]),
            Targets::Labels(of_all) => Targets::Labels(&of_all[from * classes..to * classes]),
            Targets::Masks(of_all) => Targets::Masks(&of_all[from * places..to * places]),
        }
    }

    /// The targets on a device.
    ///
    /// # Errors
    /// [`BackendFault`] when they are not of the study's kind, or name a class that it does not have.
    pub(super) fn wanted(
        &self,
        targets: Targets<'_>,
        device: &Device,
    ) -> Result<Wanted, BackendFault> {
        let classes = self.classes();
        let one_hot = |chosen: &mut dyn Iterator<Item = usize>, count: usize| {
            let mut wanted = vec![0.0_f32; count * classes];
            for (row, class) in wanted.chunks_exact_mut(classes).zip(chosen) {
                *row.get_mut(class).ok_or(BackendFault("a class of the study"))? = 1.0;
            }
            Ok(wanted)
        };
        let wanted = match (self.kind, targets) {
            (TaskKind::Classification, Targets::Classes(chosen)) => {
                one_hot(&mut chosen.iter().copied(), chosen.len())?
            }
            (TaskKind::Segmentation, Targets::Masks(masks)) => {
                one_hot(&mut masks.iter().map(|class| usize::from(*class)), masks.len())?
            }
            (TaskKind::MultiLabel, Targets::Labels(labels)) => {
                labels.iter().map(|label| f32::from(u8::from(*label))).collect()
            }
            (
                TaskKind::Classification | TaskKind::Segmentation | TaskKind::MultiLabel,
                Targets::Classes(_) | Targets::Masks(_) | Targets::Labels(_),
            ) => return Err(BackendFault("targets of the study's kind")),
        };
        let images = wanted.len() / (self.places * classes).max(1);
        let shape = [images, self.places, classes];
        if wanted.len() != images * self.places * classes {
            return Err(BackendFault("whole targets"));
        }
        Ok(Wanted(Tensor::from_data(TensorData::new(wanted, shape), device)))
    }

    /// The sum of the images' losses.
    pub(super) fn of(&self, scores: Tensor<3>, wanted: Wanted) -> Tensor<1> {
        let Wanted(wanted) = wanted;
        let weights = TensorData::new(self.weights.clone(), [1, 1, self.classes()]);
        let weights = Tensor::<3>::from_data(weights, &wanted.device());
        match self.kind {
            TaskKind::Classification => (log_softmax(scores, 2) * wanted * weights).sum().neg(),
            TaskKind::MultiLabel => {
                // log(1 - s(x)) is log s(x) - x.
                let likely = log_sigmoid(scores.clone());
                let absent = wanted.clone().neg() + 1.0;
                let present = wanted * weights;
                let sum = likely * (present + absent.clone()) - scores * absent;
                sum.sum().neg().div_scalar(super::count(self.classes()))
            }
            TaskKind::Segmentation => {
                let likely = log_softmax(scores, 2);
                let entropy = (likely.clone() * wanted.clone() * weights).sum().neg();
                entropy.div_scalar(super::count(self.places)) + self.apart(likely.exp(), wanted)
            }
        }
    }

    /// One less the mean Dice coefficient of every class but the first, with probabilities for sets
    /// (\[MNA16\] equation 3, but with sums in place of sums of squares).
    fn apart(&self, found: Tensor<3>, wanted: Tensor<3>) -> Tensor<1> {
        let inside = self.classes() - 1;
        let over_places = |x: Tensor<3>| x.sum_dim(1).narrow(2, 1, inside);
        let common = over_places(found.clone() * wanted.clone());
        let both = over_places(found + wanted);
        let dice = (common * 2.0 + SMOOTH) / (both + SMOOTH);
        (dice.neg() + 1.0).sum().div_scalar(super::count(inside))
    }
}

// [MNA16]: Milletari, Navab, Ahmadi: V-Net, 3DV 2016, arXiv 1606.04797.

#[cfg(test)]
mod tests {
    use aggregation::architecture::Architecture;

    use super::super::tests::{normals, task};
    use super::*;

    fn loss(kind: TaskKind, weights: &[f64], voxels: usize) -> Loss {
        let mut task = task(Architecture::Linear, 4);
        task.kind = kind;
        task.class_weights = weights.to_vec();
        Loss::new(&task, voxels)
    }

    fn of(loss: &Loss, scores: &[f32], targets: Targets<'_>) -> f64 {
        let device = Device::flex();
        let wanted = loss.wanted(targets, &device).expect("they fit");
        let shape = [wanted.images(), loss.places, 3];
        let scores = Tensor::from_data(TensorData::new(scores.to_vec(), shape), &device);
        let sum = loss.of(scores, wanted).try_into_scalar::<f32>();
        f64::from(sum.expect("on the CPU"))
    }

    fn probabilities(scores: &[f32]) -> Vec<f64> {
        let powers: Vec<f64> = scores.iter().map(|score| f64::from(*score).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|power| power / sum).collect()
    }

    #[test]
    fn each_loss_is_that_of_its_definition_in_double_precision() {
        let scores = normals("scores", 2 * 4 * 3);
        let weights = [1.0, 2.5, 0.5];
        let near = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 1e-5 * expected, "{found} {expected}");
        };

        let chosen = [2, 0, 1, 1];
        let rows = || scores.chunks_exact(3).map(probabilities);
        let entropy = |(row, class): (Vec<f64>, &usize)| -weights[*class] * row[*class].ln();
        let expected = rows().zip(&chosen).map(entropy).sum();
        let classes = loss(TaskKind::Classification, &weights, 1);
        near(of(&classes, &scores[..12], Targets::Classes(&chosen)), expected);

        let labels = [true, false, false, true, true, true];
        let each = scores[..6].iter().zip(labels).enumerate().map(|(place, (score, label))| {
            let likely = 1.0 / (1.0 + f64::from(-*score).exp());
            if label { -weights[place % 3] * likely.ln() } else { -(1.0 - likely).ln() }
        });
        let expected = each.sum::<f64>() / 3.0;
        let several = loss(TaskKind::MultiLabel, &weights, 1);
        near(of(&several, &scores[..6], Targets::Labels(&labels)), expected);

        let masks = [0_u8, 1, 1, 2, 0, 0, 0, 1];
        let mut expected = 0.0;
        for (rows, mask) in scores.chunks_exact(12).zip(masks.chunks_exact(4)) {
            let rows: Vec<_> = rows.chunks_exact(3).map(probabilities).collect();
            let voxels = || rows.iter().zip(mask).map(|(row, class)| (row, usize::from(*class)));
            expected += voxels().map(|(row, c)| -weights[c] * row[c].ln()).sum::<f64>() / 4.0;
            for class in 1..3 {
                let inside = |of: usize| f64::from(u8::from(of == class));
                let common: f64 = voxels().map(|(row, of)| row[class] * inside(of)).sum();
                let both: f64 = voxels().map(|(row, of)| row[class] + inside(of)).sum();
                expected += (1.0 - (2.0 * common + 1.0) / (both + 1.0)) / 2.0;
            }
        }
        let segmented = loss(TaskKind::Segmentation, &weights, 4);
        near(of(&segmented, &scores, Targets::Masks(&masks)), expected);
    }

    #[test]
    fn targets_of_another_kind_or_of_no_class_are_refused() {
        let device = Device::flex();
        let classes = loss(TaskKind::Classification, &[], 1);
        assert!(classes.wanted(Targets::Classes(&[0, 3]), &device).is_err());
        assert!(classes.wanted(Targets::Masks(&[0]), &device).is_err());
        let segmented = loss(TaskKind::Segmentation, &[], 4);
        assert!(segmented.wanted(Targets::Masks(&[0, 1, 2, 3]), &device).is_err());
        assert!(segmented.wanted(Targets::Masks(&[0, 1, 2]), &device).is_err());
        assert!(segmented.wanted(Targets::Masks(&[0, 1, 2, 0]), &device).is_ok());
    }
}
