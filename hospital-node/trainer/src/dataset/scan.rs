//! What the administrator is told about a data source before a study uses it: every bad file with
//! its one reason, then counts, classes, patients and the Merkle root.
//!
//! File names appear here, on this hospital's own screen, and nowhere else. Header text appears
//! nowhere at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use data_encoding::HEXLOWER;
use serde::Serialize;

use super::about::{Warning, warnings};
use super::{Contents, Part, PatientKey, merkle};

/// Bad files that the text names; the JSON names all.
const NAMED: usize = 200;

/// The report of one scan.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Records, or without a manifest files, that were looked at.
    pub records: usize,
    /// How many of them can be used.
    pub usable: usize,
    /// Those that cannot.
    pub bad: Vec<BadFile>,
    /// Good images of a folder without a manifest.
    pub unlabelled: usize,
    /// Files in the folder that the manifest does not name.
    pub unlisted: usize,
    /// Repeated images that were left in.
    pub repeats: usize,
    /// Patients of usable records.
    pub patients: usize,
    /// Per part, usable records of each label.
    pub parts: BTreeMap<Part, PartReport>,
    /// What to look at, though it makes nothing unusable.
    pub warnings: Vec<Warning>,
    /// The data set's Merkle root in hex; only with the site's own key, which it depends on.
    pub root: Option<String>,
}

/// One part of the data set.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PartReport {
    /// Usable records.
    pub records: usize,
    /// Patients that they are of.
    pub patients: usize,
    /// How many records have each label.
    pub labels: BTreeMap<String, usize>,
}

/// One file that cannot be used.
#[derive(Clone, Debug, Serialize)]
pub struct BadFile {
    /// As the manifest writes it.
    pub file: String,
    /// A stable word for scripts.
    pub reason: &'static str,
    /// The same for people.
    pub detail: String,
}

impl Report {
    /// Sums up what was found. `keyed` says whether pseudonyms are the site's own.
    #[must_use]
    pub fn new(contents: &Contents, keyed: bool) -> Self {
        let mut parts: BTreeMap<Part, PartReport> = BTreeMap::new();
        let mut patients: BTreeMap<Part, BTreeSet<PatientKey>> = BTreeMap::new();
        for record in &contents.records {
            let part = parts.entry(record.part).or_default();
            part.records += 1;
            *part.labels.entry(record.label.clone()).or_default() += 1;
            patients.entry(record.part).or_default().insert(record.patient);
        }
        for (part, report) in &mut parts {
            report.patients = patients.get(part).map_or(0, BTreeSet::len);
        }
        let bad = contents.bad.iter().map(|bad| BadFile {
            file: bad.name.clone(),
            reason: bad.fault.code(),
            detail: bad.fault.to_string(),
        });
        let usable = contents.records.len();
        Self {
            records: usable + contents.unlabelled + contents.bad.len(),
            usable,
            unlabelled: contents.unlabelled,
            bad: bad.collect(),
            unlisted: contents.unlisted,
            repeats: contents.repeats,
            patients: patients.values().map(BTreeSet::len).sum(),
            parts,
            warnings: warnings(contents),
            root: (keyed && usable > 0).then(|| HEXLOWER.encode(&merkle::root(&contents.records))),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bad in self.bad.iter().take(NAMED) {
            // A name may hold what a terminal would take for an order.
            writeln!(f, "{}: {}", bad.file.escape_debug(), bad.detail)?;
        }
        if self.bad.len() > NAMED {
            writeln!(f, "... and {} more; --report FILE names all", self.bad.len() - NAMED)?;
        }
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for bad in &self.bad {
            *reasons.entry(bad.reason).or_default() += 1;
        }
        write!(f, "{} records, {} usable, {} bad", self.records, self.usable, self.bad.len())?;
        let mut between = " (";
        for (reason, count) in &reasons {
            write!(f, "{between}{count} {reason}")?;
            between = ", ";
        }
        writeln!(f, "{}", if reasons.is_empty() { "" } else { ")" })?;
        for (part, report) in &self.parts {
            let PartReport { records, patients, labels } = report;
            write!(f, "{:<10} {records:>7} records  {patients:>7} patients ", part.name())?;
            for (label, count) in labels {
                write!(f, "  {label} {count}")?;
            }
            writeln!(f)?;
        }
        if self.unlabelled > 0 {
            writeln!(f, "{} good images; no manifest says what they are for", self.unlabelled)?;
        }
        if self.unlisted > 0 {
            writeln!(f, "{} files that the manifest does not name", self.unlisted)?;
        }
        if self.repeats > 0 {
            writeln!(f, "{} images are repetitions of others in the file", self.repeats)?;
        }
        for Warning { detail, .. } in &self.warnings {
            writeln!(f, "warning: {detail}")?;
        }
        if let Some(root) = &self.root {
            writeln!(f, "root {root}")?;
        }
        Ok(())
    }
}
