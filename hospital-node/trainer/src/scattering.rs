//! The scattering transform of an image, as features for one linear layer: how a small model is good
//! at a small epsilon (\[TB21\]). It has no parameters and has learnt from nobody, so it costs no
//! privacy; and it is done once for each image, before the first round.
//!
//! `S_0 = x * phi`, `S_1 = |x * psi_a| * phi`, `S_2 = ||x * psi_a| * psi_b| * phi` with `b` coarser
//! than `a` (\[BM13\] section 2.1), each computed on no finer a grid than its band needs. Paths are
//! then normalised three by three within each image (\[TB21\] section 2.2: group normalisation with
//! 27 groups for 81 paths) and averaged on a grid of 4 x 4 places.

mod filters;
mod spectrum;

use aggregation::architecture::scattering::{GRID, ORIENTATIONS, features, paths, scales};
use aggregation::study::InputShape;
use rayon::prelude::*;

use filters::{low_pass, wavelet};
use spectrum::{Size, Spectrum, Transforms};

/// Paths that are normalised together.
const GROUP: usize = 3;

/// Added to the variance of a group: an even image stays even.
const VARIANCE_FLOOR: f32 = 1e-5;

/// The transform for images of one shape. Making it is work; using it needs no more than itself.
#[derive(Debug)]
pub struct Scattering {
    input: InputShape,
    scales: usize,
    /// The image with its margin; both sides divide by `2^scales`.
    padded: Size,
    /// Of each resolution `2^-r`, `r` from 0 to `scales`.
    levels: Vec<Level>,
}

/// What is done at one resolution.
#[derive(Debug)]
struct Level {
    transforms: Transforms,
    /// Wavelets by scale and orientation, those of scales not finer than this level's.
    wavelets: Vec<Vec<Vec<f32>>>,
    low_pass: Vec<f32>,
}

impl Scattering {
    /// The transform of images of this shape.
    #[must_use]
    pub fn new(input: InputShape) -> Self {
        let scales = scales(&input);
        let coarsest = 1 << scales;
        let side = |pixels: u16| (usize::from(pixels) + coarsest).next_multiple_of(coarsest);
        let padded = Size { rows: side(input.height), columns: side(input.width) };
        let levels = (0..=scales).map(|resolution| {
            let size = padded.coarser(resolution);
            let of_scale = |scale| {
                let of = |orientation| wavelet(size, resolution, scale, orientation);
                (0..ORIENTATIONS).map(of).collect()
            };
            Level {
                transforms: Transforms::new(size),
                wavelets: (resolution..scales).map(of_scale).collect(),
                low_pass: low_pass(size, resolution, scales),
            }
        });
        Self { input, scales, padded, levels: levels.collect() }
    }

    /// Values of an image, before.
    #[must_use]
    pub fn pixels(&self) -> usize {
        let InputShape { channels, height, width, .. } = self.input;
        usize::from(channels) * usize::from(height) * usize::from(width)
    }

    /// Values of an image, after.
    #[must_use]
    pub fn features(&self) -> usize {
        features(&self.input)
    }

    /// Transforms images that lie one after the other, on all cores. Of a rest that is no whole
    /// image nothing comes out.
    #[must_use]
    pub fn of_all(&self, images: &[f32]) -> Vec<f32> {
        let mut all = vec![0.0; images.len() / self.pixels().max(1) * self.features()];
        all.par_chunks_exact_mut(self.features().max(1))
            .zip(images.par_chunks_exact(self.pixels().max(1)))
            .for_each(|(features, image)| self.of(image, features));
        all
    }

    /// Transforms one image: channel by channel, path by path, place by place.
    fn of(&self, image: &[f32], features: &mut [f32]) {
        let pixels = usize::from(self.input.height) * usize::from(self.input.width);
        let of_channel = paths(self.scales) * GRID * GRID;
        let planes = image.chunks_exact(pixels.max(1));
        for (plane, features) in planes.zip(features.chunks_exact_mut(of_channel)) {
            let mut paths = self.paths(plane);
            paths.chunks_mut(GROUP).for_each(normalise);
            let places = self.padded.coarser(self.scales);
            for (path, cells) in paths.iter().zip(features.chunks_exact_mut(GRID * GRID)) {
                pool(path, places, cells);
            }
        }
    }

    /// All paths of one plane on the coarsest grid: order 0, then 1, then 2.
    fn paths(&self, plane: &[f32]) -> Vec<Vec<f32>> {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let image = self.levels[0].transforms.forward(&self.padded_plane(plane));
        for scale in 0..self.scales {
            for orientation in 0..ORIENTATIONS {
                let modulus = self.modulus(&image, 0, scale, orientation);
                first.push(self.averaged(&modulus, scale));
                for coarser in scale + 1..self.scales {
                    for orientation in 0..ORIENTATIONS {
                        let modulus = self.modulus(&modulus, scale, coarser, orientation);
                        second.push(self.averaged(&modulus, coarser));
                    }
                }
            }
        }
        let mut paths = vec![self.averaged(&image, 0)];
        paths.append(&mut first);
        paths.append(&mut second);
        paths
    }

    /// The spectrum of `|x * psi|` at the resolution of `scale`, of the spectrum of `x` at
    /// resolution `at`.
    fn modulus(&self, x: &Spectrum, at: usize, scale: usize, orientation: usize) -> Spectrum {
        let band = x.times(&self.levels[at].wavelets[scale - at][orientation]);
        let band = band.folded(scale - at);
        let level = &self.levels[scale].transforms;
        level.forward(&level.modulus(band))
    }

    /// `x * phi` on the coarsest grid, of the spectrum of `x` at resolution `at`.
    fn averaged(&self, x: &Spectrum, at: usize) -> Vec<f32> {
        let low = x.times(&self.levels[at].low_pass).folded(self.scales - at);
        self.levels[self.scales].transforms.real(low)
    }

    /// The plane in the middle, its mirror image around it.
    fn padded_plane(&self, plane: &[f32]) -> Vec<f32> {
        let (height, width) = (usize::from(self.input.height), usize::from(self.input.width));
        let Size { rows, columns } = self.padded;
        let (above, left) = ((rows - height) / 2, (columns - width) / 2);
        let mut padded = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            let row = &plane[mirrored(row, above, height) * width..][..width];
            padded.extend((0..columns).map(|column| row[mirrored(column, left, width)]));
        }
        padded
    }
}

/// The pixel that stands at `at` when `before` mirrored ones come first; the edge is not repeated.
fn mirrored(at: usize, before: usize, side: usize) -> usize {
    let last = side.saturating_sub(1);
    let from = at.abs_diff(before);
    if at < before { from.min(last) } else { from.min((2 * last).saturating_sub(from)) }
}

/// Mean 0 and variance 1 over some paths together.
fn normalise(paths: &mut [Vec<f32>]) {
    let count: usize = paths.iter().map(Vec::len).sum();
    let mean = |of: &dyn Fn(f32) -> f32| {
        let sum = paths.iter().flatten().map(|value| of(*value)).sum::<f32>();
        sum / real(count.max(1))
    };
    let middle = mean(&|value| value);
    let variance = mean(&|value| (value - middle).powi(2));
    let scale = (variance + VARIANCE_FLOOR).sqrt().recip();
    paths.iter_mut().flatten().for_each(|value| *value = (*value - middle) * scale);
}

/// The means over [`GRID`] x [`GRID`] cells, which overlap by a row where they do not fit.
fn pool(path: &[f32], places: Size, cells: &mut [f32]) {
    let span = |cell: usize, side: usize| (cell * side / GRID, ((cell + 1) * side).div_ceil(GRID));
    for (cell, mean) in cells.iter_mut().enumerate() {
        let (top, bottom) = span(cell / GRID, places.rows);
        let (left, right) = span(cell % GRID, places.columns);
        let rows = path.chunks_exact(places.columns).take(bottom).skip(top);
        let sum: f32 = rows.flat_map(|row| &row[left..right]).sum();
        *mean = sum / real(((bottom - top) * (right - left)).max(1));
    }
}

#[expect(clippy::cast_precision_loss, reason = "places of a small image")]
fn real(count: usize) -> f32 {
    count as f32
}

// [BM13]: Bruna, Mallat: Invariant Scattering Convolution Networks, IEEE TPAMI 35 (2013), arXiv
//   1203.1513.
// [TB21]: Tramèr, Boneh: Differentially Private Learning Needs Better Features (or Much More Data),
//   ICLR 2021, arXiv 2011.11660.

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn shape(channels: u16, height: u16, width: u16) -> InputShape {
        InputShape { channels, depth: 1, height, width }
    }

    /// Soft blobs, as anatomy has and noise has not, and fine lines across them.
    fn picture(input: InputShape, down: f32) -> Vec<f32> {
        let mut random = Random::new("blobs", &[]);
        let mut blobs = Vec::new();
        for _ in 0..6 {
            let mut draw = |low, high| single(random.within(low, high));
            blobs.push([draw(0.2, 0.8), draw(0.2, 0.8), draw(0.05, 0.2), draw(-1.0, 1.0)]);
        }
        let (height, width) = (usize::from(input.height), usize::from(input.width));
        let mut image = Vec::new();
        for channel in 0..input.channels {
            for y in 0..height {
                for x in 0..width {
                    let lines = (2.0 * (real(y) - down) + 1.1 * real(x)).cos()
                        + (0.9 * real(x) - 0.4 * (real(y) - down)).cos();
                    let (y, x) = ((real(y) - down) / real(height), real(x) / real(width));
                    let value = blobs.iter().map(|[at_y, at_x, wide, tall]| {
                        let square = (y - at_y).powi(2) + (x - at_x).powi(2);
                        tall * (-square / (2.0 * wide * wide)).exp()
                    });
                    image.push((value.sum::<f32>() + lines) * (4.0 + f32::from(channel)));
                }
            }
        }
        image
    }

    #[expect(clippy::cast_possible_truncation, reason = "test values")]
    fn single(value: f64) -> f32 {
        value as f32
    }

    fn apart(a: &[f32], b: &[f32]) -> f32 {
        let size: f32 = b.iter().map(|b| b * b).sum();
        (a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / size).sqrt()
    }

    #[test]
    fn every_shape_gives_as_many_finite_features_as_declared() {
        for input in [shape(1, 28, 28), shape(3, 16, 41), shape(1, 100, 17), shape(1, 128, 128)] {
            let scattering = Scattering::new(input);
            let image = picture(input, 0.0);
            let found = scattering.of_all(&[image.clone(), image].concat());
            assert_eq!(found.len(), 2 * features(&input));
            assert!(found.iter().all(|value| value.is_finite()));
            let (one, other) = found.split_at(features(&input));
            assert_eq!(one, other);
            assert!(one.iter().any(|value| value.abs() > 0.5));
        }
    }

    #[test]
    fn contrast_does_not_matter_and_a_small_shift_little() {
        let input = shape(1, 28, 28);
        let scattering = Scattering::new(input);
        let image = picture(input, 0.0);
        let features = scattering.of_all(&image);
        let stronger: Vec<f32> = image.iter().map(|value| 3.0 * value).collect();
        let moved = apart(&scattering.of_all(&stronger), &features);
        assert!(moved < 0.02, "{moved}");
        let shifted = picture(input, 1.0);
        let moved = apart(&scattering.of_all(&shifted), &features);
        assert!(moved > 0.01 && moved < 0.5, "{moved}");
        let mirrored: Vec<f32> =
            image.chunks(28).flat_map(|row| row.iter().rev()).copied().collect();
        let turned = apart(&scattering.of_all(&mirrored), &features);
        assert!(turned > moved, "{turned} {moved}");
    }

    #[test]
    fn a_grating_answers_where_its_wavelet_is() {
        // The mother wavelet's frequency is 3 pi / 4; along the columns, at the finest scale.
        let input = shape(1, 32, 32);
        let scattering = Scattering::new(input);
        for (frequency, scale) in [(0.75, 0), (0.375, 1)] {
            for (along_rows, orientation) in [(false, 0), (true, 4)] {
                let image: Vec<f32> = (0..1024)
                    .map(|at| {
                        let place = if along_rows { at / 32 } else { at % 32 };
                        (std::f32::consts::PI * frequency * real(place)).cos()
                    })
                    .collect();
                let paths = scattering.paths(&image);
                let size = |path: &Vec<f32>| path.iter().sum::<f32>();
                let loudest = (1..17).max_by(|a, b| size(&paths[*a]).total_cmp(&size(&paths[*b])));
                assert_eq!(loudest, Some(1 + 8 * scale + orientation));
            }
        }
    }

    #[test]
    fn the_mirror_does_not_repeat_the_edge() {
        let places: Vec<usize> = (0..10).map(|at| mirrored(at, 3, 4)).collect();
        assert_eq!(places, [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]);
    }

    #[test]
    fn cells_cover_every_place() {
        let mut cells = [0.0; GRID * GRID];
        pool(&[1.0; 81], Size { rows: 9, columns: 9 }, &mut cells);
        assert!(cells.iter().all(|mean| (mean - 1.0).abs() < 1e-6));
        let path: Vec<f32> = (0..64).map(|at| if at == 63 { 4.0 } else { 0.0 }).collect();
        pool(&path, Size { rows: 8, columns: 8 }, &mut cells);
        assert!((cells[15] - 1.0).abs() < 1e-6 && cells[..15].iter().all(|mean| *mean == 0.0));
        pool(&[2.0], Size { rows: 1, columns: 1 }, &mut cells);
        assert!(cells.iter().all(|mean| (mean - 2.0).abs() < 1e-6));
    }
}
