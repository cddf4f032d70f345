//! The identity keys that the other hospitals are known by. The first one that is found is pinned, or
//! waits for an administrator, as this house's policy says; one that changes always waits.

use std::collections::BTreeMap;

use aggregation::ids::HospitalId;
use aggregation::keys::identity::IdentityKey;
use aggregation::units::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Journal, JournalError, signed, unsigned};
use crate::policy::NewSites;

/// What is known of one site's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pin {
    /// The key that counts, and since when.
    pub key: Option<(IdentityKey, Timestamp)>,
    /// Another one that the coordinator names, and since when. It counts for nothing.
    pub found: Option<(IdentityKey, Timestamp)>,
}

/// What was learnt of a site's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// It was new, and is pinned.
    Pinned,
    /// It is new, and waits for an administrator.
    Waits,
    /// It is not the one that was pinned.
    Changed,
}

impl Journal {
    /// Every site whose identity was ever seen.
    ///
    /// # Errors
    /// The database's own; a damaged row.
    pub(crate) async fn pins(&self) -> Result<BTreeMap<HospitalId, Pin>, JournalError> {
        let rows = sqlx::query("SELECT * FROM pin").fetch_all(&self.pool).await?;
        rows.iter().map(pin).collect()
    }

    /// The coordinator names these identities: keeps what is new, and gives it.
    ///
    /// # Errors
    /// The database's own; then nothing was learnt.
    pub(crate) async fn meet(
        &self,
        told: &BTreeMap<HospitalId, IdentityKey>,
        new: NewSites,
        now: Timestamp,
    ) -> Result<Vec<(HospitalId, IdentityKey, News)>, JournalError> {
        let known = self.pins().await?;
        let mut news = Vec::new();
        let mut changed = Vec::new();
        for (site, key) in told {
            let mut pin = known.get(site).copied().unwrap_or_default();
            let before = pin;
            let what = match (pin.key, new) {
                (Some((pinned, _)), _) if pinned == *key => {
                    pin.found = None;
                    None
                }
                (Some(_), _) => Some(News::Changed),
                (None, NewSites::Pin) => {
                    pin = Pin { key: Some((*key, now)), found: None };
                    Some(News::Pinned)
                }
                (None, NewSites::Ask) => Some(News::Waits),
            };
            let waits = matches!(what, Some(News::Changed | News::Waits));
            if waits && pin.found.is_none_or(|(found, _)| found != *key) {
                pin.found = Some((*key, now));
            }
            if pin != before {
                changed.push((site, pin));
                news.extend(what.map(|what| (site.clone(), *key, what)));
            }
        }
        if !changed.is_empty() {
            let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            for (site, pin) in changed {
                write(&mut change, site, &pin).await?;
            }
            change.commit().await?;
        }
        Ok(news)
    }

    /// An administrator accepts this key of a site.
    ///
    /// # Errors
    /// The database's own; then nothing has changed.
    pub(crate) async fn accept(
        &self,
        site: &HospitalId,
        key: IdentityKey,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        write(&mut change, site, &Pin { key: Some((key, now)), found: None }).await?;
        change.commit().await?;
        Ok(())
    }
}

async fn write(
    db: &mut sqlx::SqliteConnection,
    site: &HospitalId,
    pin: &Pin,
) -> Result<(), JournalError> {
    let at = |key: Option<(IdentityKey, Timestamp)>| {
        key.map(|(_, at)| signed(at.as_millis(), "time")).transpose()
    };
    let bytes = |key: Option<(IdentityKey, Timestamp)>| key.map(|(key, _)| key.as_bytes().to_vec());
    sqlx::query(
        "INSERT INTO pin (site, key, since_ms, found, found_ms) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (site) DO UPDATE SET key = ?2, since_ms = ?3, found = ?4, found_ms = ?5",
    )
    .bind(site.as_str())
    .bind(bytes(pin.key))
    .bind(at(pin.key)?)
    .bind(bytes(pin.found))
    .bind(at(pin.found)?)
    .execute(db)
    .await?;
    Ok(())
}

fn pin(row: &SqliteRow) -> Result<(HospitalId, Pin), JournalError> {
    let damaged = || JournalError::Damaged("pin");
    let key = |column: &str, at: &str| -> Result<_, JournalError> {
        let key: Option<Vec<u8>> = row.try_get(column)?;
        let at: Option<i64> = row.try_get(at)?;
        let (Some(key), Some(at)) = (key, at) else { return Ok(None) };
        let key = IdentityKey::new(key.try_into().map_err(|_| damaged())?);
        Ok(Some((key, Timestamp::from_millis(unsigned(at, "time")?))))
    };
    let site: String = row.try_get("site")?;
    let site = HospitalId::new(&site).map_err(|_| damaged())?;
    Ok((site, Pin { key: key("key", "since_ms")?, found: key("found", "found_ms")? }))
}
