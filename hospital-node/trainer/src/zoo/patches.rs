//! The patches of images that a convolution's window sees, as the rows of a matrix, and the way
//! back. On plain slices of `[images, depth, height, width, channels]`, where a flat image is one
//! slice deep: with the channels last, whatever is copied or added lies side by side, at any stride.

use std::ops::Range;

use rayon::prelude::*;

use super::layers::Window;

/// How a window goes over images.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// Depth, height, width and channels of an image.
    image: [usize; 4],
    /// Depth, height and width of the window.
    kernel: [usize; 3],
    window: Window,
    /// Places of the window along depth, height and width.
    pub(super) places: [usize; 3],
}

impl Geometry {
    /// A window of `kernel` over images of depth, height, width and channels, none of them zero. The
    /// padded image is at least as large as the window.
    pub(super) fn new(image: [usize; 4], kernel: [usize; 3], window: Window) -> Self {
        let along = |axis: usize| {
            (image[axis] + 2 * window.padding[axis]).saturating_sub(kernel[axis])
                / window.stride[axis]
                + 1
        };
        Self { image, kernel, window, places: [along(0), along(1), along(2)] }
    }

    /// Whether every pixel is a patch, so that an image is its patches.
    pub(super) fn is_pointwise(&self) -> bool {
        self.kernel == [1; 3] && self.window.stride == [1; 3] && self.window.padding == [0; 3]
    }

    /// Values in a patch, ordered as `[depth, height, width, channels]` of the window.
    pub(super) fn depth(&self) -> usize {
        self.kernel.iter().product::<usize>() * self.image[3]
    }

    /// Patches in an image.
    pub(super) fn area(&self) -> usize {
        self.places.iter().product()
    }

    /// Values in an image.
    pub(super) fn pixels(&self) -> usize {
        self.image.iter().product()
    }

    /// All patches of the images: `[images, area, depth]`.
    pub(super) fn gather(&self, images: &[f32]) -> Vec<f32> {
        let [_, height, width, channels] = self.image;
        let of_line = width * channels;
        let of_row = self.places[2] * self.depth();
        let mut patches = vec![0.0; images.len() / self.pixels() * self.area() * self.depth()];
        // One row of places at a time, whoever writes it.
        patches.par_chunks_exact_mut(of_row).enumerate().for_each(|(index, row)| {
            let (index, down) = (index / self.places[1], index % self.places[1]);
            let (image, deep) = (index / self.places[0], index % self.places[0]);
            let image = &images[image * self.pixels()..][..self.pixels()];
            for line in 0..self.kernel[0] * self.kernel[1] {
                let (z, y) = (line / self.kernel[1], line % self.kernel[1]);
                let (Some(z), Some(y)) = (self.seen(0, deep, z), self.seen(1, down, y)) else {
                    continue;
                };
                let seen = &image[(z * height + y) * of_line..][..of_line];
                self.along(line, |from, to| {
                    row[to].copy_from_slice(&seen[from]);
                });
            }
        });
        patches
    }

    /// Adds each patch's values back to where they came from: the transpose of [`Self::gather`].
    pub(super) fn scatter(&self, patches: &[f32]) -> Vec<f32> {
        let [depth, height, width, channels] = self.image;
        let of_row = self.places[2] * self.depth();
        let images = patches.len() / (self.places[0] * self.places[1] * of_row);
        let mut sums = vec![0.0; images * self.pixels()];
        sums.par_chunks_exact_mut(width * channels).enumerate().for_each(|(index, line)| {
            let (index, y) = (index / height, index % height);
            let (image, z) = (index / depth, index % depth);
            for of_window in 0..self.kernel[0] * self.kernel[1] {
                // The row of places whose window has this line of its own here.
                let (deep, down) = (of_window / self.kernel[1], of_window % self.kernel[1]);
                let (Some(deep), Some(down)) = (self.seeing(0, z, deep), self.seeing(1, y, down))
                else {
                    continue;
                };
                let row = (image * self.places[0] + deep) * self.places[1] + down;
                let row = &patches[row * of_row..][..of_row];
                self.along(of_window, |to, from| {
                    line[to].iter_mut().zip(&row[from]).for_each(|(to, from)| *to += from);
                });
            }
        });
        sums
    }

    /// Where along an axis pixel `of_window` of the window is at `place`.
    fn seen(&self, axis: usize, place: usize, of_window: usize) -> Option<usize> {
        let at = place * self.window.stride[axis] + of_window;
        let at = at.checked_sub(self.window.padding[axis])?;
        (at < self.image[axis]).then_some(at)
    }

    /// The place along an axis at which pixel `of_window` of the window is at `at`.
    fn seeing(&self, axis: usize, at: usize, of_window: usize) -> Option<usize> {
        let reach = (at + self.window.padding[axis]).checked_sub(of_window)?;
        let place = reach / self.window.stride[axis];
        let fits = reach % self.window.stride[axis] == 0 && place < self.places[axis];
        fits.then_some(place)
    }

    /// For each place of a row: what line `of_window` of the window sees of a line of the image, and
    /// where that is among the row's patches.
    fn along(&self, of_window: usize, mut each: impl FnMut(Range<usize>, Range<usize>)) {
        let ([_, _, width, channels], [_, _, wide]) = (self.image, self.kernel);
        let (stride, padding) = (self.window.stride[2], self.window.padding[2]);
        for place in 0..self.places[2] {
            let start = place * stride;
            let first = padding.saturating_sub(start).min(wide);
            let end = (width + padding).saturating_sub(start).min(wide);
            if first >= end {
                continue;
            }
            let length = (end - first) * channels;
            let from = (start + first - padding) * channels;
            let to = place * self.depth() + (of_window * wide + first) * channels;
            each(from..from + length, to..to + length);
        }
    }
}

/// A weight in the order of patches, `[out, depth, height, width, in]`, from the layout's
/// `[out, in, depth, height, width]`; `window` is the product of the three.
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
