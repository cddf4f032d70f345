//! One-time slots: what a hospital leaves with its neighbours so that a round can end without it.
//!
//! For each slot it draws a self secret b, which hides its update even when all its pair masks
//! are known, and a recovery secret r, which opens an escrow of its pair seeds for that slot. Each
//! neighbour holds a share of both, sealed for it alone (PROTOCOL M-13, M-14). If the hospital's
//! update is in the sum, its neighbours give their shares of b; if it is not, of r; and never both
//! (PROTOCOL M-15), for with both the coordinator could unmask an update that arrived too late.
//!
//! All of it for many slots is one [`PrekeyBatch`], made and signed before the first of them, so
//! nothing about keys is said during a round. What the maker keeps is one [`OwnSlot`] for each
//! slot, used once (PROTOCOL M-16); its r is forgotten as soon as the batch is made.
//!
//! Sources: [BIK+17] (double masking), [BBG+20]; the escrow is our own.
//!
//! [BIK+17]: https://doi.org/10.1145/3133956.3133982
//! [BBG+20]: https://doi.org/10.1145/3372297.3417885

pub mod batch;
mod seal;

use std::collections::BTreeMap;

use crate::ids::{HospitalId, SlotId};
use crate::keys::chain::{OutOfChain, PairChain, ShareRoot};
use crate::keys::graph::Neighbourhood;
use crate::keys::identity::BadSignature;
use crate::masking::sharing::{Holder, Recovery, SecretScalar, Share, SharingError, split};
use crate::secret::Secret;

pub use batch::{BatchScope, PrekeyBatch};

/// The most slots in one batch.
pub const MAX_SLOTS: u32 = 16_384;

/// The most bytes of one batch.
pub const MAX_BATCH_BYTES: usize = 256 << 20;

/// Which of the two secrets of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// b, given for those whose update is in the sum.
    Own,
    /// r, given for those whose update is not.
    Recovery,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Own => "self",
            Self::Recovery => "recovery",
        }
    }
}

/// Why a batch, or something in it, is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotRefused {
    /// The bytes are no batch.
    #[error("a prekey batch {expected}; found {found}")]
    Malformed {
        /// What a batch would have.
        expected: &'static str,
        /// What was found.
        found: u64,
    },
    /// It is for another study, charter, hospital or number of neighbours, or from an unexpected slot on.
    #[error("the prekey batch of {owner} is for another {what} than expected")]
    OtherScope {
        /// Whose it should be.
        owner: HospitalId,
        /// What differs.
        what: &'static str,
    },
    /// It is not signed by the identity that was pinned.
    #[error("the prekey batch of {owner} is not its own: {source}")]
    Signature {
        /// Whose batch it pretends to be.
        owner: HospitalId,
        /// What did not hold.
        #[source]
        source: BadSignature,
    },
    /// The number of slots is out of range.
    #[error(
        "a prekey batch has 1 to {MAX_SLOTS} slots and at most {MAX_BATCH_BYTES} bytes; asked for {slots} slots"
    )]
    Slots {
        /// The number asked for.
        slots: u32,
    },
    /// The slot is not in the batch.
    #[error("slot {slot} is not in the prekey batch of {owner}")]
    NoSlot {
        /// Whose batch.
        owner: HospitalId,
        /// The slot asked for.
        slot: SlotId,
    },
    /// Not a neighbour of the batch's maker.
    #[error("{hospital} is not a neighbour of {owner}")]
    NoNeighbour {
        /// Whose batch.
        owner: HospitalId,
        /// Who is not.
        hospital: HospitalId,
    },
    /// A sealed share does not open, or is no share.
    #[error("the share of slot {slot} that {owner} sealed for {holder} does not open")]
    Share {
        /// Who sealed it.
        owner: HospitalId,
        /// For whom.
        holder: HospitalId,
        /// The slot.
        slot: SlotId,
    },
    /// A recovered secret is not the one that was committed to.
    #[error("the {} secret recovered for {owner} in slot {slot} is not the one that it committed to", .kind.name())]
    OtherSecret {
        /// Whose secret.
        owner: HospitalId,
        /// The slot.
        slot: SlotId,
        /// Which of the two.
        kind: Kind,
    },
    /// The escrow does not open with the secret that was committed to.
    #[error("the escrow of {owner} for slot {slot} does not open")]
    Escrow {
        /// Whose escrow.
        owner: HospitalId,
        /// The slot.
        slot: SlotId,
    },
    /// A chain cannot give a slot's seed.
    #[error(transparent)]
    Chain(#[from] OutOfChain),
    /// Secrets cannot be shared or recovered so.
    #[error(transparent)]
    Sharing(#[from] SharingError),
}

impl SlotRefused {
    /// The rule that was broken.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::Malformed { .. } | Self::Slots { .. } | Self::NoSlot { .. } => "M-17",
            Self::OtherScope { .. } | Self::Signature { .. } | Self::NoNeighbour { .. } => "M-18",
            Self::Share { .. } => "M-14",
            Self::OtherSecret { .. } => "M-13",
            Self::Escrow { .. } => "M-15",
            Self::Chain(cause) => cause.rule(),
            Self::Sharing(cause) => cause.rule(),
        }
    }
}

/// What a hospital keeps of one of its slots until it uses it.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnSlot {
    secret: SecretScalar,
    share: Share,
}

impl OwnSlot {
    /// Takes back what was kept of [`OwnSlot::secret`] and [`OwnSlot::share`].
    #[must_use]
    pub const fn new(secret: SecretScalar, share: Share) -> Self {
        Self { secret, share }
    }

    /// Takes back what [`OwnSlot::secrets`] gave, if it is that, for this holder's share.
    #[must_use]
    pub fn resume(holder: Holder, secrets: &Secret<64>) -> Option<Self> {
        let (secret, share) = secrets.expose().split_at(32);
        let scalar = |bytes| SecretScalar::from_canonical(Secret::from_slice(bytes)?);
        Some(Self { secret: scalar(secret)?, share: Share::new(holder, scalar(share)?) })
    }

    /// For the node's own journal.
    #[must_use]
    pub fn secrets(&self) -> Secret<64> {
        Secret::filled(|bytes| {
            let (secret, share) = bytes.split_at_mut(32);
            secret.copy_from_slice(self.secret.secret().expose());
            share.copy_from_slice(self.share.value().secret().expose());
        })
    }

    /// b.
    #[must_use]
    pub const fn secret(&self) -> &SecretScalar {
        &self.secret
    }

    /// The hospital's share of its own b. It holds none of its r, which is only asked for when the
    /// hospital is gone.
    #[must_use]
    pub const fn share(&self) -> &Share {
        &self.share
    }
}

/// The slots that a hospital has left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OwnSlots(BTreeMap<SlotId, OwnSlot>);

impl OwnSlots {
    /// Takes a slot and forgets it and everything before it: a retry needs a new one (PROTOCOL
    /// M-16). None when it is gone or was never made.
    pub fn take(&mut self, slot: SlotId) -> Option<OwnSlot> {
        let later = self.0.split_off(&slot.next());
        let mut gone = std::mem::replace(&mut self.0, later);
        gone.remove(&slot)
    }

    /// Adds a slot, from a batch or from the node's journal. A slot that is there already stays.
    pub fn insert(&mut self, slot: SlotId, own: OwnSlot) {
        self.0.entry(slot).or_insert(own);
    }

    /// Takes them apart, for the node's own journal.
    pub fn into_slots(self) -> impl Iterator<Item = (SlotId, OwnSlot)> {
        self.0.into_iter()
    }

    /// The slots that are left, in their order.
    pub fn slots(&self) -> impl Iterator<Item = SlotId> {
        self.0.keys().copied()
    }
}

/// A neighbour's shares of one slot of one hospital. Only one of them ever comes out.
#[derive(Debug, PartialEq, Eq)]
pub struct HeldShares {
    own: Share,
    recovery: Share,
}

impl HeldShares {
    /// Takes back what was kept of [`HeldShares::holder`] and [`HeldShares::secrets`], if it is that.
    #[must_use]
    pub fn resume(holder: Holder, secrets: &Secret<64>) -> Option<Self> {
        let (own, recovery) = secrets.expose().split_at(32);
        let share = |bytes| {
            let value = SecretScalar::from_canonical(Secret::from_slice(bytes)?)?;
            Some(Share::new(holder, value))
        };
        Some(Self { own: share(own)?, recovery: share(recovery)? })
    }

    /// Whose they are.
    #[must_use]
    pub const fn holder(&self) -> Holder {
        self.own.holder()
    }

    /// For the node's own journal.
    #[must_use]
    pub fn secrets(&self) -> Secret<64> {
        Secret::filled(|bytes| {
            let (own, recovery) = bytes.split_at_mut(32);
            own.copy_from_slice(self.own.value().secret().expose());
            recovery.copy_from_slice(self.recovery.value().secret().expose());
        })
    }

    /// Gives one of the two and forgets the other (PROTOCOL M-15).
    #[must_use]
    pub fn release(self, kind: Kind) -> Share {
        match kind {
            Kind::Own => self.own,
            Kind::Recovery => self.recovery,
        }
    }
}

/// What a hospital has in common with one of its neighbours.
#[derive(Debug, PartialEq, Eq)]
pub struct PairKeys {
    /// Seeds of slots.
    pub chain: PairChain,
    /// Keys for sealed shares.
    pub shares: ShareRoot,
}

/// Makes a hospital's batch for some slots from one on, with what it keeps itself. The seed is
/// random, used for this one batch, and forgotten with it.
///
/// # Errors
/// When the number of slots is out of range, the keys are not those of exactly the neighbours, the
/// scope is not the owner's, a chain is past the first slot, or the threshold cannot be met.
pub fn make(
    scope: &BatchScope,
    slots: u32,
    neighbourhood: &Neighbourhood,
    keys: &BTreeMap<HospitalId, PairKeys>,
    seed: Secret<32>,
) -> Result<(PrekeyBatch, OwnSlots), SlotRefused> {
    let owner = neighbourhood.owner();
    let other = |what| SlotRefused::OtherScope { owner: owner.hospital.clone(), what };
    if scope.owner != owner.hospital {
        return Err(other("hospital"));
    }
    if keys.len() != neighbourhood.neighbours().len() {
        return Err(other("number of neighbours"));
    }
    let mut chains = Vec::with_capacity(keys.len());
    let mut sealers = Vec::with_capacity(keys.len());
    for neighbour in neighbourhood.neighbours() {
        let pair = keys.get(&neighbour.hospital).ok_or_else(|| SlotRefused::NoNeighbour {
            owner: owner.hospital.clone(),
            hospital: neighbour.hospital.clone(),
        })?;
        let mut chain = pair.chain.preview();
        chain.skip_to(scope.first)?;
        chains.push(chain);
        sealers.push(seal::ShareSealer::new(&pair.shares, scope, neighbour));
    }
    let mut batch = batch::Writer::new(scope, slots, chains.len())?;
    let mut holders: Vec<Holder> = neighbourhood.neighbours().iter().map(|m| m.holder).collect();
    holders.push(owner.holder);
    let threshold = neighbourhood.threshold();
    let mut kept = OwnSlots::default();
    let mut slot = scope.first;
    for _ in 0..slots {
        let [own, recovery] =
            [Kind::Own, Kind::Recovery].map(|kind| draw(scope, &seed, kind, slot));
        let mut own_shares = split(&own.secret, threshold, &holders, &own.coefficients)?;
        // The owner holds no share of r, but r is shared among as many as b: its share is made and
        // dropped, so that both need the same number of neighbours.
        let recovery_shares = split(&recovery.secret, threshold, &holders, &recovery.coefficients)?;
        batch.begin(
            &scope.commitment(slot, Kind::Own, &own.secret),
            &scope.commitment(slot, Kind::Recovery, &recovery.secret),
        );
        for (sealer, (own, recovery)) in sealers.iter().zip(own_shares.iter().zip(&recovery_shares))
        {
            batch.share(|out| sealer.seal(slot, own, recovery, out));
        }
        let mut seeds = Vec::with_capacity(chains.len());
        for chain in &mut chains {
            seeds.push(chain.take(slot)?);
        }
        batch.escrow(|out| seal::seal_escrow(scope, slot, &recovery.secret, &seeds, out));
        if let Some(share) = own_shares.pop() {
            kept.insert(slot, OwnSlot::new(own.secret, share));
        }
        slot = slot.next();
    }
    Ok((batch.finish(), kept))
}

struct Drawn {
    secret: SecretScalar,
    coefficients: Secret<32>,
}

fn draw(scope: &BatchScope, seed: &Secret<32>, kind: Kind, slot: SlotId) -> Drawn {
    let derive = |label| {
        let mut purpose = scope.transcript(label);
        purpose.u64(slot.get()).text(kind.name());
        purpose
    };
    Drawn {
        secret: SecretScalar::from_wide(&seed.derive(&derive("consilium/slot-secret/1"))),
        coefficients: seed.derive(&derive("consilium/slot-coefficients/1")),
    }
}

/// Recovers a slot's secret from shares and holds it against the commitment.
///
/// # Errors
/// When the shares are not those of the prepared holders, or do not give the secret that was
/// committed to: too few of them, or a wrong one (PROTOCOL M-13).
pub fn recover(
    batch: &PrekeyBatch,
    slot: SlotId,
    kind: Kind,
    holders: &Recovery,
    shares: &[&Share],
) -> Result<SecretScalar, SlotRefused> {
    let secret = holders.recover(shares)?;
    batch.check_secret(slot, kind, &secret)?;
    Ok(secret)
}

#[cfg(test)]
mod tests;
