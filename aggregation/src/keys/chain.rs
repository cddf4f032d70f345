//! From a pair's root: a chain that gives one seed per slot and cannot be wound back
//! (PROTOCOL M-11), and the root of the keys that shares are sealed under (PROTOCOL M-12).
//!
//! `chain[first] = HKDF(root, "chain")`, `seed[s] = HKDF(chain[s], "seed")`,
//! `chain[s + 1] = HKDF(chain[s], "next")`. Whoever takes a hospital's disk later finds the chain
//! where it stands, and nothing of the slots before it.

use crate::ids::SlotId;
use crate::secret::Secret;
use crate::transcript::Transcript;

/// The most slots that a chain is moved on at once, so that a number in a message cannot keep a
/// hospital busy: at a round a minute, two years.
pub const MAX_AHEAD: u64 = 1 << 20;

/// What two hospitals have in common, and nobody else. Becomes a [`PairChain`] and a [`ShareRoot`]
/// and is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct PairRoot(Secret<32>);

impl PairRoot {
    pub(crate) const fn new(root: Secret<32>) -> Self {
        Self(root)
    }

    /// Turns the root into what is kept of it. Both hospitals must start at the same slot.
    #[must_use]
    pub fn into_keys(self, first: SlotId) -> (PairChain, ShareRoot) {
        let derive = |label| self.0.derive(&Transcript::new(label));
        let chain = PairChain { next: first, state: derive("consilium/chain/1") };
        (chain, ShareRoot(derive("consilium/share-root/1")))
    }
}

/// What the keys for sealed shares between two hospitals grow from.
#[derive(Debug, PartialEq, Eq)]
pub struct ShareRoot(Secret<32>);

impl ShareRoot {
    /// Takes back what was kept of [`ShareRoot::secret`].
    #[must_use]
    pub const fn new(secret: Secret<32>) -> Self {
        Self(secret)
    }

    /// For the node's own journal.
    #[must_use]
    pub const fn secret(&self) -> &Secret<32> {
        &self.0
    }
}

/// What the masks between two hospitals in one slot grow from.
#[derive(Debug, PartialEq, Eq)]
pub struct PairSeed(Secret<32>);

impl PairSeed {
    pub(crate) const fn new(seed: Secret<32>) -> Self {
        Self(seed)
    }

    pub(crate) const fn secret(&self) -> &Secret<32> {
        &self.0
    }
}

/// The seeds of all slots from the next one on.
#[derive(Debug, PartialEq, Eq)]
pub struct PairChain {
    next: SlotId,
    state: Secret<32>,
}

/// A slot that the chain cannot give a seed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfChain {
    /// Its seed was used or passed over, and is gone.
    #[error("the seeds before slot {next} are gone; slot {asked} was asked for")]
    Gone {
        /// The first slot that is left.
        next: SlotId,
        /// The slot that was asked for.
        asked: SlotId,
    },
    /// It is too far away to be meant.
    #[error("slot {asked} was asked for, more than {MAX_AHEAD} after slot {next}")]
    TooFar {
        /// The first slot that is left.
        next: SlotId,
        /// The slot that was asked for.
        asked: SlotId,
    },
}

impl OutOfChain {
    /// The rule that was broken.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        "M-11"
    }
}

impl PairChain {
    /// Takes back what was kept of [`PairChain::next`] and [`PairChain::state`].
    #[must_use]
    pub const fn resume(next: SlotId, state: Secret<32>) -> Self {
        Self { next, state }
    }

    /// The first slot that it has a seed for.
    #[must_use]
    pub const fn next(&self) -> SlotId {
        self.next
    }

    /// For the node's own journal.
    #[must_use]
    pub const fn state(&self) -> &Secret<32> {
        &self.state
    }

    /// The slot's seed. It and everything before it are gone from the chain afterwards.
    ///
    /// # Errors
    /// When the seed is gone, or more than [`MAX_AHEAD`] slots away; then nothing has changed.
    pub fn take(&mut self, slot: SlotId) -> Result<PairSeed, OutOfChain> {
        self.skip_to(slot)?;
        let seed = self.seed();
        self.step();
        Ok(seed)
    }

    /// Forgets the seeds before a slot, used or not.
    ///
    /// # Errors
    /// As [`PairChain::take`].
    pub fn skip_to(&mut self, slot: SlotId) -> Result<(), OutOfChain> {
        let next = self.next;
        let Some(ahead) = slot.get().checked_sub(next.get()) else {
            return Err(OutOfChain::Gone { next, asked: slot });
        };
        // The last number has no successor: a chain that stood there could give its seed twice.
        if ahead > MAX_AHEAD || slot.get() == u64::MAX {
            return Err(OutOfChain::TooFar { next, asked: slot });
        }
        (0..ahead).for_each(|_| self.step());
        Ok(())
    }

    /// A second chain from where this one stands, for sealing the seeds of slots to come into
    /// their escrow. It must not outlive that.
    pub(crate) fn preview(&self) -> Self {
        Self { next: self.next, state: Secret::new(*self.state.expose()) }
    }

    fn seed(&self) -> PairSeed {
        PairSeed(self.state.derive(&Transcript::new("consilium/chain-seed/1")))
    }

    fn step(&mut self) {
        // The old state is wiped as it is replaced.
        self.state = self.state.derive(&Transcript::new("consilium/chain-next/1"));
        self.next = self.next.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_slot_5(byte: u8) -> PairChain {
        PairRoot::new(Secret::new([byte; 32])).into_keys(SlotId::new(5)).0
    }

    fn slot(number: u64) -> SlotId {
        SlotId::new(number)
    }

    /// M-11
    #[test]
    fn both_ends_get_the_same_seed_whichever_slots_they_passed_over() {
        let (mut one, mut other) = (from_slot_5(1), from_slot_5(1));
        let mut seeds = Vec::new();
        for number in 5..20 {
            seeds.push(one.take(slot(number)).expect("the slot is the next one"));
        }
        for number in [5, 9, 10, 19] {
            let seed = other.take(slot(number)).expect("the slot is ahead");
            assert_eq!(Some(&seed), seeds.get(usize::try_from(number - 5).expect("small")));
        }
        for (at, seed) in seeds.iter().enumerate() {
            assert!(seeds.iter().skip(at + 1).all(|later| later != seed));
        }
        assert_ne!(from_slot_5(2).take(slot(5)), from_slot_5(1).take(slot(5)));
    }

    /// M-11
    #[test]
    fn a_seed_is_given_once_and_what_was_passed_over_is_gone() {
        let mut chain = from_slot_5(1);
        assert!(chain.take(slot(7)).is_ok());
        for asked in [slot(0), slot(5), slot(7)] {
            let gone = Err(OutOfChain::Gone { next: slot(8), asked });
            assert_eq!(chain.take(asked), gone);
        }
        chain.skip_to(slot(10)).expect("the slot is ahead");
        assert_eq!(chain.next(), slot(10));
        assert!(chain.take(slot(9)).is_err());
    }

    #[test]
    fn an_absurd_slot_is_refused_at_once_and_changes_nothing() {
        let mut chain = from_slot_5(1);
        for asked in [slot(5 + MAX_AHEAD + 1), slot(u64::MAX)] {
            assert_eq!(chain.take(asked), Err(OutOfChain::TooFar { next: slot(5), asked }));
        }
        let mut last = PairChain::resume(slot(u64::MAX), Secret::new([1; 32]));
        assert!(last.take(slot(u64::MAX)).is_err());
        assert_eq!(chain.take(slot(5)), from_slot_5(1).take(slot(5)));
    }

    #[test]
    fn a_chain_goes_on_where_its_journal_left_it() {
        let mut chain = from_slot_5(1);
        chain.skip_to(slot(9)).expect("the slot is ahead");
        let mut resumed = PairChain::resume(chain.next(), Secret::new(*chain.state().expose()));
        assert_eq!(resumed, chain.preview());
        assert_eq!(resumed.take(slot(11)), chain.take(slot(11)));
    }

    /// M-12: neither of the two tells the other.
    #[test]
    fn chain_and_share_root_differ() {
        let (chain, shares) = PairRoot::new(Secret::new([1; 32])).into_keys(slot(0));
        assert_ne!(chain.state(), shares.secret());
    }
}
