//! Batches of slots that a hospital spoils before it signs them: sealed, signed, of the right
//! length, and wrong inside.

use std::collections::BTreeMap;

use aggregation::ids::{HospitalId, SlotId};
use aggregation::keys::chain::{PairChain, ShareRoot};
use aggregation::keys::identity::Identity;
use aggregation::keys::slots::{self, PairKeys, PrekeyBatch};
use aggregation::secret::Secret;
use aggregation::setup::SignedBatch;
use aggregation::setup::keyring::Keyring;

use crate::simulation::chance::Chance;

/// How a batch is spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoil {
    /// The escrow does not open.
    Escrow,
    /// The escrow opens to other seeds than the masks grow from.
    Seeds,
    /// One neighbour's shares are of other secrets.
    Shares,
    /// The commitments are to other secrets.
    Commitments,
    /// One neighbour's shares do not open.
    Unopened,
}

pub(crate) const SPOILS: [Spoil; 5] =
    [Spoil::Escrow, Spoil::Seeds, Spoil::Shares, Spoil::Commitments, Spoil::Unopened];

/// Bytes of two sealed shares, and of two commitments.
const SEALED: usize = 80;
const COMMITTED: usize = 64;

/// Spoils every slot of a batch. None when it cannot be taken apart.
pub(crate) fn spoil(
    how: Spoil,
    chance: &mut Chance,
    good: &SignedBatch,
    seed: &[u8; 32],
    (keyring, identity): (&Keyring, &Identity),
) -> Option<SignedBatch> {
    let scope = good.batch.scope();
    let near = keyring.neighbourhood();
    let neighbours = near.neighbours().len();
    // The same batch from other secrets, under the same keys and labels, so that its parts fit.
    let other_seed = if how == Spoil::Seeds { *seed } else { chance.bytes() };
    let keys = pairs(keyring, how == Spoil::Seeds)?;
    let slots = good.batch.slots();
    let (other, _) = slots::make(scope, slots, near, &keys, Secret::new(other_seed)).ok()?;
    let victim = chance.index(neighbours);
    let mut bytes = good.batch.encoded().to_vec();
    let record = COMMITTED + SEALED * neighbours + 32 * neighbours + 16;
    let records = usize::try_from(slots).ok()?.checked_mul(record)?;
    let begin = bytes.len().checked_sub(records)?;
    let shares = COMMITTED + SEALED * victim;
    let part = match how {
        Spoil::Escrow | Spoil::Seeds => COMMITTED + SEALED * neighbours..record,
        Spoil::Shares | Spoil::Unopened => shares..shares + SEALED,
        Spoil::Commitments => 0..COMMITTED,
    };
    let theirs = other.encoded().get(begin..)?.chunks(record);
    for (ours, theirs) in bytes.get_mut(begin..)?.chunks_mut(record).zip(theirs) {
        let (ours, theirs) = (ours.get_mut(part.clone())?, theirs.get(part.clone())?);
        if how == Spoil::Unopened {
            ours.iter_mut().for_each(|byte| *byte ^= 0x55);
        } else {
            ours.copy_from_slice(theirs);
        }
    }
    let batch = PrekeyBatch::decode(bytes).ok()?;
    let signature = identity.sign(&batch);
    Some(SignedBatch { batch, signature })
}

/// The keys of a keyring once more, by way of its journal; with chains of nobody, if that is asked.
fn pairs(keyring: &Keyring, astray: bool) -> Option<BTreeMap<HospitalId, PairKeys>> {
    let secrets = keyring.secrets();
    let names = keyring.neighbourhood().neighbours().iter().map(|member| &member.hospital);
    let pair = |bytes: &[u8]| {
        let next = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        let state = if astray { bytes.get(40..72)? } else { bytes.get(8..40)? };
        let chain = PairChain::resume(SlotId::new(next), Secret::from_slice(state)?);
        let shares = ShareRoot::new(Secret::from_slice(bytes.get(40..72)?)?);
        Some(PairKeys { chain, shares })
    };
    let pairs = names.zip(secrets.expose().chunks(72));
    pairs.map(|(id, bytes)| Some((id.clone(), pair(bytes)?))).collect()
}
