//! A folder of images: all that its manifest lists, looked at in parallel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::about::About;
use super::answers::Answer;
use super::cache::Kept;
use super::manifest::{self, Row};
use super::{
    Bad, Contents, DatasetError, Fault, Image, Look, Parts, Record, check_memory, nifti, sha256,
    volume,
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
    let about = Mutex::default();
    let outcomes: Vec<Result<(Row, Seen), Bad>> = listed
        .into_par_iter()
        .map(|row| {
            let outcome = row.and_then(|row| match one(&row, how, &about) {
                Ok(seen) => Ok((row, seen)),
                Err(fault) => Err(Bad { name: row.name, fault }),
            });
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, all);
            outcome
        })
        .collect();

    // What depends on earlier records is decided in the manifest's order.
    let about = about.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut contents = Contents { unlisted, about, ..Contents::default() };
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
    let about = Mutex::default();
    let outcomes: Vec<Result<[u8; 32], Fault>> = files
        .par_iter()
        .map(|file| {
            let outcome = Image::read(file);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, all);
            let (_, image) = outcome?;
            note(&about, &image);
            Ok(image.digest())
        })
        .collect();
    let about = about.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut contents = Contents { about, ..Contents::default() };
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

fn one(row: &Row, how: Look<'_>, about: &Mutex<About>) -> Result<Seen, Fault> {
    if row.mask.is_some() || nifti::is_named_so(&row.path) {
        return volume::look(row, how, |image| note(about, image));
    }
    let bytes = hospital_images::bytes(&row.path)?;
    let file = sha256(&bytes);
    let kept = how.preparation.and_then(|preparation| preparation.kept(&file));
    if let Some(Kept { pixels, image }) = kept {
        let answer = Answer::read(&row.label, how.kind(), how.classes)?;
        return Ok(Seen { answer, file, pixels, image });
    }
    let image = Image::decode(&bytes)?;
    let (pixels, picture) = (image.digest(), image.picture()?);
    let answer = Answer::read(&row.label, how.kind(), how.classes)?;
    note(about, &image);
    let image = match how.preparation {
        Some(preparation) => {
            let image = preparation.apply(&picture)?;
            preparation.keep(&file, &pixels, &image);
            image
        }
        None => Vec::new(),
    };
    Ok(Seen { answer, file, pixels, image })
}

fn note(about: &Mutex<About>, image: &Image) {
    about.lock().unwrap_or_else(PoisonError::into_inner).note(image);
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
