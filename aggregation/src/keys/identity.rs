//! Ed25519 identities and typed signatures (PROTOCOL M-07).
//!
//! What is signed is the digest of a transcript, and each kind of statement has a label of its
//! own; the type of a signature says which kind it is for. So no signature can be taken for
//! another's, by the compiler here and by the label everywhere else.
//!
//! Source: [RFC 8032], as implemented by `ring`.
//!
//! [RFC 8032]: https://www.rfc-editor.org/rfc/rfc8032

use std::fmt;
use std::marker::PhantomData;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::ids::Digest;
use crate::secret::Secret;
use crate::transcript::Transcript;

/// Something that a hospital puts its name to.
pub trait Statement {
    /// The label that no other kind of statement has.
    const LABEL: &'static str;

    /// Writes everything that the statement says.
    fn write(&self, transcript: &mut Transcript);

    /// The digest that is signed.
    fn digest(&self) -> Digest {
        let mut transcript = Transcript::new(Self::LABEL);
        self.write(&mut transcript);
        transcript.finish()
    }
}

/// A signature of one statement of the kind S.
pub struct Signature<S> {
    bytes: [u8; 64],
    kind: PhantomData<fn() -> S>,
}

impl<S> Signature<S> {
    /// Takes the 64 bytes of RFC 8032. They mean nothing before they are verified.
    #[must_use]
    pub const fn new(bytes: [u8; 64]) -> Self {
        Self { bytes, kind: PhantomData }
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.bytes
    }
}

impl<S> Clone for Signature<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Signature<S> {}

impl<S> PartialEq for Signature<S> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl<S> Eq for Signature<S> {}

impl<S> fmt::Debug for Signature<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, ..] = self.bytes;
        write!(f, "Signature({first:02x}{second:02x}..)")
    }
}

/// A signature that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature of this statement ({label}) does not hold under the expected identity key")]
pub struct BadSignature {
    /// The kind of statement.
    pub label: &'static str,
}

/// A hospital's public identity key: what others pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdentityKey([u8; 32]);

impl IdentityKey {
    /// Takes the 32 bytes of RFC 8032.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What people compare over another channel, and what rosters hash.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        Transcript::new("consilium/identity/1").bytes(&self.0).finish()
    }

    /// Whether the holder of this key signed exactly this statement.
    ///
    /// # Errors
    /// When it did not.
    pub fn verify<S: Statement>(
        &self,
        statement: &S,
        signature: &Signature<S>,
    ) -> Result<(), BadSignature> {
        self.verify_bytes(statement.digest().as_bytes(), &signature.bytes)
            .map_err(|_| BadSignature { label: S::LABEL })
    }

    fn verify_bytes(
        &self,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), ring::error::Unspecified> {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature)
    }
}

/// A hospital's own identity, with which it signs.
pub struct Identity {
    pair: Ed25519KeyPair,
    key: IdentityKey,
}

impl Identity {
    /// The identity that grows from 32 random bytes, the private key of RFC 8032.
    ///
    /// # Errors
    /// Never for 32 bytes; `ring` answers so that it may refuse.
    pub fn from_seed(seed: &Secret<32>) -> Result<Self, BadSeed> {
        Self::of(Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| BadSeed)?)
    }

    /// The identity in a PKCS #8 document, as `ring` makes one (RFC 5958, version 2).
    ///
    /// # Errors
    /// When it holds no Ed25519 key pair whose halves belong together.
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, BadSeed> {
        Self::of(Ed25519KeyPair::from_pkcs8(document).map_err(|_| BadSeed)?)
    }

    fn of(pair: Ed25519KeyPair) -> Result<Self, BadSeed> {
        let key = <[u8; 32]>::try_from(pair.public_key().as_ref()).map_err(|_| BadSeed)?;
        Ok(Self { pair, key: IdentityKey(key) })
    }

    /// The public key.
    #[must_use]
    pub const fn key(&self) -> IdentityKey {
        self.key
    }

    /// Signs a statement. The same statement always gets the same signature.
    #[must_use]
    pub fn sign<S: Statement>(&self, statement: &S) -> Signature<S> {
        Signature::new(self.sign_bytes(statement.digest().as_bytes()))
    }

    fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        for (byte, signed) in bytes.iter_mut().zip(self.pair.sign(message).as_ref()) {
            *byte = *signed;
        }
        bytes
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.key.fingerprint().short())
    }
}

/// Bytes from which no identity grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no identity key grows from these bytes")]
pub struct BadSeed;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{unhex, unhex_array};

    struct One(u32);
    struct Two(u32);

    impl Statement for One {
        const LABEL: &'static str = "test/one/1";
        fn write(&self, transcript: &mut Transcript) {
            transcript.u32(self.0);
        }
    }

    impl Statement for Two {
        const LABEL: &'static str = "test/two/1";
        fn write(&self, transcript: &mut Transcript) {
            transcript.u32(self.0);
        }
    }

    fn identity(byte: u8) -> Identity {
        Identity::from_seed(&Secret::new([byte; 32])).expect("32 bytes are a seed")
    }

    /// RFC 8032 section 7.1, tests 1 to 3: seed, public key, message, signature.
    #[test]
    fn ed25519_is_the_published_function() {
        let cases = [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac\
                 c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e\
                 458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                "af82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290\
                 ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
        ];
        for (seed, key, message, signature) in cases {
            let identity = Identity::from_seed(&Secret::new(unhex_array(seed))).expect("a seed");
            assert_eq!(identity.key(), IdentityKey::new(unhex_array(key)));
            let signed = identity.sign_bytes(&unhex(message));
            assert_eq!(signed, unhex_array(signature));
            assert!(identity.key().verify_bytes(&unhex(message), &signed).is_ok());
        }
    }

    /// M-07
    #[test]
    fn a_signature_holds_for_its_statement_and_its_signer_only() {
        let (alice, bob) = (identity(1), identity(2));
        let signature = alice.sign(&One(7));
        assert_eq!(alice.key().verify(&One(7), &signature), Ok(()));
        let refused = Err(BadSignature { label: "test/one/1" });
        assert_eq!(alice.key().verify(&One(8), &signature), refused);
        assert_eq!(bob.key().verify(&One(7), &signature), refused);
        for bit in 0..512 {
            let mut bytes = *signature.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(alice.key().verify(&One(7), &Signature::new(bytes)), refused);
        }
    }

    /// M-07: what one kind says is not what another kind says with the same words.
    #[test]
    fn a_signature_of_one_kind_does_not_hold_for_another() {
        let alice = identity(1);
        let moved = Signature::new(*alice.sign(&One(7)).as_bytes());
        assert_eq!(alice.key().verify(&Two(7), &moved), Err(BadSignature { label: "test/two/1" }));
    }

    /// The pair of RFC 8410 section 10.3; ring writes the public key as RFC 5958 has it.
    #[test]
    fn an_identity_is_read_from_pkcs8() {
        let document = unhex(
            "302e020100300506032b657004220420d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a8\
             8f44755842",
        );
        assert!(Identity::from_pkcs8(&document).is_err(), "without its public key");
        let pair = unhex(
            "3051020101300506032b657004220420d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a8\
             8f4475584281210019bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1",
        );
        let identity = Identity::from_pkcs8(&pair).expect("ring's own form");
        let key = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
        assert_eq!(identity.key(), IdentityKey::new(unhex_array(key)));
        let mut other = pair;
        other[40] ^= 1;
        assert!(Identity::from_pkcs8(&other).is_err(), "the halves do not belong together");
    }

    #[test]
    fn an_identity_shows_its_fingerprint_and_nothing_else() {
        let alice = identity(1);
        let shown = format!("{alice:?}");
        assert_eq!(shown, format!("Identity({})", alice.key().fingerprint().short()));
        assert_ne!(alice.key().fingerprint(), identity(2).key().fingerprint());
    }
}
