//! The facts as the log takes them: in order, and only once they are durable.

use aggregation::ids::{HospitalId, SlotId, StudyId};
use aggregation::keys::identity::{IdentityKey, Signature};
use aggregation::keys::witness::WitnessKey;
use aggregation::units::Timestamp;
use data_encoding::HEXLOWER;
use proto::limits::MAX_FACTS;
use serde_json::Value;
use sqlx::Row as _;

use super::{Leaf, Store, StoreError, bytes, hospital, leaf, number};

/// A site, its cosigning key, its identity key, and its word.
type Announced = (HospitalId, [u8; 32], [u8; 32], Signature<WitnessKey>);

impl Store {
    /// How many facts there are.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn facts(&self) -> Result<u64, StoreError> {
        let last: Option<i64> =
            sqlx::query_scalar("SELECT MAX(id) FROM facts").fetch_one(&self.readers).await?;
        number(last.unwrap_or(0), "of a fact")
    }

    /// The facts that follow the first so many, as leaves, at most `limit` of them.
    ///
    /// # Errors
    /// When the database refuses, or has a gap.
    pub(crate) async fn facts_after(
        &self,
        first: u64,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let from = i64::try_from(first)
            .map_err(|_| StoreError::Corrupt("a number of facts".to_owned()))?;
        let rows = sqlx::query("SELECT id, leaf FROM facts WHERE id > $1 ORDER BY id LIMIT $2")
            .bind(from)
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        let mut leaves = Vec::with_capacity(rows.len());
        for (expected, row) in (from.saturating_add(1)..).zip(&rows) {
            if row.try_get::<i64, _>("id")? != expected {
                return Err(StoreError::Corrupt(format!("the fact number {expected}")));
            }
            leaves.push(row.try_get("leaf")?);
        }
        Ok(leaves)
    }

    /// Updates and ledger charges of a site in one slot, among the first so many facts: each with its
    /// place from 0.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn facts_of_site(
        &self,
        study: StudyId,
        slot: SlotId,
        site: &HospitalId,
        size: u64,
    ) -> Result<Vec<(u64, String)>, StoreError> {
        // Leaves have one spelling, of which a part leaves most others out; the fields themselves decide.
        let pattern = format!(r#"%"slot":{},%"#, slot.get());
        let rows = sqlx::query(
            "SELECT id, leaf FROM facts
             WHERE study = $1 AND kind IN ('round_contribution', 'ledger_charge') AND id <= $2
                AND leaf LIKE $3 AND leaf ->> 'slot' = $4 AND leaf ->> 'site' = $5
             ORDER BY id LIMIT $6",
        )
        .bind(study.digest().to_string())
        .bind(i64::try_from(size).unwrap_or(i64::MAX))
        .bind(pattern)
        .bind(i64::try_from(slot.get()).unwrap_or(i64::MAX))
        .bind(site.as_str())
        .bind(i64::try_from(MAX_FACTS).unwrap_or(i64::MAX))
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let id: u64 = number(row.try_get("id")?, "of a fact")?;
                Ok((id.saturating_sub(1), row.try_get("leaf")?))
            })
            .collect()
    }

    /// Waits until everything that was committed before this call is durable. Commits themselves do
    /// not wait for the disk (`synchronous = NORMAL`): what they wrote is in the write-ahead log, or in
    /// the database, which SQLite makes durable before it begins the write-ahead log anew.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) async fn settle(&self) -> Result<(), StoreError> {
        self.settling.serve(self.sync()).await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        let disk = |fault: std::io::Error| StoreError::Disk(Box::new(fault));
        #[cfg(test)]
        if self.unsettled.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(disk(std::io::Error::other("refused by the test")));
        }
        let path = self.journal.clone();
        let synced = tokio::task::spawn_blocking(move || match std::fs::File::open(&path) {
            Ok(file) => file.sync_all(),
            Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(fault) => Err(fault),
        });
        synced.await.map_err(|fault| disk(std::io::Error::other(fault)))?.map_err(disk)
    }

    /// Keeps that a site cosigns with this key.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn keep_witness(
        &self,
        said: &WitnessKey,
        identity: &IdentityKey,
        signature: &Signature<WitnessKey>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let fact = Leaf::new("witness_announced")
            .with("site", said.hospital.as_str())
            .with("key", HEXLOWER.encode(&said.key))
            .with("identity_key", HEXLOWER.encode(identity.as_bytes()))
            .with("signature", HEXLOWER.encode(signature.as_bytes()));
        self.record(now, &[fact]).await
    }

    /// What sites said of their cosigning keys, in order: the last word of a site counts.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn announced_witnesses(&self) -> Result<Vec<Announced>, StoreError> {
        let damaged = || StoreError::Corrupt("the fact of a cosigning key".to_owned());
        let rows = sqlx::query("SELECT leaf FROM facts WHERE kind = $1 ORDER BY id")
            .bind("witness_announced")
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| {
                let text: &str = row.try_get("leaf")?;
                let fact: Value = serde_json::from_str(text).map_err(|_| damaged())?;
                let field = |key: &str| fact.get(key).and_then(Value::as_str).ok_or_else(damaged);
                let what = "the fact of a cosigning key";
                Ok((
                    hospital(field("site")?)?,
                    bytes(field("key")?, what)?,
                    bytes(field("identity_key")?, what)?,
                    Signature::new(bytes(field("signature")?, what)?),
                ))
            })
            .collect()
    }

    /// Appends facts that follow from no other row.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn record(&self, now: Timestamp, leaves: &[Leaf]) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        leaf::commit(tx, now, leaves).await
    }
}

#[cfg(test)]
mod tests {
    use aggregation::ids::Digest;

    use super::*;

    /// Whatever else a fact says, and wherever that stands in its spelling.
    #[tokio::test]
    async fn what_a_site_did_in_a_slot_is_found_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).await.expect("opened");
        let [study, other] = [b"one", b"two"].map(|name| StudyId::new(Digest::sha256(name)));
        let leaf = |study, kind, site: &str, slot: u64| {
            let of_slot = Leaf::of(study, kind).with("slot", slot).with("site", site);
            of_slot.with("spent_planned", 0.5).with("a_head", r#"{"slot":1,"site":"north"}"#)
        };
        let leaves = [
            leaf(study, "ledger_charge", "north", 1),
            leaf(study, "round_ready", "north", 1),
            leaf(study, "ledger_charge", "north", 11),
            leaf(study, "ledger_charge", "north-2", 1),
            leaf(other, "round_contribution", "north", 1),
            leaf(study, "round_contribution", "north", 1),
            Leaf::of(study, "round_contribution").with("slot", 1_u64).with("site", "north"),
        ];
        store.record(Timestamp::from_millis(1), &leaves).await.expect("kept");
        let (north, slot) = (HospitalId::new("north").expect("a name"), SlotId::new(1));
        let found = async |size| -> Vec<u64> {
            let facts = store.facts_of_site(study, slot, &north, size).await.expect("read");
            facts.into_iter().map(|(index, _)| index).collect()
        };
        assert_eq!(found(u64::MAX).await, [0, 5, 6]);
        assert_eq!(found(6).await, [0, 5]);
        store.close().await;
    }
}
