//! A scratch environment for programs from PyPI. Stories about whole federations use this file, too.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
