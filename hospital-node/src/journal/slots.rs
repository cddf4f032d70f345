//! How far the work on each slot is.

use aggregation::ids::{Digest, SlotId, StudyId};
use aggregation::message::{DeclineReason, FinalSet, Roster, SignedSet, Terms};
use aggregation::units::Timestamp;
use prost::Message as _;
use proto::masks::round::{final_set, signed_set};
use proto::{decode, encode, federation};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Journal, JournalError, digest, signed, unsigned};

/// How far the work on a slot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Begun; whatever the trainer made is lost if we stop now.
    Begun,
    /// The update lies in the work folder; these are its digest and size. Whether the coordinator
    /// has it already is not kept: sending the same bytes again is answered as the first time.
    Trained(Packed),
    /// The masked update lies there in its stead, and its keys are gone.
    Masked(Packed, Progress),
    /// This site said, or will say, that it takes no part.
    Declined(DeclineReason),
    /// Over, one way or another; the bytes are gone.
    Closed,
}

/// What a masked slot has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The roster that it was masked for.
    pub roster: Roster,
    /// The final set, once it was fixed.
    pub set: Option<FinalSet>,
    /// The same with its signatures, once shares were given for it.
    pub signed: Option<SignedSet>,
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

impl Journal {
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
        "masked" | "signed" | "unmasked" => Stage::Masked(packed()?, progress(row)?),
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

fn progress(row: &SqliteRow) -> Result<Progress, JournalError> {
    let damaged = || JournalError::Damaged("slot");
    let roster: Vec<u8> = row.try_get("roster")?;
    let roster = federation::Roster::decode(roster.as_slice()).map_err(|_| damaged())?;
    let set = row.try_get::<Option<Vec<u8>>, _>("final_set")?.map(|bytes| {
        let said = federation::FinalSet::decode(bytes.as_slice()).ok();
        said.and_then(|said| final_set(&said).ok()).ok_or_else(damaged)
    });
    let signed = row.try_get::<Option<Vec<u8>>, _>("signed_set")?.map(|bytes| {
        let said = federation::SignedSet::decode(bytes.as_slice()).ok();
        said.and_then(|said| signed_set(&said).ok()).ok_or_else(damaged)
    });
    Ok(Progress {
        roster: decode::roster(&roster).map_err(|_| damaged())?,
        set: set.transpose()?,
        signed: signed.transpose()?,
    })
}
