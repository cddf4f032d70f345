//! From a stored image to what the model is shown, as the study declares it: window, inversion of
//! MONOCHROME1, channels, resampling and size (`fit`), normalisation. Channel first, then rows, then
//! columns.

mod fit;
pub(crate) mod volume;

use std::borrow::Cow;
use std::sync::Arc;

use aggregation::study::{InputShape, Normalise, Preprocess, Task, TaskKind, Window};

use crate::dataset::Fault;
use crate::dataset::cache::{Cache, Kept};
use crate::dataset::shelf::Size;

pub use hospital_images::{Picture, Shown};

/// Percentiles for a file that declares no window.
const WITHOUT_WINDOW: (f64, f64) = (1.0, 99.0);

/// How a study wants its images.
#[derive(Clone, Debug)]
pub struct Preparation {
    kind: TaskKind,
    classes: usize,
    input: InputShape,
    preprocess: Preprocess,
    cache: Option<Arc<Cache>>,
}

impl Preparation {
    /// Takes the study's word for it.
    #[must_use]
    pub fn new(task: &Task) -> Self {
        let Task { kind, ref classes, input, preprocess, .. } = *task;
        Self { kind, classes: classes.len(), input, preprocess, cache: None }
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

    /// Where prepared images are looked for, and left, on the disk.
    pub(crate) fn cache(&self) -> Option<&Cache> {
        self.cache.as_deref()
    }

    /// What a prepared record takes.
    pub(crate) fn size(&self) -> Size {
        let labels = if self.kind == TaskKind::Segmentation { self.labels() } else { 0 };
        Size { values: self.values(), labels }
    }

    /// What was kept of a record with this digest.
    pub(crate) fn kept(&self, file: &[u8; 32]) -> Option<Kept> {
        self.cache.as_ref()?.get(file, &self.digest(), self.size())
    }

    /// Keeps what a record with this digest became.
    pub(crate) fn keep(&self, file: &[u8; 32], kept: &Kept) {
        if let Some(cache) = &self.cache {
            cache.put(file, &self.digest(), kept);
        }
    }

    /// Everything that decides what an image becomes, this program's version among it; of a mask also
    /// which labels it may have.
    fn digest(&self) -> [u8; 32] {
        let (input, preprocess) = (self.input, self.preprocess);
        let version = env!("CARGO_PKG_VERSION");
        let masked = (self.kind == TaskKind::Segmentation).then_some(self.classes);
        let text = format!("prepared/3 {version} {input:?} {preprocess:?} {masked:?}");
        hospital_images::sha256(text.as_bytes())
    }

    /// Labels of one prepared mask.
    fn labels(&self) -> usize {
        self.values() / usize::from(self.input.channels).max(1)
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
    /// [`Fault::WrongShape`] when channels cannot be made to match, or a value is not finite; when the
    /// study is of volumes; or when it resamples and the file has no pixel spacing.
    pub fn apply(&self, picture: &Picture) -> Result<Vec<f32>, Fault> {
        if self.input.depth != 1 {
            return Err(Fault::WrongShape("a flat image in a study of volumes"));
        }
        let shown = self.shown(picture);
        let spacing = picture.spacing.map(|[rows, columns]| [1.0, rows, columns]);
        let sides = self.sides([1, picture.rows, picture.columns], spacing)?;
        let mut prepared = Vec::with_capacity(self.values());
        for plane in self.planes(picture)? {
            let shades = shades(&plane, &shown, picture.inverted);
            prepared.extend(fit::fitted(&shades, &sides));
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

#[cfg(test)]
mod tests {
    use aggregation::study::Fit;

    use super::*;

    fn picture(values: &[f32], columns: usize) -> Picture {
        Picture {
            rows: values.len() / columns,
            columns,
            samples: 1,
            spacing: None,
            values: values.to_vec(),
            full: (0.0, 4.0),
            shown: None,
            inverted: false,
        }
    }

    fn preparation(window: Window, channels: u16, height: u16, width: u16) -> Preparation {
        Preparation {
            kind: TaskKind::Classification,
            classes: 2,
            input: InputShape { channels, depth: 1, height, width },
            preprocess: Preprocess {
                window,
                spacing: None,
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
    fn percentiles_leave_outliers_out() {
        let values: Vec<f32> = (0..101_u8).map(f32::from).collect();
        assert_eq!(percentiles(&values, (10.0, 90.0)), (10.0, 90.0));
        assert_eq!(percentiles(&[], (10.0, 90.0)), (0.0, 0.0));
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
