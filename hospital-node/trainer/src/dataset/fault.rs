//! Why a source as a whole cannot be used, in words for the site's own administrator; no file name
//! and no header text.

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
