//! `consilium-audit` as a person or a script meets it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use transparency::folder::Folder;

use crate::fixture::{build, leaf, policy, small};
use crate::memory::Memory;
use crate::story::{SITES, Story};

/// A folder in which the program is run.
pub(crate) struct Desk {
    scratch: tempfile::TempDir,
}

/// What would lead a test's traffic away from this machine.
const PROXIES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// What the program answered.
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{}", self.out);
        serde_json::from_str(&self.out).expect("one envelope")
    }
}

impl Desk {
    /// An empty one.
    pub(crate) fn bare() -> Self {
        Self { scratch: tempfile::tempdir().expect("a scratch folder") }
    }

    /// A desk with a log of 600 leaves, published at 300 and 600, and a policy.
    pub(crate) fn new() -> Self {
        let desk = Self::bare();
        let folder = Folder::create(&desk.at("log")).expect("made");
        let kept = build(folder, &[300, 600], |at| leaf(at, ""));
        fs::write(desk.at("kept"), kept[0].to_string()).expect("written");
        fs::write(desk.at("policy"), policy(2).to_string()).expect("written");
        desk
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn run(&self, line: &str) -> Answer {
        let mut program = Command::new(env!("CARGO_BIN_EXE_consilium-audit"));
        PROXIES.iter().for_each(|name| {
            program.env_remove(name);
        });
        let output = program
            .args(line.split_whitespace())
            .current_dir(self.scratch.path())
            .output()
            .expect("the program is built");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Answer { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    pub(crate) fn flip(&self, path: impl AsRef<Path>) {
        let path = self.scratch.path().join(path);
        let mut bytes = fs::read(&path).expect("it is there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("written");
    }
}

const OPEN: &str = "--log log --policy policy";

#[test]
fn a_good_log_is_verified_with_exit_0() {
    let desk = Desk::new();
    let text = desk.run(&format!("verify {OPEN} --since kept"));
    assert_eq!((text.code, text.err.as_str()), (Some(0), ""), "{}", text.out);
    assert!(text.out.ends_with("\nverified\n"), "{}", text.out);
    for line in [
        "600 entries",
        "grown out of the checkpoint of 300",
        "not checked  ",
        "asked for: 2 of the 3",
    ] {
        assert!(text.out.contains(line), "{line}: {}", text.out);
    }
    let json = desk.run(&format!("verify {OPEN} --format json")).json();
    assert_eq!((&json["status"], &json["data"]["verified"]), (&"ok".into(), &true.into()));
    assert_eq!((&json["schema_version"], &json["data"]["size"]), (&1.into(), &600.into()));
}

#[test]
fn a_tampered_log_fails_with_exit_1_and_a_line_that_says_where() {
    let desk = Desk::new();
    for file in ["tile/0/001", "tile/entries/001", "tile/entries/002.p/88", "tile/1/000.p/2"] {
        desk.flip(Path::new("log").join(file));
        let text = desk.run(&format!("verify {OPEN}"));
        assert_eq!(text.code, Some(1));
        assert!(text.err.starts_with(&format!("error: {file}: ")), "{}", text.err);
        assert!(text.out.ends_with("NOT VERIFIED\n"), "{}", text.out);
        let json = desk.run(&format!("--format json verify {OPEN}"));
        let envelope = json.json();
        assert_eq!((json.code, &envelope["error_code"]), (Some(1), &"verification_failed".into()));
        assert_eq!(envelope["data"]["findings"][0]["place"], file);
        desk.flip(Path::new("log").join(file));
    }
    fs::remove_file(desk.at("log/checkpoint")).expect("removed");
    let gone = desk.run(&format!("verify {OPEN}"));
    assert_eq!((gone.code, gone.err.contains("checkpoint: expected a file")), (Some(2), true));
}

#[test]
fn what_could_not_be_read_does_not_look_forged() {
    let desk = Desk::new();
    fs::create_dir(desk.at("empty")).expect("made");
    for line in ["verify", "search", "report --study x --out page.html", "show"] {
        let wrong = desk.run(&format!("{line} --log empty --policy policy --format json"));
        assert_eq!((wrong.code, &wrong.json()["error_code"]), (Some(2), &"not_readable".into()));
        assert!(wrong.err.contains("hint: is --log the folder"), "{}", wrong.err);
    }
    // What is there and is no checkpoint is another matter, and `verify` does not send to itself.
    fs::write(desk.at("empty/checkpoint"), "nothing").expect("written");
    let wrong = desk.run("verify --log empty --policy policy --format json");
    assert_eq!((wrong.code, &wrong.json()["error_code"]), (Some(1), &"verification_failed".into()));
    assert!(!wrong.err.contains("consilium-audit verify"), "{}", wrong.err);
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let desk = Desk::new();
    for line in ["export --to csv", "prove --index 3"] {
        let refused = desk.run(&format!("{line} {OPEN} --out nowhere/file"));
        assert_eq!(refused.code, Some(1), "{line}: {}", refused.out);
        assert!(refused.err.contains("expected to write nowhere/file: "), "{}", refused.err);
    }
}

#[test]
fn of_several_kept_checkpoints_the_one_that_does_not_fit_is_named() {
    let desk = Desk::new();
    let other = build(Memory::default(), &[300], |at| leaf(at, "another history"));
    fs::write(desk.at("other"), other[0].to_string()).expect("written");
    let wrong = desk.run(&format!("verify {OPEN} --since kept --since other"));
    assert_eq!(wrong.code, Some(1), "{}", wrong.out);
    assert!(wrong.err.contains("rewritten history: --since other has"), "{}", wrong.err);
}

#[test]
fn wrong_arguments_end_with_exit_4_and_one_envelope() {
    let desk = Desk::new();
    fs::write(desk.at("bad-policy"), "log nonsense\nquorum none\n").expect("written");
    for line in [
        "verify",
        "unknown",
        "verify --log nowhere --policy policy",
        "verify --log log --policy nowhere",
        "verify --log log --policy bad-policy",
        "verify --log log --policy policy --since policy",
        "show --log log --policy policy --index 600",
        "show --log log --policy policy --last 0",
        "prove --log log --policy policy --index 600",
        "search --log log --policy policy --from yesterday",
        "search --log log --policy policy --where round",
        "verify-proof --policy policy --proof nowhere",
        "export --log log --policy policy --to xml",
    ] {
        let text = desk.run(line);
        assert_eq!((text.code, text.out.as_str()), (Some(4), ""), "{line}: {}", text.err);
        assert!(text.err.starts_with("error: "), "{line}: {}", text.err);
        let json = desk.run(&format!("{line} --format json"));
        assert_eq!((json.code, &json.json()["status"]), (Some(4), &"error".into()), "{line}");
    }
    for (line, says) in [
        ("verify --log log", "not provided: --policy <FILE>\n"),
        ("verify", "not provided: --log <DIR|URL>, --policy <FILE>\n"),
        (
            "export --log log --policy policy --to xml",
            "[possible values: jsonl, csv, fhir, ocsf]\n",
        ),
        ("", "error: expected a command, found none\n"),
    ] {
        let said = desk.run(line).err;
        assert!(said.contains(says), "{line}: {said}");
        assert_eq!(said.lines().count(), 2, "{line}: {said}");
    }
    assert_eq!(desk.run("--help").code, Some(0));
    assert!(desk.run("--help").out.starts_with("Verify and read"), "{}", desk.run("--help").out);
    assert_eq!(desk.run("--version").code, Some(0));
    assert!(desk.run("verify --log log --policy bad-policy").err.contains("line 1"));
}

#[test]
fn entries_are_shown_and_found() {
    let desk = Desk::new();
    let shown = desk.run(&format!("show {OPEN} --index 0 --index 599 --format json")).json();
    assert_eq!(shown["data"]["entries"][1]["index"], 599);
    assert_eq!(shown["data"]["entries"][0]["kind"], "round_announced");
    assert_eq!(desk.run(&format!("show {OPEN} --last 3")).out.lines().count(), 4);
    let found =
        desk.run(&format!("search {OPEN} --kind round_announced --where round=7 --format json"));
    assert_eq!(found.out.lines().count(), 1, "{}", found.out);
    assert!(found.out.contains("\"index\":28"), "{}", found.out);
    for (filter, count) in [
        ("--kind round_contribution", 450),
        ("--kind alarm", 0),
        ("--kind round --where round=7", 4),
        ("--where site=hospital-2 --where round=3", 1),
        ("--where epsilon=0.125 --limit 5", 5),
        ("--from 2026-11-18T11:06:45Z --until 2026-11-18T11:06:50.000Z", 5),
        ("--from 2026-11-19 --until 9999-01-01", 0),
    ] {
        let found = desk.run(&format!("search {OPEN} {filter}"));
        assert_eq!(found.code, Some(0));
        // The fixture's first second is 2026-11-18T11:06:40Z.
        assert_eq!(found.out.lines().count(), count, "{filter}: {}", found.out);
        let said = match filter.contains("--limit") {
            false => format!("note: {count} of 600 entries match\n"),
            true => {
                "note: 5 of the first 5 entries match; --limit ended the search of 600\n".to_owned()
            }
        };
        assert_eq!(found.err, said, "{filter}");
    }
    for kind in ["alrm", "round_ann"] {
        let line = format!("search {OPEN} --kind {kind}");
        let unknown = desk.run(&line);
        assert_eq!((unknown.code, unknown.out.as_str()), (Some(4), ""), "{}", unknown.err);
        assert!(unknown.err.contains(kind) && unknown.err.contains("hint: the kinds are site_"));
        let json = desk.run(&format!("{line} --format json")).json();
        assert_eq!(json["error_code"], "no_such_kind");
    }
    desk.flip("log/tile/entries/001");
    for line in [
        format!("show {OPEN} --index 300"),
        format!("search {OPEN} --kind nothing"),
        format!("export {OPEN} --to csv"),
    ] {
        let refused = desk.run(&line);
        assert_eq!(refused.code, Some(1), "{line}: {}", refused.out);
        assert!(refused.err.contains("tile/entries/001"), "{line}: {}", refused.err);
    }
}

#[test]
fn a_digest_is_found_by_its_beginning() {
    let desk = Desk::bare();
    let story = Story::new("radiographs", SITES[4]).leaves;
    let at = |number: u64| story[usize::try_from(number).expect("few")].clone();
    let folder = Folder::create(&desk.at("log")).expect("made");
    build(folder, &[story.len() as u64], at);
    fs::write(desk.at("policy"), policy(2).to_string()).expect("written");
    let lines = |filter: &str| {
        let found = desk.run(&format!("search {OPEN} {filter}"));
        assert_eq!(found.code, Some(0), "{filter}: {}", found.err);
        found.out.lines().count()
    };
    let whole = Story::private();
    let all = lines(&format!("--kind study --where study={whole}"));
    assert!(all > 5, "{all}");
    for short in [&whole[..8], &whole[..13].to_uppercase()] {
        assert_eq!(lines(&format!("--kind study --where study={short}")), all, "{short}");
    }
    assert_eq!(lines(&format!("--where study={}", &whole[..7])), 0);
    assert_eq!(lines("--where study=0000000000"), 0);
    // A name is no digest.
    assert_eq!(lines("--where name=radiogra"), 0);
    // What a newer coordinator tells is found, known or not.
    assert_eq!(lines("--kind fact_of_tomorrow"), 1);
    assert_eq!(lines("--kind fact_of_tomorrow --where round=77"), 0);
}

#[test]
fn a_receipt_is_proven_without_the_log() {
    let desk = Desk::new();
    let proven = desk.run(&format!("prove {OPEN} --index 333 --out receipt --entry-out entry"));
    assert_eq!(proven.code, Some(0), "{}", proven.err);
    assert_eq!(fs::read(desk.at("entry")).expect("written"), leaf(333, ""));
    fs::remove_dir_all(desk.at("log")).expect("removed");
    let checked = desk.run("verify-proof --proof receipt --policy policy");
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    assert!(checked.out.contains("verified: entry 333"), "{}", checked.out);
    let checked =
        desk.run("verify-proof --proof receipt --policy policy --entry entry --format json");
    assert_eq!(
        checked.json()["data"]["cosigned_by"],
        serde_json::json!(["hospital-1", "hospital-2", "hospital-3"])
    );
    fs::write(desk.at("entry"), leaf(334, "")).expect("written");
    let wrong = desk.run("verify-proof --proof receipt --policy policy --entry entry");
    assert_eq!((wrong.code, wrong.err.contains("entry 333")), (Some(1), true), "{}", wrong.err);
    let text =
        fs::read_to_string(desk.at("receipt")).expect("written").replace("index 333", "index 332");
    fs::write(desk.at("receipt"), text).expect("written");
    assert_eq!(desk.run("verify-proof --proof receipt --policy policy").code, Some(1));
}

#[test]
fn all_entries_are_exported() {
    let desk = Desk::new();
    let lines = desk.run(&format!("export {OPEN} --to jsonl")).out;
    assert_eq!(lines.lines().count(), 600);
    for line in lines.lines() {
        assert!(serde_json::from_str::<Value>(line).expect("JSON")["leaf_hash"].is_string());
    }
    let done = desk.run(&format!("export {OPEN} --to csv --out table.csv --format json"));
    assert_eq!(done.json()["data"]["entries"], 600);
    let table = fs::read_to_string(desk.at("table.csv")).expect("written");
    assert_eq!(table.split("\r\n").count(), 602);
    assert!(table.starts_with("index,time,kind,data,leaf_hash\r\n0,2026-"), "{}", &table[..200]);
    // Entries that are no leaves are exported as bytes.
    let opaque = Desk::bare();
    build(Folder::create(&opaque.at("log")).expect("made"), &[3], small);
    fs::write(opaque.at("policy"), policy(2).to_string()).expect("written");
    let lines = opaque.run(&format!("export {OPEN} --to jsonl")).out;
    assert!(
        lines.lines().next().is_some_and(|line| line.contains("\"base64\":\"AAAAAA==\"")),
        "{lines}"
    );
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    let desk = Desk::bare();
    let script = desk.run("completions bash");
    assert_eq!(script.code, Some(0), "{}", script.err);
    let made = desk.run("man pages --format json");
    assert_eq!(made.json()["data"]["dir"], "pages", "{}", made.err);
    for command in ["verify", "show", "search", "prove", "verify-proof", "export", "report"] {
        assert!(script.out.contains(command), "{command}");
        let page = desk.at(&format!("pages/consilium-audit-{command}.1"));
        let page = fs::read_to_string(page).expect("a page");
        assert!(page.contains("policy"), "{command}");
    }
}
