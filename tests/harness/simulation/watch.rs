//! The watch: sees everything that leaves anybody, and everything that is released, and says which
//! invariant is broken, after every step.

mod sums;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use aggregation::charter::Charter;
use aggregation::ids::{Digest, HospitalId, SlotId};
use aggregation::keys::identity::Statement as _;
use aggregation::message::{Abandoned, Closed, Outcome, Said, SetStatement, Shares};
use aggregation::round::{Fact, Release};

use crate::simulation::trace::Who;
use sums::Sums;

/// What must hold, whatever happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// Every released sum is the exact sum over the sites that it names.
    ExactSum,
    /// Of each hospital's two secrets of a slot, an honest hospital gives shares of one at most.
    OneKindEach,
    /// The coordinator and those who collude with it never hold enough shares of both secrets.
    OneKindTogether,
    /// Nothing is released, and nothing unmasked, for fewer hospitals than the study's quorum.
    Quorum,
    /// An honest hospital signs one final set in a slot.
    OneSet,
    /// An honest hospital gives shares only for a final set that enough have signed.
    SignedFirst,
    /// An honest hospital sends one update in a slot.
    OneUpdate,
    /// Nothing leaves an honest hospital without its masks.
    Masked,
    /// What is said again is said in the same bytes.
    SameAgain,
    /// There is no alarm unless an adversary caused it.
    NoAlarm,
    /// Nobody honest is accused.
    NoFalseAccusation,
    /// What the coordinator has confirmed is not lost.
    ConfirmedIsKept,
    /// Whoever was invited is named in the end, once.
    EveryoneIsNamed,
    /// Two honest hospitals that have keys have the same keys with each other.
    KeysAgree,
    /// When nothing breaks any more, rounds are released.
    Progress,
    /// What was journaled can be played again.
    JournalReplays,
    /// The machines do not panic.
    NoPanic,
}

impl Invariant {
    /// Every invariant.
    pub const ALL: [Self; 17] = [
        Self::ExactSum,
        Self::OneKindEach,
        Self::OneKindTogether,
        Self::Quorum,
        Self::OneSet,
        Self::SignedFirst,
        Self::OneUpdate,
        Self::Masked,
        Self::SameAgain,
        Self::NoAlarm,
        Self::NoFalseAccusation,
        Self::ConfirmedIsKept,
        Self::EveryoneIsNamed,
        Self::KeysAgree,
        Self::Progress,
        Self::JournalReplays,
        Self::NoPanic,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::ExactSum => "a released sum is exact",
            Self::OneKindEach => "one kind of share of a hospital leaves each honest hospital",
            Self::OneKindTogether => "nobody holds enough shares of both secrets of a hospital",
            Self::Quorum => "nothing is unmasked below the quorum",
            Self::OneSet => "an honest hospital signs one final set in a slot",
            Self::SignedFirst => "shares are given for what enough have signed",
            Self::OneUpdate => "an honest hospital sends one update in a slot",
            Self::Masked => "no update leaves an honest hospital without its masks",
            Self::SameAgain => "what is said again is said in the same bytes",
            Self::NoAlarm => "there is no alarm without an adversary",
            Self::NoFalseAccusation => "nobody honest is accused",
            Self::ConfirmedIsKept => "what was confirmed is kept",
            Self::EveryoneIsNamed => "everyone who was invited is named",
            Self::KeysAgree => "honest hospitals have the same keys with each other",
            Self::Progress => "when nothing breaks any more, rounds are released",
            Self::JournalReplays => "what was journaled can be played again",
            Self::NoPanic => "nothing panics",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub seen: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.seen)
    }
}

/// What one hospital has let out in one slot.
#[derive(Debug, Default)]
struct Left {
    trained: BTreeSet<Digest>,
    update: Option<Digest>,
    set: Option<Digest>,
    shares: Option<Arc<Shares>>,
}

/// Who has given shares of one hospital's secrets in one slot.
#[derive(Debug, Default)]
struct Given {
    own: BTreeSet<HospitalId>,
    recovery: BTreeSet<HospitalId>,
}

/// The watch over one federation.
#[derive(Debug)]
pub(crate) struct Watch {
    /// m and T, of the study that people approved.
    quorum: usize,
    threshold: usize,
    adversaries: BTreeSet<HospitalId>,
    /// Whether the coordinator is an adversary.
    coordinator_honest: bool,
    left: BTreeMap<(SlotId, HospitalId), Left>,
    given: BTreeMap<(SlotId, HospitalId), Given>,
    confirmed: BTreeSet<(SlotId, HospitalId)>,
    /// Honest hospitals that have signed a set.
    signers: BTreeMap<(SlotId, BTreeSet<HospitalId>), BTreeSet<HospitalId>>,
    /// What stands for the keys of an honest hospital with another one.
    roots: BTreeMap<(HospitalId, HospitalId), Digest>,
    sums: Sums,
    violation: Option<Violation>,
}

impl Watch {
    /// A watch that has seen nothing.
    pub(crate) fn new(
        charter: &Charter,
        quorum: usize,
        adversaries: BTreeSet<HospitalId>,
        coordinator_honest: bool,
    ) -> Self {
        let threshold = charter.thresholds().map_or(usize::MAX, |all| all.shares().into());
        Self {
            quorum,
            threshold,
            adversaries,
            coordinator_honest,
            left: BTreeMap::new(),
            given: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            signers: BTreeMap::new(),
            roots: BTreeMap::new(),
            sums: Sums::new(charter),
            violation: None,
        }
    }

    /// What was broken, if anything was.
    pub(crate) const fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Records a violation; the first counts.
    pub(crate) fn broken(&mut self, invariant: Invariant, seen: String) {
        self.violation.get_or_insert(Violation { invariant, seen });
    }

    fn honest(&self, hospital: &HospitalId) -> bool {
        !self.adversaries.contains(hospital)
    }

    fn nobody_is_evil(&self) -> bool {
        self.coordinator_honest && self.adversaries.is_empty()
    }

    /// A hospital's trainer has made this update.
    pub(crate) fn trained(&mut self, of: &HospitalId, slot: SlotId, packed: &[u8]) {
        let left = self.left.entry((slot, of.clone())).or_default();
        left.trained.insert(Digest::blake3(packed));
    }

    /// Under its masks this update adds this to a sum.
    pub(crate) fn adds(
        &mut self,
        of: &HospitalId,
        slot: SlotId,
        sent: Digest,
        plain: Arc<Vec<u8>>,
    ) {
        self.sums.adds(of, slot, sent, plain);
    }

    /// What was written down of an update.
    pub(crate) fn added_by(
        &self,
        of: &HospitalId,
        slot: SlotId,
        sent: Digest,
    ) -> Option<Arc<Vec<u8>>> {
        self.sums.added_by(of, slot, sent)
    }

    /// An honest hospital has agreed on its keys: what stands for those with each other hospital.
    pub(crate) fn agreed(&mut self, hospital: &HospitalId, with: BTreeMap<HospitalId, Digest>) {
        for (other, root) in with {
            let theirs = self.roots.get(&(other.clone(), hospital.clone()));
            if theirs.is_some_and(|theirs| *theirs != root) {
                let seen = format!("{hospital} and {other} have other keys with each other");
                self.broken(Invariant::KeysAgree, seen);
            }
            self.roots.insert((hospital.clone(), other), root);
        }
    }

    /// An honest hospital has signed a final set.
    pub(crate) fn signed(&mut self, by: &HospitalId, slot: SlotId, set: &SetStatement) {
        let signers = self.signers.entry((slot, set.members.clone())).or_default();
        signers.insert(by.clone());
        let statement = set.digest();
        let left = self.left.entry((slot, by.clone())).or_default();
        let first = *left.set.get_or_insert(statement);
        if first != statement {
            let seen =
                format!("{by} signed {} and {} in slot {slot}", first.short(), statement.short());
            self.broken(Invariant::OneSet, seen);
        }
    }

    /// Something leaves an honest hospital.
    pub(crate) fn leaves(&mut self, from: &HospitalId, slot: SlotId, said: &Said) {
        match said {
            Said::Ready { .. } | Said::Declined { .. } | Said::Signed { .. } => {}
            Said::Update { packed, .. } => self.update_leaves(from, slot, Digest::blake3(packed)),
            Said::Unmask { shares, .. } => self.shares_leave(from, slot, shares),
        }
    }

    fn update_leaves(&mut self, from: &HospitalId, slot: SlotId, digest: Digest) {
        let left = self.left.entry((slot, from.clone())).or_default();
        if left.trained.contains(&digest) {
            let seen = format!("{from} sent what its trainer made in slot {slot}");
            return self.broken(Invariant::Masked, seen);
        }
        let first = *left.update.get_or_insert(digest);
        if first != digest {
            let seen =
                format!("{from} sent {} and {} in slot {slot}", first.short(), digest.short());
            self.broken(Invariant::OneUpdate, seen);
        }
    }

    fn shares_leave(&mut self, from: &HospitalId, slot: SlotId, shares: &Arc<Shares>) {
        let of_kinds = [(&shares.own, true), (&shares.recovery, false)];
        for (of, own) in of_kinds.iter().flat_map(|(of, own)| of.keys().map(|id| (id, *own))) {
            self.share_leaves(from, slot, of, own);
        }
        let left = self.left.entry((slot, from.clone())).or_default();
        if left.shares.get_or_insert_with(|| Arc::clone(shares)) != shares {
            let seen = format!("{from} gave shares twice in slot {slot}, and not the same");
            self.broken(Invariant::SameAgain, seen);
        }
        // Everyone is everyone's neighbour here, and a member gives a share of its own secret too:
        // these are the whole set.
        let set: BTreeSet<HospitalId> = shares.own.keys().cloned().collect();
        let members = set.len();
        let signers = self.signers.get(&(slot, set)).map_or(0, BTreeSet::len);
        if signers + self.adversaries.len() < self.threshold {
            let seen = format!("{from} gave shares for a set that {signers} signed in slot {slot}");
            self.broken(Invariant::SignedFirst, seen);
        }
        if members < self.quorum {
            let seen = format!("{from} gave shares for a set of {members} in slot {slot}");
            self.broken(Invariant::Quorum, seen);
        }
    }

    fn share_leaves(&mut self, from: &HospitalId, slot: SlotId, of: &HospitalId, own: bool) {
        let given = self.given.entry((slot, of.clone())).or_default();
        let (this, other) =
            if own { (&mut given.own, &given.recovery) } else { (&mut given.recovery, &given.own) };
        this.insert(from.clone());
        if other.contains(from) {
            let seen = format!("{from} gave both kinds of {of} in slot {slot}");
            return self.broken(Invariant::OneKindEach, seen);
        }
        if self.adversaries.contains(of) || this.is_empty() || other.is_empty() {
            return;
        }
        // Whoever colludes has both to give.
        let colluding = self.adversaries.len();
        let (own, recovery) = (given.own.len() + colluding, given.recovery.len() + colluding);
        if own >= self.threshold && recovery >= self.threshold {
            let needed = self.threshold;
            let seen = format!(
                "{own} shares of {of}'s own and {recovery} of its recovery secret in slot {slot}; \
                 {needed} open it"
            );
            self.broken(Invariant::OneKindTogether, seen);
        }
    }

    /// The coordinator has confirmed an update to a hospital.
    pub(crate) fn confirmed(&mut self, to: &HospitalId, slot: SlotId) {
        self.confirmed.insert((slot, to.clone()));
    }

    /// Something worth recording, at an honest coordinator.
    pub(crate) fn fact(&mut self, slot: SlotId, fact: &Fact) {
        match fact {
            Fact::Contributed { hospital, digest, .. } => {
                self.sums.contributed(slot, hospital, *digest);
            }
            Fact::Alarm { reason } => {
                let seen = reason.clone();
                self.broken(Invariant::NoAlarm, seen);
            }
            Fact::WrongShare { hospital, of } => {
                if self.honest(hospital) && self.honest(of) {
                    let seen = format!("{hospital} is said to have given a wrong share of {of}");
                    self.broken(Invariant::NoFalseAccusation, seen);
                }
            }
            Fact::Announced { .. }
            | Fact::Ready { .. }
            | Fact::Declined { .. }
            | Fact::Frozen { .. }
            | Fact::Fixed { .. }
            | Fact::Signed { .. }
            | Fact::Unmasked { .. }
            | Fact::Recovered { .. }
            | Fact::DroppedOut { .. }
            | Fact::Released { .. }
            | Fact::Abandoned { .. } => {}
        }
    }

    /// A sum is let out by an honest coordinator.
    pub(crate) fn released(&mut self, release: &Release) {
        let found = release.contributed.len();
        if found < self.quorum {
            let seen = format!("{found} in a released sum; the quorum is {}", self.quorum);
            self.broken(Invariant::Quorum, seen);
        }
        if let Err(seen) = self.sums.check(release) {
            self.broken(Invariant::ExactSum, seen);
        }
    }

    /// An attempt has ended at an honest coordinator.
    pub(crate) fn closed(&mut self, invited: &BTreeSet<HospitalId>, closed: &Closed) {
        let named: BTreeSet<_> = closed.contributed.iter().chain(closed.dropped.keys()).collect();
        let twice = closed.contributed.iter().any(|id| closed.dropped.contains_key(id));
        if twice || !named.iter().copied().eq(invited) {
            let seen = format!("{} of {} are named", named.len(), invited.len());
            self.broken(Invariant::EveryoneIsNamed, seen);
        }
        let lost = |id: &&HospitalId| self.confirmed.contains(&(closed.slot, (*id).clone()));
        if let Some(lost) = closed.dropped.keys().find(lost) {
            let seen = format!("the update of {lost} in slot {} was confirmed", closed.slot);
            self.broken(Invariant::ConfirmedIsKept, seen);
        }
        let accused = match &closed.outcome {
            Outcome::Abandoned(Abandoned::Escrow { hospital }) => self.honest(hospital),
            Outcome::Abandoned(
                Abandoned::Unrecoverable { .. } | Abandoned::Implausible(_) | Abandoned::NoExamples,
            ) => self.nobody_is_evil(),
            Outcome::Abandoned(
                Abandoned::TooFewInvited { .. }
                | Abandoned::TooFewReady { .. }
                | Abandoned::TooFewUpdates { .. }
                | Abandoned::TooFewSignatures { .. }
                | Abandoned::TooFewShares { .. }
                | Abandoned::Stopped(_),
            )
            | Outcome::Released => false,
        };
        if accused && let Outcome::Abandoned(why) = &closed.outcome {
            self.broken(Invariant::NoFalseAccusation, why.to_string());
        }
    }

    /// An alarm was raised.
    pub(crate) fn alarmed(&mut self, who: Who, why: fmt::Arguments<'_>) {
        if self.nobody_is_evil() {
            self.broken(Invariant::NoAlarm, format!("{who}: {why}"));
        }
    }
}
