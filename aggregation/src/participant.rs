//! One study's rounds, as a hospital sees them.
//!
//! The same phases as in [`round`](crate::round), under the same names. A [`Participant`] takes
//! what the coordinator says and what the trainer did, and says what is to be done. It never
//! trains twice for one slot, sends an update only to the roster that was frozen under the terms
//! it trained on, and believes nothing that its charter does not bear out.
//!
//! Whoever drives it journals each event first; after a restart the journal of the open slot is
//! played again, its actions are let fall, and [`Event::Reconnected`] asks for what is still due.

mod announce;
mod mask;
mod release;
mod sign;
mod unmask;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::charter::Charter;
use crate::context::ContextDigest;
use crate::ids::{Digest, HospitalId, RoundId, SlotId};
use crate::keys::provision::Provision;
use crate::message::{
    ClosedNotice, DeclineReason, FinalSet, Roster, SetStatement, SignedSet, Terms,
};
use crate::refusal::Refusal;

use announce::Announce;
use mask::Mask;
use sign::Sign;
use unmask::Unmask;

/// What can happen to a participant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The coordinator offers terms.
    Offered(Terms),
    /// The coordinator offers terms, and this house says no to them.
    Barred {
        /// The terms.
        terms: Terms,
        /// Why.
        reason: DeclineReason,
    },
    /// The trainer has done the work of a slot; the packed update lies ready.
    Trained {
        /// The slot.
        slot: SlotId,
        /// BLAKE3 of the packed update.
        digest: Digest,
        /// Its size.
        bytes: usize,
    },
    /// The trainer could not do the work of a slot.
    TrainerFailed {
        /// The slot.
        slot: SlotId,
    },
    /// The coordinator has frozen the roster.
    Frozen(Roster),
    /// The update is masked as [`Action::Mask`] asked, and the keys of the slot are erased; both
    /// are durable (PROTOCOL M-16).
    Masked {
        /// The slot.
        slot: SlotId,
        /// BLAKE3 of the masked update.
        digest: Digest,
        /// Its size.
        bytes: usize,
    },
    /// The coordinator has confirmed the update of a slot.
    Uploaded {
        /// The slot.
        slot: SlotId,
    },
    /// The coordinator has fixed the final set. To be made durable before any action is let out.
    Fixed(FinalSet),
    /// The coordinator has confirmed the signature of a slot.
    Signed {
        /// The slot.
        slot: SlotId,
    },
    /// The coordinator shows the signatures of the final set. To be made durable, like the shares
    /// that are given, before any action is let out.
    Unmask(SignedSet),
    /// The coordinator has confirmed the shares of a slot.
    Unmasked {
        /// The slot.
        slot: SlotId,
    },
    /// The round has ended.
    Closed(ClosedNotice),
    /// The link to the coordinator was lost and is there again, or this program was restarted.
    Reconnected,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Do the work of these terms; answered by [`Event::Trained`] or [`Event::TrainerFailed`].
    Train(Terms),
    /// Tell the coordinator that the update is ready.
    Ready {
        /// The round.
        round: RoundId,
        /// The slot.
        slot: SlotId,
        /// The terms that it was made under.
        terms: Digest,
    },
    /// Tell the coordinator that there will be no update.
    Decline {
        /// The round.
        round: RoundId,
        /// The slot.
        slot: SlotId,
        /// The terms that are declined.
        terms: Digest,
        /// Why.
        reason: DeclineReason,
    },
    /// Send the update; answered by [`Event::Uploaded`].
    Upload {
        /// The round.
        round: RoundId,
        /// The slot.
        slot: SlotId,
        /// The terms that it was made under.
        terms: Digest,
        /// BLAKE3 of the packed update.
        digest: Digest,
        /// Its size.
        bytes: usize,
    },
    /// Mask the update for these members, erase the keys of the slot and all before it, make both
    /// durable in one step; answered by [`Event::Masked`].
    Mask {
        /// The slot.
        slot: SlotId,
        /// What the masks are bound to.
        context: ContextDigest,
        /// The frozen roster.
        members: BTreeSet<HospitalId>,
    },
    /// Sign the final set with this site's identity and send the signature; answered by
    /// [`Event::Signed`].
    Sign {
        /// The round.
        round: RoundId,
        /// The slot.
        slot: SlotId,
        /// The terms of the round.
        terms: Digest,
        /// What is signed.
        statement: SetStatement,
    },
    /// Give shares of these hospitals' secrets, erase the others that are held for the slot, make
    /// both durable in one step, then send; answered by [`Event::Unmasked`].
    Unmask {
        /// The round.
        round: RoundId,
        /// The slot.
        slot: SlotId,
        /// The terms of the round.
        terms: Digest,
        /// Whose self secrets.
        own: BTreeSet<HospitalId>,
        /// Whose recovery secrets.
        recovery: BTreeSet<HospitalId>,
    },
    /// Stop work on this slot and delete what it has left, its keys too.
    Forget(SlotId),
}

impl Action {
    /// Whose self secrets, and whose recovery secrets, it gives shares of, if it gives any.
    #[must_use]
    pub const fn shares(&self) -> Option<(&BTreeSet<HospitalId>, &BTreeSet<HospitalId>)> {
        match self {
            Self::Unmask { own, recovery, .. } => Some((own, recovery)),
            Self::Train(_)
            | Self::Ready { .. }
            | Self::Decline { .. }
            | Self::Upload { .. }
            | Self::Mask { .. }
            | Self::Sign { .. }
            | Self::Forget(_) => None,
        }
    }
}

/// One study's rounds, as one hospital sees them.
#[derive(Debug, Clone)]
pub struct Participant {
    me: HospitalId,
    charter: Charter,
    /// What this site's masks rest on; none for a study without masks.
    provision: Option<Arc<Provision>>,
    /// The last slot that was seen.
    used: Option<SlotId>,
    /// The last round that was taken up.
    round: RoundId,
    phase: Phase,
}

/// Where the current slot stands.
#[derive(Debug, Clone)]
enum Phase {
    /// There is none.
    Idle,
    /// Offered, until the roster is frozen.
    Announce(Announce),
    /// Frozen with this site in the roster, until the round is closed.
    Mask(Mask),
    Sign(Sign),
    Unmask(Unmask),
}

/// A slot whose terms were seen.
#[derive(Debug, Clone)]
struct Offer {
    terms: Terms,
    digest: Digest,
}

impl Participant {
    /// A participant that has not seen a round.
    #[must_use]
    pub const fn new(me: HospitalId, charter: Charter) -> Self {
        let (provision, used) = (None, None);
        Self { me, charter, provision, used, round: RoundId::FIRST, phase: Phase::Idle }
    }

    /// A participant that had last taken up this slot of this round, and has finished with it.
    #[must_use]
    pub const fn resumed(me: HospitalId, charter: Charter, round: RoundId, slot: SlotId) -> Self {
        Self { me, charter, provision: None, used: Some(slot), round, phase: Phase::Idle }
    }

    /// The same with the keys of a study that masks. Without them it declines every round of it:
    /// nothing is ever sent unmasked by omission (PROTOCOL R-24).
    #[must_use]
    pub fn with_keys(self, provision: Arc<Provision>) -> Self {
        Self { provision: Some(provision), ..self }
    }

    /// What was approved.
    #[must_use]
    pub const fn charter(&self) -> &Charter {
        &self.charter
    }

    /// The slot that is being worked on.
    #[must_use]
    pub fn slot(&self) -> Option<SlotId> {
        self.offer().map(|offer| offer.terms.slot)
    }

    /// The phase's name.
    #[must_use]
    pub const fn phase(&self) -> &'static str {
        match self.phase {
            Phase::Idle => "idle",
            Phase::Announce(_) => "announce",
            Phase::Mask(_) => "mask",
            Phase::Sign(_) => "sign",
            Phase::Unmask(_) => "unmask",
        }
    }

    const fn offer(&self) -> Option<&Offer> {
        match &self.phase {
            Phase::Idle => None,
            Phase::Announce(phase) => Some(phase.offer()),
            Phase::Mask(phase) => Some(phase.offer()),
            Phase::Sign(phase) => Some(phase.mask().offer()),
            Phase::Unmask(phase) => Some(phase.mask().offer()),
        }
    }

    /// Takes one event.
    ///
    /// # Errors
    /// When the coordinator, or this house's own shell, said what it may not say. Then nothing has
    /// changed (PROTOCOL R-17).
    pub fn handle(&mut self, event: Event) -> Result<Vec<Action>, Refusal> {
        match event {
            Event::Offered(terms) => self.offered(terms, None),
            Event::Barred { terms, reason } => self.offered(terms, Some(reason)),
            Event::Trained { slot, digest, bytes } => self.trained(slot, digest, bytes),
            Event::TrainerFailed { slot } => self.trainer_failed(slot),
            Event::Frozen(roster) => self.frozen(&roster),
            Event::Masked { slot, digest, bytes } => self.masked(slot, digest, bytes),
            Event::Uploaded { slot } => self.uploaded(slot),
            Event::Fixed(set) => self.fixed(&set),
            Event::Signed { slot } => self.signed(slot),
            Event::Unmask(signed) => self.unmask(&signed),
            Event::Unmasked { slot } => self.unmasked(slot),
            Event::Closed(notice) => self.closed(&notice),
            Event::Reconnected => Ok(self.due()),
        }
    }

    /// What the coordinator may not have heard yet. Said twice, it is answered as the first time.
    fn due(&self) -> Vec<Action> {
        match &self.phase {
            Phase::Idle => Vec::new(),
            Phase::Announce(phase) => phase.due().into_iter().collect(),
            Phase::Mask(phase) => phase.due().into_iter().collect(),
            Phase::Sign(phase) => phase.due().into_iter().collect(),
            Phase::Unmask(phase) => phase.due().into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Closed, Outcome, Said};
    use crate::rehearsal::{Rehearsal, at, charter, site, terms};
    use crate::round::{Input, Output};

    /// What is known of a slot by its terms.
    pub(super) struct Slot {
        pub(super) terms: Terms,
        pub(super) digest: Digest,
        pub(super) bytes: usize,
    }

    impl Slot {
        pub(super) fn new(charter: &Charter, round: u32, slot: u64) -> Self {
            let terms = terms(charter, round, slot);
            let format = charter.format(terms.work).expect("the example has a format");
            Self { terms, digest: Digest::new([5; 32]), bytes: format.packed_bytes() }
        }

        pub(super) fn offered(&self) -> Event {
            Event::Offered(self.terms.clone())
        }

        pub(super) fn trained(&self) -> Event {
            Event::Trained { slot: self.terms.slot, digest: self.digest, bytes: self.bytes }
        }

        pub(super) fn roster(&self) -> Roster {
            let Terms { study, round, slot, .. } = self.terms;
            let members = self.terms.invited.clone();
            Roster {
                study,
                round,
                slot,
                terms: self.terms.digest(),
                members,
                upload_by: at(150_000),
            }
        }

        pub(super) fn closed(&self) -> Event {
            let Terms { study, round, slot, .. } = self.terms;
            Event::Closed(
                Closed {
                    study,
                    round,
                    slot,
                    outcome: Outcome::Released,
                    contributed: self.terms.invited.clone(),
                    dropped: std::collections::BTreeMap::new(),
                }
                .notice(),
            )
        }

        pub(super) fn train(&self) -> Action {
            Action::Train(self.terms.clone())
        }

        pub(super) fn ready(&self) -> Action {
            let Terms { round, slot, .. } = self.terms;
            Action::Ready { round, slot, terms: self.terms.digest() }
        }

        pub(super) fn decline(&self, reason: DeclineReason) -> Action {
            let Terms { round, slot, .. } = self.terms;
            Action::Decline { round, slot, terms: self.terms.digest(), reason }
        }

        pub(super) fn upload(&self) -> Action {
            let Terms { round, slot, .. } = self.terms;
            let (digest, bytes) = (self.digest, self.bytes);
            Action::Upload { round, slot, terms: self.terms.digest(), digest, bytes }
        }

        pub(super) fn forget(&self) -> Action {
            Action::Forget(self.terms.slot)
        }
    }

    /// Site 0 of four, a quorum of three, and the first slot of round 1.
    pub(super) fn start() -> (Participant, Slot) {
        let charter = charter(4, 3);
        let slot = Slot::new(&charter, 1, 1);
        (Participant::new(site(0), charter), slot)
    }

    /// Feeds an event; a refusal must change nothing.
    pub(super) fn feed(
        participant: &mut Participant,
        event: Event,
    ) -> Result<Vec<Action>, Refusal> {
        let before = format!("{participant:?}");
        let actions = participant.handle(event);
        if actions.is_err() {
            assert_eq!(before, format!("{participant:?}"), "a refusal changed something");
        }
        actions
    }

    pub(super) fn rule<T>(answer: Result<T, Refusal>) -> Option<&'static str> {
        answer.err().map(|refusal| refusal.rule())
    }

    #[test]
    fn a_round_runs_its_course_and_the_next_one_follows() {
        let (mut me, first) = start();
        let second = Slot::new(me.charter(), 2, 2);
        for slot in [first, second] {
            assert_eq!(feed(&mut me, slot.offered()), Ok(vec![slot.train()]));
            assert_eq!(me.phase(), "announce");
            assert_eq!(feed(&mut me, slot.trained()), Ok(vec![slot.ready()]));
            assert_eq!(feed(&mut me, Event::Frozen(slot.roster())), Ok(vec![slot.upload()]));
            assert_eq!((me.phase(), me.slot()), ("mask", Some(slot.terms.slot)));
            assert_eq!(feed(&mut me, Event::Uploaded { slot: slot.terms.slot }), Ok(vec![]));
            assert_eq!(feed(&mut me, slot.closed()), Ok(vec![slot.forget()]));
            assert_eq!((me.phase(), me.slot()), ("idle", None));
        }
    }

    #[test]
    fn after_a_lost_link_only_what_is_due_is_said_again() {
        let (mut me, slot) = start();
        let course: [(Event, Vec<Action>); 5] = [
            (slot.offered(), vec![]),
            (slot.trained(), vec![slot.ready()]),
            (Event::Frozen(slot.roster()), vec![slot.upload()]),
            (Event::Uploaded { slot: slot.terms.slot }, vec![]),
            (slot.closed(), vec![]),
        ];
        assert_eq!(feed(&mut me, Event::Reconnected), Ok(vec![]));
        for (event, due) in course {
            feed(&mut me, event).expect("an ordinary course");
            assert_eq!(feed(&mut me, Event::Reconnected), Ok(due));
        }
    }

    /// A restart after each event of an ordinary round: the journal is replayed.
    #[test]
    fn a_participant_survives_a_restart_after_each_event() {
        let (fresh, slot) = start();
        let journal = [slot.offered(), slot.trained(), Event::Frozen(slot.roster()), slot.closed()];
        for length in 0..=journal.len() {
            let (mut lived, mut replayed) = (fresh.clone(), fresh.clone());
            for event in &journal[..length] {
                feed(&mut lived, event.clone()).expect("an ordinary course");
                feed(&mut replayed, event.clone()).expect("it was accepted the first time");
            }
            assert_eq!(format!("{lived:?}"), format!("{replayed:?}"));
            for event in &journal[length..] {
                assert_eq!(feed(&mut lived, event.clone()), feed(&mut replayed, event.clone()));
            }
        }
    }

    /// The two ends of a round, wired to each other.
    #[test]
    fn coordinator_and_hospitals_bring_a_round_to_its_end() {
        let mut play = Rehearsal::open(4, 3);
        let mut hospitals: Vec<Participant> =
            (0..4).map(|index| Participant::new(site(index), play.charter.clone())).collect();
        // Outputs of the round, not yet told to the hospitals.
        let mut seen = 0;
        while let Some(output) = play.told.get(seen).cloned() {
            seen += 1;
            let event = match output {
                Output::Offer(terms) => Event::Offered(terms),
                Output::Freeze(roster) => Event::Frozen(roster),
                Output::Close(closed) => Event::Closed(closed.notice()),
                Output::Fix(_)
                | Output::Unmask(_)
                | Output::WakeAt(_)
                | Output::Fact(_)
                | Output::Release(_) => continue,
            };
            for (index, hospital) in hospitals.iter_mut().enumerate() {
                let mut due = hospital.handle(event.clone()).expect("an honest coordinator");
                while let Some(action) = due.pop() {
                    let said = match action {
                        Action::Train(terms) => {
                            let packed = play.packed(index);
                            let (digest, bytes) = (Digest::blake3(&packed), packed.len());
                            let slot = terms.slot;
                            due.extend(
                                hospital
                                    .handle(Event::Trained { slot, digest, bytes })
                                    .expect("own work"),
                            );
                            continue;
                        }
                        Action::Forget(_) => continue,
                        Action::Mask { .. } | Action::Sign { .. } | Action::Unmask { .. } => {
                            assert_eq!(hospital.phase(), "announce", "this study has no masks");
                            continue;
                        }
                        Action::Ready { terms, .. } => Said::Ready { terms },
                        Action::Decline { terms, reason, .. } => Said::Declined { terms, reason },
                        Action::Upload { terms, digest, .. } => {
                            Said::Update { terms, digest, packed: play.packed(index) }
                        }
                    };
                    play.feed(Input::Said { from: site(index), said }).expect("an honest hospital");
                }
            }
        }
        assert_eq!(play.release().map(|release| release.contributed.len()), Some(4));
        assert!(hospitals.iter().all(|hospital| hospital.phase() == "idle"));
        play.check_end();
    }
}
