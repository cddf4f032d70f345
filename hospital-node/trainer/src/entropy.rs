//! The only file of this program that asks the machine for randomness.

use aggregation::privacy::noise::NoiseSeed;
use aggregation::privacy::sampling::SamplingSeed;
use aggregation::secret::Secret;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::noised::Seeds;

/// The machine has no randomness to give.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the operating system gave no randomness")]
pub struct NoEntropy;

/// Seeds for one private step. Each call gives fresh ones (PROTOCOL D-08).
///
/// # Errors
/// When the operating system refuses; then nothing is sampled and nothing leaves.
pub fn seeds() -> Result<Seeds, NoEntropy> {
    #[expect(clippy::disallowed_methods, reason = "this is the file that asks")]
    let source = SystemRandom::new();
    let fresh = || {
        let mut bytes = [0; 32];
        source.fill(&mut bytes).map_err(|_| NoEntropy)?;
        Ok::<_, NoEntropy>(Secret::new(bytes))
    };
    Ok(Seeds {
        sampling: SamplingSeed::new(fresh()?),
        noise: NoiseSeed::new(fresh()?),
        augmentation: fresh()?,
    })
}
