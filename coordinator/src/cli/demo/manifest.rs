//! The study that the demo proposes: found by trial on each data set's validation split.

use super::DemoArgs;
use super::federation::Source;

/// The manifest, as a person would write it.
pub(super) fn text(args: &DemoArgs, source: &Source) -> String {
    let DemoArgs { hospitals, model, seed, .. } = args;
    let recipe = match source {
        Source::Synthetic => SYNTHETIC,
        Source::Npz(_) => NPZ,
    };
    let Recipe { name, classes, side, window, mean, sd, rounds, local } = recipe;
    let rounds = args.rounds.unwrap_or(rounds);
    // All but one hospital must be in the sum: one may fail without stopping the others. Three are
    // the least, since a sum of two tells each what the other sent.
    let quorum = (hospitals - 1).max(3);
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
tolerate_colluding = 1
round_deadline = "5m"
upload_deadline = "1m"
grace = "1s"

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
