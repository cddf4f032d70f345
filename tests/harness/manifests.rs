//! Study manifests, as an operator would write them.

use std::fmt::Write as _;

/// What stands in a manifest; a story changes the fields that it is about.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The study's name.
    pub name: String,
    /// The model.
    pub arch: &'static str,
    /// Pixels: channels, height, width.
    pub input: (u32, u32, u32),
    /// Rounds of training; one more round evaluates.
    pub rounds: u32,
    /// Decides the initial model and local training.
    pub seed: u64,
    /// Passes over the data in one round.
    pub epochs: u32,
    /// Images to a step of local training.
    pub batch_size: u32,
    /// The step of local training.
    pub learning_rate: f64,
    /// Fewest sites in a released sum.
    pub quorum: usize,
    /// Whether updates travel masked: for three sites and more.
    pub masked: bool,
    /// How long a round waits for sites to be ready.
    pub round_deadline: String,
    /// How long it then waits for their updates.
    pub upload_deadline: String,
    /// How long a site that is gone may stay away before it counts as lost.
    pub grace: String,
    /// After how many rounds the model is scored.
    pub every: u32,
    /// The roster; empty means every approved site.
    pub sites: Vec<String>,
    /// The epsilon of a private study, in which hospitals share the noise; none without privacy.
    pub epsilon: Option<f64>,
    /// The body of `[task]` when the story is about another task than two classes of images.
    pub task: Option<String>,
    /// Lines after the last section.
    pub more: String,
}

impl Manifest {
    /// One linear layer on so many pixels, three rounds, quorum 2, without masks: most stories are
    /// about something else, and two sites are enough for them.
    #[must_use]
    pub fn linear(height: u32, width: u32) -> Self {
        Self {
            name: "story".to_owned(),
            arch: "linear",
            input: (1, height, width),
            rounds: 3,
            seed: 1,
            epochs: 1,
            batch_size: 16,
            learning_rate: 0.01,
            quorum: 2,
            masked: false,
            round_deadline: "60s".to_owned(),
            upload_deadline: "60s".to_owned(),
            grace: "10s".to_owned(),
            every: 1,
            sites: Vec::new(),
            epsilon: None,
            task: None,
            more: String::new(),
        }
    }

    /// The small convolutional network.
    #[must_use]
    pub fn cnn(side: u32) -> Self {
        Self { arch: "cnn-small", learning_rate: 2e-3, ..Self::linear(side, side) }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { name, arch, rounds, seed, epochs, batch_size, .. } = self;
        let Self { learning_rate, quorum, every, .. } = self;
        let Self { round_deadline, upload_deadline, grace, more, .. } = self;
        let unmasked = !self.masked;
        let (train, privacy, exact) = match self.epsilon {
            None => (
                format!(
                    "strategy = \"fedavg\"\nseed = {seed}\n\n[train.local]\nepochs = {epochs}\n\
                     batch_size = {batch_size}\noptimizer = \"adam\"\nlearning_rate = {learning_rate}\n"
                ),
                "mode = \"danger_no_privacy\"\n".to_owned(),
                "",
            ),
            Some(epsilon) => (
                format!(
                    "strategy = \"dp-fedsgd\"\nseed = {seed}\nlearning_rate = {learning_rate}\n"
                ),
                format!(
                    "mode = \"distributed\"\nepsilon = {epsilon:?}\nsolo_epsilon_cap = 1000.0\n\
                     sampling_rate = 0.2\npatients = 100\n"
                ),
                "danger_exact_metrics = true\n",
            ),
        };
        let (channels, height, width) = self.input;
        let classes = format!(
            "kind = \"classification\"\nclasses = [\"normal\", \"lesion\"]\n\
             input = {{ channels = {channels}, height = {height}, width = {width} }}\n\
             preprocess = {{ window = \"full\", mean = 0.5, sd = 0.25 }}\n"
        );
        let task = self.task.as_ref().unwrap_or(&classes);
        let mut sites = String::new();
        if !self.sites.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(sites, "sites = {:?}", self.sites);
        }
        format!(
            r#"name = "{name}"

[task]
{task}
[model]
arch = "{arch}"

[train]
rounds = {rounds}
{train}
[privacy]
{privacy}
[cohort]
{sites}quorum = {quorum}
danger_unmasked_updates = {unmasked}
round_deadline = "{round_deadline}"
upload_deadline = "{upload_deadline}"
grace = "{grace}"

[evaluate]
every = {every}
split = "test"
{exact}{more}"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_harness_writes_is_a_good_manifest() {
        let private =
            Manifest { epsilon: Some(2.0), masked: true, quorum: 3, ..Manifest::linear(3, 5) };
        for manifest in [Manifest::linear(3, 5), Manifest::cnn(32), private] {
            let study = proto::manifest::parse(&manifest.text()).expect("no faults");
            assert_eq!(study.name, "story");
        }
        let named = Manifest {
            sites: vec!["site-1".to_owned(), "site-2".to_owned()],
            ..Manifest::linear(3, 5)
        };
        let study = proto::manifest::parse(&named.text()).expect("no faults");
        assert_eq!(study.cohort.sites.len(), 2);
    }
}
