//! MedMNIST-style NPZ: `{train,val,test}_images` and `_labels`, unsigned bytes, images
//! `(n, h, w)` or `(n, h, w, 3)`. Each image counts as a patient of its own, as the file has no
//! patients.

use std::collections::BTreeSet;
use std::io::BufReader;
use std::path::Path;

use hospital_images::npz;
use ndarray::ArrayD;
use rayon::prelude::*;

use aggregation::study::TaskKind;

use super::{
    Bad, Contents, DatasetError, Fault, Look, Part, Record, answers::Answer, check_memory,
    open_regular, sha256,
};
use crate::preprocess::Picture;

/// The three parts and what their arrays' names start with.
pub const PREFIXES: [(Part, &str); 3] =
    [(Part::Train, "train"), (Part::Validation, "val"), (Part::Test, "test")];

/// One part of such a file: images and, row by row, their labels.
#[derive(Debug)]
pub struct Arrays {
    /// What the images are for.
    pub part: Part,
    /// `(n, h, w)` or `(n, h, w, 3)`.
    pub images: ArrayD<u8>,
    /// One label per image.
    pub labels: Vec<u8>,
}

impl Arrays {
    /// Rows, columns and samples of each image.
    #[must_use]
    pub fn shape(&self) -> (usize, usize, usize) {
        let shape = self.images.shape();
        (shape[1], shape[2], shape.get(3).copied().unwrap_or(1))
    }

    /// The bytes of each image in turn.
    pub fn each(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let (rows, columns, samples) = self.shape();
        // `read` made the array contiguous and its images not empty.
        self.images.as_slice().unwrap_or_default().chunks_exact(rows * columns * samples)
    }
}

/// Reads the parts that the file has.
///
/// # Errors
/// A file that is not a zip of such arrays, with what was expected and what was found.
pub fn read(path: &Path) -> Result<Vec<Arrays>, DatasetError> {
    let file =
        open_regular(path).map_err(|source| DatasetError::Io { what: "the npz file", source })?;
    let found = npz::read(BufReader::new(file)).map_err(|wrong| DatasetError::Npz(wrong.0))?;
    let part = |prefix| PREFIXES.iter().find(|(_, known)| *known == prefix).map(|(part, _)| *part);
    let parts = found.into_iter().filter_map(|npz::Arrays { prefix, images, labels }| {
        Some(Arrays { part: part(prefix)?, images, labels })
    });
    Ok(parts.collect())
}

/// Looks at every image of the file.
///
/// # Errors
/// As [`read`], and when the prepared images would not fit into memory.
pub(super) fn look(
    path: &Path,
    how: Look<'_>,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Contents, DatasetError> {
    let parts = read(path)?;
    let all: usize = parts.iter().map(|part| part.labels.len()).sum();
    check_memory(all, how)?;
    let mut contents = Contents::default();
    let mut seen = BTreeSet::new();
    for arrays in parts {
        let (rows, columns, samples) = arrays.shape();
        let images: Vec<&[u8]> = arrays.each().collect();
        let outcomes: Vec<Result<Record, Fault>> = images
            .par_iter()
            .zip(&arrays.labels)
            .enumerate()
            .map(|(index, (image, label))| {
                let label = label.to_string();
                let answer = match how.classes {
                    // Numbers, whatever the classes are called.
                    Some(classes) => label
                        .parse()
                        .ok()
                        .filter(|class| *class < classes.len())
                        .filter(|_| how.kind() == TaskKind::Classification)
                        .map(Answer::Class)
                        .ok_or(Fault::WrongLabel),
                    None => Answer::read(&label, TaskKind::Classification, None),
                };
                let patient = format!("{}/{index}", arrays.part.name());
                let image_of = |preparation: &crate::preprocess::Preparation| {
                    preparation.apply(&picture(image, rows, columns, samples))
                };
                Ok(Record {
                    patient: how.secret.pseudonym(&patient, "\u{0}npz"),
                    part: arrays.part,
                    label,
                    answer: answer?,
                    file: sha256(image),
                    image: how.preparation.map(image_of).transpose()?.unwrap_or_default(),
                })
            })
            .collect();
        for (index, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(record) => {
                    contents.repeats += usize::from(!seen.insert(record.file));
                    contents.records.push(record);
                }
                Err(fault) => {
                    let name = format!("{} image {index}", arrays.part.name());
                    contents.bad.push(Bad { name, fault });
                }
            }
        }
        progress(contents.records.len() + contents.bad.len(), all);
    }
    Ok(contents)
}

fn picture(image: &[u8], rows: usize, columns: usize, samples: usize) -> Picture {
    Picture {
        rows,
        columns,
        samples,
        values: image.iter().copied().map(f32::from).collect(),
        full: (0.0, 255.0),
        shown: None,
        inverted: false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use ndarray::{Array, Array2, Array3};
    use ndarray_npy::{NpzWriter, WriteNpyExt as _};

    use super::super::SiteSecret;
    use super::*;

    fn written(
        compressed: bool,
        fill: impl FnOnce(&mut NpzWriter<File>),
    ) -> tempfile::NamedTempFile {
        let scratch = tempfile::NamedTempFile::new().expect("a scratch file");
        let file = scratch.reopen().expect("reopened");
        let mut npz =
            if compressed { NpzWriter::new_compressed(file) } else { NpzWriter::new(file) };
        fill(&mut npz);
        npz.finish().expect("written");
        scratch
    }

    fn fill_train(npz: &mut NpzWriter<File>, images: usize, labels: usize) {
        let pixels = Array3::from_shape_fn((images, 4, 5), |(n, y, x)| {
            u8::try_from((n * 20 + y * 5 + x) % 256).expect("below 256")
        });
        npz.add_array("train_images", &pixels).expect("added");
        let labels = Array2::from_shape_fn((labels, 1), |(n, _)| u8::from(n % 2 == 1));
        npz.add_array("train_labels", &labels).expect("added");
    }

    fn look_at(path: &Path, classes: &[String]) -> Result<Contents, DatasetError> {
        let secret = SiteSecret::new([1; 32]);
        let how =
            Look { secret: &secret, classes: Some(classes), preparation: None, memory: 1 << 20 };
        look(path, how, &|_, _| ())
    }

    #[test]
    fn stored_and_deflated_files_read_the_same() {
        let classes = ["a".to_owned(), "b".to_owned()];
        let mut roots = Vec::new();
        for compressed in [false, true] {
            let file = written(compressed, |npz| fill_train(npz, 6, 6));
            let contents = look_at(file.path(), &classes).expect("a good file");
            assert_eq!((contents.records.len(), contents.bad.len()), (6, 0));
            assert_eq!(contents.records[3].answer, Answer::Class(1));
            roots.push(super::super::merkle::root(&contents.records));
        }
        assert_eq!(roots[0], roots[1]);
    }

    #[test]
    fn a_label_beyond_the_classes_is_named_and_the_rest_goes_on() {
        let file = written(true, |npz| fill_train(npz, 5, 5));
        let contents = look_at(file.path(), &["only".to_owned()]).expect("a good file");
        assert_eq!((contents.records.len(), contents.bad.len()), (3, 2));
        assert_eq!(contents.bad[0].fault, Fault::WrongLabel);
        assert_eq!(contents.bad[0].name, "train image 1");
    }

    #[test]
    fn malformed_files_are_refused_with_what_was_expected() {
        let refused = |file: &tempfile::NamedTempFile, expected: &str| {
            let error = read(file.path()).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(&written(true, |npz| fill_train(npz, 5, 4)), "expected (5, 1)");
        refused(&written(true, |_| ()), "train_images");
        refused(
            &written(true, |npz| {
                npz.add_array("train_images", &Array::<u8, _>::zeros((2, 3, 3))).expect("added");
            }),
            "come in pairs",
        );
        let labelled = |images: &dyn Fn(&mut NpzWriter<File>)| {
            written(false, |npz| {
                images(npz);
                npz.add_array("train_labels", &Array::<u8, _>::zeros((2, 1))).expect("added");
            })
        };
        let flat = labelled(&|npz| {
            npz.add_array("train_images", &Array::<u8, _>::zeros((2, 9))).expect("added");
        });
        refused(&flat, "found [2, 9]");
        let floats = labelled(&|npz| {
            npz.add_array("train_images", &Array::<f32, _>::zeros((2, 3, 3))).expect("added");
        });
        refused(&floats, "unsigned bytes");
        let mut text = tempfile::NamedTempFile::new().expect("a scratch file");
        text.write_all(b"not a zip").expect("written");
        refused(&text, "zip");
        // Cut off: the directory at the end of the archive is gone.
        let whole = written(true, |npz| fill_train(npz, 5, 5));
        let bytes = std::fs::read(whole.path()).expect("read back");
        std::fs::write(text.path(), &bytes[..bytes.len() / 2]).expect("written");
        refused(&text, "cut-off");
    }

    #[test]
    fn a_header_that_claims_a_huge_array_costs_no_memory() {
        let mut npy = Vec::new();
        Array::<u8, _>::zeros((1, 2, 2)).write_npy(&mut npy).expect("memory");
        let honest = b"(1, 2, 2)";
        let at = npy.windows(honest.len()).position(|w| w == honest).expect("the shape");
        // The header is padded with spaces, so a longer claim fits in its place.
        let claim = b"(99999999999, 9, 9), }";
        npy[at..at + claim.len()].copy_from_slice(claim);
        let scratch = tempfile::NamedTempFile::new().expect("a scratch file");
        let mut archive = zip::ZipWriter::new(scratch.reopen().expect("reopened"));
        for name in ["train_images.npy", "train_labels.npy"] {
            archive.start_file(name, zip::write::SimpleFileOptions::default()).expect("started");
            archive.write_all(&npy).expect("written");
        }
        archive.finish().expect("finished");
        let error = read(scratch.path()).expect_err("refused").to_string();
        assert!(error.contains("all its values"), "{error}");
    }
}
