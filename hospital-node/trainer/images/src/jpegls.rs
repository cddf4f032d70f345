//! JPEG-LS (ITU-T T.87), lossless and near-lossless, components interleaved or not.
//!
//! A decoder of our own: there is no maintained one in Rust, and the usual one is a native library.

mod context;

use context::{Bits, Context, RUN_LENGTHS, RunContext, Terms};

use crate::Fault;

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
}

pub(crate) const BROKEN: Fault = Fault::Unreadable("its JPEG-LS codestream is broken");

/// Values of one codestream: far beyond any detector, and what a few bytes can claim of a blank one.
const MAX_VALUES: usize = 1 << 27;
const TOO_MANY: &str = "a frame of more than 128 million values in JPEG-LS";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Interleave {
    None,
    Line,
    Sample,
}

struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    most_values: usize,
    frame: Option<(usize, usize, u32, Vec<u8>)>,
    preset: Option<[u16; 5]>,
    values: Vec<u16>,
    done: Vec<bool>,
}

/// Decodes a codestream of at most so many values.
pub(crate) fn decode(bytes: &[u8], most_values: usize) -> Result<Decoded, Fault> {
    if !bytes.starts_with(&[0xff, 0xd8]) {
        return Err(Fault::Unreadable("expected a JPEG-LS codestream, found something else"));
    }
    let mut decoder = Decoder {
        bytes,
        at: 2,
        most_values,
        frame: None,
        preset: None,
        values: Vec::new(),
        done: Vec::new(),
    };
    while !decoder.whole() {
        decoder.segment()?;
    }
    let (width, height, precision, ids) = decoder.frame.ok_or(BROKEN)?;
    Ok(Decoded { width, height, components: ids.len(), precision, values: decoder.values })
}

impl Decoder<'_> {
    fn whole(&self) -> bool {
        !self.done.is_empty() && self.done.iter().all(|done| *done)
    }

    fn segment(&mut self) -> Result<(), Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let found = rest.iter().position(|byte| *byte == 0xff).ok_or(Fault::Truncated)?;
        let marker = *rest.get(found + 1).ok_or(Fault::Truncated)?;
        self.at += found + 2;
        match marker {
            0xff => {
                // A byte of filling; the next one may begin the marker.
                self.at -= 1;
                return Ok(());
            }
            0x00..=0x7f | 0xd8 => return Ok(()),
            0xd9 => return Err(Fault::Truncated),
            _ => {}
        }
        let rest = &rest[found + 2..];
        let (length, _) = rest.split_first_chunk::<2>().ok_or(Fault::Truncated)?;
        let length = usize::from(u16::from_be_bytes(*length)).max(2);
        let segment = rest.get(2..length).ok_or(Fault::Truncated)?;
        self.at += length;
        match marker {
            0xf7 => self.frame(segment),
            0xf8 => self.preset(segment),
            0xda => self.scan(segment),
            0xdd if segment.iter().any(|byte| *byte != 0) => {
                Err(Fault::Unsupported("JPEG-LS with restart markers"))
            }
            0xe8 if segment.starts_with(b"mrfx") && segment.get(4).is_some_and(|t| *t != 0) => {
                Err(Fault::Unsupported("JPEG-LS with a colour transform"))
            }
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcf => {
                Err(Fault::Unreadable("expected a JPEG-LS codestream, found another JPEG"))
            }
            _ => Ok(()),
        }
    }

    fn frame(&mut self, segment: &[u8]) -> Result<(), Fault> {
        let (&[precision, h1, h0, w1, w0, count], rest) =
            segment.split_first_chunk::<6>().ok_or(BROKEN)?;
        let height = usize::from(u16::from_be_bytes([h1, h0]));
        let width = usize::from(u16::from_be_bytes([w1, w0]));
        let sound = self.frame.is_none()
            && (2..=16).contains(&precision)
            && width > 0
            && height > 0
            && matches!(count, 1..=4);
        if !sound {
            return Err(BROKEN);
        }
        let ids: Vec<u8> =
            rest.chunks_exact(3).take(count.into()).map(|component| component[0]).collect();
        if ids.len() != usize::from(count)
            || rest.chunks_exact(3).take(count.into()).any(|component| component[1] != 0x11)
        {
            return Err(BROKEN);
        }
        let values = width * height * ids.len();
        if values > self.most_values {
            return Err(Fault::WrongShape("a codestream larger than its header says"));
        }
        if values > MAX_VALUES {
            return Err(Fault::Unsupported(TOO_MANY));
        }
        // The shortest code is that of a line like the one above it: one bit.
        if height > self.bytes.len().saturating_mul(8) {
            return Err(Fault::Truncated);
        }
        self.done = vec![false; ids.len()];
        self.frame = Some((width, height, precision.into(), ids));
        Ok(())
    }

    fn preset(&mut self, segment: &[u8]) -> Result<(), Fault> {
        let Some((&[1], rest)) = segment.split_first_chunk::<1>() else {
            return Err(Fault::Unsupported("JPEG-LS with mapping tables or oversized images"));
        };
        let words = rest.first_chunk::<10>().ok_or(BROKEN)?;
        let mut preset = [0; 5];
        for (value, word) in preset.iter_mut().zip(words.chunks_exact(2)) {
            *value = u16::from_be_bytes([word[0], word[1]]);
        }
        self.preset = Some(preset);
        Ok(())
    }

    fn scan(&mut self, segment: &[u8]) -> Result<(), Fault> {
        let (width, height, precision, ids) = self.frame.as_ref().ok_or(BROKEN)?;
        let (&count, rest) = segment.split_first().ok_or(BROKEN)?;
        let (said, end) = rest.split_at_checked(2 * usize::from(count)).ok_or(BROKEN)?;
        let &[near, interleave, transform] = end.first_chunk::<3>().ok_or(BROKEN)?;
        let interleave = match (interleave, count) {
            (0, 1) => Interleave::None,
            (1, _) => Interleave::Line,
            // One component cannot be interleaved with itself.
            (2, 1) => Interleave::None,
            (2, _) => Interleave::Sample,
            _ => return Err(BROKEN),
        };
        let mut places = Vec::new();
        for pair in said.chunks_exact(2) {
            let place = ids.iter().position(|id| *id == pair[0]).ok_or(BROKEN)?;
            // Each component has one scan; another would cost all of its time again.
            if self.done.get(place) != Some(&false) {
                return Err(BROKEN);
            }
            if places.contains(&place) || pair[1] != 0 {
                return Err(Fault::Unsupported("JPEG-LS with mapping tables or oversized images"));
            }
            places.push(place);
        }
        if places.is_empty() || transform != 0 {
            return Err(BROKEN);
        }
        let terms = Terms::new(*precision, near.into(), self.preset).ok_or(BROKEN)?;
        let (width, height, components) = (*width, *height, ids.len());
        let mut scan = Scan::new(terms, Bits::new(self.bytes, self.at));
        // Lines with a margin to the left and to the right; memory grows with what was decoded.
        let mut lines = vec![(vec![0; width + 2], vec![0; width + 2]); places.len()];
        let mut run_index = vec![0; places.len()];
        for row in 0..height {
            let needed = (row + 1) * width * components;
            if self.values.len() < needed {
                self.values.resize(needed, 0);
            }
            for (above, here) in &mut lines {
                std::mem::swap(above, here);
                above[width + 1] = above[width];
                here[0] = above[1];
            }
            if interleave == Interleave::Sample {
                scan.line_of_pixels(&mut lines, width, &mut run_index[0])?;
            } else {
                for ((above, here), index) in lines.iter_mut().zip(&mut run_index) {
                    scan.line(above, here, width, index)?;
                }
            }
            let line = &mut self.values[row * width * components..needed];
            for (place, (_, here)) in places.iter().zip(&lines) {
                for (pixel, value) in line.chunks_exact_mut(components).zip(&here[1..]) {
                    pixel[*place] = u16::try_from(*value).map_err(|_| BROKEN)?;
                }
            }
        }
        self.at = scan.bits.end();
        for place in places {
            self.done[place] = true;
        }
        Ok(())
    }
}

/// A scan's state, from one line to the next.
struct Scan<'a> {
    terms: Terms,
    bits: Bits<'a>,
    regular: Vec<Context>,
    runs: [RunContext; 2],
}

impl<'a> Scan<'a> {
    fn new(terms: Terms, bits: Bits<'a>) -> Self {
        Self {
            bits,
            regular: vec![Context::new(&terms); 365],
            runs: [RunContext::new(&terms), RunContext::new(&terms)],
            terms,
        }
    }

    fn line(
        &mut self,
        above: &[i32],
        here: &mut [i32],
        width: usize,
        run_index: &mut usize,
    ) -> Result<(), Fault> {
        let mut x = 1;
        while x <= width {
            let (a, b, c, d) = (here[x - 1], above[x], above[x - 1], above[x + 1]);
            let place = self.terms.context(d - b, b - c, c - a);
            if place != 0 {
                here[x] =
                    self.terms.regular(&mut self.regular, place, (a, b, c), &mut self.bits)?;
                x += 1;
                continue;
            }
            let run = self.run(width + 1 - x, run_index)?;
            here[x..x + run].fill(a);
            x += run;
            if x > width {
                break;
            }
            let b = above[x];
            let alike = (a - b).abs() <= self.terms.near;
            let length = RUN_LENGTHS[*run_index];
            let run = &mut self.runs[usize::from(alike)];
            let error = run.error(&self.terms, alike, length, &mut self.bits)?;
            here[x] = if alike {
                self.terms.rebuilt(a, error)
            } else {
                self.terms.rebuilt(b, if a > b { -error } else { error })
            };
            *run_index = run_index.saturating_sub(1);
            x += 1;
        }
        Ok(())
    }

    /// A line whose components come pixel by pixel; they run together or not at all.
    fn line_of_pixels(
        &mut self,
        lines: &mut [(Vec<i32>, Vec<i32>)],
        width: usize,
        run_index: &mut usize,
    ) -> Result<(), Fault> {
        let mut x = 1;
        while x <= width {
            let mut places = [0; 4];
            for (place, (above, here)) in places.iter_mut().zip(lines.iter()) {
                let (a, b, c, d) = (here[x - 1], above[x], above[x - 1], above[x + 1]);
                *place = self.terms.context(d - b, b - c, c - a);
            }
            if places.iter().any(|place| *place != 0) {
                for (place, (above, here)) in places.iter().zip(lines.iter_mut()) {
                    let around = (here[x - 1], above[x], above[x - 1]);
                    here[x] =
                        self.terms.regular(&mut self.regular, *place, around, &mut self.bits)?;
                }
                x += 1;
                continue;
            }
            let run = self.run(width + 1 - x, run_index)?;
            for (_, here) in lines.iter_mut() {
                let value = here[x - 1];
                here[x..x + run].fill(value);
            }
            x += run;
            if x > width {
                break;
            }
            let length = RUN_LENGTHS[*run_index];
            for (above, here) in lines.iter_mut() {
                let (a, b) = (here[x - 1], above[x]);
                let error = self.runs[0].error(&self.terms, false, length, &mut self.bits)?;
                here[x] = self.terms.rebuilt(b, if a > b { -error } else { error });
            }
            *run_index = run_index.saturating_sub(1);
            x += 1;
        }
        Ok(())
    }

    /// How many samples repeat their left neighbour; all of `left` when the line ends so.
    fn run(&mut self, left: usize, run_index: &mut usize) -> Result<usize, Fault> {
        let mut run = 0;
        loop {
            let length = 1 << RUN_LENGTHS[*run_index];
            if self.bits.take(1)? == 0 {
                break;
            }
            if run + length > left {
                return Ok(left);
            }
            run += length;
            if *run_index < 31 {
                *run_index += 1;
            }
            if run == left {
                return Ok(left);
            }
        }
        let rest = self.bits.take(RUN_LENGTHS[*run_index])?;
        run += usize::try_from(rest).map_err(|_| BROKEN)?;
        // An interrupting sample must still fit in.
        if run < left { Ok(run) } else { Err(BROKEN) }
    }
}

#[cfg(test)]
pub(crate) mod tests;
