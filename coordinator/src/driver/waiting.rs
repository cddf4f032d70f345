//! Between two rounds: who is here, and when the next one is announced.
//!
//! A round invites the sites that have approved, stand, and are connected. A site that was lost a
//! moment ago is waited for, so that a broken connection does not cost it the round; one that has
//! been away longer is not invited, since the round would wait for it until the deadline, each
//! time. It is named among the dropped all the same, and invited again once it is back.

use std::collections::BTreeSet;
use std::time::Duration;

use aggregation::ids::HospitalId;
use aggregation::life::{Change, Life};
use aggregation::message::Terms;
use aggregation::round::Round;
use aggregation::units::Timestamp;
use proto::federation::Decision;

use super::{Command, DISK_RETRY, Driver, Halt, Open, tell, wake};
use crate::clock;

/// How long a lost site is waited for, but never for more than a third of a round.
const GRACE: Duration = Duration::from_secs(10);

enum Whom {
    /// These are invited; those have approved but are not here.
    Invite { here: BTreeSet<HospitalId>, absent: BTreeSet<HospitalId> },
    /// Nobody is invited yet; look again at the moment, or when somebody comes or goes.
    Wait { why: String, until: Option<Timestamp> },
}

impl Driver {
    /// Waits until the next round can be announced, and announces it.
    pub(super) async fn next(&mut self) -> Result<Open, Halt> {
        let mut presence = self.house.board.presence_changes();
        loop {
            let now = clock::now();
            let life = self.entry.standing().life;
            let look = match life {
                Life::Completed | Life::Failed | Life::Stopped => return Err(Halt::Ended),
                Life::Proposed | Life::Approved | Life::Paused => {
                    let mut standing = self.entry.standing();
                    let reason = &standing.reason;
                    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                    standing.waiting_for = format!("{}{why}", life.name());
                    None
                }
                Life::Running if self.study.next_round > self.charter.study().last_round() => {
                    self.complete().await;
                    Some(now.saturating_add(DISK_RETRY))
                }
                Life::Running if self.not_before > now => Some(self.not_before),
                Life::Running => match self.whom(now) {
                    Whom::Invite { here, absent } => match self.announce(here, absent, now).await {
                        Some(open) => return Ok(open),
                        None => Some(now.saturating_add(DISK_RETRY)),
                    },
                    Whom::Wait { why, until } => {
                        self.waiting(why);
                        until
                    }
                },
            };
            tokio::select! {
                () = self.house.board.until_closing() => return Err(Halt::Closing),
                command = self.inbox.recv() => if let Some(command) = command {
                    self.answer_between(command);
                },
                // The board outlives its drivers.
                _ = presence.changed() => {}
                () = wake(look) => {}
            }
        }
    }

    /// Says why nothing happens; whoever watches is told when it changes.
    fn waiting(&self, why: String) {
        let changed = {
            let mut standing = self.entry.standing();
            let changed = standing.waiting_for != why;
            standing.waiting_for = why;
            changed
        };
        if changed {
            self.entry.tell(crate::board::Happened::Changed);
        }
    }

    fn whom(&self, now: Timestamp) -> Whom {
        let cohort = &self.charter.study().cohort;
        let quorum = usize::from(cohort.quorum);
        let patience = GRACE.min(cohort.round_deadline / 3);
        let decisions = self.entry.standing().decisions.clone();
        let willing: BTreeSet<HospitalId> = self
            .charter
            .sites()
            .iter()
            .filter(|site| decisions.get(*site) == Some(&Decision::Approved))
            .filter(|site| self.house.gate.stands(site))
            .cloned()
            .collect();
        if willing.len() < quorum {
            let why =
                format!("{} hospitals approve and stand; the quorum is {quorum}", willing.len());
            return Whom::Wait { why, until: None };
        }
        let mut here = BTreeSet::new();
        let mut absent = BTreeSet::new();
        let mut grace = None;
        for site in willing {
            match self.house.board.left(&site) {
                None => {
                    here.insert(site);
                }
                Some(left) => {
                    let until = left.max(self.since).saturating_add(patience);
                    if until > now {
                        grace = grace.max(Some(until));
                    }
                    absent.insert(site);
                }
            }
        }
        let connected =
            format!("{} of {} hospitals connected", here.len(), here.len() + absent.len());
        if here.len() < quorum {
            let why = format!("{connected}; the quorum is {quorum}");
            return Whom::Wait { why, until: None };
        }
        match grace {
            Some(until) => {
                let why = format!("{connected}; waiting a moment for the others");
                Whom::Wait { why, until: Some(until) }
            }
            None => Whom::Invite { here, absent },
        }
    }

    /// Opens the next round. `None`: it could not be kept, and nothing has happened.
    async fn announce(
        &mut self,
        here: BTreeSet<HospitalId>,
        absent: BTreeSet<HospitalId>,
        now: Timestamp,
    ) -> Option<Open> {
        let study = self.charter.study();
        let round = self.study.next_round;
        let terms = Terms {
            study: self.entry.id,
            round,
            slot: self.study.next_slot,
            work: study.work_in(round),
            model: self.study.model,
            invited: here,
            ready_by: now.saturating_add(study.cohort.round_deadline),
        };
        let plan = match self.charter.plan(terms.work) {
            Ok(plan) => plan,
            Err(fault) => {
                self.waiting(format!("the study cannot be run: {fault}"));
                return None;
            }
        };
        let (opened, outputs) = Round::open(now, terms.clone(), plan);
        let mut leaves: Vec<_> =
            tell::facts(&outputs).map(|fact| tell::leaf(&terms, fact)).collect();
        leaves.extend(
            absent.iter().map(|site| {
                super::fact_of_round(&terms, "round_absent").with("site", site.as_str())
            }),
        );
        if let Err(fault) = self.house.store.open_round(&terms, &absent, now, &leaves).await {
            tracing::error!(study = %self.entry.id.short(), fault = %fault.chain(), "round was not opened");
            self.waiting(fault.to_string());
            return None;
        }
        self.study.next_slot = terms.slot.next();
        for site in &absent {
            tracing::warn!(study = %terms.study.short(), round = round.get(), hospital = %site, "absent");
        }
        let mut open = Open {
            digest: terms.digest(),
            round: opened,
            terms,
            opened: now,
            absent,
            journaled: 0,
            wake: None,
        };
        // Nothing closes here: at least a quorum is invited.
        self.let_out_opening(&mut open, outputs);
        Some(open)
    }

    /// The study has run its last round.
    async fn complete(&self) {
        let done = self.house.change_life(&self.entry, Change::Complete, "", "coordinator").await;
        if let Err(fault) = done {
            self.waiting(fault.to_string());
        }
    }

    /// Answers while no round is open: only what the last one knows.
    fn answer_between(&mut self, command: Command) {
        match command {
            Command::Said { from, heard, reply } => {
                let answer = self.late(&from, heard);
                // Who asked may be gone.
                let _ = reply.send(answer);
            }
            Command::Expect { from, round, slot, terms, reply } => {
                let answer = self.expects(None, &from, terms, (round, slot));
                let _ = reply.send(answer);
            }
            Command::Removed(_) | Command::Nudge => {}
        }
    }
}
