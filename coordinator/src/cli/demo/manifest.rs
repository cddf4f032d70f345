//! The study that the demo proposes: found by trial on each data set's validation split.

use aggregation::keys::thresholds::{BadThresholds, Thresholds};

use super::DemoArgs;
use super::federation::Source;
use super::privacy::{DELTA, Privacy};

/// Hospitals that may collude with the coordinator and still learn no other's update.
const COLLUDING: u16 = 1;

/// How many hospitals it takes: a fifth of them, and one at least, may fail without stopping the
/// others, as long as enough are left to sign and to unmask.
///
/// # Errors
/// With fewer hospitals than can hide in a sum.
pub(super) fn thresholds(hospitals: u16) -> Result<Thresholds, BadThresholds> {
    let spare = (hospitals / 5).max(1);
    let wanted = hospitals.saturating_sub(spare).max(3);
    match Thresholds::new(hospitals, COLLUDING, wanted) {
        Err(BadThresholds::FinalSet { least_allowed, .. }) => {
            Thresholds::new(hospitals, COLLUDING, least_allowed)
        }
        other => other,
    }
}

fn recipe(source: &Source) -> Recipe {
    match source {
        Source::Synthetic => SYNTHETIC,
        Source::Npz(_) => NPZ,
    }
}

/// Rounds that train.
pub(super) fn rounds(args: &DemoArgs, source: &Source, privacy: Privacy) -> u32 {
    let standard = match privacy.epsilon {
        Some(epsilon) => Private::of(args.model.as_deref(), epsilon).rounds,
        None => recipe(source).rounds,
    };
    args.rounds.unwrap_or(standard)
}

/// The manifest, as a person would write it. The hospitals have so many patients to train on.
pub(super) fn text(
    args: &DemoArgs,
    source: &Source,
    privacy: Privacy,
    thresholds: &Thresholds,
    patients: u32,
) -> String {
    let Recipe { name, classes, side, window, mean, sd, local, .. } = recipe(source);
    let (rounds, seed) = (rounds(args, source, privacy), args.seed);
    let (quorum, colluding) = (thresholds.least(), thresholds.colluding());
    let (arch, train, rules, exact) = match privacy.epsilon {
        None => (
            "cnn-small",
            format!("strategy = \"fedavg\"\nseed = {seed}\n\n[train.local]\n{local}"),
            "mode = \"danger_no_privacy\"\n".to_owned(),
            "",
        ),
        Some(epsilon) => {
            let Private { arch, optimizer, sampling_rate, clipping_norm, .. } =
                Private::of(args.model.as_deref(), epsilon);
            let unit = match source {
                Source::Synthetic => "",
                Source::Npz(_) => {
                    "# The file does not say whose its images are.\ndanger_image_level_privacy = true\n"
                }
            };
            (
                arch,
                format!(
                    "strategy = \"dp-fedsgd\"\n{optimizer}weight_average = 0.9\nseed = {seed}\n"
                ),
                format!(
                    "mode = \"{}\"\nepsilon = {epsilon:?}\ndelta = {DELTA:?}\n\
                     accountant = \"pld\"\nsolo_epsilon_cap = 1000.0\n\
                     clipping_norm = {clipping_norm}\nsampling_rate = {sampling_rate}\npatients = {patients}\n{unit}",
                    privacy.name()
                ),
                "# Scores are exact sums over held-out patients, whom no epsilon covers.\n\
                 danger_exact_metrics = true\n",
            )
        }
    };
    let arch = args.model.as_deref().unwrap_or(arch);
    format!(
        r#"name = "{name}"

[task]
kind = "classification"
classes = {classes}
input = {{ channels = 1, height = {side}, width = {side} }}
preprocess = {{ window = "{window}", mean = {mean}, sd = {sd} }}

[model]
arch = "{arch}"

[train]
rounds = {rounds}
{train}
[privacy]
{rules}
[cohort]
quorum = {quorum}
tolerate_colluding = {colluding}
round_deadline = "5m"
upload_deadline = "30s"
grace = "5s"

[evaluate]
every = 1
split = "test"
metrics = ["auroc", "accuracy"]
{exact}"#
    )
}

struct Recipe {
    name: &'static str,
    classes: &'static str,
    side: u16,
    window: &'static str,
    mean: &'static str,
    sd: &'static str,
    rounds: u32,
    local: &'static str,
}

/// What a private study trains, and how.
#[derive(Clone, Copy)]
struct Private {
    arch: &'static str,
    rounds: u32,
    optimizer: &'static str,
    sampling_rate: &'static str,
    clipping_norm: &'static str,
}

impl Private {
    /// For the model that was asked for, if one was, at this epsilon.
    fn of(model: Option<&str>, epsilon: f64) -> Self {
        match model {
            None | Some("scatter-linear" | "linear") if epsilon < 1.0 => {
                Self { optimizer: "optimizer = \"momentum\"\nlearning_rate = 0.05\n", ..FEATURES }
            }
            None | Some("scatter-linear" | "linear") => FEATURES,
            Some(_) => NETWORK,
        }
    }
}

/// A linear layer on features that are there from the start: everybody takes part in every round,
/// which costs least for what it moves.
const FEATURES: Private = Private {
    arch: "scatter-linear",
    rounds: 100,
    optimizer: "optimizer = \"momentum\"\nlearning_rate = 0.1\n",
    sampling_rate: "1.0",
    clipping_norm: "2.0",
};

/// A network that has to find its features.
const NETWORK: Private = Private {
    arch: "cnn-tiny",
    rounds: 100,
    optimizer: "optimizer = \"momentum\"\nlearning_rate = 0.4\n",
    sampling_rate: "0.15",
    clipping_norm: "1.0",
};

const SYNTHETIC: Recipe = Recipe {
    name: "synthetic-lesions",
    classes: r#"["normal", "lesion"]"#,
    side: 48,
    window: "from-file",
    mean: "0.5",
    sd: "0.25",
    rounds: 12,
    local: "epochs = 3\nbatch_size = 16\noptimizer = \"adam\"\nlearning_rate = 3e-3\n",
};

const NPZ: Recipe = Recipe {
    name: "pneumonia",
    classes: r#"["normal", "pneumonia"]"#,
    side: 28,
    window: "full",
    mean: "0.57",
    sd: "0.17",
    rounds: 15,
    local: "epochs = 1\nbatch_size = 32\noptimizer = \"adam\"\nlearning_rate = 1e-3\n",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_number_of_hospitals_has_thresholds_that_let_some_of_them_fail() {
        for hospitals in 3..=40 {
            let thresholds = thresholds(hospitals).expect("three are enough");
            let least = thresholds.least();
            assert!(least >= 3 && least >= thresholds.shares(), "{thresholds:?}");
            assert!(hospitals == 3 || least < hospitals, "{thresholds:?}");
        }
        let refused = thresholds(2).expect_err("a sum of two hides nothing");
        assert!(refused.to_string().contains("a sum of two tells"), "{refused}");
    }
}
