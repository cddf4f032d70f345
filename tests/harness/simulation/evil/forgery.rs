//! The setup of the keys under a coordinator that means ill: what each hospital is shown of the
//! others.

use std::collections::BTreeMap;
use std::sync::Arc;

use aggregation::ids::HospitalId;
use aggregation::keys::announce::AgreementKey;
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::{Identity, IdentityKey};
use aggregation::keys::roll::Roll;
use aggregation::secret::Secret;
use aggregation::setup::keyring::Announced;
use aggregation::setup::{SetupRefused, SignedAnnounce};

use crate::simulation::cast::{Cast, identity};
use crate::simulation::chance::Chance;
use crate::simulation::evil::Evil;
use crate::simulation::evil::nasty::stranger;
use crate::simulation::stage::Stage;
use crate::simulation::words::{Answer, Call, Keys};

/// What is forged in a setup.
#[derive(Debug)]
pub(crate) enum Forgery {
    /// Now and then one thing of what is shown is another.
    Details,
    /// Each hospital is shown others who are none, with identities of their own and all.
    Masks(BTreeMap<usize, Masquerade>),
}

/// The others, as one hospital is shown them.
#[derive(Debug)]
pub(crate) struct Masquerade {
    identities: Arc<BTreeMap<HospitalId, IdentityKey>>,
    announced: BTreeMap<HospitalId, SignedAnnounce>,
    nonces: BTreeMap<HospitalId, GraphNonce>,
}

impl Forgery {
    /// Something to try in a setup.
    pub(crate) fn plan(chance: &mut Chance, cast: &Cast) -> Option<Self> {
        match chance.below(3) {
            0 => None,
            1 => Some(Self::Details),
            _ => {
                let shown = |place| Some((place, Masquerade::before(chance, cast, place)?));
                Some(Self::Masks((0..cast.names.len()).filter_map(shown).collect()))
            }
        }
    }
}

impl Masquerade {
    fn before(chance: &mut Chance, cast: &Cast, place: usize) -> Option<Self> {
        let puppets: Vec<Identity> = (0..cast.names.len())
            .map(|_| identity(&chance.word().to_string()))
            .collect::<Result<_, _>>()
            .ok()?;
        let keys = puppets.iter().zip(&cast.identities).enumerate();
        let keys =
            keys.map(|(at, (puppet, real))| if at == place { real.key() } else { puppet.key() });
        let identities: BTreeMap<_, _> = cast.names.iter().cloned().zip(keys).collect();
        let roll = Roll::new(&cast.charter, &identities).ok()?;
        let mut announced = BTreeMap::new();
        let mut nonces = BTreeMap::new();
        for (at, (id, puppet)) in cast.names.iter().zip(&puppets).enumerate() {
            if at == place {
                continue;
            }
            let nonce = GraphNonce::new(chance.bytes());
            let said = Announced::new(&roll, id, puppet, &Secret::new(chance.bytes()), nonce);
            announced.insert(id.clone(), said.said().clone());
            nonces.insert(id.clone(), nonce);
        }
        Some(Self { identities: Arc::new(identities), announced, nonces })
    }
}

impl Evil {
    /// What one hospital is shown of the keys.
    pub(super) fn keys_for(&self, stage: &mut Stage, to: usize) -> Option<Keys> {
        let provision = self.gathering.provision();
        let due = provision.map_or(0, |provision| provision.batch_of(self.slot.next()));
        let mut announced = self.gathering.announced().clone();
        let mut nonces = self.gathering.nonces().clone();
        let mut identities = None;
        match &self.forgery {
            None => {}
            Some(Forgery::Details) => {
                self.forge_details(&mut stage.chance, &mut announced, &mut nonces);
            }
            Some(Forgery::Masks(masks)) => {
                let mask = masks.get(&to)?;
                announced = mask.announced.clone();
                nonces = mask.nonces.clone();
                identities = Some(Arc::clone(&mask.identities));
                let me = self.cast.names.get(to)?;
                if !announced.contains_key(me) {
                    // Nothing of the others' nonces is shown before their time.
                    nonces.clear();
                    if let Some(own) = self.gathering.announced().get(me) {
                        announced.insert(me.clone(), own.clone());
                    }
                }
            }
        }
        Some(Keys {
            announced: Arc::new(announced),
            nonces: Arc::new(nonces),
            due,
            owners: self.gathering.owners(due).cloned().collect(),
            identities,
        })
    }

    fn forge_details(
        &self,
        chance: &mut Chance,
        announced: &mut BTreeMap<HospitalId, SignedAnnounce>,
        nonces: &mut BTreeMap<HospitalId, GraphNonce>,
    ) {
        if !chance.one_in(3) {
            return;
        }
        let victim = chance.index(self.cast.names.len());
        let Some(id) = self.cast.names.get(victim) else { return };
        let Some(said) = announced.get_mut(id) else { return };
        let colluder = self.colluders.first().copied();
        match chance.below(9) {
            // Another key under the old signature.
            0 => said.announce.agreement = AgreementKey::new(chance.bytes()),
            // Somebody whom nobody has pinned.
            1 => {
                let said = said.clone();
                announced.insert(stranger(), said);
            }
            // Another key, signed by somebody else.
            2 => {
                said.announce.agreement = AgreementKey::new(chance.bytes());
                let other = colluder.and_then(|place| self.cast.identities.get(place));
                if let Some(other) = other {
                    said.signature = other.sign(&said.announce);
                }
            }
            // A colluder announces different keys to different hospitals, properly signed; or one
            // that makes every agreement the same.
            kind @ (3 | 4) => {
                let key = if kind == 3 { chance.bytes() } else { [0; 32] };
                let named = colluder.and_then(|place| {
                    Some((self.cast.names.get(place)?, self.cast.identities.get(place)?))
                });
                if let Some((id, identity)) = named
                    && let Some(said) = announced.get_mut(id)
                {
                    said.announce.agreement = AgreementKey::new(key);
                    said.signature = identity.sign(&said.announce);
                }
            }
            // One hospital's announcement in the place of another's.
            5 => {
                let other = announced.values().next().cloned();
                if let Some(other) = other {
                    announced.insert(id.clone(), other);
                }
            }
            6 => drop(announced.remove(id)),
            _ => drop(nonces.insert(id.clone(), GraphNonce::new(chance.bytes()))),
        }
    }

    /// Something is said in the setup: it keeps what an honest coordinator would keep, and hands
    /// out what it likes.
    pub(super) fn hear_of_keys(
        &mut self,
        stage: &mut Stage,
        from: usize,
        id: &HospitalId,
        call: Call,
    ) {
        let said: Result<bool, SetupRefused> = match call {
            Call::Announce(said) => {
                self.puppet_hears(from, id, &said);
                Arc::make_mut(&mut self.gathering).announce(id, said)
            }
            Call::Nonce(nonce) => {
                if let Some(Forgery::Masks(masks)) = &mut self.forgery
                    && let Some(mask) = masks.get_mut(&from)
                {
                    mask.nonces.insert(id.clone(), nonce);
                }
                Arc::make_mut(&mut self.gathering).reveal(id, nonce)
            }
            Call::Batch { number, batch } => {
                Arc::make_mut(&mut self.gathering).batch(id, number, batch.as_ref().clone())
            }
            Call::Opened { number, owners } => {
                let noted = Arc::make_mut(&mut self.gathering).opened(id, number, &owners);
                stage.answer(from, Answer::Noted { number, owners });
                noted
            }
            Call::Fetch { number, owner } => {
                self.hand_out(stage, from, number, owner);
                Ok(false)
            }
            Call::Hello | Call::Said { .. } => Ok(false),
        };
        if said == Ok(true)
            && let Some(keys) = self.keys_for(stage, from)
        {
            stage.tell(from, &Arc::new(crate::simulation::words::Notice::Keys(keys)));
        }
    }

    fn puppet_hears(&mut self, from: usize, id: &HospitalId, said: &SignedAnnounce) {
        if let Some(Forgery::Masks(masks)) = &mut self.forgery
            && let Some(mask) = masks.get_mut(&from)
        {
            mask.announced.insert(id.clone(), said.clone());
        }
    }

    /// A batch, or now and then another hospital's, or one with a byte changed.
    fn hand_out(&self, stage: &mut Stage, to: usize, number: u64, owner: HospitalId) {
        let ill = self.forgery.is_some() && stage.chance.one_in(4);
        let other = stage.chance.index(self.cast.names.len());
        let from = if ill { self.cast.names.get(other) } else { Some(&owner) };
        let batch = from.and_then(|from| self.gathering.batch_of(from, number));
        if let Some(batch) = batch {
            let batch = Arc::new(batch.clone());
            stage.answer(to, Answer::Batch { number, owner, batch });
        }
    }
}
