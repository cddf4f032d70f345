//! The grid between real numbers and lanes.
//!
//! A coordinate in `-range..=range` becomes one of `2 L + 1` integers, `L` being the greatest with
//! `2^b > 2 n L` for n sites: however the sites choose, their sum cannot wrap (PROTOCOL R-10). The
//! same input gives the same lanes on every machine: only additions, multiplications and divisions
//! of IEEE 754 are used, rounding to the nearest, ties to even.

use crate::masking::group::Modulus;

/// Steps to either side that a grid should have before a larger modulus is taken: one part in
/// 131,071 of the range, so rounding stays far below the noise of stochastic training. 24 bits
/// give it to 64 sites, 32 bits to 16,384; more sites share a coarser grid, but average it out.
const FINE_ENOUGH: u32 = (1 << 17) - 1;

/// 1.5 * 2^52. Added to a number below 2^31 in size it leaves no room for a fraction, so the sum
/// is rounded to an integer, in two's complement in the low bits. Unlike `round`, every compiler
/// target turns this into plain vector instructions.
const ROUNDER: f64 = 6_755_399_441_055_744.0;

/// A grid: how reals in a range become integers that may be added up by a number of sites.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    modulus: Modulus,
    clamp: u32,
    step: f64,
}

impl Grid {
    /// The grid for coordinates in `-range..=range` and so many sites, or none when the sites are
    /// too many for even the largest group or the range is not a positive number.
    #[must_use]
    pub fn for_sites(range: f64, sites: u32) -> Option<Self> {
        let fitting =
            Modulus::ALL.into_iter().find(|modulus| clamp(*modulus, sites) >= FINE_ENOUGH);
        Self::with_modulus(fitting.unwrap_or(Modulus::Bits32), range, sites)
    }

    /// The finest grid within one modulus.
    #[must_use]
    pub fn with_modulus(modulus: Modulus, range: f64, sites: u32) -> Option<Self> {
        let clamp = clamp(modulus, sites);
        let step = range / f64::from(clamp);
        (clamp > 0 && step.is_normal() && step > 0.0).then_some(Self { modulus, clamp, step })
    }

    /// The group that the lanes belong to.
    #[must_use]
    pub const fn modulus(&self) -> Modulus {
        self.modulus
    }

    /// The greatest integer that one site's coordinate becomes: L.
    #[must_use]
    pub const fn clamp(&self) -> u32 {
        self.clamp
    }

    /// What one step of the grid stands for.
    #[must_use]
    pub const fn step(&self) -> f64 {
        self.step
    }

    /// The lane for a coordinate, and whether it had to be clamped. Infinite coordinates clamp;
    /// what is not a number must be kept out by the caller.
    #[must_use]
    pub fn lane(&self, coordinate: f64) -> (u32, bool) {
        let limit = f64::from(self.clamp);
        let wanted = coordinate / self.step;
        let held = wanted.clamp(-limit, limit);
        // Past half a step beyond the limit something is lost; up to there it is rounding.
        (low_word(held + ROUNDER), wanted.abs() > limit + 0.5)
    }

    /// The coordinate that a lane, or a sum of lanes, stands for.
    #[must_use]
    pub fn coordinate(&self, lane: u32) -> f64 {
        f64::from(self.modulus.signed(lane)) * self.step
    }
}

/// The greatest L with `2^b > 2 n L`: all sites at +L reach at most 2^(b-1) - 1.
const fn clamp(modulus: Modulus, sites: u32) -> u32 {
    let half = (1_u32 << (modulus.bits() - 1)) - 1;
    match half.checked_div(sites) {
        Some(clamp) => clamp,
        None => 0,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low 32 bits of the significand are what is wanted"
)]
const fn low_word(value: f64) -> u32 {
    value.to_bits() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearsal::Seeded;

    /// Breaks R-10: all sites at the clamp, on either side, for every number of sites and modulus.
    #[test]
    fn a_sum_of_extremes_does_not_wrap() {
        for modulus in Modulus::ALL {
            for sites in (1..=300).chain([1_000, 16_000, 32_767]) {
                let grid =
                    Grid::with_modulus(modulus, 1.0, sites).expect("there is room for so many");
                for extreme in [1.0, -1.0, 1e300, f64::NEG_INFINITY] {
                    let (lane, _) = grid.lane(extreme);
                    let sum = lane.wrapping_mul(sites);
                    let exact = i128::from(modulus.signed(lane)) * i128::from(sites);
                    assert_eq!(
                        i128::from(modulus.signed(sum)),
                        exact,
                        "{modulus:?}, {sites} sites"
                    );
                    assert_eq!(exact.unsigned_abs(), u128::from(grid.clamp()) * u128::from(sites));
                }
                // One step more would be one too many: the bound is tight.
                assert!(
                    u64::from(grid.clamp() + 1) * u64::from(sites)
                        > (1 << (modulus.bits() - 1)) - 1
                );
            }
        }
    }

    #[test]
    fn the_modulus_follows_from_the_number_of_sites() {
        let modulus = |sites| Grid::for_sites(0.5, sites).map(|grid| grid.modulus());
        assert_eq!(modulus(1), Some(Modulus::Bits24));
        assert_eq!(modulus(64), Some(Modulus::Bits24));
        assert_eq!(modulus(65), Some(Modulus::Bits32));
        assert_eq!(modulus(38_000), Some(Modulus::Bits32));
        assert_eq!(modulus(0), None);
        assert_eq!(Grid::for_sites(f64::NAN, 3), None);
        assert_eq!(Grid::for_sites(0.0, 3), None);
        assert_eq!(Grid::for_sites(-1.0, 3), None);
        assert_eq!(Grid::with_modulus(Modulus::Bits16, 1.0, 40_000), None);
    }

    #[test]
    fn rounding_is_to_the_nearest_step() {
        let grid = Grid::with_modulus(Modulus::Bits24, 1.0, 5).expect("five sites fit");
        let mut seeded = Seeded::new(9);
        for _ in 0..20_000 {
            let coordinate = seeded.signed() * 1.1;
            let (lane, saturated) = grid.lane(coordinate);
            let back = grid.coordinate(lane);
            if coordinate.abs() <= 1.0 {
                assert!(!saturated);
                assert!(
                    (back - coordinate).abs() <= grid.step() * 0.500_001,
                    "{coordinate} became {back}"
                );
            } else {
                assert!((back.abs() - 1.0).abs() < 1e-9);
                assert_eq!(saturated, coordinate.abs() > 1.0 + grid.step() * 0.5);
            }
        }
    }

    #[test]
    fn ties_go_to_the_even_step() {
        let grid = Grid { modulus: Modulus::Bits24, clamp: 100, step: 0.25 };
        let steps: Vec<i32> = [0.125, 0.375, 0.625, -0.125, -0.375, 0.0, -0.0]
            .into_iter()
            .map(|c| Modulus::Bits24.signed(grid.lane(c).0))
            .collect();
        assert_eq!(steps, [0, 2, 2, 0, -2, 0, 0]);
    }
}
