//! Prepared images on this house's own disk, so that a study that is opened again, or another that
//! wants its images alike, does not decode them again.
//!
//! An entry is found by the digest of the file it came from and of how it was prepared, and ends in a
//! digest of itself: a changed file, another study or a damaged disk only means decoding once more.
//!
//! Of a full folder goes what was used longest ago, but nothing that was used since it was opened: a study
//! that is larger than the folder would push out its own. What no study has asked for in a month goes
//! too, images of a patient who left with it, and what other versions and killed trainers have left. Several
//! trainers may share a folder, and it may be deleted at any time.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};

use super::sha256;
use super::shelf::Size;

/// Bytes of an entry besides its image: the pixels' digest and its own.
const AROUND: usize = 64;
/// Files of one folder that are looked at.
const MAX_ENTRIES: usize = 4_000_000;
/// How the name of an entry of any version begins.
const ENTRY: &str = "prepared-";
/// The same of this one. The number changes when images become something else than before.
const OURS: &str = concat!("prepared-3-", env!("CARGO_PKG_VERSION"), "-");
/// How a passing name begins.
const PASSING: &str = ".tmp";
/// Nobody writes on an entry for so long.
const WRITING: Duration = Duration::from_hours(1);
/// What was not asked for in this time goes.
const UNUSED: Duration = Duration::from_hours(30 * 24);
/// Room is made for such a part of the folder at once, for each time the whole of it is listed.
const PART: u64 = 16;

/// A folder of prepared images.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    most: u64,
    /// When it was opened, by the clock that its files have.
    opened: SystemTime,
    /// Bytes that may be written until the folder is listed again; none once all in it is in use.
    left: Mutex<Option<u64>>,
}

/// What is kept of one record.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The digest of its pixels.
    pub pixels: [u8; 32],
    /// The prepared image.
    pub image: Vec<f32>,
    /// The prepared mask; empty where the study wants none.
    pub mask: Vec<u8>,
}

impl Cache {
    /// Opens a folder, which is made if need be, and removes what is of no use any more, and the oldest
    /// entries beyond `most` bytes.
    ///
    /// # Errors
    /// When the folder cannot be made or listed.
    pub fn open(folder: &Path, most: u64) -> std::io::Result<Self> {
        make(folder)?;
        let clock = tempfile::tempfile_in(folder).and_then(|file| file.metadata()?.modified());
        // Without it everything counts as used.
        let opened = clock.unwrap_or(SystemTime::UNIX_EPOCH);
        let folder = folder.to_path_buf();
        let cache = Self { folder, most, opened, left: Mutex::new(None) };
        let left = cache.make_room(0, |_| true)?;
        Ok(Self { left: Mutex::new(Some(left)), ..cache })
    }

    /// Removes entries, the one that was used longest ago first, until there is room for so many bytes or
    /// the next may not go. Gives how many may be written until this is to be asked again, for others write
    /// here too.
    fn make_room(&self, wanted: u64, may_go: impl Fn(SystemTime) -> bool) -> std::io::Result<u64> {
        let mut entries = self.entries()?;
        entries.sort_unstable();
        let mut held: u64 = entries.iter().map(|(_, size, _)| size).sum();
        for (used, size, path) in entries {
            if held.saturating_add(wanted) <= self.most || !may_go(used) {
                break;
            }
            if is_removed(&path) {
                held -= size;
            }
        }
        Ok(self.most.saturating_sub(held).min(wanted.max(self.most / PART)))
    }

    /// When each entry was used, its size and where it is. What is of no use any more is removed.
    fn entries(&self) -> std::io::Result<Vec<(SystemTime, u64, PathBuf)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)?.take(MAX_ENTRIES) {
            // Another trainer may remove what is listed here.
            let Ok((about, entry)) = entry.and_then(|entry| Ok((entry.metadata()?, entry))) else {
                continue;
            };
            let Some(most) = most_idle(&entry.file_name()).filter(|_| about.is_file()) else {
                continue;
            };
            let used = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let idle = self.opened.duration_since(used).unwrap_or_default();
            if idle < most || !is_removed(&entry.path()) {
                entries.push((used, about.len(), entry.path()));
            }
        }
        Ok(entries)
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The bytes that it may hold.
    #[must_use]
    pub const fn most(&self) -> u64 {
        self.most
    }

    fn path(&self, file: &[u8; 32], how: &[u8; 32]) -> PathBuf {
        let digest = HEXLOWER.encode(&sha256(&[&file[..], how].concat()));
        self.folder.join([OURS, &digest].concat())
    }

    /// What was kept of a record that was prepared so, with an image of so many values and a mask of
    /// so many labels, if it is there and whole.
    #[must_use]
    pub fn get(
        &self,
        file: &[u8; 32],
        how: &[u8; 32],
        Size { values, labels }: Size,
    ) -> Option<Kept> {
        let most = (4 * values + labels + AROUND) as u64;
        let path = self.path(file, how);
        let bytes = super::read_at_most(&path, most).ok()?;
        let (body, digest) = bytes.split_last_chunk::<32>()?;
        let (pixels, prepared) = body.split_first_chunk::<32>()?;
        if prepared.len() != 4 * values + labels || sha256(body) != *digest {
            return None;
        }
        mark_used(&path);
        let (image, mask) = prepared.split_at(4 * values);
        let image = image.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value));
        Some(Kept { pixels: *pixels, image: image.collect(), mask: mask.to_vec() })
    }

    /// Keeps a prepared image if there is room. What cannot be written is decoded again instead.
    pub fn put(&self, file: &[u8; 32], how: &[u8; 32], kept: &Kept) {
        let Kept { pixels, image, mask } = kept;
        if !self.take((4 * image.len() + mask.len() + AROUND) as u64) {
            return;
        }
        let mut bytes = pixels.to_vec();
        bytes.extend(image.iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend_from_slice(mask);
        bytes.extend(sha256(&bytes));
        // Under a passing name until it is whole. What was not written is found out with the next listing.
        let scratch = tempfile::Builder::new().prefix(PASSING).tempfile_in(&self.folder);
        let _ = scratch.and_then(|mut scratch| {
            scratch.write_all(&bytes)?;
            scratch.persist(self.path(file, how)).map_err(|error| error.error)
        });
    }

    /// Takes so many bytes of the room that is left, and makes more where it must.
    fn take(&self, size: u64) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if size > self.most {
            return false;
        }
        if left.is_some_and(|left| left < size) {
            let made = self.make_room(size.max(self.most / PART), |used| used < self.opened);
            *left = made.ok().filter(|made| *made >= size);
        }
        let Some(rest) = left.and_then(|left| left.checked_sub(size)) else { return false };
        *left = Some(rest);
        true
    }
}

/// For how long a file with this name is of use though nobody touches it; none for what is not ours.
fn most_idle(name: &OsStr) -> Option<Duration> {
    let name = name.to_str()?;
    // Before entries said by what they were made, their names were digests.
    let is_digest = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if name.starts_with(OURS) {
        Some(UNUSED)
    } else if name.starts_with(PASSING) {
        Some(WRITING)
    } else {
        (is_digest || name.starts_with(ENTRY)).then_some(Duration::ZERO)
    }
}

/// Removes a file; whether it is gone, through us or another trainer.
fn is_removed(path: &Path) -> bool {
    match fs::remove_file(path) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// When an entry was used is when it was written. Where that cannot be marked it goes before its time.
fn mark_used(path: &Path) {
    let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    let times = Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
    let _ = utimensat(CWD, path, &times, AtFlags::empty());
}

/// Images of patients: nobody else on the machine may read them.
#[cfg(unix)]
fn make(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_comes_back_unless_anything_differs() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let cache = Cache::open(&folder.path().join("cache"), 1 << 20).expect("a new folder");
        let image = vec![0.5, -1.0, f32::MIN_POSITIVE];
        let kept = Kept { pixels: [3; 32], image, mask: vec![7, 8] };
        cache.put(&[1; 32], &[2; 32], &kept);
        assert_eq!(cache.get(&[1; 32], &[2; 32], Size { values: 3, labels: 2 }), Some(kept));
        assert_eq!(cache.get(&[1; 32], &[2; 32], Size { values: 2, labels: 2 }), None);
        assert_eq!(cache.get(&[1; 32], &[2; 32], Size { values: 3, labels: 0 }), None);
        assert_eq!(cache.get(&[9; 32], &[2; 32], Size { values: 3, labels: 2 }), None);
        assert_eq!(cache.get(&[1; 32], &[9; 32], Size { values: 3, labels: 2 }), None);
        let entry = cache.path(&[1; 32], &[2; 32]);
        let mut bytes = fs::read(&entry).expect("written");
        bytes[40] ^= 1;
        fs::write(&entry, bytes).expect("damaged");
        assert_eq!(cache.get(&[1; 32], &[2; 32], Size { values: 3, labels: 2 }), None);
    }

    /// An entry of 100 bytes.
    fn small() -> Kept {
        Kept { pixels: [0; 32], image: vec![0.0; 9], mask: Vec::new() }
    }

    fn put_small(cache: &Cache, file: u8) {
        cache.put(&[file; 32], &[0; 32], &small());
    }

    fn has_small(cache: &Cache, file: u8) -> bool {
        cache.get(&[file; 32], &[0; 32], Size { values: 9, labels: 0 }).is_some()
    }

    /// As if nobody had touched a file for so long.
    fn age(file: &Path, by: Duration) {
        let file = fs::File::options().write(true).open(file).expect("it is there");
        let written = file.metadata().and_then(|about| about.modified()).expect("a time");
        file.set_modified(written - by).expect("set");
    }

    fn size(folder: &Path) -> u64 {
        let entries = fs::read_dir(folder).expect("listed");
        entries.map(|entry| entry.and_then(|e| e.metadata()).expect("there").len()).sum()
    }

    #[test]
    fn the_folder_stays_within_its_size() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let cache = Cache::open(folder.path(), 500).expect("there");
        for file in 0..20 {
            put_small(&cache, file);
        }
        assert_eq!(size(folder.path()), 500);
        drop(cache);
        let smaller = Cache::open(folder.path(), 250).expect("there");
        assert_eq!(size(folder.path()), 200);
        put_small(&smaller, 77);
        assert!(size(folder.path()) <= 250);
    }

    #[test]
    fn a_full_folder_keeps_what_is_newest_and_what_was_used_since_it_was_opened() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let first = Cache::open(folder.path(), 500).expect("there");
        for (file, minutes) in (0..5).zip([50, 40, 30, 20, 10]) {
            put_small(&first, file);
            age(&first.path(&[file; 32], &[0; 32]), Duration::from_mins(minutes));
        }
        let second = Cache::open(folder.path(), 500).expect("there");
        assert!(has_small(&second, 1));
        for file in 10..20 {
            put_small(&second, file);
            assert!(size(folder.path()) <= 500);
        }
        let kept: Vec<u8> = (0..20).filter(|file| has_small(&second, *file)).collect();
        assert_eq!(kept, [1, 10, 11, 12, 13]);
        // The first trainer misses what the second has removed, and no more than that.
        assert!(!has_small(&first, 0));
        put_small(&first, 0);
    }

    #[test]
    fn what_is_of_no_use_any_more_goes_and_what_is_not_ours_stays() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let (hour, month) = (Duration::from_hours(1), Duration::from_hours(31 * 24));
        let now = Duration::ZERO;
        let digest = "ab".repeat(32);
        let ours = [OURS, &digest].concat();
        for (name, age_of, stays) in [
            (digest.as_str(), now, false),
            ("prepared-2-0.0.1-ab", now, false),
            (".tmpab", 2 * hour, false),
            (".tmpcd", now, true),
            (ours.as_str(), 2 * hour, true),
            (ours.as_str(), month, false),
            ("notes.txt", month, true),
        ] {
            let file = folder.path().join(name);
            fs::write(&file, "text").expect("written");
            age(&file, age_of);
            Cache::open(folder.path(), 500).expect("there");
            assert_eq!(file.exists(), stays, "{name}");
        }
    }

    #[test]
    fn what_another_trainer_has_removed_is_gone() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        assert!(is_removed(&folder.path().join("gone")));
        assert!(!is_removed(folder.path()));
    }
}
