//! Why a record, or a source as a whole, cannot be used. One reason each, in words for the site's
//! own administrator; no file name and no header text.

use super::dicom::MAX_PIXEL_BYTES;

/// Why one file or row cannot be used. Exactly one reason is given, the first that holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Named by the manifest, not on the disk.
    #[error("missing: there is no such file")]
    Missing,
    /// The manifest's path leads out of the data folder.
    #[error("outside: the path leads out of the data folder")]
    Outside,
    /// The operating system or the format's reader gave up.
    #[error("unreadable: {0}")]
    Unreadable(&'static str),
    /// Shorter than its own header says.
    #[error("truncated: the file ends before its data does")]
    Truncated,
    /// A file, but without an image that can be learnt from.
    #[error("not an image: {0}")]
    NotAnImage(&'static str),
    /// Larger than what is taken into memory.
    #[error("too large: its header claims more than {} MiB of pixels", MAX_PIXEL_BYTES >> 20)]
    TooLarge,
    /// Pixels in an encoding that cannot be decoded here.
    #[error("unsupported transfer syntax: {0}")]
    UnsupportedTransferSyntax(&'static str),
    /// An image of another kind than the study takes.
    #[error("wrong shape: {0}")]
    WrongShape(&'static str),
    /// The same pixels as an earlier record.
    #[error("duplicate: the same pixels as an earlier record")]
    Duplicate,
    /// A label that is empty or not among the classes.
    #[error("wrong label: not one of the classes")]
    WrongLabel,
    /// A split that is neither train, val nor test.
    #[error("wrong split: expected train, val or test")]
    WrongSplit,
    /// A row without a patient.
    #[error("no patient: the row names neither patient_key nor patient_id")]
    NoPatient,
    /// The patient's earlier records are in another part.
    #[error("patient in two splits: earlier records of this patient are in another one")]
    PatientInTwoSplits,
    /// A row that is not CSV of the header's shape.
    #[error("broken row: not as many columns as the manifest's first line")]
    BrokenRow,
}

impl Fault {
    /// A stable word for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Outside => "outside",
            Self::Unreadable(_) => "unreadable",
            Self::Truncated => "truncated",
            Self::NotAnImage(_) => "not_an_image",
            Self::TooLarge => "too_large",
            Self::UnsupportedTransferSyntax(_) => "unsupported_transfer_syntax",
            Self::WrongShape(_) => "wrong_shape",
            Self::Duplicate => "duplicate",
            Self::WrongLabel => "wrong_label",
            Self::WrongSplit => "wrong_split",
            Self::NoPatient => "no_patient",
            Self::PatientInTwoSplits => "patient_in_two_splits",
            Self::BrokenRow => "broken_row",
        }
    }
}

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
    #[error("kind of data source: expected \"dicom\" or \"npz\", found {found:?}")]
    Kind {
        /// What was written.
        found: String,
    },
    /// A DICOM folder without its list of records.
    #[error("a dicom folder needs a manifest CSV (path, patient_id or patient_key, split, label)")]
    NoManifest,
    /// The manifest as a whole is wrong.
    #[error("the manifest: {0}")]
    Manifest(String),
    /// The NPZ file as a whole is wrong.
    #[error("the npz file: {0}")]
    Npz(String),
    /// More than may be held in memory.
    #[error("the prepared images need {needed} MiB, at most {allowed} MiB are allowed")]
    TooLarge {
        /// MiB that the study's input shape asks for.
        needed: u64,
        /// The cap.
        allowed: u64,
    },
    /// Records that cannot be used; the scan names them.
    #[error(
        "{bad} of {all} records cannot be used; `hospital-node data scan` names each with its reason"
    )]
    Bad {
        /// How many are bad.
        bad: usize,
        /// Out of how many.
        all: usize,
    },
    /// No record to learn from.
    #[error("no records for {0}")]
    Empty(&'static str),
}
