//! Cosignatures after C2SP [tlog-cosignature], Ed25519 (type 0x04): a witness states that at a time
//! this was the largest tree it had seen of this log, and that it grew out of all before it.
//!
//! The signed message does not name the cosigner, so every cosigner has a key of its own, and proves
//! that it holds it: else somebody could claim another's key, and its cosignatures with it.
//!
//! [tlog-cosignature]: https://c2sp.org/tlog-cosignature

use std::fmt;
use std::str::FromStr;

use crate::checkpoint::SignedCheckpoint;
use crate::key::{KeyError, PrivateKey, PublicKey};
use crate::note::{Signature, SignatureFault};

/// Ed25519 with a timestamp.
const KIND: u8 = 0x04;

/// A public key for cosignatures (type 0x04).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CosignerKey(PublicKey);

impl CosignerKey {
    /// A key from its 32 public bytes.
    ///
    /// # Errors
    /// When the name cannot name a key, or the key is one that anyone can sign for.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, KeyError> {
        PublicKey::new(name, KIND, public).map(Self)
    }

    /// The cosigner's name.
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

    /// Verifies this key's cosignature and tells its time, in seconds since 1970.
    ///
    /// # Errors
    /// When it is missing, repeated or wrong.
    pub fn verify(&self, signed: &SignedCheckpoint) -> Result<u64, SignatureFault> {
        let line = signed.note().only_signature(&self.0)?;
        self.check(line, signed.note().text()).ok_or_else(|| SignatureFault::Invalid(self.label()))
    }

    /// Whether whoever made `proof` holds this key, and said so to whom `statement` names.
    #[must_use]
    pub fn is_held(&self, statement: &[u8; 32], proof: &[u8]) -> bool {
        self.0.verifies(&holding(statement), proof)
    }

    /// The time of a cosignature line over a checkpoint's text if it is this key's and right.
    #[must_use]
    pub fn check(&self, line: &Signature, text: &str) -> Option<u64> {
        let (time, signature) = line.bytes().split_first_chunk()?;
        let time = u64::from_be_bytes(*time);
        let in_range = time != 0 && i64::try_from(time).is_ok();
        let right =
            line.is_by(&self.0) && self.0.verifies(message(time, text).as_bytes(), signature);
        (in_range && right).then_some(time)
    }
}

impl FromStr for CosignerKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        PublicKey::parse(text, KIND).map(Self)
    }
}

impl fmt::Display for CosignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A private key for cosignatures.
#[derive(Debug)]
pub struct Cosigner(PrivateKey);

impl Cosigner {
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
    pub fn key(&self) -> CosignerKey {
        CosignerKey(self.0.public().clone())
    }

    /// The proof that this key is held, for the digest of a statement that names holder and use; see
    /// [`CosignerKey::is_held`].
    #[must_use]
    pub fn prove_held(&self, statement: &[u8; 32]) -> Vec<u8> {
        self.0.sign(&holding(statement))
    }

    /// Cosigns a checkpoint's text at a time in seconds since 1970. Whoever calls this has checked
    /// consistency and written the checkpoint down: [`crate::witness::Witness`] does.
    #[must_use]
    pub(crate) fn cosign(&self, text: &str, time: u64) -> Signature {
        let signature = self.0.sign(message(time, text).as_bytes());
        Signature::by(self.0.public(), [time.to_be_bytes().as_slice(), &signature].concat())
    }
}

fn message(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// No cosignature, whose message begins with other words.
fn holding(statement: &[u8; 32]) -> Vec<u8> {
    [b"consilium/cosigning-key-held/1\n".as_slice(), statement].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::note::Signer;
    use crate::tree::Head;

    fn signed() -> SignedCheckpoint {
        let signer = Signer::from_seed("log.example", &[1; 32]).expect("a seed");
        let head = Head { size: 3, root: [5; 32] };
        let checkpoint = Checkpoint::new("log.example", head).expect("a checkpoint");
        SignedCheckpoint::sign(checkpoint, &signer).expect("our own log")
    }

    #[test]
    fn a_cosignature_verifies_with_its_time_and_not_over_another_text() {
        let cosigner = Cosigner::from_seed("hospital-1.example", &[2; 32]).expect("a seed");
        let signed = signed();
        let line = cosigner.cosign(signed.note().text(), 1_679_315_147);
        let cosigned = signed.with(std::slice::from_ref(&line)).expect("one more line");
        assert_eq!(cosigner.key().verify(&cosigned), Ok(1_679_315_147));
        assert_eq!(cosigner.key().check(&line, "another\n"), None);
        assert!(matches!(cosigner.key().verify(&signed), Err(SignatureFault::Missing(_))));
        let again: CosignerKey = cosigner.key().to_string().parse().expect("our own spelling");
        assert_eq!(again, cosigner.key());
    }

    #[test]
    fn a_key_is_proven_held_for_one_statement_and_by_its_holder_alone() {
        let cosigner = Cosigner::from_seed("hospital-1.example", &[2; 32]).expect("a seed");
        let other = Cosigner::from_seed("hospital-1.example", &[3; 32]).expect("a seed");
        let proof = cosigner.prove_held(&[7; 32]);
        assert!(cosigner.key().is_held(&[7; 32], &proof));
        assert!(!cosigner.key().is_held(&[8; 32], &proof));
        assert!(!cosigner.key().is_held(&[7; 32], &other.prove_held(&[7; 32])));
        assert!(!cosigner.key().is_held(&[7; 32], &proof[1..]));
        assert!(!cosigner.key().is_held(&[7; 32], cosigner.cosign("\u{7}", 7).bytes()));
    }

    #[test]
    fn a_changed_time_and_a_time_out_of_range_are_refused() {
        let cosigner = Cosigner::from_seed("hospital-1.example", &[2; 32]).expect("a seed");
        let signed = signed();
        for time in [0, u64::MAX] {
            let line = cosigner.cosign(signed.note().text(), time);
            assert_eq!(cosigner.key().check(&line, signed.note().text()), None);
        }
        let line = cosigner.cosign(signed.note().text(), 7);
        let mut bytes = line.bytes().to_vec();
        bytes[7] ^= 1;
        let changed = Signature::by(cosigner.0.public(), bytes);
        assert_eq!(cosigner.key().check(&changed, signed.note().text()), None);
        let short = Signature::by(cosigner.0.public(), vec![1; 7]);
        assert_eq!(cosigner.key().check(&short, signed.note().text()), None);
    }

    #[test]
    fn a_note_key_and_a_cosigning_key_are_not_each_other() {
        let signer = Signer::from_seed("name.example", &[2; 32]).expect("a seed");
        assert!(signer.key().to_string().parse::<CosignerKey>().is_err());
        let cosigner = Cosigner::from_seed("name.example", &[2; 32]).expect("a seed");
        assert_ne!(cosigner.key().label(), signer.key().label());
    }
}
