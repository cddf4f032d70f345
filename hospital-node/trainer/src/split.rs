//! One NPZ file cut into several hospitals' that differ: label shares from a Dirichlet
//! distribution, as in \[HQB19\], so that some hospitals see mostly one class and sizes vary.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use hospital_images::npz::Array;
use tempfile::NamedTempFile;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::dataset::npz::{self, Arrays, PREFIXES};
use crate::dataset::{DatasetError, Part};
use crate::random::Random;

/// The most hospitals that a file is cut for.
pub const MAX_SITES: usize = 1000;
/// The most labels, or sets of labels, that are told apart.
const MAX_LABELS: usize = 4096;

/// Cutting did not work.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// The file to cut.
    #[error(transparent)]
    Source(#[from] DatasetError),
    /// What is asked for makes no sense.
    #[error("{0}")]
    Request(String),
    /// A hospital's file.
    #[error("cannot write a hospital's npz file: {0}")]
    Write(String),
}

/// What a file was cut into.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Cut {
    /// The hospitals' files.
    pub files: Vec<PathBuf>,
    /// Images to train on, in all of them together.
    pub training_images: usize,
}

/// Cuts a file into `sites` files `hospital-1.npz`, ... in a folder, and returns their paths. The
/// same seed gives the same files. Within one hospital, train, validation and test share its label
/// distribution; smaller `alpha` makes hospitals differ more.
///
/// # Errors
/// When the file cannot be read, has too few images, or the hospitals' cannot be written.
pub fn split(
    file: &Path,
    sites: usize,
    seed: u64,
    alpha: f64,
    out: &Path,
) -> Result<Cut, SplitError> {
    if !(1..=MAX_SITES).contains(&sites) {
        let text = format!("sites: expected 1 to {MAX_SITES}, found {sites}");
        return Err(SplitError::Request(text));
    }
    if !(alpha.is_finite() && alpha > 0.0) {
        return Err(SplitError::Request(format!(
            "alpha: expected a positive number, found {alpha}"
        )));
    }
    let parts = npz::read(file)?;
    std::fs::create_dir_all(out).map_err(|error| SplitError::Write(error.to_string()))?;
    let mut random = Random::new("consilium/split/1", &[&seed.to_le_bytes()]);
    let shares = Shares::draw(&parts, sites, alpha, &mut random)?;
    let cuts: Vec<Vec<Vec<usize>>> =
        parts.iter().map(|part| shares.cut(&part.stored.labels, sites, &mut random)).collect();
    if let Some(site) = (0..sites).find(|site| cuts.iter().any(|cut| cut[*site].is_empty())) {
        let text = format!("hospital {} would be left without images in a part", site + 1);
        return Err(SplitError::Request(text));
    }
    let training = parts.iter().find(|part| part.part == Part::Train);
    let training_images = training.map_or(0, |part| part.stored.len());
    let files = (0..sites)
        .map(|site| {
            let path = out.join(format!("hospital-{}.npz", site + 1));
            let chosen: Vec<&[usize]> = cuts.iter().map(|cut| cut[site].as_slice()).collect();
            write(&path, &parts, &chosen).map_err(SplitError::Write)?;
            Ok(path)
        })
        .collect::<Result<_, SplitError>>()?;
    Ok(Cut { files, training_images })
}

/// For each label, how it is spread over hospitals. Several labels of one image count as one of their
/// own.
struct Shares(BTreeMap<Vec<u8>, Vec<f64>>);

impl Shares {
    fn draw(
        parts: &[Arrays],
        sites: usize,
        alpha: f64,
        random: &mut Random,
    ) -> Result<Self, SplitError> {
        let mut labels = BTreeSet::new();
        for stored in parts.iter().map(|part| &part.stored.labels) {
            labels.extend((0..stored.rows()).map(|row| stored.row(row)));
            if labels.len() > MAX_LABELS {
                let text = format!("labels: expected at most {MAX_LABELS}, found more");
                return Err(SplitError::Request(text));
            }
        }
        let mut draw = || {
            let draws: Vec<f64> = (0..sites).map(|_| random.gamma(alpha)).collect();
            let sum: f64 = draws.iter().sum();
            // Nobody is left with nothing of a class: a tenth of an even share is kept for each.
            #[expect(clippy::cast_precision_loss, reason = "at most 1000 sites")]
            let even = 1.0 / sites as f64;
            draws.iter().map(|draw| 0.9 * draw / sum + 0.1 * even).collect()
        };
        Ok(Self(labels.into_iter().map(|label| (label.to_vec(), draw())).collect()))
    }

    /// The images of each hospital, in the file's order.
    fn cut(&self, labels: &Array, sites: usize, random: &mut Random) -> Vec<Vec<usize>> {
        let mut hospitals = vec![Vec::new(); sites];
        for (label, shares) in &self.0 {
            let mut images: Vec<usize> =
                (0..labels.rows()).filter(|image| labels.row(*image) == *label).collect();
            random.shuffle(&mut images);
            let (mut upto, mut from) = (0.0, 0);
            for (hospital, share) in hospitals.iter_mut().zip(shares) {
                upto += share;
                #[expect(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a share of a number of images, not negative"
                )]
                let to = ((upto * images.len() as f64).round() as usize).min(images.len());
                hospital.extend_from_slice(&images[from..to.max(from)]);
                from = to.max(from);
            }
        }
        for images in &mut hospitals {
            images.sort_unstable();
        }
        hospitals
    }
}

fn write(path: &Path, parts: &[Arrays], chosen: &[&[usize]]) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    // Under a passing name until it is whole: a full disk leaves no half of a data set.
    let scratch = NamedTempFile::new_in(folder).map_err(|error| error.to_string())?;
    let mut archive = ZipWriter::new(scratch);
    for (Arrays { part, stored }, images) in parts.iter().zip(chosen) {
        let prefix = PREFIXES.iter().find(|(known, _)| known == part).map_or("", |p| p.1);
        for (what, array) in [("images", &stored.images), ("labels", &stored.labels)] {
            let written = archive
                .start_file(format!("{prefix}_{what}.npy"), SimpleFileOptions::default())
                .map_err(std::io::Error::from)
                .and_then(|()| write_rows(&mut archive, array, images));
            written.map_err(|error| error.to_string())?;
        }
    }
    let scratch = archive.finish().map_err(|error| error.to_string())?;
    scratch.persist(path).map(drop).map_err(|error| error.to_string())
}

/// Some rows of an array in NumPy's format, version 1.
fn write_rows(out: &mut impl Write, array: &Array, rows: &[usize]) -> std::io::Result<()> {
    let name = array.datatype.name();
    let kind = match name.as_bytes().first() {
        Some(b'u') => 'u',
        Some(b'i') => 'i',
        _ => 'f',
    };
    let kind = format!("<{kind}{}", array.datatype.bytes());
    let sides = array.shape.iter().skip(1).map(|side| format!(" {side},"));
    let shape = format!("({},{})", rows.len(), sides.collect::<String>());
    let said = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    // The values begin at a multiple of 64 bytes.
    let length = (10 + said.len() + 1).next_multiple_of(64) - 10;
    let word = u16::try_from(length).map_err(std::io::Error::other)?;
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&word.to_le_bytes())?;
    writeln!(out, "{said:<width$}", width = length - 1)?;
    for row in rows {
        out.write_all(array.row(*row))?;
    }
    Ok(())
}

// [HQB19]: Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution for Federated
// Visual Classification, 2019, arXiv 1909.06335.

#[cfg(test)]
mod tests {
    use std::fs::File;

    use ndarray::{Array2, Array3};
    use ndarray_npy::NpzWriter;

    use super::*;

    fn source(folder: &Path) -> PathBuf {
        let path = folder.join("whole.npz");
        let mut npz = NpzWriter::new_compressed(File::create(&path).expect("created"));
        let mut pixel = 0_usize;
        for (_, prefix) in PREFIXES {
            let count = if prefix == "train" { 400 } else { 100 };
            let images = Array3::from_shape_fn((count, 2, 2), |_| {
                pixel += 1;
                u8::try_from((pixel * 7919) % 251).expect("below 256")
            });
            let labels = Array2::from_shape_fn((count, 1), |(row, _)| u8::from(row % 3 == 0));
            npz.add_array(format!("{prefix}_images"), &images).expect("added");
            npz.add_array(format!("{prefix}_labels"), &labels).expect("added");
        }
        npz.finish().expect("written");
        path
    }

    fn tallies(files: &[PathBuf]) -> Vec<Vec<[usize; 2]>> {
        let count = |arrays: &Arrays| {
            let is_one = |image: &usize| arrays.stored.label(*image) == [Some(1)];
            let ones = (0..arrays.stored.len()).filter(is_one).count();
            [arrays.stored.len() - ones, ones]
        };
        files
            .iter()
            .map(|file| npz::read(file).expect("readable").iter().map(count).collect())
            .collect()
    }

    #[test]
    fn every_image_goes_to_one_hospital_and_hospitals_differ() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let whole = source(folder.path());
        let files = split(&whole, 5, 3, 0.5, &folder.path().join("a")).expect("cut").files;
        let tallies = tallies(&files);
        for (part, expected) in [[266, 134], [66, 34], [66, 34]].into_iter().enumerate() {
            let sum = tallies
                .iter()
                .fold([0, 0], |sum, site| [sum[0] + site[part][0], sum[1] + site[part][1]]);
            assert_eq!(sum, expected);
        }
        // Both classes at every hospital, in other shares.
        assert!(tallies.iter().all(|site| site[0][0] > 0 && site[0][1] > 0), "{tallies:?}");
        let share = |[none, some]: [usize; 2]| some * 100 / (none + some);
        let shares: Vec<usize> = tallies.iter().map(|site| share(site[0])).collect();
        assert!(
            shares.iter().max() > shares.iter().min().map(|least| least + 15).as_ref(),
            "{shares:?}"
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_files() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let whole = source(folder.path());
        let cut = |seed, name: &str| {
            let files = split(&whole, 3, seed, 0.5, &folder.path().join(name)).expect("cut").files;
            files.iter().map(|file| std::fs::read(file).expect("readable")).collect::<Vec<_>>()
        };
        assert_eq!(cut(1, "a"), cut(1, "b"));
        assert_ne!(cut(1, "c"), cut(2, "d"));
    }

    #[test]
    fn volumes_with_several_labels_are_cut_as_they_are() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let whole = folder.path().join("whole.npz");
        let mut npz = NpzWriter::new(File::create(&whole).expect("created"));
        let voxels = ndarray::Array4::from_shape_fn((60, 2, 3, 5), |(n, z, y, x)| {
            i16::try_from(100 * n + 30 * z + 5 * y + x).expect("small") - 7
        });
        npz.add_array("train_images", &voxels).expect("added");
        let labels = Array2::from_shape_fn((60, 3), |(n, class)| i64::from(n % (class + 2) == 0));
        npz.add_array("train_labels", &labels).expect("added");
        npz.finish().expect("written");
        let files = split(&whole, 2, 1, 0.5, folder.path()).expect("cut").files;
        let whole = npz::read(&whole).expect("readable").remove(0).stored;
        let mut rows = BTreeMap::new();
        for file in files {
            let cut = npz::read(&file).expect("readable").remove(0).stored;
            assert_eq!((cut.sides, cut.images.datatype), ([2, 3, 5], whole.images.datatype));
            rows.extend((0..cut.len()).map(|n| (cut.images.row(n).to_vec(), cut.label(n))));
        }
        let all = (0..60).map(|n| (whole.images.row(n).to_vec(), whole.label(n))).collect();
        assert_eq!(rows, all);
    }

    #[test]
    fn requests_that_make_no_sense_are_refused() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let whole = source(folder.path());
        for (sites, alpha) in [(0, 0.5), (MAX_SITES + 1, 0.5), (3, 0.0), (3, f64::NAN), (500, 0.5)]
        {
            assert!(split(&whole, sites, 1, alpha, folder.path()).is_err(), "{sites} {alpha}");
        }
        assert!(split(&folder.path().join("none.npz"), 3, 1, 0.5, folder.path()).is_err());
    }
}
