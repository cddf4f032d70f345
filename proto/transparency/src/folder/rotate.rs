//! Another key for a log that goes on.
//!
//! The tree stays as it is; only who signs it changes. Cosignatures are over the checkpoint and not over
//! the log's own signature, so those that were gathered stay valid.

use super::writer::at;
use super::{CHECKPOINT, Disk, LOCK, SIGNED, TEMPORARY, WriteError, read_file};
use crate::checkpoint::SignedCheckpoint;
use crate::note::{MAX_NOTE_BYTES, Signature, Signer, VerifierKey};
use crate::tree::Head;

/// Signs a log's checkpoints with another key in the old one's place; gives the newest head. After a
/// crash it is called again with the same keys.
///
/// # Errors
/// When another writer is at work, the new key has another name, there is no log, or a checkpoint is
/// signed by neither key; then nothing has changed. When the disk fails, some of it may have.
pub fn rotate<D: Disk>(mut disk: D, old: &VerifierKey, new: &Signer) -> Result<Head, WriteError> {
    let key = new.key();
    if key.name() != old.name() {
        return Err(WriteError::OtherName {
            expected: old.name().to_owned(),
            found: key.name().to_owned(),
        });
    }
    disk.lock().map_err(at(LOCK))?;
    let mut changed = Vec::new();
    let mut head = None;
    // The newest first: it is what a writer begins with.
    for path in [SIGNED, CHECKPOINT] {
        let Some(bytes) = read_file(&disk, path, MAX_NOTE_BYTES)? else { continue };
        let signed = SignedCheckpoint::parse(&bytes)?;
        head = head.or(Some(signed.checkpoint().head()));
        if signed.verify(&key).is_ok() {
            continue;
        }
        signed.verify(old).map_err(|source| WriteError::Signature { path, source })?;
        let others = signed.note().signatures().iter().filter(|line| line.name() != old.name());
        let others: Vec<Signature> = others.cloned().collect();
        let again = SignedCheckpoint::sign(signed.checkpoint().clone(), new)?;
        changed.push((path, again.with(&others)?));
    }
    let head = head.ok_or(WriteError::Lost { path: CHECKPOINT })?;
    for (path, signed) in changed {
        let beside = format!("{path}{TEMPORARY}");
        disk.write(&beside, signed.to_string().as_bytes()).map_err(at(&beside))?;
        disk.rename(&beside, path).map_err(at(path))?;
        disk.sync_folder("").map_err(at(""))?;
    }
    Ok(head)
}
