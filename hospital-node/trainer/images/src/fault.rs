//! Why a record cannot be used: one reason each, in words for the site's own administrator; no file
//! name and no header text. What a manifest can get wrong about a file is here too, so that each file
//! has one reason of one kind.

use std::fmt;

use super::npz::NpzFault;
use super::{MAX_FILE_BYTES, MAX_PIXEL_BYTES};

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
    #[error("too large: {0}")]
    TooLarge(Limit),
    /// Pixels in an encoding that cannot be decoded here.
    #[error("unsupported transfer syntax: {0}")]
    UnsupportedTransferSyntax(&'static str),
    /// A valid file of a kind that is not read here.
    #[error("unsupported: {0}")]
    Unsupported(&'static str),
    /// An image of another kind than the study takes.
    #[error("wrong shape: {0}")]
    WrongShape(&'static str),
    /// Slices that make no volume: by how much one differs from the others.
    #[error("wrong shape: {0}")]
    Slices(Misfit),
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

/// How one of the slices of a series differs from the others, in words and numbers of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misfit(pub(crate) String);

/// The limit that a file is above, and what it has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    /// Bytes of the file itself.
    #[error("the file has {}, expected at most {}", MiB(*.0), MiB(MAX_FILE_BYTES))]
    File(u64),
    /// Bytes of pixels, by the header.
    #[error("its header claims {} of pixels, expected at most {}", MiB(*.0), MiB(MAX_PIXEL_BYTES))]
    Pixels(u64),
    /// Bytes of a compressed file, or of what is compressed in it: more than so many.
    #[error("it unpacks to more than {}", MiB(*.0))]
    Unpacked(u64),
    /// Slices: how many, and the most that there may be.
    #[error("it has {0} slices, expected at most {1}")]
    Slices(u64, u64),
}

/// Bytes in the unit of the limits, rounded up.
struct MiB(u64);

impl fmt::Display for MiB {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
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
            Self::TooLarge(_) => "too_large",
            Self::UnsupportedTransferSyntax(_) => "unsupported_transfer_syntax",
            Self::Unsupported(_) => "unsupported",
            Self::WrongShape(_) | Self::Slices(_) => "wrong_shape",
            Self::Duplicate => "duplicate",
            Self::WrongLabel => "wrong_label",
            Self::WrongSplit => "wrong_split",
            Self::NoPatient => "no_patient",
            Self::PatientInTwoSplits => "patient_in_two_splits",
            Self::BrokenRow => "broken_row",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_named_with_what_the_file_has() {
        for (limit, text) in [
            (Limit::File(3 << 30), "too large: the file has 3072 MiB, expected at most 2048 MiB"),
            (
                Limit::Pixels((1 << 30) + 1),
                "too large: its header claims 1025 MiB of pixels, expected at most 1024 MiB",
            ),
            (Limit::Unpacked(256 << 20), "too large: it unpacks to more than 256 MiB"),
            (
                Limit::Slices(70_000, 65_536),
                "too large: it has 70000 slices, expected at most 65536",
            ),
        ] {
            let fault = Fault::TooLarge(limit);
            assert_eq!((fault.to_string().as_str(), fault.code()), (text, "too_large"));
        }
    }
}
