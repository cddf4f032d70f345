//! JPEG 2000 and high-throughput JPEG 2000, by the Rust translation of OpenJPEG. What the codestream
//! claims is looked at before the decoder sees it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Fault;

/// A decoded image.
pub(crate) struct Decoded {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) components: usize,
    /// Bits that a value has in the codestream.
    pub(crate) precision: u32,
    image: jpeg2k::Image,
}

impl Decoded {
    /// Row, column, component.
    pub(crate) fn values(&self) -> impl Iterator<Item = i32> + '_ {
        let planes = self.image.components();
        (0..self.width * self.height)
            .flat_map(move |pixel| planes.iter().map(move |plane| plane.data()[pixel]))
    }
}

const BROKEN: Fault = Fault::Unreadable("its JPEG 2000 codestream is broken");
/// Values of one codestream. The decoder takes eight bytes for each, and a few bytes are enough to
/// say that all are alike.
const MAX_VALUES: u64 = 1 << 26;
/// What the decoder may be made to hold in tiles.
const MAX_TILES: u64 = 1 << 16;
/// The markers in front of a tile (A.4.2 and A.4.3).
const TILE_BYTES: u64 = 14;

/// Decodes a codestream, bare or in its box, of at most so many values.
pub(crate) fn decode(bytes: &[u8], most_values: usize) -> Result<Decoded, Fault> {
    let start = codestream(bytes)?;
    check(start, most_values)?;
    // The decoder is other people's; a panic there is a bad file here.
    catch_unwind(AssertUnwindSafe(|| by_openjpeg(start))).unwrap_or(Err(BROKEN))
}

/// The codestream within its boxes: begins with SOC and SIZ.
fn codestream(bytes: &[u8]) -> Result<&[u8], Fault> {
    const BEGIN: [u8; 4] = [0xff, 0x4f, 0xff, 0x51];
    if bytes.starts_with(&BEGIN) {
        return Ok(bytes);
    }
    let found = bytes.windows(4).take(1 << 16).position(|window| window == BEGIN);
    found
        .map(|at| &bytes[at..])
        .ok_or(Fault::Unreadable("expected a JPEG 2000 codestream, found something else"))
}

fn check(bytes: &[u8], most_values: usize) -> Result<(), Fault> {
    let size = bytes.get(8..40).ok_or(Fault::Truncated)?;
    let word = |place: usize| {
        size.get(4 * place..)
            .and_then(|rest| rest.first_chunk::<4>())
            .map_or(0, |word| u64::from(u32::from_be_bytes(*word)))
    };
    let components = bytes.get(40..42).ok_or(Fault::Truncated)?;
    let components = u64::from(u16::from_be_bytes([components[0], components[1]]));
    let (x1, y1, x0, y0) = (word(0), word(1), word(2), word(3));
    let (tile_width, tile_height) = (word(4), word(5));
    if x1 <= x0 || y1 <= y0 || tile_width == 0 || tile_height == 0 || components == 0 {
        return Err(BROKEN);
    }
    let (width, height) = (x1 - x0, y1 - y0);
    let values = width
        .checked_mul(height)
        .and_then(|values| values.checked_mul(components))
        .filter(|values| *values <= most_values as u64)
        .ok_or(Fault::WrongShape("a codestream larger than its header says"))?;
    if values > MAX_VALUES {
        return Err(Fault::Unsupported("a frame of more than 64 million values in JPEG 2000"));
    }
    let tiles = width.div_ceil(tile_width) * height.div_ceil(tile_height);
    if tiles > MAX_TILES {
        return Err(BROKEN);
    }
    if tiles * TILE_BYTES > bytes.len() as u64 {
        return Err(Fault::Truncated);
    }
    Ok(())
}

fn by_openjpeg(bytes: &[u8]) -> Result<Decoded, Fault> {
    let image = jpeg2k::Image::from_bytes(bytes).map_err(|_| BROKEN)?;
    let components = image.components();
    let first = components.first().ok_or(BROKEN)?;
    let size = |side: u32| usize::try_from(side).map_err(|_| BROKEN);
    let (width, height) = (size(first.width())?, size(first.height())?);
    let count = components.len();
    if components.iter().any(|component| component.data().len() != width * height) {
        return Err(Fault::Unsupported("JPEG 2000 with components of several resolutions"));
    }
    let precision = first.precision();
    Ok(Decoded { width, height, components: count, precision, image })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A codestream of one tile, grey, lossless, in which nothing differs from the middle shade.
    fn blank(width: u32, height: u32) -> Vec<u8> {
        let mut out = vec![0xff, 0x4f, 0xff, 0x51, 0, 41, 0, 0];
        for side in [width, height, 0, 0, width, height, 0, 0] {
            out.extend(side.to_be_bytes());
        }
        out.extend([0, 1, 7, 1, 1]);
        // Five levels of decomposition, blocks of 64 by 64, reversible.
        out.extend([0xff, 0x52, 0, 12, 0, 0, 0, 1, 0, 5, 4, 4, 0, 1]);
        out.extend([0xff, 0x5c, 0, 19, 0x40]);
        out.extend([[0x48, 0x48, 0x50]; 5].concat());
        out.push(0x40);
        // The last tile part goes on to the end; a packet without a block is a zero.
        out.extend([0xff, 0x90, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0x93]);
        out.extend([0; 6]);
        out.extend([0xff, 0xd9]);
        out
    }

    #[test]
    fn a_blank_image_of_few_bytes_is_sound() {
        let file = blank(4096, 2048);
        let decoded = decode(&file, 4096 * 2048).expect("sound");
        assert_eq!((decoded.width, decoded.height, decoded.precision), (4096, 2048, 8));
        assert!(decoded.values().count() == 4096 * 2048 && decoded.values().all(|v| v == 128));
    }

    #[test]
    fn claims_beyond_the_limits_never_reach_the_decoder() {
        assert!(matches!(check(&blank(4096, 2048), 100), Err(Fault::WrongShape(_))));
        assert_eq!(check(&blank(8192, 8192), usize::MAX), Ok(()));
        assert!(matches!(check(&blank(8192, 8193), usize::MAX), Err(Fault::Unsupported(_))));
        // Small tiles, each of which needs its own header.
        for (side, fault) in [(16_u32, BROKEN), (1024, Fault::Truncated)] {
            let mut tiled = blank(8192, 8192);
            for place in [24, 28] {
                tiled[place..place + 4].copy_from_slice(&side.to_be_bytes());
            }
            assert_eq!(check(&tiled, usize::MAX), Err(fault), "{side}");
        }
    }
}
