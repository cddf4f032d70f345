//! The work of one slot, as a task of its own: fetch the model, have it trained on, leave the
//! update in the work folder. It decides nothing and tells the coordinator nothing but progress.

use std::path::{Path, PathBuf};

use aggregation::ids::HospitalId;
use aggregation::message::Terms;
use proto::federation::{self, Stage};
use proto::trainer::{DataSource, Open};
use tokio::sync::watch;

use super::model::{self, FetchError, Wanted};
use super::progress::Progress;
use crate::config::{DataSet, Trainer};
use crate::journal::{LocalStudy, Packed};
use crate::link::Client;
use crate::worker::{Job, Worker, WorkerError};

/// The work came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkError {
    /// No model to work on.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The trainer did not do it.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// Everything that the work needs, fixed when it begins.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    pub(super) terms: Terms,
    pub(super) model_bytes: u64,
    pub(super) update_bytes: u64,
    /// This study's part of the work folder.
    pub(super) folder: PathBuf,
    pub(super) update: PathBuf,
    pub(super) trainer: Trainer,
    pub(super) open: Open,
}

/// What a trainer has to know to open a study's data.
pub(super) fn opening(
    local: &LocalStudy,
    data: &DataSet,
    me: &HospitalId,
    pseudonym_key: &Path,
) -> Open {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Open {
        manifest_toml: local.manifest.clone(),
        data: Some(DataSource {
            kind: data.kind.name().to_owned(),
            path: text(&data.path),
            manifest: data.manifest.as_deref().map(text).unwrap_or_default(),
        }),
        site: me.to_string(),
        pseudonym_key_file: text(pseudonym_key),
        sites: u32::try_from(local.sites.len()).unwrap_or(u32::MAX),
    }
}

/// Does the work. The worker comes back with the update, to be kept for the next round; after a
/// failure there is none.
pub(super) async fn perform(
    assignment: Assignment,
    kept: Option<Worker>,
    mut clients: watch::Receiver<Option<Client>>,
    progress: Progress,
) -> Result<(Worker, Packed), WorkError> {
    let Assignment { terms, model_bytes, update_bytes, folder, update, trainer, open } = assignment;
    progress.say(&terms, Stage::Fetching, 0);
    let wanted = Wanted { study: terms.study, model: terms.model, bytes: model_bytes };
    let fetching = |permille| progress.say(&terms, Stage::Fetching, permille);
    let model = model::fetch(wanted, &folder, &mut clients, fetching).await?;
    progress.say(&terms, Stage::Training, 0);
    let mut worker = match kept {
        Some(worker) => worker,
        None => Worker::start(&trainer, open).await?,
    };
    let wire: federation::Work = proto::encode::work(terms.work);
    let job = Job {
        round: terms.round.get(),
        // The trainer's schema has the same numbers in a field without a sign.
        work: u32::try_from(i32::from(wire)).unwrap_or(0),
        model,
        model_bytes,
        update,
        update_bytes,
    };
    let training = move |permille| progress.say(&terms, Stage::Training, permille);
    let packed = worker.train(&job, training).await?;
    Ok((worker, packed))
}
