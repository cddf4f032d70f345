//! The roster is frozen. Its members' updates arrive, each is added to the one sum and dropped;
//! what stays of it is its digest, so that the same update twice is known for what it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::{Digest, HospitalId};
use crate::masking::keystream::KeyedMask;
use crate::masking::masks::Tiles;
use crate::message::{Abandoned, Dropped, Outcome, Roster, Said, StopReason, Terms};
use crate::refusal::Refusal;
use crate::round::recover;
use crate::round::release::{self, Standing};
use crate::round::sign::Sign;
use crate::round::{Attempt, Fact, Input, Output, Release, Round, Step};
use crate::units::Timestamp;
use crate::vector::Accumulator;

/// Updates are arriving.
#[derive(Debug, Clone)]
pub struct Mask {
    attempt: Attempt,
    until: Timestamp,
    members: BTreeMap<HospitalId, Upload>,
    /// Everyone who was invited and is not a member.
    dropped: BTreeMap<HospitalId, Dropped>,
    /// Shared with the phase that follows, so that moving on copies no lane.
    sum: Arc<Accumulator>,
}

/// Where a member's update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upload {
    Awaited,
    /// Its site is gone; it is not waited for, and welcome if it comes in time.
    Lost,
    Complete(Digest),
    Removed,
}

impl Mask {
    pub(super) const NAME: &'static str = "mask";

    /// Freezes the roster.
    pub(super) fn open(
        now: Timestamp,
        attempt: Attempt,
        members: BTreeSet<HospitalId>,
        dropped: BTreeMap<HospitalId, Dropped>,
    ) -> (Round, Vec<Output>) {
        let phase = Self {
            until: now.saturating_add(attempt.plan.upload_deadline),
            sum: Arc::new(Accumulator::new(&attempt.plan.format)),
            members: members.iter().map(|hospital| (hospital.clone(), Upload::Awaited)).collect(),
            dropped,
            attempt,
        };
        let mut outputs = vec![Output::Fact(Fact::Frozen { members })];
        outputs.extend(phase.call());
        (Round::Mask(phase), outputs)
    }

    /// Asks the members for their updates.
    fn call(&self) -> [Output; 2] {
        [Output::Freeze(self.roster()), Output::WakeAt(self.until)]
    }

    pub(super) fn roster(&self) -> Roster {
        let Terms { study, round, slot, .. } = self.attempt.terms;
        Roster {
            study,
            round,
            slot,
            terms: self.attempt.digest,
            members: self.members.keys().cloned().collect(),
            upload_by: self.until,
        }
    }

    pub(super) fn handle(&mut self, now: Timestamp, input: Input) -> Result<Step, Refusal> {
        match input {
            Input::Said { from, said } => self.accept(now, from, said),
            Input::Removed { hospital } => {
                // An update that is in the sum stays there: it was given in good order, and a sum
                // does not come apart again.
                if let Some(upload @ (Upload::Awaited | Upload::Lost)) =
                    self.members.get_mut(&hospital)
                {
                    *upload = Upload::Removed;
                }
                Ok(self.go_on(now, Step::stay(Vec::new())))
            }
            Input::Lost { hospital } => {
                if let Some(upload @ Upload::Awaited) = self.members.get_mut(&hospital) {
                    *upload = Upload::Lost;
                }
                Ok(self.go_on(now, Step::stay(Vec::new())))
            }
            // PROTOCOL R-15. An early alarm clock is one of an earlier deadline.
            Input::Deadline if now < self.until => Ok(Step::stay(Vec::new())),
            Input::Deadline => Ok(self.close(now)),
            Input::Resumed => {
                self.until = now.saturating_add(self.attempt.plan.upload_deadline);
                Ok(Step::stay(self.call().to_vec()))
            }
            Input::Stop { reason } => {
                Ok(self.end(Outcome::Abandoned(Abandoned::Stopped(reason)), Vec::new()))
            }
        }
    }

    /// Takes a member's update.
    fn accept(&mut self, now: Timestamp, from: HospitalId, said: Said) -> Result<Step, Refusal> {
        self.attempt.admit(&from, &said)?;
        let what = said.name();
        let member = self.members.get(&from).copied();
        let (declared, packed) = match said {
            Said::Update { digest, packed, .. } => (digest, packed),
            Said::Ready { .. } => {
                return release::repeated(member.is_some(), what).map(Step::stay);
            }
            Said::Declined { reason, .. } => {
                return match (member, self.dropped.get(&from)) {
                    // PROTOCOL R-07: ready is ready.
                    (Some(_), _) => Err(Refusal::Changed { what }),
                    (None, first) => {
                        release::repeated_decline(reason, first.copied()).map(Step::stay)
                    }
                };
            }
            Said::Signed { .. } | Said::Unmask { .. } => {
                return Err(Refusal::OutOfPhase { what, phase: Self::NAME });
            }
        };
        // PROTOCOL R-08
        let first = match member {
            None => return Err(Refusal::NotInRoster { hospital: from }),
            Some(Upload::Removed) => return Err(Refusal::Removed { hospital: from }),
            Some(Upload::Awaited | Upload::Lost) => None,
            Some(Upload::Complete(first)) => Some(first),
        };
        // PROTOCOL R-09
        self.attempt.plan.format.check_length(packed.len())?;
        let found = Digest::blake3(&packed);
        if found != declared {
            return Err(Refusal::WrongDigest { declared, found });
        }
        match first {
            // PROTOCOL R-07: never added twice, whatever it is.
            Some(first) if first == declared => return Ok(Step::stay(Vec::new())),
            Some(_) => return Err(Refusal::Changed { what }),
            None => {}
        }
        // PROTOCOL R-15
        if now > self.until {
            return Err(Refusal::TooLate { what });
        }
        Arc::make_mut(&mut self.sum).add(&packed)?;
        let fact =
            Fact::Contributed { hospital: from.clone(), digest: declared, bytes: packed.len() };
        self.members.insert(from, Upload::Complete(declared));
        Ok(self.go_on(now, Step::fact(fact)))
    }

    /// Closes when no update is outstanding, but for those of lost sites.
    fn go_on(&self, now: Timestamp, step: Step) -> Step {
        let any = |wanted| self.members.values().any(|upload| *upload == wanted);
        // Without the lost there must be enough; otherwise they are what is waited for.
        let enough = self.contributed().len() >= self.attempt.quorum();
        if any(Upload::Awaited) || any(Upload::Lost) && !enough {
            step
        } else {
            self.close(now).after(step.outputs)
        }
    }

    /// Fixes the final set and, if it is large enough (PROTOCOL R-13), lets the sum out.
    fn close(&self, now: Timestamp) -> Step {
        let contributed =
            self.members.values().filter(|upload| matches!(upload, Upload::Complete(_))).count();
        if contributed < self.attempt.quorum() {
            let quorum = self.attempt.plan.quorum;
            return self.end(
                Outcome::Abandoned(Abandoned::TooFewUpdates { contributed, quorum }),
                Vec::new(),
            );
        }
        match &self.attempt.plan.masks {
            Some(masks) => Sign::open(now, self.clone(), masks),
            None => self.release(&Arc::default()),
        }
    }

    /// Reads the sum off and ends the round: there are no masks in it, or none any more.
    pub(super) fn release(&self, recovered: &Arc<[KeyedMask]>) -> Step {
        let contributed = self.contributed();
        match recover::recover(&self.attempt, &self.sum, contributed.len()) {
            Ok(total) => {
                let release = Release {
                    terms: self.attempt.terms.clone(),
                    uploads: self.uploads(),
                    contributed,
                    total,
                    modulus: self.attempt.plan.format.modulus(),
                    sum: self.sum.digest(),
                    recovered: Arc::clone(recovered),
                };
                let released = release::of(release);
                self.end(Outcome::Released, released)
            }
            Err(recover::Failed { why, alarm }) => {
                self.end(Outcome::Abandoned(why), alarm.map(Output::Fact).into_iter().collect())
            }
        }
    }

    /// Gives up.
    pub(super) fn abandon(&self, why: Abandoned) -> Step {
        self.end(Outcome::Abandoned(why), Vec::new())
    }

    /// Gives up on what was believed impossible.
    pub(super) fn alarm(&self, reason: &str) -> Step {
        let alarm = Output::Fact(Fact::Alarm { reason: reason.to_owned() });
        self.end(Outcome::Abandoned(Abandoned::Stopped(StopReason::Alarm)), vec![alarm])
    }

    /// Answers what belongs to this phase or one before, now that it is over: a repetition, or too
    /// late (PROTOCOL ).
    pub(super) fn answer(&self, from: &HospitalId, said: &Said) -> Result<(), Refusal> {
        let what = said.name();
        let member = self.members.get(from);
        match said {
            Said::Ready { .. } => release::repeated(member.is_some(), what).map(drop),
            Said::Declined { reason, .. } => match member {
                Some(_) => Err(Refusal::Changed { what }),
                None => {
                    release::repeated_decline(*reason, self.dropped.get(from).copied()).map(drop)
                }
            },
            Said::Update { digest, .. } => match member {
                None => Err(Refusal::NotInRoster { hospital: from.clone() }),
                Some(Upload::Removed) => Err(Refusal::Removed { hospital: from.clone() }),
                Some(Upload::Awaited | Upload::Lost) => Err(Refusal::TooLate { what }),
                Some(Upload::Complete(first)) if first == digest => Ok(()),
                Some(Upload::Complete(_)) => Err(Refusal::Changed { what }),
            },
            Said::Signed { .. } | Said::Unmask { .. } => {
                Err(Refusal::OutOfPhase { what, phase: Self::NAME })
            }
        }
    }

    pub(super) const fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    /// The lanes of the sum, for the masks to be taken out of them.
    pub(super) fn tiles(&mut self) -> Tiles<'_> {
        Arc::make_mut(&mut self.sum).tiles()
    }

    /// The size of an update that may still be sent: one that was counted, once more.
    pub(super) fn expects_late_update(&self, from: &HospitalId) -> Result<usize, Refusal> {
        match self.members.get(from) {
            Some(Upload::Awaited | Upload::Lost) => Err(Refusal::TooLate { what: "an update" }),
            Some(Upload::Complete(_) | Upload::Removed) | None => self.expects_update(from),
        }
    }

    /// The digest of each update in the sum.
    fn uploads(&self) -> BTreeMap<HospitalId, Digest> {
        let complete = |(hospital, upload): (&HospitalId, &Upload)| match upload {
            Upload::Complete(digest) => Some((hospital.clone(), *digest)),
            Upload::Awaited | Upload::Lost | Upload::Removed => None,
        };
        self.members.iter().filter_map(complete).collect()
    }

    pub(super) fn contributed(&self) -> BTreeSet<HospitalId> {
        self.members
            .iter()
            .filter(|(_, upload)| matches!(upload, Upload::Complete(_)))
            .map(|(hospital, _)| hospital.clone())
            .collect()
    }

    fn end(&self, outcome: Outcome, outputs: Vec<Output>) -> Step {
        let left =
            self.dropped.iter().map(|(hospital, why)| (hospital.clone(), Standing::Dropped(*why)));
        let members = self.members.iter().map(|(hospital, upload)| {
            let standing = match upload {
                Upload::Complete(digest) => Standing::Contributed(*digest),
                Upload::Awaited | Upload::Lost => Standing::Dropped(Dropped::ReadyButNoUpdate),
                Upload::Removed => Standing::Dropped(Dropped::Revoked),
            };
            (hospital.clone(), standing)
        });
        let (next, outputs) =
            release::end(self.attempt.clone(), left.chain(members).collect(), outcome, outputs);
        Step { outputs, next: Some(next) }
    }

    pub(super) const fn terms(&self) -> &Terms {
        &self.attempt.terms
    }

    pub(super) fn expects_update(&self, from: &HospitalId) -> Result<usize, Refusal> {
        match self.members.get(from) {
            Some(Upload::Awaited | Upload::Lost | Upload::Complete(_)) => {
                Ok(self.attempt.plan.format.packed_bytes())
            }
            Some(Upload::Removed) => Err(Refusal::Removed { hospital: from.clone() }),
            None if self.attempt.terms.invited.contains(from) => {
                Err(Refusal::NotInRoster { hospital: from.clone() })
            }
            None => Err(Refusal::Stranger { hospital: from.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{DeclineReason, StopReason, Work};
    use crate::rehearsal::{Rehearsal, at, charter, site, terms};
    use crate::vector::{Contribution, encode};

    fn rule<T>(answer: Result<T, Refusal>) -> Option<&'static str> {
        answer.err().map(|refusal| refusal.rule())
    }

    #[test]
    fn the_sum_leaves_when_every_member_has_sent_its_update() {
        let mut play = Rehearsal::frozen(4, 3, 4);
        for index in 0..4 {
            assert!(play.round.closed().is_none());
            play.say(index, play.update(index)).expect("a member");
        }
        let release = play.release().expect("all four are in");
        assert_eq!(release.total.weight, 4 * 4_096);
        assert_eq!(release.terms, play.terms);
        play.check_end();
        let kinds = play.facts();
        assert_eq!(
            kinds[6..],
            ["contributed", "contributed", "contributed", "contributed", "released"]
        );
    }

    #[test]
    fn the_sum_leaves_at_the_deadline_without_the_slow_and_names_them() {
        let mut play = Rehearsal::frozen(5, 3, 4);
        for index in [0, 1, 3] {
            play.say(index, play.update(index)).expect("a member");
        }
        assert_eq!(play.deadline(149_999), []);
        play.deadline(150_000);
        let closed = play.round.closed().expect("the round has ended");
        let wanted = [(site(2), Dropped::ReadyButNoUpdate), (site(4), Dropped::NeverReady)];
        assert_eq!(closed.dropped, wanted.into());
        assert!(play.release().is_some());
        play.check_end();
    }

    /// Breaks R-13: the deadline below the quorum.
    #[test]
    fn below_the_quorum_nothing_is_released() {
        let mut play = Rehearsal::frozen(4, 3, 4);
        play.say(0, play.update(0)).expect("a member");
        play.say(1, play.update(1)).expect("a member");
        play.deadline(1_000_000);
        assert!(play.release().is_none());
        let closed = play.round.closed().expect("the round has ended");
        let why = Abandoned::TooFewUpdates { contributed: 2, quorum: 3 };
        assert_eq!(closed.outcome, Outcome::Abandoned(why));
        assert_eq!(closed.contributed, [site(0), site(1)].into());
        play.check_end();
    }

    /// Breaks R-09: whatever the length, and whatever the digest says.
    #[test]
    fn a_damaged_update_is_refused_and_the_round_goes_on() {
        let mut play = Rehearsal::frozen(3, 3, 3);
        let terms = play.terms.digest();
        let whole = play.packed(0);
        for packed in [vec![], whole[1..].to_vec(), [whole.as_slice(), &[0]].concat()] {
            let digest = Digest::blake3(&packed);
            assert_eq!(rule(play.say(0, Said::Update { terms, digest, packed })), Some("R-09"));
        }
        let mut flipped = whole.clone();
        flipped[5] ^= 1;
        let lie = Said::Update { terms, digest: Digest::blake3(&whole), packed: flipped };
        assert_eq!(rule(play.say(0, lie)), Some("R-09"));
        for index in 0..3 {
            play.say(index, play.update(index)).expect("the whole update is welcome");
        }
        play.check_end();
    }

    /// Breaks, one at a time; the sum shows that none got in.
    #[test]
    fn updates_that_do_not_belong_are_refused_and_the_sum_is_right() {
        let mut play = Rehearsal::frozen(5, 3, 4);
        play.say(0, play.update(0)).expect("a member");
        assert_eq!(
            play.say(0, play.update(0)),
            Ok(vec![]),
            "sent twice, answered as the first time"
        );
        // Another update under the same name.
        assert_eq!(rule(play.say(0, play.update(1))), Some("R-07"));
        // Of another slot, another round, another model.
        let changes: [fn(&mut Terms); 3] = [
            |t| t.slot = t.slot.next(),
            |t| t.round = t.round.next(),
            |t| t.model = Digest::new([3; 32]),
        ];
        for change in changes {
            let mut other = play.terms.clone();
            change(&mut other);
            let packed = play.packed(1);
            let said =
                Said::Update { terms: other.digest(), digest: Digest::blake3(&packed), packed };
            assert_eq!(rule(play.say(1, said)), Some("R-02"));
        }
        assert_eq!(rule(play.say(9, play.update(1))), Some("R-05"));
        assert_eq!(rule(play.say(4, play.update(4))), Some("R-08"), "not in the roster");
        assert_eq!(rule(play.say(4, play.ready())), Some("R-15"));
        assert_eq!(rule(play.say(4, play.declined(DeclineReason::Policy))), Some("R-15"));
        assert_eq!(play.say(1, play.ready()), Ok(vec![]));
        assert_eq!(rule(play.say(1, play.declined(DeclineReason::Policy))), Some("R-07"));
        play.say(1, play.update(1)).expect("a member");
        play.say(2, play.update(2)).expect("a member");
        play.now = at(150_001);
        assert_eq!(rule(play.say(3, play.update(3))), Some("R-15"));
        assert_eq!(play.say(2, play.update(2)), Ok(vec![]), "a repetition is never late");
        play.deadline(150_001);
        assert_eq!(play.release().map(|r| r.contributed.len()), Some(3));
        play.check_end();
    }

    #[test]
    fn the_size_of_an_update_is_known_before_it_is_staged() {
        let mut play = Rehearsal::frozen(4, 3, 3);
        let size = play.packed(0).len();
        assert_eq!(play.round.expects_update(&site(0)), Ok(size));
        play.say(0, play.update(0)).expect("a member");
        assert_eq!(play.round.expects_update(&site(0)), Ok(size));
        assert_eq!(rule(play.round.expects_update(&site(3))), Some("R-08"));
        assert_eq!(rule(play.round.expects_update(&site(9))), Some("R-05"));
        play.feed(Input::Removed { hospital: site(1) }).expect("never refused");
        assert_eq!(rule(play.round.expects_update(&site(1))), Some("R-05"));
    }

    #[test]
    fn a_site_that_is_removed_is_not_waited_for_but_what_it_gave_stays() {
        let mut play = Rehearsal::frozen(4, 3, 4);
        play.say(0, play.update(0)).expect("a member");
        play.feed(Input::Removed { hospital: site(0) }).expect("never refused");
        play.feed(Input::Removed { hospital: site(3) }).expect("never refused");
        assert_eq!(rule(play.say(3, play.update(3))), Some("R-05"));
        play.say(1, play.update(1)).expect("a member");
        play.say(2, play.update(2)).expect("a member");
        let closed = play.round.closed().expect("nobody else is waited for");
        assert_eq!(closed.dropped, [(site(3), Dropped::Revoked)].into());
        play.check_end();
    }

    #[test]
    fn after_a_restart_the_members_get_their_time_again() {
        let mut play = Rehearsal::frozen(3, 3, 3);
        play.say(0, play.update(0)).expect("a member");
        play.now = at(900_000);
        let outputs = play.feed(Input::Resumed).expect("never refused");
        let roster = play.round.roster().expect("still frozen");
        assert_eq!(roster.upload_by, at(930_000));
        assert_eq!(outputs, [Output::Freeze(roster), Output::WakeAt(at(930_000))]);
        play.say(1, play.update(1)).expect("in time again");
        play.say(2, play.update(2)).expect("in time again");
        play.check_end();
    }

    #[test]
    fn a_stopped_round_releases_nothing() {
        let mut play = Rehearsal::frozen(3, 3, 3);
        play.say(0, play.update(0)).expect("a member");
        play.feed(Input::Stop { reason: StopReason::Stopped }).expect("never refused");
        assert!(play.release().is_none());
        play.check_end();
    }

    /// Breaks R-12: one site sends what no honest one could. Nothing is released.
    #[test]
    fn an_implausible_sum_is_not_released() {
        let mut play = Rehearsal::frozen(3, 3, 3);
        for index in 0..2 {
            play.say(index, play.update(index)).expect("a member");
        }
        let packed = vec![0x7f; play.packed(2).len()];
        let said =
            Said::Update { terms: play.terms.digest(), digest: Digest::blake3(&packed), packed };
        play.say(2, said).expect("of the right length");
        let closed = play.round.closed().expect("the round has ended");
        assert!(matches!(closed.outcome, Outcome::Abandoned(Abandoned::Implausible(_))));
        play.check_end();
    }

    /// Breaks R-20: there is no mean over no examples.
    #[test]
    fn a_training_round_without_examples_is_abandoned() {
        let mut play = Rehearsal::frozen(3, 3, 3);
        let format = play.charter.format(play.terms.work).expect("valid");
        let nothing = Contribution { weight: 0, update: vec![0.0; format.model()], metrics: None };
        let packed = encode(&format, &nothing).expect("it fits").packed;
        for index in 0..3 {
            let said = Said::Update {
                terms: play.terms.digest(),
                digest: Digest::blake3(&packed),
                packed: packed.clone(),
            };
            play.say(index, said).expect("a member");
        }
        let closed = play.round.closed().expect("the round has ended");
        assert_eq!(closed.outcome, Outcome::Abandoned(Abandoned::NoExamples));
        play.check_end();
    }

    #[test]
    fn the_last_round_releases_metrics_and_no_model() {
        let charter = charter(3, 3);
        let terms = terms(&charter, 11, 40);
        assert_eq!(terms.work, Work::Evaluate);
        let mut play = Rehearsal::with(charter, terms);
        for index in 0..3 {
            play.say(index, play.ready()).expect("invited");
        }
        for index in 0..3 {
            play.say(index, play.update(index)).expect("a member");
        }
        let total = &play.release().expect("all are in").total;
        assert!(total.update.is_empty() && total.metrics.is_some());
        play.check_end();
    }
}
