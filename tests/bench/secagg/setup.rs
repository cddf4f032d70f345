//! What happens once per study: keys, announcements, the graph, and a batch of slots for everyone.

use std::collections::{BTreeMap, BTreeSet};

use aggregation::ids::{Digest, HospitalId, SlotId, StudyId};
use aggregation::keys::announce::{AgreementSecret, KeyAnnounce};
use aggregation::keys::graph::{Graph, GraphNonce, GraphSeed, Neighbourhood};
use aggregation::keys::identity::{Identity, IdentityKey, Signature};
use aggregation::keys::slots::{
    self, BatchScope, HeldShares, OwnSlot, OwnSlots, PairKeys, PrekeyBatch,
};
use aggregation::keys::thresholds::Thresholds;
use aggregation::secret::Secret;
use harness::{Outcome, Trouble};

use super::Spent;

/// The first slot.
const FIRST: SlotId = SlotId::new(1);

/// What a hospital has after the setup.
pub(super) struct Site {
    pub(super) identity: Identity,
    pub(super) hood: Neighbourhood,
    pub(super) keys: BTreeMap<HospitalId, PairKeys>,
    pub(super) own: OwnSlots,
    /// Of its own slots the one that it has taken last.
    pub(super) taken: Option<OwnSlot>,
    pub(super) held: BTreeMap<(HospitalId, SlotId), HeldShares>,
}

/// A federation after its setup.
pub(super) struct Federation {
    pub(super) study: StudyId,
    pub(super) charter: Digest,
    pub(super) graph: Digest,
    pub(super) sites: BTreeMap<HospitalId, Site>,
    pub(super) pinned: BTreeMap<HospitalId, IdentityKey>,
    pub(super) batches: BTreeMap<HospitalId, PrekeyBatch>,
    /// What one hospital said in the setup, without any framing.
    pub(super) bytes_up: usize,
}

/// The thresholds that so many hospitals would agree on: a fifth may collude, and a fifth may be
/// missing.
pub(super) fn thresholds(sites: u16) -> Outcome<Thresholds> {
    let colluding = (sites / 5).max(1);
    let shares = (sites + colluding) / 2 + 1;
    let least = shares.max(colluding + 2).max(3).max(sites / 5 * 4);
    Ok(Thresholds::new(sites, colluding, least)?)
}

/// Secrets of a bench: nobody's.
fn seed(text: &str) -> Secret<32> {
    Secret::new(*Digest::sha256(text.as_bytes()).as_bytes())
}

/// A hospital's keys while pairs are made, and what it announces.
struct Announced {
    identity: Identity,
    agreement: AgreementSecret,
    announce: KeyAnnounce,
    signature: Signature<KeyAnnounce>,
}

/// What everybody knows of the study before any batch is made.
struct Known<'a> {
    study: StudyId,
    charter: Digest,
    thresholds: &'a Thresholds,
    announced: BTreeMap<HospitalId, Announced>,
    pinned: BTreeMap<HospitalId, IdentityKey>,
    nonces: BTreeMap<HospitalId, GraphNonce>,
}

impl Known<'_> {
    /// Checks all announcements and draws the graph, as each hospital does and the coordinator.
    fn graph(&self) -> Outcome<Graph> {
        let Self { study, charter, .. } = self;
        let mut commitments = BTreeMap::new();
        for (id, Announced { announce, signature, .. }) in &self.announced {
            announce.check(*study, *charter, &self.pinned[id], signature)?;
            commitments.insert(id.clone(), announce.graph_nonce);
        }
        let drawn = GraphSeed::from_nonces(*study, *charter, &commitments, &self.nonces)?;
        let roster: BTreeSet<HospitalId> = self.pinned.keys().cloned().collect();
        Ok(Graph::new(&roster, self.thresholds, &drawn)?)
    }

    /// One hospital's neighbourhood, its keys with everyone in it, and its slots.
    fn provide(&self, id: &HospitalId, rounds: u32) -> Outcome<(Site, PrekeyBatch)> {
        let graph = self.graph()?;
        let hood =
            graph.neighbourhood(id).ok_or_else(|| Trouble::new("a member has no neighbourhood"))?;
        let Announced { agreement, announce, .. } = &self.announced[id];
        let mut keys = BTreeMap::new();
        for neighbour in hood.neighbours() {
            let theirs = &self.announced[&neighbour.hospital].announce;
            let (chain, shares) = agreement.root(announce, theirs)?.into_keys(FIRST);
            keys.insert(neighbour.hospital.clone(), PairKeys { chain, shares });
        }
        let mut batch = [0; 16];
        batch.copy_from_slice(&seed(&format!("batch id {id}")).expose()[..16]);
        let scope = BatchScope {
            study: self.study,
            charter: self.charter,
            owner: id.clone(),
            batch,
            first: FIRST,
        };
        let (batch, own) =
            slots::make(&scope, rounds, &hood, &keys, seed(&format!("batch seed {id}")))?;
        let identity = Identity::from_seed(&seed(&format!("identity {id}")))?;
        Ok((Site { identity, hood, keys, own, taken: None, held: BTreeMap::new() }, batch))
    }
}

fn announce(
    study: StudyId,
    charter: Digest,
    id: &HospitalId,
    nonce: &GraphNonce,
) -> Outcome<Announced> {
    let identity = Identity::from_seed(&seed(&format!("identity {id}")))?;
    let agreement = AgreementSecret::new(&seed(&format!("agreement {id}")));
    let announce = KeyAnnounce {
        study,
        charter,
        hospital: id.clone(),
        agreement: agreement.key(),
        graph_nonce: nonce.commitment(study, charter, id),
    };
    let signature = identity.sign(&announce);
    Ok(Announced { identity, agreement, announce, signature })
}

impl Federation {
    /// Sets up as many hospitals as the thresholds are for, with slots for so many rounds.
    pub(super) fn set_up(thresholds: &Thresholds, rounds: u32, spent: &mut Spent) -> Outcome<Self> {
        let (study, charter) = (StudyId::new(Digest::sha256(b"study")), Digest::sha256(b"charter"));
        let mut known = Known {
            study,
            charter,
            thresholds,
            announced: BTreeMap::new(),
            pinned: BTreeMap::new(),
            nonces: BTreeMap::new(),
        };
        for number in 1..=thresholds.provisioned() {
            let id = HospitalId::new(&format!("site-{number:03}"))?;
            let nonce = GraphNonce::new(*seed(&format!("nonce {id}")).expose());
            let announced = spent.hospital(|| announce(study, charter, &id, &nonce))?;
            known.pinned.insert(id.clone(), announced.identity.key());
            known.announced.insert(id.clone(), announced);
            known.nonces.insert(id, nonce);
        }
        let graph = spent.coordinator(|| known.graph())?.digest();

        let (mut sites, mut batches) = (BTreeMap::new(), BTreeMap::new());
        let (mut signatures, mut hoods) = (BTreeMap::new(), BTreeMap::new());
        for id in known.pinned.keys() {
            let provide = || -> Outcome<_> {
                let (site, batch) = known.provide(id, rounds)?;
                let signature: Signature<PrekeyBatch> = site.identity.sign(&batch);
                Ok((site, batch, signature))
            };
            let (site, batch, signature) = spent.hospital(provide)?;
            hoods.insert(id.clone(), site.hood.clone());
            sites.insert(id.clone(), site);
            batches.insert(id.clone(), batch);
            signatures.insert(id.clone(), signature);
        }

        for (owner, batch) in &batches {
            let (hood, pinned) = (&hoods[owner], &known.pinned[owner]);
            let check = || batch.check(study, charter, FIRST, hood, pinned, &signatures[owner]);
            spent.coordinator(check)?;
            for neighbour in hood.neighbours() {
                let site = (sites.get_mut(&neighbour.hospital))
                    .ok_or_else(|| Trouble::new("a neighbour is no hospital"))?;
                let open = || {
                    check()?;
                    batch.open(hood, neighbour, &site.keys[owner].shares)
                };
                let opened = spent.hospital(open)?;
                site.held.extend(opened.into_iter().map(|(slot, held)| {
                    let key = (owner.clone(), slot);
                    (key, held)
                }));
            }
        }
        let batch = batches.values().map(|batch| batch.encoded().len()).max().unwrap_or_default();
        // Announced: an agreement key, a commitment, a signature; then the nonce; then the batch
        // with its signature.
        let bytes_up = 32 + 32 + 64 + 32 + batch + 64;
        Ok(Self { study, charter, graph, sites, pinned: known.pinned, batches, bytes_up })
    }
}
