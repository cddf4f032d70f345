//! The log has grown: this house looks, and cosigns, beside everything else.

use std::sync::Arc;

use proto::federation::LogGrown;

use super::Driver;

impl Driver {
    /// Follows the log in a task of its own; one is at work at a time, and what comes of it lasts.
    pub(super) fn follow_log(&self, grown: LogGrown) {
        let Some(client) = self.clients.borrow().clone() else { return };
        let (witness, session) = (Arc::clone(&self.house.witness), self.session);
        tokio::spawn(async move {
            match witness.follow(client, session, &grown).await {
                Ok(size) => tracing::debug!(size, "log cosigned"),
                Err(error) => tracing::warn!(%error, "the log was not cosigned"),
            }
        });
    }
}
