//! Lines that wait for a receiver, on disk.
//!
//! Frames are appended to numbered files, in the form in which they travel, and are durable before they
//! are sent; the place up to which they are delivered is a file of its own. A frame that a crash cut off
//! is dropped at the next start: whoever appended it was not told that it was kept. When there is no more
//! room, the oldest file goes.
//!
//! Files may be cut, spoilt or removed under the spool, by a failing disk or by a person. A place that is
//! not in the files delivers again what is there, and what can no longer be read is passed over; both
//! never stop what comes after. What is known to be lost is counted ([`Spool::lost`]).

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
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
    lost: u64,
    /// The newest file that has been counted as spoilt.
    spoilt: Option<u64>,
}

impl Spool {
    /// Opens a folder, making it if it is not there, for at most about so many bytes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(folder: &Path, room: u64) -> io::Result<Self> {
        make_folder(folder)?;
        let mut files = BTreeSet::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            files.extend(
                name.to_str().and_then(|name| name.strip_suffix(".spool")?.parse::<u64>().ok()),
            );
        }
        let mark = Mark::new(folder.join(PLACE));
        let [file, bytes] = mark.read()?;
        if !files.contains(&file) && files.last().is_none_or(|newest| *newest <= file) {
            // The number of a file that is gone is not used again: the place in it is another's.
            files.insert(file.saturating_add(1));
        }
        let newest = files.last().copied().unwrap_or_default();
        let mut open = appended(folder, newest)?;
        let mut held = Vec::new();
        open.seek(SeekFrom::Start(0))?;
        open.read_to_end(&mut held)?;
        let (whole, rest) = held.split_at(frames(&held).map(<[u8]>::len).sum());
        let (length, lost) = (whole.len() as u64, u64::from(!is_cut_off(rest)));
        open.set_len(length)?;
        let oldest = Place { file: files.first().copied().unwrap_or(newest), bytes: 0 };
        let folder = folder.to_owned();
        let mut spool =
            Self { folder, room, files, open, length, mark, delivered: oldest, lost, spoilt: None };
        if spool.files.contains(&file) {
            let bytes = if spool.has_frame_end(file, bytes)? { bytes } else { 0 };
            spool.delivered = Place { file, bytes };
        }
        // Noted now: a place that is behind today's files may lie within tomorrow's.
        if spool.delivered != (Place { file, bytes }) {
            spool.mark.note(&[spool.delivered.file, spool.delivered.bytes])?;
        }
        Ok(spool)
    }

    /// Whether so many bytes of a file are whole frames.
    fn has_frame_end(&self, file: u64, bytes: u64) -> io::Result<bool> {
        let held = self.read(file, 0, u64::MAX)?;
        let mut end = 0_u64;
        Ok(bytes == 0
            || frames(&held).any(|frame| {
                end = end.saturating_add(frame.len() as u64);
                end == bytes
            }))
    }

    /// Keeps a frame, durably.
    ///
    /// # Errors
    /// When the disk refuses; the frame is then not kept.
    pub fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        if frame.len() > MOST_FRAME {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let found = self.open.metadata()?;
        if found.nlink() == 0 || found.len() != self.length {
            // Somebody removed or cut it: what is appended there would never be found.
            self.roll()?;
        }
        let before = self.length;
        if let Err(fault) = self.open.write_all(frame).and_then(|()| self.open.sync_data()) {
            // Half a frame would spoil those after it.
            let _ = self.open.set_len(before);
            return Err(fault);
        }
        self.length = before.saturating_add(frame.len() as u64);
        if self.length >= self.room / FILES {
            self.roll()?;
        }
        self.make_room()
    }

    /// Begins the next file.
    fn roll(&mut self) -> io::Result<()> {
        make_folder(&self.folder)?;
        let next = self.files.last().copied().unwrap_or_default().saturating_add(1);
        self.open = appended(&self.folder, next)?;
        self.length = 0;
        self.files.insert(next);
        Ok(())
    }

    fn make_room(&mut self) -> io::Result<()> {
        while self.files.len() as u64 > FILES {
            let Some(oldest) = self.files.pop_first() else { break };
            if oldest >= self.delivered.file {
                let from = if oldest == self.delivered.file { self.delivered.bytes } else { 0 };
                let bytes = self.read(oldest, from, u64::MAX)?;
                self.lost = self.lost.saturating_add(frames(&bytes).count() as u64);
                self.delivered = Place { file: oldest.saturating_add(1), bytes: 0 };
            }
            self.remove(oldest)?;
        }
        Ok(())
    }

    /// How many frames were lost undelivered and are not owned up to, because there was no room or they
    /// could not be read any more; what is spoilt in a file counts as one.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// A frame could not be appended.
    pub const fn lose(&mut self) {
        self.lost = self.lost.saturating_add(1);
    }

    /// So many that were lost are owned up to.
    pub const fn owned_up(&mut self, lost: u64) {
        self.lost = self.lost.saturating_sub(lost);
    }

    /// The frames behind a place, or those that are not delivered where none is given: about `most`
    /// bytes of them and at least one, and the place behind them; none when there are no more.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn next(
        &mut self,
        most: usize,
        after: Option<Place>,
    ) -> io::Result<Option<(Vec<u8>, Place)>> {
        // What had to go meanwhile is behind.
        let mut at = after.map_or(self.delivered, |after| after.max(self.delivered));
        loop {
            let Place { file, bytes } = at;
            let most = most.max(MOST_FRAME + 16) as u64;
            let read = self.read(file, bytes, most)?;
            let whole: usize = frames(&read).map(<[u8]>::len).sum();
            if whole > 0 {
                let place = Place { file, bytes: bytes.saturating_add(whole as u64) };
                return Ok(Some((read[..whole].to_vec(), place)));
            }
            let Some(next) = self.files.range(file.saturating_add(1)..).next().copied() else {
                return Ok(None);
            };
            // Files that nothing is appended to have whole frames up to their end.
            let ended = read.is_empty() && bytes > 0 && self.length_of(file)? == Some(bytes);
            if !ended && self.files.contains(&file) && self.spoilt.is_none_or(|known| known < file)
            {
                self.spoilt = Some(file);
                self.lost = self.lost.saturating_add(1);
            }
            at = Place { file: next, bytes: 0 };
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
            self.remove(old)?;
            self.files.remove(&old);
        }
        Ok(())
    }

    /// A part of a file; nothing of one that is gone.
    fn read(&self, file: u64, from: u64, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut open = match File::open(path_of(&self.folder, file)) {
            Ok(open) => open,
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(bytes),
            Err(fault) => return Err(fault),
        };
        open.seek(SeekFrom::Start(from))?;
        open.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn length_of(&self, file: u64) -> io::Result<Option<u64>> {
        match fs::metadata(path_of(&self.folder, file)) {
            Ok(found) => Ok(Some(found.len())),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// One that is gone already is no error.
    fn remove(&self, file: u64) -> io::Result<()> {
        match fs::remove_file(path_of(&self.folder, file)) {
            Err(fault) if fault.kind() != io::ErrorKind::NotFound => Err(fault),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn path_of(folder: &Path, file: u64) -> PathBuf {
    folder.join(format!("{file:012}.spool"))
}

/// A file to append to; its name is as durable as what will be in it.
fn appended(folder: &Path, file: u64) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let open =
        options.read(true).append(true).create(true).mode(0o600).open(path_of(folder, file))?;
    File::open(folder)?.sync_all()?;
    Ok(open)
}

/// Whether bytes are nothing but the beginning of one frame.
fn is_cut_off(bytes: &[u8]) -> bool {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (length, rest) = bytes.split_at(digits);
    let length = std::str::from_utf8(length).ok().and_then(|length| length.parse::<usize>().ok());
    match rest {
        [] => length.is_none_or(|length| length <= MOST_FRAME),
        [b' ', begun @ ..] => {
            length.is_some_and(|length| length <= MOST_FRAME && begun.len() < length)
        }
        [..] => false,
    }
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
