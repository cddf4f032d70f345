//! The patches of images that a convolution's window sees, as the columns of a matrix, and the way
//! back. On plain slices; whoever calls knows what the values mean.

use rayon::prelude::*;

use super::layers::Window;

/// How a window goes over images.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// Channels, height and width of an image.
    image: [usize; 3],
    /// Height and width of the window.
    kernel: [usize; 2],
    window: Window,
    /// Places of the window along height and width.
    pub(super) places: [usize; 2],
}

impl Geometry {
    /// A window of `kernel` over images of channels, height and width.
    ///
    /// The padded image is at least as large as the window.
    pub(super) fn new(image: [usize; 3], kernel: [usize; 2], window: Window) -> Self {
        let along = |pixels: usize, kernel: usize| {
            (pixels + 2 * window.padding).saturating_sub(kernel) / window.stride + 1
        };
        let places = [along(image[1], kernel[0]), along(image[2], kernel[1])];
        Self { image, kernel, window, places }
    }

    /// Values in a patch: the rows of the matrix, ordered as a weight's are.
    pub(super) fn depth(&self) -> usize {
        self.image[0] * self.kernel[0] * self.kernel[1]
    }

    /// Patches in an image.
    pub(super) fn area(&self) -> usize {
        self.places[0] * self.places[1]
    }

    /// Values in an image.
    pub(super) fn pixels(&self) -> usize {
        self.image.iter().product()
    }

    /// The places along one side whose window has its pixel `offset` inside the image.
    fn inside(&self, side: usize, offset: usize) -> std::ops::Range<usize> {
        let Window { stride, padding } = self.window;
        let first = padding.saturating_sub(offset).div_ceil(stride);
        let end = (self.image[side + 1] + padding).saturating_sub(offset).div_ceil(stride);
        let end = end.min(self.places[side]);
        first.min(end)..end
    }

    /// Channel and offsets of one row of the matrix.
    fn row(&self, row: usize) -> (usize, usize, usize) {
        let [high, wide] = self.kernel;
        (row / (high * wide), row / wide % high, row % wide)
    }

    /// All patches of the images: `[depth, images, area]`.
    pub(super) fn gather(&self, images: &[f32]) -> Vec<f32> {
        let (area, pixels) = (self.area(), self.pixels());
        let of_row = images.len() / pixels * area;
        let mut patches = vec![0.0; self.depth() * of_row];
        let fill = |(row, places): (usize, &mut [f32])| {
            for (image, places) in images.chunks_exact(pixels).zip(places.chunks_exact_mut(area)) {
                self.gather_row(row, image, places);
            }
        };
        // A row is written by one thread, in one go.
        patches.par_chunks_exact_mut(of_row.max(1)).enumerate().for_each(fill);
        patches
    }

    fn gather_row(&self, row: usize, image: &[f32], places: &mut [f32]) {
        let [_, height, width] = self.image;
        let Window { stride, padding } = self.window;
        let (channel, down, right) = self.row(row);
        let plane = &image[channel * height * width..][..height * width];
        let (rows, columns) = (self.inside(0, down), self.inside(1, right));
        if columns.is_empty() {
            return;
        }
        for place in rows {
            let from = (place * stride + down - padding) * width;
            let from = from + columns.start * stride + right - padding;
            let to = &mut places[place * self.places[1]..][columns.clone()];
            if stride == 1 {
                to.copy_from_slice(&plane[from..from + to.len()]);
            } else {
                for (to, from) in to.iter_mut().zip(plane[from..].iter().step_by(stride)) {
                    *to = *from;
                }
            }
        }
    }

    /// Adds each patch's values back to where they came from: the transpose of [`Self::gather`].
    /// Row `r` of image `i` starts in `patches` at `r * apart.0 + i * apart.1`.
    pub(super) fn scatter(
        &self,
        patches: &[f32],
        images: usize,
        apart: (usize, usize),
    ) -> Vec<f32> {
        let [channels, height, width] = self.image;
        let mut sums = vec![0.0; images * self.pixels()];
        let window = self.kernel[0] * self.kernel[1];
        let fill = |(index, plane): (usize, &mut [f32])| {
            let (image, channel) = (index / channels, index % channels);
            for row in channel * window..(channel + 1) * window {
                let places = &patches[row * apart.0 + image * apart.1..][..self.area()];
                self.scatter_row(row, places, plane);
            }
        };
        sums.par_chunks_exact_mut(height * width).enumerate().for_each(fill);
        sums
    }

    fn scatter_row(&self, row: usize, places: &[f32], plane: &mut [f32]) {
        let width = self.image[2];
        let Window { stride, padding } = self.window;
        let (_, down, right) = self.row(row);
        let (rows, columns) = (self.inside(0, down), self.inside(1, right));
        if columns.is_empty() {
            return;
        }
        for place in rows {
            let to = (place * stride + down - padding) * width;
            let to = to + columns.start * stride + right - padding;
            let from = &places[place * self.places[1]..][columns.clone()];
            if stride == 1 {
                let to = &mut plane[to..to + from.len()];
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            } else {
                let to = plane[to..].iter_mut().step_by(stride);
                to.zip(from).for_each(|(to, from)| *to += from);
            }
        }
    }
}
