//! State and journal: SQLite through sqlx, blobs through object_store. A restart is a replay.
//!
//! One writer: every transaction that writes goes through one connection, so that "read, decide,
//! write" needs no further lock. WAL with `synchronous = NORMAL`: a crash of this program loses
//! nothing that was committed; a power cut may lose the last commits, never the order. Whatever
//! somebody builds on is made durable first, many callers at a time ([`Store::settle`]): a fact goes
//! into the log, and a site gets its receipt for an update or a charge, only then. What may be lost
//! is the rest: sites say again what was not kept, and a round that cannot be rebuilt is abandoned
//! with that reason. Models are flushed to disk before a row names them.

pub(crate) mod blobs;
pub(crate) mod charges;
pub(crate) mod course;
mod facts;
pub(crate) mod kept;
pub(crate) mod leaf;
pub(crate) mod recorded;
pub(crate) mod rounds;
pub(crate) mod schema;
pub(crate) mod setup;
pub(crate) mod sites;
pub(crate) mod studies;
mod together;
pub(crate) mod tokens;

use std::path::{Path, PathBuf};
use std::time::Duration;

use aggregation::ids::{Digest, HospitalId};
use aggregation::units::Timestamp;
use data_encoding::HEXLOWER;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Sqlite, SqlitePool, Transaction};

pub(crate) use blobs::Blobs;
pub(crate) use leaf::Leaf;

/// Connections that only read.
const READERS: u32 = 4;

/// Why something could not be kept or found again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// No space, or the disk fails.
    #[error("the coordinator's disk is full or failing")]
    Disk(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database refused.
    #[error("the coordinator's database refused")]
    Database(#[source] sqlx::Error),
    /// The blob store refused.
    #[error("the coordinator's blob store refused")]
    Blob(#[source] object_store::Error),
    /// What is stored is not what was stored.
    #[error("{0} in the state folder is damaged or missing")]
    Corrupt(String),
    /// The state folder belongs to a newer program.
    #[error(
        "the state folder has schema version {found}; this program knows versions up to {known}"
    )]
    Newer {
        /// In the folder.
        found: i64,
        /// Of this program.
        known: i64,
    },
    /// More is to be told of than an entry of the log can hold.
    #[error("the log cannot tell of this")]
    Leaf(#[from] transparency::leaf::LeafError),
    /// Another coordinator has the state folder.
    #[error("another coordinator is using the state folder")]
    InUse,
}

impl From<sqlx::Error> for StoreError {
    fn from(fault: sqlx::Error) -> Self {
        // SQLITE_IOERR and SQLITE_FULL; the extended codes carry the primary one in the low byte.
        let failing = fault
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .and_then(|code| code.parse::<u32>().ok())
            .is_some_and(|code| matches!(code & 0xff, 10 | 13));
        if failing { Self::Disk(Box::new(fault)) } else { Self::Database(fault) }
    }
}

impl From<object_store::Error> for StoreError {
    fn from(fault: object_store::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&fault);
        while let Some(one) = cause {
            if let Some(io) = one.downcast_ref::<std::io::Error>()
                && matches!(
                    io.kind(),
                    std::io::ErrorKind::StorageFull
                        | std::io::ErrorKind::QuotaExceeded
                        | std::io::ErrorKind::ReadOnlyFilesystem
                        | std::io::ErrorKind::FileTooLarge
                )
            {
                return Self::Disk(Box::new(fault));
            }
            cause = one.source();
        }
        Self::Blob(fault)
    }
}

impl StoreError {
    /// The whole chain of causes on one line, for the log.
    pub(crate) fn chain(&self) -> String {
        proto::cli::chain(self)
    }
}

/// Everything that must be there after a restart.
#[derive(Debug)]
pub(crate) struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
    /// The write-ahead log.
    journal: PathBuf,
    /// Who waits for it to be durable.
    settling: together::Together,
    #[cfg(test)]
    unsettled: std::sync::atomic::AtomicBool,
    /// Models, optimiser states and staged updates.
    pub(crate) blobs: Blobs,
    /// Rounds that are kept to be added up again.
    pub(crate) shelf: kept::Shelf,
    /// Held for as long as the store is open.
    _lock: std::fs::File,
}

impl Store {
    /// Opens the state folder, making or migrating it as needed.
    ///
    /// # Errors
    /// When it is in use, newer than this program, or the disk refuses.
    pub(crate) async fn open(folder: &Path) -> Result<Self, StoreError> {
        let disk = |fault: std::io::Error| StoreError::Disk(Box::new(fault));
        std::fs::create_dir_all(folder).map_err(disk)?;
        let lock = std::fs::File::create(folder.join("lock")).map_err(disk)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::InUse),
            Err(std::fs::TryLockError::Error(fault)) => return Err(disk(fault)),
        }
        let options = SqliteConnectOptions::new()
            .filename(folder.join("coordinator.sqlite"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            // A closed round takes its shares along: what is deleted is overwritten.
            .pragma("secure_delete", "ON")
            .busy_timeout(Duration::from_secs(10))
            .disable_statement_logging();
        let writer =
            SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_lazy_with(options);
        let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
        schema::migrate(&mut tx).await?;
        tx.commit().await?;
        let blobs = Blobs::open(&folder.join("blobs"))?;
        let journal = folder.join("coordinator.sqlite-wal");
        let shelf = kept::Shelf::new(folder);
        Ok(Self {
            writer,
            readers,
            journal,
            settling: together::Together::default(),
            #[cfg(test)]
            unsettled: std::sync::atomic::AtomicBool::new(false),
            blobs,
            shelf,
            _lock: lock,
        })
    }

    /// Closes the database so that nothing is left in the write-ahead log.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

#[cfg(test)]
impl Store {
    /// Makes every write fail, as a failing disk would, until it is told otherwise.
    pub(crate) async fn refuse_writes(&self, refuse: bool) {
        let order = if refuse { "PRAGMA query_only = 1" } else { "PRAGMA query_only = 0" };
        sqlx::query(order).execute(&self.writer).await.expect("a pragma");
    }

    /// Makes nothing durable any more, as a failing disk would, until it is told otherwise.
    pub(crate) fn refuse_settling(&self, refuse: bool) {
        self.unsettled.store(refuse, std::sync::atomic::Ordering::SeqCst);
    }

    /// How many facts of a kind there are.
    pub(crate) async fn leaves(&self, kind: &str) -> i64 {
        sqlx::query_scalar("SELECT COUNT(*) FROM facts WHERE kind = $1")
            .bind(kind)
            .fetch_one(&self.readers)
            .await
            .expect("counted")
    }

    /// As somebody with a database tool would.
    pub(crate) async fn alter(&self, sql: &'static str) {
        let done = sqlx::query(sql).execute(&self.writer).await.expect("altered");
        assert_eq!(done.rows_affected(), 1);
    }

    /// As if so many attempts had been made.
    pub(crate) async fn set_next_slot(
        &self,
        study: aggregation::ids::StudyId,
        slot: aggregation::ids::SlotId,
    ) {
        sqlx::query("UPDATE studies SET next_slot = $1 WHERE study = $2")
            .bind(studies::slot_column(slot))
            .bind(study.to_string())
            .execute(&self.writer)
            .await
            .expect("set");
    }
}

/// A moment as a column has it.
fn millis(moment: Timestamp) -> i64 {
    i64::try_from(moment.as_millis()).unwrap_or(i64::MAX)
}

fn moment(column: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(column).unwrap_or(0))
}

fn digest(text: &str, what: &str) -> Result<Digest, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt(format!("a digest ({what})")))
}

/// Exactly so many bytes, as hex text has them.
fn bytes<const N: usize>(text: &str, what: &str) -> Result<[u8; N], StoreError> {
    let damaged = || StoreError::Corrupt(what.to_owned());
    let read = HEXLOWER.decode(text.as_bytes()).map_err(|_| damaged())?;
    read.try_into().map_err(|_| damaged())
}

fn hospital(text: &str) -> Result<HospitalId, StoreError> {
    HospitalId::new(text).map_err(|_| StoreError::Corrupt("a site's name".to_owned()))
}

fn number<T: TryFrom<i64>>(column: i64, what: &str) -> Result<T, StoreError> {
    T::try_from(column).map_err(|_| StoreError::Corrupt(format!("a number ({what})")))
}

/// Names as a JSON list.
fn names_text<'a>(names: impl IntoIterator<Item = &'a HospitalId>) -> String {
    serde_json::Value::from_iter(names.into_iter().map(HospitalId::as_str)).to_string()
}

fn names<C: FromIterator<HospitalId>>(text: &str) -> Result<C, StoreError> {
    let list: Vec<String> = serde_json::from_str(text)
        .map_err(|_| StoreError::Corrupt("a list of sites".to_owned()))?;
    list.iter().map(|name| hospital(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_coordinator_on_the_same_state_folder_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Store::open(folder.path()).await.expect("opened");
        assert!(matches!(Store::open(folder.path()).await, Err(StoreError::InUse)));
        first.close().await;
        drop(first);
        Store::open(folder.path()).await.expect("free again");
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused_with_both_versions() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).await.expect("opened");
        sqlx::query("INSERT INTO schema_version (version) VALUES (99)")
            .execute(&store.writer)
            .await
            .expect("written");
        store.close().await;
        drop(store);
        let refused = Store::open(folder.path()).await.expect_err("newer");
        let expected =
            "the state folder has schema version 99; this program knows versions up to 6";
        assert_eq!(refused.to_string(), expected);
    }
}
