//! MedMNIST-style NPZ: `{train,val,test}_images` and `_labels`, images flat or volumes, labels one
//! number to an image or a truth for each class. Each image counts as a patient of its own, as the file
//! has no patients.

use std::collections::BTreeSet;
use std::io::BufReader;
use std::path::Path;

use hospital_images::npz;
use rayon::prelude::*;

use aggregation::study::TaskKind;

use super::{
    Bad, Contents, DatasetError, Fault, Look, Part, Record, answers::Answer, examples::labels,
    open_regular, sha256,
};
use crate::preprocess::Preparation;

/// The three parts and what their arrays' names start with.
pub const PREFIXES: [(Part, &str); 3] =
    [(Part::Train, "train"), (Part::Validation, "val"), (Part::Test, "test")];

/// One part of such a file.
#[derive(Debug)]
pub struct Arrays {
    /// What the images are for.
    pub part: Part,
    /// Images and, row by row, their labels.
    pub stored: npz::Arrays,
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
    let parts =
        found.into_iter().filter_map(|stored| Some(Arrays { part: part(stored.prefix)?, stored }));
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
    let all: usize = parts.iter().map(|part| part.stored.len()).sum();
    let shelf = how.shelf(all)?;
    let mut contents = Contents { shelf: shelf.clone(), ..Contents::default() };
    let mut seen = BTreeSet::new();
    for Arrays { part, stored } in parts {
        let outcomes: Vec<Result<Record, Fault>> = (0..stored.len())
            .into_par_iter()
            .map(|index| -> Result<(Record, Vec<f32>), Fault> {
                let (label, answer) = answer(&stored.label(index), how)?;
                let patient = format!("{}/{index}", part.name());
                let image_of = |preparation: &Preparation| match stored.sides {
                    [1, ..] => preparation.apply(&stored.picture(index)),
                    _ => preparation.apply_to_volume(&stored.volume(index)),
                };
                let image = how.preparation.map(image_of).transpose()?.unwrap_or_default();
                let record = Record {
                    patient: how.secret.pseudonym(&patient, "\u{0}npz"),
                    part,
                    label,
                    answer,
                    file: sha256(stored.images.row(index)),
                    image: None,
                };
                Ok((record, image))
            })
            .map(|seen| match (seen, &shelf) {
                (Ok((record, image)), Some(shelf)) => {
                    let slot = shelf.put(&image, labels(&record.answer))?;
                    Ok(Ok(Record { image: Some(slot), ..record }))
                }
                (seen, _) => Ok(seen.map(|(record, _)| record)),
            })
            .collect::<Result<_, _>>()
            .map_err(DatasetError::Shelf)?;
        for (index, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(record) => {
                    contents.repeats += usize::from(!seen.insert(record.file));
                    contents.records.push(record);
                }
                Err(fault) => {
                    let name = format!("{} image {index}", part.name());
                    contents.bad.push(Bad { name, fault });
                }
            }
        }
        progress(contents.records.len() + contents.bad.len(), all);
    }
    Ok(contents)
}

/// A label as it would be written, and what it says. Numbers are places among the classes, whatever
/// those are called; of several, each says whether the image has the class of its place.
fn answer(label: &[Option<u32>], how: Look<'_>) -> Result<(String, Answer), Fault> {
    let numbers: Option<Vec<usize>> =
        label.iter().map(|number| usize::try_from((*number)?).ok()).collect();
    let numbers = numbers.ok_or(Fault::WrongLabel)?;
    let (written, has) = match *numbers {
        [class] => (class.to_string(), vec![class]),
        _ if numbers.iter().any(|number| *number > 1) => return Err(Fault::WrongLabel),
        _ => {
            let has: Vec<usize> = (0..numbers.len()).filter(|class| numbers[*class] == 1).collect();
            let words: Vec<String> = has.iter().map(usize::to_string).collect();
            (words.join("|"), has)
        }
    };
    let Some(classes) = how.classes else { return Ok((written, Answer::Class(0))) };
    let of_another_size = numbers.len() > 1 && numbers.len() != classes.len();
    if of_another_size || has.iter().any(|class| *class >= classes.len()) {
        return Err(Fault::WrongLabel);
    }
    let labels = || Answer::Labels((0..classes.len()).map(|class| has.contains(&class)).collect());
    let answer = match (how.kind(), has.as_slice()) {
        (TaskKind::Classification, [class]) => Answer::Class(*class),
        (TaskKind::MultiLabel, _) => labels(),
        // A scan knows the classes but no task.
        (TaskKind::Classification, _) if how.preparation.is_none() => labels(),
        (TaskKind::Classification | TaskKind::Segmentation, _) => return Err(Fault::WrongLabel),
    };
    Ok((written, answer))
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

    /// A study of such a kind with three classes, of inputs of this depth and of 4 by 5 pixels.
    fn study(kind: &str, depth: usize) -> aggregation::study::Study {
        let text = format!(
            "name = \"t\"\n[task]\nkind = \"{kind}\"\nclasses = [\"a\", \"b\", \"c\"]\n\
             input = {{ channels = 1, depth = {depth}, height = 4, width = 5 }}\n\
             preprocess = {{ window = \"full\", mean = 0.0, sd = 1.0 }}\n\
             [model]\narch = \"linear\"\n[train]\nrounds = 1\nstrategy = \"fedsgd\"\n\
             learning_rate = 1.0\n[privacy]\nmode = \"danger_no_privacy\"\n\
             [cohort]\nquorum = 3\n"
        );
        proto::manifest::parse(&text).expect("valid")
    }

    fn prepared(path: &Path, study: &aggregation::study::Study) -> Contents {
        let (secret, preparation) = (SiteSecret::new([1; 32]), Preparation::new(&study.task));
        let how = Look {
            secret: &secret,
            classes: Some(&study.task.classes),
            preparation: Some(&preparation),
            memory: 1 << 20,
        };
        look(path, how, &|_, _| ()).expect("a good file")
    }

    #[test]
    fn a_row_of_truths_is_several_labels_and_one_of_them_is_a_class() {
        let truths = [[1_i64, 0, 1], [0, 0, 0], [0, 1, 0], [0, 2, 0], [0, -1, 0]];
        let file = written(true, |npz| {
            let pixels = Array3::from_shape_fn((5, 4, 5), |(n, ..)| {
                13_107 * u16::try_from(n).expect("small")
            });
            npz.add_array("train_images", &pixels).expect("added");
            let labels = Array2::from_shape_fn((5, 3), |(n, class)| truths[n][class]);
            npz.add_array("train_labels", &labels).expect("added");
        });
        let several = prepared(file.path(), &study("multi-label", 1));
        let answers: Vec<_> = several.records.iter().map(|record| &record.answer).collect();
        let labels = [[true, false, true], [false; 3], [false, true, false]];
        let labels = labels.map(|labels| Answer::Labels(labels.into()));
        assert_eq!(answers, labels.iter().collect::<Vec<_>>());
        assert_eq!(several.records[0].label, "0|2");
        let bad: Vec<_> = several.bad.iter().map(|bad| (bad.name.as_str(), &bad.fault)).collect();
        let wrong = Fault::WrongLabel;
        assert_eq!(bad, [("train image 3", &wrong), ("train image 4", &wrong)]);
        // Words of 16 bits have the whole of their range.
        assert_eq!(several.prepared(2).expect("there").0, [0.4; 20]);
        let one = prepared(file.path(), &study("classification", 1));
        assert_eq!((one.records.len(), &one.records[0].answer), (1, &Answer::Class(1)));
        let names = ["x", "y", "z"].map(str::to_owned);
        let scanned = look_at(file.path(), &names).expect("a good file");
        assert_eq!((scanned.records.len(), scanned.bad.len()), (3, 2));
        assert_eq!(look_at(file.path(), &names[..2]).expect("a good file").records.len(), 0);
    }

    #[test]
    fn volumes_of_fractions_are_prepared_as_volumes() {
        let file = written(true, |npz| {
            let voxels = Array::from_shape_fn((2, 3, 4, 5), |(n, z, ..)| {
                f32::from(u8::try_from(2 * n + z).expect("small")) / 2.0
            });
            npz.add_array("test_images", &voxels).expect("added");
            npz.add_array("test_labels", &Array::<f64, _>::ones((2,))).expect("added");
        });
        let contents = prepared(file.path(), &study("multi-label", 3));
        assert_eq!(contents.bad.len(), 0);
        let (image, answer) = contents.prepared(1).expect("there");
        assert_eq!((image.len(), image[0], image[20], image[40]), (60, 0.0, 0.5, 1.0));
        assert_eq!(answer, Answer::Labels(vec![false, true, false]));
        let flat = prepared(file.path(), &study("multi-label", 1));
        assert!(matches!(flat.bad[0].fault, Fault::WrongShape(_)));
    }

    #[test]
    fn malformed_files_are_refused_with_what_was_expected() {
        let refused = |file: &tempfile::NamedTempFile, expected: &str| {
            let error = read(file.path()).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(&written(true, |npz| fill_train(npz, 5, 4)), "expected (5, 1)");
        refused(&written(true, |_| ()), "another zip archive");
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
