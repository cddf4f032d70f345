//! What else lies in the folder: the log's own newest checkpoint, older partial files, strangers.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::audit::{Audit, first_difference, why};
use super::{Ahead, MAX_FINDINGS};
use crate::checkpoint::SignedCheckpoint;
use crate::folder::{
    CHECKPOINT, LOCK, ReadError, Reader, SIGNED, Source, TEMPORARY, read_file, read_tile,
};
use crate::leaf::Leaf;
use crate::note::MAX_NOTE_BYTES;
use crate::policy::Policy;
use crate::tile::{Row, Tile, decode_entries, decode_hashes};

/// How many unknown files are named.
const NAMED_FILES: usize = 10;

/// Files that are counted and not looked into.
#[derive(Default)]
struct Others {
    beyond: u64,
    unfinished: u64,
    unknown: u64,
    named: Vec<String>,
}

impl Others {
    fn say(&self, not_checked: &mut Vec<String>) {
        if self.beyond > 0 {
            let what = "tiles and bundles that reach beyond the checkpoint";
            not_checked.push(format!("{} {what}", self.beyond));
        }
        if self.unfinished > 0 {
            not_checked
                .push(format!("{} files of an unfinished write (*{TEMPORARY})", self.unfinished));
        }
        if self.unknown > 0 {
            let named = self.named.join(", ");
            not_checked.push(format!("{} files that are no part of a log: {named}", self.unknown));
        }
    }
}

impl<S: Source> Audit<'_, S> {
    /// `checkpoint.signed` may be ahead while cosignatures are gathered: then it is given, to be judged
    /// when the entries are known.
    pub(super) fn signed_file(
        &mut self,
        published: &SignedCheckpoint,
        policy: &Policy,
        not_checked: &mut Vec<String>,
    ) -> Result<Option<SignedCheckpoint>, ReadError> {
        let read = read_file(self.source, SIGNED, MAX_NOTE_BYTES);
        let Some(found) = self.usable(read)? else { return Ok(None) };
        let Some(bytes) = found else {
            not_checked.push(format!(
                "whether the log has signed more than is cosigned: {SIGNED} is not there"
            ));
            return Ok(None);
        };
        let signed = match SignedCheckpoint::parse(&bytes) {
            Ok(signed) => signed,
            Err(error) => {
                self.find(SIGNED, error.to_string());
                return Ok(None);
            }
        };
        if !self.is_ours(&signed, SIGNED, policy) {
            return Ok(None);
        }
        let (newest, shown) = (signed.checkpoint().head(), published.checkpoint().head());
        match newest.size.cmp(&shown.size) {
            Ordering::Greater => return Ok(Some(signed)),
            Ordering::Equal if newest.root == shown.root => {}
            Ordering::Equal => self.find(
                SIGNED,
                format!("fork: another root than that of {CHECKPOINT} for {} entries", shown.size),
            ),
            Ordering::Less => self.older(&signed, SIGNED, policy),
        }
        Ok(None)
    }

    /// How far the log's own newest checkpoint is ahead; it must not be on another branch.
    pub(super) fn ahead(
        &mut self,
        newest: SignedCheckpoint,
        not_checked: &mut Vec<String>,
    ) -> Ahead {
        let (size, shown) = (newest.checkpoint().size(), self.head);
        not_checked.push(format!(
            "entries {} to {}: the log has signed them, but not published them as cosigned",
            shown.size,
            size - 1
        ));
        let newer = Reader::at(self.source, newest);
        // An altered tile must not look like a fork.
        let whole = self.is_whole() && self.findings.is_empty();
        let told = whole.then(|| newer.consistency(shown).and_then(|_| newer.prove(shown.size)));
        let unknown = match told {
            Some(Ok((first, _))) => {
                let since = Leaf::decode(&first).ok().map(|leaf| leaf.time().to_string());
                return Ahead { entries: size - shown.size, since };
            }
            Some(Err(ReadError::Inconsistent { .. })) => {
                let what = format!(
                    "fork: expected its {size} entries to grow out of the {} of {CHECKPOINT}, found another history or altered tiles; the log signed both, so keep both",
                    shown.size
                );
                self.find(SIGNED, what);
                None
            }
            Some(Err(ReadError::Altered { path })) => {
                let what = format!(
                    "expected what leads to the root of {SIGNED}, found an altered file here or on the way"
                );
                self.find(path, what);
                None
            }
            Some(Err(error)) => Some(why(&error)),
            None => Some("the log is damaged, or was not read to its end".to_owned()),
        };
        if let Some(unknown) = unknown {
            not_checked.push(format!(
                "whether the {size} entries of {SIGNED} are there, and grew out of the {} of {CHECKPOINT}: {unknown}",
                shown.size
            ));
        }
        Ahead { entries: size - shown.size, since: None }
    }

    /// Older partial files are compared with what took over from them; the rest is named. The
    /// checkpoint needs none of them, so one that cannot be read takes nothing from the answer.
    pub(super) fn other_files(&mut self, not_checked: &mut Vec<String>) {
        let mut others = Others::default();
        let mut failed = None;
        let reported: BTreeSet<String> = self.findings.iter().map(|it| it.place.clone()).collect();
        let source = self.source;
        let listed = source.list(&mut |path| {
            if path.ends_with(TEMPORARY) {
                others.unfinished += 1;
            } else if let Ok(tile) = path.parse::<Tile>() {
                let now = Tile::of(self.head.size, tile.row(), tile.index());
                let Some(now) = now.filter(|now| tile.width() <= now.width()) else {
                    others.beyond += 1;
                    return;
                };
                // The file as wide as this tree makes it has been compared already.
                let older = tile.width() < now.width() && !reported.contains(&now.to_string());
                if older && failed.is_none() && self.findings.len() < MAX_FINDINGS {
                    failed = self.older_file(tile, now).err();
                }
            } else if ![CHECKPOINT, SIGNED, LOCK].contains(&path) {
                others.unknown += 1;
                if others.named.len() < NAMED_FILES {
                    others.named.push(format!("{path:?}"));
                }
            }
        });
        if let Some(error) = failed {
            not_checked.push(format!("the older partial files from here on: {}", why(&error)));
        }
        match listed {
            Ok(true) => {}
            Ok(false) => not_checked
                .push("older partial files: this source cannot list its files".to_owned()),
            Err(error) => not_checked
                .push(format!("files that could not be listed, in the log's folder: {error}")),
        }
        others.say(not_checked);
    }

    /// An older partial file must be the beginning of what took over from it.
    fn older_file(&mut self, old: Tile, now: Tile) -> Result<(), ReadError> {
        let path = old.to_string();
        let read = read_file(self.source, &path, old.max_bytes());
        let Some(Some(old_bytes)) = self.usable(read)? else { return Ok(()) };
        let (now_bytes, file) = read_tile(self.source, now)?;
        let width = usize::from(old.width());
        let fault = match old.row() {
            Row::Hashes(_) => match (decode_hashes(&old_bytes), decode_hashes(&now_bytes)) {
                (Some(older), Some(newer)) if older.len() == width => {
                    first_difference(&older, newer.get(..width).unwrap_or(&[]))
                        .map(|at| format!("hash {at} differs from that of {file}"))
                }
                _ => Some(format!("expected {} bytes, found {}", old.max_bytes(), old_bytes.len())),
            },
            Row::Entries => match decode_entries(&old_bytes, old.width()) {
                Err(fault) => Some(fault.to_string()),
                Ok(older) => {
                    let newer = decode_entries(&now_bytes, file.width()).unwrap_or_default();
                    (0..width)
                        .find(|at| older.get(*at) != newer.get(*at))
                        .map(|at| format!("entry {at} of the bundle differs from that of {file}"))
                }
            },
        };
        self.checked.older_files += 1;
        if let Some(fault) = fault {
            self.find(path, fault);
        }
        Ok(())
    }
}
