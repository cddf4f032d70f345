//! The records of one hospital: what a data source holds, whether all of it can be used, and the
//! images as the study wants them.
//!
//! One pass serves both the administrator's scan and a study: every file is read, hashed and
//! decoded in parallel; a bad one is named with one reason and the pass goes on. A study is then
//! refused unless nothing was bad, so what a model is trained on is exactly what the Merkle root
//! covers. Patient identifiers become pseudonyms as they are read and are kept nowhere.

pub mod about;
pub mod answers;
mod bids;
pub mod cache;
mod examples;
mod fault;
mod folder;
pub mod manifest;
pub mod merkle;
pub mod npz;
mod patient;
pub mod scan;
pub mod shelf;
mod table;
mod volume;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use examples::Examples;
pub use fault::{DatasetError, Reasons};
pub use hospital_images::{Fault, Image, dicom, nifti};
pub use patient::{PatientKey, SiteSecret};

use aggregation::study::TaskKind;

use crate::preprocess::Preparation;
use crate::zoo::Network;
use answers::Answer;
use shelf::{Room, Shelf, Size, Slot};

/// What a record is for. Validation and test records are never trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Gradients come from these.
    Train,
    /// Scored in every evaluated round.
    Validation,
    /// Scored when the study's evaluation says so.
    Test,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// The word that a manifest and a report use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }

    /// The part that a manifest's word means.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "train" | "training" => Some(Self::Train),
            "val" | "valid" | "validation" => Some(Self::Validation),
            "test" => Some(Self::Test),
            _ => None,
        }
    }
}

/// Where records come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder of images (DICOM, NIfTI, PNG, JPEG, mixed as they may be) and the CSV that lists
    /// them.
    Dicom {
        /// The folder.
        folder: PathBuf,
        /// The list; without it, files can be checked but not learnt from.
        manifest: Option<PathBuf>,
    },
    /// A MedMNIST-style NPZ file.
    Npz {
        /// The file.
        file: PathBuf,
    },
}

impl Source {
    /// A source from the words of a configuration; an empty manifest is none.
    ///
    /// # Errors
    /// A kind other than `images`, `dicom`, `nifti` and `npz`. The first three are one: files tell
    /// by themselves what they are.
    pub fn new(kind: &str, path: &str, manifest: &str) -> Result<Self, DatasetError> {
        match kind {
            "images" | "dicom" | "nifti" => Ok(Self::Dicom {
                folder: path.into(),
                manifest: (!manifest.is_empty()).then(|| manifest.into()),
            }),
            "npz" => Ok(Self::Npz { file: path.into() }),
            other => Err(DatasetError::Kind { found: other.chars().take(32).collect() }),
        }
    }
}

/// How to look at a source.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Makes the pseudonyms.
    pub secret: &'a SiteSecret,
    /// The study's classes; without them any label that is not empty will do.
    pub classes: Option<&'a [String]>,
    /// How images are prepared; without it they are decoded and dropped.
    pub preparation: Option<&'a Preparation>,
    /// Bytes of prepared images that may be held in memory; more lie in the preparation's cache folder.
    pub memory: u64,
}

impl Look<'_> {
    /// Where prepared images may lie.
    #[must_use]
    pub fn room(&self) -> Room<'_> {
        let disk = self.preparation.and_then(Preparation::cache);
        Room { memory: self.memory, disk }
    }

    /// Room for so many prepared images, before any is read; none where none are wanted.
    fn shelf(&self, records: usize) -> Result<Option<Arc<Shelf>>, DatasetError> {
        let Some(preparation) = self.preparation else { return Ok(None) };
        Ok(Some(Arc::new(self.room().shelf(records, preparation.size(), None)?)))
    }

    /// What an answer is; without a study any label will do.
    fn kind(&self) -> TaskKind {
        self.preparation.map_or(TaskKind::Classification, Preparation::kind)
    }
}

/// One usable record.
#[derive(Clone, Debug)]
pub struct Record {
    /// Whose it is.
    pub patient: PatientKey,
    /// What it is for.
    pub part: Part,
    /// The label as written.
    pub label: String,
    /// What the label or the mask says; a mask lies with its image, and is empty here.
    pub answer: Answer,
    /// SHA-256 of the file (of the image's bytes in an NPZ).
    pub file: [u8; 32],
    /// Where the prepared image lies, when one was asked for.
    pub image: Option<Slot>,
}

/// One record that cannot be used, for the site's own administrator.
#[derive(Clone, Debug)]
pub struct Bad {
    /// The file as the manifest writes it, or the row.
    pub name: String,
    /// The reason.
    pub fault: Fault,
}

/// All that was found in a source.
#[derive(Debug, Default)]
pub struct Contents {
    /// The usable records, in the source's order.
    pub records: Vec<Record>,
    /// Their images, prepared, when that was asked for.
    pub shelf: Option<Arc<Shelf>>,
    /// The others, in the source's order.
    pub bad: Vec<Bad>,
    /// Good images of a folder without a manifest: nothing says what they are for.
    pub unlabelled: usize,
    /// Files in the folder that the manifest does not name.
    pub unlisted: usize,
    /// Repeated images that are left in (NPZ collections contain some by nature).
    pub repeats: usize,
    /// What was noticed about the usable images of a folder.
    pub about: about::About,
}

impl Contents {
    /// What a record was prepared to, and its answer with it.
    ///
    /// # Errors
    /// When there is no such record, none was to be prepared, or it cannot be read back.
    pub fn prepared(&self, index: usize) -> std::io::Result<(Vec<f32>, Answer)> {
        let record = self.records.get(index).ok_or(std::io::ErrorKind::NotFound)?;
        let mut of_one = Examples::default();
        if let (Some(shelf), Some(slot)) = (&self.shelf, record.image) {
            of_one.push(shelf, slot, record.answer.clone());
        }
        let mut image = Vec::new();
        let answer = of_one.read(0, &mut image)?;
        Ok((image, answer))
    }
}

/// Looks at every record of a source; `progress` is told how many of how many are done.
///
/// # Errors
/// Only for what concerns the source as a whole; a bad record is part of the contents.
pub fn look(
    source: &Source,
    how: Look<'_>,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Contents, DatasetError> {
    match source {
        Source::Dicom { folder, manifest: Some(list) } => folder::look(folder, list, how, progress),
        Source::Dicom { folder, manifest: None } => match how.preparation {
            None => folder::look_without_manifest(folder, progress),
            Some(_) => Err(DatasetError::NoManifest),
        },
        Source::Npz { file } => npz::look(file, how, progress),
    }
}

/// A source that a study can be run on.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// For gradients.
    pub train: Examples,
    /// For scores.
    pub validation: Examples,
    /// For the last word.
    pub test: Examples,
    /// Whose the training images are, in their order.
    pub training_patients: Vec<PatientKey>,
    /// What names each training image wherever it stands: its file's digest, and how many of the
    /// same came before it.
    pub training_images: Vec<([u8; 32], u32)>,
    /// Whether the source says whose its images are; in one that does not each counts as a patient.
    pub has_patients: bool,
    /// The Merkle root over all records.
    pub root: [u8; 32],
}

impl Dataset {
    /// Reads a whole source as a study wants it.
    ///
    /// # Errors
    /// As [`look`]; and when a single record is bad, or none is for training.
    pub fn open(source: &Source, how: Look<'_>) -> Result<Self, DatasetError> {
        let contents = look(source, how, &|_, _| ())?;
        if !contents.bad.is_empty() {
            let (bad, reasons) = (contents.bad.len(), Reasons::of(&contents.bad));
            return Err(DatasetError::Bad { bad, all: bad + contents.records.len(), reasons });
        }
        let root = merkle::root(&contents.records);
        let mut parts: BTreeMap<Part, Examples> = BTreeMap::new();
        let mut patients: Vec<PatientKey> = Vec::new();
        let mut images = Vec::new();
        let mut same: BTreeMap<[u8; 32], u32> = BTreeMap::new();
        for record in contents.records {
            if record.part == Part::Train {
                patients.push(record.patient);
                let before = same.entry(record.file).or_default();
                images.push((record.file, *before));
                *before += 1;
            }
            let examples = parts.entry(record.part).or_default();
            if let (Some(shelf), Some(slot)) = (&contents.shelf, record.image) {
                examples.push(shelf, slot, record.answer);
            }
        }
        let mut take = |part| parts.remove(&part).unwrap_or_default();
        let train = take(Part::Train);
        if train.is_empty() {
            return Err(DatasetError::Empty("training"));
        }
        let (validation, test) = (take(Part::Validation), take(Part::Test));
        let has_patients = match source {
            Source::Dicom { .. } => true,
            Source::Npz { .. } => false,
        };
        Ok(Self {
            train,
            validation,
            test,
            training_patients: patients,
            training_images: images,
            has_patients,
            root,
        })
    }
}

impl Dataset {
    /// The same data with every image as the network takes it: as it is, or gone through what the
    /// network has before its first layer.
    ///
    /// # Errors
    /// When there is no room for that, or the images cannot be read back.
    pub fn for_network(mut self, network: &Network, room: Room<'_>) -> Result<Self, DatasetError> {
        let Some(front) = network.front() else { return Ok(self) };
        let parts = [&mut self.train, &mut self.validation, &mut self.test];
        let images: usize = parts.iter().map(|part| part.len()).sum();
        let size = Size { values: front.features(), labels: self.train.labels() };
        // The images as they were stay until all have gone through.
        let shelf = Arc::new(room.shelf(images, size, self.train.shelf())?);
        for part in [&mut self.train, &mut self.validation, &mut self.test] {
            *part =
                part.changed(&shelf, |images| front.of_all(images)).map_err(DatasetError::Shelf)?;
        }
        Ok(self)
    }
}

/// The place of a label among the classes: a class's name, or else its number from 0.
fn class_of(label: &str, classes: Option<&[String]>) -> Result<usize, Fault> {
    let Some(classes) = classes else {
        return if label.is_empty() { Err(Fault::WrongLabel) } else { Ok(0) };
    };
    classes
        .iter()
        .position(|class| class == label)
        .or_else(|| label.parse().ok().filter(|number| *number < classes.len()))
        .ok_or(Fault::WrongLabel)
}

/// Remembers each patient's part; says whether a further record agrees with it.
#[derive(Default)]
struct Parts(BTreeMap<PatientKey, Part>);

impl Parts {
    fn agrees(&mut self, patient: PatientKey, part: Part) -> bool {
        match self.0.entry(patient) {
            Entry::Occupied(first) => *first.get() == part,
            Entry::Vacant(slot) => {
                slot.insert(part);
                true
            }
        }
    }
}

/// Opens a regular file. A pipe would be waited for until somebody writes to it.
fn open_regular(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// Reads a file whole, refusing to take in more than `limit` bytes.
fn read_at_most(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let file = open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "the file is too large"));
    }
    Ok(bytes)
}

/// SHA-256, as the data set root uses it.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_class_by_name_or_by_number() {
        let classes = ["normal".to_owned(), "7".to_owned()];
        assert_eq!(class_of("normal", Some(&classes)), Ok(0));
        assert_eq!(class_of("7", Some(&classes)), Ok(1));
        assert_eq!(class_of("1", Some(&classes)), Ok(1));
        assert_eq!(class_of("2", Some(&classes)), Err(Fault::WrongLabel));
        assert_eq!(class_of("", None), Err(Fault::WrongLabel));
    }
}
