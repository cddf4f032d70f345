//! The folder that images are put into, and what makes a pull resumable.
//!
//! ```text
//! images/ab12.../cd34....dcm   an image in the folder of its series; the names are pseudonyms
//! manifest.csv                 every image, or every series, with its patient's pseudonym and its label
//! pull.journal                 what is done: lines of JSON, only ever appended to
//! unfinished/                  what is being written; emptied at each start
//! ```
//!
//! A file is written beside, synced, renamed into place, and only then told to the journal, which is
//! synced too. Killed at any moment, the folder holds whole images; one that the journal does not
//! know is fetched again.

mod journal;
mod listing;
mod manifest;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use journal::{Journal, Line, State};
pub use listing::{Listed, Listing};
use manifest::List;

/// What the images' folder and the list of them are called.
pub const IMAGES: &str = "images";
/// The list.
pub const MANIFEST: &str = "manifest.csv";
const JOURNAL: &str = "pull.journal";
const UNFINISHED: &str = "unfinished";

/// One instance that is done with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// Its pseudonym.
    pub instance: String,
    /// Its series'.
    pub series: String,
    /// Its study's.
    pub study: String,
    /// Its patient's; empty for what has no pixels and is not kept.
    pub patient: String,
    /// Its patient's by the identifier alone, as a list of patients has it; empty likewise.
    pub person: String,
    /// Its modality.
    pub modality: String,
    /// Its label.
    pub label: String,
    /// The size of its file; none for what is not kept.
    pub bytes: Option<u64>,
}

/// How much is in the folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Holdings {
    /// Patients.
    pub patients: usize,
    /// Studies.
    pub studies: usize,
    /// Series.
    pub series: usize,
    /// Images.
    pub images: usize,
    /// Bytes of their files.
    pub bytes: u64,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another pull is at it.
    #[error("another pull writes to {}", .0.display())]
    Busy(PathBuf),
    /// It is not what we wrote.
    #[error("{} is damaged in line {line}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        line: usize,
    },
    /// It was laid out by another version of this program.
    #[error("{} was written by another version (layout {found}); use another folder", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// A list that does not say where its images are.
    #[error("expected a column \"path\" in {}, found none", .0.display())]
    NoColumn(PathBuf),
    /// It was filled under another secret: the same patient would have two pseudonyms.
    #[error("{} was filled under another pseudonym key; use another folder", .0.display())]
    AnotherKey(PathBuf),
}

/// An open folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    journal: Journal,
    state: State,
    /// Images that were taken away or cut since they were done: they come again, if their patients are
    /// asked for, and whose they are is known for the list.
    gone: BTreeMap<String, Done>,
    /// The patient of each series of which there is an image.
    patients: BTreeMap<String, String>,
}

/// An image that is being written.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    to: BufWriter<File>,
}

fn at<'p>(path: &'p Path) -> impl Fn(io::Error) -> StoreError + 'p {
    move |source| StoreError::Io { path: path.to_owned(), source }
}

/// Patients' images: for the owner and the group, whatever the system's default is.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o640);
    options
}

/// Makes durable which files a folder has.
fn sync(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(path)
}

impl Store {
    /// Opens or makes a folder; `mark` tells secrets apart.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(folder: &Path, mark: &str) -> Result<Self, StoreError> {
        let unfinished = folder.join(UNFINISHED);
        for path in [folder, &folder.join(IMAGES), &unfinished] {
            make_folder(path).map_err(at(path))?;
        }
        let mut journal = Journal::open(folder.join(JOURNAL), folder)?;
        for entry in fs::read_dir(&unfinished).map_err(at(&unfinished))? {
            let entry = entry.map_err(at(&unfinished))?;
            fs::remove_file(entry.path()).map_err(at(&unfinished))?;
        }
        let state = journal.read(mark)?;
        // A list that cannot be read is told of before anything is fetched for it.
        List::read(&folder.join(MANIFEST))?;
        let (gone, patients) = (BTreeMap::new(), BTreeMap::new());
        let mut store = Self { folder: folder.to_owned(), journal, state, gone, patients };
        store.forget_what_is_gone()?;
        for done in store.state.done.values().filter(|done| done.bytes.is_some()) {
            store.patients.insert(done.series.clone(), done.patient.clone());
        }
        Ok(store)
    }

    /// An image that was taken away or cut is not done. Its row stays: it comes again.
    fn forget_what_is_gone(&mut self) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        for (name, done) in &self.state.done {
            let Some(bytes) = done.bytes else { continue };
            let path = self.place(done);
            match fs::metadata(&path) {
                Ok(about) if about.is_file() && about.len() == bytes => {}
                Ok(_) => gone.push(name.clone()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => gone.push(name.clone()),
                Err(source) => return Err(StoreError::Io { path, source }),
            }
        }
        for name in gone {
            self.gone.extend(self.state.done.remove_entry(&name));
        }
        Ok(())
    }

    fn place(&self, done: &Done) -> PathBuf {
        self.folder.join(IMAGES).join(file_of(done))
    }

    /// Whether this instance is done with.
    #[must_use]
    pub fn has(&self, instance: &str) -> bool {
        self.state.done.contains_key(instance)
    }

    /// The patient of this series, if there is an image of it.
    #[must_use]
    pub fn patient_of(&self, series: &str) -> Option<&str> {
        self.patients.get(series).map(String::as_str)
    }

    /// Begins an image.
    ///
    /// # Errors
    /// The disk.
    pub fn draft(&self, instance: &str) -> Result<Draft, StoreError> {
        let path = self.folder.join(UNFINISHED).join(instance);
        let file = options().create(true).truncate(true).open(&path).map_err(at(&path))?;
        Ok(Draft { path, to: BufWriter::with_capacity(64 << 10, file) })
    }

    /// Puts an image into its place and journals it.
    ///
    /// # Errors
    /// The disk; then it is not done.
    pub fn keep(&mut self, draft: Draft, mut done: Done) -> Result<(), StoreError> {
        let Draft { path, to } = draft;
        let file = to.into_inner().map_err(|error| at(&path)(error.into_error()))?;
        file.sync_all().map_err(at(&path))?;
        done.bytes = Some(file.metadata().map_err(at(&path))?.len());
        let place = self.place(&done);
        let folder = place.parent().unwrap_or(&self.folder);
        if !folder.is_dir() {
            make_folder(folder).map_err(at(folder))?;
            sync(&self.folder.join(IMAGES))?;
        }
        fs::rename(&path, &place).map_err(at(&place))?;
        sync(folder)?;
        self.patients.insert(done.series.clone(), done.patient.clone());
        self.gone.remove(&done.instance);
        self.tell(vec![Line::Done(done)])
    }

    /// Journals an instance that is not kept and need not be fetched again.
    ///
    /// # Errors
    /// The disk.
    pub fn pass_over(&mut self, done: Done) -> Result<(), StoreError> {
        self.tell(vec![Line::Done(Done { bytes: None, ..done })])
    }

    fn tell(&mut self, lines: Vec<Line>) -> Result<(), StoreError> {
        self.journal.tell(lines, &mut self.state)
    }

    fn kept(&self) -> impl Iterator<Item = &Done> {
        self.state.done.values().filter(|done| done.bytes.is_some())
    }

    /// Throws away what was begun.
    pub fn discard(&self, draft: Draft) {
        // What cannot be removed now is removed at the next start.
        let _ = fs::remove_file(&draft.path);
    }

    /// Counts what is there.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        let kept = || self.kept();
        let count = |of: fn(&Done) -> &str| kept().map(of).collect::<BTreeSet<_>>().len();
        Holdings {
            patients: count(|done| &done.patient),
            studies: count(|done| &done.study),
            series: count(|done| &done.series),
            images: kept().count(),
            bytes: kept().filter_map(|done| done.bytes).sum(),
        }
    }

    /// Where the list is.
    #[must_use]
    pub fn manifest(&self) -> PathBuf {
        self.folder.join(MANIFEST)
    }
}

impl Draft {
    /// Where the image is written.
    pub const fn to(&mut self) -> &mut BufWriter<File> {
        &mut self.to
    }
}

/// Where an image is, below the images' folder.
fn file_of(done: &Done) -> PathBuf {
    folder_of(done).join(format!("{}.dcm", done.instance))
}

/// Where its series is.
fn folder_of(done: &Done) -> PathBuf {
    PathBuf::from(&done.series)
}

#[cfg(test)]
mod tests;
