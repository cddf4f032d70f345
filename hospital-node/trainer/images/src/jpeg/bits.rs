//! Entropy-coded bits, without the zero bytes that follow each 0xFF.

use super::BROKEN;
use crate::Fault;

pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    held: u64,
    count: u32,
    /// Bits beyond the end of the data that look-ahead has made up.
    beyond: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, held: 0, count: 0, beyond: 0 }
    }

    /// Where the next marker is looked for.
    pub(super) fn end(&self) -> usize {
        self.at
    }

    fn fill(&mut self) {
        while self.count <= 48 {
            let byte = match (self.bytes.get(self.at), self.bytes.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 2;
                    0xff
                }
                (Some(0xff), _) | (None, _) => {
                    self.beyond += 8;
                    0
                }
                (Some(byte), _) => {
                    self.at += 1;
                    *byte
                }
            };
            self.held = (self.held << 8) | u64::from(byte);
            self.count += 8;
        }
    }

    /// The next bits, at most 16, without taking them.
    pub(super) fn peek(&mut self, bits: u32) -> u32 {
        if self.count < bits {
            self.fill();
        }
        let word = self.held >> (self.count - bits);
        u32::try_from(word & ((1 << bits) - 1)).unwrap_or_default()
    }

    /// Takes bits that were looked at.
    pub(super) fn skip(&mut self, bits: u32) -> Result<(), Fault> {
        self.count -= bits;
        if self.count < self.beyond { Err(Fault::Truncated) } else { Ok(()) }
    }

    /// The next bits, at most 16.
    pub(super) fn take(&mut self, bits: u32) -> Result<u32, Fault> {
        if bits == 0 {
            return Ok(0);
        }
        let word = self.peek(bits);
        self.skip(bits)?;
        Ok(word)
    }

    /// A number of so many bits, whose first bit says that it is not negative (F.2.2.1).
    pub(super) fn signed(&mut self, bits: u32) -> Result<i32, Fault> {
        let word = i32::try_from(self.take(bits)?).map_err(|_| BROKEN)?;
        Ok(if bits > 0 && word < 1 << (bits - 1) { word - (1 << bits) + 1 } else { word })
    }

    /// Goes past a restart marker.
    pub(super) fn restart(&mut self) -> Result<(), Fault> {
        (self.held, self.count, self.beyond) = (0, 0, 0);
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let found = rest
            .windows(2)
            .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff))
            .ok_or(Fault::Truncated)?;
        if !(0xd0..=0xd7).contains(&rest[found + 1]) {
            return Err(Fault::Truncated);
        }
        self.at += found + 2;
        Ok(())
    }
}
