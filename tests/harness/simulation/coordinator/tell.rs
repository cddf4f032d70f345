//! What an honest coordinator lets out: to whom it is told, and what becomes of a round that ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use aggregation::ids::{HospitalId, SlotId};
use aggregation::message::Closed;
use aggregation::round::{Fact, Output, Release};
use aggregation::units::Timestamp;

use crate::simulation::coordinator::Coordinator;
use crate::simulation::flaw::Flaw;
use crate::simulation::stage::{Halt, Happening, Stage, Task};
use crate::simulation::trace::Who;
use crate::simulation::words::Notice;

impl Coordinator {
    /// Lets out what follows from what is journaled.
    pub(super) fn let_out(&mut self, stage: &mut Stage, outputs: Vec<Output>) -> Result<(), Halt> {
        let mut released = None;
        for output in outputs {
            match output {
                Output::Offer(terms) => {
                    let invited = terms.invited.clone();
                    self.tell(stage, &invited, Notice::Offer(terms));
                }
                Output::Freeze(roster) => {
                    let invited = self.invited();
                    self.tell(stage, &invited, Notice::Freeze(roster));
                }
                Output::Fix(set) => self.tell(stage, &self.members(), Notice::Fix(set)),
                Output::Unmask(signed) => self.tell(stage, &self.members(), Notice::Unmask(signed)),
                Output::WakeAt(at) => self.wake_at(stage, at),
                Output::Fact(fact) => self.record(stage, fact),
                Output::Release(release) => released = Some(release),
                Output::Close(closed) => {
                    let closed = self.silently(closed);
                    self.close(stage, released.take(), &closed)?;
                }
            }
        }
        Ok(())
    }

    /// A round has ended: what it came to is kept, then everybody is told.
    fn close(
        &mut self,
        stage: &mut Stage,
        released: Option<Box<Release>>,
        closed: &Closed,
    ) -> Result<(), Halt> {
        let invited = self.invited();
        if let Some(release) = &released {
            stage.watch.released(release);
        }
        stage.watch.closed(&invited, closed);
        let notice = closed.notice();
        let round = released.is_some().then(|| closed.round.next());
        let last = (notice.clone(), invited.clone());
        self.keep(stage, |books| {
            books.open = None;
            books.last = Some(last);
            if let Some(next) = round {
                books.next_round = next;
            }
        })?;
        stage.counts.released += u64::from(round.is_some());
        stage.say(
            Who::Coordinator,
            format_args!("closes slot {}: {:?}", closed.slot, closed.outcome),
        );
        let now = stage.now;
        if let Some(desk) = &mut self.desk {
            desk.previous = desk.round.take();
            desk.since = now;
            desk.wake = None;
        }
        self.tell(stage, &invited, Notice::Close(notice));
        self.tell_of_keys_due(stage);
        Ok(())
    }

    fn record(&self, stage: &mut Stage, fact: Fact) {
        let slot = self.books.open.as_ref().map_or(SlotId::new(0), |open| open.terms.slot);
        let fact = self.blames_another(fact);
        stage.say(
            Who::Coordinator,
            format_args!(
                "records {}{}",
                fact.kind(),
                fact.hospital().map(|id| format!(" of {id}")).unwrap_or_default()
            ),
        );
        stage.watch.fact(slot, &fact);
    }

    pub(super) fn wake_at(&mut self, stage: &mut Stage, at: Timestamp) {
        let delay = at.since(self.clock(stage));
        if let Some(desk) = &mut self.desk {
            desk.wake = Some(at);
        }
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let life = self.life;
        stage.after(delay, Happening::Desk { life, what: Task::Deadline });
    }

    /// The present state, for whoever connects.
    pub(super) fn tell_where_things_stand(&self, stage: &mut Stage, to: usize) {
        let (Some(desk), Some(id)) = (&self.desk, self.cast.names.get(to)) else { return };
        if let Some(keys) = self.keys() {
            stage.tell(to, &Arc::new(Notice::Keys(keys)));
        }
        let Some(round) = &desk.round else {
            if let Some((notice, invited)) = &self.books.last
                && invited.contains(id)
            {
                stage.tell(to, &Arc::new(Notice::Close(notice.clone())));
            }
            return;
        };
        let terms = round.terms();
        if !terms.invited.contains(id) {
            return;
        }
        stage.tell(to, &Arc::new(Notice::Offer(terms.clone())));
        let Some(roster) = round.roster() else { return };
        let member = roster.members.contains(id);
        stage.tell(to, &Arc::new(Notice::Freeze(roster)));
        if let Some(set) = round.final_set().filter(|_| member) {
            stage.tell(to, &Arc::new(Notice::Fix(set)));
        }
        if let Some(signed) = round.signed_set().filter(|_| member) {
            stage.tell(to, &Arc::new(Notice::Unmask(signed)));
        }
    }

    fn tell(&self, stage: &mut Stage, whom: &BTreeSet<HospitalId>, notice: Notice) {
        let notice = Arc::new(notice);
        for place in whom.iter().filter_map(|id| self.cast.place(id)) {
            stage.tell(place, &notice);
        }
    }

    /// [`Flaw::SilentQuorum`].
    fn silently(&self, mut closed: Closed) -> Closed {
        if self.flaw == Some(Flaw::SilentQuorum) {
            closed.dropped.clear();
        }
        closed
    }

    /// [`Flaw::BlamesAnother`].
    fn blames_another(&self, fact: Fact) -> Fact {
        if let (Fact::Unmasked { hospital }, Some(Flaw::BlamesAnother)) = (&fact, self.flaw) {
            return Fact::WrongShare { of: hospital.clone(), hospital: hospital.clone() };
        }
        fact
    }
}
