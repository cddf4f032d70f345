//! This house's keys of a study, from its announcement to its batches: what it said of itself, what
//! the others said, what is left of its own slots, which shares it holds for others.

use std::collections::{BTreeMap, BTreeSet};

use aggregation::ids::{Digest, HospitalId, SlotId, StudyId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::Signature;
use aggregation::keys::provision::{FIRST_SLOT, Provision};
use aggregation::keys::roll::Roll;
use aggregation::keys::slots::PrekeyBatch;
use aggregation::secret::Secret;
use aggregation::setup::keyring::{Keyring, Made, Opened};
use aggregation::setup::{SignedAnnounce, SignedBatch};
use prost::Message as _;
use proto::federation;
use proto::masks::setup::{KeySetup, encode_key_setup, key_setup};
use sqlx::{Row as _, SqliteConnection};

use super::vault::{Agreed, Round, Secrets, Shelf, Vault};
use super::{Journal, JournalError, digest, signed, unsigned};
use crate::entropy;

/// Row kinds, each with pads of its own.
pub(super) const OWN: &str = "own";
pub(super) const HELD: &str = "held";

/// This house among the provisioned hospitals of a study.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ours<'a> {
    /// Who we are.
    pub me: &'a HospitalId,
    /// Who, by which keys, and who is whose neighbour.
    pub provision: &'a Provision,
}

impl Ours<'_> {
    pub(super) fn study(&self) -> StudyId {
        self.provision.roll().study()
    }

    /// The keyring in the journal.
    pub(super) fn keyring(&self, agreed: &Agreed) -> Result<Keyring, JournalError> {
        Keyring::resume(self.provision, self.me, &agreed.keyring)
            .ok_or(JournalError::Damaged("keyring"))
    }
}

/// How far the keys of a study are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeysLeft {
    /// This house has announced itself.
    Announced,
    /// It has agreed with its neighbours, and has keys for so many slots.
    Agreed {
        /// Slots for which it has left shares with its neighbours, and that are not over.
        slots: u64,
    },
}

/// What is public of a study's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The roll that they are for.
    pub roll: Digest,
    /// The announcements that count, once all were there; and the nonces, once all were there.
    pub setup: Option<KeySetup>,
    /// Whether this house has agreed with its neighbours.
    pub agreed: bool,
}

impl Kept {
    /// Who is whose neighbour, once it is agreed on.
    ///
    /// # Errors
    /// When the setup does not give what it gave.
    pub(crate) fn provision(&self, roll: &Roll) -> Result<Option<Provision>, JournalError> {
        let Some(setup) = self.setup.as_ref().filter(|_| self.agreed && self.roll == roll.digest())
        else {
            return Ok(None);
        };
        let announced = setup.announced.iter();
        let announced = announced.map(|(id, said)| (id.clone(), said.announce.clone())).collect();
        Provision::new(roll, &announced, &setup.nonces)
            .map(Some)
            .map_err(|_| JournalError::Damaged("setup"))
    }
}

impl Journal {
    /// The public part of a study's keys.
    ///
    /// # Errors
    /// The database's own; a damaged row.
    pub(crate) async fn keys(&self, study: StudyId) -> Result<Option<Kept>, JournalError> {
        let row = sqlx::query("SELECT roll, setup, agreed FROM keys WHERE study = ?1")
            .bind(key(study))
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let setup: Option<Vec<u8>> = row.try_get("setup")?;
        let setup = setup.map(|bytes| {
            let said = federation::KeySetup::decode(bytes.as_slice()).ok();
            said.and_then(|said| key_setup(&said).ok()).ok_or(JournalError::Damaged("setup"))
        });
        Ok(Some(Kept {
            roll: digest(&row, "roll", "keys")?,
            setup: setup.transpose()?,
            agreed: row.try_get("agreed")?,
        }))
    }

    /// The secrets behind this house's announcement, until it has agreed.
    ///
    /// # Errors
    /// The database's own; a damaged row.
    pub(crate) async fn announcement(
        &self,
        study: StudyId,
    ) -> Result<Option<(Secret<32>, GraphNonce)>, JournalError> {
        let mut db = self.pool.acquire().await?;
        Ok(match load(&mut db, study).await? {
            Some(Secrets::Announced { agreement, nonce }) => Some((agreement, nonce)),
            Some(Secrets::Agreed(_)) | None => None,
        })
    }

    /// Begins a study's keys, in place of any that were for another roll.
    ///
    /// # Errors
    /// The database's own; no randomness.
    pub(crate) async fn announce(
        &self,
        roll: &Roll,
        agreement: Secret<32>,
        nonce: GraphNonce,
    ) -> Result<(), JournalError> {
        let study = roll.study();
        let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        clear(&mut change, study).await?;
        sqlx::query("INSERT INTO keys (study, roll, agreed, sealed) VALUES (?1, ?2, 0, x'')")
            .bind(key(study))
            .bind(roll.digest().as_bytes().as_slice())
            .execute(&mut *change)
            .await?;
        store(&mut change, study, Some(&Secrets::Announced { agreement, nonce })).await?;
        change.commit().await?;
        Ok(())
    }

    /// All announcements are there, and hold: from now on these and no others.
    ///
    /// # Errors
    /// The database's own.
    pub(crate) async fn announced(
        &self,
        study: StudyId,
        announced: &BTreeMap<HospitalId, SignedAnnounce>,
    ) -> Result<(), JournalError> {
        sqlx::query("UPDATE keys SET setup = ?2 WHERE study = ?1 AND setup IS NULL")
            .bind(key(study))
            .bind(encoded(study, announced, &BTreeMap::new()))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// This house has agreed with its neighbours: its agreement secret is gone in the same step.
    ///
    /// # Errors
    /// The database's own; no randomness.
    pub(crate) async fn agreed(
        &self,
        study: StudyId,
        announced: &BTreeMap<HospitalId, SignedAnnounce>,
        nonces: &BTreeMap<HospitalId, GraphNonce>,
        keyring: &Keyring,
    ) -> Result<(), JournalError> {
        let shelf = Shelf::new(FIRST_SLOT, Secret::new(entropy::secret()?));
        let keyring = keyring.secrets();
        let secrets = Secrets::Agreed(Agreed { keyring, shelf, round: Round::Nothing });
        let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("UPDATE keys SET setup = ?2, agreed = 1 WHERE study = ?1")
            .bind(key(study))
            .bind(encoded(study, announced, nonces))
            .execute(&mut *change)
            .await?;
        store(&mut change, study, Some(&secrets)).await?;
        change.commit().await?;
        Ok(())
    }

    /// The keyring, for making a batch and for opening others'.
    ///
    /// # Errors
    /// The database's own; when there is none.
    pub(crate) async fn keyring(&self, ours: Ours<'_>) -> Result<Keyring, JournalError> {
        let mut db = self.pool.acquire().await?;
        ours.keyring(&agreed(&mut db, ours.study()).await?)
    }

    /// This house's batch of a number, if it was made.
    ///
    /// # Errors
    /// The database's own; a damaged row.
    pub(crate) async fn batch(
        &self,
        study: StudyId,
        number: u64,
    ) -> Result<Option<SignedBatch>, JournalError> {
        let damaged = || JournalError::Damaged("batch");
        let row =
            sqlx::query("SELECT signature, encoded FROM batch WHERE study = ?1 AND number = ?2")
                .bind(key(study))
                .bind(signed(number, "batch")?)
                .fetch_optional(&self.pool)
                .await?;
        let Some(row) = row else { return Ok(None) };
        let signature: Vec<u8> = row.try_get("signature")?;
        let signature = Signature::new(signature.try_into().map_err(|_| damaged())?);
        let batch = PrekeyBatch::decode(row.try_get("encoded")?).map_err(|_| damaged())?;
        Ok(Some(SignedBatch { batch, signature }))
    }

    /// Keeps a batch of this house with its own slots. Batches before the last one are over.
    ///
    /// # Errors
    /// The database's own; when there is one of this number already.
    pub(crate) async fn made(
        &self,
        ours: Ours<'_>,
        number: u64,
        made: Made,
    ) -> Result<(), JournalError> {
        let study = ours.study();
        let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let Agreed { shelf, .. } = agreed(&mut change, study).await?;
        sqlx::query(
            "INSERT INTO batch (study, number, signature, encoded) VALUES (?1, ?2, ?3, ?4)",
        )
        .bind(key(study))
        .bind(signed(number, "batch")?)
        .bind(made.batch.signature.as_bytes().as_slice())
        .bind(made.batch.batch.encoded())
        .execute(&mut *change)
        .await?;
        let own: BTreeMap<SlotId, _> = made.own.into_slots().collect();
        for (slot, hide) in within(&shelf, own.keys()) {
            let Some(own) = own.get(&slot) else { continue };
            sqlx::query("INSERT INTO own_slot (study, slot, hidden) VALUES (?1, ?2, ?3)")
                .bind(key(study))
                .bind(signed(slot.get(), "slot")?)
                .bind(hide.pad(OWN, ours.me, own.secrets().expose()).expose().as_slice())
                .execute(&mut *change)
                .await?;
        }
        for past in ["DELETE FROM batch", "DELETE FROM opened"] {
            sqlx::query(sqlx::AssertSqlSafe(format!(
                "{past} WHERE study = ?1 AND number < ?2 - 1"
            )))
            .bind(key(study))
            .bind(signed(number, "batch")?)
            .execute(&mut *change)
            .await?;
        }
        change.commit().await?;
        Ok(())
    }

    /// Whose batches of a number were opened.
    ///
    /// # Errors
    /// The database's own; a damaged row.
    pub(crate) async fn opened(
        &self,
        study: StudyId,
        number: u64,
    ) -> Result<BTreeSet<HospitalId>, JournalError> {
        let owners: Vec<String> =
            sqlx::query_scalar("SELECT owner FROM opened WHERE study = ?1 AND number = ?2")
                .bind(key(study))
                .bind(signed(number, "batch")?)
                .fetch_all(&self.pool)
                .await?;
        let owners = owners.iter().map(|owner| HospitalId::new(owner));
        owners.collect::<Result<_, _>>().map_err(|_| JournalError::Damaged("opened"))
    }

    /// Keeps the shares that this house holds of an owner's slots.
    ///
    /// # Errors
    /// The database's own.
    pub(crate) async fn hold(
        &self,
        ours: Ours<'_>,
        owner: &HospitalId,
        number: u64,
        opened: Opened,
    ) -> Result<(), JournalError> {
        let study = ours.study();
        let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let Agreed { shelf, .. } = agreed(&mut change, study).await?;
        let held: BTreeMap<SlotId, _> = opened.into_iter().collect();
        for (slot, hide) in within(&shelf, held.keys()) {
            let Some(held) = held.get(&slot) else { continue };
            // What is held already stays.
            sqlx::query(
                "INSERT OR IGNORE INTO held (study, slot, owner, hidden) VALUES (?1, ?2, ?3, ?4)",
            )
            .bind(key(study))
            .bind(signed(slot.get(), "slot")?)
            .bind(owner.as_str())
            .bind(hide.pad(HELD, owner, held.secrets().expose()).expose().as_slice())
            .execute(&mut *change)
            .await?;
        }
        sqlx::query("INSERT OR IGNORE INTO opened (study, number, owner) VALUES (?1, ?2, ?3)")
            .bind(key(study))
            .bind(signed(number, "batch")?)
            .bind(owner.as_str())
            .execute(&mut *change)
            .await?;
        change.commit().await?;
        Ok(())
    }

    /// Whether this house can mask in a slot with these others: it has its own keys for it, and
    /// holds a share of each.
    ///
    /// # Errors
    /// The database's own.
    pub(crate) async fn has_keys(
        &self,
        study: StudyId,
        slot: SlotId,
        others: &BTreeSet<&HospitalId>,
    ) -> Result<bool, JournalError> {
        let slot = signed(slot.get(), "slot")?;
        let own: i64 =
            sqlx::query_scalar("SELECT count(*) FROM own_slot WHERE study = ?1 AND slot = ?2")
                .bind(key(study))
                .bind(slot)
                .fetch_one(&self.pool)
                .await?;
        let held: Vec<String> =
            sqlx::query_scalar("SELECT owner FROM held WHERE study = ?1 AND slot = ?2")
                .bind(key(study))
                .bind(slot)
                .fetch_all(&self.pool)
                .await?;
        let held: BTreeSet<&str> = held.iter().map(String::as_str).collect();
        Ok(own == 1 && others.iter().all(|other| held.contains(other.as_str())))
    }

    /// How far the keys of a study are.
    ///
    /// # Errors
    /// The database's own.
    pub(crate) async fn keys_left(&self, study: StudyId) -> Result<Option<KeysLeft>, JournalError> {
        let agreed: Option<bool> = sqlx::query_scalar("SELECT agreed FROM keys WHERE study = ?1")
            .bind(key(study))
            .fetch_optional(&self.pool)
            .await?;
        let slots: i64 = sqlx::query_scalar("SELECT count(*) FROM own_slot WHERE study = ?1")
            .bind(key(study))
            .fetch_one(&self.pool)
            .await?;
        let slots = unsigned(slots, "slot")?;
        Ok(agreed
            .map(|agreed| if agreed { KeysLeft::Agreed { slots } } else { KeysLeft::Announced }))
    }

    /// A study is over: everything secret of it goes. Nothing happens where there is nothing.
    ///
    /// # Errors
    /// The database's own; no randomness.
    pub(crate) async fn erase_keys(&self, study: StudyId) -> Result<(), JournalError> {
        if self.keys(study).await?.is_none() {
            return Ok(());
        }
        let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        clear(&mut change, study).await?;
        store(&mut change, study, None).await?;
        change.commit().await?;
        self.settle().await
    }
}

/// The keys of these slots, as far as they are not passed.
fn within<'a>(
    shelf: &Shelf,
    slots: impl DoubleEndedIterator<Item = &'a SlotId>,
) -> impl Iterator<Item = (SlotId, super::vault::SlotKey)> {
    let last = slots.rev().next().copied();
    shelf.keys().take_while(move |(slot, _)| last.is_some_and(|last| *slot <= last))
}

pub(super) fn key(study: StudyId) -> Vec<u8> {
    study.digest().as_bytes().to_vec()
}

fn encoded(
    study: StudyId,
    announced: &BTreeMap<HospitalId, SignedAnnounce>,
    nonces: &BTreeMap<HospitalId, GraphNonce>,
) -> Vec<u8> {
    let (announced, nonces, owners) = (announced.clone(), nonces.clone(), BTreeSet::new());
    encode_key_setup(&KeySetup { study, announced, nonces, batch: 0, owners }).encode_to_vec()
}

/// Deletes every row of a study's keys.
async fn clear(db: &mut SqliteConnection, study: StudyId) -> Result<(), JournalError> {
    for table in ["keys", "batch", "own_slot", "held", "opened"] {
        sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM {table} WHERE study = ?1")))
            .bind(key(study))
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

async fn vault(db: &mut SqliteConnection) -> Result<Option<Vault>, JournalError> {
    let found: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT key FROM vault").fetch_optional(db).await?;
    let vault = found.map(|bytes| {
        let bytes = zeroize::Zeroizing::new(bytes);
        Secret::from_slice(&bytes).map(Vault::new).ok_or(JournalError::Damaged("vault"))
    });
    vault.transpose()
}

/// The secrets of a study, as they stand.
pub(super) async fn load(
    db: &mut SqliteConnection,
    study: StudyId,
) -> Result<Option<Secrets>, JournalError> {
    let sealed: Option<Vec<u8>> = sqlx::query_scalar("SELECT sealed FROM keys WHERE study = ?1")
        .bind(key(study))
        .fetch_optional(&mut *db)
        .await?;
    let Some(sealed) = sealed else { return Ok(None) };
    let vault = vault(db).await?.ok_or(JournalError::Damaged("vault"))?;
    vault.open(study, sealed).map(Some)
}

/// As [`load`], of a study whose keys are agreed on.
pub(super) async fn agreed(
    db: &mut SqliteConnection,
    study: StudyId,
) -> Result<Agreed, JournalError> {
    match load(db, study).await? {
        Some(Secrets::Agreed(agreed)) => Ok(agreed),
        Some(Secrets::Announced { .. }) | None => Err(JournalError::Damaged("keys")),
    }
}

/// Writes a study's secrets, or that there are none left, under a new vault key: what was sealed
/// before can be opened no more. To be called in a transaction.
pub(super) async fn store(
    db: &mut SqliteConnection,
    study: StudyId,
    secrets: Option<&Secrets>,
) -> Result<(), JournalError> {
    let fresh = Vault::new(Secret::new(entropy::secret()?));
    let mut pieces = Vec::new();
    let others = sqlx::query("SELECT study, sealed FROM keys WHERE study <> ?1")
        .bind(key(study))
        .fetch_all(&mut *db)
        .await?;
    if !others.is_empty() {
        let before = vault(db).await?.ok_or(JournalError::Damaged("vault"))?;
        for row in others {
            let other = StudyId::new(digest(&row, "study", "keys")?);
            let secrets = before.open(other, row.try_get("sealed")?)?;
            pieces.push((other, fresh.seal(other, &secrets)));
        }
    }
    pieces.extend(secrets.map(|secrets| (study, fresh.seal(study, secrets))));
    for (study, sealed) in pieces {
        sqlx::query("UPDATE keys SET sealed = ?2 WHERE study = ?1")
            .bind(key(study))
            .bind(sealed)
            .execute(&mut *db)
            .await?;
    }
    sqlx::query(
        "INSERT INTO vault (id, key) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET key = ?1",
    )
    .bind(fresh.expose().as_slice())
    .execute(&mut *db)
    .await?;
    Ok(())
}
