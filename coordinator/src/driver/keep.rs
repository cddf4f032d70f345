//! What is kept of a released round so that an auditor can add it up again, and for how long.

use std::collections::BTreeMap;
use std::sync::Arc;

use aggregation::ids::{Digest, HospitalId, StudyId};
use aggregation::masking::keystream::{KeyedMask, Sign};
use aggregation::round::Release;
use data_encoding::HEXLOWER;
use transparency::fact;
use transparency::recompute::{MaskKey, Record, Released, Upload};

use super::Driver;
use crate::coordinator::Coordinator;
use crate::store::StoreError;
use crate::store::kept::{Fate, Keeping, KeptRow};

impl Driver {
    /// What the closing of a round changes. The record is on disk before a row names it.
    pub(super) async fn keeping(&self, release: Option<&Release>) -> Result<Keeping, StoreError> {
        let house = &self.house;
        let mut keeping = Keeping { space: house.config.recompute.space, ..Keeping::default() };
        let Some(release) = release else { return Ok(keeping) };
        let next = release
            .uploads
            .iter()
            .map(|(site, digest)| (site.to_string(), spelt(digest)))
            .collect();
        for row in house.store.kept_rounds(Some(self.entry.id)).await? {
            if !row.kept {
                let fate = if drawn(&row, &next) { Fate::Drawn } else { Fate::NotDrawn };
                keeping.settled.push((row, fate));
            }
        }
        keeping.fresh = self.fresh(release).await?;
        Ok(keeping)
    }

    /// The share of this study's rounds that are kept.
    pub(super) fn share(&self) -> f64 {
        self.study.share.unwrap_or(self.house.config.recompute.share)
    }

    async fn fresh(&self, release: &Release) -> Result<Option<KeptRow>, StoreError> {
        let share = self.share();
        let terms = &release.terms;
        // A charter that rounds are run by has a format.
        let length = self.charter.format(terms.work).map_or(0, |format| format.packed_bytes());
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        if share == 0.0 {
            return Ok(None);
        }
        let upload = |(site, digest): (&HospitalId, &Digest)| {
            (site.to_string(), Upload { digest: spelt(digest), bytes: length })
        };
        let place = Released {
            study: spelt(&terms.study.digest()),
            round: terms.round.get().into(),
            slot: terms.slot.get(),
            sum: spelt(&release.sum),
        };
        let uploads: BTreeMap<_, _> = release.uploads.iter().map(upload).collect();
        let updates = length.saturating_mul(u64::try_from(uploads.len()).unwrap_or(u64::MAX));
        let masks = release.recovered.iter().map(kept).collect();
        // More masks than a record has room for: it cannot be kept, and the log says so.
        let record = Record::new(&place, release.modulus.bits(), uploads, masks).to_bytes();
        let Ok(bytes) = record else { return Ok(None) };
        let row = KeptRow {
            study: terms.study,
            slot: terms.slot,
            round: terms.round,
            sum: release.sum,
            share,
            record: Digest::sha256(&bytes),
            bytes: updates.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            kept: false,
            closed: self.house.clock.now(),
        };
        self.house.store.shelf.put_record(terms.study, terms.slot, bytes).await?;
        Ok(Some(row))
    }
}

impl Coordinator {
    /// Decides on what an earlier version has left waiting in a study that has no further round.
    async fn keep_last(&self, study: StudyId) -> Result<(), StoreError> {
        let rows = self.store.kept_rounds(Some(study)).await?;
        let waiting = rows.into_iter().filter(|row| !row.kept);
        self.settle(waiting.map(|row| (row, Fate::Drawn)).collect()).await
    }

    /// Forgets what has been kept for long enough.
    pub(crate) async fn expire_kept(&self) -> Result<(), StoreError> {
        let (now, retention) = (self.clock.now(), self.config.recompute.retention);
        let mut rows = self.store.kept_rounds(None).await?;
        rows.retain(|row| row.kept && row.closed.saturating_add(retention) <= now);
        self.settle(rows.into_iter().map(|row| (row, Fate::Forgotten("retention"))).collect()).await
    }

    async fn settle(&self, settled: Vec<(KeptRow, Fate)>) -> Result<(), StoreError> {
        if settled.is_empty() {
            return Ok(());
        }
        let keeping = Keeping { fresh: None, settled, space: self.config.recompute.space };
        self.store.settle_kept(&keeping, self.clock.now()).await?;
        self.log.ask();
        self.tidy(&keeping).await;
        Ok(())
    }

    /// Makes the files what the rows say after this; gives whether the updates of the round that closed
    /// are where they belong, and the rest may go.
    pub(crate) async fn tidy(&self, keeping: &Keeping) -> bool {
        let mut shelved = true;
        if let Some(row) = &keeping.fresh
            && let Err(fault) = self.store.shelf.shelve(row).await
        {
            shelved = false;
            tracing::error!(study = %row.study.short(), round = row.round.get(), fault = %fault.chain(),
                "the updates of a round cannot be kept; it is tried again at the next start");
        }
        let Ok(rows) = self.store.kept_rounds(None).await else { return shelved };
        for row in keeping.settled.iter().map(|(row, _)| row).chain(&keeping.fresh) {
            if !rows.iter().any(|kept| (kept.study, kept.slot) == (row.study, row.slot)) {
                self.store.shelf.forget(row.study, row.slot).await;
            }
        }
        shelved
    }

    /// Before any study is driven: makes files and rows agree after a crash, and decides on what
    /// nothing will decide any more.
    ///
    /// # Errors
    /// When the store refuses.
    pub(crate) async fn recover_kept(self: &Arc<Self>) -> Result<(), StoreError> {
        let rows = self.store.kept_rounds(None).await?;
        for (study, slot) in self.store.shelf.list().await? {
            let known = rows.iter().any(|row| (row.study, row.slot) == (study, slot));
            // The record of a round that is about to close is written again when it does.
            if !known {
                self.store.shelf.forget(study, slot).await;
            }
        }
        let mut damaged = Vec::new();
        for row in rows {
            if let Err(fault) = self.store.shelf.shelve(&row).await {
                if !is_lost(&fault) {
                    tracing::error!(study = %row.study.short(), round = row.round.get(), fault = %fault.chain(),
                        "what was kept of a round cannot be looked at; it stays as it is until the next start");
                    continue;
                }
                tracing::error!(study = %row.study.short(), round = row.round.get(), fault = %fault.chain(),
                    "what was kept of a round is damaged");
                damaged.push((row, Fate::Forgotten("damaged")));
            }
        }
        self.settle(damaged).await?;
        for entry in self.board.studies() {
            if entry.standing().life.ended() {
                self.keep_last(entry.id).await?;
            }
        }
        self.expire_kept().await
    }
}

/// Whether what was kept is gone or is not what it was, and not merely out of reach.
fn is_lost(fault: &StoreError) -> bool {
    use std::io::ErrorKind;
    let StoreError::Disk(fault) = fault else { return false };
    let io = fault.downcast_ref::<std::io::Error>();
    io.is_some_and(|io| matches!(io.kind(), ErrorKind::NotFound | ErrorKind::InvalidData))
}

fn drawn(row: &KeptRow, next: &BTreeMap<String, fact::Digest>) -> bool {
    let released = Released {
        study: spelt(&row.study.digest()),
        round: row.round.get().into(),
        slot: row.slot.get(),
        sum: spelt(&row.sum),
    };
    released.is_drawn(row.share, next)
}

fn kept(mask: &KeyedMask) -> MaskKey {
    let key = HEXLOWER.encode(mask.key.secret().expose());
    MaskKey { key, add: mask.sign == Sign::Add }
}

/// A digest as leaves spell it.
fn spelt(digest: &Digest) -> fact::Digest {
    fact::Digest::new(&digest.to_string()).expect("64 lower-case digits, as every digest is shown")
}
