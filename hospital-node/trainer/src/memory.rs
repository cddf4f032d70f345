//! How much may be done at once in the memory that is free: files that are decoded, as many as there are
//! cores, and no more than there is memory for if each were as large as a file may be; and images that
//! are held.

use std::num::NonZero;

/// What the decoding of one file holds at most: four arrays of which none is more than a gigabyte. Of an
/// image they are the pixels as stored and their values, then those that are numbers and the same in
/// order, or the planes of colours and their shades; of a mask, while its image is still held, its
/// pixels as stored and its labels, as stored and turned. A file of two gigabytes and its pixels are no
/// more, and its bytes are gone before values are made. Not counted is what a study makes of an image,
/// and that pixels compressed to more than a gigabyte, as no image is, would be there twice.
const EACH: u64 = 4 << 30;

/// Prepared images that are held in memory at most; of what is free, half.
const IMAGES: u64 = 4 << 30;

/// Bytes of prepared images to hold in memory. More lie on disk.
#[must_use]
pub fn for_images() -> u64 {
    let free = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| free(&text));
    free.map_or(IMAGES, |free| IMAGES.min(free / 2))
}

/// Threads for decoding, from the machine's cores and what memory is free right now.
#[must_use]
pub fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let free = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| free(&text));
    fitting(cores, free)
}

/// Where the free memory is not known, the cores decide.
fn fitting(cores: usize, free: Option<u64>) -> usize {
    let most = free.map_or(u64::MAX, |free| free / EACH);
    usize::try_from(most).unwrap_or(usize::MAX).clamp(1, cores.max(1))
}

/// Bytes that programs can have without others being swapped out.
fn free(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_files_at_once_fit_into_what_is_free() {
        let meminfo = "MemTotal:       32 kB\nMemAvailable:   16777216 kB\nBuffers: 1 kB\n";
        assert_eq!(free(meminfo), Some(16 << 30));
        assert_eq!(fitting(16, Some(16 << 30)), 4);
        assert_eq!(fitting(2, Some(16 << 30)), 2);
        assert_eq!(fitting(4, Some(1 << 30)), 1);
        assert_eq!(fitting(4, None), 4);
        assert_eq!(free("MemTotal: 1 kB\n"), None);
    }
}
