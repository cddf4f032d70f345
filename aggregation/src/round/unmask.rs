//! The final set is signed. Members of the roster give their shares; from T of each secret the
//! self masks of those in the set come, and the seeds of those who dropped out.
//!
//! Nothing is recovered before every secret that is needed can be, and what is recovered is held
//! against what its hospital committed to (PROTOCOL M-13). If it does not fit, somebody gave a
//! wrong share; with more answers than it takes, who it was comes out, by name (PROTOCOL R-23).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::context::ContextDigest;
use crate::ids::{HospitalId, SlotId};
use crate::keys::slots::Kind;
use crate::masking::keystream::KeyedMask;
use crate::masking::sharing::{SecretScalar, Share};
use crate::message::{Abandoned, Said, Shares, SignedSet};
use crate::refusal::Refusal;
use crate::round::combine::Combine;
use crate::round::mask::Mask;
use crate::round::pick::Picker;
use crate::round::{Fact, Input, Masks, Output, Round, Step};
use crate::units::Timestamp;

/// Shares are arriving.
#[derive(Debug, Clone)]
pub struct Unmask {
    pub(super) mask: Mask,
    masks: Arc<Masks>,
    context: ContextDigest,
    signed: SignedSet,
    answers: BTreeMap<HospitalId, Arc<Shares>>,
    until: Timestamp,
}

/// What came of trying to recover everything.
enum Recovered {
    /// Everything, with whoever gave a wrong share, and of whose secret.
    Masks { masks: Vec<KeyedMask>, wrong: Vec<(HospitalId, HospitalId)> },
    /// Too few shares of something.
    TooFew,
    /// Enough shares, but no choice of them fits.
    Unfit(HospitalId),
    /// The escrow of a hospital does not open.
    Escrow(HospitalId),
}

impl Unmask {
    pub(super) const NAME: &'static str = "unmask";

    pub(super) fn open(
        now: Timestamp,
        mask: Mask,
        masks: &Arc<Masks>,
        context: ContextDigest,
        signed: SignedSet,
    ) -> Step {
        let until = now.saturating_add(mask.attempt().plan.upload_deadline);
        let masks = Arc::clone(masks);
        let phase = Self { mask, masks, context, signed, answers: BTreeMap::new(), until };
        let outputs = phase.call().to_vec();
        Step { outputs, next: Some(Round::Unmask(phase)) }
    }

    /// What the members are told, now or after a restart.
    fn call(&self) -> [Output; 2] {
        [Output::Unmask(self.signed.clone()), Output::WakeAt(self.until)]
    }

    pub(super) fn handle(&mut self, now: Timestamp, input: Input) -> Result<Step, Refusal> {
        match input {
            Input::Said { from, said } => self.accept(now, from, said),
            Input::Removed { .. } | Input::Lost { .. } => Ok(Step::stay(Vec::new())),
            Input::Deadline if now < self.until => Ok(Step::stay(Vec::new())),
            Input::Deadline => Ok(self.give_up()),
            Input::Resumed => {
                self.until = now.saturating_add(self.mask.attempt().plan.upload_deadline);
                Ok(Step::stay(self.call().to_vec()))
            }
            Input::Stop { reason } => Ok(self.mask.abandon(Abandoned::Stopped(reason))),
        }
    }

    fn accept(&mut self, now: Timestamp, from: HospitalId, said: Said) -> Result<Step, Refusal> {
        self.mask.attempt().admit(&from, &said)?;
        let what = said.name();
        let shares = match said {
            Said::Unmask { shares, .. } => shares,
            // Enough have signed: one more signature, or the same again, changes nothing.
            Said::Signed { .. } => return Ok(Step::stay(Vec::new())),
            Said::Ready { .. } | Said::Declined { .. } | Said::Update { .. } => {
                return self.mask.answer(&from, &said).map(|()| Step::stay(Vec::new()));
            }
        };
        // PROTOCOL R-08
        if !self.mask.roster().members.contains(&from) {
            return Err(Refusal::NotInRoster { hospital: from });
        }
        match self.answers.get(&from) {
            Some(first) if *first == shares => return Ok(Step::stay(Vec::new())),
            Some(_) => return Err(Refusal::Changed { what }),
            None => {}
        }
        if now > self.until {
            return Err(Refusal::TooLate { what });
        }
        self.check(&from, &shares)?;
        self.answers.insert(from.clone(), shares);
        let mut told = vec![Output::Fact(Fact::Unmasked { hospital: from })];
        let step = match self.recover() {
            Recovered::Masks { masks, wrong } => {
                let accuse = |(hospital, of)| Output::Fact(Fact::WrongShare { hospital, of });
                told.extend(wrong.into_iter().map(accuse));
                let members = &self.mask.roster().members;
                let dropped = members.difference(&self.signed.set.members).cloned().collect();
                told.push(Output::Fact(Fact::Recovered { dropped }));
                return Ok(Combine::open(self.mask.clone(), masks, told));
            }
            Recovered::Escrow(hospital) => self.mask.abandon(Abandoned::Escrow { hospital }),
            Recovered::TooFew | Recovered::Unfit(_)
                if self.answers.len() < self.mask.roster().members.len() =>
            {
                Step::stay(Vec::new())
            }
            Recovered::TooFew => self.mask.abandon(self.too_few()),
            Recovered::Unfit(hospital) => self.mask.abandon(Abandoned::Unrecoverable { hospital }),
        };
        Ok(step.after(told))
    }

    /// Whether these are shares of exactly those hospitals that were asked for, of the right kind
    /// each, under the giver's number (PROTOCOL R-23, M-15).
    fn check(&self, from: &HospitalId, shares: &Shares) -> Result<(), Refusal> {
        let wrong = |why| Refusal::WrongShares { hospital: from.clone(), why };
        let neighbourhood = self.masks.provision.neighbourhood(from);
        let neighbourhood = neighbourhood.ok_or_else(|| wrong("it is not on the roll"))?;
        let Shares { own, recovery } = shares;
        let roster = self.mask.roster().members;
        let summed = &self.signed.set.members;
        let near = neighbourhood.neighbours().iter().map(|member| &member.hospital);
        let near: BTreeSet<_> = near.filter(|hospital| roster.contains(*hospital)).collect();
        let mut of_sum: BTreeSet<_> =
            near.iter().copied().filter(|hospital| summed.contains(*hospital)).collect();
        if summed.contains(from) {
            of_sum.insert(from);
        }
        let of_dropped = near.iter().copied().filter(|hospital| !summed.contains(*hospital));
        if !own.keys().eq(of_sum) || !recovery.keys().eq(of_dropped) {
            return Err(wrong("they are of other hospitals, or of the other kind"));
        }
        let holder = neighbourhood.owner().holder;
        if own.values().chain(recovery.values()).any(|share| share.holder() != holder) {
            return Err(wrong("they stand under another hospital's number"));
        }
        Ok(())
    }

    /// Recovers every secret, if there are shares enough.
    fn recover(&self) -> Recovered {
        let slot = self.mask.terms().slot;
        let roster = self.mask.roster().members;
        let summed = &self.signed.set.members;
        let threshold = usize::from(self.masks.provision.graph().threshold());
        let kind = |hospital: &HospitalId| {
            if summed.contains(hospital) { Kind::Own } else { Kind::Recovery }
        };
        let enough =
            |hospital: &&HospitalId| self.shares_of(hospital, kind(hospital)).len() >= threshold;
        if !roster.iter().all(|hospital| enough(&hospital)) {
            return Recovered::TooFew;
        }
        let mut picker = Picker::new(threshold);
        let mut masks = Vec::new();
        let mut wrong = Vec::new();
        for hospital in &roster {
            let Some(batch) = self.masks.batches.get(hospital) else {
                return Recovered::Unfit(hospital.clone());
            };
            let kind = kind(hospital);
            let shares = self.shares_of(hospital, kind);
            let Some(pick) = picker.pick(batch, slot, kind, &shares) else {
                return Recovered::Unfit(hospital.clone());
            };
            wrong.extend(pick.wrong.into_iter().map(|giver| (giver, hospital.clone())));
            let secret = pick.secret;
            match kind {
                Kind::Own => masks.push(self.context.self_mask_removed(&secret)),
                Kind::Recovery => match self.pair_masks(hospital, slot, &secret) {
                    Some(pair) => masks.extend(pair),
                    None => return Recovered::Escrow(hospital.clone()),
                },
            }
        }
        Recovered::Masks { masks, wrong }
    }

    /// What the neighbours of a hospital that dropped out have in their updates and it does not
    /// take away: their pair masks with it, from its own escrow.
    fn pair_masks(
        &self,
        dropped: &HospitalId,
        slot: SlotId,
        secret: &SecretScalar,
    ) -> Option<Vec<KeyedMask>> {
        let seeds = self.masks.batches.get(dropped)?.open_escrow(slot, secret).ok()?;
        let neighbourhood = self.masks.provision.neighbourhood(dropped)?;
        let neighbours = neighbourhood.neighbours().iter().map(|member| &member.hospital);
        let summed = &self.signed.set.members;
        let in_sum = neighbours.zip(&seeds).filter(|(hospital, _)| summed.contains(*hospital));
        Some(self.context.pair_masks(dropped, in_sum).collect())
    }

    /// The shares of a hospital's secret that were given, by giver.
    fn shares_of(&self, hospital: &HospitalId, kind: Kind) -> Vec<(&HospitalId, &Share)> {
        let share = |(giver, shares)| -> Option<(&HospitalId, &Share)> {
            let shares: &Arc<Shares> = shares;
            let of_kind = match kind {
                Kind::Own => &shares.own,
                Kind::Recovery => &shares.recovery,
            };
            Some((giver, of_kind.get(hospital)?))
        };
        self.answers.iter().filter_map(share).collect()
    }

    fn too_few(&self) -> Abandoned {
        Abandoned::TooFewShares { answered: self.answers.len() }
    }

    /// The deadline has come.
    fn give_up(&self) -> Step {
        let why = match self.recover() {
            Recovered::Unfit(hospital) => Abandoned::Unrecoverable { hospital },
            Recovered::Escrow(hospital) => Abandoned::Escrow { hospital },
            // Had there been enough, the last answer would have shown it.
            Recovered::TooFew | Recovered::Masks { .. } => self.too_few(),
        };
        self.mask.abandon(why)
    }

    pub(super) const fn signed(&self) -> &SignedSet {
        &self.signed
    }
}
