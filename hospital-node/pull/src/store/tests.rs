use std::io::Write as _;
use std::process::Command;

use rustix::process::{Resource, Rlimit};

use super::*;
use crate::job::Rows;

fn done(instance: &str, patient: &str) -> Done {
    Done {
        instance: instance.to_owned(),
        series: format!("series-{patient}"),
        study: format!("study-{patient}"),
        patient: patient.to_owned(),
        person: format!("person-{patient}"),
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

/// A new folder with an image of each of two patients.
fn of_two(folder: &Path) -> Store {
    let mut store = Store::open(folder, "k").expect("a folder");
    put(&mut store, "aa1", "p1");
    put(&mut store, "bb1", "p2");
    store
}

/// Lists what is there, of all but these patients; `whole` are series.
fn listed(store: &mut Store, rows: Rows, whole: &[&str], off: &[&str]) -> String {
    let whole = whole.iter().map(|one| (*one).to_owned()).collect();
    let asked = |done: &Done| !off.contains(&done.patient.as_str());
    let count = store.list(&Listing { rows, whole: &whole, asked: &asked }).expect("a list");
    let expected = store.kept().filter(|done| off.contains(&done.patient.as_str())).count();
    assert_eq!(count.off_list, expected);
    fs::read_to_string(store.manifest()).expect("a list")
}

fn images(store: &mut Store) -> String {
    listed(store, Rows::Image, &[], &[])
}

const HEAD: &str = "path,patient_key,study_key,series_key,modality,label\n";

fn row(instance: &str, patient: &str) -> String {
    format!(
        "series-{patient}/{instance}.dcm,site:{patient},study-{patient},series-{patient},CR,normal\n"
    )
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
    assert_eq!(
        fs::read(scratch.path().join("images/series-p2/bb1.dcm")).expect("an image"),
        b"bb1"
    );
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
    fs::write(&path, "{\"consilium_pull\":1,\"key\":\"k\"}\n").expect("written");
    let error = Store::open(scratch.path(), "k").expect_err("of another version");
    assert!(matches!(error, StoreError::Version { found: 1, .. }), "{error}");
}

/// A disk is full and has room again: as a limit on files, which is for a whole process.
#[test]
#[ignore = "it limits the files of its process; the next test runs it in one of its own"]
fn a_line_is_cut_short_and_the_next_is_whole() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mut store = Store::open(scratch.path(), "k").expect("a folder");
    put(&mut store, "aa1", "p1");
    let journal = scratch.path().join(JOURNAL);
    let before = fs::read(&journal).expect("a journal");
    let limit = rustix::process::getrlimit(Resource::Fsize);
    let room = Some(before.len() as u64 + 50);
    let set = |limit| rustix::process::setrlimit(Resource::Fsize, limit).expect("a limit");
    set(Rlimit { current: room, ..limit });
    let draft = store.draft("aa2").expect("a draft");
    assert!(store.keep(draft, done("aa2", "p1")).is_err(), "there is no room for the line");
    set(limit);
    assert_eq!(fs::read(&journal).expect("a journal"), before);
    put(&mut store, "aa3", "p1");
    drop(store);
    let store = Store::open(scratch.path(), "k").expect("a folder");
    assert_eq!(["aa1", "aa2", "aa3"].map(|name| store.has(name)), [true, false, true]);
}

#[test]
fn what_was_written_of_a_line_before_the_disk_was_full_is_taken_back() {
    // The signal that would end it is ignored, and writing fails instead.
    let ended = Command::new("sh")
        .args(["-c", "trap '' XFSZ && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "store::tests::a_line_is_cut_short_and_the_next_is_whole"])
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_line_that_could_not_be_read_again_is_not_written() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mut store = Store::open(scratch.path(), "k").expect("a folder");
    let draft = store.draft("aa1").expect("a draft");
    let long = Done { label: "x".repeat(4096), ..done("aa1", "p1") };
    assert!(store.keep(draft, long).is_err());
    put(&mut store, "aa2", "p1");
    drop(store);
    assert!(Store::open(scratch.path(), "k").expect("a folder").has("aa2"));
}

#[test]
fn an_image_that_is_gone_or_cut_is_not_done() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mut store = Store::open(scratch.path(), "k").expect("a folder");
    for name in ["aa1", "aa2", "aa3"] {
        put(&mut store, name, "p1");
    }
    drop(store);
    fs::remove_file(scratch.path().join("images/series-p1/aa1.dcm")).expect("removed");
    fs::write(scratch.path().join("images/series-p1/aa2.dcm"), b"a").expect("cut");
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
    let path = store.manifest();
    assert_eq!(images(&mut store), format!("{HEAD}{}{}", row("aa1", "p1"), row("aa2", "p1")));
    // One row taken out, one spelt in another way, two added, one of them of another's image.
    let edited = "note,path,patient_key,label\nmine,./series-p1//aa2.dcm,site:p1,ill\n\
                  ,own/x.png,p9,x\n,series-p1,p1,volume\n";
    fs::write(&path, edited).expect("edited");
    assert_eq!(images(&mut store), edited);
    put(&mut store, "bb1", "p2");
    let expected = format!("{edited},series-p2/bb1.dcm,site:p2,normal\n");
    assert_eq!(images(&mut store), expected);
    drop(store);
    // What was taken out stays out, whatever is opened anew.
    let mut store = Store::open(scratch.path(), "k").expect("a folder");
    assert_eq!(images(&mut store), expected);
    // A row outlives its file, which comes again.
    fs::remove_file(scratch.path().join("images/series-p2/bb1.dcm")).expect("removed");
    drop(store);
    let mut store = Store::open(scratch.path(), "k").expect("a folder");
    assert!(!store.has("bb1"));
    assert_eq!(images(&mut store), expected);
    put(&mut store, "bb1", "p2");
    assert_eq!(images(&mut store), expected);
    // Without a list all is listed.
    fs::remove_file(&path).expect("removed");
    let all = [row("aa1", "p1"), row("aa2", "p1"), row("bb1", "p2")].concat();
    assert_eq!(images(&mut store), format!("{HEAD}{all}"));
}

#[test]
fn a_list_from_a_spreadsheet_is_understood_and_left_as_it_is() {
    for (delimiter, mark) in [(",", ""), (";", "\u{feff}"), ("\t", "")] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let mut store = Store::open(scratch.path(), "k").expect("a folder");
        put(&mut store, "aa1", "p1");
        images(&mut store);
        let text = format!(
            "{mark} FileName ,Patient_Key,Label, Split \n series-p1/aa1.dcm ,site:p1,ill,test\nshort\n"
        );
        let text = text.replace(',', delimiter);
        fs::write(store.manifest(), &text).expect("edited");
        assert_eq!(images(&mut store), text);
        put(&mut store, "aa2", "p1");
        put(&mut store, "bb1", "p2");
        // All images of a patient are for the same; of a new one nobody has said what for.
        let new = "series-p1/aa2.dcm,site:p1,normal,test\nseries-p2/bb1.dcm,site:p2,normal,\n";
        assert_eq!(images(&mut store), text + &new.replace(',', delimiter));
    }
}

#[test]
fn a_list_that_cannot_be_read_is_told_of_before_anything_else() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mut store = Store::open(scratch.path(), "k").expect("a folder");
    for text in ["no such column\n", "", "PAR1\u{0}"] {
        fs::write(store.manifest(), text).expect("edited");
        let whole = BTreeSet::new();
        let listing = Listing { rows: Rows::Image, whole: &whole, asked: &|_| true };
        assert!(matches!(store.list(&listing), Err(StoreError::NoColumn(_))), "{text}");
        drop(store);
        assert!(matches!(Store::open(scratch.path(), "k"), Err(StoreError::NoColumn(_))), "{text}");
        fs::remove_file(scratch.path().join(MANIFEST)).expect("removed");
        store = Store::open(scratch.path(), "k").expect("a folder");
    }
}

#[test]
fn a_series_is_one_row_once_it_is_whole() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mut store = of_two(scratch.path());
    assert_eq!(store.patient_of("series-p1"), Some("p1"));
    let series = |patient: &str| {
        format!("series-{patient},site:{patient},study-{patient},series-{patient},CR,normal\n")
    };
    let first = format!("{HEAD}{}", series("p1"));
    assert_eq!(listed(&mut store, Rows::Series, &["series-p1"], &[]), first);
    // Another slice adds no row, nor does another way of listing.
    put(&mut store, "aa2", "p1");
    assert_eq!(listed(&mut store, Rows::Series, &[], &[]), first);
    let both = format!("{first}{}", row("bb1", "p2"));
    assert_eq!(images(&mut store), both);
    assert_eq!(listed(&mut store, Rows::Series, &["series-p1", "series-p2"], &[]), both);
}

#[test]
fn the_rows_of_whom_nobody_asks_for_go_and_come_again() {
    for rows in [Rows::Image, Rows::Series] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let mut store = of_two(scratch.path());
        let whole = ["series-p1", "series-p2"];
        let all = listed(&mut store, rows, &whole, &[]);
        assert_eq!(all.lines().count(), 3);
        let one = listed(&mut store, rows, &whole, &["p2"]);
        assert_eq!(one, all.lines().take(2).map(|line| format!("{line}\n")).collect::<String>());
        drop(store);
        let mut store = Store::open(scratch.path(), "k").expect("a folder");
        assert_eq!(listed(&mut store, rows, &whole, &["p2"]), one);
        assert_eq!(listed(&mut store, rows, &whole, &[]), all);
        assert!(store.has("bb1"), "its file is a person's to remove");
    }
}

#[test]
fn the_rows_of_whom_nobody_asks_for_go_when_their_files_went_first() {
    for rows in [Rows::Image, Rows::Series] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let mut store = of_two(scratch.path());
        let whole = ["series-p1", "series-p2"];
        let all = listed(&mut store, rows, &whole, &[]);
        drop(store);
        fs::remove_dir_all(scratch.path().join("images/series-p2")).expect("removed");
        let mut store = Store::open(scratch.path(), "k").expect("a folder");
        // Who is asked for has rows until the files are there again.
        assert_eq!(listed(&mut store, rows, &whole, &[]), all);
        let one: String = all.lines().take(2).map(|line| format!("{line}\n")).collect();
        assert_eq!(listed(&mut store, rows, &whole, &["p2"]), one);
        drop(store);
        let mut store = Store::open(scratch.path(), "k").expect("a folder");
        assert_eq!(listed(&mut store, rows, &whole, &["p2"]), one);
        assert_eq!(listed(&mut store, rows, &whole, &[]), one);
        put(&mut store, "bb1", "p2");
        assert_eq!(listed(&mut store, rows, &whole, &[]), all);
    }
}

#[test]
fn rows_that_a_person_made_go_too_with_whom_nobody_asks_for() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mut store = of_two(scratch.path());
    // A series that two patients share.
    let mut draft = store.draft("bb2").expect("a draft");
    draft.to().write_all(b"bb2").expect("written");
    store.keep(draft, Done { series: "series-p2".to_owned(), ..done("bb2", "p1") }).expect("kept");
    images(&mut store);
    let head = "path,patient_key,label,mask\n";
    let stay = "series-p2/bb2.dcm,site:p1,x,\nseries-p1,site:p1,ill,a.nii\nown/a.png,p2,x,\n";
    let go = "./series-p2/,site:p1,ill,b.nii\nseries-p2//bb1.dcm,site:p2,x,\n\
              series-p2/cut/x.png,x,x,\nown/b.png, site:p2 ,x,\n";
    fs::write(store.manifest(), format!("{head}{go}{stay}")).expect("edited");
    let whole = BTreeSet::from(["series-p2".to_owned()]);
    let asked = |done: &Done| done.patient != "p2";
    for (rows, taken_out) in [(Rows::Series, 4), (Rows::Image, 0), (Rows::Series, 0)] {
        let found = store.list(&Listing { rows, whole: &whole, asked: &asked }).expect("a list");
        assert_eq!((found.off_list, found.taken_out), (1, taken_out), "{rows:?}");
        let list = fs::read_to_string(store.manifest()).expect("a list");
        assert_eq!(list, format!("{head}{stay}"), "{rows:?}");
    }
}

#[test]
fn images_that_an_older_list_lacks_are_counted() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mut store = Store::open(scratch.path(), "k").expect("a folder");
    let count = |store: &mut Store, rows, asked: &dyn Fn(&Done) -> bool| {
        let whole = BTreeSet::new();
        store.list(&Listing { rows, whole: &whole, asked }).expect("a list").not_listed
    };
    put(&mut store, "aa1", "p1");
    assert_eq!(count(&mut store, Rows::Image, &|_| true), 0);
    let old = fs::read(store.manifest()).expect("a list");
    put(&mut store, "aa2", "p1");
    put(&mut store, "bb1", "p2");
    assert_eq!(count(&mut store, Rows::Image, &|_| true), 0);
    fs::write(store.manifest(), old).expect("an older copy");
    assert_eq!(count(&mut store, Rows::Image, &|_| true), 2);
    assert_eq!(count(&mut store, Rows::Image, &|done| done.patient == "p1"), 1);
    let by_folder = format!("{HEAD}./series-p1,site:p1,,,,x\nseries-p2/bb1.dcm,site:p2,,,,x\n");
    fs::write(store.manifest(), by_folder).expect("edited");
    assert_eq!(count(&mut store, Rows::Image, &|_| true), 0);
    // Of a series that is not whole.
    put(&mut store, "cc1", "p3");
    assert_eq!(count(&mut store, Rows::Series, &|_| true), 1);
    fs::remove_file(store.manifest()).expect("removed");
    assert_eq!(count(&mut store, Rows::Image, &|_| true), 0);
}
