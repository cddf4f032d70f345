//! The two seals of a slot: a neighbour's shares, and the escrow.
//!
//! Shares: AES-256-GCM under `HKDF(share root, study, charter, batch id, from, to)` with the slot's
//! number as the nonce. The batch id is random, so a node that was restored from a backup and
//! makes a batch again does so under other keys, and no nonce is used twice (PROTOCOL M-14).
//! Escrow: AES-256-GCM under `HKDF(r, scope, slot)`, a key that seals nothing else, with a nonce of
//! zeros (PROTOCOL M-15). What is sealed for one place opens in no other: all of that is
//! authenticated too.
//!
//! Source: [NIST SP 800-38D] section 8.2.1 (deterministic nonces).
//!
//! [NIST SP 800-38D]: https://doi.org/10.6028/NIST.SP.800-38D

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};

use crate::ids::SlotId;
use crate::keys::chain::{PairSeed, ShareRoot};
use crate::keys::graph::Member;
use crate::keys::slots::HeldShares;
use crate::keys::slots::batch::BatchScope;
use crate::masking::sharing::{SecretScalar, Share};
use crate::secret::{Secret, SecretBytes};
use crate::transcript::Transcript;

/// Bytes of a tag.
const TAG: usize = 16;

/// Bytes of two sealed shares.
pub(super) const SEALED_SHARES: usize = 64 + TAG;

/// Bytes of a sealed escrow of so many seeds.
pub(super) const fn escrow_bytes(neighbours: usize) -> usize {
    32 * neighbours + TAG
}

fn cipher(key: &Secret<32>) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, key.expose());
    LessSafeKey::new(key.expect("a key of AES-256 has 32 bytes, and so has this one"))
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Encrypts what lies before the tag's place, and writes the tag there.
fn seal(key: &LessSafeKey, number: u64, place: &Transcript, out: &mut [u8]) {
    let (secret, tag) = out.split_at_mut(out.len() - TAG);
    let sealed = key
        .seal_in_place_separate_tag(nonce(number), Aad::from(place.encoded()), secret)
        .expect("a slot is far below the length that GCM can seal");
    tag.copy_from_slice(sealed.as_ref());
}

/// What was sealed, if it was sealed under this key for this place.
fn open(key: &LessSafeKey, number: u64, place: &Transcript, sealed: &[u8]) -> Option<SecretBytes> {
    let (secret, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG)?)?;
    let tag: Tag = tag.try_into().ok()?;
    let mut secret = SecretBytes::new(secret.to_vec());
    let in_place = secret.expose_mut();
    key.open_in_place_separate_tag(nonce(number), Aad::from(place.encoded()), tag, in_place, 0..)
        .ok()?;
    Some(secret)
}

/// Seals and opens the shares that one hospital makes for one neighbour in one batch.
pub(super) struct ShareSealer {
    key: LessSafeKey,
    scope: BatchScope,
    to: Member,
}

impl ShareSealer {
    pub(super) fn new(root: &ShareRoot, scope: &BatchScope, to: &Member) -> Self {
        let mut purpose = scope.transcript("consilium/share-key/1");
        purpose.text(to.hospital.as_str());
        Self { key: cipher(&root.secret().derive(&purpose)), scope: scope.clone(), to: to.clone() }
    }

    fn place(&self, slot: SlotId) -> Transcript {
        let mut place = self.scope.transcript("consilium/share/1");
        place.u64(slot.get()).text(self.to.hospital.as_str()).u32(self.to.holder.get().into());
        place
    }

    pub(super) fn seal(&self, slot: SlotId, own: &Share, recovery: &Share, out: &mut [u8]) {
        let shares = out
            .iter_mut()
            .zip(own.value().secret().expose().iter().chain(recovery.value().secret().expose()));
        shares.for_each(|(out, byte)| *out = *byte);
        seal(&self.key, slot.get(), &self.place(slot), out);
    }

    pub(super) fn open(&self, slot: SlotId, sealed: &[u8]) -> Option<HeldShares> {
        let secrets = open(&self.key, slot.get(), &self.place(slot), sealed)?;
        HeldShares::resume(self.to.holder, &Secret::from_slice(secrets.expose())?)
    }
}

fn escrow_key(scope: &BatchScope, slot: SlotId, recovery: &SecretScalar) -> LessSafeKey {
    let mut purpose = scope.transcript("consilium/escrow-key/1");
    cipher(&recovery.secret().derive(purpose.u64(slot.get())))
}

fn escrow_place(scope: &BatchScope, slot: SlotId, neighbours: usize) -> Transcript {
    let mut place = scope.transcript("consilium/escrow/1");
    place.u64(slot.get()).list(neighbours);
    place
}

pub(super) fn seal_escrow(
    scope: &BatchScope,
    slot: SlotId,
    recovery: &SecretScalar,
    seeds: &[PairSeed],
    out: &mut [u8],
) {
    for (out, seed) in out.chunks_exact_mut(32).zip(seeds) {
        out.copy_from_slice(seed.secret().expose());
    }
    let place = escrow_place(scope, slot, seeds.len());
    seal(&escrow_key(scope, slot, recovery), 0, &place, out);
}

pub(super) fn open_escrow(
    scope: &BatchScope,
    slot: SlotId,
    recovery: &SecretScalar,
    sealed: &[u8],
) -> Option<Vec<PairSeed>> {
    let place = escrow_place(scope, slot, sealed.len().checked_sub(TAG)? / 32);
    let seeds = open(&escrow_key(scope, slot, recovery), 0, &place, sealed)?;
    let (seeds, []) = seeds.expose().as_chunks::<32>() else { return None };
    Some(seeds.iter().map(|seed| PairSeed::new(Secret::new(*seed))).collect())
}
