//! Studies, and what each site has decided about them.

use std::collections::{BTreeMap, BTreeSet};

use aggregation::ids::{Digest, HospitalId, RoundId, SlotId, StudyId};
use aggregation::keys::identity::IdentityKey;
use aggregation::life::Life;
use aggregation::units::Timestamp;
use data_encoding::HEXLOWER;
use proto::federation::Decision;
use sqlx::Row as _;

use super::kept::Keeping;
use super::{
    Leaf, Store, StoreError, bytes, digest, hospital, leaf, millis, names, names_text, number,
};

/// A study as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct StudyRow {
    /// Its digest.
    pub(crate) study: StudyId,
    /// What people call it.
    pub(crate) name: String,
    /// The manifest, verbatim.
    pub(crate) manifest: String,
    /// The roster, fixed when the study was proposed.
    pub(crate) sites: BTreeSet<HospitalId>,
    /// Where it stands.
    pub(crate) life: Life,
    /// Why it stands there, if that needs saying.
    pub(crate) reason: String,
    /// The round to run next.
    pub(crate) next_round: RoundId,
    /// The slot that the next attempt will have.
    pub(crate) next_slot: SlotId,
    /// The model that the next round offers.
    pub(crate) model: Digest,
    /// The server optimiser's state, if it has any.
    pub(crate) optimizer: Option<Digest>,
    /// The key that each site had enrolled with when the study was proposed.
    pub(crate) identities: BTreeMap<HospitalId, IdentityKey>,
    /// Whether a version without masks has written it: its digest is not of this manifest.
    pub(crate) earlier: bool,
}

/// The word that a decision is kept as.
pub(crate) fn decision_name(decision: Decision) -> &'static str {
    match decision {
        Decision::Unspecified => "none",
        Decision::Approved => "approved",
        Decision::Refused => "refused",
        Decision::Withdrawn => "withdrawn",
    }
}

fn decision_of(name: &str) -> Result<Decision, StoreError> {
    [Decision::Approved, Decision::Refused, Decision::Withdrawn]
        .into_iter()
        .find(|decision| decision_name(*decision) == name)
        .ok_or_else(|| StoreError::Corrupt("a decision".to_owned()))
}

impl Store {
    /// Keeps a proposed study with its fact; `false` if it was there already.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn propose_study(
        &self,
        row: &StudyRow,
        now: Timestamp,
        fact: Leaf,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "INSERT INTO studies
                (study, name, manifest, sites, life, reason, proposed_ms, next_round, next_slot, model,
                identities)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (study) DO NOTHING",
        )
        .bind(row.study.to_string())
        .bind(&row.name)
        .bind(&row.manifest)
        .bind(names_text(&row.sites))
        .bind(row.life.name())
        .bind(&row.reason)
        .bind(millis(now))
        .bind(i64::from(row.next_round.get()))
        .bind(slot_column(row.next_slot))
        .bind(row.model.to_string())
        .bind(identities_text(&row.identities))
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        leaf::commit(tx, now, &[fact]).await?;
        Ok(true)
    }

    /// Every study, in the order of their proposals.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn studies(&self) -> Result<Vec<StudyRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT study, name, manifest, sites, life, reason, next_round, next_slot, model,
                optimizer, identities, earlier
             FROM studies ORDER BY proposed_ms, study",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(study_of).collect()
    }

    /// What the sites of a study have decided; those that have not are absent.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn decisions(
        &self,
        study: StudyId,
    ) -> Result<BTreeMap<HospitalId, Decision>, StoreError> {
        let rows = sqlx::query("SELECT site, decision FROM decisions WHERE study = $1")
            .bind(study.to_string())
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| {
                Ok((hospital(row.try_get("site")?)?, decision_of(row.try_get("decision")?)?))
            })
            .collect()
    }

    /// Keeps a site's decision, the life that follows from it, and the facts.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn decide(
        &self,
        study: StudyId,
        site: &HospitalId,
        decision: Decision,
        life: Life,
        now: Timestamp,
        facts: &[Leaf],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO decisions (study, site, decision, decided_ms) VALUES ($1, $2, $3, $4)
             ON CONFLICT (study, site) DO UPDATE SET decision = $3, decided_ms = $4",
        )
        .bind(study.to_string())
        .bind(site.as_str())
        .bind(decision_name(decision))
        .bind(millis(now))
        .execute(&mut *tx)
        .await?;
        sqlx::query("UPDATE studies SET life = $1 WHERE study = $2")
            .bind(life.name())
            .bind(study.to_string())
            .execute(&mut *tx)
            .await?;
        leaf::commit(tx, now, facts).await
    }

    /// Keeps where a study stands, why, and the fact. With the end of a study its last round is
    /// settled; `space` is what all kept rounds may take. What became of it comes back.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn set_life(
        &self,
        study: StudyId,
        (life, reason): (Life, &str),
        now: Timestamp,
        fact: Leaf,
        space: u64,
    ) -> Result<Keeping, StoreError> {
        let mut tx = self.begin().await?;
        let mut keeping = Keeping::default();
        if life.ended() {
            keeping = Keeping::last(&mut tx, study, space).await?;
            // Before the fact of the end, so that no log ends between the two.
            keeping.apply(&mut tx, now).await?;
        }
        sqlx::query("UPDATE studies SET life = $1, reason = $2 WHERE study = $3")
            .bind(life.name())
            .bind(reason)
            .bind(study.to_string())
            .execute(&mut *tx)
            .await?;
        leaf::commit(tx, now, &[fact]).await?;
        Ok(keeping)
    }
}

/// Slots are counted from 1, one by one: they stay far below 2^63.
pub(super) fn slot_column(slot: SlotId) -> i64 {
    i64::try_from(slot.get()).unwrap_or(i64::MAX)
}

pub(super) fn round_of(column: i64) -> Result<RoundId, StoreError> {
    RoundId::new(number(column, "round")?).map_err(|_| StoreError::Corrupt("a round".to_owned()))
}

fn identities_text(identities: &BTreeMap<HospitalId, IdentityKey>) -> String {
    let one = |(site, key): (&HospitalId, &IdentityKey)| {
        (site.to_string(), serde_json::Value::from(HEXLOWER.encode(key.as_bytes())))
    };
    serde_json::Value::from_iter(identities.iter().map(one)).to_string()
}

fn read_identities(column: &str) -> Result<BTreeMap<HospitalId, IdentityKey>, StoreError> {
    let texts: BTreeMap<String, String> = serde_json::from_str(column)
        .map_err(|_| StoreError::Corrupt("a study's identity keys".to_owned()))?;
    let one = |(site, text): (&String, &String)| {
        Ok((hospital(site)?, IdentityKey::new(bytes(text, "an identity key")?)))
    };
    texts.iter().map(one).collect()
}

fn study_of(row: &sqlx::sqlite::SqliteRow) -> Result<StudyRow, StoreError> {
    let damaged = |what: &str| StoreError::Corrupt(what.to_owned());
    let optimizer: Option<&str> = row.try_get("optimizer")?;
    let earlier: i64 = row.try_get("earlier")?;
    Ok(StudyRow {
        study: StudyId::new(digest(row.try_get("study")?, "study")?),
        name: row.try_get("name")?,
        manifest: row.try_get("manifest")?,
        sites: names(row.try_get("sites")?)?,
        life: Life::from_name(row.try_get("life")?).ok_or_else(|| damaged("a study's life"))?,
        reason: row.try_get("reason")?,
        next_round: round_of(row.try_get("next_round")?)?,
        next_slot: SlotId::new(number(row.try_get("next_slot")?, "slot")?),
        model: digest(row.try_get("model")?, "model")?,
        optimizer: optimizer.map(|text| digest(text, "optimizer")).transpose()?,
        identities: read_identities(row.try_get("identities")?)?,
        earlier: earlier != 0,
    })
}
