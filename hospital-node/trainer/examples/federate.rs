//! Plays a study over local data in one process, without network or agents: each hospital's step,
//! through the fixed-point encoding, the accumulator and the server's optimiser. For choosing a
//! study's settings.
//!
//! `federate STUDY.toml SOURCE...` where a source is an NPZ file or a folder with `manifest.csv`.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use aggregation::evaluation::{MetricShape, MetricTally};
use aggregation::ids::RoundId;
use aggregation::strategy::{ServerState, apply};
use aggregation::study::Split;
use aggregation::vector::{Accumulator, Contribution, Total, VectorFormat, encode};
use hospital_trainer::backend;
use hospital_trainer::dataset::{Dataset, Look, SiteSecret, Source};
use hospital_trainer::evaluate::evaluate;
use hospital_trainer::preprocess::Preparation;
use hospital_trainer::step::Trainer;
use hospital_trainer::zoo::Network;
use rayon::prelude::*;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[expect(clippy::disallowed_methods, reason = "how long settings take is what is asked here")]
fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let study = arguments.next().ok_or("expected a study's manifest")?;
    let study =
        proto::manifest::parse(&std::fs::read_to_string(study)?).map_err(|e| e.to_string())?;
    let network = Network::new(study.model, &study.task, backend::device("auto")?);
    let secret = SiteSecret::new([1; 32]);
    let preparation = Preparation::new(&study.task);
    let how = Look {
        secret: &secret,
        classes: Some(&study.task.classes),
        preparation: Some(&preparation),
        memory: 4 << 30,
    };
    let mut hospitals = Vec::new();
    for path in arguments {
        let source = if path.ends_with(".npz") {
            Source::Npz { file: path.into() }
        } else {
            let manifest = Some(Path::new(&path).join("manifest.csv"));
            Source::Dicom { folder: path.into(), manifest }
        };
        hospitals.push(Dataset::open(&source, how)?.for_network(&network, how.room())?);
    }
    let mut out = std::io::stdout().lock();
    let mut model = study.layout().initial(study.training.seed);
    let mut state = ServerState::new(&study.training, model.len());
    let start = Instant::now();
    for number in 1..=study.last_round().get() {
        let round = RoundId::new(number)?;
        let work = study.work_in(round);
        let format = VectorFormat::for_work(&study, hospitals.len(), work)?;
        let encoded: Vec<_> = hospitals
            .par_iter()
            .enumerate()
            .map(|(index, data)| -> Result<_, Failure> {
                let held_out = match study.evaluation.split {
                    Split::Validation => &data.validation,
                    Split::Test => &data.test,
                };
                let metrics = work
                    .evaluates()
                    .then(|| evaluate(&study, &network, &model, held_out))
                    .transpose()?;
                let site = format!("hospital-{}", index + 1);
                let trainer = Trainer {
                    study: &study,
                    network: &network,
                    examples: &data.train,
                    site: &site,
                };
                let (weight, update) = if work.trains() {
                    let trained = trainer.train(round, &model, &mut |_| ())?;
                    (trained.examples, trained.update)
                } else {
                    (0, Vec::new())
                };
                Ok(encode(&format, &Contribution { weight, update, metrics })?)
            })
            .collect::<Result<_, _>>()?;
        let mut sum = Accumulator::new(&format);
        for update in &encoded {
            sum.add(&update.packed)?;
        }
        let saturated: u64 = encoded.iter().map(|update| update.saturated).sum();
        let total: Total = sum.finish()?;
        let offered = model.clone();
        if work.trains() {
            apply(&study.training, &mut state, &mut model, &total)?;
        }
        let Some(metrics) = total.metrics else { continue };
        let mut elsewhere = MetricTally::new(MetricShape::of(&study.task));
        for data in &hospitals {
            let other = match study.evaluation.split {
                Split::Validation => &data.test,
                Split::Test => &data.validation,
            };
            elsewhere.merge(&evaluate(&study, &network, &offered, other)?)?;
        }
        let figure = |figure: Option<f64>| figure.unwrap_or(f64::NAN);
        writeln!(
            out,
            "{number:>3}  loss {:.4}  auroc {:.4}  accuracy {:.4}  dice {:.4}  hausdorff95 {:.2}  \
             other split {:.4}  saturated {saturated}  {:.1} s",
            figure(metrics.loss()),
            figure(metrics.auroc()),
            figure(metrics.accuracy()),
            figure(metrics.dice()),
            figure(metrics.hausdorff_95()),
            figure(elsewhere.auroc().or(elsewhere.dice())),
            start.elapsed().as_secs_f64()
        )?;
    }
    Ok(())
}
