//! What the sites of a study have said in the setup of its keys. Nothing here is secret: the
//! shares in a batch are sealed for the neighbours.

use std::collections::{BTreeMap, BTreeSet};

use aggregation::ids::{Digest, HospitalId, StudyId};
use aggregation::keys::announce::{AgreementKey, KeyAnnounce};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::{Signature, Statement as _};
use aggregation::keys::slots::PrekeyBatch;
use aggregation::setup::SignedAnnounce;
use aggregation::units::Timestamp;
use data_encoding::HEXLOWER;
use sqlx::Row as _;

use super::{
    Leaf, Store, StoreError, bytes, digest, hospital, leaf, names, names_text, number as checked,
};

/// A batch as its row has it.
#[derive(Debug, Clone)]
pub(crate) struct BatchRow {
    /// Which of the owner's.
    pub(crate) number: u64,
    /// Whose.
    pub(crate) owner: HospitalId,
    /// SHA-256 of its blob.
    pub(crate) digest: Digest,
    /// By the owner's identity.
    pub(crate) signature: Signature<PrekeyBatch>,
    /// Whose batches of this number the owner has opened.
    pub(crate) opened: BTreeSet<HospitalId>,
}

/// What became of a batch that was to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchKept {
    /// It is kept now.
    New,
    /// It was known, and its blob, which was gone, is there again.
    Again,
    /// One with other bytes is known under this number: that one counts, even if its blob is gone.
    Other,
}

/// Batches are counted from 0, one by one: they stay far below 2^63.
fn column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Store {
    /// Keeps a site's announcement, with the fact.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn keep_announcement(
        &self,
        said: &SignedAnnounce,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let KeyAnnounce { study, charter, hospital, agreement, graph_nonce } = &said.announce;
        let agreement = HEXLOWER.encode(agreement.as_bytes());
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO announcements (study, site, agreement, commitment, charter, signature)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(study.to_string())
        .bind(hospital.as_str())
        .bind(&agreement)
        .bind(graph_nonce.to_string())
        .bind(charter.to_string())
        .bind(HEXLOWER.encode(said.signature.as_bytes()))
        .execute(&mut *tx)
        .await?;
        let fact = Leaf::of(*study, "key_announced")
            .with("site", hospital.as_str())
            .with("digest", said.announce.digest().to_string())
            .with("agreement", agreement)
            .with("commitment", graph_nonce.to_string())
            .with("roll", charter.to_string());
        leaf::commit(tx, now, &[fact]).await
    }

    /// The announcements of a study's sites.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn announcements(
        &self,
        study: StudyId,
    ) -> Result<Vec<SignedAnnounce>, StoreError> {
        let rows = sqlx::query(
            "SELECT site, agreement, commitment, charter, signature FROM announcements
             WHERE study = $1 ORDER BY site",
        )
        .bind(study.to_string())
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let announce = KeyAnnounce {
                    study,
                    charter: digest(row.try_get("charter")?, "a roll")?,
                    hospital: hospital(row.try_get("site")?)?,
                    agreement: AgreementKey::new(bytes(row.try_get("agreement")?, "a key")?),
                    graph_nonce: digest(row.try_get("commitment")?, "a commitment")?,
                };
                let signature = Signature::new(bytes(row.try_get("signature")?, "a signature")?);
                Ok(SignedAnnounce { announce, signature })
            })
            .collect()
    }

    /// Keeps a site's nonce, with the fact.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn keep_nonce(
        &self,
        study: StudyId,
        site: &HospitalId,
        nonce: &GraphNonce,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let nonce = HEXLOWER.encode(nonce.as_bytes());
        let mut tx = self.begin().await?;
        sqlx::query("INSERT INTO nonces (study, site, nonce) VALUES ($1, $2, $3)")
            .bind(study.to_string())
            .bind(site.as_str())
            .bind(&nonce)
            .execute(&mut *tx)
            .await?;
        let fact = Leaf::of(study, "key_nonce").with("site", site.as_str()).with("nonce", nonce);
        leaf::commit(tx, now, &[fact]).await
    }

    /// The nonces of a study's sites.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn nonces(
        &self,
        study: StudyId,
    ) -> Result<BTreeMap<HospitalId, GraphNonce>, StoreError> {
        let rows = sqlx::query("SELECT site, nonce FROM nonces WHERE study = $1")
            .bind(study.to_string())
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| {
                let nonce = GraphNonce::new(bytes(row.try_get("nonce")?, "a nonce")?);
                Ok((hospital(row.try_get("site")?)?, nonce))
            })
            .collect()
    }

    /// Keeps that a batch is there, with the fact; its blob must be on disk.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn keep_batch(
        &self,
        study: StudyId,
        row: &BatchRow,
        now: Timestamp,
    ) -> Result<BatchKept, StoreError> {
        let mut tx = self.begin().await?;
        let known: Option<String> = sqlx::query_scalar(
            "SELECT digest FROM batches WHERE study = $1 AND batch = $2 AND site = $3",
        )
        .bind(study.to_string())
        .bind(column(row.number))
        .bind(row.owner.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(known) = known {
            let same = known == row.digest.to_string();
            return Ok(if same { BatchKept::Again } else { BatchKept::Other });
        }
        sqlx::query(
            "INSERT INTO batches (study, batch, site, digest, signature, opened)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(study.to_string())
        .bind(column(row.number))
        .bind(row.owner.as_str())
        .bind(row.digest.to_string())
        .bind(HEXLOWER.encode(row.signature.as_bytes()))
        .bind(names_text(&row.opened))
        .execute(&mut *tx)
        .await?;
        let fact = Leaf::of(study, "prekey_batch")
            .with("site", row.owner.as_str())
            .with("batch", row.number)
            .with("digest", row.digest.to_string());
        leaf::commit(tx, now, &[fact]).await?;
        Ok(BatchKept::New)
    }

    /// Keeps whose batches a site has opened, besides those that it opened before.
    ///
    /// # Errors
    /// When the database refuses, or the site has left no batch itself.
    pub(crate) async fn keep_opened(
        &self,
        study: StudyId,
        number: u64,
        site: &HospitalId,
        owners: &BTreeSet<HospitalId>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let before: String = sqlx::query_scalar(
            "SELECT opened FROM batches WHERE study = $1 AND batch = $2 AND site = $3",
        )
        .bind(study.to_string())
        .bind(column(number))
        .bind(site.as_str())
        .fetch_one(&mut *tx)
        .await?;
        let mut opened: BTreeSet<HospitalId> = names(&before)?;
        opened.extend(owners.iter().cloned());
        sqlx::query("UPDATE batches SET opened = $1 WHERE study = $2 AND batch = $3 AND site = $4")
            .bind(names_text(&opened))
            .bind(study.to_string())
            .bind(column(number))
            .bind(site.as_str())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The batches of a study that are not past.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn batches(&self, study: StudyId) -> Result<Vec<BatchRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT batch, site, digest, signature, opened FROM batches
             WHERE study = $1 ORDER BY batch, site",
        )
        .bind(study.to_string())
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(BatchRow {
                    number: checked(row.try_get("batch")?, "a batch")?,
                    owner: hospital(row.try_get("site")?)?,
                    digest: digest(row.try_get("digest")?, "a batch")?,
                    signature: Signature::new(bytes(row.try_get("signature")?, "a signature")?),
                    opened: names(row.try_get("opened")?)?,
                })
            })
            .collect()
    }

    /// Forgets the batches before this one, rows first: what is left of their blobs nobody reads.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn forget_batches(
        &self,
        study: StudyId,
        before: u64,
    ) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM batches WHERE study = $1 AND batch < $2")
            .bind(study.to_string())
            .bind(column(before))
            .execute(&self.writer)
            .await?;
        self.blobs.drop_batches(study, before).await;
        Ok(())
    }
}
