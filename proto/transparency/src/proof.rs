//! A receipt for one entry after C2SP [tlog-proof]: index, inclusion proof and checkpoint in one
//! text file. It is verified against a policy, without the log and without a network.
//!
//! [tlog-proof]: https://c2sp.org/tlog-proof

use std::fmt;

use crate::checkpoint::{CheckpointError, SignedCheckpoint};
use crate::note::MAX_NOTE_BYTES;
use crate::policy::{Policy, Verdict};
use crate::text::{base64, decimal, from_base64, hash_from_base64, hex};
use crate::tile::MAX_ENTRY_BYTES;
use crate::tree::{Hash, MAX_PROOF, leaf_hash, root_from_inclusion};

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";

/// The most extra data: room for an entry.
pub const MAX_EXTRA_BYTES: usize = MAX_ENTRY_BYTES;

/// The largest proof file that is read.
pub const MAX_PROOF_BYTES: usize = MAX_NOTE_BYTES + 4 * MAX_EXTRA_BYTES;

/// Why bytes are not a proof, or prove nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The lines before the checkpoint.
    #[error(
        "expected {FIRST_LINE}, an index, at most {MAX_PROOF} hashes, a blank line and a checkpoint"
    )]
    Shape,
    /// More bytes than are read.
    #[error("expected a proof of at most {MAX_PROOF_BYTES} bytes, found {0}")]
    TooLong(usize),
    /// The checkpoint.
    #[error("expected a checkpoint after the proof")]
    Checkpoint(#[from] CheckpointError),
    /// The entry is not at this place of this tree.
    #[error("expected a proof that leads from entry {index} to the root {expected}, found {found}")]
    Root {
        /// Which entry.
        index: u64,
        /// The checkpoint's root, in hexadecimal.
        expected: String,
        /// Where the proof leads, or that its length is wrong.
        found: String,
    },
    /// The policy rejects the checkpoint.
    #[error("checkpoint rejected: {}", .0.join("; "))]
    Policy(Vec<String>),
}

/// A proof that an entry is in a log; displayed as its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    extra: Option<Vec<u8>>,
    index: u64,
    hashes: Vec<Hash>,
    signed: SignedCheckpoint,
}

impl Proof {
    /// A proof from its parts.
    #[must_use]
    pub fn new(index: u64, hashes: Vec<Hash>, signed: SignedCheckpoint) -> Self {
        Self { extra: None, index, hashes, signed }
    }

    /// The same with the entry's bytes inside, so that the receipt says by itself what it is for.
    /// They are believed only because they hash to the proven leaf.
    #[must_use]
    pub fn with_entry(mut self, entry: &[u8]) -> Self {
        self.extra = Some(entry.to_vec());
        self
    }

    /// Reads a proof; nothing is verified.
    ///
    /// # Errors
    /// When the bytes are not a proof.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofError> {
        if bytes.len() > MAX_PROOF_BYTES {
            return Err(ProofError::TooLong(bytes.len()));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| ProofError::Shape)?;
        let (head, checkpoint) = text.split_once("\n\n").ok_or(ProofError::Shape)?;
        let mut lines = head.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return Err(ProofError::Shape);
        }
        let mut line = lines.next().ok_or(ProofError::Shape)?;
        let mut extra = None;
        if let Some(data) = line.strip_prefix("extra ") {
            let data = from_base64(data).filter(|data| data.len() <= MAX_EXTRA_BYTES);
            extra = Some(data.ok_or(ProofError::Shape)?);
            line = lines.next().ok_or(ProofError::Shape)?;
        }
        let index = line.strip_prefix("index ").and_then(decimal).ok_or(ProofError::Shape)?;
        let hashes: Vec<Hash> =
            lines.map(hash_from_base64).collect::<Option<_>>().ok_or(ProofError::Shape)?;
        if hashes.len() > MAX_PROOF {
            return Err(ProofError::Shape);
        }
        Ok(Self { extra, index, hashes, signed: SignedCheckpoint::parse(checkpoint.as_bytes())? })
    }

    /// Which entry.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The entry that travels with the proof, unverified.
    #[must_use]
    pub fn entry(&self) -> Option<&[u8]> {
        self.extra.as_deref()
    }

    /// The checkpoint that the proof leads to.
    #[must_use]
    pub fn signed(&self) -> &SignedCheckpoint {
        &self.signed
    }

    /// Verifies that `entry` is where the proof says, in a log that the policy believes.
    ///
    /// # Errors
    /// What is wrong, the proof before the signatures.
    pub fn verify(&self, entry: &[u8], policy: &Policy) -> Result<Verdict, ProofError> {
        let head = self.signed.checkpoint().head();
        let led = root_from_inclusion(leaf_hash(entry), self.index, head.size, &self.hashes);
        if led != Some(head.root) {
            return Err(ProofError::Root {
                index: self.index,
                expected: hex(&head.root),
                found: led.map_or_else(
                    || {
                        format!(
                            "{} hashes, not right for a tree of {}",
                            self.hashes.len(),
                            head.size
                        )
                    },
                    |root| hex(&root),
                ),
            });
        }
        let verdict = policy.judge(&self.signed);
        let faults = verdict.faults();
        if faults.is_empty() { Ok(verdict) } else { Err(ProofError::Policy(faults)) }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", base64(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{}", base64(hash)))?;
        write!(f, "\n{}", self.signed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::note::Signer;
    use crate::tree::{Head, Leaves, inclusion_proof, root};

    fn proof(size: u8, index: u8) -> (Proof, Policy) {
        let leaves: Vec<_> = (0..size).map(|at| leaf_hash(&[at])).collect();
        let signer = Signer::from_seed("log.example", &[1; 32]).expect("a seed");
        let head = Head { size: u64::from(size), root: root(&leaves) };
        let checkpoint = Checkpoint::new("log.example", head).expect("a checkpoint");
        let signed = SignedCheckpoint::sign(checkpoint, &signer).expect("our own log");
        let hashes = inclusion_proof(&mut Leaves(&leaves), u64::from(index), head.size)
            .expect("in memory")
            .expect("the leaf is there");
        let policy = Policy::threshold(&signer.key(), &[], 0).expect("a policy");
        (Proof::new(u64::from(index), hashes, signed), policy)
    }

    #[test]
    fn a_proof_holds_for_its_entry_and_for_no_other() {
        for (size, index) in [(1, 0), (2, 1), (7, 6), (40, 17)] {
            let (proof, policy) = proof(size, index);
            let proof = proof.with_entry(&[index]);
            let read = Proof::parse(proof.to_string().as_bytes()).expect("our own spelling");
            assert_eq!(read, proof);
            assert!(read.verify(read.entry().expect("inside"), &policy).is_ok());
            assert!(matches!(read.verify(&[index + 1], &policy), Err(ProofError::Root { .. })));
        }
        let (proof, _) = proof(7, 3);
        let stranger = Signer::from_seed("log.example", &[2; 32]).expect("a seed");
        let policy = Policy::threshold(&stranger.key(), &[], 0).expect("a policy");
        assert!(matches!(proof.verify(&[3], &policy), Err(ProofError::Policy(_))));
    }

    #[test]
    fn a_changed_proof_is_refused() {
        let (proof, policy) = proof(40, 17);
        let text = proof.to_string();
        for (from, to) in [("index 17", "index 16"), ("index 17", "index 40")] {
            let changed = Proof::parse(text.replacen(from, to, 1).as_bytes()).expect("a proof");
            assert!(changed.verify(&[17], &policy).is_err());
        }
        for (from, to) in [
            ("@v1", "@v2"),
            ("index 17", "index 017"),
            ("index 17\n", ""),
            ("index 17", "extra AA\nindex 17"),
            ("index 17", "extra AA==\nextra AA==\nindex 17"),
            ("\n\n", "\n"),
            ("\n\n", "\n\n\n"),
            ("index 17\n", &format!("index 17\n{}", "AAAA\n".repeat(3))),
        ] {
            let wrong = text.replacen(from, to, 1);
            assert!(Proof::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(Proof::parse(&vec![b'a'; MAX_PROOF_BYTES + 1]).is_err());
    }
}
