//! Count what was spent: epsilon of everything that was done to one patient's records.
//!
//! An event is one noised sum over a Poisson sample. Two accountants bound the epsilon of many
//! events, for patients added or removed: [`rdp`], whose state is additive and whose arithmetic
//! fits on a page, and [`pld`], 5 to 15 parts in a hundred tighter and slower. Both are upper
//! bounds. [`solve`] turns them round: from a target to the noise that meets it.
//!
//! Same events, same bits, on every machine: additions, multiplications and square roots are
//! IEEE 754's, everything else is `libm`'s. A hospital and its auditor agree to the last digit.

pub mod pld;
pub mod rdp;
pub mod solve;

use std::collections::BTreeMap;
use std::fmt;

use crate::units::{Delta, Epsilon, NoiseMultiplier, SamplingRate};

/// One noised sum over a Poisson sample of patients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mechanism {
    noise: NoiseMultiplier,
    rate: SamplingRate,
}

impl Mechanism {
    /// A sum of which each patient is part with probability `rate` and changes it by at most one
    /// `noise`-th of the noise's standard deviation.
    #[must_use]
    pub const fn new(noise: NoiseMultiplier, rate: SamplingRate) -> Self {
        Self { noise, rate }
    }

    /// The noise's standard deviation over the most that one patient changes.
    #[must_use]
    pub const fn noise(self) -> NoiseMultiplier {
        self.noise
    }

    /// The probability with which a patient takes part.
    #[must_use]
    pub const fn rate(self) -> SamplingRate {
        self.rate
    }

    /// Standard deviation for the formulas. Noise past 10^12 counts as 10^12: less than there is,
    /// so the bound holds, and its square stays far from infinity.
    const fn sigma(self) -> f64 {
        self.noise.get().min(1e12)
    }
}

/// Everything that was done, in any order: how often each mechanism was used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Composition {
    /// Under the bits of noise and rate, which for positive numbers have the numbers' order.
    steps: BTreeMap<(u64, u64), u64>,
}

impl Composition {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { steps: BTreeMap::new() }
    }

    /// So many steps of one mechanism.
    #[must_use]
    pub fn of(mechanism: Mechanism, steps: u64) -> Self {
        let mut composition = Self::new();
        composition.add(mechanism, steps);
        composition
    }

    /// Adds steps of a mechanism.
    pub fn add(&mut self, mechanism: Mechanism, steps: u64) {
        if steps > 0 {
            let key = (mechanism.noise.get().to_bits(), mechanism.rate.get().to_bits());
            let total = self.steps.entry(key).or_insert(0);
            *total = total.saturating_add(steps);
        }
    }

    /// The mechanisms and their steps, always in the same order.
    pub fn iter(&self) -> impl Iterator<Item = (Mechanism, u64)> + '_ {
        self.steps.iter().map(|(&key, &steps)| (Self::mechanism(key), steps))
    }

    fn mechanism((noise, rate): (u64, u64)) -> Mechanism {
        let noise = NoiseMultiplier::new(f64::from_bits(noise));
        let rate = SamplingRate::new(f64::from_bits(rate));
        Mechanism::new(
            noise.expect("it was a noise multiplier when it was added"),
            rate.expect("it was a sampling rate when it was added"),
        )
    }

    /// Whether nothing was done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// An epsilon that was spent: from 0, or infinite when no bound is known.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Spent(f64);

impl Spent {
    /// Nothing.
    pub const NOTHING: Self = Self(0.0);

    /// No bound.
    pub const UNBOUNDED: Self = Self(f64::INFINITY);

    /// What is below nothing is nothing; what is no number has no bound.
    const fn at_least_nothing(epsilon: f64) -> Self {
        if epsilon.is_nan() { Self::UNBOUNDED } else { Self(epsilon.max(0.0)) }
    }

    /// The epsilon, possibly infinite.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }

    /// Whether a cap is kept.
    #[must_use]
    pub fn within(self, cap: Epsilon) -> bool {
        self.0 <= cap.get()
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which bound is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Accountant {
    /// Renyi differential privacy at integer orders.
    Rdp,
    /// Privacy loss distributions. Where they cannot be computed, or are no tighter, the Renyi
    /// bound: both hold, so their minimum does.
    Pld,
}

impl Accountant {
    /// The epsilon of a composition at this delta.
    #[must_use]
    pub fn epsilon(self, composition: &Composition, delta: Delta) -> Spent {
        let rdp = rdp::Curve::of(composition).epsilon(delta);
        match self {
            Self::Rdp => rdp,
            Self::Pld => match pld::epsilon(composition, delta) {
                Some(pld) if pld < rdp => pld,
                Some(_) | None => rdp,
            },
        }
    }

    /// The name that people type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rdp => "rdp",
            Self::Pld => "pld",
        }
    }
}

/// ln of the sum of exponentials, without overflow; -inf for none.
fn log_sum_exp(logs: &[f64]) -> f64 {
    let greatest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !greatest.is_finite() {
        return greatest;
    }
    // Four million terms below e^-60 of the greatest are together below its last bit.
    let counts = |log: &&f64| **log > greatest - 60.0;
    greatest + libm::log(logs.iter().filter(counts).map(|log| libm::exp(log - greatest)).sum())
}

#[cfg(test)]
mod answers;
#[cfg(test)]
mod vectors;
