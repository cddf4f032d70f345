//! A small study whose keys are made: three hospitals of four in a sum, one of which may collude.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use aggregation::charter::Charter;
use aggregation::checkpoint::LogHead;
use aggregation::ids::{Digest, HospitalId, RoundId, SlotId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::Identity;
use aggregation::keys::provision::Provision;
use aggregation::keys::roll::Roll;
use aggregation::keys::slots::PrekeyBatch;
use aggregation::message::Terms;
use aggregation::round::Masks;
use aggregation::secret::Secret;
use aggregation::setup::gathering::Gathering;
use aggregation::setup::keyring::Announced;
use aggregation::setup::{SignedAnnounce, SignedBatch};
use aggregation::units::Timestamp;

/// Hospitals of the house.
const SITES: usize = 4;

/// A study, its hospitals, and their keys.
#[derive(Debug)]
pub(crate) struct House {
    charter: Charter,
    names: Vec<HospitalId>,
    identities: Vec<Identity>,
    roll: Roll,
    provision: Arc<Provision>,
    gathering: Gathering,
    keyrings: Vec<Vec<u8>>,
    own: Vec<BTreeMap<SlotId, [u8; 64]>>,
    held: Vec<BTreeMap<(SlotId, HospitalId), [u8; 64]>>,
}

fn secret(text: &str) -> Secret<32> {
    Secret::new(*Digest::sha256(text.as_bytes()).as_bytes())
}

impl House {
    /// The house, which is made once in a process.
    #[must_use]
    pub(crate) fn shared() -> &'static Self {
        static HOUSE: OnceLock<House> = OnceLock::new();
        HOUSE.get_or_init(|| Self::make().expect("an honest setup comes to its end"))
    }

    fn make() -> Option<Self> {
        let names: Vec<_> = (0..SITES)
            .map(|site| HospitalId::new(&format!("site-{site}")))
            .collect::<Result<_, _>>()
            .ok()?;
        let study = proto::manifest::parse(STUDY).ok()?;
        let charter = Charter::new(study, names.iter().cloned().collect()).ok()?;
        let identities: Vec<_> = (0..SITES)
            .map(|site| Identity::from_seed(&secret(&format!("identity {site}"))))
            .collect::<Result<_, _>>()
            .ok()?;
        let keys = identities.iter().map(Identity::key);
        let pinned = names.iter().cloned().zip(keys).collect();
        let roll = Roll::new(&charter, &pinned).ok()?;
        let mut gathering = Gathering::new(roll.clone());
        let announced: Vec<Announced> = names
            .iter()
            .zip(&identities)
            .map(|(name, identity)| {
                let nonce = GraphNonce::new(*secret(&format!("nonce {name}")).expose());
                let agreement = secret(&format!("agreement {name}"));
                Announced::new(&roll, name, identity, &agreement, nonce)
            })
            .collect();
        for (name, announced) in names.iter().zip(&announced) {
            gathering.announce(name, announced.said().clone()).ok()?;
        }
        let said = gathering.announced().clone();
        for (name, announced) in names.iter().zip(&announced) {
            gathering.reveal(name, announced.reveal(&roll, &said).ok()?).ok()?;
        }
        let nonces = gathering.nonces().clone();
        let provision = Arc::clone(gathering.provision()?);
        let mut keyrings = Vec::new();
        let mut own = Vec::new();
        for ((name, identity), announced) in names.iter().zip(&identities).zip(announced) {
            let (_, keyring) = announced.agree(&roll, &said, &nonces).ok()?;
            let seed = secret(&format!("slots {name}"));
            let made = keyring.make(&provision, identity, 0, [1; 16], seed).ok()?;
            gathering.batch(name, 0, made.batch).ok()?;
            let slots = made.own.into_slots();
            own.push(slots.map(|(slot, own)| (slot, *own.secrets().expose())).collect());
            keyrings.push(keyring);
        }
        let mut held = Vec::new();
        for (name, keyring) in names.iter().zip(&keyrings) {
            let mut of = BTreeMap::new();
            for owner in names.iter().filter(|owner| *owner != name) {
                let batch = gathering.batch_of(owner, 0)?;
                for (slot, shares) in keyring.open(&provision, owner, 0, batch).ok()? {
                    of.insert((slot, owner.clone()), *shares.secrets().expose());
                }
            }
            held.push(of);
        }
        let keyrings = keyrings.iter().map(|keyring| keyring.secrets().expose().to_vec());
        let keyrings = keyrings.collect();
        Some(Self { charter, names, identities, roll, provision, gathering, keyrings, own, held })
    }

    /// The study and its roster.
    #[must_use]
    pub(crate) const fn charter(&self) -> &Charter {
        &self.charter
    }

    /// Hospitals.
    #[must_use]
    pub(crate) const fn sites(&self) -> usize {
        self.names.len()
    }

    /// The name of a hospital; the first one's for a number that none has.
    #[must_use]
    pub(crate) fn name(&self, site: usize) -> &HospitalId {
        self.names.get(site).unwrap_or(&self.names[0])
    }

    /// A hospital's identity; as [`House::name`].
    #[must_use]
    pub(crate) fn identity(&self, site: usize) -> &Identity {
        self.identities.get(site).unwrap_or(&self.identities[0])
    }

    /// The roll.
    #[must_use]
    pub(crate) const fn roll(&self) -> &Roll {
        &self.roll
    }

    /// The roll and the graph.
    #[must_use]
    pub(crate) const fn provision(&self) -> &Arc<Provision> {
        &self.provision
    }

    /// The announcement of a hospital.
    #[must_use]
    pub(crate) fn announcement(&self, site: usize) -> SignedAnnounce {
        self.gathering.announced()[self.name(site)].clone()
    }

    /// The nonce of a hospital.
    #[must_use]
    pub(crate) fn nonce(&self, site: usize) -> GraphNonce {
        self.gathering.nonces()[self.name(site)]
    }

    /// A hospital's signed batch.
    #[must_use]
    pub(crate) fn signed_batch(&self, site: usize) -> &SignedBatch {
        self.gathering.batch_of(self.name(site), 0).expect("everybody has left one")
    }

    /// A hospital's batch.
    #[must_use]
    pub(crate) fn batch_of(&self, site: usize) -> &PrekeyBatch {
        &self.signed_batch(site).batch
    }

    /// What a hospital's keyring is kept as.
    #[must_use]
    pub(crate) fn keyring_bytes(&self, site: usize) -> &[u8] {
        self.keyrings.get(site).map_or(&[], Vec::as_slice)
    }

    /// A hospital's own secrets of a slot.
    pub(super) fn own(&self, site: usize, slot: SlotId) -> Option<&[u8; 64]> {
        self.own.get(site)?.get(&slot)
    }

    /// The shares that a hospital holds of another's secrets.
    pub(super) fn held(&self, site: usize, slot: SlotId, of: &HospitalId) -> Option<&[u8; 64]> {
        self.held.get(site)?.get(&(slot, of.clone()))
    }

    /// What takes the masks out of a sum.
    pub(super) fn masks(&self) -> Arc<Masks> {
        static MASKS: OnceLock<Arc<Masks>> = OnceLock::new();
        let make = || self.gathering.masks(SlotId::new(1)).expect("the batches are there");
        Arc::clone(MASKS.get_or_init(|| Arc::new(make())))
    }

    /// Terms of the first round, in a slot.
    pub(super) fn terms(&self, slot: u64) -> Terms {
        Terms {
            study: self.charter.id(),
            round: RoundId::FIRST,
            slot: SlotId::new(slot),
            work: self.charter.study().work_in(RoundId::FIRST),
            model: Digest::new([1; 32]),
            invited: self.everybody(),
            ready_by: Timestamp::from_millis(60_000),
            log: LogHead::empty(),
        }
    }

    /// Everybody.
    pub(super) fn everybody(&self) -> BTreeSet<HospitalId> {
        self.names.iter().cloned().collect()
    }
}

/// One pixel: the rounds are the work, not the model.
const STUDY: &str = r#"
name = "fuzzed"
[task]
kind = "classification"
classes = ["normal", "pneumonia"]
input = { channels = 1, height = 1, width = 1 }
preprocess = { window = "full" }
[model]
arch = "linear"
[train]
rounds = 3
strategy = "fedavg"
optimizer = "momentum"
seed = 1
local = { batch_size = 8, learning_rate = 0.1 }
[privacy]
mode = "danger_no_privacy"
[cohort]
quorum = 3
round_deadline = "60s"
upload_deadline = "30s"
[evaluate]
every = 0
split = "test"
"#;
