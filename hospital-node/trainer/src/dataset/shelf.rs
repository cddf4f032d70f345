//! The prepared records of an open data set, one behind the other in a file without a name: in memory
//! while they fit there, else on this house's own disk, which the system keeps in what memory is free.
//! The file is gone with the process, however that ends.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use rustix::io::Errno;

use super::DatasetError;
use super::cache::Cache;

/// What the system calls the file of a shelf in memory.
const NAME: &str = "prepared images";

/// Where prepared records may lie.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    /// Bytes in memory.
    pub memory: u64,
    /// A folder, and as many bytes as it may have of prepared images.
    pub disk: Option<&'a Cache>,
}

impl Room<'_> {
    /// A shelf for so many records, beside another one if there is one that takes of the same room.
    ///
    /// # Errors
    /// When there is no room for them, or the disk does not have what it was to have.
    pub(crate) fn shelf(
        &self,
        records: usize,
        size: Size,
        beside: Option<&Shelf>,
    ) -> Result<Shelf, DatasetError> {
        let needed = (size.bytes() as u64).saturating_mul(records as u64);
        let taken =
            |on_disk| beside.filter(|other| other.on_disk == on_disk).map_or(0, Shelf::bytes);
        let memory = self.memory.saturating_sub(taken(false));
        let disk = self.disk.map_or(0, Cache::most).saturating_sub(taken(true));
        if needed <= memory {
            return Shelf::in_memory(size).map_err(DatasetError::Shelf);
        }
        match self.disk.filter(|_| needed <= disk) {
            Some(cache) => {
                tracing::info!(mib = needed >> 20, "prepared images are held on disk");
                Shelf::on_disk(cache.folder(), size, needed).map_err(DatasetError::Shelf)
            }
            None => {
                let [needed, memory, disk] = [needed, memory, disk].map(|bytes| bytes >> 20);
                Err(DatasetError::TooLarge { needed, memory, disk })
            }
        }
    }
}

/// What a record takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Values of its image.
    pub values: usize,
    /// Labels of its mask; none where there is no mask.
    pub labels: usize,
}

impl Size {
    const fn bytes(self) -> usize {
        self.values.saturating_mul(4).saturating_add(self.labels)
    }
}

/// A place on a shelf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u64);

/// Records of one size.
#[derive(Debug)]
pub struct Shelf {
    file: File,
    on_disk: bool,
    size: Size,
    taken: AtomicU64,
}

impl Shelf {
    /// An empty one in memory.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn in_memory(size: Size) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC;
        // A hardened system (vm.memfd_noexec) refuses a file that could be executed; kernels before 6.3
        // do not know that one cannot.
        let file = match memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL) {
            Err(Errno::INVAL) => memfd_create(NAME, flags),
            made => made,
        }?;
        Ok(Self { file: file.into(), on_disk: false, size, taken: AtomicU64::new(0) })
    }

    /// An empty one on a disk, whose room is set aside now: later none may be left.
    fn on_disk(folder: &Path, size: Size, bytes: u64) -> io::Result<Self> {
        let file = tempfile::tempfile_in(folder)?;
        match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            // Where a file system cannot, it is found out record by record.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(fault) => return Err(fault.into()),
        }
        Ok(Self { file, on_disk: true, size, taken: AtomicU64::new(0) })
    }

    /// What each record takes.
    #[must_use]
    pub const fn size(&self) -> Size {
        self.size
    }

    /// Bytes of the records that were put down.
    fn bytes(&self) -> u64 {
        self.at(Slot(self.taken.load(Ordering::Relaxed)))
    }

    /// Puts a record down, behind those that are there. Several threads may do so.
    ///
    /// # Errors
    /// When image or mask have another size than this shelf's records, or the system refuses.
    pub fn put(&self, image: &[f32], mask: &[u8]) -> io::Result<Slot> {
        if (Size { values: image.len(), labels: mask.len() }) != self.size {
            let text =
                format!("expected {:?}, found {} and {}", self.size, image.len(), mask.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut bytes = Vec::with_capacity(self.size.bytes());
        bytes.extend(image.iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend_from_slice(mask);
        let slot = self.taken.fetch_add(1, Ordering::Relaxed);
        self.file.write_all_at(&bytes, self.at(Slot(slot)))?;
        Ok(Slot(slot))
    }

    /// Adds the image of a record to others, and gives its mask.
    ///
    /// # Errors
    /// When nothing was put there, or the system refuses.
    pub fn read(&self, slot: Slot, images: &mut Vec<f32>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.size.bytes()];
        self.file.read_exact_at(&mut bytes, self.at(slot))?;
        let mask = bytes.split_off(4 * self.size.values);
        images.extend(bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)));
        Ok(mask)
    }

    const fn at(&self, slot: Slot) -> u64 {
        slot.0.saturating_mul(self.size.bytes() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { values: 3, labels: 2 };

    /// In memory, and on disk.
    fn both(folder: &Path) -> [Shelf; 2] {
        let cache = Cache::open(folder, 140).expect("a folder");
        let room = |memory| Room { memory, disk: Some(&cache) };
        [140, 139].map(|memory| room(memory).shelf(10, SIZE, None).expect("there is room"))
    }

    #[test]
    fn what_was_put_down_by_many_is_found_in_its_place() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        for shelf in both(folder.path()) {
            let record = |n: u8| (vec![f32::from(n), f32::MIN_POSITIVE, -0.5], vec![n, 7]);
            let slots: Vec<Slot> = std::thread::scope(|scope| {
                let putting = (0..10).map(|n| {
                    let (image, mask) = record(n);
                    let shelf = &shelf;
                    scope.spawn(move || shelf.put(&image, &mask).expect("put down"))
                });
                let putting: Vec<_> = putting.collect();
                putting.into_iter().map(|thread| thread.join().expect("no panic")).collect()
            });
            for (n, slot) in (0..).zip(slots) {
                let mut images = vec![9.0];
                let mask = shelf.read(slot, &mut images).expect("it is there");
                let (image, wanted) = record(n);
                assert_eq!((&images[1..], mask), (&image[..], wanted));
            }
            assert!(shelf.read(Slot(10), &mut Vec::new()).is_err(), "nothing is there");
        }
    }

    #[test]
    fn only_what_does_not_fit_into_memory_takes_disk_and_leaves_no_name() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let [memory, disk] = both(folder.path());
        let length = |shelf: &Shelf| shelf.file.metadata().expect("open").len();
        assert_eq!((length(&memory), length(&disk)), (0, 140), "the disk's is set aside");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 0);
    }

    #[test]
    fn without_room_it_is_said_how_much_there_is() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let cache = Cache::open(folder.path(), 5 << 20).expect("a folder");
        let size = Size { values: 1 << 18, labels: 0 };
        let room = Room { memory: 3 << 20, disk: Some(&cache) };
        let fault = room.shelf(6, size, None).expect_err("too much");
        assert!(matches!(fault, DatasetError::TooLarge { needed: 6, memory: 3, disk: 5 }));
        let fault = Room { disk: None, ..room }.shelf(4, size, None).expect_err("too much");
        assert!(matches!(fault, DatasetError::TooLarge { needed: 4, memory: 3, disk: 0 }));
        assert!(room.shelf(usize::MAX, size, None).is_err());
    }

    #[test]
    fn what_lies_in_memory_cannot_be_executed() {
        use std::os::unix::fs::PermissionsExt as _;
        // Kernels before 6.3 have no other kind.
        if matches!(memfd_create(NAME, MemfdFlags::NOEXEC_SEAL), Err(Errno::INVAL)) {
            return;
        }
        let shelf = Shelf::in_memory(SIZE).expect("memory");
        let mode = shelf.file.metadata().expect("open").permissions().mode();
        assert_eq!(mode & 0o111, 0, "{mode:o}");
    }

    #[test]
    fn two_shelves_share_one_room() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let cache = Cache::open(folder.path(), 28).expect("a folder");
        let room = Room { memory: 28, disk: Some(&cache) };
        let full = |first: Shelf| {
            first.put(&[0.5; 3], &[1, 2]).expect("put down");
            first
        };
        let first = full(room.shelf(2, SIZE, None).expect("in memory"));
        assert!(!room.shelf(1, SIZE, Some(&first)).expect("in memory").on_disk);
        assert!(room.shelf(2, SIZE, Some(&first)).expect("on disk").on_disk);
        let small = Room { memory: 14, ..room };
        let first = full(small.shelf(2, SIZE, None).expect("on disk"));
        assert!(!small.shelf(1, SIZE, Some(&first)).expect("in memory").on_disk);
        assert!(small.shelf(2, SIZE, Some(&first)).is_err());
    }

    #[test]
    fn a_record_of_another_size_is_refused() {
        let shelf = Shelf::in_memory(SIZE).expect("memory");
        assert!(shelf.put(&[1.0; 3], &[1]).is_err());
        assert!(shelf.put(&[1.0; 4], &[1, 2]).is_err());
    }
}
