//! The study that the demo proposes: found by trial on each data set's validation split.

use aggregation::keys::thresholds::{BadThresholds, Thresholds};

use super::DemoArgs;
use super::federation::Source;

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
pub(super) fn rounds(args: &DemoArgs, source: &Source) -> u32 {
    args.rounds.unwrap_or(recipe(source).rounds)
}

/// The manifest, as a person would write it.
pub(super) fn text(args: &DemoArgs, source: &Source, thresholds: &Thresholds) -> String {
    let DemoArgs { model, seed, .. } = args;
    let Recipe { name, classes, side, window, mean, sd, local, .. } = recipe(source);
    let rounds = rounds(args, source);
    let (quorum, colluding) = (thresholds.least(), thresholds.colluding());
    format!(
        r#"name = "{name}"

[task]
kind = "classification"
classes = {classes}
input = {{ channels = 1, height = {side}, width = {side} }}
preprocess = {{ window = "{window}", mean = {mean}, sd = {sd} }}

[model]
arch = "{model}"

[train]
rounds = {rounds}
strategy = "fedavg"
seed = {seed}

[train.local]
{local}
[privacy]
mode = "danger_no_privacy"

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
"#
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
