//! A volume of a folder (NIfTI, or a DICOM file of many frames), or an image, and the mask that goes
//! with it: NIfTI labels, or a PNG whose values are classes.

use aggregation::study::TaskKind;

use super::answers::Answer;
use super::folder::Seen;
use super::manifest::Row;
use super::nifti::Labels;
use super::{Fault, Image, Look, sha256};

/// Looks at one; `seen` is told what it is.
pub(super) fn look(row: &Row, how: Look<'_>, seen: impl FnOnce(&Image)) -> Result<Seen, Fault> {
    let (bytes, image) = Image::read(&row.path)?;
    let file = sha256(&bytes);
    let (shape, prepared) = prepared(&image, how)?;
    let mut digests = vec![file];
    let mask = match &row.mask {
        None => None,
        Some(path) => {
            let (bytes, labels) = Image::read(path)?;
            let labels = labels.labels()?;
            if labels.shape != shape {
                return Err(Fault::WrongShape("a mask of another size than its image"));
            }
            digests.push(sha256(&bytes));
            Some(labels)
        }
    };
    seen(&image);
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
    Ok(Seen { answer, file, pixels: image.digest(), image: prepared })
}

/// The sides in depth, height and width, and the image as the study wants it.
fn prepared(image: &Image, how: Look<'_>) -> Result<([usize; 3], Vec<f32>), Fault> {
    let deep = match image {
        Image::Nifti(_) => true,
        Image::Dicom(stored) => stored.frames > 1,
        Image::Raster(_) => false,
    };
    if deep {
        let volume = image.volume()?;
        let prepared = how.preparation.map(|preparation| preparation.apply_to_volume(&volume));
        return Ok((volume.shape, prepared.transpose()?.unwrap_or_default()));
    }
    let picture = image.picture()?;
    let prepared = how.preparation.map(|preparation| preparation.apply(&picture));
    Ok(([1, picture.rows, picture.columns], prepared.transpose()?.unwrap_or_default()))
}

fn prepared_mask(mask: &Labels, how: Look<'_>) -> Result<Vec<u8>, Fault> {
    let classes = how.classes.map_or(256, <[String]>::len);
    let named = |label: &u32| u8::try_from(*label).ok().filter(|of| usize::from(*of) < classes);
    let labels: Option<Vec<u8>> = mask.values.iter().map(named).collect();
    let labels = labels.ok_or(Fault::WrongLabel)?;
    let Some(preparation) = how.preparation else { return Ok(labels) };
    Ok(preparation.apply_to_mask(&labels, mask.shape))
}
