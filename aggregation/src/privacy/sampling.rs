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

use std::fmt;
use std::num::NonZeroU32;

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

/// The patients of one step, by their place in the caller's list.
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
    images: Stream,
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
            images: Stream::new(&seed.0, "consilium/sampling/images/1"),
        }
    }

    /// Tosses a coin for each of so many patients.
    #[must_use]
    pub fn draw(&mut self, patients: usize, rate: SamplingRate) -> Batch {
        match Coin::new(rate) {
            Coin::Always => Batch((0..patients).collect()),
            Coin::Below(threshold) => Batch(
                (0..patients)
                    .filter(|_| {
                        let high = u128::from(self.coins.word());
                        (high << 64 | u128::from(self.coins.word())) < threshold
                    })
                    .collect(),
            ),
        }
    }

    /// One of a patient's images, each with the same probability: a patient counts once, be it
    /// with one image or with ten thousand.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a remainder of a 32-bit number")]
    pub fn image(&mut self, images: NonZeroU32) -> u32 {
        let bound = u64::from(images.get());
        // The words below this many are a whole number of rounds; the others are drawn again.
        let fair = u64::MAX - (u64::MAX % bound + 1) % bound;
        loop {
            let word = self.images.word();
            if word <= fair {
                return (word % bound) as u32;
            }
        }
    }
}

/// Which micro-batch a patient is summed in.
///
/// Sums of floats depend on their order, so patients must not push each other from one micro-batch
/// into the next: a patient's place is a keyed hash of their key alone, and adding one changes one
/// micro-batch (PROTOCOL D-18). Micro-batches are therefore not of one size; eight patients are
/// expected in each.
#[derive(Debug)]
pub struct MicroBatches {
    key: Secret<32>,
    count: NonZeroU32,
}

impl MicroBatches {
    /// Patients that a micro-batch is expected to hold.
    pub const EXPECTED: u32 = 8;

    /// Micro-batches for so many patients expected in a step, under a key of the site's own.
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
mod tests {
    use super::*;
    use crate::units::real;

    fn rate(q: f64) -> SamplingRate {
        SamplingRate::new(q).expect("a rate")
    }

    fn sampler(number: u32) -> Sampler {
        let mut seed = [9; 32];
        seed[..4].copy_from_slice(&number.to_le_bytes());
        Sampler::new(SamplingSeed::new(Secret::new(seed)))
    }

    #[test]
    fn coins_are_exact() {
        assert_eq!(Coin::new(rate(1.0)), Coin::Always);
        assert_eq!(Coin::new(rate(0.5)), Coin::Below(1 << 127));
        assert_eq!(Coin::new(rate(0.75)), Coin::Below(3 << 126));
        let tenth = 0xccc_cccc_cccc_cd00_0000_0000_0000_0000_u128;
        assert_eq!(Coin::new(rate(0.1)), Coin::Below(tenth << 1));
        assert_eq!(Coin::new(rate(2.0_f64.powi(-75))), Coin::Below(1 << 53));
        assert_eq!(Coin::new(rate(2.0_f64.powi(-128))), Coin::Below(1));
        assert_eq!(Coin::new(rate(1.999 * 2.0_f64.powi(-128))), Coin::Below(1));
        assert_eq!(Coin::new(rate(2.0_f64.powi(-129))), Coin::Below(0));
        assert_eq!(Coin::new(rate(5e-324)), Coin::Below(0));
        // The largest rate below 1.
        let below_one = Coin::new(rate(1.0 - f64::EPSILON / 2.0));
        assert_eq!(below_one, Coin::Below(u128::MAX << 75));
    }

    /// D-15, PROTOCOL-NOTES test 9: sizes, single coins and pairs over 10^5 steps.
    #[test]
    fn batches_are_poisson_samples() {
        const STEPS: u32 = 100_000;
        const PATIENTS: usize = 40;
        let q = 0.15;
        let (mut sum, mut square, mut greatest) = (0.0, 0.0, 0);
        let mut alone = [0_u32; PATIENTS];
        let mut together = 0_u32;
        let mut across = 0_u32;
        let mut before = false;
        for step in 0..STEPS {
            let batch = sampler(step).draw(PATIENTS, rate(q));
            let size = batch.patients().len();
            greatest = greatest.max(size);
            let size = real(count(size));
            sum += size;
            square += size * size;
            for patient in batch.patients() {
                alone[patient] += 1;
            }
            let has = |patient| batch.patients().any(|p| p == patient);
            together += u32::from(has(3) && has(4));
            across += u32::from(before && has(0));
            before = has(0);
        }
        let n = f64::from(STEPS);
        let mean = sum / n;
        let variance = square / n - mean * mean;
        let expected = 40.0 * q * (1.0 - q);
        assert!((mean - 40.0 * q).abs() < 4.0 * (expected / n).sqrt(), "{mean}");
        assert!((variance / expected - 1.0).abs() < 4.0 * (2.0 / n).sqrt() * 1.1, "{variance}");
        let within = |seen: u32, p: f64| (f64::from(seen) - n * p).abs() < 4.5 * (n * p).sqrt();
        assert!(alone.iter().all(|seen| within(*seen, q)), "{alone:?}");
        assert!(within(together, q * q), "{together} of {STEPS} steps have both");
        assert!(within(across, q * q), "{across} of {STEPS} steps follow each other");
        // No cap: a batch of three times the expectation does occur.
        assert!(greatest >= 16, "the largest of {STEPS} batches has {greatest}");
    }

    /// D-16: a rate so small that nobody comes; everybody; one patient; none at all.
    #[test]
    fn empty_and_full_batches_are_batches() {
        let nobody = sampler(1).draw(1_000, rate(1e-12));
        assert!(nobody.is_empty());
        let everybody = sampler(1).draw(1_000, rate(1.0));
        assert_eq!(everybody.patients().collect::<Vec<_>>(), (0..1_000).collect::<Vec<_>>());
        let came: u32 =
            (0..10_000).map(|step| u32::from(!sampler(step).draw(1, rate(0.25)).is_empty())).sum();
        assert!((2_300..2_700).contains(&came), "one patient came {came} times");
        assert!(sampler(1).draw(0, rate(1.0)).is_empty());
        assert!(sampler(1).draw(0, rate(0.5)).is_empty());
    }

    /// D-17: neither the batch nor the sampler shows who was drawn.
    #[test]
    fn batches_are_not_printed() {
        let mut sampler = sampler(1);
        let batch = sampler.draw(10, rate(1.0));
        assert_eq!(format!("{batch:?} {sampler:?}"), "Batch(..) Sampler(..)");
    }

    #[test]
    fn a_seed_gives_one_batch() {
        let draw = |number| sampler(number).draw(200, rate(0.3));
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_patient_with_many_images_gives_one() {
        let mut sampler = sampler(7);
        let one = NonZeroU32::MIN;
        assert!((0..100).all(|_| sampler.image(one) == 0));
        let many = NonZeroU32::new(10_000).expect("not 0");
        let mut seen = vec![0_u32; 10_000];
        for _ in 0..400_000 {
            seen[usize::try_from(sampler.image(many)).expect("small")] += 1;
        }
        let chi_square: f64 = seen.iter().map(|n| (f64::from(*n) - 40.0).powi(2) / 40.0).sum();
        assert!((chi_square - 9_999.0).abs() < 4.0 * (2.0_f64 * 9_999.0).sqrt(), "{chi_square}");
        let largest = NonZeroU32::MAX;
        assert!((0..100).any(|_| sampler.image(largest) > u32::MAX / 2));
    }

    /// D-18: a patient's micro-batch depends on nobody else, and the load is even.
    #[test]
    fn patients_do_not_push_each_other() {
        let batches = MicroBatches::new(Secret::new([3; 32]), 64);
        assert_eq!(batches.count().get(), 8);
        let places: Vec<u32> =
            (0..8_000_u32).map(|patient| batches.of(&patient.to_le_bytes())).collect();
        for batch in 0..8 {
            let held = places.iter().filter(|place| **place == batch).count();
            assert!((850..1_150).contains(&held), "micro-batch {batch} holds {held} of 8,000");
        }
        let other = MicroBatches::new(Secret::new([4; 32]), 64);
        assert!((0..100_u32).any(|p| other.of(&p.to_le_bytes()) != batches.of(&p.to_le_bytes())));
        assert_eq!(MicroBatches::new(Secret::new([3; 32]), 0).count().get(), 1);
    }
}
