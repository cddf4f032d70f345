//! Checkpoints after C2SP [tlog-checkpoint]: a log's origin, its size and its root, signed.
//!
//! A log signs a checkpoint only if it is consistent with every one that it signed before; two that
//! are not are proof against it, whoever holds them.
//!
//! [tlog-checkpoint]: https://c2sp.org/tlog-checkpoint

use std::fmt;

use crate::note::{Note, NoteError, Signature, SignatureFault, Signer, VerifierKey};
use crate::text::{base64, decimal, hash_from_base64};
use crate::tree::{Hash, Head, empty_root};

/// Why a text is not a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// It is not even a note.
    #[error("expected a signed checkpoint")]
    Note(#[from] NoteError),
    /// Fewer than three lines, or an empty one.
    #[error("expected an origin, a size and a root hash, each on a line")]
    Shape,
    /// The second line is not a number.
    #[error("expected a tree size in decimal, found {0:?}")]
    Size(String),
    /// The third line is not a hash.
    #[error("expected a root hash of 32 bytes in base64, found {0:?}")]
    Root(String),
    /// A tree without leaves has only one root.
    #[error("expected the root of the empty tree for a size of 0")]
    EmptyRoot,
    /// The key's name is not the log's origin.
    #[error("expected a key of the log {origin}, found one named {key}")]
    Origin {
        /// The log that the checkpoint is of.
        origin: String,
        /// The key's name.
        key: String,
    },
}

/// What a log says of itself; displayed as the text that is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    head: Head,
    extensions: Vec<String>,
}

impl Checkpoint {
    /// A checkpoint without extension lines.
    ///
    /// # Errors
    /// When the origin is empty or has control characters, or an empty tree has another root.
    pub fn new(origin: &str, head: Head) -> Result<Self, CheckpointError> {
        if origin.is_empty() || origin.chars().any(|c| c < ' ') {
            return Err(CheckpointError::Shape);
        }
        if head.size == 0 && head.root != empty_root() {
            return Err(CheckpointError::EmptyRoot);
        }
        Ok(Self { origin: origin.to_owned(), head, extensions: Vec::new() })
    }

    fn parse(text: &str) -> Result<Self, CheckpointError> {
        let text = text.strip_suffix('\n').ok_or(CheckpointError::Shape)?;
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(CheckpointError::Shape);
        };
        let short = |text: &str| text.chars().take(100).collect();
        let head = Head {
            size: decimal(size).ok_or_else(|| CheckpointError::Size(short(size)))?,
            root: hash_from_base64(root).ok_or_else(|| CheckpointError::Root(short(root)))?,
        };
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(CheckpointError::Shape);
        }
        Ok(Self { extensions, ..Self::new(origin, head)? })
    }

    /// Which log this is of.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Size and root.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// How many leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.head.size
    }

    /// Their root.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.head.root
    }

    /// Lines after the root. Ours have none; nobody audits what they say.
    #[must_use]
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.head.size, base64(&self.head.root))?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// A checkpoint with its signature lines; displayed as it is stored and served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: Note,
}

impl SignedCheckpoint {
    /// Signs a checkpoint with the log's key.
    ///
    /// # Errors
    /// When the key is another log's.
    pub fn sign(checkpoint: Checkpoint, signer: &Signer) -> Result<Self, CheckpointError> {
        check_origin(&checkpoint, &signer.key())?;
        let text = checkpoint.to_string();
        let note = Note::new(&text, vec![signer.sign(&text)])?;
        Ok(Self { checkpoint, note })
    }

    /// Reads a checkpoint; no signature is verified.
    ///
    /// # Errors
    /// When the bytes are not a checkpoint.
    pub fn parse(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let note = Note::parse(bytes)?;
        Ok(Self { checkpoint: Checkpoint::parse(note.text())?, note })
    }

    /// What is signed.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The note around it.
    #[must_use]
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Verifies the log's signature.
    ///
    /// # Errors
    /// When it is missing, repeated or wrong.
    pub fn verify(&self, key: &VerifierKey) -> Result<(), SignatureFault> {
        if key.name() != self.checkpoint.origin {
            return Err(SignatureFault::Missing(key.label()));
        }
        self.note.verify(key)
    }

    /// The same checkpoint with more signature lines; a key that has signed already is not repeated.
    ///
    /// # Errors
    /// When there are too many.
    pub fn with(&self, signatures: &[Signature]) -> Result<Self, NoteError> {
        let mut lines = self.note.signatures().to_vec();
        for signature in signatures {
            if !lines.iter().any(|line| line.same_key(signature)) {
                lines.push(signature.clone());
            }
        }
        Ok(Self { checkpoint: self.checkpoint.clone(), note: Note::new(self.note.text(), lines)? })
    }
}

impl fmt::Display for SignedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.note.fmt(f)
    }
}

fn check_origin(checkpoint: &Checkpoint, key: &VerifierKey) -> Result<(), CheckpointError> {
    if key.name() == checkpoint.origin {
        return Ok(());
    }
    Err(CheckpointError::Origin { origin: checkpoint.origin.clone(), key: key.name().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of tlog-cosignature, log signature and cosignature.
    const EXAMPLE: &str = "example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

\u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
\u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
";

    #[test]
    fn the_checkpoint_of_the_specification_is_read_and_written_the_same() {
        let signed = SignedCheckpoint::parse(EXAMPLE.as_bytes()).expect("a checkpoint");
        let checkpoint = signed.checkpoint();
        assert_eq!(
            (checkpoint.origin(), checkpoint.size()),
            ("example.com/behind-the-sofa", 20_852_163)
        );
        assert_eq!(signed.to_string(), EXAMPLE);
        assert_eq!(checkpoint.to_string(), signed.note().text());
    }

    #[test]
    fn a_checkpoint_is_read_strictly() {
        for (from, to) in [
            ("20852163", "020852163"),
            ("20852163", "-1"),
            ("20852163", "18446744073709551616"),
            ("20852163", "0"),
            ("q2I=", "q2J="),
            ("q2I=\n", "q2I=\n\nmore\n"),
            ("q2I=\n", "\n"),
            ("CsUY", ""),
            ("example.com/behind-the-sofa\n2", "\n2"),
        ] {
            let wrong = EXAMPLE.replacen(from, to, 1);
            assert_ne!(wrong, EXAMPLE);
            assert!(SignedCheckpoint::parse(wrong.as_bytes()).is_err(), "{from:?} to {to:?}");
        }
        let extended = EXAMPLE.replacen("q2I=\n", "q2I=\nmore\n", 1);
        let extended = SignedCheckpoint::parse(extended.as_bytes()).expect("an extension line");
        assert_eq!(extended.checkpoint().extensions(), ["more"]);
    }

    #[test]
    fn only_the_key_of_the_origin_signs_and_verifies() {
        let signer = Signer::from_seed("log.example", &[1; 32]).expect("a seed");
        let other = Signer::from_seed("other.example", &[1; 32]).expect("a seed");
        let head = Head { size: 3, root: [5; 32] };
        let checkpoint = Checkpoint::new("log.example", head).expect("a checkpoint");
        assert!(SignedCheckpoint::sign(checkpoint.clone(), &other).is_err());
        let signed = SignedCheckpoint::sign(checkpoint, &signer).expect("our own log");
        assert_eq!(signed.verify(&signer.key()), Ok(()));
        assert!(matches!(signed.verify(&other.key()), Err(SignatureFault::Missing(_))));
        let again = signed.with(signed.note().signatures()).expect("nothing new");
        assert_eq!(again, signed);
        assert!(Checkpoint::new("", head).is_err());
        assert!(Checkpoint::new("a\nb", head).is_err());
        assert!(Checkpoint::new("log.example", Head { size: 0, root: [5; 32] }).is_err());
    }
}
