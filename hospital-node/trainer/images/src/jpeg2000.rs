//! JPEG 2000 and high-throughput JPEG 2000, by the Rust translation of OpenJPEG. What the codestream
//! claims is looked at before the decoder sees it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Fault;

/// A decoded image.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) components: usize,
    /// Bits that a value has in the codestream.
    pub(crate) precision: u32,
    /// Row, column, component.
    pub(crate) values: Vec<i32>,
}

const BROKEN: Fault = Fault::Unreadable("its JPEG 2000 codestream is broken");
/// Values that a byte can stand for: a flat picture takes a few bytes for each block of 4,096.
const MAX_VALUES_PER_BYTE: u64 = 1 << 16;
/// What the decoder may be made to hold in tiles.
const MAX_TILES: u64 = 1 << 16;

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
    if values > MAX_VALUES_PER_BYTE * bytes.len() as u64 {
        return Err(Fault::Truncated);
    }
    if width.div_ceil(tile_width) * height.div_ceil(tile_height) > MAX_TILES {
        return Err(BROKEN);
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
    let mut values = vec![0; width * height * count];
    for (place, component) in components.iter().enumerate() {
        if component.data().len() != width * height {
            return Err(Fault::Unsupported("JPEG 2000 with components of several resolutions"));
        }
        for (value, sample) in values.iter_mut().skip(place).step_by(count).zip(component.data()) {
            *value = *sample;
        }
    }
    let precision = first.precision();
    Ok(Decoded { width, height, components: count, precision, values })
}
