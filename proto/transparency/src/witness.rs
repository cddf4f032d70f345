//! A witness after C2SP [tlog-witness], as a value: it remembers the newest checkpoint that it
//! cosigned, and cosigns the next only if it grew out of that one.
//!
//! The shell around it stores [`Advance::to_store`] durably before it asks for the cosignature. What
//! crashed in between was never shown, so the witness may then meet the same offer again.
//!
//! [tlog-witness]: https://c2sp.org/tlog-witness

use std::fmt;

use crate::checkpoint::{CheckpointError, SignedCheckpoint};
use crate::cosignature::Cosigner;
use crate::note::{Signature, SignatureFault, VerifierKey};
use crate::text::{base64, decimal, hash_from_base64};
use crate::tree::{Hash, Head, empty_root, is_consistent};

/// The most proof lines of an offer.
pub const MAX_PROOF_LINES: usize = 63;

/// The longest text before the checkpoint of an offer.
const MAX_PROOF_BYTES: usize = 8_192;

/// A checkpoint offered for cosigning, with the proof from an older one: the body of
/// `add-checkpoint`, displayed and read as such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The size of the checkpoint that the witness cosigned last, as far as the log knows.
    pub old_size: u64,
    /// The consistency proof from there.
    pub proof: Vec<Hash>,
    /// What is to be cosigned.
    pub signed: SignedCheckpoint,
}

/// Why bytes are not an offer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// The lines before the checkpoint.
    #[error(
        "expected an old size, at most {MAX_PROOF_LINES} hashes, a blank line and a checkpoint"
    )]
    Shape,
    /// The checkpoint.
    #[error("expected a checkpoint after the proof")]
    Checkpoint(#[from] CheckpointError),
}

impl Offer {
    /// Reads an offer; nothing is verified.
    ///
    /// # Errors
    /// When the bytes are not an offer.
    pub fn parse(bytes: &[u8]) -> Result<Self, OfferError> {
        let window = &bytes[..bytes.len().min(MAX_PROOF_BYTES)];
        let blank = window.windows(2).position(|pair| pair == b"\n\n").ok_or(OfferError::Shape)?;
        let head = std::str::from_utf8(&bytes[..blank]).map_err(|_| OfferError::Shape)?;
        let mut lines = head.split('\n');
        let old_size = lines
            .next()
            .and_then(|line| decimal(line.strip_prefix("old ")?))
            .ok_or(OfferError::Shape)?;
        let proof: Vec<Hash> =
            lines.map(hash_from_base64).collect::<Option<_>>().ok_or(OfferError::Shape)?;
        if proof.len() > MAX_PROOF_LINES {
            return Err(OfferError::Shape);
        }
        Ok(Self { old_size, proof, signed: SignedCheckpoint::parse(&bytes[blank + 2..])? })
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", base64(hash)))?;
        write!(f, "\n{}", self.signed)
    }
}

/// Why a witness does not cosign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another log's checkpoint.
    #[error("expected a checkpoint of {expected}, found one of {found}")]
    UnknownLog {
        /// The log that is witnessed here.
        expected: String,
        /// The origin that was offered.
        found: String,
    },
    /// Not signed by the log.
    #[error("expected a checkpoint signed by the log")]
    Signature(#[from] SignatureFault),
    /// The proof starts from another checkpoint than the one cosigned last.
    #[error("expected a proof from size {latest}, found one from {offered}")]
    Stale {
        /// The size cosigned last.
        latest: u64,
        /// The size that the proof starts from.
        offered: u64,
    },
    /// The log shows fewer leaves than before.
    #[error("rollback: expected a size of at least {latest}, found {offered}")]
    Rollback {
        /// The size cosigned last.
        latest: u64,
        /// The size that was offered.
        offered: u64,
    },
    /// The log shows another history than before.
    #[error("fork: the checkpoint of size {offered} does not grow out of that of size {latest}")]
    Fork {
        /// The size cosigned last.
        latest: u64,
        /// The size that was offered.
        offered: u64,
    },
}

impl Refusal {
    /// Whether a person must hear of it: the log signed what contradicts what it signed before.
    #[must_use]
    pub fn is_alarm(&self) -> bool {
        match self {
            Self::Rollback { .. } | Self::Fork { .. } => true,
            Self::UnknownLog { .. } | Self::Signature(_) | Self::Stale { .. } => false,
        }
    }

    /// The HTTP status that tlog-witness gives it.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self {
            Self::UnknownLog { .. } => 404,
            Self::Signature(_) => 403,
            Self::Stale { .. } | Self::Rollback { .. } => 409,
            Self::Fork { .. } => 422,
        }
    }
}

/// A checkpoint that may be cosigned once it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance(SignedCheckpoint);

impl Advance {
    /// What the shell must have on disk before it calls [`Witness::cosign`], and what
    /// [`Witness::resume`] reads after a restart.
    #[must_use]
    pub fn to_store(&self) -> String {
        self.0.to_string()
    }
}

/// One witness of one log.
#[derive(Clone, Debug)]
pub struct Witness {
    log: VerifierKey,
    latest: Option<SignedCheckpoint>,
}

impl Witness {
    /// A witness that has seen nothing of the log with this key.
    #[must_use]
    pub fn new(log: VerifierKey) -> Self {
        Self { log, latest: None }
    }

    /// A witness that stored a checkpoint before.
    ///
    /// # Errors
    /// When what was stored is not a checkpoint that this log signed.
    pub fn resume(log: VerifierKey, stored: &[u8]) -> Result<Self, ResumeError> {
        let latest = SignedCheckpoint::parse(stored)?;
        latest.verify(&log)?;
        Ok(Self { log, latest: Some(latest) })
    }

    /// The same of a log that has another key since, which the witness was told by hand: what was
    /// stored may be signed by an earlier one.
    ///
    /// # Errors
    /// When what was stored is not a checkpoint that this log signed.
    pub fn resume_after(
        log: VerifierKey,
        earlier: &[VerifierKey],
        stored: &[u8],
    ) -> Result<Self, ResumeError> {
        let latest = SignedCheckpoint::parse(stored)?;
        let first = latest.verify(&log);
        if first.is_err() && !earlier.iter().any(|key| latest.verify(key).is_ok()) {
            first?;
        }
        Ok(Self { log, latest: Some(latest) })
    }

    /// The newest checkpoint that it cosigned.
    #[must_use]
    pub fn latest(&self) -> Option<&SignedCheckpoint> {
        self.latest.as_ref()
    }

    /// Whether an offer may be cosigned. Nothing changes yet.
    ///
    /// # Errors
    /// The reason not to; see [`Refusal::is_alarm`].
    pub fn consider(&self, offer: &Offer) -> Result<Advance, Refusal> {
        let offered = offer.signed.checkpoint();
        if offered.origin() != self.log.name() {
            return Err(Refusal::UnknownLog {
                expected: self.log.name().to_owned(),
                found: offered.origin().to_owned(),
            });
        }
        offer.signed.verify(&self.log)?;
        let nothing = Head { size: 0, root: empty_root() };
        let latest = self.latest.as_ref().map_or(nothing, |signed| signed.checkpoint().head());
        let (from, to) = (latest.size, offered.size());
        if to < from {
            return Err(Refusal::Rollback { latest: from, offered: to });
        }
        // The same size with another root is a fork whatever the proof claims to start from.
        if to == from && offered.root() != latest.root {
            return Err(Refusal::Fork { latest: from, offered: to });
        }
        if offer.old_size != from {
            return Err(Refusal::Stale { latest: from, offered: offer.old_size });
        }
        if !is_consistent(latest, offered.head(), &offer.proof) {
            return Err(Refusal::Fork { latest: from, offered: to });
        }
        Ok(Advance(offer.signed.clone()))
    }

    /// Cosigns what was considered and stored, at a time in seconds since 1970. The same checkpoint
    /// may be cosigned again, at a later time.
    pub fn cosign(&mut self, advance: Advance, cosigner: &Cosigner, time: u64) -> Signature {
        let line = cosigner.cosign(advance.0.note().text(), time);
        self.latest = Some(advance.0);
        line
    }
}

/// Why a stored state is not this witness's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// Not a checkpoint.
    #[error("expected the checkpoint cosigned last")]
    Checkpoint(#[from] CheckpointError),
    /// Not signed by this log.
    #[error("expected the checkpoint cosigned last to be signed by the log")]
    Signature(#[from] SignatureFault),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::note::Signer;
    use crate::tree::{Leaves, consistency_proof, leaf_hash, root};

    fn log() -> Signer {
        Signer::from_seed("log.example", &[1; 32]).expect("a seed")
    }

    fn leaves(salt: u8) -> Vec<Hash> {
        // The first ten are common to all salts.
        (0..40_u8).map(|at| leaf_hash(&[at, if at < 10 { 0 } else { salt }])).collect()
    }

    fn offer(leaves: &[Hash], from: usize, to: usize) -> Offer {
        let head = Head { size: to as u64, root: root(&leaves[..to]) };
        let checkpoint = Checkpoint::new("log.example", head).expect("a checkpoint");
        let proof = consistency_proof(&mut Leaves(leaves), from as u64, to as u64)
            .expect("in memory")
            .unwrap_or_default();
        let signed = SignedCheckpoint::sign(checkpoint, &log()).expect("our own log");
        Offer { old_size: from as u64, proof, signed }
    }

    fn witness_at(leaves: &[Hash], size: usize) -> Witness {
        let mut witness = Witness::new(log().key());
        let advance = witness.consider(&offer(leaves, 0, size)).expect("from nothing");
        let stored = advance.to_store();
        let cosigner = Cosigner::from_seed("hospital.example", &[2; 32]).expect("a seed");
        let line = witness.cosign(advance, &cosigner, 5);
        assert_eq!(
            cosigner.key().check(&line, &stored[..=stored.find("\n\n").expect("blank")]),
            Some(5)
        );
        let resumed = Witness::resume(log().key(), stored.as_bytes()).expect("what we stored");
        assert_eq!(resumed.latest(), witness.latest());
        resumed
    }

    #[test]
    fn a_log_that_grows_is_cosigned_and_the_same_checkpoint_again() {
        let leaves = leaves(0);
        let witness = witness_at(&leaves, 12);
        for to in 12..40 {
            let offer = offer(&leaves, 12, to);
            assert!(witness.consider(&offer).is_ok(), "{to}");
            assert_eq!(Offer::parse(offer.to_string().as_bytes()), Ok(offer));
        }
    }

    #[test]
    fn a_fork_and_a_rollback_are_refused_with_an_alarm() {
        let witness = witness_at(&leaves(0), 12);
        let other = leaves(1);
        for to in 12..40 {
            let refusal = witness.consider(&offer(&other, 12, to)).expect_err("another history");
            assert_eq!(refusal, Refusal::Fork { latest: 12, offered: to as u64 });
            assert!(refusal.is_alarm());
        }
        // A proof that is right, but from a checkpoint that we did not cosign.
        let sidestep = witness.consider(&offer(&other, 5, 12)).expect_err("another history");
        assert_eq!(sidestep, Refusal::Fork { latest: 12, offered: 12 });
        let back = witness.consider(&offer(&leaves(0), 12, 11)).expect_err("fewer leaves");
        assert_eq!(back, Refusal::Rollback { latest: 12, offered: 11 });
        assert!(back.is_alarm());
        let mut smuggled = offer(&leaves(0), 12, 20);
        smuggled.proof.push([0; 32]);
        assert!(witness.consider(&smuggled).expect_err("a longer proof").is_alarm());
    }

    #[test]
    fn another_log_a_wrong_key_and_a_stale_proof_are_refused_without_an_alarm() {
        let leaves = leaves(0);
        let witness = witness_at(&leaves, 12);
        let stale = witness.consider(&offer(&leaves, 11, 20)).expect_err("from another size");
        assert_eq!(stale, Refusal::Stale { latest: 12, offered: 11 });
        let other = Signer::from_seed("other.example", &[1; 32]).expect("a seed");
        let foreign =
            Witness::new(other.key()).consider(&offer(&leaves, 0, 5)).expect_err("foreign");
        assert!(matches!(foreign, Refusal::UnknownLog { .. }));
        let same_name = Signer::from_seed("log.example", &[9; 32]).expect("a seed");
        let unsigned = Witness::new(same_name.key()).consider(&offer(&leaves, 0, 5));
        assert!(matches!(unsigned, Err(Refusal::Signature(_))));
        for refusal in [stale, foreign] {
            assert!(!refusal.is_alarm());
        }
    }

    #[test]
    fn what_is_not_an_offer_is_refused() {
        let text = offer(&leaves(0), 3, 20).to_string();
        for wrong in [
            String::new(),
            text.replacen("old 3", "old 03", 1),
            text.replacen("old ", "", 1),
            text.replacen("old 3\n", "old 3\nAAAA\n", 1),
            text.replacen("\n\n", "\n", 1),
            text.replacen(
                "old 3\n",
                &format!("old 3\n{}", format!("{}\n", base64(&[0; 32])).repeat(64)),
                1,
            ),
        ] {
            assert!(Offer::parse(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
