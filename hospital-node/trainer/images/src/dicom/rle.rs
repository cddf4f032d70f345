//! RLE Lossless (PS3.5 annex G): PackBits, one segment for each byte of each sample.

use crate::Fault;

const BROKEN: Fault = Fault::Unreadable("its RLE data is broken");

/// The segments of a frame, in the order of the file, each of `length` bytes.
pub(super) fn segments(frame: &[u8], count: usize, length: usize) -> Result<Vec<Vec<u8>>, Fault> {
    let header = frame.first_chunk::<64>().ok_or(Fault::Truncated)?;
    let (words, _) = header.as_chunks::<4>();
    let word = |place: usize| usize::try_from(u32::from_le_bytes(words[place])).map_err(|_| BROKEN);
    if word(0)? != count || count > 15 {
        return Err(BROKEN);
    }
    (0..count)
        .map(|segment| {
            let start = word(segment + 1)?;
            let end = if segment + 1 < count { word(segment + 2)? } else { frame.len() };
            unpacked(frame.get(start..end).ok_or(BROKEN)?, length)
        })
        .collect()
}

fn unpacked(mut packed: &[u8], length: usize) -> Result<Vec<u8>, Fault> {
    // Two bytes become at most 128.
    if length > packed.len().saturating_mul(64) {
        return Err(Fault::Truncated);
    }
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let (&head, rest) = packed.split_first().ok_or(Fault::Truncated)?;
        let room = length - bytes.len();
        match head.cast_signed() {
            -128 => packed = rest,
            head @ 0.. => {
                let count = usize::from(head.unsigned_abs()) + 1;
                let (literal, rest) = rest.split_at_checked(count).ok_or(Fault::Truncated)?;
                bytes.extend_from_slice(&literal[..count.min(room)]);
                packed = rest;
            }
            head => {
                let (&value, rest) = rest.split_first().ok_or(Fault::Truncated)?;
                let count = usize::from(head.unsigned_abs()) + 1;
                bytes.resize(bytes.len() + count.min(room), value);
                packed = rest;
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(segments: &[&[u8]]) -> Vec<u8> {
        let mut frame = vec![0; 64];
        frame[0] = u8::try_from(segments.len()).expect("few");
        for (place, segment) in segments.iter().enumerate() {
            let start = u32::try_from(frame.len()).expect("short").to_le_bytes();
            frame[4 + 4 * place..8 + 4 * place].copy_from_slice(&start);
            frame.extend_from_slice(segment);
        }
        frame
    }

    #[test]
    fn literal_and_repeated_runs_are_unpacked() {
        // The example of the PackBits description, and a byte that means nothing.
        let packed = [0xfe, 0xaa, 0x02, 0x80, 0x00, 0x2a, 0x80, 0xfd, 0xaa, 0x00, 0x00];
        let whole = [0xaa, 0xaa, 0xaa, 0x80, 0x00, 0x2a, 0xaa, 0xaa, 0xaa, 0xaa, 0x00];
        assert_eq!(segments(&frame(&[&packed, &packed]), 2, 11), Ok(vec![whole.to_vec(); 2]));
        // What goes on after the last wanted byte is cut off.
        assert_eq!(segments(&frame(&[&packed]), 1, 2), Ok(vec![vec![0xaa; 2]]));
    }

    #[test]
    fn broken_segments_are_refused() {
        let packed = frame(&[&[0xfe, 0xaa]]);
        assert_eq!(segments(&packed, 1, 4), Err(Fault::Truncated));
        assert_eq!(segments(&packed, 1, 1 << 40), Err(Fault::Truncated));
        assert_eq!(segments(&packed, 3, 3), Err(BROKEN));
        assert_eq!(segments(&packed[..60], 1, 3), Err(Fault::Truncated));
        let mut outside = packed;
        outside[4] = 0xff;
        assert_eq!(segments(&outside, 1, 3), Err(BROKEN));
    }
}
