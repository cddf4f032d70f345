//! What a mask is for (PROTOCOL M-19), and the keys that are good for that and nothing else
//! (PROTOCOL M-20).
//!
//! Every mask key is derived from the digest of everything that the hospitals of a round must
//! agree on. Two hospitals that were shown different models, rosters or logs grow masks that do
//! not cancel: the sum is uniform noise, and nobody's update can be read off it. This is what
//! stops a coordinator that sends the victim one model and everybody else another ([PFA22]).
//!
//! [PFA22]: https://arxiv.org/abs/2111.07380

use std::collections::BTreeMap;

use crate::ids::{Digest, HospitalId, RoundId, SlotId, StudyId};
use crate::keys::chain::PairSeed;
use crate::keys::identity::IdentityKey;
use crate::masking::keystream::{KeyedMask, Mask, MaskKey, Sign};
use crate::masking::sharing::SecretScalar;
use crate::transcript::Transcript;

/// Everything that the hospitals of a round must agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The study.
    pub study: StudyId,
    /// The digest of the charter that they signed.
    pub charter: Digest,
    /// Which of the charters of the study, counted from 0.
    pub epoch: u32,
    /// The attempt.
    pub slot: SlotId,
    /// The round.
    pub round: RoundId,
    /// The model that they trained on.
    pub model: Digest,
    /// What they were asked to do with it.
    pub plan: Digest,
    /// The frozen roster, each hospital under its identity key.
    pub roster: BTreeMap<HospitalId, IdentityKey>,
    /// Who is whose neighbour ([`crate::keys::graph::Graph::digest`]).
    pub graph: Digest,
    /// The log as they saw it.
    pub checkpoint: Digest,
}

/// What stands for a [`Context`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextDigest(Digest);

impl Context {
    /// The digest that goes into every mask key and every signature of the round.
    #[must_use]
    pub fn digest(&self) -> ContextDigest {
        // Taken apart by name: a new field cannot be left out of the digest.
        let Self { study, charter, epoch, slot, round, model, plan, roster, graph, checkpoint } =
            self;
        let mut members = Transcript::new("consilium/masking-roster/1");
        members.list(roster.len());
        for (hospital, identity) in roster {
            members.text(hospital.as_str()).bytes(identity.fingerprint().as_bytes());
        }
        let digest = Transcript::new("consilium/secagg/1")
            .bytes(study.digest().as_bytes())
            .bytes(charter.as_bytes())
            .u32(*epoch)
            .u64(slot.get())
            .u32(round.get())
            .bytes(model.as_bytes())
            .bytes(plan.as_bytes())
            .bytes(members.finish().as_bytes())
            .bytes(graph.as_bytes())
            .bytes(checkpoint.as_bytes())
            .finish();
        ContextDigest(digest)
    }
}

impl ContextDigest {
    /// The digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.0
    }

    /// The key of the mask between two hospitals.
    #[must_use]
    pub fn pair_key(&self, seed: &PairSeed) -> MaskKey {
        MaskKey::new(seed.secret().derive(&self.purpose("consilium/pair-mask/1")))
    }

    /// The key of a hospital's mask of its own.
    #[must_use]
    pub fn self_key(&self, secret: &SecretScalar) -> MaskKey {
        MaskKey::new(secret.secret().derive(&self.purpose("consilium/self-mask/1")))
    }

    /// All masks that a hospital puts on its update: its own, and those of [`Self::pair_masks`].
    #[must_use]
    pub fn masks_of<'a>(
        &self,
        hospital: &HospitalId,
        own: &SecretScalar,
        neighbours: impl IntoIterator<Item = (&'a HospitalId, &'a PairSeed)>,
    ) -> Vec<Mask> {
        let own = Mask::new(&self.self_key(own), Sign::Add);
        let pairs = self.pair_masks(hospital, neighbours).map(|pair| pair.mask());
        std::iter::once(own).chain(pairs).collect()
    }

    /// The masks that a hospital has in common with these of its neighbours, as it applies them.
    ///
    /// A hospital applies those with all neighbours on the frozen roster. When it drops out, the
    /// coordinator applies those with all neighbours whose update is in the sum: what the
    /// hospital would have put in is what is missing for theirs to cancel.
    pub fn pair_masks<'a>(
        &self,
        hospital: &HospitalId,
        neighbours: impl IntoIterator<Item = (&'a HospitalId, &'a PairSeed)>,
    ) -> impl Iterator<Item = KeyedMask> {
        neighbours.into_iter().map(move |(neighbour, seed)| KeyedMask {
            key: self.pair_key(seed),
            sign: pair_sign(hospital, neighbour),
        })
    }

    /// A hospital's own mask, as the coordinator takes it out of the sum.
    #[must_use]
    pub fn self_mask_removed(&self, own: &SecretScalar) -> KeyedMask {
        KeyedMask { key: self.self_key(own), sign: Sign::Subtract }
    }

    fn purpose(&self, label: &'static str) -> Transcript {
        let mut purpose = Transcript::new(label);
        purpose.bytes(self.0.as_bytes());
        purpose
    }
}

/// How a hospital applies the mask that it has in common with a neighbour: the one whose name
/// comes first adds it, the other takes it away, so that it is in no sum of both (PROTOCOL M-03).
#[must_use]
pub fn pair_sign(hospital: &HospitalId, neighbour: &HospitalId) -> Sign {
    if hospital < neighbour { Sign::Add } else { Sign::Subtract }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::masking::group::Modulus;
    use crate::masking::masks::{Masks, Tiles};
    use crate::secret::Secret;

    fn name(text: &str) -> HospitalId {
        HospitalId::new(text).expect("a name")
    }

    fn context() -> Context {
        let digest = |text: &str| Digest::sha256(text.as_bytes());
        Context {
            study: StudyId::new(digest("study")),
            charter: digest("charter"),
            epoch: 1,
            slot: SlotId::new(2),
            round: RoundId::FIRST,
            model: digest("model"),
            plan: digest("plan"),
            roster: [("a", 1), ("b", 2)]
                .map(|(id, key)| (name(id), IdentityKey::new([key; 32])))
                .into(),
            graph: digest("graph"),
            checkpoint: digest("checkpoint"),
        }
    }

    /// Each way in which one field can differ. Taken apart by name, with nothing left over: a new
    /// field does not build here before it has its case, as an unused name is refused by CI.
    fn altered() -> Vec<(&'static str, Context)> {
        let Context { study, charter, epoch, slot, round, model, plan, roster, graph, checkpoint } =
            context();
        let other = |digest: Digest| Digest::sha256(digest.as_bytes());
        let with = |change: &dyn Fn(&mut Context)| {
            let mut context = context();
            change(&mut context);
            context
        };
        let mut fewer = roster.clone();
        fewer.remove(&name("b"));
        let mut more = roster.clone();
        more.insert(name("c"), IdentityKey::new([3; 32]));
        let mut rekeyed = roster;
        rekeyed.insert(name("b"), IdentityKey::new([4; 32]));
        vec![
            ("study", with(&|c| c.study = StudyId::new(other(study.digest())))),
            ("charter", with(&|c| c.charter = other(charter))),
            ("epoch", with(&|c| c.epoch = epoch + 1)),
            ("slot", with(&|c| c.slot = slot.next())),
            ("round", with(&|c| c.round = round.next())),
            ("model", with(&|c| c.model = other(model))),
            ("plan", with(&|c| c.plan = other(plan))),
            ("roster: fewer", with(&|c| c.roster = fewer.clone())),
            ("roster: more", with(&|c| c.roster = more.clone())),
            ("roster: another key", with(&|c| c.roster = rekeyed.clone())),
            ("graph", with(&|c| c.graph = other(graph))),
            ("checkpoint", with(&|c| c.checkpoint = other(checkpoint))),
        ]
    }

    /// M-19 and M-20: whatever differs, every mask differs, and nothing cancels.
    #[test]
    fn every_field_changes_the_context_and_all_its_masks() {
        let ours = context().digest();
        let seed = PairSeed::new(Secret::new([1; 32]));
        let own = SecretScalar::from_wide(&Secret::new([1; 64]));
        let mut seen = vec![ours.digest()];
        for (field, altered) in altered() {
            let theirs = altered.digest();
            assert!(!seen.contains(&theirs.digest()), "{field} does not change the context");
            seen.push(theirs.digest());
            assert_ne!(ours.pair_key(&seed), theirs.pair_key(&seed), "{field}");
            assert_ne!(ours.self_key(&own), theirs.self_key(&own), "{field}");

            let mut lanes = vec![0; 1_000];
            let masks = [
                Mask::new(&ours.pair_key(&seed), pair_sign(&name("a"), &name("b"))),
                Mask::new(&theirs.pair_key(&seed), pair_sign(&name("b"), &name("a"))),
            ];
            Masks::new(Modulus::Bits32, masks).apply(Tiles::new(&mut lanes));
            let small = lanes.iter().filter(|lane| lane.cast_signed().unsigned_abs() < 1 << 20);
            assert!(small.count() < 10, "{field}: the masks still cancel");
        }
    }

    #[test]
    fn masks_of_one_context_cancel_between_two_and_leave_their_own() {
        let digest = context().digest();
        let (a, b) = (name("a"), name("b"));
        let seed = PairSeed::new(Secret::new([1; 32]));
        let own = [2, 3].map(|byte| SecretScalar::from_wide(&Secret::new([byte; 64])));
        let mut lanes = vec![0; 5_000];
        let apply = |masks: Vec<Mask>, lanes: &mut [u32]| {
            Masks::new(Modulus::Bits32, masks).apply(Tiles::new(lanes));
        };
        apply(digest.masks_of(&a, &own[0], [(&b, &seed)]), &mut lanes);
        apply(digest.masks_of(&b, &own[1], [(&a, &seed)]), &mut lanes);
        assert!(lanes.iter().any(|lane| *lane != 0));
        apply(own.iter().map(|own| digest.self_mask_removed(own).mask()).collect(), &mut lanes);
        assert_eq!(lanes, vec![0; 5_000]);
    }

    /// M-20: the two kinds of key, from the same 32 bytes, have nothing in common.
    #[test]
    fn pair_and_self_keys_are_kept_apart() {
        let digest = context().digest();
        let own = SecretScalar::from_wide(&Secret::new([1; 64]));
        let seed = PairSeed::new(Secret::new(*own.secret().expose()));
        assert_ne!(digest.pair_key(&seed), digest.self_key(&own));
    }
}
