//! Fetches the model that a round offers: in chunks, going on where an interruption left it, and
//! kept for the next attempt. What is in the work folder under a model's name was complete and had
//! that digest when it was put there; it is checked again before use.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aggregation::ids::{Digest, StudyId};
use bytes::Bytes;
use proto::federation::FetchModelRequest;
use proto::limits::MAX_CHUNK;
use ring::digest::{Context, SHA256};
use tokio::sync::watch;
use tonic::Status;

use crate::link::{Backoff, Client, may_pass};
use crate::state::private;

/// Chunks are gathered up to so many bytes, then hashed and written together.
const TOGETHER: usize = 1024 * 1024;
/// However small they are, no more of them wait than this.
const MOST_WAITING: usize = 64;

/// The model is not to be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The coordinator said no.
    #[error("the coordinator does not give the model: {}", .0.message())]
    Refused(Status),
    /// More came than the study's model has, or a chunk was too large.
    #[error("expected a model of {expected} bytes, found more")]
    TooLong {
        /// By the study's architecture.
        expected: u64,
    },
    /// The coordinator has no more of it.
    #[error("expected a model of {expected} bytes, found {found}")]
    TooShort {
        /// By the study's architecture.
        expected: u64,
        /// What the coordinator has.
        found: u64,
    },
    /// What came is not what was offered.
    #[error("expected the model {expected}, found {found}")]
    OtherModel {
        /// The digest of the terms.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// The work folder.
    #[error("the work folder: {0}")]
    Disk(#[from] io::Error),
    /// We are stopping.
    #[error("stopped")]
    Stopped,
}

/// Which model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) study: StudyId,
    pub(super) model: Digest,
    /// By the study that this site approved, not by the coordinator's word.
    pub(super) bytes: u64,
}

/// Gives the file that holds the model. `progress` gets permille.
pub(super) async fn fetch(
    wanted: Wanted,
    folder: &Path,
    clients: &mut watch::Receiver<Option<Client>>,
    progress: impl Fn(u32),
) -> Result<PathBuf, FetchError> {
    let path = folder.join(format!("model-{}.f32", wanted.model));
    let part = folder.join(format!("model-{}.part", wanted.model));
    let (kept, begun) = (path.clone(), part.clone());
    let prepared = off_thread(move || {
        if has(&kept, wanted)? {
            return Ok(None);
        }
        forget_others(&kept)?;
        Download::resume(&begun, wanted.bytes).map(Some)
    });
    let Some(mut download) = prepared.await? else { return Ok(path) };
    let mut backoff = Backoff::new();
    loop {
        let client =
            clients.wait_for(Option::is_some).await.map_err(|_| FetchError::Stopped)?.clone();
        let Some(mut client) = client else { continue };
        match download.go_on(&mut client, wanted, &progress).await {
            Ok(()) => break,
            Err(FetchError::Refused(status)) if may_pass(&status) => {
                tracing::debug!(
                    at = download.have,
                    error = status.message(),
                    "download interrupted"
                );
                tokio::time::sleep(backoff.wait()).await;
            }
            Err(error) => {
                drop(download);
                off_thread(move || fs::remove_file(&part)).await?;
                return Err(error);
            }
        }
    }
    let found = download.digest();
    if found != wanted.model {
        off_thread(move || fs::remove_file(&part)).await?;
        return Err(FetchError::OtherModel { expected: wanted.model, found });
    }
    let whole = path.clone();
    off_thread(move || fs::rename(&part, &whole)).await?;
    Ok(path)
}

/// Whether the whole model lies there, by size and digest.
fn has(path: &Path, wanted: Wanted) -> io::Result<bool> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(found) if found.len() != wanted.bytes => Ok(false),
        Ok(_) => {
            let mut hash = Context::new(&SHA256);
            read_into(&mut File::open(path)?, &mut hash)?;
            Ok(digest(hash) == wanted.model)
        }
    }
}

/// Of one study only the newest model is kept.
fn forget_others(keep: &Path) -> io::Result<()> {
    let Some(folder) = keep.parent() else { return Ok(()) };
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let model = entry.file_name().to_str().is_some_and(|name| name.starts_with("model-"));
        if model && path.with_extension("") != keep.with_extension("") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

struct Download {
    kept: Arc<Mutex<Kept>>,
    /// Chunks that are not in the file yet.
    waiting: Vec<Bytes>,
    /// In the file and waiting together.
    have: u64,
}

/// What is in the file, and the hash over it.
struct Kept {
    file: File,
    hash: Context,
}

impl Download {
    /// Takes up what an earlier attempt left.
    fn resume(part: &Path, bytes: u64) -> io::Result<Self> {
        let mut options = private();
        options.read(true).create(true).truncate(false);
        let mut file = options.open(part)?;
        let mut hash = Context::new(&SHA256);
        let mut have = file.metadata()?.len();
        if have > bytes {
            file.set_len(0)?;
            have = 0;
        }
        if have > 0 {
            read_into(&mut file, &mut hash)?;
        }
        Ok(Self { kept: Arc::new(Mutex::new(Kept { file, hash })), waiting: Vec::new(), have })
    }

    async fn go_on(
        &mut self,
        client: &mut Client,
        wanted: Wanted,
        progress: &impl Fn(u32),
    ) -> Result<(), FetchError> {
        let request = FetchModelRequest {
            study: wanted.study.digest().as_bytes().to_vec(),
            model: wanted.model.as_bytes().to_vec(),
            offset: self.have,
        };
        if self.have == wanted.bytes {
            return Ok(());
        }
        let mut chunks =
            client.fetch_model(request).await.map_err(FetchError::Refused)?.into_inner();
        let broken = loop {
            let chunk = match chunks.message().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break None,
                Err(status) => break Some(status),
            };
            let more = u64::try_from(chunk.data.len()).unwrap_or(u64::MAX);
            let have = self.have.saturating_add(more);
            if have > wanted.bytes || chunk.data.len() > MAX_CHUNK {
                return Err(FetchError::TooLong { expected: wanted.bytes });
            }
            self.waiting.push(chunk.data);
            self.have = have;
            let waiting: usize = self.waiting.iter().map(Bytes::len).sum();
            if waiting >= TOGETHER || self.waiting.len() >= MOST_WAITING {
                self.keep().await?;
            }
            progress(permille(have, wanted.bytes));
        };
        self.keep().await?;
        if let Some(status) = broken {
            return Err(FetchError::Refused(status));
        }
        // A stream that was cut ends with an error; this one was ended by the coordinator.
        if self.have < wanted.bytes {
            return Err(FetchError::TooShort { expected: wanted.bytes, found: self.have });
        }
        Ok(())
    }

    /// Writes what waits. The connection's window takes what comes meanwhile.
    async fn keep(&mut self) -> io::Result<()> {
        let (kept, waiting) = (Arc::clone(&self.kept), std::mem::take(&mut self.waiting));
        off_thread(move || {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            for chunk in waiting {
                kept.hash.update(&chunk);
                kept.file.write_all(&chunk)?;
            }
            Ok(())
        })
        .await
    }

    fn digest(self) -> Digest {
        digest(self.kept.lock().unwrap_or_else(PoisonError::into_inner).hash.clone())
    }
}

/// Does what waits for the disk where no one else has to wait for it.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn read_into(file: &mut File, hash: &mut Context) -> io::Result<()> {
    let mut buffer = vec![0; MAX_CHUNK];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        hash.update(&buffer[..read]);
    }
}

fn digest(hash: Context) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.finish().as_ref());
    Digest::new(bytes)
}

/// How much of the whole, in thousandths.
pub(super) fn permille(part: u64, whole: u64) -> u32 {
    part.saturating_mul(1000)
        .checked_div(whole)
        .and_then(|found| u32::try_from(found).ok())
        .unwrap_or(1000)
        .min(1000)
}
