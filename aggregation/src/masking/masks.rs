//! Masks that are applied together: what a hospital puts on its update, and what the coordinator
//! takes out of the sum (PROTOCOL M-03, M-04).
//!
//! Lane l of a tile takes b bits of the tile's keystream, little-endian: bytes 2 l and 2 l + 1 where
//! b is 16, and 4 l to 4 l + 3 where b is 32. Where b is 24, each sixteen lanes take 48 bytes, lane
//! i of them bytes 2 i and 2 i + 1 as its low 16 bits and byte 32 + i as its upper 8: processors
//! add such halves many at a time, but not numbers of three bytes. Every bit counts in one lane, so
//! lanes are uniform below 2^b, and none is made for nothing: the cipher is what is waited for.
//!
//! Both ends go tile by tile: first the tile's masks are added up, in a buffer that stays in the
//! innermost cache, then their sum goes over the lanes once. So lanes come from memory once,
//! however many masks they take.
//!
//! A tile can be masked without those before it. [`Tiles`] cuts a sum for as many threads as there
//! are; this crate starts none. [`Pass`] takes an update chunk by chunk, so that a hospital never
//! needs to hold it whole. Neither lets a caller say which tile it has before it: one that is taken
//! for another would be masked with numbers that another has already.

mod desk;

use std::fmt;
use std::num::NonZeroUsize;

use crate::masking::group::Modulus;
use crate::masking::keystream::{Mask, TILE_LANES};
use desk::Desk;

/// Masks that are applied together. Holds key schedules that cannot be wiped: drop it early.
pub struct Masks {
    modulus: Modulus,
    masks: Vec<Mask>,
}

impl Masks {
    /// These masks, for lanes of this width. No mask at all changes nothing.
    #[must_use]
    pub fn new(modulus: Modulus, masks: impl IntoIterator<Item = Mask>) -> Self {
        Self { modulus, masks: masks.into_iter().collect() }
    }

    /// Applies them to a sum, or to a part of one. The bits of a lane above b are meaningless
    /// afterwards, as they are in every sum.
    pub fn apply(&self, part: Tiles<'_>) {
        let mut desk = Desk::new(self.modulus, part.lanes.len());
        for (tile, lanes) in (part.first..).zip(part.lanes.chunks_mut(TILE_LANES)) {
            desk.add_up(&self.masks, tile, lanes.len()).add_to(lanes);
        }
    }

    /// Begins to mask an update of so many lanes, in its packed form and in its place.
    #[must_use]
    pub const fn pass(&self, lanes: usize) -> Pass<'_> {
        Pass { masks: self, tile: 0, left: lanes * self.modulus.bytes() }
    }

    /// Bytes of a packed tile.
    const fn tile_bytes(&self) -> usize {
        TILE_LANES * self.modulus.bytes()
    }
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Masks({:?}, {})", self.modulus, self.masks.len())
    }
}

/// A sum, or a part of one that begins with a tile of its own: what one thread can work on.
pub struct Tiles<'a> {
    /// In 64 bits they cannot run out.
    first: u64,
    lanes: &'a mut [u32],
}

impl<'a> Tiles<'a> {
    /// All lanes of a sum.
    #[must_use]
    pub const fn new(lanes: &'a mut [u32]) -> Self {
        Self { first: 0, lanes }
    }

    /// The same lanes in at most so many parts of one size, but for the last, which may be smaller.
    #[must_use]
    pub fn split(self, parts: NonZeroUsize) -> Vec<Self> {
        let each = self.lanes.len().div_ceil(TILE_LANES).div_ceil(parts.get()).max(1);
        let firsts = (self.first..).step_by(each);
        let parts = self.lanes.chunks_mut(each * TILE_LANES);
        firsts.zip(parts).map(|(first, lanes)| Tiles { first, lanes }).collect()
    }
}

/// A sum is nobody's to print, masked or not.
impl fmt::Debug for Tiles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tiles(from {}, {} lanes)", self.first, self.lanes.len())
    }
}

/// The masking of one update, from its first chunk to its last.
#[derive(Debug)]
pub struct Pass<'a> {
    masks: &'a Masks,
    tile: u64,
    /// Bytes.
    left: usize,
}

/// A chunk that would leave a tile half masked, or reach past the update.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a chunk of an update has a multiple of {tile} bytes, or the {left} that are left; found {found}"
)]
pub struct WrongChunk {
    /// Bytes of a tile.
    pub tile: usize,
    /// Bytes of the update that are not masked yet.
    pub left: usize,
    /// The bytes found.
    pub found: usize,
}

impl WrongChunk {
    /// The rule that was broken.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        "M-04"
    }
}

impl Pass<'_> {
    /// Masks the next chunk: any number of whole tiles, or all that is left.
    ///
    /// # Errors
    /// When it is neither; then nothing was changed, and the same chunk is still the next.
    pub fn mask(&mut self, packed: &mut [u8]) -> Result<(), WrongChunk> {
        let Masks { modulus, masks } = self.masks;
        let tile = self.masks.tile_bytes();
        let found = packed.len();
        if found > self.left || (found < self.left && !found.is_multiple_of(tile)) {
            return Err(WrongChunk { tile, left: self.left, found });
        }
        let mut desk = Desk::new(*modulus, found / modulus.bytes());
        for packed in packed.chunks_mut(tile) {
            desk.add_up(masks, self.tile, packed.len() / modulus.bytes()).add_to_packed(packed);
            self.tile += 1;
        }
        self.left -= found;
        Ok(())
    }

    /// Bytes of a tile.
    #[must_use]
    pub const fn tile_bytes(&self) -> usize {
        self.masks.tile_bytes()
    }

    /// Bytes of the update that are not masked yet.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::masking::keystream::{MaskKey, Sign};
    use crate::rehearsal::Seeded;
    use crate::secret::{Secret, unhex, unhex_array};

    const VECTORS: &str = include_str!("../../../tests/vectors/lanes.txt");

    fn mask(byte: u8, sign: Sign) -> Mask {
        Mask::new(&MaskKey::new(Secret::new([byte; 32])), sign)
    }

    fn three(modulus: Modulus) -> Masks {
        let masks = [mask(1, Sign::Add), mask(2, Sign::Subtract), mask(3, Sign::Subtract)];
        Masks::new(modulus, masks)
    }

    /// What a mask is in lanes from a tile on, by the definition, one lane after the other.
    fn defined(mask: &Mask, modulus: Modulus, first: u64, lanes: usize) -> Vec<u32> {
        let mut keystream = vec![0; TILE_LANES * modulus.bytes()];
        let mut defined = Vec::new();
        for tile in first.. {
            if defined.len() >= lanes {
                break;
            }
            mask.expand(tile, &mut keystream);
            for lane in 0..TILE_LANES {
                let (block, i) = (48 * (lane / 16), lane % 16);
                let places: &[usize] = match modulus {
                    Modulus::Bits16 => &[2 * lane, 2 * lane + 1],
                    Modulus::Bits24 => &[block + 2 * i, block + 2 * i + 1, block + 32 + i],
                    Modulus::Bits32 => &[4 * lane, 4 * lane + 1, 4 * lane + 2, 4 * lane + 3],
                };
                let number =
                    places.iter().rev().fold(0, |n, at| n << 8 | u32::from(keystream[*at]));
                defined.push(number);
            }
        }
        defined.truncate(lanes);
        defined
    }

    fn cut(modulus: Modulus, lanes: &[u32]) -> Vec<u32> {
        lanes.iter().map(|lane| modulus.unsigned(*lane)).collect()
    }

    fn packed(modulus: Modulus, lanes: &[u32]) -> Vec<u8> {
        let mut packed = Vec::new();
        modulus.pack(lanes, &mut packed);
        packed
    }

    fn parts(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).expect("not 0")
    }

    /// M-03, against another implementation: see the head of the file.
    #[test]
    fn lanes_are_those_of_another_implementation() {
        let mut cases = 0;
        for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [key, first, bits, begin, digest] = fields[..].try_into().expect("five fields");
            let modulus = Modulus::ALL.into_iter().find(|m| m.bits().to_string() == bits);
            let modulus = modulus.expect("16, 24 or 32");
            let key = MaskKey::new(Secret::new(unhex_array(key)));
            let masks = Masks::new(modulus, [Mask::new(&key, Sign::Add)]);
            let mut lanes = vec![0; TILE_LANES + 37];
            let first = first.parse().expect("a tile's number");
            masks.apply(Tiles { first, lanes: &mut lanes });
            let bytes: Vec<u8> =
                cut(modulus, &lanes).iter().flat_map(|lane| lane.to_le_bytes()).collect();
            assert_eq!(bytes[..80], unhex(begin), "{modulus:?}");
            assert_eq!(Digest::sha256(&bytes).to_string(), digest, "{modulus:?}");
            cases += 1;
        }
        assert_eq!(cases, 12);
    }

    /// M-03: for every width, both signs together, and lengths around blocks and tiles; in lanes
    /// and packed.
    #[test]
    fn masks_are_applied_as_they_are_defined() {
        let lengths = (0..70).chain([TILE_LANES - 1, TILE_LANES, TILE_LANES + 1]);
        for length in lengths.chain([3 * TILE_LANES + 5, 2 * TILE_LANES + 16]) {
            for modulus in Modulus::ALL {
                let mut seeded = Seeded::new(9);
                let start: Vec<u32> = (0..length).map(|_| seeded.word()).collect();
                let masks = three(modulus);
                let mut wanted = start.clone();
                for mask in &masks.masks {
                    let lanes = defined(mask, modulus, 0, length);
                    for (wanted, lane) in wanted.iter_mut().zip(lanes) {
                        *wanted = match mask.sign() {
                            Sign::Add => wanted.wrapping_add(lane),
                            Sign::Subtract => wanted.wrapping_sub(lane),
                        };
                    }
                }
                let mut lanes = start.clone();
                masks.apply(Tiles::new(&mut lanes));
                assert_eq!(cut(modulus, &lanes), cut(modulus, &wanted), "{modulus:?} {length}");

                let mut update = packed(modulus, &start);
                let mut pass = masks.pass(length);
                assert_eq!(pass.mask(&mut update), Ok(()));
                assert_eq!(pass.left(), 0);
                assert_eq!(update, packed(modulus, &wanted), "{modulus:?} {length}");
            }
        }
    }

    /// M-03: what was added comes out again, and no mask changes nothing, wherever sums wrap.
    #[test]
    fn a_mask_that_is_taken_away_leaves_what_was_there() {
        for modulus in Modulus::ALL {
            let mut seeded = Seeded::new(4);
            let start: Vec<u32> = (0..2 * TILE_LANES + 7).map(|_| seeded.word()).collect();
            let mut lanes = start.clone();
            Masks::new(modulus, []).apply(Tiles::new(&mut lanes));
            assert_eq!(lanes, start);
            let masked = [mask(1, Sign::Add), mask(2, Sign::Subtract), mask(5, Sign::Add)];
            Masks::new(modulus, masked).apply(Tiles::new(&mut lanes));
            assert_ne!(cut(modulus, &lanes), cut(modulus, &start));
            let removed = [mask(5, Sign::Subtract), mask(1, Sign::Subtract), mask(2, Sign::Add)];
            Masks::new(modulus, removed).apply(Tiles::new(&mut lanes));
            assert_eq!(cut(modulus, &lanes), cut(modulus, &start));
        }
    }

    /// M-03: masks fill the whole group. Of 2^16 values, 2^21 lanes miss one less than once in 10^8
    /// keys; of wider lanes the lower and the upper 16 bits are looked at.
    #[test]
    fn the_greatest_value_occurs_and_every_other() {
        for modulus in Modulus::ALL {
            let mut lanes = vec![0; 1 << 21];
            Masks::new(modulus, [mask(3, Sign::Add)]).apply(Tiles::new(&mut lanes));
            for shift in [0, modulus.bits() - 16] {
                let mut seen = vec![false; 1 << 16];
                for lane in &lanes {
                    let part = modulus.unsigned(*lane) >> shift & 0xffff;
                    seen[usize::try_from(part).expect("16 bits")] = true;
                }
                assert_eq!(seen.iter().position(|seen| !seen), None, "{modulus:?} {shift}");
            }
        }
    }

    /// M-02: any number of parts, in any order, gives the same lanes as the whole.
    #[test]
    fn a_sum_can_be_split_for_any_number_of_threads() {
        for modulus in Modulus::ALL {
            let masks = three(modulus);
            for length in [0, 1, TILE_LANES, TILE_LANES + 1, 9 * TILE_LANES, 10 * TILE_LANES - 3] {
                let start: Vec<u32> = (0..).step_by(77).take(length).collect();
                let mut whole = start.clone();
                masks.apply(Tiles::new(&mut whole));
                for number in (1..=12).chain([100]) {
                    let mut lanes = start.clone();
                    let split = Tiles::new(&mut lanes).split(parts(number));
                    assert!(split.len() <= number, "{number} parts became {}", split.len());
                    assert!(split.iter().all(|part| !part.lanes.is_empty()));
                    split.into_iter().rev().for_each(|part| masks.apply(part));
                    assert_eq!(lanes, whole, "{modulus:?}, {length} lanes in {number} parts");
                }
                // Parts of parts.
                let mut lanes = start.clone();
                for part in Tiles::new(&mut lanes).split(parts(3)) {
                    part.split(parts(2)).into_iter().for_each(|part| masks.apply(part));
                }
                assert_eq!(lanes, whole, "{modulus:?}, {length} lanes");
            }
        }
        fn shared<T: Sync>(_: &T) {}
        shared(&three(Modulus::Bits16));
    }

    /// M-04: any chunks of whole tiles give the same bytes as the whole.
    #[test]
    fn an_update_can_be_masked_chunk_by_chunk() {
        for modulus in Modulus::ALL {
            let masks = three(modulus);
            for length in [0, 5, TILE_LANES, 7 * TILE_LANES + 21] {
                let start: Vec<u32> = (0..).step_by(77).take(length).collect();
                let mut whole = packed(modulus, &start);
                assert_eq!(masks.pass(length).mask(&mut whole), Ok(()));
                for tiles in 1..=8 {
                    let mut update = packed(modulus, &start);
                    let mut pass = masks.pass(length);
                    let chunk = tiles * pass.tile_bytes();
                    for chunk in update.chunks_mut(chunk) {
                        assert_eq!(pass.mask(&mut []), Ok(()), "nothing is a chunk too");
                        assert_eq!(pass.mask(chunk), Ok(()));
                    }
                    assert_eq!(pass.left(), 0);
                    assert_eq!(update, whole, "{modulus:?}, {length} lanes by {tiles} tiles");
                }
            }
        }
    }

    /// M-04
    #[test]
    fn a_chunk_of_another_length_is_refused_and_changes_nothing() {
        for modulus in Modulus::ALL {
            let masks = three(modulus);
            let lanes = 2 * TILE_LANES + 100;
            let (tile, all) = (TILE_LANES * modulus.bytes(), lanes * modulus.bytes());
            let mut pass = masks.pass(lanes);
            let refused = |pass: &mut Pass<'_>, found: usize, left: usize| {
                let mut chunk = vec![9; found];
                let why = WrongChunk { tile, left, found };
                assert_eq!(why.rule(), "M-04");
                assert_eq!(pass.mask(&mut chunk), Err(why));
                assert!(chunk.iter().all(|byte| *byte == 9));
                assert_eq!(pass.left(), left);
            };
            for found in [1, tile - 1, tile + 1, all - 1, all + 1, 3 * tile] {
                refused(&mut pass, found, all);
            }
            let mut update = vec![9; all];
            let (first, rest) = update.split_at_mut(tile);
            assert_eq!(pass.mask(first), Ok(()));
            for found in [1, rest.len() - 1, rest.len() + 1, all, 2 * tile] {
                refused(&mut pass, found, all - tile);
            }
            assert_eq!(pass.mask(rest), Ok(()));
            for found in [1, tile] {
                refused(&mut pass, found, 0);
            }
            let mut whole = vec![9; all];
            assert_eq!(masks.pass(lanes).mask(&mut whole), Ok(()));
            assert_eq!(update, whole, "refusals left no trace");
        }
    }

    #[test]
    fn masks_and_sums_show_their_number_and_nothing_else() {
        assert_eq!(format!("{:?}", three(Modulus::Bits24)), "Masks(Bits24, 3)");
        assert_eq!(format!("{:?}", Tiles::new(&mut [77, 78])), "Tiles(from 0, 2 lanes)");
    }
}
