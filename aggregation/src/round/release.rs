//! The end of a round: the sum leaves or it does not, and everyone who was invited is accounted
//! for. What hospitals say afterwards is answered as it was answered before, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Digest, HospitalId};
use crate::message::{Closed, DeclineReason, Dropped, Outcome, Said, Terms};
use crate::refusal::Refusal;
use crate::round::{Attempt, Fact, Input, Output, Release, Round, Step};

/// How an invited site stands in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Contributed(Digest),
    Dropped(Dropped),
}

/// A round that has ended.
#[derive(Debug, Clone)]
pub struct Ended {
    attempt: Attempt,
    standings: BTreeMap<HospitalId, Standing>,
    closed: Closed,
}

/// The outputs with which a sum leaves.
pub(super) fn of(release: Release) -> Vec<Output> {
    let (contributed, sum) = (release.contributed.clone(), release.sum);
    vec![Output::Fact(Fact::Released { contributed, sum }), Output::Release(Box::new(release))]
}

/// Ends a round, whatever has come of it: names everyone who is missing, then lets `outputs` out,
/// then closes.
pub(super) fn end(
    attempt: Attempt,
    standings: BTreeMap<HospitalId, Standing>,
    outcome: Outcome,
    outputs: Vec<Output>,
) -> (Round, Vec<Output>) {
    let mut contributed = BTreeSet::new();
    let mut dropped = BTreeMap::new();
    for (hospital, standing) in &standings {
        match standing {
            Standing::Contributed(_) => {
                contributed.insert(hospital.clone());
            }
            Standing::Dropped(why) => {
                dropped.insert(hospital.clone(), *why);
            }
        }
    }
    // PROTOCOL R-14. That a site declined was told when it did.
    let mut told: Vec<Output> = dropped
        .iter()
        .filter(|(_, why)| !matches!(why, Dropped::Declined(_)))
        .map(|(hospital, why)| {
            Output::Fact(Fact::DroppedOut { hospital: hospital.clone(), why: *why })
        })
        .collect();
    told.extend(outputs);
    match &outcome {
        Outcome::Released => {}
        Outcome::Abandoned(why) => told.push(Output::Fact(Fact::Abandoned { why: why.clone() })),
    }
    let Terms { study, round, slot, .. } = attempt.terms;
    let closed = Closed { study, round, slot, outcome, contributed, dropped };
    told.push(Output::Close(closed.clone()));
    (Round::Closed(Box::new(Ended { attempt, standings, closed })), told)
}

/// The answer to "ready" after the roster was frozen.
pub(super) fn repeated(was_ready: bool, what: &'static str) -> Result<Vec<Output>, Refusal> {
    // PROTOCOL
    if was_ready { Ok(Vec::new()) } else { Err(Refusal::TooLate { what }) }
}

/// The answer to "declined" after the roster was frozen.
pub(super) fn repeated_decline(
    reason: DeclineReason,
    first: Option<Dropped>,
) -> Result<Vec<Output>, Refusal> {
    let what = "a decline";
    match first {
        // PROTOCOL R-07
        Some(Dropped::Declined(earlier)) if earlier == reason => Ok(Vec::new()),
        Some(Dropped::Declined(_) | Dropped::ReadyForNothing | Dropped::ReadyButNoUpdate) => {
            Err(Refusal::Changed { what })
        }
        // PROTOCOL R-15
        Some(Dropped::NeverReady | Dropped::Revoked) | None => Err(Refusal::TooLate { what }),
    }
}

impl Ended {
    pub(super) const NAME: &'static str = "closed";

    pub(super) fn handle(&self, input: Input) -> Result<Step, Refusal> {
        match input {
            Input::Said { from, said } => self.answer(&from, &said).map(Step::stay),
            Input::Deadline
            | Input::Resumed
            | Input::Removed { .. }
            | Input::Lost { .. }
            | Input::Stop { .. } => Ok(Step::stay(Vec::new())),
        }
    }

    /// Answers what is said after the end.
    fn answer(&self, from: &HospitalId, said: &Said) -> Result<Vec<Output>, Refusal> {
        self.attempt.admit(from, said)?;
        let what = said.name();
        let Some(standing) = self.standings.get(from) else {
            return Err(Refusal::Stranger { hospital: from.clone() });
        };
        match (said, standing) {
            (_, Standing::Dropped(Dropped::Revoked)) => {
                Err(Refusal::Removed { hospital: from.clone() })
            }
            (Said::Ready { .. }, Standing::Contributed(_)) => Ok(Vec::new()),
            (Said::Ready { .. }, Standing::Dropped(why)) => match why {
                Dropped::ReadyForNothing | Dropped::ReadyButNoUpdate => Ok(Vec::new()),
                Dropped::Declined(_) => Err(Refusal::Changed { what }),
                Dropped::NeverReady | Dropped::Revoked => Err(Refusal::TooLate { what }),
            },
            (Said::Declined { .. }, Standing::Contributed(_)) => Err(Refusal::Changed { what }),
            (Said::Declined { reason, .. }, Standing::Dropped(why)) => {
                repeated_decline(*reason, Some(*why))
            }
            // PROTOCOL R-07
            (Said::Update { digest, .. }, Standing::Contributed(first)) if digest == first => {
                Ok(Vec::new())
            }
            (Said::Update { .. }, Standing::Contributed(_)) => Err(Refusal::Changed { what }),
            // Enough had signed and answered; what comes after that is not needed.
            (
                Said::Signed { .. } | Said::Unmask { .. },
                Standing::Contributed(_) | Standing::Dropped(Dropped::ReadyButNoUpdate),
            ) => Ok(Vec::new()),
            (Said::Signed { .. } | Said::Unmask { .. }, Standing::Dropped(_)) => {
                Err(Refusal::TooLate { what })
            }
            // PROTOCOL R-15: a late update is never added.
            (Said::Update { .. }, Standing::Dropped(_)) => Err(Refusal::TooLate { what }),
        }
    }

    pub(super) const fn terms(&self) -> &Terms {
        &self.attempt.terms
    }

    pub(super) const fn closed(&self) -> &Closed {
        &self.closed
    }

    pub(super) fn expects_update(&self, from: &HospitalId) -> Result<usize, Refusal> {
        match self.standings.get(from) {
            Some(Standing::Contributed(_)) => Ok(self.attempt.plan.format.packed_bytes()),
            Some(Standing::Dropped(_)) => Err(Refusal::TooLate { what: "an update" }),
            None => Err(Refusal::Stranger { hospital: from.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::StopReason;
    use crate::rehearsal::{Rehearsal, site};

    /// Site 0 is in the sum, 1 was ready, 2 declined, 3 said nothing, 4 was removed.
    fn ended() -> Rehearsal {
        let mut play = Rehearsal::open(5, 1);
        play.say(0, play.ready()).expect("invited");
        play.say(1, play.ready()).expect("invited");
        play.say(2, play.declined(DeclineReason::Policy)).expect("invited");
        play.feed(Input::Removed { hospital: site(4) }).expect("never refused");
        play.deadline(120_000);
        play.say(0, play.update(0)).expect("a member");
        play.deadline(150_000);
        play.check_end();
        play
    }

    /// Breaks after the end.
    #[test]
    fn after_the_end_everything_is_answered_as_it_was_and_nothing_changes() {
        let mut play = ended();
        let told = play.told.len();
        let cases = [
            (0, play.ready(), None),
            (0, play.update(0), None),
            (0, play.update(1), Some("R-07")),
            (0, play.declined(DeclineReason::Policy), Some("R-07")),
            (1, play.ready(), None),
            (1, play.update(1), Some("R-15")),
            (1, play.declined(DeclineReason::Policy), Some("R-07")),
            (2, play.declined(DeclineReason::Policy), None),
            (2, play.declined(DeclineReason::Trainer), Some("R-07")),
            (2, play.ready(), Some("R-07")),
            (2, play.update(2), Some("R-15")),
            (3, play.ready(), Some("R-15")),
            (3, play.declined(DeclineReason::Policy), Some("R-15")),
            (3, play.update(3), Some("R-15")),
            (4, play.ready(), Some("R-05")),
            (4, play.update(4), Some("R-05")),
            (9, play.ready(), Some("R-05")),
        ];
        for (index, said, rule) in cases {
            let what = format!("site {index}: {said:?}");
            assert_eq!(play.say(index, said).err().map(|refusal| refusal.rule()), rule, "{what}");
        }
        let others = [
            Input::Deadline,
            Input::Resumed,
            Input::Removed { hospital: site(0) },
            Input::Stop { reason: StopReason::Paused },
        ];
        for input in others {
            assert_eq!(play.feed(input), Ok(vec![]));
        }
        assert_eq!(play.told.len(), told);
        assert!(play.round.expects_update(&site(0)).is_ok());
        assert_eq!(play.round.expects_update(&site(1)).map_err(|r| r.rule()), Err("R-15"));
        assert_eq!(play.round.expects_update(&site(9)).map_err(|r| r.rule()), Err("R-05"));
    }

    /// Breaks R-14: every way of being missing.
    #[test]
    fn everyone_who_is_missing_is_named_with_the_reason() {
        let play = ended();
        let closed = play.round.closed().expect("the round has ended");
        let wanted = [
            (site(1), Dropped::ReadyButNoUpdate),
            (site(2), Dropped::Declined(DeclineReason::Policy)),
            (site(3), Dropped::NeverReady),
            (site(4), Dropped::Revoked),
        ];
        assert_eq!(closed.dropped, wanted.into());
        let told: Vec<_> = play
            .told
            .iter()
            .filter_map(Output::fact)
            .filter(|fact| matches!(fact, Fact::DroppedOut { .. } | Fact::Declined { .. }))
            .filter_map(Fact::hospital)
            .collect();
        assert_eq!(told, [&site(2), &site(1), &site(3), &site(4)], "each in one fact");
    }
}
