//! How much may be done at once in the memory that is free: files that are decoded, as many as there are
//! threads, and no more than there is memory for if each were as large as a file may be; and images that
//! are held.

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
    free(&of_system).map_or(IMAGES, |free| IMAGES.min(free / 2))
}

/// Does what decodes files: on the threads that this program was given, and on fewer where there is not
/// memory for as many right now.
pub fn decoding<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    on(fitting(rayon::current_num_threads(), free(&of_system)), work)
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

fn of_system(file: &str) -> Option<String> {
    std::fs::read_to_string(file).ok()
}

/// Bytes that this program can have: no more than the machine has, nor than what is left to the unit or
/// the container that it runs in, or to one around that. `read` gives the text of a system's file.
fn free(read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let machine = read("/proc/meminfo").and_then(|text| available(&text));
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let of_groups = groups.lines().filter_map(Groups::of_line).flat_map(|groups| groups.left(read));
    of_groups.chain(machine).min()
}

/// The control groups that a program is in, one within the other.
struct Groups<'l> {
    root: &'static str,
    /// The innermost, below the root.
    path: &'l str,
    /// The files of each with its limit, what is in use, and of what.
    files: [&'static str; 3],
    /// In the last, what of it would be given back.
    spare: &'static str,
}

impl<'l> Groups<'l> {
    /// From a line of `/proc/self/cgroup` ([cgroups(7)]): version 2, or of version 1 those of memory.
    fn of_line(line: &'l str) -> Option<Self> {
        let mut fields = line.splitn(3, ':').skip(1);
        let (kinds, path) = (fields.next()?, fields.next()?);
        if kinds.is_empty() {
            let files = ["memory.max", "memory.current", "memory.stat"];
            return Some(Self { root: "/sys/fs/cgroup", path, files, spare: "inactive_file" });
        }
        let files = ["memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"];
        let root = "/sys/fs/cgroup/memory";
        let of_memory = kinds.split(',').any(|kind| kind == "memory");
        of_memory.then_some(Self { root, path, files, spare: "total_inactive_file" })
    }

    /// What is left to each that has a limit. From within a container only the root may be seen, which is
    /// then the container's own.
    fn left(self, read: &dyn Fn(&str) -> Option<String>) -> Vec<u64> {
        let Self { root, path, files, spare } = self;
        let outwards = |path: &&'l str| path.rsplit_once('/').map(|(around, _)| around);
        std::iter::successors(Some(path.trim_end_matches('/')), outwards)
            .filter_map(|path| {
                let [most, used, stat] = files.map(|file| read(&format!("{root}{path}/{file}")));
                // Without a limit there is a word.
                let most: u64 = most?.trim().parse().ok()?;
                let used: u64 = used?.trim().parse().ok()?;
                let spare = stat.as_deref().and_then(|stat| number(stat, spare)).unwrap_or(0);
                Some(most.saturating_sub(used.saturating_sub(spare)))
            })
            .collect()
    }
}

/// The number of a line of names and numbers.
fn number(lines: &str, name: &str) -> Option<u64> {
    let line = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// Bytes that programs can have without others being swapped out.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1 << 10)
}

// [cgroups(7)]: https://man7.org/linux/man-pages/man7/cgroups.7.html

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_files_at_once_fit_into_what_is_free() {
        let meminfo = "MemTotal:       32 kB\nMemAvailable:   16777216 kB\nBuffers: 1 kB\n";
        assert_eq!(available(meminfo), Some(16 << 30));
        assert_eq!(fitting(16, Some(16 << 30)), 4);
        assert_eq!(fitting(2, Some(16 << 30)), 2);
        assert_eq!(fitting(4, Some(1 << 30)), 1);
        assert_eq!(fitting(4, None), 4);
        assert_eq!(available("MemTotal: 1 kB\n"), None);
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

    /// What is free on a machine with 1 GiB, with these files beside.
    fn free_with(files: &[(&str, &str)]) -> Option<u64> {
        let meminfo = ("/proc/meminfo", "MemAvailable:    1048576 kB\n");
        free(&|wanted| {
            let mut all = files.iter().chain([&meminfo]);
            all.find(|(name, _)| *name == wanted).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn a_unit_has_what_is_left_of_its_limit_and_of_those_around_it() {
        let unit = "/sys/fs/cgroup/system.slice/node.service";
        let around = "/sys/fs/cgroup/system.slice";
        let [most, used, stat] =
            ["memory.max", "memory.current", "memory.stat"].map(|file| format!("{unit}/{file}"));
        let [around_most, around_used] =
            ["memory.max", "memory.current"].map(|file| format!("{around}/{file}"));
        let files = [
            ("/proc/self/cgroup", "0::/system.slice/node.service\n"),
            (&most, "5000\n"),
            (&used, "4000\n"),
            // Files that were read count as used until somebody wants the memory.
            (&stat, "anon 900\ninactive_file 3000\nfile 3100\n"),
            (&around_most, "9000\n"),
            (&around_used, "6000\n"),
        ];
        assert_eq!(free_with(&files), Some(3000));
        assert_eq!(free_with(&files[..4]), Some(4000));
        assert_eq!(free_with(&files[..3]), Some(1000));
        assert_eq!(free_with(&files[..1]), Some(1 << 30));
        assert_eq!(free_with(&[files[0], (&most, "max\n"), files[2]]), Some(1 << 30));
        assert_eq!(free_with(&[files[0], (&most, "5\n"), files[2]]), Some(0));
    }

    #[test]
    fn a_container_sees_its_limit_at_the_root() {
        let files = [
            ("/proc/self/cgroup", "5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n0::/docker/ab\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "700\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "600\n"),
            ("/sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 50\n"),
        ];
        assert_eq!(free_with(&files), Some(150));
        let files = [
            ("/proc/self/cgroup", "0::/\n"),
            ("/sys/fs/cgroup/memory.max", "700\n"),
            ("/sys/fs/cgroup/memory.current", "600\n"),
        ];
        assert_eq!(free_with(&files), Some(100));
    }
}
