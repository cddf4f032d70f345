//! Who cosigns the log, and when a checkpoint may be shown to the world.
//!
//! A site's cosigning key is a fact: the site says it under its identity, and the leaf has both, so
//! that whoever knows the identity need not believe this program. It proves that it holds the key,
//! and no two sites have the same one: a cosignature would count for both. A checkpoint is published
//! once most of the sites that stand have cosigned it, whether they have announced a key yet or not,
//! and again when more of them have.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use aggregation::ids::HospitalId;
use aggregation::keys::identity::{IdentityKey, Signature as Said};
use aggregation::keys::witness::WitnessKey;
use transparency::checkpoint::SignedCheckpoint;
use transparency::cosignature::CosignerKey;
use transparency::key::KeyError;
use transparency::note::Signature;

use super::{Log, LogError};
use crate::store::{Store, StoreError};

/// Checkpoints for which cosignatures are gathered at once: a site may lag behind by so many.
const MOST_GATHERED: usize = 64;

/// A site that cosigns.
#[derive(Debug, Clone)]
pub(crate) struct Witness {
    /// Its cosigning key.
    pub(crate) key: CosignerKey,
    /// The identity under which it said so.
    pub(crate) identity: IdentityKey,
    /// Its word.
    pub(crate) said: Said<WitnessKey>,
    /// Leaves of the newest checkpoint that it has cosigned.
    pub(crate) size: u64,
}

/// All of them, and what they are asked to cosign.
#[derive(Debug, Default)]
pub(crate) struct Witnesses {
    known: BTreeMap<HospitalId, Witness>,
    gathered: BTreeMap<u64, SignedCheckpoint>,
}

impl Witnesses {
    fn other_with(&self, site: &HospitalId, key: &CosignerKey) -> Option<HospitalId> {
        let same = |(other, witness): &(&HospitalId, &Witness)| {
            *other != site && witness.key.public() == key.public()
        };
        self.known.iter().find(same).map(|(other, _)| other.clone())
    }
}

/// Why a cosignature is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CosignError {
    /// The site has not said which key it cosigns with.
    #[error("expected this site to have announced its cosigning key")]
    Unannounced,
    /// Not for a checkpoint that is being gathered for.
    #[error("expected a cosignature of one of the newest checkpoints, found one of size {0}")]
    NotAwaited(u64),
    /// It does not hold.
    #[error("expected a cosignature of the checkpoint of size {0} by this site's key")]
    Invalid(u64),
    /// It was taken and could not be shown.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What a site's cosigning key is called.
pub(crate) fn key_of(log: &str, site: &HospitalId, key: [u8; 32]) -> Result<CosignerKey, KeyError> {
    CosignerKey::new(&format!("{log}/{site}"), key)
}

/// How many of so many sites must have cosigned: most of them.
const fn most(sites: usize) -> usize {
    if sites == 0 { 0 } else { sites / 2 + 1 }
}

impl Log {
    fn known(&self) -> MutexGuard<'_, Witnesses> {
        self.witnesses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what sites said of their keys before this program started.
    ///
    /// # Errors
    /// When the facts cannot be read.
    pub(super) async fn load_witnesses(self: &Arc<Self>, store: &Store) -> Result<(), LogError> {
        for (site, witness) in store.witnesses(self.key().name()).await? {
            self.known().known.insert(site, witness);
        }
        let (signed, published) = self.checkpoints().await?;
        let mut known = self.known();
        for checkpoint in [published, signed] {
            for witness in known.known.values_mut() {
                if witness.key.verify(&checkpoint).is_ok() {
                    witness.size = checkpoint.checkpoint().size();
                }
            }
            known.gathered.entry(checkpoint.checkpoint().size()).or_insert(checkpoint);
        }
        Ok(())
    }

    /// Whether a site's key is known as said.
    pub(crate) fn knows(&self, site: &HospitalId, key: &CosignerKey, by: &IdentityKey) -> bool {
        let known = self.known();
        known.known.get(site).is_some_and(|witness| witness.key == *key && witness.identity == *by)
    }

    /// From now on a site cosigns with this key. The fact of it must be kept.
    pub(crate) fn learn(&self, site: HospitalId, witness: Witness) {
        self.known().known.insert(site, witness);
    }

    /// The other site that cosigns with this key, if there is one.
    pub(crate) fn holder(&self, site: &HospitalId, key: &CosignerKey) -> Option<HospitalId> {
        self.known().other_with(site, key)
    }

    /// How many sites must have cosigned a checkpoint before the world is shown it.
    pub(crate) fn quorum(&self) -> usize {
        most(self.gate.standing().len())
    }

    /// Sites that stand and have not said which key they cosign with.
    pub(crate) fn unannounced(&self) -> Vec<HospitalId> {
        let known = self.known();
        self.gate.standing().into_iter().filter(|site| !known.known.contains_key(site)).collect()
    }

    /// The witnesses that stand.
    pub(crate) fn standing(&self) -> BTreeMap<HospitalId, Witness> {
        let known = self.known();
        let standing = known.known.iter().filter(|(site, _)| self.gate.stands(site));
        standing.map(|(site, witness)| (site.clone(), witness.clone())).collect()
    }

    pub(super) fn gather(&self, signed: SignedCheckpoint) {
        let mut known = self.known();
        known.gathered.insert(signed.checkpoint().size(), signed);
        while known.gathered.len() > MOST_GATHERED {
            known.gathered.pop_first();
        }
    }

    /// Takes a site's cosignature of the checkpoint of so many leaves.
    ///
    /// # Errors
    /// When it is not one, or could not be kept.
    pub(crate) async fn cosigned(
        self: &Arc<Self>,
        site: &HospitalId,
        size: u64,
        line: &Signature,
    ) -> Result<(), CosignError> {
        {
            let mut known = self.known();
            let witness = known.known.get(site).ok_or(CosignError::Unannounced)?;
            let key = witness.key.clone();
            let Some(gathered) = known.gathered.get_mut(&size) else {
                // What is older than the published one needs no more cosignatures.
                let old = size < self.size().published;
                return if old { Ok(()) } else { Err(CosignError::NotAwaited(size)) };
            };
            key.check(line, gathered.note().text()).ok_or(CosignError::Invalid(size))?;
            *gathered = gathered
                .with(std::slice::from_ref(line))
                .map_err(|_| CosignError::Invalid(size))?;
            if let Some(witness) = known.known.get_mut(site) {
                witness.size = witness.size.max(size);
            }
        }
        Ok(self.publish().await?)
    }

    /// Shows the world the newest checkpoint that enough witnesses have cosigned.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) async fn publish(self: &Arc<Self>) -> Result<(), LogError> {
        let (standing, needed) = (self.standing(), self.quorum());
        let next = {
            let mut known = self.known();
            let enough = |signed: &&SignedCheckpoint| {
                let cosigned = standing.values().filter(|one| one.key.verify(signed).is_ok());
                cosigned.count() >= needed
            };
            let next = known.gathered.values().rev().find(enough).cloned();
            if let Some(next) = &next {
                known.gathered = known.gathered.split_off(&next.checkpoint().size());
            }
            next
        };
        let Some(next) = next else { return Ok(()) };
        self.with(move |writer| {
            let shown = writer.published();
            let lines = |signed: &SignedCheckpoint| signed.note().signatures().len();
            let (ours, theirs) = (next.checkpoint().size(), shown.checkpoint().size());
            if ours > theirs || ours == theirs && lines(&next) > lines(shown) {
                writer.publish(&next)?;
            }
            Ok(())
        })
        .await
    }
}

impl Store {
    /// The cosigning keys that sites announced, of the sites that still have the identity under
    /// which they did.
    ///
    /// # Errors
    /// When the database refuses.
    async fn witnesses(&self, log: &str) -> Result<BTreeMap<HospitalId, Witness>, StoreError> {
        let identities = self.identities().await?;
        let mut known = Witnesses::default();
        for (site, key, identity, said) in self.announced_witnesses().await? {
            let identity = IdentityKey::new(identity);
            let statement = WitnessKey { log: log.to_owned(), hospital: site.clone(), key };
            let holds = identities.get(&site) == Some(&identity)
                && identity.verify(&statement, &said).is_ok();
            match key_of(log, &site, key) {
                // Of two sites that said the same before it was refused, the first has it.
                Ok(key) if holds && known.other_with(&site, &key).is_none() => {
                    known.known.insert(site, Witness { key, identity, said, size: 0 });
                }
                Ok(_) | Err(_) => {
                    known.known.remove(&site);
                }
            }
        }
        Ok(known.known)
    }
}
