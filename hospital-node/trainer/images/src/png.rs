//! PNG (ISO/IEC 15948): every depth and colour type, interlaced or not. Checksums are compared, and
//! what is neither header, palette nor pixels is stepped over.
//!
//! A reader of our own: it needs no more than the inflation that gzip needs anyway.

use flate2::Crc;
use flate2::read::ZlibDecoder;

use crate::file::inflated;
use crate::{Fault, Limit, MAX_PIXEL_BYTES};

/// How a PNG file begins.
pub(crate) const BEGIN: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

const BROKEN: Fault = Fault::Unreadable("its PNG data is broken");

type Pass = (usize, usize, usize, usize);

/// The seven passes of an interlaced image: first column and row, then the steps between them.
const PASSES: [Pass; 7] = [
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
];

/// A decoded image.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// Values to a pixel; a palette's numbers have become its colours.
    pub(crate) samples: usize,
    /// Bits that carry a value.
    pub(crate) bits: u16,
    /// Row, column, sample.
    pub(crate) values: Vec<u16>,
    /// A palette's numbers, where there is one.
    pub(crate) indices: Option<Vec<u16>>,
}

struct Header {
    width: usize,
    height: usize,
    depth: usize,
    samples: usize,
    indexed: bool,
    interlaced: bool,
}

/// Decodes a whole file.
pub(crate) fn decode(file: &[u8]) -> Result<Decoded, Fault> {
    let mut rest = file.strip_prefix(&BEGIN).ok_or(BROKEN)?;
    let (mut header, mut palette, mut packed) = (None, None, Vec::new());
    loop {
        let (kind, body, after) = chunk(rest)?;
        rest = after;
        match (kind, &header) {
            (b"IHDR", None) => header = Some(Header::read(body)?),
            (b"IHDR", Some(_)) | (_, None) => return Err(BROKEN),
            (b"PLTE", Some(_)) => palette = Some(body),
            (b"IDAT", Some(_)) => packed.extend_from_slice(body),
            (b"IEND", Some(_)) => break,
            // The fifth bit of a name's first letter says whether it may be left out.
            _ if kind[0] & 0x20 == 0 => return Err(Fault::Unsupported("an unknown kind of PNG")),
            _ => {}
        }
    }
    let header = header.ok_or(BROKEN)?;
    let values = header.values(&packed)?;
    let Header { width, height, samples, depth, indexed, .. } = header;
    if !indexed {
        let bits = u16::try_from(depth).map_err(|_| BROKEN)?;
        return Ok(Decoded { width, height, samples, bits, values, indices: None });
    }
    let colors = palette.ok_or(BROKEN)?.as_chunks::<3>().0;
    let mut colored = Vec::with_capacity(3 * values.len());
    for value in &values {
        let color = colors.get(usize::from(*value)).ok_or(BROKEN)?;
        colored.extend(color.map(u16::from));
    }
    let indices = Some(values);
    Ok(Decoded { width, height, samples: 3, bits: 8, values: colored, indices })
}

type Chunk<'a> = (&'a [u8; 4], &'a [u8], &'a [u8]);

/// Name and body of the next chunk, and what follows it.
fn chunk(bytes: &[u8]) -> Result<Chunk<'_>, Fault> {
    let (length, named) = bytes.split_first_chunk::<4>().ok_or(Fault::Truncated)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Fault::Truncated)?;
    let (kind, after) = named.split_first_chunk::<4>().ok_or(Fault::Truncated)?;
    let (body, after) = after.split_at_checked(length).ok_or(Fault::Truncated)?;
    let (sum, after) = after.split_first_chunk::<4>().ok_or(Fault::Truncated)?;
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(body);
    if crc.sum() != u32::from_be_bytes(*sum) {
        return Err(BROKEN);
    }
    Ok((kind, body, after))
}

impl Header {
    fn read(body: &[u8]) -> Result<Self, Fault> {
        let &[w3, w2, w1, w0, h3, h2, h1, h0, depth, color, 0, 0, interlace] = body else {
            return Err(BROKEN);
        };
        let side = |bytes| usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX);
        let (width, height) = (side([w3, w2, w1, w0]), side([h3, h2, h1, h0]));
        let samples = match (color, depth) {
            (0, 1 | 2 | 4 | 8 | 16) | (3, 1 | 2 | 4 | 8) => 1,
            (4, 8 | 16) => 2,
            (2, 8 | 16) => 3,
            (6, 8 | 16) => 4,
            _ => return Err(BROKEN),
        };
        if width == 0 || height == 0 {
            return Err(Fault::NotAnImage("its header says that it has no pixels"));
        }
        // Two bytes to a value, and to a pixel of a palette its number and three values.
        let bytes = (width as u64).saturating_mul(height as u64).saturating_mul(8);
        if interlace > 1 {
            return Err(BROKEN);
        }
        if bytes > MAX_PIXEL_BYTES {
            return Err(Fault::TooLarge(Limit::Pixels(bytes)));
        }
        let (indexed, interlaced) = (color == 3, interlace == 1);
        Ok(Self { width, height, depth: depth.into(), samples, indexed, interlaced })
    }

    /// Columns and rows of each pass, and where its pixels go.
    fn passes(&self) -> Vec<(usize, usize, Pass)> {
        if !self.interlaced {
            return vec![(self.width, self.height, (0, 0, 1, 1))];
        }
        let sides = PASSES.iter().map(|pass| {
            let columns = self.width.saturating_sub(pass.0).div_ceil(pass.2);
            let rows = self.height.saturating_sub(pass.1).div_ceil(pass.3);
            (columns, rows, *pass)
        });
        sides.filter(|(columns, rows, _)| *columns > 0 && *rows > 0).collect()
    }

    fn line_bytes(&self, columns: usize) -> usize {
        (columns * self.samples * self.depth).div_ceil(8)
    }

    fn values(&self, packed: &[u8]) -> Result<Vec<u16>, Fault> {
        let passes = self.passes();
        let wanted =
            passes.iter().map(|(columns, rows, _)| rows * (1 + self.line_bytes(*columns))).sum();
        let mut lines = inflated(ZlibDecoder::new(packed), packed.len(), wanted)?;
        let mut values = vec![0; self.width * self.height * self.samples];
        let each = (self.samples * self.depth).div_ceil(8);
        let mut rest = lines.as_mut_slice();
        for (columns, rows, (x, y, across, down)) in passes {
            let size = self.line_bytes(columns);
            let mut above = vec![0; size];
            for row in 0..rows {
                let (line, after) = rest.split_at_mut(1 + size);
                rest = after;
                let (filter, line) = line.split_first_mut().ok_or(BROKEN)?;
                unfiltered(*filter, line, &above, each)?;
                above.copy_from_slice(line);
                let start = (y + row * down) * self.width + x;
                for place in 0..columns * self.samples {
                    let (column, sample) = (place / self.samples, place % self.samples);
                    values[(start + column * across) * self.samples + sample] =
                        self.value(line, place);
                }
            }
        }
        Ok(values)
    }

    /// A value of a row; the first is in the highest bits.
    fn value(&self, line: &[u8], place: usize) -> u16 {
        match self.depth {
            16 => u16::from_be_bytes([line[2 * place], line[2 * place + 1]]),
            8 => line[place].into(),
            depth => {
                let each = 8 / depth;
                let shift = 8 - depth * (place % each + 1);
                (u16::from(line[place / each]) >> shift) & ((1 << depth) - 1)
            }
        }
    }
}

/// Undoes one row's filter: what was subtracted from each byte is added again.
fn unfiltered(filter: u8, line: &mut [u8], above: &[u8], each: usize) -> Result<(), Fault> {
    match filter {
        0 => {}
        1 => {
            for place in each..line.len() {
                line[place] = line[place].wrapping_add(line[place - each]);
            }
        }
        2 => {
            for (byte, above) in line.iter_mut().zip(above) {
                *byte = byte.wrapping_add(*above);
            }
        }
        3 => {
            for place in 0..line.len() {
                let left = if place < each { 0 } else { line[place - each] };
                line[place] = line[place].wrapping_add(left.midpoint(above[place]));
            }
        }
        4 => {
            for place in 0..line.len() {
                let (left, corner) =
                    if place < each { (0, 0) } else { (line[place - each], above[place - each]) };
                line[place] = line[place].wrapping_add(nearest(left, above[place], corner));
            }
        }
        _ => return Err(BROKEN),
    }
    Ok(())
}

/// Paeth's choice: whichever neighbour is nearest to left + above - corner.
fn nearest(left: u8, above: u8, corner: u8) -> u8 {
    let [a, b, c] = [left, above, corner].map(i16::from);
    let guess = a + b - c;
    let [to_a, to_b, to_c] = [a, b, c].map(|value| (guess - value).abs());
    if to_a <= to_b && to_a <= to_c {
        left
    } else if to_b <= to_c {
        above
    } else {
        corner
    }
}
