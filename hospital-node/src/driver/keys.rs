//! The keys of one study, before and between its rounds: a task of its own that does whatever this
//! house has left undone, each time the coordinator tells how far the keys are. Everything may be
//! told and said again; every step is journaled before it is said.

mod calls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aggregation::charter::Charter;
use aggregation::ids::{HospitalId, SlotId, StudyId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::provision::Provision;
use aggregation::keys::roll::{NoRoll, Roll};
use aggregation::secret::Secret;
use aggregation::setup::keyring::{Announced, Keyring};
use aggregation::setup::{SetupRefused, SignedAnnounce};
use proto::masks::setup::KeySetup;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;

use self::calls::FetchError;
use super::House;
use crate::entropy::{self, NoEntropy};
use crate::journal::{JournalError, LocalStudy, Ours};
use crate::link::{Backoff, Client, may_pass};

/// Why the keys of a study do not come on.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    /// The coordinator's answer, or that there was none.
    #[error("{}", .0.message())]
    Status(#[from] Status),
    /// What another hospital, or the coordinator, said does not hold.
    #[error("{} ({})", .0, .0.rule())]
    Refused(#[from] SetupRefused),
    /// A batch could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What is told now is not what was told first.
    #[error("{what} of the setup are not those that this house went by (M-27)")]
    Changed {
        /// What.
        what: &'static str,
    },
    /// The approval and the charter do not give a roll.
    #[error("{} ({})", .0, .0.rule())]
    NoRoll(#[from] NoRoll),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    /// A task of ours broke off.
    #[error("the work on the keys broke off")]
    Broken,
}

impl KeyError {
    /// Whether it is the way there that broke.
    fn may_pass(&self) -> bool {
        match self {
            Self::Status(status) | Self::Fetch(FetchError::Status(status)) => may_pass(status),
            Self::Refused(_)
            | Self::Fetch(_)
            | Self::Changed { .. }
            | Self::NoRoll(_)
            | Self::Journal(_)
            | Self::Entropy(_)
            | Self::Broken => false,
        }
    }
}

/// A study's task.
#[derive(Debug)]
pub(super) struct KeyTask {
    told: watch::Sender<(u64, KeySetup)>,
    /// The approval that it works under.
    local: LocalStudy,
    task: JoinHandle<()>,
}

impl Drop for KeyTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KeyTask {
    /// Begins with what the coordinator told in a session.
    ///
    /// # Errors
    /// When the approval does not give a roll.
    pub(super) fn start(
        house: House,
        local: &LocalStudy,
        clients: watch::Receiver<Option<Client>>,
        session: u64,
        setup: KeySetup,
    ) -> Result<Self, KeyError> {
        // An approval that gives no charter any more is told of when a round is offered.
        let charter = charter_of(local).ok_or(KeyError::NoRoll(NoRoll::Unmasked))?;
        let roll = Roll::new(&charter, &local.identities)?;
        let (told, hears) = watch::channel((session, setup));
        let desk = Desk {
            house,
            name: local.name.clone(),
            roll,
            clients,
            provision: None,
            session,
            confirmed: Confirmed::default(),
        };
        let task = tokio::spawn(desk.keep_up(hears));
        Ok(Self { told, local: local.clone(), task })
    }

    /// Whether it works under this approval.
    pub(super) fn works_under(&self, local: &LocalStudy) -> bool {
        (&self.local.sites, &self.local.identities) == (&local.sites, &local.identities)
    }

    /// The coordinator tells how far the keys are; only the newest counts.
    pub(super) fn tell(&self, session: u64, setup: KeySetup) {
        self.told.send_replace((session, setup));
    }
}

/// The charter of an approval, as far as it is understood.
fn charter_of(local: &LocalStudy) -> Option<Charter> {
    let study = proto::manifest::parse(&local.manifest).ok()?;
    Charter::new(study, local.sites.clone()).ok()
}

/// What the coordinator has confirmed in this session: it is not said again for an older notice.
#[derive(Debug, Default)]
struct Confirmed {
    announced: bool,
    revealed: bool,
    batch: Option<u64>,
    opened: Option<(u64, BTreeSet<HospitalId>)>,
}

struct Desk {
    house: House,
    name: String,
    roll: Roll,
    clients: watch::Receiver<Option<Client>>,
    provision: Option<Arc<Provision>>,
    session: u64,
    confirmed: Confirmed,
}

impl Desk {
    async fn keep_up(mut self, mut hears: watch::Receiver<(u64, KeySetup)>) {
        let mut backoff = Backoff::new();
        let mut said = String::new();
        loop {
            let (session, setup) = hears.borrow_and_update().clone();
            if session != self.session {
                self.session = session;
                self.confirmed = Confirmed::default();
            }
            match self.react(&setup).await {
                Ok(()) => {
                    backoff.reset();
                    said.clear();
                }
                Err(error) if error.may_pass() => {
                    tracing::debug!(study = self.name, %error, "the keys of a study wait");
                    tokio::select! {
                        () = tokio::time::sleep(backoff.wait()) => continue,
                        changed = hears.changed() => if changed.is_err() { return } else { continue },
                    }
                }
                Err(error) => {
                    // Once, however often we are told the same.
                    let text = error.to_string();
                    if said != text {
                        tracing::error!(study = self.name, %error, "ALARM: the keys of a study do not come on");
                        said = text;
                    }
                }
            }
            if hears.changed().await.is_err() {
                return;
            }
        }
    }

    const fn study(&self) -> StudyId {
        self.roll.study()
    }

    fn me(&self) -> &HospitalId {
        &self.house.me
    }

    async fn client(&mut self) -> Result<Client, KeyError> {
        let there = self.clients.wait_for(Option::is_some).await.map_err(|_| KeyError::Broken)?;
        there.clone().ok_or(KeyError::Broken)
    }

    /// Does what is left undone on our side, in the order in which it can be done.
    async fn react(&mut self, told: &KeySetup) -> Result<(), KeyError> {
        let kept = self.house.journal.keys(self.study()).await?;
        let kept = kept.filter(|kept| kept.roll == self.roll.digest());
        if let Some(setup) = kept.as_ref().and_then(|kept| kept.setup.as_ref()) {
            consistent(setup, told)?;
        }
        if self.provision.is_none()
            && let Some(kept) = &kept
        {
            self.provision = kept.provision(&self.roll)?.map(Arc::new);
        }
        let provision = match self.provision.clone() {
            Some(provision) => {
                self.repeat(told, kept.as_ref().and_then(|kept| kept.setup.as_ref())).await?;
                provision
            }
            None => match self.agree(told, kept.is_some()).await? {
                Some(provision) => provision,
                None => return Ok(()),
            },
        };
        self.exchange(told, &provision).await
    }

    /// Says again what a coordinator with an older backup has forgotten.
    async fn repeat(&mut self, told: &KeySetup, kept: Option<&KeySetup>) -> Result<(), KeyError> {
        let Some(kept) = kept else { return Ok(()) };
        let me = self.me().clone();
        if let Some(said) = kept.announced.get(&me)
            && !told.announced.contains_key(&me)
        {
            self.announce(said).await?;
        }
        let all = told.announced.len() == self.roll.identities().len();
        if let Some(nonce) = kept.nonces.get(&me)
            && all
            && !told.nonces.contains_key(&me)
        {
            self.reveal(nonce).await?;
        }
        Ok(())
    }

    async fn announce(&mut self, said: &SignedAnnounce) -> Result<(), KeyError> {
        if !self.confirmed.announced {
            calls::announce(&mut self.client().await?, said).await?;
            self.confirmed.announced = true;
        }
        Ok(())
    }

    async fn reveal(&mut self, nonce: &GraphNonce) -> Result<(), KeyError> {
        if !self.confirmed.revealed {
            calls::reveal(&mut self.client().await?, self.roll.study(), nonce).await?;
            self.confirmed.revealed = true;
        }
        Ok(())
    }

    /// From our announcement to the keys that we have in common with our neighbours.
    async fn agree(
        &mut self,
        told: &KeySetup,
        begun: bool,
    ) -> Result<Option<Arc<Provision>>, KeyError> {
        let journal = self.house.journal.clone();
        let study = self.study();
        if !begun {
            let agreement = Secret::new(entropy::secret()?);
            let nonce = GraphNonce::new(entropy::secret()?);
            journal.announce(&self.roll, agreement, nonce).await?;
        }
        let secrets = journal.announcement(study).await?;
        let (agreement, nonce) = secrets.ok_or(JournalError::Damaged("keys"))?;
        let announced =
            Announced::new(&self.roll, self.me(), &self.house.identity, &agreement, nonce);
        drop(agreement);
        if !told.announced.contains_key(self.me()) {
            self.announce(announced.said()).await?;
        }
        let everyone: BTreeSet<HospitalId> = self.roll.identities().keys().cloned().collect();
        if !everyone.iter().all(|site| told.announced.contains_key(site)) {
            return Ok(None);
        }
        // All are there: each of them is checked before our nonce is said.
        let nonce = announced.reveal(&self.roll, &told.announced)?;
        journal.announced(study, &told.announced).await?;
        if !told.nonces.contains_key(self.me()) {
            self.reveal(&nonce).await?;
        }
        if !everyone.iter().all(|site| told.nonces.contains_key(site)) {
            return Ok(None);
        }
        let (provision, keyring) = announced
            .agree(&self.roll, &told.announced, &told.nonces)
            .map_err(|(_, refused)| refused)?;
        journal.agreed(study, &told.announced, &told.nonces, &keyring).await?;
        journal.settle().await?;
        tracing::info!(
            study = self.name,
            neighbours = keyring.neighbourhood().neighbours().len(),
            "keys agreed with the other sites"
        );
        let provision = Arc::new(provision);
        self.provision = Some(Arc::clone(&provision));
        Ok(Some(provision))
    }

    /// Our batch of the number that is due, and those of our neighbours.
    async fn exchange(
        &mut self,
        told: &KeySetup,
        provision: &Arc<Provision>,
    ) -> Result<(), KeyError> {
        let journal = self.house.journal.clone();
        let (study, me, number) = (self.study(), self.me().clone(), told.batch);
        let ours = Ours { me: &me, provision };
        let keyring = self.catch_up(ours, number).await?;
        let own = match journal.batch(study, number).await? {
            Some(own) => own,
            None if provision.first_of(number) < keyring.next() => return Ok(()),
            None => self.make(ours, number, keyring).await?,
        };
        if !told.owners.contains(&me) && self.confirmed.batch != Some(number) {
            calls::leave(&mut self.client().await?, number, &own).await?;
            self.confirmed.batch = Some(number);
        }
        drop(own);
        let mut opened = journal.opened(study, number).await?;
        let neighbours = provision.neighbourhood(&me);
        let neighbours = neighbours.iter().flat_map(|near| near.neighbours());
        let mut wrong = None;
        for owner in neighbours.map(|member| &member.hospital) {
            if !told.owners.contains(owner) || opened.contains(owner) {
                continue;
            }
            match self.open(ours, owner, number).await {
                Ok(()) => {
                    opened.insert(owner.clone());
                }
                Err(error) if error.may_pass() => return Err(error),
                // One hospital's bad batch does not cost us the others'.
                Err(error) => wrong = wrong.or(Some(error)),
            }
        }
        // Those of which the coordinator has a batch: of others it would not know what we mean.
        opened.retain(|owner| told.owners.contains(owner));
        let said = Some((number, opened));
        let left = told.owners.contains(&me) || self.confirmed.batch == Some(number);
        if left && said != self.confirmed.opened {
            if let Some((_, opened)) = said.as_ref().filter(|(_, opened)| !opened.is_empty()) {
                calls::opened(&mut self.client().await?, study, number, opened).await?;
            }
            self.confirmed.opened = said;
        }
        wrong.map_or(Ok(()), Err)
    }

    /// The keyring, moved on when the rounds have left this house behind: the batch that is due may
    /// be at most one after the one that the keyring stands in.
    async fn catch_up(&self, ours: Ours<'_>, number: u64) -> Result<Keyring, KeyError> {
        let journal = &self.house.journal;
        let keyring = journal.keyring(ours).await?;
        let last = ours.provision.batch_of(keyring.next()).saturating_add(1);
        let over = ours.provision.first_of(number.saturating_sub(1)).get().checked_sub(1);
        let Some(over) = over.filter(|_| number > last) else { return Ok(keyring) };
        tracing::warn!(
            study = self.name,
            slot = over,
            "rounds were run without us; the keys up to this slot are passed over"
        );
        journal.pass(ours, SlotId::new(over)).await?;
        journal.settle().await?;
        Ok(journal.keyring(ours).await?)
    }

    async fn make(
        &self,
        ours: Ours<'_>,
        number: u64,
        keyring: Keyring,
    ) -> Result<aggregation::setup::SignedBatch, KeyError> {
        let (batch, seed) = (entropy::identifier()?, Secret::new(entropy::secret()?));
        let provision = ours.provision.clone();
        let identity = Arc::clone(&self.house.identity);
        let making = move || keyring.make(&provision, &identity, number, batch, seed);
        let made = tokio::task::spawn_blocking(making).await.map_err(|_| KeyError::Broken)??;
        let own = made.batch.clone();
        self.house.journal.made(ours, number, made).await?;
        tracing::info!(
            study = self.name,
            batch = number,
            slots = own.batch.slots(),
            "keys made for the next slots"
        );
        Ok(own)
    }

    async fn open(
        &mut self,
        ours: Ours<'_>,
        owner: &HospitalId,
        number: u64,
    ) -> Result<(), KeyError> {
        let mut client = self.client().await?;
        let stranger = || SetupRefused::Stranger { hospital: owner.clone() };
        let bytes = ours.provision.batch_bytes(owner).ok_or_else(stranger)?;
        let said = calls::fetch(&mut client, self.study(), number, owner, bytes).await?;
        let keyring = self.house.journal.keyring(ours).await?;
        let (provision, from) = (ours.provision.clone(), owner.clone());
        let opening = move || keyring.open(&provision, &from, number, &said);
        let opened = tokio::task::spawn_blocking(opening).await.map_err(|_| KeyError::Broken)??;
        Ok(self.house.journal.hold(ours, owner, number, opened).await?)
    }
}

/// What was told once does not change: more may come, nothing may be another.
fn consistent(kept: &KeySetup, told: &KeySetup) -> Result<(), KeyError> {
    let same = |what, same: bool| if same { Ok(()) } else { Err(KeyError::Changed { what }) };
    same("the announcements", agrees(&kept.announced, &told.announced))?;
    same("the nonces", agrees(&kept.nonces, &told.nonces))
}

/// Nobody is named twice with different words. What was kept is of everyone, or of nobody.
fn agrees<T: PartialEq>(kept: &BTreeMap<HospitalId, T>, told: &BTreeMap<HospitalId, T>) -> bool {
    kept.is_empty() || told.iter().all(|(site, said)| kept.get(site) == Some(said))
}
