//! The big things: models, optimiser states and batches of keys by their SHA-256, staged updates by
//! their slot.
//!
//! Models and batches are flushed to disk before they are named anywhere. Staged updates are not: they live
//! for one round, and one that a power cut has eaten shows at replay by its digest.

use std::fs;
use std::io;
use std::path::{Path as FilePath, PathBuf};

use aggregation::ids::{Digest, HospitalId, SlotId, StudyId};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload};

use super::StoreError;

/// Received chunks are gathered, uncopied, into parts of this size: each part is one write.
const PART: usize = 1024 * 1024;
/// Smaller chunks are copied together first, so that a peer cannot make us hold many tiny ones.
const SMALL: usize = 16 * 1024;

/// The folder of staged updates, in the blob folder.
const STAGED: &str = "staged";

/// The blob folder.
#[derive(Debug)]
pub(crate) struct Blobs {
    folder: PathBuf,
    durable: LocalFileSystem,
    staging: LocalFileSystem,
}

impl Blobs {
    /// Opens the folder, making it if it is not there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn open(folder: &FilePath) -> Result<Self, StoreError> {
        fs::create_dir_all(folder).map_err(|fault| StoreError::Disk(Box::new(fault)))?;
        Ok(Self {
            folder: folder.to_owned(),
            durable: LocalFileSystem::new_with_prefix(folder)?.with_fsync(true),
            staging: LocalFileSystem::new_with_prefix(folder)?.with_automatic_cleanup(true),
        })
    }

    /// Keeps a model; gives its digest once it is on disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) async fn put_model(&self, bytes: Bytes) -> Result<Digest, StoreError> {
        self.put("models", bytes).await
    }

    /// Keeps an optimiser's state; gives its digest once it is on disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) async fn put_optimizer(&self, bytes: Bytes) -> Result<Digest, StoreError> {
        self.put("optimizer", bytes).await
    }

    async fn put(&self, folder: &str, bytes: Bytes) -> Result<Digest, StoreError> {
        let hashed = bytes.clone();
        let digest = tokio::task::spawn_blocking(move || Digest::sha256(&hashed))
            .await
            .map_err(|fault| StoreError::Disk(Box::new(fault)))?;
        let path = addressed(folder, digest);
        // Under its own digest a blob is whole or absent: it is renamed into place.
        if self.durable.head(&path).await.is_err() {
            self.durable.put(&path, PutPayload::from_bytes(bytes)).await?;
        }
        Ok(digest)
    }

    /// Reads a model back and checks it against its digest.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is gone or changed.
    pub(crate) async fn model(&self, digest: Digest) -> Result<Bytes, StoreError> {
        self.get("models", digest).await
    }

    /// Reads an optimiser's state back and checks it against its digest.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is gone or changed.
    pub(crate) async fn optimizer(&self, digest: Digest) -> Result<Bytes, StoreError> {
        self.get("optimizer", digest).await
    }

    async fn get(&self, folder: &str, digest: Digest) -> Result<Bytes, StoreError> {
        let damaged = || StoreError::Corrupt(format!("{folder}/{digest}"));
        let bytes = match self.durable.get(&addressed(folder, digest)).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Err(damaged()),
            Err(fault) => return Err(fault.into()),
        };
        let hashed = bytes.clone();
        let found = tokio::task::spawn_blocking(move || Digest::sha256(&hashed))
            .await
            .map_err(|fault| StoreError::Disk(Box::new(fault)))?;
        if found == digest { Ok(bytes) } else { Err(damaged()) }
    }

    /// Forgets an optimiser's state that no row names any more.
    pub(crate) async fn drop_optimizer(&self, digest: Digest) {
        // Left behind it costs disk, nothing else.
        let _ = self.durable.delete(&addressed("optimizer", digest)).await;
    }

    /// Keeps a batch of keys; gives its digest once it is on disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) async fn put_batch(
        &self,
        study: StudyId,
        number: u64,
        bytes: Bytes,
    ) -> Result<Digest, StoreError> {
        self.put(batches_of(study, Some(number)).as_ref(), bytes).await
    }

    /// Reads a batch of keys back and checks it against its digest.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is gone or changed.
    pub(crate) async fn batch(
        &self,
        study: StudyId,
        number: u64,
        digest: Digest,
    ) -> Result<Bytes, StoreError> {
        self.get(batches_of(study, Some(number)).as_ref(), digest).await
    }

    /// Forgets the batches of a study before this one.
    pub(crate) async fn drop_batches(&self, study: StudyId, before: u64) {
        self.delete_under(&batches_of(study, None), |path| {
            let number = path.parts().nth(2).and_then(|part| part.as_ref().parse::<u64>().ok());
            number.is_none_or(|number| number < before)
        })
        .await;
    }

    /// Begins to stage an update that claims to have this digest.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) async fn stage(
        &self,
        study: StudyId,
        slot: SlotId,
        site: &HospitalId,
        digest: Digest,
    ) -> Result<Staging, StoreError> {
        let path = staged(study, slot, site, digest);
        let upload = match self.staging.put_multipart(&path).await {
            Ok(upload) => upload,
            // What is swept away beside it may have taken the folder along.
            Err(_) => self.staging.put_multipart(&path).await?,
        };
        Ok(Staging { upload, waiting: Vec::new(), small: BytesMut::new(), bytes: 0 })
    }

    /// Reads a staged update back.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is gone.
    pub(crate) async fn staged(
        &self,
        study: StudyId,
        slot: SlotId,
        site: &HospitalId,
        digest: Digest,
    ) -> Result<Bytes, StoreError> {
        match self.staging.get(&staged(study, slot, site, digest)).await {
            Ok(found) => Ok(found.bytes().await?),
            Err(object_store::Error::NotFound { .. }) => {
                Err(StoreError::Corrupt(format!("the staged update of {site}")))
            }
            Err(fault) => Err(fault.into()),
        }
    }

    /// Forgets one staged update.
    pub(crate) async fn unstage(
        &self,
        study: StudyId,
        slot: SlotId,
        site: &HospitalId,
        digest: Digest,
    ) {
        // What stays behind goes with its slot.
        let _ = self.staging.delete(&staged(study, slot, site, digest)).await;
    }

    /// At the start, before anybody uploads: forgets everything that is staged for a study, and what a
    /// crash cut off, except whole updates of the slot that is open.
    pub(crate) async fn clear_staged(&self, study: StudyId, open: Option<SlotId>) {
        let folder = self.folder.join(STAGED).join(study.digest().to_string());
        let open = open.map(|slot| folder.join(slot.get().to_string()));
        // What cannot be removed is seen again at the next start.
        let _ = tokio::task::spawn_blocking(move || clear(&folder, open.as_deref())).await;
    }

    /// Forgets the staged updates of one slot, or of all slots of a study that has ended. One that is
    /// still on its way is forgotten by whoever brings it, since no round takes it any more.
    pub(crate) async fn drop_staged(&self, study: StudyId, slot: Option<SlotId>) {
        let prefix = match slot {
            Some(slot) => staged_slot(study, slot),
            None => Path::from_iter([STAGED.to_owned(), study.digest().to_string()]),
        };
        self.delete_under(&prefix, |_| true).await;
        // Where updates were put away to be kept, an empty folder is left.
        let folder = self.folder.join(prefix.as_ref());
        let _ = tokio::task::spawn_blocking(move || remove_empty(&folder)).await;
    }

    async fn delete_under(&self, prefix: &Path, wanted: impl Fn(&Path) -> bool) {
        let mut listed = self.staging.list(Some(prefix));
        while let Ok(Some(found)) = listed.try_next().await {
            if wanted(&found.location) {
                // Seen again when the coordinator starts.
                let _ = self.staging.delete(&found.location).await;
            }
        }
    }
}

fn addressed(folder: &str, digest: Digest) -> Path {
    Path::from(folder).join(digest.to_string())
}

fn batches_of(study: StudyId, number: Option<u64>) -> Path {
    let number = number.map(|number| number.to_string());
    let parts = ["batches".to_owned(), study.digest().to_string()].into_iter();
    Path::from_iter(parts.chain(number))
}

fn staged_slot(study: StudyId, slot: SlotId) -> Path {
    Path::from_iter([STAGED.to_owned(), study.digest().to_string(), slot.get().to_string()])
}

/// Removes a folder and those in it, as far as they are empty: an upload may be on its way.
fn remove_empty(folder: &FilePath) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let _ = fs::remove_dir(entry.path());
        }
    }
    fs::remove_dir(folder)
}

fn clear(folder: &FilePath, open: Option<&FilePath>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let slot = entry?.path();
        if open != Some(slot.as_path()) {
            fs::remove_dir_all(slot)?;
            continue;
        }
        for entry in fs::read_dir(slot)? {
            let entry = entry?;
            // What is on its way is NAME#NUMBER, which `object_store` does not list.
            if entry.file_name().to_string_lossy().contains('#') {
                fs::remove_file(entry.path())?;
            }
        }
    }
    if open.is_none() { fs::remove_dir(folder) } else { Ok(()) }
}

/// The claimed digest is part of the name: two different uploads of one site never share a file.
fn staged(study: StudyId, slot: SlotId, site: &HospitalId, digest: Digest) -> Path {
    staged_slot(study, slot).join(format!("{site}.{digest}"))
}

/// An update on its way to disk. Dropped before [`Staging::finish`], it leaves nothing behind.
pub(crate) struct Staging {
    upload: Box<dyn MultipartUpload>,
    waiting: Vec<Bytes>,
    small: BytesMut,
    /// In `waiting` and `small` together.
    bytes: usize,
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staging").field("waiting", &self.bytes).finish_non_exhaustive()
    }
}

impl Staging {
    /// Writes a chunk; comes back when it may be forgotten, so that the sender waits for the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.bytes += chunk.len();
        if chunk.len() < SMALL {
            self.small.extend_from_slice(&chunk);
        } else {
            self.gather_small();
            self.waiting.push(chunk);
        }
        if self.bytes >= PART { self.put().await } else { Ok(()) }
    }

    fn gather_small(&mut self) {
        if !self.small.is_empty() {
            self.waiting.push(self.small.split().freeze());
        }
    }

    async fn put(&mut self) -> Result<(), StoreError> {
        self.gather_small();
        self.bytes = 0;
        let part = PutPayload::from_iter(self.waiting.drain(..));
        Ok(self.upload.put_part(part).await?)
    }

    /// Puts the update in its place. Whether it is what its digest says is for the round to check,
    /// when it reads it back to add it (PROTOCOL R-09).
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) async fn finish(mut self) -> Result<(), StoreError> {
        if self.bytes > 0 {
            self.put().await?;
        }
        self.upload.complete().await?;
        Ok(())
    }

    /// Deletes what was written.
    pub(crate) async fn discard(mut self) {
        // A leftover has a name of its own that nothing reads.
        let _ = self.upload.abort().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn study() -> StudyId {
        StudyId::new(Digest::sha256(b"study"))
    }

    fn site() -> HospitalId {
        HospitalId::new("alpha").expect("a valid name")
    }

    #[tokio::test]
    async fn a_model_comes_back_by_its_digest_and_a_damaged_one_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(folder.path()).expect("opened");
        let digest = blobs.put_model(Bytes::from_static(b"weights")).await.expect("kept");
        assert_eq!(blobs.model(digest).await.expect("there"), &b"weights"[..]);
        fs::write(folder.path().join("models").join(digest.to_string()), b"weighty")
            .expect("written");
        assert!(matches!(blobs.model(digest).await, Err(StoreError::Corrupt(_))));
        assert!(matches!(blobs.model(Digest::sha256(b"x")).await, Err(StoreError::Corrupt(_))));
    }

    #[tokio::test]
    async fn an_upload_is_there_only_when_it_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(folder.path()).expect("opened");
        let slot = SlotId::new(3);
        let data = Bytes::from(vec![7_u8; 3 * PART + 5]);
        let digest = Digest::blake3(&data);
        let mut cut = blobs.stage(study(), slot, &site(), digest).await.expect("begun");
        cut.write(data.slice(..PART)).await.expect("written");
        cut.discard().await;
        assert!(blobs.staged(study(), slot, &site(), digest).await.is_err());
        let mut whole = blobs.stage(study(), slot, &site(), digest).await.expect("begun");
        for chunk in data.chunks(1000) {
            whole.write(Bytes::copy_from_slice(chunk)).await.expect("written");
        }
        whole.finish().await.expect("in its place");
        assert_eq!(blobs.staged(study(), slot, &site(), digest).await.expect("there"), data);
        blobs.clear_staged(study(), Some(slot)).await;
        assert!(blobs.staged(study(), slot, &site(), digest).await.is_ok(), "an open slot stays");
        blobs.drop_staged(study(), Some(SlotId::new(2))).await;
        assert!(blobs.staged(study(), slot, &site(), digest).await.is_ok(), "another one goes");
        blobs.drop_staged(study(), Some(slot)).await;
        assert!(blobs.staged(study(), slot, &site(), digest).await.is_err());
    }

    #[tokio::test]
    async fn at_the_start_nothing_is_left_of_uploads_that_a_crash_cut_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(folder.path()).expect("opened");
        let data = Bytes::from(vec![7_u8; PART]);
        let digest = Digest::blake3(&data);
        for slot in [SlotId::new(3), SlotId::new(4)] {
            let mut whole = blobs.stage(study(), slot, &site(), digest).await.expect("begun");
            whole.write(data.clone()).await.expect("written");
            whole.finish().await.expect("in its place");
            let beta = HospitalId::new("beta").expect("a valid name");
            let mut cut = blobs.stage(study(), slot, &beta, digest).await.expect("begun");
            cut.write(data.clone()).await.expect("written");
            // The process is gone before it can tidy up.
            #[expect(clippy::mem_forget, reason = "a process that was killed drops nothing")]
            std::mem::forget(cut);
        }
        let names = |folder: PathBuf| -> usize { fs::read_dir(folder).map_or(0, Iterator::count) };
        let of = |slot: u64| {
            folder.path().join(STAGED).join(study().digest().to_string()).join(slot.to_string())
        };
        assert_eq!((names(of(3)), names(of(4))), (2, 2));
        blobs.clear_staged(study(), Some(SlotId::new(4))).await;
        assert_eq!((names(of(3)), names(of(4))), (0, 1));
        assert!(blobs.staged(study(), SlotId::new(4), &site(), digest).await.is_ok());
        blobs.clear_staged(study(), None).await;
        assert_eq!(names(folder.path().join(STAGED)), 0);
    }
}
