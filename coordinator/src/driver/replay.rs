//! After a restart, or after a step that could not be kept: the open round again, from its journal.

use std::collections::BTreeSet;
use std::sync::Arc;

use aggregation::charter::Charter;
use aggregation::ids::{Digest, RoundId, SlotId};
use aggregation::message::{Said, StopReason};
use aggregation::round::{Fact, Input, Output, Plan, Round};
use aggregation::strategy::ServerState;
use aggregation::units::Timestamp;
use bytes::Bytes;

use super::{DISK_RETRY, Driver, Halt, Open, Taken, closes, combine, shove, tell};
use crate::clock;
use crate::coordinator::Coordinator;
use crate::store::recorded::Recorded;
use crate::store::rounds::OpenRound;
use crate::store::studies::StudyRow;
use crate::store::{Leaf, Store, StoreError};

/// How far a study is, as its row and blobs have it.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The round to run next.
    pub(crate) next_round: RoundId,
    /// The slot that its attempt will have.
    pub(crate) next_slot: SlotId,
    /// The model that it will offer.
    pub(crate) model: Digest,
    /// The model's bytes, shared by everyone who fetches it.
    pub(crate) model_bytes: Bytes,
    /// What the server's optimiser remembers.
    pub(crate) server: ServerState,
    /// Its blob, if it has one.
    pub(crate) optimizer: Option<Digest>,
    /// The share of its rounds that are kept, as its first release said; nothing before that. It may
    /// not change while the study runs, whatever the configuration says by then.
    pub(crate) share: Option<f64>,
}

impl Progress {
    /// Reads what a study's row names.
    ///
    /// # Errors
    /// When a blob is gone or changed.
    pub(crate) async fn load(
        store: &Store,
        row: &StudyRow,
        charter: &Charter,
    ) -> Result<Self, StoreError> {
        let training = &charter.study().training;
        let parameters = charter.study().layout().parameters();
        let model_bytes = store.blobs.model(row.model).await?;
        let server = match row.optimizer {
            None => ServerState::new(training, parameters),
            Some(digest) => {
                let bytes = store.blobs.optimizer(digest).await?;
                ServerState::from_bytes(training, parameters, &bytes)
                    .map_err(|_| StoreError::Corrupt(format!("optimizer/{digest}")))?
            }
        };
        Ok(Self {
            next_round: row.next_round,
            next_slot: row.next_slot,
            model: row.model,
            model_bytes,
            server,
            optimizer: row.optimizer,
            share: store.share_of(row.study).await?,
        })
    }
}

/// A round that was played again, and what its last input gave.
struct Replayed {
    open: Open,
    last: Option<Taken>,
}

impl Driver {
    /// After a restart: rebuilds the open round, starts its deadlines again, and tells the sites.
    pub(super) async fn resume(&mut self) -> Result<Option<Open>, Halt> {
        // A kill leaves what a power cut would still take.
        self.settled().await?;
        if let Some(mut open) = self.rebuilt().await? {
            self.house.store.blobs.clear_staged(self.entry.id, Some(open.terms.slot)).await;
            loop {
                let Some(taken) =
                    shove(&mut open, self.house.clock.now(), Recorded::Resumed, Input::Resumed)
                else {
                    return Ok(Some(open));
                };
                let leaves = [super::fact_of_round(&open.terms, "round_resumed")];
                let kept = self
                    .house
                    .store
                    .journal(
                        open.terms.study,
                        open.terms.slot,
                        open.journaled,
                        &[(taken.at, Recorded::Resumed)],
                        taken.at,
                        &leaves,
                    )
                    .await;
                if let Err(fault) = kept {
                    self.unreachable_store(&fault).await?;
                    continue;
                }
                open.journaled += 1;
                tracing::info!(
                    study = %open.terms.study.short(), round = open.terms.round.get(),
                    slot = open.terms.slot.get(), phase = open.round.phase(), "round resumed"
                );
                let roster = open.round.roster();
                {
                    let mut standing = self.entry.standing();
                    standing.offer = Some(open.terms.clone());
                    standing.roster = roster;
                }
                self.let_out_opening(&mut open, taken.outputs);
                return Ok(Some(open));
            }
        }
        self.house.store.blobs.clear_staged(self.entry.id, None).await;
        Ok(None)
    }

    /// Rebuilds the open round from its journal. A round that had closed, but whose closing was
    /// not kept, closes now; one that cannot be rebuilt is abandoned with that reason.
    pub(super) async fn rebuilt(&mut self) -> Result<Option<Open>, Halt> {
        loop {
            let found = match self.house.store.opened(self.entry.id).await {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(None),
                Err(fault) => {
                    self.unreachable_store(&fault).await?;
                    continue;
                }
            };
            let mut untold = Vec::new();
            let replayed = match self.replay(&found).await {
                Ok(replayed) => replayed,
                Err(StoreError::Corrupt(what)) => {
                    tracing::warn!(study = %self.entry.id.short(), what, "round cannot be rebuilt");
                    untold = match self.untold(&found).await {
                        Ok(untold) => untold,
                        Err(fault) => {
                            self.unreachable_store(&fault).await?;
                            continue;
                        }
                    };
                    interrupted(&self.charter, self.house.clock.now(), &found)?
                }
                Err(fault) => {
                    self.unreachable_store(&fault).await?;
                    continue;
                }
            };
            let Replayed { mut open, last } = replayed;
            match last {
                Some(last) if closes(&last) => {
                    // Nothing, unless a closing was under way when an earlier version stopped.
                    if untold.is_empty() {
                        untold = match self.untold(&found).await {
                            Ok(untold) => untold,
                            Err(fault) => {
                                self.unreachable_store(&fault).await?;
                                continue;
                            }
                        };
                    }
                    if let Some(mut ended) = self.let_out(&mut open, vec![last]) {
                        ended.leaves.splice(..0, untold);
                        self.close(open, ended).await?;
                    }
                    return Ok(None);
                }
                Some(_) | None => return Ok(Some(open)),
            }
        }
    }

    /// Of a round that cannot be rebuilt: the updates that the journal has and the log not, because
    /// the closing that would have told of the last of them was not kept. Their sites have receipts.
    async fn untold(&self, found: &OpenRound) -> Result<Vec<Leaf>, StoreError> {
        let (study, slot) = (found.terms.study, found.terms.slot);
        let length =
            self.charter.format(found.terms.work).map_or(0, |format| format.packed_bytes());
        let mut untold = Vec::new();
        for (_, recorded) in &found.journal {
            let Recorded::Update { from, digest, .. } = recorded else { continue };
            let told = self.house.store.facts_of_site(study, slot, from, u64::MAX).await?;
            if told.iter().all(|(_, leaf)| !leaf.contains("\"kind\":\"round_contribution\"")) {
                let (hospital, digest, bytes) = (from.clone(), *digest, length);
                let fact = Fact::Contributed { hospital, digest, bytes };
                untold.push(tell::leaf(&found.terms, &fact));
            }
        }
        Ok(untold)
    }

    async fn replay(&self, found: &OpenRound) -> Result<Replayed, StoreError> {
        let damaged = || StoreError::Corrupt("the journal of the open round".to_owned());
        let plan = self.plan(&found.terms).await?.ok_or_else(damaged)?;
        let (mut open, outputs) = again(found, plan);
        remember(&mut open, &outputs);
        let mut last = None;
        for (at, recorded) in &found.journal {
            let input = input_of(&self.house, found, recorded).await?;
            let stepped =
                tokio::task::block_in_place(|| combine::step(&mut open.round, *at, input));
            let outputs = stepped.map_err(|_| damaged())?;
            remember(&mut open, &outputs);
            last = Some(Taken { at: *at, recorded: recorded.clone(), outputs });
        }
        Ok(Replayed { open, last })
    }

    /// Waits until what was kept is durable, for as long as the disk refuses.
    pub(super) async fn settled(&self) -> Result<(), Halt> {
        while let Err(fault) = self.house.store.settle().await {
            self.unreachable_store(&fault).await?;
            self.entry.standing().waiting_for.clear();
        }
        Ok(())
    }

    /// Waits a moment for a store that does not answer.
    pub(super) async fn unreachable_store(&self, fault: &StoreError) -> Result<(), Halt> {
        tracing::error!(study = %self.entry.id.short(), fault = %fault.chain(), "the store does not answer");
        self.entry.standing().waiting_for = fault.to_string();
        tokio::select! {
            () = self.house.board.until_closing() => Err(Halt::Closing),
            () = clock::wait_for(DISK_RETRY) => Ok(()),
        }
    }

    /// Lets out what opens a round, or opens it again.
    pub(super) fn let_out_opening(&self, open: &mut Open, outputs: Vec<Output>) {
        for fact in tell::facts(&outputs) {
            tell::trace(&open.terms, fact);
        }
        let plain =
            outputs.into_iter().filter(|output| !matches!(output, Output::Fact(_))).collect();
        let at = self.house.clock.now();
        // No closing is among these, so nothing comes back.
        let _ = self.let_out(open, vec![Taken { at, recorded: Recorded::Resumed, outputs: plain }]);
    }
}

fn again(found: &OpenRound, plan: Plan) -> (Open, Vec<Output>) {
    let (round, outputs) = Round::open(found.opened, found.terms.clone(), plan);
    let open = Open {
        digest: found.terms.digest(),
        round,
        terms: found.terms.clone(),
        opened: found.opened,
        absent: found.absent.clone(),
        courses: tell::courses(&found.terms),
        journaled: found.journal.len(),
        wake: None,
        lost: BTreeSet::new(),
    };
    (open, outputs)
}

fn remember(open: &mut Open, outputs: &[Output]) {
    for output in outputs {
        if let Output::WakeAt(moment) = output {
            open.wake = Some(*moment);
        }
    }
    for fact in tell::facts(outputs) {
        tell::note(&mut open.courses, fact);
    }
}

async fn input_of(
    house: &Arc<Coordinator>,
    found: &OpenRound,
    recorded: &Recorded,
) -> Result<Input, StoreError> {
    Ok(match recorded.clone() {
        Recorded::Ready { from, terms } => Input::Said { from, said: Said::Ready { terms } },
        Recorded::Declined { from, terms, reason } => {
            Input::Said { from, said: Said::Declined { terms, reason } }
        }
        Recorded::Update { from, terms, digest } => {
            let (study, slot) = (found.terms.study, found.terms.slot);
            let packed = Vec::from(house.store.blobs.staged(study, slot, &from, digest).await?);
            Input::Said { from, said: Said::Update { terms, digest, packed } }
        }
        Recorded::Signed { from, terms, signature } => {
            Input::Said { from, said: Said::Signed { terms, signature } }
        }
        Recorded::Unmask { from, terms, shares } => {
            Input::Said { from, said: Said::Unmask { terms, shares } }
        }
        Recorded::Deadline => Input::Deadline,
        Recorded::Removed { hospital } => Input::Removed { hospital },
        Recorded::Lost { hospital } => Input::Lost { hospital },
        Recorded::Resumed => Input::Resumed,
        Recorded::Stop { reason } => Input::Stop { reason },
    })
}

/// What was staged, or a key, is gone: the attempt is opened once more only to be ended, so that
/// no update can come to this plan, which has no masks.
fn interrupted(charter: &Charter, now: Timestamp, found: &OpenRound) -> Result<Replayed, Halt> {
    let cohort = &charter.study().cohort;
    let plan = Plan {
        format: charter.format(found.terms.work).map_err(|_| Halt::Ended)?,
        quorum: cohort.quorum,
        round_deadline: cohort.round_deadline,
        upload_deadline: cohort.upload_deadline,
        masks: None,
    };
    let (mut open, _) = again(found, plan);
    let reason = StopReason::Interrupted;
    let last = shove(&mut open, now, Recorded::Stop { reason }, Input::Stop { reason });
    Ok(Replayed { open, last })
}
