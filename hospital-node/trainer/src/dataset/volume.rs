//! A volume of a folder (NIfTI, a DICOM file of many frames, or a folder with the files of a DICOM
//! series), or an image, and the mask that goes with it: NIfTI labels, or a PNG whose values are
//! classes.

use std::path::{Path, PathBuf};

use aggregation::study::TaskKind;
use hospital_images::Limit;
use ring::digest::{Context, SHA256};

use super::answers::Answer;
use super::cache::Kept;
use super::folder::Seen;
use super::manifest::Row;
use super::nifti::{self, Grid, Labels, Volume};
use super::{Fault, Image, Look, dicom, sha256};
use crate::preprocess::volume::measured;

/// Files of one series.
const MAX_SLICES: usize = 4_096;
/// Bytes of the pixels of one series.
const MAX_SERIES_BYTES: u64 = 1 << 30;

/// What a row names.
enum Scene {
    One(Image),
    Series(Vec<dicom::Stored>),
}

impl Scene {
    /// With the digest of its bytes.
    fn read(path: &Path) -> Result<([u8; 32], Self), Fault> {
        if path.is_dir() {
            return series(path);
        }
        let (digest, image) = read(path)?;
        Ok((digest, Self::One(image)))
    }

    /// The volume that it is, if it is one.
    fn volume(&self) -> Option<Result<Volume, Fault>> {
        match self {
            Self::One(image) => is_deep(image).then(|| image.volume()),
            Self::Series(slices) => Some(dicom::volume_of(slices)),
        }
    }
}

/// An image and the digest of its file, whose bytes need no room any more.
fn read(path: &Path) -> Result<([u8; 32], Image), Fault> {
    let (bytes, image) = Image::read(path)?;
    Ok((sha256(&bytes), image))
}

/// Whether it has a third side.
pub(super) fn is_deep(image: &Image) -> bool {
    match image {
        Image::Nifti(_) => true,
        Image::Dicom(stored) => stored.frames > 1,
        Image::Raster(_) => false,
    }
}

/// What systems and archives leave in folders of images.
const BESIDE: [&str; 3] = ["dicomdir", "thumbs.db", "desktop.ini"];

/// The first file of a series, by name, that cannot be read, and why; none of what is no folder.
pub(super) fn first_bad(folder: &Path) -> Option<(String, Fault)> {
    if !folder.is_dir() {
        return None;
    }
    slices_of(folder).ok()?.into_iter().find_map(|file| {
        let fault = match Image::read(&file) {
            Ok((_, Image::Dicom(_))) => return None,
            Ok(_) => Fault::WrongShape("not a file of a DICOM series"),
            Err(fault) => fault,
        };
        Some((file.file_name()?.to_string_lossy().into_owned(), fault))
    })
}

/// The files of a folder by their names, less those that are hidden, or are known to be no images. What
/// is read first, and refused first, does not hang on the order in which a disk lists them.
fn slices_of(folder: &Path) -> Result<Vec<PathBuf>, Fault> {
    let unlistable = |_| Fault::Unreadable("a folder");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unlistable)? {
        let entry = entry.map_err(unlistable)?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        if name.starts_with('.') || BESIDE.contains(&name.as_str()) {
            continue;
        }
        if files.len() == MAX_SLICES {
            return Err(Fault::WrongShape("a series of more than 4096 files"));
        }
        files.push(entry.path());
    }
    files.sort_unstable();
    Ok(files)
}

/// The slices of a folder. Their digest does not hang on what they are called.
fn series(folder: &Path) -> Result<([u8; 32], Scene), Fault> {
    let (mut digests, mut slices, mut held) = (Vec::new(), Vec::new(), 0_u64);
    for path in slices_of(folder)? {
        let (digest, image) = read(&path)?;
        let Image::Dicom(stored) = image else {
            return Err(Fault::WrongShape(
                "a folder with other files than those of a DICOM series",
            ));
        };
        held += stored.data.len() as u64;
        if held > MAX_SERIES_BYTES {
            return Err(Fault::TooLarge(Limit::Pixels(held)));
        }
        digests.push(digest);
        slices.push(*stored);
    }
    digests.sort_unstable();
    Ok((sha256(digests.as_flattened()), Scene::Series(slices)))
}

/// The digest of a record's files, as they are on the disk, by which it is found in the cache: the
/// image or the slices of a series, and the mask if there is one. None for one half of a pair, whose
/// bytes do not say what the other holds; and where a file cannot be read, for which the look itself
/// will find the reason.
fn digest_of(row: &Row) -> Option<[u8; 32]> {
    let one = |path: &Path| {
        if nifti::is_paired(path) {
            return None;
        }
        hospital_images::bytes(path).ok().map(|bytes| sha256(&bytes))
    };
    let image = if row.path.is_dir() {
        let mut digests = Vec::new();
        for path in slices_of(&row.path).ok()? {
            digests.push(one(&path)?);
        }
        digests.sort_unstable();
        sha256(digests.as_flattened())
    } else {
        one(&row.path)?
    };
    match &row.mask {
        None => Some(image),
        Some(mask) => Some(sha256([image, one(mask)?].as_flattened())),
    }
}

/// The answer of a record with such a mask.
fn answer(row: &Row, mask: Option<Vec<u8>>, how: Look<'_>) -> Result<Answer, Fault> {
    match (how.kind(), mask) {
        (TaskKind::Segmentation, Some(mask)) => Ok(Answer::Mask(mask)),
        (TaskKind::Segmentation, None) => {
            Err(Fault::WrongShape("no mask, and the study wants one"))
        }
        // A scan without a study: the mask could be read, and that is all that is asked.
        (TaskKind::Classification, Some(_))
            if how.preparation.is_none() && row.label.is_empty() =>
        {
            Ok(Answer::Class(0))
        }
        (TaskKind::Classification | TaskKind::MultiLabel, _) => {
            Answer::read(&row.label, how.kind(), how.classes)
        }
    }
}

/// Looks at one; `seen` is told what it is.
pub(super) fn look(row: &Row, how: Look<'_>, seen: impl FnOnce(&Image)) -> Result<Seen, Fault> {
    let cached = how.preparation.filter(|preparation| preparation.cache().is_some());
    let known = cached.and_then(|cached| Some((cached, digest_of(row)?)));
    if let Some((cached, file)) = &known
        && let Some(Kept { pixels, image, mask }) = cached.kept(file)
    {
        let answer = answer(row, row.mask.is_some().then_some(mask), how)?;
        return Ok(Seen { answer, file: *file, pixels, image, slot: None });
    }
    let (file, scene) = Scene::read(&row.path)?;
    let Prepared { shape, spacing, grid, pixels, image } = prepared(&scene, how)?;
    let mut digests = vec![file];
    let mask = match &row.mask {
        None => None,
        Some(path) => {
            if !path.exists() {
                return Err(Fault::Unreadable("its mask is missing"));
            }
            let (digest, labels) = read(path)?;
            let labels = match &scene {
                Scene::One(image) => labels.labels_of(image)?,
                Scene::Series(_) => labels.labels()?,
            };
            if labels.shape != shape {
                return Err(Fault::WrongShape("a mask of another size than its image"));
            }
            if labels.grid.zip(grid).is_some_and(|(mask, image)| !mask.lies_on(&image, shape)) {
                return Err(Fault::WrongShape("a mask that lies elsewhere than its image"));
            }
            digests.push(digest);
            Some(labels)
        }
    };
    match scene {
        Scene::One(image) => seen(&image),
        Scene::Series(slices) => {
            if let Some(first) = slices.into_iter().next() {
                seen(&Image::Dicom(Box::new(first)));
            }
        }
    }
    let mask = match (how.kind(), mask) {
        (TaskKind::Segmentation, Some(mask)) => Some(prepared_mask(&mask, spacing, how)?),
        (TaskKind::Classification | TaskKind::MultiLabel, Some(_)) => Some(Vec::new()),
        (_, None) => None,
    };
    // The root over a data set covers masks as it covers images.
    let file = if digests.len() == 1 { file } else { sha256(digests.as_flattened()) };
    let mut kept = Kept { pixels, image, mask: mask.clone().unwrap_or_default() };
    let answer = answer(row, mask, how)?;
    // What was read is what was looked for, unless a file was written meanwhile.
    if let Some((cached, known)) = &known
        && *known == file
    {
        cached.keep(&file, &kept);
    }
    let image = std::mem::take(&mut kept.image);
    Ok(Seen { answer, file, pixels, image, slot: None })
}

/// An image as the study wants it, and what it was.
struct Prepared {
    /// Depth, height and width.
    shape: [usize; 3],
    /// Millimetres along them.
    spacing: Option<[f32; 3]>,
    /// Where voxels lie; nothing of a flat image, whose masks are turned as it runs.
    grid: Option<Grid>,
    /// The digest of the pixels.
    pixels: [u8; 32],
    image: Vec<f32>,
}

fn prepared(scene: &Scene, how: Look<'_>) -> Result<Prepared, Fault> {
    if let Some(volume) = scene.volume() {
        let volume = volume?;
        // A scan says it before a study does.
        measured(&volume.values)?;
        let pixels = match scene {
            Scene::One(image) => image.digest(),
            Scene::Series(_) => digest(&volume),
        };
        let prepared = how.preparation.map(|preparation| preparation.apply_to_volume(&volume));
        let Volume { shape, spacing, grid, .. } = volume;
        let image = prepared.transpose()?.unwrap_or_default();
        return Ok(Prepared { shape, spacing, grid, pixels, image });
    }
    let Scene::One(image) = scene else {
        return Err(Fault::WrongShape("expected slices, found none"));
    };
    let picture = image.picture()?;
    let prepared = how.preparation.map(|preparation| preparation.apply(&picture));
    Ok(Prepared {
        shape: [1, picture.rows, picture.columns],
        spacing: picture.spacing.map(|[rows, columns]| [1.0, rows, columns]),
        grid: None,
        pixels: image.digest(),
        image: prepared.transpose()?.unwrap_or_default(),
    })
}

/// A digest of the sides and the values, some at a time: a volume may be as large as memory allows once.
fn digest(volume: &Volume) -> [u8; 32] {
    let mut digest = Context::new(&SHA256);
    for side in volume.shape {
        digest.update(&(side as u64).to_le_bytes());
    }
    let mut bytes = Vec::new();
    for values in volume.values.chunks(1 << 12) {
        bytes.clear();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        digest.update(&bytes);
    }
    let mut finished = [0; 32];
    finished.copy_from_slice(digest.finish().as_ref());
    finished
}

fn prepared_mask(
    mask: &Labels,
    spacing: Option<[f32; 3]>,
    how: Look<'_>,
) -> Result<Vec<u8>, Fault> {
    let classes = how.classes.map_or(256, <[String]>::len);
    let named = |label: &u32| u8::try_from(*label).ok().filter(|of| usize::from(*of) < classes);
    let labels: Option<Vec<u8>> = mask.values.iter().map(named).collect();
    let labels = labels.ok_or(Fault::WrongLabel)?;
    let Some(preparation) = how.preparation else { return Ok(labels) };
    preparation.apply_to_mask(&labels, mask.shape, spacing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_series_are_listed_by_their_names() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let mut names: Vec<_> = (0..64).map(|at| folder.path().join(format!("{at}.dcm"))).collect();
        for name in &names {
            std::fs::write(name, b"").expect("written");
        }
        names.sort_unstable();
        assert_eq!(slices_of(folder.path()), Ok(names));
    }

    #[test]
    fn a_volume_is_digested_whole_however_many_values_go_at_once() {
        for depth in [1_u16, 4096, 4097, 10_000] {
            let values: Vec<f32> = (0..depth).map(f32::from).collect();
            let mut bytes = Vec::new();
            bytes.extend([depth.into(), 1_u64, 1].map(u64::to_le_bytes).concat());
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            let shape = [depth.into(), 1, 1];
            let (spacing, full, inverted, grid) = (None, None, false, None);
            let volume = Volume { shape, spacing, values, full, inverted, grid };
            assert_eq!(digest(&volume), sha256(&bytes), "{depth}");
        }
    }
}
