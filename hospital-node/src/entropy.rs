//! The only file of this program that asks the machine for randomness.

use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};

/// The machine has no randomness to give.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the operating system gave no randomness")]
pub struct NoEntropy;

/// The source for key generation.
#[must_use]
pub(crate) fn source() -> SystemRandom {
    #[expect(clippy::disallowed_methods, reason = "this is the file that asks")]
    SystemRandom::new()
}

/// Secret bytes, fresh.
///
/// # Errors
/// When the operating system refuses.
pub(crate) fn secret() -> Result<[u8; 32], NoEntropy> {
    let mut bytes = [0; 32];
    source().fill(&mut bytes).map_err(|_| NoEntropy)?;
    Ok(bytes)
}

/// Random bytes that name something and are no secret.
///
/// # Errors
/// When the operating system refuses.
pub(crate) fn identifier() -> Result<[u8; 16], NoEntropy> {
    let mut bytes = [0; 16];
    source().fill(&mut bytes).map_err(|_| NoEntropy)?;
    Ok(bytes)
}

/// A duration between a half and the whole of `longest`, so that hospitals which lost the
/// coordinator at one moment do not all return at one moment.
#[must_use]
pub(crate) fn jittered(longest: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without randomness the whole is as good: jitter is politeness, not security.
    if source().fill(&mut bytes).is_err() {
        return longest;
    }
    let half = longest / 2;
    half + half.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_between_a_half_and_the_whole() {
        for _ in 0..100 {
            let found = jittered(Duration::from_secs(10));
            assert!((Duration::from_secs(5)..=Duration::from_secs(10)).contains(&found));
        }
    }
}
