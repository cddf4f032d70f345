//! What one upload costs, in integers, so that everyone who reads it computes the same.
//!
//! The noise multiplier is kept in units of 2^-32 and rounded down, the sampling rate in units of
//! 2^-63 and rounded up: what is counted is never less than what was done (PROTOCOL D-19).

use super::accountant::{Accountant, Composition, Mechanism, Spent};
use crate::units::{Delta, NoiseMultiplier, SamplingRate, real};

/// Units of a noise multiplier, as a power of two.
const NOISE_BITS: u32 = 32;

/// Units of a sampling rate, as a power of two.
const RATE_BITS: u32 = 63;

/// Distance from ideal of one draw from the table: below 2 to the minus this.
const DRAW_BITS: i32 = 116;

/// The part of delta set aside for the sampler's distance from the ideal one: 2^-20.
const SET_ASIDE: f64 = 1.0 / 1_048_576.0;

/// Who adds how much noise, and so against whom epsilon holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Every site adds its share; the planned epsilon holds against the coordinator together with
    /// the tolerated number of sites.
    Distributed,
    /// Every site adds all of the noise; epsilon holds against everybody else.
    Silo,
}

impl Mode {
    /// The name that people type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Distributed => "distributed",
            Self::Silo => "silo",
        }
    }
}

/// Why numbers are not a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCharge {
    /// No noise that can be counted.
    #[error("the noise multiplier must be at least 2^-32; found less")]
    Noise,
    /// Not a rate.
    #[error("the sampling rate must be from 1 to 2^63 units of 2^-63; found {found}")]
    Rate {
        /// What was found.
        found: u64,
    },
    /// Nothing done.
    #[error("at least one step was expected; found none")]
    NoSteps,
    /// Shares that do not fit the mode.
    #[error("the honest shares of {mode} noise must be {expected}; found {found}")]
    Shares {
        /// The mode's name.
        mode: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What was found.
        found: u16,
    },
}

/// One upload's cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    mode: Mode,
    noise: u64,
    rate: u64,
    honest: u16,
    steps: u32,
    draws: u64,
}

/// The numbers of a charge as they are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChargeParts {
    /// Who adds how much.
    pub mode: Mode,
    /// The noise multiplier that the accountant is given, in units of 2^-32.
    pub noise: u64,
    /// The sampling rate in units of 2^-63.
    pub rate: u64,
    /// Noise shares that are always present: h. One in `silo` mode.
    pub honest: u16,
    /// Noised steps behind the upload.
    pub steps: u32,
    /// Draws from the noise table in the sum that is released; each adds at most 2^-116 to the
    /// distance from ideal noise.
    pub draws: u64,
}

impl Charge {
    /// Rounds a real noise multiplier and rate to the safe side.
    ///
    /// # Errors
    /// When the noise is below the least unit, there are no steps, or the shares do not fit.
    pub(in crate::privacy) fn new(
        mode: Mode,
        noise: NoiseMultiplier,
        rate: SamplingRate,
        honest: u16,
        steps: u32,
        draws: u64,
    ) -> Result<Self, BadCharge> {
        let noise = libm::floor(noise.get() * unit(NOISE_BITS));
        let rate = libm::ceil(rate.get() * unit(RATE_BITS));
        Self::from_parts(ChargeParts {
            mode,
            noise: whole(noise),
            rate: whole(rate),
            honest,
            steps,
            draws,
        })
    }

    /// Takes the numbers as they were written down.
    ///
    /// # Errors
    /// When they are outside of what each can be.
    pub const fn from_parts(parts: ChargeParts) -> Result<Self, BadCharge> {
        let ChargeParts { mode, noise, rate, honest, steps, draws } = parts;
        if noise == 0 {
            return Err(BadCharge::Noise);
        }
        if rate == 0 || rate > 1 << RATE_BITS {
            return Err(BadCharge::Rate { found: rate });
        }
        if steps == 0 {
            return Err(BadCharge::NoSteps);
        }
        let expected = match mode {
            Mode::Distributed if honest < 2 => Some("two or more"),
            Mode::Silo if honest != 1 => Some("exactly one"),
            Mode::Distributed | Mode::Silo => None,
        };
        if let Some(expected) = expected {
            return Err(BadCharge::Shares { mode: mode.name(), expected, found: honest });
        }
        Ok(Self { mode, noise, rate, honest, steps, draws })
    }

    /// The numbers to write down.
    #[must_use]
    pub const fn parts(&self) -> ChargeParts {
        let Self { mode, noise, rate, honest, steps, draws } = *self;
        ChargeParts { mode, noise, rate, honest, steps, draws }
    }

    /// The mechanism that the coordinator and the tolerated sites together see.
    #[must_use]
    pub fn planned(&self) -> Mechanism {
        self.mechanism(1.0)
    }

    /// The mechanism that is left when everybody else colludes: one share of the noise.
    #[must_use]
    pub fn solo(&self) -> Mechanism {
        self.mechanism(libm::sqrt(f64::from(self.honest)))
    }

    fn mechanism(&self, share: f64) -> Mechanism {
        let noise = NoiseMultiplier::new(real(self.noise) / unit(NOISE_BITS) / share);
        let rate = SamplingRate::new(real(self.rate) / unit(RATE_BITS));
        Mechanism::new(
            noise.expect("at least one unit, of at most 2^64"),
            rate.expect("from 1 to 2^63 units of 2^-63"),
        )
    }
}

/// Many charges: what was done to a patient's records, by either count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spending {
    planned: Composition,
    solo: Composition,
    draws: u128,
}

/// An epsilon by either count.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Figures {
    /// Against the coordinator and the tolerated sites.
    pub planned: Spent,
    /// Against everybody else together.
    pub solo: Spent,
}

impl Spending {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { planned: Composition::new(), solo: Composition::new(), draws: 0 }
    }

    /// Adds a charge, so many times.
    pub fn add(&mut self, charge: &Charge, times: u32) {
        let steps = u64::from(charge.steps) * u64::from(times);
        self.planned.add(charge.planned(), steps);
        self.solo.add(charge.solo(), steps);
        let draws = u128::from(charge.draws).saturating_mul(u128::from(times));
        self.draws = self.draws.saturating_add(draws);
    }

    /// Epsilon at this delta, the sampler's imperfection included.
    ///
    /// Noise that is at a distance g from ideal noise is (e, d + (1 + exp e) g)-private where
    /// ideal noise is (e, d)-private. A part of delta is set aside for that; where it does not
    /// suffice nothing is promised (PROTOCOL D-20).
    #[must_use]
    pub fn epsilon(&self, accountant: Accountant, delta: Delta) -> Figures {
        Figures { planned: self.planned(accountant, delta), solo: self.solo(accountant, delta) }
    }

    /// The planned figure alone.
    #[must_use]
    pub fn planned(&self, accountant: Accountant, delta: Delta) -> Spent {
        self.count(&self.planned, accountant, delta)
    }

    /// The solo figure alone.
    #[must_use]
    pub fn solo(&self, accountant: Accountant, delta: Delta) -> Spent {
        self.count(&self.solo, accountant, delta)
    }

    fn count(&self, composition: &Composition, accountant: Accountant, delta: Delta) -> Spent {
        let for_noise = Delta::new(delta.get() * (1.0 - SET_ASIDE));
        let Ok(for_noise) = for_noise else { return Spent::UNBOUNDED };
        let spent = accountant.epsilon(composition, for_noise);
        #[expect(clippy::cast_precision_loss, reason = "an upper bound to a few digits")]
        let distance = libm::ldexp(self.draws as f64, -DRAW_BITS);
        let needed = distance * (1.0 + libm::exp(spent.get()));
        if needed <= delta.get() * SET_ASIDE { spent } else { Spent::UNBOUNDED }
    }
}

/// So many bits' worth of units.
const fn unit(bits: u32) -> f64 {
    real(1 << bits)
}

/// A rounded number that is not negative as an integer; the greatest one when it is too large.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and the callers round and stay positive"
)]
const fn whole(rounded: f64) -> u64 {
    rounded as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(mode: Mode, noise: f64, rate: f64, honest: u16) -> Result<Charge, BadCharge> {
        let noise = NoiseMultiplier::new(noise).expect("noise");
        let rate = SamplingRate::new(rate).expect("a rate");
        Charge::new(mode, noise, rate, honest, 1, 1_000)
    }

    fn delta() -> Delta {
        Delta::new(1e-5).expect("a delta")
    }

    /// D-19: integers never promise more than the numbers that they stand for.
    #[test]
    fn rounding_is_never_to_the_patients_disadvantage() {
        for (noise, rate) in [(1.0, 1.0), (0.7, 0.1), (1.234_567_891, 1e-18), (3e5, 0.999_999)] {
            let charge = charge(Mode::Silo, noise, rate, 1).expect("a charge");
            let counted = charge.planned();
            assert!(counted.noise().get() <= noise);
            assert!(counted.noise().get() > noise - 1e-9);
            assert!(counted.rate().get() >= rate);
            assert!(counted.rate().get() <= rate + 1.1e-19);
            assert_eq!(Charge::from_parts(charge.parts()), Ok(charge));
        }
        // What was rounded once stays as it is.
        let once = charge(Mode::Silo, 0.7, 0.1, 1).expect("a charge");
        let (noise, rate) = (once.planned().noise(), once.planned().rate());
        assert_eq!(Charge::new(Mode::Silo, noise, rate, 1, 1, 1_000), Ok(once));
    }

    #[test]
    fn impossible_charges_are_refused() {
        assert_eq!(charge(Mode::Silo, 1e-12, 0.1, 1), Err(BadCharge::Noise));
        assert!(charge(Mode::Silo, 1.0, 0.1, 2).is_err());
        assert!(charge(Mode::Distributed, 1.0, 0.1, 1).is_err());
        let good = charge(Mode::Distributed, 1.0, 0.1, 4).expect("a charge").parts();
        assert!(Charge::from_parts(ChargeParts { rate: 0, ..good }).is_err());
        assert!(Charge::from_parts(ChargeParts { rate: (1 << 63) + 1, ..good }).is_err());
        assert!(Charge::from_parts(ChargeParts { rate: 1 << 63, ..good }).is_ok());
        assert_eq!(Charge::from_parts(ChargeParts { steps: 0, ..good }), Err(BadCharge::NoSteps));
        let text = charge(Mode::Silo, 1.0, 0.1, 3).map_err(|e| e.to_string());
        assert_eq!(
            text,
            Err("the honest shares of silo noise must be exactly one; found 3".to_owned())
        );
    }

    #[test]
    fn alone_there_is_one_share_of_the_noise() {
        let charge = charge(Mode::Distributed, 2.0, 0.1, 4).expect("a charge");
        assert!((charge.solo().noise().get() - 1.0).abs() < 1e-12);
        let mut spending = Spending::new();
        spending.add(&charge, 100);
        let figures = spending.epsilon(Accountant::Rdp, delta());
        assert!(figures.solo > figures.planned);
        let mut silo = Spending::new();
        silo.add(&self::charge(Mode::Silo, 2.0, 0.1, 1).expect("a charge"), 100);
        let silo = silo.epsilon(Accountant::Rdp, delta());
        assert_eq!(silo.planned, silo.solo);
        assert_eq!(silo.planned, figures.planned);
        assert_eq!(Spending::new().epsilon(Accountant::Pld, delta()).solo, Spent::NOTHING);
    }

    /// D-20: a sampler used too often for the delta promises nothing.
    #[test]
    fn an_imperfect_sampler_is_counted() {
        let good = charge(Mode::Silo, 2.0, 0.1, 1).expect("a charge");
        let worn = Charge::from_parts(ChargeParts { draws: u64::MAX, ..good.parts() });
        let mut spending = Spending::new();
        spending.add(&worn.expect("a charge"), u32::MAX / 2);
        // 2^64 draws, 2^31 times, at 2^-116 each, is 2^-21: more than a millionth of delta.
        assert_eq!(spending.epsilon(Accountant::Rdp, delta()).planned, Spent::UNBOUNDED);
        let mut spending = Spending::new();
        spending.add(&good, 10);
        assert!(spending.epsilon(Accountant::Rdp, delta()).planned.get() < 10.0);
    }
}
