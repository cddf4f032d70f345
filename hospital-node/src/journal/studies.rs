//! What this house decided about studies.

use std::collections::{BTreeMap, BTreeSet};

use aggregation::ids::{HospitalId, StudyId};
use aggregation::keys::identity::IdentityKey;
use aggregation::units::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Journal, JournalError, digest, signed, unsigned};

/// What this house decided about a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It takes part.
    Approved,
    /// It does not.
    Refused,
    /// It did, and does no longer.
    Withdrawn,
}

impl Decision {
    /// The word in the journal and on screen.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Refused => "refused",
            Self::Withdrawn => "withdrawn",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Approved, Self::Refused, Self::Withdrawn].into_iter().find(|d| d.name() == text)
    }
}

/// A study as this house knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalStudy {
    /// Its digest, as computed here.
    pub id: StudyId,
    /// Its name, for people.
    pub name: String,
    /// The manifest that was decided on, verbatim.
    pub manifest: String,
    /// The roster that was decided on.
    pub sites: BTreeSet<HospitalId>,
    /// The keys that the sites were known by when it was approved; none for a study without masks.
    pub identities: BTreeMap<HospitalId, IdentityKey>,
    /// The data set it may see, for an approval.
    pub data: Option<String>,
    /// What was decided.
    pub decision: Decision,
    /// When.
    pub decided: Timestamp,
    /// Whether the coordinator knows.
    pub told: bool,
}

impl Journal {
    /// Records a decision of this house, replacing an earlier one.
    ///
    /// # Errors
    /// The database's own; then the earlier decision stands.
    pub(crate) async fn decide(&self, study: &LocalStudy) -> Result<(), JournalError> {
        let sites: Vec<&str> = study.sites.iter().map(HospitalId::as_str).collect();
        // Complete or not at all: a study that masks needs every site's.
        let keys = study.sites.iter().map(|site| study.identities.get(site));
        let keys: Option<Vec<u8>> = keys
            .map(|key| key.map(|key| *key.as_bytes()))
            .collect::<Option<Vec<_>>>()
            .map(|keys| keys.concat());
        sqlx::query(
            "INSERT INTO study (digest, name, manifest, sites, data, decision, decided_ms, told, identities)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (digest) DO UPDATE SET name = ?2, manifest = ?3, sites = ?4, data = ?5,
                 decision = ?6, decided_ms = ?7, told = ?8, identities = ?9",
        )
        .bind(study.id.digest().as_bytes().as_slice())
        .bind(&study.name)
        .bind(&study.manifest)
        .bind(sites.join(","))
        .bind(&study.data)
        .bind(study.decision.name())
        .bind(signed(study.decided.as_millis(), "time")?)
        .bind(study.told)
        .bind(keys)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The coordinator confirmed this decision; one made since then stays untold.
    ///
    /// # Errors
    /// The database's own.
    pub(crate) async fn told(&self, id: StudyId, decision: Decision) -> Result<(), JournalError> {
        sqlx::query("UPDATE study SET told = 1 WHERE digest = ?1 AND decision = ?2")
            .bind(id.digest().as_bytes().as_slice())
            .bind(decision.name())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Every study that this house decided on, by name.
    ///
    /// # Errors
    /// The database's own; a damaged row.
    pub(crate) async fn studies(&self) -> Result<Vec<LocalStudy>, JournalError> {
        let rows =
            sqlx::query("SELECT * FROM study ORDER BY name, digest").fetch_all(&self.pool).await?;
        rows.iter().map(local_study).collect()
    }

    /// One study; `None` when this house decided nothing about it.
    ///
    /// # Errors
    /// The database's own; a damaged row.
    pub(crate) async fn study(&self, id: StudyId) -> Result<Option<LocalStudy>, JournalError> {
        let row = sqlx::query("SELECT * FROM study WHERE digest = ?1")
            .bind(id.digest().as_bytes().as_slice())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(local_study).transpose()
    }
}

fn local_study(row: &SqliteRow) -> Result<LocalStudy, JournalError> {
    let damaged = || JournalError::Damaged("study");
    let sites: String = row.try_get("sites")?;
    let sites = sites.split(',').map(HospitalId::new).collect::<Result<BTreeSet<_>, _>>();
    let sites = sites.map_err(|_| damaged())?;
    let identities = match row.try_get::<Option<Vec<u8>>, _>("identities")? {
        None => BTreeMap::new(),
        Some(keys) => match keys.as_chunks::<32>() {
            (keys, []) if keys.len() == sites.len() => {
                let keys = keys.iter().map(|key| IdentityKey::new(*key));
                sites.iter().cloned().zip(keys).collect()
            }
            _ => return Err(damaged()),
        },
    };
    let decision: String = row.try_get("decision")?;
    Ok(LocalStudy {
        id: StudyId::new(digest(row, "digest", "study")?),
        name: row.try_get("name")?,
        manifest: row.try_get("manifest")?,
        sites,
        identities,
        data: row.try_get("data")?,
        decision: Decision::parse(&decision).ok_or_else(damaged)?,
        decided: Timestamp::from_millis(unsigned(row.try_get("decided_ms")?, "time")?),
        told: row.try_get("told")?,
    })
}
