//! Why a source as a whole cannot be used, in words for the site's own administrator; no file name
//! and no header text.

use std::collections::BTreeMap;
use std::fmt;

use super::{Bad, Fault};

/// Reasons that are told of a refused source, those of the most records.
const REASONS: usize = 4;

/// A data source that cannot be used as a whole.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The operating system's reason.
    #[error("cannot read {what}")]
    Io {
        /// What was to be read; never a record's file name.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The pseudonym key has the wrong size.
    #[error("the pseudonym key file: expected 32 bytes, found {found}")]
    KeyLength {
        /// Bytes found, at most 65.
        found: usize,
    },
    /// The source's kind is not known.
    #[error(
        "kind of data source: expected \"images\", \"dicom\", \"nifti\" or \"npz\", found {found:?}"
    )]
    Kind {
        /// What was written.
        found: String,
    },
    /// A folder of images without its list of records.
    #[error(
        "a folder of images needs a manifest (CSV or Parquet: path, patient_id or patient_key, split, label)"
    )]
    NoManifest,
    /// The manifest as a whole is wrong.
    #[error("the manifest: {0}")]
    Manifest(String),
    /// The NPZ file as a whole is wrong.
    #[error("the npz file: {0}")]
    Npz(String),
    /// More than may be held.
    #[error(
        "the prepared images need {needed} MiB; {memory} MiB may be held in memory, and {disk} MiB on disk \
         (trainer.cache_mib)"
    )]
    TooLarge {
        /// MiB that the study's input shape asks for.
        needed: u64,
        /// MiB that may be held in memory.
        memory: u64,
        /// MiB that may be held on disk; 0 where prepared images are not kept.
        disk: u64,
    },
    /// The system's reason why prepared images cannot be held.
    #[error("cannot hold the prepared images")]
    Shelf(#[source] std::io::Error),
    /// Records that cannot be used. Those that no study could use the scan names; it knows no study.
    #[error(
        "{bad} of {all} records cannot be used: {reasons}; `hospital-node data scan` names those that no \
         study can use"
    )]
    Bad {
        /// How many are bad.
        bad: usize,
        /// Out of how many.
        all: usize,
        /// Why.
        reasons: Reasons,
    },
    /// No record to learn from.
    #[error("no records for {0}")]
    Empty(&'static str),
}

/// Why records cannot be used, and how many for which reason. A log may have this: it has words of this
/// program alone, nothing that a file or a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reasons(BTreeMap<String, usize>);

impl Reasons {
    /// Counts the reasons of bad records.
    pub(super) fn of(bad: &[Bad]) -> Self {
        let mut counts = BTreeMap::new();
        for Bad { fault, .. } in bad {
            *counts.entry(words(fault)).or_default() += 1;
        }
        Self(counts)
    }
}

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: Vec<(&str, usize)> =
            self.0.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let told: Vec<String> = counts
            .iter()
            .take(REASONS)
            .map(|(reason, count)| format!("{count} x {reason}"))
            .collect();
        f.write_str(&told.join(", "))?;
        if counts.len() > REASONS { f.write_str(", and others") } else { Ok(()) }
    }
}

/// A reason without what a header says.
fn words(fault: &Fault) -> String {
    match fault {
        Fault::Slices(_) => "wrong shape: slices that make no volume".to_owned(),
        Fault::Arrays(_) => "unreadable: arrays that are no data set".to_owned(),
        Fault::TooLarge(_) => "too large".to_owned(),
        Fault::Missing
        | Fault::Outside
        | Fault::Unreadable(_)
        | Fault::Truncated
        | Fault::NotAnImage(_)
        | Fault::UnsupportedTransferSyntax(_)
        | Fault::Unsupported(_)
        | Fault::WrongShape(_)
        | Fault::Duplicate
        | Fault::WrongLabel
        | Fault::WrongSplit
        | Fault::NoPatient
        | Fault::PatientInTwoSplits
        | Fault::BrokenRow => fault.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_its_reasons_and_repeats_no_header_and_no_name() {
        let faults = [
            Fault::WrongLabel,
            Fault::TooLarge(hospital_images::Limit::File(77)),
            Fault::WrongShape("no spacing"),
            Fault::WrongLabel,
            Fault::Missing,
            Fault::TooLarge(hospital_images::Limit::File(78)),
            Fault::WrongLabel,
            Fault::Truncated,
            Fault::Outside,
        ];
        let bad = faults.map(|fault| Bad { name: "Doe^Jane.dcm".to_owned(), fault });
        let reasons = Reasons::of(&bad);
        let text = DatasetError::Bad { bad: bad.len(), all: 300, reasons }.to_string();
        let wanted = "9 of 300 records cannot be used: 3 x wrong label: not one of the classes, \
                      2 x too large, 1 x missing: there is no such file, ";
        assert!(text.starts_with(wanted), "{text}");
        assert!(text.contains(", and others; `hospital-node data scan`"), "{text}");
        assert!(!text.contains("Doe") && !text.contains("7 MiB"), "{text}");
    }
}
