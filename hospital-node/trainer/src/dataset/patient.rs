//! Patients by pseudonym. An identifier becomes one as it is read; what it was is kept nowhere.

use std::fmt;
use std::path::Path;

use aggregation::secret::Secret;
use data_encoding::HEXLOWER;
use ring::hmac;
use zeroize::Zeroize as _;

use super::{DatasetError, Part, read_at_most, sha256};

/// A patient's pseudonym at this hospital; another hospital's secret gives an unrelated one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PatientKey([u8; 32]);

impl PatientKey {
    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads what `hospital-node data pull` writes of a patient: `site:` and the key, which it has made
    /// with the same secret, in 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("site:")?;
        HEXLOWER.decode(digits.as_bytes()).ok()?.try_into().ok().map(Self)
    }

    /// The part that a patient belongs to when the manifest does not say: 8 in 10 for training,
    /// 1 for validation, 1 for test. All images of a patient go the same way.
    #[must_use]
    pub fn part(&self) -> Part {
        let mut seed = b"consilium/split/1".to_vec();
        seed.extend_from_slice(&self.0);
        let mut word = [0; 8];
        word.copy_from_slice(&sha256(&seed)[..8]);
        match u64::from_le_bytes(word) % 10 {
            0 => Part::Test,
            1 => Part::Validation,
            _ => Part::Train,
        }
    }
}

impl fmt::Debug for PatientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PatientKey(..)")
    }
}

/// The hospital's secret from which pseudonyms are made.
pub struct SiteSecret([u8; 32]);

impl fmt::Debug for SiteSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SiteSecret(..)")
    }
}

impl Drop for SiteSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl SiteSecret {
    /// Takes the secret's bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key by which patients are sorted into micro-batches. It has its own purpose, so no
    /// pseudonym can be one of its hashes.
    #[must_use]
    pub fn micro_batch_key(&self) -> Secret<32> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hmac::sign(&key, b"consilium/micro-batch-key/1").as_ref());
        Secret::new(bytes)
    }

    /// Reads the secret from its file of exactly 32 bytes.
    ///
    /// # Errors
    /// When the file cannot be read or has another length.
    pub fn read(path: &Path) -> Result<Self, DatasetError> {
        let mut bytes = read_at_most(path, 64)
            .map_err(|source| DatasetError::Io { what: "the pseudonym key file", source })?;
        let found = bytes.len();
        let secret = <[u8; 32]>::try_from(bytes.as_slice()).map(Self);
        bytes.zeroize();
        secret.map_err(|_| DatasetError::KeyLength { found })
    }

    /// `HMAC-SHA256(site secret, PatientID || issuer)`, with the lengths of both in front.
    #[must_use]
    pub fn pseudonym(&self, patient_id: &str, issuer: &str) -> PatientKey {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut context = hmac::Context::with_key(&key);
        for part in [patient_id.as_bytes(), issuer.as_bytes()] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.sign().as_ref());
        PatientKey(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_pseudonym_depends_on_the_secret_the_patient_and_the_issuer() {
        let secret = SiteSecret::new([1; 32]);
        let key = secret.pseudonym("P1", "H");
        assert_eq!(key, secret.pseudonym("P1", "H"));
        assert_ne!(key, secret.pseudonym("P1H", ""));
        assert_ne!(key, secret.pseudonym("P2", "H"));
        assert_ne!(key, SiteSecret::new([2; 32]).pseudonym("P1", "H"));
        assert_eq!(format!("{key:?} {secret:?}"), "PatientKey(..) SiteSecret(..)");
    }

    #[test]
    fn a_derived_split_is_about_eight_to_one_to_one() {
        let secret = SiteSecret::new([7; 32]);
        let mut counts = BTreeMap::new();
        for patient in 0..2000 {
            *counts.entry(secret.pseudonym(&patient.to_string(), "").part()).or_insert(0) += 1;
        }
        assert!((1500..1700).contains(&counts[&Part::Train]), "{counts:?}");
        assert!(counts[&Part::Validation] > 140 && counts[&Part::Test] > 140, "{counts:?}");
    }

    #[test]
    fn a_key_file_of_another_length_is_refused() {
        let scratch = tempfile::NamedTempFile::new().expect("a scratch file");
        std::fs::write(scratch.path(), [1; 32]).expect("written");
        assert!(SiteSecret::read(scratch.path()).is_ok());
        for length in [0, 31, 33, 4096] {
            std::fs::write(scratch.path(), vec![1; length]).expect("written");
            assert!(SiteSecret::read(scratch.path()).is_err(), "{length}");
        }
    }
}
