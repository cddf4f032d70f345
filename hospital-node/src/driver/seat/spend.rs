//! A private study's price: asked before any work begins, paid before the first byte leaves, told to
//! the coordinator with the update (PROTOCOL D-21).

use aggregation::ids::SlotId;
use aggregation::message::{LedgerStatement, Terms};
use aggregation::privacy::charge::Figures;
use aggregation::privacy::ledger::{Caps, Entry};
use aggregation::units::Delta;
use proto::federation::{ChargeRequest, LedgerEnd};

use super::Seat;
use crate::journal::Packed;
use crate::purse::{Limits, NoCharge};
use crate::witness::owed::Owed;

impl Seat {
    /// What a round costs; nothing in a study without privacy, or when nothing is trained.
    fn entry(&self, terms: &Terms) -> Option<Entry> {
        let plan = self.participant.charter().noise().filter(|_| terms.work.trains())?;
        Some(Entry {
            study: terms.study,
            round: terms.round,
            slot: terms.slot,
            charge: *plan.charge(),
        })
    }

    /// Whether this house's caps allow the round.
    pub(in crate::driver) fn affords(&self, terms: &Terms) -> Result<(), NoCharge> {
        self.entry(terms).map_or(Ok(()), |entry| self.house.purse.check(&entry, &self.limits()))
    }

    /// The house's caps, and what was approved of this study.
    fn limits(&self) -> Limits {
        Limits { caps: self.house.config.policy.budget, promise: self.study().promise() }
    }

    /// Pays for the slot at hand, durably. A slot that was paid for before a crash, of which nothing
    /// has left, is not paid for twice.
    pub(super) async fn charge(&self, slot: SlotId) -> Result<(), NoCharge> {
        let terms = self.terms.as_ref().filter(|terms| terms.slot == slot);
        let Some(entry) = terms.and_then(|terms| self.entry(terms)) else { return Ok(()) };
        let (purse, limits) = (self.house.purse.clone(), self.limits());
        let paid =
            tokio::task::spawn_blocking(move || match purse.charged(entry.study, entry.slot) {
                Some(record) if *record.entry() == entry => Ok(()),
                Some(_) | None => purse.charge(&entry, &limits),
            });
        paid.await.unwrap_or_else(|stopped| Err(NoCharge::Stopped(stopped.to_string())))
    }

    /// The update that is sent, and what the coordinator is told of its charge: nothing where there is
    /// none to tell.
    pub(super) fn told(&self, terms: &Terms, packed: Packed) -> (Owed, Option<ChargeRequest>) {
        let place = (terms.study, terms.round, terms.slot);
        let owed = Owed::new(place, (packed.digest, packed.bytes));
        let Some(told) = self.told_charge(terms) else { return (owed, None) };
        let record = self.house.purse.charged(terms.study, terms.slot);
        let unit = self.study().privacy.rules().map(|rules| rules.unit.name());
        match record.zip(unit) {
            Some((record, unit)) => (owed.with_charge(&record, unit, &told), Some(told)),
            None => (owed, None),
        }
    }

    fn told_charge(&self, terms: &Terms) -> Option<ChargeRequest> {
        self.entry(terms)?;
        let record = self.house.purse.charged(terms.study, terms.slot)?;
        let statement = LedgerStatement { site: self.house.me.clone(), record };
        let budget = self.house.config.policy.budget;
        // The study's promise is told in the study's own measure, what the caps are asked for in the
        // house's.
        let rules = self.study().privacy.rules()?;
        let delta = Delta::new(rules.delta).ok()?;
        let measure = Caps { delta, accountant: rules.accountant, ..budget };
        let Figures { planned, solo } = self.house.purse.epsilon(terms.study, &measure);
        let spent = self.house.purse.epsilon(terms.study, &budget);
        Some(ChargeRequest {
            study: terms.study.digest().as_bytes().to_vec(),
            round: terms.round.get(),
            slot: terms.slot.get(),
            end: Some(LedgerEnd {
                record: record.encode().to_vec(),
                signature: self.house.identity.sign(&statement).as_bytes().to_vec(),
            }),
            delta: delta.get(),
            epsilon_planned: planned.get(),
            epsilon_solo: solo.get(),
            cap_planned: budget.study.planned.get(),
            cap_solo: budget.study.solo.get(),
            cap_delta: budget.delta.get(),
            spent_planned: spent.planned.get(),
            spent_solo: spent.solo.get(),
        })
    }

    /// Whether an update may be sent: of a private study only what was paid for.
    pub(super) fn is_paid(&self, terms: &Terms) -> bool {
        self.entry(terms).is_none_or(|entry| {
            self.house.purse.charged(entry.study, entry.slot).is_some_and(|r| *r.entry() == entry)
        })
    }

    /// The sum was released with this site in it: noted beside the charge, which stays as it is.
    pub(super) async fn note_release(&self, slot: SlotId) {
        let (purse, study) = (self.house.purse.clone(), self.local.id);
        if purse.charged(study, slot).is_none() {
            return;
        }
        let noted = tokio::task::spawn_blocking(move || purse.release(study, slot)).await;
        if let Ok(Err(error)) = noted {
            tracing::warn!(study = self.local.name, %error, "cannot note a release in the ledger");
        }
    }
}
