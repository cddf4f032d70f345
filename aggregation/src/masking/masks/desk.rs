//! One tile of masks, added up before it goes over the lanes (PROTOCOL M-03).
//!
//! At the speed of the cipher, every byte that is moved besides counts. So sums are kept in the
//! width of the keystream and not of the lanes, and everything is plain loops over arrays that
//! compilers make vectors of: there is no code for one processor here, and nothing unsafe.

use std::array;

use zeroize::Zeroizing;

use crate::masking::group::{BLOCK, BLOCK_BYTES, Modulus, pack_block, unpack_block};
use crate::masking::keystream::{Mask, Sign, TILE_LANES};

/// Room for one tile, wiped in the end: the keystream of one mask, and the sum of those so far.
pub(super) struct Desk {
    keystream: Zeroizing<Vec<u8>>,
    sum: Sum,
}

/// The masks of a tile, added up.
pub(super) enum Sum {
    /// b = 16.
    Halves(Zeroizing<Vec<u16>>),
    /// b = 24: the low 16 bits of each lane, of which the uppermost is flipped, and its upper 8.
    /// Flipped, because then a comparison of signed numbers tells whether the low bits wrapped,
    /// and such comparisons are what every processor has for whole vectors of them.
    Blocks { low: Zeroizing<Vec<[i16; BLOCK]>>, high: Zeroizing<Vec<[u8; BLOCK]>> },
    /// b = 32.
    Words(Zeroizing<Vec<u32>>),
}

impl Desk {
    /// Room for a tile of these lanes, or of as many as a tile can have.
    pub(super) fn new(modulus: Modulus, lanes: usize) -> Self {
        let lanes = lanes.min(TILE_LANES);
        let sum = match modulus {
            Modulus::Bits16 => Sum::Halves(vec![0; lanes].into()),
            Modulus::Bits24 => {
                let blocks = lanes.div_ceil(BLOCK);
                let (low, high) = (vec![[0; BLOCK]; blocks], vec![[0; BLOCK]; blocks]);
                Sum::Blocks { low: low.into(), high: high.into() }
            }
            Modulus::Bits32 => Sum::Words(vec![0; lanes].into()),
        };
        Self { keystream: vec![0; sum.keystream_bytes(lanes)].into(), sum }
    }

    /// Adds up what the masks are in the first lanes of a tile. There is room for so many.
    pub(super) fn add_up(&mut self, masks: &[Mask], tile: u64, lanes: usize) -> &Sum {
        let Self { keystream, sum } = self;
        let keystream = &mut keystream[..sum.keystream_bytes(lanes)];
        sum.clear();
        for mask in masks {
            mask.expand(tile, keystream);
            sum.take_in(mask.sign(), keystream);
        }
        sum
    }
}

impl Sum {
    /// Bytes of keystream for the first lanes of a tile.
    const fn keystream_bytes(&self, lanes: usize) -> usize {
        match self {
            Self::Halves(_) => 2 * lanes,
            Self::Blocks { .. } => BLOCK_BYTES * lanes.div_ceil(BLOCK),
            Self::Words(_) => 4 * lanes,
        }
    }

    /// No mask at all.
    fn clear(&mut self) {
        match self {
            Self::Halves(sum) => sum.fill(0),
            Self::Blocks { low, high } => {
                low.fill([i16::MIN; BLOCK]);
                high.fill([0; BLOCK]);
            }
            Self::Words(sum) => sum.fill(0),
        }
    }

    /// One mask more.
    fn take_in(&mut self, sign: Sign, keystream: &[u8]) {
        match (self, sign) {
            (Self::Halves(sum), Sign::Add) => halves(sum, keystream, u16::wrapping_add),
            (Self::Halves(sum), Sign::Subtract) => halves(sum, keystream, u16::wrapping_sub),
            (Self::Blocks { low, high }, Sign::Add) => {
                let wrapped = |before, after| after < before;
                blocks(low, high, keystream, i16::wrapping_add, wrapped, u8::wrapping_add);
            }
            (Self::Blocks { low, high }, Sign::Subtract) => {
                let wrapped = |before, after| after > before;
                blocks(low, high, keystream, i16::wrapping_sub, wrapped, u8::wrapping_sub);
            }
            (Self::Words(sum), Sign::Add) => words(sum, keystream, u32::wrapping_add),
            (Self::Words(sum), Sign::Subtract) => words(sum, keystream, u32::wrapping_sub),
        }
    }

    /// Adds the masks to the lanes of the tile.
    pub(super) fn add_to(&self, lanes: &mut [u32]) {
        match self {
            Self::Halves(sum) => {
                for (lane, mask) in lanes.iter_mut().zip(sum.iter()) {
                    *lane = lane.wrapping_add(u32::from(*mask));
                }
            }
            Self::Blocks { low, high } => {
                let (blocks, rest) = lanes.as_chunks_mut::<BLOCK>();
                let mut masks = low.iter().zip(high.iter());
                for (lanes, (low, high)) in blocks.iter_mut().zip(&mut masks) {
                    add_block(lanes, low, high);
                }
                // A block that the sum ends in.
                if let Some((low, high)) = masks.next() {
                    add_block(rest, low, high);
                }
            }
            Self::Words(sum) => {
                for (lane, mask) in lanes.iter_mut().zip(sum.iter()) {
                    *lane = lane.wrapping_add(*mask);
                }
            }
        }
    }

    /// Adds the masks to the packed lanes of the tile.
    pub(super) fn add_to_packed(&self, packed: &mut [u8]) {
        match self {
            Self::Halves(sum) => {
                for (lane, mask) in packed.as_chunks_mut().0.iter_mut().zip(sum.iter()) {
                    *lane = u16::from_le_bytes(*lane).wrapping_add(*mask).to_le_bytes();
                }
            }
            Self::Blocks { low, high } => {
                let (blocks, rest) = packed.as_chunks_mut();
                let mut masks = low.iter().zip(high.iter());
                for (packed, (low, high)) in blocks.iter_mut().zip(&mut masks) {
                    let mut lanes = unpack_block(packed);
                    add_block(&mut lanes, low, high);
                    pack_block(&lanes, packed);
                }
                // A block that the update ends in.
                if let Some((low, high)) = masks.next() {
                    let mut padded = [0; BLOCK_BYTES];
                    padded[..rest.len()].copy_from_slice(rest);
                    let mut lanes = unpack_block(&padded);
                    add_block(&mut lanes, low, high);
                    pack_block(&lanes, &mut padded);
                    rest.copy_from_slice(&padded[..rest.len()]);
                }
            }
            Self::Words(sum) => {
                for (lane, mask) in packed.as_chunks_mut().0.iter_mut().zip(sum.iter()) {
                    *lane = u32::from_le_bytes(*lane).wrapping_add(*mask).to_le_bytes();
                }
            }
        }
    }
}

#[inline(always)]
fn halves(sum: &mut [u16], keystream: &[u8], step: impl Fn(u16, u16) -> u16) {
    for (sum, mask) in sum.iter_mut().zip(keystream.as_chunks().0) {
        *sum = step(*sum, u16::from_le_bytes(*mask));
    }
}

#[inline(always)]
fn words(sum: &mut [u32], keystream: &[u8], step: impl Fn(u32, u32) -> u32) {
    for (sum, mask) in sum.iter_mut().zip(keystream.as_chunks().0) {
        *sum = step(*sum, u32::from_le_bytes(*mask));
    }
}

/// `step` is for the low bits; where they wrapped it is one step more, `above`, for the upper ones.
#[inline(always)]
fn blocks(
    low: &mut [[i16; BLOCK]],
    high: &mut [[u8; BLOCK]],
    keystream: &[u8],
    step: impl Fn(i16, i16) -> i16,
    wrapped: impl Fn(i16, i16) -> bool,
    above: impl Fn(u8, u8) -> u8,
) {
    let keystream = keystream.as_chunks::<BLOCK_BYTES>().0;
    for ((low, high), keystream) in low.iter_mut().zip(high).zip(keystream) {
        // Whole arrays, by number: compilers make vectors of these, and not of what is zipped.
        let before = *low;
        *low = array::from_fn(|i| {
            step(before[i], i16::from_le_bytes([keystream[2 * i], keystream[2 * i + 1]]))
        });
        *high = array::from_fn(|i| {
            above(above(high[i], keystream[2 * BLOCK + i]), u8::from(wrapped(before[i], low[i])))
        });
    }
}

/// Adds a block's masks to its lanes, or to as many as there are.
#[inline(always)]
fn add_block(lanes: &mut [u32], low: &[i16; BLOCK], high: &[u8; BLOCK]) {
    for ((lane, low), high) in lanes.iter_mut().zip(low).zip(high) {
        let low = u32::from((low ^ i16::MIN).cast_unsigned());
        *lane = lane.wrapping_add(low | u32::from(*high) << 16);
    }
}
