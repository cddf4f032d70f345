//! Terms are offered. The charter judges them; the trainer does the work once; then the site says
//! that it is ready, or that it will not be.

use crate::ids::{Digest, SlotId};
use crate::message::{DeclineReason, Terms};
use crate::participant::{Action, Offer, Participant, Phase};
use crate::refusal::Refusal;

/// An offer, until the roster is frozen.
#[derive(Debug, Clone)]
pub(super) struct Announce {
    offer: Offer,
    progress: Progress,
}

/// How far the work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Training,
    Trained {
        digest: Digest,
        bytes: usize,
    },
    Declined(DeclineReason),
    /// The roster was frozen without this site.
    LeftOut,
}

impl Announce {
    pub(super) const fn offer(&self) -> &Offer {
        &self.offer
    }

    pub(super) const fn progress(&self) -> Progress {
        self.progress
    }

    /// What the coordinator may not have heard yet.
    pub(super) const fn due(&self) -> Option<Action> {
        let Terms { round, slot, .. } = self.offer.terms;
        let terms = self.offer.digest;
        match self.progress {
            Progress::Training | Progress::LeftOut => None,
            Progress::Trained { .. } => Some(Action::Ready { round, slot, terms }),
            Progress::Declined(reason) => Some(Action::Decline { round, slot, terms, reason }),
        }
    }

    /// Leaves the work undone: the roster is frozen and this site is not in it.
    pub(super) const fn leave_out(&mut self) {
        self.progress = Progress::LeftOut;
    }
}

impl Participant {
    /// Takes up an offer, unless the charter, or the house with its reason, says no.
    pub(super) fn offered(
        &mut self,
        terms: Terms,
        barred: Option<DeclineReason>,
    ) -> Result<Vec<Action>, Refusal> {
        let digest = terms.digest();
        if let Some(used) = self.used
            && terms.slot <= used
        {
            return match self.offer().filter(|offer| offer.terms.slot == terms.slot) {
                // PROTOCOL R-07: the same offer again asks for what is still due.
                Some(offer) if offer.digest == digest => Ok(self.due()),
                Some(_) => Err(Refusal::Changed { what: "an offer" }),
                // PROTOCOL R-06
                None => Err(Refusal::UsedSlot { used, found: terms.slot }),
            };
        }
        // Whatever it is, it is not for this site; the slot stays unused here.
        if !terms.invited.contains(&self.me) {
            return Ok(Vec::new());
        }
        let progress = match (self.judge(&terms), barred) {
            (Err(_), _) => Progress::Declined(DeclineReason::Terms),
            (Ok(()), Some(reason)) => Progress::Declined(reason),
            (Ok(()), None) if !self.has_its_keys() => Progress::Declined(DeclineReason::NoKeys),
            (Ok(()), None) => Progress::Training,
        };
        // An earlier slot that never closed here is over: the coordinator has moved on.
        let mut actions: Vec<Action> = self.slot().map(Action::Forget).into_iter().collect();
        self.used = Some(terms.slot);
        let offer = Offer { terms: terms.clone(), digest };
        let phase = Announce { offer, progress };
        if progress == Progress::Training {
            self.round = terms.round;
            actions.push(Action::Train(terms));
        }
        actions.extend(phase.due());
        self.phase = Phase::Announce(phase);
        Ok(actions)
    }

    /// PROTOCOL R-24: masks where the study masks, and only there.
    fn has_its_keys(&self) -> bool {
        match (self.charter.thresholds(), &self.provision) {
            (Some(_), Some(provision)) => {
                let roll = provision.roll();
                roll.study() == self.charter.id()
                    && roll.identities().keys().eq(self.charter.sites())
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Whether the charter bears these terms out, and the study is not turned back.
    fn judge(&self, terms: &Terms) -> Result<(), Refusal> {
        self.charter.check(terms)?;
        // PROTOCOL R-04
        if terms.round < self.round {
            let last = self.charter.study().last_round();
            return Err(Refusal::WrongRound { first: self.round, last, found: terms.round });
        }
        Ok(())
    }

    /// The trainer has done its work.
    pub(super) fn trained(
        &mut self,
        slot: SlotId,
        digest: Digest,
        bytes: usize,
    ) -> Result<Vec<Action>, Refusal> {
        let Phase::Announce(phase) = &mut self.phase else {
            return Self::stale_work(self.slot(), slot);
        };
        if phase.offer.terms.slot != slot {
            return Self::stale_work(Some(phase.offer.terms.slot), slot);
        }
        match phase.progress {
            Progress::Training => {
                // PROTOCOL R-09: the coordinator would refuse any other length.
                let fits = self
                    .charter
                    .format(phase.offer.terms.work)
                    .is_ok_and(|format| format.packed_bytes() == bytes);
                phase.progress = if fits {
                    Progress::Trained { digest, bytes }
                } else {
                    Progress::Declined(DeclineReason::Trainer)
                };
                Ok(self.due())
            }
            Progress::Trained { digest: first, .. } if first == digest => Ok(Vec::new()),
            // PROTOCOL R-06: one slot, one update.
            Progress::Trained { .. } | Progress::Declined(_) => {
                Err(Refusal::Changed { what: "the work of a slot" })
            }
            Progress::LeftOut => Ok(vec![Action::Forget(slot)]),
        }
    }

    /// The trainer could not do its work.
    pub(super) fn trainer_failed(&mut self, slot: SlotId) -> Result<Vec<Action>, Refusal> {
        let Phase::Announce(phase) = &mut self.phase else {
            return Self::stale_work(self.slot(), slot);
        };
        if phase.offer.terms.slot != slot {
            return Self::stale_work(Some(phase.offer.terms.slot), slot);
        }
        match phase.progress {
            Progress::Training => {
                phase.progress = Progress::Declined(DeclineReason::Trainer);
                Ok(self.due())
            }
            Progress::Declined(_) | Progress::LeftOut => Ok(Vec::new()),
            Progress::Trained { .. } => Err(Refusal::Changed { what: "the work of a slot" }),
        }
    }

    /// Work that comes back when its slot is over is thrown away; for the slot at hand it can only
    /// be a repetition.
    pub(super) fn stale_work(
        current: Option<SlotId>,
        slot: SlotId,
    ) -> Result<Vec<Action>, Refusal> {
        if current == Some(slot) { Ok(Vec::new()) } else { Ok(vec![Action::Forget(slot)]) }
    }
}

#[cfg(test)]
mod tests {
    use crate::ids::{Digest, RoundId, SlotId};
    use crate::message::{DeclineReason, Terms};
    use crate::participant::tests::{Slot, feed, rule, start};
    use crate::participant::{Event, Participant};
    use crate::rehearsal::site;

    /// Breaks R-06: whatever is said again, the trainer is asked once.
    #[test]
    fn one_slot_is_trained_for_once() {
        let (mut me, slot) = start();
        assert_eq!(feed(&mut me, slot.offered()), Ok(vec![slot.train()]));
        assert_eq!(feed(&mut me, slot.offered()), Ok(vec![]), "still training");
        feed(&mut me, slot.trained()).expect("own work");
        assert_eq!(
            feed(&mut me, slot.offered()),
            Ok(vec![slot.ready()]),
            "the coordinator missed it"
        );
        assert_eq!(feed(&mut me, slot.trained()), Ok(vec![]));
        let other = Event::Trained {
            slot: slot.terms.slot,
            digest: Digest::new([6; 32]),
            bytes: slot.bytes,
        };
        assert_eq!(rule(feed(&mut me, other)), Some("R-07"));
        assert_eq!(
            rule(feed(&mut me, Event::TrainerFailed { slot: slot.terms.slot })),
            Some("R-07")
        );
        feed(&mut me, slot.closed()).expect("an ordinary end");
        assert_eq!(rule(feed(&mut me, slot.offered())), Some("R-06"));
    }

    #[test]
    fn used_slots_stay_used_after_a_restart() {
        let (me, slot) = start();
        let later = Slot::new(me.charter(), 3, 8);
        let mut me =
            Participant::resumed(site(0), me.charter().clone(), RoundId::after(2), SlotId::new(7));
        assert_eq!(rule(feed(&mut me, slot.offered())), Some("R-06"));
        assert_eq!(feed(&mut me, later.offered()), Ok(vec![later.train()]));
    }

    /// Breaks R-07: other terms under a slot that was offered.
    #[test]
    fn a_changed_offer_is_refused() {
        let (mut me, slot) = start();
        feed(&mut me, slot.offered()).expect("meets the charter");
        let changes: [fn(&mut Terms); 2] =
            [|t| t.model = Digest::new([9; 32]), |t| assert!(t.invited.remove(&site(3)))];
        for change in changes {
            let mut terms = slot.terms.clone();
            change(&mut terms);
            assert_eq!(rule(feed(&mut me, Event::Offered(terms))), Some("R-07"));
        }
    }

    #[test]
    fn a_new_slot_replaces_one_that_never_closed() {
        let (mut me, first) = start();
        let again = Slot::new(me.charter(), 1, 2);
        feed(&mut me, first.offered()).expect("meets the charter");
        assert_eq!(feed(&mut me, again.offered()), Ok(vec![first.forget(), again.train()]));
        // The first slot's work comes back late.
        assert_eq!(feed(&mut me, first.trained()), Ok(vec![first.forget()]));
        assert_eq!(
            feed(&mut me, Event::TrainerFailed { slot: first.terms.slot }),
            Ok(vec![first.forget()])
        );
        assert_eq!(feed(&mut me, again.trained()), Ok(vec![again.ready()]));
    }

    /// Breaks from outside: nothing is trained.
    #[test]
    fn terms_that_do_not_meet_the_charter_are_declined() {
        let changes: [fn(&mut Terms); 5] = [
            |t| t.study = crate::ids::StudyId::new(Digest::new([1; 32])),
            |t| t.round = RoundId::after(11),
            |t| t.work = crate::message::Work::Evaluate,
            |t| assert!(t.invited.insert(site(8))),
            |t| t.invited = [site(0), site(1)].into(),
        ];
        for change in changes {
            let (mut me, mut slot) = start();
            change(&mut slot.terms);
            let declined = Ok(vec![slot.decline(DeclineReason::Terms)]);
            assert_eq!(feed(&mut me, slot.offered()), declined);
            assert_eq!(
                feed(&mut me, slot.offered()),
                declined,
                "said twice, answered as the first time"
            );
            // The slot is used up, the round is not.
            let true_one = Slot::new(me.charter(), 1, 2);
            assert_eq!(
                feed(&mut me, true_one.offered())
                    .map(|actions| actions.contains(&true_one.train())),
                Ok(true)
            );
        }
    }

    #[test]
    fn a_study_is_not_turned_back() {
        let (mut me, _) = start();
        let fifth = Slot::new(me.charter(), 5, 5);
        let third = Slot::new(me.charter(), 3, 6);
        feed(&mut me, fifth.offered()).expect("meets the charter");
        feed(&mut me, fifth.closed()).expect("an ordinary end");
        assert_eq!(feed(&mut me, third.offered()), Ok(vec![third.decline(DeclineReason::Terms)]));
        let retry = Slot::new(me.charter(), 5, 7);
        assert_eq!(feed(&mut me, retry.offered()), Ok(vec![third.forget(), retry.train()]));
    }

    #[test]
    fn the_house_can_say_no_and_a_failed_trainer_is_owned_up_to() {
        let (mut me, slot) = start();
        let reason = DeclineReason::OutsideHours;
        let barred = Event::Barred { terms: slot.terms.clone(), reason };
        assert_eq!(feed(&mut me, barred), Ok(vec![slot.decline(reason)]));
        assert_eq!(feed(&mut me, slot.offered()), Ok(vec![slot.decline(reason)]), "no stays no");
        assert_eq!(rule(feed(&mut me, slot.trained())), Some("R-07"));
        let next = Slot::new(me.charter(), 1, 2);
        feed(&mut me, next.offered()).expect("meets the charter");
        let failed = Event::TrainerFailed { slot: next.terms.slot };
        assert_eq!(feed(&mut me, failed.clone()), Ok(vec![next.decline(DeclineReason::Trainer)]));
        assert_eq!(feed(&mut me, failed), Ok(vec![]));
    }

    /// Breaks R-09 within the house.
    #[test]
    fn work_of_another_length_is_not_offered() {
        let (mut me, mut slot) = start();
        feed(&mut me, slot.offered()).expect("meets the charter");
        slot.bytes += 1;
        assert_eq!(feed(&mut me, slot.trained()), Ok(vec![slot.decline(DeclineReason::Trainer)]));
    }

    #[test]
    fn an_offer_to_others_is_none_of_our_business() {
        let (mut me, mut slot) = start();
        slot.terms.invited = [site(1), site(2), site(3)].into();
        assert_eq!(feed(&mut me, slot.offered()), Ok(vec![]));
        assert_eq!(me.phase(), "idle");
    }
}
