//! What happened, as the append-only table of facts keeps it: canonical JSON, one leaf each.
//!
//! Canonical means: keys sorted, no spaces, whole numbers only. Never a secret, a single site's
//! loss, or a label.

use std::collections::BTreeMap;

use aggregation::ids::StudyId;
use aggregation::units::Timestamp;
use serde_json::Value;
use sqlx::{Sqlite, Transaction};

use super::StoreError;

/// The version of the leaves' shape.
const LEAF_VERSION: u32 = 1;

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    kind: &'static str,
    study: Option<StudyId>,
    fields: BTreeMap<&'static str, Value>,
}

impl Leaf {
    /// A fact of the consortium.
    pub(crate) fn new(kind: &'static str) -> Self {
        Self { kind, study: None, fields: BTreeMap::new() }
    }

    /// A fact of one study.
    pub(crate) fn of(study: StudyId, kind: &'static str) -> Self {
        Self { kind, study: Some(study), fields: BTreeMap::new() }
    }

    /// The same with one more field.
    pub(crate) fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.fields.insert(key, value.into());
        self
    }

    fn canonical(&self, at: Timestamp) -> String {
        let mut all: BTreeMap<&str, Value> = BTreeMap::new();
        for (key, value) in &self.fields {
            all.insert(key, value.clone());
        }
        all.insert("v", LEAF_VERSION.into());
        all.insert("kind", self.kind.into());
        all.insert("time_ms", at.as_millis().into());
        if let Some(study) = self.study {
            all.insert("study", study.digest().to_string().into());
        }
        Value::from_iter(all).to_string()
    }
}

/// Appends leaves in the transaction of what they tell of.
///
/// # Errors
/// When the database refuses.
pub(crate) async fn append(
    tx: &mut Transaction<'_, Sqlite>,
    at: Timestamp,
    leaves: &[Leaf],
) -> Result<(), StoreError> {
    if leaves.is_empty() {
        return Ok(());
    }
    let last: Option<i64> =
        sqlx::query_scalar("SELECT MAX(id) FROM facts").fetch_one(&mut **tx).await?;
    let mut id = last.unwrap_or(0);
    for leaf in leaves {
        id += 1;
        sqlx::query("INSERT INTO facts (id, at_ms, study, kind, leaf) VALUES ($1, $2, $3, $4, $5)")
            .bind(id)
            .bind(super::millis(at))
            .bind(leaf.study.map(|study| study.digest().to_string()))
            .bind(leaf.kind)
            .bind(leaf.canonical(at))
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_has_sorted_keys_and_no_spaces() {
        let leaf = Leaf::new("site_approved").with("site", "alpha").with("by", "operator/root");
        assert_eq!(
            leaf.canonical(Timestamp::from_millis(5)),
            r#"{"by":"operator/root","kind":"site_approved","site":"alpha","time_ms":5,"v":1}"#
        );
    }
}
