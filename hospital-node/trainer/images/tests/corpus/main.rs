//! Files of other people's making, sound and broken, through the readers. Skipped with a printed
//! reason where the collection is not at hand.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

mod dicom;
mod nifti;
mod npz;
mod xray;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The folder of shared data: where the environment says, or beside the workspace.
#[expect(clippy::disallowed_methods, reason = "where test data lies is not configuration")]
fn shared(folder: &str) -> Option<PathBuf> {
    let root = std::env::var_os("CONSILIUM_SHARED_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/data"),
        PathBuf::from,
    );
    let path = root.join(folder);
    if path.is_dir() {
        return Some(path);
    }
    eprintln!(
        "skipped: there is no folder {} (CONSILIUM_SHARED_DATA names another)",
        path.display()
    );
    None
}

type Row = BTreeMap<String, String>;

fn table(file: &Path) -> Vec<Row> {
    let mut reader = csv::Reader::from_path(file).expect("a table");
    reader.deserialize().collect::<Result<_, _>>().expect("rows of text")
}

fn number(row: &Row, column: &str) -> f64 {
    row[column].parse().expect("a number")
}

fn near(found: f64, expected: f64, share: f64) -> bool {
    (found - expected).abs() <= share * expected.abs().max(1.0)
}
