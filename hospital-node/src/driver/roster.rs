//! The identities of the other sites, as the coordinator names them.

use std::collections::{BTreeMap, BTreeSet};

use aggregation::ids::HospitalId;
use aggregation::keys::identity::IdentityKey;

use super::House;
use crate::journal::{JournalError, LocalStudy, News};
use crate::{clock, identity};

/// Who takes part in a study, as the coordinator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// The sites.
    pub(super) sites: BTreeSet<HospitalId>,
    /// Their keys: all, or none.
    pub(super) identities: BTreeMap<HospitalId, IdentityKey>,
}

impl Told {
    /// Whether every site still has the key that it had when this house approved the study. Where
    /// none was kept or none is told, there is nothing to compare.
    pub(super) fn fits(&self, ours: &LocalStudy) -> bool {
        ours.identities.is_empty()
            || self.identities.is_empty()
            || self.identities == ours.identities
    }
}

/// Keeps what is new about the others' identities, and tells the log of it.
pub(super) async fn meet(
    house: &House,
    told: &BTreeMap<HospitalId, IdentityKey>,
) -> Result<(), JournalError> {
    if told.get(&house.me).is_some_and(|key| *key != house.identity.key()) {
        tracing::error!(
            ours = identity::fingerprint(&house.identity.key()),
            "ALARM: the coordinator names another identity key for this site than ours"
        );
    }
    let others = told.iter().filter(|(site, _)| **site != house.me);
    let others = others.map(|(site, key)| (site.clone(), *key)).collect();
    let met = house.journal.meet(&others, house.config.policy.new_sites, clock::now()).await;
    let news = met.inspect_err(|error| tracing::error!(%error, "cannot journal identities"))?;
    for (site, key, news) in news {
        let (site, fingerprint) = (site.as_str(), identity::fingerprint(&key));
        match news {
            News::Pinned => tracing::info!(site, fingerprint, "identity pinned"),
            News::Waits => tracing::warn!(
                site,
                fingerprint,
                "a new site; `hospital-node roster accept` decides on its identity"
            ),
            News::Changed => tracing::error!(
                site,
                fingerprint,
                "ALARM: this site's identity key changed; it is refused until `hospital-node roster accept`"
            ),
        }
    }
    Ok(())
}
