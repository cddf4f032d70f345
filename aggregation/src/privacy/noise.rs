//! Noise: the integers that hide each patient, and the way from a clamped sum to the wire.
//!
//! No floating point in this module; a lint sees to it. Floating-point noise leaks through the
//! gaps between its values ([Mironov 2012]); here both noise and release are integers, so every
//! value can occur, whatever the data (PROTOCOL D-07).
//!
//! A draw is `N = x0 + 2^6 x1 + 2^12 x2` with each x from N_Z(0, 256^2) by the table: a
//! discrete Gaussian of standard deviation `256 sqrt(1 + 2^12 + 2^24) = 1,048,704` fine units,
//! up to a relative error of 10^-136, because 256 is 4 standard deviations of 64
//! (PROTOCOL-NOTES section 4.2; [MW17] for the convolution). A wire unit is 2^16 fine units, so
//! the noise of one share has a standard deviation of 16 wire units.
//!
//! Not constant-time: the time of a draw depends a little on its magnitude. Whoever can time
//! single draws inside the trainer's process can read its memory too.
//!
//! [Mironov 2012]: https://doi.org/10.1145/2382196.2382264
//! [MW17]: https://eprint.iacr.org/2017/259

#![deny(clippy::float_arithmetic)]

mod table;

use std::num::NonZeroUsize;

use crate::privacy::stream::Stream;
use crate::secret::Secret;

/// Fine units in a wire unit, as a power of two.
pub const FINE_BITS: u32 = 16;

/// The factors of the two coarser draws, as powers of two.
const SHIFTS: [u32; 3] = [0, 6, 12];

/// The greatest magnitude of one coordinate's noise, in fine units: all three draws at the
/// table's end. 219.4 wire units.
pub const GREATEST: i32 = table::LAST as i32 * (1 + (1 << SHIFTS[1]) + (1 << SHIFTS[2]));

/// Draws from the table behind one coordinate's noise; each is off by less than 2^-116.
pub const DRAWS_PER_COORDINATE: u64 = SHIFTS.len() as u64;

/// What one upload's noise grows from: 32 bytes of the machine's randomness, fresh for every
/// attempt. Two uploads with one seed would give each other's sums away (PROTOCOL D-08), so it is
/// used up by the first:
///
/// ```compile_fail
/// # use aggregation::{privacy::noise::{Noise, NoiseSeed}, secret::Secret};
/// let seed = NoiseSeed::new(Secret::new([7; 32]));
/// let first = Noise::new(seed);
/// let second = Noise::new(seed);
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct NoiseSeed(Secret<32>);

impl NoiseSeed {
    /// Takes the bytes.
    #[must_use]
    pub const fn new(seed: Secret<32>) -> Self {
        Self(seed)
    }
}

/// The greatest magnitude of a coordinate before noise, in wire units: L.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Clamp(u32);

impl Clamp {
    /// Takes a limit from 1 to 2^31 - 1 wire units.
    #[must_use]
    pub const fn new(wire_units: u32) -> Option<Self> {
        if wire_units >= 1 && wire_units <= i32::MAX.cast_unsigned() {
            Some(Self(wire_units))
        } else {
            None
        }
    }

    /// The limit in wire units.
    #[must_use]
    pub const fn wire_units(self) -> u32 {
        self.0
    }

    /// The limit in fine units.
    #[must_use]
    pub const fn fine_units(self) -> i64 {
        (self.0 as i64) << FINE_BITS
    }
}

/// One upload's noise.
pub struct Noise {
    words: Stream,
    ties: Stream,
}

impl std::fmt::Debug for Noise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Noise(..)")
    }
}

impl Noise {
    /// Starts the noise of one upload.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a seed is used once, so it is taken")]
    pub fn new(seed: NoiseSeed) -> Self {
        Self {
            words: Stream::new(&seed.0, "consilium/noise/1"),
            ties: Stream::new(&seed.0, "consilium/noise/ties/1"),
        }
    }

    /// Fills `noise` with independent draws, in fine units. It does not matter in how many calls.
    pub fn fill(&mut self, mut noise: &mut [i32]) {
        while let Some(wanted) = NonZeroUsize::new(noise.len()) {
            let words = self.words.groups(wanted);
            let (batch, rest) = noise.split_at_mut(words.len());
            for (out, triple) in batch.iter_mut().zip(words) {
                *out = coordinate(triple, &mut self.ties);
            }
            noise = rest;
        }
    }

    /// Clamps each coordinate of a sum, adds its noise and rounds it to the wire:
    /// `(clamp(S) + N + 2^15) >> 16`, as a lane of 32 bits of which a modulus takes the low ones.
    /// Says how many coordinates were clamped: a secret of the site, which leaves it only noised. A
    /// sum of nothing gets its noise like any other, and it does not matter in how many calls a sum
    /// is worked through.
    ///
    /// Clamping comes before the noise, where it cannot raise any patient's influence
    /// (PROTOCOL D-09); dropping the low bits comes after it (PROTOCOL D-10).
    ///
    /// # Panics
    /// When there is not exactly one lane for each coordinate.
    pub fn to_wire(&mut self, sums: &[i64], clamp: Clamp, lanes: &mut [u32]) -> u64 {
        assert_eq!(sums.len(), lanes.len(), "one lane for each coordinate");
        let limit = clamp.fine_units();
        let mut clamped = 0;
        let (mut sums, mut lanes) = (sums, lanes);
        while let Some(wanted) = NonZeroUsize::new(sums.len()) {
            let words = self.words.groups(wanted);
            let (these, rest) = sums.split_at(words.len());
            let (out, room) = lanes.split_at_mut(words.len());
            for ((sum, lane), triple) in these.iter().zip(out).zip(words) {
                let held = (*sum).clamp(-limit, limit);
                clamped += u64::from(held != *sum);
                *lane = round(held + i64::from(coordinate(triple, &mut self.ties)));
            }
            (sums, lanes) = (rest, room);
        }
        clamped
    }
}

/// One draw: three from the table, at three scales.
#[inline]
fn coordinate(words: &[[u8; 8]; 3], ties: &mut Stream) -> i32 {
    let mut sum = 0;
    for (word, shift) in words.iter().zip(SHIFTS) {
        sum += table::draw(u64::from_le_bytes(*word), || ties.word()) << shift;
    }
    sum
}

/// To the nearest wire unit, halves up; negative ones wrap as a group element does.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "arithmetic modulo 2^32 is what lanes are for; the plan leaves room for every value"
)]
const fn round(fine: i64) -> u32 {
    ((fine + (1 << (FINE_BITS - 1))) >> FINE_BITS) as u32
}

#[cfg(test)]
mod statistics;
