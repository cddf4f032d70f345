//! From a stored image to what the model is shown, as the study declares it: window, inversion of
//! MONOCHROME1, channels, size, `(x - mean) / sd`. Channel first, then rows, then columns.

mod volume;

use std::borrow::Cow;

use aggregation::study::{InputShape, Preprocess, Task, TaskKind, Window};

use crate::dataset::Fault;

/// A decoded image, before anything that a study asks for.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Rows of pixels.
    pub rows: usize,
    /// Columns of pixels.
    pub columns: usize,
    /// Values to a pixel: 1, or 3 for red, green, blue.
    pub samples: usize,
    /// Rescaled values: row, column, sample.
    pub values: Vec<f32>,
    /// What the least and the greatest stored value become by the rescale.
    pub full: (f32, f32),
    /// What the file declares to be shown as darkest and brightest.
    pub window: Option<(f32, f32)>,
    /// Whether low values are shown bright (MONOCHROME1).
    pub inverted: bool,
}

/// Percentiles for a file that declares no window.
const WITHOUT_WINDOW: (f64, f64) = (1.0, 99.0);

/// How a study wants its images.
#[derive(Clone, Debug)]
pub struct Preparation {
    kind: TaskKind,
    input: InputShape,
    preprocess: Preprocess,
}

impl Preparation {
    /// Takes the study's word for it.
    #[must_use]
    pub fn new(task: &Task) -> Self {
        Self { kind: task.kind, input: task.input, preprocess: task.preprocess }
    }

    /// What an answer is.
    #[must_use]
    pub const fn kind(&self) -> TaskKind {
        self.kind
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
        let (low, high) = self.bounds(picture);
        let scale = if high > low { 1.0 / (high - low) } else { 0.0 };
        let (height, width) = (usize::from(self.input.height), usize::from(self.input.width));
        let mut prepared = Vec::with_capacity(self.values());
        for plane in self.planes(picture)? {
            let shown: Vec<f32> = plane
                .iter()
                .map(|value| {
                    let shade = ((value - low) * scale).clamp(0.0, 1.0);
                    if picture.inverted { 1.0 - shade } else { shade }
                })
                .collect();
            let fitted = resize(&shown, (picture.rows, picture.columns), (height, width));
            let Preprocess { mean, sd, .. } = self.preprocess;
            prepared.extend(fitted.iter().map(|shade| (shade - mean) / sd));
        }
        if prepared.iter().all(|value| value.is_finite()) {
            Ok(prepared)
        } else {
            Err(Fault::WrongShape("a value that is not a finite number"))
        }
    }

    fn bounds(&self, picture: &Picture) -> (f32, f32) {
        match self.preprocess.window {
            Window::Full => picture.full,
            Window::FromFile => {
                picture.window.unwrap_or_else(|| percentiles(&picture.values, WITHOUT_WINDOW))
            }
            Window::Percentile { low, high } => percentiles(&picture.values, (low, high)),
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

/// Two percentiles of the values, by rank.
fn percentiles(values: &[f32], (low, high): (f64, f64)) -> (f32, f32) {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let at = |percent: f64| {
        let last = sorted.len().saturating_sub(1);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank within an image; a percentile is not negative"
        )]
        let rank = (percent / 100.0 * last as f64).round() as usize;
        sorted.get(rank.min(last)).copied().unwrap_or(0.0)
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
    for taps in &down {
        fitted.extend((0..to.1).map(|column| taps.sum(|row| narrow[row * to.1 + column])));
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
            window: None,
            inverted: false,
        }
    }

    fn preparation(window: Window, channels: u16, height: u16, width: u16) -> Preparation {
        Preparation {
            kind: TaskKind::Classification,
            input: InputShape { channels, depth: 1, height, width },
            preprocess: Preprocess { window, mean: 0.5, sd: 0.5 },
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
        source.window = Some((2.0, 3.0));
        source.inverted = true;
        let prepared = preparation(Window::FromFile, 1, 1, 3).apply(&source);
        assert_eq!(prepared, Ok(vec![1.0, 1.0, -1.0]));
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
