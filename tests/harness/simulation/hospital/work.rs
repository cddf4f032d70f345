//! What a hospital does in a round: the update is made, masked, and the final set signed.

use std::collections::BTreeSet;
use std::sync::Arc;

use aggregation::context::ContextDigest;
use aggregation::evaluation::MetricTally;
use aggregation::ids::{Digest, HospitalId, SlotId};
use aggregation::masking::masks::Masks;
use aggregation::message::{Said, SetStatement, Terms};
use aggregation::participant::Event;
use aggregation::vector::{Contribution, encode};

use crate::simulation::disk::File;
use crate::simulation::flaw::Flaw;
use crate::simulation::hospital::Hospital;
use crate::simulation::stage::{Halt, Stage};

impl Hospital {
    /// Its trainer is done.
    pub(super) fn trained(&mut self, stage: &mut Stage, slot: SlotId) -> Result<(), Halt> {
        let Some(mind) = self.mind.as_mut().filter(|mind| mind.training == Some(slot)) else {
            return Ok(());
        };
        mind.training = None;
        let page = self.disk.open.as_ref().filter(|page| page.terms.slot == slot);
        let Some(terms) = page.map(|page| page.terms.clone()) else { return Ok(()) };
        if stage.trainer_fails() {
            return self.happen(stage, Event::TrainerFailed { slot });
        }
        let Some(mut packed) = self.update(stage, &terms) else {
            stage.alarm(self.who(), format_args!("its own update cannot be encoded"));
            return Ok(());
        };
        self.poison(stage, &terms, &mut packed);
        stage.watch.trained(&self.id, slot, &packed);
        let (digest, bytes) = (Digest::blake3(&packed), packed.len());
        let packed = Arc::new(packed);
        self.keep(stage, |disk| {
            disk.files.insert((slot, File::Trained), packed);
        })?;
        self.happen(stage, Event::Trained { slot, digest, bytes })
    }

    /// What a trainer would make: every hospital its own, so that a missing one shows in the sum.
    fn update(&self, stage: &mut Stage, terms: &Terms) -> Option<Vec<u8>> {
        let format = self.cast.charter.format(terms.work).ok()?;
        let chance = &mut stage.chance;
        let mut value = || {
            let step = u16::try_from(chance.below(2_001)).unwrap_or(0);
            f32::from(step) / 1_000.0 - 1.0
        };
        let update = (0..format.model()).map(|_| value()).collect();
        let metrics = format.metrics().map(|shape| {
            let mut tally = MetricTally::new(shape);
            for label in [0, 1, 1] {
                // Two logits for two classes, and a label that is one of them.
                let counted = tally.record(&[value(), value()], label);
                debug_assert_eq!(counted, Ok(()), "the study has two classes");
            }
            tally
        });
        let weight = stage.chance.between(1, 5_000);
        encode(&format, &Contribution { weight, update, metrics }).ok().map(|said| said.packed)
    }

    /// Masks the update for this roster. The masked bytes are on the disk before the keys are
    /// erased, and the keys are erased before a byte leaves.
    pub(super) fn mask(
        &mut self,
        stage: &mut Stage,
        slot: SlotId,
        context: ContextDigest,
        members: &BTreeSet<HospitalId>,
    ) -> Result<(), Halt> {
        let plain = self.disk.files.get(&(slot, File::Trained)).cloned();
        let own = self.own_slot(slot);
        let seeds = self.mind.as_mut().and_then(|mind| {
            let keyring = &mut mind.keys.as_mut()?.keyring;
            keyring.take(slot).ok()
        });
        let page = self.disk.open.as_ref().filter(|page| page.terms.slot == slot);
        let format = page.and_then(|page| self.cast.charter.format(page.terms.work).ok());
        let (Some(plain), Some(own), Some(seeds), Some(format)) = (plain, own, seeds, format)
        else {
            stage.alarm(self.who(), format_args!("the keys or the update of slot {slot} are gone"));
            return Ok(());
        };
        let Some(keyring) = self.keyring() else { return Ok(()) };
        let masks = keyring.masks(context, members, &own, &seeds);
        let secrets = keyring.secrets().expose().to_vec();
        let mut packed = plain.as_ref().clone();
        self.slips_a_lane(&mut packed, &format);
        let masks = Masks::new(format.modulus(), masks);
        if self.flaw != Some(Flaw::SendsUnmasked)
            && masks.pass(format.lanes()).mask(&mut packed).is_err()
        {
            stage.alarm(self.who(), format_args!("the update is no whole number of lanes"));
            return Ok(());
        }
        let (digest, bytes) = (Digest::blake3(&packed), packed.len());
        stage.watch.adds(&self.id, slot, digest, plain);
        let packed = Arc::new(packed);
        self.keep(stage, |disk| {
            disk.files.insert((slot, File::Masked), packed);
        })?;
        let share = *own.share().value().secret().expose();
        if self.forgets_its_update() {
            return self.happen(stage, Event::Masked { slot, digest, bytes });
        }
        self.keep(stage, |disk| {
            disk.own_erased = disk.own_erased.max(slot);
            if let Some(keys) = &mut disk.keys {
                keys.keyring = secrets;
            }
            if let Some(page) = disk.open.as_mut().filter(|page| page.terms.slot == slot) {
                page.masked = Some((digest, bytes));
                page.own_share = Some(share);
            }
            disk.files.remove(&(slot, File::Trained));
        })?;
        self.happen(stage, Event::Masked { slot, digest, bytes })
    }

    /// Signs a final set.
    pub(super) fn sign(
        &mut self,
        stage: &mut Stage,
        slot: SlotId,
        terms: Digest,
        statement: &SetStatement,
    ) -> Result<(), Halt> {
        let Some(identity) = self.cast.identities.get(self.place) else { return Ok(()) };
        let signed = match &self.mischief {
            Some(mischief) if !stage.calm => mischief.set(&mut stage.chance, statement),
            Some(_) | None => statement.clone(),
        };
        let signature = identity.sign(&signed);
        if self.honest() {
            stage.watch.signed(&self.id, slot, statement);
        }
        self.send(stage, slot, Said::Signed { terms, signature })?;
        self.keeps_what_it_signed(stage, slot, terms, statement)
    }
}
