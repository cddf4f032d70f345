//! The patches of images that a convolution's window sees, as the rows of a matrix, and the way
//! back. On plain slices of `[images, height, width, channels]`: with the channels last, whatever
//! is copied or added lies side by side, at any stride.

use std::ops::Range;

use rayon::prelude::*;

use super::layers::Window;

/// How a window goes over images.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// Height, width and channels of an image.
    image: [usize; 3],
    /// Height and width of the window.
    kernel: [usize; 2],
    window: Window,
    /// Places of the window along height and width.
    pub(super) places: [usize; 2],
}

impl Geometry {
    /// A window of `kernel` over images of height, width and channels, none of them zero. The
    /// padded image is at least as large as the window.
    pub(super) fn new(image: [usize; 3], kernel: [usize; 2], window: Window) -> Self {
        let along = |pixels: usize, kernel: usize| {
            (pixels + 2 * window.padding).saturating_sub(kernel) / window.stride + 1
        };
        let places = [along(image[0], kernel[0]), along(image[1], kernel[1])];
        Self { image, kernel, window, places }
    }

    /// Values in a patch, ordered as `[height, width, channels]` of the window.
    pub(super) fn depth(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.image[2]
    }

    /// Patches in an image.
    pub(super) fn area(&self) -> usize {
        self.places[0] * self.places[1]
    }

    /// Values in an image.
    pub(super) fn pixels(&self) -> usize {
        self.image.iter().product()
    }

    /// All patches of the images: `[images, area, depth]`.
    pub(super) fn gather(&self, images: &[f32]) -> Vec<f32> {
        let [_, width, channels] = self.image;
        let of_row = self.places[1] * self.depth();
        let mut patches = vec![0.0; images.len() / self.pixels() * self.area() * self.depth()];
        // One row of places at a time, whoever writes it.
        patches.par_chunks_exact_mut(of_row).enumerate().for_each(|(index, row)| {
            let (image, place) = (index / self.places[0], index % self.places[0]);
            let image = &images[image * self.pixels()..][..self.pixels()];
            for down in 0..self.kernel[0] {
                let Some(y) = self.seen(place, down) else { continue };
                let line = &image[y * width * channels..][..width * channels];
                self.along(down, |from, to| {
                    row[to].copy_from_slice(&line[from]);
                });
            }
        });
        patches
    }

    /// Adds each patch's values back to where they came from: the transpose of [`Self::gather`].
    pub(super) fn scatter(&self, patches: &[f32]) -> Vec<f32> {
        let [height, width, channels] = self.image;
        let of_row = self.places[1] * self.depth();
        let images = patches.len() / (self.places[0] * of_row);
        let mut sums = vec![0.0; images * self.pixels()];
        sums.par_chunks_exact_mut(width * channels).enumerate().for_each(|(index, line)| {
            let (image, y) = (index / height, index % height);
            for down in 0..self.kernel[0] {
                // The row of places whose window has its line `down` here.
                let Some(reach) = (y + self.window.padding).checked_sub(down) else { continue };
                let place = reach / self.window.stride;
                if self.seen(place, down) != Some(y) || place >= self.places[0] {
                    continue;
                }
                let row = &patches[(image * self.places[0] + place) * of_row..][..of_row];
                self.along(down, |to, from| {
                    line[to].iter_mut().zip(&row[from]).for_each(|(to, from)| *to += from);
                });
            }
        });
        sums
    }

    /// The line of the image that line `down` of the window sees from row `place`.
    fn seen(&self, place: usize, down: usize) -> Option<usize> {
        let y = (place * self.window.stride + down).checked_sub(self.window.padding)?;
        (y < self.image[0]).then_some(y)
    }

    /// For each place of a row: what line `down` of the window sees of a line of the image, and
    /// where that is among the row's patches.
    fn along(&self, down: usize, mut each: impl FnMut(Range<usize>, Range<usize>)) {
        let ([_, width, channels], [_, wide]) = (self.image, self.kernel);
        let Window { stride, padding } = self.window;
        for place in 0..self.places[1] {
            let start = place * stride;
            let first = padding.saturating_sub(start).min(wide);
            let end = (width + padding).saturating_sub(start).min(wide);
            if first >= end {
                continue;
            }
            let length = (end - first) * channels;
            let from = (start + first - padding) * channels;
            let to = place * self.depth() + (down * wide + first) * channels;
            each(from..from + length, to..to + length);
        }
    }
}

/// A weight in the order of patches, `[out, height, width, in]`, from the layout's
/// `[out, in, height, width]`; `window` is height times width.
pub(super) fn weight_from_layout(weight: &[f32], inputs: usize, window: usize) -> Vec<f32> {
    let mut ordered = vec![0.0; weight.len()];
    swap(weight, &mut ordered, inputs, window);
    ordered
}

/// The way back from [`weight_from_layout`].
pub(super) fn weight_to_layout(ordered: &[f32], weight: &mut [f32], inputs: usize, window: usize) {
    swap(ordered, weight, window, inputs);
}

/// From many matrices of `rows` times `columns` to their transposes.
fn swap(from: &[f32], to: &mut [f32], rows: usize, columns: usize) {
    let size = rows * columns;
    from.par_chunks_exact(size).zip(to.par_chunks_exact_mut(size)).for_each(|(from, to)| {
        for (column, to) in to.chunks_exact_mut(rows).enumerate() {
            for (to, from) in to.iter_mut().zip(from[column..].iter().step_by(columns)) {
                *to = *from;
            }
        }
    });
}
