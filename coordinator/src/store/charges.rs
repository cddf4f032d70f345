//! What sites have charged to their privacy ledgers, in their own signed words. A site is told its
//! newest one when it connects, so that a house which has put back an old copy notices (PROTOCOL D-28).

use aggregation::ids::{HospitalId, SlotId, StudyId};
use aggregation::units::Timestamp;
use data_encoding::HEXLOWER;
use proto::federation::LedgerEnd;
use sqlx::Row as _;

use super::studies::slot_column;
use super::{Leaf, Store, StoreError, leaf, number};

/// A charge to be kept.
#[derive(Debug)]
pub(crate) struct Charged<'a> {
    /// Whose.
    pub(crate) site: &'a HospitalId,
    /// For which study.
    pub(crate) study: StudyId,
    /// For which attempt.
    pub(crate) slot: SlotId,
    /// The number of its record in the site's ledger.
    pub(crate) seq: u64,
    /// The record and its signature.
    pub(crate) end: &'a LedgerEnd,
    /// Leaves of the log that the slot's round was opened on.
    pub(crate) opened_on: u64,
}

/// What became of a charge that was to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChargeKept {
    /// It is kept, now or since before.
    Kept,
    /// Another one is known for this slot.
    Other,
    /// The site had told of this record, or a later one, before the round was opened; or it has told
    /// of another one with this number.
    Old {
        /// The last record that it had told of.
        last: u64,
    },
}

impl Store {
    /// Keeps a charge, with the fact. A house that works for two studies at once may tell of its
    /// records out of order; but what it charges for a round comes after all that it had told of when
    /// the round was opened.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn keep_charge(
        &self,
        charged: &Charged<'_>,
        now: Timestamp,
        fact: Leaf,
    ) -> Result<ChargeKept, StoreError> {
        let record = HEXLOWER.encode(&charged.end.record);
        let mut tx = self.begin().await?;
        let known: Option<String> = sqlx::query_scalar(
            "SELECT record FROM charges WHERE study = $1 AND site = $2 AND slot = $3",
        )
        .bind(charged.study.to_string())
        .bind(charged.site.as_str())
        .bind(slot_column(charged.slot))
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(known) = known {
            return Ok(if known == record { ChargeKept::Kept } else { ChargeKept::Other });
        }
        let last: Option<i64> = sqlx::query_scalar(
            "SELECT MAX(seq) FROM charges WHERE site = $1 AND (fact <= $2 OR seq = $3)",
        )
        .bind(charged.site.as_str())
        .bind(i64::try_from(charged.opened_on).unwrap_or(i64::MAX))
        .bind(i64::try_from(charged.seq).unwrap_or(i64::MAX))
        .fetch_one(&mut *tx)
        .await?;
        let last: u64 = last.map_or(Ok(0), |last| number(last, "a ledger record"))?;
        if charged.seq <= last {
            return Ok(ChargeKept::Old { last });
        }
        let fact = leaf::append(&mut tx, now, &[fact]).await?;
        sqlx::query(
            "INSERT INTO charges (study, site, slot, seq, record, signature, fact)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(charged.study.to_string())
        .bind(charged.site.as_str())
        .bind(slot_column(charged.slot))
        .bind(i64::try_from(charged.seq).unwrap_or(i64::MAX))
        .bind(record)
        .bind(HEXLOWER.encode(&charged.end.signature))
        .bind(fact)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(ChargeKept::Kept)
    }

    /// Whether a site has charged for a slot.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn has_charged(
        &self,
        study: StudyId,
        slot: SlotId,
        site: &HospitalId,
    ) -> Result<bool, StoreError> {
        let found: Option<i64> = sqlx::query_scalar(
            "SELECT seq FROM charges WHERE study = $1 AND site = $2 AND slot = $3",
        )
        .bind(study.to_string())
        .bind(site.as_str())
        .bind(slot_column(slot))
        .fetch_optional(&self.readers)
        .await?;
        Ok(found.is_some())
    }

    /// The most charges that any one site has made in a study: what its patients have spent.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn most_charges(&self, study: StudyId) -> Result<u32, StoreError> {
        let most: Option<i64> = sqlx::query_scalar(
            "SELECT MAX(made) FROM
                (SELECT COUNT(*) AS made FROM charges WHERE study = $1 GROUP BY site) AS counted",
        )
        .bind(study.to_string())
        .fetch_one(&self.readers)
        .await?;
        most.map_or(Ok(0), |most| number(most, "charges"))
    }

    /// The newest record of a site's ledger that it has told of.
    ///
    /// # Errors
    /// When the database refuses, or holds what we never write.
    pub(crate) async fn ledger_end(
        &self,
        site: &HospitalId,
    ) -> Result<Option<LedgerEnd>, StoreError> {
        let row = sqlx::query(
            "SELECT record, signature FROM charges WHERE site = $1 ORDER BY seq DESC LIMIT 1",
        )
        .bind(site.as_str())
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let bytes = |column: &str| {
            let text: String = row.try_get(column)?;
            HEXLOWER
                .decode(text.as_bytes())
                .map_err(|_| StoreError::Corrupt("a ledger record".to_owned()))
        };
        Ok(Some(LedgerEnd { record: bytes("record")?, signature: bytes("signature")? }))
    }
}

#[cfg(test)]
mod tests {
    use aggregation::ids::Digest;

    use super::*;

    /// Breaks D-28 at the coordinator: records of two studies out of order are no old copy, and
    /// whatever a house had told of before the round was opened is.
    #[tokio::test]
    async fn a_charge_comes_after_what_was_told_of_before_its_round_was_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).await.expect("opened");
        let site = HospitalId::new("alpha").expect("a valid name");
        let studies = [b"one", b"two"].map(|name| StudyId::new(Digest::sha256(name)));
        let end = LedgerEnd { record: vec![1; 256], signature: vec![2; 64] };
        let keep = async |study: usize, slot, seq, opened_on| {
            let (study, slot) = (studies[study], SlotId::new(slot));
            let charged = Charged { site: &site, study, slot, seq, end: &end, opened_on };
            let now = Timestamp::from_millis(5);
            store.keep_charge(&charged, now, Leaf::of(study, "ledger_charge")).await.expect("kept")
        };
        assert_eq!(keep(0, 1, 2, 0).await, ChargeKept::Kept);
        assert_eq!(keep(1, 1, 1, 0).await, ChargeKept::Kept, "both rounds were open");
        assert_eq!(keep(1, 1, 1, 2).await, ChargeKept::Kept, "it is said again");
        assert_eq!(keep(1, 2, 2, 0).await, ChargeKept::Old { last: 2 }, "another under its number");
        assert_eq!(keep(1, 2, 2, 2).await, ChargeKept::Old { last: 2 });
        assert_eq!(keep(1, 2, 1, 1).await, ChargeKept::Old { last: 2 }, "fact 1 was record 2");
        assert_eq!(keep(1, 2, 4, 2).await, ChargeKept::Kept);
        assert_eq!(keep(0, 2, 3, 2).await, ChargeKept::Kept);
    }
}
