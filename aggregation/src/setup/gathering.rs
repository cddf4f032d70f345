//! What the coordinator gathers and passes on: a value, like a round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::{HospitalId, SlotId};
use crate::keys::graph::GraphNonce;
use crate::keys::provision::Provision;
use crate::keys::roll::Roll;
use crate::round::Masks;
use crate::setup::{SetupRefused, SignedAnnounce, SignedBatch, check_announce};

/// The setup of one study as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gathering {
    roll: Roll,
    announced: BTreeMap<HospitalId, SignedAnnounce>,
    nonces: BTreeMap<HospitalId, GraphNonce>,
    provision: Option<Arc<Provision>>,
    batches: BTreeMap<u64, BTreeMap<HospitalId, Gathered>>,
}

/// One hospital's batch, and whose batches of the same slots it has opened.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Gathered {
    batch: SignedBatch,
    opened: BTreeSet<HospitalId>,
}

/// What the setup waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Awaited {
    /// Announcements of these.
    Announcements(BTreeSet<HospitalId>),
    /// Nonces of these.
    Nonces(BTreeSet<HospitalId>),
    /// Nothing that every hospital has to have said; batches come as they come.
    Nothing,
}

impl Gathering {
    /// A setup in which nothing was said.
    #[must_use]
    pub const fn new(roll: Roll) -> Self {
        Self {
            roll,
            announced: BTreeMap::new(),
            nonces: BTreeMap::new(),
            provision: None,
            batches: BTreeMap::new(),
        }
    }

    /// Who it is of.
    #[must_use]
    pub const fn roll(&self) -> &Roll {
        &self.roll
    }

    /// What all hospitals have to say, and who has not.
    #[must_use]
    pub fn awaited(&self) -> Awaited {
        let all = self.roll.identities().keys();
        let silent: BTreeSet<_> =
            all.clone().filter(|id| !self.announced.contains_key(*id)).cloned().collect();
        if !silent.is_empty() {
            return Awaited::Announcements(silent);
        }
        let silent: BTreeSet<_> =
            all.filter(|id| !self.nonces.contains_key(*id)).cloned().collect();
        if silent.is_empty() { Awaited::Nothing } else { Awaited::Nonces(silent) }
    }

    /// A hospital announces itself. False when it had done so before.
    ///
    /// # Errors
    /// When it is a stranger, the announcement does not hold, or is another than before.
    pub fn announce(
        &mut self,
        from: &HospitalId,
        said: SignedAnnounce,
    ) -> Result<bool, SetupRefused> {
        check_announce(&self.roll, from, &said)?;
        match self.announced.get(from) {
            Some(first) if *first == said => Ok(false),
            Some(_) => Err(changed(from, "the announcement")),
            None => {
                self.announced.insert(from.clone(), said);
                Ok(true)
            }
        }
    }

    /// A hospital reveals its nonce; with the last of them the graph is drawn.
    ///
    /// # Errors
    /// Before all have announced themselves; when it is a stranger, or the nonce is not the one that
    /// it committed to (PROTOCOL M-25).
    pub fn reveal(&mut self, from: &HospitalId, nonce: GraphNonce) -> Result<bool, SetupRefused> {
        self.known(from)?;
        if let Awaited::Announcements(_) = self.awaited() {
            return Err(SetupRefused::Early { what: "a nonce", before: "announced" });
        }
        match self.nonces.get(from) {
            Some(first) if *first == nonce => return Ok(false),
            Some(_) => return Err(changed(from, "the nonce")),
            None => {}
        }
        let committed = self.announced.get(from).map(|said| said.announce.graph_nonce);
        if committed != Some(nonce.commitment(self.roll.study(), self.roll.digest(), from)) {
            let hospital = from.clone();
            return Err(crate::keys::graph::GraphRefused::OtherNonce { hospital }.into());
        }
        self.nonces.insert(from.clone(), nonce);
        if self.awaited() == Awaited::Nothing {
            let announced = self.announced.iter();
            let announced =
                announced.map(|(id, said)| (id.clone(), said.announce.clone())).collect();
            match Provision::new(&self.roll, &announced, &self.nonces) {
                Ok(provision) => self.provision = Some(Arc::new(provision)),
                Err(refused) => {
                    self.nonces.remove(from);
                    return Err(refused.into());
                }
            }
        }
        Ok(true)
    }

    /// A hospital's batch of so many-th slots.
    ///
    /// # Errors
    /// Before the graph is drawn; when it is a stranger, the batch is not of these slots, does not
    /// hold, or is another than before.
    pub fn batch(
        &mut self,
        from: &HospitalId,
        number: u64,
        said: SignedBatch,
    ) -> Result<bool, SetupRefused> {
        self.known(from)?;
        let early = SetupRefused::Early { what: "a batch", before: "revealed their nonces" };
        let provision = self.provision.as_ref().ok_or(early)?;
        check_batch(provision, from, number, &said)?;
        let batches = self.batches.entry(number).or_default();
        match batches.get(from) {
            Some(first) if first.batch == said => Ok(false),
            Some(_) => Err(changed(from, "the batch")),
            None => {
                batches.insert(from.clone(), Gathered { batch: said, opened: BTreeSet::new() });
                Ok(true)
            }
        }
    }

    /// A hospital says whose batches it has opened, checked and kept the shares of.
    ///
    /// # Errors
    /// When it, or one of them, has no batch there itself.
    pub fn opened(
        &mut self,
        from: &HospitalId,
        number: u64,
        owners: &BTreeSet<HospitalId>,
    ) -> Result<bool, SetupRefused> {
        self.known(from)?;
        let missing = |hospital: &HospitalId| SetupRefused::Missing {
            hospital: hospital.clone(),
            what: "the batch",
        };
        let batches = self.batches.get_mut(&number).ok_or_else(|| missing(from))?;
        if let Some(owner) = owners.iter().find(|owner| !batches.contains_key(*owner)) {
            return Err(missing(owner));
        }
        let own = batches.get_mut(from).ok_or_else(|| missing(from))?;
        let before = own.opened.len();
        own.opened.extend(owners.iter().cloned());
        Ok(own.opened.len() > before)
    }

    /// Announcements so far.
    #[must_use]
    pub const fn announced(&self) -> &BTreeMap<HospitalId, SignedAnnounce> {
        &self.announced
    }

    /// Nonces so far.
    #[must_use]
    pub const fn nonces(&self) -> &BTreeMap<HospitalId, GraphNonce> {
        &self.nonces
    }

    /// The roll and the graph, once it is drawn.
    #[must_use]
    pub const fn provision(&self) -> Option<&Arc<Provision>> {
        self.provision.as_ref()
    }

    /// One hospital's batch.
    #[must_use]
    pub fn batch_of(&self, owner: &HospitalId, number: u64) -> Option<&SignedBatch> {
        self.batches.get(&number)?.get(owner).map(|gathered| &gathered.batch)
    }

    /// Who has left a batch of this number.
    pub fn owners(&self, number: u64) -> impl Iterator<Item = &HospitalId> {
        self.batches.get(&number).into_iter().flat_map(BTreeMap::keys)
    }

    /// Of these hospitals the most that can mask with one another in a slot: each has left its
    /// batch, and opened those of its neighbours among them.
    #[must_use]
    pub fn able(&self, slot: SlotId, willing: &BTreeSet<HospitalId>) -> BTreeSet<HospitalId> {
        let Some(provision) = &self.provision else { return BTreeSet::new() };
        let Some(batches) = self.batches.get(&provision.batch_of(slot)) else {
            return BTreeSet::new();
        };
        let mut able: BTreeSet<HospitalId> =
            willing.iter().filter(|id| batches.contains_key(*id)).cloned().collect();
        loop {
            // Whoever lags behind most goes first: the others may be complete without it.
            let lacks = |id: &HospitalId| {
                let opened = batches.get(id).map(|gathered| &gathered.opened);
                let near = provision.neighbourhood(id);
                let near = near.iter().flat_map(|near| near.neighbours());
                near.filter(|member| able.contains(&member.hospital))
                    .filter(|member| opened.is_none_or(|o| !o.contains(&member.hospital)))
                    .count()
            };
            let behind = able.iter().map(|id| (lacks(id), id)).max();
            match behind {
                Some((lacking, id)) if lacking > 0 => {
                    let id = id.clone();
                    able.remove(&id);
                }
                Some(_) | None => return able,
            }
        }
    }

    /// What a round in this slot needs to take its masks out. None before there is any batch.
    #[must_use]
    pub fn masks(&self, slot: SlotId) -> Option<Masks> {
        let provision = self.provision.as_ref()?;
        let batches = self.batches.get(&provision.batch_of(slot))?.iter();
        let batches = batches.map(|(id, gathered)| (id.clone(), gathered.batch.batch.clone()));
        Some(Masks { provision: provision.as_ref().clone(), batches: batches.collect() })
    }

    /// Forgets the batches before this one: their slots are past.
    pub fn forget_before(&mut self, number: u64) {
        self.batches = self.batches.split_off(&number);
    }

    fn known(&self, hospital: &HospitalId) -> Result<(), SetupRefused> {
        if self.roll.identities().contains_key(hospital) {
            Ok(())
        } else {
            Err(SetupRefused::Stranger { hospital: hospital.clone() })
        }
    }
}

/// Whether a batch is its owner's, of these slots, for its neighbours (PROTOCOL M-18).
pub(super) fn check_batch(
    provision: &Provision,
    owner: &HospitalId,
    number: u64,
    said: &SignedBatch,
) -> Result<(), SetupRefused> {
    let roll = provision.roll();
    let stranger = || SetupRefused::Stranger { hospital: owner.clone() };
    let pinned = roll.identities().get(owner).ok_or_else(stranger)?;
    let neighbourhood = provision.neighbourhood(owner).ok_or_else(stranger)?;
    let first = provision.first_of(number);
    let SignedBatch { batch, signature } = said;
    batch.check(roll.study(), roll.digest(), first, &neighbourhood, pinned, signature)?;
    let (expected, found) = (provision.batch_slots(), batch.slots());
    if found == expected {
        Ok(())
    } else {
        Err(crate::keys::slots::SlotRefused::Slots { slots: found }.into())
    }
}

fn changed(hospital: &HospitalId, what: &'static str) -> SetupRefused {
    SetupRefused::Changed { hospital: hospital.clone(), what }
}
