//! Sections `[data.NAME]` and `[pull.NAME]`.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Table;

use super::{DataKind, DataSet, Fault, Section, fault, shown};

/// Reads the data sets.
pub(super) fn read(
    top: &mut Section<'_>,
    base: &Path,
    faults: &mut Vec<Fault>,
) -> BTreeMap<String, DataSet> {
    let mut sets = BTreeMap::new();
    let all = top.section("data", faults);
    let Some(table) = all.table else { return sets };
    for (name, value) in table {
        let prefix = format!("data.{name}");
        if !named_well(name) {
            const ALLOWED: &str = "a name of 1 to 63 characters of a-z, 0-9, '-' and '_'";
            faults.push(fault(&prefix, &format!("{name:?}"), ALLOWED, "[data.chest]"));
        }
        let Some(table) = value.as_table() else {
            const ALLOWED: &str = "a section with kind and path";
            faults.push(fault(&prefix, &shown(value), ALLOWED, "[data.chest]"));
            continue;
        };
        let mut section = Section::new(&prefix, Some(table));
        if let Some(set) = read_set(&mut section, base, faults) {
            sets.insert(name.clone(), set);
        }
        section.finish(faults);
    }
    sets
}

fn named_well(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
}

fn read_set(section: &mut Section<'_>, base: &Path, faults: &mut Vec<Fault>) -> Option<DataSet> {
    const KINDS: &str = "\"images\" (a folder with a manifest) or \"npz\" (one file)";
    let before = faults.len();
    let kind = match section.text("kind", KINDS, "\"images\"", faults) {
        // Files tell by themselves what they are.
        Some("images" | "dicom" | "nifti") => Some(DataKind::Images),
        Some("npz") => Some(DataKind::Npz),
        other => {
            if faults.len() == before {
                let found = other.map_or_else(|| "nothing".to_owned(), |text| format!("{text:?}"));
                faults.push(fault(&section.key("kind"), &found, KINDS, "\"images\""));
            }
            None
        }
    };
    let before = faults.len();
    let path = section.path("path", base, "\"/srv/images\"", faults);
    if path.is_none() && faults.len() == before {
        const ALLOWED: &str = "the folder or file of the records";
        faults.push(fault(&section.key("path"), "nothing", ALLOWED, "\"/srv/images\""));
    }
    let before = faults.len();
    let manifest = section.path("manifest", base, "\"/srv/images/manifest.csv\"", faults);
    if faults.len() == before {
        const ALLOWED: &str =
            "the manifest (CSV or Parquet) for kind \"images\"; left out for \"npz\"";
        let found = match (kind, &manifest) {
            (Some(DataKind::Images), None) => Some("nothing"),
            (Some(DataKind::Npz), Some(_)) => Some("a manifest for kind \"npz\""),
            (Some(DataKind::Images), Some(_))
            | (Some(DataKind::Npz) | None, None)
            | (None, Some(_)) => None,
        };
        if let Some(found) = found {
            faults.push(fault(
                &section.key("manifest"),
                found,
                ALLOWED,
                "\"/srv/images/manifest.csv\"",
            ));
        }
    }
    Some(DataSet { kind: kind?, path: path?, manifest })
}

/// What is fetched, section by section, as it is written.
pub(super) fn pulls(top: &mut Section<'_>, faults: &mut Vec<Fault>) -> BTreeMap<String, Table> {
    let mut pulls = BTreeMap::new();
    let all = top.section("pull", faults);
    for (name, value) in all.table.into_iter().flatten() {
        let key = format!("pull.{name}");
        if !named_well(name) {
            const ALLOWED: &str = "a name of 1 to 63 characters of a-z, 0-9, '-' and '_'";
            faults.push(fault(&key, &format!("{name:?}"), ALLOWED, "[pull.chest]"));
        }
        match value.as_table() {
            Some(table) => {
                pulls.insert(name.clone(), table.clone());
            }
            None => {
                const ALLOWED: &str = "a section with from and into";
                faults.push(fault(&key, &shown(value), ALLOWED, "[pull.chest]"));
            }
        }
    }
    pulls
}
