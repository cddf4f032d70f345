//! How well a class of a segmentation fits, as sums over patients that all sites can add up.

use super::MetricTally;
use crate::units::{count, real};

/// The greatest distance that is counted, in voxels.
pub const MAX_DISTANCE: f64 = 10_000.0;
/// Units of a sum of Dice coefficients to one.
const MICRO: f64 = 1e6;
/// Units of a sum of distances to one voxel.
const MILLI: f64 = 1e3;

/// How one class of one patient's image fits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overlap {
    /// Voxels of the class in both the answer and the mask.
    pub common: u64,
    /// In the answer.
    pub found: u64,
    /// In the mask.
    pub wanted: u64,
    /// The Hausdorff distance of the two surfaces in voxels, and the 95th percentile of the
    /// distances from one to the other; none where a surface is missing.
    pub distances: Option<(f64, f64)>,
}

/// How well one class fits, over some patients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Region {
    /// Voxels in both the answers and the masks.
    pub common: u64,
    /// In the answers.
    pub found: u64,
    /// In the masks.
    pub wanted: u64,
    /// Sum of the patients' Dice coefficients, in millionths.
    pub dice_micro: u64,
    /// Patients with the class in the answer or in the mask.
    pub dice_cases: u64,
    /// Sum of the patients' Hausdorff distances, in thousandths of a voxel.
    pub distance_milli: u64,
    /// The same of the 95th percentiles.
    pub distance_95_milli: u64,
    /// Patients with the class in both.
    pub distance_cases: u64,
}

impl Region {
    /// Counters to a region.
    pub(super) const COUNTERS: usize = 8;

    /// The mean over patients of `2 |A and B| / (|A| + |B|)`; those whose answer and mask both lack
    /// the class are left out.
    #[must_use]
    pub fn dice(&self) -> Option<f64> {
        (self.dice_cases > 0).then(|| real(self.dice_micro) / MICRO / real(self.dice_cases))
    }

    /// The mean Hausdorff distance in voxels, over patients with the class in both.
    #[must_use]
    pub fn hausdorff(&self) -> Option<f64> {
        self.mean_distance(self.distance_milli)
    }

    /// The mean 95th percentile of the distances between the surfaces in voxels, over the same.
    #[must_use]
    pub fn hausdorff_95(&self) -> Option<f64> {
        self.mean_distance(self.distance_95_milli)
    }

    fn mean_distance(&self, sum: u64) -> Option<f64> {
        (self.distance_cases > 0).then(|| real(sum) / MILLI / real(self.distance_cases))
    }

    pub(super) fn record(&mut self, overlap: &Overlap) {
        let Overlap { common, found, wanted, distances } = *overlap;
        self.common += common;
        self.found += found;
        self.wanted += wanted;
        if found + wanted > 0 {
            self.dice_cases += 1;
            self.dice_micro += whole(2.0 * real(common) / real(found + wanted) * MICRO, MICRO);
        }
        if let Some((greatest, most)) = distances {
            self.distance_cases += 1;
            self.distance_milli += distance(greatest);
            self.distance_95_milli += distance(most);
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let [mine, theirs] = [self.counters(), other.counters()];
        let mut sums = mine;
        for (sum, addend) in sums.iter_mut().zip(theirs) {
            *sum = sum.saturating_add(addend);
        }
        *self = Self::from_counters(sums);
    }

    pub(super) const fn counters(&self) -> [u64; Self::COUNTERS] {
        [
            self.common,
            self.found,
            self.wanted,
            self.dice_micro,
            self.dice_cases,
            self.distance_milli,
            self.distance_95_milli,
            self.distance_cases,
        ]
    }

    pub(super) const fn from_counters(counters: [u64; Self::COUNTERS]) -> Self {
        let [
            common,
            found,
            wanted,
            dice_micro,
            dice_cases,
            distance_milli,
            distance_95_milli,
            distance_cases,
        ] = counters;
        Self {
            common,
            found,
            wanted,
            dice_micro,
            dice_cases,
            distance_milli,
            distance_95_milli,
            distance_cases,
        }
    }

    /// Whether so many examples could have been counted to this.
    pub(super) fn consistent(&self, examples: u64) -> bool {
        let most = |cases: u64, each: u128| u128::from(cases) * each;
        self.common <= self.found.min(self.wanted)
            && self.dice_cases <= examples
            && u128::from(self.dice_micro) <= most(self.dice_cases, 1_000_000)
            && self.distance_cases <= self.dice_cases
            && self.distance_95_milli <= self.distance_milli
            && u128::from(self.distance_milli) <= most(self.distance_cases, 10_000_000)
    }
}

impl MetricTally {
    /// The mean over the classes but the first of [`Region::dice`].
    #[must_use]
    pub fn dice(&self) -> Option<f64> {
        self.mean_of(Region::dice)
    }

    /// The same of [`Region::hausdorff`].
    #[must_use]
    pub fn hausdorff(&self) -> Option<f64> {
        self.mean_of(Region::hausdorff)
    }

    /// The same of [`Region::hausdorff_95`].
    #[must_use]
    pub fn hausdorff_95(&self) -> Option<f64> {
        self.mean_of(Region::hausdorff_95)
    }

    fn mean_of(&self, figure: fn(&Region) -> Option<f64>) -> Option<f64> {
        let figures: Vec<f64> = self.regions.iter().filter_map(figure).collect();
        (!figures.is_empty()).then(|| figures.iter().sum::<f64>() / real(count(figures.len())))
    }
}

fn distance(voxels: f64) -> u64 {
    whole(voxels * MILLI, MAX_DISTANCE * MILLI)
}

/// Rounded, from 0 to `most`; what is no number is the greatest.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 to 10^7 after the clamp"
)]
fn whole(value: f64, most: f64) -> u64 {
    let held = if value.is_nan() { most } else { value.clamp(0.0, most) };
    held.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::MetricShape;
    use crate::study::TaskKind;

    /// Breaks R-16: what sites add up must say of all of them what one would say alone.
    #[test]
    fn regions_of_several_sites_add_up_to_means_over_their_patients() {
        let shape = MetricShape { kind: TaskKind::Segmentation, classes: 3 };
        let overlap =
            |common, found, wanted, distances| Overlap { common, found, wanted, distances };
        let mut one = MetricTally::new(shape);
        let first = [overlap(30, 40, 60, Some((3.0, 2.0))), overlap(0, 0, 0, None)];
        one.record_regions(0.5, &first).expect("two classes");
        let mut two = MetricTally::new(shape);
        let second = [overlap(50, 50, 50, Some((0.0, 0.0))), overlap(0, 0, 9, None)];
        two.record_regions(0.25, &second).expect("two classes");
        assert!(one.record_regions(0.5, &second[..1]).is_err());
        assert!(one.record(&[0.0; 3], 1).is_err());
        one.merge(&two).expect("the same shape");
        // (0.6 + 1) / 2 of the first class; the second is missed where it is, and is in one only.
        assert_eq!(one.regions[0].dice(), Some(0.8));
        assert_eq!(one.regions[1].dice(), Some(0.0));
        assert_eq!(
            (one.dice(), one.hausdorff(), one.hausdorff_95()),
            (Some(0.4), Some(1.5), Some(1.0))
        );
        assert_eq!((one.loss(), one.accuracy(), one.auroc()), (Some(0.375), None, None));
        let again = MetricTally::from_counters(shape, one.counters());
        assert_eq!(again, one);
        assert_eq!(one.counters().count(), shape.counters());
        assert!(one.consistent());
        one.regions[0].common = 111;
        assert!(!one.consistent(), "more in common than either has");
    }

    #[test]
    fn each_of_several_labels_is_counted_by_itself() {
        let shape = MetricShape { kind: TaskKind::MultiLabel, classes: 2 };
        let mut tally = MetricTally::new(shape);
        for (logits, labels) in [
            ([2.0, 1.0], [true, true]),
            ([-1.0, 3.0], [false, true]),
            ([-2.0, -3.0], [false, false]),
            ([1.0, f32::NAN], [false, false]),
        ] {
            tally.record_labels(&logits, &labels).expect("two of each");
        }
        assert_eq!((tally.examples, tally.correct), (4, 3));
        assert!(tally.consistent());
        // The first class is in order; the second has a score in the middle that is no number.
        assert_eq!(tally.auroc(), Some(1.0));
        assert!(tally.loss().is_some_and(|loss| loss > 25.0), "one loss is no number");
        assert!(tally.record_labels(&[0.0], &[true, false]).is_err());
        assert_eq!(MetricTally::from_counters(shape, tally.counters()), tally);
    }
}
