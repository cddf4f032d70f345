//! How a round ends at this site, and how the site leaves a study.

use std::io;

use aggregation::ids::SlotId;
use aggregation::message::ClosedNotice;
use aggregation::participant::Event;

use super::Seat;
use crate::journal::JournalError;

impl Seat {
    /// The coordinator has closed a round.
    pub(in crate::driver) async fn closed(&mut self, session: u64, closed: ClosedNotice) {
        let mine = closed.contributed.contains(&self.house.me);
        tracing::info!(
            study = self.local.name,
            round = closed.round.get(),
            slot = closed.slot.get(),
            released = closed.released,
            reason = closed.reason,
            ours_in_it = mine,
            sites = closed.contributed.len(),
            missing = closed.dropped.len(),
            "round closed"
        );
        self.outcome = Some(match (closed.released, mine) {
            (true, true) => "released".to_owned(),
            (true, false) => "released without us".to_owned(),
            (false, _) => format!("abandoned: {}", closed.reason),
        });
        let released = closed.released.then_some(closed.slot);
        let terms = self.terms.as_ref().filter(|terms| mine && released == Some(terms.slot));
        if let Some((terms, packed)) = terms.zip(self.packed) {
            self.house.witness.is_received(self.told(terms, packed).0);
        }
        self.happen(session, Event::Closed(closed)).await;
        self.outcome = None;
        if let (Some(slot), true) = (released, mine) {
            self.note_release(slot).await;
        }
    }

    /// Nothing of a slot is needed any more: its work stops, and its update is deleted.
    pub(super) async fn forget(&mut self, slot: SlotId) {
        if self.working.as_ref().is_some_and(|(current, _)| *current == slot)
            && let Some((_, task)) = self.working.take()
        {
            task.abort();
        }
        if let Some((_, task)) = self.masking.take_if(|(current, _)| *current == slot) {
            task.abort();
        }
        let outcome = self.outcome.as_deref().unwrap_or("over");
        let journal = &self.house.journal;
        let closed = match journal.close(self.local.id, slot, outcome, self.ours()).await {
            // A number so far ahead that the keys are not moved on to it, whoever says it.
            Err(JournalError::NoKeys { .. }) => {
                journal.close(self.local.id, slot, outcome, None).await
            }
            closed => closed,
        };
        if let Err(error) = closed {
            tracing::error!(study = self.local.name, %error, "cannot journal the end of a round");
        }
        self.remove(&self.update(slot)).await;
        if self.provision.is_some() {
            self.remove(&self.masked_update(slot)).await;
            // Where shares were given, what there was to erase went with them.
            if self.settled != Some(slot) {
                self.settle().await;
            }
        }
    }

    /// Deletes a file, if it is there.
    pub(super) async fn remove(&self, file: &std::path::Path) {
        match tokio::fs::remove_file(file).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(study = self.local.name, %error, "cannot delete an update");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Leaves the study: the slot at hand ends here, and its update with it.
    pub(in crate::driver) async fn abandon(&mut self) {
        if let Some(slot) = self.participant.slot() {
            self.outcome = Some("left the study".to_owned());
            self.forget(slot).await;
        }
        if let Some(calling) = self.calling.take() {
            calling.task.abort();
        }
    }

    /// Waits for the call in flight, and ends the trainer.
    pub(in crate::driver) async fn leave(mut self) {
        if let Some(calling) = self.calling.take() {
            // Whatever became of it, we are going.
            let _ = calling.task.await;
        }
        if let Some(worker) = self.worker.take() {
            worker.stop().await;
        }
    }
}
