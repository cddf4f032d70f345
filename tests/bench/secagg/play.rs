//! One round after another, everybody played by one thread.
//!
//! The steps are those of PROTOCOL-NOTES 1.4, done with the functions that the programs call, and
//! each is charged to whom it falls: encoding, masking, signing and checking signatures to the
//! hospital; checking, adding, recovering and unmasking to the coordinator. One update is alive at
//! a time, as it is where each hospital has a machine of its own.

use std::collections::{BTreeMap, BTreeSet};

use aggregation::context::{Context, ContextDigest};
use aggregation::evaluation::MetricTally;
use aggregation::ids::{Digest, HospitalId, RoundId, SlotId};
use aggregation::keys::identity::{Signature, Statement};
use aggregation::keys::slots::{self, Kind};
use aggregation::masking::masks::Masks;
use aggregation::masking::sharing::{Holder, Recovery, SecretScalar, Share};
use aggregation::secret::Secret;
use aggregation::transcript::Transcript;
use aggregation::vector::{Accumulator, Contribution, Total, VectorFormat, encode};
use harness::{Outcome, Trouble};

use super::Spent;
use super::setup::{Federation, Site};

/// Bytes of a signature, of a digest, and of a share with the number of its holder.
const SIGNATURE: usize = 64;
const DIGEST: usize = 32;
const SHARE: usize = 32 + 2;

/// What one round came to.
pub(super) struct Played {
    pub(super) spent: Spent,
    /// What one hospital said, without any framing.
    pub(super) bytes_up: usize,
    pub(super) sum: Fingerprint,
}

/// What stands for a sum that need not be kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    weight: u64,
    update: blake3::Hash,
    metrics: Option<MetricTally>,
}

impl From<Total> for Fingerprint {
    fn from(total: Total) -> Self {
        let mut update = blake3::Hasher::new();
        for value in &total.update {
            update.update(&value.to_bits().to_le_bytes());
        }
        Self { weight: total.weight, update: update.finalize(), metrics: total.metrics }
    }
}

/// What a hospital puts its name to when it is ready.
struct Ready {
    context: Digest,
}

impl Statement for Ready {
    const LABEL: &'static str = "consilium/bench-ready/1";

    fn write(&self, transcript: &mut Transcript) {
        transcript.bytes(self.context.as_bytes());
    }
}

/// What it puts its name to with its update.
struct Upload {
    context: Digest,
    update: Digest,
}

impl Statement for Upload {
    const LABEL: &'static str = "consilium/bench-upload/1";

    fn write(&self, transcript: &mut Transcript) {
        transcript.bytes(self.context.as_bytes()).bytes(self.update.as_bytes());
    }
}

/// What it puts its name to before it gives shares.
struct FinalSet<'a> {
    context: Digest,
    members: &'a BTreeSet<HospitalId>,
}

impl Statement for FinalSet<'_> {
    const LABEL: &'static str = "consilium/bench-final-set/1";

    fn write(&self, transcript: &mut Transcript) {
        transcript.bytes(self.context.as_bytes()).list(self.members.len());
        for member in self.members {
            transcript.text(member.as_str());
        }
    }
}

/// What a hospital has to say in a round: each another vector, at half the range at most.
fn contribution(format: &VectorFormat, number: u16) -> Contribution {
    let steps = (0..=2_002_i16).cycle().skip(usize::from(number) * 131);
    let update = steps.take(format.model()).map(|step| f32::from(step - 1_001) / 2_002.0);
    let metrics = format.metrics().map(MetricTally::new);
    Contribution { weight: u64::from(number % 7) * 100 + 50, update: update.collect(), metrics }
}

/// The sum of what the first so many hospitals have to say, added up without any protocol.
pub(super) fn plain_sum(format: &VectorFormat, sites: u16) -> Outcome<Fingerprint> {
    let mut sum = Accumulator::new(format);
    for number in 1..=sites {
        sum.add(&encode(format, &contribution(format, number))?.packed)?;
    }
    Ok(sum.finish()?.into())
}

impl Site {
    /// Takes the slot, encodes and masks: a hospital's part until its update is gone.
    fn upload(
        &mut self,
        format: &VectorFormat,
        context: &Context,
        contribution: &Contribution,
    ) -> Outcome<(Vec<u8>, Upload, Signature<Upload>)> {
        let mut packed = encode(format, contribution)?.packed;
        let digest = context.digest();
        let own = self.own.take(context.slot).ok_or_else(|| Trouble::new("the slot is gone"))?;
        let mut seeds = BTreeMap::new();
        for (neighbour, pair) in &mut self.keys {
            seeds.insert(neighbour.clone(), pair.chain.take(context.slot)?);
        }
        let masks = digest.masks_of(&self.hood.owner().hospital, own.secret(), &seeds);
        Masks::new(format.modulus(), masks).pass(format.lanes()).mask(&mut packed)?;
        self.taken = Some(own);
        let said = Upload { context: digest.digest(), update: Digest::blake3(&packed) };
        let signature = self.identity.sign(&said);
        Ok((packed, said, signature))
    }

    /// Gives its shares: of b for those in the sum, itself among them, of r for those who are not.
    fn answer(
        &mut self,
        slot: SlotId,
        members: &BTreeSet<HospitalId>,
    ) -> Outcome<BTreeMap<HospitalId, Share>> {
        let mut answer = BTreeMap::new();
        for neighbour in self.hood.neighbours() {
            let owner = &neighbour.hospital;
            let held = self.held.remove(&(owner.clone(), slot));
            let held = held.ok_or_else(|| Trouble::new("a share is gone"))?;
            let kind = if members.contains(owner) { Kind::Own } else { Kind::Recovery };
            answer.insert(owner.clone(), held.release(kind));
        }
        let own = self.taken.take().ok_or_else(|| Trouble::new("no slot was taken"))?;
        let value = Secret::new(*own.share().value().secret().expose());
        let value = SecretScalar::from_canonical(value)
            .ok_or_else(|| Trouble::new("a share is no element of the field"))?;
        let me = self.hood.owner();
        answer.insert(me.hospital.clone(), Share::new(me.holder, value));
        Ok(answer)
    }
}

impl Federation {
    /// Plays the round of one slot, in which the last so many hospitals of the roster drop out
    /// after the roster is frozen and before their update is complete.
    pub(super) fn play(
        &mut self,
        format: &VectorFormat,
        round: RoundId,
        dropouts: u16,
    ) -> Outcome<Played> {
        let slot = SlotId::new(round.get().into());
        let context = Context {
            study: self.study,
            charter: self.charter,
            epoch: 0,
            slot,
            round,
            model: Digest::sha256(b"model"),
            plan: Digest::sha256(b"plan"),
            roster: self.pinned.clone(),
            graph: self.graph,
            checkpoint: Digest::sha256(b"checkpoint"),
        };
        let mut spent = Spent::default();
        let agreed = spent.coordinator(|| context.digest());
        let staying = self.sites.len().saturating_sub(dropouts.into());
        let members: BTreeSet<HospitalId> = self.sites.keys().take(staying).cloned().collect();
        let Self { sites, pinned, .. } = self;

        let ready = Ready { context: context.plan };
        for (id, site) in &*sites {
            let signature = spent.hospital(|| site.identity.sign(&ready));
            spent.coordinator(|| pinned[id].verify(&ready, &signature))?;
        }

        // Each hospital says as much as any other.
        let mut bytes_up = SIGNATURE;
        let mut sum = Accumulator::new(format);
        for (number, (id, site)) in (1..).zip(sites.iter_mut().take(staying)) {
            let contribution = contribution(format, number);
            let (packed, said, signature) =
                spent.hospital(|| site.upload(format, &context, &contribution))?;
            let take_in = || -> Outcome<()> {
                if Digest::blake3(&packed) != said.update {
                    return Err(Trouble::new("an update is not what its digest says"));
                }
                pinned[id].verify(&said, &signature)?;
                Ok(sum.add(&packed)?)
            };
            spent.coordinator(take_in)?;
            bytes_up = SIGNATURE + packed.len() + DIGEST + SIGNATURE;
        }

        let set = FinalSet { context: agreed.digest(), members: &members };
        let mut signed = BTreeMap::new();
        for id in &members {
            let signature = spent.hospital(|| sites[id].identity.sign(&set));
            spent.coordinator(|| pinned[id].verify(&set, &signature))?;
            signed.insert(id, signature);
        }
        let mut answers = Vec::new();
        for site in sites.values_mut().take(staying) {
            let answer = || -> Outcome<_> {
                for (other, signature) in &signed {
                    pinned[*other].verify(&set, signature)?;
                }
                site.answer(slot, &members)
            };
            answers.push(spent.hospital(answer)?);
        }
        bytes_up += SIGNATURE + answers.first().map_or(0, BTreeMap::len) * SHARE;

        let unmask = || self.unmask(format, agreed, slot, &members, &answers, sum);
        let total = spent.coordinator(unmask)?;
        Ok(Played { spent, bytes_up, sum: total.into() })
    }

    /// The coordinator's end: from shares to the sum.
    fn unmask(
        &self,
        format: &VectorFormat,
        context: ContextDigest,
        slot: SlotId,
        members: &BTreeSet<HospitalId>,
        answers: &[BTreeMap<HospitalId, Share>],
        mut sum: Accumulator,
    ) -> Outcome<Total> {
        // Everyone is everyone's neighbour here, so the same holders serve for all secrets, and no
        // more of them than are needed.
        let enough = self.sites.values().map(|site| usize::from(site.hood.threshold())).max();
        let answers = &answers[..enough.unwrap_or_default().min(answers.len())];
        let shares = |owner: &HospitalId| -> Vec<&Share> {
            answers.iter().filter_map(|answer| answer.get(owner)).collect()
        };
        let one = members.first().ok_or_else(|| Trouble::new("nobody is left"))?;
        let holders: Vec<Holder> = shares(one).into_iter().map(Share::holder).collect();
        let holders = Recovery::from_holders(&holders)?;
        let mut masks = Vec::new();
        for (owner, batch) in &self.batches {
            if members.contains(owner) {
                let own = slots::recover(batch, slot, Kind::Own, &holders, &shares(owner))?;
                masks.push(context.self_mask_removed(&own).mask());
            } else {
                let secret = slots::recover(batch, slot, Kind::Recovery, &holders, &shares(owner))?;
                let seeds = batch.open_escrow(slot, &secret)?;
                let neighbours = self.sites[owner].hood.neighbours().iter().map(|m| &m.hospital);
                let added = neighbours.zip(&seeds).filter(|(id, _)| members.contains(*id));
                masks.extend(context.pair_masks(owner, added).map(|pair| pair.mask()));
            }
        }
        Masks::new(format.modulus(), masks).apply(sum.tiles());
        Ok(sum.finish()?)
    }
}
