//! A folder in the layout of BIDS (<https://bids.neuroimaging.io>): `participants.tsv` lists the
//! patients, `sub-01/anat/sub-01_T1w.nii.gz` are their images, and what below `derivatives` begins
//! like an image's name and ends in `_dseg` or `_mask` is its mask.
//!
//! The patient is the participant; a column `label` says what an image should be answered with, a
//! column `split` what it is for. Which images are meant, a scan's warnings show: a folder with
//! several kinds of them needs a manifest.

use std::path::{Path, PathBuf};

use super::manifest::Row;
use super::table::Most;
use super::{Bad, DatasetError, Fault, Part, SiteSecret, nifti};

/// The list that makes a folder one of this layout.
pub(super) const LIST: &str = "participants.tsv";
/// Folders within folders below a participant's.
const MAX_DEPTH: usize = 4;
/// Files of one participant that are looked at.
const MAX_FILES: usize = 100_000;

/// The images of every participant, in the list's order, or why there are none.
///
/// # Errors
/// When the list lacks the participants' column or lists nobody.
pub(super) fn rows(
    list: &[u8],
    folder: &Path,
    secret: &SiteSecret,
) -> Result<Vec<Result<Row, Bad>>, DatasetError> {
    let wrong = |text: &str| DatasetError::Manifest(text.to_owned());
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(b'\t')
        .quoting(false)
        .trim(csv::Trim::All)
        .flexible(true)
        .from_reader(list);
    let headers = reader.headers().cloned().map_err(|_| wrong("expected lines of text"))?;
    let find = |name: &str| headers.iter().position(|header| header.eq_ignore_ascii_case(name));
    let participant = find("participant_id")
        .ok_or_else(|| wrong("expected a column \"participant_id\", found none"))?;
    let (label, split) = (find("label"), find("split"));
    let masks = masks(folder);
    let (mut rows, mut most) = (Vec::new(), Most::default());
    for (index, record) in reader.records().enumerate() {
        most.add(1, 0)?;
        let broken = || Bad { name: format!("row {}", index + 2), fault: Fault::BrokenRow };
        let Ok(record) = record else {
            rows.push(Err(broken()));
            continue;
        };
        let field = |column: Option<usize>| column.and_then(|c| record.get(c)).unwrap_or_default();
        let id = field(Some(participant));
        let named = id.strip_prefix("sub-").unwrap_or(id);
        if named.is_empty() || !named.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            rows.push(Err(broken()));
            continue;
        }
        let subject = format!("sub-{named}");
        let bad = |fault| Bad { name: subject.clone(), fault };
        let patient = secret.pseudonym(&subject, "");
        let part = match field(split) {
            "" | "n/a" => patient.part(),
            word => match Part::parse(word) {
                Some(part) => part,
                None => {
                    rows.push(Err(bad(Fault::WrongSplit)));
                    continue;
                }
            },
        };
        let images = files(&folder.join(&subject));
        let images: Vec<PathBuf> = images.into_iter().filter(|path| !is_mask(path)).collect();
        if images.is_empty() {
            rows.push(Err(bad(Fault::Missing)));
        }
        for path in images {
            let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
            let mask = mask_of(&path, &masks);
            let label = field(label).to_owned();
            rows.push(Ok(Row { name, path, patient, part, label, mask }));
        }
    }
    if rows.is_empty() {
        return Err(wrong("it lists no participants"));
    }
    Ok(rows)
}

/// NIfTI files below a folder, sorted; none where there is no such folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![(folder.to_path_buf(), 0)]);
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && depth < MAX_DEPTH {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() && nifti::is_named_so(&entry.path()) && found.len() < MAX_FILES
            {
                found.push(entry.path());
            }
        }
    }
    found.sort_unstable();
    found
}

/// Everything below the derivatives that could be a mask.
fn masks(folder: &Path) -> Vec<PathBuf> {
    files(&folder.join("derivatives")).into_iter().filter(|path| is_mask(path)).collect()
}

/// The name without extensions.
fn stem(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split('.').next().unwrap_or_default()
}

fn is_mask(path: &Path) -> bool {
    matches!(stem(path).rsplit('_').next(), Some("dseg" | "mask"))
}

/// The one mask whose name begins with the image's, less what kind of image it is.
fn mask_of(image: &Path, masks: &[PathBuf]) -> Option<PathBuf> {
    let stem_of_image = stem(image);
    let (entities, _) = stem_of_image.rsplit_once('_')?;
    let belongs = |mask: &&PathBuf| {
        let rest = stem(mask).strip_prefix(entities);
        rest.is_some_and(|rest| rest.starts_with('_'))
    };
    // The shortest name says the least that the image does not say.
    masks.iter().filter(belongs).min_by_key(|mask| (stem(mask).len(), *mask)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a scratch folder");
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().expect("below it")).expect("made");
            std::fs::write(path, b"").expect("written");
        }
        folder
    }

    fn read(list: &str, folder: &Path) -> Vec<Result<Row, Bad>> {
        rows(list.as_bytes(), folder, &SiteSecret::new([1; 32])).expect("a list")
    }

    #[test]
    fn images_of_participants_find_their_masks() {
        let folder = folder(&[
            "sub-01/anat/sub-01_T1w.nii.gz",
            "sub-01/anat/notes.txt",
            "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii",
            "derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz",
            "derivatives/manual/sub-01/anat/sub-01_desc-other_dseg.nii.gz",
            "derivatives/manual/sub-02/ses-1/anat/sub-02_ses-1_mask.nii.gz",
            "derivatives/manual/sub-011/anat/sub-011_dseg.nii.gz",
        ]);
        let list =
            "participant_id\tsex\tlabel\tsplit\nsub-01\tF\tcase\ttrain\n02\tM\tcontrol\ttest\n";
        let rows: Vec<Row> =
            read(list, folder.path()).into_iter().map(|row| row.expect("good")).collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].name, "sub-01/anat/sub-01_T1w.nii.gz");
        assert_eq!((rows[0].label.as_str(), rows[0].part), ("case", Part::Train));
        assert!(rows[0].mask.as_ref().is_some_and(|mask| mask.ends_with("sub-01_dseg.nii.gz")));
        assert!(rows[1].mask.as_ref().is_some_and(|m| m.ends_with("sub-02_ses-1_mask.nii.gz")));
        assert_ne!(rows[0].patient, rows[1].patient);
    }

    #[test]
    fn participants_without_images_and_with_odd_names_are_named() {
        let folder = folder(&["sub-01/anat/sub-01_T1w.nii.gz"]);
        let list = "participant_id\tsplit\nsub-09\t\n../01\t\nsub-01\tneither\n";
        let faults: Vec<Fault> = read(list, folder.path())
            .into_iter()
            .map(|row| row.expect_err("none is good").fault)
            .collect();
        assert_eq!(faults, [Fault::Missing, Fault::BrokenRow, Fault::WrongSplit]);
        let error = rows(b"id\n1\n", folder.path(), &SiteSecret::new([1; 32]));
        assert!(error.is_err_and(|error| error.to_string().contains("participant_id")));
    }
}
