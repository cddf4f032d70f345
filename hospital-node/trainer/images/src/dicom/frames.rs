//! From what a file holds to stored values, codec by codec.

use std::io::Read as _;

use flate2::read::DeflateDecoder;

use super::elements::{DOUBLE_PIXELS, Elements, FLOAT_PIXELS, PIXELS};
use super::{Kind, Photometric, Stored, rle};
use crate::{Fault, jpeg, jpeg2000, jpegls};

/// Values that frames in JPEG-LS and JPEG 2000 may have together, however few bytes they are, and for
/// each byte: a blank codestream of a hundred bytes is a quarter of a million, and takes its time.
const BLANK_VALUES: usize = 1 << 27;
const VALUES_PER_BYTE: usize = 2048;

const MORE_BITS: Fault = Fault::Unreadable("its codestream has more bits than its header");
const EMPTY: Fault = Fault::NotAnImage("its pixel data is empty");
const LARGER: Fault = Fault::WrongShape("a codestream larger than its header says");
const OTHER_SHAPE: Fault = Fault::WrongShape("a codestream of another shape than its header says");

#[derive(Clone, Copy, PartialEq, Eq)]
enum Codec {
    Plain,
    Deflate,
    Rle,
    Jpeg,
    JpegLs,
    Jpeg2000,
}

fn codec(syntax: &str) -> Result<Codec, Fault> {
    let Some(rest) = syntax.strip_prefix("1.2.840.10008.1.2") else {
        return Err(Fault::UnsupportedTransferSyntax("not a registered one"));
    };
    Ok(match rest {
        ".1.98" => Codec::Plain,
        ".8.1" => Codec::Deflate,
        ".5" => Codec::Rle,
        ".4.50" | ".4.51" | ".4.53" | ".4.55" | ".4.57" | ".4.70" => Codec::Jpeg,
        ".4.80" | ".4.81" => Codec::JpegLs,
        ".4.90" | ".4.91" | ".4.92" | ".4.93" | ".4.201" | ".4.202" | ".4.203" => Codec::Jpeg2000,
        ".4.100" | ".4.101" | ".4.102" | ".4.103" | ".4.104" | ".4.105" | ".4.106" | ".4.107"
        | ".4.108" => return Err(Fault::UnsupportedTransferSyntax("MPEG or HEVC video")),
        ".4.110" | ".4.111" | ".4.112" => {
            return Err(Fault::UnsupportedTransferSyntax("JPEG XL"));
        }
        _ => return Err(Fault::UnsupportedTransferSyntax("compressed in a way unknown here")),
    })
}

/// All values of a file: frame, row, column, sample, little-endian; one-bit values a byte each.
pub(super) fn all(
    stored: &mut Stored,
    syntax: &str,
    elements: &Elements<'_>,
    count: usize,
) -> Result<Vec<u8>, Fault> {
    let planar = stored.samples > 1 && elements.word((0x28, 6)) == Some(1);
    let Some(fragments) = &elements.fragments else {
        return native(stored, syntax, elements, count, planar);
    };
    let codec = codec(syntax)?;
    let frames = by_frame(stored, codec, elements, fragments)?;
    if stored.frames > 1 && matches!(codec, Codec::JpegLs | Codec::Jpeg2000) {
        let bytes: usize = fragments.iter().map(|fragment| fragment.len()).sum();
        if count > BLANK_VALUES.saturating_add(bytes.saturating_mul(VALUES_PER_BYTE)) {
            return Err(Fault::Unsupported("many large frames with next to nothing in them"));
        }
    }
    let each = stored.frame_values() * stored.value_bytes();
    // Grows frame by frame, so that memory follows what was really decoded.
    let mut data = Vec::new();
    let header = stored.photometric;
    for frame in frames {
        stored.photometric = header;
        let frame = frame.concat();
        if frame.is_empty() {
            return Err(Fault::Truncated);
        }
        let values = one(stored, codec, &frame, planar)?;
        debug_assert_eq!(values.len(), each);
        if stored.frames == 1 {
            return Ok(values);
        }
        data.extend_from_slice(&values);
    }
    Ok(data)
}

fn native(
    stored: &mut Stored,
    syntax: &str,
    elements: &Elements<'_>,
    count: usize,
    planar: bool,
) -> Result<Vec<u8>, Fault> {
    if !matches!(syntax.strip_prefix("1.2.840.10008.1.2"), Some("" | ".1" | ".2" | ".1.99"))
        && !syntax.is_empty()
    {
        // Compressed pixels come in fragments.
        codec(syntax)?;
        return Err(Fault::Unreadable("pixels that are not as its transfer syntax says"));
    }
    let element = [PIXELS, FLOAT_PIXELS, DOUBLE_PIXELS].into_iter().find_map(|t| elements.value(t));
    let bytes = element.ok_or(Fault::NotAnImage("there is no pixel data in it"))?;
    if bytes.is_empty() {
        return Err(EMPTY);
    }
    let big = elements.is_big_endian();
    if stored.bits_allocated == 1 {
        return unpacked(bytes, count);
    }
    let size = stored.value_bytes();
    let mut data = bytes[..bytes.len().min((count * size).next_multiple_of(2))].to_vec();
    // Bytes are bytes, unless they are written in words.
    let word = if size == 1 && elements.in_words { 2 } else { size };
    if big && word > 1 {
        for word in data.chunks_exact_mut(word) {
            word.reverse();
        }
    }
    if stored.photometric == Photometric::YbrFull422 && stored.samples == 3 && size == 1 {
        stored.photometric = Photometric::YbrFull;
        // Whoever keeps all chromas has them at full resolution, whatever the header says.
        if data.len() < count {
            return chroma_doubled(&data, count, usize::from(stored.columns));
        }
    }
    if data.len() < count * size {
        return Err(Fault::Truncated);
    }
    data.truncate(count * size);
    without_unused_bits(stored, lowest_bit(stored)?, &mut data);
    Ok(if planar { interleaved(stored, &data) } else { data })
}

/// Whether a value in memory has bits that carry none of it.
fn has_unused_bits(stored: &Stored) -> bool {
    let (bits, stored_bits) = (stored.bits_allocated, stored.bits_stored);
    stored.kind != Kind::Float && stored_bits < bits && bits >= 8
}

/// Where the bits that carry the value begin: at the least one, or in files after older editions of the
/// standard wherever their High Bit says (PS3.5 8.1.1).
fn lowest_bit(stored: &Stored) -> Result<u16, Fault> {
    let Some(high) = stored.high_bit.filter(|_| has_unused_bits(stored)) else { return Ok(0) };
    Some(high)
        .filter(|high| *high < stored.bits_allocated)
        .and_then(|high| (high + 1).checked_sub(stored.bits_stored))
        .ok_or(Fault::Unreadable("bits stored and high bit make no sense"))
}

/// Bits above and below those that carry the value may hold anything, an old kind of overlay for one.
fn without_unused_bits(stored: &Stored, lowest: u16, data: &mut [u8]) {
    if !has_unused_bits(stored) {
        return;
    }
    let (unused, signed) = (32 - u32::from(stored.bits_stored), stored.kind == Kind::Signed);
    let above = unused - u32::from(lowest);
    let size = stored.value_bytes();
    if size == 2 {
        // What most files have, in a loop that the compiler can widen.
        let (unused, above) = (unused - 16, above - 16);
        for word in data.as_chunks_mut::<2>().0 {
            let high = u16::from_le_bytes(*word) << above;
            let value = if signed {
                (high.cast_signed() >> unused).cast_unsigned()
            } else {
                high >> unused
            };
            *word = value.to_le_bytes();
        }
        return;
    }
    for value in data.chunks_exact_mut(size) {
        let mut word = [0; 4];
        word[..size].copy_from_slice(value);
        let high = u32::from_le_bytes(word) << above;
        let word =
            if signed { (high.cast_signed() >> unused).cast_unsigned() } else { high >> unused };
        value.copy_from_slice(&word.to_le_bytes()[..size]);
    }
}

/// Planes, one after the other, to samples side by side; frame by frame.
fn interleaved(stored: &Stored, data: &[u8]) -> Vec<u8> {
    let (size, samples) = (stored.value_bytes(), usize::from(stored.samples));
    let plane = stored.frame_values() / samples * size;
    let mut mixed = Vec::with_capacity(data.len());
    for frame in data.chunks_exact(plane * samples) {
        for at in (0..plane).step_by(size) {
            for sample in 0..samples {
                mixed.extend_from_slice(&frame[sample * plane + at..][..size]);
            }
        }
    }
    mixed
}

/// Two lumas and a shared pair of chromas (PS3.3 C.7.6.3.1.2) to three samples a pixel.
fn chroma_doubled(bytes: &[u8], count: usize, columns: usize) -> Result<Vec<u8>, Fault> {
    if columns % 2 == 1 {
        return Err(Fault::Unsupported("halved chroma over an odd number of columns"));
    }
    let bytes = bytes.get(..count / 3 * 2).ok_or(Fault::Truncated)?;
    let mut data = Vec::with_capacity(count);
    for pair in bytes.as_chunks::<4>().0 {
        let [first, second, blue, red] = *pair;
        data.extend_from_slice(&[first, blue, red, second, blue, red]);
    }
    Ok(data)
}

/// One-bit pixels, a byte each; the least bit comes first.
fn unpacked(bytes: &[u8], count: usize) -> Result<Vec<u8>, Fault> {
    if bytes.len() < count.div_ceil(8) {
        return Err(Fault::Truncated);
    }
    let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| (byte >> bit) & 1));
    Ok(bits.take(count).collect())
}

/// The fragments of each frame.
fn by_frame<'f>(
    stored: &Stored,
    codec: Codec,
    elements: &Elements<'_>,
    fragments: &'f [&'f [u8]],
) -> Result<Vec<&'f [&'f [u8]]>, Fault> {
    let frames = usize::try_from(stored.frames).unwrap_or(usize::MAX);
    let (table, fragments) = fragments.split_first().ok_or(Fault::Truncated)?;
    // What is short is the file, or else what was put into it.
    let short = |whole| if elements.ended { whole } else { Fault::Truncated };
    if fragments.iter().all(|fragment| fragment.is_empty()) {
        return Err(short(EMPTY));
    }
    if frames == 1 {
        return Ok(vec![fragments]);
    }
    if fragments.len() == frames {
        return Ok(fragments.chunks(1).collect());
    }
    if fragments.len() < frames {
        return Err(short(Fault::Unreadable("it has fewer frames than its header says")));
    }
    // More fragments than frames: the offset tables say which begin one, or else the codestreams do.
    let mut starts = vec![0_u64];
    for fragment in fragments {
        starts.push(starts[starts.len() - 1] + fragment.len() as u64 + 8);
    }
    let offsets: Vec<u64> = match elements.value((0x7fe0, 1)) {
        Some(long) => long.as_chunks::<8>().0.iter().map(|o| u64::from_le_bytes(*o)).collect(),
        None => table.as_chunks::<4>().0.iter().map(|o| u32::from_le_bytes(*o).into()).collect(),
    };
    let found: Option<Vec<usize>> =
        offsets.iter().map(|offset| starts.binary_search(offset).ok()).collect();
    let first: Vec<usize> = match found {
        Some(found) if found.len() == frames => found,
        _ => (0..fragments.len()).filter(|at| begins(codec, fragments[*at])).collect(),
    };
    let in_order = first.first() == Some(&0) && first.is_sorted();
    if first.len() != frames || !in_order {
        return Err(Fault::Unreadable("its frames cannot be told apart"));
    }
    let ends = first[1..].iter().copied().chain([fragments.len()]);
    Ok(first
        .iter()
        .zip(ends)
        .map(|(from, to)| &fragments[*from..to.min(fragments.len())])
        .collect())
}

/// Whether a codestream begins here.
fn begins(codec: Codec, fragment: &[u8]) -> bool {
    match codec {
        Codec::Jpeg | Codec::JpegLs => fragment.starts_with(&[0xff, 0xd8]),
        Codec::Jpeg2000 => {
            fragment.starts_with(&[0xff, 0x4f, 0xff, 0x51]) || fragment.get(4..8) == Some(b"jP  ")
        }
        Codec::Plain | Codec::Deflate | Codec::Rle => false,
    }
}

/// The values of one compressed frame.
fn one(stored: &mut Stored, codec: Codec, frame: &[u8], planar: bool) -> Result<Vec<u8>, Fault> {
    let (count, size) = (stored.frame_values(), stored.value_bytes());
    let one_bit = stored.bits_allocated == 1;
    match codec {
        Codec::Plain | Codec::Deflate => {
            let wanted = if one_bit { count.div_ceil(8) } else { count * size };
            let mut bytes = if codec == Codec::Plain {
                frame.get(..wanted).ok_or(Fault::Truncated)?.to_vec()
            } else {
                crate::file::inflated(DeflateDecoder::new(frame).by_ref(), frame.len(), wanted)?
            };
            if one_bit {
                return unpacked(&bytes, count);
            }
            without_unused_bits(stored, lowest_bit(stored)?, &mut bytes);
            Ok(if planar { interleaved(stored, &bytes) } else { bytes })
        }
        Codec::Rle => run_lengths(stored, frame),
        Codec::Jpeg => {
            let decoded = jpeg::decode(frame, count, |_| LARGER)?;
            fits(stored, decoded.width, decoded.height, decoded.components)?;
            if decoded.precision > u32::from(stored.bits_allocated) {
                return Err(MORE_BITS);
            }
            stored.photometric = match (stored.photometric, decoded.transformed) {
                (Photometric::Rgb, Some(true)) => Photometric::YbrFull,
                (Photometric::YbrFull | Photometric::YbrFull422, Some(false)) => Photometric::Rgb,
                (said, _) => said,
            };
            // A lossy one may overshoot a little what the bits can store; it has nothing above them.
            let cut = !decoded.lossless && stored.kind == Kind::Unsigned;
            let most = if cut { u16::MAX >> (16 - stored.bits_stored.min(16)) } else { u16::MAX };
            let values = decoded.values.iter().map(|value| i32::from((*value).min(most)));
            // The sign is that of the stored bits (PS3.5 8.1.1), whatever the codestream's precision is.
            let mut data = packed(stored, values, 32);
            without_unused_bits(stored, 0, &mut data);
            Ok(data)
        }
        Codec::JpegLs => {
            let decoded = jpegls::decode(frame, count)?;
            fits(stored, decoded.width, decoded.height, decoded.components)?;
            if decoded.precision > u32::from(stored.bits_allocated.max(8)) {
                return Err(MORE_BITS);
            }
            Ok(packed(stored, decoded.values.iter().map(|v| i32::from(*v)), decoded.precision))
        }
        Codec::Jpeg2000 => {
            let decoded = jpeg2000::decode(frame, count)?;
            fits(stored, decoded.width, decoded.height, decoded.components)?;
            if decoded.precision > u32::from(stored.bits_allocated.max(8)) {
                return Err(MORE_BITS);
            }
            if matches!(stored.photometric, Photometric::YbrIct | Photometric::YbrRct) {
                stored.photometric = Photometric::Rgb;
            }
            Ok(packed(stored, decoded.values(), decoded.precision))
        }
    }
}

fn fits(stored: &Stored, width: usize, height: usize, components: usize) -> Result<(), Fault> {
    let expected = (stored.columns, stored.rows, stored.samples);
    if (width, height, components)
        == (usize::from(expected.0), usize::from(expected.1), usize::from(expected.2))
    {
        Ok(())
    } else {
        Err(OTHER_SHAPE)
    }
}

/// Values of so many bits as the file would store them; in a signed image the highest is the sign.
fn packed(stored: &Stored, values: impl Iterator<Item = i32>, bits: u32) -> Vec<u8> {
    let size = stored.value_bytes();
    let unused = 32 - bits.clamp(1, 32);
    let signed = stored.kind == Kind::Signed;
    let values = values.map(|value| {
        let high = value << unused;
        if signed { high >> unused } else { (high.cast_unsigned() >> unused).cast_signed() }
    });
    let mut data = vec![0; stored.frame_values() * size];
    match size {
        1 => data.iter_mut().zip(values).for_each(|(byte, value)| *byte = value.to_le_bytes()[0]),
        2 => data.as_chunks_mut::<2>().0.iter_mut().zip(values).for_each(|(word, value)| {
            let [low, high, ..] = value.to_le_bytes();
            *word = [low, high];
        }),
        _ => data.chunks_exact_mut(size).zip(values).for_each(|(bytes, value)| {
            bytes.copy_from_slice(&value.to_le_bytes()[..size]);
        }),
    }
    data
}

fn run_lengths(stored: &Stored, frame: &[u8]) -> Result<Vec<u8>, Fault> {
    let (count, size) = (stored.frame_values(), stored.value_bytes());
    if stored.bits_allocated == 1 {
        let segments = rle::segments(frame, 1, count.div_ceil(8))?;
        return unpacked(&segments[0], count);
    }
    let samples = usize::from(stored.samples);
    let segments = rle::segments(frame, samples * size, count / samples)?;
    let mut data = vec![0; count * size];
    for (place, segment) in segments.iter().enumerate() {
        let (sample, byte) = (place / size, place % size);
        // The most significant byte has the first segment.
        let start = sample * size + (size - 1 - byte);
        for (value, byte) in data.iter_mut().skip(start).step_by(samples * size).zip(segment) {
            *value = *byte;
        }
    }
    without_unused_bits(stored, lowest_bit(stored)?, &mut data);
    Ok(data)
}
