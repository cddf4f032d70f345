//! Verifiers that we did not write judge a log that we wrote: PyPI `aics-tlog` and `pymerkle`, in a
//! scratch environment. Where Python 3.12 or the packages cannot be had, the test says so.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use transparency::checkpoint::SignedCheckpoint;
use transparency::folder::{CHECKPOINT, Folder, Reader};

use crate::fixture::{WITNESSES, build, cosigner, leaf, policy, signer};
use crate::python::environment;

/// Says why a part was not run, past the test harness, which hides what passes.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "foreign verifiers: {what}");
}

struct Judged {
    python: PathBuf,
    log: PathBuf,
    old: PathBuf,
    entry: PathBuf,
}

impl Judged {
    /// What the foreign verifiers answer, a line each.
    fn answers(&self) -> String {
        let witnesses: Vec<_> = (1..=WITNESSES).map(|at| cosigner(at).key().to_string()).collect();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/log/foreign.py");
        let output = Command::new(&self.python)
            .arg(script)
            .arg(&self.log)
            .arg(signer().key().to_string())
            .arg(witnesses.join(","))
            .arg("2")
            .args([&self.old, &self.entry])
            .arg("777")
            .output()
            .expect("the interpreter answered before");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[test]
fn foreign_verifiers_agree() {
    let packages = ["aics-tlog==0.2.1", "pymerkle==7.0.0"];
    let found = environment("foreign-verifiers", "import aics_tlog, pymerkle", &packages);
    let python = match found {
        Ok(python) => python,
        Err(why) => return say(&format!("not asked: {why}")),
    };
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let log = scratch.path().join("log");
    let kept = build(Folder::create(&log).expect("made"), &[300, 1_000], |at| leaf(at, ""));
    let judged = Judged {
        python,
        log: log.clone(),
        old: scratch.path().join("old"),
        entry: scratch.path().join("entry"),
    };
    fs::write(&judged.old, kept[0].to_string()).expect("written");
    let (reader, _) = Reader::open(Folder::open(&log).expect("there"), &policy(2)).expect("a log");
    let (entry, _) = reader.prove(777).expect("it is there");
    fs::write(&judged.entry, entry).expect("written");

    let root: String =
        reader.signed().checkpoint().root().iter().map(|b| format!("{b:02x}")).collect();
    let good = format!(
        "aics-tlog checkpoint: ok\naics-tlog consistency: ok\naics-tlog inclusion: ok\naics-tlog audit_tiles: 5 tiles, 4 bundles\npymerkle root: {root}\n"
    );
    assert_eq!(judged.answers(), good);
    say("aics-tlog 0.2.1 and pymerkle 7.0.0 agree");

    // They are no rubber stamps: a flipped tile, and another history.
    let tile = log.join("tile/0/001");
    let mut bytes = fs::read(&tile).expect("a tile");
    bytes[100] ^= 1;
    fs::write(&tile, &bytes).expect("written");
    assert!(judged.answers().contains("audit_tiles: refused"));
    bytes[100] ^= 1;
    fs::write(&tile, &bytes).expect("written");
    let other = Folder::create(&scratch.path().join("other")).expect("made");
    let other = build(other, &[300], |at| leaf(at, "rewritten"));
    fs::write(&judged.old, other[0].to_string()).expect("written");
    assert!(judged.answers().contains("consistency: refused"));
    let stored = fs::read(log.join(CHECKPOINT)).expect("published");
    assert!(SignedCheckpoint::parse(&stored).is_ok());
}
