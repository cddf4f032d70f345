//! `report`: one study as a page that a person reads and prints. It is one file, fetches nothing and
//! runs nothing. It is a function of the log, the policy and the study: made again from the same
//! checkpoint it has the same bytes.
//!
//! There is no report of a log that is not verified: what such a log tells may be anything.

mod accounted;
mod checks;
mod history;
mod html;
mod manifest;
mod page;
mod plot;
mod privacy;
mod rounds;
mod study;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use data_encoding::HEXLOWER;
use serde::Serialize;
use transparency::fact::{Digest, Fact, Told};
use transparency::folder::{CHECKPOINT, ReadError, Reader, Source};
use transparency::leaf::Leaf;
use transparency::note::MAX_NOTE_BYTES;
use transparency::policy::{MAX_POLICY_BYTES, Policy};
use transparency::tile::TILE_WIDTH;

use self::history::History;
use self::manifest::Manifest;
use crate::entries::{LogArguments, bad_policy, read_file, read_kept, unreadable};
use crate::output::{Failure, Output, unwritten, visible, write_whole};
use crate::witnesses::{Verified, verify};

/// How many studies a hint names.
const MOST_NAMED: usize = 20;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    log: LogArguments,
    /// The study: its name, or its digest or at least 8 digits of that.
    #[arg(long, value_name = "STUDY")]
    study: String,
    /// Where to write the page.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The study file, if you have it: shown in the page if it is the one that was proposed.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// A checkpoint that you kept: the log must have grown out of it. May be given repeatedly.
    #[arg(long, value_name = "CHECKPOINT")]
    since: Vec<PathBuf>,
}

/// Everything that the page is made of.
struct Evidence {
    study: Digest,
    history: History,
    verified: Verified,
    checkpoint: String,
    policy: String,
    policy_digest: String,
    manifest: Option<Manifest>,
    /// The last leaf's time.
    until: Option<transparency::time::UtcTime>,
}

#[derive(Serialize)]
struct Written<'a> {
    study: &'a Digest,
    size: u64,
    exceptions: usize,
    out: &'a PathBuf,
}

/// A source whose checkpoint stays what it was when it was first read, so that verification and
/// report are of the same log while the log grows.
struct Pinned<S> {
    source: S,
    checkpoint: Vec<u8>,
}

impl<S: Source> Source for Pinned<S> {
    fn read(&self, path: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        if path == CHECKPOINT {
            return Ok(Some(self.checkpoint.clone()));
        }
        self.source.read(path, limit)
    }

    fn list(&self, visit: &mut dyn FnMut(&str)) -> io::Result<bool> {
        self.source.list(visit)
    }
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let policy_bytes = read_file(&arguments.log.policy, MAX_POLICY_BYTES)?;
    let policy =
        Policy::parse(&policy_bytes).map_err(|error| bad_policy(&arguments.log.policy, &error))?;
    let since = read_kept(&arguments.since)?;
    let source = arguments.log.place()?;
    let checkpoint = source
        .read(CHECKPOINT, MAX_NOTE_BYTES)
        .map_err(|source| unreadable(&ReadError::Disk { path: CHECKPOINT.to_owned(), source }))?;
    let checkpoint = checkpoint
        .ok_or_else(|| unreadable(&ReadError::Missing { path: CHECKPOINT.to_owned() }))?;
    let pinned = Pinned { source, checkpoint };
    let verified = verify(&pinned, &policy, &since).map_err(|error| unreadable(&error))?;
    if let Some(first) = verified.report.findings.first() {
        let message = format!("expected a log that is verified; {}: {}", first.place, first.what);
        return Err(Failure::failed("verification_failed", visible(&message))
            .hint("consilium-audit verify says what else is wrong; no report was written")
            .data(&verified));
    }
    let checkpoint = String::from_utf8_lossy(&pinned.checkpoint).into_owned();
    let (reader, _) = Reader::open(&pinned, &policy).map_err(|error| unreadable(&error))?;
    let study = find(&reader, &arguments.study)?;
    let (history, until) = gather(&reader, &study).map_err(|error| unreadable(&error))?;
    let manifest = arguments.manifest.as_ref();
    let manifest =
        manifest.map(|path| Manifest::read(path, history.proposal.as_ref())).transpose()?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &policy_bytes);
    let evidence = Evidence {
        study,
        history,
        verified,
        checkpoint,
        policy: String::from_utf8_lossy(&policy_bytes).into_owned(),
        policy_digest: HEXLOWER.encode(digest.as_ref()),
        manifest,
        until,
    };
    let checks = checks::all(&evidence.history);
    let page = page::write(&evidence, &checks);
    let unwritten = unwritten(&arguments.out);
    write_whole(&arguments.out, |file| file.write_all(page.as_bytes()).map_err(unwritten))?;
    let exceptions: usize = checks.iter().map(|check| check.exceptions.len()).sum();
    output.line(&format!("verified: {} entries", evidence.verified.report.size))?;
    for check in &checks {
        for exception in &check.exceptions {
            let line = format!("does not fit: {}: {exception}", check.rule.to_lowercase());
            output.line(&visible(&line))?;
        }
    }
    output.line(&format!("report: {}", arguments.out.display()))?;
    let (study, size) = (&evidence.study, evidence.verified.report.size);
    let written = Written { study, size, exceptions, out: &arguments.out };
    if exceptions > 0 {
        let message = format!("expected facts that fit together, found {exceptions} that do not");
        return Err(Failure::failed("does_not_fit", message)
            .hint("the report is written and lists them")
            .data(&written));
    }
    Ok(output.data(&written)?)
}

/// Tells every leaf with its place and kind, or why a leaf of a known kind cannot be read.
pub(crate) fn each<S: Source>(
    reader: &Reader<S>,
    mut visit: impl FnMut(u64, &Leaf, Result<Told, String>),
) -> Result<(), ReadError> {
    for bundle in 0..reader.size().div_ceil(TILE_WIDTH) {
        for (index, entry) in (bundle * TILE_WIDTH..).zip(reader.entries(bundle)?) {
            if let Ok(leaf) = Leaf::decode(&entry) {
                visit(index, &leaf, Told::read(&leaf).map_err(|error| error.to_string()));
            }
        }
    }
    Ok(())
}

/// The study of this name or digest.
pub(crate) fn find<S: Source>(reader: &Reader<S>, wanted: &str) -> Result<Digest, Failure> {
    let mut studies: BTreeMap<Digest, String> = BTreeMap::new();
    each(reader, |_, _, told| {
        let Ok(Told { study: Some(study), fact, .. }) = told else { return };
        let name = studies.entry(study).or_default();
        if let (Fact::StudyProposed { name: proposed, .. }, true) = (fact, name.is_empty()) {
            *name = proposed;
        }
    })
    .map_err(|error| unreadable(&error))?;
    let digits = wanted.len() >= 8 && wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
    let wanted_digits = wanted.to_ascii_lowercase();
    let found: Vec<_> = studies
        .iter()
        .filter(|(digest, name)| {
            *name == wanted || (digits && digest.as_str().starts_with(&wanted_digits))
        })
        .map(|(digest, _)| digest.clone())
        .collect();
    if let [one] = found.as_slice() {
        return Ok(one.clone());
    }
    let what = if found.is_empty() { "none" } else { "several" };
    let known: Vec<_> = studies
        .iter()
        .take(MOST_NAMED)
        .map(|(digest, name)| format!("{} {name:?}", digest.short()))
        .collect();
    let message = format!("expected one study called {wanted:?} in this log, found {what}");
    let hint = if known.is_empty() {
        "this log tells of no study".to_owned()
    } else {
        format!("it tells of {}", known.join(", "))
    };
    Err(Failure::usage("no_such_study", message).hint(visible(&hint)))
}

/// The study's history, and the last leaf's time.
fn gather<S: Source>(
    reader: &Reader<S>,
    study: &Digest,
) -> Result<(History, Option<transparency::time::UtcTime>), ReadError> {
    let mut history = History::default();
    let mut until = None;
    each(reader, |index, leaf, told| {
        until = until.max(Some(leaf.time()));
        match told {
            Ok(told) => history.take(study, index, leaf.kind(), told),
            Err(what) => {
                // One that names another study is that study's affair.
                let of = leaf.data().get("study").and_then(serde_json::Value::as_str);
                if of.is_none_or(|of| of == study.as_str()) {
                    history.defects.push((index, what));
                }
            }
        }
    })?;
    Ok((history, until))
}
