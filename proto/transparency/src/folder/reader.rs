//! Reads entries and proofs, and hands out none that do not lead to the checkpoint's root.

use std::collections::BTreeMap;
use std::io;

use super::{CHECKPOINT, Source};
use crate::checkpoint::{CheckpointError, SignedCheckpoint};
use crate::note::MAX_NOTE_BYTES;
use crate::policy::{Policy, Verdict};
use crate::proof::Proof;
use crate::tile::{Row, TILE_WIDTH, Tile, decode_entries, decode_hashes};
use crate::tree::{
    Hash, Head, Nodes, consistency_proof, inclusion_proof, is_consistent, leaf_hash, root,
    root_from_inclusion, root_of,
};

/// Why something could not be read, or is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk's own.
    #[error("{path}: expected to read it")]
    Disk {
        /// Which file.
        path: String,
        /// What the disk says.
        source: io::Error,
    },
    /// A file that the checkpoint asks for is not there.
    #[error("{path}: expected a file, found none")]
    Missing {
        /// Which file.
        path: String,
    },
    /// A file is not what its name says.
    #[error("{path}: {what}")]
    Malformed {
        /// Which file.
        path: String,
        /// What was expected and found.
        what: String,
    },
    /// The checkpoint is not one.
    #[error("{CHECKPOINT}: expected a checkpoint")]
    Checkpoint(#[from] CheckpointError),
    /// The policy rejects the checkpoint.
    #[error("{CHECKPOINT}: {}", .0.join("; "))]
    Policy(Vec<String>),
    /// Bytes that do not lead to the checkpoint's root.
    #[error(
        "{path}: expected what leads to the checkpoint's root, found an altered file here or on the way"
    )]
    Altered {
        /// Which file, or the first of several.
        path: String,
    },
    /// No such entry.
    #[error("expected an entry below {size}, found {index}")]
    NoSuchEntry {
        /// Which was asked for.
        index: u64,
        /// How many there are.
        size: u64,
    },
    /// The log does not grow out of an older head.
    #[error("expected the log of {size} to grow out of its first {old}, found another history")]
    Inconsistent {
        /// The older size.
        old: u64,
        /// The log's size.
        size: u64,
    },
}

/// A log as of one checkpoint.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    signed: SignedCheckpoint,
}

impl<S: Source> Reader<S> {
    /// The log as of its published checkpoint, if the policy believes that.
    ///
    /// # Errors
    /// When there is no checkpoint or the policy rejects it.
    pub fn open(source: S, policy: &Policy) -> Result<(Self, Verdict), ReadError> {
        let bytes = read_file(&source, CHECKPOINT, MAX_NOTE_BYTES)?;
        let bytes = bytes.ok_or_else(|| ReadError::Missing { path: CHECKPOINT.to_owned() })?;
        let signed = SignedCheckpoint::parse(&bytes)?;
        let verdict = policy.judge(&signed);
        let faults = verdict.faults();
        if faults.is_empty() {
            Ok((Self { source, signed }, verdict))
        } else {
            Err(ReadError::Policy(faults))
        }
    }

    /// The log as of a checkpoint that the caller believes.
    #[must_use]
    pub fn at(source: S, signed: SignedCheckpoint) -> Self {
        Self { source, signed }
    }

    /// The checkpoint that everything leads to.
    #[must_use]
    pub fn signed(&self) -> &SignedCheckpoint {
        &self.signed
    }

    /// How many entries there are.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.signed.checkpoint().size()
    }

    /// One entry, and the proof that it is there.
    ///
    /// # Errors
    /// When there is no such entry, or what is on the disk does not lead to the root.
    pub fn prove(&self, index: u64) -> Result<(Vec<u8>, Proof), ReadError> {
        let (mut entries, hashes) = self.authenticate(index)?;
        let place = usize::try_from(index % TILE_WIDTH).unwrap_or(usize::MAX);
        Ok((entries.swap_remove(place), Proof::new(index, hashes, self.signed.clone())))
    }

    /// The entries of one bundle, `bundle * 256` and on.
    ///
    /// # Errors
    /// When there is no such bundle, or what is on the disk does not lead to the root.
    pub fn entries(&self, bundle: u64) -> Result<Vec<Vec<u8>>, ReadError> {
        let index = bundle.saturating_mul(TILE_WIDTH);
        Ok(self.authenticate(index)?.0)
    }

    /// The proof that this log grew out of an older head.
    ///
    /// # Errors
    /// When it did not, or what is on the disk does not lead to the root.
    pub fn consistency(&self, old: Head) -> Result<Vec<Hash>, ReadError> {
        self.consistency_within(old, self.signed.checkpoint().head())
    }

    /// The head of the first `size` leaves, which the root of this log vouches for.
    ///
    /// # Errors
    /// When there are not so many, or what is on the disk does not lead to the root.
    pub(crate) fn head_at(&self, size: u64) -> Result<Head, ReadError> {
        let head = Head { size, root: root_of(&mut self.tiles(), size)? };
        self.consistency(head).map(|_| head)
    }

    /// The proof that one head of this log grew out of another. It is read from the tiles of this
    /// log's size: those of a smaller one may be gone, or never have been.
    ///
    /// # Errors
    /// When it did not, or the tiles do not give it.
    pub(crate) fn consistency_within(&self, old: Head, new: Head) -> Result<Vec<Hash>, ReadError> {
        let proof = consistency_proof(&mut self.tiles(), old.size, new.size)?;
        proof
            .filter(|proof| is_consistent(old, new, proof))
            .ok_or(ReadError::Inconsistent { old: old.size, size: new.size })
    }

    /// The proof that an entry is among the first `size`, unauthenticated; read as
    /// [`Self::consistency_within`] reads.
    pub(crate) fn inclusion_within(
        &self,
        index: u64,
        size: u64,
    ) -> Result<Option<Vec<Hash>>, ReadError> {
        inclusion_proof(&mut self.tiles(), index, size)
    }

    fn tiles(&self) -> Tiles<'_, S> {
        Tiles { source: &self.source, size: self.size(), read: BTreeMap::new() }
    }

    /// The entries of the bundle around `index` and the inclusion proof of `index`. The lowest tile
    /// is derived from the entries themselves, so the root vouches for every entry of the bundle.
    fn authenticate(&self, index: u64) -> Result<(Vec<Vec<u8>>, Vec<Hash>), ReadError> {
        let head = self.signed.checkpoint().head();
        let none = || ReadError::NoSuchEntry { index, size: head.size };
        let place = index / TILE_WIDTH;
        let tile = Tile::of(head.size, Row::Entries, place).ok_or_else(none)?;
        let (entries, path) = read_entries(&self.source, tile)?;
        let leaves: Vec<Hash> = entries.iter().map(|entry| leaf_hash(entry)).collect();
        let at = usize::try_from(index % TILE_WIDTH).unwrap_or(usize::MAX);
        let leaf = *leaves.get(at).ok_or_else(none)?;
        let mut tiles = self.tiles();
        tiles.read.insert((0, place), leaves);
        let proof = inclusion_proof(&mut tiles, index, head.size)?.ok_or_else(none)?;
        if root_from_inclusion(leaf, index, head.size, &proof) == Some(head.root) {
            Ok((entries, proof))
        } else {
            Err(ReadError::Altered { path })
        }
    }
}

/// The tree's nodes, from tiles.
struct Tiles<'a, S> {
    source: &'a S,
    size: u64,
    read: BTreeMap<(u8, u64), Vec<Hash>>,
}

impl<S: Source> Nodes for Tiles<'_, S> {
    type Error = ReadError;

    fn node(&mut self, height: u32, index: u64) -> Result<Hash, ReadError> {
        let outside = || ReadError::NoSuchEntry { index, size: self.size };
        let level = u8::try_from(height / 8).map_err(|_| outside())?;
        let first = index << (height % 8);
        let place = first / TILE_WIDTH;
        if !self.read.contains_key(&(level, place)) {
            let tile = Tile::of(self.size, Row::Hashes(level), place).ok_or_else(outside)?;
            self.read.insert((level, place), read_hashes(self.source, tile)?.0);
        }
        let from = usize::try_from(first % TILE_WIDTH).unwrap_or(usize::MAX);
        let hashes = self
            .read
            .get(&(level, place))
            .and_then(|hashes| hashes.get(from..from.checked_add(1 << (height % 8))?));
        hashes.map(root).ok_or_else(outside)
    }
}

/// A file's bytes; one that is too long, or is no file at all, is malformed and not a fault of the disk.
pub(crate) fn read_file<S: Source>(
    source: &S,
    path: &str,
    limit: usize,
) -> Result<Option<Vec<u8>>, ReadError> {
    source.read(path, limit).map_err(|error| {
        let path = path.to_owned();
        if matches!(error.kind(), io::ErrorKind::FileTooLarge | io::ErrorKind::Unsupported) {
            ReadError::Malformed { path, what: error.to_string() }
        } else {
            ReadError::Disk { path, source: error }
        }
    })
}

/// The bytes of a tile or bundle and how wide the file is that has them: the full one takes over
/// from a partial one that is gone.
pub(crate) fn read_tile<S: Source>(source: &S, tile: Tile) -> Result<(Vec<u8>, Tile), ReadError> {
    let read = |tile: Tile| -> Result<_, ReadError> {
        let bytes = read_file(source, &tile.to_string(), tile.max_bytes())?;
        Ok(bytes.map(|bytes| (bytes, tile)))
    };
    let mut found = read(tile)?;
    if found.is_none() && tile.is_partial() {
        found = read(tile.filled())?;
    }
    found.ok_or_else(|| ReadError::Missing { path: tile.to_string() })
}

/// A tile's hashes, and the path of the file that has them.
pub(crate) fn read_hashes<S: Source>(
    source: &S,
    tile: Tile,
) -> Result<(Vec<Hash>, String), ReadError> {
    let (bytes, file) = read_tile(source, tile)?;
    let path = file.to_string();
    let hashes = decode_hashes(&bytes).filter(|hashes| hashes.len() == usize::from(file.width()));
    let Some(mut hashes) = hashes else {
        let what = format!("expected {} bytes, found {}", file.max_bytes(), bytes.len());
        return Err(ReadError::Malformed { path, what });
    };
    hashes.truncate(usize::from(tile.width()));
    Ok((hashes, path))
}

/// A bundle's entries, and the path of the file that has them.
pub(crate) fn read_entries<S: Source>(
    source: &S,
    tile: Tile,
) -> Result<(Vec<Vec<u8>>, String), ReadError> {
    let (bytes, file) = read_tile(source, tile)?;
    let path = file.to_string();
    let entries = decode_entries(&bytes, file.width())
        .map_err(|fault| ReadError::Malformed { path: path.clone(), what: fault.to_string() })?;
    let entries = entries.into_iter().take(usize::from(tile.width())).map(<[u8]>::to_vec);
    Ok((entries.collect(), path))
}
