//! The loop that keeps one study's rounds going: take inputs, step, journal, let the outputs out.
//!
//! One task drives one running study and owns its open [`Round`]. Inputs that are waiting are
//! stepped together and journaled with their facts in one transaction; only then do callers get
//! their answers and sites their notices. When the transaction fails, the round is rebuilt from
//! the journal, the callers are told, and the round goes on. A restart is the same rebuilding.

mod close;
mod combine;
mod keep;
mod lost;
mod replay;
mod said;
mod tell;
mod waiting;

pub(crate) use replay::Progress;
pub(crate) use said::{Command, Heard, Heed, Turned};

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aggregation::charter::Charter;
use aggregation::ids::{Digest, HospitalId, RoundId, SlotId};
use aggregation::life::Life;
use aggregation::message::{StopReason, Terms};
use aggregation::round::{Input, Output, Round};
use aggregation::units::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use crate::board::{Entry, Happened, Told};
use crate::coordinator::Coordinator;
use crate::store::Leaf;
use crate::store::course::{Absences, Courses};
use crate::store::recorded::Recorded;

/// Commands that may wait for a driver; past that, callers wait.
const INBOX: usize = 256;
/// Inputs that are stepped and journaled together at most.
const BATCH: usize = 64;
/// Between two attempts at something that the disk refused.
const DISK_RETRY: Duration = Duration::from_secs(2);

/// The open round.
#[derive(Debug)]
struct Open {
    round: Round,
    terms: Terms,
    digest: Digest,
    opened: Timestamp,
    /// Approved sites that were not invited.
    absent: Absences,
    /// What the invited have done so far.
    courses: Courses,
    /// Inputs in the journal.
    journaled: usize,
    /// When the round wants to be woken.
    wake: Option<Timestamp>,
    /// Invited sites that the round knows to be lost.
    lost: BTreeSet<HospitalId>,
}

/// One input that the round has taken, not yet journaled.
#[derive(Debug)]
struct Taken {
    at: Timestamp,
    recorded: Recorded,
    outputs: Vec<Output>,
}

/// Keeps one study's rounds going.
#[derive(Debug)]
pub(crate) struct Driver {
    house: Arc<Coordinator>,
    entry: Arc<Entry>,
    charter: Charter,
    inbox: mpsc::Receiver<Command>,
    held: VecDeque<Command>,
    study: Progress,
    /// The round that closed last still answers what is said again.
    previous: Option<(Digest, Round)>,
    /// Abandoned attempts since the last release.
    failures: u32,
    not_before: Timestamp,
    /// From when on absent sites have had their chance to come.
    since: Timestamp,
    /// When the last round closed, and who was in it at its beginning: whoever was lost on the way
    /// has its chance to come back before the next.
    parted: Option<(Timestamp, BTreeSet<HospitalId>)>,
    /// Sites whose keys are waited for.
    lag: Option<waiting::Lag>,
    /// What the last round has left is being put away.
    sweeping: Option<tokio::task::JoinHandle<()>>,
}

/// The driver stops here; the study's rows say where to go on.
#[derive(Debug)]
enum Halt {
    /// The program is about to end.
    Closing,
    /// The study has ended.
    Ended,
}

impl Driver {
    /// Starts driving a study; its entry then leads to the driver.
    pub(crate) fn spawn(
        house: Arc<Coordinator>,
        entry: Arc<Entry>,
        charter: Charter,
        study: Progress,
    ) -> tokio::task::JoinHandle<()> {
        let (sender, inbox) = mpsc::channel(INBOX);
        {
            let mut standing = entry.standing();
            standing.driver = Some(sender);
            standing.model = Some((study.model, study.model_bytes.clone()));
            standing.next_slot = study.next_slot;
        }
        let now = house.clock.now();
        let driver = Self {
            house,
            entry,
            charter,
            inbox,
            held: VecDeque::new(),
            study,
            previous: None,
            failures: 0,
            not_before: now,
            since: now,
            parted: None,
            lag: None,
            sweeping: None,
        };
        tokio::spawn(driver.run())
    }

    async fn run(mut self) {
        let halt = match self.drive().await {
            Ok(never) => match never {},
            Err(halt) => halt,
        };
        self.swept().await;
        {
            let mut standing = self.entry.standing();
            standing.driver = None;
            standing.clear_round();
            standing.model = None;
            standing.keys = None;
            standing.waiting_for.clear();
        }
        match halt {
            Halt::Closing => tracing::debug!(study = %self.entry.id.short(), "driver rests"),
            Halt::Ended => {
                self.house.forget_keys(&self.entry).await;
                // What is brought from here on finds nobody, and is taken away by who brings it.
                self.inbox.close();
                self.house.store.blobs.drop_staged(self.entry.id, None).await;
                tracing::info!(study = %self.entry.id.short(), "study ended");
            }
        }
    }

    async fn drive(&mut self) -> Result<std::convert::Infallible, Halt> {
        let mut open = self.resume().await?;
        // A study that was stopped while this program was down still has a round to end.
        self.held.push_back(Command::Nudge);
        loop {
            let round = match open.take() {
                Some(open) => open,
                None => self.next().await?,
            };
            self.play(round).await?;
        }
    }

    /// Plays the open round to its end.
    async fn play(&mut self, mut open: Open) -> Result<(), Halt> {
        let mut presence = self.house.board.presence_changes();
        loop {
            let batch = self.gather(&mut open, &mut presence).await?;
            let (taken, replies) = self.step(&mut open, batch).await;
            if taken.is_empty() {
                continue;
            }
            let closing = taken.last().is_some_and(closes);
            let leaves = tell::leaves(&open.terms, &taken, closing);
            let inputs: Vec<_> = taken.iter().map(|one| (one.at, one.recorded.clone())).collect();
            let now = self.house.clock.now();
            let (study, slot) = (open.terms.study, open.terms.slot);
            let kept =
                self.house.store.journal(study, slot, open.journaled, &inputs, now, &leaves).await;
            if let Err(fault) = kept {
                answer(replies, |()| Err(Turned::from(&fault)));
                self.unreachable_store(&fault).await?;
                let Some(rebuilt) = self.rebuilt().await? else { return Ok(()) };
                open = rebuilt;
                self.entry.standing().waiting_for.clear();
                continue;
            }
            open.journaled += inputs.len();
            answer(replies, |()| Ok(Heed::Kept));
            if taken.iter().flat_map(|one| &one.outputs).any(shows) {
                self.settled().await?;
            }
            if let Some(ended) = self.let_out(&mut open, taken) {
                return self.close(open, ended).await;
            }
        }
    }

    /// Waits for something to do, then takes along what else is waiting.
    async fn gather(
        &mut self,
        open: &mut Open,
        presence: &mut watch::Receiver<()>,
    ) -> Result<Vec<Command>, Halt> {
        let mut batch: Vec<Command> = self.held.drain(..).take(BATCH).collect();
        if batch.is_empty() {
            let loss = self.next_loss(open);
            tokio::select! {
                () = self.house.board.until_closing() => return Err(Halt::Closing),
                command = self.inbox.recv() => batch.extend(command),
                () = self.house.clock.wait_until(open.wake) => {}
                // The board outlives its drivers.
                _ = presence.changed() => {}
                () = self.house.clock.wait_until(loss) => {}
            }
        }
        while batch.len() < BATCH {
            match self.inbox.try_recv() {
                Ok(command) => batch.push(command),
                Err(_) => break,
            }
        }
        Ok(batch)
    }

    /// Steps the round with each command, until one closes it; what comes after that waits.
    async fn step(&mut self, open: &mut Open, batch: Vec<Command>) -> (Vec<Taken>, Vec<Reply>) {
        let mut taken = Vec::new();
        let mut replies = Vec::new();
        let mut commands = VecDeque::from(batch);
        while let Some(command) = commands.pop_front() {
            let now = self.house.clock.now();
            match command {
                Command::Expect { from, round, slot, terms, reply } => {
                    let answer = self.expects(Some(open), &from, terms, (round, slot));
                    if let Err(turned) = &answer
                        && terms == open.digest
                    {
                        self.turned_away(open, &from, turned).await;
                    }
                    // Who asked may be gone.
                    let _ = reply.send(answer);
                }
                Command::Said { from, heard, reply } if heard.terms() != open.digest => {
                    let _ = reply.send(self.late(&from, &heard));
                }
                Command::Said { from, heard, reply } => {
                    match self.say(open, now, &from, &heard).await {
                        Ok(outputs) if outputs.is_empty() => {
                            let _ = reply.send(Ok(Heed::Kept));
                        }
                        Ok(outputs) => {
                            taken.push(Taken { at: now, recorded: heard.recorded(from), outputs });
                            replies.push(reply);
                        }
                        Err(turned) => {
                            self.turned_away(open, &from, &turned).await;
                            let _ = reply.send(Err(turned));
                        }
                    }
                }
                Command::Removed(hospital) => {
                    let recorded = Recorded::Removed { hospital: hospital.clone() };
                    taken.extend(shove(open, now, recorded, Input::Removed { hospital }));
                }
                Command::Nudge => {
                    if self.entry.standing().life == Life::Stopped {
                        let reason = StopReason::Stopped;
                        taken.extend(shove(
                            open,
                            now,
                            Recorded::Stop { reason },
                            Input::Stop { reason },
                        ));
                    }
                }
            }
            if taken.last().is_some_and(closes) {
                break;
            }
        }
        self.held.extend(commands);
        if !taken.last().is_some_and(closes) {
            self.tell_losses(open, &mut taken);
        }
        let now = self.house.clock.now();
        let due = open.wake.is_some_and(|wake| wake <= now);
        if due && !taken.last().is_some_and(closes) {
            open.wake = None;
            let woken = shove(open, now, Recorded::Deadline, Input::Deadline);
            taken.extend(woken.filter(|one| !one.outputs.is_empty()));
        }
        (taken, replies)
    }

    /// Says to the round what a site has said. The sum is added up off the async threads.
    async fn say(
        &self,
        open: &mut Open,
        at: Timestamp,
        from: &HospitalId,
        heard: &Heard,
    ) -> Result<Vec<Output>, Turned> {
        let packed = match heard {
            Heard::Update { digest, .. } => {
                let (study, slot) = (open.terms.study, open.terms.slot);
                let staged = self.house.store.blobs.staged(study, slot, from, *digest).await;
                Vec::from(staged.map_err(|fault| Turned::from(&fault))?)
            }
            Heard::Ready(_) | Heard::Declined(..) | Heard::Signed(..) | Heard::Unmask(..) => {
                Vec::new()
            }
        };
        let input = Input::Said { from: from.clone(), said: heard.said(packed) };
        Ok(tokio::task::block_in_place(|| combine::step(&mut open.round, at, input))?)
    }

    /// How long an update must be: asked before a byte of it is staged.
    fn expects(
        &self,
        open: Option<&Open>,
        from: &HospitalId,
        terms: Digest,
        place: (RoundId, SlotId),
    ) -> Result<usize, Turned> {
        let open = open.map(|open| (open.digest, &open.round));
        let previous = self.previous.as_ref().map(|(digest, round)| (*digest, round));
        let (_, round) = open
            .into_iter()
            .chain(previous)
            .find(|(known, _)| *known == terms)
            .ok_or(Turned::NoRound)?;
        let of = round.terms();
        if place != (of.round, of.slot) {
            return Err(Turned::OtherPlace { round: of.round.get(), slot: of.slot.get() });
        }
        Ok(round.expects_update(from)?)
    }

    /// Answers what is said of a round that is not open: the last one still knows its own.
    fn late(&mut self, from: &HospitalId, heard: &Heard) -> Result<Heed, Turned> {
        let previous = self.previous.as_mut().filter(|(digest, _)| heard.terms() == *digest);
        let number = previous.as_ref().map(|(_, round)| round.terms().round.get());
        let answer = match previous {
            Some((_, round)) => Self::say_late(round, self.house.clock.now(), from, heard),
            None => Err(Turned::NoRound),
        };
        if let Err(turned) = &answer {
            self.refused(number, from, turned);
        }
        answer
    }

    fn say_late(
        round: &mut Round,
        now: Timestamp,
        from: &HospitalId,
        heard: &Heard,
    ) -> Result<Heed, Turned> {
        // A closed round compares digests; an update's bytes would only be looked at to be added.
        let said = heard.said(Vec::new());
        round.handle(now, Input::Said { from: from.clone(), said })?;
        Ok(Heed::Repeated)
    }

    /// Tells of who was refused something in the open round.
    async fn turned_away(&self, open: &Open, from: &HospitalId, turned: &Turned) {
        if let Turned::Refused(refusal) = turned {
            self.house.refused(&self.entry, from, refusal.rule()).await;
        }
        self.refused(Some(open.terms.round.get()), from, turned);
    }

    /// Names who was refused what, by which rule; the round is unknown of one that is long over.
    fn refused(&self, round: Option<u32>, from: &HospitalId, turned: &Turned) {
        let study = self.entry.id.short();
        match turned {
            Turned::Refused(refusal) => tracing::warn!(
                %study, round, hospital = %from, rule = refusal.rule(), reason = %refusal, "refused"
            ),
            Turned::NoRound | Turned::OtherPlace { .. } | Turned::NotKept { .. } => {
                tracing::warn!(%study, round, hospital = %from, reason = %turned, "not taken");
            }
        }
    }

    /// Lets out what follows from inputs that are in the journal now; gives how the round closed,
    /// if it did.
    fn let_out(&self, open: &mut Open, taken: Vec<Taken>) -> Option<close::Ended> {
        let mut ended = close::Ended::default();
        for one in taken {
            let closing = closes(&one);
            for output in one.outputs {
                match output {
                    Output::Offer(terms) => self.offer(terms),
                    Output::Freeze(roster) => {
                        self.entry.standing().roster = Some(roster.clone());
                        self.house.board.tell(&open.terms.invited, Told::Roster(roster));
                    }
                    Output::Fix(set) => {
                        self.entry.standing().final_set = Some(set.clone());
                        self.tell_members(open, Told::FinalSet(set));
                    }
                    Output::Unmask(signed) => {
                        {
                            let mut standing = self.entry.standing();
                            standing.final_set = None;
                            standing.signed_set = Some(signed.clone());
                        }
                        self.tell_members(open, Told::SignedSet(signed));
                    }
                    Output::WakeAt(moment) => open.wake = Some(moment),
                    Output::Fact(fact) => {
                        tell::trace(&open.terms, &fact);
                        tell::note(&mut open.courses, &fact);
                        self.announce_fact(open, &fact);
                        if closing && !tell::is_receipt(&fact) {
                            ended.leaves.push(self.told(&open.terms, &fact));
                        }
                    }
                    Output::Release(release) => ended.release = Some(release),
                    Output::Close(closed) => ended.closed = Some(closed),
                }
            }
        }
        self.entry.standing().courses.clone_from(&open.courses);
        ended.closed.is_some().then_some(ended)
    }

    /// Tells the members of the roster, which the round still has.
    fn tell_members(&self, open: &Open, what: Told) {
        let members = open.round.roster().map(|roster| roster.members);
        self.house.board.tell(&members.unwrap_or_default(), what);
    }

    fn offer(&self, terms: Terms) {
        {
            let mut standing = self.entry.standing();
            standing.clear_round();
            standing.offer = Some(terms.clone());
            standing.waiting_for.clear();
            standing.progress.clear();
        }
        self.entry.tell(Happened::Started(terms.clone()));
        self.house.board.tell(&terms.invited.clone(), Told::Offer(terms));
    }
}

type Reply = oneshot::Sender<Result<Heed, Turned>>;

fn answer(replies: Vec<Reply>, with: impl Fn(()) -> Result<Heed, Turned>) {
    for reply in replies {
        // Who asked may be gone.
        let _ = reply.send(with(()));
    }
}

/// Whether sites see by it that their updates are here: then a power cut may not take those away.
const fn shows(output: &Output) -> bool {
    matches!(output, Output::Fix(_) | Output::Unmask(_))
}

fn closes(taken: &Taken) -> bool {
    taken.outputs.iter().any(|output| matches!(output, Output::Close(_)))
}

/// Gives the round an input that no peer has said: it is never refused.
fn shove(open: &mut Open, at: Timestamp, recorded: Recorded, input: Input) -> Option<Taken> {
    match combine::step(&mut open.round, at, input) {
        Ok(outputs) => Some(Taken { at, recorded, outputs }),
        Err(refusal) => {
            tracing::error!(reason = %refusal, "the round refused an input of the coordinator's own");
            None
        }
    }
}

/// Facts that a driver adds to those of the round.
fn fact_of_round(terms: &Terms, kind: &'static str) -> Leaf {
    Leaf::of(terms.study, kind).with("round", terms.round.get()).with("slot", terms.slot.get())
}

#[cfg(test)]
mod tests;
