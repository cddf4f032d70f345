//! The pass over entries and tiles: each hash is derived, compared, and blamed on one file.

use std::error::Error as _;

use super::{Checked, Finding, MAX_FINDINGS};
use crate::checkpoint::SignedCheckpoint;
use crate::edge::Edge;
use crate::folder::{CHECKPOINT, ReadError, Source, read_hashes, read_tile};
use crate::leaf::Leaf;
use crate::policy::Policy;
use crate::text::base64;
use crate::tile::{Row, TILE_WIDTH, Tile, decode_entries};
use crate::time::UtcTime;
use crate::tree::{Hash, Head, leaf_hash, root};

/// An older checkpoint that the log must have grown out of.
struct Old {
    head: Head,
    /// Where it came from, for people.
    from: String,
}

/// A partial tile that differs from what lies below it; only the root can tell which is right.
struct EdgeDifference {
    level: u8,
    tile: String,
    below: String,
    claimed: Vec<Hash>,
    at: usize,
}

/// A verification under way.
pub(super) struct Audit<'a, S> {
    pub(super) source: &'a S,
    /// Which log it is of.
    origin: &'a str,
    pub(super) head: Head,
    edge: Edge,
    olds: Vec<Old>,
    /// Older checkpoints, each with the root that this log has at its size.
    contradictions: Vec<(Old, Hash)>,
    pub(super) checked: Checked,
    pub(super) findings: Vec<Finding>,
    pub(super) odd_entries: u64,
    /// The time of the last entry that was hashed, if it is a leaf.
    pub(super) newest: Option<UtcTime>,
    edge_differences: Vec<EdgeDifference>,
    visit: &'a mut dyn FnMut(u64, &Leaf),
}

impl<'a, S: Source> Audit<'a, S> {
    pub(super) fn new(
        source: &'a S,
        origin: &'a str,
        head: Head,
        visit: &'a mut dyn FnMut(u64, &Leaf),
    ) -> Self {
        Self {
            source,
            origin,
            head,
            edge: Edge::new(),
            olds: Vec::new(),
            contradictions: Vec::new(),
            checked: Checked { levels: levels(head.size), ..Checked::default() },
            findings: Vec::new(),
            odd_entries: 0,
            newest: None,
            edge_differences: Vec::new(),
            visit,
        }
    }

    /// How many entries were hashed or taken from their tile.
    pub(super) fn reached(&self) -> u64 {
        self.edge.size()
    }

    pub(super) fn find(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.findings.push(Finding { place: place.into(), what: what.into() });
    }

    /// Turns a file that is missing or malformed into a finding.
    pub(super) fn usable<T>(&mut self, read: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(ReadError::Missing { path }) => {
                self.find(path, "expected a file, found none");
                Ok(None)
            }
            Err(ReadError::Malformed { path, what }) => {
                self.find(path, what);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Whether a checkpoint is of this log, by a key of the policy. A policy may name several logs, and
    /// what another one signed says nothing about this one.
    pub(super) fn is_ours(
        &mut self,
        signed: &SignedCheckpoint,
        from: &str,
        policy: &Policy,
    ) -> bool {
        let found = signed.checkpoint().origin();
        let fault = match policy.check_log(signed) {
            Err(fault) => fault.to_string(),
            Ok(_) if found != self.origin => {
                format!("expected a checkpoint of {:?}, found one of {found:?}", self.origin)
            }
            Ok(_) => return true,
        };
        self.find(from, fault);
        false
    }

    pub(super) fn older(&mut self, old: &SignedCheckpoint, from: &str, policy: &Policy) {
        let (old_head, size) = (old.checkpoint().head(), self.head.size);
        if !self.is_ours(old, from, policy) {
            return;
        }
        if old_head.size > size {
            self.find(
                CHECKPOINT,
                format!(
                    "rollback: expected at least the {} entries of {from}, found {size}",
                    old_head.size
                ),
            );
        } else if old_head.size > 0 {
            self.olds.push(Old { head: old_head, from: from.to_owned() });
        } else {
            self.checked.since.push(0);
        }
    }

    /// Every entry, and every tile that is full. `false` when it had to stop.
    pub(super) fn walk(&mut self) -> Result<bool, ReadError> {
        for place in 0..self.head.size.div_ceil(TILE_WIDTH) {
            let Some(leaves) = self.leaves(place)? else { return Ok(false) };
            for leaf in leaves {
                self.push(leaf)?;
                if self.olds.iter().any(|old| old.head.size == self.edge.size()) {
                    self.compare_olds();
                }
            }
            if self.findings.len() >= MAX_FINDINGS {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The leaf hashes of one bundle: of its entries and of its tile, the ones that the parent
    /// confirms. `None` when there are neither.
    fn leaves(&mut self, place: u64) -> Result<Option<Vec<Hash>>, ReadError> {
        let bundle = Tile::of(self.head.size, Row::Entries, place);
        let tile = Tile::of(self.head.size, Row::Hashes(0), place);
        let (Some(bundle), Some(tile)) = (bundle, tile) else { return Ok(None) };
        let derived = self.hash_entries(bundle);
        let derived = self.usable(derived)?;
        let claimed = self.usable(read_hashes(self.source, tile))?;
        self.checked.tiles += u64::from(claimed.is_some());
        let ((derived, bundle_path), (claimed, tile_path)) = match (derived, claimed) {
            (Some(derived), Some(claimed)) => (derived, claimed),
            (Some((only, _)), None) | (None, Some((only, _))) => return Ok(Some(only)),
            (None, None) => return Ok(None),
        };
        let Some(at) = first_difference(&derived, &claimed) else { return Ok(Some(derived)) };
        let entry = place * TILE_WIDTH + at as u64;
        if tile.is_partial() {
            self.edge_differences.push(EdgeDifference {
                level: 0,
                tile: tile_path,
                below: format!("{bundle_path}: entry {entry}"),
                claimed,
                at,
            });
            return Ok(Some(derived));
        }
        let parent = self.parent_claim(0, place).inspect_err(|_| {
            let what = format!("entry {entry} does not have the hash that {tile_path} has");
            self.findings.push(Finding { place: bundle_path.clone(), what });
        })?;
        if parent == Some(root(&claimed)) {
            self.find(
                bundle_path,
                format!(
                    "entry {entry} does not have the hash that {tile_path} and its parent have"
                ),
            );
            return Ok(Some(claimed));
        }
        if parent == Some(root(&derived)) {
            self.find(
                tile_path,
                format!("hash {at} is not that of entry {entry}, which the parent tile confirms"),
            );
        } else {
            self.find(
                bundle_path,
                format!("entry {entry} does not have the hash that {tile_path} has, and the parent tile confirms neither"),
            );
        }
        Ok(Some(derived))
    }

    fn hash_entries(&mut self, bundle: Tile) -> Result<(Vec<Hash>, String), ReadError> {
        let (bytes, file) = read_tile(self.source, bundle)?;
        let path = file.to_string();
        let entries = decode_entries(&bytes, file.width()).map_err(|fault| {
            ReadError::Malformed { path: path.clone(), what: fault.to_string() }
        })?;
        let entries = &entries[..entries.len().min(usize::from(bundle.width()))];
        self.checked.bundles += 1;
        self.checked.entries += entries.len() as u64;
        for (index, entry) in (bundle.index() * TILE_WIDTH..).zip(entries) {
            match Leaf::decode(entry) {
                Ok(leaf) => {
                    self.newest = Some(leaf.time());
                    (self.visit)(index, &leaf);
                }
                Err(_) => {
                    self.newest = None;
                    self.odd_entries += 1;
                }
            }
        }
        Ok((entries.iter().map(|entry| leaf_hash(entry)).collect(), path))
    }

    /// Appends a leaf, and compares each tile that becomes full with its file.
    fn push(&mut self, leaf: Hash) -> Result<(), ReadError> {
        let mut edge = std::mem::take(&mut self.edge);
        let pushed =
            edge.push_with(leaf, |level, index, hashes| self.full_tile(level, index, &hashes));
        self.edge = edge;
        pushed
    }

    /// The hash that stands for a full tile: the derived one, or the file's where the parent says
    /// that what lies below was altered.
    fn full_tile(&mut self, level: u8, index: u64, derived: &[Hash]) -> Result<Hash, ReadError> {
        let derived_root = root(derived);
        if level == 0 {
            return Ok(derived_root);
        }
        let tile = Tile::full(Row::Hashes(level), index);
        let claimed = self.usable(read_hashes(self.source, tile))?;
        let Some((claimed, path)) = claimed else { return Ok(derived_root) };
        self.checked.tiles += 1;
        let Some(at) = first_difference(derived, &claimed) else { return Ok(derived_root) };
        let child = Tile::full(Row::Hashes(level - 1), index * TILE_WIDTH + at as u64);
        let parent = self.parent_claim(level, index).inspect_err(|_| {
            let what = format!("hash {at} is not the root of {child}");
            self.findings.push(Finding { place: path.clone(), what });
        })?;
        if parent == Some(root(&claimed)) {
            self.find(
                child.to_string(),
                format!(
                    "it and what lies below do not have the hash that {path} and its parent have"
                ),
            );
            return Ok(root(&claimed));
        }
        self.find(path, format!("hash {at} is not the root of {child}"));
        Ok(derived_root)
    }

    /// What the tile above claims that a full tile's root is.
    fn parent_claim(&self, level: u8, index: u64) -> Result<Option<Hash>, ReadError> {
        let parent = Tile::of(self.head.size, Row::Hashes(level + 1), index / TILE_WIDTH);
        let Some(parent) = parent else { return Ok(None) };
        let at = usize::try_from(index % TILE_WIDTH).unwrap_or(usize::MAX);
        match read_hashes(self.source, parent) {
            Ok((hashes, _)) => Ok(hashes.get(at).copied()),
            // Reported when that tile's turn comes.
            Err(ReadError::Missing { .. } | ReadError::Malformed { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Reading failed. What is proven by then stays proven, or a server could take it back by failing:
    /// says why it failed, and only where nothing was found is that the answer.
    pub(super) fn cut_short(&mut self, error: ReadError) -> Result<String, ReadError> {
        if self.findings.is_empty() && !self.is_whole() {
            for (old, found) in std::mem::take(&mut self.contradictions) {
                self.find(
                    CHECKPOINT,
                    format!(
                        "another history, or an altered file: {} has the root {} for the first {} entries, what could be read of this log {}",
                        old.from,
                        base64(&old.head.root),
                        old.head.size,
                        base64(&found)
                    ),
                );
            }
        }
        let nothing = self.findings.is_empty() && self.contradictions.is_empty();
        if nothing { Err(error) } else { Ok(why(&error)) }
    }

    /// Whether all entries were hashed, and lead to the checkpoint's root.
    pub(super) fn is_whole(&self) -> bool {
        self.edge.size() == self.head.size && self.edge.root() == self.head.root
    }

    /// Compares the older checkpoints of just this size.
    fn compare_olds(&mut self) {
        let (size, found) = (self.edge.size(), self.edge.root());
        let (now, later): (Vec<_>, _) =
            std::mem::take(&mut self.olds).into_iter().partition(|old| old.head.size == size);
        self.olds = later;
        for old in now {
            if old.head.root == found {
                self.checked.since.push(size);
            } else {
                self.contradictions.push((old, found));
            }
        }
    }

    /// Says which older checkpoints this log contradicts. Only of a log that is whole can that be
    /// told: a damaged file must not look like a rewritten history.
    pub(super) fn judge_olds(&mut self, not_checked: &mut Vec<String>) {
        let whole = self.is_whole();
        for (old, found) in std::mem::take(&mut self.contradictions) {
            if whole {
                self.find(
                    CHECKPOINT,
                    format!(
                        "rewritten history: {} has the root {} for the first {} entries, this log {}; the log signed both, so keep both",
                        old.from,
                        base64(&old.head.root),
                        old.head.size,
                        base64(&found)
                    ),
                );
            } else {
                self.olds.push(old);
            }
        }
        for old in std::mem::take(&mut self.olds) {
            not_checked.push(format!(
                "whether the log grew out of the {} entries of {}: it is damaged, or was not read so far",
                old.head.size, old.from
            ));
        }
    }

    /// The partial tiles of the levels above 0, and the root.
    pub(super) fn right_edge(&mut self) -> Result<bool, ReadError> {
        let read = self.compare_edge();
        // All entries are hashed by now, so what is not read cannot excuse what they lead to.
        self.judge_edge();
        read.map(|()| self.findings.len() < MAX_FINDINGS)
    }

    fn compare_edge(&mut self) -> Result<(), ReadError> {
        for level in 1..8_u8 {
            let Some(tile) = Tile::partial_of(self.head.size, Row::Hashes(level)) else { continue };
            let claimed = self.usable(read_hashes(self.source, tile))?;
            let Some((claimed, path)) = claimed else { continue };
            self.checked.tiles += 1;
            let derived = self.edge.levels().get(usize::from(level));
            let Some(at) = first_difference(derived.map_or(&[], Vec::as_slice), &claimed) else {
                continue;
            };
            let child = Tile::full(Row::Hashes(level - 1), tile.index() * TILE_WIDTH + at as u64);
            self.edge_differences.push(EdgeDifference {
                level,
                tile: path,
                below: child.to_string(),
                claimed,
                at,
            });
        }
        Ok(())
    }

    /// Blames what differs at the right edge on the side that the checkpoint contradicts.
    fn judge_edge(&mut self) {
        let (expected, derived) = (self.head.root, self.edge.root());
        let mut levels = self.edge.levels().to_vec();
        for difference in &self.edge_differences {
            levels[usize::from(difference.level)].clone_from(&difference.claimed);
        }
        let claimed = Edge::from_levels(self.head.size, levels).map(|edge| edge.root());
        let differences = std::mem::take(&mut self.edge_differences);
        for EdgeDifference { tile, below, at, .. } in &differences {
            let (path, _) = below.split_once(": ").unwrap_or((below, ""));
            if derived == expected {
                self.find(
                    tile,
                    format!("hash {at} is not that of {below}, which the checkpoint confirms"),
                );
            } else if claimed == Some(expected) {
                self.find(
                    path,
                    format!(
                        "{below} does not have hash {at} of {tile}, which the checkpoint confirms"
                    ),
                );
            } else {
                self.find(path, format!("{below} does not have hash {at} of {tile}, and the checkpoint confirms neither"));
            }
        }
        if derived != expected && (differences.is_empty() || claimed != Some(expected)) {
            self.find(
                CHECKPOINT,
                format!(
                    "expected the root {} of {} entries, found that entries and tiles have {}",
                    base64(&expected),
                    self.head.size,
                    base64(&derived)
                ),
            );
        }
    }
}

/// Why something could not be read, with what the disk or the server says.
pub(super) fn why(error: &ReadError) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// The first place at which two lists of hashes differ.
pub(super) fn first_difference(one: &[Hash], other: &[Hash]) -> Option<usize> {
    let length = one.len().max(other.len());
    (0..length).find(|at| one.get(*at) != other.get(*at))
}

/// How many levels of tiles a tree has.
fn levels(size: u64) -> u64 {
    (0..8).take_while(|level| size >> (8 * level) > 0).count() as u64
}
