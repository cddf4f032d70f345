//! What is durable about a folder: a line of JSON for each thing that is done, only ever appended to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Done, StoreError, at, options};

/// How folder and journal are laid out.
const VERSION: u32 = 2;
/// The longest line.
const LONGEST: usize = 4096;

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    consilium_pull: u32,
    key: String,
}

/// Every other line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(super) enum Line {
    /// An instance is done with.
    Done(Done),
    /// This image or series is in the list. Whether it stays there is a person's decision.
    Listed(String),
    /// It was taken out again, and not by a person.
    Unlisted(String),
}

/// What the lines come to.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) done: BTreeMap<String, Done>,
    /// Images and series that are or were in the list.
    pub(super) listed: BTreeSet<String>,
}

impl State {
    fn take(&mut self, line: Line) {
        match line {
            Line::Done(done) => {
                self.done.insert(done.instance.clone(), done);
            }
            Line::Listed(name) => {
                self.listed.insert(name);
            }
            Line::Unlisted(name) => {
                self.listed.remove(&name);
            }
        }
    }
}

/// The open journal. Who has it is alone with the folder.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    length: u64,
    /// Something else is behind them, and cannot be taken away.
    is_torn: bool,
}

impl Journal {
    /// Opens or begins one, and locks it.
    pub(super) fn open(path: PathBuf, folder: &Path) -> Result<Self, StoreError> {
        let file =
            options().read(true).create(true).truncate(false).open(&path).map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, file, length: 0, is_torn: false }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Busy(folder.to_owned())),
            Err(TryLockError::Error(source)) => Err(StoreError::Io { path, source }),
        }
    }

    /// Reads it and cuts off a line that was being written when something happened.
    pub(super) fn read(&mut self, mark: &str) -> Result<State, StoreError> {
        let Self { path, file, .. } = self;
        let mut state = State::default();
        let mut whole = 0;
        let mut reader = BufReader::new(&*file);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = reader.by_ref().take(LONGEST as u64).read_until(b'\n', &mut line);
            read.map_err(at(path))?;
            let damaged = || StoreError::Damaged { path: path.clone(), line: number };
            if line.last() != Some(&b'\n') {
                if line.len() == LONGEST {
                    return Err(damaged());
                }
                break;
            }
            if number == 1 {
                let head: Head = serde_json::from_slice(&line).map_err(|_| damaged())?;
                if head.consilium_pull != VERSION {
                    return Err(StoreError::Version {
                        path: path.clone(),
                        found: head.consilium_pull,
                    });
                }
                if head.key != mark {
                    return Err(StoreError::AnotherKey(path.clone()));
                }
            } else {
                state.take(serde_json::from_slice(&line).map_err(|_| damaged())?);
            }
            whole += line.len() as u64;
        }
        file.set_len(whole).map_err(at(path))?;
        self.length = file.seek(SeekFrom::End(0)).map_err(at(path))?;
        if whole == 0 {
            let head = Head { consilium_pull: VERSION, key: mark.to_owned() };
            self.append(&[head])?;
        }
        Ok(state)
    }

    /// Adds lines; they are durable when this returns.
    pub(super) fn tell(&mut self, lines: Vec<Line>, state: &mut State) -> Result<(), StoreError> {
        self.append(&lines)?;
        lines.into_iter().for_each(|line| state.take(line));
        Ok(())
    }

    fn append(&mut self, lines: &[impl Serialize]) -> Result<(), StoreError> {
        let cannot = at(&self.path);
        let mut text = Vec::new();
        for line in lines {
            let before = text.len();
            serde_json::to_writer(&mut text, line).map_err(|error| cannot(error.into()))?;
            text.push(b'\n');
            if text.len() - before > LONGEST {
                // It could not be read again.
                return Err(cannot(io::ErrorKind::InvalidData.into()));
            }
        }
        if self.is_torn {
            return Err(cannot(io::Error::other("an earlier line was cut short")));
        }
        if let Err(error) = self.file.write_all(&text).and_then(|()| self.file.sync_data()) {
            // What comes behind a piece of a line could not be told from damage.
            let taken_back = self.file.set_len(self.length);
            let back = taken_back.and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
            self.is_torn = back.is_err();
            return Err(cannot(error));
        }
        self.length += text.len() as u64;
        Ok(())
    }
}
