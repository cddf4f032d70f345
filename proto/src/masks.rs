//! The messages of the masks: final sets, signatures, shares, and the setup of the keys. Both
//! directions side by side, for they are long and of one kind.

pub mod round;
pub mod setup;

use aggregation::ids::HospitalId;
use aggregation::keys::identity::{IdentityKey, Signature};

use crate::decode::{DecodeError, hospital, range};
use crate::limits::MAX_SITES;

/// Exactly so many bytes.
pub(crate) fn array<const N: usize>(
    field: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::Length { field, expected: N, found: bytes.len() })
}

/// An Ed25519 signature.
pub(crate) fn signature<S>(field: &'static str, bytes: &[u8]) -> Result<Signature<S>, DecodeError> {
    array(field, bytes).map(Signature::new)
}

/// An Ed25519 public key.
///
/// # Errors
/// Any other length than 32.
pub fn identity(bytes: &[u8]) -> Result<IdentityKey, DecodeError> {
    array("identity", bytes).map(IdentityKey::new)
}

/// Names of a repeated message, sorted and each once, not too many.
pub(crate) fn sorted<'a, T>(
    field: &'static str,
    items: &'a [T],
    name: impl Fn(&'a T) -> &'a str,
) -> Result<Vec<HospitalId>, DecodeError> {
    if items.len() > MAX_SITES {
        return Err(DecodeError::TooMany { field, most: MAX_SITES, found: items.len() });
    }
    let names: Vec<&str> = items.iter().map(name).collect();
    if !names.is_sorted_by(|before, after| before < after) {
        return Err(range(field, "sites in ascending order, each once", "another order"));
    }
    names.into_iter().map(|name| hospital(field, name)).collect()
}
