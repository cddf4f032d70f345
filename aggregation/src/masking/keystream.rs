//! Mask expansion: 32 bytes of key become one random number for every lane (PROTOCOL M-02).
//!
//! A mask is cut into tiles of 4,096 lanes. Tile t of a mask is the AES-256-GCM ciphertext of
//! zeros under the mask's key and the nonce t (12 bytes, big-endian), without its tag: `ring`
//! offers no bare counter mode, and nothing else that was measured is faster. A tile can be made
//! without those before it, so any core can mask or unmask any range of lanes; and a tile of
//! lanes passes through the cache once, however many masks it takes.
//!
//! Lane l of a tile takes the little-endian number in bytes 2 l and 2 l + 1 where b is 16, and in
//! bytes 4 l to 4 l + 3 where b is 24 or 32. Of these the low b bits count, which are uniform
//! below 2^b since 2^b divides 2^16 or 2^32 (PROTOCOL M-03). Two bytes instead of four halve the
//! cost where b is 16, for at this speed the cipher is what is waited for.
//!
//! Sources: [NIST SP 800-38D] sections 6.5 and 7.1. The distance from random of 2^25 blocks under
//! one key is about 2^50 / 2^129.
//!
//! [NIST SP 800-38D]: https://doi.org/10.6028/NIST.SP.800-38D

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::masking::group::{Modulus, WrongLength};
use crate::secret::Secret;

/// Lanes in a tile.
pub const TILE_LANES: usize = 4_096;

/// Bytes of keystream in the widest tile.
const TILE_BYTES: usize = 4 * TILE_LANES;

/// What one mask grows from. There is no shorter one.
#[derive(Debug, PartialEq, Eq)]
pub struct MaskKey(Secret<32>);

impl MaskKey {
    /// The key with these bytes. It must be used for one mask and for nothing else.
    #[must_use]
    pub const fn new(key: Secret<32>) -> Self {
        Self(key)
    }
}

/// Whether a mask is added or taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// The mask is added.
    Add,
    /// The mask is taken away.
    Subtract,
}

/// One mask, ready to be expanded. Holds a key schedule that cannot be wiped: drop it early.
pub struct Mask {
    cipher: LessSafeKey,
    sign: Sign,
}

impl Mask {
    /// The mask of this key.
    #[must_use]
    pub fn new(key: &MaskKey, sign: Sign) -> Self {
        Self { cipher: cipher(&key.0), sign }
    }

    /// Writes the beginning of a tile: as much as there is room for, at most a tile.
    fn expand(&self, tile: u64, keystream: &mut [u8]) {
        keystream.fill(0);
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&tile.to_be_bytes());
        let _tag = self
            .cipher
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::empty(),
                keystream,
            )
            .expect("a tile is far below the length that GCM can seal");
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mask({:?})", self.sign)
    }
}

fn cipher(key: &Secret<32>) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, key.expose());
    LessSafeKey::new(key.expect("a key of AES-256 has 32 bytes, and so has this one"))
}

/// Adds masks to lanes, or takes them away. The first lane is the first of tile `first`; the bits
/// of a lane above b are meaningless afterwards, as they are in every sum.
pub fn apply(masks: &[Mask], modulus: Modulus, first: u32, lanes: &mut [u32]) {
    let mut keystream = scratch();
    for (tile, lanes) in tiles(first).zip(lanes.chunks_mut(TILE_LANES)) {
        apply_tile(masks, modulus, tile, lanes, &mut keystream);
    }
}

/// As [`apply`], on the packed form that travels and in its place: masking an update needs no
/// second one, and each tile is masked by everyone while it is in the cache.
///
/// # Errors
/// When the bytes are no whole number of lanes; then nothing was changed (PROTOCOL M-04).
pub fn apply_packed(
    masks: &[Mask],
    modulus: Modulus,
    first: u32,
    packed: &mut [u8],
) -> Result<(), WrongLength> {
    let over = packed.len() % modulus.bytes();
    if over != 0 {
        return Err(WrongLength { expected: packed.len() - over, found: packed.len() });
    }
    match modulus {
        Modulus::Bits16 | Modulus::Bits32 => packed_in_place(masks, modulus, first, packed),
        Modulus::Bits24 => packed_through_lanes(masks, first, packed),
    }
    Ok(())
}

/// Lanes of 2 and of 4 bytes are combined as they lie.
fn packed_in_place(masks: &[Mask], modulus: Modulus, first: u32, packed: &mut [u8]) {
    let mut keystream = scratch();
    for (tile, packed) in tiles(first).zip(packed.chunks_mut(TILE_LANES * word(modulus))) {
        let keystream = &mut keystream[..packed.len()];
        for mask in masks {
            mask.expand(tile, keystream);
            combine_packed(mask.sign, modulus, packed, keystream);
        }
    }
}

/// Lanes of 3 bytes are unpacked once for all masks.
fn packed_through_lanes(masks: &[Mask], first: u32, packed: &mut [u8]) {
    let mut keystream = scratch();
    let mut lanes = Zeroizing::new(vec![0; TILE_LANES]);
    let (packed, _) = packed.as_chunks_mut::<3>();
    for (tile, packed) in tiles(first).zip(packed.chunks_mut(TILE_LANES)) {
        let lanes = &mut lanes[..packed.len()];
        for (lane, [a, b, c]) in lanes.iter_mut().zip(packed.iter()) {
            *lane = u32::from_le_bytes([*a, *b, *c, 0]);
        }
        apply_tile(masks, Modulus::Bits24, tile, lanes, &mut keystream);
        for (lane, packed) in lanes.iter().zip(packed) {
            let [a, b, c, _] = lane.to_le_bytes();
            *packed = [a, b, c];
        }
    }
}

/// The coordinator's loop: adds a packed update to the sum and takes its self mask out (or puts
/// it in, as the mask's sign says), in one pass over the sum. The first lane is the first of tile
/// `first`.
///
/// # Errors
/// When the packed bytes are not exactly one lane for each sum; then nothing was added
/// (PROTOCOL M-04).
pub fn add_packed_masked(
    mask: &Mask,
    modulus: Modulus,
    first: u32,
    sums: &mut [u32],
    packed: &[u8],
) -> Result<(), WrongLength> {
    let expected = sums.len() * modulus.bytes();
    if packed.len() != expected {
        return Err(WrongLength { expected, found: packed.len() });
    }
    let mut keystream = scratch();
    let packed = packed.chunks(TILE_LANES * modulus.bytes());
    for ((tile, sums), packed) in tiles(first).zip(sums.chunks_mut(TILE_LANES)).zip(packed) {
        modulus.add_packed(sums, packed)?;
        apply_tile(std::slice::from_ref(mask), modulus, tile, sums, &mut keystream);
    }
    Ok(())
}

/// Bytes of keystream for one lane: two do for two, and four are added faster than three.
const fn word(modulus: Modulus) -> usize {
    match modulus {
        Modulus::Bits16 => 2,
        Modulus::Bits24 | Modulus::Bits32 => 4,
    }
}

/// Room for one tile of keystream, wiped in the end.
fn scratch() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(vec![0; TILE_BYTES])
}

/// The tiles from one on. In 64 bits they cannot run out.
fn tiles(first: u32) -> impl Iterator<Item = u64> {
    u64::from(first)..
}

fn apply_tile(
    masks: &[Mask],
    modulus: Modulus,
    tile: u64,
    lanes: &mut [u32],
    keystream: &mut [u8],
) {
    let keystream = &mut keystream[..word(modulus) * lanes.len()];
    for mask in masks {
        mask.expand(tile, keystream);
        combine(mask.sign, modulus, lanes, keystream);
    }
}

fn combine(sign: Sign, modulus: Modulus, lanes: &mut [u32], keystream: &[u8]) {
    let add = u32::wrapping_add;
    let subtract = u32::wrapping_sub;
    match (sign, modulus) {
        (Sign::Add, Modulus::Bits16) => each_16(lanes, keystream, add),
        (Sign::Subtract, Modulus::Bits16) => each_16(lanes, keystream, subtract),
        (Sign::Add, Modulus::Bits24 | Modulus::Bits32) => each_32(lanes, keystream, add),
        (Sign::Subtract, Modulus::Bits24 | Modulus::Bits32) => each_32(lanes, keystream, subtract),
    }
}

#[inline(always)]
fn each_16(lanes: &mut [u32], keystream: &[u8], step: impl Fn(u32, u32) -> u32) {
    for (lane, mask) in lanes.iter_mut().zip(keystream.as_chunks().0) {
        *lane = step(*lane, u16::from_le_bytes(*mask).into());
    }
}

#[inline(always)]
fn each_32(lanes: &mut [u32], keystream: &[u8], step: impl Fn(u32, u32) -> u32) {
    for (lane, mask) in lanes.iter_mut().zip(keystream.as_chunks().0) {
        *lane = step(*lane, u32::from_le_bytes(*mask));
    }
}

fn combine_packed(sign: Sign, modulus: Modulus, packed: &mut [u8], keystream: &[u8]) {
    match (sign, word(modulus)) {
        (Sign::Add, 2) => packed_16(packed, keystream, u16::wrapping_add),
        (Sign::Subtract, 2) => packed_16(packed, keystream, u16::wrapping_sub),
        (Sign::Add, _) => packed_32(packed, keystream, u32::wrapping_add),
        (Sign::Subtract, _) => packed_32(packed, keystream, u32::wrapping_sub),
    }
}

#[inline(always)]
fn packed_16(packed: &mut [u8], keystream: &[u8], step: impl Fn(u16, u16) -> u16) {
    for (lane, mask) in packed.as_chunks_mut().0.iter_mut().zip(keystream.as_chunks().0) {
        *lane = step(u16::from_le_bytes(*lane), u16::from_le_bytes(*mask)).to_le_bytes();
    }
}

#[inline(always)]
fn packed_32(packed: &mut [u8], keystream: &[u8], step: impl Fn(u32, u32) -> u32) {
    for (lane, mask) in packed.as_chunks_mut().0.iter_mut().zip(keystream.as_chunks().0) {
        *lane = step(u32::from_le_bytes(*lane), u32::from_le_bytes(*mask)).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{unhex, unhex_array};

    const VECTORS: &str = include_str!("../../../tests/vectors/keystream.txt");

    fn mask(byte: u8, sign: Sign) -> Mask {
        Mask::new(&MaskKey::new(Secret::new([byte; 32])), sign)
    }

    fn tile(mask: &Mask, tile: u64) -> Vec<u8> {
        let mut keystream = vec![0xee; TILE_BYTES];
        mask.expand(tile, &mut keystream);
        keystream
    }

    /// The lanes of a mask by the definition, one after the other.
    fn expected(mask: &Mask, modulus: Modulus, first: u32, lanes: usize) -> Vec<u32> {
        let numbers = tiles(first).flat_map(|t| {
            let keystream = tile(mask, t);
            let lane = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b));
            let words = keystream[..TILE_LANES * word(modulus)].chunks(word(modulus));
            words.map(lane).collect::<Vec<u32>>()
        });
        numbers.take(lanes).map(|lane| modulus.unsigned(lane)).collect()
    }

    fn cut(modulus: Modulus, lanes: &[u32]) -> Vec<u32> {
        lanes.iter().map(|lane| modulus.unsigned(*lane)).collect()
    }

    /// M-02, against another implementation: see the head of the file.
    #[test]
    fn tiles_are_those_of_another_implementation() {
        let mut cases = 0;
        for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [key, at, begin, end, digest] = fields[..].try_into().expect("five fields");
            let mask = Mask::new(&MaskKey::new(Secret::new(unhex_array(key))), Sign::Add);
            let tile = tile(&mask, at.parse().expect("a tile's number"));
            assert_eq!(tile[..32], unhex(begin));
            assert_eq!(tile[tile.len() - 32..], unhex(end));
            assert_eq!(crate::ids::Digest::sha256(&tile).to_string(), digest);
            cases += 1;
        }
        assert_eq!(cases, 24);
    }

    /// M-02: all 256 bits of the key count, from the first lane on.
    #[test]
    fn every_bit_of_the_key_changes_the_mask() {
        let mut seen = vec![tile(&mask(7, Sign::Add), 0)[..16].to_vec()];
        for bit in 0..256 {
            let mut key = [7; 32];
            key[bit / 8] ^= 1 << (bit % 8);
            let other = tile(&Mask::new(&MaskKey::new(Secret::new(key)), Sign::Add), 0);
            let other = other[..16].to_vec();
            assert!(!seen.contains(&other), "bit {bit} does not count");
            seen.push(other);
        }
    }

    /// M-03: masks fill the whole group. Of 2^16 values, 2^21 lanes miss one less than once in 10^8
    /// keys; of wider lanes the upper 16 bits are looked at.
    #[test]
    fn the_greatest_value_occurs_and_every_other() {
        for modulus in Modulus::ALL {
            let mut lanes = vec![0; 1 << 21];
            apply(&[mask(3, Sign::Add)], modulus, 0, &mut lanes);
            let mut seen = vec![false; 1 << 16];
            for lane in &lanes {
                let top = modulus.unsigned(*lane) >> (modulus.bits() - 16);
                seen[usize::try_from(top).expect("16 bits")] = true;
            }
            assert_eq!(seen.iter().position(|seen| !seen), None, "{modulus:?}");
            if modulus == Modulus::Bits16 {
                assert!(lanes.iter().any(|lane| modulus.unsigned(*lane) == 0xffff));
            }
        }
    }

    /// M-03: for every width, sign, number of masks and length, in lanes and packed.
    #[test]
    fn masks_are_applied_as_they_are_defined() {
        let masks = [mask(1, Sign::Add), mask(2, Sign::Subtract), mask(3, Sign::Subtract)];
        for modulus in Modulus::ALL {
            for length in [0, 1, 7, TILE_LANES - 1, TILE_LANES, TILE_LANES + 1, 3 * TILE_LANES + 5]
            {
                let start: Vec<u32> = (0..length).map(|_| 0xdead_beef).collect();
                let mut wanted = start.clone();
                for mask in &masks {
                    let lanes = expected(mask, modulus, 2, length);
                    for (wanted, lane) in wanted.iter_mut().zip(lanes) {
                        *wanted = match mask.sign {
                            Sign::Add => wanted.wrapping_add(lane),
                            Sign::Subtract => wanted.wrapping_sub(lane),
                        };
                    }
                }
                let mut lanes = start.clone();
                apply(&masks, modulus, 2, &mut lanes);
                assert_eq!(cut(modulus, &lanes), cut(modulus, &wanted));

                let (mut packed, mut wanted_packed) = (Vec::new(), Vec::new());
                modulus.pack(&start, &mut packed);
                modulus.pack(&wanted, &mut wanted_packed);
                assert_eq!(apply_packed(&masks, modulus, 2, &mut packed), Ok(()));
                assert_eq!(packed, wanted_packed);
            }
        }
    }

    /// M-02: any range of whole tiles can be masked by itself.
    #[test]
    fn tiles_can_be_masked_apart_and_in_any_order() {
        let masks = [mask(1, Sign::Add), mask(2, Sign::Subtract)];
        for modulus in Modulus::ALL {
            let mut whole = vec![5; 3 * TILE_LANES + 9];
            let mut parts = whole.clone();
            apply(&masks, modulus, 4, &mut whole);
            let (one, rest) = parts.split_at_mut(TILE_LANES);
            apply(&masks, modulus, 5, rest);
            apply(&masks, modulus, 4, one);
            assert_eq!(parts, whole);
        }
        // The last tile has a number, and so have those after it.
        let mut lanes = vec![0; 2 * TILE_LANES];
        apply(&masks, Modulus::Bits16, u32::MAX, &mut lanes);
        assert!(lanes.iter().any(|lane| *lane != 0));
    }

    /// The coordinator's loop is adding, then unmasking.
    #[test]
    fn an_update_is_added_and_its_self_mask_taken_out_in_one_pass() {
        for modulus in Modulus::ALL {
            for length in [0, 3, TILE_LANES, 2 * TILE_LANES + 11] {
                let mut packed = Vec::new();
                let plain: Vec<u32> = (0..).step_by(77).take(length).collect();
                modulus.pack(&plain, &mut packed);
                let masked = apply_packed(&[mask(1, Sign::Add)], modulus, 0, &mut packed);
                assert_eq!(masked, Ok(()));
                let mut sums = vec![1; length];
                let remove = mask(1, Sign::Subtract);
                let added = add_packed_masked(&remove, modulus, 0, &mut sums, &packed);
                assert_eq!(added, Ok(()));
                let wanted: Vec<u32> = plain.iter().map(|lane| lane.wrapping_add(1)).collect();
                assert_eq!(cut(modulus, &sums), cut(modulus, &wanted));
            }
        }
    }

    /// M-04
    #[test]
    fn another_length_is_refused_and_changes_nothing() {
        let masks = [mask(1, Sign::Add)];
        for modulus in [Modulus::Bits16, Modulus::Bits24] {
            let mut packed = vec![9; 8 * modulus.bytes() + 1];
            let found = packed.len();
            let refused = apply_packed(&masks, modulus, 0, &mut packed);
            assert_eq!(refused, Err(WrongLength { expected: found - 1, found }));
            assert!(packed.iter().all(|byte| *byte == 9));
        }
        for modulus in Modulus::ALL {
            let mut sums = vec![9; 5_000];
            for lanes in [0, 4_096, 4_999, 5_001] {
                let packed = vec![1; lanes * modulus.bytes()];
                let refused = add_packed_masked(&masks[0], modulus, 0, &mut sums, &packed);
                let expected = 5_000 * modulus.bytes();
                assert_eq!(refused, Err(WrongLength { expected, found: packed.len() }));
            }
            assert!(sums.iter().all(|sum| *sum == 9));
        }
    }

    #[test]
    fn a_mask_shows_its_sign_and_nothing_else() {
        assert_eq!(format!("{:?}", mask(1, Sign::Add)), "Mask(Add)");
    }
}
