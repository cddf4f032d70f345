//! How the trainer is started.

use std::path::{Path, PathBuf};

use super::{Fault, Section, fault};

/// How the trainer is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trainer {
    /// Its program.
    pub program: PathBuf,
    /// How many threads it may use.
    pub threads: u32,
    /// What it computes on: `auto`, `cpu`, `wgpu` or `cuda:N`. Whether it can is the trainer's to say.
    pub device: String,
    /// Where it keeps prepared images, and how many MiB of them; none to decode them every time.
    pub cache: Option<(PathBuf, u32)>,
}

impl Trainer {
    /// The trainer that was installed with this program, as it is without a configuration.
    pub(crate) fn installed() -> Self {
        Self { program: beside_us(), threads: 1, device: "auto".to_owned(), cache: None }
    }
}

/// Reads `[trainer]`.
pub(super) fn read_trainer(
    section: &mut Section<'_>,
    base: &Path,
    faults: &mut Vec<Fault>,
) -> Trainer {
    let program = section
        .path("program", base, "\"/usr/bin/hospital-trainer\"", faults)
        .unwrap_or_else(beside_us);
    let threads = section.number("threads", 1..=1024, "1 to 1024", "4", faults).unwrap_or(1);
    const ALLOWED: &str = "\"auto\", \"cpu\", \"wgpu\" or \"cuda:N\"";
    let device = section.text("device", ALLOWED, "\"auto\"", faults);
    let device = device.unwrap_or("auto").to_owned();
    let number = device.strip_prefix("cuda:").map(str::parse::<u8>);
    if !["auto", "cpu", "wgpu"].contains(&device.as_str()) && !matches!(number, Some(Ok(_))) {
        faults.push(fault("trainer.device", &format!("{device:?}"), ALLOWED, "\"auto\""));
    }
    let mib = section.number("cache_mib", 0..=1 << 24, "0 to 16777216", "8192", faults);
    // Where the folder is follows from the state's, which is read later.
    let cache = Some((PathBuf::from("cache"), mib.unwrap_or(8192))).filter(|(_, mib)| *mib > 0);
    Trainer { program, threads, device, cache }
}

/// The trainer that was installed with this program.
fn beside_us() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|us| us.parent().map(|folder| folder.join("hospital-trainer")))
        .unwrap_or_else(|| PathBuf::from("hospital-trainer"))
}
