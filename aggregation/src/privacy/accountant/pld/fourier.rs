//! The discrete Fourier transform of 2^k complex numbers, for convolutions.
//!
//! Sixty lines of our own rather than a crate: the published ones pick instructions by the
//! machine, and then the last digits of an epsilon depend on who computes it. The transform
//! leaves its result in bit-reversed order and the inverse starts from there, which spares both
//! the sorting: a convolution multiplies element by element and does not care.

use crate::units::real;

/// A complex number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Complex {
    pub(super) re: f64,
    pub(super) im: f64,
}

impl Complex {
    pub(super) const ONE: Self = Self { re: 1.0, im: 0.0 };
    pub(super) const ZERO: Self = Self { re: 0.0, im: 0.0 };

    pub(super) const fn times(self, other: Self) -> Self {
        Self {
            re: self.re * other.re - self.im * other.im,
            im: self.re * other.im + self.im * other.re,
        }
    }

    const fn plus(self, other: Self) -> Self {
        Self { re: self.re + other.re, im: self.im + other.im }
    }

    const fn minus(self, other: Self) -> Self {
        Self { re: self.re - other.re, im: self.im - other.im }
    }

    const fn conjugate(self) -> Self {
        Self { re: self.re, im: -self.im }
    }

    pub(super) fn modulus(self) -> f64 {
        libm::sqrt(self.re * self.re + self.im * self.im)
    }

    /// The power, by squaring. A number of the unit disc stays there.
    pub(super) fn power(self, exponent: u64) -> Self {
        // Below e^-90, which is 8e-40, it does not count beside 1, and would only slow down as it underflows.
        let log_square = libm::log(self.re * self.re + self.im * self.im);
        if exponent > 0 && 0.5 * log_square * real(exponent) < -90.0 {
            return Self::ZERO;
        }
        let (mut power, mut square, mut left) = (Self::ONE, self, exponent);
        while left > 0 {
            if left & 1 == 1 {
                power = power.times(square);
            }
            square = square.times(square);
            left >>= 1;
        }
        power
    }
}

/// The transform of one length.
pub(super) struct Fourier {
    /// exp(-2 pi i k / length) for the first half of them.
    roots: Vec<Complex>,
}

impl Fourier {
    /// Prepares a transform of `2^log_length` numbers.
    pub(super) fn new(log_length: u32) -> Self {
        let half = (1_u64 << log_length) >> 1;
        let angle = -core::f64::consts::PI / real(half.max(1));
        let root = |k| {
            let (im, re) = libm::sincos(angle * real(k));
            Complex { re, im }
        };
        Self { roots: (0..half).map(root).collect() }
    }

    /// From the usual order to the bit-reversed one. The length is the prepared one.
    pub(super) fn forward(&self, numbers: &mut [Complex]) {
        debug_assert_eq!(numbers.len().max(1) / 2, self.roots.len());
        let mut size = numbers.len();
        while size > 1 {
            let stride = numbers.len() / size;
            for block in numbers.chunks_exact_mut(size) {
                let (low, high) = block.split_at_mut(size / 2);
                let roots = self.roots.iter().step_by(stride);
                for ((a, b), root) in low.iter_mut().zip(high).zip(roots) {
                    let difference = a.minus(*b);
                    *a = a.plus(*b);
                    *b = difference.times(*root);
                }
            }
            size /= 2;
        }
    }

    /// From the bit-reversed order back, times the length.
    pub(super) fn inverse(&self, numbers: &mut [Complex]) {
        debug_assert_eq!(numbers.len().max(1) / 2, self.roots.len());
        let mut size = 2;
        while size <= numbers.len() {
            let stride = numbers.len() / size;
            for block in numbers.chunks_exact_mut(size) {
                let (low, high) = block.split_at_mut(size / 2);
                let roots = self.roots.iter().step_by(stride);
                for ((a, b), root) in low.iter_mut().zip(high).zip(roots) {
                    let turned = b.times(root.conjugate());
                    *b = a.minus(turned);
                    *a = a.plus(turned);
                }
            }
            size *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize) -> Vec<Complex> {
        let mut xof = blake3::Hasher::new_keyed(&[7; 32]).finalize_xof();
        let mut next = || {
            let mut word = [0; 4];
            xof.fill(&mut word);
            f64::from(i32::from_le_bytes(word)) / f64::from(i32::MAX)
        };
        (0..count).map(|_| Complex { re: next(), im: next() }).collect()
    }

    #[test]
    fn there_and_back_again() {
        for log_length in [0, 1, 2, 5, 12] {
            let fourier = Fourier::new(log_length);
            let before = numbers(1 << log_length);
            let mut after = before.clone();
            fourier.forward(&mut after);
            fourier.inverse(&mut after);
            let length = real(1 << log_length);
            for (a, b) in before.iter().zip(&after) {
                assert!((a.re - b.re / length).abs() < 1e-14);
                assert!((a.im - b.im / length).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn products_of_transforms_are_convolutions() {
        let fourier = Fourier::new(6);
        let (a, b) = (numbers(64), numbers(128).split_off(64));
        let (mut fa, mut fb) = (a.clone(), b.clone());
        fourier.forward(&mut fa);
        fourier.forward(&mut fb);
        let mut product: Vec<Complex> = fa.iter().zip(&fb).map(|(x, y)| x.times(*y)).collect();
        fourier.inverse(&mut product);
        for (k, found) in product.iter().enumerate() {
            let mut expected = Complex::ZERO;
            for i in 0..64 {
                expected = expected.plus(a[i].times(b[(64 + k - i) % 64]));
            }
            assert!((found.re / 64.0 - expected.re).abs() < 1e-13, "{k}");
            assert!((found.im / 64.0 - expected.im).abs() < 1e-13, "{k}");
        }
    }

    #[test]
    fn powers_are_repeated_products() {
        let z = Complex { re: 0.8, im: -0.59 };
        let mut expected = Complex::ONE;
        for exponent in 0..40 {
            let found = z.power(exponent);
            assert!((found.re - expected.re).abs() < 1e-13);
            assert!((found.im - expected.im).abs() < 1e-13);
            expected = expected.times(z);
        }
        assert_eq!(Complex { re: 0.5, im: 0.0 }.power(u64::MAX), Complex::ZERO);
        assert_eq!(Complex::ZERO.power(3), Complex::ZERO);
    }
}
