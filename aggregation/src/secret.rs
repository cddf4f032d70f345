//! Secrets: never printed, never copied by accident, wiped when they are dropped (PROTOCOL M-01).
//!
//! A [`Secret`] lives in one place on the heap from its making to its end; moving it moves a
//! pointer, so no copies are left behind on the stack. It cannot be cloned or displayed:
//!
//! ```compile_fail
//! let secret = aggregation::secret::Secret::new([7; 32]);
//! let copy = secret.clone();
//! ```
//!
//! ```compile_fail
//! let secret = aggregation::secret::Secret::new([7; 32]);
//! let text = format!("{secret}");
//! ```
//!
//! What this cannot reach: registers, swap, and the key schedules inside `ring`, which does not
//! wipe them. Keys of `ring` are therefore built as late and dropped as early as possible.

use std::fmt;

use ring::hkdf;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::transcript::Transcript;

/// N secret bytes.
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Takes the bytes, and wipes the copy that it was given.
    #[must_use]
    pub fn new(mut bytes: [u8; N]) -> Self {
        let secret = Self(Box::new(bytes));
        bytes.zeroize();
        secret
    }

    /// Takes a slice of exactly N bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == N).then(|| Self::filled(|secret| secret.copy_from_slice(bytes)))
    }

    /// Makes a secret in its place.
    pub(crate) fn filled(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Self(Box::new([0; N]));
        fill(&mut secret.0);
        secret
    }

    /// The bytes, for a cipher or for the node's own journal.
    #[must_use]
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// Another secret, made from this one for one purpose: HKDF-SHA256 (RFC 5869) without a salt,
    /// with the transcript as its info. Other purposes give unrelated secrets.
    #[must_use]
    pub fn derive<const M: usize>(&self, purpose: &Transcript) -> Secret<M> {
        hkdf_sha256(&[], self.expose(), &purpose.encoded())
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<const N: usize> ZeroizeOnDrop for Secret<N> {}

/// In constant time.
impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(other.0.as_ref()).into()
    }
}

impl<const N: usize> Eq for Secret<N> {}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Secret bytes, as many as there are. Their number is no secret.
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes the bytes; the vector's whole capacity is wiped in the end.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, to be changed in their place.
    pub(crate) fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for SecretBytes {}

/// In constant time for secrets of one length.
impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretBytes {}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

/// HKDF-SHA256, RFC 5869 section 2: extract, then expand.
pub(crate) fn hkdf_sha256<const M: usize>(salt: &[u8], ikm: &[u8], info: &[u8]) -> Secret<M> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    const { assert!(M <= 255 * 32, "RFC 5869 section 2.3: at most 255 hashes") };
    Secret::filled(|out| {
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
            .extract(ikm)
            .expand(&[info], Length(M))
            .and_then(|okm| okm.fill(out))
            .expect("the length is within what HKDF can give, and the buffer has that length");
    })
}

/// Bytes from their hexadecimal spelling, for known answers.
#[cfg(test)]
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: char| c.to_digit(16).expect("known answers are spelt in hexadecimal");
    let digits: Vec<u32> = text.chars().filter(|c| !c.is_whitespace()).map(digit).collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] << 4 | pair[1]).expect("two digits are a byte");
    digits.chunks_exact(2).map(byte).collect()
}

/// As [`unhex`], for an array.
#[cfg(test)]
pub(crate) fn unhex_array<const N: usize>(text: &str) -> [u8; N] {
    unhex(text).try_into().expect("the known answer has the length of its kind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show_and_are_compared_whole() {
        let secret = Secret::new(*b"do not print me!");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(format!("{:?}", SecretBytes::new(vec![1, 2])), "SecretBytes(..)");
        assert!(secret == Secret::new(*b"do not print me!"));
        assert!(secret != Secret::new(*b"do not print me?"));
        assert!(SecretBytes::new(vec![1, 2]) == SecretBytes::new(vec![1, 2]));
        assert!(SecretBytes::new(vec![1, 2]) != SecretBytes::new(vec![1]));
        assert_eq!(Secret::<16>::from_slice(b"do not print me!"), Some(secret));
        assert_eq!(Secret::<16>::from_slice(b"too short"), None);
    }

    /// M-01: a type that stops wiping itself no longer builds here.
    #[test]
    fn secrets_are_wiped_on_drop() {
        fn wiped<T: ZeroizeOnDrop>(_: &T) {}
        wiped(&Secret::new([0; 32]));
        wiped(&SecretBytes::new(Vec::new()));
    }

    /// RFC 5869, appendix A, test cases 1 to 3.
    #[test]
    fn hkdf_is_the_published_function() {
        let one: Secret<42> = hkdf_sha256(
            &unhex("000102030405060708090a0b0c"),
            &[0x0b; 22],
            &unhex("f0f1f2f3f4f5f6f7f8f9"),
        );
        let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf
             34007208d5b887185865";
        assert_eq!(one.expose(), &unhex_array(expected));

        let range = |from: u8, to: u8| (from..=to).collect::<Vec<u8>>();
        let two: Secret<82> =
            hkdf_sha256(&range(0x60, 0xaf), &range(0x00, 0x4f), &range(0xb0, 0xff));
        let expected = "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c
             59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71
             cc30c58179ec3e87c14c01d5c1f3434f1d87";
        assert_eq!(two.expose(), &unhex_array(expected));

        let three: Secret<42> = hkdf_sha256(&[], &[0x0b; 22], &[]);
        let expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d
             9d201395faa4b61a96c8";
        assert_eq!(three.expose(), &unhex_array(expected));
    }

    #[test]
    fn purposes_give_unrelated_secrets() {
        let root = Secret::new([1; 32]);
        let derive = |label| root.derive::<32>(&Transcript::new(label));
        assert_eq!(derive("a/1"), derive("a/1"));
        assert_ne!(derive("a/1"), derive("b/1"));
        assert_ne!(derive("a/1"), root);
    }
}
