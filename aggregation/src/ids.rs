//! Who and which: names and numbers that must never be mixed up.
//!
//! A value of one of these types is well-formed; nothing behind this door checks it again.

use std::fmt;
use std::str::FromStr;

/// Why something is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not a hospital's name.
    #[error(
        "a hospital's name is 1 to 63 characters of a-z, 0-9 and '-', with no '-' at either end; found {found:?}"
    )]
    Hospital {
        /// The first characters of what was found.
        found: String,
    },
    /// Not a digest's length.
    #[error("a digest is 32 bytes; found {found}")]
    DigestLength {
        /// The number of bytes found.
        found: usize,
    },
    /// Not a digest's spelling.
    #[error("a digest is written as 64 hexadecimal digits; found {found:?}")]
    DigestText {
        /// The first characters of what was found.
        found: String,
    },
    /// Not a round's number.
    #[error("rounds are counted from 1; found {found}")]
    Round {
        /// The number found.
        found: u32,
    },
}

/// The first characters, so that an error never repeats a long hostile text.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A hospital's name, as its certificate gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HospitalId(String);

impl HospitalId {
    /// Takes a name of 1 to 63 characters of `a-z`, `0-9` and `-`, with no `-` at either end.
    ///
    /// # Errors
    /// When the name is anything else.
    pub fn new(name: &str) -> Result<Self, InvalidId> {
        let letters =
            name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        let length = (1..=63).contains(&name.len());
        if letters && length && !name.starts_with('-') && !name.ends_with('-') {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidId::Hospital { found: excerpt(name) })
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HospitalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HospitalId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

/// 32 bytes that stand for something longer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Takes the bytes as they are.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Takes a slice of exactly 32 bytes.
    ///
    /// # Errors
    /// When the slice has another length.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
        <[u8; 32]>::try_from(bytes)
            .map(Self)
            .map_err(|_| InvalidId::DigestLength { found: bytes.len() })
    }

    /// SHA-256 of the bytes (FIPS 180-4).
    #[must_use]
    pub fn sha256(bytes: &[u8]) -> Self {
        let full = ring::digest::digest(&ring::digest::SHA256, bytes);
        let mut out = [0; 32];
        out.copy_from_slice(full.as_ref());
        Self(out)
    }

    /// BLAKE3 of the bytes: for uploads, where SHA-256 would cost more than the sum itself.
    #[must_use]
    pub fn blake3(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let refuse = || InvalidId::DigestText { found: excerpt(text) };
        let digits: Option<Vec<u8>> =
            text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
        let digits = digits.filter(|d| d.len() == 64).ok_or_else(refuse)?;
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            if let [high, low] = pair {
                *byte = high << 4 | low;
            }
        }
        Ok(Self(out))
    }
}

/// A study, by the digest that its sites approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StudyId(Digest);

impl StudyId {
    /// The study with this digest.
    #[must_use]
    pub const fn new(digest: Digest) -> Self {
        Self(digest)
    }

    /// The digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.0
    }

    /// The first 12 hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.short()
    }
}

impl fmt::Display for StudyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for StudyId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.parse().map(Self)
    }
}

/// A round of a study, counted from 1. A round that was abandoned is tried again under its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoundId(u32);

impl RoundId {
    /// A study's first round.
    pub const FIRST: Self = Self(1);

    /// The round with this number.
    ///
    /// # Errors
    /// When the number is 0.
    pub const fn new(number: u32) -> Result<Self, InvalidId> {
        if number == 0 { Err(InvalidId::Round { found: number }) } else { Ok(Self(number)) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The round after so many.
    #[must_use]
    pub const fn after(rounds: u32) -> Self {
        Self(rounds.saturating_add(1))
    }

    /// The round after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::after(self.0)
    }
}

impl fmt::Display for RoundId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One attempt at a round. Ascending within a study; each is used once (PROTOCOL R-06).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u64);

impl SlotId {
    /// The slot with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The slot after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hospitals_are_short_plain_words() {
        for good in ["a", "st-mary-2", &"x".repeat(63)] {
            assert_eq!(HospitalId::new(good).map(|h| h.to_string()).as_deref(), Ok(good));
        }
        for bad in ["", "-a", "a-", "St-Mary", "a b", "a.b", "ä", "a/b", &"x".repeat(64)] {
            assert!(HospitalId::new(bad).is_err(), "{bad:?} was taken for a name");
        }
    }

    #[test]
    fn a_long_hostile_name_is_not_repeated_in_full() {
        let text = HospitalId::new(&"!".repeat(100_000)).map_err(|e| e.to_string());
        assert!(text.is_err_and(|t| t.len() < 300));
    }

    #[test]
    fn digests_survive_their_spelling() {
        // FIPS 180-4, SHA-256 of "abc".
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let digest = Digest::sha256(b"abc");
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
        assert_eq!(text.to_uppercase().parse(), Ok(digest));
        assert_eq!(digest.short(), "ba7816bf8f01");
        assert_eq!(Digest::from_slice(digest.as_bytes()), Ok(digest));
    }

    #[test]
    fn blake3_is_the_published_function() {
        // The empty input of BLAKE3's own test vectors.
        let text = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Digest::blake3(b"").to_string(), text);
    }

    #[test]
    fn misspelt_digests_are_refused() {
        let whole = "0".repeat(64);
        for bad in [
            "",
            "0",
            &whole[1..],
            &format!("{whole}0"),
            &format!("{}g", &whole[1..]),
            &"é".repeat(32),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?} was taken for a digest");
        }
        assert_eq!(Digest::from_slice(&[0; 31]), Err(InvalidId::DigestLength { found: 31 }));
    }

    #[test]
    fn rounds_are_counted_from_one() {
        assert_eq!(RoundId::new(0), Err(InvalidId::Round { found: 0 }));
        assert_eq!(RoundId::new(1), Ok(RoundId::FIRST));
        assert_eq!(RoundId::FIRST.next().get(), 2);
        assert_eq!(SlotId::new(u64::MAX).next().get(), u64::MAX);
    }
}
