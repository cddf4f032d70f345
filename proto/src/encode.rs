//! `aggregation` to wire.

use std::collections::BTreeSet;

use aggregation::ids::HospitalId;
use aggregation::life::Life;
use aggregation::message::{ClosedNotice, DeclineReason, Roster, Terms, Work};

use crate::federation as wire;

pub(crate) fn names(hospitals: &BTreeSet<HospitalId>) -> Vec<String> {
    hospitals.iter().map(|hospital| hospital.as_str().to_owned()).collect()
}

/// What a round asks for.
#[must_use]
pub fn work(work: Work) -> wire::Work {
    match work {
        Work::Train => wire::Work::Train,
        Work::TrainAndEvaluate => wire::Work::TrainAndEvaluate,
        Work::Evaluate => wire::Work::Evaluate,
    }
}

/// The terms of a round.
#[must_use]
pub fn terms(terms: &Terms) -> wire::Terms {
    wire::Terms {
        study: terms.study.digest().as_bytes().to_vec(),
        round: terms.round.get(),
        slot: terms.slot.get(),
        work: work(terms.work).into(),
        model: terms.model.as_bytes().to_vec(),
        invited: names(&terms.invited),
        ready_by_ms: terms.ready_by.as_millis(),
        log_size: terms.log.size,
        log_root: terms.log.root.as_bytes().to_vec(),
    }
}

/// A frozen roster.
#[must_use]
pub fn roster(roster: &Roster) -> wire::Roster {
    wire::Roster {
        study: roster.study.digest().as_bytes().to_vec(),
        round: roster.round.get(),
        slot: roster.slot.get(),
        terms: roster.terms.as_bytes().to_vec(),
        members: names(&roster.members),
        upload_by_ms: roster.upload_by.as_millis(),
    }
}

/// How a round ended.
#[must_use]
pub fn closed(closed: &ClosedNotice) -> wire::Closed {
    wire::Closed {
        study: closed.study.digest().as_bytes().to_vec(),
        round: closed.round.get(),
        slot: closed.slot.get(),
        released: closed.released,
        reason: closed.reason.clone(),
        contributed: names(&closed.contributed),
        dropped: names(&closed.dropped),
    }
}

/// Why a site takes no part.
#[must_use]
pub fn decline_reason(reason: DeclineReason) -> wire::DeclineReason {
    match reason {
        DeclineReason::NotApproved => wire::DeclineReason::NotApproved,
        DeclineReason::Policy => wire::DeclineReason::Policy,
        DeclineReason::OutsideHours => wire::DeclineReason::OutsideHours,
        DeclineReason::Terms => wire::DeclineReason::Terms,
        DeclineReason::Trainer => wire::DeclineReason::Trainer,
        DeclineReason::NoKeys => wire::DeclineReason::NoKeys,
        DeclineReason::Budget => wire::DeclineReason::Budget,
        DeclineReason::Ledger => wire::DeclineReason::Ledger,
        DeclineReason::Log => wire::DeclineReason::Log,
    }
}

/// Where a study stands.
#[must_use]
pub fn life(life: Life) -> wire::StudyState {
    match life {
        Life::Proposed => wire::StudyState::Proposed,
        Life::Approved => wire::StudyState::Approved,
        Life::Running => wire::StudyState::Running,
        Life::Paused => wire::StudyState::Paused,
        Life::Completed => wire::StudyState::Completed,
        Life::Failed => wire::StudyState::Failed,
        Life::Stopped => wire::StudyState::Stopped,
    }
}
