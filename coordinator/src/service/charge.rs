//! "My ledger is charged for this slot": comes before the update of a private study, and is kept in
//! the site's own signed words.

use std::sync::Arc;

use aggregation::ids::{HospitalId, SlotId};
use aggregation::message::LedgerStatement;
use aggregation::privacy::charge::ChargeParts;
use proto::decode;
use proto::federation as wire;
use proto::ledger::ledger_end;
use proto::status::from_decode;
use tonic::Status;

use super::store_status;
use crate::board::Entry;
use crate::clock;
use crate::coordinator::Coordinator;
use crate::store::Leaf;
use crate::store::charges::{ChargeKept, Charged};

/// An update that is not paid for, or paid with what is no charge (PROTOCOL D-25).
const UNPAID: &str = "D-25";
/// A ledger that has been further than it is (PROTOCOL D-28).
const SET_BACK: &str = "D-28";

/// Keeps a charge, if it is one of this study's price for the open slot, signed by the site
/// (PROTOCOL D-25).
pub(super) async fn receive(
    house: &Arc<Coordinator>,
    entry: &Entry,
    site: &HospitalId,
    said: &wire::ChargeRequest,
) -> Result<(), Status> {
    let wrong = |fault| from_decode(&fault);
    let (study, round, slot) = decode::place(&said.study, said.round, said.slot).map_err(wrong)?;
    let end = said.end.as_ref().ok_or_else(|| Status::invalid_argument("end: expected a value"))?;
    let (record, signature) = ledger_end(end).map_err(wrong)?;
    let plan = entry
        .noise
        .as_ref()
        .ok_or_else(|| Status::failed_precondition("the study has no privacy to be charged for"))?;
    let figures = [
        said.delta,
        said.epsilon_planned,
        said.epsilon_solo,
        said.cap_planned,
        said.cap_solo,
        said.cap_delta,
        said.spent_planned,
        said.spent_solo,
    ];
    if !figures.iter().all(|figure| figure.is_finite() && *figure >= 0.0) {
        return Err(Status::invalid_argument("figures: expected finite numbers from 0"));
    }
    let charged = record.entry();
    if (charged.study, charged.round, charged.slot) != (study, round, slot)
        || charged.charge != *plan.charge()
    {
        house.refused(entry, site, UNPAID).await;
        return Err(Status::invalid_argument(
            "D-25: expected a charge of this study's price for this slot, found another",
        ));
    }
    let offered = entry.standing().offer.clone();
    let terms = offered
        .filter(|terms| (terms.round, terms.slot) == (round, slot))
        .ok_or_else(|| Status::failed_precondition("no round is open under this slot"))?;
    let statement = LedgerStatement { site: site.clone(), record };
    let signed = entry.identities.get(site).map(|key| key.verify(&statement, &signature));
    if !matches!(signed, Some(Ok(()))) {
        house.refused(entry, site, UNPAID).await;
        return Err(Status::invalid_argument("D-25: the charge is not signed by this site"));
    }
    let ChargeParts { mode, .. } = charged.charge.parts();
    let unit = entry.study.privacy.rules().map_or("patient", |rules| rules.unit.name());
    let mut fact = Leaf::of(study, "ledger_charge")
        .with("round", round.get())
        .with("slot", slot.get())
        .with("site", site.as_str())
        .with("mode", mode.name())
        .with("z", charged.charge.planned().noise().get())
        .with("q", charged.charge.planned().rate().get())
        .with("delta", said.delta)
        .with("epsilon_planned", said.epsilon_planned)
        .with("epsilon_solo", said.epsilon_solo)
        .with("cap_planned", said.cap_planned)
        .with("cap_solo", said.cap_solo)
        .with("unit", unit)
        .with("seq", record.seq())
        .with("head", record.hash().to_string());
    // A node of an earlier version does not say what it holds against its caps; no delta is 0.
    if said.cap_delta > 0.0 {
        fact = fact
            .with("cap_delta", said.cap_delta)
            .with("spent_planned", said.spent_planned)
            .with("spent_solo", said.spent_solo);
    }
    let charged = Charged { site, study, slot, seq: record.seq(), end, opened_on: terms.log.size };
    let kept = house.store.keep_charge(&charged, clock::now(), fact).await;
    match kept.map_err(|fault| store_status(&fault))? {
        ChargeKept::Kept => Ok(()),
        ChargeKept::Other => Err(Status::already_exists("another charge is known for this slot")),
        ChargeKept::Old { last } => {
            house.refused(entry, site, SET_BACK).await;
            Err(Status::failed_precondition(format!(
                "{SET_BACK}: this site's ledger has told of record {last} before; expected a later \
                 one, found {}",
                record.seq()
            )))
        }
    }
}

/// Whether an update may be taken in: one of a private study only after its charge. One for another slot
/// than the open one is turned away for that.
pub(super) async fn is_paid(
    house: &Coordinator,
    entry: &Entry,
    site: &HospitalId,
    slot: SlotId,
) -> Result<(), Status> {
    let terms = entry.standing().offer.clone().filter(|terms| terms.slot == slot);
    if !terms.is_some_and(|terms| entry.noise.is_some() && terms.work.trains()) {
        return Ok(());
    }
    let charged = house.store.has_charged(entry.id, slot, site).await;
    if charged.map_err(|fault| store_status(&fault))? {
        Ok(())
    } else {
        house.refused(entry, site, UNPAID).await;
        Err(Status::failed_precondition("D-25: this site has not charged its ledger for this slot"))
    }
}
