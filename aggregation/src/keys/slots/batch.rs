//! A batch of slots as it travels: one fixed layout, read without trusting a number in it
//! (PROTOCOL M-17), signed as a whole (PROTOCOL M-18).
//!
//! ```text
//! "prekeys1"  study 32  charter 32  batch id 16  first slot u64  slots u32  neighbours u16
//! owner's name: length u8, then its bytes
//! then for each slot, with k neighbours in the order of their names, 112 k + 80 bytes:
//!     H(b) 32   H(r) 32   k times two sealed shares 80   sealed escrow 32 k + 16
//! ```
//! Numbers are little-endian. Nothing follows the last slot.

use std::fmt;
use std::sync::Arc;

use crate::ids::{Digest, HospitalId, SlotId, StudyId};
use crate::keys::chain::{PairSeed, ShareRoot};
use crate::keys::graph::{Member, Neighbourhood};
use crate::keys::identity::{IdentityKey, Signature, Statement};
use crate::keys::slots::seal::{self, SEALED_SHARES, ShareSealer, escrow_bytes};
use crate::keys::slots::{HeldShares, Kind, MAX_BATCH_BYTES, MAX_SLOTS, SlotRefused};
use crate::masking::sharing::SecretScalar;
use crate::transcript::Transcript;

const MAGIC: &[u8; 8] = b"prekeys1";

/// Bytes before the owner's name.
const FIXED: usize = 8 + 32 + 32 + 16 + 8 + 4 + 2 + 1;

/// What a batch is for. It is part of every key, commitment and seal in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchScope {
    /// The study.
    pub study: StudyId,
    /// The charter's digest.
    pub charter: Digest,
    /// Whose slots they are.
    pub owner: HospitalId,
    /// 16 random bytes, never used for another batch.
    pub batch: [u8; 16],
    /// The first of its slots.
    pub first: SlotId,
}

impl BatchScope {
    /// The beginning of a transcript about something in this batch.
    pub(super) fn transcript(&self, label: &'static str) -> Transcript {
        let Self { study, charter, owner, batch, first } = self;
        let mut transcript = Transcript::new(label);
        transcript
            .bytes(study.digest().as_bytes())
            .bytes(charter.as_bytes())
            .text(owner.as_str())
            .bytes(batch)
            .u64(first.get());
        transcript
    }

    /// H(b) or H(r): a key derived from the secret for no other use. It binds, since HMAC-SHA256
    /// under two keys of 32 bytes agrees on one message only if SHA-256 collides; and it hides,
    /// since the secret has 252 random bits.
    pub(super) fn commitment(&self, slot: SlotId, kind: Kind, secret: &SecretScalar) -> Digest {
        let mut purpose = self.transcript("consilium/slot-commitment/1");
        purpose.u64(slot.get()).text(kind.name());
        Digest::new(*secret.secret().derive::<32>(&purpose).expose())
    }
}

/// A hospital's slots, as its neighbours and the coordinator have them.
#[derive(Clone, PartialEq, Eq)]
pub struct PrekeyBatch {
    scope: BatchScope,
    slots: u32,
    neighbours: usize,
    /// Shared: whoever passes a batch on, or gives it to a round, copies none of it.
    encoded: Arc<Vec<u8>>,
    start: usize,
}

/// Of its bytes only how many: there are many, and what is sealed in them is nobody's to read.
impl fmt::Debug for PrekeyBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrekeyBatch")
            .field("scope", &self.scope)
            .field("slots", &self.slots)
            .field("neighbours", &self.neighbours)
            .field("bytes", &self.encoded.len())
            .finish()
    }
}

impl Statement for PrekeyBatch {
    const LABEL: &'static str = "consilium/prekey-batch/1";

    fn write(&self, transcript: &mut Transcript) {
        transcript.bytes(Digest::sha256(&self.encoded).as_bytes());
    }
}

/// Bytes of one slot.
const fn slot_bytes(neighbours: usize) -> usize {
    64 + neighbours * SEALED_SHARES + escrow_bytes(neighbours)
}

/// Bytes of a whole batch, if there may be such a one.
fn batch_bytes(name: usize, slots: u32, neighbours: usize) -> Option<usize> {
    if !(1..=MAX_SLOTS).contains(&slots) || neighbours == 0 {
        return None;
    }
    let body = slot_bytes(neighbours).checked_mul(usize::try_from(slots).ok()?)?;
    let whole = body.checked_add(FIXED + name)?;
    (whole <= MAX_BATCH_BYTES).then_some(whole)
}

/// Reads fields off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}

fn malformed(expected: &'static str, found: u64) -> SlotRefused {
    SlotRefused::Malformed { expected, found }
}

impl PrekeyBatch {
    /// Reads a batch.
    ///
    /// # Errors
    /// When the bytes are not exactly one batch (PROTOCOL M-17). Nothing is allocated by a number
    /// that they contain.
    pub fn decode(encoded: Vec<u8>) -> Result<Self, SlotRefused> {
        let length = crate::units::count(encoded.len());
        let short = || malformed("begins with its scope", length);
        let mut reader = Reader(&encoded);
        if reader.array() != Some(*MAGIC) {
            return Err(malformed("begins with its name and version", length));
        }
        let study = StudyId::new(Digest::new(reader.array().ok_or_else(short)?));
        let charter = Digest::new(reader.array().ok_or_else(short)?);
        let batch = reader.array().ok_or_else(short)?;
        let first = SlotId::new(u64::from_le_bytes(reader.array().ok_or_else(short)?));
        let slots = u32::from_le_bytes(reader.array().ok_or_else(short)?);
        let neighbours: usize = u16::from_le_bytes(reader.array().ok_or_else(short)?).into();
        let [name] = reader.array().ok_or_else(short)?;
        let owner = reader.take(name.into()).ok_or_else(short)?;
        let owner = str::from_utf8(owner).ok().and_then(|name| HospitalId::new(name).ok());
        let owner = owner.ok_or_else(|| malformed("names a hospital", length))?;
        // The last slot must have a number, and one after it.
        if first.get().checked_add(slots.into()).is_none() {
            return Err(malformed("ends at a slot that has a number", first.get()));
        }
        let whole = batch_bytes(name.into(), slots, neighbours);
        if whole.is_none() {
            return Err(malformed("has 1 to 16384 slots, and a neighbour", slots.into()));
        }
        if whole != Some(encoded.len()) {
            return Err(malformed("has the bytes of its slots and no others", length));
        }
        let start = FIXED + usize::from(name);
        let scope = BatchScope { study, charter, owner, batch, first };
        Ok(Self { scope, slots, neighbours, encoded: Arc::new(encoded), start })
    }

    /// The size of a batch of so many slots for so many neighbours, if there may be such a one: a
    /// batch of any other size need not be received (PROTOCOL M-17).
    #[must_use]
    pub fn size(owner: &HospitalId, slots: u32, neighbours: usize) -> Option<usize> {
        batch_bytes(owner.as_str().len(), slots, neighbours)
    }

    /// The bytes that travel and that are signed.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// The same bytes, shared.
    #[must_use]
    pub fn shared(&self) -> Arc<Vec<u8>> {
        Arc::clone(&self.encoded)
    }

    /// What it is for.
    #[must_use]
    pub const fn scope(&self) -> &BatchScope {
        &self.scope
    }

    /// The number of its slots.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        self.slots
    }

    /// Whether this is the batch that the hospital with this pinned identity made for its
    /// neighbourhood under our charter, from the slot that is due.
    ///
    /// # Errors
    /// When it is for anything else, or signed by someone else (PROTOCOL M-18).
    pub fn check(
        &self,
        study: StudyId,
        charter: Digest,
        first: SlotId,
        neighbourhood: &Neighbourhood,
        pinned: &IdentityKey,
        signature: &Signature<Self>,
    ) -> Result<(), SlotRefused> {
        let owner = &neighbourhood.owner().hospital;
        let same = [
            ("hospital", self.scope.owner == *owner),
            ("study", self.scope.study == study),
            ("charter", self.scope.charter == charter),
            ("first slot", self.scope.first == first),
            ("number of neighbours", self.neighbours == neighbourhood.neighbours().len()),
        ];
        if let Some((what, _)) = same.iter().find(|(_, same)| !same) {
            return Err(SlotRefused::OtherScope { owner: owner.clone(), what });
        }
        pinned
            .verify(self, signature)
            .map_err(|source| SlotRefused::Signature { owner: owner.clone(), source })
    }

    fn record(&self, slot: SlotId) -> Result<Record<'_>, SlotRefused> {
        let find = || {
            let at = slot.get().checked_sub(self.scope.first.get())?;
            let at = usize::try_from(at).ok().filter(|_| at < self.slots.into())?;
            let length = slot_bytes(self.neighbours);
            let begin = self.start.checked_add(at.checked_mul(length)?)?;
            let mut reader = Reader(self.encoded.get(begin..)?);
            Some(Record {
                own: Digest::new(reader.array()?),
                recovery: Digest::new(reader.array()?),
                shares: reader.take(SEALED_SHARES * self.neighbours)?,
                escrow: reader.take(escrow_bytes(self.neighbours))?,
            })
        };
        find().ok_or_else(|| SlotRefused::NoSlot { owner: self.scope.owner.clone(), slot })
    }

    /// Whether this is the secret that was committed to.
    ///
    /// # Errors
    /// When it is another (PROTOCOL M-13), or the slot is not in the batch.
    pub fn check_secret(
        &self,
        slot: SlotId,
        kind: Kind,
        secret: &SecretScalar,
    ) -> Result<(), SlotRefused> {
        let record = self.record(slot)?;
        let committed = match kind {
            Kind::Own => record.own,
            Kind::Recovery => record.recovery,
        };
        if self.scope.commitment(slot, kind, secret) == committed {
            Ok(())
        } else {
            Err(SlotRefused::OtherSecret { owner: self.scope.owner.clone(), slot, kind })
        }
    }

    /// Opens the shares that were sealed for one neighbour, of all slots.
    ///
    /// # Errors
    /// When it is no neighbour, or a share does not open or is none (PROTOCOL M-14): then the
    /// owner is at fault, and the batch is of no use.
    pub fn open(
        &self,
        neighbourhood: &Neighbourhood,
        neighbour: &Member,
        root: &ShareRoot,
    ) -> Result<Vec<(SlotId, HeldShares)>, SlotRefused> {
        let owner = &self.scope.owner;
        let position = neighbourhood.position(&neighbour.hospital);
        let position = position.filter(|_| neighbourhood.owner().hospital == *owner);
        let position = position.ok_or_else(|| SlotRefused::NoNeighbour {
            owner: owner.clone(),
            hospital: neighbour.hospital.clone(),
        })?;
        let sealer = ShareSealer::new(root, &self.scope, neighbour);
        let mut slot = self.scope.first;
        let mut held = Vec::new();
        for _ in 0..self.slots {
            let sealed = self.record(slot)?.shares.chunks_exact(SEALED_SHARES).nth(position);
            let shares = sealed.and_then(|sealed| sealer.open(slot, sealed));
            let shares = shares.ok_or_else(|| SlotRefused::Share {
                owner: owner.clone(),
                holder: neighbour.hospital.clone(),
                slot,
            })?;
            held.push((slot, shares));
            slot = slot.next();
        }
        Ok(held)
    }

    /// Opens the escrow of a slot: the seeds of the masks between the owner and each neighbour, in
    /// the order of their names.
    ///
    /// # Errors
    /// When the secret is not the one that was committed to (PROTOCOL M-13), or the escrow does
    /// not open with the one that was (PROTOCOL M-15): then the owner is at fault.
    pub fn open_escrow(
        &self,
        slot: SlotId,
        recovery: &SecretScalar,
    ) -> Result<Vec<PairSeed>, SlotRefused> {
        self.check_secret(slot, Kind::Recovery, recovery)?;
        seal::open_escrow(&self.scope, slot, recovery, self.record(slot)?.escrow)
            .ok_or_else(|| SlotRefused::Escrow { owner: self.scope.owner.clone(), slot })
    }
}

/// One slot of a batch.
struct Record<'a> {
    own: Digest,
    recovery: Digest,
    shares: &'a [u8],
    escrow: &'a [u8],
}

/// Writes a batch, slot after slot.
pub(super) struct Writer {
    scope: BatchScope,
    slots: u32,
    neighbours: usize,
    encoded: Vec<u8>,
    start: usize,
}

impl Writer {
    pub(super) fn new(
        scope: &BatchScope,
        slots: u32,
        neighbours: usize,
    ) -> Result<Self, SlotRefused> {
        let BatchScope { study, charter, owner, batch, first } = scope;
        let refuse = || SlotRefused::Slots { slots };
        let name = owner.as_str();
        let whole = batch_bytes(name.len(), slots, neighbours).ok_or_else(refuse)?;
        first.get().checked_add(slots.into()).ok_or_else(refuse)?;
        let mut encoded = Vec::with_capacity(whole);
        encoded.extend_from_slice(MAGIC);
        encoded.extend_from_slice(study.digest().as_bytes());
        encoded.extend_from_slice(charter.as_bytes());
        encoded.extend_from_slice(batch);
        encoded.extend_from_slice(&first.get().to_le_bytes());
        encoded.extend_from_slice(&slots.to_le_bytes());
        encoded.extend_from_slice(&u16::try_from(neighbours).map_err(|_| refuse())?.to_le_bytes());
        encoded.push(u8::try_from(name.len()).map_err(|_| refuse())?);
        encoded.extend_from_slice(name.as_bytes());
        let start = encoded.len();
        Ok(Self { scope: scope.clone(), slots, neighbours, encoded, start })
    }

    /// Begins a slot with its commitments.
    pub(super) fn begin(&mut self, own: &Digest, recovery: &Digest) {
        self.encoded.extend_from_slice(own.as_bytes());
        self.encoded.extend_from_slice(recovery.as_bytes());
    }

    /// Has the next neighbour's shares sealed in their place.
    pub(super) fn share(&mut self, seal: impl FnOnce(&mut [u8])) {
        self.in_place(SEALED_SHARES, seal);
    }

    /// Has the escrow sealed in its place.
    pub(super) fn escrow(&mut self, seal: impl FnOnce(&mut [u8])) {
        self.in_place(escrow_bytes(self.neighbours), seal);
    }

    // The room was reserved for the whole batch, so nothing unsealed is left behind by growing.
    fn in_place(&mut self, length: usize, seal: impl FnOnce(&mut [u8])) {
        let begin = self.encoded.len();
        self.encoded.resize(begin + length, 0);
        seal(&mut self.encoded[begin..]);
    }

    pub(super) fn finish(self) -> PrekeyBatch {
        let Self { scope, slots, neighbours, encoded, start } = self;
        PrekeyBatch { scope, slots, neighbours, encoded: Arc::new(encoded), start }
    }
}
