//! The setup of the keys at a hospital: whatever the coordinator shows to be missing is done, in
//! the order of the protocol, and written down before it is said.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aggregation::ids::{Digest, HospitalId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::roll::Roll;
use aggregation::secret::Secret;
use aggregation::setup::keyring::Announced;
use aggregation::setup::{SetupRefused, SignedBatch};

use crate::simulation::disk::{KeysPage, OwnPage};
use crate::simulation::hospital::{Hospital, Keyed};
use crate::simulation::stage::{Halt, Stage};
use crate::simulation::words::{Call, Keys};

impl Hospital {
    /// The announcement again, from the secrets that were kept.
    pub(super) fn announced(&self) -> Option<Announced> {
        let (agreement, nonce) = self.disk.seeds?;
        let identity = self.cast.identities.get(self.place)?;
        let nonce = GraphNonce::new(nonce);
        Some(Announced::new(&self.disk.roll, &self.id, identity, &Secret::new(agreement), nonce))
    }

    /// The keys again, from what was kept of them.
    pub(super) fn keys_from_disk(&self) -> Option<Keyed> {
        let provision = self.disk.provision()?;
        let keyring = self.disk.keyring(&self.id, &provision)?;
        Some(Keyed { provision: Arc::new(provision), keyring })
    }

    /// How far the keys are. Does what is missing on this side.
    pub(super) fn hear_of_keys(&mut self, stage: &mut Stage, told: &Keys) -> Result<(), Halt> {
        self.pins(told);
        let roll = Arc::clone(&self.disk.roll);
        self.make_seeds(stage)?;
        if !told.announced.contains_key(&self.id) {
            if let Some(own) = self.own_announcement() {
                stage.call(self.place, Call::Announce(own));
            }
            return Ok(());
        }
        let all = roll.identities().len();
        if told.announced.len() < all {
            return Ok(());
        }
        if !self.reveal(stage, &roll, told)? || told.nonces.len() < all {
            return Ok(());
        }
        if !self.agree(stage, &roll, told)? {
            return Ok(());
        }
        self.leave_batch(stage, told)?;
        self.fetch_batches(stage, told)
    }

    fn own_announcement(&self) -> Option<aggregation::setup::SignedAnnounce> {
        let mind = self.mind.as_ref()?;
        let fresh = mind.announced.as_ref().map(|announced| announced.said().clone());
        fresh.or_else(|| self.disk.announced.as_ref()?.get(&self.id).cloned())
    }

    fn make_seeds(&mut self, stage: &mut Stage) -> Result<(), Halt> {
        if self.disk.seeds.is_some() || self.disk.keys.is_some() {
            return Ok(());
        }
        let seeds = (stage.chance.bytes(), stage.chance.bytes());
        self.keep(stage, |disk| disk.seeds = Some(seeds))?;
        let announced = self.announced();
        if let Some(mind) = &mut self.mind {
            mind.announced = announced;
        }
        Ok(())
    }

    /// Reveals its nonce once all announcements hold. False when the setup cannot go on from here.
    fn reveal(&mut self, stage: &mut Stage, roll: &Roll, told: &Keys) -> Result<bool, Halt> {
        if let Some(first) = &self.disk.announced {
            if **first != *told.announced {
                stage.alarm(self.who(), format_args!("M-27 the announcements have changed"));
                return Ok(false);
            }
        } else {
            let Some(announced) = self.mind.as_ref().and_then(|mind| mind.announced.as_ref())
            else {
                return Ok(false);
            };
            if let Err(refused) = announced.reveal(roll, &told.announced) {
                self.refuses_keys(stage, &refused);
                return Ok(false);
            }
            let these = Arc::clone(&told.announced);
            self.keep(stage, |disk| disk.announced = Some(these))?;
        }
        if let (false, Some((_, nonce))) = (told.nonces.contains_key(&self.id), self.disk.seeds) {
            stage.call(self.place, Call::Nonce(GraphNonce::new(nonce)));
        }
        Ok(true)
    }

    /// Agrees with everybody, and forgets the secret that it agreed with. False when it cannot.
    fn agree(&mut self, stage: &mut Stage, roll: &Roll, told: &Keys) -> Result<bool, Halt> {
        if self.disk.keys.is_some() {
            return Ok(true);
        }
        let these = self.disk.announced.clone();
        let announced = self.mind.as_mut().and_then(|mind| mind.announced.take());
        let (Some(these), Some(announced)) = (these, announced) else { return Ok(false) };
        match announced.agree(roll, &these, &told.nonces) {
            Err((announced, refused)) => {
                if let Some(mind) = &mut self.mind {
                    mind.announced = Some(announced);
                }
                self.refuses_keys(stage, &refused);
                Ok(false)
            }
            Ok((_, keyring)) => {
                let secrets = keyring.secrets();
                if self.honest() {
                    let roots = secrets.expose().chunks(72).map(Digest::sha256);
                    let near = keyring.neighbourhood().neighbours().iter();
                    let roots = near.map(|member| member.hospital.clone()).zip(roots).collect();
                    stage.watch.agreed(&self.id, roots);
                }
                let keyring = secrets.expose().to_vec();
                let page = KeysPage { nonces: Arc::clone(&told.nonces), keyring };
                self.keep(stage, |disk| {
                    disk.keys = Some(page);
                    disk.seeds = None;
                })?;
                stage.say(self.who(), format_args!("has agreed on its keys"));
                self.remember(stage);
                Ok(true)
            }
        }
    }

    /// Makes the batch that is due, once, and sends it until it is there.
    fn leave_batch(&mut self, stage: &mut Stage, told: &Keys) -> Result<(), Halt> {
        if told.owners.contains(&self.id) {
            return Ok(());
        }
        let number = told.due;
        if !self.disk.batches.contains_key(&number) {
            let keys = self.mind.as_ref().and_then(|mind| mind.keys.as_ref());
            let identity = self.cast.identities.get(self.place);
            let (Some(keys), Some(identity)) = (keys, identity) else { return Ok(()) };
            let (id, seed) = (stage.chance.bytes(), stage.chance.bytes());
            let made = keys.keyring.make(&keys.provision, identity, number, id, Secret::new(seed));
            let made = match made {
                Ok(made) => made,
                Err(refused) => {
                    self.refuses_keys(stage, &refused);
                    return Ok(());
                }
            };
            let slots = made.own.into_slots().map(|(_, own)| *own.secrets().expose()).collect();
            let signed = Arc::new(self.spoils(stage, &seed, made.batch));
            let page = OwnPage { signed, slots: Arc::new(slots) };
            self.keep(stage, |disk| {
                disk.batches.insert(number, page);
            })?;
        }
        if let Some(page) = self.disk.batches.get(&number) {
            let batch = Arc::clone(&page.signed);
            stage.call(self.place, Call::Batch { number, batch });
        }
        Ok(())
    }

    /// Asks for the batches that it has not opened, and says which it has.
    fn fetch_batches(&mut self, stage: &mut Stage, told: &Keys) -> Result<(), Halt> {
        let number = told.due;
        let opened = self.opened(number);
        for owner in told.owners.iter().filter(|owner| **owner != self.id) {
            if !opened.contains(owner) {
                stage.call(self.place, Call::Fetch { number, owner: owner.clone() });
            }
        }
        self.tell_opened(stage, number);
        Ok(())
    }

    fn opened(&self, number: u64) -> BTreeSet<HospitalId> {
        self.disk.held.get(&number).into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    fn tell_opened(&self, stage: &mut Stage, number: u64) {
        let owners = self.opened(number);
        let noted = self.mind.as_ref().and_then(|mind| mind.noted);
        if !owners.is_empty() && noted != Some((number, owners.len())) {
            stage.call(self.place, Call::Opened { number, owners });
        }
    }

    /// Opens a batch that it asked for, and keeps the shares.
    pub(super) fn open_batch(
        &mut self,
        stage: &mut Stage,
        number: u64,
        owner: &HospitalId,
        batch: &SignedBatch,
    ) -> Result<(), Halt> {
        let there = self.disk.held.get(&number).is_some_and(|held| held.contains_key(owner));
        let keys = self.mind.as_ref().and_then(|mind| mind.keys.as_ref());
        let (false, Some(keys)) = (there, keys) else { return Ok(()) };
        match keys.keyring.open(&keys.provision, owner, number, batch) {
            Err(refused) => {
                self.refuses_keys(stage, &refused);
                Ok(())
            }
            Ok(opened) => {
                let shares = opened.iter().map(|(_, held)| *held.secrets().expose()).collect();
                let (owner, shares) = (owner.clone(), Arc::new(shares));
                self.keep(stage, |disk| {
                    disk.held.entry(number).or_default().insert(owner, shares);
                })?;
                self.tell_opened(stage, number);
                Ok(())
            }
        }
    }

    fn refuses_keys(&self, stage: &mut Stage, refused: &SetupRefused) {
        stage.alarm(self.who(), format_args!("{} {refused}", refused.rule()));
    }
}
