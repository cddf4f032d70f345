//! The fine grid: where the floats of a private gradient end.
//!
//! A micro-batch's sum of clipped gradients arrives as 32-bit floats, is divided by the grid's
//! step, rounded, and added to 64-bit integers. The step follows from the noise: one share's
//! standard deviation is always [`SIGMA_FINE`] steps, so the table of the noise serves every
//! study. A patient is in one micro-batch, so adding one changes one rounding: by at most the
//! clipping norm in steps, its floating-point slack, and `sqrt(d)` for the rounding itself, which
//! is charged (PROTOCOL D-11). Past this file everything is an integer.

/// The standard deviation of one share's noise in steps of the fine grid:
/// `256 sqrt(1 + 2^12 + 2^24)`.
pub const SIGMA_FINE: f64 = 1_048_704.023_434_639;

/// Fine steps in a wire unit.
const WIRE_UNIT: f64 = 65_536.0;

/// A micro-batch's coordinate is held within this many steps; the clamp before the noise is at
/// most 2^47.
const GREATEST: f64 = 1_125_899_906_842_624.0;

/// 1.5 * 2^52: added to a number below 2^51 in size it leaves no room for a fraction, so the sum
/// is rounded to an integer, in two's complement in the low bits. Unlike `round`, every target
/// turns this into plain vector instructions.
const ROUNDER: f64 = 6_755_399_441_055_744.0;

/// A coordinate that is not a finite number, in a sum that should have been clipped. A patient's
/// gradient that is not finite is to be dropped before: a round that fails because of one patient
/// tells that the patient was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sum of clipped gradients must be finite; found a coordinate that is not")]
pub struct NotFinite;

/// How reals become integers on the private path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FineGrid {
    step: f64,
}

impl FineGrid {
    /// The grid on which noise of standard deviation `sigma_share` has [`SIGMA_FINE`] steps; none
    /// when the step would not be a normal positive number.
    #[must_use]
    pub fn for_noise(sigma_share: f64) -> Option<Self> {
        let step = sigma_share / SIGMA_FINE;
        // The inverse must be finite as well, or every quotient would be.
        (step.is_normal() && step > 0.0 && (1.0 / step).is_normal()).then_some(Self { step })
    }

    /// What one step stands for.
    #[must_use]
    pub const fn step(&self) -> f64 {
        self.step
    }

    /// Adds one micro-batch's sum, rounded to the grid. Huge coordinates are held; the integers
    /// saturate rather than wrap, and both only ever bring neighbouring sums closer.
    ///
    /// # Errors
    /// When a coordinate is not finite; then nothing was added.
    ///
    /// # Panics
    /// When there is not exactly one sum for each coordinate.
    pub fn add(&self, micro_batch: &[f32], sums: &mut [i64]) -> Result<(), NotFinite> {
        assert_eq!(micro_batch.len(), sums.len(), "one sum for each coordinate");
        if !micro_batch.iter().all(|coordinate| coordinate.is_finite()) {
            return Err(NotFinite);
        }
        for (sum, coordinate) in sums.iter_mut().zip(micro_batch) {
            *sum = sum.saturating_add(self.steps(*coordinate));
        }
        Ok(())
    }

    /// A finite coordinate in steps, to the nearest, ties to even.
    fn steps(&self, coordinate: f32) -> i64 {
        let steps = (f64::from(coordinate) / self.step).clamp(-GREATEST, GREATEST);
        (steps + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()).cast_signed()
    }

    /// The real number that a sum of wire values stands for.
    #[must_use]
    pub fn real(&self, wire: i32) -> f64 {
        f64::from(wire) * WIRE_UNIT * self.step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> FineGrid {
        FineGrid::for_noise(0.75).expect("a grid")
    }

    fn floats(seed: u8, count: usize) -> Vec<f32> {
        let mut xof = blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof();
        let mut word = [0; 4];
        let mut next = || {
            xof.fill(&mut word);
            #[expect(clippy::cast_possible_truncation, reason = "tests need no more digits")]
            let coordinate = (f64::from(i32::from_le_bytes(word)) / f64::from(i32::MAX)) as f32;
            coordinate
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn rounding_is_to_the_nearest_step_on_either_side() {
        let grid = grid();
        for coordinate in floats(1, 10_000) {
            let exact = f64::from(coordinate) / grid.step();
            let steps = grid.steps(coordinate);
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            let off = (steps as f64 - exact).abs();
            assert!(off <= 0.5, "{coordinate}: {steps}, {exact}");
        }
        assert_eq!(grid.steps(0.0), 0);
        assert_eq!(grid.steps(-0.0), 0);
        assert_eq!(grid.steps(f32::MAX), 1 << 50);
        assert_eq!(grid.steps(f32::MIN), -(1 << 50));
        assert!((grid.real(-16) + 16.0 * 65_536.0 * grid.step()).abs() < 1e-12);
    }

    /// D-11, PROTOCOL-NOTES test 12: with and without one patient, however extreme the others and
    /// however extreme that one, the integers differ by at most what is charged.
    #[test]
    fn one_patient_moves_the_sum_by_at_most_what_is_charged() {
        const D: usize = 4_000;
        let clip = 1.0_f64;
        for (seed, size) in [(2, 1.0_f32), (3, 100.0), (4, 1e-4)] {
            let grid = grid();
            let others: Vec<f32> = floats(seed, D).iter().map(|x| x * size).collect();
            // A patient's gradient at the clipping norm: spread out, or in one coordinate.
            let spread = floats(seed + 100, D);
            let norm: f64 = spread.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            #[expect(clippy::cast_possible_truncation, reason = "clipping is done in f32 too")]
            let spread: Vec<f32> = spread.iter().map(|x| x * (clip / norm) as f32).collect();
            let mut single = vec![0.0_f32; D];
            single[7] = -1.0;
            for patient in [spread, single] {
                let with: Vec<f32> = others.iter().zip(&patient).map(|(o, p)| o + p).collect();
                let (mut a, mut b) = (vec![5_i64; D], vec![5_i64; D]);
                grid.add(&others, &mut a).expect("finite");
                grid.add(&with, &mut b).expect("finite");
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
                let moved =
                    a.iter().zip(&b).map(|(a, b)| ((a - b) as f64).powi(2)).sum::<f64>().sqrt();
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
                let allowed = clip / grid.step() * (1.0 + 1.0 / 128.0) + (D as f64).sqrt();
                assert!(moved <= allowed, "{seed}: {moved}, {allowed}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_changes_nothing() {
        let grid = grid();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut sums = vec![3, 4];
            assert_eq!(grid.add(&[1.0, bad], &mut sums), Err(NotFinite));
            assert_eq!(sums, [3, 4]);
        }
        let mut sums = vec![i64::MAX - 1, i64::MIN + 1];
        grid.add(&[1e9, -1e9], &mut sums).expect("finite");
        assert_eq!(sums, [i64::MAX, i64::MIN]);
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-310, 1e-305] {
            assert_eq!(FineGrid::for_noise(bad), None, "{bad}");
        }
    }
}
