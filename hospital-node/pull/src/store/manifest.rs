//! The list of images that the trainer reads: `path, patient_key, study_key, series_key, modality,
//! label`. A person may add columns, labels and splits; what is written there stays.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::Path;

use super::{Done, StoreError, at, file_of, options};

const COLUMNS: [&str; 6] = ["path", "patient_key", "study_key", "series_key", "modality", "label"];

/// Writes the list anew, by way of `draft`.
pub(super) fn write<'d>(
    path: &Path,
    draft: &Path,
    kept: impl Iterator<Item = &'d Done>,
) -> Result<(), StoreError> {
    let damaged = |line| StoreError::Damaged { path: path.to_owned(), line };
    let (mut header, mut rows) = (csv::StringRecord::from(COLUMNS.to_vec()), Vec::new());
    match File::open(path) {
        Ok(file) => {
            let mut reader = csv::Reader::from_reader(BufReader::new(file));
            header = reader.headers().map_err(|_| damaged(1))?.clone();
            for (index, row) in reader.records().enumerate() {
                rows.push(row.map_err(|_| damaged(index + 2))?);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(path)(error)),
    }
    let name = header.iter().position(|column| column == "path").ok_or_else(|| damaged(1))?;
    let kept: Vec<(String, &Done)> =
        kept.map(|done| (file_of(&done.instance).display().to_string(), done)).collect();
    let there: BTreeSet<&str> = kept.iter().map(|(file, _)| file.as_str()).collect();
    // The rows of images that are gone go with them.
    rows.retain(|row| row.get(name).is_some_and(|file| there.contains(file)));
    let known: BTreeSet<String> =
        rows.iter().filter_map(|row| row.get(name)).map(str::to_owned).collect();
    let file = options().create(true).truncate(true).open(draft).map_err(at(draft))?;
    let mut writer = csv::Writer::from_writer(file);
    let cannot = |error: csv::Error| at(draft)(io::Error::other(error));
    writer.write_record(&header).map_err(cannot)?;
    for row in &rows {
        writer.write_record(row).map_err(cannot)?;
    }
    for (file, done) in kept.iter().filter(|(file, _)| !known.contains(file)) {
        let value = |column: &str| match column {
            "path" => file,
            "patient_key" => &done.patient,
            "study_key" => &done.study,
            "series_key" => &done.series,
            "modality" => &done.modality,
            "label" => &done.label,
            _ => "",
        };
        writer.write_record(header.iter().map(value)).map_err(cannot)?;
    }
    let file = writer.into_inner().map_err(|error| at(draft)(error.into_error()))?;
    file.sync_all().map_err(at(draft))?;
    fs::rename(draft, path).map_err(at(path))
}
