//! Files of other people's making, sound and broken, through the readers. Skipped with a printed
//! reason where the collection is not at hand.

mod dicom;
mod nifti;
mod npz;
mod xray;

#[path = "../../../../../tests/scenarios/shared_data.rs"]
mod shared_data;

use std::collections::BTreeMap;
use std::path::Path;

use crate::shared_data::shared;

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
