//! Tells the coordinator how far the work is: at most once a second, the newest only, and never at
//! the cost of anything that matters.

use std::time::Duration;

use aggregation::message::Terms;
use proto::federation::{ProgressRequest, Stage};
use tokio::sync::watch;

use crate::link::Client;

/// Between two reports.
const EVERY: Duration = Duration::from_secs(1);
/// A report that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where progress is said; clones speak for the same study.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    newest: watch::Sender<ProgressRequest>,
}

impl Progress {
    /// Starts a reporter that ends when the last clone is gone.
    pub(super) fn start(clients: watch::Receiver<Option<Client>>) -> Self {
        let (newest, said) = watch::channel(ProgressRequest::default());
        tokio::spawn(report(said, clients));
        Self { newest }
    }

    /// So far is this slot.
    pub(super) fn say(&self, terms: &Terms, stage: Stage, permille: u32) {
        self.newest.send_if_modified(|last| {
            let next = ProgressRequest {
                study: terms.study.digest().as_bytes().to_vec(),
                round: terms.round.get(),
                slot: terms.slot.get(),
                stage: stage.into(),
                permille,
            };
            let modified = *last != next;
            *last = next;
            modified
        });
    }
}

async fn report(
    mut said: watch::Receiver<ProgressRequest>,
    clients: watch::Receiver<Option<Client>>,
) {
    while said.changed().await.is_ok() {
        let newest = said.borrow_and_update().clone();
        let client = clients.borrow().clone();
        if let Some(mut client) = client {
            // A lost report is not worth a word.
            let _ = tokio::time::timeout(PATIENCE, client.report_progress(newest)).await;
        }
        tokio::time::sleep(EVERY).await;
    }
}
