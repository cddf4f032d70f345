//! An honest coordinator: the real gathering and the real round, and around them what the
//! coordinator's driver does. Inputs are journaled before anything is let out; a restart plays them
//! again.

mod announce;
mod books;
mod setup;
mod tell;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aggregation::ids::{HospitalId, SlotId};
use aggregation::message::Said;
use aggregation::refusal::Refusal;
use aggregation::round::{Input, Masks, Output, Round};
use aggregation::setup::gathering::Gathering;
use aggregation::units::Timestamp;

use crate::simulation::cast::Cast;
use crate::simulation::flaw::Flaw;
use crate::simulation::stage::{Fate, Halt, Happening, Stage, Task};
use crate::simulation::trace::Who;
use crate::simulation::watch::Invariant;
use crate::simulation::words::{Answer, Call, Word};
pub(crate) use books::Books;

/// How often it looks whether a round can be announced.
const LOOK_EVERY: u64 = 3_000;

/// An honest coordinator.
#[derive(Debug)]
pub(crate) struct Coordinator {
    cast: Arc<Cast>,
    books: Books,
    desk: Option<Desk>,
    /// Counts restarts.
    life: u64,
    /// What its clock shows more than the world's.
    skew: u64,
    /// Rounds to release.
    wanted: u32,
    /// Whom an operator may revoke one day.
    may_revoke: Option<HospitalId>,
    flaw: Option<Flaw>,
}

/// What it has in memory while it runs.
#[derive(Debug)]
struct Desk {
    gathering: Arc<Gathering>,
    round: Option<Round>,
    /// The round that closed last still answers what is said again.
    previous: Option<Round>,
    heard: BTreeMap<usize, u64>,
    /// When it began.
    began: u64,
    /// Whose connection counts as lost.
    lost: BTreeSet<usize>,
    /// From when on those who are missing have had their chance to come.
    since: u64,
    wake: Option<Timestamp>,
}

impl Coordinator {
    /// A coordinator that has not been started.
    pub(crate) fn new(
        cast: &Arc<Cast>,
        books: Books,
        wanted: u32,
        skew: u64,
        flaw: Option<Flaw>,
    ) -> Self {
        let (cast, may_revoke) = (Arc::clone(cast), None);
        Self { cast, books, desk: None, life: 0, skew, wanted, may_revoke, flaw }
    }

    /// One whose operator may revoke this hospital one day.
    pub(crate) fn that_may_revoke(self, hospital: Option<HospitalId>) -> Self {
        Self { may_revoke: hospital, ..self }
    }

    /// Its books.
    pub(crate) const fn books(&self) -> &Books {
        &self.books
    }

    /// Whether these hospitals can all mask with each other.
    pub(crate) fn has_keys_of(&self, all: &BTreeSet<HospitalId>) -> bool {
        let gathering = self.desk.as_ref().map(|desk| &desk.gathering);
        gathering.is_some_and(|gathering| gathering.able(self.books.next_slot, all) == *all)
    }

    /// Whether all rounds are released.
    pub(crate) fn is_done(&self) -> bool {
        self.books.released() >= self.wanted && self.books.open.is_none()
    }

    /// Whether it runs.
    pub(crate) const fn is_up(&self) -> bool {
        self.desk.is_some()
    }

    /// Starts it: the open round is played again from its journal.
    pub(crate) fn start(&mut self, stage: &mut Stage) -> Result<(), Halt> {
        self.life += 1;
        stage.say(Who::Coordinator, format_args!("starts"));
        if self.life > 1 && stage.chance.one_in(3) {
            // Nobody's clock can be relied on across a restart.
            self.skew = stage.chance.between(0, 10_000_000);
        }
        self.desk = Some(Desk {
            gathering: self.books.gathering(),
            round: None,
            previous: None,
            heard: BTreeMap::new(),
            began: stage.now,
            lost: BTreeSet::new(),
            since: stage.now,
            wake: None,
        });
        let life = self.life;
        stage.after(LOOK_EVERY, Happening::Desk { life, what: Task::Look });
        self.resume(stage)
    }

    /// Its program ends, and its memory with it.
    pub(crate) fn stop(&mut self) {
        self.life += 1;
        self.desk = None;
    }

    /// Plays the journal of the open round, and ends a round that had ended, or starts the
    /// deadlines of one that goes on.
    fn resume(&mut self, stage: &mut Stage) -> Result<(), Halt> {
        let Some(open) = self.books.open.clone() else { return Ok(()) };
        let Some(masks) = self.masks(open.terms.slot) else { return Ok(()) };
        let Ok(plan) = self.cast.charter.plan(open.terms.work, Some(masks)) else { return Ok(()) };
        let slot = open.terms.slot;
        let (mut round, mut last) = Round::open(open.opened, open.terms, plan);
        for (at, input) in open.journal {
            match round.handle(at, input) {
                Ok(outputs) => last = outputs,
                Err(refusal) => {
                    let seen = format!("coordinator: {refusal}");
                    stage.watch.broken(Invariant::JournalReplays, seen);
                }
            }
            last.extend(round.combine_here());
            // Facts are in the journal with the inputs that they follow from.
            for fact in last.iter().filter_map(Output::fact) {
                stage.watch.fact(slot, fact);
            }
        }
        let ended = round.closed().is_some();
        if let Some(desk) = &mut self.desk {
            desk.round = Some(round);
        }
        if ended {
            return self.let_out(stage, last);
        }
        self.input(stage, Input::Resumed)
    }

    /// Its clock rings.
    pub(crate) fn ring(&mut self, stage: &mut Stage, life: u64, what: Task) -> Result<(), Halt> {
        if life != self.life || self.desk.is_none() {
            return Ok(());
        }
        match what {
            Task::Look => {
                stage.after(LOOK_EVERY, Happening::Desk { life, what });
                if !stage.calm && stage.chance.permille(5) {
                    // Somebody sets the clock, forwards or back.
                    self.skew = self.skew.saturating_add(stage.chance.between(0, 40_000));
                    self.skew = self.skew.saturating_sub(stage.chance.between(0, 40_000));
                }
                self.look(stage)
            }
            Task::Deadline => {
                let now = self.clock(stage);
                match self.desk.as_ref().and_then(|desk| desk.wake) {
                    None => Ok(()),
                    Some(wake) if wake <= now => self.input(stage, Input::Deadline),
                    // The clock was set back since.
                    Some(wake) => {
                        self.wake_at(stage, wake);
                        Ok(())
                    }
                }
            }
        }
    }

    /// A hospital calls.
    pub(crate) fn hear(&mut self, stage: &mut Stage, from: usize, call: Call) -> Result<(), Halt> {
        let (Some(desk), Some(id)) = (&mut self.desk, self.cast.names.get(from)) else {
            return Ok(());
        };
        desk.heard.insert(from, stage.now);
        desk.lost.remove(&from);
        let id = id.clone();
        match call {
            Call::Hello => {
                self.tell_where_things_stand(stage, from);
                Ok(())
            }
            Call::Said { slot, said } => self.said(stage, from, id, slot, said),
            Call::Announce(_)
            | Call::Nonce(_)
            | Call::Batch { .. }
            | Call::Opened { .. }
            | Call::Fetch { .. } => self.hear_of_keys(stage, from, &id, call),
        }
    }

    /// Something was said in a round.
    fn said(
        &mut self,
        stage: &mut Stage,
        from: usize,
        id: HospitalId,
        slot: SlotId,
        said: Said,
    ) -> Result<(), Halt> {
        let word = Word::of(&said);
        let now = self.clock(stage);
        let Some(desk) = &mut self.desk else { return Ok(()) };
        let open = desk.round.as_mut().filter(|round| round.terms().digest() == said.terms());
        let Some(round) = open else {
            let previous = desk.previous.as_mut();
            let previous = previous.filter(|round| round.terms().digest() == said.terms());
            let heard = previous.map(|round| round.handle(now, Input::Said { from: id, said }));
            match heard {
                Some(Ok(_)) => stage.answer(from, Answer::Kept { slot, word }),
                Some(Err(refusal)) => self.refuses(stage, from, slot, word, &refusal),
                None => stage.answer(from, Answer::Refused { slot, word }),
            }
            return Ok(());
        };
        let journaled = Input::Said { from: id.clone(), said: said.clone() };
        match round.handle(now, Input::Said { from: id.clone(), said }) {
            Err(refusal) => {
                self.refuses(stage, from, slot, word, &refusal);
                Ok(())
            }
            Ok(mut outputs) => {
                outputs.extend(round.combine_here());
                if self.flaw == Some(Flaw::AnswersBeforeKeeping) {
                    self.confirm(stage, from, &id, slot, word);
                }
                if !outputs.is_empty() {
                    self.journal(stage, now, journaled, &outputs)?;
                }
                self.confirm(stage, from, &id, slot, word);
                self.let_out(stage, outputs)
            }
        }
    }

    fn confirm(&self, stage: &mut Stage, from: usize, id: &HospitalId, slot: SlotId, word: Word) {
        if word == Word::Update {
            stage.watch.confirmed(id, slot);
        }
        stage.answer(from, Answer::Kept { slot, word });
    }

    /// What an honest hospital can be refused is what came too late; anything else is an alarm.
    fn refuses(&self, stage: &mut Stage, from: usize, slot: SlotId, word: Word, refusal: &Refusal) {
        stage.counts.refusals += 1;
        let late = matches!(
            refusal,
            Refusal::TooLate { .. }
                | Refusal::OutOfPhase { .. }
                | Refusal::OtherTerms { .. }
                | Refusal::NotInRoster { .. }
                | Refusal::Removed { .. }
        );
        if late {
            stage.say(Who::Coordinator, format_args!("refuses site-{from:02}: {refusal}"));
        } else {
            let rule = refusal.rule();
            stage.alarm(Who::Coordinator, format_args!("{rule} of site-{from:02}: {refusal}"));
        }
        stage.answer(from, Answer::Refused { slot, word });
    }

    /// An input that no hospital has said.
    pub(super) fn input(&mut self, stage: &mut Stage, input: Input) -> Result<(), Halt> {
        let now = self.clock(stage);
        let Some(round) = self.desk.as_mut().and_then(|desk| desk.round.as_mut()) else {
            return Ok(());
        };
        match round.handle(now, input.clone()) {
            Err(refusal) => {
                stage.alarm(Who::Coordinator, format_args!("refuses itself: {refusal}"));
                Ok(())
            }
            Ok(mut outputs) => {
                outputs.extend(round.combine_here());
                // Who is lost or revoked changes the round, and says nothing at first.
                self.journal(stage, now, input, &outputs)?;
                self.let_out(stage, outputs)
            }
        }
    }

    /// Journals an input that has led to something.
    fn journal(
        &mut self,
        stage: &mut Stage,
        at: Timestamp,
        input: Input,
        outputs: &[Output],
    ) -> Result<(), Halt> {
        if self.flaw == Some(Flaw::TellsBeforeKeeping) {
            let told = outputs.iter().filter(|output| !matches!(output, Output::Close(_)));
            self.let_out(stage, told.cloned().collect())?;
        }
        self.keep(stage, |books| {
            if let Some(open) = &mut books.open {
                open.journal.push((at, input));
            }
        })
    }

    fn invited(&self) -> BTreeSet<HospitalId> {
        self.books.open.as_ref().map(|open| open.terms.invited.clone()).unwrap_or_default()
    }

    fn members(&self) -> BTreeSet<HospitalId> {
        let round = self.desk.as_ref().and_then(|desk| desk.round.as_ref());
        round.and_then(Round::roster).map(|roster| roster.members).unwrap_or_default()
    }

    fn masks(&self, slot: SlotId) -> Option<Arc<Masks>> {
        let desk = self.desk.as_ref()?;
        self.books.masks(&desk.gathering, slot)
    }

    fn clock(&self, stage: &Stage) -> Timestamp {
        Timestamp::from_millis(stage.now.saturating_add(self.skew))
    }

    /// One transaction: all of it is in the books, or nothing.
    pub(super) fn keep(
        &mut self,
        stage: &mut Stage,
        write: impl FnOnce(&mut Books),
    ) -> Result<(), Halt> {
        match stage.fate(Who::Coordinator) {
            Fate::Kept => {
                write(&mut self.books);
                Ok(())
            }
            Fate::Refused => Err(Halt::Refused),
            Fate::Lost => Err(Halt::Crash),
            Fate::KeptThenLost => {
                write(&mut self.books);
                Err(Halt::Crash)
            }
        }
    }
}
