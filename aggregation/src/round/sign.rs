//! The final set is fixed, and its members sign it. T signatures of all n provisioned hospitals
//! make it the only one that can ever be signed (PROTOCOL R-22), and that is enough to go on: who
//! vanished after its upload is not waited for.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::context::ContextDigest;
use crate::ids::HospitalId;
use crate::keys::identity::Signature;
use crate::message::{Abandoned, FinalSet, Said, SetStatement, SignedSet, Terms};
use crate::refusal::Refusal;
use crate::round::mask::Mask;
use crate::round::unmask::Unmask;
use crate::round::{Attempt, Fact, Input, Masks, Output, Round, Step};
use crate::units::Timestamp;

/// Signatures are arriving.
#[derive(Debug, Clone)]
pub struct Sign {
    pub(super) mask: Mask,
    masks: Arc<Masks>,
    set: FinalSet,
    context: ContextDigest,
    signatures: BTreeMap<HospitalId, Signature<SetStatement>>,
    until: Timestamp,
}

impl Sign {
    pub(super) const NAME: &'static str = "sign";

    /// Fixes the final set: the members whose updates are complete (PROTOCOL R-21).
    pub(super) fn open(now: Timestamp, mask: Mask, masks: &Arc<Masks>) -> Step {
        let Attempt { terms, digest, plan } = mask.attempt();
        let members = mask.contributed();
        let context = masks.provision.context(terms, &mask.roster().members, &plan.format);
        let Some(context) = context else {
            // The charter's sites are those of the roll.
            return mask.alarm("a member of the roster is not on the roll");
        };
        let Terms { study, round, slot, .. } = *terms;
        let set = FinalSet { study, round, slot, terms: *digest, members: members.clone() };
        let until = now.saturating_add(plan.upload_deadline);
        let phase = Self {
            mask,
            masks: Arc::clone(masks),
            set,
            context,
            signatures: BTreeMap::new(),
            until,
        };
        let mut outputs = vec![Output::Fact(Fact::Fixed { members })];
        outputs.extend(phase.call());
        Step { outputs, next: Some(Round::Sign(phase)) }
    }

    /// What the members are told, now or after a restart.
    fn call(&self) -> [Output; 2] {
        [Output::Fix(self.set.clone()), Output::WakeAt(self.until)]
    }

    pub(super) fn handle(&mut self, now: Timestamp, input: Input) -> Result<Step, Refusal> {
        match input {
            Input::Said { from, said } => self.accept(now, from, &said),
            // Its update is in the sum, and it may be gone: nothing is waited for by name.
            Input::Removed { .. } | Input::Lost { .. } => Ok(Step::stay(Vec::new())),
            Input::Deadline if now < self.until => Ok(Step::stay(Vec::new())),
            Input::Deadline => Ok(self.mask.abandon(Abandoned::TooFewSignatures {
                signed: self.signatures.len(),
                needed: self.needed(),
            })),
            Input::Resumed => {
                self.until = now.saturating_add(self.mask.attempt().plan.upload_deadline);
                Ok(Step::stay(self.call().to_vec()))
            }
            Input::Stop { reason } => Ok(self.mask.abandon(Abandoned::Stopped(reason))),
        }
    }

    fn accept(&mut self, now: Timestamp, from: HospitalId, said: &Said) -> Result<Step, Refusal> {
        self.mask.attempt().admit(&from, said)?;
        let what = said.name();
        let signature = match said {
            Said::Signed { signature, .. } => *signature,
            Said::Unmask { .. } => {
                return Err(Refusal::OutOfPhase { what, phase: Self::NAME });
            }
            Said::Ready { .. } | Said::Declined { .. } | Said::Update { .. } => {
                return self.mask.answer(&from, said).map(|()| Step::stay(Vec::new()));
            }
        };
        // PROTOCOL R-22
        if !self.set.members.contains(&from) {
            return Err(Refusal::BadSet { why: "the signer is not in it" });
        }
        match self.signatures.get(&from) {
            Some(first) if *first == signature => return Ok(Step::stay(Vec::new())),
            Some(_) => return Err(Refusal::Changed { what }),
            None => {}
        }
        if now > self.until {
            return Err(Refusal::TooLate { what });
        }
        let statement = SetStatement { context: self.context, members: self.set.members.clone() };
        let identity = self.masks.provision.roll().identities().get(&from);
        if identity.is_none_or(|key| key.verify(&statement, &signature).is_err()) {
            return Err(Refusal::BadSignature { hospital: from });
        }
        self.signatures.insert(from.clone(), signature);
        let told = Step::fact(Fact::Signed { hospital: from });
        if self.signatures.len() < usize::from(self.needed()) {
            return Ok(told);
        }
        let signed = SignedSet { set: self.set.clone(), signatures: self.signatures.clone() };
        let next = Unmask::open(now, self.mask.clone(), &self.masks, self.context, signed);
        Ok(next.after(told.outputs))
    }

    /// T.
    fn needed(&self) -> u16 {
        self.masks.provision.roll().thresholds().shares()
    }

    pub(super) const fn set(&self) -> &FinalSet {
        &self.set
    }
}
