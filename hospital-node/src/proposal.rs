//! A study as the coordinator tells it, checked here: the digest is computed from the manifest by
//! this program, and the roster must name this site. Nothing that the coordinator says about a
//! study is believed beyond that.

use std::collections::{BTreeMap, BTreeSet};

use aggregation::ids::{Digest, HospitalId, StudyId};
use aggregation::keys::identity::IdentityKey;
use aggregation::privacy::plan::Plan;
use aggregation::study::Study;
use proto::federation::{self, StudyNotice, StudyState};
use proto::limits::MAX_SITES;

use crate::journal::Decision;

/// A study that this site is asked to take part in.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    /// Its digest, as computed here.
    pub id: StudyId,
    /// What it says.
    pub study: Study,
    /// The same, verbatim.
    pub manifest: String,
    /// Who takes part.
    pub sites: BTreeSet<HospitalId>,
    /// The keys that the coordinator names for them: all, or none.
    pub identities: BTreeMap<HospitalId, IdentityKey>,
    /// Where it stands, as the coordinator says.
    pub state: StudyState,
    /// Our decision, as the coordinator knows it.
    pub known: Option<Decision>,
    /// Rounds that led to a release.
    pub rounds_released: u32,
}

/// The coordinator's words about a study do not hold together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum NotAProposal {
    /// No digest of 32 bytes.
    #[error("expected a study digest of 32 bytes, found {0}")]
    Digest(usize),
    /// The manifest is not one that this program understands.
    #[error("study {digest}: the manifest is not understood: {faults}")]
    Manifest {
        /// Which study.
        digest: String,
        /// What is wrong with it.
        faults: String,
    },
    /// The manifest is not the one of the digest.
    #[error("study {said}: the manifest's digest is {found}")]
    OtherManifest {
        /// The digest that was said.
        said: String,
        /// The digest that it has.
        found: String,
    },
    /// The roster cannot be used.
    #[error("study {digest}: {reason}")]
    Roster {
        /// Which study.
        digest: String,
        /// Why.
        reason: String,
    },
}

impl Proposal {
    /// The noise of a private study, as this program works it out; none where it cannot be, which
    /// the charter will say.
    pub(crate) fn noise(&self) -> Option<Plan> {
        self.study.noise_plan(self.sites.len()).ok().flatten()
    }

    /// Checks a notice for the site `me`.
    ///
    /// # Errors
    /// When digest and manifest do not belong together, or the roster is malformed or without us.
    pub(crate) fn check(notice: StudyNotice, me: &HospitalId) -> Result<Self, NotAProposal> {
        let said = Digest::from_slice(&notice.digest)
            .map_err(|_| NotAProposal::Digest(notice.digest.len()))?;
        let study = proto::manifest::parse(&notice.manifest_toml).map_err(|faults| {
            NotAProposal::Manifest { digest: said.short(), faults: faults.to_string() }
        })?;
        let id = study.digest();
        if id.digest() != said {
            return Err(NotAProposal::OtherManifest {
                said: said.to_string(),
                found: id.to_string(),
            });
        }
        let roster = |reason: String| NotAProposal::Roster { digest: said.short(), reason };
        if notice.sites.len() > MAX_SITES {
            return Err(roster(format!(
                "expected at most {MAX_SITES} sites, found {}",
                notice.sites.len()
            )));
        }
        let named = notice
            .sites
            .iter()
            .map(|name| HospitalId::new(name))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| roster(error.to_string()))?;
        let keys = notice.identities.iter().map(|key| proto::masks::identity(key));
        let keys =
            keys.collect::<Result<Vec<_>, _>>().map_err(|error| roster(error.to_string()))?;
        if !keys.is_empty() && keys.len() != named.len() {
            return Err(roster(format!(
                "expected {} identity keys, found {}",
                named.len(),
                keys.len()
            )));
        }
        let identities = named.iter().cloned().zip(keys).collect();
        let sites: BTreeSet<HospitalId> = named.into_iter().collect();
        if !sites.contains(me) {
            return Err(roster(format!("expected {me} among its sites, found it missing")));
        }
        let (state, known) = (notice.state(), decision_from(notice.decision()));
        Ok(Self {
            id,
            study,
            sites,
            identities,
            state,
            known,
            rounds_released: notice.rounds_released,
            manifest: notice.manifest_toml,
        })
    }
}

/// A decision from the wire.
#[must_use]
pub(crate) const fn decision_from(wire: federation::Decision) -> Option<Decision> {
    match wire {
        federation::Decision::Unspecified => None,
        federation::Decision::Approved => Some(Decision::Approved),
        federation::Decision::Refused => Some(Decision::Refused),
        federation::Decision::Withdrawn => Some(Decision::Withdrawn),
    }
}

/// A decision for the wire.
#[must_use]
pub(crate) const fn decision_to(decision: Decision) -> federation::Decision {
    match decision {
        Decision::Approved => federation::Decision::Approved,
        Decision::Refused => federation::Decision::Refused,
        Decision::Withdrawn => federation::Decision::Withdrawn,
    }
}

/// The word for a study's state.
#[must_use]
pub(crate) const fn state_name(state: StudyState) -> &'static str {
    match state {
        StudyState::Unspecified => "unknown",
        StudyState::Proposed => "proposed",
        StudyState::Approved => "approved",
        StudyState::Running => "running",
        StudyState::Paused => "paused",
        StudyState::Completed => "completed",
        StudyState::Failed => "failed",
        StudyState::Stopped => "stopped",
    }
}
