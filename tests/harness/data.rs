//! Small data sets: what the trainer's own generator writes, and folders with something wrong in
//! every way that a hospital's can have.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::Order;
use crate::programs::Programs;
use crate::site::Work;
use crate::{Outcome, Trouble};

/// What the generator is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Radiographs {
    /// Patients of an average hospital.
    pub patients: u32,
    /// Pixels to a side.
    pub size: u32,
    /// Decides everything.
    pub seed: u64,
}

/// As few and as small as still teach something.
pub const TINY: Radiographs = Radiographs { patients: 24, size: 64, seed: 1 };

impl Radiographs {
    /// Writes one of `sites` hospitals' images into `folder`.
    ///
    /// # Errors
    /// When the generator fails.
    pub fn write(
        self,
        programs: &Programs,
        sites: usize,
        site: usize,
        folder: &Path,
    ) -> Outcome<()> {
        let Self { patients, size, seed } = self;
        Order::new(programs.trainer())
            .args(["--format", "json", "generate", "--sites", &sites.to_string()])
            .args(["--site", &site.to_string(), "--patients", &patients.to_string()])
            .args(["--seed", &seed.to_string(), "--size", &size.to_string(), "--out"])
            .arg(folder)
            .data()
            .map(|_| ())
    }

    /// Writes a folder for each of `sites` hospitals below `folder`.
    ///
    /// # Errors
    /// When the generator fails.
    pub fn for_sites(self, programs: &Programs, sites: usize, folder: &Path) -> Outcome<Vec<Work>> {
        (1..=sites)
            .map(|site| {
                let own = folder.join(format!("images-{site}"));
                self.write(programs, sites, site, &own)?;
                Ok(Work::Dicom(own))
            })
            .collect()
    }
}

/// A folder in which every kind of bad record occurs once, among good ones.
#[derive(Debug)]
pub struct Damaged {
    /// The folder, with its `manifest.csv`.
    pub folder: PathBuf,
    /// The name of each bad record, and a word of the reason that it deserves.
    pub bad: Vec<(&'static str, &'static str)>,
}

/// Damages a copy of generated images.
///
/// # Errors
/// When the generator fails or the folder cannot be written.
pub fn damaged(programs: &Programs, folder: &Path) -> Outcome<Damaged> {
    TINY.write(programs, 3, 1, folder)?;
    let list = folder.join("manifest.csv");
    let text = fs::read_to_string(&list)?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| {
        let found = header.iter().position(|column| *column == name);
        found.ok_or_else(|| Trouble::new(format!("the generator's manifest has no column {name}")))
    };
    let (path, patient) = (column("path")?, column("patient_id")?);
    let model: Vec<String> =
        lines.next().unwrap_or_default().split(',').map(str::to_owned).collect();
    let good = fs::read(folder.join(&model[path]))?;
    let mut rows = text.trim_end().to_owned();
    let mut row = |file: &str, who: &str| {
        let mut cells = model.clone();
        cells[path] = file.to_owned();
        cells[patient] = who.to_owned();
        rows.push('\n');
        rows.push_str(&cells.join(","));
    };

    fs::write(folder.join("bad-noise.dcm"), [0x5a; 4096])?;
    row("bad-noise.dcm", "DAMAGED-1");
    fs::write(folder.join("bad-cut.dcm"), &good[..good.len() / 2])?;
    row("bad-cut.dcm", "DAMAGED-2");
    fs::write(folder.join("bad-text.dcm"), "Dear colleague,\n")?;
    row("bad-text.dcm", "DAMAGED-3");
    fs::write(folder.join("bad-empty.dcm"), [])?;
    row("bad-empty.dcm", "DAMAGED-4");
    fs::write(folder.join("bad-twin.dcm"), &good)?;
    row("bad-twin.dcm", &model[patient]);
    row("bad-absent.dcm", "DAMAGED-5");
    row("../bad-outside.dcm", "DAMAGED-6");
    fs::create_dir(folder.join("bad-folder.dcm"))?;
    row("bad-folder.dcm", "DAMAGED-7");
    fs::write(folder.join("bad-nobody.dcm"), &good)?;
    row("bad-nobody.dcm", "");
    fs::write(&list, rows + "\n")?;
    let bad = vec![
        ("bad-noise.dcm", "not_an_image"),
        ("bad-cut.dcm", "truncated"),
        ("bad-text.dcm", "not_an_image"),
        ("bad-empty.dcm", "not_an_image"),
        ("bad-twin.dcm", "duplicate"),
        ("bad-absent.dcm", "missing"),
        ("../bad-outside.dcm", "outside"),
        ("bad-folder.dcm", "wrong_shape"),
        ("bad-nobody.dcm", "no_patient"),
    ];
    Ok(Damaged { folder: folder.to_owned(), bad })
}
