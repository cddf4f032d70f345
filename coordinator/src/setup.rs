//! The keys for a study's masks, as they come in from its sites: checked, kept, and told to all of
//! them. What may be said when is decided by [`Gathering`]; here it is made durable first.
//!
//! Everything is level-triggered: sites are told how far the keys are, and each does what is missing
//! on its side. So any of it may be lost or said twice, and a restart needs no memory of its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aggregation::charter::Charter;
use aggregation::ids::{HospitalId, SlotId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::roll::Roll;
use aggregation::keys::slots::PrekeyBatch;
use aggregation::life::Life;
use aggregation::round::Masks;
use aggregation::setup::gathering::{Awaited, Gathering};
use aggregation::setup::{SetupRefused, SignedAnnounce, SignedBatch};
use bytes::Bytes;
use proto::masks::setup::{KeySetup, encode_key_setup};

use crate::board::{Entry, Told};
use crate::clock;
use crate::coordinator::Coordinator;
use crate::driver::Command;
use crate::store::setup::{BatchKept, BatchRow};
use crate::store::{Store, StoreError};

/// Sites are told once of what comes in so soon after one another.
const TOGETHER: Duration = Duration::from_millis(20);
/// Between two attempts at something that the disk refused.
const DISK_RETRY: Duration = Duration::from_secs(2);

/// How far the keys of one study are. Read from the store when it is first asked for, and again
/// after the store has refused something.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    gathering: Option<Gathering>,
    /// The sites are about to be told.
    telling: bool,
}

/// Something that a site says about its keys.
#[derive(Debug)]
pub(crate) enum Key {
    /// Its announcement.
    Announcement(SignedAnnounce),
    /// Its nonce for the graph.
    Nonce(GraphNonce),
    /// What it leaves with its neighbours.
    Batch {
        /// Of which slots.
        number: u64,
        /// The batch.
        said: SignedBatch,
    },
    /// Whose batches it has opened.
    Opened {
        /// Of which slots.
        number: u64,
        /// Whose.
        owners: BTreeSet<HospitalId>,
    },
}

/// Why something about keys is not taken, or not given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupFault {
    /// It does not hold.
    #[error(transparent)]
    Refused(#[from] SetupRefused),
    /// The study has no masks.
    #[error("the study sends its updates unmasked: there are no keys")]
    Unmasked,
    /// The study does not run.
    #[error("the study is {0}")]
    NotNow(Life),
    /// There is no such batch.
    #[error("there is no batch {number} of {owner}")]
    NoBatch {
        /// Which.
        number: u64,
        /// Whose.
        owner: HospitalId,
    },
    /// It cannot be kept or found.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who has the keys for a slot.
#[derive(Debug)]
pub(crate) enum Keyed {
    /// Nobody yet: this is missing, and without it there are none.
    Nobody(String),
    /// These can mask with one another.
    Able(BTreeSet<HospitalId>),
}

impl Coordinator {
    /// Takes what a site says about its keys. The same again is answered as the first time.
    ///
    /// # Errors
    /// When it does not hold, or cannot be kept. Then nothing has changed.
    pub(crate) async fn hear_key(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        from: &HospitalId,
        said: Key,
    ) -> Result<(), SetupFault> {
        let heard = self.try_hear_key(entry, from, said).await;
        if let Err(SetupFault::Refused(refused)) = &heard {
            let study = entry.id.short();
            tracing::warn!(%study, hospital = %from, rule = refused.rule(), reason = %refused, "key refused");
        }
        heard
    }

    async fn try_hear_key(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        from: &HospitalId,
        said: Key,
    ) -> Result<(), SetupFault> {
        gathers(entry)?;
        let mut setup = entry.setup.lock().await;
        let gathering = loaded(&self.store, entry, &mut setup).await?;
        let new = tokio::task::block_in_place(|| match &said {
            Key::Announcement(said) => gathering.announce(from, said.clone()),
            Key::Nonce(nonce) => gathering.reveal(from, *nonce),
            Key::Batch { number, said } => {
                due(entry, gathering, *number)?;
                gathering.batch(from, *number, said.clone())
            }
            Key::Opened { number, owners } => gathering.opened(from, *number, owners),
        })?;
        if !new {
            return Ok(());
        }
        let kept = keep(&self.store, entry, from, &said).await;
        if !matches!(kept, Ok(BatchKept::New)) {
            // What was taken is not what is kept: the store says how far things are.
            setup.gathering = None;
        }
        if kept? == BatchKept::Other {
            let hospital = from.clone();
            return Err(SetupRefused::Changed { hospital, what: "the batch" }.into());
        }
        tracing::debug!(study = %entry.id.short(), hospital = %from, what = said.name(), "key kept");
        self.tell_keys_soon(entry, &mut setup);
        Ok(())
    }

    /// The exact size of the batch that a site may send now.
    ///
    /// # Errors
    /// When none may come from it.
    pub(crate) async fn expects_batch(
        &self,
        entry: &Entry,
        from: &HospitalId,
        number: u64,
    ) -> Result<usize, SetupFault> {
        gathers(entry)?;
        let mut setup = entry.setup.lock().await;
        let gathering = loaded(&self.store, entry, &mut setup).await?;
        due(entry, gathering, number)?;
        let stranger = || SetupRefused::Stranger { hospital: from.clone() };
        let size = gathering.provision().and_then(|provision| provision.batch_bytes(from));
        Ok(size.ok_or_else(stranger)?)
    }

    /// A batch that was left here.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn batch(
        &self,
        entry: &Entry,
        owner: &HospitalId,
        number: u64,
    ) -> Result<SignedBatch, SetupFault> {
        gathers(entry)?;
        let mut setup = entry.setup.lock().await;
        let gathering = loaded(&self.store, entry, &mut setup).await?;
        let none = || SetupFault::NoBatch { number, owner: owner.clone() };
        gathering.batch_of(owner, number).cloned().ok_or_else(none)
    }

    /// Who of these can mask with one another in a slot.
    ///
    /// # Errors
    /// When the store refuses.
    pub(crate) async fn keyed(
        &self,
        entry: &Entry,
        slot: SlotId,
        willing: &BTreeSet<HospitalId>,
    ) -> Result<Keyed, StoreError> {
        let mut setup = entry.setup.lock().await;
        let gathering = loaded(&self.store, entry, &mut setup).await?;
        Ok(match gathering.awaited() {
            Awaited::Announcements(silent) => {
                Keyed::Nobody(format!("the keys of {}", listed(&silent)))
            }
            Awaited::Nonces(silent) => {
                Keyed::Nobody(format!("the nonces for the keys of {}", listed(&silent)))
            }
            Awaited::Nothing => Keyed::Able(gathering.able(slot, willing)),
        })
    }

    /// What it takes to take the masks of a slot out. None when the keys are not there.
    ///
    /// # Errors
    /// When the store refuses.
    pub(crate) async fn masks(
        &self,
        entry: &Entry,
        slot: SlotId,
    ) -> Result<Option<Arc<Masks>>, StoreError> {
        let mut setup = entry.setup.lock().await;
        Ok(loaded(&self.store, entry, &mut setup).await?.masks(slot).map(Arc::new))
    }

    /// The round of this slot has begun: earlier batches are past, and another may be due.
    pub(crate) async fn pass_keys(self: &Arc<Self>, entry: &Arc<Entry>, slot: SlotId) {
        let mut setup = entry.setup.lock().await;
        let passed = match loaded(&self.store, entry, &mut setup).await {
            Ok(gathering) => match gathering.provision() {
                Some(provision) => {
                    let number = provision.batch_of(slot);
                    gathering.forget_before(number);
                    self.store.forget_batches(entry.id, number).await
                }
                None => Ok(()),
            },
            Err(fault) => Err(fault),
        };
        if let Err(fault) = passed {
            // The next round tries again.
            tracing::warn!(study = %entry.id.short(), fault = %fault.chain(), "past keys are still there");
        }
        self.tell_keys_soon(entry, &mut setup);
    }

    /// Tells the sites of a study how far its keys are, and the driver that it may go on.
    ///
    /// # Errors
    /// When the store refuses.
    pub(crate) async fn tell_keys(&self, entry: &Arc<Entry>) -> Result<(), StoreError> {
        let mut setup = entry.setup.lock().await;
        setup.telling = false;
        let gathering = loaded(&self.store, entry, &mut setup).await?;
        let batch = batch_due(entry, gathering);
        let said = KeySetup {
            study: entry.id,
            announced: gathering.announced().clone(),
            nonces: gathering.nonces().clone(),
            batch,
            owners: gathering.owners(batch).cloned().collect(),
        };
        drop(setup);
        let said = Arc::new(encode_key_setup(&said));
        let driver = {
            let mut standing = entry.standing();
            standing.keys = Some(Arc::clone(&said));
            standing.driver.clone()
        };
        self.board.tell(&entry.sites, Told::Keys(said));
        if let Some(driver) = driver {
            // A full inbox means that the driver is busy, and will look at the keys next.
            let _ = driver.try_send(Command::Nudge);
        }
        Ok(())
    }

    /// As [`Self::tell_keys`]; again later when the store refuses.
    pub(crate) async fn tell_keys_now(self: &Arc<Self>, entry: &Arc<Entry>) {
        if let Err(fault) = self.tell_keys(entry).await {
            tracing::error!(study = %entry.id.short(), fault = %fault.chain(), "keys cannot be told");
            let mut setup = entry.setup.lock().await;
            self.tell_keys_soon(entry, &mut setup);
        }
    }

    /// The study has ended: what was left for its rounds goes.
    pub(crate) async fn forget_keys(&self, entry: &Entry) {
        let mut setup = entry.setup.lock().await;
        setup.gathering = None;
        if let Err(fault) = self.store.forget_batches(entry.id, u64::MAX).await {
            tracing::warn!(study = %entry.id.short(), fault = %fault.chain(), "past keys are still there");
        }
    }

    fn tell_keys_soon(self: &Arc<Self>, entry: &Arc<Entry>, setup: &mut Setup) {
        if std::mem::replace(&mut setup.telling, true) {
            return;
        }
        let (house, entry) = (Arc::clone(self), Arc::clone(entry));
        tokio::spawn(async move {
            let mut rest = TOGETHER;
            loop {
                tokio::select! {
                    () = house.board.until_closing() => return,
                    () = clock::wait_for(rest) => {}
                }
                match house.tell_keys(&entry).await {
                    Ok(()) => return,
                    Err(fault) => {
                        let study = entry.id.short();
                        tracing::error!(%study, fault = %fault.chain(), "keys cannot be told");
                        rest = DISK_RETRY;
                    }
                }
            }
        });
    }
}

impl Key {
    fn name(&self) -> &'static str {
        match self {
            Self::Announcement(_) => "announcement",
            Self::Nonce(_) => "nonce",
            Self::Batch { .. } => "batch",
            Self::Opened { .. } => "opened",
        }
    }
}

/// Names, for people.
pub(crate) fn listed<'a>(sites: impl IntoIterator<Item = &'a HospitalId>) -> String {
    sites.into_iter().map(HospitalId::as_str).collect::<Vec<_>>().join(", ")
}

/// Whether a study gathers keys at present.
fn gathers(entry: &Entry) -> Result<(), SetupFault> {
    if entry.study.cohort.danger_unmasked {
        return Err(SetupFault::Unmasked);
    }
    match entry.standing().life {
        Life::Running | Life::Paused => Ok(()),
        other @ (Life::Proposed
        | Life::Approved
        | Life::Completed
        | Life::Failed
        | Life::Stopped) => Err(SetupFault::NotNow(other)),
    }
}

fn batch_due(entry: &Entry, gathering: &Gathering) -> u64 {
    let next = entry.standing().next_slot;
    gathering.provision().map_or(0, |provision| provision.batch_of(next))
}

/// Only one batch of each site may come at any time, or they could fill the disk (PROTOCOL M-27).
fn due(entry: &Entry, gathering: &Gathering, number: u64) -> Result<(), SetupRefused> {
    if gathering.provision().is_none() {
        return Err(SetupRefused::Early { what: "a batch", before: "revealed their nonces" });
    }
    let last = batch_due(entry, gathering);
    if number == last { Ok(()) } else { Err(SetupRefused::NotDue { found: number, last }) }
}

/// Makes it durable.
async fn keep(
    store: &Store,
    entry: &Entry,
    from: &HospitalId,
    said: &Key,
) -> Result<BatchKept, StoreError> {
    let now = clock::now();
    match said {
        Key::Announcement(said) => store.keep_announcement(said, now).await?,
        Key::Nonce(nonce) => store.keep_nonce(entry.id, from, nonce, now).await?,
        Key::Batch { number, said } => {
            let bytes = Bytes::from_owner(Shared(said.batch.shared()));
            let digest = store.blobs.put_batch(entry.id, *number, bytes).await?;
            let (owner, signature) = (from.clone(), said.signature);
            let opened = BTreeSet::new();
            let row = BatchRow { number: *number, owner, digest, signature, opened };
            return store.keep_batch(entry.id, &row, now).await;
        }
        Key::Opened { number, owners } => {
            store.keep_opened(entry.id, *number, from, owners).await?;
        }
    }
    Ok(BatchKept::New)
}

/// A batch's bytes, to be sent or written without a copy.
pub(crate) struct Shared(pub(crate) Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The setup as it is kept.
async fn loaded<'a>(
    store: &Store,
    entry: &Entry,
    setup: &'a mut Setup,
) -> Result<&'a mut Gathering, StoreError> {
    let gathering = match setup.gathering.take() {
        Some(gathering) => gathering,
        None => load(store, entry).await?,
    };
    Ok(setup.gathering.insert(gathering))
}

async fn load(store: &Store, entry: &Entry) -> Result<Gathering, StoreError> {
    let damaged = || StoreError::Corrupt("the keys of a study".to_owned());
    let charter = Charter::new(entry.study.clone(), entry.sites.clone()).map_err(|_| damaged())?;
    let roll = Roll::new(&charter, &entry.identities).map_err(|_| damaged())?;
    let mut gathering = Gathering::new(roll);
    for said in store.announcements(entry.id).await? {
        let from = said.announce.hospital.clone();
        gathering.announce(&from, said).map_err(|_| damaged())?;
    }
    for (from, nonce) in store.nonces(entry.id).await? {
        gathering.reveal(&from, nonce).map_err(|_| damaged())?;
    }
    let mut there = Vec::new();
    for row in store.batches(entry.id).await? {
        let found = store.blobs.batch(entry.id, row.number, row.digest).await;
        let batch = match found {
            Ok(bytes) => PrekeyBatch::decode(Vec::from(bytes)).map_err(|_| damaged())?,
            Err(StoreError::Corrupt(what)) => {
                // Its owner is told that it is not there, and sends the same bytes again.
                tracing::warn!(study = %entry.id.short(), hospital = %row.owner, what, "batch is gone");
                continue;
            }
            Err(fault) => return Err(fault),
        };
        let said = SignedBatch { batch, signature: row.signature };
        gathering.batch(&row.owner, row.number, said).map_err(|_| damaged())?;
        there.push(row);
    }
    for BatchRow { number, owner, mut opened, .. } in there {
        opened.retain(|other| gathering.batch_of(other, number).is_some());
        gathering.opened(&owner, number, &opened).map_err(|_| damaged())?;
    }
    Ok(gathering)
}
