//! Everything that one party can say to another in a round.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::checkpoint::LogHead;
use crate::context::ContextDigest;
use crate::ids::{Digest, HospitalId, RoundId, SlotId, StudyId};
use crate::keys::identity::{Signature, Statement};
use crate::masking::sharing::Share;
use crate::privacy::ledger::Record;
use crate::transcript::Transcript;
use crate::units::Timestamp;

/// What a round asks of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Train on the offered model.
    Train,
    /// Score the offered model, then train on it.
    TrainAndEvaluate,
    /// Score the offered model.
    Evaluate,
}

impl Work {
    /// Whether an update of the model comes of it.
    #[must_use]
    pub const fn trains(self) -> bool {
        match self {
            Self::Train | Self::TrainAndEvaluate => true,
            Self::Evaluate => false,
        }
    }

    /// Whether metrics come of it.
    #[must_use]
    pub const fn evaluates(self) -> bool {
        match self {
            Self::TrainAndEvaluate | Self::Evaluate => true,
            Self::Train => false,
        }
    }

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::TrainAndEvaluate => "train-and-evaluate",
            Self::Evaluate => "evaluate",
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a round announces. Everything else a site takes from the study that it approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The study.
    pub study: StudyId,
    /// The round.
    pub round: RoundId,
    /// This attempt at it.
    pub slot: SlotId,
    /// What is to be done.
    pub work: Work,
    /// The model to do it on.
    pub model: Digest,
    /// The sites that are asked.
    pub invited: BTreeSet<HospitalId>,
    /// Until when they should be ready.
    pub ready_by: Timestamp,
    /// The log as it was when the round was announced (PROTOCOL R-25).
    pub log: LogHead,
}

impl Terms {
    /// Stands for all of the terms: whoever names it means this study, round, attempt, work,
    /// model, cohort, deadline and log (PROTOCOL R-02).
    #[must_use]
    pub fn digest(&self) -> Digest {
        let Self { study, round, slot, work, model, invited, ready_by, log } = self;
        let mut transcript = Transcript::new("consilium/terms/2");
        transcript
            .bytes(study.digest().as_bytes())
            .u32(round.get())
            .u64(slot.get())
            .text(work.name())
            .bytes(model.as_bytes())
            .list(invited.len());
        for hospital in invited {
            transcript.text(hospital.as_str());
        }
        transcript.u64(ready_by.as_millis()).bytes(log.digest().as_bytes()).finish()
    }
}

/// What a hospital can say about terms that it was offered.
#[derive(Clone, PartialEq, Eq)]
pub enum Said {
    /// The work is done and the update can be sent.
    Ready {
        /// The terms it was done under.
        terms: Digest,
    },
    /// There will be no update.
    Declined {
        /// The terms that are declined.
        terms: Digest,
        /// Why, in words that say nothing of the data.
        reason: DeclineReason,
    },
    /// The update, complete.
    Update {
        /// The terms it was made under.
        terms: Digest,
        /// BLAKE3 of the packed lanes.
        digest: Digest,
        /// The packed lanes.
        packed: Vec<u8>,
    },
    /// A signature of the final set.
    Signed {
        /// The terms of the round.
        terms: Digest,
        /// Of the [`FinalSet`] with the round's context.
        signature: Signature<SetStatement>,
    },
    /// The shares that take the masks out of the sum.
    Unmask {
        /// The terms of the round.
        terms: Digest,
        /// The shares. Secrets: they are not copied about.
        shares: Arc<Shares>,
    },
}

impl Said {
    /// The terms that it is about.
    #[must_use]
    pub const fn terms(&self) -> Digest {
        match self {
            Self::Ready { terms }
            | Self::Declined { terms, .. }
            | Self::Update { terms, .. }
            | Self::Signed { terms, .. }
            | Self::Unmask { terms, .. } => *terms,
        }
    }

    /// What it is called in a refusal.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ready { .. } => "ready",
            Self::Declined { .. } => "a decline",
            Self::Update { .. } => "an update",
            Self::Signed { .. } => "a signature",
            Self::Unmask { .. } => "shares",
        }
    }
}

/// Prints no lane of an update: what is said may end in a log.
impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { terms } => f.debug_struct("Ready").field("terms", terms).finish(),
            Self::Declined { terms, reason } => {
                f.debug_struct("Declined").field("terms", terms).field("reason", reason).finish()
            }
            Self::Update { terms, digest, packed } => f
                .debug_struct("Update")
                .field("terms", terms)
                .field("digest", digest)
                .field("bytes", &packed.len())
                .finish(),
            Self::Signed { terms, signature } => f
                .debug_struct("Signed")
                .field("terms", terms)
                .field("signature", signature)
                .finish(),
            Self::Unmask { terms, shares } => {
                f.debug_struct("Unmask").field("terms", terms).field("shares", shares).finish()
            }
        }
    }
}

/// Why a hospital takes no part in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeclineReason {
    /// It has not approved the study, or has withdrawn.
    NotApproved,
    /// Its own caps forbid it.
    Policy,
    /// The hour is not one at which it trains.
    OutsideHours,
    /// The terms do not meet the study that it approved.
    Terms,
    /// Its trainer could not do the work, or was not left to.
    Trainer,
    /// It has no keys for this slot.
    NoKeys,
    /// The round would cross a cap of its own on what patients' privacy may be spent.
    Budget,
    /// Its privacy ledger cannot be used: it is damaged, or an old copy.
    Ledger,
    /// The log is not the one that it has seen before.
    Log,
}

impl DeclineReason {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::NotApproved,
        Self::Policy,
        Self::OutsideHours,
        Self::Terms,
        Self::Trainer,
        Self::NoKeys,
        Self::Budget,
        Self::Ledger,
        Self::Log,
    ];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotApproved => "not approved",
            Self::Policy => "against its policy",
            Self::OutsideHours => "outside its hours",
            Self::Terms => "the terms do not meet the study",
            Self::Trainer => "its trainer did not finish: it failed, or its node was stopped",
            Self::NoKeys => "it has no keys for this slot",
            Self::Budget => "it would cross a cap on its patients' privacy",
            Self::Ledger => "its privacy ledger cannot be used",
            Self::Log => "the log is not the one that it has seen before",
        }
    }
}

impl fmt::Display for DeclineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The frozen list of sites whose updates are awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// The study.
    pub study: StudyId,
    /// The round.
    pub round: RoundId,
    /// The attempt.
    pub slot: SlotId,
    /// The terms that every member was ready under.
    pub terms: Digest,
    /// The members.
    pub members: BTreeSet<HospitalId>,
    /// Until when their updates should be complete.
    pub upload_by: Timestamp,
}

/// The members whose updates are complete, fixed once per slot. Whoever is named signs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalSet {
    /// The study.
    pub study: StudyId,
    /// The round.
    pub round: RoundId,
    /// The attempt.
    pub slot: SlotId,
    /// The terms of the round.
    pub terms: Digest,
    /// The members whose updates are in the sum.
    pub members: BTreeSet<HospitalId>,
}

/// What a signature of a final set says: in this context, these and no others (PROTOCOL R-22).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetStatement {
    /// What the masks of the round are bound to.
    pub context: ContextDigest,
    /// The members whose updates are in the sum.
    pub members: BTreeSet<HospitalId>,
}

impl Statement for SetStatement {
    const LABEL: &'static str = "consilium/final-set/1";

    fn write(&self, transcript: &mut Transcript) {
        let Self { context, members } = self;
        transcript.bytes(context.digest().as_bytes()).list(members.len());
        for hospital in members {
            transcript.text(hospital.as_str());
        }
    }
}

/// A final set with enough signatures that no other can have as many: asks for shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedSet {
    /// The set.
    pub set: FinalSet,
    /// Its signatures.
    pub signatures: BTreeMap<HospitalId, Signature<SetStatement>>,
}

/// What one hospital gives to take the masks out: for each neighbour on the roster one share, and
/// for itself if it is in the sum. Never both of one hospital (PROTOCOL M-15).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Of the self secret, for hospitals that are in the sum.
    pub own: BTreeMap<HospitalId, Share>,
    /// Of the recovery secret, for members of the roster that are not.
    pub recovery: BTreeMap<HospitalId, Share>,
}

/// "This is the end of my ledger": a charge, signed so that the house knows its own word again when
/// it is told of it later (PROTOCOL D-28).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerStatement {
    /// Whose ledger.
    pub site: HospitalId,
    /// Its last record.
    pub record: Record,
}

impl Statement for LedgerStatement {
    const LABEL: &'static str = "consilium/ledger-head/1";

    fn write(&self, transcript: &mut Transcript) {
        let Self { site, record } = self;
        transcript.text(site.as_str()).u64(record.seq()).bytes(record.hash().as_bytes());
    }
}

/// How a round ended: for the coordinator's own books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The study.
    pub study: StudyId,
    /// The round.
    pub round: RoundId,
    /// The attempt.
    pub slot: SlotId,
    /// How it ended.
    pub outcome: Outcome,
    /// The sites whose updates were complete. They are in the sum if there is one.
    pub contributed: BTreeSet<HospitalId>,
    /// Every other site that was invited, with the reason.
    pub dropped: BTreeMap<HospitalId, Dropped>,
}

impl Closed {
    /// What the sites are told of it.
    #[must_use]
    pub fn notice(&self) -> ClosedNotice {
        ClosedNotice {
            study: self.study,
            round: self.round,
            slot: self.slot,
            released: self.outcome == Outcome::Released,
            reason: match &self.outcome {
                Outcome::Released => String::new(),
                Outcome::Abandoned(why) => why.to_string(),
            },
            contributed: self.contributed.clone(),
            dropped: self.dropped.keys().cloned().collect(),
        }
    }
}

/// How a round ended, as sites are told: who is missing, but not why. That is the operator's affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedNotice {
    /// The study.
    pub study: StudyId,
    /// The round.
    pub round: RoundId,
    /// The attempt.
    pub slot: SlotId,
    /// Whether there was a release; otherwise the round was abandoned.
    pub released: bool,
    /// Why it was abandoned; empty if it was not.
    pub reason: String,
    /// The sites whose updates were complete.
    pub contributed: BTreeSet<HospitalId>,
    /// Every other site that was invited.
    pub dropped: BTreeSet<HospitalId>,
}

/// The two ends of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The sum was released.
    Released,
    /// Nothing was.
    Abandoned(Abandoned),
}

/// Why a round released nothing. An ordinary event: the round is tried again in a new slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Abandoned {
    /// Too few sites were invited.
    #[error("{invited} sites were invited; the quorum is {quorum}")]
    TooFewInvited {
        /// Sites invited.
        invited: usize,
        /// Fewest that are needed.
        quorum: u16,
    },
    /// Too few sites were ready.
    #[error("{ready} sites were ready; the quorum is {quorum}")]
    TooFewReady {
        /// Sites ready.
        ready: usize,
        /// Fewest that are needed.
        quorum: u16,
    },
    /// Too few updates were complete.
    #[error("{contributed} updates were complete; the quorum is {quorum}")]
    TooFewUpdates {
        /// Complete updates.
        contributed: usize,
        /// Fewest that are needed.
        quorum: u16,
    },
    /// Too few members signed the final set.
    #[error("{signed} sites signed the final set; {needed} have to")]
    TooFewSignatures {
        /// Valid signatures.
        signed: usize,
        /// Fewest that are needed.
        needed: u16,
    },
    /// Too few members gave their shares.
    #[error("{answered} sites gave their shares; the masks need more")]
    TooFewShares {
        /// Sites that answered.
        answered: usize,
    },
    /// The shares of a hospital's secret do not give what it committed to, in any combination.
    #[error("the secret of {hospital} cannot be recovered from the shares that were given")]
    Unrecoverable {
        /// Whose secret.
        hospital: HospitalId,
    },
    /// What a hospital that dropped out left behind does not open: its own fault.
    #[error("the escrow that {hospital} left does not open")]
    Escrow {
        /// Whose.
        hospital: HospitalId,
    },
    /// The sum cannot have come from honest sites.
    #[error("the sum is implausible: {0}")]
    Implausible(crate::vector::Implausible),
    /// No site had anything to train on.
    #[error("the sites had no training examples")]
    NoExamples,
    /// The coordinator ended it.
    #[error("{0}")]
    Stopped(StopReason),
}

impl Abandoned {
    /// A short fixed word for counters and codes.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TooFewInvited { .. } | Self::TooFewReady { .. } | Self::TooFewUpdates { .. } => {
                "below-quorum"
            }
            Self::TooFewSignatures { .. } | Self::TooFewShares { .. } => "not-unmasked",
            Self::Unrecoverable { .. } | Self::Escrow { .. } => "unrecoverable",
            Self::Implausible(_) => "implausible",
            Self::NoExamples => "no-examples",
            Self::Stopped(_) => "stopped",
        }
    }
}

/// Why the coordinator ended a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopReason {
    /// The study was paused.
    Paused,
    /// The study was stopped.
    Stopped,
    /// What was staged did not survive a restart.
    Interrupted,
    /// The coordinator's storage failed.
    Storage,
    /// Something happened that was believed impossible.
    Alarm,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paused => "the study was paused",
            Self::Stopped => "the study was stopped",
            Self::Interrupted => "the coordinator was interrupted",
            Self::Storage => "the coordinator's storage failed",
            Self::Alarm => "something happened that was believed impossible",
        })
    }
}

/// Why an invited site is not among those that contributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// It said nothing in time.
    NeverReady,
    /// It declined.
    Declined(DeclineReason),
    /// It was ready, and the round ended before anybody was asked for an update.
    ReadyForNothing,
    /// It was ready, but its update was not complete in time.
    ReadyButNoUpdate,
    /// It was revoked, or it withdrew.
    Revoked,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverReady => f.write_str("was not ready in time"),
            Self::Declined(reason) => write!(f, "declined: {reason}"),
            Self::ReadyForNothing => f.write_str("was ready, and the round went no further"),
            Self::ReadyButNoUpdate => {
                f.write_str("was ready, but its update did not arrive in time")
            }
            Self::Revoked => f.write_str("was revoked or withdrew"),
        }
    }
}

#[cfg(test)]
mod tests;
