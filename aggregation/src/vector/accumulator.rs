//! The running sum of updates, and what can be read off it.

use crate::evaluation::MetricTally;
use crate::ids::Digest;
use crate::masking::group::{Modulus, WrongLength};
use crate::masking::keystream::TILE_LANES;
use crate::masking::masks::Tiles;
use crate::units::real;
use crate::vector::{Coding, VectorFormat};

/// One sum, however many updates go into it: memory grows with the model, not with the sites.
#[derive(Debug, Clone)]
pub struct Accumulator {
    format: VectorFormat,
    sums: Vec<u32>,
    added: u32,
}

/// What the sites have said together.
#[derive(Debug, Clone, PartialEq)]
pub struct Total {
    /// Examples trained on, each site's at most the study's cap. In a private study nobody tells
    /// those: there it is the number of sites in the sum.
    pub weight: u64,
    /// The mean update over those examples, in a private study over the expected batch; empty when
    /// nothing was trained, zero when there were no examples.
    pub update: Vec<f64>,
    /// How the offered model scored over all sites, when that was asked.
    pub metrics: Option<MetricTally>,
}

/// A sum that honest sites cannot have produced together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Implausible {
    /// More updates than the format leaves room for.
    #[error("the format has room for {room} updates; {added} were added")]
    Crowded {
        /// Updates that the format has room for.
        room: u32,
        /// Updates that were added.
        added: u32,
    },
    /// Another number of updates than of contributions.
    #[error("{added} updates were added for {contributed} contributions")]
    Miscounted {
        /// Updates that were added.
        added: u32,
        /// Contributions that were recorded.
        contributed: usize,
    },
    /// A model coordinate is beyond what so many sites can reach.
    #[error("coordinate {index} of the sum is beyond the reach of {added} sites")]
    Coordinate {
        /// Which one, from 0.
        index: usize,
        /// Updates that were added.
        added: u32,
    },
    /// A limb is beyond what so many sites can reach.
    #[error("a counter of the sum is beyond the reach of {added} sites")]
    Limb {
        /// Updates that were added.
        added: u32,
    },
    /// The weight is beyond what so many sites can reach.
    #[error("the sum's weight is {found}; {added} sites reach at most {most}")]
    Weight {
        /// The weight found.
        found: u64,
        /// The greatest weight.
        most: u64,
        /// Updates that were added.
        added: u32,
    },
    /// The metrics contradict each other.
    #[error("the sum's metrics contradict each other")]
    Metrics,
}

impl Accumulator {
    /// An empty sum.
    #[must_use]
    pub fn new(format: &VectorFormat) -> Self {
        Self { format: format.clone(), sums: vec![0; format.lanes()], added: 0 }
    }

    /// Updates added so far.
    #[must_use]
    pub const fn added(&self) -> u32 {
        self.added
    }

    /// Adds one packed update.
    ///
    /// # Errors
    /// When it has not exactly the format's length; nothing was added.
    pub fn add(&mut self, packed: &[u8]) -> Result<(), WrongLength> {
        self.format.modulus().add_packed(&mut self.sums, packed)?;
        self.added = self.added.saturating_add(1);
        Ok(())
    }

    /// The sum's lanes, for the masks to be taken out of them: all at once, or part by part.
    #[must_use]
    pub const fn tiles(&mut self) -> Tiles<'_> {
        Tiles::new(self.sums.as_mut_slice())
    }

    /// BLAKE3 of the sum as an update of these lanes would travel: what an auditor compares who adds
    /// the updates up again.
    #[must_use]
    pub fn digest(&self) -> Digest {
        digest_of_lanes(self.format.modulus(), &self.sums)
    }

    /// What the updates add up to (PROTOCOL R-11), unless honest sites cannot have sent them
    /// (PROTOCOL R-12).
    ///
    /// # Errors
    /// When a coordinate, counter or weight is beyond the reach of the sites that were added, or
    /// the metrics contradict each other.
    pub fn finish(&self) -> Result<Total, Implausible> {
        let Self { format, sums, added } = self;
        if *added > format.sites {
            return Err(Implausible::Crowded { room: format.sites, added: *added });
        }
        let (model, counters) = sums.split_at(format.model);
        let modulus = format.modulus();
        // Neither product can wrap: at most `sites` updates, and that is what the bounds are for.
        let reach = format.coding.greatest() * added;
        if let Some(index) =
            model.iter().position(|sum| modulus.signed(*sum).unsigned_abs() > reach)
        {
            return Err(Implausible::Coordinate { index, added: *added });
        }
        let most_limb = ((1 << format.limb_bits) - 1) * added;
        if counters.iter().any(|sum| modulus.unsigned(*sum) > most_limb) {
            return Err(Implausible::Limb { added: *added });
        }
        let mut counters = counters.chunks_exact(format.limbs()).map(|limbs| {
            limbs.iter().rev().fold(0, |value: u64, limb| {
                (value << format.limb_bits).wrapping_add(modulus.unsigned(*limb).into())
            })
        });
        let weight = match format.coding {
            Coding::Weighted { .. } => counters.next().unwrap_or(0),
            Coding::Noised { .. } => (*added).into(),
        };
        let most = u64::from(format.weight_cap().unwrap_or(1)) * u64::from(*added);
        if weight > most {
            return Err(Implausible::Weight { found: weight, most, added: *added });
        }
        let metrics = format.metrics.map(|shape| MetricTally::from_counters(shape, counters));
        if metrics.as_ref().is_some_and(|tally| !tally.consistent()) {
            return Err(Implausible::Metrics);
        }
        let update = match format.coding {
            // PROTOCOL R-18. Each lane carries weight / cap * update; over the summed weight, the mean.
            Coding::Weighted { grid, weight_cap } => {
                let scale = if weight == 0 { 0.0 } else { f64::from(weight_cap) / real(weight) };
                model.iter().map(|sum| grid.coordinate(*sum) * scale).collect()
            }
            Coding::Noised { grid, batch, .. } => {
                model.iter().map(|sum| grid.real(modulus.signed(*sum)) / batch).collect()
            }
        };
        Ok(Total { weight, update, metrics })
    }
}

/// BLAKE3 of lanes in their packed form, which is never there as a whole.
#[must_use]
pub fn digest_of_lanes(modulus: Modulus, lanes: &[u32]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut packed = Vec::with_capacity(TILE_LANES * modulus.bytes());
    for lanes in lanes.chunks(TILE_LANES) {
        packed.clear();
        modulus.pack(lanes, &mut packed);
        hasher.update(&packed);
    }
    Digest::new(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::evaluation::MetricShape;
    use crate::masking::group::Modulus;
    use crate::masking::keystream::{Mask, MaskKey, Sign, TILE_LANES};
    use crate::masking::masks::Masks;
    use crate::message::Work;
    use crate::privacy::charge::Mode;
    use crate::rehearsal::Seeded;
    use crate::secret::Secret;
    use crate::study::tests::{example, private};
    use crate::vector::tests::{format, lane};
    use crate::vector::{Contribution, encode, encode_noised};

    /// Breaks R-11: means and counters against sums in 128 bits, for every modulus and number of
    /// sites, with lanes that fill no block.
    #[test]
    fn sums_are_exact_for_every_modulus_and_number_of_sites() {
        for modulus in Modulus::ALL {
            for sites in 1..=12_u32 {
                let model = 37 + usize::try_from(sites).expect("small");
                let format = format(modulus, sites, model, true);
                let mut seeded = Seeded::new(u8::try_from(sites).expect("small"));
                let mut sum = Accumulator::new(&format);
                let mut exact = vec![0_i128; model];
                let mut whole = MetricTally::new(MetricShape::new(2));
                let mut weights = 0_i128;
                for site in 0..sites {
                    // The first site is at the clamp everywhere, the last below it everywhere.
                    let update: Vec<f32> = (0..model)
                        .map(|_| match site {
                            0 => 1.0,
                            1 => -1.0,
                            _ => narrow(seeded.signed()),
                        })
                        .collect();
                    let weight = if site < 2 { 4_096 } else { u64::from(seeded.word() % 6_000) };
                    let mut metrics = MetricTally::new(MetricShape::new(2));
                    for _ in 0..site {
                        let logits = [narrow(seeded.signed()), narrow(seeded.signed())];
                        metrics
                            .record(&logits, usize::from(seeded.word().is_multiple_of(2)))
                            .expect("two logits");
                    }
                    whole.merge(&metrics).expect("one shape");
                    let capped = weight.min(4_096);
                    weights += i128::from(capped);
                    for (sum, value) in exact.iter_mut().zip(&update) {
                        let lane = lane(&format, f64::from(*value) * real(capped) / 4_096.0);
                        *sum += i128::from(modulus.signed(lane));
                    }
                    let said = Contribution { weight, update, metrics: Some(metrics) };
                    sum.add(&encode(&format, &said).expect("it fits").packed)
                        .expect("the length is right");
                }
                for (sum, exact) in sum.sums.iter().zip(&exact) {
                    assert_eq!(
                        i128::from(modulus.signed(*sum)),
                        *exact,
                        "{modulus:?}, {sites} sites"
                    );
                }
                let total = sum.finish().expect("honest sites are plausible");
                assert_eq!(i128::from(total.weight), weights);
                assert_eq!(total.metrics, Some(whole));
                for (mean, exact) in total.update.iter().zip(&exact) {
                    let exact = f64::from(i32::try_from(*exact).expect("within the modulus"));
                    let wanted = exact * format.step() * 4_096.0 / real(total.weight);
                    assert!((mean - wanted).abs() <= wanted.abs() * 1e-12);
                }
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a value of a test")]
    fn narrow(value: f64) -> f32 {
        value as f32
    }

    fn said(format: &VectorFormat, weight: u64, update: Vec<f32>) -> Vec<u8> {
        let metrics = format.metrics().map(MetricTally::new);
        encode(format, &Contribution { weight, update, metrics }).expect("it fits").packed
    }

    /// Breaks R-18: weights below and above the cap.
    #[test]
    fn the_mean_is_over_examples_not_over_sites() {
        let format = format(Modulus::Bits24, 3, 1, false);
        let mut sum = Accumulator::new(&format);
        for (weight, value) in [(100, 0.5), (300, -0.1), (1_000_000, 0.25)] {
            sum.add(&said(&format, weight, vec![value])).expect("the length is right");
        }
        let total = sum.finish().expect("plausible");
        // The last counts as the cap of 4,096.
        let mean = (100.0 * 0.5 - 300.0 * 0.1 + 4_096.0 * 0.25) / 4_496.0;
        assert_eq!(total.weight, 4_496);
        assert!((total.update[0] - mean).abs() < 1e-6);
    }

    /// Breaks R-11: each site moves a coordinate of its own, so the sum shows how often it is in it.
    #[test]
    fn a_missing_or_doubled_site_shows_in_the_sum() {
        let format = format(Modulus::Bits24, 8, 4, false);
        for times in [[1, 1, 1, 1], [1, 0, 1, 1], [2, 1, 1, 1], [0, 3, 0, 1]] {
            let mut sum = Accumulator::new(&format);
            for (site, times) in times.iter().enumerate() {
                let mut update = vec![0.0; 4];
                update[site] = 1.0;
                for _ in 0..*times {
                    sum.add(&said(&format, 4_096, update.clone())).expect("the length is right");
                }
            }
            let added: u64 = times.iter().sum();
            let total = sum.finish().expect("plausible");
            assert_eq!(total.weight, added * 4_096);
            for (mean, times) in total.update.iter().zip(times) {
                assert!((mean * real(added) - real(times)).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn a_sum_over_no_examples_is_zero() {
        let format = format(Modulus::Bits24, 2, 1, false);
        let mut sum = Accumulator::new(&format);
        sum.add(&said(&format, 0, vec![0.75])).expect("the length is right");
        let total = sum.finish().expect("plausible");
        assert_eq!((total.weight, total.update), (0, vec![0.0]));
    }

    /// Breaks R-11, under masks: noise as long as they are on, and the sum when they are off.
    #[test]
    fn a_sum_of_masked_updates_is_the_sum_when_the_masks_are_out() {
        let mask = |byte: u8, sign| Mask::new(&MaskKey::new(Secret::new([byte; 32])), sign);
        for modulus in Modulus::ALL {
            let format = format(modulus, 3, 2 * TILE_LANES + 3, true);
            let (mut plain, mut masked) = (Accumulator::new(&format), Accumulator::new(&format));
            for site in [0_u8, 1, 2] {
                let value = f32::from(site) * 0.25 - 0.3;
                let mut packed = said(&format, 100, vec![value; format.model()]);
                plain.add(&packed).expect("the length is right");
                let masks = Masks::new(modulus, [mask(site, Sign::Add)]);
                masks.pass(format.lanes()).mask(&mut packed).expect("it is one chunk");
                masked.add(&packed).expect("the length is right");
            }
            assert!(masked.finish().is_err(), "{modulus:?}");
            let removed = Masks::new(modulus, [0, 1, 2].map(|site| mask(site, Sign::Subtract)));
            for part in masked.tiles().split(NonZeroUsize::MIN.saturating_add(1)) {
                removed.apply(part);
            }
            assert_eq!(masked.finish(), plain.finish(), "{modulus:?}");
        }
    }

    #[test]
    fn an_update_of_another_length_is_not_added() {
        let format = format(Modulus::Bits24, 2, 3, false);
        let mut sum = Accumulator::new(&format);
        let whole = said(&format, 5, vec![0.5; 3]);
        for wrong in [&whole[1..], &[whole.as_slice(), &[0]].concat(), &[]] {
            let expected = format.packed_bytes();
            assert_eq!(sum.add(wrong), Err(WrongLength { expected, found: wrong.len() }));
        }
        assert_eq!(sum.added(), 0);
        assert!(sum.sums.iter().all(|lane| *lane == 0));
    }

    /// Breaks R-12: sums that no honest sites can have made.
    #[test]
    fn implausible_sums_are_refused() {
        let format = format(Modulus::Bits24, 4, 2, true);
        let forge = |change: fn(&VectorFormat, &mut [u32])| {
            let mut lanes = vec![0; format.lanes()];
            change(&format, &mut lanes);
            let mut packed = Vec::new();
            format.modulus().pack(&lanes, &mut packed);
            let mut sum = Accumulator::new(&format);
            sum.add(&packed).expect("the length is right");
            sum.finish()
        };
        assert!(forge(|_, _| {}).is_ok());
        assert!(forge(|f, lanes| lanes[1] = f.coding.greatest()).is_ok());
        assert_eq!(
            forge(|f, lanes| lanes[1] = f.coding.greatest() + 1),
            Err(Implausible::Coordinate { index: 1, added: 1 })
        );
        assert_eq!(
            forge(|f, lanes| lanes[0] = (f.coding.greatest() + 1).wrapping_neg()),
            Err(Implausible::Coordinate { index: 0, added: 1 })
        );
        assert_eq!(forge(|_, lanes| lanes[2] = 4_096), Err(Implausible::Limb { added: 1 }));
        assert_eq!(
            forge(|_, lanes| (lanes[2], lanes[3]) = (1, 1)),
            Err(Implausible::Weight { found: 4_097, most: 4_096, added: 1 })
        );
        // Examples that are in no histogram; a correct one of none.
        assert_eq!(forge(|_, lanes| lanes[6] = 1), Err(Implausible::Metrics));
        assert_eq!(forge(|_, lanes| lanes[14] = 1), Err(Implausible::Metrics));
        let mut crowded = Accumulator::new(&format);
        for _ in 0..5 {
            crowded.add(&said(&format, 1, vec![0.0; 2])).expect("the length is right");
        }
        assert_eq!(crowded.finish(), Err(Implausible::Crowded { room: 4, added: 5 }));
    }

    /// D-26: a private sum is the integers' sum over the expected batch, and tells no weight. Breaks
    /// R-12 for it: noise beyond the table's last entry is refused.
    #[test]
    fn a_noised_sum_is_divided_by_the_expected_batch_and_tells_no_weight() {
        let study = private(Mode::Distributed);
        let plan = study.noise_plan(5).expect("a plan").expect("a private study");
        let format = VectorFormat::for_work(&study, 5, Work::Train).expect("five sites");
        assert_eq!((format.lanes(), format.weight_cap()), (14, None));
        let greatest = plan.greatest().cast_signed();
        let values = [-greatest, greatest, 0, 17, -500, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        let lanes = values.map(i32::cast_unsigned);
        let mut sum = Accumulator::new(&format);
        for _ in 0..5 {
            sum.add(&encode_noised(&format, &lanes, None).expect("it fits")).expect("its length");
        }
        let total = sum.finish().expect("honest sites reach this");
        assert_eq!((total.weight, total.metrics), (5, None));
        for (mean, value) in total.update.iter().zip(values) {
            let wanted = f64::from(5 * value) * plan.grid().real(1) / 100.0;
            assert!((mean - wanted).abs() < 1e-12, "{mean} is not {wanted}");
        }
        let said = Contribution { weight: 1, update: vec![0.0; 14], metrics: None };
        assert!(encode(&format, &said).is_err(), "what is not noised does not leave");
        let open = VectorFormat::for_work(&example(), 5, Work::Train).expect("five sites");
        assert!(encode_noised(&open, &lanes, None).is_err());
        let mut beyond = Accumulator::new(&format);
        let mut lanes = lanes;
        lanes[2] = (greatest + 1).cast_unsigned();
        beyond.add(&encode_noised(&format, &lanes, None).expect("it fits")).expect("its length");
        assert_eq!(beyond.finish(), Err(Implausible::Coordinate { index: 2, added: 1 }));
    }
}
