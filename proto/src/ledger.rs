//! What is said of a site's privacy ledger: its last record, signed.

use aggregation::keys::identity::Signature;
use aggregation::message::LedgerStatement;
use aggregation::privacy::ledger::Record;

use crate::decode::{DecodeError, range};
use crate::federation as wire;
use crate::masks::{array, signature};

/// The end of a ledger. The signature is not verified.
///
/// # Errors
/// When it is not a record of 256 bytes that a ledger writes, with a signature of 64.
pub fn ledger_end(
    said: &wire::LedgerEnd,
) -> Result<(Record, Signature<LedgerStatement>), DecodeError> {
    let bytes = array("record", &said.record)?;
    let record = Record::read(&bytes)
        .map_err(|broken| range("record", "a record that a ledger writes", broken))?;
    Ok((record, signature("signature", &said.signature)?))
}
