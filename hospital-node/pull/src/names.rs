//! Pseudonyms of all that is named: patients, studies, series, instances, files.
//!
//! All are keyed by the site's secret, each purpose with a label of its own: who has the folder and
//! not the secret cannot tell whose images these are, not even by trying all numbers that there are.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use data_encoding::HEXLOWER;
use ring::hmac;
use zeroize::Zeroize as _;

/// The length of a site's secret.
const SECRET: usize = 32;

/// Makes pseudonyms.
pub struct Names {
    key: hmac::Key,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names(..)")
    }
}

impl Names {
    /// Takes the secret.
    #[must_use]
    pub fn new(mut secret: [u8; SECRET]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        secret.zeroize();
        Self { key }
    }

    /// Reads the secret from its file of exactly 32 bytes.
    ///
    /// # Errors
    /// One line: the file cannot be read, or has another length.
    pub fn read(path: &Path) -> Result<Self, String> {
        let mut secret = [0; SECRET];
        let mut file =
            File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let whole = file.read_exact(&mut secret).is_ok() && matches!(file.read(&mut [0]), Ok(0));
        if !whole {
            secret.zeroize();
            return Err(format!("expected 32 bytes in {}, found another length", path.display()));
        }
        Ok(Self::new(secret))
    }

    fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.sign().as_ref());
        bytes
    }

    fn short(&self, label: &str, name: &str) -> [u8; 16] {
        let whole = self.sign(&[label.as_bytes(), name.as_bytes(), b""]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&whole[..16]);
        bytes
    }

    /// A patient's, in 64 hexadecimal digits: `HMAC-SHA256(site secret, PatientID || issuer)` with
    /// the lengths of both in front, as the trainer makes it of a manifest's `patient_id` and `issuer`.
    #[must_use]
    pub fn patient(&self, patient_id: &str, issuer: &str) -> String {
        HEXLOWER.encode(&self.sign(&[patient_id.as_bytes(), issuer.as_bytes()]))
    }

    /// What a patient is called in the journal, whoever has issued the identifier: a list of patients
    /// does not tell.
    #[must_use]
    pub fn person(&self, patient_id: &str) -> String {
        HEXLOWER.encode(&self.short("consilium/pull/person/1", patient_id))
    }

    /// Another UID in the place of this one: the same each time, under the arc for UUIDs (PS3.5 B.2).
    #[must_use]
    pub fn uid(&self, uid: &str) -> String {
        format!("2.25.{}", u128::from_be_bytes(self.short("consilium/pull/uid/1", uid)))
    }

    /// What an instance is called in the journal, in reports and, with an ending, as a file.
    #[must_use]
    pub fn instance(&self, uid: &str) -> String {
        HEXLOWER.encode(&self.short("consilium/pull/instance/1", uid))
    }

    /// What a series is called in reports, and as a folder.
    #[must_use]
    pub fn series(&self, uid: &str) -> String {
        HEXLOWER.encode(&self.short("consilium/pull/series/1", uid))
    }

    /// What a study is called in reports.
    #[must_use]
    pub fn study(&self, uid: &str) -> String {
        HEXLOWER.encode(&self.short("consilium/pull/study/1", uid))
    }

    /// Tells this secret's folders from those of another one.
    #[must_use]
    pub fn mark(&self) -> String {
        HEXLOWER.encode(&self.short("consilium/pull/mark/1", ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patients_pseudonym_is_the_hmac_that_the_design_says() {
        // Python: hmac.new(bytes([7])*32, pack("<Q",4)+b"4711"+pack("<Q",1)+b"H", "sha256").
        let names = Names::new([7; 32]);
        assert_eq!(names.patient("4711", "H"), KNOWN);
        assert_ne!(names.patient("4711", ""), KNOWN);
        assert_ne!(Names::new([8; 32]).patient("4711", "H"), KNOWN);
    }
    const KNOWN: &str = "08f2f2de4be6424982e5951202b26b88cff55b9cf83fe0923db039b21e6b7e09";

    #[test]
    fn each_purpose_has_pseudonyms_of_its_own_and_a_uid_is_a_uid() {
        let names = Names::new([7; 32]);
        let uid = "1.2.3";
        let all = [names.instance(uid), names.series(uid), names.study(uid), names.person(uid)];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        let new = names.uid(uid);
        assert!(new.len() <= 64 && new.starts_with("2.25.") && new == names.uid(uid));
        assert_ne!(new, names.uid("1.2.4"));
        assert_eq!(format!("{names:?}"), "Names(..)");
    }

    #[test]
    fn a_secret_of_another_length_is_refused() {
        let scratch = tempfile::NamedTempFile::new().expect("a scratch file");
        for (length, good) in [(32, true), (0, false), (31, false), (33, false)] {
            std::fs::write(scratch.path(), vec![1; length]).expect("written");
            assert_eq!(Names::read(scratch.path()).is_ok(), good, "{length}");
        }
    }
}
