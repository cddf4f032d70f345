//! The patients that are asked for: a CSV with a column `patient_id` and, if the house likes, `label`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Bytes of a list that are taken in.
const MOST: u64 = 64 << 20;
/// Bytes of a label: several classes with their names, no text.
const LONGEST_LABEL: usize = 1024;
/// Characters of an identifier (PS3.5 6.2, LO).
const LONGEST: usize = 64;

/// Patients by identifier, with their labels.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Patients(BTreeMap<String, String>);

/// What is wrong with one that is none.
pub(super) const NO_LABEL: &str = "longer than 1024 bytes, or not one line";

/// Whether a text can be a label.
pub(super) fn is_label(text: &str) -> bool {
    text.len() <= LONGEST_LABEL && !text.contains(char::is_control)
}

impl fmt::Debug for Patients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patients({})", self.0.len())
    }
}

impl Patients {
    /// Reads a list.
    ///
    /// # Errors
    /// One line, with the number of the row and nothing of what it says.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = super::small_file(path, MOST)?;
        // Spreadsheets like to put a byte order mark in front.
        let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
        let headers = reader.headers().cloned().unwrap_or_default();
        let find = |name: &str| headers.iter().position(|header| header.eq_ignore_ascii_case(name));
        let id = find("patient_id").ok_or_else(|| {
            format!("expected a column \"patient_id\" in {}, found none", path.display())
        })?;
        let label = find("label");
        let mut patients = BTreeMap::new();
        for (index, record) in reader.records().enumerate() {
            let row = index + 2;
            let record =
                record.map_err(|_| format!("row {row} of {} is broken", path.display()))?;
            let patient = record.get(id).unwrap_or_default();
            // The standard reads some characters as patterns, and one as a list.
            let fits = (1..=LONGEST).contains(&patient.chars().count())
                && !patient.contains(|c: char| c.is_control() || "*?\\".contains(c));
            if !fits {
                let file = path.display();
                return Err(format!("row {row} of {file} has no identifier that can be asked for"));
            }
            let label = label.and_then(|column| record.get(column)).unwrap_or_default();
            if !is_label(label) {
                let file = path.display();
                return Err(format!("row {row} of {file} has a label that is {NO_LABEL}"));
            }
            if patients.insert(patient.to_owned(), label.to_owned()).is_some() {
                return Err(format!("row {row} of {} repeats a patient", path.display()));
            }
        }
        if patients.is_empty() {
            return Err(format!("expected patients in {}, found none", path.display()));
        }
        Ok(Self(patients))
    }

    /// Every identifier.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether this one is on the list.
    #[must_use]
    pub fn contain(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    /// The label of this one; empty where the list has none.
    #[must_use]
    pub fn label(&self, id: &str) -> &str {
        self.0.get(id).map_or("", String::as_str)
    }
}
