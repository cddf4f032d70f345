//! A released sum, added up again by somebody who trusts nobody: the updates as they arrived, and
//! the masks that were taken out. Nothing is read off the sum; what is compared is its digest.
//!
//! That the masks are given by their keys, which are nobody's word but the coordinator's, costs
//! nothing: keys whose keystream turns one sum into a chosen other one cannot be found.

use crate::ids::Digest;
use crate::masking::group::{Modulus, WrongLength};
use crate::masking::keystream::KeyedMask;
use crate::masking::masks::{Masks, Tiles};
use crate::vector::digest_of_lanes;

/// A sum that is made again.
pub struct Recount {
    modulus: Modulus,
    lanes: Vec<u32>,
}

/// A sum is nobody's to print.
impl std::fmt::Debug for Recount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recount({:?}, {} lanes)", self.modulus, self.lanes.len())
    }
}

impl Recount {
    /// An empty sum of updates of so many bytes; none where those are no whole number of lanes.
    #[must_use]
    pub fn new(modulus: Modulus, bytes: usize) -> Option<Self> {
        let lanes = bytes.is_multiple_of(modulus.bytes()).then(|| bytes / modulus.bytes())?;
        Some(Self { modulus, lanes: vec![0; lanes] })
    }

    /// Adds an update.
    ///
    /// # Errors
    /// When it has another length than the others; nothing was added.
    pub fn add(&mut self, update: &[u8]) -> Result<(), WrongLength> {
        self.modulus.add_packed(&mut self.lanes, update)
    }

    /// The digest of the sum once these masks are taken out, as the log has it.
    #[must_use]
    pub fn finish(mut self, masks: &[KeyedMask]) -> Digest {
        let masks = Masks::new(self.modulus, masks.iter().map(KeyedMask::mask));
        masks.apply(Tiles::new(&mut self.lanes));
        digest_of_lanes(self.modulus, &self.lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::masking::keystream::{MaskKey, Sign};
    use crate::secret::Secret;

    fn keyed(byte: u8, sign: Sign) -> KeyedMask {
        KeyedMask { key: MaskKey::new(Secret::new([byte; 32])), sign }
    }

    #[test]
    fn a_masked_sum_comes_out_as_its_plain_one_and_a_changed_byte_does_not() {
        for modulus in Modulus::ALL {
            let plain: Vec<u32> = (0..5_000_u32).map(|lane| lane.wrapping_mul(977)).collect();
            let mut masked = plain.clone();
            Masks::new(modulus, [keyed(3, Sign::Add).mask()]).apply(Tiles::new(&mut masked));
            let packed = |lanes: &[u32]| {
                let mut packed = Vec::new();
                modulus.pack(lanes, &mut packed);
                packed
            };
            let sum_of = |updates: &[Vec<u8>], masks: &[KeyedMask]| {
                let mut sum = Recount::new(modulus, updates[0].len()).expect("whole lanes");
                for update in updates {
                    sum.add(update).expect("its length");
                }
                sum.finish(masks)
            };
            let doubled: Vec<u32> = plain.iter().map(|lane| lane.wrapping_mul(2)).collect();
            let wanted = Digest::blake3(&packed(&doubled));
            let mut updates = [packed(&masked), packed(&plain)];
            assert_eq!(sum_of(&updates, &[keyed(3, Sign::Subtract)]), wanted);
            assert_ne!(sum_of(&updates, &[]), wanted);
            assert_ne!(sum_of(&updates, &[keyed(3, Sign::Add)]), wanted);
            updates[1][40] ^= 1;
            assert_ne!(sum_of(&updates, &[keyed(3, Sign::Subtract)]), wanted);
            assert!(Recount::new(modulus, 4_097 * modulus.bytes() + 1).is_none());
        }
    }
}
