//! One study from its first weights to its last, on one machine: every hospital's step, the sum of
//! their lanes, the server's optimiser, as in real rounds.

use std::cell::OnceCell;
use std::path::Path;

use aggregation::ids::RoundId;
use aggregation::message::Work;
use aggregation::privacy::noise::NoiseSeed;
use aggregation::privacy::plan::Plan;
use aggregation::privacy::sampling::{MicroBatches, Patients, SamplingSeed};
use aggregation::secret::Secret;
use aggregation::strategy::{ServerState, apply};
use aggregation::study::Study;
use aggregation::vector::{Accumulator, Total, VectorFormat, encode_noised};
use harness::{Outcome, Trouble};
use hospital_trainer::backend;
use hospital_trainer::dataset::answers::Answer;
use hospital_trainer::dataset::shelf::Room;
use hospital_trainer::dataset::{Dataset, Examples, Look, SiteSecret, Source};
use hospital_trainer::noised::{NoisedStep, Seeds};
use hospital_trainer::preprocess::Preparation;
use hospital_trainer::split::split;
use hospital_trainer::step::Trainer;
use hospital_trainer::zoo::Network;

use super::recipe::{Recipe, Setting};

/// The failure probability of every private run.
const DELTA: f64 = 1e-5;

/// The images as they are prepared, and as a network with a fixed front takes them.
pub(crate) struct Data {
    prepared: Places,
    through_front: OnceCell<Places>,
    quorum: u16,
}

/// The images, in one place and split among hospitals.
#[derive(Clone)]
struct Places {
    pooled: Dataset,
    hospitals: Vec<Dataset>,
}

/// Bytes of images that may be held in memory.
const MEMORY: u64 = 4 << 30;

/// How a model did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scored {
    pub(crate) auroc: f64,
    pub(crate) accuracy: f64,
    pub(crate) spent: Option<f64>,
    pub(crate) noise: Option<f64>,
}

impl Data {
    /// Reads the file and splits it.
    pub(super) fn open(
        file: &Path,
        hospitals: usize,
        quorum: u16,
        seed: u64,
        alpha: f64,
    ) -> Outcome<Self> {
        let study =
            study(Setting::Pooled, 1.0, &Recipe::of(Setting::Pooled, 1.0), 1, quorum, seed)?;
        let secret = SiteSecret::new([1; 32]);
        let preparation = Preparation::new(&study.task);
        let how = Look {
            secret: &secret,
            classes: Some(&study.task.classes),
            preparation: Some(&preparation),
            memory: MEMORY,
        };
        let open = |file: &Path| {
            Dataset::open(&Source::Npz { file: file.to_owned() }, how)
                .map_err(|error| Trouble::new(error.to_string()))
        };
        let folder = tempfile::tempdir()?;
        let parts = split(file, hospitals, seed, alpha, folder.path())
            .map_err(|error| Trouble::new(error.to_string()))?;
        let hospitals = parts.files.iter().map(|part| open(part)).collect::<Result<_, _>>()?;
        let prepared = Places { pooled: open(file)?, hospitals };
        Ok(Self { prepared, through_front: OnceCell::new(), quorum })
    }

    /// The images as this network takes them; all networks with a front share one.
    fn of(&self, network: &Network) -> Outcome<&Places> {
        if network.front().is_none() {
            return Ok(&self.prepared);
        }
        if let Some(places) = self.through_front.get() {
            return Ok(places);
        }
        let through = |data: Dataset| {
            data.for_network(network, Room { memory: MEMORY, disk: None })
                .map_err(|error| Trouble::new(error.to_string()))
        };
        let Places { pooled, hospitals } = self.prepared.clone();
        let hospitals = hospitals.into_iter().map(through).collect::<Result<_, _>>()?;
        let places = Places { pooled: through(pooled)?, hospitals };
        Ok(self.through_front.get_or_init(|| places))
    }
}

/// The study of a setting, as an operator would write it.
fn study(
    setting: Setting,
    epsilon: f64,
    recipe: &Recipe,
    patients: usize,
    quorum: u16,
    seed: u64,
) -> Outcome<Study> {
    let Recipe {
        arch,
        rounds,
        optimizer,
        learning_rate,
        weight_average,
        sampling_rate,
        clipping_norm,
        views,
        augment,
    } = recipe;
    let (train, privacy) = match setting {
        Setting::Pooled => (
            format!(
                "strategy = \"fedavg\"\n[train.local]\nepochs = 1\nbatch_size = 32\naugment = {augment}\n\
                 optimizer = \"{optimizer}\"\nlearning_rate = {learning_rate:?}\n"
            ),
            "mode = \"danger_no_privacy\"\n".to_owned(),
        ),
        Setting::PooledDp | Setting::Distributed | Setting::Silo => {
            let mode = if setting == Setting::Distributed { "distributed" } else { "silo" };
            (
                format!(
                    "strategy = \"dp-fedsgd\"\noptimizer = \"{optimizer}\"\n\
                     learning_rate = {learning_rate:?}\n[train.local]\naugment = {augment}\n"
                ),
                format!(
                    "mode = \"{mode}\"\nepsilon = {epsilon:?}\ndelta = {DELTA:?}\naccountant = \"pld\"\n\
                     solo_epsilon_cap = 1e6\nclipping_norm = {clipping_norm:?}\n\
                     sampling_rate = {sampling_rate:?}\npatients = {patients}\nspare_rounds = 0\n\
                     augmentation_multiplicity = {views}\ndanger_image_level_privacy = true\n"
                ),
            )
        }
    };
    let manifest = format!(
        "name = \"utility\"\n[task]\nkind = \"classification\"\n\
         classes = [\"normal\", \"pneumonia\"]\n\
         input = {{ channels = 1, height = 28, width = 28 }}\n\
         preprocess = {{ window = \"full\", mean = 0.57, sd = 0.17 }}\n[model]\narch = \"{arch}\"\n\
         [train]\nrounds = {rounds}\nseed = {seed}\nweight_average = {weight_average:?}\n{train}\
         [privacy]\n{privacy}[cohort]\nquorum = {quorum}\n[evaluate]\nevery = 0\n"
    );
    proto::manifest::parse(&manifest).map_err(|faults| Trouble::new(faults.to_string()))
}

/// Trains in a setting and scores the last model.
pub(super) fn play(
    setting: Setting,
    epsilon: f64,
    recipe: &Recipe,
    data: &Data,
    seed: u64,
    validation: bool,
) -> Outcome<Scored> {
    let hospitals = data.prepared.hospitals.len();
    let patients = data.prepared.pooled.train.len();
    let study = study(setting, epsilon, recipe, patients, data.quorum, seed)?;
    let device = backend::device("auto").map_err(|error| Trouble::new(error.to_string()))?;
    let network = Network::new(study.model, &study.task, device);
    let data = data.of(&network)?;
    let plan = study.noise_plan(hospitals).map_err(|fault| Trouble::new(fault.to_string()))?;
    let sites: Vec<&Dataset> = match setting {
        Setting::Pooled | Setting::PooledDp => vec![&data.pooled],
        Setting::Distributed | Setting::Silo => data.hospitals.iter().collect(),
    };
    let mut model = study.layout().initial(study.training.seed);
    let mut state = ServerState::new(&study.training, model.len());
    for number in 1..=study.training.rounds {
        let round = RoundId::new(number).map_err(|error| Trouble::new(error.to_string()))?;
        let total = match &plan {
            Some(plan) => noised(&study, plan, &network, &sites, round, &model, seed)?,
            None => averaged(&study, &network, &sites, round, &model)?,
        };
        apply(&study.training, &mut state, &mut model, &total)
            .map_err(|error| Trouble::new(error.to_string()))?;
    }
    let held_out = if validation { &data.pooled.validation } else { &data.pooled.test };
    let (auroc, accuracy) = score(&network, &model, held_out)?;
    let spent = plan
        .zip(study.privacy.rules())
        .map(|(plan, rules)| plan.epsilon(rules.accountant).planned.get());
    Ok(Scored { auroc, accuracy, spent, noise: plan.map(|plan| plan.noise().get()) })
}

fn averaged(
    study: &Study,
    network: &Network,
    sites: &[&Dataset],
    round: RoundId,
    model: &[f32],
) -> Outcome<Total> {
    let [site] = sites else { return Err(Trouble::new("expected pooled data")) };
    let trainer = Trainer { study, network, examples: &site.train, site: "pooled" };
    let trained = trainer
        .train(round, model, &mut |_| ())
        .map_err(|error| Trouble::new(error.to_string()))?;
    let update = trained.update.into_iter().map(f64::from).collect();
    Ok(Total { weight: trained.examples, update, metrics: None })
}

fn noised(
    study: &Study,
    plan: &Plan,
    network: &Network,
    sites: &[&Dataset],
    round: RoundId,
    model: &[f32],
    seed: u64,
) -> Outcome<Total> {
    let provisioned = usize::from(plan.wanted().thresholds.provisioned());
    let format = VectorFormat::planned(study, provisioned, Work::Train, Some(plan))
        .map_err(|fault| Trouble::new(fault.to_string()))?;
    let mut sum = Accumulator::new(&format);
    for (index, site) in sites.iter().enumerate() {
        let secret = |what: &str| {
            let mut hash = blake3::Hasher::new();
            hash.update(what.as_bytes());
            hash.update(&seed.to_le_bytes());
            hash.update(&round.get().to_le_bytes());
            hash.update(&(index as u64).to_le_bytes());
            Secret::new(*hash.finalize().as_bytes())
        };
        let keys = (0..site.train.len()).map(|image| Some((image as u64).to_le_bytes()));
        let patients = Patients::group(keys).map_err(|error| Trouble::new(error.to_string()))?;
        let here = u32::try_from(sites.len()).unwrap_or(1);
        let micro_batches =
            MicroBatches::new(Secret::new([2; 32]), plan.wanted().patients.div_ceil(here));
        let step = NoisedStep {
            study,
            plan,
            network,
            examples: &site.train,
            patients: &patients,
            micro_batches: &micro_batches,
        };
        let seeds = Seeds {
            sampling: SamplingSeed::new(secret("sampling")),
            noise: NoiseSeed::new(secret("noise")),
            augmentation: secret("augmentation"),
        };
        let lanes = step.lanes(seeds, model).map_err(|error| Trouble::new(error.to_string()))?;
        let packed = encode_noised(&format, &lanes, None)
            .map_err(|error| Trouble::new(error.to_string()))?;
        sum.add(&packed).map_err(|error| Trouble::new(error.to_string()))?;
    }
    sum.finish().map_err(|error| Trouble::new(error.to_string()))
}

/// The exact area under the curve, and the accuracy.
fn score(network: &Network, model: &[f32], examples: &Examples) -> Outcome<(f64, f64)> {
    let mut scored = Vec::with_capacity(examples.len());
    let mut correct = 0_u32;
    for first in (0..examples.len()).step_by(128) {
        let (images, labels) = examples.several(first..examples.len().min(first + 128))?;
        let logits =
            network.logits(model, &images).map_err(|error| Trouble::new(error.to_string()))?;
        for (row, label) in logits.chunks_exact(2).zip(labels) {
            let margin = row[1] - row[0];
            let positive = label == Answer::Class(1);
            correct += u32::from((margin > 0.0) == positive);
            scored.push((margin, positive));
        }
    }
    let count = |positive: bool| scored.iter().filter(|(_, is)| *is == positive).count();
    let pairs = count(true) * count(false);
    if pairs == 0 {
        return Err(Trouble::new("expected images of both classes to score, found one class"));
    }
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Pairs in order count twice, ties once.
    let (mut twice, mut below) = (0, 0);
    for tied in scored.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        let positives = tied.iter().filter(|(_, is)| *is).count();
        let negatives = tied.len() - positives;
        twice += positives * (2 * below + negatives);
        below += negatives;
    }
    #[expect(clippy::cast_precision_loss, reason = "pairs of a few thousand images")]
    let auroc = twice as f64 / pairs as f64 / 2.0;
    let of = u32::try_from(examples.len()).map_or(1.0, f64::from);
    Ok((auroc, f64::from(correct) / of))
}
