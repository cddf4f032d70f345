//! Rounds: the journal of the open one, and the history of those that closed.
//!
//! The journal has every input that the open round has taken. Replayed into a fresh round with the
//! same terms and the same moments it gives the same round again, byte for byte.

use std::collections::{BTreeMap, BTreeSet};

use aggregation::checkpoint::LogHead;
use aggregation::ids::{Digest, HospitalId, RoundId, SlotId, StudyId};
use aggregation::life::Life;
use aggregation::message::{Terms, Work};
use aggregation::units::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::{Row as _, Sqlite, Transaction};

use super::course::{self, Absences, Courses};
use super::kept::Keeping;
use super::recorded::Recorded;
use super::studies::{round_of, slot_column};
use super::{
    Leaf, Store, StoreError, digest, hospital, leaf, millis, moment, names, names_text, number,
};

/// The open round of a study, as it can be rebuilt.
#[derive(Debug, Clone)]
pub(crate) struct OpenRound {
    /// What was announced.
    pub(crate) terms: Terms,
    /// When.
    pub(crate) opened: Timestamp,
    /// Sites that approved but were not invited.
    pub(crate) absent: Absences,
    /// Every input since, in order.
    pub(crate) journal: Vec<(Timestamp, Recorded)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TermsText {
    round: u32,
    slot: u64,
    work: String,
    model: String,
    invited: Vec<String>,
    ready_by_ms: u64,
    // A round that was open when there was no log yet has neither.
    #[serde(default)]
    log_size: u64,
    #[serde(default)]
    log_root: Option<String>,
}

/// Epsilon by either count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spent {
    /// Against the coordinator and the tolerated sites.
    pub(crate) planned: f64,
    /// Against everybody else together.
    pub(crate) solo: f64,
}

/// How well the regions of a segmentation fit; nothing in another study.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Fit {
    /// The mean Dice coefficient.
    pub(crate) dice: Option<f64>,
    /// The mean Hausdorff distance, in voxels.
    pub(crate) hausdorff: Option<f64>,
    /// The mean 95th percentile of distances, in voxels.
    pub(crate) hausdorff_95: Option<f64>,
}

/// A round that has closed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RoundRow {
    /// Which round.
    pub(crate) round: RoundId,
    /// Which attempt.
    pub(crate) slot: SlotId,
    /// Whether there was a release.
    pub(crate) released: bool,
    /// Why not; empty if there was.
    pub(crate) reason: String,
    /// Whose updates were complete.
    pub(crate) contributed: BTreeSet<HospitalId>,
    /// Who is missing, and why.
    pub(crate) dropped: BTreeMap<HospitalId, String>,
    /// What each site did, as far as that was seen.
    pub(crate) courses: Courses,
    /// Mean loss of the model that the round offered, if the round evaluated.
    pub(crate) loss: Option<f64>,
    /// Its AUROC.
    pub(crate) auroc: Option<f64>,
    /// Its accuracy.
    pub(crate) accuracy: Option<f64>,
    /// Of a segmentation, how well its regions fit.
    pub(crate) fit: Fit,
    /// What the patients of a private study have spent after it, at the study's delta.
    pub(crate) epsilon: Option<Spent>,
    /// When the round was announced.
    pub(crate) announced: Timestamp,
    /// When it closed.
    pub(crate) closed: Timestamp,
    /// The model after the round.
    pub(crate) model: Digest,
}

/// What a study's row becomes when a round closes.
#[derive(Debug, Clone)]
pub(crate) struct After {
    /// The round to run next.
    pub(crate) next_round: RoundId,
    /// The model it will offer.
    pub(crate) model: Digest,
    /// The server optimiser's state, if it has any.
    pub(crate) optimizer: Option<Digest>,
    /// Where the study stands, if that changed, and why.
    pub(crate) life: Option<(Life, String)>,
}

impl Store {
    /// Opens a round: its terms, the next slot, the facts.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn open_round(
        &self,
        terms: &Terms,
        absent: &Absences,
        now: Timestamp,
        facts: &[Leaf],
    ) -> Result<(), StoreError> {
        let text = TermsText {
            round: terms.round.get(),
            slot: terms.slot.get(),
            work: terms.work.name().to_owned(),
            model: terms.model.to_string(),
            invited: terms.invited.iter().map(ToString::to_string).collect(),
            ready_by_ms: terms.ready_by.as_millis(),
            log_size: terms.log.size,
            log_root: Some(terms.log.root.to_string()),
        };
        let text =
            serde_json::to_string(&text).map_err(|_| StoreError::Corrupt("terms".to_owned()))?;
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO open_rounds (study, slot, opened_ms, terms, absent) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(terms.study.to_string())
        .bind(slot_column(terms.slot))
        .bind(millis(now))
        .bind(text)
        .bind(course::absences_text(absent)?)
        .execute(&mut *tx)
        .await?;
        sqlx::query("UPDATE studies SET next_slot = $1 WHERE study = $2")
            .bind(slot_column(terms.slot.next()))
            .bind(terms.study.to_string())
            .execute(&mut *tx)
            .await?;
        leaf::commit(tx, now, facts).await
    }

    /// Keeps inputs and the facts that follow from them; `first` is the number of the first.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn journal(
        &self,
        study: StudyId,
        slot: SlotId,
        first: usize,
        inputs: &[(Timestamp, Recorded)],
        now: Timestamp,
        facts: &[Leaf],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let first =
            i64::try_from(first).map_err(|_| StoreError::Corrupt("the journal".to_owned()))?;
        for (seq, (at, input)) in (first..).zip(inputs) {
            sqlx::query(
                "INSERT INTO journal (study, slot, seq, at_ms, input) VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(study.to_string())
            .bind(slot_column(slot))
            .bind(seq)
            .bind(millis(*at))
            .bind(input.text()?)
            .execute(&mut *tx)
            .await?;
        }
        leaf::commit(tx, now, facts).await
    }

    /// The open round of a study, if there is one.
    ///
    /// # Errors
    /// When the database refuses, or is damaged.
    pub(crate) async fn opened(&self, study: StudyId) -> Result<Option<OpenRound>, StoreError> {
        let found =
            sqlx::query("SELECT slot, opened_ms, terms, absent FROM open_rounds WHERE study = $1")
                .bind(study.to_string())
                .fetch_optional(&self.readers)
                .await?;
        let Some(row) = found else { return Ok(None) };
        let damaged = || StoreError::Corrupt("the terms of an open round".to_owned());
        let text: TermsText = serde_json::from_str(row.try_get("terms")?).map_err(|_| damaged())?;
        let slot: i64 = row.try_get("slot")?;
        let inputs = sqlx::query(
            "SELECT at_ms, input FROM journal WHERE study = $1 AND slot = $2 ORDER BY seq",
        )
        .bind(study.to_string())
        .bind(slot)
        .fetch_all(&self.readers)
        .await?;
        let terms = Terms {
            study,
            round: RoundId::new(text.round).map_err(|_| damaged())?,
            slot: SlotId::new(text.slot),
            work: [Work::Train, Work::TrainAndEvaluate, Work::Evaluate]
                .into_iter()
                .find(|work| work.name() == text.work)
                .ok_or_else(damaged)?,
            model: digest(&text.model, "model")?,
            invited: text.invited.iter().map(|name| hospital(name)).collect::<Result<_, _>>()?,
            ready_by: Timestamp::from_millis(text.ready_by_ms),
            log: match &text.log_root {
                Some(root) => LogHead { size: text.log_size, root: digest(root, "log")? },
                None => LogHead::empty(),
            },
        };
        let journal = inputs
            .iter()
            .map(|row| {
                Ok((moment(row.try_get("at_ms")?), Recorded::from_text(row.try_get("input")?)?))
            })
            .collect::<Result<_, StoreError>>()?;
        let opened = moment(row.try_get("opened_ms")?);
        let absent = course::read_absences(row.try_get("absent")?)?;
        Ok(Some(OpenRound { terms, opened, absent, journal }))
    }

    /// Closes the open round: its row, what the study becomes, the facts, what is kept to be added
    /// up again; the journal goes. In a study that has ended meanwhile it is the last one.
    ///
    /// A model that `after` names must be on disk.
    ///
    /// # Errors
    /// When the database refuses; then the round is still open.
    pub(crate) async fn close_round(
        &self,
        study: StudyId,
        row: &RoundRow,
        after: &After,
        facts: &[Leaf],
        keeping: &Keeping,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        insert_round(&mut tx, study, row).await?;
        sqlx::query("DELETE FROM journal WHERE study = $1")
            .bind(study.to_string())
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM open_rounds WHERE study = $1")
            .bind(study.to_string())
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "UPDATE studies SET next_round = $1, model = $2, optimizer = $3 WHERE study = $4",
        )
        .bind(i64::from(after.next_round.get()))
        .bind(after.model.to_string())
        .bind(after.optimizer.map(|digest| digest.to_string()))
        .bind(study.to_string())
        .execute(&mut *tx)
        .await?;
        if let Some((life, reason)) = &after.life {
            sqlx::query("UPDATE studies SET life = $1, reason = $2 WHERE study = $3")
                .bind(life.name())
                .bind(reason)
                .bind(study.to_string())
                .execute(&mut *tx)
                .await?;
        }
        leaf::append(&mut tx, row.closed, facts).await?;
        keeping.apply(&mut tx, row.closed).await?;
        let life: String = sqlx::query_scalar("SELECT life FROM studies WHERE study = $1")
            .bind(study.to_string())
            .fetch_one(&mut *tx)
            .await?;
        if Life::from_name(&life).is_some_and(Life::ended) {
            let last = Keeping::last(&mut tx, study, keeping.space).await?;
            last.apply(&mut tx, row.closed).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Every round of a study that has closed, in order.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn history(&self, study: StudyId) -> Result<Vec<RoundRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT slot, round, released, reason, contributed, dropped, courses, loss, auroc, accuracy,
                dice, hausdorff, hausdorff_95,
                epsilon_planned, epsilon_solo, announced_ms, closed_ms, model
             FROM rounds WHERE study = $1 ORDER BY slot",
        )
        .bind(study.to_string())
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(round_row).collect()
    }

    /// How many rounds of a study were released.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn released(&self, study: StudyId) -> Result<u32, StoreError> {
        let count: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM rounds WHERE study = $1 AND released = 1")
                .bind(study.to_string())
                .fetch_one(&self.readers)
                .await?;
        number(count, "released rounds")
    }
}

async fn insert_round(
    tx: &mut Transaction<'_, Sqlite>,
    study: StudyId,
    row: &RoundRow,
) -> Result<(), StoreError> {
    let dropped = serde_json::Value::from_iter(
        row.dropped
            .iter()
            .map(|(site, why)| (site.to_string(), serde_json::Value::from(why.as_str()))),
    );
    sqlx::query(
        "INSERT INTO rounds (study, slot, round, released, reason, contributed, dropped,
            loss, auroc, accuracy, announced_ms, closed_ms, model, courses,
            epsilon_planned, epsilon_solo, dice, hausdorff, hausdorff_95)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
            $19)",
    )
    .bind(study.to_string())
    .bind(slot_column(row.slot))
    .bind(i64::from(row.round.get()))
    .bind(i64::from(row.released))
    .bind(&row.reason)
    .bind(names_text(&row.contributed))
    .bind(dropped.to_string())
    .bind(row.loss)
    .bind(row.auroc)
    .bind(row.accuracy)
    .bind(millis(row.announced))
    .bind(millis(row.closed))
    .bind(row.model.to_string())
    .bind(course::text(&row.courses)?)
    .bind(row.epsilon.map(|spent| spent.planned))
    .bind(row.epsilon.map(|spent| spent.solo))
    .bind(row.fit.dice)
    .bind(row.fit.hausdorff)
    .bind(row.fit.hausdorff_95)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn spent(row: &sqlx::sqlite::SqliteRow) -> Result<Option<Spent>, StoreError> {
    let planned: Option<f64> = row.try_get("epsilon_planned")?;
    let solo: Option<f64> = row.try_get("epsilon_solo")?;
    Ok(planned.zip(solo).map(|(planned, solo)| Spent { planned, solo }))
}

fn round_row(row: &sqlx::sqlite::SqliteRow) -> Result<RoundRow, StoreError> {
    let dropped: BTreeMap<String, String> = serde_json::from_str(row.try_get("dropped")?)
        .map_err(|_| StoreError::Corrupt("the dropped sites of a round".to_owned()))?;
    let released: i64 = row.try_get("released")?;
    Ok(RoundRow {
        round: round_of(row.try_get("round")?)?,
        slot: SlotId::new(number(row.try_get("slot")?, "slot")?),
        released: released != 0,
        reason: row.try_get("reason")?,
        contributed: names(row.try_get("contributed")?)?,
        dropped: dropped
            .into_iter()
            .map(|(site, why)| Ok((hospital(&site)?, why)))
            .collect::<Result<_, StoreError>>()?,
        courses: course::read(row.try_get("courses")?)?,
        loss: row.try_get("loss")?,
        auroc: row.try_get("auroc")?,
        accuracy: row.try_get("accuracy")?,
        fit: Fit {
            dice: row.try_get("dice")?,
            hausdorff: row.try_get("hausdorff")?,
            hausdorff_95: row.try_get("hausdorff_95")?,
        },
        epsilon: spent(row)?,
        announced: moment(row.try_get("announced_ms")?),
        closed: moment(row.try_get("closed_ms")?),
        model: digest(row.try_get("model")?, "model")?,
    })
}
