//! How well the offered model does on images that nobody trains on, as sums that can be added to
//! those of other hospitals.

use aggregation::evaluation::{BadExample, MetricShape, MetricTally};

use crate::dataset::Examples;
use crate::zoo::{BackendFault, Network};

/// Images in one pass.
const PASS: usize = 128;

/// Scoring did not work.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The backend's fault.
    #[error(transparent)]
    Backend(#[from] BackendFault),
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
    network: &Network,
    model: &[f32],
    examples: &Examples,
    classes: usize,
) -> Result<MetricTally, EvaluateError> {
    let mut tally = MetricTally::new(MetricShape::new(classes));
    let size = examples.images.len() / examples.len().max(1);
    for (images, labels) in
        examples.images.chunks((PASS * size).max(1)).zip(examples.classes.chunks(PASS))
    {
        let logits = network.logits(model, images.to_vec())?;
        for (row, label) in logits.chunks_exact(classes.max(1)).zip(labels) {
            tally.record(row, *label)?;
        }
    }
    Ok(tally)
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
        let mut examples = Examples::default();
        for index in 0..count {
            let class = index % 2;
            examples.classes.push(class);
            examples.images.extend(std::iter::once(if class == 1 { 1.0 } else { -1.0 }));
            examples.images.extend([0.0; 63]);
        }
        let tally = evaluate(&network, &model, &examples, 2).expect("scored");
        assert_eq!(tally.examples, count as u64);
        assert_eq!((tally.accuracy(), tally.auroc()), (Some(1.0), Some(1.0)));
        let none = evaluate(&network, &model, &Examples::default(), 2).expect("nothing to score");
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
        let examples = Examples { images: vec![0.0; 64], classes: vec![0] };
        let tally = evaluate(&network, &model, &examples, 2).expect("scored");
        assert_eq!(tally.accuracy(), Some(0.0));
        assert!(tally.loss().is_some_and(|loss| loss > 10.0));
    }
}
