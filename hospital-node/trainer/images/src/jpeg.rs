//! JPEG (ITU-T T.81) with Huffman codes: sequential and progressive at 8 and 12 bits, and lossless at
//! up to 16. Values come out as the codestream has them, before any change of colours.
//!
//! A decoder of our own: the crates for photographs stop at 8 bits, and radiographs have 12. The
//! inverse transform is the integer one of the reference implementation, so that 8-bit images come
//! out equal to what most other readers give.

mod bits;
mod dct;
mod huffman;
mod lossless;
mod scan;

use bits::Bits;
use huffman::Table;

use crate::Fault;

/// The fewest bits of a codestream to a block of 64 samples make this many samples of one byte,
/// with chroma at a quarter of the resolution.
const MAX_VALUES_PER_BYTE: usize = 2048;

/// Scans of one codestream: each goes over all blocks, however few bytes it has. Writers make ten.
const MAX_SCANS: u32 = 100;

/// Values that all scans of one codestream go over: sixteen times those of the largest.
const MAX_SCANNED: usize = 1 << 32;

/// A decoded image.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) components: usize,
    /// Bits that a value has.
    pub(crate) precision: u32,
    /// Row, column, component.
    pub(crate) values: Vec<u16>,
    /// Whether the values are those that were encoded.
    pub(crate) lossless: bool,
    /// Whether three components are luma and chroma, as far as the codestream says, asked in the
    /// order of the reference implementation: JFIF, the Adobe segment, the letters R, G and B.
    pub(crate) transformed: Option<bool>,
}

/// What a frame header says.
#[derive(Debug)]
struct Frame {
    width: usize,
    height: usize,
    precision: u32,
    kind: Kind,
    components: Vec<Component>,
    /// The largest sampling factors, across and down.
    most: (usize, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sequential,
    Progressive,
    Lossless,
}

#[derive(Debug)]
struct Component {
    id: u8,
    /// Sampling factors, across and down.
    factors: (usize, usize),
    quantisation: usize,
    /// Samples of this component, across and down.
    size: (usize, usize),
    /// Blocks that are stored, across and down: whole MCUs.
    blocks: (usize, usize),
    coefficients: Vec<i16>,
}

/// What a scan header says: components by place, with their tables.
struct Scan {
    components: Vec<(usize, usize, usize)>,
    /// First and last coefficient; the first is the predictor in a lossless scan.
    band: (usize, usize),
    /// High and low bit of successive approximation; the low is the point transform.
    high: u32,
    low: u32,
}

pub(crate) const BROKEN: Fault = Fault::Unreadable("its JPEG codestream is broken");

/// Decodes a codestream of at most so many values; what more are is for the caller to say, who is given
/// their number.
pub(crate) fn decode(
    bytes: &[u8],
    most_values: usize,
    beyond: fn(usize) -> Fault,
) -> Result<Decoded, Fault> {
    let mut decoder = Decoder::new(bytes, most_values, beyond);
    decoder.segments()?;
    decoder.finish()
}

struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    most_values: usize,
    beyond: fn(usize) -> Fault,
    frame: Option<Frame>,
    quantisation: [Option<[u16; 64]>; 4],
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    restart: usize,
    lossless: Vec<u16>,
    scans: u32,
    adobe: Option<u8>,
    jfif: bool,
}

impl<'a> Decoder<'a> {
    fn new(bytes: &'a [u8], most_values: usize, beyond: fn(usize) -> Fault) -> Self {
        Self {
            bytes,
            at: 0,
            most_values,
            beyond,
            frame: None,
            quantisation: [None; 4],
            dc: [const { None }; 4],
            ac: [const { None }; 4],
            restart: 0,
            lossless: Vec::new(),
            scans: 0,
            adobe: None,
            jfif: false,
        }
    }

    fn segments(&mut self) -> Result<(), Fault> {
        if !self.bytes.starts_with(&[0xff, 0xd8]) {
            return Err(Fault::Unreadable("expected a JPEG codestream, found something else"));
        }
        self.at = 2;
        loop {
            let Some(marker) = self.marker() else {
                // The end may be missing when the picture is whole.
                return if self.scans > 0 { Ok(()) } else { Err(Fault::Truncated) };
            };
            match marker {
                0xd9 => return Ok(()),
                0x01 | 0xd0..=0xd8 => {}
                _ => {
                    let segment = self.segment()?;
                    self.one(marker, segment)?;
                }
            }
        }
    }

    /// The next marker, past whatever is between.
    fn marker(&mut self) -> Option<u8> {
        loop {
            let found = self.bytes.get(self.at..)?.iter().position(|byte| *byte == 0xff)?;
            self.at += found + 1;
            while *self.bytes.get(self.at)? == 0xff {
                self.at += 1;
            }
            let marker = self.bytes[self.at];
            self.at += 1;
            if marker != 0 {
                return Some(marker);
            }
        }
    }

    fn segment(&mut self) -> Result<&'a [u8], Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let (length, _) = rest.split_first_chunk::<2>().ok_or(Fault::Truncated)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let segment = rest.get(2..length.max(2)).ok_or(Fault::Truncated)?;
        self.at += length.max(2);
        Ok(segment)
    }

    fn one(&mut self, marker: u8, segment: &[u8]) -> Result<(), Fault> {
        match marker {
            0xc0..=0xc2 => self.frame_of(
                if marker == 0xc2 { Kind::Progressive } else { Kind::Sequential },
                segment,
            ),
            0xc3 => self.frame_of(Kind::Lossless, segment),
            0xc4 => self.huffman(segment),
            0xc5..=0xc7 | 0xcd..=0xcf => Err(Fault::Unsupported("hierarchical JPEG")),
            0xc9..=0xcc => Err(Fault::Unsupported("JPEG with arithmetic codes")),
            0xdb => self.tables(segment),
            0xdd => {
                let interval = segment.first_chunk::<2>().ok_or(BROKEN)?;
                self.restart = u16::from_be_bytes(*interval).into();
                Ok(())
            }
            0xda => self.scan(segment),
            0xe0 => {
                self.jfif |= segment.starts_with(b"JFIF\0");
                Ok(())
            }
            0xee if segment.starts_with(b"Adobe") => {
                self.adobe = segment.get(11).copied();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn frame_of(&mut self, kind: Kind, segment: &[u8]) -> Result<(), Fault> {
        if self.frame.is_some() {
            return Err(BROKEN);
        }
        let (&[precision, h1, h0, w1, w0, count], rest) =
            segment.split_first_chunk::<6>().ok_or(BROKEN)?;
        let (height, width) =
            (usize::from(u16::from_be_bytes([h1, h0])), usize::from(u16::from_be_bytes([w1, w0])));
        let sound = match kind {
            Kind::Lossless => (2..=16).contains(&precision),
            Kind::Sequential | Kind::Progressive => matches!(precision, 8 | 12),
        };
        if !sound || width == 0 || height == 0 || !matches!(count, 1..=4) {
            return Err(BROKEN);
        }
        let mut said = Vec::new();
        for component in rest.chunks_exact(3).take(count.into()) {
            let &[id, factors, quantisation] = component else { return Err(BROKEN) };
            let factors = (usize::from(factors >> 4), usize::from(factors & 15));
            let in_range = |factor: usize| (1..=4).contains(&factor);
            if !in_range(factors.0) || !in_range(factors.1) || quantisation > 3 {
                return Err(BROKEN);
            }
            said.push((id, factors, usize::from(quantisation)));
        }
        if said.len() != usize::from(count) {
            return Err(BROKEN);
        }
        let values = width * height * said.len();
        if values > self.most_values {
            return Err((self.beyond)(values));
        }
        if values > self.bytes.len().saturating_mul(MAX_VALUES_PER_BYTE) {
            return Err(Fault::Truncated);
        }
        // One component alone has no neighbours to be sampled against.
        if let [(_, factors, _)] = said.as_mut_slice() {
            *factors = (1, 1);
        }
        let most = said
            .iter()
            .fold((1, 1), |most: (usize, usize), c| (most.0.max(c.1.0), most.1.max(c.1.1)));
        let mcus = (width.div_ceil(8 * most.0), height.div_ceil(8 * most.1));
        let components = said.into_iter().map(|(id, factors, quantisation)| {
            let blocks = (mcus.0 * factors.0, mcus.1 * factors.1);
            let size =
                ((width * factors.0).div_ceil(most.0), (height * factors.1).div_ceil(most.1));
            let stored = if kind == Kind::Lossless { 0 } else { 64 * blocks.0 * blocks.1 };
            let coefficients = vec![0; stored];
            Component { id, factors, quantisation, size, blocks, coefficients }
        });
        let components = components.collect();
        let precision = precision.into();
        self.frame = Some(Frame { width, height, precision, kind, components, most });
        Ok(())
    }

    fn tables(&mut self, mut segment: &[u8]) -> Result<(), Fault> {
        while let Some((&head, rest)) = segment.split_first() {
            let each = if head >> 4 == 0 { 1 } else { 2 };
            let values = rest.get(..64 * each).ok_or(BROKEN)?;
            let table = self.quantisation.get_mut(usize::from(head & 15)).ok_or(BROKEN)?;
            let mut natural = [0; 64];
            for (place, value) in dct::ZIGZAG.iter().zip(values.chunks_exact(each)) {
                natural[*place] = match value {
                    [one] => u16::from(*one),
                    [high, low] => u16::from_be_bytes([*high, *low]),
                    _ => 0,
                };
            }
            *table = Some(natural);
            segment = &rest[64 * each..];
        }
        Ok(())
    }

    fn huffman(&mut self, mut segment: &[u8]) -> Result<(), Fault> {
        while let Some((&head, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or(BROKEN)?;
            let all: usize = counts.iter().map(|count| usize::from(*count)).sum();
            let symbols = rest.get(..all).ok_or(BROKEN)?;
            let tables = if head >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            let table = tables.get_mut(usize::from(head & 15)).ok_or(BROKEN)?;
            *table = Some(Table::new(counts, symbols).ok_or(BROKEN)?);
            segment = &rest[all..];
        }
        Ok(())
    }

    fn scan(&mut self, segment: &[u8]) -> Result<(), Fault> {
        let frame = self.frame.as_mut().ok_or(BROKEN)?;
        let (&count, rest) = segment.split_first().ok_or(BROKEN)?;
        let count = usize::from(count);
        let (said, end) = rest.split_at_checked(2 * count).ok_or(BROKEN)?;
        let &[first, last, approximation] = end.first_chunk::<3>().ok_or(BROKEN)?;
        let values = frame.width * frame.height * frame.components.len();
        let scanned = usize::try_from(self.scans + 1).map_or(usize::MAX, |scans| scans * values);
        if !(1..=4).contains(&count) {
            return Err(BROKEN);
        }
        if self.scans == MAX_SCANS || scanned > MAX_SCANNED {
            return Err(Fault::Unsupported("JPEG in more scans than writers make"));
        }
        let mut components = Vec::new();
        for pair in said.chunks_exact(2) {
            let place = frame.components.iter().position(|c| c.id == pair[0]).ok_or(BROKEN)?;
            let tables = (usize::from(pair[1] >> 4), usize::from(pair[1] & 15));
            if tables.0 > 3 || tables.1 > 3 || components.iter().any(|(c, _, _)| *c == place) {
                return Err(BROKEN);
            }
            components.push((place, tables.0, tables.1));
        }
        let mut band = (usize::from(first), usize::from(last));
        if frame.kind == Kind::Sequential {
            // Some writers leave the last coefficient at 0, as in a lossless scan.
            band = (0, 63);
        }
        let (high, low) = (u32::from(approximation >> 4), u32::from(approximation & 15));
        let scan = Scan { components, band, high, low };
        let mut bits = Bits::new(self.bytes, self.at);
        match frame.kind {
            Kind::Lossless => {
                self.lossless = lossless::scan(frame, &scan, &self.dc, self.restart, &mut bits)?;
            }
            Kind::Sequential | Kind::Progressive => {
                scan::scan(frame, &scan, (&self.dc, &self.ac), self.restart, &mut bits)?;
            }
        }
        self.at = bits.end();
        self.scans += 1;
        Ok(())
    }

    fn finish(self) -> Result<Decoded, Fault> {
        let frame = self.frame.filter(|_| self.scans > 0).ok_or(Fault::Truncated)?;
        let values = match frame.kind {
            Kind::Lossless => self.lossless,
            Kind::Sequential | Kind::Progressive => dct::image(&frame, &self.quantisation)?,
        };
        let letters = frame.components.iter().map(|component| component.id).eq(*b"RGB");
        let transformed = match self.adobe {
            _ if self.jfif => Some(true),
            Some(transform) => Some(transform != 0),
            None if letters => Some(false),
            None => None,
        };
        let Frame { width, height, precision, components, kind, .. } = frame;
        let (components, lossless) = (components.len(), kind == Kind::Lossless);
        Ok(Decoded { width, height, components, precision, values, lossless, transformed })
    }
}

#[cfg(test)]
pub(crate) mod tests;
