//! Things that no honest coordinator says.

use aggregation::ids::{Digest, HospitalId, RoundId, SlotId, StudyId};
use aggregation::keys::identity::Signature;
use aggregation::message::{ClosedNotice, FinalSet, Roster, SetStatement, SignedSet, Terms, Work};

use crate::simulation::chance::Chance;
use crate::simulation::evil::Evil;
use crate::simulation::stage::Stage;
use crate::simulation::words::Notice;

impl Evil {
    /// Something else than what is due.
    pub(super) fn nasty(&self, stage: &mut Stage, site: usize, due: Notice) -> Notice {
        let chance = &mut stage.chance;
        if chance.one_in(5) {
            return chance.pick(&self.past).map_or(due, |past| past.as_ref().clone());
        }
        if chance.one_in(12) {
            return self.early_end(chance);
        }
        // Steps ahead or behind, of any world.
        let world = chance.index(self.worlds.len());
        let Some(world) = self.worlds.get(world) else { return due };
        let due = match chance.below(8) {
            0 => Notice::Unmask(world.signed()),
            1 => Notice::Fix(world.set.clone()),
            2 => Notice::Freeze(world.roster.clone()),
            3 => Notice::Offer(world.terms.clone()),
            _ => due,
        };
        match due {
            Notice::Offer(terms) => Notice::Offer(self.other_terms(chance, terms)),
            Notice::Freeze(roster) => Notice::Freeze(self.other_roster(chance, site, roster)),
            Notice::Fix(set) => Notice::Fix(self.other_set(chance, site, set)),
            Notice::Unmask(signed) => Notice::Unmask(self.other_signed(chance, site, signed)),
            Notice::Keys(keys) => Notice::Keys(keys),
            Notice::Close(notice) => Notice::Close(notice),
        }
    }

    fn early_end(&self, chance: &mut Chance) -> Notice {
        Notice::Close(ClosedNotice {
            study: self.cast.charter.id(),
            round: self.round,
            slot: self.slot,
            released: chance.one_in(2),
            reason: String::new(),
            contributed: self.cast.names.iter().cloned().collect(),
            dropped: std::collections::BTreeSet::new(),
        })
    }

    fn other_terms(&self, chance: &mut Chance, mut terms: Terms) -> Terms {
        match chance.below(9) {
            0 => self.shrink(chance, &mut terms.invited),
            1 => drop(terms.invited.insert(stranger())),
            2 => {
                terms.work = match terms.work {
                    Work::Train => Work::Evaluate,
                    Work::TrainAndEvaluate | Work::Evaluate => Work::Train,
                }
            }
            3 => terms.round = RoundId::after(u32::try_from(chance.below(200)).unwrap_or(0) + 50),
            4 => terms.study = StudyId::new(Digest::new(chance.bytes())),
            5 => terms.slot = SlotId::new(chance.below(self.slot.get())),
            6 => terms.model = Digest::new(chance.bytes()),
            7 => terms.log.root = Digest::new(chance.bytes()),
            _ => drop(self.leave_out(chance, &mut terms.invited)),
        }
        terms
    }

    fn other_roster(&self, chance: &mut Chance, site: usize, mut roster: Roster) -> Roster {
        match chance.below(5) {
            0 => self.shrink(chance, &mut roster.members),
            1 => drop(roster.members.insert(stranger())),
            2 => roster.terms = Digest::new(chance.bytes()),
            3 => drop(self.leave_out(chance, &mut roster.members)),
            _ => drop(self.cast.names.get(site).map(|me| roster.members.remove(me))),
        }
        roster
    }

    fn other_set(&self, chance: &mut Chance, site: usize, mut set: FinalSet) -> FinalSet {
        match chance.below(5) {
            0 => self.shrink(chance, &mut set.members),
            1 => drop(set.members.insert(stranger())),
            2 => set.terms = Digest::new(chance.bytes()),
            3 => drop(self.leave_out(chance, &mut set.members)),
            _ => drop(self.cast.names.get(site).map(|me| set.members.remove(me))),
        }
        set
    }

    fn other_signed(&self, chance: &mut Chance, site: usize, mut signed: SignedSet) -> SignedSet {
        match chance.below(7) {
            // One signature too few.
            0 => {
                let needed = self.cast.roll.thresholds().shares();
                while signed.signatures.len() >= needed.into() {
                    signed.signatures.pop_last();
                }
            }
            // Whoever has not signed is signed for.
            1 => {
                for id in &signed.set.members {
                    let forged = Signature::<SetStatement>::new(chance.bytes());
                    signed.signatures.entry(id.clone()).or_insert(forged);
                }
            }
            // One hospital's signature under every name.
            2 => {
                if let Some(one) = signed.signatures.values().next().copied() {
                    signed.signatures =
                        signed.set.members.iter().map(|id| (id.clone(), one)).collect();
                }
            }
            // Signatures of another world.
            3 => {
                let other = chance.index(self.worlds.len());
                if let Some(other) = self.worlds.get(other) {
                    signed.signatures = other.signatures.clone();
                }
            }
            // Signatures by hospitals that are none.
            4 => {
                for (number, one) in signed.signatures.clone().into_values().enumerate() {
                    if let Ok(id) = HospitalId::new(&format!("zz-{number}")) {
                        signed.signatures.insert(id.clone(), one);
                        signed.set.members.insert(id);
                    }
                }
            }
            5 => signed.signatures.clear(),
            _ => signed.set = self.other_set(chance, site, signed.set),
        }
        signed
    }

    /// Below the quorum.
    fn shrink(&self, chance: &mut Chance, members: &mut std::collections::BTreeSet<HospitalId>) {
        let quorum = usize::from(self.cast.charter.study().cohort.quorum);
        while members.len() >= quorum {
            self.leave_out(chance, members);
        }
    }

    fn leave_out(
        &self,
        chance: &mut Chance,
        members: &mut std::collections::BTreeSet<HospitalId>,
    ) -> Option<HospitalId> {
        let all: Vec<_> = members.iter().cloned().collect();
        let out = chance.pick(&all)?.clone();
        members.remove(&out);
        Some(out)
    }
}

/// A hospital that is on no roll.
pub(super) fn stranger() -> HospitalId {
    HospitalId::new("stranger").expect("a name of eight letters")
}
