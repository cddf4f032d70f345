//! Files of other people's making, sound and broken, through the reader. Skipped with a printed
//! reason where the collection is not at hand.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hospital_trainer::dataset::scan::Report;
use hospital_trainer::dataset::{Fault, Look, SiteSecret, Source, look};
use hospital_trainer::show::{Facts, show};

/// Sound files whose pixels this reader still gives otherwise than others do: a modality table,
/// words in big endian, a pixel representation that the codec contradicts, and dose grids of 32
/// bits. Whoever mends one takes it off this list.
const READ_OTHERWISE: [&str; 5] = [
    "pydicom+pydicom-data/mlut_18.dcm",
    "pydicom+pydicom/ExplVR_BigEnd.dcm",
    "pydicom+pydicom/J2K_pixelrep_mismatch.dcm",
    "pydicom+pydicom/rtdose_expb.dcm",
    "pydicom+pydicom/rtdose_expb_1frame.dcm",
];

/// Malformed files in which this reader finds pixels that others do not find, or other ones.
const MALFORMED_READ_OTHERWISE: [&str; 3] = [
    "fo-dicom+fo-dicom/GH1339.dcm",
    "fo-dicom+fo-dicom/multiframe.dcm",
    "pydicom+pydicom/badVR.dcm",
];

/// The folder of shared data: where the environment says, or beside the workspace.
#[expect(clippy::disallowed_methods, reason = "where test data lies is not configuration")]
fn shared(folder: &str) -> Option<PathBuf> {
    let root = std::env::var_os("CONSILIUM_SHARED_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
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

fn table(folder: &Path) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(folder.join("expected.csv")).expect("a table");
    reader.deserialize().collect::<Result<_, _>>().expect("rows of text")
}

#[test]
fn every_malformed_file_gets_one_reason_or_its_right_pixels() {
    let Some(folder) = shared("dicom-malformed") else { return };
    let mut otherwise = Vec::new();
    for row in table(&folder) {
        let path = &row["path"];
        match show(&folder.join(path)) {
            Ok(facts) if facts.sha256_pixels == row["sha256_pixels"] => {}
            Ok(_) => otherwise.push(path.clone()),
            Err(fault) => {
                let text = fault.to_string();
                assert!(!text.is_empty() && text.lines().count() == 1, "{path}: {text}");
            }
        }
    }
    otherwise.retain(|path| !MALFORMED_READ_OTHERWISE.contains(&path.as_str()));
    assert!(otherwise.is_empty(), "other pixels than expected: {otherwise:#?}");
}

#[test]
fn sound_files_decode_to_the_pixels_that_other_readers_find() {
    let Some(folder) = shared("dicom") else { return };
    let (mut same, mut refused, mut wrong) = (0, BTreeMap::<String, usize>::new(), Vec::new());
    for row in table(&folder) {
        let exact = row["exactness"] == "exact" && row["container"] == "plain";
        if !exact || row["sha256_pixels"].is_empty() {
            continue;
        }
        match show(&folder.join(&row["path"])) {
            Ok(Facts { sha256_pixels, .. }) if sha256_pixels == row["sha256_pixels"] => same += 1,
            Ok(_) => wrong.push(row["path"].clone()),
            Err(fault) => {
                *refused
                    .entry(format!("{} ({fault})", row["transfer_syntax_name"]))
                    .or_default() += 1;
            }
        }
    }
    eprintln!("{same} the same; refused: {refused:#?}");
    wrong.retain(|path| !READ_OTHERWISE.contains(&path.as_str()));
    assert!(wrong.is_empty(), "other pixels than expected: {wrong:#?}");
    assert!(same > 150, "only {same} files decode");
}

#[test]
fn a_folder_of_malformed_files_is_looked_at_to_its_end() {
    let Some(folder) = shared("dicom-malformed") else { return };
    let secret = SiteSecret::new([0; 32]);
    let how = Look { secret: &secret, classes: None, preparation: None, memory: 0 };
    let source = Source::Dicom { folder, manifest: None };
    let contents = look(&source, how, &|_, _| ()).expect("the folder can be listed");
    let report = Report::new(&contents, false);
    assert!(report.records >= 27 && !report.bad.is_empty() && report.root.is_none());
    let has = |fault: &str| report.bad.iter().any(|bad| bad.reason == fault);
    assert!(has("truncated") && has("not_an_image") && has("unreadable"), "{report}");
    assert!(contents.bad.iter().all(|bad| bad.fault != Fault::Missing));
}
