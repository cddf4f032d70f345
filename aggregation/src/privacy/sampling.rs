//! Who takes part in a step: each patient by a coin of their own.
//!
//! Poisson sampling: every patient is in the batch with probability q, independently of all
//! others, of the batch's size and of earlier steps. The accountants count nothing else:
//! shuffling, fixed batch sizes or skipped empty batches would make their figures wrong
//! ([CGK24]; PROTOCOL D-15, D-16). A coin is exact: a uniform integer of 128 bits against the
//! threshold `q 2^128`, rounded down where q has bits below that.
//!
//! A batch is a secret: it is neither printed nor logged (PROTOCOL D-17).
//!
//! [CGK24]: https://arxiv.org/abs/2403.17673

mod patients;

use std::fmt;
use std::num::NonZeroU32;

pub use self::patients::{BadRecords, Patients};
use crate::privacy::stream::Stream;
use crate::secret::Secret;
use crate::units::{SamplingRate, count};

/// What the sampling of one step grows from: 32 bytes of the machine's randomness.
#[derive(Debug, PartialEq, Eq)]
pub struct SamplingSeed(Secret<32>);

impl SamplingSeed {
    /// Takes the bytes.
    #[must_use]
    pub const fn new(seed: Secret<32>) -> Self {
        Self(seed)
    }
}

/// A coin that shows heads with a given probability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coin {
    /// q = 1.
    Always,
    /// Heads when a uniform number of 128 bits is below this.
    Below(u128),
}

impl Coin {
    /// Exact for every rate of at least 2^-75; smaller ones lose bits below 2^-128.
    const fn new(rate: SamplingRate) -> Self {
        let q = rate.get();
        if q >= 1.0 {
            return Self::Always;
        }
        // q = significand 2^(exponent - 1075), so q 2^128 = significand 2^(exponent - 947).
        let bits = q.to_bits();
        let exponent = bits >> 52;
        let significand = ((1 << 52) | (bits & ((1 << 52) - 1))) as u128;
        if exponent >= 947 {
            Self::Below(significand << (exponent - 947))
        } else if 947 - exponent < 53 {
            Self::Below(significand >> (947 - exponent))
        } else {
            Self::Below(0)
        }
    }
}

/// The patients of one step, by their place among the [`Patients`].
#[derive(Clone, PartialEq, Eq)]
pub struct Batch(Vec<usize>);

impl Batch {
    /// Their places, ascending.
    pub fn patients(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.0.iter().copied()
    }

    /// Whether nobody was drawn. Such a step uploads its noise like any other.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Batch(..)")
    }
}

/// Draws the patients of one step, and the image of each.
pub struct Sampler {
    coins: Stream,
    records: Stream,
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sampler(..)")
    }
}

impl Sampler {
    /// Starts one step's sampling. A seed is used once, so it is taken.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a seed is used once, so it is taken")]
    pub fn new(seed: SamplingSeed) -> Self {
        Self {
            coins: Stream::new(&seed.0, "consilium/sampling/1"),
            records: Stream::new(&seed.0, "consilium/sampling/records/1"),
        }
    }

    /// Tosses each patient's coin.
    #[must_use]
    pub fn draw(&mut self, patients: &Patients, rate: SamplingRate) -> Batch {
        let everybody = 0..patients.len();
        match Coin::new(rate) {
            Coin::Always => Batch(everybody.collect()),
            Coin::Below(threshold) => Batch(
                everybody
                    .filter(|_| {
                        let high = u128::from(self.coins.word());
                        (high << 64 | u128::from(self.coins.word())) < threshold
                    })
                    .collect(),
            ),
        }
    }

    /// One of a patient's records, each with the same probability: a patient counts once, be it
    /// with one image or with ten thousand. None for an empty list.
    #[must_use]
    pub fn record(&mut self, records: &[usize]) -> Option<usize> {
        let bound = count(records.len());
        // The words up to this one are a whole number of rounds; the others are drawn again.
        let fair = u64::MAX - (u64::MAX.checked_rem(bound)? + 1) % bound;
        loop {
            let word = self.records.word();
            if word <= fair {
                return records.get(usize::try_from(word % bound).ok()?).copied();
            }
        }
    }
}

/// Which micro-batch a patient is summed in.
///
/// Sums of floats depend on their order, so patients must not push each other from one micro-batch
/// into the next: a patient's place is a keyed hash of their key alone, and adding one changes one
/// micro-batch (PROTOCOL D-18). Micro-batches are therefore not of one size. As many patients are
/// expected in each as fill one pass of a network; more would not fit the bound of D-11.
#[derive(Debug)]
pub struct MicroBatches {
    key: Secret<32>,
    count: NonZeroU32,
}

impl MicroBatches {
    /// Patients that a micro-batch is expected to hold.
    pub const EXPECTED: u32 = 32;

    /// Micro-batches for so many patients expected in a step, under a key of the site's own. The
    /// number is the plan's, never counted from the records: one patient more could otherwise
    /// move all the others.
    #[must_use]
    pub fn new(key: Secret<32>, expected_patients: u32) -> Self {
        let count = expected_patients.div_ceil(Self::EXPECTED);
        Self { key, count: NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN) }
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> NonZeroU32 {
        self.count
    }

    /// The one for the patient with this key.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "64 bits of a product are cut off")]
    pub fn of(&self, patient_key: &[u8]) -> u32 {
        let mut hasher = blake3::Hasher::new_keyed(self.key.expose());
        hasher.update(b"consilium/micro-batch/1");
        hasher.update(&count(patient_key.len()).to_le_bytes());
        hasher.update(patient_key);
        let mut word = [0; 8];
        hasher.finalize_xof().fill(&mut word);
        let scaled = u128::from(u64::from_le_bytes(word)) * u128::from(self.count.get());
        (scaled >> 64) as u32
    }
}

#[cfg(test)]
mod tests;
