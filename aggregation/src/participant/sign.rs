//! The final set is fixed. If this site's update is in it, this site signs it: once per slot, and
//! no other set ever (PROTOCOL ).

use std::collections::BTreeSet;

use crate::ids::{HospitalId, SlotId};
use crate::message::{FinalSet, SetStatement, Terms};
use crate::participant::mask::Mask;
use crate::participant::{Action, Participant, Phase};
use crate::refusal::Refusal;

/// A final set, until its shares are given.
#[derive(Debug, Clone)]
pub(super) struct Sign {
    mask: Mask,
    members: BTreeSet<HospitalId>,
    /// What is signed; nothing by a site that is not in the set.
    statement: Option<SetStatement>,
    confirmed: bool,
}

impl Sign {
    pub(super) const fn mask(&self) -> &Mask {
        &self.mask
    }

    pub(super) const fn members(&self) -> &BTreeSet<HospitalId> {
        &self.members
    }

    /// The signature, until the coordinator has confirmed it.
    pub(super) fn due(&self) -> Option<Action> {
        let offer = self.mask.offer();
        let Terms { round, slot, .. } = offer.terms;
        let statement = self.statement.clone().filter(|_| !self.confirmed)?;
        Some(Action::Sign { round, slot, terms: offer.digest, statement })
    }
}

impl Participant {
    /// The coordinator has fixed the final set.
    pub(super) fn fixed(&mut self, set: &FinalSet) -> Result<Vec<Action>, Refusal> {
        let slot = set.slot;
        match &self.phase {
            Phase::Mask(mask) if mask.offer().terms.slot == slot => {
                let statement = self.judge_set(mask, set)?;
                let (mask, members) = (mask.clone(), set.members.clone());
                let phase = Sign { mask, members, statement, confirmed: false };
                let due = phase.due();
                self.phase = Phase::Sign(phase);
                Ok(due.into_iter().collect())
            }
            Phase::Sign(phase) if phase.mask.offer().terms.slot == slot => {
                self.same_set(&phase.mask, &phase.members, set)?;
                Ok(phase.due().into_iter().collect())
            }
            Phase::Unmask(phase) if phase.mask().offer().terms.slot == slot => {
                self.same_set(phase.mask(), phase.members(), set)?;
                Ok(Vec::new())
            }
            Phase::Idle
            | Phase::Announce(_)
            | Phase::Mask(_)
            | Phase::Sign(_)
            | Phase::Unmask(_) => Ok(Vec::new()),
        }
    }

    /// The coordinator has confirmed a signature.
    pub(super) fn signed(&mut self, slot: SlotId) -> Result<Vec<Action>, Refusal> {
        if let Phase::Sign(phase) = &mut self.phase
            && phase.mask.offer().terms.slot == slot
        {
            phase.confirmed = true;
        }
        Ok(Vec::new())
    }

    /// Whether a set can be the final set of this roster; what this site signs of it.
    fn judge_set(&self, mask: &Mask, set: &FinalSet) -> Result<Option<SetStatement>, Refusal> {
        let offer = mask.offer();
        if set.terms != offer.digest {
            return Err(Refusal::OtherTerms { expected: offer.digest, found: set.terms });
        }
        // PROTOCOL R-21
        let Some(context) = mask.context() else {
            return Err(Refusal::BadSet { why: "the study sends its updates unmasked" });
        };
        if !set.members.is_subset(&mask.roster().members) {
            return Err(Refusal::BadSet { why: "a member is not in the frozen roster" });
        }
        // PROTOCOL R-13
        let (found, quorum) = (set.members.len(), self.charter.study().cohort.quorum);
        if found < usize::from(quorum) {
            return Err(Refusal::BelowQuorum { found, quorum });
        }
        if !set.members.contains(&self.me) {
            return Ok(None);
        }
        if !mask.may_have_sent() {
            return Err(Refusal::BadSet { why: "this site has not sent its update" });
        }
        Ok(Some(SetStatement { context, members: set.members.clone() }))
    }

    /// PROTOCOL R-21: a second final set of a slot is refused, whatever it is.
    fn same_set(
        &self,
        mask: &Mask,
        members: &BTreeSet<HospitalId>,
        set: &FinalSet,
    ) -> Result<(), Refusal> {
        let expected = mask.offer().digest;
        if set.terms != expected {
            return Err(Refusal::OtherTerms { expected, found: set.terms });
        }
        if set.members == *members {
            Ok(())
        } else {
            Err(Refusal::Changed { what: "the final set" })
        }
    }
}
