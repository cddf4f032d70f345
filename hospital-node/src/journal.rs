//! The few facts that must be durable before anything is done about them: which study this house
//! approved, which slot was used, which bytes were made for it.
//!
//! `SQLite` in WAL mode with `synchronous = FULL`: when a call returns, a power cut does not undo it.
//! The daemon and the command line write to it at the same time; [`Journal::version`] tells the
//! daemon that the other one did.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use aggregation::ids::{Digest, HospitalId, SlotId, StudyId};
use aggregation::message::{DeclineReason, Terms};
use aggregation::units::Timestamp;
use prost::Message as _;
use proto::{decode, encode, federation};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Row as _};

/// The shape of the tables; a newer one is refused rather than guessed at.
const SCHEMA: i64 = 1;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS study (
    digest      BLOB PRIMARY KEY,
    name        TEXT NOT NULL,
    manifest    TEXT NOT NULL,
    sites       TEXT NOT NULL,
    data        TEXT,
    decision    TEXT NOT NULL,
    decided_ms  INTEGER NOT NULL,
    told        INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS slot (
    study   BLOB NOT NULL,
    slot    INTEGER NOT NULL,
    terms   BLOB NOT NULL,
    stage   TEXT NOT NULL,
    reason  INTEGER,
    digest  BLOB,
    bytes   INTEGER,
    outcome TEXT,
    at_ms   INTEGER NOT NULL,
    PRIMARY KEY (study, slot)
) STRICT, WITHOUT ROWID;
";

/// The journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk or the database said no.
    #[error("the journal: {0}")]
    Storage(#[from] sqlx::Error),
    /// It was written by a newer program.
    #[error("the journal has schema {found}; this program knows {SCHEMA}")]
    Newer {
        /// Its schema.
        found: i64,
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

/// What this house decided about a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It takes part.
    Approved,
    /// It does not.
    Refused,
    /// It did, and does no longer.
    Withdrawn,
}

impl Decision {
    /// The word in the journal and on screen.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Refused => "refused",
            Self::Withdrawn => "withdrawn",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Approved, Self::Refused, Self::Withdrawn].into_iter().find(|d| d.name() == text)
    }
}

/// A study as this house knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalStudy {
    /// Its digest, as computed here.
    pub id: StudyId,
    /// Its name, for people.
    pub name: String,
    /// The manifest that was decided on, verbatim.
    pub manifest: String,
    /// The roster that was decided on.
    pub sites: BTreeSet<HospitalId>,
    /// The data set it may see, for an approval.
    pub data: Option<String>,
    /// What was decided.
    pub decision: Decision,
    /// When.
    pub decided: Timestamp,
    /// Whether the coordinator knows.
    pub told: bool,
}

/// How far the work on a slot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Begun; whatever the trainer made is lost if we stop now.
    Begun,
    /// The update lies in the work folder; these are its digest and size. Whether the coordinator
    /// has it already is not kept: sending the same bytes again is answered as the first time.
    Trained(Packed),
    /// This site said, or will say, that it takes no part.
    Declined(DeclineReason),
    /// Over, one way or another; the bytes are gone.
    Closed,
}

/// What an update is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    /// BLAKE3 of all of it.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
}

/// One use of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotUse {
    /// What was offered.
    pub terms: Terms,
    /// How far it went.
    pub stage: Stage,
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
            .disable_statement_logging();
        // One connection for ever: `PRAGMA data_version` compares within one connection.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await?;
        let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&pool).await?;
        if found > SCHEMA {
            return Err(JournalError::Newer { found });
        }
        sqlx::raw_sql(TABLES).execute(&pool).await?;
        sqlx::raw_sql("PRAGMA user_version = 1").execute(&pool).await?;
        Ok(Self { pool })
    }

    /// A number that changes when another process has written.
    ///
    /// # Errors
    /// The database's own.
    pub(crate) async fn version(&self) -> Result<i64, JournalError> {
        Ok(sqlx::query_scalar("PRAGMA data_version").fetch_one(&self.pool).await?)
    }

    /// Records a decision of this house, replacing an earlier one.
    ///
    /// # Errors
    /// The database's own; then the earlier decision stands.
    pub(crate) async fn decide(&self, study: &LocalStudy) -> Result<(), JournalError> {
        let sites: Vec<&str> = study.sites.iter().map(HospitalId::as_str).collect();
        sqlx::query(
            "INSERT INTO study (digest, name, manifest, sites, data, decision, decided_ms, told)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (digest) DO UPDATE SET name = ?2, manifest = ?3, sites = ?4, data = ?5,
                 decision = ?6, decided_ms = ?7, told = ?8",
        )
        .bind(study.id.digest().as_bytes().as_slice())
        .bind(&study.name)
        .bind(&study.manifest)
        .bind(sites.join(","))
        .bind(&study.data)
        .bind(study.decision.name())
        .bind(signed(study.decided.as_millis(), "time")?)
        .bind(study.told)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The coordinator confirmed this decision; one made since then stays untold.
    ///
    /// # Errors
    /// The database's own.
    pub(crate) async fn told(&self, id: StudyId, decision: Decision) -> Result<(), JournalError> {
        sqlx::query("UPDATE study SET told = 1 WHERE digest = ?1 AND decision = ?2")
            .bind(id.digest().as_bytes().as_slice())
            .bind(decision.name())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Every study that this house decided on, by name.
    ///
    /// # Errors
    /// The database's own; a damaged row.
    pub(crate) async fn studies(&self) -> Result<Vec<LocalStudy>, JournalError> {
        let rows =
            sqlx::query("SELECT * FROM study ORDER BY name, digest").fetch_all(&self.pool).await?;
        rows.iter().map(local_study).collect()
    }

    /// One study; `None` when this house decided nothing about it.
    ///
    /// # Errors
    /// The database's own; a damaged row.
    pub(crate) async fn study(&self, id: StudyId) -> Result<Option<LocalStudy>, JournalError> {
        let row = sqlx::query("SELECT * FROM study WHERE digest = ?1")
            .bind(id.digest().as_bytes().as_slice())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(local_study).transpose()
    }

    /// Uses up a slot, before any work is done for it.
    ///
    /// # Errors
    /// When the slot, or a later one, was used before; the database's own.
    pub(crate) async fn begin(&self, terms: &Terms, now: Timestamp) -> Result<(), JournalError> {
        self.use_up(terms, None, now).await
    }

    /// Takes no part under these terms: instead of working on them, or after the work failed.
    ///
    /// # Errors
    /// When another update of the slot, or a later slot, is journaled; the database's own.
    pub(crate) async fn decline(
        &self,
        terms: &Terms,
        reason: DeclineReason,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let changed = sqlx::query(
            "UPDATE slot SET stage = 'declined', reason = ?3
             WHERE study = ?1 AND slot = ?2 AND stage IN ('begun', 'trained', 'declined')",
        )
        .bind(terms.study.digest().as_bytes().as_slice())
        .bind(signed(terms.slot.get(), "slot")?)
        .bind(i32::from(encode::decline_reason(reason)))
        .execute(&self.pool)
        .await?;
        if changed.rows_affected() == 1 {
            Ok(())
        } else {
            self.use_up(terms, Some(reason), now).await
        }
    }

    async fn use_up(
        &self,
        terms: &Terms,
        declined: Option<DeclineReason>,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let last: Option<i64> = sqlx::query_scalar("SELECT max(slot) FROM slot WHERE study = ?1")
            .bind(terms.study.digest().as_bytes().as_slice())
            .fetch_one(&mut *change)
            .await?;
        let slot = signed(terms.slot.get(), "slot")?;
        if let Some(last) = last.filter(|last| *last >= slot) {
            let last = unsigned(last, "slot")?;
            return Err(JournalError::SlotUsed { found: terms.slot.get(), last });
        }
        sqlx::query(
            "INSERT INTO slot (study, slot, terms, stage, reason, at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .bind(terms.study.digest().as_bytes().as_slice())
        .bind(slot)
        .bind(encode::terms(terms).encode_to_vec())
        .bind(if declined.is_some() { "declined" } else { "begun" })
        .bind(declined.map(|reason| i32::from(encode::decline_reason(reason))))
        .bind(signed(now.as_millis(), "time")?)
        .execute(&mut *change)
        .await?;
        change.commit().await?;
        Ok(())
    }

    /// The update of a slot lies in the work folder, synced; from now on these bytes or none.
    ///
    /// # Errors
    /// The database's own; `Damaged` when the slot was not begun or already has other bytes.
    pub(crate) async fn trained(
        &self,
        study: StudyId,
        slot: SlotId,
        packed: Packed,
    ) -> Result<(), JournalError> {
        let changed = sqlx::query(
            "UPDATE slot SET stage = 'trained', digest = ?3, bytes = ?4
             WHERE study = ?1 AND slot = ?2 AND stage = 'begun'",
        )
        .bind(study.digest().as_bytes().as_slice())
        .bind(signed(slot.get(), "slot")?)
        .bind(packed.digest.as_bytes().as_slice())
        .bind(signed(packed.bytes, "size")?)
        .execute(&self.pool)
        .await?;
        if changed.rows_affected() == 1 { Ok(()) } else { Err(JournalError::Damaged("slot")) }
    }

    /// The slot is over; its bytes may be deleted after this.
    ///
    /// # Errors
    /// The database's own.
    pub(crate) async fn close(
        &self,
        study: StudyId,
        slot: SlotId,
        outcome: &str,
    ) -> Result<(), JournalError> {
        sqlx::query(
            "UPDATE slot SET stage = 'closed', outcome = ?3 WHERE study = ?1 AND slot = ?2",
        )
        .bind(study.digest().as_bytes().as_slice())
        .bind(signed(slot.get(), "slot")?)
        .bind(outcome)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The last slot that was used for a study.
    ///
    /// # Errors
    /// The database's own; a damaged row.
    pub(crate) async fn last_slot(&self, study: StudyId) -> Result<Option<SlotUse>, JournalError> {
        let row = sqlx::query("SELECT * FROM slot WHERE study = ?1 ORDER BY slot DESC LIMIT 1")
            .bind(study.digest().as_bytes().as_slice())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(slot_use).transpose()
    }

    /// Waits for the last write and closes the file.
    pub(crate) async fn finish(self) {
        self.pool.close().await;
    }
}

fn local_study(row: &SqliteRow) -> Result<LocalStudy, JournalError> {
    let damaged = || JournalError::Damaged("study");
    let sites: String = row.try_get("sites")?;
    let sites =
        sites.split(',').map(HospitalId::new).collect::<Result<_, _>>().map_err(|_| damaged())?;
    let decision: String = row.try_get("decision")?;
    Ok(LocalStudy {
        id: StudyId::new(digest(row, "digest", "study")?),
        name: row.try_get("name")?,
        manifest: row.try_get("manifest")?,
        sites,
        data: row.try_get("data")?,
        decision: Decision::parse(&decision).ok_or_else(damaged)?,
        decided: Timestamp::from_millis(unsigned(row.try_get("decided_ms")?, "time")?),
        told: row.try_get("told")?,
    })
}

fn slot_use(row: &SqliteRow) -> Result<SlotUse, JournalError> {
    let damaged = || JournalError::Damaged("slot");
    let packed = || -> Result<Packed, JournalError> {
        let bytes: i64 = row.try_get("bytes")?;
        Ok(Packed { digest: digest(row, "digest", "slot")?, bytes: unsigned(bytes, "size")? })
    };
    let stage: String = row.try_get("stage")?;
    let stage = match stage.as_str() {
        "begun" => Stage::Begun,
        "trained" => Stage::Trained(packed()?),
        "declined" => {
            let reason = decode::decline_reason(row.try_get("reason")?).map_err(|_| damaged())?;
            Stage::Declined(reason)
        }
        "closed" => Stage::Closed,
        _ => return Err(damaged()),
    };
    let terms: Vec<u8> = row.try_get("terms")?;
    let terms = federation::Terms::decode(terms.as_slice()).map_err(|_| damaged())?;
    Ok(SlotUse { terms: decode::terms(&terms).map_err(|_| damaged())?, stage })
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
mod tests {
    use super::*;
    use aggregation::ids::RoundId;
    use aggregation::message::Work;

    fn study() -> StudyId {
        StudyId::new(Digest::sha256(b"study"))
    }

    fn hospital(name: &str) -> HospitalId {
        HospitalId::new(name).expect("a name")
    }

    fn terms(slot: u64) -> Terms {
        Terms {
            study: study(),
            round: RoundId::FIRST,
            slot: SlotId::new(slot),
            work: Work::Train,
            model: Digest::sha256(b"model"),
            invited: [hospital("anna"), hospital("bert")].into(),
            ready_by: NOW,
        }
    }

    fn packed(content: &[u8]) -> Packed {
        Packed { digest: Digest::blake3(content), bytes: 3 }
    }

    fn approval() -> LocalStudy {
        LocalStudy {
            id: study(),
            name: "chest".to_owned(),
            manifest: "name = \"chest\"".to_owned(),
            sites: [hospital("anna"), hospital("bert")].into(),
            data: Some("images".to_owned()),
            decision: Decision::Approved,
            decided: NOW,
            told: false,
        }
    }

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    async fn open(folder: &tempfile::TempDir) -> Journal {
        Journal::open(&folder.path().join("journal.sqlite")).await.expect("opens")
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let journal = open(&folder).await;
        journal.decide(&approval()).await.expect("recorded");
        journal.begin(&terms(1), NOW).await.expect("begun");
        journal.trained(study(), SlotId::new(1), packed(b"abc")).await.expect("trained");
        // No farewell: this is what a kill leaves.
        drop(journal);
        let journal = open(&folder).await;
        assert_eq!(journal.study(study()).await.expect("read"), Some(approval()));
        let last = journal.last_slot(study()).await.expect("read").expect("there");
        assert_eq!(last, SlotUse { terms: terms(1), stage: Stage::Trained(packed(b"abc")) });
    }

    #[tokio::test]
    async fn a_slot_is_used_once_and_in_order() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let journal = open(&folder).await;
        journal.begin(&terms(5), NOW).await.expect("begun");
        for used in [5, 4] {
            let found = journal.begin(&terms(used), NOW).await;
            assert!(matches!(found, Err(JournalError::SlotUsed { last: 5, .. })), "{found:?}");
        }
        journal.begin(&terms(6), NOW).await.expect("a later one");
    }

    #[tokio::test]
    async fn the_bytes_of_a_slot_never_change() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let journal = open(&folder).await;
        let slot = SlotId::new(1);
        assert!(journal.trained(study(), slot, packed(b"abc")).await.is_err(), "never begun");
        journal.begin(&terms(1), NOW).await.expect("begun");
        journal.trained(study(), slot, packed(b"abc")).await.expect("trained");
        assert!(journal.trained(study(), slot, packed(b"xyz")).await.is_err(), "other bytes");
        let last = journal.last_slot(study()).await.expect("read").expect("there");
        assert_eq!(last.stage, Stage::Trained(packed(b"abc")));
        journal.close(study(), slot, "released").await.expect("closed");
        assert!(journal.trained(study(), slot, packed(b"abc")).await.is_err(), "over");
        let last = journal.last_slot(study()).await.expect("read").expect("there");
        assert_eq!(last.stage, Stage::Closed);
    }

    #[tokio::test]
    async fn a_decline_is_kept_whether_or_not_work_was_begun() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let journal = open(&folder).await;
        journal.decline(&terms(1), DeclineReason::Policy, NOW).await.expect("declined");
        journal.begin(&terms(2), NOW).await.expect("begun");
        for reason in [DeclineReason::Trainer, DeclineReason::Trainer] {
            journal.decline(&terms(2), reason, NOW).await.expect("declined, and again");
        }
        let last = journal.last_slot(study()).await.expect("read").expect("there");
        assert_eq!(
            last,
            SlotUse { terms: terms(2), stage: Stage::Declined(DeclineReason::Trainer) }
        );
    }

    #[tokio::test]
    async fn the_daemon_notices_what_the_command_line_writes() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let (daemon, command) = (open(&folder).await, open(&folder).await);
        let before = daemon.version().await.expect("read");
        daemon.decide(&approval()).await.expect("our own");
        assert_eq!(daemon.version().await.expect("read"), before, "our own writing is no news");
        let withdrawn = LocalStudy { decision: Decision::Withdrawn, data: None, ..approval() };
        command.decide(&withdrawn).await.expect("recorded");
        assert_ne!(daemon.version().await.expect("read"), before);
        assert_eq!(daemon.studies().await.expect("read"), vec![withdrawn]);
        daemon.told(study(), Decision::Approved).await.expect("an old decision");
        assert!(!daemon.studies().await.expect("read")[0].told, "the new one is still untold");
        daemon.told(study(), Decision::Withdrawn).await.expect("the new one");
        assert!(daemon.studies().await.expect("read")[0].told);
    }

    #[tokio::test]
    async fn a_newer_journal_is_refused() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let journal = open(&folder).await;
        sqlx::raw_sql("PRAGMA user_version = 99").execute(&journal.pool).await.expect("set");
        journal.finish().await;
        let found = Journal::open(&folder.path().join("journal.sqlite")).await;
        assert!(matches!(found, Err(JournalError::Newer { found: 99 })));
    }
}
