//! The only file of this program that asks the machine for randomness.
//!
//! (Key pairs are drawn inside rcgen, from the same source of ring's.)

use ring::rand::{SecureRandom, SystemRandom};

/// The system's source of randomness gave nothing.
#[derive(Debug, thiserror::Error)]
#[error("the system's source of randomness does not answer")]
pub(crate) struct NoEntropy;

/// `N` random bytes.
///
/// # Errors
/// [`NoEntropy`] when the system gives none.
#[expect(clippy::disallowed_methods, reason = "this is the file that may ask")]
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], NoEntropy> {
    let mut drawn = [0; N];
    SystemRandom::new().fill(&mut drawn).map_err(|_| NoEntropy)?;
    Ok(drawn)
}
