//! By DICOMweb.

use std::collections::BTreeSet;

use hospital_images::dicom::Stored;
use hospital_pull::archive::Archive as _;
use hospital_pull::fault::Fault;
use hospital_pull::job::{Login, Proxy};
use hospital_pull::names::Names;
use hospital_pull::web::Web;

use crate::held::{Held, contents};
use crate::house::{
    ALL, IMPATIENCE, PATIENCE, SECRET, SR, pull_all, pull_five_in_vain, pull_nothing, pull_once,
    refusal,
};
use crate::server::{Manner, serve};

fn web(base: &str) -> Web {
    Web::new(base, None, None, &Proxy::Direct, PATIENCE)
}

#[test]
fn all_images_come_once_and_name_nobody() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (base, asked) = serve(contents(), Manner::Good);
    let report = pull_all(&mut web(&base), scratch.path());
    // Each image is what the archive has, but for its names.
    let names = Names::new(SECRET);
    let list = std::fs::read_to_string(scratch.path().join("manifest.csv")).expect("a list");
    for held in contents() {
        let name = names.instance(&held.instance);
        let file = format!("{}/{name}.dcm", &name[..2]);
        let bytes = std::fs::read(scratch.path().join("images").join(&file)).expect("an image");
        let (ours, theirs) = (Stored::decode(&bytes), Stored::decode(&held.file()));
        assert_eq!(ours.expect("an image").data, theirs.expect("an image").data);
        let row = format!("{file},{},", names.patient(&held.patient, ""));
        assert!(
            list.lines().any(|line| line.starts_with(&row) && line.ends_with(",CR,normal")),
            "{list}"
        );
    }
    assert_eq!(asked.instances(), 12);

    let again = pull_once(&mut web(&base), scratch.path(), ALL).expect("a report");
    assert_eq!((again.found, again.fetched, again.already), (12, 0, 12));
    assert_eq!(asked.instances(), 12, "nothing is fetched twice");
    assert_eq!(again.holds, report.holds);
}

#[test]
fn only_what_is_asked_for_comes_even_from_an_archive_that_does_not_heed_it() {
    let list = tempfile::NamedTempFile::new().expect("a scratch file");
    std::fs::write(list.path(), "patient_id,label\nCANARY-1,ill\nCANARY-9,\n").expect("written");
    let patients = format!("patients = {:?}\nlabel = \"normal\"", list.path());
    for manner in [Manner::Good, Manner::Heedless] {
        for (section, expected) in [
            ("study_date = \"20210115\"", 6),
            ("study_date = \"20210115-20210115\"\nmodality = \"CR\"", 6),
            ("modality = \"CR\"\nseries_description = \"*2\"", 6),
            ("modality = \"CT\"", 0),
            (patients.as_str(), 4),
        ] {
            let scratch = tempfile::tempdir().expect("a scratch folder");
            let (base, _) = serve(contents(), manner.clone());
            let report = pull_once(&mut web(&base), scratch.path(), section).expect("a report");
            assert_eq!(
                (report.fetched, report.failed.len()),
                (expected, 0),
                "{manner:?} {section}"
            );
            if expected == 4 {
                let list =
                    std::fs::read_to_string(scratch.path().join("manifest.csv")).expect("a list");
                assert_eq!(list.matches(",ill\n").count(), 4, "{list}");
            }
        }
    }
}

#[test]
fn what_has_no_pixels_is_passed_over_and_not_asked_for_again() {
    let mut held = contents();
    held.push(Held {
        instance: "1.2.1.1.1.9".to_owned(),
        class: SR,
        pixels: false,
        ..held[0].clone()
    });
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (base, asked) = serve(held, Manner::Good);
    let report = pull_once(&mut web(&base), scratch.path(), ALL).expect("a report");
    assert_eq!((report.fetched, report.not_images, report.failed.len()), (12, 1, 0));
    let again = pull_once(&mut web(&base), scratch.path(), ALL).expect("a report");
    assert_eq!((again.already, asked.instances()), (13, 13));
}

#[test]
fn whatever_an_archive_sends_it_is_one_line_each_and_nothing_is_kept_of_it() {
    for (manner, reason) in [
        (Manner::Another, "another_object"),
        (Manner::Two, "protocol"),
        (Manner::Cut, "truncated"),
        (Manner::Lies, "truncated"),
        (Manner::Nonsense, "truncated"),
        (Manner::Gone, "missing"),
        (Manner::Endless, "broken_header"),
    ] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (base, asked) = serve(contents(), manner.clone());
        let report = pull_nothing(&mut web(&base), scratch.path(), reason);
        assert_eq!(asked.instances(), 24, "{manner:?}: asked for once more");
        let left = std::fs::read_dir(scratch.path().join("unfinished")).expect("a folder").count();
        assert_eq!(left, 0, "{manner:?}");
        assert!(report.failed.iter().all(|failed| !failed.detail.contains("CANARY")));
    }
}

#[test]
fn a_moments_trouble_and_a_bare_file_are_no_failures() {
    for manner in [Manner::AtFirst503, Manner::Bare] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (base, _) = serve(contents(), manner.clone());
        let report = pull_once(&mut web(&base), scratch.path(), ALL).expect("a report");
        assert_eq!((report.fetched, report.failed.len()), (12, 0), "{manner:?}");
    }
}

#[test]
fn an_archive_that_dribbles_or_says_nothing_is_left_after_a_few_tries() {
    for manner in [Manner::Slow, Manner::Mute] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (base, asked) = serve(contents(), manner.clone());
        let mut web = Web::new(&base, None, None, &Proxy::Direct, IMPATIENCE);
        pull_five_in_vain(&mut web, scratch.path());
        assert_eq!(asked.instances(), 5, "{manner:?}");
    }
}

#[test]
fn lists_that_are_wrong_end_the_pull_with_one_line() {
    for (manner, expected) in [
        (Manner::BadUid, Fault::Answer("a UID in each answer")),
        (Manner::EndlessList, Fault::TooLarge("the answer")),
        (Manner::Locked("Bearer x"), Fault::Refused("HTTP status 401".to_owned())),
    ] {
        let (base, asked) = serve(contents(), manner.clone());
        assert_eq!(refusal(&mut web(&base)), expected, "{manner:?}");
        assert_eq!(asked.instances(), 0, "{manner:?}");
    }
    let nobody = refusal(&mut web("http://127.0.0.1:1/"));
    assert!(matches!(nobody, Fault::Unreachable(_)), "{nobody:?}");
}

#[test]
fn a_name_with_its_password_or_a_token_lets_us_in() {
    let basic = Login::Basic { user: "reader".to_owned(), password: "opened".to_owned().into() };
    let bearer = Login::Bearer("t0ken".to_owned().into());
    for (login, value) in [(basic, "Basic cmVhZGVyOm9wZW5lZA=="), (bearer, "Bearer t0ken")] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (base, _) = serve(contents(), Manner::Locked(value));
        let mut web = Web::new(&base, None, Some(&login), &Proxy::Direct, PATIENCE);
        let report = pull_once(&mut web, scratch.path(), ALL).expect("a report");
        assert_eq!(report.fetched, 12);
        assert!(!format!("{web:?}{login:?}").contains(&value[7..]));
    }
}

#[test]
fn long_lists_are_read_page_by_page() {
    let first = contents().swap_remove(0);
    let one = |number| Held { instance: format!("{}.{number}", first.instance), ..first.clone() };
    let held: Vec<Held> = (0..2500).map(one).collect();
    let (base, _) = serve(held, Manner::Good);
    let found = web(&base).instances(&first.study, &first.series).expect("a list");
    let unlike: BTreeSet<&str> = found.iter().map(|instance| instance.uid.as_str()).collect();
    assert_eq!((found.len(), unlike.len()), (2500, 2500));
}
