//! The transparency log: every fact of the store as a leaf, in the order in which it happened.
//!
//! The table of facts is the truth and the folder follows it: leaf n of the log is the fact with
//! the number n + 1, byte for byte. So what a crash leaves behind tells by itself what is missing,
//! and a folder that is lost grows again as it was, with the same root. A fact goes into the log
//! only once it is durable: what witnesses have seen must not be lost by a power cut afterwards.
//!
//! A state folder that was put back whole, table and folder together, shows nothing amiss by itself.
//! The witnesses know better: each shows the checkpoint that it cosigned last, signed by this log's own
//! key, and one that this log did not grow out of ends the appending. It is kept beside the folder, as
//! `log.known`, and is held against the log at every start.
//!
//! What the world is shown is the newest checkpoint that enough witnesses have cosigned; see
//! [`witnesses`].

pub(crate) mod witnesses;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aggregation::checkpoint::LogHead;
use aggregation::ids::{Digest, HospitalId};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::sync::Notify;
use transparency::checkpoint::SignedCheckpoint;
use transparency::edge::Edge;
use transparency::folder::{Folder, WriteError, Writer};
use transparency::key::KeyError;
use transparency::note::{Signer, VerifierKey};
use transparency::tile::TILE_WIDTH;
use transparency::tree::{Hash, Head, leaf_hash};
use transparency::witness::Offer;

use self::witnesses::Witnesses;
use crate::identity::Gate;
use crate::store::{Store, StoreError};

/// Facts that wait for no end of a round are in the log after this long.
pub(crate) const EVERY: Duration = Duration::from_secs(10);
/// Facts that one step appends.
const AT_ONCE: u32 = 1024;

/// Why the log cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The log's key.
    #[error("{}: expected the log's private key, Ed25519 in PKCS #8, PEM: {reason}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The consortium's name cannot name a log.
    #[error("expected a name for the log")]
    Name(#[from] KeyError),
    /// The folder.
    #[error("the log in the state folder cannot be written")]
    Write(#[from] WriteError),
    /// The table.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder has leaves that are in no table.
    #[error(
        "the log has {leaves} entries and the database {facts} facts: one of them was restored from a backup without the other"
    )]
    Ahead {
        /// In the folder.
        leaves: u64,
        /// In the table.
        facts: u64,
    },
    /// A leaf is not the fact.
    #[error(
        "entry {entry} of the log is not the fact that the database has there: one of them was altered, or is another consortium's"
    )]
    Differs {
        /// Which, from 0.
        entry: u64,
    },
    /// An old copy was put in the place of the log and its table.
    #[error(
        "the log was set back: a hospital has a checkpoint of {known} entries that this log signed and did not grow out of"
    )]
    SetBack {
        /// Its size.
        known: u64,
    },
    /// The task that wrote has ended badly.
    #[error("writing the log was broken off")]
    BrokenOff,
}

impl LogError {
    /// Whether log, table and what hospitals have cosigned contradict each other.
    pub(crate) const fn is_evidence(&self) -> bool {
        matches!(self, Self::Ahead { .. } | Self::Differs { .. } | Self::SetBack { .. })
    }
}

/// How far the log is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Leaves of the newest checkpoint that was signed.
    pub(crate) signed: u64,
    /// Leaves of the newest that the world is shown.
    pub(crate) published: u64,
}

/// The log of this consortium.
#[derive(Debug)]
pub(crate) struct Log {
    folder: PathBuf,
    key: VerifierKey,
    key_file: PathBuf,
    /// None after a step failed: what the disk has is then found out by opening it again.
    writer: Mutex<Option<Writer<Folder>>>,
    /// Held from reading facts to appending them.
    turn: tokio::sync::Mutex<()>,
    size: Mutex<Size>,
    /// What this log signed and has not in its past; nothing is appended from then on.
    lost: Mutex<Option<Head>>,
    asked: Notify,
    gate: Arc<Gate>,
    /// Held from looking whether a site's key is known to keeping it.
    pub(crate) announcing: tokio::sync::Mutex<()>,
    /// Who cosigns, and what they have cosigned.
    witnesses: Mutex<Witnesses>,
}

/// What the log of a consortium is called.
pub(crate) fn origin(consortium: &HospitalId) -> String {
    format!("consilium/{consortium}")
}

impl Log {
    /// Opens the log in `folder`, or begins it, and compares it with the facts.
    ///
    /// # Errors
    /// When the key or the folder cannot be used, or the folder has what the table has not.
    pub(crate) async fn open(
        folder: PathBuf,
        key_file: &Path,
        consortium: &HospitalId,
        store: &Store,
        gate: Arc<Gate>,
    ) -> Result<Arc<Self>, LogError> {
        let key = signer(key_file, &origin(consortium))?.key();
        let log = Arc::new(Self {
            folder,
            key,
            key_file: key_file.to_owned(),
            writer: Mutex::new(None),
            turn: tokio::sync::Mutex::default(),
            size: Mutex::default(),
            lost: Mutex::default(),
            asked: Notify::new(),
            gate,
            announcing: tokio::sync::Mutex::default(),
            witnesses: Mutex::default(),
        });
        log.compare(store).await?;
        log.recall(store).await?;
        log.load_witnesses(store).await?;
        Ok(log)
    }

    /// Whether the log is what the table says, as far as the last bundle tells.
    async fn compare(self: &Arc<Self>, store: &Store) -> Result<(), LogError> {
        let (leaves, first, last) = self
            .with(|writer| {
                let size = writer.head().size;
                let Some(bundle) = size.checked_sub(1).map(|last| last / TILE_WIDTH) else {
                    return Ok((0, 0, Vec::new()));
                };
                Ok((size, bundle * TILE_WIDTH, writer.reader().entries(bundle)?))
            })
            .await?;
        let facts = store.facts().await?;
        if leaves > facts {
            return Err(LogError::Ahead { leaves, facts });
        }
        let rows = store.facts_after(first, AT_ONCE).await?;
        for (entry, (leaf, fact)) in (first..).zip(last.iter().zip(&rows)) {
            if leaf != fact.as_bytes() {
                return Err(LogError::Differs { entry });
            }
        }
        Ok(())
    }

    /// Whether the log grew out of what a witness has shown before.
    async fn recall(self: &Arc<Self>, store: &Store) -> Result<(), LogError> {
        let file = self.known_file();
        let io = |source| WriteError::Disk { path: file.display().to_string(), source };
        let stored = match std::fs::read(&file) {
            Ok(stored) => stored,
            Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(fault) => return Err(io(fault).into()),
        };
        // It was verified before it was written, perhaps with an earlier key.
        let known = SignedCheckpoint::parse(&stored).map_err(WriteError::from)?.checkpoint().head();
        // A folder that is behind the table may have been lost, and then grows again. Nothing is signed
        // before it is known what the table has: another history would be a fork.
        let lost = if self.with(|writer| Ok(writer.head().size)).await? < known.size {
            !leads_to(store, known).await?
        } else {
            self.has_lost(known).await?
        };
        if lost { Err(LogError::SetBack { known: known.size }) } else { Ok(()) }
    }

    /// Whether a head is not in the past of this log. What cannot be told is an error.
    async fn has_lost(self: &Arc<Self>, known: Head) -> Result<bool, LogError> {
        self.with(move |writer| match writer.extends(known) {
            Ok(()) => Ok(false),
            Err(WriteError::RolledBack { .. } | WriteError::Forked { .. }) => Ok(true),
            Err(other) => Err(other),
        })
        .await
    }

    /// A witness shows what it cosigned last. If this log signed it and did not grow out of it, the log
    /// is another history than the world has seen: nothing is appended to it any more.
    ///
    /// # Errors
    /// When the files cannot be read, or what it shows not be kept.
    pub(crate) async fn show(self: &Arc<Self>, checkpoint: &[u8]) -> Result<(), LogError> {
        let Some(shown) = SignedCheckpoint::parse(checkpoint)
            .ok()
            .filter(|shown| shown.verify(&self.key).is_ok())
        else {
            // Anybody can write what we have not signed; with a key that was changed it is old.
            return Ok(());
        };
        let known = shown.checkpoint().head();
        if self.lost().is_some() || !self.has_lost(known).await? {
            return Ok(());
        }
        // Whatever is being appended was begun before.
        let _turn = self.turn.lock().await;
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        tracing::error!(
            known = known.size, size = self.size().signed, file = %self.known_file().display(),
            "ALARM: a hospital has a checkpoint that this log signed and did not grow out of; nothing \
             is appended any more; put back the state folder as it was last"
        );
        let (file, bytes) = (self.known_file(), shown.to_string());
        let kept = tokio::task::spawn_blocking(move || keep(&file, bytes.as_bytes()));
        Ok(kept.await.map_err(|_| LogError::BrokenOff)??)
    }

    /// What was shown to be lost, until the next start.
    pub(crate) fn lost(&self) -> Option<LogError> {
        let lost = *self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.map(|known| LogError::SetBack { known: known.size })
    }

    fn known_file(&self) -> PathBuf {
        self.folder.with_extension("known")
    }

    /// The log's public key; its name is the log's.
    pub(crate) fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// Where its files lie.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How far it is.
    pub(crate) fn size(&self) -> Size {
        *self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a checkpoint soon; waits for nothing.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Waits until somebody asks, or it is time.
    pub(crate) async fn until_asked(&self) {
        tokio::select! {
            () = self.asked.notified() => {}
            () = crate::clock::wait_for(EVERY) => {}
        }
    }

    /// Appends every fact that is not in the log yet, and signs.
    ///
    /// # Errors
    /// When the table cannot be read or the folder not be written, with nothing lost by that; or when
    /// the log was set back.
    pub(crate) async fn integrate(self: &Arc<Self>, store: &Store) -> Result<(), LogError> {
        let _turn = self.turn.lock().await;
        loop {
            if let Some(set_back) = self.lost() {
                return Err(set_back);
            }
            let size = self.with(|writer| Ok(writer.head().size)).await?;
            let rows = store.facts_after(size, AT_ONCE).await?;
            if rows.is_empty() {
                break;
            }
            store.settle().await?;
            let signed = self.with(move |writer| writer.append(&rows)).await?;
            self.gather(signed);
        }
        self.publish().await
    }

    /// The log with everything that has happened up to now, for a round to name (PROTOCOL R-25). A
    /// crash takes none of it back: the facts are durable, and so is the checkpoint.
    ///
    /// # Errors
    /// As [`Log::integrate`].
    pub(crate) async fn newest(self: &Arc<Self>, store: &Store) -> Result<LogHead, LogError> {
        self.integrate(store).await?;
        let head = self.with(|writer| Ok(writer.head())).await?;
        Ok(LogHead { size: head.size, root: Digest::new(head.root) })
    }

    /// The checkpoint of `size` leaves (0: of all) with the proof that it grew out of that of `old`;
    /// `None` when there is no such pair.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub(crate) async fn offer(
        self: &Arc<Self>,
        size: u64,
        old: u64,
    ) -> Result<Option<Offer>, LogError> {
        self.with(move |writer| {
            let size = if size == 0 { writer.head().size } else { size };
            writer.offer_of(size, old)
        })
        .await
    }

    /// The proof that an entry is in the log of the first `size` leaves; `None` when there is no such
    /// entry, or no such log.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub(crate) async fn inclusion(
        self: &Arc<Self>,
        index: u64,
        size: u64,
    ) -> Result<Option<Vec<Hash>>, LogError> {
        self.with(move |writer| writer.inclusion_of(index, size)).await
    }

    /// The newest checkpoint that was signed, and the newest that the world is shown.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub(crate) async fn checkpoints(
        self: &Arc<Self>,
    ) -> Result<(SignedCheckpoint, SignedCheckpoint), LogError> {
        self.with(|writer| Ok((writer.tip().clone(), writer.published().clone()))).await
    }

    /// Does something with the one writer, on a thread that may wait for the disk.
    async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Writer<Folder>) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, LogError> {
        let log = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let mut held = log.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let mut writer = match held.take() {
                Some(writer) => writer,
                None => log.reopen()?,
            };
            // A writer whose step failed is dropped, and with it its lock.
            let done = work(&mut writer)?;
            let size = Size {
                signed: writer.head().size,
                published: writer.published().checkpoint().size(),
            };
            *held = Some(writer);
            *log.size.lock().unwrap_or_else(PoisonError::into_inner) = size;
            Ok(done)
        });
        task.await.map_err(|_| LogError::BrokenOff)?
    }

    fn reopen(&self) -> Result<Writer<Folder>, LogError> {
        let io = |source| WriteError::Disk { path: self.folder.display().to_string(), source };
        let disk = Folder::create(&self.folder).map_err(io)?;
        Ok(Writer::open(disk, signer(&self.key_file, self.key.name())?, None)?)
    }
}

/// Whether the first facts of the table are the leaves of this head.
async fn leads_to(store: &Store, known: Head) -> Result<bool, StoreError> {
    let mut edge = Edge::new();
    while edge.size() < known.size {
        let rows = store.facts_after(edge.size(), AT_ONCE).await?;
        if rows.is_empty() {
            return Ok(false);
        }
        let missing = usize::try_from(known.size - edge.size()).unwrap_or(usize::MAX);
        for row in rows.iter().take(missing) {
            edge.push(leaf_hash(row.as_bytes()));
        }
    }
    Ok(edge.root() == known.root)
}

/// Writes a file beside its name, durably, and gives it the name.
fn keep(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let write = || {
        let beside = path.with_extension("new");
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
    };
    write().map_err(|source| WriteError::Disk { path: path.display().to_string(), source })
}

/// What the log signs with.
///
/// # Errors
/// When the file has no such key.
pub(crate) fn signer(path: &Path, name: &str) -> Result<Signer, LogError> {
    let refused = |reason: String| LogError::Key { path: path.to_owned(), reason };
    let key =
        PrivatePkcs8KeyDer::from_pem_file(path).map_err(|fault| refused(fault.to_string()))?;
    match Signer::from_pkcs8(name, key.secret_pkcs8_der()) {
        Err(KeyError::Private) => Err(refused(KeyError::Private.to_string())),
        signer => Ok(signer?),
    }
}

/// Checks the log's key as `coordinator check` does.
///
/// # Errors
/// When it cannot be used.
pub(crate) fn check_key(path: &Path) -> Result<(), LogError> {
    signer(path, "check").map(drop)
}

#[cfg(test)]
mod tests;
