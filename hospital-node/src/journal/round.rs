//! A masked round's steps. Each is one transaction: what leaves this house, and what it erases for
//! that, become durable together (PROTOCOL M-15, M-16).

use std::collections::BTreeSet;

use aggregation::context::ContextDigest;
use aggregation::ids::{HospitalId, SlotId, StudyId};
use aggregation::keys::slots::{HeldShares, Kind, OwnSlot};
use aggregation::masking::keystream::Mask;
use aggregation::masking::sharing::{Holder, SecretScalar, Share};
use aggregation::message::{FinalSet, Roster, Shares, SignedSet};
use aggregation::secret::{Secret, SecretBytes};
use prost::Message as _;
use proto::federation::SharesRequest;
use proto::masks::round::{Place, encode_final_set, encode_shares, encode_signed_set};
use sqlx::{Row as _, SqliteConnection};
use zeroize::Zeroizing;

use super::keys::{HELD, OWN, Ours, agreed, key, store};
use super::vault::{Agreed, Round, Secrets};
use super::{Journal, JournalError, Packed, signed};

impl Journal {
    /// The masks of an update. Nothing has changed by it.
    ///
    /// # Errors
    /// When the keys of the slot are gone; the database's own.
    pub(crate) async fn masks(
        &self,
        ours: Ours<'_>,
        slot: SlotId,
        context: ContextDigest,
        members: &BTreeSet<HospitalId>,
    ) -> Result<Vec<Mask>, JournalError> {
        let mut db = self.pool.acquire().await?;
        let agreed = agreed(&mut db, ours.study()).await?;
        let own = own_slot(&mut db, ours, &agreed, slot).await?;
        let mut keyring = ours.keyring(&agreed)?;
        let seeds = keyring.take(slot).map_err(|_| no_keys(slot, "the seeds of the pairs"))?;
        Ok(keyring.masks(context, members, &own, &seeds))
    }

    /// The masked update lies in the work folder, synced; its keys, and those of all slots before,
    /// are gone with this step. From now on these bytes or none.
    ///
    /// # Errors
    /// When the keys of the slot are gone, or its work is not done; the database's own.
    pub(crate) async fn masked(
        &self,
        ours: Ours<'_>,
        roster: &Roster,
        packed: Packed,
    ) -> Result<(), JournalError> {
        let (study, slot) = (ours.study(), roster.slot);
        let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let mut agreed = agreed(&mut change, study).await?;
        let own = own_slot(&mut change, ours, &agreed, slot).await?;
        let mut keyring = ours.keyring(&agreed)?;
        keyring.take(slot).map_err(|_| no_keys(slot, "the seeds of the pairs"))?;
        agreed.keyring = keyring.secrets();
        let share = Secret::new(*own.share().value().secret().expose());
        agreed.round = Round::Masked(slot, share);
        // The held shares of this slot are still needed; those of earlier ones are not, nor are
        // our own slots up to this one.
        if let Some(before) = slot.get().checked_sub(1) {
            agreed.shelf.pass(SlotId::new(before));
        }
        sqlx::query("DELETE FROM own_slot WHERE study = ?1 AND slot <= ?2")
            .bind(key(study))
            .bind(signed(slot.get(), "slot")?)
            .execute(&mut *change)
            .await?;
        let changed = sqlx::query(
            "UPDATE slot SET stage = 'masked', digest = ?3, bytes = ?4, roster = ?5
             WHERE study = ?1 AND slot = ?2 AND stage = 'trained'",
        )
        .bind(key(study))
        .bind(signed(slot.get(), "slot")?)
        .bind(packed.digest.as_bytes().as_slice())
        .bind(signed(packed.bytes, "size")?)
        .bind(proto::encode::roster(roster).encode_to_vec())
        .execute(&mut *change)
        .await?;
        once(changed.rows_affected())?;
        store(&mut change, study, Some(&Secrets::Agreed(agreed))).await?;
        change.commit().await?;
        Ok(())
    }

    /// The final set that this house takes for the slot's; it signs no other.
    ///
    /// # Errors
    /// When there is one already; the database's own.
    pub(crate) async fn fixed(&self, set: &FinalSet) -> Result<(), JournalError> {
        let changed = sqlx::query(
            "UPDATE slot SET stage = 'signed', final_set = ?3
             WHERE study = ?1 AND slot = ?2 AND stage = 'masked'",
        )
        .bind(key(set.study))
        .bind(signed(set.slot.get(), "slot")?)
        .bind(encode_final_set(set).encode_to_vec())
        .execute(&self.pool)
        .await?;
        once(changed.rows_affected())
    }

    /// Takes the shares that a signed set asks for out of what is held, and erases all that is held
    /// for the slot in the same step. They are given by [`Journal::shares`].
    ///
    /// # Errors
    /// When a share is not held, or shares were given already; the database's own.
    pub(crate) async fn release(
        &self,
        ours: Ours<'_>,
        asked: &SignedSet,
        own: &BTreeSet<HospitalId>,
        recovery: &BTreeSet<HospitalId>,
    ) -> Result<(), JournalError> {
        let FinalSet { study, round, slot, terms, .. } = asked.set;
        let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let mut agreed = agreed(&mut change, study).await?;
        let holder = holder(ours)?;
        let mut shares = Shares::default();
        for id in own {
            let share = if id == ours.me {
                own_share(&agreed, slot, holder)?
            } else {
                held(&mut change, ours, &agreed, slot, id).await?.release(Kind::Own)
            };
            shares.own.insert(id.clone(), share);
        }
        for id in recovery {
            let share = held(&mut change, ours, &agreed, slot, id).await?.release(Kind::Recovery);
            shares.recovery.insert(id.clone(), share);
        }
        let request = encode_shares(&Place { study, round, slot, terms }, holder, &shares);
        agreed.round = Round::Given(slot, SecretBytes::new(request.encode_to_vec()));
        agreed.shelf.pass(slot);
        forget_rows(&mut change, study, slot).await?;
        let changed = sqlx::query(
            "UPDATE slot SET stage = 'unmasked', final_set = ?3, signed_set = ?4
             WHERE study = ?1 AND slot = ?2 AND stage IN ('masked', 'signed')",
        )
        .bind(key(study))
        .bind(signed(slot.get(), "slot")?)
        .bind(encode_final_set(&asked.set).encode_to_vec())
        .bind(encode_signed_set(asked).encode_to_vec())
        .execute(&mut *change)
        .await?;
        once(changed.rows_affected())?;
        store(&mut change, study, Some(&Secrets::Agreed(agreed))).await?;
        change.commit().await?;
        Ok(())
    }

    /// The shares that were given for a slot, in the same words every time.
    ///
    /// # Errors
    /// When none were given; the database's own.
    pub(crate) async fn shares(
        &self,
        study: StudyId,
        slot: SlotId,
    ) -> Result<SharesRequest, JournalError> {
        let mut db = self.pool.acquire().await?;
        match agreed(&mut db, study).await?.round {
            Round::Given(at, request) if at == slot => {
                SharesRequest::decode(request.expose()).map_err(|_| JournalError::Damaged("shares"))
            }
            Round::Given(..) | Round::Masked(..) | Round::Nothing => {
                Err(no_keys(slot, "the shares that were given"))
            }
        }
    }

    /// The slot is over, and all before it: their keys are gone, used or not. The bytes of the
    /// update may be deleted after this.
    ///
    /// # Errors
    /// The database's own; then nothing has changed.
    pub(crate) async fn close(
        &self,
        study: StudyId,
        slot: SlotId,
        outcome: &str,
        ours: Option<Ours<'_>>,
    ) -> Result<(), JournalError> {
        let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "UPDATE slot SET stage = 'closed', outcome = ?3, roster = NULL, final_set = NULL,
                 signed_set = NULL
             WHERE study = ?1 AND slot = ?2",
        )
        .bind(key(study))
        .bind(signed(slot.get(), "slot")?)
        .bind(outcome)
        .execute(&mut *change)
        .await?;
        if let Some(ours) = ours {
            pass(&mut change, ours, slot).await?;
        }
        change.commit().await?;
        Ok(())
    }

    /// Passes over all slots up to this one: this house was away while they were used.
    ///
    /// # Errors
    /// The database's own; then nothing has changed.
    pub(crate) async fn pass(&self, ours: Ours<'_>, slot: SlotId) -> Result<(), JournalError> {
        let mut change = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        pass(&mut change, ours, slot).await?;
        change.commit().await?;
        Ok(())
    }
}

async fn pass(db: &mut SqliteConnection, ours: Ours<'_>, slot: SlotId) -> Result<(), JournalError> {
    let study = ours.study();
    let mut agreed = agreed(db, study).await?;
    let mut keyring = ours.keyring(&agreed)?;
    keyring.pass(slot).map_err(|_| no_keys(slot, "it is too far ahead"))?;
    agreed.keyring = keyring.secrets();
    agreed.shelf.pass(slot);
    let over = match &agreed.round {
        Round::Masked(at, _) | Round::Given(at, _) => *at <= slot,
        Round::Nothing => false,
    };
    if over {
        agreed.round = Round::Nothing;
    }
    forget_rows(db, study, slot).await?;
    store(db, study, Some(&Secrets::Agreed(agreed))).await
}

async fn forget_rows(
    db: &mut SqliteConnection,
    study: StudyId,
    slot: SlotId,
) -> Result<(), JournalError> {
    for rows in [
        "DELETE FROM own_slot WHERE study = ?1 AND slot <= ?2",
        "DELETE FROM held WHERE study = ?1 AND slot <= ?2",
    ] {
        sqlx::query(rows)
            .bind(key(study))
            .bind(signed(slot.get(), "slot")?)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

async fn own_slot(
    db: &mut SqliteConnection,
    ours: Ours<'_>,
    agreed: &Agreed,
    slot: SlotId,
) -> Result<OwnSlot, JournalError> {
    let row = sqlx::query("SELECT hidden FROM own_slot WHERE study = ?1 AND slot = ?2")
        .bind(key(ours.study()))
        .bind(signed(slot.get(), "slot")?)
        .fetch_optional(db)
        .await?;
    let row = row.ok_or_else(|| no_keys(slot, "our own"))?;
    let secrets = shown(&row, agreed, slot, OWN, ours.me)?;
    OwnSlot::resume(holder(ours)?, &secrets).ok_or(JournalError::Damaged("own slot"))
}

async fn held(
    db: &mut SqliteConnection,
    ours: Ours<'_>,
    agreed: &Agreed,
    slot: SlotId,
    owner: &HospitalId,
) -> Result<HeldShares, JournalError> {
    let row = sqlx::query("SELECT hidden FROM held WHERE study = ?1 AND slot = ?2 AND owner = ?3")
        .bind(key(ours.study()))
        .bind(signed(slot.get(), "slot")?)
        .bind(owner.as_str())
        .fetch_optional(db)
        .await?;
    let row = row.ok_or_else(|| no_keys(slot, "a share that we should hold"))?;
    let secrets = shown(&row, agreed, slot, HELD, owner)?;
    HeldShares::resume(holder(ours)?, &secrets).ok_or(JournalError::Damaged("held share"))
}

fn shown(
    row: &sqlx::sqlite::SqliteRow,
    agreed: &Agreed,
    slot: SlotId,
    what: &str,
    owner: &HospitalId,
) -> Result<Secret<64>, JournalError> {
    let hidden: Vec<u8> = row.try_get("hidden")?;
    let hidden: [u8; 64] = hidden.try_into().map_err(|_| JournalError::Damaged("shelf"))?;
    let key = agreed.shelf.key(slot).ok_or_else(|| no_keys(slot, "they are passed over"))?;
    Ok(key.pad(what, owner, &hidden))
}

/// Our share of our own self secret, kept since the masking.
fn own_share(agreed: &Agreed, slot: SlotId, holder: Holder) -> Result<Share, JournalError> {
    match &agreed.round {
        Round::Masked(at, share) if *at == slot => {
            let value = SecretScalar::from_canonical(Secret::new(*Zeroizing::new(*share.expose())));
            Ok(Share::new(holder, value.ok_or(JournalError::Damaged("own share"))?))
        }
        Round::Masked(..) | Round::Given(..) | Round::Nothing => {
            Err(no_keys(slot, "our share of our own"))
        }
    }
}

fn holder(ours: Ours<'_>) -> Result<Holder, JournalError> {
    let near = ours.provision.neighbourhood(ours.me);
    near.map(|near| near.owner().holder).ok_or(JournalError::Damaged("roll"))
}

fn no_keys(slot: SlotId, what: &'static str) -> JournalError {
    JournalError::NoKeys { slot: slot.get(), what }
}

/// A step that was taken before is not taken again.
const fn once(changed: u64) -> Result<(), JournalError> {
    if changed == 1 { Ok(()) } else { Err(JournalError::Damaged("slot")) }
}
