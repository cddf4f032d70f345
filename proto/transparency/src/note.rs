//! Signed notes after C2SP [signed-note]: a text, a blank line, and one line per signature.
//!
//! A note proves nothing until a signature by a key that the reader already trusts has been
//! verified. Lines of unknown keys are carried along and ignored; a known key's line must be there
//! once and be right.
//!
//! [signed-note]: https://c2sp.org/signed-note

use std::fmt;
use std::str::FromStr;

use crate::key::{KeyError, KeyId, PrivateKey, PublicKey, check_name};
use crate::text::{base64, from_base64, hex};

/// The largest note that is read.
pub const MAX_NOTE_BYTES: usize = 1 << 20;

/// The most signature lines that are read.
pub const MAX_SIGNATURES: usize = 4_096;

/// Ed25519 over the note's text.
const KIND: u8 = 0x01;

/// A public key for Ed25519 note signatures (type 0x01).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerifierKey(PublicKey);

impl VerifierKey {
    /// The key's name; for a log's key that is the log's origin.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Name and id, for people.
    #[must_use]
    pub fn label(&self) -> String {
        self.0.label()
    }

    /// The 32 bytes of the public key.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        self.0.public()
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        PublicKey::parse(text, KIND).map(Self)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A private key for Ed25519 note signatures.
#[derive(Debug)]
pub struct Signer(PrivateKey);

impl Signer {
    /// A key from its 32 secret bytes (RFC 8032 section 5.1.5).
    ///
    /// # Errors
    /// When the name cannot name a key.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        PrivateKey::from_seed(name, KIND, seed).map(Self)
    }

    /// A key from PKCS#8, as ring writes it.
    ///
    /// # Errors
    /// When the name cannot name a key, or the bytes are no Ed25519 key.
    pub fn from_pkcs8(name: &str, pkcs8: &[u8]) -> Result<Self, KeyError> {
        PrivateKey::from_pkcs8(name, KIND, pkcs8).map(Self)
    }

    /// The public half.
    #[must_use]
    pub fn key(&self) -> VerifierKey {
        VerifierKey(self.0.public().clone())
    }

    /// Signs a note's text. The same text has the same signature.
    #[must_use]
    pub fn sign(&self, text: &str) -> Signature {
        Signature::by(self.0.public(), self.0.sign(text.as_bytes()))
    }
}

/// One signature line; displayed without its newline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    name: String,
    id: KeyId,
    bytes: Vec<u8>,
}

impl Signature {
    pub(crate) fn by(key: &PublicKey, bytes: Vec<u8>) -> Self {
        Self { name: key.name().to_owned(), id: key.id(), bytes }
    }

    /// The key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's name and id, for people.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}+{}", self.name, hex(&self.id))
    }

    /// What follows the key id.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn is_by(&self, key: &PublicKey) -> bool {
        self.name == key.name() && self.id == key.id()
    }

    /// Whether both lines name the same key.
    #[must_use]
    pub fn same_key(&self, other: &Self) -> bool {
        self.name == other.name && self.id == other.id
    }
}

impl FromStr for Signature {
    type Err = NoteError;

    fn from_str(line: &str) -> Result<Self, NoteError> {
        let refused = || NoteError::Signature(line.chars().take(100).collect());
        let rest = line.strip_prefix("\u{2014} ").ok_or_else(refused)?;
        let (name, blob) = rest.split_once(' ').ok_or_else(refused)?;
        check_name(name).map_err(|_| refused())?;
        let blob = from_base64(blob).ok_or_else(refused)?;
        let (id, bytes) = blob.split_first_chunk().ok_or_else(refused)?;
        Ok(Self { name: name.to_owned(), id: *id, bytes: bytes.to_vec() })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blob = [self.id.as_slice(), &self.bytes].concat();
        write!(f, "\u{2014} {} {}", self.name, base64(&blob))
    }
}

/// Why bytes are not a note.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// More bytes than are read.
    #[error("expected a note of at most {MAX_NOTE_BYTES} bytes, found {0}")]
    TooLong(usize),
    /// Not UTF-8, or with a control character other than newline.
    #[error("expected UTF-8 text without control characters")]
    Text,
    /// No blank line before the signatures, no signature, or no newline at the end.
    #[error("expected a text, a blank line, and at least one signature line")]
    Shape,
    /// A line after the blank one that is no signature.
    #[error("expected a signature line, found {0:?}")]
    Signature(String),
    /// More signature lines than are read.
    #[error("expected at most {MAX_SIGNATURES} signature lines, found {0}")]
    TooMany(usize),
}

/// What is wrong with the signature of a known key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    /// There is none.
    #[error("expected a signature by {0}, found none")]
    Missing(String),
    /// There is more than one.
    #[error("expected one signature by {0}, found it repeated")]
    Repeated(String),
    /// It was not made by this key over this text.
    #[error("expected a valid signature by {0}, found one that does not verify")]
    Invalid(String),
}

/// A text and its signatures; displayed as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

impl Note {
    /// A note from its parts.
    ///
    /// # Errors
    /// When the parts do not make a note.
    pub fn new(text: &str, signatures: Vec<Signature>) -> Result<Self, NoteError> {
        let note = Self { text: text.to_owned(), signatures };
        // What is written is what is read: one set of rules.
        if Self::parse(note.to_string().as_bytes())? == note {
            Ok(note)
        } else {
            Err(NoteError::Shape)
        }
    }

    /// Reads a note; no signature is verified.
    ///
    /// # Errors
    /// When the bytes are not a note.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLong(bytes.len()));
        }
        let all = std::str::from_utf8(bytes).map_err(|_| NoteError::Text)?;
        if all.chars().any(|c| c < ' ' && c != '\n') {
            return Err(NoteError::Text);
        }
        let blank = all.rfind("\n\n").ok_or(NoteError::Shape)?;
        let text = all[..=blank].to_owned();
        let lines = all[blank + 2..].strip_suffix('\n').ok_or(NoteError::Shape)?;
        let count = lines.split('\n').count();
        if count > MAX_SIGNATURES {
            return Err(NoteError::TooMany(count));
        }
        let signatures = lines.split('\n').map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { text, signatures })
    }

    /// What is signed, with its final newline.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines, of known and unknown keys.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Verifies the signature of one key.
    ///
    /// # Errors
    /// When it is missing, repeated or wrong.
    pub fn verify(&self, key: &VerifierKey) -> Result<(), SignatureFault> {
        let signature = self.only_signature(&key.0)?;
        if key.0.verifies(self.text.as_bytes(), &signature.bytes) {
            Ok(())
        } else {
            Err(SignatureFault::Invalid(key.label()))
        }
    }

    pub(crate) fn only_signature(&self, key: &PublicKey) -> Result<&Signature, SignatureFault> {
        let mut lines = self.signatures.iter().filter(|signature| signature.is_by(key));
        match (lines.next(), lines.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(SignatureFault::Missing(key.label())),
            (Some(_), Some(_)) => Err(SignatureFault::Repeated(key.label())),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    #[test]
    fn the_note_of_the_specification_verifies() {
        let note = Note::parse(NOTE.as_bytes()).expect("the example of the specification");
        let key: VerifierKey = KEY.parse().expect("the example of the specification");
        assert_eq!(note.verify(&key), Ok(()));
        assert_eq!(note.to_string(), NOTE);
        let other = NOTE.replace("message", "massage");
        let other = Note::parse(other.as_bytes()).expect("still a note");
        assert_eq!(other.verify(&key), Err(SignatureFault::Invalid(key.label())));
    }

    #[test]
    fn the_text_ends_at_the_last_blank_line() {
        let signer = Signer::from_seed("poet.example", &[1; 32]).expect("a seed");
        let text = "trafitto da un raggio di sole:\n\ned \u{e8} subito sera.\n";
        let note = Note::new(text, vec![signer.sign(text)]).expect("a note");
        let read = Note::parse(note.to_string().as_bytes()).expect("a note");
        assert_eq!((read.text(), read.verify(&signer.key())), (text, Ok(())));
    }

    #[test]
    fn a_known_key_signs_once_and_unknown_keys_are_ignored() {
        let [known, other] =
            [1, 2].map(|seed| Signer::from_seed("name.example", &[seed; 32]).expect("a seed"));
        let text = "text\n";
        let note = |lines: Vec<Signature>| Note::new(text, lines).expect("a note");
        let ours = known.sign(text);
        let foreign = other.sign(text);
        assert_eq!(
            note(vec![foreign.clone(), ours.clone(), foreign.clone()]).verify(&known.key()),
            Ok(())
        );
        let label = known.key().label();
        assert_eq!(
            note(vec![foreign.clone()]).verify(&known.key()),
            Err(SignatureFault::Missing(label.clone()))
        );
        assert_eq!(
            note(vec![ours.clone(), ours]).verify(&known.key()),
            Err(SignatureFault::Repeated(label.clone()))
        );
        let forged = Signature::by(known.0.public(), foreign.bytes);
        assert_eq!(note(vec![forged]).verify(&known.key()), Err(SignatureFault::Invalid(label)));
    }

    #[test]
    fn what_is_not_a_note_is_refused() {
        for wrong in [
            "",
            "\n",
            "text\n",
            "text\n\n",
            "text\n\n\n",
            &NOTE[..NOTE.len() - 1],
            &NOTE.replace("\u{2014} ", "- "),
            &NOTE.replace("\u{2014} ", "\u{2014}"),
            &NOTE.replace("aQM=", "aQN="),
            &NOTE.replace("aQM=", "aQM"),
            &NOTE.replace("example.com/foo", "example.com/f+o"),
            &NOTE.replace("This", "Th\tis"),
            &NOTE.replace('\n', "\r\n"),
            &format!("{NOTE}\n"),
            &format!("{NOTE}more\n"),
        ] {
            assert!(Note::parse(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        assert_eq!(Note::parse(b"text\n\n\xff\n"), Err(NoteError::Text));
        assert!(Note::new("no newline", Vec::new()).is_err());
        let long = vec![b'a'; MAX_NOTE_BYTES + 1];
        assert_eq!(Note::parse(&long), Err(NoteError::TooLong(MAX_NOTE_BYTES + 1)));
    }
}
