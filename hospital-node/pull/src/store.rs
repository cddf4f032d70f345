//! The folder that images are put into, and what makes a pull resumable.
//!
//! ```text
//! images/ab/ab12....dcm   an image; its name is its pseudonym
//! manifest.csv            every image with its patient's pseudonym and its label
//! pull.journal            what is done: a line of JSON for each instance, only ever appended to
//! unfinished/             what is being written; emptied at each start
//! ```
//!
//! A file is written beside, synced, renamed into place, and only then told to the journal, which is
//! synced too. Killed at any moment, the folder holds whole images; one that the journal does not
//! know is fetched again.

mod manifest;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{
    self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _,
};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What the images' folder and the list of them are called.
pub const IMAGES: &str = "images";
/// The list.
pub const MANIFEST: &str = "manifest.csv";
const JOURNAL: &str = "pull.journal";
const UNFINISHED: &str = "unfinished";
/// The longest line of the journal.
const LONGEST: u64 = 4096;

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
    /// Its modality.
    pub modality: String,
    /// Its label.
    pub label: String,
    /// The size of its file; none for what is not kept.
    pub bytes: Option<u64>,
}

/// The journal's first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    consilium_pull: u32,
    key: String,
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
    /// It was filled under another secret: the same patient would have two pseudonyms.
    #[error("{} was filled under another pseudonym key; use another folder", .0.display())]
    AnotherKey(PathBuf),
}

/// An open folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    journal: File,
    done: BTreeMap<String, Done>,
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
        let path = folder.join(JOURNAL);
        let mut journal =
            options().read(true).create(true).truncate(false).open(&path).map_err(at(&path))?;
        match journal.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Busy(folder.to_owned())),
            Err(TryLockError::Error(source)) => return Err(StoreError::Io { path, source }),
        }
        for entry in fs::read_dir(&unfinished).map_err(at(&unfinished))? {
            let entry = entry.map_err(at(&unfinished))?;
            fs::remove_file(entry.path()).map_err(at(&unfinished))?;
        }
        let done = read(&mut journal, &path, mark)?;
        let mut store = Self { folder: folder.to_owned(), journal, done };
        store.forget_what_is_gone()?;
        Ok(store)
    }

    /// An image that was taken away or cut is not done.
    fn forget_what_is_gone(&mut self) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        for (name, done) in &self.done {
            let Some(bytes) = done.bytes else { continue };
            let path = self.folder.join(IMAGES).join(file_of(name));
            match fs::metadata(&path) {
                Ok(about) if about.is_file() && about.len() == bytes => {}
                Ok(_) => gone.push(name.clone()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => gone.push(name.clone()),
                Err(source) => return Err(StoreError::Io { path, source }),
            }
        }
        for name in gone {
            self.done.remove(&name);
        }
        Ok(())
    }

    /// Whether this instance is done with.
    #[must_use]
    pub fn has(&self, instance: &str) -> bool {
        self.done.contains_key(instance)
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
        let place = self.folder.join(IMAGES).join(file_of(&done.instance));
        let folder = place.parent().unwrap_or(&self.folder);
        if !folder.is_dir() {
            make_folder(folder).map_err(at(folder))?;
            let images = self.folder.join(IMAGES);
            File::open(&images).and_then(|images| images.sync_all()).map_err(at(&images))?;
        }
        fs::rename(&path, &place).map_err(at(&place))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))?;
        self.tell(done)
    }

    /// Journals an instance that is not kept and need not be fetched again.
    ///
    /// # Errors
    /// The disk.
    pub fn pass_over(&mut self, done: Done) -> Result<(), StoreError> {
        self.tell(Done { bytes: None, ..done })
    }

    fn tell(&mut self, done: Done) -> Result<(), StoreError> {
        let path = self.folder.join(JOURNAL);
        append(&mut self.journal, &done).map_err(at(&path))?;
        self.done.insert(done.instance.clone(), done);
        Ok(())
    }

    /// Throws away what was begun.
    pub fn discard(&self, draft: Draft) {
        // What cannot be removed now is removed at the next start.
        let _ = fs::remove_file(&draft.path);
    }

    /// Counts what is there.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        let kept = || self.done.values().filter(|done| done.bytes.is_some());
        let count = |of: fn(&Done) -> &str| kept().map(of).collect::<BTreeSet<_>>().len();
        Holdings {
            patients: count(|done| &done.patient),
            studies: count(|done| &done.study),
            series: count(|done| &done.series),
            images: kept().count(),
            bytes: kept().filter_map(|done| done.bytes).sum(),
        }
    }

    /// Writes the list of all images; rows that are there already stay as they are, with whatever a
    /// person has written into them.
    ///
    /// # Errors
    /// The disk, or a list that is no CSV with a column `path` any more.
    pub fn write_manifest(&self) -> Result<PathBuf, StoreError> {
        let path = self.folder.join(MANIFEST);
        let kept = self.done.values().filter(|done| done.bytes.is_some());
        manifest::write(&path, &self.folder.join(UNFINISHED).join(MANIFEST), kept)?;
        Ok(path)
    }
}

impl Draft {
    /// Where the image is written.
    pub const fn to(&mut self) -> &mut BufWriter<File> {
        &mut self.to
    }
}

/// Where an image is, below the images' folder.
fn file_of(instance: &str) -> PathBuf {
    let group = instance.get(..2).unwrap_or("00");
    Path::new(group).join(format!("{instance}.dcm"))
}

fn append(journal: &mut File, line: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(line).map_err(io::Error::other)?;
    text.push(b'\n');
    journal.write_all(&text)?;
    journal.sync_data()
}

/// Reads the journal and cuts off a line that was being written when something happened.
fn read(journal: &mut File, path: &Path, mark: &str) -> Result<BTreeMap<String, Done>, StoreError> {
    let mut done = BTreeMap::new();
    let mut whole = 0;
    let mut reader = BufReader::new(&*journal);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        reader.by_ref().take(LONGEST).read_until(b'\n', &mut line).map_err(at(path))?;
        if line.last() != Some(&b'\n') {
            if line.len() as u64 == LONGEST {
                return Err(StoreError::Damaged { path: path.to_owned(), line: number });
            }
            break;
        }
        let damaged = |_| StoreError::Damaged { path: path.to_owned(), line: number };
        if number == 1 {
            let head: Head = serde_json::from_slice(&line).map_err(damaged)?;
            if head.consilium_pull != 1 || head.key != mark {
                return Err(StoreError::AnotherKey(path.to_owned()));
            }
        } else {
            let one: Done = serde_json::from_slice(&line).map_err(damaged)?;
            done.insert(one.instance.clone(), one);
        }
        whole += line.len() as u64;
    }
    journal.set_len(whole).map_err(at(path))?;
    journal.seek(SeekFrom::End(0)).map_err(at(path))?;
    if whole == 0 {
        let head = Head { consilium_pull: 1, key: mark.to_owned() };
        append(journal, &head).map_err(at(path))?;
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
