//! From a target to the noise that meets it.
//!
//! The answer is the least noise multiplier on a grid of 2^-20 whose epsilon is at most the
//! target: checked, not extrapolated, so the target is never exceeded (PROTOCOL D-04). The search
//! is a bisection over grid points; the same question has the same answer on every machine.

use super::{Accountant, Composition, Mechanism, Spent};
use crate::units::{Delta, Epsilon, NoiseMultiplier, SamplingRate, real};

/// Noise multipliers are multiples of 1 over this.
const GRID: u64 = 1 << 20;

/// The greatest noise multiplier that is tried: 2^20.
const GREATEST: u64 = 1 << 40;

/// Why no noise multiplier is given.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Unsolvable {
    /// Not even the greatest noise suffices.
    #[error(
        "no noise multiplier up to {greatest} keeps epsilon at or below {target}; the least that it reaches is {reached}"
    )]
    OutOfReach {
        /// The epsilon that was asked for.
        target: Epsilon,
        /// The greatest multiplier tried.
        greatest: NoiseMultiplier,
        /// The epsilon at that multiplier.
        reached: Spent,
    },
    /// There is nothing to add noise to.
    #[error("at least one step was expected; found none")]
    NoSteps,
}

/// The least noise multiplier for so many steps to stay within `target` at `delta`.
///
/// # Errors
/// When no multiplier does, or there are no steps.
pub fn noise_multiplier(
    accountant: Accountant,
    target: Epsilon,
    delta: Delta,
    rate: SamplingRate,
    steps: u64,
) -> Result<NoiseMultiplier, Unsolvable> {
    if steps == 0 {
        return Err(Unsolvable::NoSteps);
    }
    let spent = |accountant: Accountant, grid: u64| {
        let mechanism = Mechanism::new(at(grid), rate);
        accountant.epsilon(&Composition::of(mechanism, steps), delta)
    };
    let reached = spent(accountant, GREATEST);
    if !reached.within(target) {
        return Err(Unsolvable::OutOfReach { target, greatest: at(GREATEST), reached });
    }
    // The Renyi bound is quick, and what meets the target there meets it under any accountant.
    let enough = bisect(0, GREATEST, |grid| spent(Accountant::Rdp, grid).within(target));
    match accountant {
        Accountant::Rdp => Ok(at(enough)),
        Accountant::Pld => {
            // Usually 5 to 15 parts in a hundred less, so a few steps down bracket the answer.
            let (mut low, mut high) = (enough, enough);
            while low > 1 {
                low = low / 8 * 7;
                if !spent(accountant, low).within(target) {
                    break;
                }
                high = low;
            }
            Ok(at(bisect(low.min(high - 1), high, |grid| spent(accountant, grid).within(target))))
        }
    }
}

/// The least grid point above `low` that meets the condition, given that `high` meets it and that
/// those above one which does do too. Should they not, the answer still meets it.
fn bisect(mut low: u64, mut high: u64, meets: impl Fn(u64) -> bool) -> u64 {
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if meets(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

fn at(grid: u64) -> NoiseMultiplier {
    NoiseMultiplier::new(real(grid) / real(GRID)).expect("at least 2^-20 and at most 2^20")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::accountant::vectors::{composition, delta};

    fn solve(
        accountant: Accountant,
        target: f64,
        at: f64,
        rate: f64,
        steps: u64,
    ) -> Result<f64, Unsolvable> {
        let target = Epsilon::new(target).expect("a target");
        let rate = SamplingRate::new(rate).expect("a rate");
        noise_multiplier(accountant, target, delta(at), rate, steps).map(NoiseMultiplier::get)
    }

    /// D-04: the target is met, and one grid point less would miss it.
    #[test]
    fn the_answer_meets_the_target_and_hardly_more() {
        for accountant in [Accountant::Rdp, Accountant::Pld] {
            for (target, at, rate, steps) in [
                (3.0, 1e-5, 0.25, 100),
                (1.0, 1e-5, 0.05, 300),
                (8.0, 1e-6, 0.01, 5_000),
                (0.5, 1e-5, 1.0, 10),
                (20.0, 1e-5, 0.5, 3),
            ] {
                let noise = solve(accountant, target, at, rate, steps).expect("within reach");
                let epsilon = |noise: f64| {
                    accountant.epsilon(&composition(&[(noise, rate, steps)]), delta(at)).get()
                };
                assert!(epsilon(noise) <= target, "{target} {rate} {steps}: {noise}");
                assert!(epsilon(noise) > target * (1.0 - 1e-4), "{target} {rate} {steps}: {noise}");
                assert!(epsilon(noise - 1.0 / real(GRID)) > target * (1.0 - 1e-6));
                // Deterministic to the last bit.
                assert_eq!(solve(accountant, target, at, rate, steps), Ok(noise));
            }
        }
    }

    #[test]
    fn loss_distributions_need_less_noise() {
        let rdp = solve(Accountant::Rdp, 3.0, 1e-5, 0.05, 300).expect("within reach");
        let pld = solve(Accountant::Pld, 3.0, 1e-5, 0.05, 300).expect("within reach");
        assert!(pld < rdp * 0.98, "{pld}, {rdp}");
    }

    #[test]
    fn what_cannot_be_met_is_an_error() {
        let tiny = solve(Accountant::Rdp, 1e-9, 1e-300, 1.0, 1_000_000);
        assert!(matches!(tiny, Err(Unsolvable::OutOfReach { .. })), "{tiny:?}");
        let text = tiny.map_err(|e| e.to_string());
        assert!(text.is_err_and(|text| text.starts_with("no noise multiplier up to 1048576")));
        assert_eq!(solve(Accountant::Pld, 1.0, 1e-5, 0.1, 0), Err(Unsolvable::NoSteps));
        // A target far above what hardly any noise gives is met by the grid's start, or near it.
        assert!(solve(Accountant::Rdp, 1e12, 1e-5, 0.1, 1).expect("any noise") < 0.001);
    }
}
