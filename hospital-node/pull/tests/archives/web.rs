//! By DICOMweb.

use std::collections::BTreeSet;

use hospital_images::dicom::Stored;
use hospital_pull::archive::{Archive, Found, Instance, Patience, Query, Series, Study, Taker};
use hospital_pull::fault::Fault;
use hospital_pull::job::{Login, Proxy};
use hospital_pull::names::Names;
use hospital_pull::pull::PullError;
use hospital_pull::sieve::Asked;
use hospital_pull::web::Web;

use crate::held::{Held, contents};
use crate::house::{
    ALL, IMPATIENCE, PATIENCE, SECRET, SR, pull_all, pull_five_in_vain, pull_nothing, pull_once,
    pull_with_rests, reasons, refusal,
};
use crate::server::{Manner, serve};

fn web(base: &str) -> Web {
    Web::new(base, None, None, &Proxy::Direct, PATIENCE).expect("a connection")
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
        let file = format!("{}/{name}.dcm", names.series(&held.series));
        let bytes = std::fs::read(scratch.path().join("images").join(&file)).expect("an image");
        let (ours, theirs) = (Stored::decode(&bytes), Stored::decode(&held.file()));
        assert_eq!(ours.expect("an image").data, theirs.expect("an image").data);
        let row = format!("{file},site:{},", names.patient(&held.patient, ""));
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
        (Manner::Stripped, "no_pixels"),
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
        let mut web = Web::new(&base, None, None, &Proxy::Direct, IMPATIENCE).expect("a way");
        pull_five_in_vain(&mut web, scratch.path());
        assert_eq!(asked.instances(), 5, "{manner:?}");
    }
}

#[test]
fn lists_that_are_wrong_end_the_pull_with_one_line() {
    for (manner, expected) in [
        (Manner::NoList, Fault::TooLarge("the answer")),
        (Manner::EndlessList, Fault::TooLarge("the archive's list")),
        (Manner::Forbids(""), Fault::Forbidden("HTTP status 403".to_owned())),
        (
            Manner::Lacks(""),
            Fault::Status("HTTP status 404: there is no QIDO-RS at the address in from".to_owned()),
        ),
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
        let mut web = Web::new(&base, None, Some(&login), &Proxy::Direct, PATIENCE).expect("a way");
        let report = pull_once(&mut web, scratch.path(), ALL).expect("a report");
        assert_eq!(report.fetched, 12);
        assert!(!format!("{web:?}{login:?}").contains(&value[7..]));
    }
}

#[test]
fn long_lists_are_read_page_by_page_however_short_the_pages_are() {
    let first = contents().swap_remove(0);
    let one = |number| Held { instance: format!("{}.{number}", first.instance), ..first.clone() };
    let held: Vec<Held> = (0..2500).map(one).collect();
    for manner in [
        Manner::Good,
        Manner::Caps(100),
        Manner::Caps(999),
        Manner::CapsAndSays(100),
        Manner::CapsAndSays(1000),
        Manner::Heedless,
    ] {
        let (base, _) = serve(held.clone(), manner.clone());
        let found = web(&base).instances(&first.study, &first.series).expect("a list");
        let unlike: BTreeSet<&str> = found.rows.iter().map(|one| one.uid.as_str()).collect();
        let counts = (found.rows.len(), unlike.len(), found.nameless);
        assert_eq!(counts, (2500, 2500, 0), "{manner:?}");
    }
    // Where the rest does not come, the beginning is not taken for all.
    for manner in [Manner::Stuck(usize::MAX), Manner::StuckAndSays(100)] {
        let (base, _) = serve(held.clone(), manner.clone());
        let found = web(&base).instances(&first.study, &first.series).map(|found| found.rows.len());
        assert_eq!(found, Err(Fault::Answer("the rest of a long list")), "{manner:?}");
    }
    for manner in [Manner::Stuck(1000), Manner::StuckAndSays(100)] {
        let (base, _) = serve(held[..90].to_vec(), manner.clone());
        let found = web(&base).instances(&first.study, &first.series).map(|found| found.rows.len());
        assert_eq!(found, Ok(90), "{manner:?}");
    }
}

#[test]
fn an_answer_without_a_uid_costs_nothing_but_itself() {
    for manner in [
        Manner::BadUid,
        Manner::BadUidHeedless,
        Manner::BadRow("{\"0020000D\":null}"),
        Manner::BadRow("{\"0020000D\":{\"Value\":\"1.2\"}}"),
        Manner::BadRow("{\"0020000D\":{},\"0020000D\":{}}"),
    ] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (base, _) = serve(contents(), manner.clone());
        let report = pull_once(&mut web(&base), scratch.path(), ALL).expect("a report");
        assert_eq!((report.fetched, report.failed.len()), (12, 1), "{manner:?}");
        let expected = "expected a UID in each answer, 1 of them had none";
        assert_eq!(report.failed[0].detail, expected, "{manner:?}");
        assert!(!report.is_whole());
    }
}

#[test]
fn a_404_to_a_question_that_nothing_fits_is_no_fault_of_the_address() {
    let list = tempfile::NamedTempFile::new().expect("a scratch file");
    std::fs::write(list.path(), "patient_id\nCANARY-0\nCANARY-1\nCANARY-7\n").expect("written");
    let patients = format!("patients = {:?}", list.path());
    for (section, expected, questions) in [
        (patients.as_str(), 4, 5),
        ("modality = \"CT\"", 0, 2),
        ("modality = [\"CT\", \"CR\"]", 12, 4),
    ] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (base, asked) = serve(contents(), Manner::NoneIs404);
        let report = pull_once(&mut web(&base), scratch.path(), section).expect("a report");
        assert_eq!((report.fetched, report.failed.len()), (expected, 0), "{section}");
        // One each, one behind the last answer where there are any, and once one about the address.
        assert_eq!(asked.about("/studies"), questions, "{section}");
    }
}

#[test]
fn what_the_archive_keeps_from_us_or_does_not_find_costs_nothing_else() {
    for (manner, reason, fetched, failed) in [
        (Manner::Forbids("/1.2.1.1/series/1.2.1.1.1/instances/"), "refused", 10, 2),
        (Manner::Forbids("studies/1.2.1.1/series"), "refused", 10, 1),
        (Manner::Lacks("studies/1.2.1.1/series"), "missing", 10, 1),
        (Manner::Lacks("series/1.2.1.1.1/instances"), "missing", 10, 1),
    ] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (base, _) = serve(contents(), manner.clone());
        let report = pull_once(&mut web(&base), scratch.path(), ALL).expect("a report");
        assert_eq!((report.fetched, report.failed.len()), (fetched, failed), "{manner:?}");
        assert!(reasons(&report).iter().all(|one| *one == reason), "{manner:?} {report:?}");
    }
}

#[test]
fn an_archive_that_falls_silent_over_questions_is_left_after_a_few_of_them() {
    let patience = Patience { silence: IMPATIENCE.silence, ..PATIENCE };
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (base, asked) = serve(contents(), Manner::MuteOver("/series"));
    let mut web = Web::new(&base, None, None, &Proxy::Direct, patience).expect("a way");
    let report = pull_once(&mut web, scratch.path(), ALL).expect("a report");
    assert_eq!(reasons(&report), ["timeout"; 5]);
    assert_eq!((report.found, report.not_asked, asked.about("/series")), (0, 1, 5));
    assert!(!report.is_whole());
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (base, _) = serve(contents(), Manner::MuteOver("1/instances"));
    let mut web = Web::new(&base, None, None, &Proxy::Direct, patience).expect("a way");
    let report = pull_once(&mut web, scratch.path(), ALL).expect("a report");
    assert_eq!((reasons(&report), report.not_asked), (vec!["timeout"; 5], 1));
}

#[test]
fn what_was_found_before_questions_fell_silent_is_fetched() {
    let patience = Patience { silence: IMPATIENCE.silence, ..PATIENCE };
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (base, _) = serve(contents(), Manner::MuteBehind("1.2.1.1"));
    let mut web = Web::new(&base, None, None, &Proxy::Direct, patience).expect("a way");
    let (report, rests) = pull_with_rests(&mut web, scratch.path(), ALL);
    let report = report.expect("a report");
    assert_eq!(reasons(&report), ["timeout"; 5]);
    assert_eq!((report.fetched, report.not_tried, report.holds.images), (2, 0, 2));
    assert_eq!(rests, [1, 2, 4, 8]);
    assert!(!report.is_whole());
}

/// An archive whose connections fail so often when images are fetched.
struct Failing(Web, usize);

impl Archive for Failing {
    fn studies(&mut self, query: Query<'_>) -> Result<Found<Study>, Fault> {
        self.0.studies(query)
    }

    fn series(&mut self, study: &str) -> Result<Found<Series>, Fault> {
        self.0.series(study)
    }

    fn instances(&mut self, study: &str, series: &str) -> Result<Found<Instance>, Fault> {
        self.0.instances(study, series)
    }

    fn fetch(
        &mut self,
        asked: Asked<'_>,
        class: Option<&str>,
        take: &mut Taker<'_>,
    ) -> Result<(), Fault> {
        if self.1 > 0 {
            self.1 -= 1;
            return Err(Fault::Unreachable("the connection failed".to_owned()));
        }
        self.0.fetch(asked, class, take)
    }
}

#[test]
fn an_archive_that_starts_anew_is_given_time_before_it_is_left() {
    for (fails, fetched, expected) in
        [(0, 12, &[][..]), (1, 12, &[1]), (4, 12, &[1, 2, 4, 8]), (99, 0, &[1, 2, 4, 8])]
    {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (base, _) = serve(contents(), Manner::Good);
        let mut archive = Failing(web(&base), fails);
        let (report, rests) = pull_with_rests(&mut archive, scratch.path(), ALL);
        let report = report.expect("a report");
        assert_eq!((report.fetched, report.is_whole()), (fetched, fetched == 12), "{fails}");
        assert_eq!(rests, expected, "{fails}");
    }
}

#[test]
fn another_object_says_nothing_about_the_one_that_was_asked_for() {
    let mut held = contents();
    held[0] = Held { class: SR, pixels: false, ..held[0].clone() };
    let scratch = tempfile::tempdir().expect("a scratch folder");
    // To all questions but the first comes the report of the first.
    let (base, asked) = serve(held.clone(), Manner::Another);
    let report = pull_once(&mut web(&base), scratch.path(), ALL).expect("a report");
    assert_eq!(reasons(&report), ["another_object"; 12]);
    assert_eq!((report.not_images, asked.instances()), (0, 24));
    let (base, _) = serve(held, Manner::Good);
    let report = pull_once(&mut web(&base), scratch.path(), ALL).expect("a report");
    assert_eq!((report.already, report.fetched, report.not_images), (0, 11, 1));
}

#[test]
fn a_series_is_listed_as_one_when_all_of_it_is_there() {
    let section = "modality = \"CR\"\nrows = \"series\"";
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let lacks = Manner::Lacks("instances/1.2.1.1.1.2");
    for (manner, expected) in [(lacks, 5), (Manner::Good, 6)] {
        let (base, _) = serve(contents(), manner);
        let report = pull_once(&mut web(&base), scratch.path(), section).expect("a report");
        assert_eq!((report.found, report.holds.series), (12, 6));
        let list = std::fs::read_to_string(&report.manifest).expect("a list");
        assert_eq!(list.lines().count(), 1 + expected, "{list}");
        for row in list.lines().skip(1) {
            let folder = row.split(',').next().expect("a path");
            let slices = std::fs::read_dir(scratch.path().join("images").join(folder));
            assert_eq!(slices.expect("a folder").count(), 2);
        }
    }
}

#[test]
fn a_series_of_which_a_part_is_there_is_not_listed_when_a_later_question_is_refused() {
    let section = "modality = \"CR\"\nrows = \"series\"";
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let rows = || {
        let list = std::fs::read_to_string(scratch.path().join("manifest.csv")).expect("a list");
        list.lines().count() - 1
    };
    let (base, _) = serve(contents(), Manner::Lacks("instances/1.2.1.1.1.2"));
    pull_once(&mut web(&base), scratch.path(), section).expect("a report");
    assert_eq!(rows(), 5);
    let (base, _) = serve(contents(), Manner::LocksOver("studies/1.2.3.2/series"));
    let ended = pull_once(&mut web(&base), scratch.path(), section);
    assert!(matches!(ended, Err(PullError::Archive(Fault::Refused(_)))), "{ended:?}");
    assert_eq!(rows(), 5);
    let (base, _) = serve(contents(), Manner::Good);
    pull_once(&mut web(&base), scratch.path(), section).expect("a report");
    assert_eq!(rows(), 6);
}

#[test]
fn whom_the_list_does_not_name_any_more_is_taken_out_and_told() {
    let list = tempfile::NamedTempFile::new().expect("a scratch file");
    let section = format!("patients = {:?}\nlabel = \"normal\"", list.path());
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (base, _) = serve(contents(), Manner::Good);
    for (patients, rows, off) in
        [("CANARY-1\nCANARY-2", 8, 0), ("CANARY-2", 4, 4), ("CANARY-1", 4, 4)]
    {
        std::fs::write(list.path(), format!("patient_id\n{patients}\n")).expect("written");
        let report = pull_once(&mut web(&base), scratch.path(), &section).expect("a report");
        assert_eq!((report.off_list, report.holds.images), (off, 8), "{patients}");
        let text = std::fs::read_to_string(&report.manifest).expect("a list");
        assert_eq!(text.lines().count(), 1 + rows, "{text}");
    }
}
