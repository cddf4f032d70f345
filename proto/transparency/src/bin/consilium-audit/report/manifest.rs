//! A study file that the auditor has. The log has its digest alone, so it is shown only if it is the
//! one that was proposed.

use std::path::Path;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use toml::{Table, Value};

use super::history::Proposal;
use super::html::Html;
use crate::entries::read_file;
use crate::output::Failure;

/// The longest study file that a coordinator takes.
const MAX_MANIFEST_BYTES: usize = 64 * 1024;

/// What the page shows of it, each with where it stands.
const SHOWN: [(&str, [&str; 2]); 10] = [
    ("Task", ["task", "kind"]),
    ("Classes", ["task", "classes"]),
    ("Input", ["task", "input"]),
    ("Model", ["model", "arch"]),
    ("Rounds planned", ["train", "rounds"]),
    ("Strategy", ["train", "strategy"]),
    ("Quorum", ["cohort", "quorum"]),
    ("Tolerated colluders", ["cohort", "tolerate_colluding"]),
    ("Accountant", ["privacy", "accountant"]),
    ("Evaluated every", ["evaluate", "every"]),
];

/// A study file whose digest is the one that was proposed.
pub(super) struct Manifest {
    text: String,
}

impl Manifest {
    /// Reads a study file, and refuses another one than was proposed.
    pub(super) fn read(path: &Path, proposal: Option<&Proposal>) -> Result<Self, Failure> {
        let bytes = read_file(path, MAX_MANIFEST_BYTES)?;
        let found = HEXLOWER.encode(digest(&SHA256, &bytes).as_ref());
        let Some(expected) = proposal.and_then(|proposal| proposal.manifest.as_ref()) else {
            let message = "expected the study file's digest in the log's proposal, found none";
            return Err(Failure::failed("no_manifest_digest", message)
                .hint("without --manifest the report is made all the same"));
        };
        if found != expected.as_str() {
            let message = format!(
                "expected the study file of SHA-256 {expected} in {}, found one of {found}",
                path.display()
            );
            return Err(Failure::failed("another_manifest", message)
                .hint("it must be the file that was proposed, to the last space"));
        }
        Ok(Self { text: String::from_utf8_lossy(&bytes).into_owned() })
    }

    /// What a reader wants to know first.
    pub(super) fn summary(&self, html: &mut Html) {
        let table: Table = self.text.parse().unwrap_or_default();
        for (name, [section, key]) in SHOWN {
            let Some(value) = table.get(section).and_then(|section| section.get(key)) else {
                continue;
            };
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Integer(_)
                | Value::Float(_)
                | Value::Boolean(_)
                | Value::Datetime(_)
                | Value::Array(_)
                | Value::Table(_) => value.to_string(),
            };
            html.raw("<dt>").raw(name).raw("</dt><dd>").text(&text).raw("</dd>");
        }
    }

    /// All of it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}
