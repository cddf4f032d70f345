//! The roster is frozen with this site in it: the update is masked for exactly this roster, then
//! sent, once.

use crate::context::ContextDigest;
use crate::ids::{Digest, SlotId};
use crate::message::{Roster, Terms};
use crate::participant::announce::Progress;
use crate::participant::{Action, Offer, Participant, Phase};
use crate::refusal::Refusal;

/// A frozen roster with this site in it, until the final set is fixed.
#[derive(Debug, Clone)]
pub(super) struct Mask {
    offer: Offer,
    roster: Roster,
    /// What the masks are bound to; none for a study without masks.
    context: Option<ContextDigest>,
    upload: Upload,
}

/// Where this site's update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upload {
    /// It is being masked.
    Masking,
    /// It is to be sent, or has been.
    Ready { digest: Digest, bytes: usize, confirmed: bool },
}

impl Mask {
    pub(super) const fn offer(&self) -> &Offer {
        &self.offer
    }

    pub(super) const fn roster(&self) -> &Roster {
        &self.roster
    }

    pub(super) const fn context(&self) -> Option<ContextDigest> {
        self.context
    }

    /// Whether bytes may have left this house.
    pub(super) const fn may_have_sent(&self) -> bool {
        matches!(self.upload, Upload::Ready { .. })
    }

    /// What is still to be done: masking, or the upload until the coordinator has confirmed it.
    pub(super) fn due(&self) -> Option<Action> {
        let Terms { round, slot, .. } = self.offer.terms;
        let terms = self.offer.digest;
        match self.upload {
            Upload::Masking => {
                let members = self.roster.members.clone();
                self.context.map(|context| Action::Mask { slot, context, members })
            }
            Upload::Ready { confirmed: true, .. } => None,
            Upload::Ready { digest, bytes, confirmed: false } => {
                Some(Action::Upload { round, slot, terms, digest, bytes })
            }
        }
    }
}

impl Participant {
    /// The coordinator has frozen the roster.
    pub(super) fn frozen(&mut self, roster: &Roster) -> Result<Vec<Action>, Refusal> {
        match &mut self.phase {
            Phase::Announce(phase) if phase.offer().terms.slot == roster.slot => {
                check(phase.offer(), roster, self.charter.study().cohort.quorum)?;
                let mine = roster.members.contains(&self.me);
                match phase.progress() {
                    Progress::Trained { digest, bytes } if mine => {
                        let offer = phase.offer().clone();
                        let context = match &self.provision {
                            None => None,
                            Some(provision) => {
                                let format = self.charter.format(offer.terms.work);
                                let context = format.ok().and_then(|format| {
                                    provision.context(&offer.terms, &roster.members, &format)
                                });
                                // A member that is not on the roll has no keys either.
                                Some(context.ok_or(Refusal::BadSet {
                                    why: "a member of the roster is not on the roll",
                                })?)
                            }
                        };
                        let upload = match context {
                            Some(_) => Upload::Masking,
                            None => Upload::Ready { digest, bytes, confirmed: false },
                        };
                        let mask = Mask { offer, roster: roster.clone(), context, upload };
                        let due = mask.due();
                        self.phase = Phase::Mask(mask);
                        Ok(due.into_iter().collect())
                    }
                    Progress::Training | Progress::Declined(_) | Progress::LeftOut if mine => {
                        Err(Refusal::OutOfPhase {
                            what: "a roster with this site",
                            phase: "announce",
                        })
                    }
                    Progress::Training | Progress::Trained { .. } => {
                        phase.leave_out();
                        Ok(vec![Action::Forget(roster.slot)])
                    }
                    Progress::Declined(_) | Progress::LeftOut => Ok(Vec::new()),
                }
            }
            Phase::Mask(phase) if phase.offer.terms.slot == roster.slot => {
                same(&phase.roster, roster)?;
                phase.roster.upload_by = roster.upload_by;
                Ok(phase.due().into_iter().collect())
            }
            Phase::Sign(phase) if phase.mask().offer.terms.slot == roster.slot => {
                same(&phase.mask().roster, roster).map(|()| Vec::new())
            }
            Phase::Unmask(phase) if phase.mask().offer.terms.slot == roster.slot => {
                same(&phase.mask().roster, roster).map(|()| Vec::new())
            }
            Phase::Idle
            | Phase::Announce(_)
            | Phase::Mask(_)
            | Phase::Sign(_)
            | Phase::Unmask(_) => Ok(Vec::new()),
        }
    }

    /// The update is masked, and its keys are gone: these bytes or none.
    pub(super) fn masked(
        &mut self,
        slot: SlotId,
        digest: Digest,
        bytes: usize,
    ) -> Result<Vec<Action>, Refusal> {
        let expected = |terms: &Terms| self.charter.format(terms.work).map(|f| f.packed_bytes());
        match &mut self.phase {
            Phase::Mask(phase) if phase.offer.terms.slot == slot => {
                // PROTOCOL R-09
                if expected(&phase.offer.terms).ok() != Some(bytes) {
                    return Err(Refusal::Changed { what: "the length of the update" });
                }
                match phase.upload {
                    Upload::Masking => {
                        phase.upload = Upload::Ready { digest, bytes, confirmed: false };
                        Ok(phase.due().into_iter().collect())
                    }
                    Upload::Ready { digest: first, .. } if first == digest => Ok(Vec::new()),
                    // PROTOCOL R-06: one slot, one masked update.
                    Upload::Ready { .. } => Err(Refusal::Changed { what: "the work of a slot" }),
                }
            }
            Phase::Idle
            | Phase::Announce(_)
            | Phase::Mask(_)
            | Phase::Sign(_)
            | Phase::Unmask(_) => Self::stale_work(self.slot(), slot),
        }
    }

    /// The coordinator has confirmed an update.
    pub(super) fn uploaded(&mut self, slot: SlotId) -> Result<Vec<Action>, Refusal> {
        if let Phase::Mask(phase) = &mut self.phase
            && phase.offer.terms.slot == slot
            && let Upload::Ready { confirmed, .. } = &mut phase.upload
        {
            *confirmed = true;
        }
        Ok(Vec::new())
    }
}

/// Whether a roster can have come of this offer.
fn check(offer: &Offer, roster: &Roster, quorum: u16) -> Result<(), Refusal> {
    if roster.terms != offer.digest {
        return Err(Refusal::OtherTerms { expected: offer.digest, found: roster.terms });
    }
    if let Some(stranger) = roster.members.difference(&offer.terms.invited).next() {
        return Err(Refusal::Stranger { hospital: stranger.clone() });
    }
    let found = roster.members.len();
    if found < usize::from(quorum) {
        return Err(Refusal::BelowQuorum { found, quorum });
    }
    Ok(())
}

/// Whether a roster is the one that was told before: only its deadline may change.
fn same(first: &Roster, again: &Roster) -> Result<(), Refusal> {
    if (&first.terms, &first.members) == (&again.terms, &again.members) {
        Ok(())
    } else {
        Err(Refusal::Changed { what: "the roster" })
    }
}

#[cfg(test)]
mod tests {
    use crate::ids::Digest;
    use crate::message::{DeclineReason, Roster};
    use crate::participant::Event;
    use crate::participant::tests::{Slot, feed, rule, start};
    use crate::rehearsal::{at, site};

    type Change = fn(&mut Roster);

    /// Breaks: an update is sent to no roster but the right one.
    #[test]
    fn a_roster_that_cannot_be_is_refused_and_nothing_is_sent() {
        let (mut me, slot) = start();
        feed(&mut me, slot.offered()).expect("meets the charter");
        feed(&mut me, slot.trained()).expect("own work");
        let changes: [(&str, Change); 3] = [
            ("R-02", |r| r.terms = Digest::new([1; 32])),
            ("R-05", |r| assert!(r.members.insert(site(8)))),
            ("R-13", |r| r.members = [site(0), site(1)].into()),
        ];
        for (broken, change) in changes {
            let mut roster = slot.roster();
            change(&mut roster);
            assert_eq!(rule(feed(&mut me, Event::Frozen(roster))), Some(broken));
        }
        assert_eq!(feed(&mut me, Event::Frozen(slot.roster())), Ok(vec![slot.upload()]));
    }

    /// Breaks R-08: in the roster without having been ready.
    #[test]
    fn a_site_that_was_not_ready_is_in_no_roster() {
        let (mut me, slot) = start();
        feed(&mut me, slot.offered()).expect("meets the charter");
        assert_eq!(rule(feed(&mut me, Event::Frozen(slot.roster()))), Some("R-08"));
    }

    #[test]
    fn a_roster_frozen_without_us_ends_the_work() {
        for ready in [false, true] {
            let (mut me, slot) = start();
            feed(&mut me, slot.offered()).expect("meets the charter");
            if ready {
                feed(&mut me, slot.trained()).expect("own work");
            }
            let mut roster = slot.roster();
            roster.members.remove(&site(0));
            assert_eq!(feed(&mut me, Event::Frozen(roster.clone())), Ok(vec![slot.forget()]));
            assert_eq!(feed(&mut me, Event::Frozen(roster)), Ok(vec![]));
            assert_eq!(
                feed(&mut me, slot.trained()),
                Ok(vec![slot.forget()]),
                "work that comes too late"
            );
            assert_eq!(feed(&mut me, Event::TrainerFailed { slot: slot.terms.slot }), Ok(vec![]));
            assert_eq!(feed(&mut me, Event::Reconnected), Ok(vec![]));
            assert_eq!(rule(feed(&mut me, Event::Frozen(slot.roster()))), Some("R-08"));
        }
    }

    #[test]
    fn only_the_deadline_of_a_roster_may_change() {
        let (mut me, slot) = start();
        for event in [slot.offered(), slot.trained(), Event::Frozen(slot.roster())] {
            feed(&mut me, event).expect("an ordinary course");
        }
        let mut later = slot.roster();
        later.upload_by = at(999_000);
        assert_eq!(feed(&mut me, Event::Frozen(later)), Ok(vec![slot.upload()]));
        let mut fewer = slot.roster();
        fewer.members.remove(&site(3));
        assert_eq!(rule(feed(&mut me, Event::Frozen(fewer))), Some("R-07"));
        feed(&mut me, Event::Uploaded { slot: slot.terms.slot }).expect("confirmed");
        assert_eq!(feed(&mut me, Event::Frozen(slot.roster())), Ok(vec![]), "sent and confirmed");
    }

    #[test]
    fn what_belongs_to_another_slot_is_let_pass() {
        let (mut me, slot) = start();
        let other = Slot::new(me.charter(), 1, 2);
        assert_eq!(feed(&mut me, Event::Frozen(other.roster())), Ok(vec![]));
        feed(&mut me, slot.offered()).expect("meets the charter");
        assert_eq!(feed(&mut me, Event::Frozen(other.roster())), Ok(vec![]));
        assert_eq!(feed(&mut me, Event::Uploaded { slot: other.terms.slot }), Ok(vec![]));
        let barred = Event::Barred { terms: other.terms.clone(), reason: DeclineReason::Policy };
        feed(&mut me, barred).expect("a later slot");
        let mut roster = other.roster();
        roster.members.remove(&site(0));
        assert_eq!(feed(&mut me, Event::Frozen(roster)), Ok(vec![]));
    }
}
