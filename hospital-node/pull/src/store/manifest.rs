//! The list of images that the trainer reads: `path, patient_key, study_key, series_key, modality,
//! label`. A person edits it too: adds columns, rows, labels, splits and masks, takes rows out, saves it
//! from a spreadsheet. All of that stays. What is written here is what is new, and what goes is what
//! is of a patient who is not asked for any more.
//!
//! It is read as the trainer reads it: commas, semicolons or tabs, names of columns in whatever case.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder, WriterBuilder};

use super::{Done, StoreError, at, options};

const COLUMNS: [&str; 6] = ["path", "patient_key", "study_key", "series_key", "modality", "label"];
/// What the first of them may be called as well.
const PATHS: [&str; 3] = ["path", "file", "filename"];
/// In front of a pseudonym, so that the trainer takes it for what it is and blinds it no further.
const OURS: &str = "site:";
/// Spreadsheets put it in front.
const MARK: &[u8] = b"\xEF\xBB\xBF";

/// One row that belongs into the list.
pub(super) struct Entry<'d> {
    /// Below the images' folder: a file, or a series' folder.
    pub(super) path: PathBuf,
    /// What it says.
    pub(super) of: &'d Done,
}

/// A list as it was found.
pub(super) struct List {
    marked: bool,
    delimiter: u8,
    header: ByteRecord,
    rows: Vec<ByteRecord>,
    /// The column of paths.
    path: usize,
}

impl List {
    /// A list with no rows.
    pub(super) fn new() -> Self {
        let header = ByteRecord::from(COLUMNS.to_vec());
        Self { marked: false, delimiter: b',', header, rows: Vec::new(), path: 0 }
    }

    /// The list in this file, if there is one.
    ///
    /// # Errors
    /// One that is no CSV with a column of paths.
    pub(super) fn read(file: &Path) -> Result<Option<Self>, StoreError> {
        let bytes = match fs::read(file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(file)(error)),
        };
        let text = bytes.strip_prefix(MARK).unwrap_or(&bytes);
        let delimiter = delimiter(text);
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .from_reader(text);
        let mut rows = Vec::new();
        for (index, row) in reader.byte_records().enumerate() {
            let damaged = |_| StoreError::Damaged { path: file.to_owned(), line: index + 1 };
            rows.push(row.map_err(damaged)?);
        }
        let header = if rows.is_empty() { ByteRecord::new() } else { rows.remove(0) };
        let path = PATHS.into_iter().find_map(|name| column(&header, name));
        let path = path.ok_or_else(|| StoreError::NoColumn(file.to_owned()))?;
        Ok(Some(Self { marked: text.len() < bytes.len(), delimiter, header, rows, path }))
    }

    /// Where each row leads, below the images' folder; nothing for one that leads out of it.
    fn place(&self, row: &ByteRecord) -> Option<PathBuf> {
        let text = cell(row, self.path);
        let parts = Path::new(&*text).components().map(|part| match part {
            Component::Normal(part) => Some(Some(part)),
            Component::CurDir => Some(None),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => None,
        });
        parts.collect::<Option<Vec<_>>>().map(|parts| parts.into_iter().flatten().collect())
    }

    /// What its rows name.
    pub(super) fn places(&self) -> BTreeSet<PathBuf> {
        self.rows.iter().filter_map(|row| self.place(row)).collect()
    }

    /// Takes out the rows for which this is true, given where a row leads and the pseudonym of ours
    /// that it has; says how many.
    pub(super) fn drop(&mut self, is_gone: impl Fn(Option<&Path>, Option<&str>) -> bool) -> usize {
        let key = column(&self.header, "patient_key");
        let kept = |row: &&ByteRecord| {
            let patient = key.map(|column| cell(row, column));
            let patient = patient.as_ref().and_then(|patient| patient.strip_prefix(OURS));
            !is_gone(self.place(row).as_deref(), patient)
        };
        let rows: Vec<ByteRecord> = self.rows.iter().filter(kept).cloned().collect();
        let before = std::mem::replace(&mut self.rows, rows).len();
        before - self.rows.len()
    }

    /// Adds rows at the end. A patient whose other rows say what they are for stays together.
    pub(super) fn add(&mut self, entries: &[Entry<'_>]) {
        let names: Vec<String> =
            self.header.iter().map(|name| text(name).to_ascii_lowercase()).collect();
        let find = |wanted: &str| names.iter().position(|name| name == wanted);
        let mut splits: BTreeMap<String, String> = BTreeMap::new();
        if let (Some(patient), Some(split)) = (find("patient_key"), find("split")) {
            for row in &self.rows {
                let split = cell(row, split);
                if !split.is_empty() {
                    splits.entry(cell(row, patient)).or_insert(split);
                }
            }
        }
        for Entry { path, of } in entries {
            let (path, patient) = (path.display().to_string(), format!("{OURS}{}", of.patient));
            let split = splits.get(&patient).map(String::as_str).unwrap_or_default();
            let value = |(index, name): (usize, &String)| match name.as_str() {
                _ if index == self.path => path.clone(),
                "patient_key" => patient.clone(),
                "study_key" => of.study.clone(),
                "series_key" => of.series.clone(),
                "modality" => of.modality.clone(),
                "label" => of.label.clone(),
                "split" => split.to_owned(),
                _ => String::new(),
            };
            let row: Vec<String> = names.iter().enumerate().map(value).collect();
            self.rows.push(ByteRecord::from(row));
        }
    }

    /// Writes it in the place of `file`, by way of `draft`.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn write(&self, file: &Path, draft: &Path) -> Result<(), StoreError> {
        let mut to = options().create(true).truncate(true).open(draft).map_err(at(draft))?;
        if self.marked {
            to.write_all(MARK).map_err(at(draft))?;
        }
        let mut writer =
            WriterBuilder::new().delimiter(self.delimiter).flexible(true).from_writer(to);
        let cannot = |error: csv::Error| at(draft)(io::Error::other(error));
        for row in std::iter::once(&self.header).chain(&self.rows) {
            writer.write_byte_record(row).map_err(cannot)?;
        }
        let to = writer.into_inner().map_err(|error| at(draft)(error.into_error()))?;
        to.sync_all().map_err(at(draft))?;
        fs::rename(draft, file).map_err(at(file))
    }
}

fn text(cell: &[u8]) -> String {
    String::from_utf8_lossy(cell).trim().to_owned()
}

fn cell(row: &ByteRecord, column: usize) -> String {
    row.get(column).map(text).unwrap_or_default()
}

fn column(header: &ByteRecord, name: &str) -> Option<usize> {
    header.iter().position(|found| text(found).eq_ignore_ascii_case(name))
}

/// What is between the columns of the first line, as the trainer finds it.
fn delimiter(text: &[u8]) -> u8 {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = |wanted: u8| line.iter().filter(|byte| **byte == wanted).count();
    // The first of equals: a comma.
    [b';', b'\t', b','].into_iter().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',')
}
