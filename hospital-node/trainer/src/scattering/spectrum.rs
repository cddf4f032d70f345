//! Images by their discrete Fourier transforms.

use std::fmt;
use std::sync::Arc;

use rustfft::num_complex::Complex32;
use rustfft::{Fft, FftPlanner};

/// Rows and columns of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Size {
    pub(super) const fn values(self) -> usize {
        self.rows * self.columns
    }

    /// Every `2^by`-th row and column.
    pub(super) const fn coarser(self, by: usize) -> Self {
        Self { rows: self.rows >> by, columns: self.columns >> by }
    }
}

/// The Fourier transform of an image, row by row of frequencies.
#[derive(Clone, Debug)]
pub(super) struct Spectrum {
    size: Size,
    values: Vec<Complex32>,
}

impl Spectrum {
    /// The spectrum of a convolution with a filter whose transform is real.
    pub(super) fn times(&self, filter: &[f32]) -> Self {
        let values = self.values.iter().zip(filter).map(|(value, by)| value * by).collect();
        Self { size: self.size, values }
    }

    /// The spectrum of what is left when only every `2^by`-th row and column is kept.
    pub(super) fn folded(self, by: usize) -> Self {
        if by == 0 {
            return self;
        }
        let size = self.size.coarser(by);
        let mut values = vec![Complex32::ZERO; size.values()];
        for (row, of_row) in self.values.chunks_exact(self.size.columns).enumerate() {
            let into = &mut values[row % size.rows * size.columns..][..size.columns];
            for repeat in of_row.chunks_exact(size.columns) {
                into.iter_mut().zip(repeat).for_each(|(sum, value)| *sum += value);
            }
        }
        let share = real(self.size.values() / size.values()).recip();
        values.iter_mut().for_each(|value| *value *= share);
        Self { size, values }
    }
}

/// Fourier transforms of one size, there and back.
pub(super) struct Transforms {
    size: Size,
    there: [Arc<dyn Fft<f32>>; 2],
    back: [Arc<dyn Fft<f32>>; 2],
}

impl fmt::Debug for Transforms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transforms").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Transforms {
    pub(super) fn new(size: Size) -> Self {
        let mut planner = FftPlanner::new();
        Self {
            size,
            there: [planner.plan_fft_forward(size.columns), planner.plan_fft_forward(size.rows)],
            back: [planner.plan_fft_inverse(size.columns), planner.plan_fft_inverse(size.rows)],
        }
    }

    /// The spectrum of an image of this size.
    pub(super) fn forward(&self, image: &[f32]) -> Spectrum {
        let values = image.iter().map(|value| Complex32::new(*value, 0.0)).collect();
        Spectrum { size: self.size, values: self.both(&self.there, values) }
    }

    /// The absolute values of the image of a spectrum.
    pub(super) fn modulus(&self, spectrum: Spectrum) -> Vec<f32> {
        let share = real(self.size.values()).recip();
        let image = self.both(&self.back, spectrum.values);
        image.iter().map(|value| value.norm() * share).collect()
    }

    /// The image of a spectrum that is known to be real.
    pub(super) fn real(&self, spectrum: Spectrum) -> Vec<f32> {
        let share = real(self.size.values()).recip();
        let image = self.both(&self.back, spectrum.values);
        image.iter().map(|value| value.re * share).collect()
    }

    /// Along the rows, then along the columns.
    fn both(&self, along: &[Arc<dyn Fft<f32>>; 2], mut values: Vec<Complex32>) -> Vec<Complex32> {
        let Size { rows, columns } = self.size;
        let [of_rows, of_columns] = along;
        of_rows.process(&mut values);
        let mut turned = transposed(&values, columns);
        of_columns.process(&mut turned);
        transposed(&turned, rows)
    }
}

/// Columns become rows; `columns` is how many there are.
fn transposed(values: &[Complex32], columns: usize) -> Vec<Complex32> {
    (0..columns).flat_map(|first| values.iter().skip(first).step_by(columns).copied()).collect()
}

#[expect(clippy::cast_precision_loss, reason = "places of a small image")]
fn real(count: usize) -> f32 {
    count as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[expect(clippy::cast_possible_truncation, reason = "test values")]
    fn noise(count: usize) -> Vec<f32> {
        let mut random = Random::new("spectrum", &[]);
        (0..count).map(|_| random.normal() as f32).collect()
    }

    #[test]
    fn there_and_back_is_the_image() {
        let size = Size { rows: 6, columns: 20 };
        let transforms = Transforms::new(size);
        let image = noise(120);
        let back = transforms.real(transforms.forward(&image));
        assert!(back.iter().zip(&image).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn a_spectrum_is_the_sum_of_waves() {
        let size = Size { rows: 3, columns: 5 };
        let image = noise(15);
        let spectrum = Transforms::new(size).forward(&image);
        for (at, found) in spectrum.values.iter().enumerate() {
            let (mut re, mut im) = (0.0, 0.0);
            for (place, value) in image.iter().enumerate() {
                let turns = real(place / 5 * (at / 5)) / 3.0 + real(place % 5 * (at % 5)) / 5.0;
                let (sin, cos) = (std::f32::consts::TAU * turns).sin_cos();
                re += value * cos;
                im -= value * sin;
            }
            assert!((found.re - re).abs() < 1e-4 && (found.im - im).abs() < 1e-4);
        }
    }

    #[test]
    fn a_folded_spectrum_is_that_of_every_fourth_pixel() {
        let size = Size { rows: 8, columns: 12 };
        let image = noise(96);
        let folded = Transforms::new(size).forward(&image).folded(2);
        let kept = Transforms::new(size.coarser(2)).real(folded);
        let expected: Vec<f32> = [0, 4]
            .iter()
            .flat_map(|row| [0, 4, 8].map(|column| image[row * 12 + column]))
            .collect();
        assert!(kept.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
