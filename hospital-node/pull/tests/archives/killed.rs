//! The program itself: killed in the middle, started again.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::held::contents;
use crate::house::{SECRET, betrays};
use crate::server::{Manner, pause, serve};

fn start(base: &str, folder: &Path) -> Child {
    let secret = folder.join("secret");
    fs::write(&secret, SECRET).expect("written");
    let job = format!(
        "name = \"test\"\nbase = {folder:?}\nsecret = {secret:?}\nproxy = \"none\"\n[pull]\n\
         from = {base:?}\ninto = \"set\"\nmodality = \"CR\"\n"
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_hospital-pull"))
        .args(["--format", "json", "--report"])
        .arg(folder.join("report.json"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    child.stdin.take().expect("a pipe").write_all(job.as_bytes()).expect("a job");
    child
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
        assert!(
            said.contains(word) && !said.contains("CANARY") && !said.contains("1.2.1"),
            "{said}"
        );
    }
}
