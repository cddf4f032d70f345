//! The program itself: killed in the middle, started again.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hospital_pull::names::Names;
use hospital_pull::store::Store;

use crate::held::contents;
use crate::house::{SECRET, betrays};
use crate::server::{Manner, pause, serve};

fn start(base: &str, folder: &Path) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hospital-pull"))
        .args(["--format", "json", "--report"])
        .arg(folder.join("report.json"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let job = job(base, folder);
    child.stdin.take().expect("a pipe").write_all(job.as_bytes()).expect("a job");
    child
}

fn job(base: &str, folder: &Path) -> String {
    let secret = folder.join("secret");
    fs::write(&secret, SECRET).expect("written");
    format!(
        "name = \"test\"\nbase = {folder:?}\nsecret = {secret:?}\nproxy = \"none\"\n[pull]\n\
         from = {base:?}\ninto = \"set\"\nmodality = \"CR\"\n"
    )
}

fn journalled(folder: &Path) -> usize {
    let text = fs::read_to_string(folder.join("set/pull.journal")).unwrap_or_default();
    text.lines().count().saturating_sub(1)
}

#[test]
fn killed_in_the_middle_it_goes_on_where_it_was() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (base, _) = serve(contents(), Manner::StopsAfter(5));
    let mut child = start(&base, scratch.path());
    for _ in 0..600 {
        if journalled(scratch.path()) == 5 {
            break;
        }
        pause(Duration::from_millis(50));
    }
    child.kill().expect("killed");
    child.wait().expect("gone");
    assert_eq!(journalled(scratch.path()), 5);

    let (base, asked) = serve(contents(), Manner::Good);
    let ended = start(&base, scratch.path()).wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&ended.stderr));
    for expected in
        ["\"found\":12", "\"fetched\":7", "\"already\":5", "\"patients\":3", "\"failed\":[]"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert_eq!(asked.instances(), 7);
    assert_eq!(fs::read_dir(scratch.path().join("set/unfinished")).expect("a folder").count(), 0);
    assert_eq!(betrays(&scratch.path().join("set")), None);
    let report = fs::read_to_string(scratch.path().join("report.json")).expect("a report");
    assert!(report.contains("\"images\": 12"), "{report}");
}

#[test]
fn what_fails_is_said_without_what_the_archive_said() {
    for (manner, code, word) in [
        (Manner::Lies, 1, "truncated"),
        (Manner::BadUid, 1, "protocol"),
        (Manner::NoList, 1, "too_large"),
        (Manner::LocksAfter(5), 2, "refused"),
        (Manner::Locked("x"), 2, "refused"),
    ] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (base, _) = serve(contents(), manner.clone());
        let ended = start(&base, scratch.path()).wait_with_output().expect("an end");
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&ended.stdout),
            String::from_utf8_lossy(&ended.stderr)
        );
        assert_eq!(ended.status.code(), Some(code), "{said}");
        let report = fs::read_to_string(scratch.path().join("report.json")).expect("a report");
        assert!(report.contains(word) && !report.contains("CANARY"), "{report}");
        assert!(
            said.contains(word) && !said.contains("CANARY") && !said.contains("1.2.1"),
            "{said}"
        );
    }
}

#[test]
fn what_had_come_before_it_was_locked_out_is_told_and_listed() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (base, _) = serve(contents(), Manner::LocksAfter(5));
    let ended = start(&base, scratch.path()).wait_with_output().expect("an end");
    assert_eq!(ended.status.code(), Some(2));
    let report = fs::read_to_string(scratch.path().join("report.json")).expect("a report");
    for expected in ["\"fetched\": 5", "\"not_tried\": 7", "\"stopped\": {", "\"images\": 5"] {
        assert!(report.contains(expected), "{expected}: {report}");
    }
    let list = fs::read_to_string(scratch.path().join("set/manifest.csv")).expect("a list");
    assert_eq!(list.lines().count(), 6);
}

#[test]
fn it_ends_with_the_program_that_has_started_it() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (base, _) = serve(contents(), Manner::StopsAfter(5));
    let file = scratch.path().join("job.toml");
    fs::write(&file, job(&base, scratch.path())).expect("written");
    let mut parent = Command::new("sh")
        .args(["-c", "\"$0\" < \"$1\" & wait"])
        .arg(env!("CARGO_BIN_EXE_hospital-pull"))
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell");
    let until = |mut done: Box<dyn FnMut() -> bool>| {
        (0..600).any(|_| {
            pause(Duration::from_millis(50));
            done()
        })
    };
    let folder = scratch.path().to_owned();
    assert!(until(Box::new(move || journalled(&folder) == 5)));
    parent.kill().expect("killed");
    parent.wait().expect("gone");
    // Whoever comes next finds the folder free.
    let (folder, mark) = (scratch.path().join("set"), Names::new(SECRET).mark());
    assert!(until(Box::new(move || Store::open(&folder, &mark).is_ok())));
}

#[test]
fn what_is_there_is_fetched_again_only_where_that_is_said() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (base, asked) = serve(contents(), Manner::Good);
    let job = job(&base, scratch.path());
    for (arguments, expected) in [(&[][..], 12), (&[], 12), (&["--refetch"], 24)] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hospital-pull"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the program");
        child.stdin.take().expect("a pipe").write_all(job.as_bytes()).expect("a job");
        assert_eq!(child.wait().expect("an end").code(), Some(0));
        assert_eq!(asked.instances(), expected, "{arguments:?}");
    }
    let list = fs::read_to_string(scratch.path().join("set/manifest.csv")).expect("a list");
    assert_eq!(list.lines().count(), 13);
}

#[test]
fn an_older_copy_of_the_list_is_told_of_and_rows_that_go_are_counted() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (base, _) = serve(contents(), Manner::Good);
    let (list, patients) =
        (scratch.path().join("set/manifest.csv"), scratch.path().join("patients.csv"));
    let job = format!("{}patients = \"patients.csv\"\n", job(&base, scratch.path()));
    let pull = |format: &str, names: &str| {
        fs::write(&patients, format!("patient_id\n{names}\n")).expect("written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_hospital-pull"))
            .args(["--format", format])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        child.stdin.take().expect("a pipe").write_all(job.as_bytes()).expect("a job");
        let ended = child.wait_with_output().expect("an end");
        assert_eq!(ended.status.code(), Some(0));
        String::from_utf8(ended.stdout).expect("text")
    };
    pull("json", "CANARY-1");
    let old = fs::read(&list).expect("a list");
    let said = pull("json", "CANARY-1\nCANARY-2");
    assert!(said.contains("\"not_listed\":0"), "{said}");
    fs::write(&list, old).expect("an older copy");
    let said = pull("json", "CANARY-1\nCANARY-2");
    assert!(said.contains("\"not_listed\":4"), "{said}");
    let said = pull("text", "CANARY-1\nCANARY-2");
    assert!(said.contains("4 images in the folder are in no row of the manifest"), "{said}");
    let said = pull("text", "CANARY-2");
    assert!(said.contains("4 rows taken out of the manifest"), "{said}");
}

#[test]
fn a_folder_of_a_former_version_is_left_as_it_is_and_told_what_to_do_with() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (base, asked) = serve(contents(), Manner::Good);
    let journal = scratch.path().join("set/pull.journal");
    fs::create_dir(scratch.path().join("set")).expect("a folder");
    let former = "{\"consilium_pull\":1,\"key\":\"k\"}\n";
    fs::write(&journal, former).expect("written");
    let ended = start(&base, scratch.path()).wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("layout 1") && said.contains("can be trained on as it is"), "{said}");
    assert_eq!(fs::read_to_string(&journal).expect("a journal"), former);
    assert_eq!(asked.about("/studies"), 0);
}
