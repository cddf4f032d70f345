//! How much may be done at once in the memory that is free: files that are decoded, as many as there are
//! threads, and no more than there is memory for if each were as large as a file may be; and images that
//! are held.

/// What the decoding of one file holds at most: its pixels, as stored and as shown.
const EACH: u64 = 2 << 30;

/// Prepared images that are held in memory at most; of what is free, half.
const IMAGES: u64 = 4 << 30;

/// Bytes of prepared images to hold in memory. More lie on disk.
#[must_use]
pub fn for_images() -> u64 {
    let free = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| free(&text));
    free.map_or(IMAGES, |free| IMAGES.min(free / 2))
}

/// Does what decodes files: on the threads that this program was given, and on fewer where there is not
/// memory for as many right now.
pub fn decoding<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let free = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| free(&text));
    on(fitting(rayon::current_num_threads(), free), work)
}

fn on<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    if threads >= rayon::current_num_threads() {
        return work();
    }
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) => pool.install(work),
        // Where no thread can be had, those that there are go on.
        Err(_) => work(),
    }
}

/// Of the threads that were given; where the free memory is not known, all.
fn fitting(given: usize, free: Option<u64>) -> usize {
    let most = free.map_or(u64::MAX, |free| free / EACH);
    usize::try_from(most).unwrap_or(usize::MAX).clamp(1, given.max(1))
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
        assert_eq!(fitting(16, Some(16 << 30)), 8);
        assert_eq!(fitting(4, Some(16 << 30)), 4);
        assert_eq!(fitting(4, Some(1 << 30)), 1);
        assert_eq!(fitting(4, None), 4);
        assert_eq!(free("MemTotal: 1 kB\n"), None);
    }
    #[test]
    fn files_are_decoded_on_the_threads_that_were_given_and_on_fewer_if_memory_is_short() {
        let given = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        given.install(|| {
            assert_eq!(on(2, rayon::current_num_threads), 2);
            assert_eq!(on(16, rayon::current_num_threads), 3);
            assert!(decoding(rayon::current_num_threads) <= 3);
        });
    }
}
