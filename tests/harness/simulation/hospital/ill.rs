//! Where a hospital that means ill departs from the honest program.

use std::sync::Arc;

use aggregation::ids::{Digest, SlotId};
use aggregation::message::{Said, Terms};
use aggregation::setup::SignedBatch;

use crate::simulation::hospital::Hospital;
use crate::simulation::mischief::{Means, effect};
use crate::simulation::spoil::spoil;
use crate::simulation::stage::Stage;
use crate::simulation::words::Call;

impl Hospital {
    /// Says what its mischief makes of something. When all is calm it behaves.
    pub(super) fn send_turned(&mut self, stage: &mut Stage, slot: SlotId, said: Said) {
        let honest = match &said {
            Said::Update { packed, .. } => Some(packed.clone()),
            Said::Ready { .. }
            | Said::Declined { .. }
            | Said::Signed { .. }
            | Said::Unmask { .. } => None,
        };
        let held = self.held_of_both_kinds(slot);
        let means = Means { me: &self.id, holder: self.holder(), held };
        let turned = match self.mischief.clone() {
            Some(mut mischief) if !stage.calm => {
                let turned = mischief.turn(&mut stage.chance, said, &means);
                self.mischief = Some(mischief);
                turned
            }
            Some(_) | None => vec![said],
        };
        for said in turned {
            if let (Said::Update { packed, .. }, Some(masked)) = (&said, &honest) {
                self.account_for(stage, slot, masked, packed);
            }
            stage.call(self.place, Call::Said { slot, said });
        }
    }

    /// Tells the watch what an upload will add to the sum.
    fn account_for(&self, stage: &mut Stage, slot: SlotId, masked: &[u8], sent: &[u8]) {
        let page = self.disk.open.as_ref().filter(|page| page.terms.slot == slot);
        let format = page.and_then(|page| self.cast.charter.format(page.terms.work).ok());
        let plain = stage.watch.added_by(&self.id, slot, Digest::blake3(masked));
        if let (Some(format), Some(plain)) = (format, plain)
            && let Some(adds) = effect(format.modulus(), &plain, masked, sent)
        {
            stage.watch.adds(&self.id, slot, Digest::blake3(sent), Arc::new(adds));
        }
    }

    /// Everything that it was ever given for a slot: who means ill erases nothing.
    fn held_of_both_kinds(&self, slot: SlotId) -> Vec<(aggregation::ids::HospitalId, [u8; 64])> {
        let keys = self.mind.as_ref().and_then(|mind| mind.keys.as_ref());
        let Some(provision) = keys.map(|keys| &keys.provision) else { return Vec::new() };
        let batch = provision.batch_of(slot);
        let place = slot.get().checked_sub(provision.first_of(batch).get());
        let place = place.and_then(|place| usize::try_from(place).ok());
        let held = self.disk.held.get(&batch).into_iter().flatten();
        let shares = held.filter_map(|(owner, page)| Some((owner.clone(), *page.get(place?)?)));
        shares.collect()
    }

    /// Has its trainer make something else, if that is what it is up to.
    pub(super) fn poison(&self, stage: &mut Stage, terms: &Terms, packed: &mut [u8]) {
        if let (Some(mischief), false) = (&self.mischief, stage.calm)
            && let Ok(format) = self.cast.charter.format(terms.work)
        {
            let model = format.model() * format.modulus().bytes();
            mischief.poison(&mut stage.chance, packed, model);
        }
    }

    /// The batch that it leaves: spoilt, if that is what it is up to.
    pub(super) fn spoils(
        &self,
        stage: &mut Stage,
        seed: &[u8; 32],
        good: SignedBatch,
    ) -> SignedBatch {
        let (Some(how), Some(keyring)) = (self.spoil, self.keyring()) else { return good };
        let Some(identity) = self.cast.identities.get(self.place) else { return good };
        spoil(how, &mut stage.chance, &good, seed, (keyring, identity)).unwrap_or(good)
    }
}
