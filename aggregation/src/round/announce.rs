//! The terms are offered. Sites train, then say that they are ready, or that they will not be.
//! When every site has answered, or at the deadline, the roster is frozen: it is who is ready.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::HospitalId;
use crate::message::{Abandoned, DeclineReason, Dropped, Outcome, Said, Terms};
use crate::refusal::Refusal;
use crate::round::mask::Mask;
use crate::round::release::{self, Standing};
use crate::round::{Attempt, Fact, Input, Output, Round, Step};
use crate::units::Timestamp;

/// Sites are training.
#[derive(Debug, Clone)]
pub struct Announce {
    attempt: Attempt,
    until: Timestamp,
    answers: BTreeMap<HospitalId, Answer>,
    /// Those that are not waited for.
    lost: BTreeSet<HospitalId>,
}

/// A site's first word, which is its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Ready,
    Declined(DeclineReason),
    Removed,
}

impl Announce {
    pub(super) const NAME: &'static str = "announce";

    /// Offers the terms, unless too few sites are invited for the round ever to be released.
    pub(super) fn open(now: Timestamp, attempt: Attempt) -> (Round, Vec<Output>) {
        let phase = Self {
            until: attempt.terms.ready_by,
            answers: BTreeMap::new(),
            lost: BTreeSet::new(),
            attempt,
        };
        let invited = phase.attempt.terms.invited.len();
        // PROTOCOL R-13
        if invited < phase.attempt.quorum() {
            let quorum = phase.attempt.plan.quorum;
            let (ended, outputs) = phase.abandon(Abandoned::TooFewInvited { invited, quorum });
            return (ended, outputs);
        }
        let outputs =
            vec![Output::Offer(phase.attempt.terms.clone()), Output::WakeAt(phase.until.max(now))];
        (Round::Announce(phase), outputs)
    }

    pub(super) fn handle(&mut self, now: Timestamp, input: Input) -> Result<Step, Refusal> {
        match input {
            Input::Said { from, said } => {
                let told = self.accept(now, from, &said)?;
                Ok(self.go_on(now, told))
            }
            Input::Removed { hospital } => {
                if self.attempt.terms.invited.contains(&hospital) {
                    self.answers.insert(hospital, Answer::Removed);
                }
                Ok(self.go_on(now, Vec::new()))
            }
            // PROTOCOL R-15. An early alarm clock is one of an earlier deadline.
            Input::Lost { hospital } => {
                if self.attempt.terms.invited.contains(&hospital) {
                    self.lost.insert(hospital);
                }
                Ok(self.go_on(now, Vec::new()))
            }
            Input::Deadline if now < self.until => Ok(Step::stay(Vec::new())),
            Input::Deadline => Ok(self.close(now)),
            Input::Resumed => {
                self.until = now.saturating_add(self.attempt.plan.round_deadline);
                Ok(Step::stay(vec![
                    Output::Offer(self.attempt.terms.clone()),
                    Output::WakeAt(self.until),
                ]))
            }
            Input::Stop { reason } => {
                let (next, outputs) = self.abandon(Abandoned::Stopped(reason));
                Ok(Step { outputs, next: Some(next) })
            }
        }
    }

    /// Takes a site's answer.
    fn accept(
        &mut self,
        now: Timestamp,
        from: HospitalId,
        said: &Said,
    ) -> Result<Vec<Output>, Refusal> {
        self.attempt.admit(&from, said)?;
        let what = said.name();
        let answer = match said {
            Said::Ready { .. } => Answer::Ready,
            Said::Declined { reason, .. } => Answer::Declined(*reason),
            // PROTOCOL R-08: no update before the roster is frozen.
            Said::Update { .. } | Said::Signed { .. } | Said::Unmask { .. } => {
                return Err(Refusal::OutOfPhase { what, phase: Self::NAME });
            }
        };
        match self.answers.get(&from) {
            // PROTOCOL R-07
            Some(first) if *first == answer => return Ok(Vec::new()),
            Some(Answer::Removed) => return Err(Refusal::Removed { hospital: from }),
            Some(Answer::Ready | Answer::Declined(_)) => return Err(Refusal::Changed { what }),
            None => {}
        }
        // PROTOCOL R-15
        if now > self.until {
            return Err(Refusal::TooLate { what });
        }
        self.answers.insert(from.clone(), answer);
        Ok(match answer {
            Answer::Ready => vec![Output::Fact(Fact::Ready { hospital: from })],
            Answer::Declined(reason) => {
                vec![Output::Fact(Fact::Declined { hospital: from, reason })]
            }
            Answer::Removed => Vec::new(),
        })
    }

    /// Closes when no answer is outstanding, but for those of lost sites.
    fn go_on(&self, now: Timestamp, told: Vec<Output>) -> Step {
        let invited = &self.attempt.terms.invited;
        let silent = invited.iter().filter(|site| !self.answers.contains_key(*site));
        let silent: BTreeSet<_> = silent.cloned().collect();
        let ready = self.answers.values().filter(|answer| **answer == Answer::Ready).count();
        // Without the lost there must be enough; otherwise they are what is waited for.
        let without = silent.is_subset(&self.lost) && ready >= self.attempt.quorum();
        if silent.is_empty() || without { self.close(now).after(told) } else { Step::stay(told) }
    }

    /// Freezes the roster (PROTOCOL R-08), if enough sites are ready (PROTOCOL R-13).
    fn close(&self, now: Timestamp) -> Step {
        let members: BTreeSet<HospitalId> = self
            .answers
            .iter()
            .filter(|(_, answer)| **answer == Answer::Ready)
            .map(|(hospital, _)| hospital.clone())
            .collect();
        let ready = members.len();
        let (next, outputs) = if ready < self.attempt.quorum() {
            self.abandon(Abandoned::TooFewReady { ready, quorum: self.attempt.plan.quorum })
        } else {
            Mask::open(now, self.attempt.clone(), members, self.dropped())
        };
        Step { outputs, next: Some(next) }
    }

    fn abandon(&self, why: Abandoned) -> (Round, Vec<Output>) {
        let ready = self.answers.iter().filter(|(_, answer)| **answer == Answer::Ready);
        let mut standings: BTreeMap<_, _> = self
            .dropped()
            .into_iter()
            .map(|(hospital, why)| (hospital, Standing::Dropped(why)))
            .collect();
        standings.extend(
            ready.map(|(hospital, _)| {
                (hospital.clone(), Standing::Dropped(Dropped::ReadyForNothing))
            }),
        );
        release::end(self.attempt.clone(), standings, Outcome::Abandoned(why), Vec::new())
    }

    /// Everyone who is not ready, and why (PROTOCOL R-14).
    fn dropped(&self) -> BTreeMap<HospitalId, Dropped> {
        self.attempt
            .terms
            .invited
            .iter()
            .filter_map(|hospital| {
                let why = match self.answers.get(hospital) {
                    Some(Answer::Ready) => return None,
                    Some(Answer::Declined(reason)) => Dropped::Declined(*reason),
                    Some(Answer::Removed) => Dropped::Revoked,
                    None => Dropped::NeverReady,
                };
                Some((hospital.clone(), why))
            })
            .collect()
    }

    pub(super) const fn terms(&self) -> &Terms {
        &self.attempt.terms
    }

    pub(super) fn expects_update(&self, from: &HospitalId) -> Result<usize, Refusal> {
        if self.attempt.terms.invited.contains(from) {
            Err(Refusal::OutOfPhase { what: "an update", phase: Self::NAME })
        } else {
            Err(Refusal::Stranger { hospital: from.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::message::{Closed, StopReason};
    use crate::rehearsal::{Rehearsal, at, charter, site, terms};

    fn outcome(play: &Rehearsal) -> Outcome {
        play.round
            .closed()
            .map(|closed: &Closed| closed.outcome.clone())
            .expect("the round has ended")
    }

    #[test]
    fn a_round_opens_with_an_offer_and_an_alarm_clock() {
        let play = Rehearsal::open(3, 3);
        assert_eq!(play.facts(), ["announced"]);
        assert_eq!(
            play.told[1..],
            [Output::Offer(play.terms.clone()), Output::WakeAt(at(120_000))]
        );
        assert_eq!(play.round.phase(), "announce");
    }

    #[test]
    fn the_roster_freezes_as_soon_as_every_site_has_answered() {
        let mut play = Rehearsal::open(4, 3);
        play.say(0, play.ready()).expect("invited");
        play.say(1, play.declined(DeclineReason::OutsideHours)).expect("invited");
        play.say(2, play.ready()).expect("invited");
        assert_eq!(play.round.phase(), "announce");
        play.say(3, play.ready()).expect("invited");
        let roster = play.round.roster().expect("the roster is frozen");
        assert_eq!(roster.members, [site(0), site(2), site(3)].into());
        assert_eq!(roster.upload_by, at(30_000));
        assert_eq!(play.facts(), ["announced", "ready", "declined", "ready", "ready", "frozen"]);
    }

    #[test]
    fn the_deadline_freezes_the_roster_without_the_slow() {
        let mut play = Rehearsal::open(4, 3);
        for index in 0..3 {
            play.say(index, play.ready()).expect("invited");
        }
        assert_eq!(play.deadline(119_999), [], "an early alarm clock changes nothing");
        assert_eq!(play.round.phase(), "announce");
        play.deadline(120_000);
        assert_eq!(play.round.phase(), "mask");
    }

    /// Breaks R-13: the deadline below the quorum.
    #[test]
    fn below_the_quorum_nothing_is_frozen_and_everyone_is_named() {
        let mut play = Rehearsal::open(4, 3);
        play.say(0, play.ready()).expect("invited");
        play.say(1, play.ready()).expect("invited");
        play.say(2, play.declined(DeclineReason::Trainer)).expect("invited");
        play.deadline(120_000);
        assert_eq!(
            outcome(&play),
            Outcome::Abandoned(Abandoned::TooFewReady { ready: 2, quorum: 3 })
        );
        let closed = play.round.closed().expect("the round has ended");
        let wanted = [
            (site(0), Dropped::ReadyForNothing),
            (site(1), Dropped::ReadyForNothing),
            (site(2), Dropped::Declined(DeclineReason::Trainer)),
            (site(3), Dropped::NeverReady),
        ];
        assert_eq!(closed.dropped, wanted.into());
        play.check_end();
    }

    /// Breaks R-13 before anything is offered.
    #[test]
    fn a_round_with_too_few_invited_is_abandoned_at_once() {
        let charter = charter(3, 3);
        for invited in [vec![], vec![site(0), site(1)]] {
            let terms =
                Terms { invited: invited.iter().cloned().collect(), ..terms(&charter, 1, 1) };
            let play = Rehearsal::with(charter.clone(), terms);
            let why = Abandoned::TooFewInvited { invited: invited.len(), quorum: 3 };
            assert_eq!(outcome(&play), Outcome::Abandoned(why));
            assert!(!play.told.iter().any(|o| matches!(o, Output::Offer(_))));
            play.check_end();
        }
    }

    #[test]
    fn a_sum_over_nobody_is_never_released_whatever_the_quorum_says() {
        let charter = charter(3, 3);
        let terms = Terms { invited: BTreeSet::new(), ..terms(&charter, 1, 1) };
        let plan =
            crate::round::Plan { quorum: 0, ..charter.plan(terms.work, None).expect("valid") };
        let (round, _) = Round::open(at(0), terms, plan);
        assert_eq!(round.phase(), "closed");
    }

    /// Breaks, one at a time.
    #[test]
    fn bad_answers_are_refused_by_the_rule_they_break() {
        let mut play = Rehearsal::open(3, 3);
        let other = Said::Ready { terms: Digest::new([7; 32]) };
        assert_eq!(play.say(9, play.ready()).map_err(|r| r.rule()), Err("R-05"));
        assert_eq!(play.say(0, other).map_err(|r| r.rule()), Err("R-02"));
        assert_eq!(play.say(0, play.update(0)).map_err(|r| r.rule()), Err("R-08"));
        play.say(0, play.ready()).expect("invited");
        assert_eq!(play.say(0, play.ready()), Ok(vec![]), "said twice, answered as the first time");
        assert_eq!(
            play.say(0, play.declined(DeclineReason::Policy)).map_err(|r| r.rule()),
            Err("R-07")
        );
        play.say(1, play.declined(DeclineReason::Policy)).expect("invited");
        assert_eq!(play.say(1, play.declined(DeclineReason::Policy)), Ok(vec![]));
        assert_eq!(
            play.say(1, play.declined(DeclineReason::Terms)).map_err(|r| r.rule()),
            Err("R-07")
        );
        assert_eq!(play.say(1, play.ready()).map_err(|r| r.rule()), Err("R-07"));
        play.now = at(120_001);
        assert_eq!(play.say(2, play.ready()).map_err(|r| r.rule()), Err("R-15"));
        assert_eq!(play.say(0, play.ready()), Ok(vec![]), "a repetition is never late");
        assert_eq!(play.round.expects_update(&site(0)).map_err(|r| r.rule()), Err("R-08"));
        assert_eq!(play.round.expects_update(&site(9)).map_err(|r| r.rule()), Err("R-05"));
    }

    #[test]
    fn a_removed_site_is_not_waited_for_and_not_heard() {
        let mut play = Rehearsal::open(4, 3);
        play.say(0, play.ready()).expect("invited");
        play.feed(Input::Removed { hospital: site(0) }).expect("never refused");
        play.feed(Input::Removed { hospital: site(9) }).expect("a stranger is no matter");
        assert_eq!(play.say(0, play.ready()).map_err(|r| r.rule()), Err("R-05"));
        for index in 1..4 {
            play.say(index, play.ready()).expect("invited");
        }
        assert_eq!(
            play.round.roster().map(|r| r.members),
            Some([site(1), site(2), site(3)].into())
        );
    }

    #[test]
    fn a_lost_site_is_not_waited_for_and_still_heard() {
        let mut play = Rehearsal::open(4, 3);
        play.feed(Input::Lost { hospital: site(3) }).expect("never refused");
        play.feed(Input::Lost { hospital: site(9) }).expect("a stranger is no matter");
        let mut back = Rehearsal::open(4, 3);
        back.feed(Input::Lost { hospital: site(3) }).expect("never refused");
        back.say(3, back.ready()).expect("it came back");
        for index in 0..3 {
            assert_eq!(play.round.phase(), "announce");
            play.say(index, play.ready()).expect("invited");
            back.say(index, back.ready()).expect("invited");
        }
        assert_eq!(play.round.roster().map(|r| r.members.len()), Some(3));
        assert_eq!(back.round.roster().map(|r| r.members.len()), Some(4));
    }

    /// Breaks R-15: after a restart the sites get their time again.
    #[test]
    fn after_a_restart_the_deadline_starts_again() {
        let mut play = Rehearsal::open(3, 3);
        play.now = at(500_000);
        let outputs = play.feed(Input::Resumed).expect("never refused");
        assert_eq!(outputs, [Output::Offer(play.terms.clone()), Output::WakeAt(at(620_000))]);
        play.say(0, play.ready()).expect("in time again");
        assert_eq!(play.deadline(619_999), []);
        play.deadline(620_000);
        play.check_end();
    }

    #[test]
    fn a_stopped_round_says_why() {
        let mut play = Rehearsal::open(3, 3);
        play.say(1, play.ready()).expect("invited");
        play.feed(Input::Stop { reason: StopReason::Paused }).expect("never refused");
        assert_eq!(outcome(&play), Outcome::Abandoned(Abandoned::Stopped(StopReason::Paused)));
        play.check_end();
    }
}
