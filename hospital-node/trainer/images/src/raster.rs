//! PNG (every depth and colour type) and JPEG, as exports of archives and public collections have
//! them. Transparency is dropped: no reading room prints it.

use crate::png::{self, Decoded};
use crate::{Fault, Limit, MAX_PIXEL_BYTES, Picture, jpeg};

/// How a JPEG file begins.
const JPEG: [u8; 3] = [0xff, 0xd8, 0xff];

/// Pixels as the file stores them; in JPEG after the change from luma and chroma to red, green, blue.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Rows of pixels.
    pub rows: usize,
    /// Columns of pixels.
    pub columns: usize,
    /// Values to a pixel: grey, grey and opacity, red-green-blue, or that and opacity.
    pub samples: usize,
    /// Bits that carry a value: 1, 2, 4, 8, 12 or 16.
    pub bits: u16,
    /// Row, column, sample.
    pub values: Vec<u16>,
    /// Of an image with a palette, whose colours are in `values`: the numbers that the file stores.
    pub indices: Option<Vec<u16>>,
}

/// Whether these bytes begin like a PNG or JPEG file.
#[must_use]
pub fn begins_so(bytes: &[u8]) -> bool {
    bytes.starts_with(&png::BEGIN) || bytes.starts_with(&JPEG)
}

impl Stored {
    /// Decodes a PNG or JPEG file.
    ///
    /// # Errors
    /// The one [`Fault`] that describes it best.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.starts_with(&png::BEGIN) { Self::png(bytes) } else { Self::jpeg(bytes) }
    }

    fn png(bytes: &[u8]) -> Result<Self, Fault> {
        let Decoded { width, height, samples, bits, values, indices } = png::decode(bytes)?;
        Ok(Self { rows: height, columns: width, samples, bits, values, indices })
    }

    fn jpeg(bytes: &[u8]) -> Result<Self, Fault> {
        let most = usize::try_from(MAX_PIXEL_BYTES / 4).unwrap_or(usize::MAX);
        let jpeg::Decoded { width, height, components, precision, mut values, transformed, .. } =
            jpeg::decode(bytes, most, |values| Fault::TooLarge(Limit::Pixels(4 * values as u64)))?;
        // Lossless values are counted modulo 2^16, whatever their precision (T.81 H.1.2.1); only the bits
        // of the precision are values.
        let greatest = u16::MAX >> 16_u32.saturating_sub(precision);
        for value in &mut values {
            *value &= greatest;
        }
        match components {
            1 => {}
            // Without a word on it three components are luma and chroma (T.871).
            3 if transformed != Some(false) => {
                let (centre, greatest) = (1 << (precision - 1), (1 << precision) - 1);
                for pixel in values.as_chunks_mut::<3>().0 {
                    *pixel = red_green_blue(*pixel, centre, greatest);
                }
            }
            3 => {}
            _ => return Err(Fault::Unsupported("JPEG with four inks")),
        }
        let bits = u16::try_from(precision).map_err(|_| jpeg::BROKEN)?;
        let (rows, columns) = (height, width);
        Ok(Self { rows, columns, samples: components, bits, values, indices: None })
    }

    /// The standard's word for what values mean.
    #[must_use]
    pub fn photometric(&self) -> &'static str {
        if self.samples > 2 { "RGB" } else { "MONOCHROME2" }
    }

    /// The picture that a study can be shown, without opacity.
    #[must_use]
    pub fn picture(&self) -> Picture {
        let kept = if self.samples > 2 { 3 } else { 1 };
        let pixels = self.values.chunks_exact(self.samples);
        let values = pixels.flat_map(|pixel| pixel[..kept].iter().map(|value| f32::from(*value)));
        let most = u16::MAX >> (16 - self.bits);
        Picture {
            rows: self.rows,
            columns: self.columns,
            samples: kept,
            spacing: None,
            values: values.collect(),
            full: (0.0, f32::from(most)),
            shown: None,
            inverted: false,
        }
    }
}

/// ITU-T T.871, in the integer arithmetic that most readers use.
fn red_green_blue([y, blue, red]: [u16; 3], centre: i32, greatest: i32) -> [u16; 3] {
    const HALF: i32 = 1 << 15;
    let (y, blue, red) = (i32::from(y), i32::from(blue) - centre, i32::from(red) - centre);
    let shades = [
        y + ((91_881 * red + HALF) >> 16),
        y + ((-22_554 * blue - 46_802 * red + HALF) >> 16),
        y + ((116_130 * blue + HALF) >> 16),
    ];
    shades.map(|shade| u16::try_from(shade.clamp(0, greatest)).unwrap_or_default())
}

#[cfg(test)]
mod tests;
