//! A study as people write it: TOML, read strictly, every fault in one report.
//!
//! The text travels verbatim, so that a hospital reads what the operator wrote; each end derives
//! the [`Study`] and its digest from the text by itself.

mod table;

use std::fmt;
use std::time::Duration;

use aggregation::architecture::Architecture;
use aggregation::ids::HospitalId;
use aggregation::privacy::accountant::Accountant;
use aggregation::privacy::charge::Mode;
use aggregation::study::{
    Augment, CohortRules, EvaluationRules, Fit, InitialModel, InputShape, Local, LocalOptimizer,
    Normalise, Preprocess, Privacy, PrivacyRules, ServerOptimizer, Split, Strategy, Study,
    StudyFault, Task, TaskKind, Training, Unit, Window,
};

use self::table::{Section, fault};
use crate::limits::MAX_MANIFEST;

/// Everything that is wrong with a manifest; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFaults(pub Vec<StudyFault>);

impl fmt::Display for ManifestFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestFaults {}

/// Reads a manifest.
///
/// # Errors
/// Every fault at once: syntax, unknown and missing fields, wrong types, values out of range, and
/// what does not go together.
pub fn parse(text: &str) -> Result<Study, ManifestFaults> {
    if text.len() > MAX_MANIFEST {
        let found = format!("{} bytes", text.len());
        let allowed = format!("at most {MAX_MANIFEST} bytes");
        return Err(ManifestFaults(vec![fault("(the whole file)", &found, &allowed)]));
    }
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        let found = format!("line {line}: {}", error.message().replace('\n', " "));
        ManifestFaults(vec![fault("(the whole file)", &found, "TOML")])
    })?;
    let mut faults = Vec::new();
    let study = study(&table, &mut faults);
    if let Some(study) = &study {
        faults.extend(study.faults());
    }
    match study {
        Some(study) if faults.is_empty() => Ok(study),
        _ => Err(ManifestFaults(faults)),
    }
}

type Faults = Vec<StudyFault>;

fn study(table: &toml::Table, faults: &mut Faults) -> Option<Study> {
    let mut root = Section::root(table);
    let name = root.text("name", None, faults);
    let task = task(&mut root, faults);
    let model = model(&mut root, faults);
    let training = training(&mut root, faults);
    let rounds = training.as_ref().map_or(0, |training| training.rounds);
    let privacy = privacy(&mut root, rounds, faults);
    let cohort = cohort(&mut root, faults);
    let private = privacy.is_some_and(|privacy| privacy.rules().is_some());
    let kind = task.as_ref().map(|task| task.kind);
    let evaluation = evaluation(&mut root, private, kind, faults);
    root.finish(faults);
    Some(Study {
        name: name?,
        task: task?,
        model: model?,
        training: training?,
        privacy: privacy?,
        cohort: cohort?,
        evaluation: evaluation?,
    })
}

fn task(root: &mut Section<'_>, faults: &mut Faults) -> Option<Task> {
    let mut task = root.table("task", "task", faults);
    let kinds = TaskKind::ALL.map(|kind| (kind.name(), kind));
    let kind = task.word("kind", None, &kinds, faults);
    let classes = task.texts("classes", None, faults);
    let class_weights = task.numbers("class_weights", Some(Vec::new()), faults);
    let mut input = task.table("input", "task.input", faults);
    let channels = input.whole("channels", None, faults);
    let depth = input.whole("depth", Some(1), faults);
    let height = input.whole("height", None, faults);
    let width = input.whole("width", None, faults);
    input.finish(faults);
    let mut prepare = task.table("preprocess", "task.preprocess", faults);
    let window = prepare.word(
        "window",
        Some(Shape::FromFile),
        &[
            ("from-file", Shape::FromFile),
            ("full", Shape::Full),
            ("percentile", Shape::Percentile),
            ("values", Shape::Values),
            // In Hounsfield units, as reading rooms set them.
            ("ct-lung", Shape::Preset(-1350.0, 150.0)),
            ("ct-soft-tissue", Shape::Preset(-160.0, 240.0)),
            ("ct-mediastinum", Shape::Preset(-125.0, 225.0)),
            ("ct-bone", Shape::Preset(-450.0, 1050.0)),
            ("ct-brain", Shape::Preset(0.0, 80.0)),
        ],
        faults,
    );
    let (low, high) = match window {
        Some(Shape::Percentile) => {
            (prepare.number("low", Some(1.0), faults), prepare.number("high", Some(99.0), faults))
        }
        Some(Shape::Values) => {
            (prepare.number("low", None, faults), prepare.number("high", None, faults))
        }
        Some(Shape::Preset(low, high)) => (Some(low), Some(high)),
        Some(Shape::FromFile | Shape::Full) | None => (Some(0.0), Some(0.0)),
    };
    let spacing = spacing(&mut prepare, depth, faults);
    let fits = [
        ("stretch", Fit::Stretch),
        ("crop", Fit::Crop),
        ("pad", Fit::Pad),
        ("centre", Fit::Centre),
    ];
    let usual = if matches!(spacing, Some(Some(_))) { Fit::Centre } else { Fit::Stretch };
    let fit = prepare.word("fit", Some(usual), &fits, faults);
    let normalise = prepare.word(
        "normalise",
        Some(Normalise::Fixed),
        &[("fixed", Normalise::Fixed), ("image", Normalise::Image)],
        faults,
    );
    // An image's own mean leaves nothing for the study's to do.
    let (mean, sd) = match normalise {
        Some(Normalise::Image) => (Some(0.0), Some(1.0)),
        Some(Normalise::Fixed) | None => {
            (prepare.number("mean", Some(0.5), faults), prepare.number("sd", Some(0.25), faults))
        }
    };
    prepare.finish(faults);
    task.finish(faults);
    Some(Task {
        kind: kind?,
        classes: classes?,
        class_weights: class_weights?,
        input: InputShape { channels: channels?, depth: depth?, height: height?, width: width? },
        preprocess: Preprocess {
            window: match window? {
                Shape::FromFile => Window::FromFile,
                Shape::Full => Window::Full,
                Shape::Percentile => Window::Percentile { low: low?, high: high? },
                Shape::Values | Shape::Preset(..) => Window::Values { low: low?, high: high? },
            },
            spacing: spacing?,
            fit: fit?,
            normalise: normalise?,
            mean: single(mean?),
            sd: single(sd?),
        },
    })
}

/// Millimetres between pixels along the sides that the input has, the deepest first.
fn spacing(
    prepare: &mut Section<'_>,
    depth: Option<u16>,
    faults: &mut Faults,
) -> Option<Option<[f64; 3]>> {
    let key = prepare.name("spacing_mm");
    match (depth, prepare.numbers("spacing_mm", Some(Vec::new()), faults)?.as_slice()) {
        (_, []) => Some(None),
        (Some(1), &[height, width]) => Some(Some([1.0, height, width])),
        (Some(2..), &[depth, height, width]) => Some(Some([depth, height, width])),
        (depth, numbers) => {
            let allowed = match depth {
                Some(1) => "two numbers, for height and width",
                Some(_) | None => "three numbers, for depth, height and width",
            };
            faults.push(fault(&key, &format!("{} numbers", numbers.len()), allowed));
            None
        }
    }
}

#[derive(Clone, Copy)]
enum Shape {
    FromFile,
    Full,
    Percentile,
    Values,
    Preset(f64, f64),
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a normalisation constant needs no more than single precision; the study's own check refuses what overflows"
)]
fn single(number: f64) -> f32 {
    number as f32
}

fn model(root: &mut Section<'_>, faults: &mut Faults) -> Option<Architecture> {
    let words: Vec<_> = Architecture::ALL.iter().map(|arch| (arch.name(), *arch)).collect();
    let mut model = root.table("model", "model", faults);
    let arch = model.word("arch", None, &words, faults);
    model.finish(faults);
    arch
}

fn training(root: &mut Section<'_>, faults: &mut Faults) -> Option<Training> {
    let mut train = root.table("train", "train", faults);
    let rounds = train.whole("rounds", None, faults);
    let strategy = train.word(
        "strategy",
        None,
        &[
            ("fedavg", Strategy::FedAvg),
            ("fedsgd", Strategy::FedSgd),
            ("dp-fedsgd", Strategy::DpFedSgd),
        ],
        faults,
    );
    let optimizer = server_optimizer(&mut train, faults);
    // FedAvg with a server step of 1 is the plain average; a gradient has no such natural step.
    let learning_rate = match strategy {
        Some(Strategy::FedAvg) => train.number("learning_rate", Some(1.0), faults),
        Some(Strategy::FedSgd | Strategy::DpFedSgd) | None => {
            train.number("learning_rate", None, faults)
        }
    };
    let seed = train.whole("seed", Some(0_u64), faults);
    let weight_average = train.number("weight_average", Some(0.0), faults);
    let (update_range, weight_cap) = match strategy {
        // The grid of a private study follows from its noise, and nobody tells a weight.
        Some(Strategy::DpFedSgd) => (Some(1.0), Some(Training::DEFAULT_WEIGHT_CAP)),
        Some(Strategy::FedAvg | Strategy::FedSgd) | None => (
            train.number("update_range", Some(1.0), faults),
            train.whole("weight_cap", Some(Training::DEFAULT_WEIGHT_CAP), faults),
        ),
    };
    let initial = initial_model(&mut train, faults);
    let local = local(&mut train, strategy, faults);
    train.finish(faults);
    Some(Training {
        rounds: rounds?,
        strategy: strategy?,
        optimizer: optimizer?,
        learning_rate: learning_rate?,
        seed: seed?,
        weight_average: weight_average?,
        local: local?,
        update_range: update_range?,
        weight_cap: weight_cap?,
        initial: initial?,
    })
}

fn initial_model(train: &mut Section<'_>, faults: &mut Faults) -> Option<InitialModel> {
    let key = train.name("initial");
    let text = train.text("initial", Some("seeded"), faults)?;
    if text == "seeded" {
        return Some(InitialModel::Seeded);
    }
    let digest = text.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
    if digest.is_none() {
        let allowed = "\"seeded\" or \"sha256:\" and the 64 hex digits of a safetensors file";
        faults.push(fault(&key, &format!("{text:?}"), allowed));
    }
    digest.map(InitialModel::File)
}

#[derive(Clone, Copy, PartialEq)]
enum Optimizer {
    Sgd,
    Momentum,
    Adam,
}

const OPTIMIZERS: [(&str, Optimizer); 3] =
    [("sgd", Optimizer::Sgd), ("momentum", Optimizer::Momentum), ("adam", Optimizer::Adam)];

fn server_optimizer(train: &mut Section<'_>, faults: &mut Faults) -> Option<ServerOptimizer> {
    match train.word("optimizer", Some(Optimizer::Sgd), &OPTIMIZERS, faults)? {
        Optimizer::Sgd => Some(ServerOptimizer::Sgd),
        Optimizer::Momentum => Some(ServerOptimizer::Momentum {
            momentum: train.number("momentum", Some(0.9), faults)?,
        }),
        Optimizer::Adam => {
            let beta1 = train.number("beta1", Some(0.9), faults);
            let beta2 = train.number("beta2", Some(0.999), faults);
            let epsilon = train.number("adam_epsilon", Some(1e-8), faults);
            Some(ServerOptimizer::Adam { beta1: beta1?, beta2: beta2?, epsilon: epsilon? })
        }
    }
}

fn local(
    train: &mut Section<'_>,
    strategy: Option<Strategy>,
    faults: &mut Faults,
) -> Option<Local> {
    let mut local = train.table("local", "train.local", faults);
    // One FedSGD step takes a gradient and nothing else: asking for more is a misunderstanding.
    let gradient_only = matches!(strategy, Some(Strategy::FedSgd | Strategy::DpFedSgd));
    let augment = augment(&mut local, faults);
    // In a private study coins are tossed for patients, and decay would add what is not clipped.
    let (batch_size, weight_decay) = if strategy == Some(Strategy::DpFedSgd) {
        (Some(0), Some(0.0))
    } else {
        (
            local.whole("batch_size", Some(if gradient_only { 0 } else { 32 }), faults),
            local.number("weight_decay", Some(0.0), faults),
        )
    };
    let (epochs, learning_rate, optimizer) = if gradient_only {
        (Some(1), Some(1.0), Some(LocalOptimizer::Sgd))
    } else {
        let epochs = local.whole("epochs", Some(1), faults);
        let learning_rate = local.number("learning_rate", None, faults);
        let optimizer = match local.word("optimizer", Some(Optimizer::Sgd), &OPTIMIZERS, faults) {
            Some(Optimizer::Sgd) => Some(LocalOptimizer::Sgd),
            Some(Optimizer::Momentum) => local
                .number("momentum", Some(0.9), faults)
                .map(|momentum| LocalOptimizer::Momentum { momentum }),
            Some(Optimizer::Adam) => Some(LocalOptimizer::Adam),
            None => None,
        };
        (epochs, learning_rate, optimizer)
    };
    local.finish(faults);
    Some(Local {
        epochs: epochs?,
        batch_size: batch_size?,
        learning_rate: learning_rate?,
        optimizer: optimizer?,
        weight_decay: weight_decay?,
        augment: augment?,
    })
}

/// What is changed and by how much; or just that it is.
fn augment(local: &mut Section<'_>, faults: &mut Faults) -> Option<Augment> {
    if !local.is_table("augment") {
        let usual = local.flag("augment", Some(false), faults)?;
        return Some(if usual { Augment::USUAL } else { Augment::NONE });
    }
    let mut augment = local.table("augment", "train.local.augment", faults);
    let flip = augment.flag("flip", Some(false), faults);
    let shift = augment.number("shift", Some(0.0), faults);
    let rotate_degrees = augment.number("rotate_degrees", Some(0.0), faults);
    let intensity_scale = augment.number("intensity_scale", Some(0.0), faults);
    let intensity_shift = augment.number("intensity_shift", Some(0.0), faults);
    augment.finish(faults);
    Some(Augment {
        flip: flip?,
        shift: shift?,
        rotate_degrees: rotate_degrees?,
        intensity_scale: intensity_scale?,
        intensity_shift: intensity_shift?,
    })
}

/// `rounds` are the study's.
fn privacy(root: &mut Section<'_>, rounds: u32, faults: &mut Faults) -> Option<Privacy> {
    let mut privacy = root.table("privacy", "privacy", faults);
    let modes = [
        ("distributed", Some(Mode::Distributed)),
        ("silo", Some(Mode::Silo)),
        ("danger_no_privacy", None),
    ];
    let Some(mode) = privacy.word("mode", None, &modes, faults)? else {
        privacy.finish(faults);
        return Some(Privacy::DangerNone);
    };
    let epsilon = privacy.number("epsilon", None, faults);
    let delta = privacy.number("delta", Some(1e-5), faults);
    let accountants = [Accountant::Rdp, Accountant::Pld].map(|known| (known.name(), known));
    let accountant = privacy.word("accountant", Some(Accountant::Rdp), &accountants, faults);
    let solo_cap = privacy.number("solo_epsilon_cap", Some(20.0), faults);
    let clipping_norm = privacy.number("clipping_norm", Some(1.0), faults);
    let sampling_rate = privacy.number("sampling_rate", None, faults);
    let patients = privacy.whole("patients", None, faults);
    let spare = Some(PrivacyRules::spare_rounds_of(rounds));
    let spare_rounds = privacy.whole("spare_rounds", spare, faults);
    let views = privacy.whole("augmentation_multiplicity", Some(1), faults);
    let images = privacy.flag("danger_image_level_privacy", Some(false), faults);
    privacy.finish(faults);
    Some(Privacy::Patients(PrivacyRules {
        mode,
        unit: if images? { Unit::DangerImage } else { Unit::Patient },
        epsilon: epsilon?,
        delta: delta?,
        accountant: accountant?,
        solo_cap: solo_cap?,
        clipping_norm: clipping_norm?,
        sampling_rate: sampling_rate?,
        patients: patients?,
        spare_rounds: spare_rounds?,
        views: views?,
    }))
}

fn cohort(root: &mut Section<'_>, faults: &mut Faults) -> Option<CohortRules> {
    let mut cohort = root.table("cohort", "cohort", faults);
    let names = cohort.texts("sites", Some(Vec::new()), faults);
    let quorum = cohort.whole("quorum", None, faults);
    let colluding = cohort.whole("tolerate_colluding", Some(1), faults);
    let unmasked = cohort.flag("danger_unmasked_updates", Some(false), faults);
    let round = cohort.duration("round_deadline", Some(Duration::from_mins(30)), faults);
    let grace = cohort.duration("grace", Some(Duration::from_secs(10)), faults);
    let upload = cohort.duration("upload_deadline", Some(Duration::from_mins(5)), faults);
    let key = cohort.name("sites");
    cohort.finish(faults);
    let mut sites = Vec::new();
    for name in names? {
        match HospitalId::new(&name) {
            Ok(site) => sites.push(site),
            Err(error) => faults.push(fault(&key, &format!("{name:?}"), &error.to_string())),
        }
    }
    // The digest must not depend on the order in which someone wrote them down.
    sites.sort();
    Some(CohortRules {
        sites,
        quorum: quorum?,
        colluding: colluding?,
        danger_unmasked: unmasked?,
        round_deadline: round?,
        grace: grace?,
        upload_deadline: upload?,
    })
}

fn evaluation(
    root: &mut Section<'_>,
    private: bool,
    kind: Option<TaskKind>,
    faults: &mut Faults,
) -> Option<EvaluationRules> {
    let mut evaluate = root.table("evaluate", "evaluate", faults);
    if !evaluate.present() {
        let every = if private { 0 } else { 1 };
        return Some(EvaluationRules { every, split: Split::Validation, danger_exact: false });
    }
    let every = evaluate.whole("every", Some(1), faults);
    let split = evaluate.word(
        "split",
        Some(Split::Validation),
        &[("validation", Split::Validation), ("test", Split::Test)],
        faults,
    );
    if let Some(metrics) = evaluate.texts("metrics", Some(Vec::new()), faults) {
        let known: &[&str] = match kind {
            Some(TaskKind::Segmentation) => &["dice", "hausdorff", "hausdorff95"],
            Some(TaskKind::Classification | TaskKind::MultiLabel) | None => &["auroc", "accuracy"],
        };
        for metric in metrics.iter().filter(|name| !known.contains(&name.as_str())) {
            let key = evaluate.name("metrics");
            let allowed = format!("\"{}\"", known.join("\" or \""));
            faults.push(fault(&key, &format!("{metric:?}"), &allowed));
        }
    }
    let exact = evaluate.flag("danger_exact_metrics", Some(false), faults);
    evaluate.finish(faults);
    Some(EvaluationRules { every: every?, split: split?, danger_exact: exact? })
}

#[cfg(test)]
mod tests;
