//! Whose records are whose: the unit of privacy is a patient, so records are sampled by patient.

use std::collections::BTreeMap;
use std::fmt;

/// Why records cannot be sampled by patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecords {
    /// Records of nobody.
    #[error("privacy is per patient: every record must name its patient; found one that does not")]
    NoPatient,
    /// No records.
    #[error("at least one record was expected; found none")]
    NoRecords,
}

/// A site's records by the patients whom they are of. Not printed: whose they are is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Patients(Vec<(Vec<u8>, Vec<usize>)>);

impl Patients {
    /// Groups records by the keys of their patients, given in the records' order.
    ///
    /// # Errors
    /// When there are no records, or one has no key or an empty one: whoever it is of could be
    /// counted more than once.
    pub fn group<K: AsRef<[u8]>>(
        keys: impl IntoIterator<Item = Option<K>>,
    ) -> Result<Self, BadRecords> {
        let mut patients: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        for (record, key) in keys.into_iter().enumerate() {
            let key = key.ok_or(BadRecords::NoPatient)?;
            if key.as_ref().is_empty() {
                return Err(BadRecords::NoPatient);
            }
            patients.entry(key.as_ref().to_vec()).or_default().push(record);
        }
        if patients.is_empty() {
            return Err(BadRecords::NoRecords);
        }
        Ok(Self(patients.into_iter().collect()))
    }

    /// How many there are: one or more. A secret of the site.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always a patient")]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// The patient's key. The place is one of a [`Batch`](super::Batch) that was drawn from these patients.
    #[must_use]
    pub fn key(&self, place: usize) -> Option<&[u8]> {
        self.0.get(place).map(|(key, _)| key.as_slice())
    }

    /// The places of the patient's records among all records.
    #[must_use]
    pub fn records(&self, place: usize) -> Option<&[usize]> {
        self.0.get(place).map(|(_, records)| records.as_slice())
    }
}

impl fmt::Debug for Patients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Patients(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D-15: a patient is one, with one image or with ten thousand, in whatever order they come.
    #[test]
    fn records_are_grouped_by_patient() {
        let keys = (0..10_000).map(|_| Some("many")).chain([Some("one"), Some("two"), Some("one")]);
        let patients = Patients::group(keys).expect("patients");
        assert_eq!(patients.len(), 3);
        let places = |key: &str| {
            let place = (0..3).find(|place| patients.key(*place) == Some(key.as_bytes()));
            patients.records(place.expect("a patient")).expect("a patient").to_vec()
        };
        assert_eq!(places("many"), (0..10_000).collect::<Vec<_>>());
        assert_eq!(places("one"), [10_000, 10_002]);
        assert_eq!(places("two"), [10_001]);
        assert_eq!((patients.key(3), patients.records(3)), (None, None));
        assert_eq!(Patients::group([Some("only")]).map(|patients| patients.len()), Ok(1));
    }

    /// D-15: without patients there is nobody whose privacy could be counted.
    #[test]
    fn records_without_patients_are_refused() {
        let nobody = Patients::group([Some("a"), None]);
        assert_eq!(nobody, Err(BadRecords::NoPatient));
        assert_eq!(Patients::group([Some("a"), Some("")]), Err(BadRecords::NoPatient));
        assert_eq!(Patients::group([None::<&str>; 0]), Err(BadRecords::NoRecords));
        let text = nobody.map_err(|e| e.to_string());
        assert!(text.is_err_and(|text| text.starts_with("privacy is per patient: every record")));
    }
}
