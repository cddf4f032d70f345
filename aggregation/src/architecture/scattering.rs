//! The sizes of the wavelet scattering transform of an image (\[Mal12\], \[BM13\] section 2.1): what
//! comes out of a transform that has no parameters. The trainer computes it.
//!
//! Averages over windows of `2^J` pixels of the image itself (one path), of the moduli of its
//! wavelet transform at `J` scales and [`ORIENTATIONS`] orientations, and of those moduli's own
//! wavelet transforms at every coarser scale.

use super::InputShape;

/// Orientations of the wavelets, as in \[TB21\] section 2.
pub const ORIENTATIONS: usize = 8;

/// Places along each side at which a path's values are kept.
pub const GRID: usize = 4;

/// Longest side, in pixels, of an image that is transformed.
pub const LONGEST: u16 = 128;

/// The number of scales `J` for an image: the coarsest wavelet spans a seventh of the longer side or
/// so, as two scales do on 28 pixels.
#[must_use]
pub fn scales(input: &InputShape) -> usize {
    match input.height.max(input.width) {
        ..=40 => 2,
        41..=80 => 3,
        81.. => 4,
    }
}

/// Paths of so many scales: `1 + J L + L^2 J (J - 1) / 2`.
#[must_use]
pub const fn paths(scales: usize) -> usize {
    1 + scales * ORIENTATIONS + ORIENTATIONS * ORIENTATIONS * (scales * (scales - 1) / 2)
}

/// Values that an image becomes.
#[must_use]
pub fn features(input: &InputShape) -> usize {
    usize::from(input.channels) * paths(scales(input)) * GRID * GRID
}

// [Mal12]: Mallat: Group Invariant Scattering, Communications on Pure and Applied Mathematics 65
//   (2012), arXiv 1101.2286.
// [BM13]: Bruna, Mallat: Invariant Scattering Convolution Networks, IEEE TPAMI 35 (2013), arXiv
//   1203.1513.
// [TB21]: Tramèr, Boneh: Differentially Private Learning Needs Better Features (or Much More Data),
//   ICLR 2021, arXiv 2011.11660.

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_image_has_the_paths_of_the_literature() {
        // [TB21] section 2: 81 paths for two scales and eight orientations.
        assert_eq!(paths(2), 81);
        assert_eq!(paths(3), 217);
        let input = InputShape { channels: 1, depth: 1, height: 28, width: 28 };
        assert_eq!(features(&input), 81 * 16);
        let input = InputShape { channels: 3, depth: 1, height: 64, width: 41 };
        assert_eq!(features(&input), 3 * 217 * 16);
        let input = InputShape { channels: 1, depth: 1, height: 16, width: 128 };
        assert_eq!(scales(&input), 4);
    }
}
