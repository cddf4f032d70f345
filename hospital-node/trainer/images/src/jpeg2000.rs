//! JPEG 2000 and high-throughput JPEG 2000, by the Rust translation of OpenJPEG. What the codestream
//! claims is looked at before the decoder sees it.

mod claims;

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

/// Decodes a codestream, bare or in its box, of at most so many values.
pub(crate) fn decode(bytes: &[u8], most_values: usize) -> Result<Decoded, Fault> {
    let start = codestream(bytes)?;
    claims::check(start, most_values)?;
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
mod tests;
