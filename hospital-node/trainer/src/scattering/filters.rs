//! The filters of the scattering transform by their Fourier transforms, which are real: Morlet
//! wavelets and a Gaussian (\[BM13\] section 2.1; sizes as in \[AAE+20\] section 3.2 but for the
//! Gaussian's width, which is twice as large since what it gives is averaged further anyway).

use std::f64::consts::PI;

use aggregation::architecture::scattering::ORIENTATIONS;

use super::spectrum::Size;

/// Standard deviation of the finest wavelet's envelope, in pixels of the image.
const WIDTH: f64 = 0.8;

/// Frequency of the finest wavelet, in radians to a pixel.
const FREQUENCY: f64 = 0.75 * PI;

/// How much longer the envelope is across the wave than along it.
const SLANT: f64 = 4.0 / 8.0;

/// A wavelet of so coarse a scale at a grid of `2^resolution` pixels: a wave in a Gaussian envelope,
/// less so much of the envelope that its mean is zero.
pub(super) fn wavelet(size: Size, resolution: usize, scale: usize, orientation: usize) -> Vec<f32> {
    let coarse = power(scale);
    let (along, across) = (WIDTH * coarse, WIDTH * coarse / SLANT);
    let frequency = FREQUENCY / coarse;
    let angle = PI * real(orientation) / real(ORIENTATIONS);
    let (sin, cos) = angle.sin_cos();
    let envelope = |u: f64, v: f64| (-((u * along).powi(2) + (v * across).powi(2)) / 2.0).exp();
    let turned = |down: f64, right: f64| (cos * right + sin * down, cos * down - sin * right);
    let wave = periodic(size, resolution, |down, right| {
        let (u, v) = turned(down, right);
        envelope(u - frequency, v)
    });
    let still = periodic(size, resolution, |down, right| {
        let (u, v) = turned(down, right);
        envelope(u, v)
    });
    let share = wave[0] / still[0];
    wave.iter().zip(&still).map(|(wave, still)| single(wave - share * still)).collect()
}

/// The Gaussian whose averages are kept, at a grid of `2^resolution` pixels.
pub(super) fn low_pass(size: Size, resolution: usize, scales: usize) -> Vec<f32> {
    let width = WIDTH * power(scales);
    let gaussian = periodic(size, resolution, |down, right| {
        (-(down.powi(2) + right.powi(2)) * width * width / 2.0).exp()
    });
    gaussian.into_iter().map(single).collect()
}

/// A function of frequencies down and to the right, in radians to a pixel of the image, on a grid's
/// discrete frequencies, with what lies beyond the grid's own band folded in.
fn periodic(size: Size, resolution: usize, of: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let period = 2.0 * PI / power(resolution);
    let frequency = |index: usize, side: usize| {
        let signed = if 2 * index < side { real(index) } else { real(index) - real(side) };
        period * signed / real(side)
    };
    let mut values = Vec::with_capacity(size.values());
    for row in 0..size.rows {
        for column in 0..size.columns {
            let (down, right) = (frequency(row, size.rows), frequency(column, size.columns));
            let folds = [-1.0, 0.0, 1.0];
            let beyond = folds.iter().flat_map(|a| folds.iter().map(move |b| (a, b)));
            values.push(beyond.map(|(a, b)| of(down + a * period, right + b * period)).sum());
        }
    }
    values
}

fn power(exponent: usize) -> f64 {
    real(1 << exponent)
}

#[expect(clippy::cast_precision_loss, reason = "sides of small images")]
fn real(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, reason = "filters are used in single precision")]
fn single(value: f64) -> f32 {
    value as f32
}

// [BM13]: Bruna, Mallat: Invariant Scattering Convolution Networks, IEEE TPAMI 35 (2013), arXiv
//   1203.1513.
// [AAE+20]: Andreux et al.: Kymatio: Scattering Transforms in Python, JMLR 21 (2020), arXiv
//   1812.11214.

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { rows: 32, columns: 40 };

    #[test]
    fn wavelets_have_no_mean_and_the_gaussian_keeps_it() {
        for scale in 0..3 {
            for orientation in 0..ORIENTATIONS {
                let wavelet = wavelet(SIZE, 0, scale, orientation);
                assert!(wavelet[0].abs() < 1e-6);
                let greatest = wavelet.iter().copied().fold(0.0, f32::max);
                assert!(greatest > 0.8 && greatest < 1.3, "{scale} {orientation} {greatest}");
            }
        }
        assert!((low_pass(SIZE, 0, 2)[0] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn all_filters_together_hear_every_frequency_of_the_band() {
        // A real image has the same at opposite frequencies, so a wavelet hears both.
        let mut heard: Vec<f32> = low_pass(SIZE, 0, 2).iter().map(|value| value * value).collect();
        let opposite = |at: usize| {
            let (row, column) = (at / SIZE.columns, at % SIZE.columns);
            (SIZE.rows - row) % SIZE.rows * SIZE.columns + (SIZE.columns - column) % SIZE.columns
        };
        for scale in 0..2 {
            for orientation in 0..ORIENTATIONS {
                let wavelet = wavelet(SIZE, 0, scale, orientation);
                for (at, value) in wavelet.iter().enumerate() {
                    heard[at] += value * value / 2.0;
                    heard[opposite(at)] += value * value / 2.0;
                }
            }
        }
        let quietest = heard.iter().copied().fold(f32::MAX, f32::min);
        assert!(quietest > 0.03, "{quietest}");
        assert!(heard.iter().all(|value| *value < 2.0));
    }
}
