//! Verifiers that we did not write judge a log that we wrote: PyPI `aics-tlog` and `pymerkle`, in a
//! scratch environment. Where Python 3.12 or the packages cannot be had, the test says so.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use transparency::checkpoint::SignedCheckpoint;
use transparency::folder::{CHECKPOINT, Folder, Reader};

use crate::fixture::{WITNESSES, build, cosigner, leaf, policy, signer};

/// Says why a part was not run, past the test harness, which hides what passes.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "foreign verifiers: {what}");
}

fn succeeds(program: &Path, arguments: &[&OsStr]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A Python of at least 3.12: on the path, or one that pyenv keeps.
fn python() -> Option<PathBuf> {
    let on_path = ["python3", "python3.14", "python3.13", "python3.12"].map(PathBuf::from);
    let kept = std::env::home_dir().map(|home| home.join(".pyenv/versions"));
    let kept = kept.and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten();
    let kept = kept.filter_map(|entry| Some(entry.ok()?.path().join("bin/python3")));
    let new_enough = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))";
    on_path
        .into_iter()
        .chain(kept)
        .find(|python| succeeds(python, &[OsStr::new("-c"), OsStr::new(new_enough)]))
}

/// The interpreter of a scratch environment of this name with these packages, in which `probe`
/// succeeds; or why there is none.
pub(crate) fn environment(name: &str, probe: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let python = python().ok_or("no Python of at least 3.12")?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let inside = folder.join("bin/python3");
    let words = |text: &'static str| text.split(' ').map(OsStr::new).collect::<Vec<_>>();
    let installed = ["-c", probe].map(OsStr::new);
    if succeeds(&inside, &installed) {
        return Ok(inside);
    }
    let mut make = words("-m venv --clear");
    make.push(folder.as_os_str());
    if !succeeds(&python, &make) {
        return Err(format!("{} could not make an environment", python.display()));
    }
    let mut install =
        words("-m pip install --quiet --disable-pip-version-check --timeout 15 --retries 1");
    install.extend(packages.iter().map(OsStr::new));
    if succeeds(&inside, &install) {
        Ok(inside)
    } else {
        Err(format!("pip could not install {}", packages.join(" and ")))
    }
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
