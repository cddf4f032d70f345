//! Inputs: bytes that are read from the front, and bytes that are made up.

/// Reads decisions from the front of some bytes. When they are used up, everything is 0.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads these bytes.
    #[must_use]
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether there is nothing left.
    #[must_use]
    pub(crate) const fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    /// A byte.
    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// A place among `count`; 0 if there is none.
    pub(crate) fn place(&mut self, count: usize) -> usize {
        usize::from(self.byte()).checked_rem(count).unwrap_or(0)
    }

    /// So many bytes, filled up with 0.
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// Up to so many bytes, as many as the next one says.
    pub(crate) fn some(&mut self, most: usize) -> Vec<u8> {
        let length = self.place(most + 1);
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// Draws what an input is made of. SplitMix64, as in the simulation; a copy, for this folder is
/// built without the harness too.
#[derive(Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    /// What follows from this number.
    #[must_use]
    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }

    const fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// From 0 to below `bound`; 0 if there is nothing to choose from.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX);
        let chosen = self.word().checked_rem(bound).unwrap_or(0);
        usize::try_from(chosen).unwrap_or(0)
    }

    /// True once in so many times.
    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Any byte.
    pub(crate) const fn byte(&mut self) -> u8 {
        let [byte, ..] = self.word().to_le_bytes();
        byte
    }

    /// One of these.
    pub(crate) fn one_of<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let chosen = self.below(from.len());
        from.get(chosen)
    }

    /// Changes bytes in one place: flips, overwrites, cuts, doubles, inserts, splices.
    pub(crate) fn change(&mut self, bytes: &mut Vec<u8>, examples: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let length = self.below(16) + 1;
        let end = (at + length).min(bytes.len());
        match self.below(8) {
            0 | 1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            2 => {
                let telling = [0, 1, 0x7f, 0x80, 0xff, b'\n', b' ', b'"'];
                let value = *self.one_of(&telling).unwrap_or(&0);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            5 => {
                let piece = bytes.get(at..end).unwrap_or(&[]).to_vec();
                bytes.splice(at..at, piece);
            }
            6 => {
                let piece: Vec<u8> = (0..length).map(|_| self.byte()).collect();
                bytes.splice(at..at, piece);
            }
            _ => {
                if let Some(other) = self.one_of(examples) {
                    let from = self.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend_from_slice(other.get(from..).unwrap_or(&[]));
                }
            }
        }
    }
}
