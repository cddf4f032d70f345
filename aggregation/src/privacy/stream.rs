//! A keyed stream of uniform words, for noise and for sampling. No floating point here.
//!
//! 32 secret bytes and a purpose give one stream, always the same. As in
//! [`masking::keystream`](crate::masking::keystream), a tile of the stream is the AES-256-GCM
//! ciphertext of zeros under the tile's number as nonce, without its tag (PROTOCOL D-05): the
//! fastest that `ring` offers. The key is derived for one purpose, so that noise, ties and
//! sampling never share a word, whatever seeds they are given.

#![deny(clippy::float_arithmetic)]

use std::num::NonZeroUsize;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::transcript::Transcript;

/// Bytes of one tile.
const TILE_BYTES: usize = 16 * 1_024;

/// Words of one tile.
pub(crate) const TILE_WORDS: usize = TILE_BYTES / 8;

/// Uniform 64-bit words.
pub(crate) struct Stream {
    key: LessSafeKey,
    next_tile: u64,
    tile: Zeroizing<Vec<u8>>,
    used: usize,
}

impl Stream {
    /// The stream of this seed for one purpose. Purposes end in a version: `consilium/noise/1`.
    pub(crate) fn new(seed: &Secret<32>, purpose: &'static str) -> Self {
        let key: Secret<32> = seed.derive(&Transcript::new(purpose));
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).expect("AES-256 takes 32 bytes");
        Self {
            key: LessSafeKey::new(key),
            next_tile: 0,
            tile: Zeroizing::new(Vec::new()),
            used: TILE_WORDS,
        }
    }

    /// The next word.
    pub(crate) fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.groups::<1>(NonZeroUsize::MIN)[0][0])
    }

    /// The next words in groups of N, little-endian: as many groups as are wanted or as the tile
    /// still holds, and at least one. Words at a tile's end that make no group are thrown away, so
    /// what is drawn does not depend on how much is taken at a time.
    pub(crate) fn groups<const N: usize>(&mut self, wanted: NonZeroUsize) -> &[[[u8; 8]; N]] {
        const { assert!(0 < N && N <= TILE_WORDS, "a group fits into a tile") };
        if self.used + N > TILE_WORDS {
            self.refill();
        }
        let groups = wanted.get().min((TILE_WORDS - self.used) / N);
        let from = self.used;
        self.used += N * groups;
        let words: &[[u8; 8]] = &self.tile.as_chunks().0[from..self.used];
        words.as_chunks().0
    }

    fn refill(&mut self) {
        self.tile.clear();
        self.tile.resize(TILE_BYTES, 0);
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&self.next_tile.to_le_bytes());
        let _tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::empty(),
                &mut self.tile,
            )
            .expect("a tile is far below the longest message of AES-GCM");
        self.next_tile += 1;
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(seed: u8, purpose: &'static str, count: usize) -> Vec<u64> {
        let mut stream = Stream::new(&Secret::new([seed; 32]), purpose);
        (0..count).map(|_| stream.word()).collect()
    }

    #[test]
    fn a_stream_is_its_seed_and_its_purpose() {
        let one = words(1, "a/1", 3 * TILE_WORDS);
        assert_eq!(one, words(1, "a/1", 3 * TILE_WORDS));
        assert_ne!(one[..8], words(2, "a/1", 8));
        assert_ne!(one[..8], words(1, "b/1", 8));
        let mut sorted = one.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), one.len(), "a tile was given out twice");
    }

    /// Every bit of the seed counts (PROTOCOL D-05): no folding down to a small state.
    #[test]
    fn every_bit_of_the_seed_changes_the_stream() {
        let mut seen = vec![words(0, "a/1", 4)];
        for bit in 0..256 {
            let mut seed = [0_u8; 32];
            seed[bit / 8] ^= 1 << (bit % 8);
            let mut stream = Stream::new(&Secret::new(seed), "a/1");
            let first: Vec<u64> = (0..4).map(|_| stream.word()).collect();
            assert!(!seen.contains(&first), "bit {bit} does not count");
            seen.push(first);
        }
    }

    #[test]
    fn words_taken_together_are_the_words_taken_one_by_one() {
        let one_by_one = words(3, "a/1", 3 * TILE_WORDS);
        for at_a_time in [1, 7, 100, 682, 683, usize::MAX] {
            let mut stream = Stream::new(&Secret::new([3; 32]), "a/1");
            let mut taken = Vec::new();
            while taken.len() < 1_000 {
                let wanted = NonZeroUsize::new(at_a_time).expect("not 0");
                let groups = stream.groups::<3>(wanted);
                assert!((1..=at_a_time.min(682)).contains(&groups.len()));
                taken.extend(groups.iter().map(|group| group.map(u64::from_le_bytes)));
            }
            // 682 groups of three, two words thrown away, then the next tile.
            assert_eq!(taken[681], one_by_one[3 * 681..3 * 682]);
            assert_eq!(taken[682], one_by_one[TILE_WORDS..TILE_WORDS + 3]);
        }
    }
}
