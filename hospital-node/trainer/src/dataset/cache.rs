//! Prepared images on this house's own disk, so that a study that is opened again, or another that
//! wants its images alike, does not decode them again.
//!
//! An entry is found by the digest of the file it came from and of how it was prepared, and ends in a
//! digest of itself: a changed file, another study or a damaged disk only means decoding once more.
//! The oldest go when the folder is full. It may be deleted at any time.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use data_encoding::HEXLOWER;

use super::sha256;
use super::shelf::Size;

/// Bytes of an entry besides its image: the pixels' digest and its own.
const AROUND: usize = 64;
/// Entries of one folder that are counted at its opening.
const MAX_ENTRIES: usize = 4_000_000;

/// A folder of prepared images.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    most: u64,
    held: AtomicU64,
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
    /// Opens a folder, which is made if need be, and removes the oldest entries beyond `most` bytes.
    ///
    /// # Errors
    /// When the folder cannot be made or listed.
    pub fn open(folder: &Path, most: u64) -> std::io::Result<Self> {
        make(folder)?;
        let mut entries: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(folder)?.take(MAX_ENTRIES) {
            let entry = entry?;
            let about = entry.metadata()?;
            if about.is_file() {
                let written = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                entries.push((written, about.len(), entry.path()));
            }
        }
        entries.sort_unstable();
        let mut held: u64 = entries.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in entries {
            if held <= most {
                break;
            }
            fs::remove_file(path)?;
            held -= size;
        }
        Ok(Self { folder: folder.to_path_buf(), most, held: AtomicU64::new(held) })
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
        self.folder.join(HEXLOWER.encode(&sha256(&[&file[..], how].concat())))
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
        let bytes = super::read_at_most(&self.path(file, how), most).ok()?;
        let (body, digest) = bytes.split_last_chunk::<32>()?;
        let (pixels, prepared) = body.split_first_chunk::<32>()?;
        if prepared.len() != 4 * values + labels || sha256(body) != *digest {
            return None;
        }
        let (image, mask) = prepared.split_at(4 * values);
        let image = image.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value));
        Some(Kept { pixels: *pixels, image: image.collect(), mask: mask.to_vec() })
    }

    /// Keeps a prepared image while there is room. What cannot be written is decoded again instead.
    pub fn put(&self, file: &[u8; 32], how: &[u8; 32], kept: &Kept) {
        let Kept { pixels, image, mask } = kept;
        let size = (4 * image.len() + mask.len() + AROUND) as u64;
        if self.held.fetch_add(size, Ordering::Relaxed) + size > self.most {
            self.held.fetch_sub(size, Ordering::Relaxed);
            return;
        }
        let mut bytes = pixels.to_vec();
        bytes.extend(image.iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend_from_slice(mask);
        bytes.extend(sha256(&bytes));
        // Under a passing name until it is whole.
        let written = tempfile::NamedTempFile::new_in(&self.folder).and_then(|mut scratch| {
            scratch.write_all(&bytes)?;
            scratch.persist(self.path(file, how)).map_err(|error| error.error)
        });
        if written.is_err() {
            self.held.fetch_sub(size, Ordering::Relaxed);
        }
    }
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

    #[test]
    fn the_folder_stays_within_its_size() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let size = || {
            let entries = fs::read_dir(folder.path()).expect("listed");
            entries.map(|entry| entry.and_then(|e| e.metadata()).expect("there").len()).sum::<u64>()
        };
        let cache = Cache::open(folder.path(), 500).expect("there");
        let kept = |values| Kept { pixels: [0; 32], image: vec![0.0; values], mask: Vec::new() };
        for file in 0..20 {
            cache.put(&[file; 32], &[0; 32], &kept(9));
        }
        assert_eq!(size(), 500);
        drop(cache);
        let smaller = Cache::open(folder.path(), 250).expect("there");
        assert_eq!(size(), 200);
        smaller.put(&[77; 32], &[0; 32], &kept(1));
        assert!(size() <= 250);
    }
}
