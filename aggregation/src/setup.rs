//! Before the first round: every hospital gets its keys, and leaves with the others what ends a
//! round without it (PROTOCOL M-27).
//!
//! Four things are said, each once, in this order: each hospital *announces* its key; when all have,
//! each *reveals* its nonce for the graph; when all have, each makes its *batch* for the first slots;
//! and each *opens* the others' batches as they come. Who is away is waited for; nobody has to be
//! there at the same time as anybody else. Later batches are made and opened in the same way,
//! without announcing anything again.
//!
//! [`gathering`] is the coordinator's side, which keeps and passes on what it checks and could not
//! use; [`keyring`] is the hospital's.

pub mod gathering;
pub mod keyring;

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::HospitalId;
use crate::keys::announce::{AnnounceRefused, KeyAnnounce};
use crate::keys::graph::GraphRefused;
use crate::keys::identity::Signature;
use crate::keys::roll::Roll;
use crate::keys::slots::{PrekeyBatch, SlotRefused};

/// An announcement as it is passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedAnnounce {
    /// What is announced.
    pub announce: KeyAnnounce,
    /// By its hospital's identity.
    pub signature: Signature<KeyAnnounce>,
}

/// A batch as it is passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBatch {
    /// The slots of one hospital.
    pub batch: PrekeyBatch,
    /// By that hospital's identity.
    pub signature: Signature<PrekeyBatch>,
}

/// Why something that was said in the setup is not accepted. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupRefused {
    /// It is from, or about, a hospital that is not on the roll.
    #[error("{hospital} is not on the roll of this study")]
    Stranger {
        /// Which.
        hospital: HospitalId,
    },
    /// It was said for another hospital than the one that said it.
    #[error("{from} spoke for {hospital}")]
    ForAnother {
        /// Who spoke.
        from: HospitalId,
        /// For whom.
        hospital: HospitalId,
    },
    /// It is not what the same hospital said before.
    #[error("{what} of {hospital} is not what it was the first time")]
    Changed {
        /// Which hospital.
        hospital: HospitalId,
        /// What.
        what: &'static str,
    },
    /// Its time has not come.
    #[error("{what} came before all hospitals had {before}")]
    Early {
        /// What came.
        what: &'static str,
        /// What comes first.
        before: &'static str,
    },
    /// One is missing.
    #[error("{what} of {hospital} is missing")]
    Missing {
        /// Whose.
        hospital: HospitalId,
        /// What.
        what: &'static str,
    },
    /// A batch that is not due.
    #[error("batch {found} was asked for; the last that can be due is {last}")]
    NotDue {
        /// The batch.
        found: u64,
        /// The last that may be made.
        last: u64,
    },
    /// An announcement that does not hold.
    #[error(transparent)]
    Announce(#[from] AnnounceRefused),
    /// Nonces that do not give a graph.
    #[error(transparent)]
    Graph(#[from] GraphRefused),
    /// A batch or a share that does not hold.
    #[error(transparent)]
    Slot(#[from] SlotRefused),
}

impl SetupRefused {
    /// The rule that was broken.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::Stranger { .. } => "M-26",
            Self::ForAnother { .. }
            | Self::Changed { .. }
            | Self::Early { .. }
            | Self::Missing { .. }
            | Self::NotDue { .. } => "M-27",
            Self::Announce(cause) => cause.rule(),
            Self::Graph(cause) => cause.rule(),
            Self::Slot(cause) => cause.rule(),
        }
    }
}

/// Announcements of exactly the hospitals on the roll, each under its pinned identity.
fn check_announced(
    roll: &Roll,
    announced: &BTreeMap<HospitalId, SignedAnnounce>,
) -> Result<BTreeMap<HospitalId, KeyAnnounce>, SetupRefused> {
    let strangers: BTreeSet<_> =
        announced.keys().filter(|id| !roll.identities().contains_key(*id)).collect();
    if let Some(stranger) = strangers.first() {
        return Err(SetupRefused::Stranger { hospital: (*stranger).clone() });
    }
    let mut checked = BTreeMap::new();
    for hospital in roll.identities().keys() {
        let said = announced.get(hospital).ok_or_else(|| SetupRefused::Missing {
            hospital: hospital.clone(),
            what: "the announcement",
        })?;
        check_announce(roll, hospital, said)?;
        checked.insert(hospital.clone(), said.announce.clone());
    }
    Ok(checked)
}

/// One announcement, of this hospital and under its pinned identity (PROTOCOL M-08).
fn check_announce(
    roll: &Roll,
    hospital: &HospitalId,
    said: &SignedAnnounce,
) -> Result<(), SetupRefused> {
    let pinned = roll
        .identities()
        .get(hospital)
        .ok_or_else(|| SetupRefused::Stranger { hospital: hospital.clone() })?;
    if said.announce.hospital != *hospital {
        let (from, hospital) = (hospital.clone(), said.announce.hospital.clone());
        return Err(SetupRefused::ForAnother { from, hospital });
    }
    said.announce.check(roll.study(), roll.digest(), pinned, &said.signature)?;
    Ok(())
}
