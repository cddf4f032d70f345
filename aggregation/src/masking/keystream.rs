//! Mask expansion: 32 bytes of key become one random number for every lane (PROTOCOL M-02).
//!
//! A mask is cut into tiles of 4,096 lanes. Tile t of a mask is the AES-256-GCM ciphertext of
//! zeros under the mask's key and the nonce t (12 bytes, big-endian), without its tag: `ring`
//! offers no bare counter mode, and nothing else that was measured is faster. A tile can be made
//! without those before it, so any core can mask or unmask any range of lanes. What a tile's bytes
//! are to its lanes is the matter of [`crate::masking::masks`].
//!
//! Sources: [NIST SP 800-38D] sections 6.5 and 7.1. The distance from random of 2^25 blocks under
//! one key is about 2^50 / 2^129.
//!
//! [NIST SP 800-38D]: https://doi.org/10.6028/NIST.SP.800-38D

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::secret::Secret;

/// Lanes in a tile.
pub const TILE_LANES: usize = 4_096;

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

impl MaskKey {
    /// The bytes, for whoever keeps a round to be added up again.
    #[must_use]
    pub const fn secret(&self) -> &Secret<32> {
        &self.0
    }
}

/// A mask by its key: what it takes to put it on, or to take it off, at any later time.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyedMask {
    /// What it grows from.
    pub key: MaskKey,
    /// Whether it is added or taken away.
    pub sign: Sign,
}

impl KeyedMask {
    /// The mask, ready to be expanded.
    #[must_use]
    pub fn mask(&self) -> Mask {
        Mask::new(&self.key, self.sign)
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

    /// Whether it is added or taken away.
    pub(super) const fn sign(&self) -> Sign {
        self.sign
    }

    /// Writes the beginning of a tile: as much as there is room for, at most a tile.
    pub(super) fn expand(&self, tile: u64, keystream: &mut [u8]) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::secret::{unhex, unhex_array};

    const VECTORS: &str = include_str!("../../../tests/vectors/keystream.txt");

    fn tile(key: [u8; 32], tile: u64) -> Vec<u8> {
        let mut keystream = vec![0xee; 4 * TILE_LANES];
        Mask::new(&MaskKey::new(Secret::new(key)), Sign::Add).expand(tile, &mut keystream);
        keystream
    }

    /// M-02, against another implementation: see the head of the file.
    #[test]
    fn tiles_are_those_of_another_implementation() {
        let mut cases = 0;
        for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [key, at, begin, end, digest] = fields[..].try_into().expect("five fields");
            let tile = tile(unhex_array(key), at.parse().expect("a tile's number"));
            assert_eq!(tile[..32], unhex(begin));
            assert_eq!(tile[tile.len() - 32..], unhex(end));
            assert_eq!(Digest::sha256(&tile).to_string(), digest);
            cases += 1;
        }
        assert_eq!(cases, 24);
    }

    /// M-02: all 256 bits of the key count, from the first lane on.
    #[test]
    fn every_bit_of_the_key_changes_the_mask() {
        let mut seen = vec![tile([7; 32], 0)[..16].to_vec()];
        for bit in 0..256 {
            let mut key = [7; 32];
            key[bit / 8] ^= 1 << (bit % 8);
            let other = tile(key, 0)[..16].to_vec();
            assert!(!seen.contains(&other), "bit {bit} does not count");
            seen.push(other);
        }
    }

    #[test]
    fn a_mask_shows_its_sign_and_nothing_else() {
        let mask = Mask::new(&MaskKey::new(Secret::new([1; 32])), Sign::Add);
        assert_eq!(format!("{mask:?}"), "Mask(Add)");
    }
}
