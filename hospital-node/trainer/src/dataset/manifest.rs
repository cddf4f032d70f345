//! The CSV or Parquet file that lists the records of a folder: `path`, `patient_id` or `patient_key`, `label` or
//! `mask`, and if the site likes `split` and `issuer`. Other columns are left alone.
//! Public collections write `file` or `filename` for the first and `patient` for the second.
//!
//! A label is a class by name or number; of several, those that apply with `|` between them. A mask
//! is a file of the folder whose voxels are numbers of classes.

use std::path::{Component, Path, PathBuf};

use super::table::Table;
use super::{Bad, DatasetError, Fault, Part, PatientKey, SiteSecret, bids, read_at_most};

/// Bytes of a manifest that are taken in.
const MAX_BYTES: u64 = 256 << 20;

/// One row that makes sense by itself.
#[derive(Debug)]
pub struct Row {
    /// As written, for the administrator.
    pub name: String,
    /// Below the data folder.
    pub path: PathBuf,
    /// The pseudonym; the identifier it came from is gone.
    pub patient: PatientKey,
    /// What it is for.
    pub part: Part,
    /// The label as written; empty where the list has none.
    pub label: String,
    /// The file with the class of each voxel, below the data folder.
    pub mask: Option<PathBuf>,
}

/// Reads a manifest: each row, or why it cannot be used, in order. A `participants.tsv` is one of a
/// BIDS folder, whose images are found by its layout.
///
/// # Errors
/// When the file cannot be read, or lacks a column that every row needs.
pub fn read(
    path: &Path,
    folder: &Path,
    secret: &SiteSecret,
) -> Result<Vec<Result<Row, Bad>>, DatasetError> {
    let bytes = read_at_most(path, MAX_BYTES)
        .map_err(|source| DatasetError::Io { what: "the manifest", source })?;
    // Spreadsheets like to put a byte order mark in front.
    let marked = bytes.starts_with(b"\xEF\xBB\xBF");
    let text = if marked { bytes[3..].to_vec() } else { bytes };
    if path.file_name().is_some_and(|name| name == bids::LIST) {
        return bids::rows(&text, folder, secret);
    }
    let table = Table::read(text)?;
    let columns = Columns::find(&table.headers)?;
    let mut rows = Vec::new();
    for (line, record) in table.rows {
        rows.push(match record {
            Some(record) => columns.row(&record, folder, secret),
            None => Err(Bad { name: format!("row {line}"), fault: Fault::BrokenRow }),
        });
    }
    if rows.is_empty() {
        return Err(DatasetError::Manifest("it lists no records".to_owned()));
    }
    Ok(rows)
}

struct Columns {
    count: usize,
    path: usize,
    patient: Patient,
    issuer: Option<usize>,
    split: Option<usize>,
    label: Option<usize>,
    mask: Option<usize>,
}

enum Patient {
    Key(usize),
    Id(usize),
}

impl Columns {
    fn find(headers: &csv::StringRecord) -> Result<Self, DatasetError> {
        let find = |name: &str| headers.iter().position(|h| h.eq_ignore_ascii_case(name));
        let need = |name: &str| {
            find(name).ok_or_else(|| {
                DatasetError::Manifest(format!("expected a column \"{name}\", found none"))
            })
        };
        let patient = find("patient_key")
            .map(Patient::Key)
            .or_else(|| find("patient_id").or_else(|| find("patient")).map(Patient::Id))
            .ok_or_else(|| {
                let text = "expected a column \"patient_id\" or \"patient_key\", found neither: \
                            privacy is per patient, so records without patients are refused";
                DatasetError::Manifest(text.to_owned())
            })?;
        let mask = find("mask");
        Ok(Self {
            count: headers.len(),
            path: find("path")
                .or_else(|| find("file"))
                .or_else(|| find("filename"))
                .map_or_else(|| need("path"), Ok)?,
            patient,
            issuer: find("issuer"),
            split: find("split"),
            label: if mask.is_some() { find("label") } else { Some(need("label")?) },
            mask,
        })
    }

    fn row(
        &self,
        record: &csv::StringRecord,
        folder: &Path,
        secret: &SiteSecret,
    ) -> Result<Row, Bad> {
        let field = |column: usize| record.get(column).unwrap_or_default();
        let name = field(self.path).to_owned();
        let bad = |fault| Bad { name: name.clone(), fault };
        if record.len() != self.count || name.is_empty() {
            let line = record.position().map_or(0, csv::Position::line);
            return Err(Bad { name: format!("row {line}"), fault: Fault::BrokenRow });
        }
        let within = |name: &str| {
            let relative = Path::new(name);
            let inside = |c| matches!(c, Component::Normal(_) | Component::CurDir);
            let inside = relative.components().all(inside);
            if inside { Ok(folder.join(relative)) } else { Err(bad(Fault::Outside)) }
        };
        let path = within(&name)?;
        let mask = self.mask.map(field).filter(|name| !name.is_empty());
        let mask = mask.map(within).transpose()?;
        let issuer = self.issuer.map(field).unwrap_or_default();
        let patient = match self.patient {
            Patient::Key(column) | Patient::Id(column) if field(column).is_empty() => {
                return Err(bad(Fault::NoPatient));
            }
            // A pseudonym that another system made is blinded like an identifier, in a name space
            // of its own. One that this site has made says so, and is what it would be made of.
            Patient::Key(column) => PatientKey::parse(field(column))
                .unwrap_or_else(|| secret.pseudonym(field(column), "\u{0}patient_key")),
            Patient::Id(column) => secret.pseudonym(field(column), issuer),
        };
        let part = match self.split.map(field) {
            // Nobody has said what this row is for.
            None | Some("") => patient.part(),
            Some(word) => Part::parse(word).ok_or_else(|| bad(Fault::WrongSplit))?,
        };
        let label = self.label.map(field).unwrap_or_default().to_owned();
        Ok(Row { path, name: name.clone(), patient, part, label, mask })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<Vec<Result<Row, Bad>>, DatasetError> {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("manifest.csv");
        std::fs::write(&path, text).expect("written");
        read(&path, folder.path(), &SiteSecret::new([3; 32]))
    }

    fn fault(row: &Result<Row, Bad>) -> Option<&Fault> {
        row.as_ref().err().map(|bad| &bad.fault)
    }

    #[test]
    fn every_row_is_read_and_each_bad_one_has_one_reason() {
        let text = "\u{feff}path,patient_id,split,label\n a.dcm , P1, train, x\n../b,P1,train,x\n\
                    c.dcm,,train,x\nd.dcm,P2,neither,x\ne.dcm,P3\nf.dcm,P2,val,x\n/etc/g,P1,test,x\n";
        let rows = rows(text).expect("a manifest");
        let first = rows[0].as_ref().expect("a good row");
        assert_eq!((first.name.as_str(), first.part), ("a.dcm", Part::Train));
        let faults: Vec<_> = rows.iter().map(fault).collect();
        let expected = [
            None,
            Some(&Fault::Outside),
            Some(&Fault::NoPatient),
            Some(&Fault::WrongSplit),
            Some(&Fault::BrokenRow),
            None,
            Some(&Fault::Outside),
        ];
        assert_eq!(faults, expected);
        assert_eq!(rows[4].as_ref().expect_err("short").name, "row 6");
    }

    #[test]
    fn a_manifest_without_patients_or_labels_or_rows_is_refused() {
        for (text, expected) in [
            ("path,label\na,x\n", "patient_id"),
            ("path,patient_id\na,P\n", "label"),
            ("patient_id,label\nP,x\n", "path"),
            ("path,patient_id,label\n", "no records"),
        ] {
            let error = rows(text).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_words_of_public_collections_are_understood() {
        let rows = rows("file,site,patient,label\na/b.png,s,7,1\n").expect("a manifest");
        let row = rows[0].as_ref().expect("a good row");
        assert_eq!((row.name.as_str(), row.label.as_str()), ("a/b.png", "1"));
    }

    #[test]
    fn a_row_without_a_word_in_the_split_column_goes_where_its_patient_would() {
        let split = rows("path,patient_key,split,label\na,K1,,x\nb,K2, ,x\n").expect("a manifest");
        let none = rows("path,patient_key,label\na,K1,x\nb,K2,x\n").expect("a manifest");
        let parts = |rows: &[Result<Row, Bad>]| -> Vec<Part> {
            rows.iter().flatten().map(|row| row.part).collect()
        };
        assert_eq!((parts(&split).len(), parts(&split)), (2, parts(&none)));
    }

    #[test]
    fn a_pseudonym_of_this_site_is_the_one_that_its_identifier_has() {
        let key: String = SiteSecret::new([3; 32])
            .pseudonym("P1", "")
            .as_bytes()
            .map(|b| format!("{b:02x}"))
            .concat();
        let text = format!("path,patient_key,label\na,site:{key},x\nb,{key},x\nc,site:{key}0,x\n");
        let ours = rows(&text).expect("a manifest");
        let theirs = rows("path,patient_id,label\na,P1,x\n").expect("a manifest");
        let patient = |row: &Result<Row, Bad>| row.as_ref().expect("a good row").patient;
        assert_eq!(patient(&ours[0]), patient(&theirs[0]));
        // What only looks like it, another system may have made.
        assert!(ours[1..].iter().all(|row| patient(row) != patient(&theirs[0])));
    }

    #[test]
    fn without_a_split_column_all_images_of_a_patient_go_the_same_way() {
        let text = "path,patient_key,label\na,K1,x\nb,K1,x\nc,K1,x\n";
        let rows = rows(text).expect("a manifest");
        let parts: Vec<Part> = rows.iter().flatten().map(|row| row.part).collect();
        assert_eq!(parts.len(), 3);
        assert!(parts.iter().all(|part| *part == parts[0]));
    }
}
