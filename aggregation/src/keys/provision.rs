//! What is the same for all rounds of a study once its keys are announced: the roll and the graph,
//! and from them the context of each round's masks.

use std::collections::{BTreeMap, BTreeSet};

use crate::context::{Context, ContextDigest};
use crate::ids::{HospitalId, SlotId};
use crate::keys::announce::KeyAnnounce;
use crate::keys::graph::{Graph, GraphNonce, GraphRefused, GraphSeed, Neighbourhood};
use crate::keys::roll::Roll;
use crate::keys::slots::PrekeyBatch;
use crate::message::Terms;
use crate::transcript::Transcript;
use crate::vector::VectorFormat;

/// The first slot that keys are made for.
pub const FIRST_SLOT: SlotId = SlotId::new(1);

/// Slots that one batch covers: as many as fit in about a mebibyte, 16 to 256. Everybody's batches
/// cover the same slots.
#[must_use]
pub const fn slots_per_batch(neighbours: usize) -> u32 {
    // 112 k + 80 bytes a slot (PROTOCOL M-17).
    let mut slots = 16;
    while slots < 256 && (slots as usize + 1) * (112 * neighbours + 80) <= 1 << 20 {
        slots += 1;
    }
    slots
}

/// Provisioned hospitals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provision {
    roll: Roll,
    graph: Graph,
}

impl Provision {
    /// Draws the graph once every hospital has announced itself and revealed its nonce.
    ///
    /// # Errors
    /// When a nonce is missing or is not the one that was committed to (PROTOCOL M-25).
    pub fn new(
        roll: &Roll,
        announced: &BTreeMap<HospitalId, KeyAnnounce>,
        nonces: &BTreeMap<HospitalId, GraphNonce>,
    ) -> Result<Self, GraphRefused> {
        let commitments = announced.iter().map(|(id, said)| (id.clone(), said.graph_nonce));
        let commitments = commitments.collect();
        let seed = GraphSeed::from_nonces(roll.study(), roll.digest(), &commitments, nonces)?;
        let sites = roll.identities().keys().cloned().collect();
        let graph = Graph::new(&sites, roll.thresholds(), &seed)?;
        Ok(Self { roll: roll.clone(), graph })
    }

    /// Who, by which keys, and how many of them.
    #[must_use]
    pub const fn roll(&self) -> &Roll {
        &self.roll
    }

    /// Who is whose neighbour.
    #[must_use]
    pub const fn graph(&self) -> &Graph {
        &self.graph
    }

    /// A hospital's neighbours; none for a stranger.
    #[must_use]
    pub fn neighbourhood(&self, hospital: &HospitalId) -> Option<Neighbourhood> {
        self.graph.neighbourhood(hospital)
    }

    /// The slots of one batch.
    #[must_use]
    pub fn batch_slots(&self) -> u32 {
        let members = self.graph.members();
        let degree = members.first().and_then(|member| self.neighbourhood(&member.hospital));
        slots_per_batch(degree.map_or(0, |neighbourhood| neighbourhood.neighbours().len()))
    }

    /// The exact size of a hospital's batch (PROTOCOL M-17); none for a stranger.
    #[must_use]
    pub fn batch_bytes(&self, owner: &HospitalId) -> Option<usize> {
        let neighbours = self.neighbourhood(owner)?.neighbours().len();
        PrekeyBatch::size(owner, self.batch_slots(), neighbours)
    }

    /// The number of the batch that covers a slot, counted from 0. Slot 0 is in none, and nobody
    /// makes keys for it; it is given as if it were the first.
    #[must_use]
    pub fn batch_of(&self, slot: SlotId) -> u64 {
        slot.get().saturating_sub(FIRST_SLOT.get()) / u64::from(self.batch_slots())
    }

    /// The first slot of a batch.
    #[must_use]
    pub fn first_of(&self, batch: u64) -> SlotId {
        let before = batch.saturating_mul(self.batch_slots().into());
        SlotId::new(FIRST_SLOT.get().saturating_add(before))
    }

    /// What the masks of a round are bound to (PROTOCOL M-19). None when a member is not on the
    /// roll.
    #[must_use]
    pub fn context(
        &self,
        terms: &Terms,
        members: &BTreeSet<HospitalId>,
        format: &VectorFormat,
    ) -> Option<ContextDigest> {
        let known = |hospital: &HospitalId| {
            Some((hospital.clone(), *self.roll.identities().get(hospital)?))
        };
        let lanes = u64::try_from(format.lanes()).ok()?;
        let plan = Transcript::new("consilium/masking-plan/1")
            .bytes(terms.digest().as_bytes())
            .u32(format.modulus().bits())
            .u64(lanes)
            .finish();
        let context = Context {
            study: terms.study,
            charter: self.roll.digest(),
            epoch: u32::try_from(self.batch_of(terms.slot)).ok()?,
            slot: terms.slot,
            round: terms.round,
            model: terms.model,
            plan,
            roster: members.iter().map(known).collect::<Option<_>>()?,
            graph: self.graph.digest(),
            checkpoint: terms.log.digest(),
        };
        Some(context.digest())
    }
}
