//! Lines that wait for a receiver, on disk.
//!
//! Frames are appended to numbered files, in the form in which they travel; the place up to which they
//! are delivered is a file of its own. A frame that a crash cut off is dropped at the next start:
//! whoever appended it was not told that it was kept. When there is no more room, the oldest file goes.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::Mark;

const PLACE: &str = "delivered";
/// Files that the room is divided into: so much of it may be lost at once.
const FILES: u64 = 16;
/// Longest frame: what a line can have, several times over.
const MOST_FRAME: usize = 64 * 1024;

/// Up to where frames are delivered: which file, and how many bytes of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    file: u64,
    bytes: u64,
}

/// The folder.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    room: u64,
    files: BTreeSet<u64>,
    /// The newest file, and how long it is.
    open: File,
    length: u64,
    mark: Mark,
    delivered: Place,
}

impl Spool {
    /// Opens a folder, making it if it is not there, for at most about so many bytes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(folder: &Path, room: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut files = BTreeSet::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            files.extend(
                name.to_str().and_then(|name| name.strip_suffix(".spool")?.parse::<u64>().ok()),
            );
        }
        let mark = Mark::new(folder.join(PLACE));
        let [file, bytes] = mark.read()?;
        let delivered = Place { file, bytes };
        let newest = files.last().copied().unwrap_or(delivered.file);
        files.insert(newest);
        let mut open = appended(&path_of(folder, newest))?;
        let whole = whole_frames(&mut open)?;
        open.set_len(whole)?;
        let delivered = Place { file: delivered.file.min(newest), ..delivered };
        let folder = folder.to_owned();
        Ok(Self { folder, room, files, open, length: whole, mark, delivered })
    }

    /// Keeps a frame; gives how many had to go for it that were not delivered.
    ///
    /// # Errors
    /// When the disk refuses; the frame is then not kept.
    pub fn append(&mut self, frame: &[u8]) -> io::Result<u64> {
        if frame.len() > MOST_FRAME {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let before = self.length;
        if let Err(fault) = self.open.write_all(frame) {
            // Half a frame would spoil those after it.
            let _ = self.open.set_len(before);
            return Err(fault);
        }
        self.length = before.saturating_add(frame.len() as u64);
        if self.length >= self.room / FILES {
            let next = self.files.last().copied().unwrap_or_default().saturating_add(1);
            self.open = appended(&path_of(&self.folder, next))?;
            self.length = 0;
            self.files.insert(next);
        }
        self.make_room()
    }

    fn make_room(&mut self) -> io::Result<u64> {
        let mut lost = 0;
        while self.files.len() as u64 > FILES {
            let Some(oldest) = self.files.pop_first() else { break };
            if oldest >= self.delivered.file {
                let from = if oldest == self.delivered.file { self.delivered.bytes } else { 0 };
                let bytes = self.read(oldest, from, u64::MAX)?;
                lost += frames(&bytes).count() as u64;
                self.delivered = Place { file: oldest.saturating_add(1), bytes: 0 };
            }
            fs::remove_file(path_of(&self.folder, oldest))?;
        }
        Ok(lost)
    }

    /// Frames that are not delivered, about `most` bytes of them and at least one, and the place behind
    /// them; none when all are.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn next(&mut self, most: usize) -> io::Result<Option<(Vec<u8>, Place)>> {
        loop {
            let Place { file, bytes } = self.delivered;
            let most = most.max(MOST_FRAME + 16) as u64;
            let read =
                if self.files.contains(&file) { self.read(file, bytes, most)? } else { Vec::new() };
            let whole: usize = frames(&read).map(<[u8]>::len).sum();
            if whole > 0 {
                let place = Place { file, bytes: bytes.saturating_add(whole as u64) };
                return Ok(Some((read[..whole].to_vec(), place)));
            }
            let Some(next) = self.files.range(file.saturating_add(1)..).next() else {
                return Ok(None);
            };
            self.delivered = Place { file: *next, bytes: 0 };
        }
    }

    /// Everything before this place is delivered.
    ///
    /// # Errors
    /// When the disk refuses; then it is delivered again after a restart.
    pub fn delivered(&mut self, place: Place) -> io::Result<()> {
        // What had to go meanwhile is behind.
        self.delivered = self.delivered.max(place);
        let Place { file, bytes } = self.delivered;
        self.mark.note(&[file, bytes])?;
        for old in self.files.range(..file).copied().collect::<Vec<_>>() {
            fs::remove_file(path_of(&self.folder, old))?;
            self.files.remove(&old);
        }
        Ok(())
    }

    fn read(&self, file: u64, from: u64, most: u64) -> io::Result<Vec<u8>> {
        let mut open = File::open(path_of(&self.folder, file))?;
        open.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        open.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

fn path_of(folder: &Path, file: u64) -> PathBuf {
    folder.join(format!("{file:012}.spool"))
}

fn appended(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

/// The length of a file's whole frames.
fn whole_frames(file: &mut File) -> io::Result<u64> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(frames(&bytes).map(|frame| frame.len() as u64).sum())
}

/// The whole frames at the beginning of some bytes, each with its length in front.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let digits = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(bytes.get(..digits)?).ok()?.parse().ok()?;
        let end = digits.checked_add(1)?.checked_add(length)?;
        let (frame, rest) = bytes.split_at_checked(end)?;
        bytes = rest;
        Some(frame)
    })
}
