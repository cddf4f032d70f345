//! By C-FIND and C-GET.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hospital_pull::archive::Patience;
use hospital_pull::dimse::Dimse;
use hospital_pull::fault::Fault;

use crate::held::contents;
use crate::house::{
    ALL, IMPATIENCE, PATIENCE, betrays, pull_all, pull_five_in_vain, pull_nothing, pull_once,
    reasons, refusal,
};
use crate::scp::{Manner, serve};

fn dimse(port: u16, patience: Patience) -> Dimse {
    Dimse::new("127.0.0.1".to_owned(), port, None, "ARCHIVE".to_owned(), "US".to_owned(), patience)
}

#[test]
fn all_images_come_once_and_name_nobody() {
    for manner in [Manner::Good, Manner::Reticent] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (port, counts) = serve(contents(), manner);
        pull_all(&mut dimse(port, PATIENCE), scratch.path());
        assert_eq!(counts.associations.load(Ordering::SeqCst), 2, "one to ask, one to fetch");

        let again = pull_once(&mut dimse(port, PATIENCE), scratch.path(), ALL).expect("a report");
        assert_eq!((again.found, again.fetched, again.already), (12, 0, 12));
        assert_eq!(counts.instances.load(Ordering::SeqCst), 12, "nothing is fetched twice");
    }
}

#[test]
fn both_ways_lead_to_the_same_files() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a scratch folder"));
    let (port, _) = serve(contents(), Manner::Good);
    pull_once(&mut dimse(port, PATIENCE), folders[0].path(), ALL).expect("a report");
    let (base, _) = crate::server::serve(contents(), crate::server::Manner::Good);
    let proxy = hospital_pull::job::Proxy::Direct;
    let mut web = hospital_pull::web::Web::new(&base, None, None, &proxy, PATIENCE).expect("a way");
    pull_once(&mut web, folders[1].path(), ALL).expect("a report");
    let [one, other] = folders.each_ref().map(|folder| {
        let list = std::fs::read_to_string(folder.path().join("manifest.csv")).expect("a list");
        let files: Vec<Vec<u8>> = list
            .lines()
            .skip(1)
            .map(|row| row.split(',').next().unwrap_or_default())
            .map(|file| std::fs::read(folder.path().join("images").join(file)).expect("an image"))
            .collect();
        (list, files)
    });
    assert_eq!(one.1.len(), 12);
    assert!(one == other);
}

#[test]
fn whatever_an_archive_sends_it_is_one_line_each_and_nothing_is_kept_of_it() {
    for (manner, reason) in [
        (Manner::Another, "another_object"),
        (Manner::Nothing, "missing"),
        (Manner::Cannot, "status"),
        (Manner::HugePdu, "protocol"),
    ] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (port, counts) = serve(contents(), manner);
        pull_nothing(&mut dimse(port, PATIENCE), scratch.path(), reason);
        assert_eq!(counts.instances.load(Ordering::SeqCst), 24, "{manner:?}: asked for once more");
    }
}

#[test]
fn what_was_not_asked_for_is_refused_and_what_was_is_taken() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (port, _) = serve(contents(), Manner::More);
    let report = pull_once(&mut dimse(port, PATIENCE), scratch.path(), ALL).expect("a report");
    assert_eq!((report.fetched, report.failed.len(), report.holds.images), (12, 0, 12));
    assert_eq!(betrays(scratch.path()), None);
}

#[test]
fn an_answer_that_cannot_be_read_costs_nothing_but_itself() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (port, _) = serve(contents(), Manner::BadAnswers);
    let report = pull_once(&mut dimse(port, PATIENCE), scratch.path(), ALL).expect("a report");
    // One about studies, one about the series of each, one about the images of each.
    assert_eq!((report.fetched, reasons(&report)), (12, vec!["protocol"; 13]));
    assert!(report.failed[0].detail.contains("2 of them"), "{report:?}");
}

#[test]
fn descriptions_are_read_in_their_character_set() {
    for (manner, pattern) in [(Manner::Latin, "*r\u{f6}ntgen*"), (Manner::Unreadable, "*thorax")] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (port, _) = serve(contents(), manner);
        let section = format!("modality = \"CR\"\nseries_description = {pattern:?}");
        let report = pull_once(&mut dimse(port, PATIENCE), scratch.path(), &section);
        assert_eq!(report.expect("a report").fetched, 12, "{manner:?}");
    }
}

#[test]
fn an_association_that_ends_is_opened_again() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (port, counts) = serve(contents(), Manner::AbortsOnce);
    let report = pull_once(&mut dimse(port, PATIENCE), scratch.path(), ALL).expect("a report");
    assert_eq!((report.fetched, report.failed.len()), (12, 0), "{report:?}");
    assert_eq!(counts.associations.load(Ordering::SeqCst), 3);
}

#[test]
fn an_archive_that_dribbles_or_says_nothing_is_left_after_a_few_tries() {
    for manner in [Manner::Slow, Manner::Mute] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (port, counts) = serve(contents(), manner);
        pull_five_in_vain(&mut dimse(port, IMPATIENCE), scratch.path());
        // A busy archive may not have heard of all of them when it is left.
        let asked = counts.instances.load(Ordering::SeqCst);
        assert!(asked <= 5, "{manner:?}: {asked}");
    }
}

#[test]
fn a_data_set_that_never_ends_is_cut_off() {
    let patience = Patience { answer: Duration::from_millis(300), ..PATIENCE };
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (port, _) = serve(contents(), Manner::Endless);
    let report = pull_once(&mut dimse(port, patience), scratch.path(), ALL).expect("a report");
    assert_eq!((report.fetched, report.failed.len() + report.not_tried), (0, 12), "{report:?}");
    // As fast as it comes, a name is found where none can be; else time is up.
    let reasons = reasons(&report);
    assert!(reasons.iter().all(|one| ["timeout", "broken_header"].contains(one)), "{reasons:?}");
}

#[test]
fn an_archive_that_cannot_be_asked_ends_the_pull_with_one_line() {
    let patience = Patience { answer: Duration::from_secs(1), ..PATIENCE };
    let rejected = "association rejected, calling AE title not recognized".to_owned();
    let busy = "association rejected for now, calling AE title not recognized".to_owned();
    for (manner, expected) in [
        (Manner::Rejects, Fault::Refused(rejected)),
        (Manner::RejectsForNow, Fault::Unreachable(busy)),
        (Manner::AbortsAtOnce, Fault::Unreachable("it ended the association".to_owned())),
        (Manner::Alerts, Fault::Unreachable("it expects TLS".to_owned())),
        (Manner::Nonsense, Fault::Answer("a PDU")),
        (Manner::EndlessAnswers, Fault::Slow),
    ] {
        let (port, _) = serve(contents(), manner);
        assert_eq!(refusal(&mut dimse(port, patience)), expected, "{manner:?}");
    }
    let nobody = refusal(&mut dimse(1, PATIENCE));
    assert!(matches!(nobody, Fault::Unreachable(_)), "{nobody:?}");
}

/// A byte now and then keeps every read alive; the whole of it has an end all the same.
#[test]
fn an_association_or_a_handshake_that_dribbles_is_left() {
    use std::sync::Arc;

    let patience = Patience {
        connect: Duration::from_millis(300),
        silence: Duration::from_millis(400),
        answer: Duration::from_secs(600),
    };
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("versions")
    .with_root_certificates(rustls::RootCertStore::empty())
    .with_no_client_auth();
    for (tls, start) in [
        (None, &[2, 0, 0, 0, 0xff, 0][..]),
        (Some(Arc::new(config)), &[0x16, 3, 3, 0x3f, 0xff, 2, 0, 0x3f, 0xf0]),
    ] {
        let (port, counts) = serve(contents(), Manner::Dribbles(start));
        let [host, called, calling] = ["127.0.0.1", "ARCHIVE", "US"].map(str::to_owned);
        let mut dimse = Dimse::new(host, port, tls, called, calling, patience);
        assert_eq!(refusal(&mut dimse), Fault::Slow);
        assert_eq!(counts.associations.load(Ordering::SeqCst), 1);
    }
}
