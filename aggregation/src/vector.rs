//! What one update consists of: `[model lanes | weight limbs | metric limbs]`.
//!
//! In a private study the model lanes are a noised sum of clipped gradients, and there is no
//! weight: how many patients were drawn is nobody's business (PROTOCOL D-26). Then
//! `[noised lanes | metric limbs]`, the latter only where the study says that scores are exact.
//!
//! A site encodes a [`Contribution`]; the coordinator adds encodings into one [`Accumulator`] and
//! reads a [`Total`] off it. Model coordinates are weighted before they are added, and the weight
//! travels in lanes of its own, so the mean over all examples comes out without anyone learning
//! how many examples one site has (once the masks are on). Counters are cut into limbs so small
//! that no sum of them can wrap.

mod accumulator;

pub use accumulator::{Accumulator, Implausible, Total, digest_of_lanes};

use crate::evaluation::{MetricShape, MetricTally};
use crate::masking::fixed_point::Grid;
use crate::masking::group::{Modulus, WrongLength};
use crate::message::Work;
use crate::privacy::grid::FineGrid;
use crate::privacy::plan::Plan;
use crate::study::{Study, StudyFault};
use crate::units::real;

/// The most sites that a study's roster may have.
pub const MAX_SITES: usize = u16::MAX as usize;

/// A counter of one site ends below 2^48.
const COUNTER_BITS: u32 = 48;

/// Coordinates that are encoded before they are packed.
const AT_ONCE: usize = 4_096;

/// The lanes of an update: how many, what they mean, how wide they are.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorFormat {
    coding: Coding,
    model: usize,
    limb_bits: u32,
    metrics: Option<MetricShape>,
    sites: u32,
}

/// What a model lane means.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Coding {
    /// A coordinate of a mean, times the examples that it is over.
    Weighted { grid: Grid, weight_cap: u32 },
    /// A coordinate of a noised sum, in wire units; the mean is over `batch` patients.
    Noised { grid: FineGrid, greatest: u32, modulus: Modulus, batch: f64 },
}

impl VectorFormat {
    /// The format of one kind of work within a study whose roster has so many sites. It follows
    /// from what every site approved, and from nothing in a message (PROTOCOL R-03).
    ///
    /// # Errors
    /// When there is no site, or no room for so many; in a private study also when there is no noise
    /// that does what it asks for.
    pub fn for_work(study: &Study, sites: usize, work: Work) -> Result<Self, StudyFault> {
        Self::planned(study, sites, work, study.noise_plan(sites)?.as_ref())
    }

    /// The same, with the study's noise at hand ([`Study::noise_plan`]), which takes a while to work
    /// out.
    ///
    /// # Errors
    /// When there is no site, or no room for so many; and when there is noise for a study without
    /// privacy, or none for another.
    pub fn planned(
        study: &Study,
        sites: usize,
        work: Work,
        noise: Option<&Plan>,
    ) -> Result<Self, StudyFault> {
        let refuse = || StudyFault {
            key: "cohort.sites".to_owned(),
            found: format!("{sites} sites"),
            allowed: format!("1 to {MAX_SITES} sites"),
        };
        let held = u16::try_from(sites).map(u32::from).map_err(|_| refuse())?;
        let coding = match (noise, study.privacy.rules()) {
            (Some(plan), Some(rules)) => Coding::Noised {
                grid: plan.grid(),
                greatest: plan.greatest(),
                modulus: plan.modulus(),
                batch: rules.batch(),
            },
            (None, Some(_)) | (Some(_), None) => {
                return Err(StudyFault {
                    key: "privacy.mode".to_owned(),
                    found: study.privacy.name().to_owned(),
                    allowed: "noise for a private study and for no other".to_owned(),
                });
            }
            (None, None) => Coding::Weighted {
                grid: Grid::for_sites(study.training.update_range, held).ok_or_else(refuse)?,
                weight_cap: study.training.weight_cap,
            },
        };
        Ok(Self {
            coding,
            model: if work.trains() { study.layout().parameters() } else { 0 },
            limb_bits: limb_bits(coding.modulus(), held),
            metrics: work.evaluates().then(|| MetricShape::of(&study.task)),
            sites: held,
        })
    }

    /// The group that lanes are added in.
    #[must_use]
    pub const fn modulus(&self) -> Modulus {
        self.coding.modulus()
    }

    /// Lanes of the model; 0 when nothing is trained.
    #[must_use]
    pub const fn model(&self) -> usize {
        self.model
    }

    /// What one step of a model lane stands for.
    #[must_use]
    pub fn step(&self) -> f64 {
        match self.coding {
            Coding::Weighted { grid, .. } => grid.step(),
            Coding::Noised { grid, .. } => grid.real(1),
        }
    }

    /// The greatest size of one site's model lane, in steps.
    #[must_use]
    pub fn clamp(&self) -> i64 {
        self.coding.greatest().into()
    }

    /// Whether model lanes are noised sums.
    #[must_use]
    pub const fn is_noised(&self) -> bool {
        matches!(self.coding, Coding::Noised { .. })
    }

    /// Bits in one limb of a counter.
    #[must_use]
    pub const fn limb_bits(&self) -> u32 {
        self.limb_bits
    }

    /// Limbs of one counter.
    #[must_use]
    pub const fn limbs(&self) -> usize {
        COUNTER_BITS.div_ceil(self.limb_bits) as usize
    }

    /// What the metric lanes count, if there are any.
    #[must_use]
    pub const fn metrics(&self) -> Option<MetricShape> {
        self.metrics
    }

    /// Sites on the study's roster: the most that can add to one sum.
    #[must_use]
    pub const fn sites(&self) -> u32 {
        self.sites
    }

    /// The examples at which a site's weight ends; none where no weight is told.
    #[must_use]
    pub const fn weight_cap(&self) -> Option<u32> {
        match self.coding {
            Coding::Weighted { weight_cap, .. } => Some(weight_cap),
            Coding::Noised { .. } => None,
        }
    }

    /// Counters in an update: the weight if it is told, then the metrics'.
    const fn counters(&self) -> usize {
        let weight = match self.coding {
            Coding::Weighted { .. } => 1,
            Coding::Noised { .. } => 0,
        };
        match self.metrics {
            Some(shape) => weight + shape.counters(),
            None => weight,
        }
    }

    /// All lanes of an update.
    #[must_use]
    pub const fn lanes(&self) -> usize {
        self.model + self.counters() * self.limbs()
    }

    /// Bytes of an update on the wire.
    #[must_use]
    pub const fn packed_bytes(&self) -> usize {
        self.lanes() * self.modulus().bytes()
    }

    /// Whether an update has this many bytes (PROTOCOL R-09).
    ///
    /// # Errors
    /// When it has any other number.
    pub const fn check_length(&self, found: usize) -> Result<(), WrongLength> {
        let expected = self.packed_bytes();
        if found == expected { Ok(()) } else { Err(WrongLength { expected, found }) }
    }
}

impl Coding {
    const fn modulus(&self) -> Modulus {
        match self {
            Self::Weighted { grid, .. } => grid.modulus(),
            Self::Noised { modulus, .. } => *modulus,
        }
    }

    /// The greatest size of one site's lane.
    const fn greatest(&self) -> u32 {
        match self {
            Self::Weighted { grid, .. } => grid.clamp(),
            Self::Noised { greatest, .. } => *greatest,
        }
    }
}

/// The most bits, but at most 12, for which n sites at the greatest limb stay below 2^b
/// (PROTOCOL R-10). With 2^b at least 2^16 and at most 2^16 sites a bit is always left.
fn limb_bits(modulus: Modulus, sites: u32) -> u32 {
    let carries = sites.next_power_of_two().trailing_zeros();
    modulus.bits().saturating_sub(carries + 1).clamp(1, 12)
}

/// What one site has to say in a round, in plain numbers. Never leaves the site.
#[derive(Debug, Clone, PartialEq)]
pub struct Contribution {
    /// Examples that it trained on.
    pub weight: u64,
    /// How its model moved, or its mean gradient; empty when nothing was trained.
    pub update: Vec<f32>,
    /// How the offered model scored, when that was asked.
    pub metrics: Option<MetricTally>,
}

/// An update as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The packed lanes.
    pub packed: Vec<u8>,
    /// Coordinates that were beyond the range and were clamped.
    pub saturated: u64,
}

/// Why a contribution cannot be encoded. A fault of the site's own, seen before anything is sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The update has another number of values than the model.
    #[error("the update must have {expected} values; found {found}")]
    Length {
        /// The model's parameters.
        expected: usize,
        /// The values found.
        found: usize,
    },
    /// A value is infinite or not a number: training has diverged.
    #[error("the update must be finite; value {index} is not")]
    NotFinite {
        /// Which one, from 0.
        index: usize,
    },
    /// The metrics are missing, not asked for, or for another number of classes.
    #[error("the metrics must be for {expected} classes; found {found}")]
    Metrics {
        /// Classes in the study, 0 when this round does not evaluate.
        expected: usize,
        /// Classes found, 0 when there are no metrics.
        found: usize,
    },
    /// Plain values for a private study, or noised lanes for another.
    #[error("the update must be {expected}")]
    Kind {
        /// What the study sends.
        expected: &'static str,
    },
    /// A counter does not fit.
    #[error("a counter must be below 2^48; found {found}")]
    Counter {
        /// The value found.
        found: u64,
    },
}

/// Encodes what a site has to say. The same contribution always gives the same bytes.
///
/// # Errors
/// When the contribution does not fit the format, has a value that is not finite, or a counter of
/// 2^48 or more.
pub fn encode(format: &VectorFormat, contribution: &Contribution) -> Result<Encoded, EncodeError> {
    let Contribution { weight, update, metrics } = contribution;
    let Coding::Weighted { grid, weight_cap } = format.coding else {
        return Err(EncodeError::Kind { expected: "a noised sum" });
    };
    check_parts(format, update.len(), metrics.as_ref())?;
    if let Some(index) = update.iter().position(|value| !value.is_finite()) {
        return Err(EncodeError::NotFinite { index });
    }

    // PROTOCOL R-18
    let weight = (*weight).min(weight_cap.into());
    let share = real(weight) / f64::from(weight_cap);
    let mut saturated = 0;
    let mut packed = Vec::with_capacity(format.packed_bytes());
    // Packed piece by piece, while they are in the cache: all lanes at once would cost more time in
    // new memory than in arithmetic.
    let mut lanes = Vec::with_capacity(AT_ONCE);
    for values in update.chunks(AT_ONCE) {
        lanes.clear();
        lanes.extend(values.iter().map(|value| {
            let (lane, clamped) = grid.lane(share * f64::from(*value));
            saturated += u64::from(clamped);
            lane
        }));
        format.modulus().pack(&lanes, &mut packed);
    }
    lanes.clear();
    push_counter(format, &mut lanes, weight)?;
    if let Some(tally) = metrics {
        for counter in tally.counters() {
            push_counter(format, &mut lanes, counter)?;
        }
    }
    format.modulus().pack(&lanes, &mut packed);
    Ok(Encoded { packed, saturated })
}

/// Encodes what a site of a private study has to say: the lanes that its noise left
/// ([`Noise::to_wire`](crate::privacy::noise::Noise::to_wire)), none where nothing is trained, and
/// how the offered model scored, when that was asked.
///
/// # Errors
/// When the study is not private, or the parts do not fit the format.
pub fn encode_noised(
    format: &VectorFormat,
    lanes: &[u32],
    metrics: Option<&MetricTally>,
) -> Result<Vec<u8>, EncodeError> {
    if !format.is_noised() {
        return Err(EncodeError::Kind { expected: "plain values" });
    }
    check_parts(format, lanes.len(), metrics)?;
    let mut packed = Vec::with_capacity(format.packed_bytes());
    format.modulus().pack(lanes, &mut packed);
    let mut counters = Vec::new();
    for counter in metrics.into_iter().flat_map(MetricTally::counters) {
        push_counter(format, &mut counters, counter)?;
    }
    format.modulus().pack(&counters, &mut packed);
    Ok(packed)
}

fn check_parts(
    format: &VectorFormat,
    update: usize,
    metrics: Option<&MetricTally>,
) -> Result<(), EncodeError> {
    if update != format.model {
        return Err(EncodeError::Length { expected: format.model, found: update });
    }
    let shape = metrics.map(MetricTally::shape);
    if shape != format.metrics {
        let classes = |shape: Option<MetricShape>| shape.map_or(0, MetricShape::classes);
        return Err(EncodeError::Metrics {
            expected: classes(format.metrics),
            found: classes(shape),
        });
    }
    Ok(())
}

/// Appends a counter's limbs, the least first.
fn push_counter(
    format: &VectorFormat,
    lanes: &mut Vec<u32>,
    counter: u64,
) -> Result<(), EncodeError> {
    if counter >> COUNTER_BITS != 0 {
        return Err(EncodeError::Counter { found: counter });
    }
    let mask = (1 << format.limb_bits) - 1;
    let mut rest = counter;
    for _ in 0..format.limbs() {
        let limb =
            u32::try_from(rest & mask).map_err(|_| EncodeError::Counter { found: counter })?;
        lanes.push(limb);
        rest >>= format.limb_bits;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearsal::Seeded;
    use crate::study::tests::example;

    /// A format over any modulus, for sums that [`Grid::for_sites`] would give another.
    pub(super) fn format(
        modulus: Modulus,
        sites: u32,
        model: usize,
        metrics: bool,
    ) -> VectorFormat {
        VectorFormat {
            coding: Coding::Weighted {
                grid: Grid::with_modulus(modulus, 1.0, sites)
                    .expect("there is room for so many sites"),
                weight_cap: 4_096,
            },
            model,
            limb_bits: limb_bits(modulus, sites),
            metrics: metrics.then(|| MetricShape::new(2)),
            sites,
        }
    }

    /// A coordinate's lane in a format with weights.
    pub(super) fn lane(format: &VectorFormat, coordinate: f64) -> u32 {
        match format.coding {
            Coding::Weighted { grid, .. } => grid.lane(coordinate).0,
            Coding::Noised { .. } => unreachable!("a format with weights"),
        }
    }

    #[test]
    fn the_format_follows_from_study_sites_and_work() {
        let study = example();
        let lanes = |work| VectorFormat::for_work(&study, 5, work).map(|f| (f.model(), f.lanes()));
        // Limbs of 12 bits: 4 to a counter. 2 classes: 3 + 2 * 2 * 512 counters.
        assert_eq!(lanes(Work::Train), Ok((14, 14 + 4)));
        assert_eq!(lanes(Work::TrainAndEvaluate), Ok((14, 14 + 4 + 4 * 2_051)));
        assert_eq!(lanes(Work::Evaluate), Ok((0, 4 + 4 * 2_051)));
        let widest = study.vector_format(5).expect("five sites fit");
        assert_eq!(widest.modulus(), Modulus::Bits24);
        assert_eq!(widest.packed_bytes(), 3 * widest.lanes());
        assert_eq!(widest.clamp(), ((1 << 23) - 1) / 5);
        assert!((widest.step() * 1_677_721.0 - 1.0).abs() < 1e-12);
        assert_eq!((widest.sites(), widest.weight_cap()), (5, Some(4_096)));
    }

    #[test]
    fn no_site_and_too_many_sites_are_refused() {
        for sites in [0, MAX_SITES + 1, usize::MAX] {
            let fault = VectorFormat::for_work(&example(), sites, Work::Train).map_err(|f| f.key);
            assert_eq!(fault, Err("cohort.sites".to_owned()));
        }
        assert!(VectorFormat::for_work(&example(), MAX_SITES, Work::Train).is_ok());
    }

    /// Breaks R-10 for counters: every site at the greatest limb, for every number of sites.
    #[test]
    fn a_sum_of_greatest_limbs_does_not_wrap() {
        for modulus in Modulus::ALL {
            for sites in 1..=u32::from(u16::MAX) {
                if modulus == Modulus::Bits16 && sites > 1 << 14 {
                    continue; // Never chosen: `Grid::for_sites` takes 32 bits long before.
                }
                let greatest = (1_u64 << limb_bits(modulus, sites)) - 1;
                assert!(
                    greatest * u64::from(sites) < 1 << modulus.bits(),
                    "{modulus:?}, {sites} sites"
                );
            }
        }
    }

    fn contribution(weight: u64, update: &[f32]) -> Contribution {
        Contribution { weight, update: update.to_vec(), metrics: None }
    }

    #[test]
    fn lanes_are_the_documented_ones() {
        let format = format(Modulus::Bits24, 1, 2, false);
        let encoded = encode(&format, &contribution(2_048, &[0.5, -2.0])).expect("it fits");
        // L = 8,388,607; half the cap's weight: 0.25 L = 2,097,151.75 and -L; 2,048 in limbs of 12 bits.
        let lanes =
            [[0x00, 0x00, 0x20], [0x01, 0x00, 0x80], [0x00, 0x08, 0x00], [0; 3], [0; 3], [0; 3]];
        assert_eq!(encoded, Encoded { packed: lanes.concat(), saturated: 0 });
        let beyond = encode(&format, &contribution(4_096, &[1.5, f32::MIN])).expect("it fits");
        assert_eq!(beyond.saturated, 2);
        assert_eq!(&beyond.packed[..6], [0xff, 0xff, 0x7f, 0x01, 0x00, 0x80]);
    }

    /// However many pieces the lanes were packed in, each is where it belongs.
    #[test]
    fn lanes_follow_each_other_whatever_their_number() {
        for modulus in Modulus::ALL {
            for model in [0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE + 7] {
                let format = format(modulus, 3, model, false);
                let mut seeded = Seeded::new(2);
                #[expect(clippy::cast_possible_truncation, reason = "a value of a test")]
                let update: Vec<f32> = (0..model).map(|_| seeded.signed() as f32).collect();
                let mut lanes: Vec<u32> =
                    update.iter().map(|value| lane(&format, f64::from(*value))).collect();
                push_counter(&format, &mut lanes, 4_096).expect("it fits");
                let mut packed = Vec::new();
                modulus.pack(&lanes, &mut packed);
                let encoded = encode(&format, &contribution(4_096, &update)).expect("it fits");
                assert_eq!(encoded, Encoded { packed, saturated: 0 }, "{modulus:?} {model}");
            }
        }
    }

    #[test]
    fn the_same_contribution_gives_the_same_bytes() {
        let format = format(Modulus::Bits24, 5, 3, true);
        let mut metrics = MetricTally::new(MetricShape::new(2));
        metrics.record(&[0.5, 0.25], 1).expect("two logits");
        let said = Contribution { metrics: Some(metrics), ..contribution(77, &[0.1, -0.2, 0.3]) };
        assert_eq!(encode(&format, &said), encode(&format, &said.clone()));
    }

    #[test]
    fn what_does_not_fit_the_format_is_refused() {
        let plain = format(Modulus::Bits24, 5, 2, false);
        let judged = format(Modulus::Bits24, 5, 2, true);
        let metrics = |classes| Some(MetricTally::new(MetricShape::new(classes)));
        let fine = contribution(1, &[0.0, 0.0]);
        assert_eq!(
            encode(&plain, &contribution(1, &[0.0])),
            Err(EncodeError::Length { expected: 2, found: 1 })
        );
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(
                encode(&plain, &contribution(1, &[0.0, bad])),
                Err(EncodeError::NotFinite { index: 1 })
            );
        }
        let cases = [
            (&plain, metrics(2), EncodeError::Metrics { expected: 0, found: 2 }),
            (&judged, None, EncodeError::Metrics { expected: 2, found: 0 }),
            (&judged, metrics(3), EncodeError::Metrics { expected: 2, found: 3 }),
        ];
        for (format, metrics, why) in cases {
            assert_eq!(encode(format, &Contribution { metrics, ..fine.clone() }), Err(why));
        }
        let mut swollen = MetricTally::new(MetricShape::new(2));
        swollen.loss_micro = 1 << 48;
        assert_eq!(
            encode(&judged, &Contribution { metrics: Some(swollen), ..fine }),
            Err(EncodeError::Counter { found: 1 << 48 })
        );
    }
}
