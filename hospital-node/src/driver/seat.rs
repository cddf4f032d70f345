//! This site's seat in one study: the participant, and the hands that do what it says. Every step
//! is journaled before its effect; what a restart finds in the journal it plays again.

mod end;
mod masked;
mod replay;
mod spend;

pub(super) use masked::MaskError;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use aggregation::charter::Charter;
use aggregation::ids::{SlotId, StudyId};
use aggregation::keys::provision::Provision;
use aggregation::message::{DeclineReason, Roster, Terms};
use aggregation::participant::{Action, Event, Participant};
use aggregation::privacy::plan::Plan;
use aggregation::refusal::Refusal;
use aggregation::study::Study;
use proto::federation::Stage as Reported;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::calls::{self, CallError, Claim};
use super::progress::Progress;
use super::work::{self, Assignment, WorkError};
use super::{Done, House};
use crate::config::{Config, DataSet};
use crate::journal::{JournalError, LocalStudy, Ours, Packed};
use crate::link::Client;
use crate::state::{StateError, make_private};
use crate::worker::Worker;
use crate::{clock, identity};

/// Why this site cannot take its seat in a study that it approved.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unseated {
    /// The manifest in the journal is not understood by this version of the program.
    #[error("the approved manifest is not understood any more: {0}")]
    Manifest(String),
    /// Study and roster do not go together.
    #[error("study and roster do not go together: {0}")]
    Charter(String),
    /// The data set of the approval is not configured.
    #[error("the data set {0:?} of the approval is not in the configuration")]
    NoData(String),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The work folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The work folder's content.
    #[error("the work folder: {0}")]
    Disk(#[from] io::Error),
}

impl Unseated {
    /// What the coordinator is told.
    pub(super) const fn reason(&self) -> DeclineReason {
        match self {
            Self::Manifest(_) | Self::Charter(_) => DeclineReason::Terms,
            Self::NoData(_) | Self::Journal(_) | Self::State(_) | Self::Disk(_) => {
                DeclineReason::Trainer
            }
        }
    }
}

/// A call in flight: under which session, and what it does.
struct Calling {
    session: u64,
    action: Action,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat").field("study", &self.local.name).finish_non_exhaustive()
    }
}

/// One study, as this site takes part in it.
pub(super) struct Seat {
    house: House,
    pub(super) local: LocalStudy,
    data: DataSet,
    folder: PathBuf,
    participant: Participant,
    /// What this site's masks rest on; none before the keys are agreed on, and in a study without.
    provision: Option<Arc<Provision>>,
    terms: Option<Terms>,
    roster: Option<Roster>,
    packed: Option<Packed>,
    /// The slot whose shares were given.
    settled: Option<SlotId>,
    /// A trainer that waits for the next round.
    worker: Option<Worker>,
    working: Option<(SlotId, JoinHandle<()>)>,
    masking: Option<(SlotId, JoinHandle<()>)>,
    calling: Option<Calling>,
    /// How the round ended, once the coordinator has said so.
    outcome: Option<String>,
    progress: Progress,
    clients: watch::Receiver<Option<Client>>,
    done: mpsc::Sender<Done>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        for (_, task) in self.working.iter().chain(&self.masking) {
            task.abort();
        }
        if let Some(calling) = &self.calling {
            calling.task.abort();
        }
    }
}

impl Seat {
    /// Takes the seat, going on where the journal ends.
    pub(super) async fn take(
        house: House,
        local: LocalStudy,
        clients: watch::Receiver<Option<Client>>,
        done: mpsc::Sender<Done>,
    ) -> Result<Self, Unseated> {
        let study = proto::manifest::parse(&local.manifest)
            .map_err(|faults| Unseated::Manifest(faults.to_string()))?;
        if study.digest() != local.id {
            return Err(Unseated::Manifest("its digest is another one".to_owned()));
        }
        let charter = Charter::new(study, local.sites.clone()).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            Unseated::Charter(faults.join("; "))
        })?;
        let name = local.data.clone().unwrap_or_default();
        let data = house.config.data.get(&name).cloned().ok_or(Unseated::NoData(name))?;
        let folder = folder_of(&house, local.id);
        make_private(&folder)?;
        let provision = masked::provision(&house, &local, &charter).await?.map(Arc::new);
        let participant = Participant::new(house.me.clone(), charter);
        let mut seat = Self {
            participant: with_keys(participant, provision.as_ref()),
            provision,
            terms: None,
            roster: None,
            packed: None,
            settled: None,
            worker: None,
            working: None,
            masking: None,
            calling: None,
            outcome: None,
            progress: Progress::start(clients.clone()),
            house,
            local,
            data,
            folder,
            clients,
            done,
        };
        seat.replay().await?;
        Ok(seat)
    }

    /// What the trainer made.
    fn update(&self, slot: SlotId) -> PathBuf {
        self.folder.join(format!("{slot}.update"))
    }

    /// The same, masked.
    fn masked_update(&self, slot: SlotId) -> PathBuf {
        self.folder.join(format!("{slot}.masked"))
    }

    fn ours(&self) -> Option<Ours<'_>> {
        self.provision.as_deref().map(|provision| Ours { me: &self.house.me, provision })
    }

    /// The approved study.
    pub(super) const fn study(&self) -> &Study {
        self.participant.charter().study()
    }

    /// The approved study's noise; none for one without privacy.
    pub(super) const fn noise(&self) -> Option<&Plan> {
        self.participant.charter().noise()
    }

    /// Whether these are the settings that it was taken under.
    pub(super) fn works_under(&self, config: &Arc<Config>) -> bool {
        Arc::ptr_eq(&self.house.config, config)
    }

    /// Whether this slot is the one at hand.
    pub(super) fn holds(&self, slot: SlotId) -> bool {
        self.participant.slot() == Some(slot)
    }

    /// Whether a trainer is at work right now.
    pub(super) const fn is_working(&self) -> bool {
        self.working.is_some()
    }

    /// Something happened: asks the participant, journals what it says, does it.
    pub(super) async fn happen(&mut self, session: u64, event: Event) {
        let mut next = self.participant.clone();
        let actions = match next.handle(event.clone()) {
            Ok(actions) => actions,
            Err(refusal) => return self.refused(&event, &refusal),
        };
        if let Event::Offered(terms) | Event::Barred { terms, .. } = &event
            && next.slot() == Some(terms.slot)
            && self.terms.as_ref().map(|known| known.slot) != Some(terms.slot)
        {
            self.terms = Some(terms.clone());
            self.packed = None;
        }
        if let Event::Frozen(roster) = &event
            && next.slot() == Some(roster.slot)
        {
            self.roster = Some(roster.clone());
        }
        let erased = match self.journal_set(&event, &next, &actions).await {
            Ok(erased) => erased,
            Err(error) => {
                // Nothing is given that is not journaled; what is asked for again is tried again.
                tracing::error!(study = self.local.name, %error, "cannot journal the final set");
                return;
            }
        };
        if let Err(error) = self.journal(&actions).await {
            // Nothing was said and nothing was begun: to the coordinator we are just not there.
            tracing::error!(study = self.local.name, %error, "cannot journal; this round goes on without us");
            return;
        }
        self.participant = next;
        for action in actions {
            self.act(session, action).await;
        }
        if erased {
            self.settle().await;
            self.settled = self.participant.slot();
        }
    }

    /// The participant refuses something. Of a final set or a roster that is not what it was, or not
    /// what it may be, an administrator has to know: somebody may be trying to take this house's
    /// update apart.
    fn refused(&self, event: &Event, refusal: &Refusal) {
        let about_sums = matches!(event, Event::Frozen(_) | Event::Fixed(_) | Event::Unmask(_));
        let (study, rule) = (&self.local.name, refusal.rule());
        let terms = self.terms.as_ref();
        let (round, slot) =
            (terms.map(|terms| terms.round.get()), terms.map(|terms| terms.slot.get()));
        // A roster after a decline of ours is an ordinary thing: the two crossed on their way.
        if about_sums && !matches!(refusal, Refusal::OutOfPhase { .. }) {
            tracing::error!(study, round, slot, %refusal, rule, "ALARM: refused");
        } else {
            tracing::warn!(study, round, slot, %refusal, rule, "refused");
        }
    }

    async fn journal(&self, actions: &[Action]) -> Result<(), JournalError> {
        let journal = &self.house.journal;
        for action in actions {
            match action {
                Action::Train(terms) => journal.begin(terms, clock::now()).await?,
                Action::Decline { slot, reason, .. } => {
                    if let Some(terms) = self.terms.as_ref().filter(|terms| terms.slot == *slot) {
                        journal.decline(terms, *reason, clock::now()).await?;
                    }
                }
                Action::Ready { .. }
                | Action::Upload { .. }
                | Action::Mask { .. }
                | Action::Sign { .. }
                | Action::Unmask { .. }
                | Action::Forget(_) => {}
            }
        }
        Ok(())
    }

    async fn act(&mut self, session: u64, action: Action) {
        match action {
            Action::Train(terms) => self.train(terms).await,
            Action::Forget(slot) => self.forget(slot).await,
            Action::Ready { .. } | Action::Decline { .. } | Action::Upload { .. } => {
                self.call(session, action)
            }
            Action::Sign { .. } | Action::Unmask { .. } => {
                if let Some(terms) = &self.terms {
                    self.progress.say(terms, Reported::Unmasking, 0);
                }
                self.call(session, action);
            }
            Action::Mask { slot, context, members } => self.mask(slot, context, members),
        }
    }

    async fn train(&mut self, terms: Terms) {
        let slot = terms.slot;
        let charter = self.participant.charter();
        let parameters = charter.study().layout().parameters();
        let (Ok(format), Ok(parameters)) = (charter.format(terms.work), u64::try_from(parameters))
        else {
            return self.send(Done::NoWork { study: self.local.id, slot }).await;
        };
        tracing::info!(
            study = self.local.name,
            round = terms.round.get(),
            slot = slot.get(),
            work = terms.work.name(),
            sites = terms.invited.len(),
            "round offered"
        );
        let pseudonyms = identity::pseudonym_key(&self.house.state);
        let assignment = Assignment {
            open: work::opening(&self.local, &self.data, &self.house.me, &pseudonyms),
            trainer: self.house.config.trainer.clone(),
            folder: self.folder.clone(),
            update: self.update(slot),
            model_bytes: parameters.saturating_mul(4),
            update_bytes: u64::try_from(format.packed_bytes()).unwrap_or(u64::MAX),
            terms,
        };
        let (kept, clients, progress) =
            (self.worker.take(), self.clients.clone(), self.progress.clone());
        let (study, done) = (self.local.id, self.done.clone());
        let task = tokio::spawn(async move {
            let result = work::perform(assignment, kept, clients, progress).await;
            // Nobody hears it when we are stopping.
            let _ = done.send(Done::Worked { study, slot, result: Box::new(result) }).await;
        });
        if let Some((_, earlier)) = self.working.replace((slot, task)) {
            earlier.abort();
        }
    }

    async fn send(&self, done: Done) {
        // As above.
        let _ = self.done.send(done).await;
    }

    /// The trainer's work came back, or did not.
    pub(super) async fn worked(
        &mut self,
        session: u64,
        slot: SlotId,
        result: Result<(Worker, Packed), WorkError>,
    ) {
        if self.working.as_ref().is_some_and(|(current, _)| *current == slot) {
            self.working = None;
        }
        let event = match result {
            Ok((worker, packed)) => {
                self.worker = Some(worker);
                match self.house.journal.trained(self.local.id, slot, packed).await {
                    Ok(()) => {
                        tracing::info!(study = self.local.name, slot = slot.get(), "work done");
                        self.packed = Some(packed);
                        trained(slot, packed)
                    }
                    Err(error) => {
                        tracing::error!(study = self.local.name, %error, "cannot journal the work; it is dropped");
                        Event::TrainerFailed { slot }
                    }
                }
            }
            Err(error) => {
                tracing::error!(study = self.local.name, slot = slot.get(), %error, "no work done for this round");
                Event::TrainerFailed { slot }
            }
        };
        if let (Event::Trained { .. }, Some(terms)) = (&event, &self.terms) {
            self.progress.say(terms, Reported::Waiting, 0);
        }
        self.happen(session, event).await;
    }

    /// Ends the work at hand, if there is any, and says so.
    pub(super) async fn interrupt(&mut self, session: u64) {
        if let Some((slot, task)) = self.working.take() {
            task.abort();
            self.happen(session, Event::TrainerFailed { slot }).await;
        }
    }

    /// Says something to the coordinator, in a task of its own; not twice at once.
    fn call(&mut self, session: u64, action: Action) {
        let client = self.clients.borrow().clone();
        // Without a session there is nothing to do: the next one asks again what is due.
        let (Some(client), Some(terms)) = (client, self.terms.clone()) else { return };
        if let Some(calling) = &self.calling {
            if calling.session == session && calling.action == action && !calling.task.is_finished()
            {
                return;
            }
            calling.task.abort();
        }
        let said = action.clone();
        let (study, done, progress) = (self.local.id, self.done.clone(), self.progress.clone());
        let file = if self.provision.is_some() {
            self.masked_update(terms.slot)
        } else {
            self.update(terms.slot)
        };
        let packed = self.packed.filter(|_| self.is_paid(&terms));
        let told = packed.map(|packed| self.told(&terms, packed));
        let witness = Arc::clone(&self.house.witness);
        let (journal, identity) = (self.house.journal.clone(), Arc::clone(&self.house.identity));
        let task = tokio::spawn(async move {
            let result = match &said {
                Action::Ready { .. } => calls::ready(client, terms).await,
                Action::Decline { reason, .. } => calls::decline(client, terms, *reason).await,
                Action::Upload { digest, .. } => {
                    match packed.filter(|packed| packed.digest == *digest).zip(told) {
                        Some((packed, (owed, charge))) => {
                            let claim = Claim { witness, owed, charge };
                            calls::upload(client, terms, claim, packed, file, progress).await
                        }
                        None => Err(CallError::Disk(io::Error::from(io::ErrorKind::NotFound))),
                    }
                }
                Action::Sign { statement, .. } => {
                    // Whoever has us sign for it has our update.
                    if let Some((owed, _)) = told {
                        witness.is_received(owed);
                    }
                    masked::sign(client, &terms, identity.sign(statement)).await
                }
                Action::Unmask { .. } => masked::give(client, &journal, &terms).await,
                Action::Train(_) | Action::Mask { .. } | Action::Forget(_) => Ok(()),
            };
            // Nobody hears it when we are stopping.
            let _ = done.send(Done::Called { study, session, action: said, result }).await;
        });
        self.calling = Some(Calling { session, action, task });
    }

    /// A call was answered by the coordinator.
    pub(super) async fn confirmed(&mut self, session: u64, action: &Action) {
        match action {
            Action::Upload { round, slot, bytes, .. } => {
                tracing::info!(
                    study = self.local.name,
                    round = round.get(),
                    slot = slot.get(),
                    bytes,
                    "update sent"
                );
                if let Some(terms) = self.terms.as_ref().filter(|terms| terms.slot == *slot) {
                    self.progress.say(terms, Reported::Done, 1000);
                }
                self.happen(session, Event::Uploaded { slot: *slot }).await;
            }
            Action::Decline { round, slot, reason, .. } => {
                tracing::info!(study = self.local.name, round = round.get(), slot = slot.get(), %reason, "round declined");
            }
            Action::Ready { round, slot, .. } => {
                tracing::debug!(
                    study = self.local.name,
                    round = round.get(),
                    slot = slot.get(),
                    "ready"
                );
            }
            Action::Sign { round, slot, .. } => {
                tracing::debug!(
                    study = self.local.name,
                    round = round.get(),
                    slot = slot.get(),
                    "final set signed"
                );
                self.happen(session, Event::Signed { slot: *slot }).await;
            }
            Action::Unmask { round, slot, own, recovery, .. } => {
                tracing::info!(
                    study = self.local.name,
                    round = round.get(),
                    slot = slot.get(),
                    of = own.len(),
                    of_dropped = recovery.len(),
                    "shares given"
                );
                if let Some(terms) = &self.terms {
                    self.progress.say(terms, Reported::Done, 1000);
                }
                self.happen(session, Event::Unmasked { slot: *slot }).await;
            }
            Action::Train(_) | Action::Mask { .. } | Action::Forget(_) => {}
        }
    }
}

/// Where a study's models and updates lie.
pub(super) fn folder_of(house: &House, study: StudyId) -> PathBuf {
    house.state.work().join(study.to_string())
}

fn trained(slot: SlotId, packed: Packed) -> Event {
    Event::Trained {
        slot,
        digest: packed.digest,
        bytes: usize::try_from(packed.bytes).unwrap_or(usize::MAX),
    }
}

fn with_keys(participant: Participant, provision: Option<&Arc<Provision>>) -> Participant {
    match provision {
        Some(provision) => participant.with_keys(Arc::clone(provision)),
        None => participant,
    }
}
