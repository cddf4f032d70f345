//! A volume of a folder (NIfTI, a DICOM file of many frames, or a folder with the files of a DICOM
//! series), or an image, and the mask that goes with it: NIfTI labels, or a PNG whose values are
//! classes.

use std::path::Path;

use aggregation::study::TaskKind;

use super::answers::Answer;
use super::folder::Seen;
use super::manifest::Row;
use super::nifti::{Labels, Volume};
use super::{Fault, Image, Look, dicom, sha256};

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
        let (bytes, image) = Image::read(path)?;
        Ok((sha256(&bytes), Self::One(image)))
    }

    /// The volume that it is, if it is one.
    fn volume(&self) -> Option<Result<Volume, Fault>> {
        match self {
            Self::One(image) => is_deep(image).then(|| image.volume()),
            Self::Series(slices) => Some(dicom::volume_of(slices)),
        }
    }
}

/// Whether it has a third side.
pub(super) fn is_deep(image: &Image) -> bool {
    match image {
        Image::Nifti(_) => true,
        Image::Dicom(stored) => stored.frames > 1,
        Image::Raster(_) => false,
    }
}

/// The slices of a folder. Their digest does not hang on the order in which a disk lists them.
fn series(folder: &Path) -> Result<([u8; 32], Scene), Fault> {
    let listed = std::fs::read_dir(folder).map_err(|_| Fault::Unreadable("a folder"))?;
    let (mut digests, mut slices, mut held) = (Vec::new(), Vec::new(), 0_u64);
    for entry in listed {
        let entry = entry.map_err(|_| Fault::Unreadable("a folder"))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if slices.len() == MAX_SLICES {
            return Err(Fault::WrongShape("a series of more than 4096 files"));
        }
        let (bytes, image) = Image::read(&entry.path())?;
        let Image::Dicom(stored) = image else {
            return Err(Fault::WrongShape(
                "a folder with other files than those of a DICOM series",
            ));
        };
        held += stored.data.len() as u64;
        if held > MAX_SERIES_BYTES {
            return Err(Fault::TooLarge);
        }
        digests.push(sha256(&bytes));
        slices.push(*stored);
    }
    digests.sort_unstable();
    Ok((sha256(digests.as_flattened()), Scene::Series(slices)))
}

/// Looks at one; `seen` is told what it is.
pub(super) fn look(row: &Row, how: Look<'_>, seen: impl FnOnce(&Image)) -> Result<Seen, Fault> {
    let (file, scene) = Scene::read(&row.path)?;
    let (shape, pixels, prepared) = prepared(&scene, how)?;
    let mut digests = vec![file];
    let mask = match &row.mask {
        None => None,
        Some(path) => {
            if !path.exists() {
                return Err(Fault::Unreadable("its mask is missing"));
            }
            let (bytes, labels) = Image::read(path)?;
            let labels = match &scene {
                Scene::One(image) => labels.labels_of(image)?,
                Scene::Series(_) => labels.labels()?,
            };
            if labels.shape != shape {
                return Err(Fault::WrongShape("a mask of another size than its image"));
            }
            digests.push(sha256(&bytes));
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
    let answer = match (how.kind(), &mask) {
        (TaskKind::Segmentation, Some(mask)) => Answer::Mask(prepared_mask(mask, how)?),
        (TaskKind::Segmentation, None) => {
            return Err(Fault::WrongShape("no mask, and the study wants one"));
        }
        // A scan without a study: the mask could be read, and that is all that is asked.
        (TaskKind::Classification, Some(_))
            if how.preparation.is_none() && row.label.is_empty() =>
        {
            Answer::Class(0)
        }
        (TaskKind::Classification | TaskKind::MultiLabel, _) => {
            Answer::read(&row.label, how.kind(), how.classes)?
        }
    };
    // The root over a data set covers masks as it covers images.
    let file = if digests.len() == 1 { file } else { sha256(digests.as_flattened()) };
    Ok(Seen { answer, file, pixels, image: prepared })
}

/// The sides in depth, height and width, the digest of the pixels, and the image as the study wants it.
type Prepared = ([usize; 3], [u8; 32], Vec<f32>);

fn prepared(scene: &Scene, how: Look<'_>) -> Result<Prepared, Fault> {
    if let Some(volume) = scene.volume() {
        let volume = volume?;
        let pixels = match scene {
            Scene::One(image) => image.digest(),
            Scene::Series(_) => digest(&volume),
        };
        let prepared = how.preparation.map(|preparation| preparation.apply_to_volume(&volume));
        return Ok((volume.shape, pixels, prepared.transpose()?.unwrap_or_default()));
    }
    let Scene::One(image) = scene else {
        return Err(Fault::WrongShape("expected slices, found none"));
    };
    let picture = image.picture()?;
    let prepared = how.preparation.map(|preparation| preparation.apply(&picture));
    let shape = [1, picture.rows, picture.columns];
    Ok((shape, image.digest(), prepared.transpose()?.unwrap_or_default()))
}

fn digest(volume: &Volume) -> [u8; 32] {
    let mut bytes: Vec<u8> = Vec::with_capacity(4 * volume.values.len() + 24);
    bytes.extend(volume.shape.iter().flat_map(|side| (*side as u64).to_le_bytes()));
    bytes.extend(volume.values.iter().flat_map(|value| value.to_le_bytes()));
    sha256(&bytes)
}

fn prepared_mask(mask: &Labels, how: Look<'_>) -> Result<Vec<u8>, Fault> {
    let classes = how.classes.map_or(256, <[String]>::len);
    let named = |label: &u32| u8::try_from(*label).ok().filter(|of| usize::from(*of) < classes);
    let labels: Option<Vec<u8>> = mask.values.iter().map(named).collect();
    let labels = labels.ok_or(Fault::WrongLabel)?;
    let Some(preparation) = how.preparation else { return Ok(labels) };
    Ok(preparation.apply_to_mask(&labels, mask.shape))
}
