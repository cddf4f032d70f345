//! How well a model does, as sums: what one site counts, all sites can add up.
//!
//! No figure of one site ever exists outside of it (PROTOCOL R-16). Loss, accuracy and the score
//! histograms are counters; AUROC is read off the summed histograms.

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
    classes: usize,
}

impl MetricShape {
    /// Metrics over so many classes.
    #[must_use]
    pub const fn new(classes: usize) -> Self {
        Self { classes }
    }

    /// The number of classes.
    #[must_use]
    pub const fn classes(self) -> usize {
        self.classes
    }

    /// The number of counters: examples, loss, correct, then two histograms for each class.
    #[must_use]
    pub const fn counters(self) -> usize {
        3 + self.classes * 2 * BINS
    }
}

/// Metrics of some examples, at one site or summed over many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricTally {
    /// Examples scored.
    pub examples: u64,
    /// Sum of their losses, in millionths, each at most [`MAX_LOSS`].
    pub loss_micro: u64,
    /// Examples whose greatest logit was the label's.
    pub correct: u64,
    /// For each class: scores of the examples outside of it, and of those in it.
    pub histograms: Vec<[Vec<u64>; 2]>,
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
}

impl MetricTally {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(shape: MetricShape) -> Self {
        Self {
            examples: 0,
            loss_micro: 0,
            correct: 0,
            histograms: vec![[vec![0; BINS], vec![0; BINS]]; shape.classes],
        }
    }

    /// What is counted.
    #[must_use]
    pub const fn shape(&self) -> MetricShape {
        MetricShape::new(self.histograms.len())
    }

    /// Counts one example by the model's logits and its label. A model that has diverged is
    /// counted too: a loss that is not a number counts as the greatest, such a score as neither
    /// high nor low, and such logits as wrong.
    ///
    /// # Errors
    /// When there is not one logit for each class, or the label is no class; nothing was counted.
    pub fn record(&mut self, logits: &[f32], label: usize) -> Result<(), BadExample> {
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

    /// Adds what another tally of the same shape has counted.
    ///
    /// # Errors
    /// When the shapes differ; nothing was added.
    pub fn merge(&mut self, other: &Self) -> Result<(), BadExample> {
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
        Ok(())
    }

    /// Mean loss, if any example was counted.
    #[must_use]
    pub fn loss(&self) -> Option<f64> {
        (self.examples > 0).then(|| real(self.loss_micro) / MICRO / real(self.examples))
    }

    /// Share of examples that were right, if any was counted.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        (self.examples > 0).then(|| real(self.correct) / real(self.examples))
    }

    /// Area under the ROC curve: of two classes, the second's; of more, the mean over the classes
    /// that have examples on both sides, each against the rest. Ties count half, as in
    /// \[Faw06\] section 7; two scores in one bin are a tie.
    #[must_use]
    pub fn auroc(&self) -> Option<f64> {
        let judged = match self.histograms.as_slice() {
            [_, second] => std::slice::from_ref(second),
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
        tally
    }

    /// Whether examples could have been counted to this, by any number of honest sites.
    pub(crate) fn consistent(&self) -> bool {
        let whole = u128::from(self.examples);
        let most_loss = whole * 100_000_000;
        let sum = |histogram: &[u64]| histogram.iter().map(|bin| u128::from(*bin)).sum::<u128>();
        // Every example is in one bin of each class, and positive for exactly one class.
        let positives: u128 = self.histograms.iter().map(|[_, positives]| sum(positives)).sum();
        u128::from(self.correct) <= whole
            && u128::from(self.loss_micro) <= most_loss
            && positives == whole
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
