//! A hospital's folder, and a pull into it.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use hospital_pull::archive::{Archive, Patience};
use hospital_pull::fault::Fault;
use hospital_pull::job::Job;
use hospital_pull::names::Names;
use hospital_pull::pull::{Progress, PullError, Report, pull};
use hospital_pull::store::{Holdings, Store};

pub(crate) const SECRET: [u8; 32] = [7; 32];
pub(crate) const SR: &str = "1.2.840.10008.5.1.4.1.1.88.11";

/// Short enough for a test, long enough for a machine that is busy.
pub(crate) const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(10),
    silence: Duration::from_secs(2),
    answer: Duration::from_secs(4),
};

/// The same for an archive that is too slow.
pub(crate) const IMPATIENCE: Patience = Patience {
    silence: Duration::from_millis(400),
    answer: Duration::from_millis(800),
    ..PATIENCE
};

/// The section that all twelve images of [`crate::held::contents`] meet.
pub(crate) const ALL: &str = "modality = [\"CR\"]\nlabel = \"normal\"";

/// A job with this much of a section; what it is fetched from is given apart.
pub(crate) fn job(folder: &Path, section: &str) -> Job {
    let mut text = String::from("name = \"test\"\nproxy = \"none\"\n[pull]\n");
    let _ = writeln!(text, "from = \"http://127.0.0.1:1/\"\ninto = {folder:?}\n{section}");
    Job::parse(&text).expect("a job")
}

#[derive(Default)]
struct Silent {
    found: Cell<usize>,
    /// Seconds that it was to rest, and did not.
    rests: RefCell<Vec<u64>>,
}

impl Progress for Silent {
    fn found(&self, count: usize) {
        self.found.set(count);
    }

    fn done(&self, count: usize, all: usize) {
        assert!(count <= all, "never more than there are");
    }

    fn rest(&self, time: Duration) {
        self.rests.borrow_mut().push(time.as_secs());
    }
}

/// Pulls once, into a folder that is opened for it.
pub(crate) fn pull_once(
    archive: &mut dyn Archive,
    folder: &Path,
    section: &str,
) -> Result<Report, PullError> {
    pull_with_rests(archive, folder, section).0
}

/// The same, and how long it has rested each time.
pub(crate) fn pull_with_rests(
    archive: &mut dyn Archive,
    folder: &Path,
    section: &str,
) -> (Result<Report, PullError>, Vec<u64>) {
    let progress = Silent::default();
    let ended = pull_into(archive, folder, section, &progress);
    (ended, progress.rests.into_inner())
}

fn pull_into(
    archive: &mut dyn Archive,
    folder: &Path,
    section: &str,
    progress: &Silent,
) -> Result<Report, PullError> {
    let names = Names::new(SECRET);
    let mut store = Store::open(folder, &names.mark())?;
    pull(&job(folder, section), &names, archive, &mut store, progress)
        .map_err(|stopped| stopped.error)
}

/// Pulls all of [`crate::held::contents`] into an empty folder; nothing is wrong, and nothing says
/// who they are.
pub(crate) fn pull_all(archive: &mut dyn Archive, folder: &Path) -> Report {
    let report = pull_once(archive, folder, ALL).expect("a report");
    assert_eq!(reasons(&report), [""; 0], "{report:?}");
    assert_eq!((report.found, report.fetched, report.already), (12, 12, 0));
    let bytes = report.holds.bytes;
    let holds = Holdings { bytes, patients: 3, studies: 6, series: 6, images: 12 };
    assert_eq!(report.holds, holds);
    assert_eq!(betrays(folder), None);
    report
}

/// Pulls from an archive that sends nothing as it should: one line for each image, nothing kept.
pub(crate) fn pull_nothing(archive: &mut dyn Archive, folder: &Path, reason: &str) -> Report {
    let report = pull_once(archive, folder, ALL).expect("a report");
    assert_eq!(reasons(&report), [reason; 12]);
    assert_eq!((report.fetched, report.holds.images), (0, 0), "{reason}");
    assert_eq!(betrays(folder), None, "{reason}");
    report
}

/// Pulls from an archive that keeps us waiting: it is left after five tries.
pub(crate) fn pull_five_in_vain(archive: &mut dyn Archive, folder: &Path) {
    let report = pull_once(archive, folder, ALL).expect("a report");
    assert_eq!(reasons(&report), ["timeout"; 5], "{report:?}");
    assert_eq!((report.fetched, report.not_tried), (0, 7));
}

/// Why an archive ended a pull before it began.
pub(crate) fn refusal(archive: &mut dyn Archive) -> Fault {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    match pull_once(archive, scratch.path(), ALL) {
        Err(PullError::Archive(fault)) => fault,
        other => unreachable!("expected to be refused, found {other:?}"),
    }
}

/// Every reason that a report has, sorted.
pub(crate) fn reasons(report: &Report) -> Vec<&'static str> {
    let mut reasons: Vec<_> = report.failed.iter().map(|failed| failed.reason).collect();
    reasons.sort_unstable();
    reasons
}

/// Whether any file of a folder, or any name in it, says something that only headers say.
pub(crate) fn betrays(folder: &Path) -> Option<String> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).expect("readable");
            for word in ["CANARY", "Thorax", "20210115", "20220115", "1.2.1.1", "1.2.3.2"] {
                let inside = bytes.windows(word.len()).any(|window| window == word.as_bytes());
                if inside || path.to_string_lossy().contains(word) {
                    return Some(format!("{word} in {}", path.display()));
                }
            }
        }
    }
    None
}
