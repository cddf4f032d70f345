//! A study: what is trained, on what, how, by whom. Declarative; no code travels with it.
//!
//! These are plain values. [`Study::faults`] lists everything that is wrong with them at once, and
//! [`Study::digest`] is what a hospital approves: it covers every field.

mod augment;
mod canonical;
mod faults;
mod privacy;

use std::fmt;
use std::time::Duration;

pub use self::augment::Augment;
pub use self::privacy::{Privacy, PrivacyRules, Unit};

use crate::architecture::{Architecture, ModelLayout};
use crate::ids::{Digest, HospitalId, RoundId, StudyId};
use crate::keys::thresholds::{BadThresholds, Thresholds};
use crate::message::Work;
use crate::vector::{MAX_SITES, VectorFormat};

/// A study.
#[derive(Debug, Clone, PartialEq)]
pub struct Study {
    /// What people call it.
    pub name: String,
    /// What is learnt.
    pub task: Task,
    /// Which model learns it.
    pub model: Architecture,
    /// How it learns.
    pub training: Training,
    /// What protects the patients beyond the sum.
    pub privacy: Privacy,
    /// Who takes part, and how long the others wait.
    pub cohort: CohortRules,
    /// How it is judged.
    pub evaluation: EvaluationRules,
}

/// What is learnt.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// What an answer is.
    pub kind: TaskKind,
    /// Names of the classes; a label is an index into them. In a segmentation the first is what
    /// lies around everything else.
    pub classes: Vec<String>,
    /// How much the loss of each class counts; empty: all of them once. Of labels that go together
    /// it is the loss of those who have the label.
    pub class_weights: Vec<f64>,
    /// What the model is shown.
    pub input: InputShape,
    /// How a stored image becomes that.
    pub preprocess: Preprocess,
}

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// One class for each image. The loss is the softmax cross-entropy.
    Classification,
    /// Any number of classes for each image. The loss is the mean over the classes of each one's
    /// logistic cross-entropy.
    MultiLabel,
    /// One class for each pixel or voxel. The loss is the mean softmax cross-entropy, and one less
    /// the mean Dice coefficient of all classes but the first.
    Segmentation,
}

impl TaskKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Classification, Self::MultiLabel, Self::Segmentation];

    /// The name that a manifest gives.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classification => "classification",
            Self::MultiLabel => "multi-label",
            Self::Segmentation => "segmentation",
        }
    }
}

/// The size of what a model is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputShape {
    /// Channels: 1 for radiographs.
    pub channels: u16,
    /// Slices of a volume; 1 for an image.
    pub depth: u16,
    /// Rows of pixels.
    pub height: u16,
    /// Columns of pixels.
    pub width: u16,
}

/// How a stored image becomes the model's input: window, then resampling and fit in one step, then
/// normalisation. A mask goes the same way as its image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preprocess {
    /// Which stored values become 0 and 1.
    pub window: Window,
    /// Millimetres between pixels along depth, height and width once resampled; of flat images the
    /// first is 1. None: however far they are apart.
    pub spacing: Option<[f64; 3]>,
    /// How an image of other proportions is fitted to the input.
    pub fit: Fit,
    /// What makes images comparable.
    pub normalise: Normalise,
    /// Subtracted after the window, where normalisation is fixed; else 0.
    pub mean: f32,
    /// Divided by after that, where normalisation is fixed; else 1.
    pub sd: f32,
}

impl Preprocess {
    /// Stored values between 0 and 1, each side stretched, and no more.
    pub const PLAIN: Self = Self {
        window: Window::Full,
        spacing: None,
        fit: Fit::Stretch,
        normalise: Normalise::Fixed,
        mean: 0.0,
        sd: 1.0,
    };
}

/// How an image of other proportions is fitted to the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fit {
    /// Each side by itself; proportions change.
    #[default]
    Stretch,
    /// The largest part in the middle that has the input's proportions.
    Crop,
    /// All of it, with darkness around. Of a mask, the first class.
    Pad,
    /// The input's size out of the middle, at the study's spacing or else as it is stored: what is
    /// beyond is cut off, what is missing is dark.
    Centre,
}

/// What makes images comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Normalise {
    /// The study's mean and standard deviation for all images.
    #[default]
    Fixed,
    /// Each image's own: it comes out with mean 0 and standard deviation 1.
    Image,
}

/// Which stored values become 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Window {
    /// The least and greatest value that the stored bits can hold.
    Full,
    /// The window that the file declares; without one, percentiles 1 and 99.
    FromFile,
    /// These values, after the file's rescale: Hounsfield units in CT.
    Values {
        /// Becomes 0.
        low: f64,
        /// Becomes 1.
        high: f64,
    },
    /// Percentiles of the image's own values.
    Percentile {
        /// Becomes 0; in percent.
        low: f64,
        /// Becomes 1; in percent.
        high: f64,
    },
}

/// How a model learns.
#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    /// Rounds that change the model. One more, the last, only evaluates.
    pub rounds: u32,
    /// What a site computes in a round.
    pub strategy: Strategy,
    /// What the coordinator does with the mean.
    pub optimizer: ServerOptimizer,
    /// The coordinator's learning rate.
    pub learning_rate: f64,
    /// Decides the initial weights and every shuffle.
    pub seed: u64,
    /// How much of the running average of the models remains each round; 0 for no average. With
    /// one, the last model is the average (\[PJ92\]): of noised steps it is the better one, and it
    /// costs no privacy.
    pub weight_average: f64,
    /// What happens within a site.
    pub local: Local,
    /// The greatest size of one weighted coordinate of an update; what is beyond is clamped.
    pub update_range: f64,
    /// The examples at which a site's weight ends ([`Training::DEFAULT_WEIGHT_CAP`]). An update is
    /// scaled by `min(examples, cap) / cap` before it meets the grid, so a cap far above what sites
    /// have wastes resolution, and one far below makes all sites count the same.
    pub weight_cap: u32,
    /// Where the first model comes from.
    pub initial: InitialModel,
}

impl Training {
    /// A cap that suits sites with some hundreds to some thousands of training images.
    pub const DEFAULT_WEIGHT_CAP: u32 = 4_096;
}

/// What a site computes in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Trains for some epochs and sends how the model moved (\[MMR+17\] algorithm 1).
    FedAvg,
    /// Sends one mean gradient (\[MMR+17\] section 2).
    FedSgd,
    /// Sends the noised sum of one clipped gradient for each sampled patient (\[ACG+16\] algorithm
    /// 1). The only strategy of a private study, and of no other.
    DpFedSgd,
}

/// What the coordinator does with the mean of the updates (\[RCZ+21\] algorithm 1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ServerOptimizer {
    /// A step along the mean.
    Sgd,
    /// A step along a decaying sum of means.
    Momentum {
        /// What remains of the sum each round.
        momentum: f64,
    },
    /// Adam (\[KB15\] algorithm 1).
    Adam {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        epsilon: f64,
    },
}

/// What happens within a site.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Local {
    /// Passes over the site's training images. Unused by the strategies of one gradient.
    pub epochs: u32,
    /// Images to a step. For [`Strategy::FedSgd`] the images of its one gradient; 0 means all.
    /// Unused by [`Strategy::DpFedSgd`], which tosses a coin for each patient.
    pub batch_size: u32,
    /// The local learning rate.
    pub learning_rate: f64,
    /// The local optimiser.
    pub optimizer: LocalOptimizer,
    /// L2 penalty.
    pub weight_decay: f64,
    /// How images are changed at random.
    pub augment: Augment,
}

/// The optimiser within a site.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LocalOptimizer {
    /// Plain steps.
    Sgd,
    /// Steps along a decaying sum.
    Momentum {
        /// What remains of the sum each step.
        momentum: f64,
    },
    /// Adam with its published constants.
    Adam,
}

/// Where the first model comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialModel {
    /// Drawn from the study's seed.
    Seeded,
    /// Read from a safetensors file with this SHA-256, which the operator supplies.
    File(Digest),
}

/// Who takes part, and how long the others wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CohortRules {
    /// The sites; empty means every site that is approved when the study is proposed.
    pub sites: Vec<HospitalId>,
    /// The fewest contributions that may be released.
    pub quorum: u16,
    /// Hospitals that may collude with the coordinator and still learn no other's update.
    pub colluding: u16,
    /// Updates travel unmasked: the coordinator sees each. For measuring what masks cost, and for
    /// nothing that has to do with patients.
    pub danger_unmasked: bool,
    /// From the offer of a round until every site should have trained.
    pub round_deadline: Duration,
    /// How long a site whose connection was lost is waited for when all others are there.
    pub grace: Duration,
    /// From the frozen roster until every member should have uploaded.
    pub upload_deadline: Duration,
}

/// How a study is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvaluationRules {
    /// Every so many rounds the offered model is scored before it is trained on; 0: only at the end.
    pub every: u32,
    /// On which images.
    pub split: Split,
    /// A private study may publish exact scores: sums over all held-out patients, whom no epsilon
    /// covers. Without this a private study is not scored.
    pub danger_exact: bool,
}

/// A part of a data set that is not trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For choices during development.
    Validation,
    /// For the figure that is reported.
    Test,
}

impl CohortRules {
    /// How many of so many provisioned hospitals it takes to mask, sign and release (PROTOCOL M-21
    /// to M-23). None for a study whose updates travel unmasked.
    ///
    /// # Errors
    /// When the quorum or the tolerated collusion does not go with that many hospitals.
    pub fn thresholds(&self, provisioned: usize) -> Result<Option<Thresholds>, StudyFault> {
        if self.danger_unmasked {
            return Ok(None);
        }
        let fault = |key: &str, found: String, allowed: String| StudyFault {
            key: key.to_owned(),
            found,
            allowed,
        };
        let Ok(n) = u16::try_from(provisioned) else {
            let allowed = format!("at most {MAX_SITES} sites");
            return Err(fault("cohort.sites", format!("{provisioned} sites"), allowed));
        };
        Thresholds::new(n, self.colluding, self.quorum).map(Some).map_err(|bad| match bad {
            BadThresholds::TooFew { .. } => fault(
                "cohort.sites",
                format!("{n} sites"),
                "at least 3 sites, for a sum of two tells each the other's update".to_owned(),
            ),
            BadThresholds::TooManyColluding { colluding, .. } => fault(
                "cohort.tolerate_colluding",
                format!("{colluding} of {n} sites"),
                format!("at most {}", n - 2),
            ),
            BadThresholds::FinalSet { colluding, least_allowed, .. } if least_allowed > n => fault(
                "cohort.tolerate_colluding",
                format!("{colluding} of {n} sites"),
                format!("at most {}", n - 2),
            ),
            BadThresholds::FinalSet { shares, least_allowed, least, .. } => fault(
                "cohort.quorum",
                format!("{least} of {n} sites, of which {} may collude", self.colluding),
                format!("{least_allowed} to {n}: {shares} have to sign and to unmask"),
            ),
        })
    }
}

impl Study {
    /// Everything that is wrong, in the order of the manifest. Empty: the study can be run.
    #[must_use]
    pub fn faults(&self) -> Vec<StudyFault> {
        faults::of(self)
    }

    /// What a hospital approves: SHA-256 over a canonical encoding of every field (PROTOCOL R-01).
    #[must_use]
    pub fn digest(&self) -> StudyId {
        StudyId::new(canonical::of(self).finish())
    }

    /// The tensors of the model.
    #[must_use]
    pub fn layout(&self) -> ModelLayout {
        self.model.layout(&self.task.input, self.task.classes.len())
    }

    /// The format of this study's longest update, with so many sites on its roster.
    ///
    /// # Errors
    /// When there is no room for so many sites.
    pub fn vector_format(&self, sites: usize) -> Result<VectorFormat, StudyFault> {
        VectorFormat::for_work(self, sites, Work::TrainAndEvaluate)
    }

    /// Whether models are scored. A private study is only where it says that scores are exact
    /// (PROTOCOL D-27).
    #[must_use]
    pub const fn is_scored(&self) -> bool {
        match self.privacy {
            Privacy::DangerNone => true,
            Privacy::Patients(_) => self.evaluation.danger_exact,
        }
    }

    /// What is done in a round (PROTOCOL R-04).
    #[must_use]
    pub const fn work_in(&self, round: RoundId) -> Work {
        if !self.is_scored() {
            return Work::Train;
        }
        if round.get() > self.training.rounds {
            return Work::Evaluate;
        }
        match round.get().checked_rem(self.evaluation.every) {
            Some(0) => Work::TrainAndEvaluate,
            Some(_) | None => Work::Train,
        }
    }

    /// The last round: the one after all training, which scores; in a study that is not scored the
    /// last that trains.
    #[must_use]
    pub fn last_round(&self) -> RoundId {
        let trained = self.training.rounds;
        RoundId::after(if self.is_scored() { trained } else { trained.saturating_sub(1) })
    }
}

/// One thing that is wrong with a study.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct StudyFault {
    /// Where, as the manifest names it: `train.rounds`.
    pub key: String,
    /// What was found there.
    pub found: String,
    /// What may stand there.
    pub allowed: String,
}

impl fmt::Display for StudyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found {}, allowed is {}", self.key, self.found, self.allowed)
    }
}

// [MMR+17]: McMahan et al.: Communication-Efficient Learning of Deep Networks, AISTATS 2017, arXiv 1602.05629.
// [RCZ+21]: Reddi et al.: Adaptive Federated Optimization, ICLR 2021, arXiv 2003.00295.
// [KB15]: Kingma, Ba: Adam, ICLR 2015, arXiv 1412.6980.
// [ACG+16]: Abadi et al.: Deep Learning with Differential Privacy, CCS 2016, arXiv 1607.00133.
// [PJ92]: Polyak, Juditsky: Acceleration of Stochastic Approximation by Averaging, SIAM J. Control Optim. 30 (1992).

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::privacy::tests::private;
    use super::*;

    /// A valid study, small enough to play whole rounds with.
    pub(crate) fn example() -> Study {
        Study {
            name: "chest-pneumonia".to_owned(),
            task: Task {
                kind: TaskKind::Classification,
                classes: vec!["normal".to_owned(), "pneumonia".to_owned()],
                class_weights: Vec::new(),
                input: InputShape { channels: 1, depth: 1, height: 2, width: 3 },
                preprocess: Preprocess { mean: 0.5, sd: 0.25, ..Preprocess::PLAIN },
            },
            model: Architecture::Linear,
            training: Training {
                rounds: 10,
                strategy: Strategy::FedAvg,
                optimizer: ServerOptimizer::Sgd,
                learning_rate: 1.0,
                seed: 1,
                weight_average: 0.0,
                local: Local {
                    epochs: 1,
                    batch_size: 32,
                    learning_rate: 0.05,
                    optimizer: LocalOptimizer::Sgd,
                    weight_decay: 0.0,
                    augment: Augment::NONE,
                },
                update_range: 1.0,
                weight_cap: Training::DEFAULT_WEIGHT_CAP,
                initial: InitialModel::Seeded,
            },
            privacy: Privacy::DangerNone,
            cohort: CohortRules {
                sites: Vec::new(),
                quorum: 3,
                colluding: 1,
                danger_unmasked: false,
                round_deadline: Duration::from_secs(120),
                grace: Duration::from_secs(10),
                upload_deadline: Duration::from_secs(30),
            },
            evaluation: EvaluationRules { every: 5, split: Split::Validation, danger_exact: false },
        }
    }

    /// Breaks R-04 at every boundary of the plan.
    #[test]
    fn the_work_of_a_round_follows_from_its_number() {
        let mut study = example();
        let work = |study: &Study, round| RoundId::new(round).map(|round| study.work_in(round));
        assert_eq!(work(&study, 1), Ok(Work::Train));
        assert_eq!(work(&study, 5), Ok(Work::TrainAndEvaluate));
        assert_eq!(work(&study, 10), Ok(Work::TrainAndEvaluate));
        assert_eq!(work(&study, 11), Ok(Work::Evaluate));
        assert_eq!(study.last_round().get(), 11);
        study.evaluation.every = 1;
        assert_eq!(work(&study, 1), Ok(Work::TrainAndEvaluate));
        study.evaluation.every = 0;
        assert_eq!(work(&study, 10), Ok(Work::Train));
        assert_eq!(work(&study, 11), Ok(Work::Evaluate));
    }
}
