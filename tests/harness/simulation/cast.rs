//! Who takes part: the study, the hospitals and their identities, the same for all federations of
//! one size.

use std::collections::BTreeMap;

use aggregation::charter::Charter;
use aggregation::ids::{Digest, HospitalId};
use aggregation::keys::identity::{Identity, IdentityKey};
use aggregation::keys::roll::Roll;
use aggregation::secret::Secret;
use aggregation::study::Study;

use crate::simulation::scenario::{Size, TRAINING_ROUNDS};

/// The study and its hospitals.
#[derive(Debug)]
pub(crate) struct Cast {
    pub(crate) charter: Charter,
    /// In the order of the roll.
    pub(crate) names: Vec<HospitalId>,
    pub(crate) identities: Vec<Identity>,
    pub(crate) roll: Roll,
}

impl Cast {
    /// The cast of a federation of this size.
    ///
    /// # Errors
    /// When n, t and m do not go together.
    pub(crate) fn of(size: Size) -> Result<Self, String> {
        let names: Vec<HospitalId> = (0..size.sites).map(name).collect::<Result<_, _>>()?;
        let charter = Charter::new(study(size)?, names.iter().cloned().collect());
        let charter = charter.map_err(|faults| format!("{faults:?}"))?;
        let identities: Vec<Identity> = (0..size.sites)
            .map(|site| identity(&format!("identity of site {site}")))
            .collect::<Result<_, _>>()?;
        let keys = identities.iter().map(Identity::key);
        let pinned: BTreeMap<HospitalId, IdentityKey> = names.iter().cloned().zip(keys).collect();
        let roll = Roll::new(&charter, &pinned).map_err(|none| none.to_string())?;
        Ok(Self { charter, names, identities, roll })
    }

    /// The place of a hospital on the roll.
    pub(crate) fn place(&self, hospital: &HospitalId) -> Option<usize> {
        self.names.binary_search(hospital).ok()
    }
}

fn name(site: u16) -> Result<HospitalId, String> {
    HospitalId::new(&format!("site-{site:02}")).map_err(|invalid| invalid.to_string())
}

/// An identity that grows from a text.
pub(crate) fn identity(text: &str) -> Result<Identity, String> {
    let seed = Secret::new(*Digest::sha256(text.as_bytes()).as_bytes());
    Identity::from_seed(&seed).map_err(|_| "32 bytes are a key of Ed25519".to_owned())
}

/// A study as small as one can be: six parameters, so that the masks are the work.
fn study(size: Size) -> Result<Study, String> {
    let Size { quorum, colluding, .. } = size;
    let manifest = format!(
        r#"
name = "simulated"
[task]
kind = "classification"
classes = ["normal", "pneumonia"]
input = {{ channels = 1, height = 1, width = 2 }}
preprocess = {{ window = "full" }}
[model]
arch = "linear"
[train]
rounds = {TRAINING_ROUNDS}
strategy = "fedavg"
seed = 1
local = {{ batch_size = 8, learning_rate = 0.1 }}
[privacy]
mode = "danger_no_privacy"
[cohort]
quorum = {quorum}
tolerate_colluding = {colluding}
grace = "25s"
round_deadline = "60s"
upload_deadline = "15s"
[evaluate]
every = 2
split = "test"
"#
    );
    proto::manifest::parse(&manifest).map_err(|faults| faults.to_string())
}
