//! How well a model does, as sums: what one site counts, all sites can add up.
//!
//! No figure of one site ever exists outside of it (PROTOCOL R-16). Loss, accuracy and the score
//! histograms are counters; AUROC is read off the summed histograms.

mod regions;

pub use self::regions::{MAX_DISTANCE, Overlap, Region};

use crate::study::{Task, TaskKind};
use crate::units::{count, real};

/// Bins of a score histogram.
pub const BINS: usize = 512;
/// Scores beyond this, on either side, fall into the outermost bins.
pub const SCORE_RANGE: f64 = 12.0;
/// The greatest loss that one example can add.
pub const MAX_LOSS: f64 = 100.0;
/// Units of [`MetricTally::loss_micro`] to one of loss.
const MICRO: f64 = 1e6;

/// What a tally counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricShape {
    kind: TaskKind,
    classes: usize,
}

impl MetricShape {
    /// Metrics of a classification into so many classes.
    #[must_use]
    pub const fn new(classes: usize) -> Self {
        Self { kind: TaskKind::Classification, classes }
    }

    /// What a study counts.
    #[must_use]
    pub const fn of(task: &Task) -> Self {
        Self { kind: task.kind, classes: task.classes.len() }
    }

    /// What is judged.
    #[must_use]
    pub const fn kind(self) -> TaskKind {
        self.kind
    }

    /// The number of classes.
    #[must_use]
    pub const fn classes(self) -> usize {
        self.classes
    }

    /// The number of counters: examples, loss, correct; then two histograms for each class, or a
    /// [`Region`] for each class of a segmentation but the first.
    #[must_use]
    pub const fn counters(self) -> usize {
        3 + self.scored() * 2 * BINS + self.regions() * Region::COUNTERS
    }

    /// Classes that have a histogram.
    const fn scored(self) -> usize {
        match self.kind {
            TaskKind::Classification | TaskKind::MultiLabel => self.classes,
            TaskKind::Segmentation => 0,
        }
    }

    /// Classes that have a region.
    const fn regions(self) -> usize {
        match self.kind {
            TaskKind::Classification | TaskKind::MultiLabel => 0,
            TaskKind::Segmentation => self.classes.saturating_sub(1),
        }
    }
}

/// Metrics of some examples, at one site or summed over many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricTally {
    kind: TaskKind,
    /// Examples scored.
    pub examples: u64,
    /// Sum of their losses, in millionths, each at most [`MAX_LOSS`].
    pub loss_micro: u64,
    /// Examples whose greatest logit was the label's; of several labels, examples all of whose
    /// logits were on the right side of 0; of a segmentation none.
    pub correct: u64,
    /// For each class: scores of the examples outside of it, and of those in it. None for a
    /// segmentation.
    pub histograms: Vec<[Vec<u64>; 2]>,
    /// Of a segmentation, each class but the first.
    pub regions: Vec<Region>,
}

/// An example that cannot be counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadExample {
    /// Another number of logits than classes.
    #[error("an example needs {expected} logits; found {found}")]
    Logits {
        /// The number of classes.
        expected: usize,
        /// The number of logits.
        found: usize,
    },
    /// A label that is no class.
    #[error("a label must be below {expected}; found {found}")]
    Label {
        /// The number of classes.
        expected: usize,
        /// The label.
        found: usize,
    },
    /// An answer of another kind than the tally's.
    #[error("expected an answer of {expected}; found one of {found}")]
    Kind {
        /// The tally's.
        expected: &'static str,
        /// The answer's.
        found: &'static str,
    },
}

impl MetricTally {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(shape: MetricShape) -> Self {
        Self {
            kind: shape.kind,
            examples: 0,
            loss_micro: 0,
            correct: 0,
            histograms: vec![[vec![0; BINS], vec![0; BINS]]; shape.scored()],
            regions: vec![Region::default(); shape.regions()],
        }
    }

    /// What is counted.
    #[must_use]
    pub const fn shape(&self) -> MetricShape {
        let classes = match self.kind {
            TaskKind::Classification | TaskKind::MultiLabel => self.histograms.len(),
            TaskKind::Segmentation => self.regions.len() + 1,
        };
        MetricShape { kind: self.kind, classes }
    }

    fn expect(&self, kind: TaskKind) -> Result<(), BadExample> {
        let (expected, found) = (self.kind.name(), kind.name());
        if self.kind == kind { Ok(()) } else { Err(BadExample::Kind { expected, found }) }
    }

    /// Counts one example by the model's logits and its label. A model that has diverged is
    /// counted too: a loss that is not a number counts as the greatest, such a score as neither
    /// high nor low, and such logits as wrong.
    ///
    /// # Errors
    /// When there is not one logit for each class, or the label is no class, or labels are not what
    /// is judged; nothing was counted.
    pub fn record(&mut self, logits: &[f32], label: usize) -> Result<(), BadExample> {
        self.expect(TaskKind::Classification)?;
        let classes = self.histograms.len();
        if logits.len() != classes {
            return Err(BadExample::Logits { expected: classes, found: logits.len() });
        }
        let Some(own) = logits.get(label) else {
            return Err(BadExample::Label { expected: classes, found: label });
        };
        let loss = log_sum_exp(logits, None) - f64::from(*own);
        self.examples += 1;
        self.loss_micro += micro(loss);
        if logits.iter().all(|logit| logit.is_finite()) && argmax(logits) == Some(label) {
            self.correct += 1;
        }
        for (class, (logit, [negatives, positives])) in
            logits.iter().zip(&mut self.histograms).enumerate()
        {
            let score = f64::from(*logit) - log_sum_exp(logits, Some(class));
            let histogram = if class == label { positives } else { negatives };
            if let Some(slot) = histogram.get_mut(bin(score)) {
                *slot += 1;
            }
        }
        Ok(())
    }

    /// Counts one example by the model's logits and by whether it has each label; as
    /// [`Self::record`], but that a score is a logit by itself.
    ///
    /// # Errors
    /// When there is not one logit and one label for each class, or several labels are not what is
    /// judged; nothing was counted.
    pub fn record_labels(&mut self, logits: &[f32], labels: &[bool]) -> Result<(), BadExample> {
        self.expect(TaskKind::MultiLabel)?;
        let expected = self.histograms.len();
        for found in [logits.len(), labels.len()] {
            if found != expected {
                return Err(BadExample::Logits { expected, found });
            }
        }
        let each = logits.iter().zip(labels);
        let losses = each.clone().map(|(logit, label)| {
            let wrong = if *label { -f64::from(*logit) } else { f64::from(*logit) };
            // log(1 + exp(wrong)), safe from overflow.
            wrong.max(0.0) + (-wrong.abs()).exp().ln_1p()
        });
        self.examples += 1;
        self.loss_micro += micro(losses.sum::<f64>() / real(count(expected.max(1))));
        let right = |(logit, label): (&f32, &bool)| logit.is_finite() && (*logit > 0.0) == *label;
        self.correct += u64::from(each.clone().all(right));
        for ((logit, label), histograms) in each.zip(&mut self.histograms) {
            let histogram = &mut histograms[usize::from(*label)];
            if let Some(slot) = histogram.get_mut(bin(f64::from(*logit))) {
                *slot += 1;
            }
        }
        Ok(())
    }

    /// Counts one segmented example by its loss and by how each class but the first fits.
    ///
    /// # Errors
    /// When there is not one overlap for each of these classes, or no segmentation is judged;
    /// nothing was counted.
    pub fn record_regions(&mut self, loss: f64, overlaps: &[Overlap]) -> Result<(), BadExample> {
        self.expect(TaskKind::Segmentation)?;
        let (expected, found) = (self.regions.len(), overlaps.len());
        if expected != found {
            return Err(BadExample::Logits { expected, found });
        }
        self.examples += 1;
        self.loss_micro += micro(loss);
        for (region, overlap) in self.regions.iter_mut().zip(overlaps) {
            region.record(overlap);
        }
        Ok(())
    }

    /// Adds what another tally of the same shape has counted.
    ///
    /// # Errors
    /// When the shapes differ; nothing was added.
    pub fn merge(&mut self, other: &Self) -> Result<(), BadExample> {
        self.expect(other.kind)?;
        let (expected, found) = (self.regions.len(), other.regions.len());
        if expected != found {
            return Err(BadExample::Logits { expected, found });
        }
        let (expected, found) = (self.histograms.len(), other.histograms.len());
        if expected != found {
            return Err(BadExample::Logits { expected, found });
        }
        self.examples = self.examples.saturating_add(other.examples);
        self.loss_micro = self.loss_micro.saturating_add(other.loss_micro);
        self.correct = self.correct.saturating_add(other.correct);
        for (mine, theirs) in
            self.histograms.iter_mut().flatten().zip(other.histograms.iter().flatten())
        {
            for (sum, addend) in mine.iter_mut().zip(theirs) {
                *sum = sum.saturating_add(*addend);
            }
        }
        for (mine, theirs) in self.regions.iter_mut().zip(&other.regions) {
            mine.merge(theirs);
        }
        Ok(())
    }

    /// Mean loss, if any example was counted.
    #[must_use]
    pub fn loss(&self) -> Option<f64> {
        (self.examples > 0).then(|| real(self.loss_micro) / MICRO / real(self.examples))
    }

    /// Share of examples that were right, if any was counted. A segmentation has none.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        (self.examples > 0 && self.kind != TaskKind::Segmentation)
            .then(|| real(self.correct) / real(self.examples))
    }

    /// Area under the ROC curve: of two classes that exclude each other, the second's; else the mean
    /// over the classes that have examples on both sides, each against the rest. Ties count half, as in
    /// \[Faw06\] section 7; two scores in one bin are a tie.
    #[must_use]
    pub fn auroc(&self) -> Option<f64> {
        let judged = match self.histograms.as_slice() {
            [_, second] if self.kind == TaskKind::Classification => std::slice::from_ref(second),
            all => all,
        };
        let areas: Vec<f64> = judged.iter().filter_map(area).collect();
        (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / real(count(areas.len())))
    }

    /// All counters in the order in which they travel.
    pub(crate) fn counters(&self) -> impl Iterator<Item = u64> {
        [self.examples, self.loss_micro, self.correct]
            .into_iter()
            .chain(self.histograms.iter().flatten().flatten().copied())
            .chain(self.regions.iter().flat_map(Region::counters))
    }

    /// The tally with these counters; what is missing is 0.
    pub(crate) fn from_counters(
        shape: MetricShape,
        mut counters: impl Iterator<Item = u64>,
    ) -> Self {
        let mut next = || counters.next().unwrap_or(0);
        let mut tally = Self::new(shape);
        tally.examples = next();
        tally.loss_micro = next();
        tally.correct = next();
        for slot in tally.histograms.iter_mut().flatten().flatten() {
            *slot = next();
        }
        for region in &mut tally.regions {
            *region = Region::from_counters([(); Region::COUNTERS].map(|()| next()));
        }
        tally
    }

    /// Whether examples could have been counted to this, by any number of honest sites.
    pub(crate) fn consistent(&self) -> bool {
        let whole = u128::from(self.examples);
        let most_loss = whole * 100_000_000;
        let sum = |histogram: &[u64]| histogram.iter().map(|bin| u128::from(*bin)).sum::<u128>();
        // Every example is in one bin of each class; where classes exclude each other it is positive
        // for exactly one.
        let positives: u128 = self.histograms.iter().map(|[_, positives]| sum(positives)).sum();
        u128::from(self.correct) <= whole
            && u128::from(self.loss_micro) <= most_loss
            && (self.kind != TaskKind::Classification || positives == whole)
            && (self.kind != TaskKind::Segmentation || self.correct == 0)
            && self.regions.iter().all(|region| region.consistent(self.examples))
            && self
                .histograms
                .iter()
                .all(|[negatives, positives]| sum(negatives) + sum(positives) == whole)
    }
}

/// log(sum of exp), over all logits or all but one, safe from overflow.
fn log_sum_exp(logits: &[f32], without: Option<usize>) -> f64 {
    let chosen = || {
        logits
            .iter()
            .enumerate()
            .filter(move |(class, _)| Some(*class) != without)
            .map(|(_, logit)| f64::from(*logit))
    };
    let top = chosen().fold(f64::NEG_INFINITY, f64::max);
    if top.is_finite() {
        top + chosen().map(|logit| (logit - top).exp()).sum::<f64>().ln()
    } else {
        f64::NAN
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 to 10^8 after the clamp"
)]
fn micro(loss: f64) -> u64 {
    // Not a number: the greatest loss. `clamp` would pass it through.
    let held = if loss.is_nan() { MAX_LOSS } else { loss.clamp(0.0, MAX_LOSS) };
    (held * MICRO).round() as u64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 to BINS - 1 after the clamp"
)]
fn bin(score: f64) -> usize {
    let bins = real(count(BINS));
    let place = if score.is_nan() {
        bins / 2.0
    } else {
        (score + SCORE_RANGE) / (2.0 * SCORE_RANGE) * bins
    };
    place.floor().clamp(0.0, bins - 1.0) as usize
}

/// The first of the greatest.
fn argmax(logits: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (class, &logit) in logits.iter().enumerate() {
        if best.is_none_or(|(_, top)| logit > top) {
            best = Some((class, logit));
        }
    }
    best.map(|(class, _)| class)
}

/// The share of pairs of a negative and a positive in which the positive scores higher.
fn area([negatives, positives]: &[Vec<u64>; 2]) -> Option<f64> {
    let mut below = 0_u128;
    let mut twice = 0_u128;
    let mut in_class = 0_u128;
    for (negative, positive) in negatives.iter().zip(positives) {
        let (negative, positive) = (u128::from(*negative), u128::from(*positive));
        twice = twice.saturating_add(positive.saturating_mul(2 * below + negative));
        below += negative;
        in_class += positive;
    }
    let pairs = below.saturating_mul(in_class);
    (pairs > 0).then(|| ratio(twice, pairs) / 2.0)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a ratio of counts; rounding to f64 is what is wanted"
)]
const fn ratio(part: u128, whole: u128) -> f64 {
    part as f64 / whole as f64
}

// [Faw06]: Fawcett: An introduction to ROC analysis, Pattern Recognition Letters 27 (2006).

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearsal::Seeded;

    const BINARY: MetricShape = MetricShape::new(2);

    /// A tally of two classes over these scores of class 1 and labels.
    fn tally(scored: &[(f32, usize)]) -> MetricTally {
        let mut tally = MetricTally::new(BINARY);
        for (score, label) in scored {
            tally.record(&[0.0, *score], *label).expect("two logits and a label below two");
        }
        tally
    }

    /// The definition: the share of pairs that are in order, ties half.
    fn pairwise(scored: &[(f32, usize)]) -> f64 {
        let of = |wanted| {
            scored.iter().filter(move |(_, label)| *label == wanted).map(|(score, _)| *score)
        };
        let (mut twice, mut pairs) = (0_u64, 0_u64);
        for positive in of(1) {
            for negative in of(0) {
                twice += match positive.total_cmp(&negative) {
                    std::cmp::Ordering::Greater => 2,
                    std::cmp::Ordering::Equal => 1,
                    std::cmp::Ordering::Less => 0,
                };
                pairs += 1;
            }
        }
        real(twice) / real(pairs) / 2.0
    }

    #[expect(clippy::cast_possible_truncation, reason = "a score of a test")]
    fn score(value: f64) -> f32 {
        value as f32
    }

    #[test]
    fn the_histogram_area_is_close_to_the_exact_one() {
        for (seed, shift, spread) in [(1, 0.0, 1.0), (2, 0.5, 1.0), (3, 2.0, 3.0), (4, -1.0, 2.0)] {
            let mut seeded = Seeded::new(seed);
            let scored: Vec<_> = (0..1_500)
                .map(|example| {
                    let label = usize::from(example % 3 == 0);
                    // Three uniform draws are near enough to a bell.
                    let bell: f64 = (0..3).map(|_| seeded.signed()).sum();
                    (score(bell * spread + if label == 1 { shift } else { 0.0 }), label)
                })
                .collect();
            let found = tally(&scored).auroc().expect("both classes have examples");
            let exact = pairwise(&scored);
            assert!((found - exact).abs() < 0.005, "seed {seed}: {found} is not {exact}");
        }
    }

    fn assert_area(scored: &[(f32, usize)], wanted: Option<f64>) {
        let found = tally(scored).auroc();
        assert!(
            found.zip(wanted).map_or(found == wanted, |(f, w)| (f - w).abs() < 1e-12),
            "{scored:?}: {found:?} is not {wanted:?}"
        );
    }

    #[test]
    fn ties_count_half() {
        assert_area(&[(1.0, 0), (1.0, 1)], Some(0.5));
        assert_area(&[(0.0, 0), (1.0, 0), (1.0, 1), (2.0, 1)], Some(0.875));
        assert_area(&[(0.0, 0), (1.0, 1)], Some(1.0));
        assert_area(&[(1.0, 0), (0.0, 1)], Some(0.0));
        // Beyond the outermost bins everything is a tie.
        assert_area(&[(50.0, 0), (500.0, 1)], Some(0.5));
        assert_area(&[(-500.0, 0), (500.0, 1)], Some(1.0));
    }

    #[test]
    fn without_examples_on_both_sides_there_is_no_area() {
        assert_area(&[], None);
        assert_area(&[(1.0, 1), (2.0, 1)], None);
        assert_eq!(MetricTally::new(BINARY).loss(), None);
        assert_eq!(MetricTally::new(BINARY).accuracy(), None);
    }

    #[test]
    fn of_many_classes_each_is_judged_against_the_rest() {
        let mut tally = MetricTally::new(MetricShape::new(4));
        // Class 0 is always right, class 1 and 2 are mixed up half of the time, class 3 never occurs.
        for (logits, label) in [
            ([9.0, 0.0, 0.0, 0.0], 0),
            ([0.0, 9.0, 0.0, 0.0], 1),
            ([0.0, 0.0, 9.0, 0.0], 1),
            ([0.0, 9.0, 0.0, 0.0], 2),
            ([0.0, 0.0, 9.0, 0.0], 2),
        ] {
            tally.record(&logits, label).expect("four logits");
        }
        assert!(tally.consistent());
        assert_eq!((tally.examples, tally.correct), (5, 3));
        // Against the rest: class 1 has scores {9, low} and the rest {9, low, low'}: 0.5 * 2/3 + ties.
        let one_area =
            |class: usize| area(&tally.histograms[class]).expect("both sides have examples");
        assert!((one_area(0) - 1.0).abs() < 1e-12);
        assert!(area(&tally.histograms[3]).is_none());
        let mean = (one_area(0) + one_area(1) + one_area(2)) / 3.0;
        assert!(tally.auroc().is_some_and(|auroc| (auroc - mean).abs() < 1e-12));
    }

    #[test]
    fn losses_are_counted_in_millionths_and_end_at_a_hundred() {
        // Two equal logits: ln 2 = 0.693147...
        assert_eq!(tally(&[(0.0, 0)]).loss_micro, 693_147);
        let mean = tally(&[(0.0, 0), (1e6, 1)]).loss().expect("two examples");
        assert!((mean - 0.346_573_5).abs() < 1e-12);
        assert_eq!(tally(&[(1e6, 0)]).loss_micro, 100_000_000);
        assert_eq!(tally(&[(1e6, 1)]).loss_micro, 0);
    }

    #[test]
    fn a_diverged_model_is_counted_as_bad_not_left_out() {
        for logits in
            [[f32::NAN, 0.0], [0.0, f32::NAN], [f32::INFINITY, f32::INFINITY], [0.0, f32::INFINITY]]
        {
            let mut tally = MetricTally::new(BINARY);
            tally.record(&logits, 1).expect("two logits");
            assert_eq!((tally.examples, tally.correct), (1, 0), "{logits:?}");
            assert_eq!(tally.loss_micro, 100_000_000, "{logits:?}");
            assert!(tally.consistent());
        }
    }

    #[test]
    fn what_cannot_be_counted_changes_nothing() {
        let mut tally = MetricTally::new(BINARY);
        assert_eq!(tally.record(&[0.0], 0), Err(BadExample::Logits { expected: 2, found: 1 }));
        assert_eq!(tally.record(&[0.0, 1.0], 2), Err(BadExample::Label { expected: 2, found: 2 }));
        let other = MetricTally::new(MetricShape::new(3));
        assert_eq!(tally.merge(&other), Err(BadExample::Logits { expected: 2, found: 3 }));
        assert_eq!(tally, MetricTally::new(BINARY));
    }

    /// Breaks R-16 if counting apart and together were not the same.
    #[test]
    fn tallies_of_parts_merge_to_the_tally_of_the_whole() {
        let mut seeded = Seeded::new(5);
        let scored: Vec<_> = (0..300)
            .map(|_| (score(seeded.signed() * 15.0), usize::from(seeded.word().is_multiple_of(2))))
            .collect();
        let mut merged = MetricTally::new(BINARY);
        for part in scored.chunks(77) {
            merged.merge(&tally(part)).expect("one shape");
        }
        assert_eq!(merged, tally(&scored));
        let again = MetricTally::from_counters(BINARY, merged.counters());
        assert_eq!(merged.counters().count(), BINARY.counters());
        assert_eq!(again, merged);
    }
}
