//! Privacy loss distributions: the exact way to count, on a grid that is never too kind.
//!
//! The loss of a step is a random number; the loss of many steps is the sum of independent ones,
//! so their distribution is a convolution, and delta at some epsilon is the part of it beyond
//! epsilon ([SMM19]). Each direction, a patient removed and a patient added, is counted by
//! itself; the greater epsilon is the answer (PROTOCOL D-03). How it is computed:
//!
//! 1. Losses go onto a grid so that no epsilon gets better, never to the patient's disadvantage.
//! 2. The distribution is tilted: multiplied by `exp(t loss)`, with t where Chernoff's bound is
//!    best. Its weight then lies around the epsilon that is looked for, so that rounding errors
//!    of the transform are small beside delta however small delta is, and the window need not
//!    reach far to either side.
//! 3. The Fourier transform is raised to the number of steps, one mechanism after the other.
//!    A window of finite length wraps around. Losses that wrap into it only add to delta, since
//!    every term is positive; losses that leave it at the top are bounded by Chernoff and added.
//! 4. From the top of the window down, delta is summed until it is reached, every point's chance
//!    raised by the most that rounding of doubles can have taken from it.
//!
//! The grid's step follows from the error that is wanted, `h^2 = 12 e / (steps (t + 1))`: epsilon
//! comes out a few parts in 10^5 too large at most, for one step as for a million.
//!
//! [SMM19]: https://doi.org/10.2478/popets-2019-0029

mod fourier;
mod loss;

use self::fourier::{Complex, Fourier};
use self::loss::{Direction, Loss, Masses};
use super::{Composition, Spent, log_sum_exp};
use crate::units::{Delta, real};

/// How far too large epsilon may come out, relative to itself.
const TOLERANCE: f64 = 1e-5;

/// Epsilons below this count as this when the tolerance is applied.
const SMALL_EPSILON: f64 = 0.05;

/// Part of delta that may be spent on what is cut off, at every single place.
const CUT_OFF: f64 = 1e-10;

/// Its logarithm.
const LOG_CUT_OFF: f64 = -23.025_850_929_940_457;

/// The logarithm of the tilted weight that may wrap around the window.
const LOG_WRAPPED: f64 = -18.0;

/// Epsilons past this are not computed: they promise nothing, and the Renyi bound says so too.
const GREATEST_EPSILON: f64 = 2_000.0;

/// What rounding can move one value of a transform by. Its 22 stages at most are an addition and a
/// multiplication by a root each, together off by 6 units of 2^-53: 132 units of the sum of all
/// weights, which is 1. 2^-43 is 1,024 units.
///
/// A value z to the power s is then off by `s / |z|` times as much, relative to itself, and the way
/// back adds up what all values are off by. Few are large, so this is little.
const ROUNDED_OFF: f64 = 1.0 / 8_796_093_022_208.0;

/// Powers below this are not computed but count as nothing, and are off by as much.
const NEGLIGIBLE: f64 = 1e-39;

/// What rounding can take from the weights before the transform, as a part of themselves, for each
/// step: exponents of at most 2,000 in size are off by two units of 2^-53 of themselves, which is
/// below 2^-40 ...
const INEXACT: f64 = 1.0 / 1_099_511_627_776.0;

/// ... and chances by two units of the tail that they end, which over the grid's step h moves as
/// much weight to a neighbour: 8 units over h.
const MISPLACED: f64 = 1.0 / 1_125_899_906_842_624.0;

/// More steps than this are not composed: rounding would count for more than the answer.
const MOST_STEPS: f64 = 4_294_967_296.0;

/// The longest transform: 2^22 points, 64 MiB for each of two buffers.
const LONGEST: u32 = 22;

/// The shortest.
const SHORTEST: u32 = 14;

/// The epsilon of a composition, or none where it cannot be computed: too much loss for an
/// answer to mean anything.
#[must_use]
pub fn epsilon(composition: &Composition, delta: Delta) -> Option<Spent> {
    if composition.is_empty() {
        return Some(Spent::NOTHING);
    }
    let study = Study::new(composition, delta, Direction::Removed, 0.0)?;
    let removed = study.epsilon()?;
    // Adding a patient rarely costs more than removing one, so its grid need not be finer; where
    // it does cost more it gets its own.
    let mut added = Study::new(composition, delta, Direction::Added, study.h)?.epsilon()?;
    if added > removed {
        added = added.min(Study::new(composition, delta, Direction::Added, 0.0)?.epsilon()?);
    }
    Some(Spent::at_least_nothing(removed.max(added)))
}

/// One composition seen from one direction, with tilt, grid and window chosen.
struct Study {
    parts: Vec<(Loss, f64, u64)>,
    all_steps: f64,
    delta: f64,
    /// Losses are multiplied by the exponential of this.
    tilt: f64,
    /// Another tilt, for what leaves the window at its top.
    upper_tilt: f64,
    /// The grid's step.
    h: f64,
    log_length: u32,
    /// The part of P that one step of any part may lose at either end.
    tail: f64,
}

impl Study {
    /// Chooses them; the grid is not finer than `least_step`.
    fn new(
        composition: &Composition,
        delta: Delta,
        direction: Direction,
        least_step: f64,
    ) -> Option<Self> {
        let parts: Vec<(Loss, f64, u64)> = composition
            .iter()
            .map(|(mechanism, steps)| (Loss::new(mechanism, direction), real(steps), steps))
            .collect();
        let all_steps: f64 = parts.iter().map(|(_, steps, _)| steps).sum();
        if all_steps > MOST_STEPS {
            return None;
        }
        let delta = delta.get();
        let log_moment = |tilt: f64| -> f64 {
            parts.iter().map(|(loss, steps, _)| steps * loss.log_moment(tilt)).sum()
        };
        // Chernoff: delta(e) <= exp(log_moment(t) - t e).
        let chernoff = |tilt: f64, log_chance: f64| (log_moment(tilt) - log_chance) / tilt;
        let log_delta = libm::log(delta);
        let best = least(|tilt| chernoff(tilt, log_delta));
        let bound = chernoff(best, log_delta);
        if !(bound.is_finite() && bound <= GREATEST_EPSILON) {
            return None;
        }
        // The best tilt can be one at which a few huge losses weigh as much as all others, and
        // the window would have to hold them; a little less tilt is nearly as good, and does not.
        let mut chosen = (f64::INFINITY, best, best);
        for tilt in [1.0, 0.9, 0.8, 0.7].map(|part| part * best) {
            if tilt * (chernoff(tilt, log_delta) - bound) > 8.0 {
                break;
            }
            let here = log_moment(tilt);
            let (mut top, mut upper_tilt) = (chernoff(tilt, log_delta + LOG_CUT_OFF), tilt);
            let mut rest = f64::INFINITY;
            for stretch in [1.03, 1.07, 1.15, 1.3, 1.6, 2.0, 3.0, 5.0] {
                let upper = tilt * stretch;
                // What lies beyond the window is small beside delta ...
                let reach = chernoff(upper, log_delta + LOG_CUT_OFF);
                if reach < top {
                    (top, upper_tilt) = (reach, upper);
                }
                // ... and, tilted, beside everything else.
                rest = rest.min((log_moment(upper) - here - LOG_WRAPPED) / (upper - tilt));
            }
            let window = top.max(rest);
            if window < chosen.0 {
                chosen = (window, tilt, upper_tilt);
            }
        }
        let (window, tilt, upper_tilt) = chosen;
        let window = window.max(SMALL_EPSILON * TOLERANCE);
        let tail = delta * CUT_OFF / all_steps;
        let error = TOLERANCE * bound.max(SMALL_EPSILON);
        let mut h = libm::sqrt(12.0 * error / (all_steps * (tilt + 1.0)));
        h = h.min(window / real(1 << SHORTEST));
        // No more memory than this, at the price of a larger epsilon.
        let longest = real(1 << LONGEST);
        for (loss, _, _) in &parts {
            let (from, to) = loss.range(tail);
            h = h.max((to - from) / (longest - 4.0));
        }
        h = h.max(window / longest).max(least_step);
        if !h.is_finite() {
            return None;
        }
        let log_length =
            (SHORTEST..LONGEST).find(|log| real(1 << log) * h >= window).unwrap_or(LONGEST);
        Some(Self { parts, all_steps, delta, tilt, upper_tilt, h, log_length, tail })
    }

    fn epsilon(&self) -> Option<f64> {
        let length = 1_usize << self.log_length;
        let fourier = Fourier::new(self.log_length);
        let mut composed = vec![Complex::ONE; length];
        let mut slopes = vec![1.0; length];
        let mut lost = self.delta * CUT_OFF;
        let (mut log_moment, mut upper_log_moment) = (0.0, 0.0);
        for (loss, real_steps, steps) in &self.parts {
            let grid = loss.on_grid(self.h, loss.range(self.tail));
            lost += real_steps * grid.infinite;
            upper_log_moment += real_steps * log_sum_exp(&grid.log_tilted(self.h, self.upper_tilt));
            let (mut tilted, scale) = self.tilted(&grid, length);
            log_moment += real_steps * scale;
            fourier.forward(&mut tilted);
            for ((all, slope), one) in composed.iter_mut().zip(&mut slopes).zip(&tilted) {
                *slope += real_steps / (one.modulus() + ROUNDED_OFF);
                *all = all.times(one.power(*steps));
            }
        }
        let off = |(all, slope): (&Complex, &f64)| (all.modulus() + NEGLIGIBLE) * slope;
        let rounded_off = ROUNDED_OFF * composed.iter().zip(&slopes).map(off).sum::<f64>();
        fourier.inverse(&mut composed);
        let top = real(1 << self.log_length) * self.h;
        lost += libm::exp((upper_log_moment - self.upper_tilt * top).min(0.0));
        self.reached(&composed, rounded_off, log_moment, lost)
    }

    /// The tilted losses of one step, wrapped into the window and scaled to add up to 1, and the
    /// logarithm of what they were divided by.
    fn tilted(&self, grid: &Masses, length: usize) -> (Vec<Complex>, f64) {
        let logs = grid.log_tilted(self.h, self.tilt);
        let scale = log_sum_exp(&logs);
        let mut window = vec![Complex::ZERO; length];
        let period = i64::try_from(length).expect("at most 2^22");
        for (log, k) in logs.iter().zip(grid.first..) {
            let place = usize::try_from(k.rem_euclid(period)).expect("not negative");
            window[place].re += libm::exp(log - scale);
        }
        (window, scale)
    }

    /// Goes down from the top of the window until delta is reached, and says at which epsilon.
    /// No point's weight is off by more than `rounded_off`.
    fn reached(
        &self,
        composed: &[Complex],
        rounded_off: f64,
        log_moment: f64,
        lost: f64,
    ) -> Option<f64> {
        if lost >= self.delta {
            return None;
        }
        let length = real(crate::units::count(composed.len()));
        let log_scale = log_moment - libm::log(length);
        let inexact = 1.0 + (self.all_steps + 1.0) * (INEXACT + MISPLACED / self.h);
        let (down, kept) = (libm::exp(-self.h), -libm::expm1(-self.h));
        // Of all losses at or above the point k + 1: their chance, and delta at that point.
        let (mut chance, mut beyond) = (0.0, 0.0);
        for (k, weight) in composed.iter().enumerate().rev() {
            let loss = real(crate::units::count(k)) * self.h;
            let below = down * beyond + kept * chance;
            if below + lost > self.delta {
                // Between two grid points delta is chance - e^(epsilon - y) (chance - beyond).
                let past = libm::log((lost + chance - self.delta) / (chance - beyond));
                return Some(loss + self.h + past);
            }
            beyond = below;
            let most = (weight.re.max(0.0) + rounded_off) * inexact;
            chance += most * libm::exp(log_scale - self.tilt * loss);
        }
        Some(0.0)
    }
}

/// Where a function of the tilt that falls and then rises is least, to a few parts in a hundred:
/// golden section over its logarithm.
fn least(function: impl Fn(f64) -> f64) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let at = |log_tilt: f64| function(libm::exp(log_tilt));
    // From 1/1000 to 512.
    let (mut low, mut high) = (-6.9, 6.24);
    let mut left = high - GOLDEN * (high - low);
    let mut right = low + GOLDEN * (high - low);
    let (mut at_left, mut at_right) = (at(left), at(right));
    while high - low > 0.03 {
        // Where nothing is finite, less tilt is.
        if at_left < at_right || !at_right.is_finite() {
            (high, right, at_right) = (right, left, at_left);
            left = high - GOLDEN * (high - low);
            at_left = at(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + GOLDEN * (high - low);
            at_right = at(right);
        }
    }
    libm::exp((low + high) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::accountant::answers;
    use crate::privacy::accountant::vectors::{composition, delta};

    /// D-03: against exact values, made by `known_answers.py`: never below, hardly above.
    #[test]
    fn epsilons_are_above_the_exact_ones_and_close() {
        for (events, at, expected) in answers::PLD_EPSILON {
            let found = epsilon(&composition(events), delta(*at)).expect("within reach").get();
            let slack = 5e-5 * expected.max(SMALL_EPSILON);
            assert!(
                found > expected - 1e-9 && found < expected + slack,
                "{events:?} at {at}: {found}, exactly {expected}"
            );
        }
    }

    /// Neither hardly any noise nor hardly any loss, neither one step nor all that fit a counter,
    /// makes a panic or a figure below nothing.
    #[test]
    fn extremes_stay_on_the_safe_side() {
        for (sigma, q, steps, at) in [
            (f64::MIN_POSITIVE, 0.5, 1, 1e-5),
            (1e-6, 1.0, 1, 1e-5),
            (1e-3, 1e-300, 7, 1e-5),
            (0.05, 1e-9, 1_000, 1e-300),
            (1.0, 1.0 - f64::EPSILON / 2.0, 10, 1e-5),
            (1.0, 5e-324, u64::MAX, 1e-5),
            (30.0, 0.1, u64::MAX, 1e-5),
            (f64::MAX, 1.0, u64::MAX, 1e-12),
            (1e6, 1e-6, 1, 1.0 - f64::EPSILON),
            (1.0, 0.5, 1, 5e-324),
        ] {
            let composition = composition(&[(sigma, q, steps)]);
            if let Some(spent) = epsilon(&composition, delta(at)) {
                assert!(spent.get() >= 0.0, "{sigma} {q} {steps} {at}: {spent}");
            }
        }
    }
}
