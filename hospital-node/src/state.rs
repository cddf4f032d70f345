//! The state folder: what lies in it, who may read it, and how a file in it is replaced so that a
//! crash leaves the old one or the new one.
//!
//! When [`State::open`] returns, the folder is there, belongs to nobody else and has mode 0700.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use proto::cli::Failure;

/// Mode bits that nobody but the owner may have.
pub(crate) const OTHERS: u32 = 0o077;

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk, or the rights on it, said no.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another `hospital-node run` is at work here.
    #[error("another hospital-node is running on {}", .0.display())]
    Busy(PathBuf),
}

impl StateError {
    /// For `map_err`: what was tried, on what.
    pub fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let (code, hint) = match &error {
            StateError::Busy(_) => {
                ("already_running", "stop it first, or use another state folder")
            }
            StateError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                ("disk_full", "free some space in the state folder's file system")
            }
            StateError::Io { .. } => {
                ("state_folder", "check the owner and the mode of the state folder")
            }
        };
        Self::failed(code, error.to_string()).hint(hint)
    }
}

/// The folder of one hospital's agent.
#[derive(Clone, Debug)]
pub(crate) struct State {
    root: PathBuf,
}

impl State {
    /// Makes the folder where it is missing, and takes away what others could do in it.
    ///
    /// # Errors
    /// When it cannot be made, or is not ours to change.
    pub(crate) fn open(root: &Path) -> Result<Self, StateError> {
        make_private(root)?;
        let state = Self { root: root.to_owned() };
        make_private(&state.work())?;
        Ok(state)
    }

    /// Names the folder without touching it.
    #[must_use]
    pub(crate) fn unopened(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The folder itself.
    #[must_use]
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Models and updates of open rounds.
    #[must_use]
    pub(crate) fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// The journal's database.
    #[must_use]
    pub(crate) fn journal(&self) -> PathBuf {
        self.root.join("journal.sqlite")
    }

    /// A file of the folder.
    #[must_use]
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Holds the folder for one daemon until the returned file is dropped.
    ///
    /// # Errors
    /// When another one holds it.
    pub(crate) fn lock(&self) -> Result<File, StateError> {
        let path = self.file("lock");
        let file = private()
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StateError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(StateError::Busy(self.root.clone())),
            Err(fs::TryLockError::Error(source)) => Err(StateError::io("lock", &path)(source)),
        }
    }

    /// Replaces a file of the folder, mode 0600, durably.
    ///
    /// # Errors
    /// When the disk says no; then the old content is still there.
    pub(crate) fn replace(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        replace(&self.file(name), content)
    }

    /// Makes a file of the folder, mode 0600, durably; one that is there already stays as it is.
    ///
    /// # Errors
    /// When the disk says no; then there is no file.
    pub(crate) fn create(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.file(name);
        let beside = self.file(&format!("{name}.{}.new", std::process::id()));
        replace(&beside, content)?;
        // A link, unlike a rename, does not replace; and it appears whole.
        let linked = fs::hard_link(&beside, &path);
        let removed = fs::remove_file(&beside);
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => removed.and_then(|()| sync_folder_of(&path)),
        }
        .map_err(StateError::io("make", &path))
    }

    /// The content of a file of the folder; `None` when it is not there.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.file(name);
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError::io("read", &path)(error)),
        }
    }
}

/// Options for a file that only we may read.
#[must_use]
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

/// Makes a folder with mode 0700, or gives it that mode.
///
/// # Errors
/// When it cannot be made or is not ours to change.
pub(crate) fn make_private(path: &Path) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(StateError::io("make the folder", path))?;
    let mode = fs::metadata(path).map_err(StateError::io("read", path))?.permissions().mode();
    if mode & OTHERS != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(StateError::io("set mode 0700 on", path))?;
    }
    Ok(())
}

/// Writes beside the file, syncs, renames, syncs the folder.
///
/// # Errors
/// When any of the steps fails; then the old content is still there.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let write = || {
        let mut file = private().create(true).truncate(true).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sync_folder_of(path)
    };
    write().map_err(StateError::io("write", path))
}

/// Makes a rename or a removal in the file's folder durable.
///
/// # Errors
/// The disk's own.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_folder_that_we_are_in_has_a_folder_too() {
        sync_folder_of(Path::new("node.toml")).expect("the current folder");
    }

    #[test]
    fn the_folder_and_its_files_are_ours_alone() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let root = scratch.path().join("a/state");
        fs::create_dir_all(&root).expect("made");
        fs::set_permissions(&root, Permissions::from_mode(0o755)).expect("opened to all");
        let state = State::open(&root).expect("ours");
        state.replace("secret", b"1").expect("written");
        state.replace("secret", b"2").expect("replaced");
        assert_eq!(state.read("secret").expect("readable"), Some(b"2".to_vec()));
        assert_eq!(state.read("other").expect("absent"), None);
        for (path, mode) in
            [(root.clone(), 0o700), (state.work(), 0o700), (state.file("secret"), 0o600)]
        {
            let found = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
            assert_eq!(found, mode, "{}", path.display());
        }
    }

    #[test]
    fn two_daemons_do_not_share_a_folder() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let state = State::open(scratch.path()).expect("ours");
        let held = state.lock().expect("first");
        assert!(matches!(state.lock(), Err(StateError::Busy(_))));
        drop(held);
        state.lock().expect("free again");
    }
}
