//! One attempt at a round, as the coordinator sees it.
//!
//! `announce -> mask -> sign -> unmask -> combine -> release`; without masks, from mask straight to
//! release. A [`Round`] is a value: it takes one [`Input`] at a time and gives the [`Output`]s that
//! follow from it. Whoever drives it journals the input first, then lets the outputs out; after a
//! restart the journal is played again and the round stands where it stood. Taking the masks out of
//! the sum is the one thing that takes long, so it is asked for ([`Round::combine`]), on as many
//! threads as there are, and not journaled: whatever the journal gives, it gives again.

mod announce;
mod combine;
mod fact;
mod mask;
mod pick;
mod recover;
mod release;
mod sign;
mod unmask;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use announce::Announce;
pub use combine::Combine;
pub use fact::Fact;
pub use mask::Mask;
pub use release::Ended;
pub use sign::Sign;
pub use unmask::Unmask;

use crate::ids::{Digest, HospitalId};
use crate::keys::provision::Provision;
use crate::keys::slots::PrekeyBatch;
use crate::masking::group::Modulus;
use crate::masking::keystream::KeyedMask;
use crate::masking::{self, masks::Tiles};
use crate::message::{Closed, FinalSet, Roster, Said, SignedSet, StopReason, Terms};
use crate::refusal::Refusal;
use crate::units::Timestamp;
use crate::vector::{Total, VectorFormat};

/// How a round is run; from the charter.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The lanes of an update.
    pub format: VectorFormat,
    /// Fewest contributions that may be released.
    pub quorum: u16,
    /// From the offer until every site should be ready. Counted anew after a restart; the first
    /// time it is the terms that say until when.
    pub round_deadline: Duration,
    /// From the frozen roster until every update should be complete; as long again for the
    /// signatures, and for the shares.
    pub upload_deadline: Duration,
    /// What it takes to take the masks out; none for a study whose updates travel unmasked.
    pub masks: Option<Arc<Masks>>,
}

/// What the coordinator knows of the masks of some slots: nothing that is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masks {
    /// Who holds what, and whose signature counts.
    pub provision: Provision,
    /// The batch of each hospital that covers the slots.
    pub batches: BTreeMap<HospitalId, PrekeyBatch>,
}

/// What can happen to a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A hospital said something, proven to be itself by its certificate.
    Said {
        /// Who.
        from: HospitalId,
        /// What.
        said: Said,
    },
    /// The moment of the last [`Output::WakeAt`] has come.
    Deadline,
    /// The coordinator was restarted, and hospitals may have been waiting: deadlines start again.
    Resumed,
    /// A hospital was revoked or has withdrawn.
    Removed {
        /// Which.
        hospital: HospitalId,
    },
    /// A hospital's connection was lost, and has been for as long as one is waited for. It is not
    /// waited for any more; what it says before the phase ends still counts.
    Lost {
        /// Which.
        hospital: HospitalId,
    },
    /// The coordinator ends the round.
    Stop {
        /// Why.
        reason: StopReason,
    },
}

/// What follows from an input.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Tell every invited hospital.
    Offer(Terms),
    /// Tell every invited hospital.
    Freeze(Roster),
    /// Tell every member of the roster: the set to sign.
    Fix(FinalSet),
    /// Tell every member of the roster: the signed set, which asks for shares.
    Unmask(SignedSet),
    /// Feed [`Input::Deadline`] at this moment. Replaces an earlier wish.
    WakeAt(Timestamp),
    /// Something worth recording.
    Fact(Fact),
    /// The sum may leave.
    Release(Box<Release>),
    /// The round has ended; tell every invited hospital.
    Close(Closed),
}

/// A sum that may leave.
#[derive(Debug, Clone, PartialEq)]
pub struct Release {
    /// The terms that it was made under.
    pub terms: Terms,
    /// The sites that are in it.
    pub contributed: BTreeSet<HospitalId>,
    /// The sum.
    pub total: Total,
    /// BLAKE3 of each update in it, as it arrived.
    pub uploads: BTreeMap<HospitalId, Digest>,
    /// The group that updates were added in.
    pub modulus: Modulus,
    /// BLAKE3 of the sum, packed as an update is.
    pub sum: Digest,
    /// The masks that were taken out, by their keys; none of a round without masks. Together with
    /// the updates they give the sum again.
    pub recovered: Arc<[KeyedMask]>,
}

impl Output {
    /// The fact, if it is one.
    #[must_use]
    pub const fn fact(&self) -> Option<&Fact> {
        match self {
            Self::Fact(fact) => Some(fact),
            Self::Offer(_)
            | Self::Freeze(_)
            | Self::Fix(_)
            | Self::Unmask(_)
            | Self::WakeAt(_)
            | Self::Release(_)
            | Self::Close(_) => None,
        }
    }

    /// The sum, if it is one that may leave.
    #[must_use]
    pub fn release(&self) -> Option<&Release> {
        match self {
            Self::Release(release) => Some(release),
            Self::Offer(_)
            | Self::Freeze(_)
            | Self::Fix(_)
            | Self::Unmask(_)
            | Self::WakeAt(_)
            | Self::Fact(_)
            | Self::Close(_) => None,
        }
    }
}

impl Round {
    /// The final set, from when it is fixed until it is signed.
    #[must_use]
    pub fn final_set(&self) -> Option<FinalSet> {
        match self {
            Self::Sign(phase) => Some(phase.set().clone()),
            Self::Announce(_)
            | Self::Mask(_)
            | Self::Unmask(_)
            | Self::Combine(_)
            | Self::Closed(_) => None,
        }
    }

    /// The signed set, while shares are awaited.
    #[must_use]
    pub fn signed_set(&self) -> Option<SignedSet> {
        match self {
            Self::Unmask(phase) => Some(phase.signed().clone()),
            Self::Announce(_)
            | Self::Mask(_)
            | Self::Sign(_)
            | Self::Combine(_)
            | Self::Closed(_) => None,
        }
    }
}

/// What stays the same through all phases of an attempt.
#[derive(Debug, Clone)]
struct Attempt {
    terms: Terms,
    digest: Digest,
    plan: Plan,
}

impl Attempt {
    /// Whether this hospital may speak, and speaks of this attempt.
    fn admit(&self, from: &HospitalId, said: &Said) -> Result<(), Refusal> {
        // PROTOCOL R-05
        if !self.terms.invited.contains(from) {
            return Err(Refusal::Stranger { hospital: from.clone() });
        }
        // PROTOCOL R-02
        let found = said.terms();
        if found != self.digest {
            return Err(Refusal::OtherTerms { expected: self.digest, found });
        }
        Ok(())
    }

    /// Fewest contributions that may be released: a sum over nobody is none.
    fn quorum(&self) -> usize {
        usize::from(self.plan.quorum.max(1))
    }
}

/// What a phase makes of an input: outputs, and the phase that follows if this one is over.
#[derive(Debug)]
struct Step {
    outputs: Vec<Output>,
    next: Option<Round>,
}

impl Step {
    /// The phase goes on.
    const fn stay(outputs: Vec<Output>) -> Self {
        Self { outputs, next: None }
    }

    /// The phase goes on, and one thing is worth recording.
    fn fact(fact: Fact) -> Self {
        Self::stay(vec![Output::Fact(fact)])
    }

    /// The same after these outputs.
    fn after(mut self, mut earlier: Vec<Output>) -> Self {
        earlier.append(&mut self.outputs);
        self.outputs = earlier;
        self
    }
}

/// One attempt at a round.
#[derive(Debug, Clone)]
pub enum Round {
    /// The terms are offered; sites train and say that they are ready.
    Announce(Announce),
    /// The roster is frozen; updates arrive and are summed.
    Mask(Mask),
    /// The final set is fixed; its members sign it.
    Sign(Sign),
    /// The final set is signed; shares arrive.
    Unmask(Unmask),
    /// The secrets are recovered; [`Round::combine`] takes the masks out.
    Combine(Combine),
    /// It has ended.
    Closed(Box<Ended>),
}

impl Round {
    /// Opens an attempt. With fewer invited than the quorum it is abandoned at once.
    #[must_use]
    pub fn open(now: Timestamp, terms: Terms, plan: Plan) -> (Self, Vec<Output>) {
        let digest = terms.digest();
        let opened = Fact::Announced { terms: digest, invited: terms.invited.clone() };
        let (round, mut outputs) = Announce::open(now, Attempt { terms, digest, plan });
        outputs.insert(0, Output::Fact(opened));
        (round, outputs)
    }

    /// Takes one input.
    ///
    /// # Errors
    /// When a hospital said what it may not say. Then nothing has changed: one hospital's bad
    /// message never costs the others their round (PROTOCOL R-17).
    pub fn handle(&mut self, now: Timestamp, input: Input) -> Result<Vec<Output>, Refusal> {
        let step = match self {
            Self::Announce(phase) => phase.handle(now, input)?,
            Self::Mask(phase) => phase.handle(now, input)?,
            Self::Sign(phase) => phase.handle(now, input)?,
            Self::Unmask(phase) => phase.handle(now, input)?,
            Self::Combine(phase) => phase.handle(input)?,
            Self::Closed(ended) => ended.handle(input)?,
        };
        if let Some(next) = step.next {
            *self = next;
        }
        Ok(step.outputs)
    }

    /// Takes the masks out of the sum and closes the round; nothing in any other phase. `how` is
    /// given the masks and all lanes; it may split the lanes and see to the parts at once.
    pub fn combine(&mut self, how: impl FnOnce(&masking::masks::Masks, Tiles<'_>)) -> Vec<Output> {
        let Self::Combine(phase) = self else { return Vec::new() };
        let step = phase.combine(how);
        if let Some(next) = step.next {
            *self = next;
        }
        step.outputs
    }

    /// [`Round::combine`] on this thread.
    pub fn combine_here(&mut self) -> Vec<Output> {
        self.combine(|masks, lanes| masks.apply(lanes))
    }

    /// The phase's name.
    #[must_use]
    pub const fn phase(&self) -> &'static str {
        match self {
            Self::Announce(_) => Announce::NAME,
            Self::Mask(_) => Mask::NAME,
            Self::Sign(_) => Sign::NAME,
            Self::Unmask(_) => Unmask::NAME,
            Self::Combine(_) => Combine::NAME,
            Self::Closed(_) => Ended::NAME,
        }
    }

    /// The terms of this attempt.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        match self {
            Self::Announce(phase) => phase.terms(),
            Self::Mask(phase) => phase.terms(),
            Self::Sign(phase) => phase.mask.terms(),
            Self::Unmask(phase) => phase.mask.terms(),
            Self::Combine(phase) => phase.mask.terms(),
            Self::Closed(ended) => ended.terms(),
        }
    }

    /// The frozen roster, until the round closes.
    #[must_use]
    pub fn roster(&self) -> Option<Roster> {
        match self {
            Self::Mask(phase) => Some(phase.roster()),
            Self::Sign(phase) => Some(phase.mask.roster()),
            Self::Unmask(phase) => Some(phase.mask.roster()),
            Self::Combine(phase) => Some(phase.mask.roster()),
            Self::Announce(_) | Self::Closed(_) => None,
        }
    }

    /// How it ended, if it has.
    #[must_use]
    pub const fn closed(&self) -> Option<&Closed> {
        match self {
            Self::Announce(_)
            | Self::Mask(_)
            | Self::Sign(_)
            | Self::Unmask(_)
            | Self::Combine(_) => None,
            Self::Closed(ended) => Some(ended.closed()),
        }
    }

    /// The exact size of the update that may come from this hospital: asked before a byte is
    /// staged (PROTOCOL R-09). An update that was counted may be sent again.
    ///
    /// # Errors
    /// When no update may come from it.
    pub fn expects_update(&self, from: &HospitalId) -> Result<usize, Refusal> {
        match self {
            Self::Announce(phase) => phase.expects_update(from),
            Self::Mask(phase) => phase.expects_update(from),
            Self::Sign(phase) => phase.mask.expects_late_update(from),
            Self::Unmask(phase) => phase.mask.expects_late_update(from),
            Self::Combine(phase) => phase.mask.expects_late_update(from),
            Self::Closed(ended) => ended.expects_update(from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::DeclineReason;
    use crate::rehearsal::{Rehearsal, Seeded, at, site};

    fn counted(play: &Rehearsal, index: usize) -> bool {
        let fact = |output: &Output| matches!(output, Output::Fact(Fact::Contributed { hospital, .. }) if *hospital == site(index));
        play.told.iter().any(fact)
    }

    /// Any input at all, the sensible ones more often.
    fn any_input(seeded: &mut Seeded, play: &Rehearsal, sites: usize) -> Input {
        let index = seeded.below(sites + 1);
        let said = match seeded.below(40) {
            0..=13 => play.ready(),
            14..=27 => play.update(index),
            // Another update, from a site that has sent its own.
            28 if counted(play, index) => play.update(index + 1),
            28 => play.ready(),
            29 => play.declined(DeclineReason::Policy),
            30 => play.declined(DeclineReason::Terms),
            31 => Said::Ready { terms: Digest::new([1; 32]) },
            32 => Said::Update {
                terms: play.terms.digest(),
                digest: Digest::new([0; 32]),
                packed: vec![1; 9],
            },
            33 => return Input::Removed { hospital: site(index) },
            34 => return Input::Resumed,
            35 if seeded.below(6) == 0 => return Input::Stop { reason: StopReason::Paused },
            _ => return Input::Deadline,
        };
        Input::Said { from: site(index), said }
    }

    /// Breaks R-17 if it can be broken: any course of a round, played again from its journal, gives
    /// the same outputs byte for byte; and however it goes, its end is in order.
    #[test]
    fn any_course_of_a_round_can_be_replayed_and_ends_in_order() {
        let (mut released, mut abandoned) = (0, 0);
        for seed in 0..250 {
            let mut seeded = Seeded::new(seed);
            let sites = 1 + seeded.below(6);
            let quorum = u16::try_from(1 + seeded.below(sites)).expect("few sites");
            let mut play = Rehearsal::open(sites, quorum);
            let mut journal = Vec::new();
            for _ in 0..200 {
                let input = any_input(&mut seeded, &play, sites);
                journal.push((play.now, input.clone()));
                // `feed` checks that a refusal changes nothing.
                let _refused = play.feed(input);
                if seeded.below(8) == 0 {
                    play.now = at(play.now.as_millis() + u64::from(seeded.word() % 40_000));
                }
            }
            play.feed(Input::Stop { reason: StopReason::Stopped }).expect("never refused");
            play.check_end();
            match play.release() {
                Some(_) => released += 1,
                None => abandoned += 1,
            }

            let plan = play.charter.plan(play.terms.work, None).expect("valid");
            let (mut again, mut told) = Round::open(at(0), play.terms.clone(), plan);
            for (now, input) in journal {
                told.extend(again.handle(now, input).unwrap_or_default());
            }
            told.extend(
                again
                    .handle(play.now, Input::Stop { reason: StopReason::Stopped })
                    .expect("never refused"),
            );
            assert_eq!(format!("{told:?}"), format!("{:?}", play.told), "seed {seed}");
        }
        assert!(released > 50 && abandoned > 50, "{released} released, {abandoned} abandoned");
    }

    /// A restart after each input of an ordinary round: journal replayed, then told that it resumed.
    #[test]
    fn a_round_survives_a_restart_after_each_input() {
        let script = |play: &Rehearsal| -> Vec<Input> {
            let say = |index, said| Input::Said { from: site(index), said };
            let ready = (0..4).map(|index| say(index, play.ready()));
            let updates = (0..4).map(|index| say(index, play.update(index)));
            ready.chain(updates).collect()
        };
        for restart in 0..8 {
            let mut play = Rehearsal::open(4, 4);
            for (step, input) in script(&play).into_iter().enumerate() {
                play.feed(input).expect("an ordinary course");
                if step == restart {
                    let plan = play.charter.plan(play.terms.work, None).expect("valid");
                    let (mut again, _) = Round::open(at(0), play.terms.clone(), plan);
                    for input in script(&play).into_iter().take(step + 1) {
                        again.handle(at(0), input).expect("it was accepted the first time");
                    }
                    play.round = again;
                    play.feed(Input::Resumed).expect("never refused");
                }
            }
            assert_eq!(play.release().map(|release| release.contributed.len()), Some(4));
            play.check_end();
        }
    }
}
