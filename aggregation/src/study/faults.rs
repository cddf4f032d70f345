//! What may stand in a study, and everything that does not belong, reported at once.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use crate::architecture::MAX_PARAMETERS;
use crate::study::{
    Augment, CohortRules, Fit, Local, LocalOptimizer, ServerOptimizer, Strategy, Study, StudyFault,
    Task, TaskKind, Training, Window,
};
use crate::units::{ClipNorm, Delta, Epsilon, OutOfRange, SamplingRate};
use crate::vector::MAX_SITES;

/// Greatest delta of a private study.
const MAX_DELTA: f64 = 1e-3;
/// Clipping norms of a private study.
const CLIPPING_NORMS: std::ops::RangeInclusive<f64> = 1e-6..=1e6;
/// Most rounds that a study may plan.
const MAX_ROUNDS: u32 = 100_000;
/// Most classes: each costs four kilobytes of lanes in an evaluation.
const MAX_CLASSES: usize = 256;
/// Longest name of a class, in bytes.
const MAX_CLASS_NAME: usize = 64;
/// Millimetres between the pixels of a resampled image: from slides under a lens to whole bodies.
const SPACINGS: std::ops::RangeInclusive<f64> = 1e-4..=100.0;
/// Most augmented views of one image.
const MAX_VIEWS: u16 = 64;
/// Longest wait of a round.
const MAX_DEADLINE: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Gathers faults.
struct Faults(Vec<StudyFault>);

impl Faults {
    /// Adds a fault unless `good`.
    fn need(&mut self, good: bool, key: &str, found: impl Display, allowed: &str) {
        if !good {
            self.0.push(StudyFault {
                key: key.to_owned(),
                found: found.to_string(),
                allowed: allowed.to_owned(),
            });
        }
    }

    /// A decay such as a momentum: 0 and above, below 1.
    fn decay(&mut self, value: f64, key: &str) {
        self.need((0.0..1.0).contains(&value), key, value, "a number from 0 to below 1");
    }

    /// A rate: above 0.
    fn rate(&mut self, value: f64, key: &str) {
        self.need(value > 0.0 && value <= 1e3, key, value, "a number above 0, at most 1000");
    }
}

pub(super) fn of(study: &Study) -> Vec<StudyFault> {
    let mut faults = Faults(Vec::new());
    let name = study.name.as_str();
    faults.need(
        crate::ids::HospitalId::new(name).is_ok(),
        "name",
        format_args!("{:?}", name.chars().take(80).collect::<String>()),
        "1 to 63 characters of a-z, 0-9 and '-', with no '-' at either end",
    );
    task(&mut faults, &study.task);
    let (segments, kind) = (study.model.segments(), study.task.kind);
    let gives = if segments { "gives each pixel a class" } else { "gives a whole image a class" };
    let allowed = match kind {
        TaskKind::Segmentation => "unet2d or unet3d for a segmentation",
        TaskKind::Classification | TaskKind::MultiLabel => {
            "any model but unet2d and unet3d for whole images"
        }
    };
    faults.need(
        segments == (kind == TaskKind::Segmentation),
        "model.arch",
        format_args!("{}, which {gives}", study.model),
        allowed,
    );
    let unfit = study.model.input_faults(&study.task.input);
    let fits = unfit.is_empty();
    faults.0.extend(unfit);
    if fits {
        let parameters = study.layout().parameters();
        faults.need(
            parameters <= MAX_PARAMETERS,
            "model.arch",
            format_args!("{} with {parameters} parameters", study.model),
            &format!("a model of at most {MAX_PARAMETERS} parameters"),
        );
    }
    training(&mut faults, &study.training);
    faults.need(
        study.model.can_augment() || !study.training.local.augment.changes(),
        "train.local.augment",
        "changes of images",
        &format!("false for {}", study.model),
    );
    privacy(&mut faults, study);
    cohort(&mut faults, &study.cohort);
    faults.0
}

fn privacy(faults: &mut Faults, study: &Study) {
    let gradients_of_patients = study.training.strategy == Strategy::DpFedSgd;
    let Some(rules) = study.privacy.rules() else {
        faults.need(
            !gradients_of_patients,
            "train.strategy",
            "dp-fedsgd",
            "fedavg or fedsgd in a study without privacy",
        );
        return;
    };
    faults.need(
        gradients_of_patients,
        "train.strategy",
        "a mean that is not clipped for each patient",
        "dp-fedsgd in a private study",
    );
    faults.need(
        !study.cohort.danger_unmasked,
        "cohort.danger_unmasked_updates",
        "true",
        "false in a private study",
    );
    let found = |result: Result<(), OutOfRange>, key: &str, faults: &mut Faults| {
        if let Err(bad) = result {
            faults.need(false, key, bad.found, bad.allowed);
        }
    };
    found(Epsilon::new(rules.epsilon).map(drop), "privacy.epsilon", faults);
    found(Delta::new(rules.delta).map(drop), "privacy.delta", faults);
    found(Epsilon::new(rules.solo_cap).map(drop), "privacy.solo_epsilon_cap", faults);
    found(ClipNorm::new(rules.clipping_norm).map(drop), "privacy.clipping_norm", faults);
    found(SamplingRate::new(rules.sampling_rate).map(drop), "privacy.sampling_rate", faults);
    // What is formally a promise but protects nobody, or is beyond what single precision keeps.
    faults.need(
        Delta::new(rules.delta).is_err() || rules.delta <= MAX_DELTA,
        "privacy.delta",
        rules.delta,
        &format!("at most {MAX_DELTA}"),
    );
    faults.need(
        ClipNorm::new(rules.clipping_norm).is_err()
            || CLIPPING_NORMS.contains(&rules.clipping_norm),
        "privacy.clipping_norm",
        rules.clipping_norm,
        &format!("{:e} to {:e}", CLIPPING_NORMS.start(), CLIPPING_NORMS.end()),
    );
    let patients = rules.patients;
    faults.need(patients >= 1, "privacy.patients", patients, "at least 1");
    faults.need(
        rules.batch() >= 1.0 || patients == 0 || SamplingRate::new(rules.sampling_rate).is_err(),
        "privacy.sampling_rate",
        format_args!("{} of {patients} patients", rules.sampling_rate),
        "a patient in each round at least",
    );
    let spare = rules.spare_rounds;
    faults.need(
        spare <= MAX_ROUNDS,
        "privacy.spare_rounds",
        spare,
        &format!("at most {MAX_ROUNDS}"),
    );
    let views = rules.views;
    faults.need(
        (1..=MAX_VIEWS).contains(&views),
        "privacy.augmentation_multiplicity",
        views,
        &format!("1 to {MAX_VIEWS}"),
    );
    faults.need(
        views <= 1 || study.training.local.augment.changes(),
        "privacy.augmentation_multiplicity",
        format_args!("{views} equal views"),
        "1, or train.local.augment = true, or what it names of flip, shift, rotation and intensity",
    );
    faults.need(
        study.evaluation.danger_exact || study.evaluation.every == 0,
        "evaluate.danger_exact_metrics",
        "false",
        "true, for scores are exact sums over held-out patients whom no epsilon covers; or every = 0",
    );
}

fn task(faults: &mut Faults, task: &Task) {
    let classes = task.classes.len();
    faults.need(
        (2..=MAX_CLASSES).contains(&classes),
        "task.classes",
        format_args!("{classes} classes"),
        &format!("2 to {MAX_CLASSES} classes"),
    );
    let mut seen = BTreeSet::new();
    for class in &task.classes {
        let shown = format!("{:?}", class.chars().take(80).collect::<String>());
        let printable = !class.trim().is_empty() && !class.chars().any(char::is_control);
        faults.need(
            printable && class.len() <= MAX_CLASS_NAME,
            "task.classes",
            &shown,
            &format!("printable names of 1 to {MAX_CLASS_NAME} bytes"),
        );
        faults.need(
            seen.insert(class),
            "task.classes",
            format_args!("{shown} twice"),
            "each name once",
        );
    }
    let weights = &task.class_weights;
    faults.need(
        weights.is_empty() || weights.len() == classes,
        "task.class_weights",
        format_args!("{} weights", weights.len()),
        &format!("one for each of the {classes} classes, or none"),
    );
    for weight in weights {
        faults.need(
            (1e-3..=1e3).contains(weight),
            "task.class_weights",
            weight,
            "numbers from 0.001 to 1000",
        );
    }
    let preprocess = &task.preprocess;
    match preprocess.window {
        Window::Full | Window::FromFile => {}
        Window::Values { low, high } => faults.need(
            low.is_finite() && high.is_finite() && low < high,
            "task.preprocess.window",
            format_args!("values {low} to {high}"),
            "two numbers, the lower first",
        ),
        Window::Percentile { low, high } => faults.need(
            0.0 <= low && low < high && high <= 100.0,
            "task.preprocess.window",
            format_args!("percentiles {low} to {high}"),
            "two percentiles, the lower first, from 0 to 100",
        ),
    }
    for between in preprocess.spacing.iter().flatten() {
        faults.need(
            SPACINGS.contains(between),
            "task.preprocess.spacing_mm",
            between,
            &format!("{} to {} millimetres", SPACINGS.start(), SPACINGS.end()),
        );
    }
    faults.need(
        preprocess.spacing.is_none() || preprocess.fit == Fit::Centre,
        "task.preprocess.fit",
        "a fit that changes how far pixels are apart",
        "\"centre\" with spacing_mm",
    );
    let mean = preprocess.mean;
    faults.need(
        mean.is_finite() && mean.abs() <= 1e6,
        "task.preprocess.mean",
        mean,
        "a number of at most a million",
    );
    let sd = preprocess.sd;
    faults.need(
        (1e-6..=1e6).contains(&sd),
        "task.preprocess.sd",
        sd,
        "a number from 0.000001 to 1000000",
    );
}

fn training(faults: &mut Faults, training: &Training) {
    let rounds = training.rounds;
    faults.need(
        (1..=MAX_ROUNDS).contains(&rounds),
        "train.rounds",
        rounds,
        &format!("1 to {MAX_ROUNDS}"),
    );
    match training.optimizer {
        ServerOptimizer::Sgd => {}
        ServerOptimizer::Momentum { momentum } => faults.decay(momentum, "train.momentum"),
        ServerOptimizer::Adam { beta1, beta2, epsilon } => {
            faults.decay(beta1, "train.beta1");
            faults.decay(beta2, "train.beta2");
            faults.need(
                epsilon > 0.0 && epsilon <= 1.0,
                "train.epsilon",
                epsilon,
                "a number above 0, at most 1",
            );
        }
    }
    faults.rate(training.learning_rate, "train.learning_rate");
    faults.decay(training.weight_average, "train.weight_average");
    local(faults, training.strategy, &training.local);
    let range = training.update_range;
    faults.need(
        (1e-9..=1e9).contains(&range),
        "train.update_range",
        range,
        "a number from 1e-9 to 1e9",
    );
    let cap = training.weight_cap;
    faults.need((1..=1 << 24).contains(&cap), "train.weight_cap", cap, "1 to 16777216 examples");
}

fn local(faults: &mut Faults, strategy: Strategy, local: &Local) {
    let batch = local.batch_size;
    match strategy {
        Strategy::FedAvg => {
            let epochs = local.epochs;
            faults.need((1..=1_000).contains(&epochs), "train.local.epochs", epochs, "1 to 1000");
            faults.need(
                (1..=65_536).contains(&batch),
                "train.local.batch_size",
                batch,
                "1 to 65536",
            );
        }
        // One gradient: 0 stands for all examples, and there are no epochs to count.
        Strategy::FedSgd | Strategy::DpFedSgd => {}
    }
    faults.rate(local.learning_rate, "train.local.learning_rate");
    match local.optimizer {
        LocalOptimizer::Sgd | LocalOptimizer::Adam => {}
        LocalOptimizer::Momentum { momentum } => faults.decay(momentum, "train.local.momentum"),
    }
    let Augment { shift, rotate_degrees, intensity_scale, intensity_shift, .. } = local.augment;
    for (key, most, greatest) in [
        ("train.local.augment.shift", shift, 0.5),
        ("train.local.augment.rotate_degrees", rotate_degrees, 45.0),
        ("train.local.augment.intensity_scale", intensity_scale, 0.9),
        ("train.local.augment.intensity_shift", intensity_shift, 10.0),
    ] {
        let allowed = format!("a number from 0 to {greatest}");
        faults.need((0.0..=greatest).contains(&most), key, most, &allowed);
    }
    let decay = local.weight_decay;
    faults.need(
        (0.0..=1.0).contains(&decay),
        "train.local.weight_decay",
        decay,
        "a number from 0 to 1",
    );
}

fn cohort(faults: &mut Faults, cohort: &CohortRules) {
    let mut seen = BTreeSet::new();
    for site in &cohort.sites {
        faults.need(
            seen.insert(site),
            "cohort.sites",
            format_args!("{site} twice"),
            "each site once",
        );
    }
    let sites = cohort.sites.len();
    faults.need(
        sites <= MAX_SITES,
        "cohort.sites",
        format_args!("{sites} sites"),
        &format!("at most {MAX_SITES} sites"),
    );
    let quorum = cohort.quorum;
    faults.need(quorum >= 1, "cohort.quorum", quorum, "at least 1");
    let least = cohort.colluding.saturating_add(2).max(3);
    faults.need(
        quorum == 0 || sites > 0 || cohort.danger_unmasked || quorum >= least,
        "cohort.quorum",
        quorum,
        &format!("at least {least}, with {} that may collude", cohort.colluding),
    );
    // Without a list the sites are known at the proposal; the charter checks the quorum against them.
    faults.need(
        sites == 0 || usize::from(quorum) <= sites,
        "cohort.quorum",
        format_args!("{quorum} of {sites} sites"),
        "at most the number of sites",
    );
    if (1..=sites).contains(&usize::from(quorum))
        && let Err(fault) = cohort.thresholds(sites)
    {
        faults.0.push(fault);
    }
    for (key, wait) in [
        ("cohort.round_deadline", cohort.round_deadline),
        ("cohort.upload_deadline", cohort.upload_deadline),
    ] {
        faults.need(
            (Duration::from_millis(1)..=MAX_DEADLINE).contains(&wait),
            key,
            format_args!("{wait:?}"),
            "1 millisecond to 30 days",
        );
    }
    faults.need(
        cohort.grace <= MAX_DEADLINE,
        "cohort.grace",
        format_args!("{:?}", cohort.grace),
        "at most 30 days",
    );
}

#[cfg(test)]
mod tests;
