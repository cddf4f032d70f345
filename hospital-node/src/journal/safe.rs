//! The secrets of all studies, opened together and sealed together: with each change under a new
//! vault key, so that what was sealed before can be opened no more.

use std::collections::BTreeMap;

use aggregation::ids::StudyId;
use aggregation::secret::Secret;
use sqlx::{Row as _, SqliteConnection};
use zeroize::Zeroizing;

use super::vault::{Agreed, Secrets, Vault};
use super::{JournalError, digest, key};
use crate::entropy;

/// Every study's secrets.
#[derive(Debug)]
pub(super) struct Safe(BTreeMap<StudyId, Secrets>);

impl Safe {
    /// Opens it. For a change, in the transaction that closes it again.
    pub(super) async fn open(db: &mut SqliteConnection) -> Result<Self, JournalError> {
        let rows = sqlx::query("SELECT keys.study, keys.sealed, vault.key FROM keys, vault")
            .fetch_all(db)
            .await?;
        let mut all = BTreeMap::new();
        for row in rows {
            let vault = Zeroizing::new(row.try_get::<Vec<u8>, _>("key")?);
            let vault = Secret::from_slice(&vault).map(Vault::new);
            let vault = vault.ok_or(JournalError::Damaged("vault"))?;
            let study = StudyId::new(digest(&row, "study", "keys")?);
            all.insert(study, vault.open(study, row.try_get("sealed")?)?);
        }
        Ok(Self(all))
    }

    /// One study's secrets, if it has any.
    pub(super) fn of(&self, study: StudyId) -> Option<&Secrets> {
        self.0.get(&study)
    }

    /// One study's secrets, which must be agreed on.
    pub(super) fn agreed(&mut self, study: StudyId) -> Result<&mut Agreed, JournalError> {
        match self.0.get_mut(&study) {
            Some(Secrets::Agreed(agreed)) => Ok(agreed),
            Some(Secrets::Announced { .. }) | None => Err(JournalError::Damaged("keys")),
        }
    }

    /// Puts a study's secrets in the place of those that it had. It has its row already.
    pub(super) fn put(&mut self, study: StudyId, secrets: Secrets) {
        self.0.insert(study, secrets);
    }

    /// Takes a study's secrets out. Its row is deleted by the caller.
    pub(super) fn remove(&mut self, study: StudyId) {
        self.0.remove(&study);
    }

    /// Seals everything anew.
    pub(super) async fn close(self, db: &mut SqliteConnection) -> Result<(), JournalError> {
        let fresh = Vault::new(Secret::new(entropy::secret()?));
        for (study, secrets) in self.0 {
            sqlx::query("UPDATE keys SET sealed = ?2 WHERE study = ?1")
                .bind(key(study))
                .bind(fresh.seal(study, &secrets))
                .execute(&mut *db)
                .await?;
        }
        sqlx::query(
            "INSERT INTO vault (id, key) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET key = ?1",
        )
        .bind(fresh.expose().as_slice())
        .execute(db)
        .await?;
        Ok(())
    }
}
