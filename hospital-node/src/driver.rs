//! The loop: hears the coordinator, the trainer and the house; puts each event to the participant
//! of its study; lets the actions out. Nothing is decided here that privacy or correctness rests
//! on, except this house's own no: approval, policy and hours are asked before any work begins.

mod calls;
mod keys;
mod ledger;
mod log;
mod model;
mod progress;
mod roster;
mod seat;
mod work;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aggregation::ids::{Digest, HospitalId, SlotId, StudyId};
use aggregation::keys::identity::Identity;
use aggregation::message::{DeclineReason, Terms};
use aggregation::participant::{Action, Event};
use proto::decode::{self, DecodeError};
use proto::federation::{DecideStudyRequest, LogGrown, StudyNotice, StudyState, notice};
use proto::masks::round::{final_set, signed_set};
use proto::masks::setup::{KeySetup, key_setup};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::MissedTickBehavior;

use self::calls::CallError;
use self::keys::KeyTask;
use self::roster::Told;
use self::seat::{MaskError, Seat, folder_of};
use self::work::WorkError;
use crate::clock;
use crate::config::Config;
use crate::journal::{Decision, Journal, LocalStudy, Packed};
use crate::link::{Client, Heard, may_pass};
use crate::policy::Violation;
use crate::proposal::{Proposal, decision_to};
use crate::purse::Purse;
use crate::state::State;
use crate::witness::{Desk, WitnessError};
use crate::worker::Worker;

/// How often we look whether the command line has decided something, and what time it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a shutdown may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Studies of which we remember the roster that the coordinator told; far beyond any consortium.
const MOST_STUDIES: usize = 10_000;
/// Results of tasks that wait for the loop.
const WAITING: usize = 64;

/// What a driver works with. Clones share the journal.
#[derive(Clone, Debug)]
pub(crate) struct House {
    /// The settings.
    pub config: Arc<Config>,
    /// The state folder.
    pub state: State,
    /// This site.
    pub me: HospitalId,
    /// What it signs with.
    pub identity: Arc<Identity>,
    /// The facts that must last.
    pub journal: Journal,
    /// What was spent of the patients' privacy.
    pub purse: Purse,
    /// This house as a witness of the log.
    pub witness: Arc<Desk>,
}

/// What a task of a seat came to.
#[derive(Debug)]
enum Done {
    /// The work of a slot.
    Worked { study: StudyId, slot: SlotId, result: Box<Result<(Worker, Packed), WorkError>> },
    /// The work of a slot could not even begin.
    NoWork { study: StudyId, slot: SlotId },
    /// The update of a slot was masked, or could not be.
    Masked { study: StudyId, slot: SlotId, result: Result<Packed, MaskError> },
    /// A call under a session.
    Called { study: StudyId, session: u64, action: Action, result: Result<(), CallError> },
    /// The log that an offer names was looked at.
    Vouched { terms: Box<Terms>, session: u64, result: Result<(), WitnessError> },
    /// The coordinator knows a decision of this house.
    Heard { study: StudyId, decision: Decision },
}

/// The loop's state.
#[derive(Debug)]
pub(crate) struct Driver {
    house: House,
    again: Arc<Notify>,
    clients: watch::Sender<Option<Client>>,
    session: u64,
    seats: BTreeMap<StudyId, Seat>,
    told: BTreeMap<StudyId, Told>,
    keys: BTreeMap<StudyId, KeyTask>,
    done: mpsc::Sender<Done>,
    results: mpsc::Receiver<Done>,
    /// What the coordinator said last of its log, and the offers that wait for a look at it.
    log: Option<LogGrown>,
    vouching: BTreeMap<StudyId, Digest>,
    version: Option<i64>,
    written: Option<SystemTime>,
}

impl Driver {
    /// A driver without a session. It notifies `again` when a session is of no more use.
    #[must_use]
    pub(crate) fn new(house: House, again: Arc<Notify>) -> Self {
        let (done, results) = mpsc::channel(WAITING);
        Self {
            written: written(&house.config),
            house,
            again,
            clients: watch::Sender::new(None),
            session: 0,
            seats: BTreeMap::new(),
            told: BTreeMap::new(),
            keys: BTreeMap::new(),
            done,
            results,
            log: None,
            vouching: BTreeMap::new(),
            version: None,
        }
    }

    /// Goes on until `stop`, then leaves every round in good order.
    pub(crate) async fn run(
        mut self,
        mut hears: mpsc::Receiver<Heard>,
        stop: impl Future<Output = ()>,
    ) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                heard = hears.recv() => match heard {
                    Some(Heard::Connected(client)) => self.connected(client).await,
                    Some(Heard::Notice(notice)) => self.notice(*notice).await,
                    Some(Heard::Lost) => {
                        self.clients.send_replace(None);
                    }
                    None => break,
                },
                Some(done) = self.results.recv() => self.done(done).await,
                _ = look.tick() => self.look().await,
            }
        }
        self.leave().await;
    }

    async fn connected(&mut self, client: Client) {
        self.session += 1;
        self.clients.send_replace(Some(client));
        for seat in self.seats.values_mut() {
            seat.happen(self.session, Event::Reconnected).await;
        }
    }

    async fn notice(&mut self, said: notice::Notice) {
        match said {
            notice::Notice::Hello(hello) => {
                if let Some(end) = hello.ledger {
                    ledger::compare(&self.house, &end);
                }
            }
            notice::Notice::Study(notice) => self.study(notice).await,
            notice::Notice::Offer(terms) => match decode::terms(&terms) {
                Ok(terms) => self.offered(terms).await,
                Err(error) => tracing::warn!(%error, "an offer that does not hold together"),
            },
            notice::Notice::Roster(said) => {
                let roster =
                    decode::roster(&said).map(|roster| (roster.study, Event::Frozen(roster)));
                self.happens("a roster", roster).await;
            }
            notice::Notice::FinalSet(said) => {
                let set = final_set(&said).map(|set| (set.study, Event::Fixed(set)));
                self.happens("a final set", set).await;
            }
            notice::Notice::SignedSet(said) => {
                let asked = signed_set(&said).map(|asked| (asked.set.study, Event::Unmask(asked)));
                self.happens("a signed set", asked).await;
            }
            notice::Notice::Keys(said) => match key_setup(&said) {
                Ok(setup) => self.setup(setup).await,
                Err(error) => tracing::warn!(%error, "keys that do not hold together"),
            },
            notice::Notice::Log(grown) => self.follow_log(grown),
            notice::Notice::Closed(closed) => match decode::closed(&closed) {
                Ok(closed) => {
                    self.vouching.remove(&closed.study);
                    if let Some(seat) = self.seats.get_mut(&closed.study) {
                        seat.closed(self.session, closed).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "an end of a round that does not hold together");
                }
            },
        }
    }

    /// Something of a round at hand.
    async fn happens(&mut self, what: &str, said: Result<(StudyId, Event), DecodeError>) {
        match said {
            Ok((study, event)) => {
                if let Some(seat) = self.seats.get_mut(&study) {
                    seat.happen(self.session, event).await;
                }
            }
            Err(error) => tracing::warn!(%error, what, "something that does not hold together"),
        }
    }

    /// The coordinator tells how far the keys of a study are.
    async fn setup(&mut self, setup: KeySetup) {
        let id = setup.study;
        let ours = self.decided(id).await.filter(|ours| ours.decision == Decision::Approved);
        let Some(ours) = ours else {
            self.keys.remove(&id);
            return;
        };
        if !self.told.get(&id).is_none_or(|told| told.fits(&ours)) {
            // Said at every round that is offered.
            self.keys.remove(&id);
            return;
        }
        match self.keys.get(&id).filter(|task| task.works_under(&ours)) {
            Some(task) => task.tell(self.session, setup),
            None => {
                let clients = self.clients.subscribe();
                let house = self.house.clone();
                match KeyTask::start(house, &ours, clients, self.session, setup) {
                    Ok(task) => {
                        self.keys.insert(id, task);
                    }
                    Err(error) => {
                        self.keys.remove(&id);
                        tracing::warn!(study = ours.name, %error, "cannot have keys for this study");
                    }
                }
            }
        }
    }

    /// The coordinator says where a study stands, and what it believes that we decided.
    async fn study(&mut self, notice: StudyNotice) {
        let proposal = match Proposal::check(notice, &self.house.me) {
            Ok(proposal) => proposal,
            Err(error) => {
                tracing::warn!(%error, "a study that does not hold together");
                return;
            }
        };
        let (id, name) = (proposal.id, proposal.study.name.clone());
        if roster::meet(&self.house, &proposal.identities).await.is_err() {
            return;
        }
        let ours = self.decided(id).await;
        let over = matches!(
            proposal.state,
            StudyState::Completed | StudyState::Failed | StudyState::Stopped
        );
        match &ours {
            None if !over && proposal.known.is_none() => {
                tracing::info!(
                    study = name,
                    digest = id.short(),
                    "proposed; `hospital-node study show` and `study approve` decide"
                );
            }
            Some(ours) if !over && proposal.known != Some(ours.decision) => self.tell(ours),
            None | Some(_) => {}
        }
        if over {
            self.told.remove(&id);
            self.keys.remove(&id);
            self.unseat(id).await;
            self.tidy(id).await;
            if let Err(error) = self.house.journal.erase_keys(id).await {
                tracing::error!(study = name, %error, "cannot erase the keys of a study that is over");
            }
        } else if self.told.len() < MOST_STUDIES || self.told.contains_key(&id) {
            let told = Told { sites: proposal.sites, identities: proposal.identities };
            self.told.insert(id, told);
        }
    }

    async fn offered(&mut self, terms: Terms) {
        if !terms.invited.contains(&self.house.me) {
            return;
        }
        let id = terms.study;
        let ours = self.decided(id).await.filter(|ours| ours.decision == Decision::Approved);
        let Some(ours) = ours else {
            self.unseat(id).await;
            tracing::warn!(
                digest = id.short(),
                "a round of a study that this house has not approved; declined"
            );
            return self.decline(terms, DeclineReason::NotApproved);
        };
        let stale = |seat: &Seat| {
            // A changed configuration counts from the next slot on.
            let settings = seat.works_under(&self.house.config) || seat.holds(terms.slot);
            // Keys that were agreed on since then count from then on.
            seat.local != ours || !settings || seat.lacks_keys()
        };
        if self.seats.get(&id).is_none_or(stale) {
            self.unseat(id).await;
            let name = ours.name.clone();
            let clients = self.clients.subscribe();
            match Seat::take(self.house.clone(), ours, clients, self.done.clone()).await {
                Ok(seat) => {
                    self.seats.insert(id, seat);
                }
                Err(error) => {
                    tracing::error!(study = name, %error, "cannot take part");
                    return self.decline(terms, error.reason());
                }
            }
        }
        let told = self.told.get(&id);
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let barred = barred(&self.house, seat, told);
        if barred.is_none() && !seat.holds(terms.slot) && !self.house.witness.accepts(&terms) {
            return self.look_at_log(terms);
        }
        let event = match barred {
            // What is offered again was judged the first time.
            None if seat.holds(terms.slot) => Event::Offered(terms),
            None if seat.has_keys_for(&terms).await => match seat.affords(&terms) {
                Ok(()) => Event::Offered(terms),
                Err(refused) => {
                    let reason = ledger::reason(&refused);
                    let (study, round) = (&seat.local.name, terms.round.get());
                    tracing::warn!(study, round, %refused, "the privacy ledger says no");
                    Event::Barred { terms, reason }
                }
            },
            None => {
                let reason = DeclineReason::NoKeys;
                tracing::warn!(
                    study = seat.local.name,
                    slot = terms.slot.get(),
                    "no keys for this slot"
                );
                Event::Barred { terms, reason }
            }
            Some(reason) => Event::Barred { terms, reason },
        };
        seat.happen(self.session, event).await;
    }

    /// Declines without a participant: there is no charter to judge by.
    fn decline(&self, terms: Terms, reason: DeclineReason) {
        let client = self.clients.borrow().clone();
        if let Some(client) = client {
            tokio::spawn(async move {
                if let Err(error) = calls::decline(client, terms, reason).await {
                    tracing::debug!(%error, "a decline was not heard");
                }
            });
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Worked { study, slot, result } => {
                if let Some(seat) = self.seats.get_mut(&study) {
                    seat.worked(self.session, slot, *result).await;
                }
            }
            Done::Masked { study, slot, result } => {
                if let Some(seat) = self.seats.get_mut(&study) {
                    seat.masked(self.session, slot, result).await;
                }
            }
            Done::NoWork { study, slot } => {
                if let Some(seat) = self.seats.get_mut(&study) {
                    seat.happen(self.session, Event::TrainerFailed { slot }).await;
                }
            }
            Done::Vouched { terms, session, result } => self.vouched(*terms, session, result).await,
            Done::Heard { study, decision } => {
                if let Err(error) = self.house.journal.told(study, decision).await {
                    tracing::warn!(%error, "cannot journal that the coordinator knows a decision");
                }
            }
            Done::Called { study, session, action, result } => {
                let Some(seat) = self.seats.get_mut(&study) else { return };
                match result {
                    Ok(()) => seat.confirmed(self.session, &action).await,
                    Err(CallError::Status(status)) if may_pass(&status) => {
                        tracing::debug!(
                            study = seat.local.name,
                            error = status.message(),
                            "a call broke off"
                        );
                        if session == self.session {
                            self.again.notify_one();
                        }
                    }
                    Err(error) => {
                        tracing::warn!(study = seat.local.name, %error, "the coordinator does not accept this")
                    }
                }
            }
        }
    }

    /// Once a second: has the command line decided something, and may we still work?
    async fn look(&mut self) {
        match self.house.journal.version().await {
            Ok(version) if self.version != Some(version) => {
                self.version = Some(version);
                self.reconsider().await;
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "cannot look into the journal"),
        }
        self.reread();
        if !self.house.config.policy.open_at(clock::now()) {
            for seat in self.seats.values_mut().filter(|seat| seat.is_working()) {
                tracing::info!(
                    study = seat.local.name,
                    "our hours are over; the work on this round ends"
                );
                seat.interrupt(self.session).await;
            }
        }
    }

    /// Leaves the seats whose approval is gone. The coordinator hears it from the command line, or
    /// from us at its next word about the study.
    async fn reconsider(&mut self) {
        let seated: Vec<StudyId> = self.seats.keys().copied().collect();
        for id in seated {
            let ours = self.decided(id).await;
            if ours.as_ref().is_none_or(|ours| ours.decision != Decision::Approved) {
                tracing::info!(digest = id.short(), "approval taken back; leaving the study");
                self.keys.remove(&id);
                self.unseat(id).await;
                self.tidy(id).await;
            }
        }
    }

    async fn unseat(&mut self, id: StudyId) {
        if let Some(mut seat) = self.seats.remove(&id) {
            seat.abandon().await;
            seat.leave().await;
        }
    }

    /// Deletes what a study that is over, or left, has in the work folder.
    async fn tidy(&self, id: StudyId) {
        match tokio::fs::remove_dir_all(folder_of(&self.house, id)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(digest = id.short(), %error, "cannot delete what a study has left");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Takes up a changed configuration; a faulty one is named, and the one before stays.
    fn reread(&mut self) {
        let found = written(&self.house.config);
        if found == self.written {
            return;
        }
        self.written = found;
        match Config::load(&self.house.config.file) {
            Ok(config)
                if config.state != self.house.config.state
                    || config.proxy != self.house.config.proxy =>
            {
                tracing::warn!(
                    "the configuration names another state folder or proxy: that takes a restart"
                );
            }
            Ok(config) => {
                self.house.config = Arc::new(config);
                tracing::info!("configuration read again");
            }
            Err(error) => {
                tracing::warn!(%error, "the changed configuration cannot be used; the one before stays")
            }
        }
    }

    async fn decided(&self, id: StudyId) -> Option<LocalStudy> {
        // Without its journal this house has approved nothing.
        self.house.journal.study(id).await.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read the journal");
            None
        })
    }

    /// Tells the coordinator what this house decided while it was away.
    fn tell(&self, ours: &LocalStudy) {
        let client = self.clients.borrow().clone();
        let (Some(mut client), study, decision) = (client, ours.id, ours.decision) else { return };
        let (name, done) = (ours.name.clone(), self.done.clone());
        tokio::spawn(async move {
            let request = DecideStudyRequest {
                study: study.digest().as_bytes().to_vec(),
                decision: decision_to(decision).into(),
            };
            match client.decide_study(request).await {
                Ok(_) => {
                    tracing::info!(
                        study = name,
                        decision = decision.name(),
                        "told the coordinator our decision"
                    );
                    // Nobody hears it when we are stopping.
                    let _ = done.send(Done::Heard { study, decision }).await;
                }
                Err(status) => {
                    tracing::warn!(
                        study = name,
                        error = status.message(),
                        "the coordinator does not take our decision"
                    );
                }
            }
        });
    }

    /// Declines what is being worked on, lets the last calls out, ends the trainers.
    async fn leave(mut self) {
        tracing::info!("stopping");
        for seat in self.seats.values_mut() {
            seat.interrupt(self.session).await;
        }
        let seats = std::mem::take(&mut self.seats);
        let leaving = futures_util::future::join_all(seats.into_values().map(Seat::leave));
        if tokio::time::timeout(PATIENCE, leaving).await.is_err() {
            tracing::warn!("the coordinator did not hear everything before we stopped");
        }
    }
}

fn written(config: &Config) -> Option<SystemTime> {
    std::fs::metadata(&config.file).and_then(|found| found.modified()).ok()
}

/// This house's own no to a round of a study that it approved.
fn barred(house: &House, seat: &Seat, told: Option<&Told>) -> Option<DeclineReason> {
    let study = seat.study();
    if house.witness.alarmed() {
        tracing::error!(study = study.name, "ALARM: the log contradicts itself; see `doctor`");
        return Some(DeclineReason::Log);
    }
    let violations = house.config.policy.violations(study, seat.noise());
    if !violations.is_empty() {
        let all: Vec<String> = violations.iter().map(Violation::to_string).collect();
        tracing::warn!(
            study = study.name,
            policy = all.join("; "),
            "this house's policy forbids the study"
        );
        return Some(DeclineReason::Policy);
    }
    if told.is_some_and(|told| told.sites != seat.local.sites) {
        tracing::warn!(study = study.name, "the roster is not the one that this house approved");
        return Some(DeclineReason::Terms);
    }
    if told.is_some_and(|told| !told.fits(&seat.local)) {
        tracing::error!(
            study = study.name,
            "ALARM: a site has another identity key than when this house approved the study; see \
             `hospital-node roster list`, then approve the study again"
        );
        return Some(DeclineReason::Terms);
    }
    if !house.config.policy.open_at(clock::now()) {
        tracing::info!(study = study.name, "outside our hours");
        return Some(DeclineReason::OutsideHours);
    }
    None
}

#[cfg(test)]
mod tests;
