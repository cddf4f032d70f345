//! A study from its manifest: every fault at once, the roster fixed, the first model kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use aggregation::architecture::model_bytes;
use aggregation::charter::Charter;
use aggregation::ids::{Digest, HospitalId, RoundId, SlotId};
use aggregation::keys::roll::{NoRoll, Roll};
use aggregation::life::Life;
use aggregation::study::{InitialModel, Privacy, Study, StudyFault};
use bytes::Bytes;

use crate::board::{Entry, Standing};
use crate::clock;
use crate::coordinator::Coordinator;
use crate::model_file::{self, ModelFileError};
use crate::store::studies::StudyRow;
use crate::store::{Leaf, StoreError};

/// Why a study cannot be proposed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProposalError {
    /// Every fault of the manifest.
    #[error("{}", lines(.0))]
    Faults(Vec<StudyFault>),
    /// The file of the initial model.
    #[error(transparent)]
    Model(#[from] ModelFileError),
    /// Its sites cannot mask with one another.
    #[error(transparent)]
    Roll(#[from] NoRoll),
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn lines(faults: &[StudyFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Coordinator {
    /// Proposes a study to its sites. The same study again is answered as the first time.
    ///
    /// # Errors
    /// With every fault of the manifest at once.
    pub(crate) async fn propose(
        self: &Arc<Self>,
        manifest: &str,
        by: &str,
    ) -> Result<Arc<Entry>, ProposalError> {
        let study =
            proto::manifest::parse(manifest).map_err(|faults| ProposalError::Faults(faults.0))?;
        let id = study.digest();
        if let Some(known) = self.board.study(id) {
            return Ok(known);
        }
        let sites = roster(&study, &self.gate.standing()).map_err(ProposalError::Faults)?;
        let charter = Charter::new(study.clone(), sites.clone()).map_err(ProposalError::Faults)?;
        let mut identities = self.store.identities().await?;
        identities.retain(|site, _| sites.contains(site));
        if charter.thresholds().is_some() {
            Roll::new(&charter, &identities)?;
        }
        let state = self.config.state.clone();
        let of = study.clone();
        let first = tokio::task::spawn_blocking(move || first_model(&of, &state))
            .await
            .map_err(|fault| StoreError::Disk(Box::new(fault)))??;
        let model = self.store.blobs.put_model(first).await?;
        let now = clock::now();
        let row = StudyRow {
            study: id,
            name: study.name.clone(),
            manifest: manifest.to_owned(),
            sites: sites.clone(),
            life: Life::Proposed,
            reason: String::new(),
            next_round: RoundId::FIRST,
            next_slot: SlotId::new(1),
            model,
            optimizer: None,
            identities: identities.clone(),
            earlier: false,
        };
        let fact = Leaf::of(id, "study_proposed")
            .with("name", study.name.as_str())
            .with("by", by)
            .with("sites", serde_json::Value::from_iter(sites.iter().map(HospitalId::as_str)))
            .with("model", model.to_string())
            .with("manifest", Digest::sha256(manifest.as_bytes()).to_string())
            .with("privacy", promised(&study.privacy));
        if !self.store.propose_study(&row, now, fact).await?
            && let Some(known) = self.board.study(id)
        {
            return Ok(known);
        }
        let standing = Standing::new(Life::Proposed, String::new());
        let entry =
            Arc::new(Entry::new(id, study, manifest.to_owned(), sites, identities, standing));
        self.board.put(Arc::clone(&entry));
        tracing::info!(study = %id.short(), name = entry.study.name, sites = entry.sites.len(), by, "study proposed");
        self.board.changed(&entry);
        Ok(entry)
    }
}

/// The sites of a study: those it lists, all of which must stand, or all that stand.
fn roster(
    study: &Study,
    standing: &BTreeSet<HospitalId>,
) -> Result<BTreeSet<HospitalId>, Vec<StudyFault>> {
    let listed: BTreeSet<HospitalId> = study.cohort.sites.iter().cloned().collect();
    if listed.is_empty() {
        return Ok(standing.clone());
    }
    let unknown: Vec<&HospitalId> = listed.difference(standing).collect();
    if unknown.is_empty() {
        return Ok(listed);
    }
    let known = standing.iter().map(HospitalId::as_str).collect::<Vec<_>>().join(", ");
    let allowed = if known.is_empty() {
        "approved sites, of which there are none yet".to_owned()
    } else {
        format!("approved sites: {known}")
    };
    let key = || "cohort.sites".to_owned();
    Err(unknown
        .into_iter()
        .map(|site| StudyFault {
            key: key(),
            found: format!("{:?}", site.as_str()),
            allowed: allowed.clone(),
        })
        .collect())
}

fn first_model(study: &Study, state: &std::path::Path) -> Result<Bytes, ModelFileError> {
    let layout = study.layout();
    let model = match study.training.initial {
        InitialModel::Seeded => layout.initial(study.training.seed),
        InitialModel::File(digest) => model_file::read(state, digest, &layout)?,
    };
    Ok(Bytes::from(model_bytes(&model)))
}
/// What a study promises to patients, as the log tells it.
fn promised(privacy: &Privacy) -> serde_json::Value {
    let Some(rules) = privacy.rules() else {
        return serde_json::json!({ "mode": privacy.name() });
    };
    serde_json::json!({
        "mode": privacy.name(),
        "epsilon": rules.epsilon,
        "delta": rules.delta,
        "clipping_norm": rules.clipping_norm,
        "sampling_rate": rules.sampling_rate,
        "solo_epsilon_cap": rules.solo_cap,
        "accountant": rules.accountant.name(),
    })
}
