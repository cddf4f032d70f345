//! What the coordinator keeps: exactly what its store holds.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use aggregation::checkpoint::LogHead;
use aggregation::ids::{Digest, HospitalId, RoundId, SlotId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::roll::Roll;
use aggregation::message::{ClosedNotice, Terms};
use aggregation::round::{Input, Masks};
use aggregation::setup::gathering::Gathering;
use aggregation::setup::{SetupRefused, SignedAnnounce, SignedBatch};
use aggregation::units::Timestamp;

/// The books of a coordinator.
#[derive(Debug, Clone)]
pub(crate) struct Books {
    /// A setup that was done before, and is in the books whole.
    base: Arc<Settled>,
    /// What was said in the setup since.
    pub(super) said: Vec<Recorded>,
    pub(crate) next_round: RoundId,
    pub(crate) next_slot: SlotId,
    pub(super) open: Option<OpenBook>,
    /// How the last round ended, and who was invited to it.
    pub(super) last: Option<(ClosedNotice, BTreeSet<HospitalId>)>,
    /// A hospital that was revoked.
    pub(super) revoked: Option<HospitalId>,
}

/// A setup, and the masks of its batches, which follow from it.
#[derive(Debug)]
struct Settled {
    gathering: Arc<Gathering>,
    masks: OnceLock<Option<(u64, Arc<Masks>)>>,
}

/// Something that was said in the setup, and held.
#[derive(Debug, Clone)]
pub(super) enum Recorded {
    Announce(HospitalId, Box<SignedAnnounce>),
    Nonce(HospitalId, GraphNonce),
    Batch(HospitalId, u64, Arc<SignedBatch>),
    Opened(HospitalId, u64, BTreeSet<HospitalId>),
}

impl Recorded {
    /// Says it to a gathering.
    pub(super) fn said_to(&self, gathering: &mut Gathering) -> Result<bool, SetupRefused> {
        match self {
            Self::Announce(from, said) => gathering.announce(from, said.as_ref().clone()),
            Self::Nonce(from, nonce) => gathering.reveal(from, *nonce),
            Self::Batch(from, number, batch) => {
                gathering.batch(from, *number, batch.as_ref().clone())
            }
            Self::Opened(from, number, owners) => gathering.opened(from, *number, owners),
        }
    }
}

/// The open round: what it was opened with, and every input since.
#[derive(Debug, Clone)]
pub(super) struct OpenBook {
    pub(super) terms: Terms,
    pub(super) opened: Timestamp,
    pub(super) journal: Vec<(Timestamp, Input)>,
}

impl Books {
    /// A log that grows with every attempt.
    pub(crate) fn log(&self) -> LogHead {
        let size = self.next_slot.get();
        LogHead { size, root: Digest::sha256(&size.to_le_bytes()) }
    }

    /// Books with nothing in them.
    pub(crate) fn blank(roll: &Roll) -> Self {
        Self::settled(Arc::new(Gathering::new(roll.clone())), SlotId::new(1))
    }

    /// Books with a setup in them that is done, from this slot on.
    pub(crate) fn settled(gathering: Arc<Gathering>, next_slot: SlotId) -> Self {
        Self {
            base: Arc::new(Settled { gathering, masks: OnceLock::new() }),
            said: Vec::new(),
            next_round: RoundId::FIRST,
            next_slot,
            open: None,
            last: None,
            revoked: None,
        }
    }

    /// The same before another round.
    pub(crate) fn at_round(self, next_round: RoundId) -> Self {
        Self { next_round, ..self }
    }

    /// The same before another slot.
    pub(crate) fn at_slot(self, next_slot: SlotId) -> Self {
        Self { next_slot, ..self }
    }

    /// Rounds that were released.
    pub(crate) const fn released(&self) -> u32 {
        self.next_round.get() - 1
    }

    /// The setup, as far as it is in the books.
    pub(crate) fn gathering(&self) -> Arc<Gathering> {
        let mut gathering = Arc::clone(&self.base.gathering);
        for recorded in &self.said {
            // It held when it was written down, and nothing was said in between.
            let again = recorded.said_to(Arc::make_mut(&mut gathering));
            debug_assert!(again.is_ok(), "{again:?}");
        }
        gathering
    }

    /// What a round in this slot needs to take its masks out.
    pub(super) fn masks(&self, gathering: &Arc<Gathering>, slot: SlotId) -> Option<Arc<Masks>> {
        let fresh = || gathering.masks(slot).map(Arc::new);
        // All federations of one size share the first batch of their keys, which is large.
        if !Arc::ptr_eq(gathering, &self.base.gathering) {
            return fresh();
        }
        let number = gathering.provision()?.batch_of(slot);
        let shared = self.base.masks.get_or_init(|| Some((number, fresh()?)));
        match shared {
            Some((of, masks)) if *of == number => Some(Arc::clone(masks)),
            Some(_) | None => fresh(),
        }
    }
}
