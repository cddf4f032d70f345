//! Volumes: as images, with depth.

use std::borrow::Cow;

use aggregation::study::{Normalise, Preprocess, Window};

use super::fit::{fitted, fitted_mask};
use super::{Preparation, WITHOUT_WINDOW, moments, percentiles};
use crate::dataset::Fault;
use crate::dataset::nifti::Volume;

impl Preparation {
    /// Prepares one volume. Its full range is what the file says that values could be, as arrays of few
    /// bits do; else it goes from the least to the greatest of its own. No file declares a window. What is
    /// no number is dark, also where low values are shown bright.
    ///
    /// # Errors
    /// [`Fault::WrongShape`] when the study is of colours, or of flat images and this is none, or no
    /// value is a number; or when it resamples and the file has no spacing.
    pub fn apply_to_volume(&self, volume: &Volume) -> Result<Vec<f32>, Fault> {
        let Volume { shape, spacing, values, full, inverted, .. } = volume;
        let (low, high) = self.ends(values, *full)?;
        if self.input.depth == 1 && shape[0] != 1 {
            return Err(Fault::WrongShape("a volume in a study of flat images"));
        }
        let scale = if high > low { 1.0 / (high - low) } else { 0.0 };
        let shade = |value: &f32| {
            let shade = ((value - low) * scale).clamp(0.0, 1.0);
            let shade = if *inverted { 1.0 - shade } else { shade };
            if shade.is_nan() { 0.0 } else { shade }
        };
        let shown: Vec<f32> = values.iter().map(shade).collect();
        let fitted = fitted(&shown, &self.sides(*shape, *spacing)?);
        let Preprocess { normalise, mean, sd, .. } = self.preprocess;
        let (mean, sd) = match normalise {
            Normalise::Fixed => (mean, sd),
            Normalise::Image => moments(&fitted),
        };
        let plane: Vec<f32> = fitted.iter().map(|shade| (shade - mean) / sd).collect();
        if !plane.iter().all(|value| value.is_finite()) {
            return Err(Fault::WrongShape("a value that is not a finite number"));
        }
        Ok(plane.repeat(usize::from(self.input.channels)))
    }

    /// The darkest and the brightest value. Those that are numbers are a copy where not all are, which is
    /// gone before shades are made.
    fn ends(&self, values: &[f32], full: Option<(f32, f32)>) -> Result<(f32, f32), Fault> {
        let measured = measured(values)?;
        Ok(match self.preprocess.window {
            Window::Full => full.unwrap_or_else(|| percentiles(&measured, (0.0, 100.0))),
            Window::FromFile => percentiles(&measured, WITHOUT_WINDOW),
            #[expect(clippy::cast_possible_truncation, reason = "f32 is what models are shown")]
            Window::Values { low, high } => (low as f32, high as f32),
            Window::Percentile { low, high } => percentiles(&measured, (low, high)),
        })
    }

    /// Fits a mask of `[depth, height, width]` voxels as its image is fitted, whose voxels are so far
    /// apart: of each voxel the label at its centre, and the first class where there is none.
    ///
    /// # Errors
    /// [`Fault::WrongShape`] when the study resamples and nothing says how far voxels are apart.
    pub fn apply_to_mask(
        &self,
        mask: &[u8],
        shape: [usize; 3],
        spacing: Option<[f32; 3]>,
    ) -> Result<Vec<u8>, Fault> {
        Ok(fitted_mask(mask, &self.sides(shape, spacing)?))
    }
}

/// The values that are numbers. Tools that cut the brain out of its surroundings leave none there, which
/// is then as dark as can be; without a window of the study's own they do not count.
///
/// # Errors
/// [`Fault::WrongShape`] when there are none.
pub(crate) fn measured(values: &[f32]) -> Result<Cow<'_, [f32]>, Fault> {
    if values.iter().all(|value| value.is_finite()) {
        return Ok(Cow::Borrowed(values));
    }
    let measured: Vec<f32> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if measured.is_empty() {
        return Err(Fault::WrongShape("a volume without a value that is a number"));
    }
    Ok(Cow::Owned(measured))
}

#[cfg(test)]
mod tests {
    use aggregation::study::{InputShape, TaskKind};

    use super::*;

    fn preparation(depth: u16, height: u16, width: u16) -> Preparation {
        Preparation {
            kind: TaskKind::Segmentation,
            classes: 2,
            input: InputShape { channels: 1, depth, height, width },
            preprocess: Preprocess::PLAIN,
            cache: None,
        }
    }

    /// A column of voxels of which nothing else is known.
    fn of(values: Vec<f32>) -> Volume {
        let shape = [values.len(), 1, 1];
        Volume { shape, spacing: None, values, full: None, inverted: false, grid: None }
    }

    #[test]
    fn an_inverted_volume_is_prepared_as_its_twin_that_is_not() {
        let values = vec![8.0, 0.0, 2.0, f32::NAN, 6.0];
        let twin: Vec<f32> = values.iter().map(|value| 8.0 - value).collect();
        let inverted = Volume { inverted: true, ..of(values) };
        let window = Window::Values { low: 2.0, high: 6.0 };
        for window in [Window::Full, Window::FromFile, window] {
            let mut preparation = preparation(5, 1, 1);
            preparation.preprocess.window = window;
            let shades = preparation.apply_to_volume(&inverted).expect("numbers");
            assert_eq!(Ok(&shades), preparation.apply_to_volume(&of(twin.clone())).as_ref());
            assert_eq!((shades[0], shades[1], shades[3]), (0.0, 1.0, 0.0), "{window:?}");
        }
    }

    #[test]
    fn a_volume_and_its_mask_are_fitted_alike() {
        // Bright and class 1 in the upper half, along depth.
        let shape = [8, 3, 5];
        let values: Vec<f32> = (0_u16..120).map(|at| if at < 60 { 7.0 } else { -1.0 }).collect();
        let mask: Vec<u8> = values.iter().map(|value| u8::from(*value > 0.0)).collect();
        let volume = Volume { shape, ..of(values) };
        for (depth, height, width) in [(8, 3, 5), (4, 3, 5), (16, 6, 10), (2, 1, 1)] {
            let preparation = preparation(depth, height, width);
            let image = preparation.apply_to_volume(&volume).expect("finite");
            let mask = preparation.apply_to_mask(&mask, shape, None).expect("no distances");
            assert_eq!((image.len(), mask.len()), (preparation.values(), preparation.values()));
            for (shade, class) in image.iter().zip(&mask) {
                assert_eq!(*shade > 0.5, *class == 1, "{shade} is of class {class}");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_dark_and_a_volume_of_nothing_else_is_refused() {
        assert!(preparation(2, 1, 1).apply_to_volume(&of(vec![f32::NAN; 2])).is_err());
        let deep = of(vec![f32::NAN, 8.0, f32::INFINITY, 4.0, f32::NEG_INFINITY]);
        let shades = preparation(5, 1, 1).apply_to_volume(&deep).expect("numbers");
        assert_eq!(shades, [0.0, 1.0, 1.0, 0.0, 0.0]);
        assert!(preparation(1, 1, 1).apply_to_volume(&of(vec![1.0, 2.0])).is_err());
        assert_eq!(preparation(2, 1, 1).apply_to_volume(&of(vec![3.0, 3.0])), Ok(vec![0.0; 2]));
    }

    #[test]
    fn the_full_range_is_what_the_file_says_that_values_could_be() {
        let shown = |full| {
            let volume = Volume { full, ..of(vec![64.0, 128.0]) };
            preparation(2, 1, 1).apply_to_volume(&volume).expect("finite")
        };
        assert_eq!(shown(Some((0.0, 256.0))), [0.25, 0.5]);
        assert_eq!(shown(None), [0.0, 1.0]);
    }
}
