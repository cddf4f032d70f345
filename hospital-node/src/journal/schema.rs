//! The shape of the tables, and how an older journal is brought to it.

use sqlx::sqlite::SqlitePool;

use super::JournalError;

/// The version that this program writes; a newer one is refused rather than guessed at.
pub(super) const VERSION: i64 = 2;

/// As version 1 had it.
pub(super) const FIRST: &str = "
CREATE TABLE study (
    digest      BLOB PRIMARY KEY,
    name        TEXT NOT NULL,
    manifest    TEXT NOT NULL,
    sites       TEXT NOT NULL,
    data        TEXT,
    decision    TEXT NOT NULL,
    decided_ms  INTEGER NOT NULL,
    told        INTEGER NOT NULL
) STRICT;
CREATE TABLE slot (
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
PRAGMA user_version = 1;
";

/// Masked rounds: the keys of the sites, pinned and approved; this house's own keys; what a slot
/// has seen since its roster was frozen.
const SECOND: &str = "
ALTER TABLE study ADD COLUMN identities BLOB;  -- 32 bytes a site, in the order of their names
ALTER TABLE slot ADD COLUMN roster BLOB;
ALTER TABLE slot ADD COLUMN final_set BLOB;
ALTER TABLE slot ADD COLUMN signed_set BLOB;
CREATE TABLE pin (
    site     TEXT PRIMARY KEY,
    key      BLOB,                             -- none: an administrator has yet to accept one
    since_ms INTEGER,
    found    BLOB,                             -- another one that the coordinator names
    found_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE vault (
    id  INTEGER PRIMARY KEY CHECK (id = 1),    -- one row, changed where it stands
    key BLOB NOT NULL
) STRICT;
CREATE TABLE keys (
    study  BLOB PRIMARY KEY,
    roll   BLOB NOT NULL,
    setup  BLOB,                               -- announcements, later nonces too: all public
    agreed INTEGER NOT NULL,
    sealed BLOB NOT NULL
) STRICT;
CREATE TABLE batch (
    study     BLOB NOT NULL,
    number    INTEGER NOT NULL,
    signature BLOB NOT NULL,
    encoded   BLOB NOT NULL,
    PRIMARY KEY (study, number)
) STRICT;
CREATE TABLE own_slot (
    study  BLOB NOT NULL,
    slot   INTEGER NOT NULL,
    hidden BLOB NOT NULL,
    PRIMARY KEY (study, slot)
) STRICT, WITHOUT ROWID;
CREATE TABLE held (
    study  BLOB NOT NULL,
    slot   INTEGER NOT NULL,
    owner  TEXT NOT NULL,
    hidden BLOB NOT NULL,
    PRIMARY KEY (study, slot, owner)
) STRICT, WITHOUT ROWID;
CREATE TABLE opened (
    study  BLOB NOT NULL,
    number INTEGER NOT NULL,
    owner  TEXT NOT NULL,
    PRIMARY KEY (study, number, owner)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 2;
";

/// Makes the tables, or changes those of an older version, in one step.
pub(super) async fn bring_up(pool: &SqlitePool) -> Result<(), JournalError> {
    let version = "PRAGMA user_version";
    if sqlx::query_scalar::<_, i64>(version).fetch_one(pool).await? == VERSION {
        return Ok(());
    }
    // Daemon and command line may both find an older one; the second finds it done.
    let mut change = pool.begin_with("BEGIN IMMEDIATE").await?;
    let found: i64 = sqlx::query_scalar(version).fetch_one(&mut *change).await?;
    if found > VERSION {
        return Err(JournalError::Newer { found });
    }
    for (step, change_to) in [(0, FIRST), (1, SECOND)] {
        if found <= step {
            sqlx::raw_sql(change_to).execute(&mut *change).await?;
        }
    }
    change.commit().await?;
    Ok(())
}
