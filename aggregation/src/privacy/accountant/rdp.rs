//! Renyi differential privacy of the Poisson-subsampled Gaussian, at integer orders.
//!
//! For order a, rate q and noise s one step costs ([MTZ19] section 3.3)
//!
//! ```text
//! ln( sum over k of C(a, k) (1 - q)^(a - k) q^k exp(k (k - 1) / (2 s^2)) ) / (a - 1)
//! ```
//!
//! for removing a patient, and at most that for adding one. Steps add up, order by order. For the
//! integer mechanism of this crate the formula is exact, not an approximation (PROTOCOL D-01).
//! The terms for k = 0 and 1 carry no loss, and without their losses all terms add up to 1, so
//! the sum is 1 plus positive terms with `exp(..) - 1` in place of `exp(..)`: no digits cancel.
//! Then ([CKS20] proposition 12), for every order (PROTOCOL D-02):
//!
//! ```text
//! epsilon = rdp + ln(1 - 1/a) - ln(delta a) / (a - 1)
//! ```
//!
//! Fractional orders would gain up to a few parts in a hundred for single steps, need an infinite
//! series, and are where a widely used library is wrong; the tighter figure is the
//! [`pld`](super::pld)'s.
//!
//! [MTZ19]: https://arxiv.org/abs/1908.10530
//! [CKS20]: https://arxiv.org/abs/2004.00010

use super::{Composition, Mechanism, Spent, log_sum_exp};
use crate::units::{self, Delta, real};

/// The least order.
pub const LEAST_ORDER: u16 = 2;

/// The greatest order.
pub const GREATEST_ORDER: u16 = 256;

/// How many orders there are.
const ORDERS: usize = (GREATEST_ORDER - LEAST_ORDER + 1) as usize;

/// What was spent so far, at each order: all that this accountant remembers.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    spent: [f64; ORDERS],
}

impl Default for Curve {
    fn default() -> Self {
        Self::new()
    }
}

impl Curve {
    /// Nothing spent.
    #[must_use]
    pub const fn new() -> Self {
        Self { spent: [0.0; ORDERS] }
    }

    /// What a composition spends.
    #[must_use]
    pub fn of(composition: &Composition) -> Self {
        let mut curve = Self::new();
        for (mechanism, steps) in composition.iter() {
            curve.spend(mechanism, steps);
        }
        curve
    }

    /// Adds steps of a mechanism.
    pub fn spend(&mut self, mechanism: Mechanism, steps: u64) {
        if steps > 0 {
            let step = Step::new(mechanism);
            for (spent, order) in self.spent.iter_mut().zip(LEAST_ORDER..) {
                *spent += real(steps) * step.at(order);
            }
        }
    }

    /// Adds what another curve has spent.
    pub fn absorb(&mut self, other: &Self) {
        for (spent, more) in self.spent.iter_mut().zip(&other.spent) {
            *spent += more;
        }
    }

    /// The Renyi divergence bound at one order, if it is one of ours.
    #[must_use]
    pub fn at(&self, order: u16) -> Option<f64> {
        self.spent.get(usize::from(order.checked_sub(LEAST_ORDER)?)).copied()
    }

    /// The least epsilon that any order gives at this delta; nothing if nothing was spent.
    #[must_use]
    pub fn epsilon(&self, delta: Delta) -> Spent {
        if self.spent.iter().all(|spent| *spent <= 0.0) {
            return Spent::NOTHING;
        }
        let log_delta = libm::log(delta.get());
        let mut least = f64::INFINITY;
        for (spent, order) in self.spent.iter().zip(LEAST_ORDER..) {
            let order = f64::from(order);
            let epsilon =
                spent + libm::log1p(-1.0 / order) - (log_delta + libm::log(order)) / (order - 1.0);
            least = least.min(epsilon);
        }
        Spent::at_least_nothing(least)
    }
}

/// What of one step's divergence does not depend on the order.
struct Step {
    /// 1 / (2 s^2).
    half_precision: f64,
    /// Nothing when everybody takes part.
    sampled: Option<Sampled>,
}

/// Logarithms for a sampled step.
struct Sampled {
    log_in: f64,
    log_out: f64,
    /// ln(exp(k (k - 1) / (2 s^2)) - 1).
    log_gain: [f64; TERMS],
    /// ln(k!).
    log_factorial: [f64; TERMS],
}

/// Terms of the sum at the greatest order.
const TERMS: usize = GREATEST_ORDER as usize + 1;

impl Step {
    fn new(mechanism: Mechanism) -> Self {
        let (sigma, q) = (mechanism.sigma(), mechanism.rate().get());
        let half_precision = 0.5 / (sigma * sigma);
        let sampled = (q < 1.0).then(|| {
            let mut log_gain = [f64::NEG_INFINITY; TERMS];
            let mut log_factorial = [0.0; TERMS];
            for k in 2..TERMS {
                let count = real(units::count(k));
                let loss = count * (count - 1.0) * half_precision;
                log_gain[k] = loss + libm::log(-libm::expm1(-loss));
                log_factorial[k] = log_factorial[k - 1] + libm::log(count);
            }
            Sampled { log_in: libm::log(q), log_out: libm::log1p(-q), log_gain, log_factorial }
        });
        Self { half_precision, sampled }
    }

    /// The divergence at one order.
    fn at(&self, order: u16) -> f64 {
        let a = f64::from(order);
        let Some(sampled) = &self.sampled else { return a * self.half_precision };
        let terms = usize::from(order) + 1;
        let mut logs = [f64::NEG_INFINITY; TERMS];
        for (k, log) in (0..=order).zip(&mut logs).skip(2) {
            let (inside, outside) = (usize::from(k), usize::from(order - k));
            let k = f64::from(k);
            let choose = sampled.log_factorial[usize::from(order)]
                - sampled.log_factorial[inside]
                - sampled.log_factorial[outside];
            *log =
                choose + (a - k) * sampled.log_out + k * sampled.log_in + sampled.log_gain[inside];
        }
        let sum = log_sum_exp(&logs[..terms]);
        // ln(1 + e^sum)
        let log_moment = if sum > 0.0 {
            sum + libm::log1p(libm::exp(-sum))
        } else {
            libm::log1p(libm::exp(sum))
        };
        log_moment / (a - 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::accountant::answers;
    use crate::privacy::accountant::vectors::{composition, delta, mechanism};

    /// Made by `known_answers.py` with mpmath at 300 bits.
    #[test]
    fn single_orders_are_exact() {
        for &(sigma, q, order, expected) in answers::RDP {
            let curve = Curve::of(&composition(&[(sigma, q, 1)]));
            let found = curve.at(order).expect("one of our orders");
            assert!((found / expected - 1.0).abs() < 2e-12, "{sigma} {q} {order}: {found}");
        }
    }

    /// Made by `known_answers.py` with mpmath at 300 bits.
    #[test]
    fn epsilons_are_exact() {
        for (events, at, expected) in answers::RDP_EPSILON {
            let found = Curve::of(&composition(events)).epsilon(delta(*at)).get();
            assert!((found / expected - 1.0).abs() < 2e-12, "{events:?}: {found}, {expected}");
        }
    }

    #[test]
    fn spending_adds_up_in_any_order_and_never_shrinks() {
        let (a, b) = (mechanism(1.0, 0.01), mechanism(2.0, 0.5));
        let mut forth = Curve::new();
        forth.spend(a, 10);
        forth.spend(b, 3);
        let mut back = Curve::new();
        back.spend(b, 3);
        let before = back.epsilon(delta(1e-5));
        back.spend(a, 10);
        assert!(before < back.epsilon(delta(1e-5)));
        assert_eq!(forth, back);
        let mut absorbed = Curve::new();
        absorbed.absorb(&forth);
        absorbed.spend(a, 0);
        assert_eq!(absorbed, forth);
        assert_eq!(Curve::new().epsilon(delta(1e-5)), Spent::NOTHING);
        assert_eq!(forth.at(1), None);
        assert_eq!(forth.at(257), None);
    }

    /// Hardly any noise has no bound; hardly any loss costs next to nothing; neither panics.
    #[test]
    fn extremes_stay_on_the_safe_side() {
        for q in [1e-300, 1e-9, 0.5, 1.0] {
            for sigma in [f64::MIN_POSITIVE, 1e-6, 1.0, 1e6, f64::MAX] {
                for steps in [1, u64::MAX] {
                    let spent = Curve::of(&composition(&[(sigma, q, steps)])).epsilon(delta(1e-9));
                    assert!(spent.get() >= 0.0, "{sigma} {q} {steps}: {spent}");
                }
            }
        }
        let unbounded = Curve::of(&composition(&[(f64::MIN_POSITIVE, 0.5, 1)]));
        assert_eq!(unbounded.epsilon(delta(0.1)), Spent::UNBOUNDED);
    }
}
