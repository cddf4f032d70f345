//! Keys as the public log names them: `name+id+base64(type || public key)`, C2SP [signed-note].
//!
//! A note key (type 0x01) and a cosigning key (type 0x04) are different types here, so that neither
//! can stand where the other is meant.
//!
//! [signed-note]: https://c2sp.org/signed-note

use std::fmt;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::text::{base64, from_base64, hex};

/// The longest key name.
pub const MAX_NAME_BYTES: usize = 255;

/// Why a key was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not `name+id+key`.
    #[error("expected a key as name+id+base64, found {0:?}")]
    Shape(String),
    /// The name is empty, too long, or has a space, a plus or a control character.
    #[error(
        "expected a key name of 1 to {MAX_NAME_BYTES} bytes without spaces, plus or control characters, found {0:?}"
    )]
    Name(String),
    /// The key is of another type.
    #[error("expected a key of signature type {expected:#04x}, found {found:#04x}")]
    Kind {
        /// What is needed here.
        expected: u8,
        /// What the key says.
        found: u8,
    },
    /// The id does not belong to name and key.
    #[error("expected the key id {expected}, found {found}")]
    Id {
        /// What name and key make.
        expected: String,
        /// What is written.
        found: String,
    },
    /// Not 32 bytes, not canonical, or of small order, under which anyone can sign.
    #[error("expected an Ed25519 public key that only its owner can sign for")]
    Weak,
    /// The private key's bytes are not one.
    #[error("expected an Ed25519 private key")]
    Private,
}

/// The first four bytes of a hash over name, type and public key.
pub type KeyId = [u8; 4];

/// A public key under a name, for one type of signature.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PublicKey {
    name: String,
    kind: u8,
    public: [u8; 32],
    id: KeyId,
}

impl PublicKey {
    pub(crate) fn new(name: &str, kind: u8, public: [u8; 32]) -> Result<Self, KeyError> {
        check_name(name)?;
        if is_weak(&public) {
            return Err(KeyError::Weak);
        }
        let text = [name.as_bytes(), &[b'\n', kind], &public].concat();
        let hash = digest(&SHA256, &text);
        let (id, _) = hash.as_ref().split_first_chunk().expect("SHA-256 yields 32 bytes");
        Ok(Self { name: name.to_owned(), kind, public, id: *id })
    }

    /// Reads a key and refuses one of another type.
    pub(crate) fn parse(text: &str, kind: u8) -> Result<Self, KeyError> {
        let shape = || KeyError::Shape(text.chars().take(100).collect());
        let (name, rest) = text.split_once('+').ok_or_else(shape)?;
        let (id, key) = rest.split_once('+').ok_or_else(shape)?;
        // Base64 has pluses of its own, so the key is all that follows the second one.
        let bytes = from_base64(key).ok_or_else(shape)?;
        let (&found, public) = bytes.split_first().ok_or_else(shape)?;
        if found != kind {
            return Err(KeyError::Kind { expected: kind, found });
        }
        let key = Self::new(name, kind, public.try_into().map_err(|_| KeyError::Weak)?)?;
        let written = HEXLOWER.decode(id.as_bytes()).map_err(|_| shape())?;
        if written != key.id {
            return Err(KeyError::Id { expected: hex(&key.id), found: id.to_owned() });
        }
        Ok(key)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn public(&self) -> &[u8; 32] {
        &self.public
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.public).verify(message, signature).is_ok()
    }

    /// How a person tells keys apart: name and id.
    pub(crate) fn label(&self) -> String {
        format!("{}+{}", self.name, hex(&self.id))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![self.kind];
        bytes.extend_from_slice(&self.public);
        write!(f, "{}+{}", self.label(), base64(&bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A private key under a name.
pub(crate) struct PrivateKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl PrivateKey {
    pub(crate) fn from_seed(name: &str, kind: u8, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Private)?;
        Self::from_pair(name, kind, pair)
    }

    pub(crate) fn from_pkcs8(name: &str, kind: u8, pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map_err(|_| KeyError::Private)?;
        Self::from_pair(name, kind, pair)
    }

    fn from_pair(name: &str, kind: u8, pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Private)?;
        Ok(Self { public: PublicKey::new(name, kind, public)?, pair })
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "private key of {}", self.public.label())
    }
}

/// Whether `name` can name a key.
pub(crate) fn check_name(name: &str) -> Result<(), KeyError> {
    let forbidden = |c: char| c.is_whitespace() || c == '+' || c < ' ';
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(forbidden) {
        return Err(KeyError::Name(name.chars().take(100).collect()));
    }
    Ok(())
}

/// The y coordinates of the eight points of small order, sign bit cleared (as libsodium lists them):
/// under such a key a signature can be made without any private key.
const SMALL_ORDER: [&str; 5] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
];

fn is_weak(public: &[u8; 32]) -> bool {
    let mut y = *public;
    y[31] &= 0x7f;
    // Not below 2^255 - 19: a second spelling of a smaller number.
    let not_canonical = y[31] == 0x7f && y[1..31].iter().all(|byte| *byte == 0xff) && y[0] >= 0xed;
    not_canonical || SMALL_ORDER.contains(&hex(&y).as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";

    #[test]
    fn the_key_of_the_specification_is_read_and_written_the_same() {
        let key = PublicKey::parse(EXAMPLE, 1).expect("the example of the specification");
        assert_eq!((key.name(), key.to_string().as_str()), ("example.com/foo", EXAMPLE));
        assert_eq!(key.label(), "example.com/foo+530d903a");
    }

    #[test]
    fn a_wrong_key_is_refused_with_the_reason() {
        let id = EXAMPLE.replace("530d903a", "530d903b");
        assert!(matches!(PublicKey::parse(&id, 1), Err(KeyError::Id { .. })));
        let name = EXAMPLE.replace("/foo", "/bar");
        assert!(matches!(PublicKey::parse(&name, 1), Err(KeyError::Id { .. })));
        assert_eq!(PublicKey::parse(EXAMPLE, 4), Err(KeyError::Kind { expected: 4, found: 1 }));
        let space = EXAMPLE.replace("/foo", "/f\u{2003}o");
        assert!(matches!(PublicKey::parse(&space, 1), Err(KeyError::Name(_))));
        for shape in [
            "",
            "a",
            "a+b",
            "a+530d903a+",
            "a+530d903a+!",
            "a+530D903A+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        ] {
            assert!(matches!(PublicKey::parse(shape, 1), Err(KeyError::Shape(_))), "{shape:?}");
        }
        for weak in [[0; 32], [0xff; 32]] {
            assert_eq!(PublicKey::new("name", 1, weak), Err(KeyError::Weak));
        }
        let mut one = [0; 32];
        (one[0], one[31]) = (1, 0x80);
        assert_eq!(PublicKey::new("name", 1, one), Err(KeyError::Weak));
    }

    #[test]
    fn a_private_key_never_shows() {
        let key = PrivateKey::from_seed("log.example", 1, &[7; 32]).expect("a seed");
        assert_eq!(format!("{key:?}"), format!("private key of {}", key.public().label()));
    }
}
