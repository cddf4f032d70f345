//! The planted bugs of hospitals, all in one place: without a flaw none of this does anything.

use std::sync::Arc;

use aggregation::ids::{Digest, SlotId};
use aggregation::keys::roll::Roll;
use aggregation::masking::sharing::{SecretScalar, Share};
use aggregation::message::{FinalSet, Said, SetStatement, Shares, SignedSet};
use aggregation::participant::Action;
use aggregation::secret::Secret;
use aggregation::vector::VectorFormat;

use crate::simulation::flaw::Flaw;
use crate::simulation::hospital::Hospital;
use crate::simulation::mischief::copy;
use crate::simulation::stage::{Halt, Stage};
use crate::simulation::words::Keys;

impl Hospital {
    pub(super) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// [`Flaw::ForgetsItsUpdate`].
    pub(super) fn forgets_its_update(&self) -> bool {
        self.has(Flaw::ForgetsItsUpdate)
    }

    /// [`Flaw::SlipsALane`].
    pub(super) fn slips_a_lane(&self, packed: &mut [u8], format: &VectorFormat) {
        let model = format.model() * format.modulus().bytes();
        if let (true, Some(model)) = (self.has(Flaw::SlipsALane), packed.get_mut(..model)) {
            model.rotate_left(format.modulus().bytes().min(model.len()));
        }
    }

    /// [`Flaw::ErasesTooMuch`].
    pub(super) fn erases_through(&self, slot: SlotId) -> SlotId {
        if self.has(Flaw::ErasesTooMuch) { SlotId::new(slot.get() + 10_000) } else { slot }
    }

    /// [`Flaw::SignsBeforeKeeping`].
    pub(super) fn keeps_what_it_signed(
        &mut self,
        stage: &mut Stage,
        slot: SlotId,
        terms: Digest,
        statement: &SetStatement,
    ) -> Result<(), Halt> {
        if !self.has(Flaw::SignsBeforeKeeping) {
            return Ok(());
        }
        self.keep_page(stage, slot, |page| {
            let (study, round) = (page.terms.study, page.terms.round);
            let members = statement.members.clone();
            page.set = Some(FinalSet { study, round, slot, terms, members });
        })
    }

    /// [`Flaw::ForgetsItsOwnShare`].
    pub(super) fn repeats_carelessly(&self, shares: Arc<Shares>) -> Arc<Shares> {
        // It is told apart from the first time by having been restarted since.
        if !self.has(Flaw::ForgetsItsOwnShare) || self.life == 1 {
            return shares;
        }
        let mut fewer = copy(&shares);
        fewer.own.remove(&self.id);
        Arc::new(fewer)
    }

    /// [`Flaw::AnswersEverySet`] and [`Flaw::AnswersUnsigned`]: shares without the participant's
    /// leave. Whether the set was answered so.
    pub(super) fn answers_carelessly(
        &mut self,
        stage: &mut Stage,
        signed: &SignedSet,
    ) -> Result<bool, Halt> {
        let every = self.has(Flaw::AnswersEverySet);
        if !every && !self.has(Flaw::AnswersUnsigned) {
            return Ok(false);
        }
        let slot = signed.set.slot;
        let page = self.disk.open.as_ref().filter(|page| page.terms.slot == slot);
        let Some(roster) = page.and_then(|page| page.roster.as_ref()) else { return Ok(true) };
        let terms = roster.terms;
        let (own, recovery) =
            roster.members.iter().cloned().partition(|id| signed.set.members.contains(id));
        let Some(shares) = self.shares(slot, &own, &recovery) else { return Ok(true) };
        if !every {
            self.keep(stage, |disk| {
                disk.held_erased.1.insert(slot);
            })?;
        }
        let shares = Arc::new(shares);
        self.send(stage, slot, Said::Unmask { terms, shares })?;
        Ok(true)
    }

    /// [`Flaw::PinsNothing`]: the roll by which it knows the others is the coordinator's.
    pub(super) fn pins(&mut self, told: &Keys) {
        let theirs = told.identities.as_ref().filter(|_| self.flaw == Some(Flaw::PinsNothing));
        let believed = theirs.and_then(|theirs| Roll::new(&self.cast.charter, theirs).ok());
        if let (Some(believed), None) = (believed, self.disk.seeds) {
            self.disk.roll = Arc::new(believed);
        }
    }

    /// [`Flaw::ForgetsItsUpdate`]: the share is still where it was made.
    pub(super) fn unkept_share(&self, slot: SlotId) -> Option<Share> {
        let own = self.own_slot(slot).filter(|_| self.forgets_its_update())?;
        let value = Secret::new(*own.share().value().secret().expose());
        Some(Share::new(own.share().holder(), SecretScalar::from_canonical(value)?))
    }

    /// [`Flaw::ForgetsItsUpdate`]: what was begun is begun again.
    pub(super) fn trains_again(&mut self, stage: &mut Stage) -> Result<(), Halt> {
        let page = self.disk.open.as_ref().filter(|page| page.declined.is_none());
        match page.map(|page| page.terms.clone()) {
            Some(terms) if self.forgets_its_update() => self.act(stage, Action::Train(terms)),
            Some(_) | None => Ok(()),
        }
    }

    /// [`Flaw::LosesAPage`], and [`Flaw::ForgetsItsUpdate`]: that it has trained is not kept.
    pub(super) fn loses_a_page(&self) -> bool {
        self.has(Flaw::LosesAPage) || self.forgets_its_update()
    }
}
