//! What happened, as the append-only table of facts keeps it: canonical JSON, one leaf of the log
//! each. What the kinds say is in `LEAVES.md` of the crate `transparency`; whatever is written here
//! is a kind of that page. Never a secret, a single site's loss, or a label.

use aggregation::ids::StudyId;
use aggregation::units::Timestamp;
use serde_json::{Map, Value};
use sqlx::{Sqlite, Transaction};
use transparency::leaf::LeafError;
use transparency::time::UtcTime;

use super::StoreError;

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    kind: &'static str,
    study: Option<StudyId>,
    fields: Map<String, Value>,
}

impl Leaf {
    /// A fact of the consortium.
    pub(crate) fn new(kind: &'static str) -> Self {
        Self { kind, study: None, fields: Map::new() }
    }

    /// A fact of one study.
    pub(crate) fn of(study: StudyId, kind: &'static str) -> Self {
        Self { study: Some(study), ..Self::new(kind) }.with("study", study.digest().to_string())
    }

    /// The same with one more field.
    pub(crate) fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.add(key, value);
        self
    }

    /// Tells one thing more.
    pub(crate) fn add(&mut self, key: &'static str, value: impl Into<Value>) {
        self.fields.insert(key.to_owned(), value.into());
    }

    /// What it tells of.
    pub(crate) const fn kind(&self) -> &'static str {
        self.kind
    }

    fn canonical(&self, at: Timestamp) -> Result<Vec<u8>, LeafError> {
        let millis = at.as_millis();
        let time = UtcTime::from_millis(millis).ok_or(LeafError::Time(millis))?;
        let leaf = transparency::leaf::Leaf::new(self.kind, time, self.fields.clone())?;
        Ok(leaf.bytes().to_vec())
    }
}

/// Appends leaves in the transaction of what they tell of; how many there are then, which is the
/// number of the last, from 1.
///
/// # Errors
/// When the database refuses, or a leaf is too long for the log.
pub(crate) async fn append(
    tx: &mut Transaction<'_, Sqlite>,
    at: Timestamp,
    leaves: &[Leaf],
) -> Result<i64, StoreError> {
    let last: Option<i64> =
        sqlx::query_scalar("SELECT MAX(id) FROM facts").fetch_one(&mut **tx).await?;
    let mut id = last.unwrap_or(0);
    for leaf in leaves {
        id += 1;
        let text = String::from_utf8(leaf.canonical(at)?)
            .map_err(|_| StoreError::Corrupt("a fact".to_owned()))?;
        sqlx::query("INSERT INTO facts (id, at_ms, study, kind, leaf) VALUES ($1, $2, $3, $4, $5)")
            .bind(id)
            .bind(super::millis(at))
            .bind(leaf.study.map(|study| study.digest().to_string()))
            .bind(leaf.kind)
            .bind(text)
            .execute(&mut **tx)
            .await?;
    }
    Ok(id)
}

/// Ends a transaction with the leaves of what was done in it: both are kept, or neither is.
///
/// # Errors
/// As [`append`].
pub(crate) async fn commit(
    mut tx: Transaction<'_, Sqlite>,
    at: Timestamp,
    leaves: &[Leaf],
) -> Result<(), StoreError> {
    append(&mut tx, at, leaves).await?;
    tx.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_has_sorted_keys_and_no_spaces() {
        let leaf = Leaf::new("site_approved").with("site", "alpha").with("by", "operator/root");
        let bytes = leaf.canonical(Timestamp::from_millis(5)).expect("short");
        let expected =
            r#"{"by":"operator/root","kind":"site_approved","site":"alpha","time_ms":5,"v":1}"#;
        assert_eq!(bytes, expected.as_bytes());
        let long = leaf.with("reason", "x".repeat(65_536));
        assert!(matches!(long.canonical(Timestamp::from_millis(5)), Err(LeafError::TooLong(_))));
    }
}
