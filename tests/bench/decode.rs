//! `consilium-bench decode`: files from a disk to what a model is shown. One core, as every file is
//! one core's work.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use aggregation::study::{Fit, InputShape, Normalise, Preprocess, Task, TaskKind, Window};
use clap::Args;
use harness::{Outcome, Trouble};
use hospital_images::Image;
use hospital_trainer::preprocess::Preparation;
use hospital_trainer::synthetic;
use serde::Serialize;

use crate::cpu;

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct DecodeArgs {
    /// Pixels to a side of the made-up DICOM files
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(16..=2048))]
    size: u16,
    /// Pixels to a side of what a model is shown
    #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u16).range(8..=1024))]
    input: u16,
    /// Patients to make up, with one image or a few each
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(20..=10_000))]
    patients: u32,
    /// Times to read them all
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// A folder of other files to read instead; those that cannot be read are left out
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    files: usize,
    left_out: usize,
    megapixels: f64,
    /// Read, decoded and prepared, in one second of one core.
    files_per_cpu_second: f64,
    megapixels_per_cpu_second: f64,
    /// Where a file's time goes, in milliseconds.
    read_and_decode_ms: f64,
    picture_ms: f64,
    prepare_ms: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "{name:<34} {value:>12}");
        line("files", self.files.to_string())?;
        line("left out", self.left_out.to_string())?;
        line("megapixels", format!("{:.1}", self.megapixels))?;
        line("files a second of one core", format!("{:.0}", self.files_per_cpu_second))?;
        line("megapixels a second of one core", format!("{:.1}", self.megapixels_per_cpu_second))?;
        line("  read and decode, ms a file", format!("{:.3}", self.read_and_decode_ms))?;
        line("  to a picture, ms a file", format!("{:.3}", self.picture_ms))?;
        line("  to what a model is shown, ms", format!("{:.3}", self.prepare_ms))
    }
}

/// Reads and measures.
pub(crate) fn measure(arguments: &DecodeArgs) -> Outcome<Measured> {
    let made = tempfile::tempdir()?;
    let folder = match &arguments.folder {
        Some(folder) => folder.as_path(),
        None => {
            let &DecodeArgs { size, patients, .. } = arguments;
            let request = synthetic::Request { sites: 1, site: 1, patients, seed: 1, size };
            synthetic::generate(request, made.path())
                .map_err(|error| Trouble::new(error.to_string()))?;
            made.path()
        }
    };
    let side = arguments.input;
    let preparation = Preparation::new(&Task {
        kind: TaskKind::Classification,
        class_weights: Vec::new(),
        classes: vec!["without".to_owned(), "with".to_owned()],
        input: InputShape { channels: 1, depth: 1, height: side, width: side },
        preprocess: Preprocess {
            window: Window::FromFile,
            spacing: None,
            fit: Fit::Stretch,
            normalise: Normalise::Fixed,
            mean: 0.5,
            sd: 0.25,
        },
    });
    let all = files(folder)?;
    // What cannot be shown to a model is not what is measured; the first pass warms the disk's cache.
    let whole = |path: &PathBuf| {
        let (_, image) = Image::read(path).ok()?;
        preparation.apply(&image.picture().ok()?).ok()
    };
    let files: Vec<&PathBuf> = all.iter().filter(|path| whole(path).is_some()).collect();
    if files.is_empty() {
        return Err(Trouble::new("there are no pictures to read".to_owned()));
    }
    let mut pixels = 0_usize;
    let mut spent: BTreeMap<&str, f64> = BTreeMap::new();
    let started = cpu::of_this_thread();
    for path in files.iter().cycle().take(files.len() * times(arguments.repeats)) {
        let mut lap = cpu::of_this_thread();
        let mut spend = |what| {
            let now = cpu::of_this_thread();
            *spent.entry(what).or_default() += (now - lap).as_secs_f64();
            lap = now;
        };
        let fault = |fault: hospital_images::Fault| Trouble::new(fault.to_string());
        let (_, image) = Image::read(path).map_err(fault)?;
        spend("decode");
        let picture = image.picture().map_err(fault)?;
        spend("picture");
        pixels += picture.rows * picture.columns;
        std::hint::black_box(preparation.apply(&picture).map_err(fault)?);
        spend("prepare");
    }
    let cpu = (cpu::of_this_thread() - started).as_secs_f64();
    let read = float(files.len() * times(arguments.repeats));
    let each = |what: &str| spent.get(what).copied().unwrap_or_default() * 1e3 / read;
    Ok(Measured {
        files: files.len(),
        left_out: all.len() - files.len(),
        megapixels: float(pixels) / 1e6,
        files_per_cpu_second: read / cpu,
        megapixels_per_cpu_second: float(pixels) / 1e6 / cpu,
        read_and_decode_ms: each("decode"),
        picture_ms: each("picture"),
        prepare_ms: each("prepare"),
    })
}

/// Every regular file below a folder but lists, in order.
fn files(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_none_or(|extension| extension != "csv") {
                found.push(entry.path());
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn times(repeats: u32) -> usize {
    usize::try_from(repeats).unwrap_or(usize::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "numbers of files and pixels")]
fn float(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_measurement_has_all_figures() {
        let arguments = DecodeArgs { size: 32, input: 16, patients: 20, repeats: 1, folder: None };
        let measured = measure(&arguments).expect("nothing is in the way");
        assert!(measured.files >= 20 && measured.left_out == 0);
        assert!(measured.files_per_cpu_second > 0.0 && measured.megapixels_per_cpu_second > 0.0);
        assert_eq!(measured.to_string().lines().count(), 8);
    }
}
