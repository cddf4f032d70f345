//! Appends to a log, so that power may fail at any instant.
//!
//! The order of [`Writer::append`]: entry bundles and tiles, each written beside its name, made
//! durable, renamed; then their folders made durable; then `checkpoint.signed` in the same way; only
//! then is the checkpoint returned. Whatever a crash leaves behind lies beyond the checkpoint and is
//! written over. The order of [`Writer::publish`]: `checkpoint`; then partial tiles that a full one
//! has taken over from are removed.
//!
//! The log never goes back: both checkpoints are replaced only if the disk still has what this
//! writer put there (compare and swap, under a lock), and opening compares the disk with the newest
//! head that the caller knows to have been shown. A restored backup is refused, not continued.

use std::collections::BTreeSet;
use std::io;

use super::reader::{ReadError, Reader, read_entries, read_file, read_hashes};
use super::{CHECKPOINT, Disk, SIGNED, TEMPORARY};
use crate::checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint};
use crate::edge::Edge;
use crate::note::{MAX_NOTE_BYTES, NoteError, SignatureFault, Signer};
use crate::tile::{EntryTooLong, MAX_ENTRY_BYTES, Row, Tile, encode_hashes, push_entry};
use crate::tree::{Hash, Head, empty_root, leaf_hash};
use crate::witness::Offer;

/// Why nothing was appended or published.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The disk's own, while writing.
    #[error("{path}: expected to write it")]
    Disk {
        /// Which file or folder.
        path: String,
        /// What the disk says.
        source: io::Error,
    },
    /// What is on the disk cannot be read or is altered.
    #[error("expected a log that can be continued")]
    Read(#[from] ReadError),
    /// A checkpoint on the disk that this log's key did not sign.
    #[error("{path}: expected a checkpoint signed by this log")]
    Signature {
        /// Which file.
        path: &'static str,
        /// What is wrong.
        source: SignatureFault,
    },
    /// A new key that is another log's.
    #[error("expected a key of {expected}, found one of {found}")]
    OtherName {
        /// The log.
        expected: String,
        /// The key's name.
        found: String,
    },
    /// Not a checkpoint.
    #[error("expected a checkpoint")]
    Checkpoint(#[from] CheckpointError),
    /// Too many signatures.
    #[error("expected a checkpoint with its signatures")]
    Note(#[from] NoteError),
    /// An entry that no bundle can hold; nothing was appended.
    #[error(transparent)]
    Entry(#[from] EntryTooLong),
    /// The disk is behind what was shown: a restored backup, or a lost file.
    #[error("rollback: expected a log of at least {known} entries, found {found}")]
    RolledBack {
        /// How many were shown.
        known: u64,
        /// How many are there.
        found: u64,
    },
    /// The disk has another history than what was shown.
    #[error("fork: expected the history of the checkpoint of size {size}, found another")]
    Forked {
        /// The size at which they differ.
        size: u64,
    },
    /// There are tiles but no checkpoint.
    #[error("{path}: expected a checkpoint beside the tiles, found none")]
    Lost {
        /// Which file.
        path: &'static str,
    },
    /// Somebody else wrote to the log.
    #[error("{path}: expected what this writer put there, found another checkpoint")]
    Conflict {
        /// Which file.
        path: &'static str,
    },
    /// A step failed before, so what the disk has is unknown until the log is opened again.
    #[error("expected the log to be opened again after a failed write")]
    Reopen,
}

/// The one writer of a log.
#[derive(Debug)]
pub struct Writer<D> {
    disk: D,
    signer: Signer,
    edge: Edge,
    /// The bytes of the partial bundle at the edge.
    bundle: Vec<u8>,
    tip: SignedCheckpoint,
    /// Whether `checkpoint.signed` is there; a copy of a published log lacks it.
    tip_stored: bool,
    published: SignedCheckpoint,
    /// Partial tiles that may be removed once a published tree fills them.
    partials: BTreeSet<Tile>,
    folders: BTreeSet<String>,
    failed: bool,
}

impl<D: Disk> Writer<D> {
    /// Opens a log, or begins one where nothing is. `known` is the newest head that the caller knows
    /// to have been shown to anybody.
    ///
    /// # Errors
    /// When the disk is behind `known`, has another history, or is damaged at its edge.
    pub fn open(mut disk: D, signer: Signer, known: Option<Head>) -> Result<Self, WriteError> {
        disk.lock().map_err(at(super::LOCK))?;
        let published = stored(&disk, CHECKPOINT, &signer)?;
        let signed = stored(&disk, SIGNED, &signer)?;
        let mut log = match (published, signed) {
            (Some(published), signed) => {
                let tip_stored = signed.is_some();
                let tip = signed.unwrap_or_else(|| published.clone());
                Self::resume(disk, signer, tip, tip_stored, published)?
            }
            (None, signed) => {
                // Beginning a log may have been interrupted, but then it has no tile.
                let mut bare = signed.is_none_or(|signed| signed.checkpoint().size() == 0);
                disk.list(&mut |path| bare &= path.parse::<Tile>().is_err()).map_err(at(""))?;
                if !bare {
                    return Err(WriteError::Lost { path: CHECKPOINT });
                }
                Self::begin(disk, signer)?
            }
        };
        log.check_known(known)?;
        // A process that was killed may have renamed a checkpoint and not waited; from here on the
        // caller may show it.
        log.sync("")?;
        log.clean()?;
        Ok(log)
    }

    /// Removes what an interrupted append left behind under names that the next one may not write
    /// again: a partial tile beyond the tip would later contradict the tree.
    fn clean(&mut self) -> Result<(), WriteError> {
        let size = self.head().size;
        let beyond = |tile: Tile| {
            let width = Tile::of(size, tile.row(), tile.index()).map_or(0, |tile| tile.width());
            tile.is_partial() && tile.width() > width
        };
        let mut left_over = Vec::new();
        self.disk
            .list(&mut |path| {
                if path.ends_with(TEMPORARY) || path.parse().is_ok_and(beyond) {
                    left_over.push(path.to_owned());
                }
            })
            .map_err(at(""))?;
        let mut touched = BTreeSet::new();
        for path in &left_over {
            self.disk.remove(path).map_err(at(path))?;
            touched.insert(parent(path));
        }
        touched.into_iter().try_for_each(|folder| self.disk.sync_folder(folder).map_err(at(folder)))
    }

    fn begin(disk: D, signer: Signer) -> Result<Self, WriteError> {
        let head = Head { size: 0, root: empty_root() };
        let checkpoint = Checkpoint::new(signer.key().name(), head)?;
        let empty = SignedCheckpoint::sign(checkpoint, &signer)?;
        let mut log = Self {
            disk,
            signer,
            edge: Edge::new(),
            bundle: Vec::new(),
            tip: empty.clone(),
            tip_stored: true,
            published: empty.clone(),
            partials: BTreeSet::new(),
            folders: BTreeSet::new(),
            failed: false,
        };
        for path in [SIGNED, CHECKPOINT] {
            log.put(path, empty.to_string().as_bytes())?;
            log.sync("")?;
        }
        Ok(log)
    }

    fn resume(
        disk: D,
        signer: Signer,
        tip: SignedCheckpoint,
        tip_stored: bool,
        published: SignedCheckpoint,
    ) -> Result<Self, WriteError> {
        let (head, shown) = (tip.checkpoint().head(), published.checkpoint().head());
        if head.size < shown.size {
            return Err(WriteError::RolledBack { known: shown.size, found: head.size });
        }
        let mut levels = Vec::new();
        let mut partials = BTreeSet::new();
        for level in 0..8_u8 {
            if head.size >> (8 * u32::from(level)) == 0 {
                break;
            }
            let partial = Tile::partial_of(head.size, Row::Hashes(level));
            levels.push(match partial {
                Some(tile) => read_hashes(&disk, tile)?.0,
                None => Vec::new(),
            });
            partials.extend(partial);
            partials.extend(Tile::partial_of(shown.size, Row::Hashes(level)));
        }
        let lost = || WriteError::Forked { size: head.size };
        let edge = Edge::from_levels(head.size, levels).ok_or_else(lost)?;
        if edge.root() != head.root {
            return Err(lost());
        }
        let mut bundle = Vec::new();
        if let Some(tile) = Tile::partial_of(head.size, Row::Entries) {
            let (entries, path) = read_entries(&disk, tile)?;
            let leaves: Vec<_> = entries.iter().map(|entry| leaf_hash(entry)).collect();
            if edge.levels().first() != Some(&leaves) {
                return Err(ReadError::Altered { path }.into());
            }
            for entry in &entries {
                push_entry(&mut bundle, entry)?;
            }
            partials.insert(tile);
        }
        partials.extend(Tile::partial_of(shown.size, Row::Entries));
        let folders = BTreeSet::new();
        let log = Self {
            disk,
            signer,
            edge,
            bundle,
            tip,
            tip_stored,
            published,
            partials,
            folders,
            failed: false,
        };
        log.check_known(Some(shown))?;
        Ok(log)
    }

    fn check_known(&self, known: Option<Head>) -> Result<(), WriteError> {
        known.map_or(Ok(()), |known| self.extends(known))
    }

    /// Whether this log grew out of a head that somebody knows it to have had.
    ///
    /// # Errors
    /// [`WriteError::RolledBack`] when it is shorter, [`WriteError::Forked`] when that head is of
    /// another history; anything else says that it cannot be told.
    pub fn extends(&self, known: Head) -> Result<(), WriteError> {
        let found = self.head().size;
        if found < known.size {
            return Err(WriteError::RolledBack { known: known.size, found });
        }
        if self.reader().head_at(known.size)? != known {
            return Err(WriteError::Forked { size: known.size });
        }
        Ok(())
    }

    /// Size and root of everything that was appended.
    #[must_use]
    pub fn head(&self) -> Head {
        self.tip.checkpoint().head()
    }

    /// The newest checkpoint that the log signed; it is durable.
    #[must_use]
    pub fn tip(&self) -> &SignedCheckpoint {
        &self.tip
    }

    /// The checkpoint that the world sees.
    #[must_use]
    pub fn published(&self) -> &SignedCheckpoint {
        &self.published
    }

    /// The log as of its tip.
    #[must_use]
    pub fn reader(&self) -> Reader<&D> {
        Reader::at(&self.disk, self.tip.clone())
    }

    /// The tip with the proof that it grew out of what a witness cosigned last.
    ///
    /// # Errors
    /// When it did not, or the tiles cannot be read.
    pub fn offer(&self, latest: Head) -> Result<Offer, ReadError> {
        let proof = self.reader().consistency(latest)?;
        Ok(Offer { old_size: latest.size, proof, signed: self.tip.clone() })
    }

    /// The checkpoint of the first `size` leaves, signed, with the proof that it grew out of that of
    /// the first `old`; `None` when the log is not so long, or `old` is above `size`. This log signed
    /// or could have signed each of them: there is one history. Both heads are proven to be in the
    /// past of the tip before anything is signed, so that a rotten tile is an error and no fork.
    ///
    /// # Errors
    /// When the tiles cannot be read, or do not lead to the tip's root.
    pub fn offer_of(&self, size: u64, old: u64) -> Result<Option<Offer>, WriteError> {
        if old > size || size > self.head().size {
            return Ok(None);
        }
        let reader = self.reader();
        let (from, to) = (reader.head_at(old)?, reader.head_at(size)?);
        let proof = reader.consistency_within(from, to)?;
        let signed = if size == self.head().size {
            self.tip.clone()
        } else {
            let checkpoint = Checkpoint::new(self.tip.checkpoint().origin(), to)?;
            SignedCheckpoint::sign(checkpoint, &self.signer)?
        };
        Ok(Some(Offer { old_size: old, proof, signed }))
    }

    /// The proof that an entry is among the first `size`; `None` when there is no such entry, or the
    /// log is not so long.
    ///
    /// # Errors
    /// When the tiles cannot be read.
    pub fn inclusion_of(&self, index: u64, size: u64) -> Result<Option<Vec<Hash>>, WriteError> {
        if size > self.head().size {
            return Ok(None);
        }
        Ok(self.reader().inclusion_within(index, size)?)
    }

    /// Appends entries in order, as one step: after a crash all of them are there or none. The
    /// checkpoint that comes back is durable and may be shown to witnesses. No entries: the tip.
    ///
    /// # Errors
    /// When an entry is too long, with nothing changed; or when the disk fails, after which the log
    /// must be opened again.
    pub fn append<E: AsRef<[u8]>>(
        &mut self,
        entries: &[E],
    ) -> Result<SignedCheckpoint, WriteError> {
        if self.failed {
            return Err(WriteError::Reopen);
        }
        if let Some(long) = entries.iter().find(|entry| entry.as_ref().len() > MAX_ENTRY_BYTES) {
            return Err(EntryTooLong(long.as_ref().len()).into());
        }
        if entries.is_empty() {
            return Ok(self.tip.clone());
        }
        let done = self.append_checked(entries);
        self.failed = done.is_err();
        done
    }

    fn append_checked<E: AsRef<[u8]>>(
        &mut self,
        entries: &[E],
    ) -> Result<SignedCheckpoint, WriteError> {
        // Before anything is written, so that a second writer's tiles stay whole.
        let expected = self.tip_stored.then(|| self.tip.to_string());
        self.expect(SIGNED, expected.clone())?;
        let mut touched = BTreeSet::new();
        // The levels above the highest tile that became full have the partial tile that they had.
        let mut changed = 0;
        for entry in entries {
            push_entry(&mut self.bundle, entry.as_ref())?;
            for full in self.edge.push(leaf_hash(entry.as_ref())) {
                if full.level == 0 {
                    let bytes = std::mem::take(&mut self.bundle);
                    self.put_tile(Tile::full(Row::Entries, full.index), &bytes, &mut touched)?;
                }
                let tile = Tile::full(Row::Hashes(full.level), full.index);
                self.put_tile(tile, &encode_hashes(&full.hashes), &mut touched)?;
                changed = changed.max(full.level + 1);
            }
        }
        let size = self.edge.size();
        for level in 0..=changed {
            let Some(tile) = Tile::partial_of(size, Row::Hashes(level)) else { continue };
            let hashes = self.edge.levels().get(usize::from(level));
            let bytes = encode_hashes(hashes.map_or(&[], Vec::as_slice));
            self.put_tile(tile, &bytes, &mut touched)?;
        }
        if let Some(tile) = Tile::partial_of(size, Row::Entries) {
            let bytes = self.bundle.clone();
            self.put_tile(tile, &bytes, &mut touched)?;
        }
        for folder in touched {
            self.sync(&folder)?;
        }
        let head = Head { size, root: self.edge.root() };
        let checkpoint = Checkpoint::new(self.tip.checkpoint().origin(), head)?;
        let signed = SignedCheckpoint::sign(checkpoint, &self.signer)?;
        self.swap(SIGNED, expected, &signed.to_string())?;
        self.tip = signed.clone();
        self.tip_stored = true;
        Ok(signed)
    }

    /// Shows the world a checkpoint that this log signed, with the cosignatures that it has gathered.
    /// Publishing the published one again adds to its cosignatures.
    ///
    /// # Errors
    /// When the checkpoint is not this log's, or older than the published one; or when the disk
    /// fails, after which the log must be opened again.
    pub fn publish(&mut self, signed: &SignedCheckpoint) -> Result<(), WriteError> {
        if self.failed {
            return Err(WriteError::Reopen);
        }
        signed
            .verify(&self.signer.key())
            .map_err(|source| WriteError::Signature { path: CHECKPOINT, source })?;
        let (next, shown) = (signed.checkpoint().head(), self.published.checkpoint().head());
        if next.size < shown.size {
            return Err(WriteError::RolledBack { known: shown.size, found: next.size });
        }
        // Ours by signature, but perhaps of another life of this log.
        self.check_known(Some(next))?;
        let next = if next == shown {
            self.published.with(signed.note().signatures())?
        } else {
            signed.clone()
        };
        let done = self.swap(CHECKPOINT, Some(self.published.to_string()), &next.to_string());
        self.failed = done.is_err();
        done?;
        self.published = next;
        let done = self.remove_partials();
        self.failed = done.is_err();
        done
    }

    fn remove_partials(&mut self) -> Result<(), WriteError> {
        let size = self.published.checkpoint().size();
        let full = |tile: &Tile| Tile::of(size, tile.row(), tile.index()) == Some(tile.filled());
        let (gone, kept) = std::mem::take(&mut self.partials).into_iter().partition(full);
        self.partials = kept;
        let gone: BTreeSet<Tile> = gone;
        // Not made durable: one that comes back is right, and harmless.
        gone.iter().try_for_each(|tile| {
            let path = tile.to_string();
            self.disk.remove(&path).map_err(at(&path))
        })
    }

    fn put_tile(
        &mut self,
        tile: Tile,
        bytes: &[u8],
        touched: &mut BTreeSet<String>,
    ) -> Result<(), WriteError> {
        let path = tile.to_string();
        let folders: Vec<&str> = path.match_indices('/').map(|(end, _)| &path[..end]).collect();
        for folder in &folders {
            if !self.folders.contains(*folder) {
                self.disk.make_folder(folder).map_err(at(folder))?;
                self.folders.insert((*folder).to_owned());
                touched.insert(parent(folder).to_owned());
            }
        }
        self.put(&path, bytes)?;
        touched.insert(parent(&path).to_owned());
        if tile.is_partial() {
            self.partials.insert(tile);
        }
        Ok(())
    }

    /// Replaces a checkpoint if the disk still has the one that is expected.
    fn swap(
        &mut self,
        path: &'static str,
        expected: Option<String>,
        next: &str,
    ) -> Result<(), WriteError> {
        self.expect(path, expected)?;
        self.put(path, next.as_bytes())?;
        self.sync("")
    }

    fn expect(&self, path: &'static str, expected: Option<String>) -> Result<(), WriteError> {
        let found = read_file(&self.disk, path, MAX_NOTE_BYTES)?;
        if found == expected.map(String::into_bytes) {
            Ok(())
        } else {
            Err(WriteError::Conflict { path })
        }
    }

    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), WriteError> {
        let beside = format!("{path}{TEMPORARY}");
        self.disk.write(&beside, bytes).map_err(at(&beside))?;
        self.disk.rename(&beside, path).map_err(at(path))
    }

    fn sync(&mut self, folder: &str) -> Result<(), WriteError> {
        self.disk.sync_folder(folder).map_err(at(folder))
    }
}

/// A checkpoint on the disk, if it is there and this log's.
fn stored<D: Disk>(
    disk: &D,
    path: &'static str,
    signer: &Signer,
) -> Result<Option<SignedCheckpoint>, WriteError> {
    let Some(bytes) = read_file(disk, path, MAX_NOTE_BYTES)? else {
        return Ok(None);
    };
    let signed = SignedCheckpoint::parse(&bytes)?;
    signed.verify(&signer.key()).map_err(|source| WriteError::Signature { path, source })?;
    Ok(Some(signed))
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

pub(super) fn at(path: &str) -> impl FnOnce(io::Error) -> WriteError {
    move |source| WriteError::Disk { path: path.to_owned(), source }
}
