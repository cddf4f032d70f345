//! A made-up hospital from generation to scan: what is good passes, what is broken is named.

use std::path::Path;
use std::sync::Arc;

use hospital_trainer::dataset::cache::Cache;
use hospital_trainer::dataset::scan::Report;
use hospital_trainer::dataset::{
    Contents, Dataset, DatasetError, Fault, Look, Part, SiteSecret, Source, look,
};
use hospital_trainer::synthetic::{self, CLASSES, Request, generate};

const REQUEST: Request = Request { sites: 5, site: 1, patients: 20, seed: 4, size: 48 };

fn hospital(request: Request) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a scratch folder");
    generate(request, folder.path()).expect("generated");
    folder
}

fn source(folder: &Path) -> Source {
    Source::Dicom { folder: folder.into(), manifest: Some(folder.join(synthetic::MANIFEST)) }
}

fn scanned(folder: &Path, classes: &[String]) -> Result<Contents, DatasetError> {
    let secret = SiteSecret::new([5; 32]);
    let how = Look { secret: &secret, classes: Some(classes), preparation: None, memory: 0 };
    look(&source(folder), how, &|_, _| ())
}

/// Opened for a study with this in its task.
fn opened(folder: &Path, task: &str, memory: u64) -> Result<Dataset, DatasetError> {
    opened_beside(folder, task, memory, None)
}

/// The same with a folder for prepared images.
fn opened_beside(
    folder: &Path,
    task: &str,
    memory: u64,
    cache: Option<Arc<Cache>>,
) -> Result<Dataset, DatasetError> {
    let study = format!(
        "name = \"t\"\n[task]\nkind = \"classification\"\nclasses = [\"normal\", \"lesion\"]\n{task}\n\
         [model]\narch = \"linear\"\n[train]\nrounds = 1\nstrategy = \"fedsgd\"\nlearning_rate = 1.0\n\
         [privacy]\nmode = \"danger_no_privacy\"\n[cohort]\nquorum = 3\n"
    );
    let study = proto::manifest::parse(&study).expect("a valid manifest");
    let preparation = hospital_trainer::preprocess::Preparation::new(&study.task).with_cache(cache);
    let secret = SiteSecret::new([5; 32]);
    let how = Look {
        secret: &secret,
        classes: Some(&study.task.classes),
        preparation: Some(&preparation),
        memory,
    };
    Dataset::open(&source(folder), how)
}

fn classes() -> Vec<String> {
    CLASSES.map(str::to_owned).to_vec()
}

#[test]
fn what_is_generated_scans_clean_and_is_the_same_for_the_same_seed() {
    let folder = hospital(REQUEST);
    let contents = scanned(folder.path(), &classes()).expect("readable");
    let report = Report::new(&contents, true);
    assert!(report.bad.is_empty() && report.unlisted == 0, "{report}");
    assert_eq!(report.patients, 20);
    for part in Part::ALL {
        assert!(report.parts[&part].records > 0, "{report}");
    }
    let again = hospital(REQUEST);
    let again = Report::new(&scanned(again.path(), &classes()).expect("readable"), true);
    assert_eq!(again.root, report.root);
    let other = hospital(Request { seed: 5, ..REQUEST });
    let other = Report::new(&scanned(other.path(), &classes()).expect("readable"), true);
    assert_ne!(other.root, report.root);
}

#[test]
fn one_hospital_stores_its_images_inverted_and_they_are_prepared_alike() {
    let mean = |site| {
        let folder = hospital(Request { site, patients: 30, ..REQUEST });
        let task = "input = { channels = 1, height = 24, width = 24 }\n\
                    preprocess = { window = \"from-file\", mean = 0.5, sd = 0.25 }";
        let data = opened(folder.path(), task, 1 << 24).expect("clean");
        let bytes = std::fs::read(folder.path().join("p0001-1.dcm")).expect("a file");
        let inverted = bytes.windows(11).any(|window| window == b"MONOCHROME1");
        let corner: f32 =
            (0..data.train.len()).map(|i| data.train.image(i).expect("there")[0]).sum();
        #[expect(clippy::cast_precision_loss, reason = "a few images")]
        (inverted, corner / data.train.len() as f32)
    };
    let (first, dark) = mean(1);
    let (third, also_dark) = mean(3);
    assert!(!first && third);
    // Air beside the body is dark whichever way it is stored.
    assert!(dark < 0.0 && also_dark < 0.0, "{dark} {also_dark}");
    assert!((dark - also_dark).abs() < 0.5, "{dark} {also_dark}");
}

#[test]
fn each_bad_file_is_named_with_its_reason_and_the_scan_goes_on() {
    let folder = hospital(REQUEST);
    let path = |name: &str| folder.path().join(name);
    let manifest = std::fs::read_to_string(path(synthetic::MANIFEST)).expect("a manifest");
    let mut lines: Vec<String> = manifest.lines().map(str::to_owned).collect();
    let file_of = |line: &str| line.split(',').next().expect("a path").to_owned();
    let files: Vec<String> = lines.iter().skip(1).map(|line| file_of(line)).collect();

    let whole = std::fs::read(path(&files[0])).expect("a file");
    std::fs::write(path(&files[1]), &whole[..whole.len() - 100]).expect("cut off");
    std::fs::write(path(&files[2]), b"this is no image").expect("replaced");
    std::fs::write(path(&files[3]), b"").expect("emptied");
    std::fs::copy(path(&files[0]), path(&files[4])).expect("copied");
    std::fs::remove_file(path(&files[5])).expect("removed");
    std::fs::create_dir(path("folder.dcm")).expect("made");
    lines.push("folder.dcm,SYN-X,train,normal".to_owned());
    lines.push("../outside.dcm,SYN-X,train,normal".to_owned());
    let last = files.len() - 1;
    let other_part = if lines[last + 1].contains(",train,") { "test" } else { "train" };
    let patient = lines[last + 1].split(',').nth(1).expect("a patient").to_owned();
    std::fs::write(path("unlisted.dcm"), &whole).expect("written");
    lines.push(format!("extra.dcm,{patient},{other_part},normal"));
    let mut changed = whole.clone();
    let end = changed.len() - 1;
    changed[end - 1] ^= 1;
    std::fs::write(path("extra.dcm"), changed).expect("written");
    // The label of a file that nothing else is wrong with.
    lines[7 + 1] = lines[7 + 1].replace("normal", "abnormal").replace("lesion", "abnormal");
    std::fs::write(path(synthetic::MANIFEST), lines.join("\n")).expect("written");

    let contents = scanned(folder.path(), &classes()).expect("the source as a whole is readable");
    let fault =
        |name: &str| contents.bad.iter().find(|bad| bad.name == name).map(|bad| bad.fault.clone());
    assert_eq!(fault(&files[1]), Some(Fault::Truncated));
    assert!(matches!(fault(&files[2]), Some(Fault::NotAnImage(_))));
    assert!(matches!(fault(&files[3]), Some(Fault::NotAnImage(_))));
    assert_eq!(fault(&files[4]), Some(Fault::Duplicate));
    assert_eq!(fault(&files[5]), Some(Fault::Missing));
    assert_eq!(fault(&files[7]), Some(Fault::WrongLabel));
    assert!(matches!(fault("folder.dcm"), Some(Fault::WrongShape(_))));
    assert_eq!(fault("../outside.dcm"), Some(Fault::Outside));
    assert_eq!(fault("extra.dcm"), Some(Fault::PatientInTwoSplits));
    assert_eq!(contents.bad.len(), 9, "{:?}", contents.bad);
    assert_eq!(contents.unlisted, 1);
    let report = Report::new(&contents, true);
    let text = report.to_string();
    assert!(text.contains("1 duplicate") && !text.contains("Synthetic"), "{text}");

    // The same data set is refused for a study, without a file's name.
    let secret = SiteSecret::new([5; 32]);
    let how = Look { secret: &secret, classes: Some(&classes()), preparation: None, memory: 0 };
    let error = Dataset::open(&source(folder.path()), how).expect_err("refused").to_string();
    assert!(error.contains("9 of ") && !error.contains(".dcm"), "{error}");
    assert!(error.contains("1 x duplicate: the same pixels"), "{error}");
}

#[test]
fn more_than_the_allowed_memory_is_refused_before_an_image_is_read() {
    let folder = hospital(REQUEST);
    let task = "input = { channels = 1, height = 512, width = 512 }";
    let error = opened(folder.path(), task, 1 << 20).expect_err("refused");
    assert!(matches!(error, DatasetError::TooLarge { .. }), "{error}");
}

#[test]
fn what_does_not_fit_into_memory_lies_on_disk_and_is_the_same() {
    let (folder, scratch) = (hospital(REQUEST), tempfile::tempdir().expect("a scratch folder"));
    let task = "input = { channels = 1, height = 24, width = 24 }";
    let held = |memory| {
        let cache = Cache::open(scratch.path(), 1 << 20).expect("a folder");
        let data = opened_beside(folder.path(), task, memory, Some(Arc::new(cache)));
        let Dataset { train, validation, test, .. } = data.expect("clean");
        [train, validation, test].map(|part| part.several(0..part.len()).expect("there"))
    };
    assert_eq!(held(0), held(1 << 20));
    // A disk with less than that.
    let cache = Cache::open(scratch.path(), 4 << 10).expect("a folder");
    let error = opened_beside(folder.path(), task, 0, Some(Arc::new(cache))).expect_err("refused");
    assert!(error.to_string().contains("trainer.cache_mib"), "{error}");
}

#[test]
fn numbers_out_of_range_are_refused() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    for request in [
        Request { sites: 0, ..REQUEST },
        Request { site: 6, ..REQUEST },
        Request { site: 0, ..REQUEST },
        Request { size: 8, ..REQUEST },
        Request { patients: 0, ..REQUEST },
    ] {
        assert!(generate(request, folder.path()).is_err(), "{request:?}");
    }
}
