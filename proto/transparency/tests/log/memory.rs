//! A disk in memory that can lose power: it knows which bytes and names were made durable, and after
//! a loss keeps those, and of the rest what chance decides.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use transparency::folder::{Disk, Source};

/// What a failing step has done before it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failing {
    /// Nothing.
    Before,
    /// Everything.
    After,
    /// Half of a write.
    Torn,
}

/// What is left after the machine stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aftermath {
    /// The process was killed; the machine went on.
    Killed,
    /// Power was lost, and everything that was not waited for with it.
    AllLost,
    /// Power was lost, and of what was not waited for chance kept some.
    SomeLost(u64),
}

#[derive(Clone, Debug)]
enum Change {
    Folder(String),
    Link(String, usize),
    Rename(String, String, usize),
    Unlink(String),
}

#[derive(Clone, Debug, Default)]
struct Names {
    folders: BTreeSet<String>,
    files: BTreeMap<String, usize>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes, and how many of them are durable.
    bytes: Vec<(Vec<u8>, bool)>,
    live: Names,
    durable: Names,
    /// Changes of names that nobody waited for, by folder.
    pending: Vec<(String, Change)>,
    steps: u64,
    fail_at: Option<(u64, Failing)>,
    stays_broken: bool,
    broken: bool,
}

/// A handle; clones see the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Rc<RefCell<State>>);

fn parent(path: &str) -> String {
    path.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned()
}

fn failed() -> io::Error {
    io::Error::other("injected")
}

impl Names {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Folder(path) => drop(self.folders.insert(path)),
            Change::Link(path, bytes) => drop(self.files.insert(path, bytes)),
            Change::Rename(from, to, bytes) => {
                self.files.remove(&from);
                self.files.insert(to, bytes);
            }
            Change::Unlink(path) => drop(self.files.remove(&path)),
        }
    }

    /// Whether every folder above a path is there.
    fn reaches(&self, path: &str) -> bool {
        path.match_indices('/').all(|(end, _)| self.folders.contains(&path[..end]))
    }
}

impl Memory {
    /// A disk that fails at this step; `stays_broken` says whether it fails at all later ones too.
    pub(crate) fn failing(at: u64, how: Failing, stays_broken: bool) -> Self {
        let disk = Self::default();
        disk.0.borrow_mut().fail_at = Some((at, how));
        disk.0.borrow_mut().stays_broken = stays_broken;
        disk
    }

    /// Makes a working disk fail at a later step, counted from now, and stay broken.
    pub(crate) fn fail_later(&self, after: u64, how: Failing) {
        let mut state = self.0.borrow_mut();
        state.fail_at = Some((state.steps + after, how));
        state.stays_broken = true;
    }

    pub(crate) fn steps(&self) -> u64 {
        self.0.borrow().steps
    }

    /// The same disk after the machine stopped, in working order.
    pub(crate) fn after(&self, what: Aftermath) -> Self {
        let state = self.0.borrow();
        let mut bytes = state.bytes.clone();
        if matches!(what, Aftermath::Killed) {
            // Nothing is lost, but nothing has become durable either.
            let (live, durable) = (state.live.clone(), state.durable.clone());
            let pending = state.pending.clone();
            return Self::of(State { bytes, live, durable, pending, ..State::default() });
        }
        let mut chance = match what {
            Aftermath::SomeLost(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            Aftermath::Killed | Aftermath::AllLost => 1,
        };
        let mut draw = move |of: usize| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            usize::try_from(chance >> 33).unwrap_or(0) % of
        };
        let some = matches!(what, Aftermath::SomeLost(_));
        let mut names = state.durable.clone();
        for (_, change) in &state.pending {
            if some && draw(2) == 0 {
                names.apply(change.clone());
            }
        }
        let there = names.clone();
        names.files.retain(|path, _| there.reaches(path));
        for (content, durable) in &mut bytes {
            if !*durable {
                content.truncate(if some { draw(content.len() + 1) } else { 0 });
            }
            *durable = true;
        }
        Self::of(State { bytes, live: names.clone(), durable: names, ..State::default() })
    }

    fn of(state: State) -> Self {
        Self(Rc::new(RefCell::new(state)))
    }

    /// A file's bytes, to be looked at.
    pub(crate) fn peek(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.0.borrow();
        state.live.files.get(path).map(|bytes| state.bytes[*bytes].0.clone())
    }

    /// Replaces a file's bytes behind the log's back; `None` removes it.
    pub(crate) fn tamper(&self, path: &str, content: Option<Vec<u8>>) {
        let mut state = self.0.borrow_mut();
        match content {
            Some(content) => {
                state.bytes.push((content, true));
                let bytes = state.bytes.len() - 1;
                state.live.files.insert(path.to_owned(), bytes);
            }
            None => drop(state.live.files.remove(path)),
        }
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.0.borrow().live.files.keys().cloned().collect()
    }

    /// A disk of its own with the same files.
    pub(crate) fn copy(&self) -> Self {
        self.after(Aftermath::Killed)
    }

    fn step(&self, effect: impl FnOnce(&mut State, bool)) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        if state.broken {
            return Err(failed());
        }
        let now = state.steps;
        state.steps += 1;
        let Some((_, how)) = state.fail_at.filter(|(at, _)| *at == now) else {
            effect(&mut state, false);
            return Ok(());
        };
        state.broken = state.stays_broken;
        match how {
            Failing::Before => {}
            Failing::After => effect(&mut state, false),
            Failing::Torn => effect(&mut state, true),
        }
        Err(failed())
    }
}

impl Source for Memory {
    fn read(&self, path: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        match self.peek(path) {
            Some(content) if content.len() > limit => {
                Err(io::Error::new(io::ErrorKind::FileTooLarge, "too large"))
            }
            found => Ok(found),
        }
    }

    fn list(&self, visit: &mut dyn FnMut(&str)) -> io::Result<bool> {
        self.paths().iter().for_each(|path| visit(path));
        Ok(true)
    }
}

impl Disk for Memory {
    fn lock(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        if !self.0.borrow().live.reaches(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // Creating the name and filling the file are steps of their own.
        let inode = RefCell::new(0);
        self.step(|state, _| {
            state.bytes.push((Vec::new(), false));
            let bytes = state.bytes.len() - 1;
            *inode.borrow_mut() = bytes;
            state.live.files.insert(path.to_owned(), bytes);
            state.pending.push((parent(path), Change::Link(path.to_owned(), bytes)));
        })?;
        let inode = inode.into_inner();
        self.step(|state, torn| {
            let length = if torn { content.len() / 2 } else { content.len() };
            state.bytes[inode] = (content[..length].to_vec(), !torn);
        })
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let bytes = self.0.borrow().live.files.get(from).copied();
        let bytes = bytes.ok_or(io::ErrorKind::NotFound)?;
        self.step(|state, _| {
            let change = Change::Rename(from.to_owned(), to.to_owned(), bytes);
            state.live.apply(change.clone());
            state.pending.push((parent(to), change));
        })
    }

    fn make_folder(&mut self, path: &str) -> io::Result<()> {
        if !self.0.borrow().live.reaches(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.step(|state, _| {
            if state.live.folders.insert(path.to_owned()) {
                state.pending.push((parent(path), Change::Folder(path.to_owned())));
            }
        })
    }

    fn sync_folder(&mut self, path: &str) -> io::Result<()> {
        self.step(|state, _| {
            let pending = std::mem::take(&mut state.pending);
            for (folder, change) in pending {
                if folder == path {
                    state.durable.apply(change);
                } else {
                    state.pending.push((folder, change));
                }
            }
        })
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        self.step(|state, _| {
            if state.live.files.remove(path).is_some() {
                state.pending.push((parent(path), Change::Unlink(path.to_owned())));
            }
        })
    }
}
