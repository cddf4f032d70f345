//! Volumes: as images, with depth.

use aggregation::study::{Normalise, Preprocess, Window};

use super::{Preparation, Taps, WITHOUT_WINDOW, moments, percentiles, resize};
use crate::dataset::Fault;
use crate::dataset::nifti::Volume;

impl Preparation {
    /// Prepares one volume. Its full range goes from the least to the greatest of its own values,
    /// for a file does not say what others there could be; nor does it declare a window.
    ///
    /// # Errors
    /// [`Fault::WrongShape`] when the study is of colours, or of flat images and this is none, or a
    /// value is not finite.
    pub fn apply_to_volume(&self, volume: &Volume) -> Result<Vec<f32>, Fault> {
        let Volume { shape, values, .. } = volume;
        if !values.iter().all(|value| value.is_finite()) {
            return Err(Fault::WrongShape("a value that is not a finite number"));
        }
        if self.input.depth == 1 && shape[0] != 1 {
            return Err(Fault::WrongShape("a volume in a study of flat images"));
        }
        let (low, high) = match self.preprocess.window {
            Window::Full => percentiles(values, (0.0, 100.0)),
            Window::FromFile => percentiles(values, WITHOUT_WINDOW),
            #[expect(clippy::cast_possible_truncation, reason = "f32 is what models are shown")]
            Window::Values { low, high } => (low as f32, high as f32),
            Window::Percentile { low, high } => percentiles(values, (low, high)),
        };
        let scale = if high > low { 1.0 / (high - low) } else { 0.0 };
        let shown: Vec<f32> =
            values.iter().map(|value| ((value - low) * scale).clamp(0.0, 1.0)).collect();
        let fitted = resize_volume(&shown, *shape, self.sides());
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

    /// Fits a mask of `[depth, height, width]` voxels to the study's size: of each voxel the label
    /// at its centre.
    #[must_use]
    pub fn apply_to_mask(&self, mask: &[u8], shape: [usize; 3]) -> Vec<u8> {
        let sides = self.sides();
        let nearest = |axis: usize| -> Vec<usize> {
            // (place + 1/2) * from / to, in whole numbers.
            (0..sides[axis]).map(|at| (2 * at + 1) * shape[axis] / (2 * sides[axis])).collect()
        };
        let (deep, down, across) = (nearest(0), nearest(1), nearest(2));
        let mut fitted = Vec::with_capacity(sides.iter().product());
        for z in &deep {
            for y in &down {
                let line = &mask[(z * shape[1] + y) * shape[2]..][..shape[2]];
                fitted.extend(across.iter().map(|x| line[*x]));
            }
        }
        fitted
    }

    fn sides(&self) -> [usize; 3] {
        [self.input.depth, self.input.height, self.input.width].map(usize::from)
    }
}

/// Each slice as an image, then along the slices.
fn resize_volume(values: &[f32], from: [usize; 3], to: [usize; 3]) -> Vec<f32> {
    let slices: Vec<Vec<f32>> = values
        .chunks_exact(from[1] * from[2])
        .map(|slice| resize(slice, (from[1], from[2]), (to[1], to[2])))
        .collect();
    if from[0] == to[0] {
        return slices.concat();
    }
    let mut fitted = Vec::with_capacity(to.iter().product());
    for taps in Taps::between(from[0], to[0]) {
        fitted.extend((0..to[1] * to[2]).map(|pixel| taps.sum(|slice| slices[slice][pixel])));
    }
    fitted
}

#[cfg(test)]
mod tests {
    use aggregation::study::{Fit, InputShape, Normalise, TaskKind};

    use super::*;

    fn preparation(depth: u16, height: u16, width: u16) -> Preparation {
        Preparation {
            kind: TaskKind::Segmentation,
            input: InputShape { channels: 1, depth, height, width },
            preprocess: Preprocess {
                window: Window::Full,
                fit: Fit::Stretch,
                normalise: Normalise::Fixed,
                mean: 0.0,
                sd: 1.0,
            },
            cache: None,
        }
    }

    #[test]
    fn a_volume_and_its_mask_are_fitted_alike() {
        // Bright and class 1 in the upper half, along depth.
        let shape = [8, 3, 5];
        let values: Vec<f32> = (0_u16..120).map(|at| if at < 60 { 7.0 } else { -1.0 }).collect();
        let mask: Vec<u8> = values.iter().map(|value| u8::from(*value > 0.0)).collect();
        let volume = Volume { shape, spacing: [1.0; 3], values };
        for (depth, height, width) in [(8, 3, 5), (4, 3, 5), (16, 6, 10), (2, 1, 1)] {
            let preparation = preparation(depth, height, width);
            let image = preparation.apply_to_volume(&volume).expect("finite");
            let mask = preparation.apply_to_mask(&mask, shape);
            assert_eq!((image.len(), mask.len()), (preparation.values(), preparation.values()));
            for (shade, class) in image.iter().zip(&mask) {
                assert_eq!(*shade > 0.5, *class == 1, "{shade} is of class {class}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_or_not_flat_is_refused() {
        let volume = |values| Volume { shape: [2, 1, 1], spacing: [1.0; 3], values };
        assert!(preparation(2, 1, 1).apply_to_volume(&volume(vec![1.0, f32::NAN])).is_err());
        assert!(preparation(1, 1, 1).apply_to_volume(&volume(vec![1.0, 2.0])).is_err());
        assert_eq!(preparation(2, 1, 1).apply_to_volume(&volume(vec![3.0, 3.0])), Ok(vec![0.0; 2]));
    }
}
