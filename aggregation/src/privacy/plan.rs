//! From what a study asks for to the numbers that each site works with.
//!
//! A plan is computed once, from what every site signed, and by every site for itself: the share
//! of the noise, the step of the grid, the clamp, the modulus, what the accountant is told, and
//! the epsilon at the end, planned and solo. Nothing of it is ever read from a message. Who is
//! there, and how many of the noise shares always are, is told by
//! [`Thresholds`], whose [`honest`](Thresholds::honest) is m - t and nothing else: nobody divides by
//! the number of sites, or of those who came (PROTOCOL D-13).
//!
//! With z the noise multiplier, C the clipping norm, h the honest shares and s the step, one
//! share has standard deviation `z C / sqrt(h)` (`z C` in `silo` mode, h being 1), which is
//! [`SIGMA_FINE`] steps. The accountant is told less than z (PROTOCOL D-12):
//!
//! ```text
//! z_acc = sqrt(h) SIGMA_FINE sqrt(1 - 6.25 / (256 h)) / ((C / s) (1 + 2^-7) + sqrt(d))
//! ```
//!
//! `sqrt(d)` pays for rounding sums to the grid, 2^-7 for clipping in 32-bit floats, and
//! `6.25 / (256 h)` for releasing a sum of shares of which each lost its low bits; in `silo` mode
//! dropping bits is post-processing and costs nothing (PROTOCOL-NOTES section 4.2).
//!
//! A `silo` round of several steps noises each of them; the trainer takes every noised sum back to
//! reals ([`FineGrid::real`]) and goes on with it, and what it uploads in the end is post-processing,
//! in the format of a study without noise. Grid, clamp and modulus are then those of the steps.

use super::accountant::solve::{self, Unsolvable};
use super::accountant::{Accountant, Mechanism};
use super::charge::{BadCharge, Charge, Figures, Mode, Spending};
use super::grid::{FineGrid, SIGMA_FINE};
use super::noise::{Clamp, DRAWS_PER_COORDINATE};
use crate::keys::thresholds::Thresholds;
use crate::masking::group::Modulus;
use crate::units::{ClipNorm, Delta, Epsilon, NoiseMultiplier, SamplingRate, real};

/// Slack for clipping and summing in 32-bit floats.
const FLOAT_SLACK: f64 = 1.0 / 128.0;

/// Price of dropped low bits, in wire units squared: 2.5^2, of 16^2 h.
const COSET: f64 = 6.25 / 256.0;

/// Room in each lane beyond the clamp, in wire units: the noise's greatest value is 219.4, and
/// rounding adds at most a half.
const NOISE_ROOM: u32 = 221;

/// Solved noise multipliers are multiples of one over this.
const NOISE_GRID: f64 = 1_048_576.0;

/// Why there is no plan.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum BadPlan {
    /// A model without parameters.
    #[error("a model has at least one parameter; found none")]
    NoParameters,
    /// A study without rounds, or rounds without steps.
    #[error("at least one round of at least one step was expected; found {rounds} of {steps}")]
    NoSteps {
        /// The rounds.
        rounds: u32,
        /// The steps in each.
        steps: u32,
    },
    /// Steps that would go without noise.
    #[error("in distributed mode a round is one step; found {found}")]
    UnnoisedSteps {
        /// The steps in a round.
        found: u32,
    },
    /// No patient is expected to take part.
    #[error("room for at least one patient's gradient was expected; found none")]
    NoPatients,
    /// Noise and clipping norm beyond what the grid can express.
    #[error("a noise of standard deviation {found} has no grid; it must be an ordinary number")]
    NoGrid {
        /// The standard deviation of one share.
        found: f64,
    },
    /// Rounding so many parameters costs more than the target leaves.
    #[error(
        "rounding {parameters} parameters to the grid allows a noise multiplier of at most {most}; {needed} is needed"
    )]
    TooManyParameters {
        /// The model's parameters.
        parameters: u64,
        /// What can be reached.
        most: f64,
        /// What is needed.
        needed: NoiseMultiplier,
    },
    /// The sampler's distance from ideal noise does not fit into its part of delta (PROTOCOL D-20).
    #[error(
        "{rounds} rounds of {draws} draws from the noise table are too far from ideal noise for epsilon {target} at delta {delta}"
    )]
    Sampler {
        /// The draws of a round.
        draws: u64,
        /// The rounds.
        rounds: u32,
        /// The epsilon that was asked for.
        target: Epsilon,
        /// The delta that was asked for.
        delta: Delta,
    },
    /// No noise meets the target.
    #[error(transparent)]
    Unsolvable(#[from] Unsolvable),
    /// Numbers that no ledger could hold.
    #[error(transparent)]
    Charge(#[from] BadCharge),
}

/// How much noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Calibration {
    /// So much.
    Multiplier(NoiseMultiplier),
    /// As little as keeps the planned epsilon at or below this, by this accountant.
    Target(Epsilon, Accountant),
}

/// What a study asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// Who adds how much of the noise.
    pub mode: Mode,
    /// How many sites there are, how many are in the smallest sum, and how many may collude.
    pub thresholds: Thresholds,
    /// How much noise.
    pub calibration: Calibration,
    /// The probability with which a patient takes part in a step: q.
    pub rate: SamplingRate,
    /// The failure probability over the whole study.
    pub delta: Delta,
    /// The clipping norm: C.
    pub clip: ClipNorm,
    /// Rounds of the study.
    pub rounds: u32,
    /// Noised steps in a round; one in `distributed` mode.
    pub steps_per_round: u32,
    /// The model's parameters: d.
    pub parameters: u64,
    /// Patients whose clipped gradients may all point along one coordinate before it is clamped:
    /// B, usually the batch that a site expects.
    pub patients: u32,
}

/// The numbers that everybody works with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    wanted: Wanted,
    noise: NoiseMultiplier,
    grid: FineGrid,
    clamp: Clamp,
    modulus: Modulus,
    charge: Charge,
}

impl Plan {
    /// Works it out.
    ///
    /// # Errors
    /// When the study asks for what cannot be had; the reason names what was found and what would
    /// do.
    pub fn new(wanted: &Wanted) -> Result<Self, BadPlan> {
        let Wanted { mode, thresholds, rounds, steps_per_round, parameters, patients, .. } =
            *wanted;
        if parameters == 0 {
            return Err(BadPlan::NoParameters);
        }
        if rounds == 0 || steps_per_round == 0 {
            return Err(BadPlan::NoSteps { rounds, steps: steps_per_round });
        }
        if patients == 0 {
            return Err(BadPlan::NoPatients);
        }
        let shares = match mode {
            Mode::Distributed if steps_per_round > 1 => {
                return Err(BadPlan::UnnoisedSteps { found: steps_per_round });
            }
            Mode::Distributed => thresholds.honest(),
            Mode::Silo => 1,
        };
        let geometry = Geometry { mode, shares: f64::from(shares), parameters };
        let noise = match wanted.calibration {
            Calibration::Multiplier(noise) => noise,
            Calibration::Target(target, accountant) => {
                geometry.solve(wanted, target, accountant, shares)?
            }
        };
        let sigma_share = noise.get() * wanted.clip.get() / libm::sqrt(geometry.shares);
        let grid =
            FineGrid::for_noise(sigma_share).ok_or(BadPlan::NoGrid { found: sigma_share })?;
        let (clamp, modulus) =
            lanes(thresholds.provisioned(), geometry.per_patient(noise), patients);
        let charge = geometry.charge(wanted, geometry.accounted(noise), shares)?;
        Ok(Self { wanted: *wanted, noise, grid, clamp, modulus, charge })
    }

    /// What was asked for.
    #[must_use]
    pub const fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The noise multiplier z.
    #[must_use]
    pub const fn noise(&self) -> NoiseMultiplier {
        self.noise
    }

    /// The standard deviation of the noise that one site adds.
    #[must_use]
    pub fn sigma_share(&self) -> f64 {
        self.grid.step() * SIGMA_FINE
    }

    /// The grid of the sums.
    #[must_use]
    pub const fn grid(&self) -> FineGrid {
        self.grid
    }

    /// The clamp of each coordinate: L.
    #[must_use]
    pub const fn clamp(&self) -> Clamp {
        self.clamp
    }

    /// The greatest size of one site's lane, in wire units: the clamp, and all noise and rounding
    /// beyond it.
    #[must_use]
    pub const fn greatest(&self) -> u32 {
        self.clamp.wire_units() + NOISE_ROOM
    }

    /// The noise in a sum over so many sites, as a multiple of the clipping norm: each adds a share
    /// of its own. None of a round of several steps, whose noise is in each step and not in the sum.
    #[must_use]
    pub fn noise_in_sum(&self, sites: u32) -> Option<f64> {
        let one = self.sigma_share() / self.wanted.clip.get();
        (self.wanted.steps_per_round == 1).then(|| one * libm::sqrt(f64::from(sites)))
    }

    /// The group that the lanes are added in.
    #[must_use]
    pub const fn modulus(&self) -> Modulus {
        self.modulus
    }

    /// What one round costs each site.
    #[must_use]
    pub const fn charge(&self) -> &Charge {
        &self.charge
    }

    /// What the accountant is told: z_acc, as the ledger keeps it.
    #[must_use]
    pub fn accounted(&self) -> Mechanism {
        self.charge.planned()
    }

    /// What so many rounds spend.
    #[must_use]
    pub fn spending(&self, rounds: u32) -> Spending {
        let mut spending = Spending::new();
        spending.add(&self.charge, rounds);
        spending
    }

    /// The epsilon of the whole study.
    #[must_use]
    pub fn epsilon(&self, accountant: Accountant) -> Figures {
        self.spending(self.wanted.rounds).epsilon(accountant, self.wanted.delta)
    }
}

/// How noise multipliers and what is accounted for hang together.
struct Geometry {
    mode: Mode,
    shares: f64,
    parameters: u64,
}

impl Geometry {
    /// A patient's clipping norm in fine units: C / s.
    fn clip_in_steps(&self, noise: NoiseMultiplier) -> f64 {
        SIGMA_FINE * libm::sqrt(self.shares) / noise.get()
    }

    /// The same in wire units.
    fn per_patient(&self, noise: NoiseMultiplier) -> f64 {
        self.clip_in_steps(noise) / 65_536.0
    }

    /// All noise that is always there, in fine units, less the price of dropped bits.
    fn effective_noise(&self) -> f64 {
        let kept = match self.mode {
            Mode::Distributed => libm::sqrt(1.0 - COSET / self.shares),
            Mode::Silo => 1.0,
        };
        SIGMA_FINE * libm::sqrt(self.shares) * kept
    }

    /// z_acc; not positive where it would be absurdly small.
    fn accounted(&self, noise: NoiseMultiplier) -> f64 {
        let sensitivity =
            self.clip_in_steps(noise) * (1.0 + FLOAT_SLACK) + libm::sqrt(real(self.parameters));
        self.effective_noise() / sensitivity
    }

    fn charge(&self, wanted: &Wanted, accounted: f64, shares: u16) -> Result<Charge, BadPlan> {
        let accounted = NoiseMultiplier::new(accounted).map_err(|_| BadCharge::Noise)?;
        let (steps, draws) = (wanted.steps_per_round, self.draws(wanted));
        Ok(Charge::new(self.mode, accounted, wanted.rate, shares, steps, draws)?)
    }

    /// Draws from the noise table in one round's sum: every site's noise is in it, and every step
    /// draws it anew.
    fn draws(&self, wanted: &Wanted) -> u64 {
        let factors = [
            DRAWS_PER_COORDINATE,
            u64::from(wanted.thresholds.provisioned()),
            u64::from(wanted.steps_per_round),
        ];
        factors.into_iter().fold(self.parameters, u64::saturating_mul)
    }

    /// The least multiplier whose planned epsilon keeps the target.
    fn solve(
        &self,
        wanted: &Wanted,
        target: Epsilon,
        accountant: Accountant,
        shares: u16,
    ) -> Result<NoiseMultiplier, BadPlan> {
        let steps = u64::from(wanted.rounds) * u64::from(wanted.steps_per_round);
        let needed = solve::noise_multiplier(accountant, target, wanted.delta, wanted.rate, steps)?;
        let most = self.effective_noise() / libm::sqrt(real(self.parameters));
        let too_many = BadPlan::TooManyParameters { parameters: self.parameters, most, needed };
        let (mut goal, mut more) = (needed.get(), 1e-6);
        // Integers in the ledger and the sampler's part of delta cost a few parts in a million
        // that the solver does not know of; the figure that counts is the ledger's.
        for _ in 0..20 {
            let inverse = self.effective_noise() / goal - libm::sqrt(real(self.parameters));
            let noise = SIGMA_FINE * libm::sqrt(self.shares) * (1.0 + FLOAT_SLACK) / inverse;
            let noise = NoiseMultiplier::new(libm::ceil(noise * NOISE_GRID) / NOISE_GRID);
            let noise = noise.map_err(|_| too_many)?;
            let charge = self.charge(wanted, self.accounted(noise), shares)?;
            let mut spending = Spending::new();
            spending.add(&charge, wanted.rounds);
            let reached = spending.planned(accountant, wanted.delta);
            if reached.within(target) {
                return Ok(noise);
            }
            goal *= 1.0 + more;
            more *= 2.0;
        }
        let (rounds, draws) = (wanted.rounds, self.draws(wanted));
        Err(BadPlan::Sampler { draws, rounds, target, delta: wanted.delta })
    }
}

/// The clamp that costs nobody anything, or the largest that the widest lanes have room for, and
/// the narrowest lanes in which no sum can wrap: `2^b >= 2 n (L + 221)` (PROTOCOL D-14).
fn lanes(sites: u16, per_patient: f64, patients: u32) -> (Clamp, Modulus) {
    let sites = u64::from(sites);
    let half = |modulus: Modulus| 1_u64 << (modulus.bits() - 1);
    // 65,535 sites leave room for 32,547 in 32 bits.
    let room = u64::from(NOISE_ROOM);
    let greatest = half(Modulus::Bits32) / sites - room;
    let wanted = libm::ceil(per_patient * f64::from(patients));
    let limit = if wanted < real(greatest) { positive(wanted) } else { greatest };
    let modulus = Modulus::ALL
        .into_iter()
        .find(|modulus| half(*modulus) >= sites * (limit + room))
        .unwrap_or(Modulus::Bits32);
    let limit = u32::try_from(limit).ok().and_then(Clamp::new);
    (limit.expect("from 1 to 2^31 / 3"), modulus)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rounded positive number below 2^31"
)]
const fn positive(rounded: f64) -> u64 {
    let limit = rounded as u64;
    if limit == 0 { 1 } else { limit }
}

#[cfg(test)]
mod tests;
