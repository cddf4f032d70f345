//! Integers modulo 2^b, the group in which updates are added.
//!
//! A lane is a `u32` of which the low b bits count. Since 2^b divides 2^32, sums wrap freely in 32
//! bits and are cut to b bits once, at the end. Only the low b bits travel, little-endian.

use std::array;

/// The size of the group, in bits of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Modulus {
    /// Two bytes a lane.
    Bits16,
    /// Three bytes a lane.
    Bits24,
    /// Four bytes a lane.
    Bits32,
}

impl Modulus {
    /// From the smallest to the largest.
    pub const ALL: [Self; 3] = [Self::Bits16, Self::Bits24, Self::Bits32];

    /// b.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Bits16 => 16,
            Self::Bits24 => 24,
            Self::Bits32 => 32,
        }
    }

    /// Bytes that a lane takes on the wire.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bits16 => 2,
            Self::Bits24 => 3,
            Self::Bits32 => 4,
        }
    }

    /// The lane as a signed number: from -2^(b-1) to below 2^(b-1).
    #[must_use]
    pub const fn signed(self, lane: u32) -> i32 {
        let unused = 32 - self.bits();
        (lane << unused).cast_signed() >> unused
    }

    /// The lane as a number from 0 to below 2^b.
    #[must_use]
    pub const fn unsigned(self, lane: u32) -> u32 {
        let unused = 32 - self.bits();
        (lane << unused) >> unused
    }

    /// Appends the low b bits of each lane.
    pub fn pack(self, lanes: &[u32], packed: &mut Vec<u8>) {
        let before = packed.len();
        packed.resize(before + lanes.len() * self.bytes(), 0);
        let packed = &mut packed[before..];
        match self {
            Self::Bits16 => {
                for (place, lane) in packed.as_chunks_mut().0.iter_mut().zip(lanes) {
                    let [a, b, _, _] = lane.to_le_bytes();
                    *place = [a, b];
                }
            }
            Self::Bits24 => pack_24(lanes, packed),
            Self::Bits32 => {
                for (place, lane) in packed.as_chunks_mut().0.iter_mut().zip(lanes) {
                    *place = lane.to_le_bytes();
                }
            }
        }
    }

    /// Adds packed lanes to `sums`, modulo 2^b, exactly (PROTOCOL R-11): the one loop that a
    /// coordinator's speed rests on.
    /// The bits of a sum above b are meaningless until [`signed`](Self::signed) cuts them off,
    /// which spares the loop a mask.
    ///
    /// # Errors
    /// When the packed bytes are not exactly one lane for each sum; then nothing was added.
    pub fn add_packed(self, sums: &mut [u32], packed: &[u8]) -> Result<(), WrongLength> {
        let expected = sums.len() * self.bytes();
        if packed.len() != expected {
            return Err(WrongLength { expected, found: packed.len() });
        }
        match self {
            Self::Bits16 => {
                for (sum, [a, b]) in sums.iter_mut().zip(packed.as_chunks().0) {
                    *sum = sum.wrapping_add(u32::from_le_bytes([*a, *b, 0, 0]));
                }
            }
            Self::Bits24 => add_packed_24(sums, packed),
            Self::Bits32 => {
                for (sum, lane) in sums.iter_mut().zip(packed.as_chunks().0) {
                    *sum = sum.wrapping_add(u32::from_le_bytes(*lane));
                }
            }
        }
        Ok(())
    }
}

/// Lanes of three bytes are read and written so many at a time.
pub(super) const BLOCK: usize = 16;

/// Bytes of such a block.
pub(super) const BLOCK_BYTES: usize = 3 * BLOCK;

/// A block of lanes of three bytes, each read as one whole word at its own place. The byte too many
/// that a word brings along lands above bit 24, where it does not count. Taking words apart into
/// lanes instead was tried: it is three times slower, since compilers then shuffle bytes.
#[inline(always)]
pub(super) fn unpack_block(bytes: &[u8; BLOCK_BYTES]) -> [u32; BLOCK] {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    // The last word would reach past the block, so it starts a byte early.
    array::from_fn(|lane| if lane == BLOCK - 1 { word(44) >> 8 } else { word(3 * lane) })
}

/// The other way: each lane but the last is written as a whole word, whose upper byte the next one
/// overwrites.
#[inline(always)]
pub(super) fn pack_block(lanes: &[u32; BLOCK], bytes: &mut [u8; BLOCK_BYTES]) {
    let [others @ .., last] = lanes;
    for (at, lane) in (0..).step_by(3).zip(others) {
        bytes[at..at + 4].copy_from_slice(&lane.to_le_bytes());
    }
    bytes[BLOCK_BYTES - 3..].copy_from_slice(&last.to_le_bytes()[..3]);
}

fn add_packed_24(sums: &mut [u32], packed: &[u8]) {
    let (blocks, rest) = sums.as_chunks_mut::<BLOCK>();
    let (packed_blocks, tail) = packed.as_chunks::<BLOCK_BYTES>();
    for (sums, bytes) in blocks.iter_mut().zip(packed_blocks) {
        for (sum, lane) in sums.iter_mut().zip(unpack_block(bytes)) {
            *sum = sum.wrapping_add(lane);
        }
    }
    for (sum, [a, b, c]) in rest.iter_mut().zip(tail.as_chunks().0) {
        *sum = sum.wrapping_add(u32::from_le_bytes([*a, *b, *c, 0]));
    }
}

/// Writes as many lanes as there is room for.
fn pack_24(lanes: &[u32], packed: &mut [u8]) {
    let (blocks, rest) = lanes.as_chunks::<BLOCK>();
    let (packed_blocks, tail) = packed.as_chunks_mut::<BLOCK_BYTES>();
    for (lanes, bytes) in blocks.iter().zip(packed_blocks) {
        pack_block(lanes, bytes);
    }
    for (lane, bytes) in rest.iter().zip(tail.as_chunks_mut::<3>().0) {
        bytes.copy_from_slice(&lane.to_le_bytes()[..3]);
    }
}

/// Packed lanes of a length that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an update of this study has {expected} bytes; found {found}")]
pub struct WrongLength {
    /// The bytes that were expected.
    pub expected: usize,
    /// The bytes that were found.
    pub found: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearsal::Seeded;

    /// Lanes from a seed.
    fn lanes(seed: u8, length: usize) -> Vec<u32> {
        let mut seeded = Seeded::new(seed);
        (0..length).map(|_| seeded.word()).collect()
    }

    fn packed(modulus: Modulus, lanes: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        modulus.pack(lanes, &mut out);
        out
    }

    #[test]
    fn lanes_travel_little_endian() {
        let all: Vec<Vec<u8>> =
            Modulus::ALL.iter().map(|m| packed(*m, &[0x0403_0201, 0xffff_ffff])).collect();
        assert_eq!(all[0], [1, 2, 255, 255]);
        assert_eq!(all[1], [1, 2, 3, 255, 255, 255]);
        assert_eq!(all[2], [1, 2, 3, 4, 255, 255, 255, 255]);
    }

    /// Breaks R-11: the sum is exact for every modulus and length, against a sum in 128 bits.
    #[test]
    fn sums_are_exact_for_every_modulus_length_and_number_of_addends() {
        for modulus in Modulus::ALL {
            for length in (0..40).chain([257, 1_003]) {
                for addends in [1_u8, 2, 3, 7, 12] {
                    let mut sums = vec![0; length];
                    let mut exact = vec![0_i128; length];
                    for addend in 0..addends {
                        let lanes = lanes(addend, length);
                        modulus
                            .add_packed(&mut sums, &packed(modulus, &lanes))
                            .expect("the length is right");
                        for (sum, lane) in exact.iter_mut().zip(&lanes) {
                            *sum += i128::from(*lane);
                        }
                    }
                    let modulo = 1_i128 << modulus.bits();
                    for (sum, exact) in sums.iter().zip(&exact) {
                        let wanted = exact.rem_euclid(modulo);
                        assert_eq!(i128::from(modulus.unsigned(*sum)), wanted);
                        let signed = if wanted >= modulo / 2 { wanted - modulo } else { wanted };
                        assert_eq!(i128::from(modulus.signed(*sum)), signed);
                    }
                }
            }
        }
    }

    #[test]
    fn another_length_adds_nothing() {
        for modulus in Modulus::ALL {
            let whole = packed(modulus, &[1; 9]);
            let mut sums = vec![0; 9];
            for wrong in [&whole[1..], &[whole.as_slice(), &[0]].concat(), &[]] {
                let refused = modulus.add_packed(&mut sums, wrong);
                assert_eq!(refused, Err(WrongLength { expected: whole.len(), found: wrong.len() }));
                assert_eq!(sums, [0; 9]);
            }
        }
    }
}
