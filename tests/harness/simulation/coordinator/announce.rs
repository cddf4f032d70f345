//! Between rounds, and beside them: when the next one is announced and to whom, who is lost, who is
//! revoked.

use std::collections::BTreeSet;

use aggregation::ids::{Digest, HospitalId};
use aggregation::message::{StopReason, Terms};
use aggregation::round::{Input, Round};

use crate::simulation::coordinator::Coordinator;
use crate::simulation::coordinator::books::OpenBook;
use crate::simulation::stage::{Halt, Stage};
use crate::simulation::trace::Who;

/// How long it waits for everybody before it begins with those who are here.
const PATIENCE: u64 = 20_000;
/// How long a hospital that said nothing counts as here.
const HERE: u64 = 40_000;
/// After a start hospitals need a while to find the coordinator again.
const RETURN: u64 = 60_000;

impl Coordinator {
    /// Announces the next round, as soon as it can be.
    pub(super) fn look(&mut self, stage: &mut Stage) -> Result<(), Halt> {
        let Some(desk) = &self.desk else { return Ok(()) };
        if desk.round.is_some() {
            return self.look_after_round(stage);
        }
        if self.books.released() >= self.wanted {
            return Ok(());
        }
        let here: BTreeSet<HospitalId> = desk
            .heard
            .iter()
            .filter(|(_, at)| stage.now.saturating_sub(**at) <= HERE)
            .filter_map(|(place, _)| self.cast.names.get(*place).cloned())
            .filter(|id| self.books.revoked.as_ref() != Some(id))
            .collect();
        let slot = self.books.next_slot;
        let able = desk.gathering.able(slot, &here);
        let revoked = usize::from(self.books.revoked.is_some());
        let everybody = able.len() + revoked == self.cast.names.len();
        let waited = stage.now.saturating_sub(desk.since) >= PATIENCE;
        let quorum = usize::from(self.cast.charter.study().cohort.quorum);
        if everybody || waited && able.len() >= quorum { self.open(stage, able) } else { Ok(()) }
    }

    fn open(&mut self, stage: &mut Stage, invited: BTreeSet<HospitalId>) -> Result<(), Halt> {
        let (round, slot) = (self.books.next_round, self.books.next_slot);
        let now = self.clock(stage);
        let study = self.cast.charter.study();
        let terms = Terms {
            study: self.cast.charter.id(),
            round,
            slot,
            work: study.work_in(round),
            model: Digest::sha256(&round.get().to_le_bytes()),
            invited,
            ready_by: now.saturating_add(study.cohort.round_deadline),
            log: self.books.log(),
        };
        let Some(masks) = self.masks(slot) else { return Ok(()) };
        let Ok(plan) = self.cast.charter.plan(terms.work, Some(masks)) else { return Ok(()) };
        let book = OpenBook { terms: terms.clone(), opened: now, journal: Vec::new() };
        self.keep(stage, |books| {
            books.open = Some(book);
            books.next_slot = slot.next();
        })?;
        stage.counts.attempts += 1;
        stage.say(
            Who::Coordinator,
            format_args!("offers round {round} in slot {slot} to {}", terms.invited.len()),
        );
        let (round, outputs) = Round::open(now, terms, plan);
        if let Some(desk) = &mut self.desk {
            desk.round = Some(round);
        }
        self.let_out(stage, outputs)
    }

    /// What happens beside a round.
    fn look_after_round(&mut self, stage: &mut Stage) -> Result<(), Halt> {
        if !stage.calm {
            // An operator pauses the study in the middle of a round, and lets it go on at once.
            if stage.chance.permille(2) {
                return self.input(stage, Input::Stop { reason: StopReason::Paused });
            }
            if stage.chance.permille(10) {
                return self.revoke(stage);
            }
        }
        self.tell_losses(stage)
    }

    /// Tells the round whose connection is gone.
    fn tell_losses(&mut self, stage: &mut Stage) -> Result<(), Halt> {
        let grace = self.cast.charter.study().cohort.grace.as_millis();
        let grace = u64::try_from(grace).unwrap_or(u64::MAX);
        for place in 0..self.cast.names.len() {
            let (Some(desk), Some(id)) = (&mut self.desk, self.cast.names.get(place)) else {
                return Ok(());
            };
            let Some(round) = &desk.round else { return Ok(()) };
            let from = match desk.heard.get(&place) {
                Some(heard) => heard.saturating_add(grace),
                None => desk.began.saturating_add(grace.max(RETURN)),
            };
            let here = from > stage.now || !round.terms().invited.contains(id);
            if here || !desk.lost.insert(place) {
                continue;
            }
            let hospital = id.clone();
            stage.say(Who::Coordinator, format_args!("has lost {hospital}"));
            self.input(stage, Input::Lost { hospital })?;
        }
        Ok(())
    }

    /// An operator revokes a hospital, if the study can do without.
    fn revoke(&mut self, stage: &mut Stage) -> Result<(), Halt> {
        let Some(hospital) = self.may_revoke.clone().filter(|_| self.books.revoked.is_none())
        else {
            return Ok(());
        };
        stage.say(Who::Coordinator, format_args!("revokes {hospital}"));
        let kept = Some(hospital.clone());
        self.keep(stage, |books| books.revoked = kept)?;
        self.input(stage, Input::Removed { hospital })
    }
}
