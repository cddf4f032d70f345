//! Every file of `dicom/expected.csv` and `dicom-malformed/expected.csv`, against what the usual
//! decoders find in them.

use std::io::Read as _;

use data_encoding::HEXLOWER;
use flate2::read::GzDecoder;
use hospital_images::dicom::Stored;
use hospital_images::{Fault, bytes, sha256};

use crate::{Row, near, number, shared, table};

/// Malformed files that the table's reader gave up on, and that hold these pixels all the same: the
/// first has a complete header and one JPEG lossless frame, the second the picture of NEMA CT1, whose
/// digest is in the table of sound files.
const READ_AFTER_ALL: [(&str, &str); 2] = [
    (
        "fo-dicom+fo-dicom/GH1339.dcm",
        "53a1da994838c5cc886c35e68f424359c44a00c640c549ed812d7100dfb6bc78",
    ),
    (
        "fo-dicom+fo-dicom/GH177_D_CLUNIE_CT1_IVRLE_BigEndian_undefined_length.dcm",
        "1add6ede29758c6f0c68f01749ddc6c907e68a312be4eb9da8489e376e0bbd34",
    ),
];

struct Facts {
    least: f64,
    greatest: f64,
    sum: f64,
    sha256: String,
}

fn facts(stored: &Stored) -> Facts {
    let (mut least, mut greatest, mut sum) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
    stored.each(&mut |value| {
        least = least.min(value);
        greatest = greatest.max(value);
        sum += value;
    });
    Facts { least, greatest, sum, sha256: HEXLOWER.encode(&sha256(&stored.data)) }
}

/// What is other than the table says; `None` when all is as it should be.
fn difference(row: &Row, stored: &Stored) -> Option<String> {
    let found = facts(stored);
    let (min, max, sum) = (number(row, "min"), number(row, "max"), number(row, "sum"));
    let close = match row["exactness"].as_str() {
        "exact" => found.sha256 == row["sha256_pixels"],
        "lossy wavelet: tolerance 1" => {
            let each = number(row, "decoded_bytes");
            (found.least - min).abs() <= 1.0
                && (found.greatest - max).abs() <= 1.0
                && (found.sum - sum).abs() <= each
        }
        _ => {
            (found.least - min).abs() <= 2.0
                && (found.greatest - max).abs() <= 2.0
                && near(found.sum, sum, 0.002)
        }
    };
    let shape = [
        ("rows", stored.rows.to_string()),
        ("columns", stored.columns.to_string()),
        ("samples_per_pixel", stored.samples.to_string()),
        ("photometric_decoded", stored.photometric.name().to_owned()),
        ("modality", stored.modality.replace("none", "")),
    ];
    let other = shape.iter().find(|(column, found)| row[*column] != *found);
    match other {
        Some((column, found)) => Some(format!("{column} {found} for {}", row[*column])),
        None if close => None,
        None => {
            Some(format!("{} {} {} for {min} {max} {sum}", found.least, found.greatest, found.sum))
        }
    }
}

#[test]
fn every_sound_file_decodes_to_the_pixels_that_other_readers_find() {
    let Some(folder) = shared("dicom") else { return };
    let (mut same, mut other) = (0, Vec::new());
    for row in table(&folder.join("expected.csv")) {
        let path = &row["path"];
        let mut file = bytes(&folder.join(path)).expect("readable");
        if row["container"] == "gzip" {
            let mut whole = Vec::new();
            GzDecoder::new(file.as_slice()).read_to_end(&mut whole).expect("sound");
            file = whole;
        }
        let name = &row["transfer_syntax_name"];
        match (Stored::decode(&file), row["status"].as_str()) {
            (Err(Fault::NotAnImage(_)), "no_pixel_data") => same += 1,
            (Ok(stored), "ok") => match difference(&row, &stored) {
                None => same += 1,
                Some(difference) => other.push(format!("{path} ({name}): {difference}")),
            },
            (Ok(_), _) => other.push(format!("{path} ({name}): pixels where none are")),
            (Err(fault), status) => other.push(format!("{path} ({name}): {status}, {fault}")),
        }
    }
    assert!(other.is_empty(), "{same} as expected, and {}: {other:#?}", other.len());
    assert!(same > 200, "only {same} files");
}

#[test]
fn every_malformed_file_gets_one_reason_or_its_right_pixels() {
    let Some(folder) = shared("dicom-malformed") else { return };
    let mut other = Vec::new();
    for row in table(&folder.join("expected.csv")) {
        let path = &row["path"];
        let file = bytes(&folder.join(path)).expect("readable");
        match Stored::decode(&file) {
            Ok(stored) if facts(&stored).sha256 == row["sha256_pixels"] => {}
            Ok(stored)
                if READ_AFTER_ALL.contains(&(path.as_str(), facts(&stored).sha256.as_str())) => {}
            Ok(stored) => other.push(format!("{path}: {} {}", row["want"], facts(&stored).sha256)),
            Err(fault) if row["want"].starts_with("loads") => {
                other.push(format!("{path}: {fault}"))
            }
            Err(fault) => {
                let text = fault.to_string();
                assert!(!text.is_empty() && text.lines().count() == 1, "{path}: {text}");
            }
        }
    }
    assert!(other.is_empty(), "other pixels than expected: {other:#?}");
}
