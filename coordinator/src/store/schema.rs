//! The tables, and how an older database becomes one of today.
//!
//! Plain SQL of the kind that PostgreSQL takes too: digests are hex text, times are milliseconds,
//! lists are JSON text. Migrations go forward only.

use sqlx::{Sqlite, Transaction};

use super::StoreError;

/// Each entry brings the schema from its index to the next version.
const MIGRATIONS: [&[&str]; 6] = [FIRST, MASKS, PRIVACY, TASKS, RECOMPUTE, CHARGE_FACTS];

const FIRST: &[&str] = &[
    "CREATE TABLE sites (
        site TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        identity_key TEXT,
        request TEXT,
        changed_ms BIGINT NOT NULL
    )",
    "CREATE TABLE tokens (
        id TEXT PRIMARY KEY,
        site TEXT NOT NULL,
        secret_hash TEXT NOT NULL,
        ends_ms BIGINT NOT NULL,
        used_for TEXT
    )",
    "CREATE TABLE certificates (
        fingerprint TEXT PRIMARY KEY,
        site TEXT NOT NULL,
        pem TEXT NOT NULL,
        issued_ms BIGINT NOT NULL,
        ends_ms BIGINT NOT NULL,
        revoked BIGINT NOT NULL
    )",
    "CREATE TABLE studies (
        study TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        manifest TEXT NOT NULL,
        sites TEXT NOT NULL,
        life TEXT NOT NULL,
        reason TEXT NOT NULL,
        proposed_ms BIGINT NOT NULL,
        next_round BIGINT NOT NULL,
        next_slot BIGINT NOT NULL,
        model TEXT NOT NULL,
        optimizer TEXT
    )",
    "CREATE TABLE decisions (
        study TEXT NOT NULL,
        site TEXT NOT NULL,
        decision TEXT NOT NULL,
        decided_ms BIGINT NOT NULL,
        PRIMARY KEY (study, site)
    )",
    "CREATE TABLE rounds (
        study TEXT NOT NULL,
        slot BIGINT NOT NULL,
        round BIGINT NOT NULL,
        released BIGINT NOT NULL,
        reason TEXT NOT NULL,
        contributed TEXT NOT NULL,
        dropped TEXT NOT NULL,
        loss DOUBLE PRECISION,
        auroc DOUBLE PRECISION,
        accuracy DOUBLE PRECISION,
        announced_ms BIGINT NOT NULL,
        closed_ms BIGINT NOT NULL,
        model TEXT NOT NULL,
        PRIMARY KEY (study, slot)
    )",
    // One row while a round is open; with the journal it is all that a replay needs.
    "CREATE TABLE open_rounds (
        study TEXT PRIMARY KEY,
        slot BIGINT NOT NULL,
        opened_ms BIGINT NOT NULL,
        terms TEXT NOT NULL,
        absent TEXT NOT NULL
    )",
    "CREATE TABLE journal (
        study TEXT NOT NULL,
        slot BIGINT NOT NULL,
        seq BIGINT NOT NULL,
        at_ms BIGINT NOT NULL,
        input TEXT NOT NULL,
        PRIMARY KEY (study, slot, seq)
    )",
    "CREATE TABLE facts (
        id BIGINT PRIMARY KEY,
        at_ms BIGINT NOT NULL,
        study TEXT,
        kind TEXT NOT NULL,
        leaf TEXT NOT NULL
    )",
];

/// Masks. A study's digest says since then whether its updates are masked, so those that were
/// proposed before cannot go on under theirs: they are kept to be looked at, and the coordinator
/// ends those that had not ended.
const MASKS: &[&str] = &[
    "ALTER TABLE studies ADD COLUMN identities TEXT NOT NULL DEFAULT '{}'",
    "ALTER TABLE studies ADD COLUMN earlier BIGINT NOT NULL DEFAULT 0",
    "UPDATE studies SET earlier = 1",
    "DELETE FROM open_rounds",
    "DELETE FROM journal",
    "ALTER TABLE rounds ADD COLUMN courses TEXT NOT NULL DEFAULT '{}'",
    "CREATE TABLE announcements (
        study TEXT NOT NULL,
        site TEXT NOT NULL,
        agreement TEXT NOT NULL,
        commitment TEXT NOT NULL,
        charter TEXT NOT NULL,
        signature TEXT NOT NULL,
        PRIMARY KEY (study, site)
    )",
    "CREATE TABLE nonces (
        study TEXT NOT NULL,
        site TEXT NOT NULL,
        nonce TEXT NOT NULL,
        PRIMARY KEY (study, site)
    )",
    // The batch itself is a blob under its digest.
    "CREATE TABLE batches (
        study TEXT NOT NULL,
        batch BIGINT NOT NULL,
        site TEXT NOT NULL,
        digest TEXT NOT NULL,
        signature TEXT NOT NULL,
        opened TEXT NOT NULL,
        PRIMARY KEY (study, batch, site)
    )",
];

/// Privacy per patient. A study's digest says since then how private it is; as for masks.
const PRIVACY: &[&str] = &[
    "UPDATE studies SET earlier = 1",
    "DELETE FROM open_rounds",
    "DELETE FROM journal",
    "ALTER TABLE rounds ADD COLUMN epsilon_planned DOUBLE PRECISION",
    "ALTER TABLE rounds ADD COLUMN epsilon_solo DOUBLE PRECISION",
    "CREATE TABLE charges (
        study TEXT NOT NULL,
        site TEXT NOT NULL,
        slot BIGINT NOT NULL,
        seq BIGINT NOT NULL,
        record TEXT NOT NULL,
        signature TEXT NOT NULL,
        PRIMARY KEY (study, site, slot)
    )",
];

/// Tasks of several kinds. A study's digest says since then which it has; as for masks.
const TASKS: &[&str] = &[
    "UPDATE studies SET earlier = 1",
    "DELETE FROM open_rounds",
    "DELETE FROM journal",
    "ALTER TABLE rounds ADD COLUMN dice DOUBLE PRECISION",
    "ALTER TABLE rounds ADD COLUMN hausdorff DOUBLE PRECISION",
    "ALTER TABLE rounds ADD COLUMN hausdorff_95 DOUBLE PRECISION",
];

/// Rounds that are kept to be added up again, or may have to be.
const RECOMPUTE: &[&str] = &[
    "CREATE TABLE kept_rounds (
        study TEXT NOT NULL,
        slot BIGINT NOT NULL,
        round BIGINT NOT NULL,
        sum TEXT NOT NULL,
        share DOUBLE PRECISION NOT NULL,
        record TEXT NOT NULL,
        bytes BIGINT NOT NULL,
        kept BIGINT NOT NULL,
        closed_ms BIGINT NOT NULL,
        PRIMARY KEY (study, slot)
    )",
    // Sites ask after each round what the log tells of them.
    "CREATE INDEX facts_of_study ON facts (study, kind)",
];

/// Which fact a charge is: what a site had told when a round's log head was signed is what counts
/// against it.
const CHARGE_FACTS: &[&str] = &["ALTER TABLE charges ADD COLUMN fact BIGINT NOT NULL DEFAULT 0"];

/// The version that this program writes.
const CURRENT: i64 = 6;
const _: () = assert!(MIGRATIONS.len() == 6, "a migration goes with a version");

/// Brings the database to [`CURRENT`], in the transaction given.
///
/// # Errors
/// [`StoreError::Newer`] when a newer program has written it.
pub(crate) async fn migrate(tx: &mut Transaction<'_, Sqlite>) -> Result<(), StoreError> {
    sqlx::query("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
        .execute(&mut **tx)
        .await?;
    let found: Option<i64> =
        sqlx::query_scalar("SELECT MAX(version) FROM schema_version").fetch_one(&mut **tx).await?;
    let found = found.unwrap_or(0);
    if found > CURRENT {
        return Err(StoreError::Newer { found, known: CURRENT });
    }
    let done =
        usize::try_from(found).map_err(|_| StoreError::Corrupt("schema version".to_owned()))?;
    for steps in MIGRATIONS.iter().skip(done) {
        for step in *steps {
            sqlx::query(*step).execute(&mut **tx).await?;
        }
    }
    if found < CURRENT {
        sqlx::query("INSERT INTO schema_version (version) VALUES ($1)")
            .bind(CURRENT)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// A database as the first version left it, with one study in the middle of its second round.
#[cfg(test)]
pub(crate) async fn first_version(folder: &std::path::Path, study: &str, manifest: &str) {
    use sqlx::ConnectOptions as _;
    std::fs::create_dir_all(folder).expect("a folder");
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(folder.join("coordinator.sqlite"))
        .create_if_missing(true);
    let mut database = options.connect().await.expect("opened");
    let model = aggregation::ids::Digest::sha256(b"model").to_string();
    for step in FIRST {
        sqlx::query(*step).execute(&mut database).await.expect("made");
    }
    let rows = [
        "CREATE TABLE schema_version (version BIGINT NOT NULL)",
        "INSERT INTO schema_version (version) VALUES (1)",
        "INSERT INTO studies VALUES
            ($1, 'test', $2, '[\"alpha\",\"beta\"]', 'running', '', 5, 2, 3, $3, NULL)",
        "INSERT INTO rounds VALUES
            ($1, 1, 1, 1, '', '[\"alpha\"]', '{\"beta\":\"was not ready in time\"}',
             NULL, NULL, NULL, 6, 7, '')",
        "UPDATE rounds SET model = (SELECT model FROM studies WHERE study = $1)",
        "INSERT INTO open_rounds VALUES ($1, 2, 8, '{}', '[]')",
        "INSERT INTO journal VALUES ($1, 2, 0, 9, '{\"input\":\"deadline\"}')",
    ];
    for row in rows {
        let mut query = sqlx::query(row);
        for value in [study, manifest, &model].into_iter().take(row.matches('$').count().min(3)) {
            query = query.bind(value);
        }
        query.execute(&mut database).await.expect("written");
    }
    sqlx::Connection::close(database).await.expect("closed");
}
