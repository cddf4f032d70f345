//! The steps of a masked round: mask, sign, give shares. What leaves this house and what it erases
//! for that are one transaction of the journal; what leaves twice is the same both times.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use aggregation::charter::Charter;
use aggregation::context::ContextDigest;
use aggregation::ids::{Digest, HospitalId, SlotId};
use aggregation::keys::identity::Signature;
use aggregation::keys::provision::Provision;
use aggregation::keys::roll::Roll;
use aggregation::masking::masks::Masks;
use aggregation::message::{SetStatement, Terms};
use aggregation::participant::{Action, Event, Participant};
use proto::federation::{SignatureRequest, Stage as Reported};
use zeroize::Zeroizing;

use super::super::calls::CallError;
use super::super::{Done, House};
use super::{Seat, Unseated};
use crate::journal::{Journal, JournalError, LocalStudy, Ours, Packed};
use crate::link::Client;
use crate::purse::NoCharge;
use crate::state::private;

/// Tiles that are read, masked and written at once.
const TILES: usize = 16;

/// An update could not be masked.
#[derive(Debug, thiserror::Error)]
pub(in crate::driver) enum MaskError {
    /// The keys.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The work folder.
    #[error("the work folder: {0}")]
    Disk(#[from] io::Error),
    /// It was not paid for.
    #[error("the privacy ledger: {0}")]
    Ledger(#[from] NoCharge),
}

/// Who is whose neighbour in a study, once this house has agreed on keys with the others; none in a
/// study without masks.
pub(super) async fn provision(
    house: &House,
    local: &LocalStudy,
    charter: &Charter,
) -> Result<Option<Provision>, Unseated> {
    if charter.thresholds().is_none() {
        return Ok(None);
    }
    let roll = match Roll::new(charter, &local.identities) {
        Ok(roll) => roll,
        Err(error) => {
            // Without a provision every round is declined for want of keys.
            tracing::warn!(study = local.name, %error, rule = error.rule(), "cannot have keys; has the study to be approved again?");
            return Ok(None);
        }
    };
    match house.journal.keys(local.id).await? {
        Some(kept) => Ok(kept.provision(&roll)?),
        None => Ok(None),
    }
}

impl Seat {
    /// Whether it was taken before the keys of its study were agreed on.
    pub(in crate::driver) fn lacks_keys(&self) -> bool {
        self.provision.is_none() && self.participant.charter().thresholds().is_some()
    }

    /// Whether this site can mask with everyone who is invited. Without a provision the participant
    /// itself says no.
    pub(in crate::driver) async fn has_keys_for(&self, terms: &Terms) -> bool {
        let Some(provision) = &self.provision else { return true };
        let near = provision.neighbourhood(&self.house.me);
        let near = near.iter().flat_map(|near| near.neighbours()).map(|member| &member.hospital);
        let others: BTreeSet<&HospitalId> =
            near.filter(|site| terms.invited.contains(*site)).collect();
        let journal = &self.house.journal;
        journal.has_keys(self.local.id, terms.slot, &others).await.unwrap_or_else(|error| {
            tracing::error!(study = self.local.name, %error, "cannot read the keys of a slot");
            false
        })
    }

    /// Masks the update in a task of its own; not twice at once.
    pub(super) fn mask(
        &mut self,
        slot: SlotId,
        context: ContextDigest,
        members: BTreeSet<HospitalId>,
    ) {
        let at_it = |(current, task): &(SlotId, tokio::task::JoinHandle<()>)| {
            *current == slot && !task.is_finished()
        };
        let (Some(provision), Some(terms)) = (&self.provision, &self.terms) else { return };
        if self.masking.as_ref().is_some_and(at_it) {
            return;
        }
        let Ok(format) = self.participant.charter().format(terms.work) else { return };
        self.progress.say(terms, Reported::Masking, 0);
        let (journal, me) = (self.house.journal.clone(), self.house.me.clone());
        let (provision, modulus, lanes) = (Arc::clone(provision), format.modulus(), format.lanes());
        let (from, to) = (self.update(slot), self.masked_update(slot));
        let (study, done) = (self.local.id, self.done.clone());
        let task = tokio::spawn(async move {
            let ours = Ours { me: &me, provision: &provision };
            let masks = journal.masks(ours, slot, context, &members).await;
            let result = match masks {
                Ok(masks) => {
                    off_thread(move || mask_file(&from, &to, &Masks::new(modulus, masks), lanes))
                        .await
                        .map_err(MaskError::Disk)
                }
                Err(error) => Err(MaskError::Journal(error)),
            };
            // Nobody hears it when we are stopping.
            let _ = done.send(Done::Masked { study, slot, result }).await;
        });
        if let Some((_, earlier)) = self.masking.replace((slot, task)) {
            earlier.abort();
        }
    }

    /// The update is masked, or could not be.
    pub(in crate::driver) async fn masked(
        &mut self,
        session: u64,
        slot: SlotId,
        result: Result<Packed, MaskError>,
    ) {
        self.masking.take_if(|(current, _)| *current == slot);
        let roster = self.roster.as_ref().filter(|roster| roster.slot == slot);
        let (Some(ours), Some(roster)) = (self.ours(), roster) else { return };
        // Over, or too late: there is a final set without us.
        if self.participant.slot() != Some(slot) || self.participant.phase() != "mask" {
            return self.remove(&self.masked_update(slot)).await;
        }
        let journaled = match result {
            // Paid first: what the journal calls masked may be sent (PROTOCOL D-21).
            Ok(packed) => match self.charge(slot).await {
                Ok(()) => {
                    let journaled = self.house.journal.masked(ours, roster, packed.digest).await;
                    journaled.map(|()| packed).map_err(MaskError::Journal)
                }
                Err(error) => Err(MaskError::Ledger(error)),
            },
            Err(error) => Err(error),
        };
        let packed = match journaled {
            Ok(packed) => packed,
            Err(error) => {
                tracing::error!(study = self.local.name, slot = slot.get(), %error, "cannot mask our update; this round goes on without us");
                return;
            }
        };
        tracing::info!(study = self.local.name, slot = slot.get(), "update masked");
        self.packed = Some(packed);
        let bytes = usize::try_from(packed.bytes).unwrap_or(usize::MAX);
        self.happen(session, Event::Masked { slot, digest: packed.digest, bytes }).await;
        self.remove(&self.update(slot)).await;
    }

    /// A final set, or the shares given for one, is journaled before anything is said of it. Gives
    /// whether anything was erased.
    pub(super) async fn journal_set(
        &self,
        event: &Event,
        next: &Participant,
        actions: &[Action],
    ) -> Result<bool, JournalError> {
        let (before, after) = (self.participant.phase(), next.phase());
        let slot = next.slot();
        let roster = self.roster.as_ref().filter(|roster| Some(roster.slot) == slot);
        match event {
            Event::Fixed(set) if before != after && after == "sign" => {
                let Some(roster) = roster else { return Ok(false) };
                self.house.journal.fixed(roster, set).await?;
                Ok(false)
            }
            Event::Unmask(asked) if before != after && after == "unmask" => {
                let (Some(ours), Some(roster), Some((own, recovery))) =
                    (self.ours(), roster, actions.iter().find_map(Action::shares))
                else {
                    return Ok(false);
                };
                self.house.journal.release(ours, roster, asked, own, recovery).await?;
                Ok(true)
            }
            Event::Offered(_)
            | Event::Barred { .. }
            | Event::Trained { .. }
            | Event::TrainerFailed { .. }
            | Event::Frozen(_)
            | Event::Masked { .. }
            | Event::Uploaded { .. }
            | Event::Fixed(_)
            | Event::Signed { .. }
            | Event::Unmask(_)
            | Event::Unmasked { .. }
            | Event::Closed(_)
            | Event::Reconnected => Ok(false),
        }
    }

    /// Sees to it that what was erased is nowhere any more.
    pub(super) async fn settle(&self) {
        if let Err(error) = self.house.journal.settle().await {
            tracing::warn!(study = self.local.name, %error, "what was erased may still be in the journal's log");
        }
    }
}

/// Masks a file into another, a few tiles at a time. Once its digest is journaled, these are the only
/// bytes that this house can ever send for the slot. Like what the trainer made, they are not synced:
/// bytes that a power cut ate are never sent, and the round ends without this site.
fn mask_file(from: &Path, to: &Path, masks: &Masks, lanes: usize) -> io::Result<Packed> {
    let mut pass = masks.pass(lanes);
    let mut buffer = Zeroizing::new(vec![0; pass.tile_bytes() * TILES]);
    let mut from = File::open(from)?;
    let mut masked = private().create(true).truncate(true).open(to)?;
    let mut hash = blake3::Hasher::new();
    let mut bytes = 0_u64;
    loop {
        let mut have = 0;
        while have < buffer.len() {
            match from.read(&mut buffer[have..])? {
                0 => break,
                more => have += more,
            }
        }
        if have == 0 {
            break;
        }
        let part = &mut buffer[..have];
        pass.mask(part).map_err(io::Error::other)?;
        hash.update(part);
        masked.write_all(part)?;
        bytes = bytes.saturating_add(u64::try_from(have).map_err(io::Error::other)?);
    }
    if pass.left() > 0 {
        return Err(io::Error::other(format!("the update ends {} bytes early", pass.left())));
    }
    Ok(Packed { digest: Digest::new(*hash.finalize().as_bytes()), bytes })
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Sends this site's signature of the final set.
pub(super) async fn sign(
    mut client: Client,
    terms: &Terms,
    signature: Signature<SetStatement>,
) -> Result<(), CallError> {
    let request = SignatureRequest {
        study: terms.study.digest().as_bytes().to_vec(),
        round: terms.round.get(),
        slot: terms.slot.get(),
        terms: terms.digest().as_bytes().to_vec(),
        signature: signature.as_bytes().to_vec(),
    };
    client.send_signature(request).await?;
    Ok(())
}

/// Sends the shares that the journal holds for the slot: the same bytes every time.
pub(super) async fn give(
    mut client: Client,
    journal: &Journal,
    terms: &Terms,
) -> Result<(), CallError> {
    let request = journal.shares(terms.study, terms.slot).await?;
    client.send_shares(request).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aggregation::masking::group::Modulus;
    use aggregation::masking::keystream::{Mask, MaskKey, Sign, TILE_LANES};
    use aggregation::secret::Secret;

    /// Masking a few tiles at a time is masking all at once: at the seams, with and without a rest.
    #[test]
    fn a_file_is_masked_as_if_at_once_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let (from, to) = (folder.path().join("a"), folder.path().join("b"));
        let mask = |byte, sign| Mask::new(&MaskKey::new(Secret::new([byte; 32])), sign);
        for modulus in Modulus::ALL {
            let masks = Masks::new(modulus, [mask(1, Sign::Add), mask(2, Sign::Subtract)]);
            for lanes in [1, TILE_LANES, TILES * TILE_LANES, (2 * TILES + 1) * TILE_LANES + 5] {
                let mut bytes = vec![7; lanes * modulus.bytes()];
                std::fs::write(&from, &bytes).expect("written");
                let packed = mask_file(&from, &to, &masks, lanes).expect("masked");
                masks.pass(lanes).mask(&mut bytes).expect("the whole update");
                assert!(std::fs::read(&to).expect("there") == bytes, "{modulus:?}, {lanes} lanes");
                assert_eq!(packed.digest, Digest::blake3(&bytes));
                assert_eq!(packed.bytes, u64::try_from(bytes.len()).expect("small"));
                for other in [lanes - 1, lanes + 1] {
                    assert!(mask_file(&from, &to, &masks, other).is_err(), "another length");
                }
            }
        }
    }
}
