//! What is said to a driver, and what it answers.

use std::sync::Arc;

use aggregation::ids::{Digest, HospitalId, RoundId, SlotId};
use aggregation::keys::identity::Signature;
use aggregation::message::{DeclineReason, Said, SetStatement, Shares};
use aggregation::refusal::Refusal;
use tokio::sync::oneshot;

use crate::store::StoreError;
use crate::store::recorded::Recorded;

/// What is asked of a driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// A site said something.
    Said {
        /// Who.
        from: HospitalId,
        /// What.
        heard: Heard,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Heed, Turned>>,
    },
    /// How many bytes the update of this place and these terms must have.
    Expect {
        /// From whom.
        from: HospitalId,
        /// Of which round.
        round: RoundId,
        /// Of which attempt.
        slot: SlotId,
        /// Under which terms.
        terms: Digest,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<usize, Turned>>,
    },
    /// A site was revoked, or withdrew.
    Removed(HospitalId),
    /// The study's life has changed.
    Nudge,
}

/// What a site can say to a round; an update is named by its digest, since its bytes are staged.
#[derive(Debug, Clone)]
pub(crate) enum Heard {
    /// "I have trained on these terms."
    Ready(Digest),
    /// "I will not take part."
    Declined(Digest, DeclineReason),
    /// "Here is my update."
    Update {
        /// The terms it was made under.
        terms: Digest,
        /// BLAKE3 of its bytes.
        digest: Digest,
    },
    /// "These are in the sum."
    Signed(Digest, Signature<SetStatement>),
    /// "Here are my shares."
    Unmask(Digest, Arc<Shares>),
}

impl Heard {
    pub(super) fn terms(&self) -> Digest {
        match self {
            Self::Ready(terms)
            | Self::Declined(terms, _)
            | Self::Update { terms, .. }
            | Self::Signed(terms, _)
            | Self::Unmask(terms, _) => *terms,
        }
    }

    pub(super) fn recorded(self, from: HospitalId) -> Recorded {
        match self {
            Self::Ready(terms) => Recorded::Ready { from, terms },
            Self::Declined(terms, reason) => Recorded::Declined { from, terms, reason },
            Self::Update { terms, digest } => Recorded::Update { from, terms, digest },
            Self::Signed(terms, signature) => Recorded::Signed { from, terms, signature },
            Self::Unmask(terms, shares) => Recorded::Unmask { from, terms, shares },
        }
    }

    /// What is said to the round, with the bytes that an update was staged with.
    pub(super) fn said(&self, packed: Vec<u8>) -> Said {
        match self {
            Self::Ready(terms) => Said::Ready { terms: *terms },
            Self::Declined(terms, reason) => Said::Declined { terms: *terms, reason: *reason },
            Self::Update { terms, digest } => {
                Said::Update { terms: *terms, digest: *digest, packed }
            }
            Self::Signed(terms, signature) => Said::Signed { terms: *terms, signature: *signature },
            Self::Unmask(terms, shares) => {
                Said::Unmask { terms: *terms, shares: Arc::clone(shares) }
            }
        }
    }
}

/// What came of something that was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heed {
    /// The open round has it, now or since before.
    Kept,
    /// The round that closed last had it; nothing of it is needed any more.
    Repeated,
}

/// Why a driver turned something away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Turned {
    /// The round refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no such round.
    #[error("no round with these terms is open")]
    NoRound,
    /// The terms are known, but they are not of this round or slot.
    #[error("these terms are of round {round} and slot {slot}")]
    OtherPlace {
        /// Their round.
        round: u32,
        /// Their slot.
        slot: u64,
    },
    /// It could not be kept; the same may be said again.
    #[error("the coordinator could not keep it; say it again later")]
    NotKept {
        /// Whether the disk is full or failing.
        disk: bool,
    },
}

impl From<&StoreError> for Turned {
    fn from(fault: &StoreError) -> Self {
        Self::NotKept { disk: matches!(fault, StoreError::Disk(_)) }
    }
}
