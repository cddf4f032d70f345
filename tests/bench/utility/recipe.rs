//! How a model is trained in each setting, and where the choice is written down.

use std::path::Path;

use clap::ValueEnum;
use harness::{Outcome, Trouble};
use serde::Deserialize;

/// Who trains, and what is hidden from whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Setting {
    /// All images in one place, no privacy.
    Pooled,
    /// All images in one place, DP-SGD.
    PooledDp,
    /// Hospitals that share the noise.
    Distributed,
    /// Hospitals of which each adds all of the noise.
    Silo,
}

impl Setting {
    pub(super) const ALL: [Self; 4] = [Self::Pooled, Self::PooledDp, Self::Distributed, Self::Silo];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pooled => "pooled",
            Self::PooledDp => "pooled-dp",
            Self::Distributed => "distributed",
            Self::Silo => "silo",
        }
    }
}

/// The part of a study that is found by trial.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Recipe {
    /// The model.
    pub(crate) arch: String,
    /// Rounds: steps of a private study, epochs without privacy.
    pub(crate) rounds: u32,
    /// The optimiser: the coordinator's in a private study, the local one without privacy.
    pub(crate) optimizer: String,
    /// Its learning rate.
    pub(crate) learning_rate: f64,
    /// How much of the running average of the models remains.
    pub(crate) weight_average: f64,
    /// The sampling rate of a private study.
    pub(crate) sampling_rate: f64,
    /// Its clipping norm.
    pub(crate) clipping_norm: f64,
    /// Views of each image; more than one, or `augment`, moves them about.
    pub(crate) views: u16,
    /// Whether images are moved about.
    pub(crate) augment: bool,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            arch: "scatter-linear".to_owned(),
            rounds: 200,
            optimizer: "momentum".to_owned(),
            learning_rate: 0.1,
            weight_average: 0.9,
            sampling_rate: 1.0,
            clipping_norm: 2.0,
            views: 1,
            augment: false,
        }
    }
}

impl Recipe {
    /// What `tests/experiments/utility.toml` found best for pooled images on the validation images;
    /// the federated settings take what pooled DP-SGD takes.
    pub(super) fn of(setting: Setting, epsilon: f64) -> Self {
        match setting {
            Setting::Pooled => Self {
                rounds: 40,
                optimizer: "adam".to_owned(),
                learning_rate: 1e-3,
                ..Self::default()
            },
            Setting::PooledDp | Setting::Distributed | Setting::Silo => match epsilon {
                // The smaller epsilon, the shorter the way that the noise allows.
                ..0.7 => Self { rounds: 100, learning_rate: 0.05, ..Self::default() },
                ..2.0 => Self { learning_rate: 0.05, ..Self::default() },
                ..5.0 => Self::default(),
                _ => Self { learning_rate: 0.2, ..Self::default() },
            },
        }
    }
}

/// A recipe that is tried.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Variant {
    /// What it is called in the table.
    pub(super) name: String,
    /// For which setting.
    pub(super) setting: Setting,
    /// At this epsilon alone.
    #[serde(default)]
    pub(super) at: Option<f64>,
    /// The recipe.
    #[serde(default)]
    pub(super) recipe: Recipe,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tried {
    variant: Vec<Variant>,
}

/// The recipes of a file.
pub(super) fn read(file: &Path) -> Outcome<Vec<Variant>> {
    let text = std::fs::read_to_string(file)?;
    let tried: Tried = toml::from_str(&text)
        .map_err(|error| Trouble::new(format!("{}: {error}", file.display())))?;
    Ok(tried.variant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_tried_can_be_tried_again() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/utility.toml");
        let tried = read(&file).expect("a list of variants");
        assert!(tried.len() > 10);
        // What is the default has been tried.
        for (setting, epsilon) in [
            (Setting::Pooled, 1.0),
            (Setting::PooledDp, 0.5),
            (Setting::Silo, 1.0),
            (Setting::Distributed, 3.0),
            (Setting::PooledDp, 8.0),
        ] {
            let standard = Recipe::of(setting, epsilon);
            assert!(tried.iter().any(|variant| variant.recipe == standard), "{standard:?}");
        }
    }
}
