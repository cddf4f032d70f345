//! `epsilon`: what so many noised steps cost, or how much noise a target takes, computed again by
//! the accountants that the hospitals use. Needs no log.

use std::fmt::Display;
use std::str::FromStr;

use aggregation::privacy::accountant::{Accountant, Composition, Mechanism, solve};
use aggregation::units::{Delta, Epsilon, NoiseMultiplier, OutOfRange, SamplingRate};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::output::{Failure, Output};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The noise's standard deviation over the clipping norm, as the accountant is told it.
    #[arg(long, value_name = "Z", allow_hyphen_values = true, value_parser = quantity(NoiseMultiplier::new))]
    noise_multiplier: Option<NoiseMultiplier>,
    /// Instead of the noise: the epsilon to stay within. Answers with the least noise that does.
    #[arg(long, value_name = "E", allow_hyphen_values = true, value_parser = quantity(Epsilon::new))]
    target_epsilon: Option<Epsilon>,
    /// The probability with which a patient takes part in a step: above 0 and at most 1.
    #[arg(long, value_name = "Q", allow_hyphen_values = true, value_parser = quantity(SamplingRate::new))]
    sampling_rate: Option<SamplingRate>,
    /// How many noised steps.
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = steps)]
    steps: Option<u64>,
    /// The delta at which epsilon is counted: above 0 and below 1.
    #[arg(long, value_name = "D", allow_hyphen_values = true, value_parser = quantity(Delta::new))]
    delta: Option<Delta>,
    /// Renyi divergences at integer orders, or privacy loss distributions: slower and tighter. A study
    /// counts by the one that its file names, and by rdp where it names none. Without this option
    /// epsilon is told by both.
    #[arg(long, value_enum)]
    accountant: Option<Bound>,
}

/// Which bound is meant.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Bound {
    Rdp,
    Pld,
}

impl From<Bound> for Accountant {
    fn from(bound: Bound) -> Self {
        match bound {
            Bound::Rdp => Self::Rdp,
            Bound::Pld => Self::Pld,
        }
    }
}

#[derive(Serialize)]
struct Answer {
    epsilon: f64,
    delta: f64,
    accountant: &'static str,
    noise_multiplier: f64,
    sampling_rate: f64,
    steps: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_epsilon: Option<f64>,
    /// The same noise by the other accountant, where none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    also: Option<Also>,
}

#[derive(Serialize)]
struct Also {
    epsilon: f64,
    accountant: &'static str,
}

/// A quantity that is checked where it is read.
fn quantity<Q>(
    new: fn(f64) -> Result<Q, OutOfRange>,
) -> impl Fn(&str) -> Result<Q, String> + Clone + Send + Sync {
    move |text| new(number(text)?).map_err(|error| error.to_string())
}

fn number<N: FromStr<Err: Display>>(text: &str) -> Result<N, String> {
    text.parse().map_err(|error| format!("expected a number: {error}"))
}

fn steps(text: &str) -> Result<u64, String> {
    let steps = number(text)?;
    if steps == 0 { Err("expected at least one step".to_owned()) } else { Ok(steps) }
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let rate = needed(arguments.sampling_rate, "--sampling-rate Q")?;
    let steps = needed(arguments.steps, "--steps N")?;
    let delta = needed(arguments.delta, "--delta D")?;
    let accountant = arguments.accountant.map_or(Accountant::Rdp, Accountant::from);
    let noise = match (arguments.noise_multiplier, arguments.target_epsilon) {
        (Some(noise), None) => noise,
        (None, Some(target)) => solve::noise_multiplier(accountant, target, delta, rate, steps)
            .map_err(|error| Failure::failed("out_of_reach", error.to_string()))?,
        (found, _) => {
            let found = if found.is_some() { "both" } else { "neither" };
            let message =
                format!("expected --noise-multiplier Z or --target-epsilon E, found {found}");
            return Err(Failure::usage("bad_arguments", message));
        }
    };
    let composition = Composition::of(Mechanism::new(noise, rate), steps);
    let spent = accountant.epsilon(&composition, delta);
    if !spent.get().is_finite() {
        let message = format!("noise multiplier {noise} over {steps} steps has no finite epsilon");
        return Err(Failure::failed("unbounded", message));
    }
    let name = accountant.name();
    output.line(&format!("epsilon {spent} at delta {delta}, an upper bound by {name}"))?;
    let other = arguments.accountant.is_none().then_some(Accountant::Pld);
    let also = other.map(|other| (other.name(), other.epsilon(&composition, delta)));
    if let Some((name, spent)) = also {
        output.line(&format!("epsilon {spent} at delta {delta}, an upper bound by {name}"))?;
        output.line(
            "a study counts by the accountant that its file names; by rdp where it names none",
        )?;
    }
    output.line(&format!("noise multiplier {noise}, sampling rate {rate}, {steps} steps"))?;
    if let Some(target) = arguments.target_epsilon {
        output.line(&format!(
            "the least noise, in steps of 2^-20, within epsilon {target} by {name}"
        ))?;
    }
    Ok(output.data(&Answer {
        epsilon: spent.get(),
        delta: delta.get(),
        accountant: name,
        noise_multiplier: noise.get(),
        sampling_rate: rate.get(),
        steps,
        target_epsilon: arguments.target_epsilon.map(Epsilon::get),
        also: also.map(|(accountant, spent)| Also { epsilon: spent.get(), accountant }),
    })?)
}

fn needed<T>(given: Option<T>, option: &str) -> Result<T, Failure> {
    given.ok_or_else(|| Failure::usage("bad_arguments", format!("expected {option}, found none")))
}
