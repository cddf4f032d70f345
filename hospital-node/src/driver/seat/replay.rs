//! After a restart: what the journal knows of the slot at hand, played again.

use std::io;
use std::path::Path;

use aggregation::ids::Digest;
use aggregation::message::Terms;
use aggregation::participant::{Event, Participant};

use super::{Seat, Unseated, trained, with_keys};
use crate::journal::{Packed, Progress, SlotUse, Stage};

impl Seat {
    /// Plays the journal of the last slot again. Its actions are let fall; `Reconnected` brings
    /// back what is still due.
    pub(super) async fn replay(&mut self) -> Result<(), Unseated> {
        let last = self.house.journal.last_slot(self.local.id).await?;
        self.sweep(last.as_ref().filter(|used| used.stage != Stage::Closed))?;
        let Some(used) = last else { return Ok(()) };
        let terms = used.terms;
        let slot = terms.slot;
        let events = match used.stage {
            Stage::Closed => {
                let charter = self.participant.charter().clone();
                let me = self.house.me.clone();
                let resumed = Participant::resumed(me, charter, terms.round, slot);
                self.participant = with_keys(resumed, self.provision.as_ref());
                return Ok(());
            }
            Stage::Declined(reason) => vec![Event::Barred { terms: terms.clone(), reason }],
            // What the trainer had made is gone, and a slot is never worked on twice.
            Stage::Begun => vec![Event::Offered(terms.clone()), Event::TrainerFailed { slot }],
            Stage::Frozen(packed, progress) => {
                self.frozen_so_far(&terms, packed, *progress).await?
            }
            Stage::Trained(packed) => {
                if holds(&self.update(slot), packed).await? {
                    self.packed = Some(packed);
                    tracing::info!(
                        study = self.local.name,
                        slot = slot.get(),
                        "update of an open round found again"
                    );
                    vec![Event::Offered(terms.clone()), trained(slot, packed)]
                } else {
                    tracing::warn!(
                        study = self.local.name,
                        slot = slot.get(),
                        "update of an open round is lost"
                    );
                    vec![Event::Offered(terms.clone()), Event::TrainerFailed { slot }]
                }
            }
        };
        for event in events {
            if let Err(refusal) = self.participant.handle(event) {
                tracing::warn!(%refusal, rule = refusal.rule(), "the journal does not replay; the slot is left alone");
            }
        }
        self.terms = Some(terms);
        Ok(())
    }

    /// Deletes what slots that are over have left.
    fn sweep(&self, open: Option<&SlotUse>) -> io::Result<()> {
        // Once the masked update counts, the other is deleted; before, the other counts.
        let keep = open.map(|used| match used.stage {
            Stage::Frozen(_, ref progress) if progress.masked.is_some() => {
                self.masked_update(used.terms.slot)
            }
            Stage::Begun
            | Stage::Trained(_)
            | Stage::Frozen(..)
            | Stage::Declined(_)
            | Stage::Closed => self.update(used.terms.slot),
        });
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let update = path.extension().is_some_and(|end| end == "update" || end == "masked");
            if update && Some(&path) != keep.as_ref() {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// What a slot with masks has seen since its roster was frozen.
    async fn frozen_so_far(
        &mut self,
        terms: &Terms,
        packed: Packed,
        progress: Progress,
    ) -> io::Result<Vec<Event>> {
        let slot = terms.slot;
        let Progress { roster, masked, set, signed } = progress;
        self.roster = Some(roster.clone());
        let mut events =
            vec![Event::Offered(terms.clone()), trained(slot, packed), Event::Frozen(roster)];
        if let Some(digest) = masked {
            let masked = Packed { digest, bytes: packed.bytes };
            // In a final set, it is no longer needed, but still what this house has sent.
            if set.is_some() || holds(&self.masked_update(slot), masked).await? {
                self.packed = Some(masked);
            } else {
                tracing::error!(
                    study = self.local.name,
                    slot = slot.get(),
                    "masked update of an open round is lost; if it was not sent yet, it will not be"
                );
            }
            let bytes = usize::try_from(packed.bytes).unwrap_or(usize::MAX);
            events.push(Event::Masked { slot, digest, bytes });
        }
        events.extend(set.map(Event::Fixed));
        events.extend(signed.map(Event::Unmask));
        Ok(events)
    }
}

/// Whether the file holds these very bytes.
async fn holds(path: &Path, packed: Packed) -> io::Result<bool> {
    let path = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || {
        let mut hash = blake3::Hasher::new();
        let read = io::copy(&mut std::fs::File::open(path)?, &mut hash)?;
        Ok::<_, io::Error>((read, Digest::new(*hash.finalize().as_bytes())))
    });
    match hashed.await {
        Ok(Ok(found)) => Ok(found == (packed.bytes, packed.digest)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Ok(Err(error)) => Err(error),
        Err(error) => Err(io::Error::other(error)),
    }
}
