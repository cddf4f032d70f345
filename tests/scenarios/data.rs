//! What a hospital's own folder can have wrong with it.

use std::fs;

use harness::Outcome;
use harness::data::{TINY, damaged};
use harness::programs::Programs;
use harness::site::{Site, Work};
use serde_json::Value;

fn bad(report: &Value) -> Vec<(String, String)> {
    let listed = report["bad"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    listed.iter().map(|one| (text(&one["file"]), text(&one["reason"]))).collect()
}

#[test]
fn a_scan_names_every_bad_record_once_with_its_reason_and_counts_the_rest() -> Outcome<()> {
    let programs = Programs::find()?;
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    let damaged = damaged(&programs, &images)?;
    let work = Work::Dicom(damaged.folder.clone());
    let site = Site::settle(&programs, &folder.path().join("site"), "site-1", &work)?;
    let scan = site.order(["data", "scan"]).run()?;
    assert_eq!(scan.exit, Some(1), "{scan:?}");
    let report = &scan.envelope()?["data"];
    let mut found = bad(report);
    let mut expected: Vec<(String, String)> =
        damaged.bad.iter().map(|(file, why)| ((*file).to_owned(), (*why).to_owned())).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let usable = report["usable"].as_u64().unwrap_or_default();
    assert!(usable > 0, "{report}");
    assert_eq!(report["records"], usable + 9);
    Ok(())
}

#[test]
fn a_good_folder_scans_without_a_word_and_always_with_the_same_root() -> Outcome<()> {
    let programs = Programs::find()?;
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    TINY.write(&programs, 3, 2, &images)?;
    let site =
        Site::settle(&programs, &folder.path().join("site"), "site-1", &Work::Dicom(images))?;
    let first = site.order(["data", "scan"]).data()?;
    let second = site.order(["data", "scan", "set"]).data()?;
    assert_eq!(bad(&first), []);
    assert_eq!(first, second);
    Ok(())
}

#[test]
fn a_manifest_without_patients_without_rows_or_not_there_is_one_clear_line() -> Outcome<()> {
    let programs = Programs::find()?;
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    TINY.write(&programs, 3, 1, &images)?;
    let work = Work::Dicom(images.clone());
    let site = Site::settle(&programs, &folder.path().join("site"), "site-1", &work)?;
    let list = images.join("manifest.csv");
    let text = fs::read_to_string(&list)?;
    for (written, expected) in [
        (text.replace("patient_id", "ward"), "patient_id"),
        ("path,patient_id,label\n".to_owned(), "no records"),
    ] {
        fs::write(&list, written)?;
        let refused = site.order(["data", "scan"]).run()?.refused(1)?;
        assert!(refused.message.contains(expected), "{refused:?}");
    }
    fs::remove_file(&list)?;
    site.order(["data", "scan"]).run()?.refused(1)?;
    fs::remove_dir_all(&images)?;
    site.order(["data", "scan"]).run()?.refused(1)?;
    Ok(())
}

#[test]
fn a_file_is_shown_by_its_pixels_and_one_without_pixels_by_one_line() -> Outcome<()> {
    let programs = Programs::find()?;
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    TINY.write(&programs, 3, 1, &images)?;
    let list = fs::read_to_string(images.join("manifest.csv"))?;
    let first = list.lines().nth(1).and_then(|line| line.split(',').next()).unwrap_or_default();
    let work = Work::Dicom(images.clone());
    let site = Site::settle(&programs, &folder.path().join("site"), "site-1", &work)?;
    let shown = site.order(["data", "show"]).arg(images.join(first)).data()?;
    assert_eq!(
        (&shown["rows"], &shown["cols"]),
        (&Value::from(TINY.size), &Value::from(TINY.size))
    );
    assert_eq!(shown["sha256_pixels"].as_str().map(str::len), Some(64));
    let refused =
        site.order(["data", "show"]).arg(images.join("manifest.csv")).run()?.refused(1)?;
    assert!(!refused.message.contains('\n'), "{refused:?}");
    Ok(())
}
