//! The conversation with the agent: one data set is opened for one study, then worked on round by
//! round. What comes in is a model; what goes out is packed lanes. Frames go to stdout and nothing
//! else does.
//!
//! A request that cannot be met is answered with `Failed` and the conversation goes on; one that is
//! out of order ends it, for then the two sides no longer mean the same thing.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::sync::Arc;

use aggregation::architecture::model_from_bytes;
use aggregation::evaluation::MetricTally;
use aggregation::ids::RoundId;
use aggregation::message::Work;
use aggregation::privacy::plan::Plan;
use aggregation::privacy::sampling::{MicroBatches, Patients};
use aggregation::study::{Split, Study, Unit};
use aggregation::vector::{Contribution, VectorFormat, encode, encode_noised};
use burn::tensor::Device;
use proto::frames::{parts, read_frame, write_frame};
use proto::trainer::{
    Done, Failed, FromTrainer, Open, Opened, Progress, Task, ToTrainer, from_trainer, to_trainer,
};

use crate::dataset::cache::Cache;
use crate::dataset::{Dataset, Examples, Look, SiteSecret, Source};
use crate::entropy;
use crate::evaluate::evaluate;
use crate::memory;
use crate::noised::NoisedStep;
use crate::preprocess::Preparation;
use crate::step::Trainer;
use crate::zoo::Network;

/// What the administrator lets a trainer use.
#[derive(Debug)]
pub struct Settings {
    /// Computes the network.
    pub device: Device,
    /// Bytes of prepared images that may be held.
    pub memory: u64,
    /// Where prepared images are kept for the next time.
    pub cache: Option<Arc<Cache>>,
}

/// The conversation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The pipe to the agent broke, or what came over it is no frame.
    #[error("the conversation with the agent broke off")]
    Pipe(#[from] io::Error),
    /// A message that makes no sense here.
    #[error("expected {expected}, found {found}")]
    OutOfOrder {
        /// What should have come.
        expected: &'static str,
        /// What came.
        found: &'static str,
    },
}

/// A refusal of one request, for the site's own administrator; it names no patient and no file.
#[derive(Debug)]
struct Refused(String);

impl Refused {
    /// Says what went wrong, with the causes behind it.
    fn because(error: &dyn std::error::Error) -> Self {
        Self(proto::cli::chain(error))
    }
}

/// Answers the agent until it closes its end. The caller has given up the network before.
///
/// # Errors
/// [`ServeError`] when the conversation cannot go on.
pub fn serve(
    from: &mut impl Read,
    to: &mut impl Write,
    settings: &Settings,
) -> Result<(), ServeError> {
    let mut session = None;
    while let Some(ToTrainer { message }) = read_frame(from)? {
        match message {
            Some(to_trainer::Message::Open(open)) => {
                session = None;
                match Session::open(&open, settings) {
                    Ok(opened) => {
                        say(to, from_trainer::Message::Opened(opened.facts()))?;
                        session = Some(opened);
                    }
                    Err(refused) => fail(to, refused)?,
                }
            }
            Some(to_trainer::Message::Task(task)) => {
                let model = receive_model(from, &task, session.as_ref())?;
                let outcome = match (&session, model) {
                    (Some(session), Ok(model)) => session.work(&task, &model, to),
                    (None, _) => Ok(Err(Refused("no data set is open".to_owned()))),
                    (Some(_), Err(refused)) => Ok(Err(refused)),
                };
                match outcome? {
                    Ok(packed) => {
                        for part in parts(packed) {
                            say(to, from_trainer::Message::Update(part))?;
                        }
                        say(to, from_trainer::Message::Done(Done {}))?;
                    }
                    Err(refused) => fail(to, refused)?,
                }
            }
            Some(to_trainer::Message::Model(_)) => {
                let (expected, found) = ("open or task", "a part of a model");
                return Err(ServeError::OutOfOrder { expected, found });
            }
            None => {
                let (expected, found) = ("open or task", "an empty message");
                return Err(ServeError::OutOfOrder { expected, found });
            }
        }
    }
    Ok(())
}

fn say(to: &mut impl Write, message: from_trainer::Message) -> io::Result<()> {
    write_frame(to, &FromTrainer { message: Some(message) })
}

fn fail(to: &mut impl Write, refused: Refused) -> io::Result<()> {
    tracing::warn!(reason = refused.0, "a request was refused");
    say(to, from_trainer::Message::Failed(Failed { message: refused.0 }))
}

/// Takes in the parts that follow a task. Parts are read even when the model will not do, so that
/// the next frame is understood; no more is kept than this study's model has.
fn receive_model(
    from: &mut impl Read,
    task: &Task,
    session: Option<&Session>,
) -> Result<Result<Vec<f32>, Refused>, ServeError> {
    let wanted = session.map_or(0, |session| 4 * session.network.layout().parameters());
    let fits = usize::try_from(task.model_bytes) == Ok(wanted);
    let mut bytes = Vec::new();
    let mut left = task.model_bytes;
    while left > 0 {
        let part = match read_frame::<ToTrainer>(from)?.and_then(|frame| frame.message) {
            Some(to_trainer::Message::Model(part)) if !part.is_empty() => part,
            Some(to_trainer::Message::Model(_)) => {
                let (expected, found) = ("a part of the model", "an empty part");
                return Err(ServeError::OutOfOrder { expected, found });
            }
            Some(to_trainer::Message::Open(_) | to_trainer::Message::Task(_)) | None => {
                let (expected, found) = ("a part of the model", "something else");
                return Err(ServeError::OutOfOrder { expected, found });
            }
        };
        left = left.checked_sub(part.len() as u64).ok_or(ServeError::OutOfOrder {
            expected: "parts that add up to the model",
            found: "more than that",
        })?;
        if fits {
            bytes.extend_from_slice(&part);
        }
    }
    if !fits {
        let found = task.model_bytes;
        let text = format!("the model: expected {wanted} bytes for this study, found {found}");
        return Ok(Err(Refused(text)));
    }
    Ok(model_from_bytes(&bytes).map_err(|error| Refused::because(&error)))
}

/// A study on an open data set.
struct Session {
    study: Study,
    site: String,
    sites: usize,
    network: Network,
    data: Dataset,
    private: Option<Private>,
}

/// A house may have so many times its share of the study's patients; the bound on a micro-batch's
/// rounding does not hold beyond that (PROTOCOL D-11).
const MOST_SHARES: u64 = 7;

/// What a private study needs beyond the images.
struct Private {
    plan: Plan,
    patients: Patients,
    micro_batches: MicroBatches,
}

impl Private {
    /// None for a study without privacy.
    fn new(
        study: &Study,
        sites: usize,
        data: &Dataset,
        secret: &SiteSecret,
    ) -> Result<Option<Self>, Refused> {
        let plan = study.noise_plan(sites).map_err(|fault| Refused::because(&fault))?;
        let (Some(plan), Some(rules)) = (plan, study.privacy.rules()) else { return Ok(None) };
        if rules.unit == Unit::Patient && !data.has_patients {
            return Err(Refused(
                "privacy is per patient, and this data set does not say whose its images are; a \
                 study can be run on it with privacy.danger_image_level_privacy = true"
                    .to_owned(),
            ));
        }
        let images = data.training_images.iter();
        let keys = data.training_patients.iter().zip(images).map(|(patient, (file, before))| {
            Some(match rules.unit {
                Unit::Patient => patient.as_bytes().to_vec(),
                // Never by its place, which others before it decide.
                Unit::DangerImage => [file.as_slice(), &before.to_le_bytes()].concat(),
            })
        });
        let patients = Patients::group(keys).map_err(|error| Refused::because(&error))?;
        let sites_here = u32::try_from(sites).unwrap_or(1).max(1);
        let share = rules.patients.div_ceil(sites_here);
        if patients.len() as u64 > MOST_SHARES * u64::from(share) {
            return Err(Refused(format!(
                "privacy.patients = {} over {sites} hospitals is {share} for each; expected at most \
                 {MOST_SHARES} times as many here, found {}; the study needs the true number",
                rules.patients,
                patients.len()
            )));
        }
        // The plan's number, not this house's: see there.
        let expected = plan.wanted().patients.div_ceil(sites_here);
        let micro_batches = MicroBatches::new(secret.micro_batch_key(), expected);
        Ok(Some(Self { plan, patients, micro_batches }))
    }
}

impl Session {
    fn open(open: &Open, settings: &Settings) -> Result<Self, Refused> {
        let study = proto::manifest::parse(&open.manifest_toml)
            .map_err(|faults| Refused(format!("the study's manifest: {faults}")))?;
        let source = open.data.clone().ok_or_else(|| Refused("no data source".to_owned()))?;
        let source = Source::new(&source.kind, &source.path, &source.manifest)
            .map_err(|error| Refused::because(&error))?;
        let secret = SiteSecret::read(open.pseudonym_key_file.as_ref())
            .map_err(|error| Refused::because(&error))?;
        let sites = usize::try_from(open.sites).ok().filter(|sites| *sites > 0);
        let sites = sites.ok_or_else(|| Refused("the study's roster is empty".to_owned()))?;
        let preparation = Preparation::new(&study.task).with_cache(settings.cache.clone());
        let how = Look {
            secret: &secret,
            classes: Some(&study.task.classes),
            preparation: Some(&preparation),
            memory: settings.memory,
        };
        let network = Network::new(study.model, &study.task, settings.device.clone());
        let data = memory::decoding(|| Dataset::open(&source, how))
            .and_then(|data| data.for_network(&network, how.room()))
            .map_err(|error| Refused::because(&error))?;
        let private = Private::new(&study, sites, &data, &secret)?;
        tracing::info!("a data set is open");
        Ok(Self { study, site: open.site.clone(), sites, network, data, private })
    }

    /// Images that nobody trains on.
    fn held_out(&self) -> &Examples {
        match self.study.evaluation.split {
            Split::Validation => &self.data.validation,
            Split::Test => &self.data.test,
        }
    }

    fn facts(&self) -> Opened {
        Opened {
            training_examples: self.data.train.len() as u64,
            training_patients: self.data.training_patients.iter().collect::<BTreeSet<_>>().len()
                as u64,
            evaluation_examples: self.held_out().len() as u64,
            dataset_root: self.data.root.to_vec(),
        }
    }

    /// One round's work: the packed update, or why there is none. The outer error is the pipe's.
    fn work(
        &self,
        task: &Task,
        model: &[f32],
        to: &mut impl Write,
    ) -> io::Result<Result<Vec<u8>, Refused>> {
        let (round, work) = match (RoundId::new(task.round), named(task.work)) {
            (Ok(round), Some(work)) => (round, work),
            (Err(error), _) => return Ok(Err(Refused::because(&error))),
            (_, None) => {
                let text = format!("expected a kind of work, found number {}", task.work);
                return Ok(Err(Refused(text)));
            }
        };
        let mut told = 0;
        let mut broken = None;
        let mut progress = |permille: u32| {
            // A frame for each hundredth is enough for a bar on a screen.
            if permille >= told + 10 && broken.is_none() {
                told = permille;
                let report = from_trainer::Message::Progress(Progress { permille });
                broken = say(to, report).err();
            }
        };
        let outcome = self.compute(round, work, model, &mut progress);
        match broken {
            Some(error) => Err(error),
            None => Ok(outcome),
        }
    }

    fn compute(
        &self,
        round: RoundId,
        work: Work,
        model: &[f32],
        progress: &mut dyn FnMut(u32),
    ) -> Result<Vec<u8>, Refused> {
        let metrics = work
            .evaluates()
            .then(|| evaluate(&self.study, &self.network, model, self.held_out()))
            .transpose()
            .map_err(|error| Refused::because(&error))?;
        if let Some(private) = &self.private {
            return self.noised(private, work, model, metrics.as_ref());
        }
        let (weight, update) = if work.trains() {
            let trainer = Trainer {
                study: &self.study,
                network: &self.network,
                examples: &self.data.train,
                site: &self.site,
            };
            let trained =
                trainer.train(round, model, progress).map_err(|error| Refused::because(&error))?;
            (trained.examples, trained.update)
        } else {
            (0, Vec::new())
        };
        let format = VectorFormat::for_work(&self.study, self.sites, work)
            .map_err(|error| Refused::because(&error))?;
        let encoded = encode(&format, &Contribution { weight, update, metrics })
            .map_err(|error| Refused::because(&error))?;
        if encoded.saturated > 0 {
            tracing::warn!("values beyond the study's update_range were clamped");
        }
        Ok(encoded.packed)
    }

    /// The same in a private study.
    fn noised(
        &self,
        private: &Private,
        work: Work,
        model: &[f32],
        metrics: Option<&MetricTally>,
    ) -> Result<Vec<u8>, Refused> {
        let lanes = if work.trains() {
            let step = NoisedStep {
                study: &self.study,
                plan: &private.plan,
                network: &self.network,
                examples: &self.data.train,
                patients: &private.patients,
                micro_batches: &private.micro_batches,
            };
            let seeds = entropy::seeds().map_err(|error| Refused::because(&error))?;
            step.lanes(seeds, model).map_err(|error| Refused::because(&error))?
        } else {
            Vec::new()
        };
        let format = VectorFormat::planned(&self.study, self.sites, work, Some(&private.plan))
            .map_err(|error| Refused::because(&error))?;
        encode_noised(&format, &lanes, metrics).map_err(|error| Refused::because(&error))
    }
}

fn named(work: u32) -> Option<Work> {
    proto::decode::work(i32::try_from(work).ok()?).ok()
}

#[cfg(test)]
pub(crate) mod tests;
