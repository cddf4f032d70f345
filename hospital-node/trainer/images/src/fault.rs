//! Why a record cannot be used: one reason each, in words for the site's own administrator; no file
//! name and no header text. What a manifest can get wrong about a file is here too, so that each file
//! has one reason of one kind.

use super::MAX_PIXEL_BYTES;
use super::npz::NpzFault;

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
    /// An NPZ file whose arrays are not those of a data set.
    #[error("unreadable: {0}")]
    Arrays(NpzFault),
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
    /// A valid file of a kind that is not read here.
    #[error("unsupported: {0}")]
    Unsupported(&'static str),
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
            Self::Unreadable(_) | Self::Arrays(_) => "unreadable",
            Self::Truncated => "truncated",
            Self::NotAnImage(_) => "not_an_image",
            Self::TooLarge => "too_large",
            Self::UnsupportedTransferSyntax(_) => "unsupported_transfer_syntax",
            Self::Unsupported(_) => "unsupported",
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
