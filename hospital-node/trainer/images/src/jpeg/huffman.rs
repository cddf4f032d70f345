//! Huffman codes (T.81 annex C): short ones by one look-up, long ones by comparison.

use super::BROKEN;
use super::bits::Bits;
use crate::Fault;

const FAST: u32 = 9;

pub(super) struct Table {
    /// By the next bits: length of the code and its symbol; 0 for longer codes.
    fast: Vec<(u8, u8)>,
    /// Per length: the first code beyond, aligned to 16 bits.
    beyond: [u32; 17],
    /// Per length: what is added to a code to get its symbol's place.
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    /// From the numbers of codes of each length; `None` when they are no code.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            fast: vec![(0, 0); 1 << FAST],
            beyond: [0; 17],
            offset: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut place) = (0_u32, 0_usize);
        for length in 1..=16_u32 {
            let count = usize::from(counts[length as usize - 1]);
            table.offset[length as usize] =
                i32::try_from(place).ok()? - i32::try_from(code).ok()?;
            for _ in 0..count {
                if code >= 1 << length {
                    return None;
                }
                if length <= FAST {
                    let first = (code << (FAST - length)) as usize;
                    let same = 1 << (FAST - length);
                    let entry = (u8::try_from(length).ok()?, symbols[place]);
                    table.fast[first..first + same].fill(entry);
                }
                code += 1;
                place += 1;
            }
            table.beyond[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }

    /// The next symbol.
    pub(super) fn symbol(&self, bits: &mut Bits<'_>) -> Result<u8, Fault> {
        let next = bits.peek(16);
        let (length, symbol) = self.fast[(next >> (16 - FAST)) as usize];
        if length > 0 {
            bits.skip(length.into())?;
            return Ok(symbol);
        }
        let length = (FAST + 1..=16).find(|length| next < self.beyond[*length as usize]);
        let length = length.ok_or(BROKEN)?;
        bits.skip(length)?;
        let code = i32::try_from(next >> (16 - length)).map_err(|_| BROKEN)?;
        usize::try_from(code + self.offset[length as usize])
            .ok()
            .and_then(|place| self.symbols.get(place))
            .copied()
            .ok_or(BROKEN)
    }
}
