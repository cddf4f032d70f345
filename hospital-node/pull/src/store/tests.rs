use super::*;

fn done(instance: &str, patient: &str) -> Done {
    Done {
        instance: instance.to_owned(),
        series: format!("series-{patient}"),
        study: format!("study-{patient}"),
        patient: patient.to_owned(),
        modality: "CR".to_owned(),
        label: "normal".to_owned(),
        bytes: None,
    }
}

fn put(store: &mut Store, instance: &str, patient: &str) {
    let mut draft = store.draft(instance).expect("a draft");
    draft.to().write_all(instance.as_bytes()).expect("written");
    store.keep(draft, done(instance, patient)).expect("kept");
}

#[test]
fn what_is_kept_is_known_after_a_restart_and_what_was_begun_is_gone() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mut store = Store::open(scratch.path(), "k").expect("a folder");
    put(&mut store, "aa1", "p1");
    put(&mut store, "aa2", "p1");
    put(&mut store, "bb1", "p2");
    store.pass_over(done("cc1", "")).expect("journalled");
    let mut begun = store.draft("dd1").expect("a draft");
    begun.to().write_all(b"half").expect("written");
    drop((begun, store));

    let store = Store::open(scratch.path(), "k").expect("a folder");
    assert!(["aa1", "aa2", "bb1", "cc1"].iter().all(|name| store.has(name)) && !store.has("dd1"));
    let expected = Holdings { patients: 2, studies: 2, series: 2, images: 3, bytes: 9 };
    assert_eq!(store.holdings(), expected);
    let unfinished = fs::read_dir(scratch.path().join(UNFINISHED)).expect("a folder");
    assert_eq!(unfinished.count(), 0);
    assert_eq!(fs::read(scratch.path().join("images/bb/bb1.dcm")).expect("an image"), b"bb1");
}

#[test]
fn a_torn_line_is_cut_off_and_a_damaged_one_is_told() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mut store = Store::open(scratch.path(), "k").expect("a folder");
    put(&mut store, "aa1", "p1");
    put(&mut store, "aa2", "p1");
    drop(store);
    let path = scratch.path().join(JOURNAL);
    let whole = fs::read(&path).expect("a journal");
    for cut in 1..80 {
        fs::write(&path, &whole[..whole.len() - cut]).expect("written");
        let mut store = Store::open(scratch.path(), "k").expect("a folder");
        assert!(store.has("aa1") && !store.has("aa2"), "{cut}");
        put(&mut store, "aa2", "p1");
        drop(store);
        assert_eq!(fs::read(&path).expect("a journal"), whole, "{cut}");
    }
    let text = String::from_utf8(whole).expect("text");
    fs::write(&path, text.replacen("instance", "instants", 1)).expect("written");
    let error = Store::open(scratch.path(), "k").expect_err("damaged");
    assert!(matches!(error, StoreError::Damaged { line: 2, .. }), "{error}");
}

#[test]
fn an_image_that_is_gone_or_cut_is_not_done() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mut store = Store::open(scratch.path(), "k").expect("a folder");
    for name in ["aa1", "aa2", "aa3"] {
        put(&mut store, name, "p1");
    }
    drop(store);
    fs::remove_file(scratch.path().join("images/aa/aa1.dcm")).expect("removed");
    fs::write(scratch.path().join("images/aa/aa2.dcm"), b"a").expect("cut");
    let store = Store::open(scratch.path(), "k").expect("a folder");
    assert_eq!(["aa1", "aa2", "aa3"].map(|name| store.has(name)), [false, false, true]);
}

#[test]
fn two_pulls_or_two_secrets_never_share_a_folder() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let store = Store::open(scratch.path(), "k").expect("a folder");
    assert!(matches!(Store::open(scratch.path(), "k"), Err(StoreError::Busy(_))));
    drop(store);
    assert!(matches!(Store::open(scratch.path(), "l"), Err(StoreError::AnotherKey(_))));
    assert!(Store::open(scratch.path(), "k").is_ok());
}

#[test]
fn what_a_person_wrote_into_the_list_stays() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mut store = Store::open(scratch.path(), "k").expect("a folder");
    put(&mut store, "aa1", "p1");
    put(&mut store, "aa2", "p1");
    let path = store.write_manifest().expect("a list");
    let text = fs::read_to_string(&path).expect("a list");
    let expected = "path,patient_key,study_key,series_key,modality,label\n\
                    aa/aa1.dcm,p1,study-p1,series-p1,CR,normal\n\
                    aa/aa2.dcm,p1,study-p1,series-p1,CR,normal\n";
    assert_eq!(text, expected);
    fs::write(&path, "note,path,patient_key,label\nmine,aa/aa2.dcm,p1,ill\n,gone.dcm,p9,x\n")
        .expect("edited");
    put(&mut store, "bb1", "p2");
    store.write_manifest().expect("a list");
    let text = fs::read_to_string(&path).expect("a list");
    let expected = "note,path,patient_key,label\nmine,aa/aa2.dcm,p1,ill\n\
                    ,aa/aa1.dcm,p1,normal\n,bb/bb1.dcm,p2,normal\n";
    assert_eq!(text, expected);
    fs::write(&path, "no such column\n").expect("edited");
    assert!(matches!(store.write_manifest(), Err(StoreError::Damaged { line: 1, .. })));
}
