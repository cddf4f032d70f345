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
}

/// What became of a charge that was to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChargeKept {
    /// It is kept, now or since before.
    Kept,
    /// Another one is known for this slot.
    Other,
    /// The site has told of this record, or a later one, for something else.
    Old {
        /// The last record that it has told of.
        last: u64,
    },
}

impl Store {
    /// Keeps a charge, with the fact.
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
        let last: Option<i64> = sqlx::query_scalar("SELECT MAX(seq) FROM charges WHERE site = $1")
            .bind(charged.site.as_str())
            .fetch_one(&mut *tx)
            .await?;
        let last: u64 = last.map_or(Ok(0), |last| number(last, "a ledger record"))?;
        if charged.seq <= last {
            return Ok(ChargeKept::Old { last });
        }
        sqlx::query(
            "INSERT INTO charges (study, site, slot, seq, record, signature)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(charged.study.to_string())
        .bind(charged.site.as_str())
        .bind(slot_column(charged.slot))
        .bind(i64::try_from(charged.seq).unwrap_or(i64::MAX))
        .bind(record)
        .bind(HEXLOWER.encode(&charged.end.signature))
        .execute(&mut *tx)
        .await?;
        leaf::append(&mut tx, now, &[fact]).await?;
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
