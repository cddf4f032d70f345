//! The few facts that must be durable before anything is done about them: which study this house
//! approved, which keys the other hospitals are known by, which slot was used, which bytes were made
//! for it, which keys are left.
//!
//! `SQLite` in WAL mode with `synchronous = FULL`: when a call returns, a power cut does not undo it.
//! The daemon and the command line write to it at the same time; [`Journal::version`] tells the
//! daemon that the other one did. What is secret is sealed, so that it can be erased: see [`vault`].

mod keys;
mod pins;
mod round;
mod schema;
mod slots;
mod studies;
mod vault;

use std::path::Path;
use std::time::Duration;

use aggregation::ids::Digest;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Row as _};

pub(crate) use keys::{KeysLeft, Ours};
pub(crate) use pins::{News, Pin};
pub(crate) use slots::{Packed, Progress, SlotUse, Stage};
pub(crate) use studies::{Decision, LocalStudy};

use crate::entropy::NoEntropy;

/// The journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk or the database said no.
    #[error("the journal: {0}")]
    Storage(#[from] sqlx::Error),
    /// It was written by a newer program.
    #[error("the journal has schema {found}; this program knows {}", schema::VERSION)]
    Newer {
        /// Its schema.
        found: i64,
    },
    /// There is nothing to make a key from.
    #[error(transparent)]
    NoEntropy(#[from] NoEntropy),
    /// A key that is gone, or was never there.
    #[error("there are no keys for slot {slot}: {what}")]
    NoKeys {
        /// The slot.
        slot: u64,
        /// What is missing.
        what: &'static str,
    },
    /// A row holds what we never write.
    #[error("the journal's {0} is damaged")]
    Damaged(&'static str),
    /// A slot is used once, in ascending order.
    #[error("slot {found} is not above the last one, {last}")]
    SlotUsed {
        /// The slot that was asked for.
        found: u64,
        /// The last that was used.
        last: u64,
    },
}

/// The database.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    pool: SqlitePool,
}

impl Journal {
    /// Opens the database, making it where it is missing.
    ///
    /// # Errors
    /// When it cannot be opened or is newer than this program.
    pub(crate) async fn open(path: &Path) -> Result<Self, JournalError> {
        // The database is as private as the folder it lies in (mode 0700).
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10))
            // What is deleted is overwritten.
            .pragma("secure_delete", "ON")
            .disable_statement_logging();
        // One connection for ever: `PRAGMA data_version` compares within one connection.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await?;
        schema::bring_up(&pool).await?;
        Ok(Self { pool })
    }

    /// A number that changes when another process has written.
    ///
    /// # Errors
    /// The database's own.
    pub(crate) async fn version(&self) -> Result<i64, JournalError> {
        Ok(sqlx::query_scalar("PRAGMA data_version").fetch_one(&self.pool).await?)
    }

    /// Moves everything from the write-ahead log to the database and empties it: from then on what
    /// was erased is nowhere any more. While another process reads, it is left for the next time.
    ///
    /// # Errors
    /// The database's own.
    pub(crate) async fn settle(&self) -> Result<(), JournalError> {
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&self.pool).await?;
        if row.try_get::<i64, _>(0)? != 0 {
            tracing::debug!("another process reads the journal; it is settled the next time");
        }
        Ok(())
    }

    /// Waits for the last write and closes the file.
    pub(crate) async fn finish(self) {
        self.pool.close().await;
    }
}

fn digest(row: &SqliteRow, column: &str, what: &'static str) -> Result<Digest, JournalError> {
    let bytes: Vec<u8> = row.try_get(column)?;
    Digest::from_slice(&bytes).map_err(|_| JournalError::Damaged(what))
}

fn signed(number: u64, what: &'static str) -> Result<i64, JournalError> {
    i64::try_from(number).map_err(|_| JournalError::Damaged(what))
}

fn unsigned(number: i64, what: &'static str) -> Result<u64, JournalError> {
    u64::try_from(number).map_err(|_| JournalError::Damaged(what))
}

#[cfg(test)]
mod tests;
