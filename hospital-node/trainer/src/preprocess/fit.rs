//! Where the pixels of a prepared image lie on those of the stored one, side by side: stretched, cut
//! out of the middle, with darkness around, or at a distance in millimetres. A value is the mean over
//! the area that a pixel covers where pixels become fewer, and linear between centres where they become
//! more, for each side by itself; a label is the one at the pixel's centre.

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

/// A plane of values, or a volume of them, with other sides: each slice by itself, then along them.
pub(super) fn fitted(values: &[f32], sides: &[Side; 3]) -> Vec<f32> {
    let [deep, down, across] = sides;
    if sides.iter().all(Side::is_same) {
        return values.to_vec();
    }
    let along = |side: &Side| (!side.is_same()).then(|| side.taps());
    let (down_taps, across_taps) = (along(down), along(across));
    let plane = |slice: &[f32]| fitted_plane(slice, (down, across), &down_taps, &across_taps);
    let slices = values.chunks_exact(down.from * across.from);
    let Some(deep_taps) = along(deep) else {
        return slices.flat_map(plane).collect();
    };
    let mut wanted = vec![false; deep.from];
    for (slice, _) in deep_taps.iter().flat_map(|taps| &taps.0) {
        wanted[*slice] = true;
    }
    let slices: Vec<Vec<f32>> = slices
        .zip(wanted)
        .map(|(slice, wanted)| if wanted { plane(slice) } else { Vec::new() })
        .collect();
    let mut deep = Vec::with_capacity(deep.to * down.to * across.to);
    for taps in &deep_taps {
        taps.add_to(&mut deep, down.to * across.to, |slice| &slices[slice]);
    }
    deep
}

fn fitted_plane(
    plane: &[f32],
    (down, across): (&Side, &Side),
    down_taps: &Option<Vec<Taps>>,
    across_taps: &Option<Vec<Taps>>,
) -> Vec<f32> {
    let mut narrow = Vec::new();
    let rows = match across_taps {
        None => plane,
        Some(taps) => {
            narrow.reserve_exact(down.from * across.to);
            for row in plane.chunks_exact(across.from) {
                narrow.extend(taps.iter().map(|taps| taps.sum(row)));
            }
            &narrow
        }
    };
    let Some(taps) = down_taps else { return rows.to_vec() };
    let mut fitted = Vec::with_capacity(down.to * across.to);
    for taps in taps {
        taps.add_to(&mut fitted, across.to, |row| &rows[row * across.to..][..across.to]);
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

/// The stored pixels that make a prepared one, with their weights.
struct Taps(Vec<(usize, f32)>);

impl Taps {
    /// The mean over a part of the line; what is outside counts as dark.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "weights of single precision, as the values are"
    )]
    fn area(start: f64, end: f64, from: usize) -> Self {
        let first = floor(start.max(0.0));
        let beyond = floor(end.max(0.0).ceil()).min(from);
        let taps = (first..beyond).filter_map(|index| {
            let covered = end.min(count(index) + 1.0) - start.max(count(index));
            (covered > 0.0).then(|| (index, (covered / (end - start)) as f32))
        });
        Self(taps.collect())
    }

    /// Between the two pixels whose centres are nearest; nothing for a place outside.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "weights of single precision, as the values are"
    )]
    fn linear(place: f64, from: usize) -> Self {
        if !(-1e-9..=count(from) + 1e-9).contains(&place) {
            return Self(Vec::new());
        }
        let position = (place - 0.5).max(0.0);
        let (first, last) = (floor(position), from.saturating_sub(1));
        let share = position.fract() as f32;
        if first >= last || share <= 0.0 {
            return Self(vec![(first.min(last), 1.0)]);
        }
        Self(vec![(first, 1.0 - share), (first + 1, share)])
    }

    fn sum(&self, line: &[f32]) -> f32 {
        self.0.iter().map(|(index, weight)| weight * line[*index]).sum()
    }

    /// The same of many lines at once, added behind what is there: neighbours go together.
    fn add_to<'l>(&self, out: &mut Vec<f32>, length: usize, line: impl Fn(usize) -> &'l [f32]) {
        let start = out.len();
        out.resize(start + length, 0.0);
        for (index, weight) in &self.0 {
            for (sum, value) in out[start..].iter_mut().zip(line(*index)) {
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
