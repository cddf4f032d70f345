//! Where the pixels of a prepared image lie on those of the stored one, side by side: stretched, cut
//! out of the middle, with darkness around, or at a distance in millimetres. A value is the mean over
//! the area that a pixel covers where pixels become fewer, and linear between centres where they become
//! more, for each side by itself; a label is the one at the pixel's centre.

use std::borrow::Cow;
use std::ops::Range;

use aggregation::study::Fit;

use super::Preparation;
use crate::dataset::Fault;

/// How many of the stored pixels may become one of the prepared, and the other way round.
const SCALES: std::ops::RangeInclusive<f64> = 1e-4..=1e4;

/// One side of an image: the prepared pixels share a stretch of stored ones evenly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    from: usize,
    to: usize,
    /// Where the stretch begins, in stored pixels from the edge of the first; below 0 outside.
    start: f64,
    /// Its length, in stored pixels.
    length: f64,
}

impl Side {
    fn of_length(from: usize, to: usize, length: f64) -> Self {
        let (all, wanted) = (count(from), count(to));
        // A pixel that stays one is not smeared over two.
        if (length - wanted).abs() <= 1e-5 * wanted {
            return Self { from, to, start: ((all - wanted) / 2.0).floor(), length: wanted };
        }
        Self { from, to, start: (all - length) / 2.0, length }
    }

    /// Whether every pixel stays what it is.
    fn is_same(&self) -> bool {
        self.from == self.to
            && self.start.abs() < 1e-9
            && (self.length - count(self.from)).abs() < 1e-9
    }

    /// What makes each prepared pixel; nothing where there is nothing stored.
    fn taps(&self) -> Vec<Taps> {
        let Self { from, to, start, length } = *self;
        // Multiplied before it is divided: ends that are whole come out whole.
        let edge = |pixel: f64| start + pixel * length / count(to);
        (0..to)
            .map(|pixel| {
                let pixel = count(pixel);
                if length > count(to) {
                    Taps::area(edge(pixel), edge(pixel + 1.0), from)
                } else {
                    Taps::linear(edge(pixel + 0.5), from)
                }
            })
            .collect()
    }

    /// The stored pixel at the centre of each prepared one, if there is one.
    fn nearest(&self) -> Vec<Option<usize>> {
        let centres = (0..self.to)
            .map(|pixel| self.start + (count(pixel) + 0.5) * self.length / count(self.to));
        centres
            .map(|centre| (centre >= 0.0).then(|| floor(centre)).filter(|at| *at < self.from))
            .collect()
    }
}

impl Preparation {
    /// The sides of what is made of an image: depth, height, width.
    ///
    /// # Errors
    /// [`Fault::WrongShape`] where the study resamples and the file does not say how far pixels are
    /// apart, or what it says is far beyond what images are.
    pub(super) fn sides(
        &self,
        from: [usize; 3],
        spacing: Option<[f32; 3]>,
    ) -> Result<[Side; 3], Fault> {
        let input = self.input;
        let to = [input.depth, input.height, input.width].map(usize::from);
        // A flat image has no proportions in depth.
        let axes = if input.depth == 1 { 1..3 } else { 0..3 };
        let scale = |axis: usize| count(from[axis]) / count(to[axis]);
        let by = |a: &usize, b: &usize| scale(*a).total_cmp(&scale(*b));
        let as_large_as = |axis: Option<usize>| {
            let axis = axis.unwrap_or(1);
            to.map(|side| count(from[axis]) * count(side) / count(to[axis]))
        };
        let mut lengths = match self.preprocess.fit {
            Fit::Stretch => from.map(count),
            Fit::Crop => as_large_as(axes.min_by(by)),
            Fit::Pad => as_large_as(axes.max_by(by)),
            Fit::Centre => to.map(count),
        };
        if let Some(wanted) = self.preprocess.spacing {
            let known = spacing.ok_or(Fault::WrongShape(
                "no word on how far its pixels are apart, and the study wants them resampled",
            ))?;
            for (length, (wanted, known)) in lengths.iter_mut().zip(wanted.iter().zip(known)) {
                let scale = wanted / f64::from(known);
                if !SCALES.contains(&scale) {
                    return Err(Fault::WrongShape("pixels at a distance that no image has"));
                }
                *length *= scale;
            }
        }
        if input.depth == 1 {
            lengths[0] = count(from[0]);
        }
        Ok([0, 1, 2].map(|axis| Side::of_length(from[axis], to[axis], lengths[axis])))
    }
}

/// A plane of values, or a volume of them, with other sides, one side after the other: along rows, along
/// columns, along slices. Those that shrink go first, so that nothing in between is larger than what is
/// stored or what becomes of it, however long and thin a file says that it is.
pub(super) fn fitted(values: &[f32], sides: &[Side; 3]) -> Vec<f32> {
    let mut taps = sides.map(|side| (!side.is_same()).then(|| side.taps()));
    let mut now = sides.map(|side| side.from);
    let mut fitted = Cow::Borrowed(values);
    if let Some(deep) = &mut taps[0] {
        // Slices that nothing is made of are not looked at.
        let (used, plane) = (Taps::count_from_first(deep), now[1] * now[2]);
        fitted = Cow::Borrowed(&values[used.start * plane..used.end * plane]);
        now[0] = used.len();
    }
    for axis in order(sides) {
        let Some(taps) = &taps[axis] else { continue };
        let neighbours = now[axis + 1..].iter().product();
        fitted = Cow::Owned(along(&fitted, now[axis], neighbours, taps));
        now[axis] = taps.len();
    }
    fitted.into_owned()
}

/// The axes as they are gone through.
fn order(sides: &[Side; 3]) -> [usize; 3] {
    let mut order = [2, 1, 0];
    // Stable: among those that shrink, and among the others, it stays as it is.
    order.sort_by_key(|axis| sides[*axis].to >= sides[*axis].from);
    order
}

/// What becomes of values along one axis, which has `from` places with so many neighbours at each.
fn along(values: &[f32], from: usize, neighbours: usize, taps: &[Taps]) -> Vec<f32> {
    let lines = values.chunks_exact(from * neighbours);
    let mut fitted = Vec::with_capacity(lines.len() * taps.len() * neighbours);
    for line in lines {
        if neighbours == 1 {
            fitted.extend(taps.iter().map(|taps| taps.sum(line)));
            continue;
        }
        for taps in taps {
            taps.add_to(&mut fitted, line, neighbours);
        }
    }
    fitted
}

/// The labels of a mask with other sides. Where there is nothing stored is the first class, which is
/// what lies around everything else.
pub(super) fn fitted_mask(mask: &[u8], sides: &[Side; 3]) -> Vec<u8> {
    let [deep, down, across] = sides.map(|side| side.nearest());
    let [_, height, width] = sides.map(|side| side.from);
    let mut fitted = Vec::with_capacity(deep.len() * down.len() * across.len());
    for z in &deep {
        for y in &down {
            let line = z.zip(*y).map(|(z, y)| &mask[(z * height + y) * width..][..width]);
            let label = |x: &Option<usize>| line.zip(*x).map_or(0, |(line, x)| line[x]);
            fitted.extend(across.iter().map(label));
        }
    }
    fitted
}

/// The stored pixels that make a prepared one: neighbours, with a weight each. A long line has as many
/// weights as pixels, so they are no larger than those.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

impl Taps {
    const NONE: Self = Self { first: 0, weights: Vec::new() };

    /// The mean over a part of the line; what is outside counts as dark.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "weights of single precision, as the values are"
    )]
    fn area(start: f64, end: f64, from: usize) -> Self {
        let first = floor(start.max(0.0));
        let beyond = floor(end.max(0.0).ceil()).min(from);
        let covered = |index: usize| end.min(count(index) + 1.0) - start.max(count(index));
        let weights: Vec<f32> = (first..beyond)
            .map(covered)
            .filter(|covered| *covered > 0.0)
            .map(|covered| (covered / (end - start)) as f32)
            .collect();
        if weights.is_empty() { Self::NONE } else { Self { first, weights } }
    }

    /// Between the two pixels whose centres are nearest; nothing for a place outside.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "weights of single precision, as the values are"
    )]
    fn linear(place: f64, from: usize) -> Self {
        if !(-1e-9..=count(from) + 1e-9).contains(&place) {
            return Self::NONE;
        }
        let position = (place - 0.5).max(0.0);
        let (first, last) = (floor(position), from.saturating_sub(1));
        let share = position.fract() as f32;
        if first >= last || share <= 0.0 {
            return Self { first: first.min(last), weights: vec![1.0] };
        }
        Self { first, weights: vec![1.0 - share, share] }
    }

    /// The stretch of places that any of these uses, at least one; they count from its first afterwards.
    fn count_from_first(all: &mut [Self]) -> Range<usize> {
        let used = || all.iter().filter(|taps| !taps.weights.is_empty());
        let first = used().map(|taps| taps.first).min().unwrap_or(0);
        let beyond = used().map(|taps| taps.first + taps.weights.len()).max().unwrap_or(1);
        for taps in all {
            taps.first = taps.first.saturating_sub(first);
        }
        first..beyond
    }

    fn sum(&self, line: &[f32]) -> f32 {
        self.weights.iter().zip(&line[self.first..]).map(|(weight, value)| weight * value).sum()
    }

    /// The same of many lines at once, of which each place of `lines` has so many values, added behind what
    /// is there: neighbours go together.
    fn add_to(&self, out: &mut Vec<f32>, lines: &[f32], neighbours: usize) {
        let start = out.len();
        out.resize(start + neighbours, 0.0);
        let lines = lines[self.first * neighbours..].chunks_exact(neighbours);
        for (weight, line) in self.weights.iter().zip(lines) {
            for (sum, value) in out[start..].iter_mut().zip(line) {
                *sum += weight * value;
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "sides of images are small numbers")]
fn count(number: usize) -> f64 {
    number as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place within an image, not below 0; a float that is too large becomes the largest"
)]
fn floor(place: f64) -> usize {
    place.floor() as usize
}

#[cfg(test)]
mod tests;
