//! Who takes part: the study, the hospitals and their identities, the same for all federations of
//! one size.

use std::collections::BTreeMap;
use std::time::Duration;

use aggregation::architecture::Architecture;
use aggregation::charter::Charter;
use aggregation::ids::{Digest, HospitalId};
use aggregation::keys::identity::{Identity, IdentityKey};
use aggregation::keys::roll::Roll;
use aggregation::secret::Secret;
use aggregation::study::{
    CohortRules, EvaluationRules, InitialModel, InputShape, Local, LocalOptimizer, Preprocess,
    Privacy, ServerOptimizer, Split, Strategy, Study, Task, Training, Window,
};

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
        let charter = Charter::new(study(size), names.iter().cloned().collect());
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
fn study(size: Size) -> Study {
    Study {
        name: "simulated".to_owned(),
        task: Task {
            classes: vec!["normal".to_owned(), "pneumonia".to_owned()],
            input: InputShape { channels: 1, height: 1, width: 2 },
            preprocess: Preprocess { window: Window::Full, mean: 0.5, sd: 0.25 },
        },
        model: Architecture::Linear,
        training: Training {
            rounds: TRAINING_ROUNDS,
            strategy: Strategy::FedAvg,
            optimizer: ServerOptimizer::Sgd,
            learning_rate: 1.0,
            seed: 1,
            weight_average: 0.0,
            local: Local {
                epochs: 1,
                batch_size: 8,
                learning_rate: 0.1,
                optimizer: LocalOptimizer::Sgd,
                weight_decay: 0.0,
                augment: false,
            },
            update_range: 1.0,
            weight_cap: Training::DEFAULT_WEIGHT_CAP,
            initial: InitialModel::Seeded,
        },
        privacy: Privacy::DangerNone,
        cohort: CohortRules {
            sites: Vec::new(),
            quorum: size.quorum,
            colluding: size.colluding,
            danger_unmasked: false,
            grace: Duration::from_secs(25),
            round_deadline: Duration::from_secs(60),
            upload_deadline: Duration::from_secs(15),
        },
        evaluation: EvaluationRules { every: 2, split: Split::Test, danger_exact: false },
    }
}
