//! A folder of DICOM files: all that its manifest lists, looked at in parallel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::answers::Answer;
use super::dicom::{self, Stored};
use super::manifest::{self, Row};
use super::{
    Bad, Contents, DatasetError, Fault, Look, Parts, Record, check_memory, nifti, sha256, volume,
};

/// Files in one folder that are looked at.
const MAX_FILES: usize = 4_000_000;

/// Looks at every file that the manifest names.
///
/// # Errors
/// When folder or manifest cannot be read as a whole, or the images would not fit into memory.
pub(super) fn look(
    folder: &Path,
    list: &Path,
    how: Look<'_>,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Contents, DatasetError> {
    let listed = manifest::read(list, folder, how.secret)?;
    check_memory(listed.len(), how)?;
    let named: BTreeSet<PathBuf> = listed.iter().flatten().map(|row| row.path.clone()).collect();
    // The list may be reached by another way than its folder is.
    let itself = list.canonicalize().ok();
    let unlisted = files(folder)?
        .into_iter()
        .filter(|file| !named.contains(file) && file.canonicalize().ok() != itself)
        .count();
    let (done, all) = (AtomicUsize::new(0), listed.len());
    let outcomes: Vec<Result<(Row, Seen), Bad>> = listed
        .into_par_iter()
        .map(|row| {
            let outcome = row.and_then(|row| match one(&row, how) {
                Ok(seen) => Ok((row, seen)),
                Err(fault) => Err(Bad { name: row.name, fault }),
            });
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, all);
            outcome
        })
        .collect();

    // What depends on earlier records is decided in the manifest's order.
    let mut contents = Contents { unlisted, ..Contents::default() };
    let (mut pixels, mut parts) = (BTreeSet::new(), Parts::default());
    for outcome in outcomes {
        let judged = outcome.and_then(|(row, seen)| {
            if !pixels.insert(seen.pixels) {
                Err(Bad { name: row.name, fault: Fault::Duplicate })
            } else if !parts.agrees(row.patient, row.part) {
                Err(Bad { name: row.name, fault: Fault::PatientInTwoSplits })
            } else {
                let Row { patient, part, label, .. } = row;
                let Seen { answer, file, image, .. } = seen;
                Ok(Record { patient, part, label, answer, file, image })
            }
        });
        match judged {
            Ok(record) => contents.records.push(record),
            Err(bad) => contents.bad.push(bad),
        }
    }
    Ok(contents)
}

/// Checks that every file of a folder is an image, with no manifest to say what they are for:
/// what comes out has bad files and a count, no usable records.
///
/// # Errors
/// When the folder cannot be listed.
pub(super) fn look_without_manifest(
    folder: &Path,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Contents, DatasetError> {
    let files = files(folder)?;
    let (done, all) = (AtomicUsize::new(0), files.len());
    let outcomes: Vec<Result<[u8; 32], Fault>> = files
        .par_iter()
        .map(|file| {
            let outcome = dicom::bytes(file).and_then(|bytes| Stored::decode(&bytes));
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, all);
            outcome.map(|stored| digest_of(&stored))
        })
        .collect();
    let mut contents = Contents::default();
    let mut pixels = BTreeSet::new();
    for (file, outcome) in files.iter().zip(outcomes) {
        let fault = match outcome {
            Ok(digest) if pixels.insert(digest) => {
                contents.unlabelled += 1;
                continue;
            }
            Ok(_) => Fault::Duplicate,
            Err(fault) => fault,
        };
        let name = file.strip_prefix(folder).unwrap_or(file).display().to_string();
        contents.bad.push(Bad { name, fault });
    }
    Ok(contents)
}

/// What is kept of one file.
pub(super) struct Seen {
    pub(super) answer: Answer,
    pub(super) file: [u8; 32],
    pub(super) pixels: [u8; 32],
    pub(super) image: Vec<f32>,
}

fn one(row: &Row, how: Look<'_>) -> Result<Seen, Fault> {
    if nifti::is_named_so(&row.path) {
        return volume::look(row, how);
    }
    if row.mask.is_some() {
        return Err(Fault::Unsupported("a mask for an image that is no NIfTI volume"));
    }
    let bytes = dicom::bytes(&row.path)?;
    let stored = Stored::decode(&bytes)?;
    let picture = stored.picture()?;
    let answer = Answer::read(&row.label, how.kind(), how.classes)?;
    let image = match how.preparation {
        Some(preparation) => preparation.apply(&picture)?,
        None => Vec::new(),
    };
    Ok(Seen { answer, file: sha256(&bytes), pixels: digest_of(&stored), image })
}

/// The pixels and their shape: the same image under another header is the same image.
fn digest_of(stored: &Stored) -> [u8; 32] {
    let mut whole = Vec::with_capacity(stored.data.len() + 12);
    whole.extend_from_slice(&stored.rows.to_le_bytes());
    whole.extend_from_slice(&stored.columns.to_le_bytes());
    whole.extend_from_slice(&stored.frames.to_le_bytes());
    whole.extend_from_slice(&stored.samples.to_le_bytes());
    whole.extend_from_slice(&stored.bits_allocated.to_le_bytes());
    whole.extend_from_slice(&stored.data);
    sha256(&whole)
}

/// Every regular file below a folder, sorted. Links to folders are not followed: they could lead
/// out of it, or round in a circle.
fn files(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let cannot = |source| DatasetError::Io { what: "the data folder", source };
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let kind = entry.file_type().map_err(cannot)?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
            if found.len() > MAX_FILES {
                let source = std::io::Error::other("more than 4 million files");
                return Err(cannot(source));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}
