//! From a stored image to what the model is shown, as the study declares it: window, inversion of
//! MONOCHROME1, channels, proportions, size, normalisation. Channel first, then rows, then columns.

mod volume;

use std::borrow::Cow;
use std::sync::Arc;

use aggregation::study::{Fit, InputShape, Normalise, Preprocess, Task, TaskKind, Window};

use crate::dataset::Fault;
use crate::dataset::cache::{Cache, Kept};

pub use hospital_images::{Picture, Shown};

/// Percentiles for a file that declares no window.
const WITHOUT_WINDOW: (f64, f64) = (1.0, 99.0);

/// How a study wants its images.
#[derive(Clone, Debug)]
pub struct Preparation {
    kind: TaskKind,
    input: InputShape,
    preprocess: Preprocess,
    cache: Option<Arc<Cache>>,
}

impl Preparation {
    /// Takes the study's word for it.
    #[must_use]
    pub fn new(task: &Task) -> Self {
        Self { kind: task.kind, input: task.input, preprocess: task.preprocess, cache: None }
    }

    /// What an answer is.
    #[must_use]
    pub const fn kind(&self) -> TaskKind {
        self.kind
    }

    /// Looks for prepared images in a folder first, and leaves them there.
    #[must_use]
    pub fn with_cache(self, cache: Option<Arc<Cache>>) -> Self {
        Self { cache, ..self }
    }

    /// What was kept of a file with this digest.
    pub(crate) fn kept(&self, file: &[u8; 32]) -> Option<Kept> {
        self.cache.as_ref()?.get(file, &self.digest(), self.values())
    }

    /// Keeps what a file with this digest became.
    pub(crate) fn keep(&self, file: &[u8; 32], pixels: &[u8; 32], image: &[f32]) {
        if let Some(cache) = &self.cache {
            cache.put(file, &self.digest(), pixels, image);
        }
    }

    /// Everything that decides what an image becomes, this program's version among it.
    fn digest(&self) -> [u8; 32] {
        let (input, preprocess) = (self.input, self.preprocess);
        let version = env!("CARGO_PKG_VERSION");
        hospital_images::sha256(format!("prepared/1 {version} {input:?} {preprocess:?}").as_bytes())
    }

    /// Values in one prepared image.
    #[must_use]
    pub fn values(&self) -> usize {
        usize::from(self.input.channels)
            * usize::from(self.input.depth)
            * usize::from(self.input.height)
            * usize::from(self.input.width)
    }

    /// Prepares one image.
    ///
    /// # Errors
    /// [`Fault::WrongShape`] when channels cannot be made to match, or a value is not finite; or when
    /// the study is of volumes.
    pub fn apply(&self, picture: &Picture) -> Result<Vec<f32>, Fault> {
        if self.input.depth != 1 {
            return Err(Fault::WrongShape("a flat image in a study of volumes"));
        }
        let shown = self.shown(picture);
        let (height, width) = (usize::from(self.input.height), usize::from(self.input.width));
        let mut prepared = Vec::with_capacity(self.values());
        for plane in self.planes(picture)? {
            let shades = shades(&plane, &shown, picture.inverted);
            let from = (picture.rows, picture.columns);
            let (shades, from) = proportioned(shades, from, (height, width), self.preprocess.fit);
            prepared.extend(resize(&shades, from, (height, width)));
        }
        let Preprocess { normalise, mean, sd, .. } = self.preprocess;
        let (mean, sd) = match normalise {
            Normalise::Fixed => (mean, sd),
            Normalise::Image => moments(&prepared),
        };
        for value in &mut prepared {
            *value = (*value - mean) / sd;
        }
        if prepared.iter().all(|value| value.is_finite()) {
            Ok(prepared)
        } else {
            Err(Fault::WrongShape("a value that is not a finite number"))
        }
    }

    fn shown<'p>(&self, picture: &'p Picture) -> Cow<'p, Shown> {
        let line = |(low, high)| Cow::Owned(Shown::Line { low, high });
        match (self.preprocess.window, &picture.shown) {
            (Window::Full, _) => line(picture.full),
            (Window::FromFile, Some(shown)) => Cow::Borrowed(shown),
            (Window::FromFile, None) => line(percentiles(&picture.values, WITHOUT_WINDOW)),
            #[expect(clippy::cast_possible_truncation, reason = "f32 is what models are shown")]
            (Window::Values { low, high }, _) => line((low as f32, high as f32)),
            (Window::Percentile { low, high }, _) => {
                line(percentiles(&picture.values, (low, high)))
            }
        }
    }

    /// One plane of values per channel that the study takes.
    fn planes<'p>(&self, picture: &'p Picture) -> Result<Vec<Cow<'p, [f32]>>, Fault> {
        let plane = |sample: usize| {
            let values = picture.values.iter().skip(sample).step_by(picture.samples);
            Cow::Owned(values.copied().collect::<Vec<f32>>())
        };
        match (picture.samples, self.input.channels) {
            (1, channels) => Ok(vec![Cow::Borrowed(&picture.values[..]); channels.into()]),
            (3, 3) => Ok((0..3).map(plane).collect()),
            // Luma of ITU-R BT.601, as colour photographs of grey things are stored.
            (3, 1) => {
                let luma = |rgb: &[f32]| 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
                Ok(vec![Cow::Owned(picture.values.chunks_exact(3).map(luma).collect())])
            }
            _ => Err(Fault::WrongShape("its channels cannot be made into the study's")),
        }
    }
}

/// Values as shades from 0 to 1; the common straight line without a choice at every pixel.
fn shades(plane: &[f32], shown: &Shown, inverted: bool) -> Vec<f32> {
    let mut shades: Vec<f32> = match shown {
        Shown::Line { low, high } => {
            let scale = if high > low { 1.0 / (high - low) } else { 0.0 };
            plane.iter().map(|value| ((value - low) * scale).clamp(0.0, 1.0)).collect()
        }
        Shown::Sigmoid { .. } | Shown::Table { .. } => {
            plane.iter().map(|value| shown.shade(*value)).collect()
        }
    };
    if inverted {
        for shade in &mut shades {
            *shade = 1.0 - *shade;
        }
    }
    shades
}

/// A plane with the input's proportions, and its sides: a part of it, or more around it, or as it is.
fn proportioned(
    plane: Vec<f32>,
    (rows, columns): (usize, usize),
    (height, width): (usize, usize),
    fit: Fit,
) -> (Vec<f32>, (usize, usize)) {
    // The other side that belongs to each of its sides.
    let wide = (rows * width).div_ceil(height.max(1)).max(1);
    let high = (columns * height).div_ceil(width.max(1)).max(1);
    let is_wide = columns > wide;
    let sides = match fit {
        Fit::Stretch => return (plane, (rows, columns)),
        Fit::Crop if is_wide => (rows, wide),
        Fit::Crop => (high.min(rows), columns),
        // No memory for a line of pixels that would become a square of thousands.
        Fit::Pad if rows.max(columns) > 64 * rows.min(columns) => return (plane, (rows, columns)),
        Fit::Pad if is_wide => (high, columns),
        Fit::Pad => (rows, wide.max(columns)),
    };
    let mut framed = vec![0.0; sides.0 * sides.1];
    // Centred, whichever of the two is the larger.
    let (skip_rows, skip_columns) =
        (rows.saturating_sub(sides.0) / 2, columns.saturating_sub(sides.1) / 2);
    let (from_row, from_column) =
        (sides.0.saturating_sub(rows) / 2, sides.1.saturating_sub(columns) / 2);
    let (kept_rows, kept_columns) = (rows.min(sides.0), columns.min(sides.1));
    for row in 0..kept_rows {
        let to = (from_row + row) * sides.1 + from_column;
        let from = (skip_rows + row) * columns + skip_columns;
        framed[to..to + kept_columns].copy_from_slice(&plane[from..from + kept_columns]);
    }
    (framed, sides)
}

/// Mean and standard deviation; 1 for the latter where all values are one.
fn moments(values: &[f32]) -> (f32, f32) {
    #[expect(clippy::cast_precision_loss, reason = "values of one image")]
    let count = values.len().max(1) as f64;
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let square = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
    #[expect(clippy::cast_possible_truncation, reason = "f32 is what models are shown")]
    let moments = (mean as f32, square.sqrt() as f32);
    (moments.0, if moments.1 > 1e-6 { moments.1 } else { 1.0 })
}

/// Two percentiles of the values, by rank.
fn percentiles(values: &[f32], (low, high): (f64, f64)) -> (f32, f32) {
    let mut ranked = values.to_vec();
    let last = ranked.len().saturating_sub(1);
    let mut at = |percent: f64| {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank within an image; a percentile is not negative"
        )]
        let rank = (percent / 100.0 * last as f64).round() as usize;
        if ranked.is_empty() {
            return 0.0;
        }
        // No order beyond the one value that is asked for.
        *ranked.select_nth_unstable_by(rank.min(last), f32::total_cmp).1
    };
    (at(low), at(high))
}

/// Fits a plane to another size, each axis by itself: the mean over the covered area where it
/// shrinks, linear between pixel centres where it grows.
fn resize(plane: &[f32], from: (usize, usize), to: (usize, usize)) -> Vec<f32> {
    if from == to {
        return plane.to_vec();
    }
    let across = Taps::between(from.1, to.1);
    let down = Taps::between(from.0, to.0);
    let mut narrow = Vec::with_capacity(from.0 * to.1);
    for row in plane.chunks_exact(from.1) {
        narrow.extend(across.iter().map(|taps| taps.sum(|index| row[index])));
    }
    let mut fitted = Vec::with_capacity(to.0 * to.1);
    for Taps(taps) in &down {
        // Row by row, so that neighbours are added at once.
        let start = fitted.len();
        fitted.resize(start + to.1, 0.0);
        for (row, weight) in taps {
            let line = &narrow[row * to.1..][..to.1];
            for (sum, value) in fitted[start..].iter_mut().zip(line) {
                *sum += weight * value;
            }
        }
    }
    fitted
}

/// The source pixels that make one target pixel, with their weights.
struct Taps(Vec<(usize, f32)>);

impl Taps {
    fn between(from: usize, to: usize) -> Vec<Self> {
        #[expect(clippy::cast_precision_loss, reason = "sides of images are small numbers")]
        let (ratio, last) = (from as f64 / to as f64, from.saturating_sub(1));
        (0..to)
            .map(|target| {
                #[expect(clippy::cast_precision_loss, reason = "sides of images are small")]
                let target = target as f64;
                if from > to {
                    Self::area(target * ratio, (target + 1.0) * ratio, last)
                } else {
                    Self::linear((target + 0.5) * ratio - 0.5, last)
                }
            })
            .collect()
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "pixel positions within an image"
    )]
    fn area(start: f64, end: f64, last: usize) -> Self {
        let first = (start.floor() as usize).min(last);
        let final_ = ((end.ceil() as usize).max(first + 1) - 1).min(last);
        let taps = (first..=final_).map(|index| {
            let covered = end.min(index as f64 + 1.0) - start.max(index as f64);
            (index, (covered / (end - start)) as f32)
        });
        Self(taps.collect())
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "pixel positions within an image"
    )]
    fn linear(position: f64, last: usize) -> Self {
        let position = position.max(0.0);
        let first = (position.floor() as usize).min(last);
        let share = (position - position.floor()) as f32;
        Self(vec![(first, 1.0 - share), ((first + 1).min(last), share)])
    }

    fn sum(&self, value: impl Fn(usize) -> f32) -> f32 {
        self.0.iter().map(|(index, weight)| weight * value(*index)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(values: &[f32], columns: usize) -> Picture {
        Picture {
            rows: values.len() / columns,
            columns,
            samples: 1,
            values: values.to_vec(),
            full: (0.0, 4.0),
            shown: None,
            inverted: false,
        }
    }

    fn preparation(window: Window, channels: u16, height: u16, width: u16) -> Preparation {
        Preparation {
            kind: TaskKind::Classification,
            input: InputShape { channels, depth: 1, height, width },
            preprocess: Preprocess {
                window,
                fit: Fit::Stretch,
                normalise: Normalise::Fixed,
                mean: 0.5,
                sd: 0.5,
            },
            cache: None,
        }
    }

    #[test]
    fn the_full_range_becomes_zero_to_one_and_is_normalised() {
        let prepared = preparation(Window::Full, 1, 1, 3).apply(&picture(&[0.0, 2.0, 4.0], 3));
        assert_eq!(prepared, Ok(vec![-1.0, 0.0, 1.0]));
    }

    #[test]
    fn a_window_clamps_and_monochrome1_is_inverted() {
        let mut source = picture(&[0.0, 2.0, 4.0], 3);
        source.shown = Some(Shown::Line { low: 2.0, high: 3.0 });
        source.inverted = true;
        let prepared = preparation(Window::FromFile, 1, 1, 3).apply(&source);
        assert_eq!(prepared, Ok(vec![1.0, 1.0, -1.0]));
    }

    #[test]
    fn an_image_that_is_normalised_by_itself_has_mean_0_and_deviation_1() {
        let mut preparation = preparation(Window::Full, 1, 1, 4);
        preparation.preprocess.normalise = Normalise::Image;
        let prepared = preparation.apply(&picture(&[0.0, 1.0, 2.0, 5.0], 4)).expect("finite");
        let (mean, sd) = moments(&prepared);
        assert!(mean.abs() < 1e-6 && (sd - 1.0).abs() < 1e-6, "{prepared:?}");
        let flat = preparation.apply(&picture(&[3.0; 4], 4));
        assert_eq!(flat, Ok(vec![0.0; 4]));
    }

    #[test]
    fn a_window_of_values_is_in_the_files_units() {
        let window = Window::Values { low: 1.0, high: 3.0 };
        let prepared = preparation(window, 1, 1, 4).apply(&picture(&[0.0, 1.0, 2.0, 4.0], 4));
        assert_eq!(prepared, Ok(vec![-1.0, -1.0, 0.0, 1.0]));
    }

    #[test]
    fn cropping_and_padding_keep_proportions() {
        let plane: Vec<f32> = (0..8_u8).map(f32::from).collect();
        let (cropped, sides) = proportioned(plane.clone(), (2, 4), (3, 3), Fit::Crop);
        assert_eq!((cropped, sides), (vec![1.0, 2.0, 5.0, 6.0], (2, 2)));
        let (padded, sides) = proportioned(plane.clone(), (2, 4), (3, 3), Fit::Pad);
        assert_eq!((&padded[..4], &padded[4..8], sides), (&[0.0; 4][..], &plane[..4], (4, 4)));
        let (cropped, sides) = proportioned(plane.clone(), (4, 2), (1, 2), Fit::Crop);
        assert_eq!((cropped, sides), (vec![2.0, 3.0], (1, 2)));
        let (padded, sides) = proportioned(plane.clone(), (4, 2), (2, 2), Fit::Pad);
        assert_eq!((padded[..4].to_vec(), sides), (vec![0.0, 0.0, 1.0, 0.0], (4, 4)));
        assert_eq!(proportioned(plane.clone(), (2, 4), (9, 1), Fit::Stretch), (plane, (2, 4)));
        // Sides that nobody's image has.
        assert_eq!(proportioned(vec![0.0; 1000], (1, 1000), (4, 4), Fit::Pad).1, (1, 1000));
        assert_eq!(proportioned(vec![0.0; 1000], (1, 1000), (1, 4096), Fit::Crop).1, (1, 1000));
    }

    #[test]
    fn percentiles_leave_outliers_out() {
        let values: Vec<f32> = (0..101_u8).map(f32::from).collect();
        assert_eq!(percentiles(&values, (10.0, 90.0)), (10.0, 90.0));
        assert_eq!(percentiles(&[], (10.0, 90.0)), (0.0, 0.0));
    }

    #[test]
    fn shrinking_averages_the_covered_area() {
        let plane = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        assert_eq!(resize(&plane, (3, 3), (1, 1)), [4.0]);
        let halves = resize(&[0.0, 3.0, 6.0], (1, 3), (1, 2));
        assert!((halves[0] - 1.0).abs() < 1e-6 && (halves[1] - 5.0).abs() < 1e-6, "{halves:?}");
    }

    #[test]
    fn growing_is_linear_between_centres() {
        assert_eq!(resize(&[0.0, 4.0], (1, 2), (1, 4)), [0.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn colour_becomes_grey_and_grey_becomes_three_planes() {
        let mut colour = picture(&[4.0, 4.0, 4.0], 1);
        (colour.rows, colour.samples) = (1, 3);
        let grey = preparation(Window::Full, 1, 1, 1).apply(&colour).expect("luma");
        assert!((grey[0] - 1.0).abs() < 1e-6);
        let planes = preparation(Window::Full, 3, 1, 1).apply(&picture(&[4.0], 1));
        assert_eq!(planes, Ok(vec![1.0; 3]));
        assert!(preparation(Window::Full, 2, 1, 1).apply(&colour).is_err());
    }

    #[test]
    fn a_flat_image_and_a_value_that_is_no_number_do_no_harm() {
        let prepared = preparation(Window::FromFile, 1, 1, 2).apply(&picture(&[3.0, 3.0], 2));
        assert_eq!(prepared, Ok(vec![-1.0, -1.0]));
        let broken = preparation(Window::Full, 1, 1, 1).apply(&picture(&[f32::NAN], 1));
        assert!(broken.is_err());
    }
}
