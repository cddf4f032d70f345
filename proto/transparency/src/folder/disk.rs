//! What a log needs of a disk, small enough that a test can stand in for it and fail at each step.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Where a log is read from. Paths are relative, with slashes.
pub trait Source {
    /// A file's bytes; `None` when there is no such file.
    ///
    /// # Errors
    /// The disk's own, a file of more than `limit` bytes, and what is no regular file
    /// ([`io::ErrorKind::Unsupported`]).
    fn read(&self, path: &str, limit: usize) -> io::Result<Option<Vec<u8>>>;

    /// Tells every file's path, in any order. `Ok(false)` when this source cannot list its files.
    ///
    /// # Errors
    /// The disk's own.
    fn list(&self, visit: &mut dyn FnMut(&str)) -> io::Result<bool>;
}

impl<S: Source + ?Sized> Source for &S {
    fn read(&self, path: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        (**self).read(path, limit)
    }

    fn list(&self, visit: &mut dyn FnMut(&str)) -> io::Result<bool> {
        (**self).list(visit)
    }
}

/// Where a log is written to. Each step may fail, or the machine may stop in it.
pub trait Disk: Source {
    /// Keeps other writers out for as long as this value lives, however the process ends.
    ///
    /// # Errors
    /// When another process writes to this log.
    fn lock(&mut self) -> io::Result<()>;

    /// Creates or replaces a file and waits until its bytes are durable. Its name need not be.
    ///
    /// # Errors
    /// The disk's own; the file may then hold anything.
    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// Gives a file another name in the same folder, in one step, replacing the file of that name.
    ///
    /// # Errors
    /// The disk's own.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Creates a folder within an existing one. One that is there already is no error.
    ///
    /// # Errors
    /// The disk's own.
    fn make_folder(&mut self, path: &str) -> io::Result<()>;

    /// Waits until the names in a folder are durable; the empty path is the log itself.
    ///
    /// # Errors
    /// The disk's own.
    fn sync_folder(&mut self, path: &str) -> io::Result<()>;

    /// Removes a file. One that is not there is no error.
    ///
    /// # Errors
    /// The disk's own.
    fn remove(&mut self, path: &str) -> io::Result<()>;
}

/// A folder of this machine.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    locked: Option<File>,
}

/// A child that is about to become another program holds the lock with us until it is; ours is ours to end.
impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(lock) = &self.locked {
            // It ends with the last who has the file in any case.
            let _ = lock.unlock();
        }
    }
}

impl Folder {
    /// A folder that is there.
    ///
    /// # Errors
    /// When it is not.
    pub fn open(root: &Path) -> io::Result<Self> {
        if fs::metadata(root)?.is_dir() {
            Ok(Self { root: root.to_owned(), locked: None })
        } else {
            Err(io::Error::new(io::ErrorKind::NotADirectory, "expected a folder"))
        }
    }

    /// A folder that is made if it is not there.
    ///
    /// # Errors
    /// The disk's own.
    pub fn create(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        Self::open(root)
    }

    fn walk(&self, at: &str, visit: &mut dyn FnMut(&str)) -> io::Result<()> {
        let named = |error: io::Error| {
            let at = if at.is_empty() { "." } else { at };
            io::Error::new(error.kind(), format!("{at}: {error}"))
        };
        for entry in fs::read_dir(self.root.join(at)).map_err(named)? {
            let entry = entry.map_err(named)?;
            let name = entry.file_name();
            // A name that is not UTF-8 is no file of a log; it is told in a readable form.
            let name = name.to_string_lossy();
            let path = if at.is_empty() { name.into_owned() } else { format!("{at}/{name}") };
            // A link is told, not followed.
            if entry.file_type()?.is_dir() {
                self.walk(&path, visit)?;
            } else {
                visit(&path);
            }
        }
        Ok(())
    }
}

impl Source for Folder {
    fn read(&self, path: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        let path = self.root.join(path);
        // Asked before it is opened: of a pipe that nobody writes to, opening it never ends.
        let file = match fs::metadata(&path) {
            Ok(found) if found.is_file() => File::open(path)?,
            Ok(_) => {
                let message = "expected a regular file, found something else";
                return Err(io::Error::new(io::ErrorKind::Unsupported, message));
            }
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        let most = u64::try_from(limit).map_or(u64::MAX, |limit| limit.saturating_add(1));
        file.take(most).read_to_end(&mut bytes)?;
        if bytes.len() > limit {
            let message = format!("expected at most {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(Some(bytes))
    }

    fn list(&self, visit: &mut dyn FnMut(&str)) -> io::Result<bool> {
        self.walk("", visit)?;
        Ok(true)
    }
}

impl Disk for Folder {
    fn lock(&mut self) -> io::Result<()> {
        if self.locked.is_some() {
            return Ok(());
        }
        let file = File::create(self.root.join(super::LOCK))?;
        match file.try_lock() {
            Ok(()) => {
                self.locked = Some(file);
                Ok(())
            }
            Err(TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "expected to be the only writer of this log",
            )),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(self.root.join(path))?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn make_folder(&mut self, path: &str) -> io::Result<()> {
        match fs::create_dir(self.root.join(path)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done,
        }
    }

    fn sync_folder(&mut self, path: &str) -> io::Result<()> {
        match File::open(self.root.join(path)) {
            // Its last file took the folder along, which is a name in the one above.
            Err(error) if absent(&error) && !path.is_empty() => {
                self.sync_folder(path.rsplit_once('/').map_or("", |(above, _)| above))
            }
            folder => folder?.sync_all(),
        }
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        match fs::remove_file(self.root.join(path)) {
            Err(error) if absent(&error) => return Ok(()),
            done => done?,
        }
        // The last partial tile leaves no empty folder behind; one that is not empty stays.
        if let Some((folder, _)) =
            path.rsplit_once('/').filter(|(folder, _)| folder.ends_with(".p"))
        {
            let _ = fs::remove_dir(self.root.join(folder));
        }
        Ok(())
    }
}

/// Whether an error says that there is no such file.
fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_folder_reads_what_it_wrote_within_the_limit() {
        let root = tempfile::tempdir().expect("a scratch folder");
        let mut folder = Folder::create(&root.path().join("log")).expect("a new folder");
        assert_eq!(folder.read("a/b", 9).expect("no such file"), None);
        folder.make_folder("a").expect("made");
        folder.make_folder("a").expect("there already");
        folder.write("a/b.tmp", b"four").expect("written");
        folder.rename("a/b.tmp", "a/b").expect("renamed");
        folder.sync_folder("a").expect("synced");
        folder.sync_folder("").expect("synced");
        assert_eq!(folder.read("a/b", 4).expect("read"), Some(b"four".to_vec()));
        assert_eq!(
            folder.read("a/b", 3).expect_err("too long").kind(),
            io::ErrorKind::FileTooLarge
        );
        assert_eq!(folder.read("a/b/c", 3).expect("below a file"), None);
        let mut paths = Vec::new();
        assert!(folder.list(&mut |path| paths.push(path.to_owned())).expect("listed"));
        assert_eq!(paths, ["a/b"]);
        // A crash may leave nothing in a folder of partial tiles but a file that is to be removed.
        folder.make_folder("a/c.p").expect("made");
        folder.write("a/c.p/1.tmp", b"half").expect("written");
        folder.remove("a/c.p/1.tmp").expect("removed, and the folder with it");
        folder.sync_folder("a/c.p").expect("the one above is synced");
        folder.remove("a/b").expect("removed");
        folder.remove("a/b").expect("not there");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let root = tempfile::tempdir().expect("a scratch folder");
        let folder = Folder::open(root.path()).expect("it is there");
        fs::create_dir(root.path().join("folder")).expect("made");
        let pipe = Command::new("mkfifo").arg(root.path().join("pipe")).status();
        let pipe = pipe.is_ok_and(|made| made.success());
        for path in ["folder", "pipe"].iter().take(1 + usize::from(pipe)) {
            let refused = folder.read(path, 9).expect_err(path);
            assert_eq!(refused.kind(), io::ErrorKind::Unsupported, "{path}: {refused}");
        }
    }

    #[test]
    fn a_second_writer_is_kept_out() {
        let root = tempfile::tempdir().expect("a scratch folder");
        let [mut one, mut other] =
            [(); 2].map(|()| Folder::open(root.path()).expect("it is there"));
        one.lock().expect("the only writer");
        one.lock().expect("still the only writer");
        assert!(other.lock().is_err());
        drop(one);
        other.lock().expect("the only writer now");
        assert!(Folder::open(&root.path().join("nowhere")).is_err());
    }
}
