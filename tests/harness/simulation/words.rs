//! What travels between a hospital and the coordinator of a simulated federation, as the wire
//! carries it: notices one way, calls the other, and the calls' answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use aggregation::ids::{HospitalId, SlotId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::IdentityKey;
use aggregation::message::{ClosedNotice, FinalSet, Roster, Said, SignedSet, Terms};
use aggregation::setup::{SignedAnnounce, SignedBatch};

/// How far the keys of the study are. Told again whenever it changes, and to whoever connects.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// Announcements so far.
    pub(crate) announced: Arc<BTreeMap<HospitalId, SignedAnnounce>>,
    /// Nonces so far.
    pub(crate) nonces: Arc<BTreeMap<HospitalId, GraphNonce>>,
    /// The number of the batch that is due.
    pub(crate) due: u64,
    /// Whose batch of that number can be fetched.
    pub(crate) owners: BTreeSet<HospitalId>,
    /// What the coordinator says are the identities. A hospital has pinned its own.
    pub(crate) identities: Option<Arc<BTreeMap<HospitalId, IdentityKey>>>,
}

/// From the coordinator, over the stream that the hospital has opened.
#[derive(Debug, Clone)]
pub(crate) enum Notice {
    Keys(Keys),
    Offer(Terms),
    Freeze(Roster),
    Fix(FinalSet),
    Unmask(SignedSet),
    Close(ClosedNotice),
}

/// For the trace.
impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys(keys) => write!(
                f,
                "keys: {} announced, {} nonces, {} batches of number {}",
                keys.announced.len(),
                keys.nonces.len(),
                keys.owners.len(),
                keys.due
            ),
            Self::Offer(terms) => write!(
                f,
                "offer: round {}, slot {}, {} invited, model {}",
                terms.round,
                terms.slot,
                terms.invited.len(),
                terms.model.short()
            ),
            Self::Freeze(roster) => {
                write!(f, "roster: slot {}, {} members", roster.slot, roster.members.len())
            }
            Self::Fix(set) => {
                write!(f, "final set: slot {}, {} in it", set.slot, set.members.len())
            }
            Self::Unmask(signed) => write!(
                f,
                "signed set: slot {}, {} in it, {} signatures",
                signed.set.slot,
                signed.set.members.len(),
                signed.signatures.len()
            ),
            Self::Close(closed) => write!(
                f,
                "close: slot {}, {} in the sum, {} missing {}",
                closed.slot,
                closed.contributed.len(),
                closed.dropped.len(),
                closed.reason
            ),
        }
    }
}

/// From a hospital.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    /// It has connected, or shows that it still is: asks for the present state.
    Hello,
    /// Something in a round.
    Said {
        slot: SlotId,
        said: Said,
    },
    Announce(SignedAnnounce),
    Nonce(GraphNonce),
    Batch {
        number: u64,
        batch: Arc<SignedBatch>,
    },
    Opened {
        number: u64,
        owners: BTreeSet<HospitalId>,
    },
    Fetch {
        number: u64,
        owner: HospitalId,
    },
}

/// For the trace.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello => f.write_str("hello"),
            Self::Said { slot, said } => write!(f, "{} in slot {slot}", said.name()),
            Self::Announce(_) => f.write_str("its announcement"),
            Self::Nonce(_) => f.write_str("its nonce"),
            Self::Batch { number, .. } => write!(f, "its batch {number}"),
            Self::Opened { number, owners } => {
                write!(f, "that it has opened {} batches of number {number}", owners.len())
            }
            Self::Fetch { number, owner } => write!(f, "that it wants batch {number} of {owner}"),
        }
    }
}

/// The kind of something that was said in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Word {
    Ready,
    Decline,
    Update,
    Signature,
    Shares,
}

impl Word {
    pub(crate) const fn of(said: &Said) -> Self {
        match said {
            Said::Ready { .. } => Self::Ready,
            Said::Declined { .. } => Self::Decline,
            Said::Update { .. } => Self::Update,
            Said::Signed { .. } => Self::Signature,
            Said::Unmask { .. } => Self::Shares,
        }
    }
}

/// What a call comes to.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// It is kept, or was before.
    Kept { slot: SlotId, word: Word },
    /// It is not accepted.
    Refused { slot: SlotId, word: Word },
    /// Whose batches this hospital has opened is kept.
    Noted { number: u64, owners: BTreeSet<HospitalId> },
    /// The batch that was asked for.
    Batch { number: u64, owner: HospitalId, batch: Arc<SignedBatch> },
}
