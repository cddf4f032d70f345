//! A NIfTI volume of a folder, and the mask that goes with it.

use std::path::Path;

use aggregation::study::TaskKind;

use super::answers::Answer;
use super::folder::Seen;
use super::manifest::Row;
use super::nifti::{Labels, Stored, Volume};
use super::{Fault, Look, dicom, sha256};

pub(super) fn look(row: &Row, how: Look<'_>) -> Result<Seen, Fault> {
    let (stored, file) = read(&row.path)?;
    let volume = stored.volume(0)?;
    let mut digests = vec![file];
    let mask = match &row.mask {
        None => None,
        Some(path) => {
            let (stored, file) = read(path)?;
            let labels = stored.labels(0)?;
            if labels.shape != volume.shape {
                return Err(Fault::WrongShape("a mask of another size than its image"));
            }
            digests.push(file);
            Some(labels)
        }
    };
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
    let image = match how.preparation {
        Some(preparation) => preparation.apply_to_volume(&volume)?,
        None => Vec::new(),
    };
    // The root over a data set covers masks as it covers images.
    let file = if digests.len() == 1 { file } else { sha256(digests.as_flattened()) };
    Ok(Seen { answer, file, pixels: voxels(&volume), image })
}

fn read(path: &Path) -> Result<(Stored, [u8; 32]), Fault> {
    let bytes = dicom::bytes(path)?;
    Ok((Stored::decode(&bytes)?, sha256(&bytes)))
}

fn prepared_mask(mask: &Labels, how: Look<'_>) -> Result<Vec<u8>, Fault> {
    let classes = how.classes.map_or(256, <[String]>::len);
    let named = |label: &u32| u8::try_from(*label).ok().filter(|of| usize::from(*of) < classes);
    let labels: Option<Vec<u8>> = mask.values.iter().map(named).collect();
    let labels = labels.ok_or(Fault::WrongLabel)?;
    let Some(preparation) = how.preparation else { return Ok(labels) };
    Ok(preparation.apply_to_mask(&labels, mask.shape))
}

/// The voxels and their shape: the same volume under another header is the same volume.
fn voxels(volume: &Volume) -> [u8; 32] {
    let mut whole = Vec::with_capacity(4 * volume.values.len() + 24);
    for side in volume.shape {
        whole.extend_from_slice(&(side as u64).to_le_bytes());
    }
    whole.extend(volume.values.iter().flat_map(|value| value.to_le_bytes()));
    sha256(&whole)
}
