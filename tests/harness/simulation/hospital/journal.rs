//! What a hospital writes down before it does anything, and what it plays again after a restart.

use std::sync::Arc;

use aggregation::ids::{RoundId, SlotId};
use aggregation::message::Terms;
use aggregation::participant::{Action, Event, Participant};

use crate::simulation::disk::{Disk, SlotPage, Work};
use crate::simulation::flaw::Flaw;
use crate::simulation::hospital::{Hospital, Keyed};
use crate::simulation::stage::{Fate, Halt, Stage};
use crate::simulation::watch::Invariant;

impl Hospital {
    /// The participant as the journal has it.
    pub(super) fn participant(&self, stage: &mut Stage, keys: Option<&Keyed>) -> Participant {
        let (me, charter) = (self.id.clone(), self.cast.charter.clone());
        let fresh = match self.disk.last {
            None => Participant::new(me, charter),
            Some((round, slot)) => Participant::resumed(me, charter, round, slot),
        };
        let mut participant = match keys {
            Some(keys) => fresh.with_keys(Arc::clone(&keys.provision)),
            None => fresh,
        };
        for event in self.disk.open.iter().flat_map(|page| self.played(page)) {
            // What follows from it is let fall; what is still due is asked for afterwards.
            if let Err(refusal) = participant.handle(event) {
                let seen = format!("{}: {refusal}", self.id);
                stage.watch.broken(Invariant::JournalReplays, seen);
            }
        }
        participant
    }

    /// The events that led to a page.
    fn played(&self, page: &SlotPage) -> Vec<Event> {
        let slot = page.terms.slot;
        let terms = page.terms.clone();
        let mut events = match page.declined {
            Some(reason) => vec![Event::Barred { terms, reason }],
            None => vec![Event::Offered(terms)],
        };
        if page.declined.is_none() && !self.forgets_its_update() {
            events.push(match page.work {
                Work::Begun | Work::Failed => Event::TrainerFailed { slot },
                Work::Trained(digest, bytes) => Event::Trained { slot, digest, bytes },
            });
        }
        events.extend(page.roster.clone().map(Event::Frozen));
        events.extend(page.masked.map(|(digest, bytes)| Event::Masked { slot, digest, bytes }));
        events.extend(page.set.clone().map(Event::Fixed));
        events.extend(page.signed.clone().map(|(signed, _)| Event::Unmask(signed)));
        events
    }

    /// Journals an event that changes something. False when it cannot be acted on.
    pub(super) fn write_down(
        &mut self,
        stage: &mut Stage,
        event: &Event,
        next: &Participant,
        actions: &[Action],
    ) -> Result<bool, Halt> {
        let page = self.disk.open.as_ref();
        let at_hand = page.map(|page| page.terms.slot);
        match event {
            Event::Offered(terms) | Event::Barred { terms, .. } => {
                self.begin_page(stage, next, terms, actions)?;
            }
            Event::Trained { slot, digest, bytes } => {
                let ready = actions.iter().any(|action| matches!(action, Action::Ready { .. }));
                if ready && at_hand == Some(*slot) && !self.loses_a_page() {
                    let work = Work::Trained(*digest, *bytes);
                    self.keep_page(stage, *slot, |page| page.work = work)?;
                }
            }
            Event::TrainerFailed { slot } => {
                if page.is_some_and(|page| page.terms.slot == *slot && page.work == Work::Begun) {
                    self.keep_page(stage, *slot, |page| page.work = Work::Failed)?;
                }
            }
            Event::Frozen(roster) => {
                let new = page.is_some_and(|p| p.terms.slot == roster.slot && p.roster.is_none());
                if new && next.phase() == "mask" && !self.forgets_its_update() {
                    let roster = roster.clone();
                    self.keep_page(stage, roster.slot, |page| page.roster = Some(roster))?;
                }
            }
            Event::Fixed(set) => {
                let new = page.is_some_and(|p| p.terms.slot == set.slot && p.set.is_none());
                if new && next.phase() == "sign" && self.flaw != Some(Flaw::SignsBeforeKeeping) {
                    let set = set.clone();
                    self.keep_page(stage, set.slot, |page| page.set = Some(set))?;
                }
            }
            Event::Unmask(signed) => return self.write_down_shares(stage, signed, actions),
            Event::Masked { .. }
            | Event::Uploaded { .. }
            | Event::Signed { .. }
            | Event::Unmasked { .. }
            | Event::Closed(_)
            | Event::Reconnected => {}
        }
        Ok(true)
    }

    /// A new slot gets a new page: it is taken up, or declined.
    fn begin_page(
        &mut self,
        stage: &mut Stage,
        next: &Participant,
        terms: &Terms,
        actions: &[Action],
    ) -> Result<(), Halt> {
        let at_hand = self.disk.open.as_ref().map(|page| page.terms.slot);
        if next.slot() != Some(terms.slot) || at_hand == Some(terms.slot) {
            return Ok(());
        }
        let answer = actions.iter().find_map(|action| match action {
            Action::Train(_) => Some(None),
            Action::Decline { reason, .. } => Some(Some(*reason)),
            Action::Ready { .. }
            | Action::Upload { .. }
            | Action::Mask { .. }
            | Action::Sign { .. }
            | Action::Unmask { .. }
            | Action::Forget(_) => None,
        });
        let Some(declined) = answer else { return Ok(()) };
        let page = SlotPage::new(terms.clone(), declined);
        self.keep(stage, |disk| disk.open = Some(page))
    }

    /// A slot is over: nothing of it, or of those before it, is needed any more.
    pub(super) fn forget(&mut self, stage: &mut Stage, slot: SlotId) -> Result<(), Halt> {
        if let Some(mind) = &mut self.mind {
            if mind.training == Some(slot) {
                mind.training = None;
            }
            if let Some(keys) = &mut mind.keys {
                // A slot beyond all that can be meant has no keys that could be erased.
                let _ = keys.keyring.pass(slot);
            }
        }
        let secrets = self.keyring().map(|keyring| keyring.secrets().expose().to_vec());
        let through = self.erases_through(slot);
        self.keep(stage, |disk| {
            disk.erase_through(through);
            if let (Some(keys), Some(secrets)) = (&mut disk.keys, secrets) {
                keys.keyring = secrets;
            }
            if let Some(page) = disk.open.take_if(|page| page.terms.slot == slot) {
                // The round of a slot that was declined was never taken up.
                let before = disk.last.map_or(RoundId::FIRST, |(round, _)| round);
                let round = if page.declined.is_some() { before } else { page.terms.round };
                disk.last = Some((round, slot));
            }
        })
    }

    /// Writes to the page of the slot at hand.
    pub(super) fn keep_page(
        &mut self,
        stage: &mut Stage,
        slot: SlotId,
        write: impl FnOnce(&mut SlotPage),
    ) -> Result<(), Halt> {
        self.keep(stage, |disk| {
            if let Some(page) = disk.open.as_mut().filter(|page| page.terms.slot == slot) {
                write(page);
            }
        })
    }

    /// One transaction: all of it is on the disk, or nothing.
    pub(super) fn keep(
        &mut self,
        stage: &mut Stage,
        write: impl FnOnce(&mut Disk),
    ) -> Result<(), Halt> {
        match stage.fate(self.who()) {
            Fate::Kept => {
                write(&mut self.disk);
                Ok(())
            }
            Fate::Refused => Err(Halt::Refused),
            Fate::Lost => Err(Halt::Crash),
            Fate::KeptThenLost => {
                write(&mut self.disk);
                Err(Halt::Crash)
            }
        }
    }
}
