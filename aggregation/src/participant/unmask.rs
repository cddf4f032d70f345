//! The final set carries enough signatures: shares are given for exactly this set, one of the two
//! secrets of each hospital and never the other (PROTOCOL R-22, M-15).

use std::collections::BTreeSet;

use crate::ids::{HospitalId, SlotId};
use crate::message::{SetStatement, SignedSet, Terms};
use crate::participant::mask::Mask;
use crate::participant::sign::Sign;
use crate::participant::{Action, Participant, Phase};
use crate::refusal::Refusal;

/// Shares are given, or about to be, until the round is closed.
#[derive(Debug, Clone)]
pub(super) struct Unmask {
    sign: Sign,
    own: BTreeSet<HospitalId>,
    recovery: BTreeSet<HospitalId>,
    confirmed: bool,
}

impl Unmask {
    pub(super) const fn mask(&self) -> &Mask {
        self.sign.mask()
    }

    pub(super) const fn members(&self) -> &BTreeSet<HospitalId> {
        self.sign.members()
    }

    /// The shares, until the coordinator has confirmed them.
    pub(super) fn due(&self) -> Option<Action> {
        if self.confirmed {
            return None;
        }
        let offer = self.mask().offer();
        let Terms { round, slot, .. } = offer.terms;
        let (own, recovery) = (self.own.clone(), self.recovery.clone());
        Some(Action::Unmask { round, slot, terms: offer.digest, own, recovery })
    }
}

impl Participant {
    /// The coordinator shows the signatures of the final set, and asks for shares.
    pub(super) fn unmask(&mut self, signed: &SignedSet) -> Result<Vec<Action>, Refusal> {
        let slot = signed.set.slot;
        let here = match &self.phase {
            Phase::Mask(mask) => mask.offer().terms.slot == slot,
            Phase::Sign(phase) => phase.mask().offer().terms.slot == slot,
            Phase::Unmask(phase) => phase.mask().offer().terms.slot == slot,
            Phase::Idle | Phase::Announce(_) => false,
        };
        if !here {
            return Ok(Vec::new());
        }
        // The set that this site knows, or hears of only now because it was away; and no other.
        let before = self.phase.clone();
        self.fixed(&signed.set)?;
        match self.release_for(signed) {
            Ok(actions) => Ok(actions),
            Err(refusal) => {
                self.phase = before;
                Err(refusal)
            }
        }
    }

    fn release_for(&mut self, signed: &SignedSet) -> Result<Vec<Action>, Refusal> {
        let sign = match &self.phase {
            Phase::Sign(sign) => sign.clone(),
            Phase::Unmask(phase) => return Ok(phase.due().into_iter().collect()),
            Phase::Idle | Phase::Announce(_) | Phase::Mask(_) => return Ok(Vec::new()),
        };
        let (Some(provision), Some(context)) = (&self.provision, sign.mask().context()) else {
            return Err(Refusal::BadSet { why: "the study sends its updates unmasked" });
        };
        // PROTOCOL R-22
        let roll = provision.roll();
        let members = sign.members();
        let statement = SetStatement { context, members: members.clone() };
        let holds = |hospital: &HospitalId| {
            let signature = signed.signatures.get(hospital)?;
            roll.identities().get(hospital)?.verify(&statement, signature).ok()
        };
        let valid = members.iter().filter(|hospital| holds(hospital).is_some()).count();
        let needed = roll.thresholds().shares();
        if valid < usize::from(needed) {
            return Err(Refusal::TooFewSignatures { valid, needed });
        }
        // PROTOCOL M-15: of each hospital on the roster that this one holds shares of, one.
        let roster = &sign.mask().roster().members;
        let neighbourhood = provision.neighbourhood(&self.me);
        let neighbours = neighbourhood.iter().flat_map(|near| near.neighbours());
        let near = neighbours.map(|member| &member.hospital).filter(|id| roster.contains(*id));
        let (mut own, recovery): (BTreeSet<_>, BTreeSet<_>) =
            near.cloned().partition(|hospital| members.contains(hospital));
        if members.contains(&self.me) {
            own.insert(self.me.clone());
        }
        let phase = Unmask { sign, own, recovery, confirmed: false };
        let due = phase.due();
        self.phase = Phase::Unmask(phase);
        Ok(due.into_iter().collect())
    }

    /// The coordinator has confirmed the shares.
    pub(super) fn unmasked(&mut self, slot: SlotId) -> Result<Vec<Action>, Refusal> {
        if let Phase::Unmask(phase) = &mut self.phase
            && phase.mask().offer().terms.slot == slot
        {
            phase.confirmed = true;
        }
        Ok(Vec::new())
    }
}
