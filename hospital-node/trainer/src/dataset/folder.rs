//! A folder of images: all that its manifest lists, looked at in parallel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::about::About;
use super::answers::Answer;
use super::cache::Kept;
use super::examples::labels;
use super::manifest::{self, Row};
use super::shelf::{Shelf, Slot};
use super::{
    Bad, Contents, DatasetError, Fault, Image, Look, Parts, Record, nifti, sha256, volume,
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
    let shelf = how.shelf(listed.len())?;
    let rows = listed.iter().flatten();
    let named: BTreeSet<&Path> =
        rows.flat_map(|row| row.mask.iter().chain([&row.path])).map(PathBuf::as_path).collect();
    // The list may be reached by another way than its folder is.
    let itself = list.canonicalize().ok();
    let Listing { files, bad } = Listing::of(folder)?;
    let is_named = |file: &Path| {
        // A row may name the folder of a series, or one half of a pair.
        named.contains(file)
            || file.parent().is_some_and(|folder| named.contains(folder))
            || header_of(file).is_some_and(|header| named.contains(header.as_path()))
    };
    let unlisted =
        files.iter().filter(|file| !is_named(file) && file.canonicalize().ok() != itself).count();
    let (done, all) = (AtomicUsize::new(0), listed.len());
    let about = Mutex::default();
    let outcomes: Vec<Result<(Row, Seen), Bad>> = listed
        .into_par_iter()
        .map(|row| {
            let outcome = row.and_then(|row| match one(&row, how, &about) {
                Ok(seen) => Ok((row, seen)),
                Err(fault) => Err(blamed(row, fault)),
            });
            let outcome = match (outcome, &shelf) {
                (Ok((row, seen)), Some(shelf)) => Ok((row, seen.put_on(shelf)?)),
                (outcome, _) => outcome,
            };
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, all);
            Ok(outcome)
        })
        .collect::<Result<_, _>>()
        .map_err(DatasetError::Shelf)?;

    // What depends on earlier records is decided in the manifest's order.
    let about = about.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut contents = Contents { unlisted, about, bad, shelf, ..Contents::default() };
    let (mut pixels, mut parts) = (BTreeSet::new(), Parts::default());
    for outcome in outcomes {
        let judged = outcome.and_then(|(row, seen)| {
            if !pixels.insert(seen.pixels) {
                Err(Bad { name: row.name, fault: Fault::Duplicate })
            } else if !parts.agrees(row.patient, row.part) {
                Err(Bad { name: row.name, fault: Fault::PatientInTwoSplits })
            } else {
                let Row { patient, part, label, .. } = row;
                let Seen { answer, file, slot, .. } = seen;
                Ok(Record { patient, part, label, answer, file, image: slot })
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
    let Listing { files, bad } = Listing::of(folder)?;
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
    let mut contents = Contents { about, bad, ..Contents::default() };
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

/// A row that cannot be used. Of a series it is said which file is to blame, if one is.
fn blamed(row: Row, fault: Fault) -> Bad {
    let Row { name, path, .. } = row;
    match volume::first_bad(&path) {
        Some((file, fault)) => {
            Bad { name: format!("{}/{file}", name.trim_end_matches('/')), fault }
        }
        None => Bad { name, fault },
    }
}

/// What is kept of one file.
pub(super) struct Seen {
    pub(super) answer: Answer,
    pub(super) file: [u8; 32],
    pub(super) pixels: [u8; 32],
    pub(super) image: Vec<f32>,
    /// Where image and mask lie, once they are not here any more.
    pub(super) slot: Option<Slot>,
}

impl Seen {
    fn put_on(mut self, shelf: &Shelf) -> std::io::Result<Self> {
        self.slot = Some(shelf.put(&self.image, labels(&self.answer))?);
        self.image = Vec::new();
        if let Answer::Mask(mask) = &mut self.answer {
            *mask = Vec::new();
        }
        Ok(self)
    }
}

fn one(row: &Row, how: Look<'_>, about: &Mutex<About>) -> Result<Seen, Fault> {
    if row.mask.is_some() || nifti::is_named_so(&row.path) || row.path.is_dir() {
        return volume::look(row, how, |image| note(about, image));
    }
    let bytes = hospital_images::bytes(&row.path)?;
    let file = sha256(&bytes);
    let kept = how.preparation.and_then(|preparation| preparation.kept(&file));
    if let Some(Kept { pixels, image, .. }) = kept {
        let answer = Answer::read(&row.label, how.kind(), how.classes)?;
        return Ok(Seen { answer, file, pixels, image, slot: None });
    }
    let image = Image::decode(&bytes)?;
    if volume::is_deep(&image) {
        drop((bytes, image));
        return volume::look(row, how, |image| note(about, image));
    }
    let (pixels, picture) = (image.digest(), image.picture()?);
    let answer = Answer::read(&row.label, how.kind(), how.classes)?;
    note(about, &image);
    let image = match how.preparation {
        Some(preparation) => {
            let image = preparation.apply(&picture)?;
            let kept = Kept { pixels, image, mask: Vec::new() };
            preparation.keep(&file, &kept);
            kept.image
        }
        None => Vec::new(),
    };
    Ok(Seen { answer, file, pixels, image, slot: None })
}

fn note(about: &Mutex<About>, image: &Image) {
    about.lock().unwrap_or_else(PoisonError::into_inner).note(image);
}

/// What is below a folder.
struct Listing {
    /// Every file, sorted.
    files: Vec<PathBuf>,
    /// What cannot be looked into, and links that lead out of the folder.
    bad: Vec<Bad>,
}

impl Listing {
    /// Links to folders are not followed: they could lead out of it, or round in a circle. Of a pair of
    /// files that are one image, the header stands for both.
    fn of(folder: &Path) -> Result<Self, DatasetError> {
        let cannot = |source| DatasetError::Io { what: "the data folder", source };
        let root = folder.canonicalize().map_err(cannot)?;
        let (mut files, mut bad) = (Vec::new(), Vec::new());
        let mut fault = |path: &Path, fault| {
            let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
            bad.push(Bad { name, fault });
        };
        let mut folders = vec![folder.to_path_buf()];
        while let Some(inner) = folders.pop() {
            let entries = match std::fs::read_dir(&inner) {
                Ok(entries) => entries,
                Err(source) if inner == folder => return Err(cannot(source)),
                Err(_) => {
                    fault(&inner, Fault::Unreadable("a folder that may not be looked into"));
                    continue;
                }
            };
            for entry in entries {
                let entry = entry.map_err(cannot)?;
                let (path, kind) = (entry.path(), entry.file_type().map_err(cannot)?);
                if kind.is_dir() {
                    folders.push(path);
                } else if !kind.is_symlink() {
                    files.push(path);
                } else {
                    match path.canonicalize() {
                        Ok(target) if target.is_dir() => {}
                        Ok(target) if target.starts_with(&root) => files.push(path),
                        Ok(_) => fault(&path, Fault::Outside),
                        Err(_) => fault(&path, Fault::Missing),
                    }
                }
                if files.len() > MAX_FILES {
                    let source = std::io::Error::other("more than 4 million files");
                    return Err(cannot(source));
                }
            }
        }
        files.retain(|file| header_of(file).is_none());
        files.sort_unstable();
        bad.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(Self { files, bad })
    }
}

/// The header that a `.img` file is the other half of, if there is one; both may be compressed.
fn header_of(file: &Path) -> Option<PathBuf> {
    let name = file.file_name()?.to_str()?;
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    let (stem, header) = match plain.rsplit_once('.')? {
        (stem, "img") => (stem, "hdr"),
        (stem, "IMG") => (stem, "HDR"),
        _ => return None,
    };
    let header = file.with_file_name(format!("{stem}.{header}"));
    let packed = file.with_file_name(format!("{}.gz", header.file_name()?.to_str()?));
    [header, packed].into_iter().find(|header| header.is_file())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_listing_leaves_out_halves_and_names_what_leads_out_or_nowhere() {
        let (folder, other) = (tempfile::tempdir(), tempfile::tempdir());
        let (folder, other) = (folder.expect("a folder"), other.expect("a folder"));
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("series")).expect("made");
        for name in
            ["a.hdr", "a.img", "b.img", "series/1.dcm", "p.hdr.gz", "p.img.gz", "q.hdr", "q.img.gz"]
        {
            std::fs::write(at(name), b"x").expect("written");
        }
        std::fs::write(other.path().join("c.dcm"), b"x").expect("written");
        symlink(other.path().join("c.dcm"), at("out.dcm")).expect("linked");
        symlink(at("nowhere"), at("broken.dcm")).expect("linked");
        symlink(at("b.img"), at("in.img")).expect("linked");
        symlink(folder.path(), at("circle")).expect("linked");
        let Listing { files, bad } = Listing::of(folder.path()).expect("listed");
        let names: Vec<_> =
            files.iter().filter_map(|file| file.strip_prefix(&folder).ok()).collect();
        let expected =
            ["a.hdr", "b.img", "in.img", "p.hdr.gz", "q.hdr", "series/1.dcm"].map(Path::new);
        assert_eq!(names, expected);
        let bad: Vec<_> = bad.iter().map(|bad| (bad.name.as_str(), &bad.fault)).collect();
        assert_eq!(bad, [("broken.dcm", &Fault::Missing), ("out.dcm", &Fault::Outside)]);
    }
}
