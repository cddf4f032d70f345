//! Between two rounds: who is here, and when the next one is announced.
//!
//! A round invites the sites that have approved, stand, and are connected. A site that was lost a
//! moment ago is waited for, so that a broken connection does not cost it the round; one that has
//! been away longer is not invited, since the round would wait for it until the deadline, each
//! time. It is named among the dropped all the same, and invited again once it is back. With masks,
//! only those are invited that have the keys for one another.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aggregation::ids::HospitalId;
use aggregation::life::{Change, Life};
use aggregation::message::Terms;
use aggregation::round::{Plan, Round};
use aggregation::units::Timestamp;
use proto::cli::chain;
use proto::federation::Decision;

use super::{Command, DISK_RETRY, Driver, Halt, Open, tell};
use crate::setup::{Keyed, listed};
use crate::store::StoreError;
use crate::store::course::{Absence, Absences};

/// A site that makes its keys, and the others that open them, may take so long for each step.
const MAKING_KEYS: Duration = Duration::from_secs(10);

enum Whom {
    /// These are invited; those have approved but are not here.
    Invite { here: BTreeSet<HospitalId>, absent: Absences },
    /// Nobody is invited yet; look again at the moment, or when somebody comes or goes.
    Wait { why: String, until: Option<Timestamp> },
}

/// Sites that are here and have no keys for the next slot are waited for.
#[derive(Debug)]
pub(super) struct Lag {
    /// Since when.
    begun: Timestamp,
    /// When somebody came to have them, or lost them.
    changed: Timestamp,
    /// Who has them.
    able: BTreeSet<HospitalId>,
}

impl Driver {
    /// Waits until the next round can be announced, and announces it.
    pub(super) async fn next(&mut self) -> Result<Open, Halt> {
        let mut presence = self.house.board.presence_changes();
        loop {
            let now = self.house.clock.now();
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
                Life::Running => match self.whom(now).await {
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
                () = self.house.clock.wait_until(look) => {}
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

    async fn whom(&mut self, now: Timestamp) -> Whom {
        match self.present(now) {
            Whom::Invite { here, absent } if !self.charter.study().cohort.danger_unmasked => {
                self.keyed(here, absent, now).await
            }
            invite @ Whom::Invite { .. } => invite,
            wait @ Whom::Wait { .. } => wait,
        }
    }

    /// Of those who are here, whoever has the keys for the next slot; the others are waited for as
    /// long as keys still come in.
    async fn keyed(
        &mut self,
        here: BTreeSet<HospitalId>,
        mut absent: Absences,
        now: Timestamp,
    ) -> Whom {
        let cohort = &self.charter.study().cohort;
        let (quorum, longest) = (usize::from(cohort.quorum), cohort.round_deadline);
        let able = match self.house.keyed(&self.entry, self.study.next_slot, &here).await {
            Ok(Keyed::Able(able)) => able,
            Ok(Keyed::Nobody(why)) => return Whom::Wait { why, until: None },
            Err(fault) => {
                let until = Some(now.saturating_add(DISK_RETRY));
                return Whom::Wait { why: fault.to_string(), until };
            }
        };
        let lagging: Vec<&HospitalId> = here.difference(&able).collect();
        if lagging.is_empty() {
            return Whom::Invite { here, absent };
        }
        let why = format!("the keys of {}", listed(lagging.iter().copied()));
        if able.len() < quorum {
            let why = format!("{why}; {} have theirs, and the quorum is {quorum}", able.len());
            return Whom::Wait { why, until: None };
        }
        let lag = match self.lag.take() {
            Some(lag) if lag.able == able => lag,
            Some(Lag { begun, .. }) => Lag { begun, changed: now, able: able.clone() },
            None => Lag { begun: now, changed: now, able: able.clone() },
        };
        // Whoever is gone need not be waited for at all; whoever is here and makes its keys does.
        let patience = cohort.grace.max(MAKING_KEYS).min(longest / 3);
        let patience = lag.changed.saturating_add(patience);
        let until = patience.min(lag.begun.saturating_add(longest));
        self.lag = Some(lag);
        if until > now {
            return Whom::Wait { why, until: Some(until) };
        }
        absent.extend(lagging.into_iter().map(|site| (site.clone(), Absence::NoKeys)));
        Whom::Invite { here: able, absent }
    }

    fn present(&self, now: Timestamp) -> Whom {
        let cohort = &self.charter.study().cohort;
        let quorum = usize::from(cohort.quorum);
        let patience = cohort.grace.min(cohort.round_deadline / 3);
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
        let mut absent = Absences::new();
        let mut grace = None;
        for site in willing {
            match self.house.board.left(&site) {
                None => {
                    here.insert(site);
                }
                Some(left) => {
                    let parted =
                        self.parted.as_ref().filter(|(_, invited)| invited.contains(&site));
                    let since = parted.map_or(self.since, |(closed, _)| self.since.max(*closed));
                    let until = left.max(since).saturating_add(patience);
                    if until > now {
                        grace = grace.max(Some(until));
                    }
                    absent.insert(site, Absence::Away);
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
        absent: Absences,
        now: Timestamp,
    ) -> Option<Open> {
        let log = match self.house.log.newest(&self.house.store).await {
            Ok(log) => log,
            Err(fault) => {
                let fault = chain(&fault);
                tracing::error!(study = %self.entry.id.short(), fault, "round was not opened");
                self.waiting(fault);
                return None;
            }
        };
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
            log,
        };
        let plan = match self.plan(&terms).await {
            Ok(Some(plan)) => plan,
            Ok(None) => {
                self.waiting("the study cannot be run: it has no plan for this round".to_owned());
                return None;
            }
            Err(fault) => {
                self.waiting(fault.to_string());
                return None;
            }
        };
        let (opened, outputs) = Round::open(now, terms.clone(), plan);
        let mut leaves: Vec<_> =
            tell::facts(&outputs).map(|fact| tell::leaf(&terms, fact)).collect();
        leaves.extend(absent.iter().map(|(site, why)| {
            super::fact_of_round(&terms, "round_absent")
                .with("site", site.as_str())
                .with("reason", why.reason())
        }));
        if let Err(fault) = self.house.store.open_round(&terms, &absent, now, &leaves).await {
            tracing::error!(study = %self.entry.id.short(), fault = %fault.chain(), "round was not opened");
            self.waiting(fault.to_string());
            return None;
        }
        self.study.next_slot = terms.slot.next();
        self.entry.standing().next_slot = self.study.next_slot;
        self.lag = None;
        if !self.charter.study().cohort.danger_unmasked {
            let (house, entry) = (Arc::clone(&self.house), Arc::clone(&self.entry));
            let slot = terms.slot;
            tokio::spawn(async move { house.pass_keys(&entry, slot).await });
        }
        for (site, why) in &absent {
            tracing::warn!(study = %terms.study.short(), round = round.get(), hospital = %site, reason = why.reason(), "absent");
        }
        let courses = tell::courses(&terms);
        let mut open = Open {
            digest: terms.digest(),
            round: opened,
            terms,
            opened: now,
            absent,
            courses,
            journaled: 0,
            wake: None,
            lost: BTreeSet::new(),
        };
        // Nothing closes here: at least a quorum is invited.
        self.let_out_opening(&mut open, outputs);
        Some(open)
    }

    /// How a round of these terms is run. None when it cannot be: a key is gone.
    ///
    /// # Errors
    /// When the store refuses.
    pub(super) async fn plan(&self, terms: &Terms) -> Result<Option<Plan>, StoreError> {
        let masks = if self.charter.study().cohort.danger_unmasked {
            None
        } else {
            self.house.masks(&self.entry, terms.slot).await?
        };
        // PROTOCOL R-24: the charter gives no plan without masks to a study that has them.
        Ok(self.charter.plan(terms.work, masks).ok())
    }

    /// The study has run its last round.
    async fn complete(&mut self) {
        // The updates of its last round are on the shelf before the log says that they are kept.
        self.swept().await;
        let done = self.house.change_life(&self.entry, Change::Complete, "", "coordinator").await;
        if let Err(fault) = done {
            self.waiting(fault.to_string());
        }
    }

    /// Answers while no round is open: only what the last one knows.
    fn answer_between(&mut self, command: Command) {
        match command {
            Command::Said { from, heard, reply } => {
                let answer = self.late(&from, &heard);
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
