//! Files of other people's making, sound and broken, through the reader. Skipped with a printed
//! reason where the collection is not at hand.

#[path = "../../../tests/scenarios/shared_data.rs"]
mod shared_data;

use hospital_trainer::dataset::scan::Report;
use hospital_trainer::dataset::{Fault, Look, SiteSecret, Source, look};
use hospital_trainer::show::show;

use crate::shared_data::shared;

#[test]
fn any_readable_file_is_shown_by_the_names_of_its_format() {
    let Some(folder) = shared("nifti") else { return };
    let facts = show(&folder.join("nipy+nibabel/anatomical.nii")).expect("a sound file");
    let json = serde_json::to_value(&facts).expect("plain facts");
    assert_eq!(json["rows"], 41);
    assert_eq!((&json["cols"], &json["frames"]), (&33.into(), &25.into()));
    assert_eq!(json["sum"], 284_166_082);
    assert_eq!(json["sha256_raw_le_fortran"], json["sha256_pixels"]);
    assert!(facts.to_string().contains("int16"), "{facts}");
    let Some(folder) = shared("dicom") else { return };
    let facts = show(&folder.join("pydicom+pydicom/CT_small.dcm")).expect("a sound file");
    let json = serde_json::to_value(&facts).expect("plain facts");
    assert_eq!(json["photometric"], "MONOCHROME2");
    assert!(json.get("sha256_raw_le_fortran").is_none() && json.get("arrays").is_none());
    let Some(folder) = shared("medmnist") else { return };
    let facts = show(&folder.join("derived/pneumoniamnist.npz")).expect("a sound file");
    let json = serde_json::to_value(&facts).expect("plain facts");
    assert_eq!((&json["format"], &json["rows"]), (&"npz".into(), &28.into()));
    assert_eq!((&json["frames"], &json["bits_stored"]), (&5856.into(), &8.into()));
    assert_eq!(json["sum"], 538_305_934 + 59_624_090 + 70_355_184);
    assert_eq!(json["arrays"][1]["name"], "train_labels");
    assert_eq!(json["arrays"][1]["sum"], 3494);
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
