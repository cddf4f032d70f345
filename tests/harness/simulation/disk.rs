//! What a hospital keeps: exactly what the agent's journal and its work folder hold, and nothing
//! that only its memory has. A crash leaves this and takes everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aggregation::ids::{Digest, HospitalId, RoundId, SlotId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::provision::Provision;
use aggregation::keys::roll::Roll;
use aggregation::message::{DeclineReason, FinalSet, Roster, Shares, SignedSet, Terms};
use aggregation::secret::SecretBytes;
use aggregation::setup::keyring::Keyring;
use aggregation::setup::{SignedAnnounce, SignedBatch};

/// Two secrets for each slot of a batch, in the order of the slots.
type SlotSecrets = Arc<Vec<[u8; 64]>>;

/// The disk of one hospital. Large pages are written once and shared by their copies.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    /// What the study was approved with: the hospitals, and the keys that they are pinned by.
    pub(crate) roll: Arc<Roll>,
    /// The agreement secret and the nonce, until all keys are agreed on.
    pub(crate) seeds: Option<([u8; 32], [u8; 32])>,
    /// The announcements that count, from before the nonce was revealed.
    pub(crate) announced: Option<Arc<BTreeMap<HospitalId, SignedAnnounce>>>,
    /// All nonces, and the keyring that was agreed on.
    pub(crate) keys: Option<KeysPage>,
    /// Own batches by number, as they were sent, and what is kept of them.
    pub(crate) batches: BTreeMap<u64, OwnPage>,
    /// Shares of others, by batch and owner.
    pub(crate) held: BTreeMap<u64, BTreeMap<HospitalId, SlotSecrets>>,
    /// Slots whose own secret is erased: up to this one.
    pub(crate) own_erased: SlotId,
    /// Slots whose held shares are erased: up to this one, and these.
    pub(crate) held_erased: (SlotId, BTreeSet<SlotId>),
    /// The last slot that is over.
    pub(crate) last: Option<(RoundId, SlotId)>,
    /// The slot at hand.
    pub(crate) open: Option<SlotPage>,
    /// The work folder.
    pub(crate) files: BTreeMap<(SlotId, File), Arc<Vec<u8>>>,
}

/// The keys that were agreed on.
#[derive(Debug, Clone)]
pub(crate) struct KeysPage {
    pub(crate) nonces: Arc<BTreeMap<HospitalId, GraphNonce>>,
    /// [`aggregation::setup::keyring::Keyring::secrets`].
    pub(crate) keyring: Vec<u8>,
}

/// A batch of the hospital's own.
#[derive(Debug, Clone)]
pub(crate) struct OwnPage {
    pub(crate) signed: Arc<SignedBatch>,
    pub(crate) slots: SlotSecrets,
}

/// A file of the work folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum File {
    /// The update as the trainer made it.
    Trained,
    /// The same under its masks.
    Masked,
}

/// How far the trainer came with the slot at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// It was started. After a restart it has failed: no slot is worked on twice.
    Begun,
    /// It failed.
    Failed,
    /// The update lies ready.
    Trained(Digest, usize),
}

/// The slot at hand.
#[derive(Debug, Clone)]
pub(crate) struct SlotPage {
    pub(crate) terms: Terms,
    /// Why the hospital has declined it, if it has.
    pub(crate) declined: Option<DeclineReason>,
    pub(crate) work: Work,
    pub(crate) roster: Option<Roster>,
    pub(crate) masked: Option<(Digest, usize)>,
    /// The share of the own self secret, kept when the slot was taken.
    pub(crate) own_share: Option<[u8; 32]>,
    pub(crate) set: Option<FinalSet>,
    /// The signed set, and the shares that were given for it, as they were sent.
    pub(crate) signed: Option<(SignedSet, Arc<Shares>)>,
}

impl SlotPage {
    pub(crate) const fn new(terms: Terms, declined: Option<DeclineReason>) -> Self {
        Self {
            terms,
            declined,
            work: Work::Begun,
            roster: None,
            masked: None,
            own_share: None,
            set: None,
            signed: None,
        }
    }
}

impl Disk {
    /// A new disk.
    pub(crate) const fn blank(roll: Arc<Roll>) -> Self {
        let none = SlotId::new(0);
        Self {
            roll,
            seeds: None,
            announced: None,
            keys: None,
            batches: BTreeMap::new(),
            held: BTreeMap::new(),
            own_erased: none,
            held_erased: (none, BTreeSet::new()),
            last: None,
            open: None,
            files: BTreeMap::new(),
        }
    }

    /// The own secret and the share of it, unless it is erased. `first` is the batch's first slot.
    pub(crate) fn own(&self, batch: u64, first: SlotId, slot: SlotId) -> Option<&[u8; 64]> {
        if slot <= self.own_erased {
            return None;
        }
        self.batches.get(&batch)?.slots.get(place(first, slot)?)
    }

    /// The shares of an owner's secrets, unless they are erased.
    pub(crate) fn held(
        &self,
        batch: u64,
        first: SlotId,
        slot: SlotId,
        owner: &HospitalId,
    ) -> Option<&[u8; 64]> {
        let (through, further) = &self.held_erased;
        if slot <= *through || further.contains(&slot) {
            return None;
        }
        self.held.get(&batch)?.get(owner)?.get(place(first, slot)?)
    }

    /// The roll and the graph, from the announcements and nonces that count.
    pub(crate) fn provision(&self) -> Option<Provision> {
        let announced = self.announced.as_ref()?.iter();
        let announced = announced.map(|(id, said)| (id.clone(), said.announce.clone())).collect();
        Provision::new(&self.roll, &announced, &self.keys.as_ref()?.nonces).ok()
    }

    /// The keyring, as it was kept.
    pub(crate) fn keyring(&self, me: &HospitalId, provision: &Provision) -> Option<Keyring> {
        let secrets = SecretBytes::new(self.keys.as_ref()?.keyring.clone());
        Keyring::resume(provision, me, &secrets)
    }

    /// Passes over all slots up to this one, as if there had been rounds in them.
    pub(crate) fn pass(&mut self, me: &HospitalId, slot: SlotId) {
        let keyring = self.provision().and_then(|provision| self.keyring(me, &provision));
        if let (Some(mut keyring), Some(keys)) = (keyring, &mut self.keys)
            && keyring.pass(slot).is_ok()
        {
            keys.keyring = keyring.secrets().expose().to_vec();
        }
        self.erase_through(slot);
    }

    /// Erases what this slot and those before it have left.
    pub(crate) fn erase_through(&mut self, slot: SlotId) {
        self.own_erased = self.own_erased.max(slot);
        let (through, further) = &mut self.held_erased;
        *through = (*through).max(slot);
        *further = further.split_off(&through.next());
        self.files.retain(|(of, _), _| *of > slot);
    }
}

fn place(first: SlotId, slot: SlotId) -> Option<usize> {
    slot.get().checked_sub(first.get()).and_then(|place| usize::try_from(place).ok())
}
