//! A trainer that does not train: it speaks the trainer's protocol and answers every task with a
//! correctly encoded update that follows from the site's name alone.
//!
//! For stories and figures about rounds, where learning would only take time. Updates differ from
//! site to site, so that a missing or doubled one shows in the sum.

use std::io::{Read, Write};

use aggregation::evaluation::{MetricShape, MetricTally};
use aggregation::message::Work;
use aggregation::strategy::{ServerState, apply};
use aggregation::study::Study;
use aggregation::vector::{
    Accumulator, Contribution, Encoded, VectorFormat, encode, encode_noised,
};
use proto::frames::{parts, read_frame, write_frame};
use proto::limits::MAX_MODEL;
use proto::trainer::{Done, FromTrainer, Open, Opened, Task, ToTrainer, from_trainer, to_trainer};

use crate::{Outcome, Trouble};

/// After so many coordinates an update repeats itself.
const STRETCH: usize = 8191;

/// What the site of that name contributes, every time.
#[must_use]
pub fn contribution(site: &str, format: &VectorFormat) -> Contribution {
    let own = number(site);
    // One stretch again and again: what a stand-in costs should not show in a figure.
    let stretch: Vec<f32> = (0..STRETCH).map(|index| coordinate(own, index)).collect();
    let mut update = stretch.repeat(format.model().div_ceil(STRETCH));
    update.truncate(format.model());
    let metrics = format.metrics().map(|shape| tally(shape, own));
    Contribution { weight: u64::from(own) * 10 + 10, update, metrics }
}

/// What it sends where lanes are noised sums: its number in every lane. Not noise, so that sums stay
/// exact and a story can look for them.
fn noised(site: &str, format: &VectorFormat) -> Outcome<Vec<u8>> {
    let lanes = vec![u32::from(number(site)); format.model()];
    let metrics = format.metrics().map(|shape| tally(shape, number(site)));
    Ok(encode_noised(format, &lanes, metrics.as_ref())?)
}

/// What a site sends, whatever the study.
fn encoded(site: &str, format: &VectorFormat, said: &Contribution) -> Outcome<Vec<u8>> {
    if format.is_noised() { noised(site, format) } else { Ok(encode(format, said)?.packed) }
}

/// The same, encoded for such work in such a study.
///
/// # Errors
/// When there is no format for so many sites, or the study is private.
pub fn update(study: &Study, sites: usize, work: Work, site: &str) -> Outcome<Encoded> {
    let format = VectorFormat::for_work(study, sites, work)
        .map_err(|fault| Trouble::new(fault.to_string()))?;
    Ok(encode(&format, &contribution(site, &format))?)
}

/// The model that a study reaches, when every site is a stand-in: for each released round in order
/// what was to be done, and who was in the sum.
///
/// # Errors
/// When one of these rounds could not have been released.
pub fn model_after<'a>(
    study: &Study,
    sites: usize,
    rounds: impl IntoIterator<Item = (Work, &'a [String])>,
) -> Outcome<Vec<f32>> {
    let mut model = study.layout().initial(study.training.seed);
    let mut server = ServerState::new(&study.training, model.len());
    for (work, contributed) in rounds.into_iter().filter(|(work, _)| work.trains()) {
        let format = VectorFormat::for_work(study, sites, work)
            .map_err(|fault| Trouble::new(fault.to_string()))?;
        let mut sum = Accumulator::new(&format);
        for site in contributed {
            sum.add(&encoded(site, &format, &contribution(site, &format))?)?;
        }
        apply(&study.training, &mut server, &mut model, &sum.finish()?)?;
    }
    Ok(model)
}

/// A small number that two sites of one story do not share: the digits at the end of the name.
fn number(site: &str) -> u16 {
    let digits = site.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    digits.parse::<u16>().unwrap_or(0) % 1000
}

/// Between -0.02 and 0.02.
fn coordinate(own: u16, index: usize) -> f32 {
    let mixed = index * 7 + usize::from(own) * 13;
    let small = u8::try_from(mixed % 41).unwrap_or(0);
    (f32::from(small) - 20.0) / 1000.0
}

/// A few examples, most of them scored as their class deserves.
fn tally(shape: MetricShape, own: u16) -> MetricTally {
    let mut tally = MetricTally::new(shape);
    for example in 0..20 + usize::from(own) {
        let label = example % shape.classes();
        let guessed = if example % 5 == 0 { (label + 1) % shape.classes() } else { label };
        let logits: Vec<f32> =
            (0..shape.classes()).map(|class| if class == guessed { 1.5 } else { -0.5 }).collect();
        if tally.record(&logits, label).is_err() {
            unreachable!("one logit for each class, and a label that is one of them");
        }
    }
    tally
}

/// Speaks with an agent until it closes the conversation.
///
/// # Errors
/// When the other side breaks the protocol or the pipe.
pub fn speak(mut from: impl Read, mut to: impl Write) -> Outcome<()> {
    let mut opened: Option<(Study, Open)> = None;
    // What a site contributes is the same each time, and a trainer's work is not to be measured.
    let mut made: Option<(Work, VectorFormat, Contribution)> = None;
    while let Some(frame) = read_frame::<ToTrainer>(&mut from)? {
        match (frame.message, &opened) {
            (Some(to_trainer::Message::Open(open)), _) => {
                opened = Some((proto::manifest::parse(&open.manifest_toml)?, open));
                made = None;
                // Counts that no one looks at; the agent keeps them to itself.
                let counts = Opened {
                    training_examples: 1,
                    training_patients: 1,
                    evaluation_examples: 1,
                    dataset_root: vec![0; 32],
                };
                say(&mut to, from_trainer::Message::Opened(counts))?;
            }
            (Some(to_trainer::Message::Task(task)), Some((study, open))) => {
                take_model(&mut from, &task)?;
                let work = i32::try_from(task.work).unwrap_or_default();
                let work = proto::decode::work(work)?;
                let (_, format, contribution) = match made.take().filter(|made| made.0 == work) {
                    Some(made) => made,
                    None => {
                        let sites = usize::try_from(open.sites)?;
                        let format = VectorFormat::for_work(study, sites, work)
                            .map_err(|fault| Trouble::new(fault.to_string()))?;
                        let contribution = contribution(&open.site, &format);
                        (work, format, contribution)
                    }
                };
                let packed = encoded(&open.site, &format, &contribution)?;
                made = Some((work, format, contribution));
                for part in parts(packed) {
                    say(&mut to, from_trainer::Message::Update(part))?;
                }
                say(&mut to, from_trainer::Message::Done(Done {}))?;
            }
            (Some(to_trainer::Message::Task(_)), None) => {
                return Err(Trouble::new("expected Open before a task"));
            }
            (Some(to_trainer::Message::Model(_)) | None, _) => {
                return Err(Trouble::new("expected Open or a task, found something else"));
            }
        }
    }
    Ok(())
}

fn say(to: &mut impl Write, message: from_trainer::Message) -> Outcome<()> {
    Ok(write_frame(to, &FromTrainer { message: Some(message) })?)
}

/// Reads the model that follows a task, and leaves it at that.
fn take_model(from: &mut impl Read, task: &Task) -> Outcome<()> {
    let mut missing = task.model_bytes;
    if missing > MAX_MODEL {
        return Err(Trouble::new(format!("expected a model of {MAX_MODEL} bytes at most")));
    }
    while missing > 0 {
        let frame: Option<ToTrainer> = read_frame(from)?;
        let Some(ToTrainer { message: Some(to_trainer::Message::Model(part)) }) = frame else {
            return Err(Trouble::new(format!("expected {missing} more bytes of a model")));
        };
        let came = u64::try_from(part.len())?;
        missing = missing.checked_sub(came).filter(|_| came > 0).ok_or_else(|| {
            Trouble::new(format!("expected {missing} more bytes of a model, found {came}"))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::Manifest;

    #[test]
    fn a_task_is_answered_with_an_update_of_the_right_length() {
        let manifest_toml = Manifest::linear(8, 8).text();
        let study = proto::manifest::parse(&manifest_toml).expect("a good manifest");
        let open = Open {
            manifest_toml,
            data: None,
            site: "site-2".to_owned(),
            pseudonym_key_file: String::new(),
            sites: 3,
        };
        let task = Task { round: 1, work: 2, model_bytes: 520 };
        let mut wire = Vec::new();
        for message in [
            to_trainer::Message::Open(open),
            to_trainer::Message::Task(task),
            to_trainer::Message::Model(vec![0; 500].into()),
            to_trainer::Message::Model(vec![0; 20].into()),
        ] {
            write_frame(&mut wire, &ToTrainer { message: Some(message) }).expect("memory");
        }
        let mut answer = Vec::new();
        speak(wire.as_slice(), &mut answer).expect("a good conversation");
        let mut from = answer.as_slice();
        let mut packed = Vec::new();
        let mut ended = false;
        while let Some(frame) = read_frame::<FromTrainer>(&mut from).expect("whole frames") {
            match frame.message.expect("a message") {
                from_trainer::Message::Update(part) => packed.extend(part),
                from_trainer::Message::Done(_) => ended = true,
                from_trainer::Message::Opened(_) => {}
                from_trainer::Message::Progress(_) | from_trainer::Message::Failed(_) => {
                    unreachable!("a stand-in neither dawdles nor fails")
                }
            }
        }
        assert!(ended);
        let format = VectorFormat::for_work(&study, 3, Work::TrainAndEvaluate).expect("a format");
        assert_eq!(packed.len(), format.packed_bytes());
    }

    #[test]
    fn no_two_sites_of_a_story_contribute_the_same() {
        let study = proto::manifest::parse(&Manifest::linear(8, 8).text()).expect("good");
        let mut seen = Vec::new();
        for site in ["site-1", "site-2", "site-3", "site-10", "site-20"] {
            let packed = update(&study, 5, Work::Train, site).expect("encodes").packed;
            assert!(!seen.contains(&packed), "{site}");
            seen.push(packed);
        }
    }
}
