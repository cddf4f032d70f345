//! The auditor's question: is this log what its checkpoint says, and do those whom I trust vouch for
//! that checkpoint?
//!
//! Every entry is hashed anew, every tile at every level is compared with what the entries lead to,
//! hash by hash, the parents of full tiles included, and the root of it all with the checkpoint.
//! Published readers that skip the parents accept a flipped tile (CVE-2026-56865). Older partial
//! files are compared too. What was not checked is said.
//!
//! A difference is reported once, at the file that was altered, as far as that can be told: of a tile
//! and what lies below it, the one that the parent's hash contradicts. Verification then goes on with
//! the other, so that one damaged file does not hide a second.
//!
//! It streams: one bundle and the right edge of the tree are in memory, however long the log.

mod audit;
mod files;

use serde::Serialize;

use self::audit::Audit;
use crate::checkpoint::SignedCheckpoint;
use crate::folder::{CHECKPOINT, ReadError, Source, read_file};
use crate::leaf::Leaf;
use crate::note::MAX_NOTE_BYTES;
use crate::policy::Policy;
use crate::text::base64;
use crate::time::UtcTime;

/// After so many findings verification stops.
pub const MAX_FINDINGS: usize = 100;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file that was altered, as far as can be told.
    pub place: String,
    /// What was expected and found.
    pub what: String,
}

/// A witness that vouches for the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cosigned {
    /// Its name in the policy.
    pub witness: String,
    /// When, by its own clock.
    pub time: String,
}

/// What the log has signed beyond the checkpoint that is cosigned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ahead {
    /// How many entries are signed, and not cosigned.
    pub entries: u64,
    /// The time of the first of them, if it could be read.
    pub since: Option<String>,
}

/// A checkpoint that an auditor kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Where it came from, for people.
    pub from: String,
    /// What was kept.
    pub signed: SignedCheckpoint,
}

/// What was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Entries hashed.
    pub entries: u64,
    /// Entry bundles read.
    pub bundles: u64,
    /// Tiles compared hash by hash.
    pub tiles: u64,
    /// Tile levels of this tree.
    pub levels: u64,
    /// Older partial tiles and bundles compared with what took over from them.
    pub older_files: u64,
    /// Sizes of the older checkpoints out of which the log grew.
    pub since: Vec<u64>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub verified: bool,
    /// Which log.
    pub origin: String,
    /// How many entries the checkpoint commits to.
    pub size: u64,
    /// Their root, in base64.
    pub root: String,
    /// The log's key that signed, if one of the policy did.
    pub signed_by: Option<String>,
    /// The witnesses that vouch for it.
    pub cosigned_by: Vec<Cosigned>,
    /// Those of the policy that do not.
    pub not_cosigned_by: Vec<String>,
    /// Which of them the policy asks for.
    pub quorum: String,
    /// The time of the newest entry, by the log's clock, if that entry is a leaf.
    pub newest_entry: Option<String>,
    /// What the log has signed since, where its own newest checkpoint is at hand.
    pub ahead: Option<Ahead>,
    /// What was looked at.
    pub checked: Checked,
    /// What is wrong, in the order in which it was found.
    pub findings: Vec<Finding>,
    /// What nobody should conclude from this.
    pub not_checked: Vec<String>,
    /// The same of files that the checkpoint does not need.
    pub files_not_checked: Vec<String>,
}

/// Verifies a log as of its published checkpoint. `since` are checkpoints that the auditor kept.
///
/// # Errors
/// When there is no checkpoint to start from, or the disk fails before anything was found. Everything
/// else is a finding, and what was found before a disk fails is told.
pub fn verify<S: Source>(
    source: &S,
    policy: &Policy,
    since: &[SignedCheckpoint],
) -> Result<Report, ReadError> {
    let kept =
        |signed: &SignedCheckpoint| Kept { from: "--since".to_owned(), signed: signed.clone() };
    let since: Vec<_> = since.iter().map(kept).collect();
    verify_each(source, policy, &since, &mut |_, _| {})
}

/// The same, and shows each leaf with its place while it is hashed. Those are the log's own only if
/// nothing is wrong in the end.
///
/// # Errors
/// As [`verify`].
pub fn verify_each<S: Source>(
    source: &S,
    policy: &Policy,
    since: &[Kept],
    visit: &mut dyn FnMut(u64, &Leaf),
) -> Result<Report, ReadError> {
    let bytes = read_file(source, CHECKPOINT, MAX_NOTE_BYTES)?;
    let bytes = bytes.ok_or_else(|| ReadError::Missing { path: CHECKPOINT.to_owned() })?;
    let signed = SignedCheckpoint::parse(&bytes)?;
    let head = signed.checkpoint().head();
    let mut audit = Audit::new(source, signed.checkpoint().origin(), head, visit);
    let verdict = policy.judge(&signed);
    for fault in verdict.faults() {
        audit.find(CHECKPOINT, fault);
    }
    let mut not_checked = Vec::new();
    for old in since {
        audit.older(&old.signed, &old.from, policy);
    }
    let mut newest = None;
    let walked = audit.signed_file(&signed, policy, &mut not_checked).and_then(|found| {
        newest = found;
        Ok(audit.walk()? && audit.right_edge()?)
    });
    let (complete, stopped) = match walked {
        Ok(complete) => (complete, None),
        Err(error) => (false, Some(audit.cut_short(error)?)),
    };
    audit.judge_olds(&mut not_checked);
    let ahead = newest.map(|newest| audit.ahead(newest, &mut not_checked));
    let mut files_not_checked = Vec::new();
    if complete {
        audit.other_files(&mut files_not_checked);
    } else {
        let reached = audit.reached();
        not_checked.push(match stopped {
            Some(why) => format!("anything after entry {reached}, at which reading failed: {why}"),
            None => {
                format!("anything after the last finding: verification stopped at entry {reached}")
            }
        });
    }
    say_limits(&signed, policy, since.is_empty(), audit.odd_entries, &mut not_checked);
    let cosigned = verdict.witnesses.iter().filter_map(|witness| {
        let seconds = *witness.cosigned.as_ref().ok()?;
        let time = seconds.checked_mul(1_000).and_then(UtcTime::from_millis);
        let time = time.map_or_else(|| format!("{seconds} s"), |time| time.to_string());
        Some(Cosigned { witness: witness.name.clone(), time })
    });
    let missing = verdict.witnesses.iter().filter(|witness| witness.cosigned.is_err());
    Ok(Report {
        verified: complete && audit.findings.is_empty(),
        origin: signed.checkpoint().origin().to_owned(),
        size: head.size,
        root: base64(&head.root),
        signed_by: verdict.log.clone().ok(),
        cosigned_by: cosigned.collect(),
        not_cosigned_by: missing.map(|witness| witness.name.clone()).collect(),
        quorum: verdict.quorum.clone(),
        newest_entry: audit.newest.map(|time| time.to_string()),
        ahead,
        checked: audit.checked,
        findings: audit.findings,
        not_checked,
        files_not_checked,
    })
}

/// What nobody should conclude from a verified log.
fn say_limits(
    signed: &SignedCheckpoint,
    policy: &Policy,
    nothing_kept: bool,
    odd_entries: u64,
    not_checked: &mut Vec<String>,
) {
    if nothing_kept {
        not_checked.push(
            "whether the log grew out of a checkpoint that you kept: none was given".to_owned(),
        );
    }
    let known = 1 + policy.witnesses().filter(|(_, key)| key.verify(signed).is_ok()).count();
    let lines = signed.note().signatures().len();
    if lines > known {
        not_checked
            .push(format!("{} signatures by keys that the policy does not name", lines - known));
    }
    if policy.asks_for_nobody() {
        not_checked.push(
            "whether others were shown the same log: the policy asks for no witness".to_owned(),
        );
    }
    if !signed.checkpoint().extensions().is_empty() {
        not_checked.push("what the checkpoint's extension lines say".to_owned());
    }
    if odd_entries > 0 {
        not_checked.push(format!(
            "what {odd_entries} entries say: they are not canonical leaves, only their bytes are proven"
        ));
    }
    not_checked.push("whether a newer checkpoint exists elsewhere".to_owned());
    not_checked
        .push("whether what the entries say is true, and whether clocks were right".to_owned());
}
