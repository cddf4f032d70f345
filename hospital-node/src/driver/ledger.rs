//! What the coordinator remembers of this house's privacy ledger, and what follows when it remembers
//! more than the house does: somebody has put back an old copy (PROTOCOL D-28).

use aggregation::message::{DeclineReason, LedgerStatement};
use aggregation::privacy::ledger::Head;
use proto::federation::LedgerEnd;

use super::House;
use crate::purse::{ALARM, NoCharge};

/// Compares the ledger with the end that this house has told before. What this house has not signed
/// says nothing.
pub(super) fn compare(house: &House, end: &LedgerEnd) {
    let (record, signature) = match proto::ledger::ledger_end(end) {
        Ok(end) => end,
        Err(error) => {
            tracing::warn!(%error, "a ledger end that does not hold together");
            return;
        }
    };
    let seen = Head { seq: record.seq(), hash: record.hash() };
    let statement = LedgerStatement { site: house.me.clone(), record };
    if house.identity.key().verify(&statement, &signature).is_err() {
        tracing::error!("ALARM: the coordinator tells of a ledger that this house has not signed");
        return;
    }
    let kept = match house.purse.compare(&seen) {
        Ok(()) => match std::fs::remove_file(house.state.file(ALARM)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
            Ok(()) | Err(_) => Ok(()),
        },
        Err(old) => {
            tracing::error!(
                reason = %old,
                "ALARM: no private round is worked on; put back the newest ledger and start again"
            );
            let text = format!("{old}\n");
            house.state.replace(ALARM, text.as_bytes()).map_err(|error| error.to_string())
        }
    };
    if let Err(error) = kept {
        tracing::warn!(error, "cannot note how the ledger compares");
    }
}

/// What the coordinator is told of a charge that was not made.
pub(super) const fn reason(refused: &NoCharge) -> DeclineReason {
    match refused {
        NoCharge::Declined(_) => DeclineReason::Budget,
        NoCharge::Unusable(_)
        | NoCharge::RolledBack(_)
        | NoCharge::Alarmed
        | NoCharge::Stopped(_) => DeclineReason::Ledger,
    }
}
