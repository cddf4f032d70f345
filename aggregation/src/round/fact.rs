//! What a round tells of itself.

use std::collections::BTreeSet;

use crate::ids::{Digest, HospitalId};
use crate::message::{Abandoned, DeclineReason, Dropped};

/// Something worth recording: for the log, the operator and the trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The round was offered.
    Announced {
        /// The terms.
        terms: Digest,
        /// The sites that are asked.
        invited: BTreeSet<HospitalId>,
    },
    /// A hospital is ready.
    Ready {
        /// Which.
        hospital: HospitalId,
    },
    /// A hospital declined.
    Declined {
        /// Which.
        hospital: HospitalId,
        /// Why.
        reason: DeclineReason,
    },
    /// The roster was frozen.
    Frozen {
        /// Its members.
        members: BTreeSet<HospitalId>,
    },
    /// A hospital's update is complete and in the sum.
    Contributed {
        /// Which.
        hospital: HospitalId,
        /// BLAKE3 of the update.
        digest: Digest,
        /// Its size.
        bytes: usize,
    },
    /// The final set is fixed.
    Fixed {
        /// Its members.
        members: BTreeSet<HospitalId>,
    },
    /// A hospital signed the final set.
    Signed {
        /// Which.
        hospital: HospitalId,
    },
    /// A hospital gave its shares.
    Unmasked {
        /// Which.
        hospital: HospitalId,
    },
    /// A hospital gave a share that is not the one it was given.
    WrongShare {
        /// Who gave it.
        hospital: HospitalId,
        /// Of whose secret.
        of: HospitalId,
    },
    /// All secrets are recovered: the masks of these come out, and the pair masks of those who
    /// dropped out.
    Recovered {
        /// Members that dropped out after the roster was frozen.
        dropped: BTreeSet<HospitalId>,
    },
    /// A hospital that was invited is not in the sum.
    DroppedOut {
        /// Which.
        hospital: HospitalId,
        /// Why.
        why: Dropped,
    },
    /// The sum was released.
    Released {
        /// The sites that are in it.
        contributed: BTreeSet<HospitalId>,
        /// BLAKE3 of the sum, packed as an update is.
        sum: Digest,
    },
    /// Nothing was released.
    Abandoned {
        /// Why.
        why: Abandoned,
    },
    /// Something that was believed impossible.
    Alarm {
        /// What, and why it was believed impossible.
        reason: String,
    },
}

impl Fact {
    /// A short fixed word for counters and log leaves.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Announced { .. } => "announced",
            Self::Ready { .. } => "ready",
            Self::Declined { .. } => "declined",
            Self::Frozen { .. } => "frozen",
            Self::Contributed { .. } => "contributed",
            Self::Fixed { .. } => "fixed",
            Self::Signed { .. } => "signed",
            Self::Unmasked { .. } => "unmasked",
            Self::WrongShare { .. } => "wrong-share",
            Self::Recovered { .. } => "recovered",
            Self::DroppedOut { .. } => "dropped-out",
            Self::Released { .. } => "released",
            Self::Abandoned { .. } => "abandoned",
            Self::Alarm { .. } => "alarm",
        }
    }

    /// The hospital that the fact is about, if it is about one.
    #[must_use]
    pub const fn hospital(&self) -> Option<&HospitalId> {
        match self {
            Self::Ready { hospital }
            | Self::Declined { hospital, .. }
            | Self::Contributed { hospital, .. }
            | Self::Signed { hospital }
            | Self::Unmasked { hospital }
            | Self::WrongShare { hospital, .. }
            | Self::DroppedOut { hospital, .. } => Some(hospital),
            Self::Announced { .. }
            | Self::Frozen { .. }
            | Self::Fixed { .. }
            | Self::Recovered { .. }
            | Self::Released { .. }
            | Self::Abandoned { .. }
            | Self::Alarm { .. } => None,
        }
    }
}
