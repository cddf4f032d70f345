//! `consilium-bench utility`: how good a model is at which epsilon. Pooled without privacy, pooled
//! DP-SGD, and federated over hospitals that differ, in both private modes; through the code that
//! real rounds run, but for the masks, which add up to nothing.

#![expect(clippy::disallowed_methods, reason = "how long a setting takes is shown")]

mod play;
mod recipe;

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use harness::{Outcome, Trouble};
use serde::Serialize;

use self::play::{Data, Scored, play};
use self::recipe::{Recipe, Setting};

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct UtilityArgs {
    /// A MedMNIST-style file of two classes
    #[arg(long, value_name = "FILE.npz")]
    data: PathBuf,
    /// Runs of each setting, each with its own weights, coins, noise and hospitals
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    seeds: u8,
    /// Epsilons of the private settings, at delta 1e-5
    #[arg(long, value_delimiter = ',', default_value = "0.5,1,3,8")]
    epsilon: Vec<f64>,
    /// Only these settings: pooled, pooled-dp, distributed, silo
    #[arg(long, value_delimiter = ',', value_name = "SETTING")]
    setting: Vec<Setting>,
    /// Hospitals that the file is split among
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(3..=100))]
    hospitals: u16,
    /// Fewest hospitals whose sum is released; the noise of so many, less one that may collude, has to
    /// suffice. Default: all
    #[arg(long, value_parser = clap::value_parser!(u16).range(3..=100))]
    quorum: Option<u16>,
    /// How much the hospitals are alike: the Dirichlet distribution's parameter
    #[arg(long, default_value_t = 0.5)]
    alpha: f64,
    /// Recipes to try, scored on the validation images: how the defaults were found
    #[arg(long = "try", value_name = "FILE.toml")]
    tried: Option<PathBuf>,
}

/// One setting's figures.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    setting: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipe: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epsilon: Option<f64>,
    auroc_mean: f64,
    auroc_sd: f64,
    accuracy_mean: f64,
    /// The epsilon that was spent, by the study's accountant; at most `epsilon`.
    #[serde(skip_serializing_if = "Option::is_none")]
    spent: Option<f64>,
    noise_multiplier: Option<f64>,
    seconds: f64,
}

/// All of them.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    split: &'static str,
    seeds: u8,
    hospitals: u16,
    quorum: u16,
    rows: Vec<Row>,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { split, seeds, hospitals, quorum, rows } = self;
        writeln!(
            f,
            "{split} split, mean of {seeds} seeds, {hospitals} hospitals, quorum {quorum}, one may collude"
        )?;
        writeln!(
            f,
            "{:<12} {:<28} {:>7} {:>7} {:>7} {:>7} {:>8} {:>8}",
            "setting", "recipe", "epsilon", "AUROC", "sd", "acc", "z", "seconds"
        )?;
        for row in rows {
            let figure = |value: Option<f64>| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
            };
            writeln!(
                f,
                "{:<12} {:<28} {:>7} {:>7.4} {:>7.4} {:>7.4} {:>8} {:>8.1}",
                row.setting,
                row.recipe.as_deref().unwrap_or("default"),
                figure(row.epsilon),
                row.auroc_mean,
                row.auroc_sd,
                row.accuracy_mean,
                figure(row.noise_multiplier),
                row.seconds
            )?;
        }
        Ok(())
    }
}

/// Plays every setting at every epsilon with every seed.
pub(crate) fn measure(arguments: &UtilityArgs) -> Outcome<Measured> {
    let UtilityArgs { data, seeds, epsilon, setting, hospitals, quorum, alpha, tried } = arguments;
    let quorum = quorum.unwrap_or(*hospitals);
    let wanted = |one: Setting| setting.is_empty() || setting.contains(&one);
    let mut jobs = Vec::new();
    match tried {
        Some(file) => {
            for variant in recipe::read(file)? {
                let at = if variant.setting == Setting::Pooled { &[1.0][..] } else { epsilon };
                for epsilon in at.iter().filter(|_| wanted(variant.setting)) {
                    let fitting = variant.at.is_none_or(|only| only.to_bits() == epsilon.to_bits());
                    if fitting {
                        let (name, recipe) = (variant.name.clone(), variant.recipe.clone());
                        jobs.push((variant.setting, *epsilon, Some(name), recipe));
                    }
                }
            }
        }
        None => {
            for one in Setting::ALL.into_iter().filter(|one| wanted(*one)) {
                let at = if one == Setting::Pooled { &[1.0][..] } else { epsilon };
                for epsilon in at {
                    jobs.push((one, *epsilon, None, Recipe::of(one, *epsilon)));
                }
            }
        }
    }
    let mut rows = Vec::new();
    let mut splits = Vec::new();
    for seed in 1..=u64::from(*seeds) {
        splits.push(Data::open(data, (*hospitals).into(), quorum, seed, *alpha)?);
    }
    for (setting, epsilon, name, recipe) in jobs {
        let begun = Instant::now();
        let mut scored = Vec::new();
        for (seed, data) in (1_u64..).zip(&splits) {
            scored.push(play(setting, epsilon, &recipe, data, seed, tried.is_some())?);
        }
        let row = summarise(setting, epsilon, name, &scored, begun.elapsed().as_secs_f64());
        progress(&row);
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(Trouble::new("expected a setting to play, found none"));
    }
    let split = if tried.is_some() { "validation" } else { "test" };
    Ok(Measured { split, seeds: *seeds, hospitals: *hospitals, quorum, rows })
}

/// A long experiment says how far it is.
#[expect(clippy::print_stderr, reason = "progress belongs there")]
fn progress(row: &Row) {
    let Row { setting, recipe, epsilon, auroc_mean, .. } = row;
    let recipe = recipe.as_deref().unwrap_or("default");
    eprintln!("{setting} {recipe} at {epsilon:?}: AUROC {auroc_mean:.4}");
}

fn summarise(
    setting: Setting,
    epsilon: f64,
    recipe: Option<String>,
    scored: &[Scored],
    seconds: f64,
) -> Row {
    let mean = |of: &dyn Fn(&Scored) -> f64| {
        let count = u32::try_from(scored.len()).map_or(1.0, f64::from);
        scored.iter().map(of).sum::<f64>() / count
    };
    let auroc_mean = mean(&|one| one.auroc);
    let spread = mean(&|one| (one.auroc - auroc_mean).powi(2)).sqrt();
    let private = setting != Setting::Pooled;
    Row {
        setting: setting.name(),
        recipe,
        epsilon: private.then_some(epsilon),
        auroc_mean,
        auroc_sd: spread,
        accuracy_mean: mean(&|one| one.accuracy),
        spent: scored.first().and_then(|one| one.spent),
        noise_multiplier: scored.first().and_then(|one| one.noise),
        seconds,
    }
}
