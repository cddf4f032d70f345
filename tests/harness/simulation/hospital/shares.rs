//! Shares leave: one transaction keeps the signed set and the very bytes that are sent, and erases
//! all other shares that are held for the slot.

use std::collections::BTreeSet;
use std::sync::Arc;

use aggregation::ids::{HospitalId, SlotId};
use aggregation::keys::slots::{HeldShares, Kind, OwnSlot};
use aggregation::masking::sharing::{Holder, SecretScalar, Share};
use aggregation::message::{Shares, SignedSet, Terms};
use aggregation::participant::Action;
use aggregation::secret::Secret;

use crate::simulation::hospital::Hospital;
use crate::simulation::stage::{Halt, Stage};

impl Hospital {
    /// Journals a signed set with the shares that are given for it, once. False when it cannot.
    pub(super) fn write_down_shares(
        &mut self,
        stage: &mut Stage,
        signed: &SignedSet,
        actions: &[Action],
    ) -> Result<bool, Halt> {
        let slot = signed.set.slot;
        let page = self.disk.open.as_ref();
        if page.is_none_or(|page| page.terms.slot != slot || page.signed.is_some()) {
            return Ok(true);
        }
        let asked = actions.iter().find_map(Action::shares);
        let Some((own, recovery)) = asked else { return Ok(true) };
        let Some(shares) = self.shares(slot, own, recovery) else {
            stage.alarm(self.who(), format_args!("the shares of slot {slot} are not there"));
            return Ok(false);
        };
        let kept = Some((signed.clone(), Arc::new(shares)));
        self.keep(stage, |disk| {
            disk.held_erased.1.insert(slot);
            if let Some(page) = disk.open.as_mut().filter(|page| page.terms.slot == slot) {
                page.signed = kept;
                page.own_share = None;
            }
        })?;
        Ok(true)
    }

    /// Shares of these self secrets and these recovery secrets; none when one is missing.
    pub(super) fn shares(
        &self,
        slot: SlotId,
        own: &BTreeSet<HospitalId>,
        recovery: &BTreeSet<HospitalId>,
    ) -> Option<Shares> {
        let mut shares = Shares::default();
        for id in own {
            let share =
                if *id == self.id { self.own_share(slot) } else { self.held(slot, id, Kind::Own) };
            shares.own.insert(id.clone(), share?);
        }
        for id in recovery {
            shares.recovery.insert(id.clone(), self.held(slot, id, Kind::Recovery)?);
        }
        Some(shares)
    }

    /// The share of its own self secret, which it kept when it masked.
    fn own_share(&self, slot: SlotId) -> Option<Share> {
        let page = self.disk.open.as_ref().filter(|page| page.terms.slot == slot)?;
        let Some(kept) = page.own_share else { return self.unkept_share(slot) };
        let value = SecretScalar::from_canonical(Secret::new(kept))?;
        Some(Share::new(self.holder()?, value))
    }

    fn held(&self, slot: SlotId, owner: &HospitalId, kind: Kind) -> Option<Share> {
        let bytes = self.held_bytes(slot, owner)?;
        let held = HeldShares::resume(self.holder()?, &Secret::new(*bytes))?;
        Some(held.release(kind))
    }

    fn held_bytes(&self, slot: SlotId, owner: &HospitalId) -> Option<&[u8; 64]> {
        let provision = &self.mind.as_ref()?.keys.as_ref()?.provision;
        let batch = provision.batch_of(slot);
        self.disk.held(batch, provision.first_of(batch), slot, owner)
    }

    /// Its own secret of a slot, unless it is gone.
    pub(super) fn own_slot(&self, slot: SlotId) -> Option<OwnSlot> {
        let provision = &self.mind.as_ref()?.keys.as_ref()?.provision;
        let batch = provision.batch_of(slot);
        let bytes = self.disk.own(batch, provision.first_of(batch), slot)?;
        OwnSlot::resume(self.holder()?, &Secret::new(*bytes))
    }

    /// Whether it could mask under these terms, and take its part in the unmasking.
    pub(super) fn has_keys_for(&self, terms: &Terms) -> bool {
        let slot = terms.slot;
        let ahead = self.keyring().is_some_and(|keyring| keyring.next() <= slot);
        let others = terms.invited.iter().filter(|id| **id != self.id);
        ahead
            && self.own_slot(slot).is_some()
            && others.into_iter().all(|id| self.held_bytes(slot, id).is_some())
    }

    pub(super) fn holder(&self) -> Option<Holder> {
        Some(self.keyring()?.neighbourhood().owner().holder)
    }
}
