//! A hospital's own keys, from its announcement to the last share.
//!
//! [`Announced`] holds the agreement secret and gives it up for [`Keyring`], which holds what a
//! study's rounds need: a chain and a key for shares per neighbour. Slots and held shares are kept
//! by the shell, one by one, so that each can be erased when it is used. All of it can be taken from
//! the house's journal again; none of it is ever printed or sent.

use std::collections::{BTreeMap, BTreeSet};

use crate::context::ContextDigest;
use crate::ids::{HospitalId, SlotId};
use crate::keys::announce::{AgreementSecret, KeyAnnounce};
use crate::keys::chain::{OutOfChain, PairChain, PairSeed, ShareRoot};
use crate::keys::graph::{GraphNonce, Neighbourhood};
use crate::keys::identity::Identity;
use crate::keys::provision::{FIRST_SLOT, Provision};
use crate::keys::roll::Roll;
use crate::keys::slots::{self, BatchScope, HeldShares, OwnSlot, OwnSlots, PairKeys};
use crate::masking::keystream::Mask;
use crate::secret::{Secret, SecretBytes};
use crate::setup::gathering::check_batch;
use crate::setup::{SetupRefused, SignedAnnounce, SignedBatch, check_announced};

/// Bytes that a keyring keeps for one neighbour: the chain's next slot, its state, the share root.
const PAIR: usize = 8 + 32 + 32;

/// A hospital that has announced itself, or is about to. The same secrets give the same
/// announcement, so that it can be made again after a restart.
#[derive(Debug)]
pub struct Announced {
    secret: AgreementSecret,
    nonce: GraphNonce,
    own: SignedAnnounce,
}

impl Announced {
    /// Announces a key grown from this secret, and commits to this nonce; both are random, for
    /// this roll alone, and durable before anything is sent.
    #[must_use]
    pub fn new(
        roll: &Roll,
        me: &HospitalId,
        identity: &Identity,
        agreement: &Secret<32>,
        nonce: GraphNonce,
    ) -> Self {
        let secret = AgreementSecret::new(agreement);
        let announce = KeyAnnounce {
            study: roll.study(),
            charter: roll.digest(),
            hospital: me.clone(),
            agreement: secret.key(),
            graph_nonce: nonce.commitment(roll.study(), roll.digest(), me),
        };
        let signature = identity.sign(&announce);
        Self { secret, nonce, own: SignedAnnounce { announce, signature } }
    }

    /// What is said to everybody.
    #[must_use]
    pub const fn said(&self) -> &SignedAnnounce {
        &self.own
    }

    /// The nonce, once all announcements are there and hold (PROTOCOL M-25). From then on these
    /// announcements count and no others: they are to be durable before the nonce is sent.
    ///
    /// # Errors
    /// When one is missing, is a stranger's, is not under the pinned identity, or ours is not ours.
    pub fn reveal(
        &self,
        roll: &Roll,
        announced: &BTreeMap<HospitalId, SignedAnnounce>,
    ) -> Result<GraphNonce, SetupRefused> {
        self.check(roll, announced)?;
        Ok(self.nonce)
    }

    fn check(
        &self,
        roll: &Roll,
        announced: &BTreeMap<HospitalId, SignedAnnounce>,
    ) -> Result<BTreeMap<HospitalId, KeyAnnounce>, SetupRefused> {
        let checked = check_announced(roll, announced)?;
        let me = &self.own.announce.hospital;
        if announced.get(me) == Some(&self.own) {
            Ok(checked)
        } else {
            Err(SetupRefused::Changed { hospital: me.clone(), what: "the announcement" })
        }
    }

    /// Agrees with every neighbour. The agreement secret is gone afterwards (PROTOCOL M-12).
    ///
    /// # Errors
    /// As [`Announced::reveal`]; when a nonce is missing or not the one that was committed to, or a
    /// key makes every agreement the same. Then this hospital stands where it stood.
    #[expect(clippy::result_large_err, reason = "the hospital gets its secret back")]
    pub fn agree(
        self,
        roll: &Roll,
        announced: &BTreeMap<HospitalId, SignedAnnounce>,
        nonces: &BTreeMap<HospitalId, GraphNonce>,
    ) -> Result<(Provision, Keyring), (Self, SetupRefused)> {
        match self.try_agree(roll, announced, nonces) {
            Ok(agreed) => Ok(agreed),
            Err(refused) => Err((self, refused)),
        }
    }

    fn try_agree(
        &self,
        roll: &Roll,
        announced: &BTreeMap<HospitalId, SignedAnnounce>,
        nonces: &BTreeMap<HospitalId, GraphNonce>,
    ) -> Result<(Provision, Keyring), SetupRefused> {
        let checked = self.check(roll, announced)?;
        let provision = Provision::new(roll, &checked, nonces)?;
        let ours = &self.own.announce;
        let stranger = || SetupRefused::Stranger { hospital: ours.hospital.clone() };
        let neighbourhood = provision.neighbourhood(&ours.hospital).ok_or_else(stranger)?;
        let mut pairs = BTreeMap::new();
        for member in neighbourhood.neighbours() {
            let theirs = checked.get(&member.hospital).ok_or_else(|| SetupRefused::Missing {
                hospital: member.hospital.clone(),
                what: "the announcement",
            })?;
            let (chain, shares) = self.secret.root(ours, theirs)?.into_keys(FIRST_SLOT);
            pairs.insert(member.hospital.clone(), PairKeys { chain, shares });
        }
        Ok((provision, Keyring { neighbourhood, pairs }))
    }
}

/// What a hospital shares with each of its neighbours.
#[derive(Debug, PartialEq, Eq)]
pub struct Keyring {
    neighbourhood: Neighbourhood,
    pairs: BTreeMap<HospitalId, PairKeys>,
}

/// A batch, with what its owner keeps of it.
#[derive(Debug)]
pub struct Made {
    /// To be sent.
    pub batch: SignedBatch,
    /// To be kept, one by one, until each is taken.
    pub own: OwnSlots,
}

/// The shares of one hospital that this one holds, by slot.
pub type Opened = Vec<(SlotId, HeldShares)>;

impl Keyring {
    /// This hospital and its neighbours.
    #[must_use]
    pub const fn neighbourhood(&self) -> &Neighbourhood {
        &self.neighbourhood
    }

    /// For the house's own journal: 72 bytes for each neighbour, in the order of their names.
    #[must_use]
    pub fn secrets(&self) -> SecretBytes {
        let mut bytes = Vec::with_capacity(PAIR * self.pairs.len());
        for pair in self.pairs.values() {
            bytes.extend_from_slice(&pair.chain.next().get().to_le_bytes());
            bytes.extend_from_slice(pair.chain.state().expose());
            bytes.extend_from_slice(pair.shares.secret().expose());
        }
        SecretBytes::new(bytes)
    }

    /// Takes back what [`Keyring::secrets`] gave. None when it is not that.
    #[must_use]
    pub fn resume(provision: &Provision, me: &HospitalId, secrets: &SecretBytes) -> Option<Self> {
        let neighbourhood = provision.neighbourhood(me)?;
        let (kept, []) = secrets.expose().as_chunks::<PAIR>() else { return None };
        if kept.len() != neighbourhood.neighbours().len() {
            return None;
        }
        let pair = |bytes: &[u8; PAIR]| {
            let (next, rest) = bytes.split_first_chunk::<8>()?;
            let (state, root) = rest.split_at_checked(32)?;
            let next = SlotId::new(u64::from_le_bytes(*next));
            Some(PairKeys {
                chain: PairChain::resume(next, Secret::from_slice(state)?),
                shares: ShareRoot::new(Secret::from_slice(root)?),
            })
        };
        let neighbours = neighbourhood.neighbours().iter().zip(kept);
        let pairs = neighbours.map(|(member, bytes)| Some((member.hospital.clone(), pair(bytes)?)));
        let pairs = pairs.collect::<Option<_>>()?;
        Some(Self { neighbourhood, pairs })
    }

    /// The first slot whose seeds are still there.
    #[must_use]
    pub fn next(&self) -> SlotId {
        self.pairs.values().map(|pair| pair.chain.next()).max().unwrap_or(FIRST_SLOT)
    }

    /// Makes the batch of this number. Identifier and seed are random and for this batch alone; once
    /// it is durable no other is made of the same number.
    ///
    /// # Errors
    /// When it is not due: its slots are past, or it is more than one after the present one (PROTOCOL M-27).
    pub fn make(
        &self,
        provision: &Provision,
        identity: &Identity,
        number: u64,
        batch: [u8; 16],
        seed: Secret<32>,
    ) -> Result<Made, SetupRefused> {
        let last = provision.batch_of(self.next()).saturating_add(1);
        let first = provision.first_of(number);
        if number > last || first < self.next() {
            return Err(SetupRefused::NotDue { found: number, last });
        }
        let roll = provision.roll();
        let owner = self.neighbourhood.owner().hospital.clone();
        let (study, charter) = (roll.study(), roll.digest());
        let scope = BatchScope { study, charter, owner, batch, first };
        let slots = provision.batch_slots();
        let (batch, own) = slots::make(&scope, slots, &self.neighbourhood, &self.pairs, seed)?;
        let signature = identity.sign(&batch);
        Ok(Made { batch: SignedBatch { batch, signature }, own })
    }

    /// Opens the shares that a neighbour has sealed for this hospital.
    ///
    /// # Errors
    /// When the batch is not the neighbour's, not of these slots, or a share does not open: then
    /// none of it is used, and the neighbour is named (PROTOCOL M-14, M-18).
    pub fn open(
        &self,
        provision: &Provision,
        owner: &HospitalId,
        number: u64,
        said: &SignedBatch,
    ) -> Result<Opened, SetupRefused> {
        check_batch(provision, owner, number, said)?;
        let stranger = || SetupRefused::Stranger { hospital: owner.clone() };
        let pair = self.pairs.get(owner).ok_or_else(stranger)?;
        let theirs = provision.neighbourhood(owner).ok_or_else(stranger)?;
        Ok(said.batch.open(&theirs, self.neighbourhood.owner(), &pair.shares)?)
    }

    /// The seeds of a slot, which are gone afterwards, and all before them (PROTOCOL M-11).
    ///
    /// # Errors
    /// When they are gone already, or the slot is too far ahead.
    pub fn take(&mut self, slot: SlotId) -> Result<BTreeMap<HospitalId, PairSeed>, OutOfChain> {
        // Whatever refuses one refuses all: the chains stand at the same slot.
        let take =
            |(id, pair): (&HospitalId, &mut PairKeys)| Ok((id.clone(), pair.chain.take(slot)?));
        self.pairs.iter_mut().map(take).collect()
    }

    /// Passes over all slots up to this one: their seeds are gone.
    ///
    /// # Errors
    /// When the slot is too far ahead.
    pub fn pass(&mut self, slot: SlotId) -> Result<(), OutOfChain> {
        for pair in self.pairs.values_mut() {
            if pair.chain.next() <= slot {
                pair.chain.skip_to(slot.next())?;
            }
        }
        Ok(())
    }

    /// The masks of an update: this hospital's own, and one for each neighbour on the roster.
    #[must_use]
    pub fn masks(
        &self,
        context: ContextDigest,
        members: &BTreeSet<HospitalId>,
        own: &OwnSlot,
        seeds: &BTreeMap<HospitalId, PairSeed>,
    ) -> Vec<Mask> {
        let me = &self.neighbourhood.owner().hospital;
        let near = seeds.iter().filter(|(id, _)| members.contains(*id));
        context.masks_of(me, own.secret(), near)
    }
}
