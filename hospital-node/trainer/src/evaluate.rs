//! How well the offered model does on images that nobody trains on, as sums that can be added to
//! those of other hospitals.

use std::io;

use aggregation::evaluation::{BadExample, MetricShape, MetricTally, Overlap};
use aggregation::study::Study;
use rayon::prelude::*;

use crate::ahead::ahead;
use crate::dataset::Examples;
use crate::dataset::answers::{Answer, Batch};
use crate::surface::distances;
use crate::zoo::{BackendFault, Network};

/// The most images in one pass.
const PASS: usize = 128;
/// The most values of images in one pass, unless one image has more.
const VALUES: usize = 1 << 20;

/// Scoring did not work.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The backend's fault.
    #[error(transparent)]
    Backend(#[from] BackendFault),
    /// The system's reason.
    #[error("cannot read the prepared images back")]
    Images(#[from] io::Error),
    /// Scores or labels that do not belong to the study's classes.
    #[error("the offered model's scores cannot be counted")]
    Score(#[from] BadExample),
}

/// Scores a model on every example.
///
/// # Errors
/// When the backend fails, or labels and classes do not go together. A model that has diverged is
/// no error: it is counted as wrong, at the greatest loss.
pub fn evaluate(
    study: &Study,
    network: &Network,
    model: &[f32],
    examples: &Examples,
) -> Result<MetricTally, EvaluateError> {
    let mut tally = MetricTally::new(MetricShape::of(&study.task));
    if examples.is_empty() {
        return Ok(tally);
    }
    let pass = (VALUES / examples.values().max(1)).clamp(1, PASS);
    let make = |give: &mut dyn FnMut((Vec<f32>, Vec<Answer>)) -> bool| {
        for first in (0..examples.len()).step_by(pass) {
            if !give(examples.several(first..examples.len().min(first + pass))?) {
                break;
            }
        }
        Ok::<_, EvaluateError>(())
    };
    ahead(make, |(images, answers)| {
        let logits = network.logits(model, &images)?;
        let of_image = logits.len() / answers.len();
        let rows: Vec<&[f32]> = logits.chunks_exact(of_image.max(1)).collect();
        // What takes long is done side by side; counting is done in order.
        let overlaps: Vec<Option<Segmented>> = rows
            .par_iter()
            .zip(&answers)
            .map(|(row, answer)| match answer {
                Answer::Class(_) | Answer::Labels(_) => Ok(None),
                Answer::Mask(mask) => Segmented::judge(study, network, row, mask).map(Some),
            })
            .collect::<Result<_, BackendFault>>()?;
        for ((row, answer), segmented) in rows.iter().zip(&answers).zip(overlaps) {
            match (answer, segmented) {
                (Answer::Class(class), _) => tally.record(row, *class)?,
                (Answer::Labels(labels), _) => tally.record_labels(row, labels)?,
                (Answer::Mask(_), Some(Segmented { loss, overlaps })) => {
                    tally.record_regions(loss, &overlaps)?;
                }
                (Answer::Mask(_), None) => {}
            }
        }
        Ok(())
    })?;
    Ok(tally)
}

/// How one image was segmented.
struct Segmented {
    loss: f64,
    /// Of each class but the first.
    overlaps: Vec<Overlap>,
}

impl Segmented {
    fn judge(
        study: &Study,
        network: &Network,
        logits: &[f32],
        mask: &[u8],
    ) -> Result<Self, BackendFault> {
        let classes = study.task.classes.len();
        let mut batch = Batch::new(study.task.kind);
        batch.push(&Answer::Mask(mask.to_vec()));
        let loss = network.loss(logits, batch.targets())?.into();
        let found: Vec<usize> = logits.chunks_exact(classes).map(greatest).collect();
        let input = study.task.input;
        let sides = [input.depth, input.height, input.width].map(usize::from);
        let overlaps = (1..classes).map(|class| {
            let found: Vec<bool> = found.iter().map(|of| *of == class).collect();
            let wanted: Vec<bool> = mask.iter().map(|of| usize::from(*of) == class).collect();
            let count =
                |shape: &mut dyn Iterator<Item = bool>| shape.filter(|of| *of).count() as u64;
            Overlap {
                common: count(
                    &mut found.iter().zip(&wanted).map(|(found, wanted)| *found && *wanted),
                ),
                found: count(&mut found.iter().copied()),
                wanted: count(&mut wanted.iter().copied()),
                distances: distances(&found, &wanted, sides),
            }
        });
        Ok(Self { loss, overlaps: overlaps.collect() })
    }
}

/// The place of the first of the greatest; 0 where nothing is a number.
fn greatest(logits: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (class, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (class, logit);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use aggregation::architecture::Architecture;
    use burn::tensor::Device;

    use super::*;
    use crate::serve::tests::manifest;

    #[test]
    fn every_example_is_counted_once_whatever_the_passes() {
        let study = proto::manifest::parse(&manifest(
            "linear",
            8,
            "strategy = \"fedsgd\"\nlearning_rate = 1.0",
        ))
        .expect("a valid manifest");
        assert_eq!(study.model, Architecture::Linear);
        let network = Network::new(study.model, &study.task, Device::flex());
        let mut model = vec![0.0; network.layout().parameters()];
        // Class 1 is what is bright in the first pixel.
        model[64] = 2.0;
        let count = PASS + 31;
        let classes: Vec<usize> = (0..count).map(|index| index % 2).collect();
        let mut images = Vec::new();
        for class in &classes {
            images.push(if *class == 1 { 1.0 } else { -1.0 });
            images.extend([0.0; 63]);
        }
        let examples = Examples::classified(&images, &classes).expect("memory");
        let tally = evaluate(&study, &network, &model, &examples).expect("scored");
        assert_eq!(tally.examples, count as u64);
        assert_eq!((tally.accuracy(), tally.auroc()), (Some(1.0), Some(1.0)));
        let none =
            evaluate(&study, &network, &model, &Examples::default()).expect("nothing to score");
        assert_eq!(none.examples, 0);
    }

    #[test]
    fn a_model_that_has_diverged_is_counted_as_wrong() {
        let study = proto::manifest::parse(&manifest(
            "linear",
            8,
            "strategy = \"fedsgd\"\nlearning_rate = 1.0",
        ))
        .expect("a valid manifest");
        let network = Network::new(study.model, &study.task, Device::flex());
        let model = vec![f32::NAN; network.layout().parameters()];
        let examples = Examples::classified(&[0.0; 64], &[0]).expect("memory");
        let tally = evaluate(&study, &network, &model, &examples).expect("scored");
        assert_eq!(tally.accuracy(), Some(0.0));
        assert!(tally.loss().is_some_and(|loss| loss > 10.0));
    }

    #[test]
    fn a_segmentation_is_judged_voxel_by_voxel_and_class_by_class() {
        let manifest = manifest("unet2d", 16, "strategy = \"fedsgd\"\nlearning_rate = 1.0");
        let manifest = manifest.replace("\"classification\"", "\"segmentation\"");
        let study = proto::manifest::parse(&manifest).expect("a valid manifest");
        let network = Network::new(study.model, &study.task, Device::flex());
        let mut mask = vec![0_u8; 256];
        mask[..64].fill(1);
        // The upper half is found where the upper quarter was meant, four rows too far down.
        let mut logits = [2.0, -2.0].repeat(256);
        for voxel in 0..128 {
            (logits[2 * voxel], logits[2 * voxel + 1]) = (-2.0, 2.0);
        }
        let judged = Segmented::judge(&study, &network, &logits, &mask).expect("computed");
        let Overlap { common, found, wanted, distances } = judged.overlaps[0];
        assert_eq!((common, found, wanted, judged.overlaps.len()), (64, 128, 64, 1));
        assert_eq!(distances, Some((4.0, 4.0)));
        assert!(judged.loss > 1.0);
        // And a model that has diverged.
        let model = vec![f32::NAN; network.layout().parameters()];
        let examples = Examples::new(&[0.0; 256], vec![Answer::Mask(mask)]).expect("memory");
        let tally = evaluate(&study, &network, &model, &examples).expect("scored");
        assert_eq!((tally.dice(), tally.hausdorff()), (Some(0.0), None));
        assert_eq!(tally.loss(), Some(100.0));
    }
}
