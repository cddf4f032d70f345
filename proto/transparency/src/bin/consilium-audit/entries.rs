//! What the commands share: opening a log under a policy, and an entry as it is shown.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use data_encoding::{BASE64, HEXLOWER};
use serde::Serialize;
use serde_json::{Map, Value};
use transparency::checkpoint::SignedCheckpoint;
use transparency::folder::{CHECKPOINT, Folder, ReadError, Reader};
use transparency::leaf::Leaf;
use transparency::note::MAX_NOTE_BYTES;
use transparency::policy::{MAX_POLICY_BYTES, Policy, PolicyError, Verdict};
use transparency::tree::leaf_hash;
use transparency::verify::Kept;

use crate::output::{Failure, chain, visible};
use crate::place::{MAX_CA_BYTES, Place, Unreached, Url};

/// Which log, and whom to believe.
#[derive(Args)]
pub(crate) struct LogArguments {
    /// The log: the folder with its checkpoint and tile/..., or its https:// address.
    #[arg(long, value_name = "DIR|URL")]
    log: String,
    /// The certificates, in PEM, that a server of the log must be vouched for by, instead of the
    /// public ones.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The certificate, in PEM, that the server of the log is shown: a log of a consortium is read by
    /// whoever has a certificate of it.
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// The policy file: the log's key, the witnesses' keys, and how many of them.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: PathBuf,
}

impl LogArguments {
    pub(crate) fn place(&self) -> Result<Place, Failure> {
        if self.log.contains("://") {
            let read = |path: &Option<PathBuf>| {
                path.as_deref().map(|path| read_file(path, MAX_CA_BYTES)).transpose()
            };
            let (ca, cert, key) =
                (read(&self.ca)?, read(&self.client_cert)?, read(&self.client_key)?);
            let client = cert.as_deref().zip(key.as_deref());
            return Url::new(&self.log, ca.as_deref(), client)
                .map(Place::Url)
                .map_err(|fault| Failure::usage("no_log", visible(&fault)));
        }
        Folder::open(Path::new(&self.log)).map(Place::Folder).map_err(|error| {
            let message = format!("expected the folder of a log at {}: {error}", self.log);
            Failure::usage("no_log", visible(&message))
        })
    }

    pub(crate) fn read_policy(&self) -> Result<Policy, Failure> {
        read_policy(&self.policy)
    }

    /// The log, if the policy believes its checkpoint.
    pub(crate) fn open(&self) -> Result<Reader<Place>, Failure> {
        Ok(self.opened()?.0)
    }

    /// The same, and what the policy says of the checkpoint.
    pub(crate) fn opened(&self) -> Result<(Reader<Place>, Verdict), Failure> {
        let policy = self.read_policy()?;
        Reader::open(self.place()?, &policy).map_err(|error| unreadable(&error))
    }
}

/// A log that cannot be read or is not to be believed.
pub(crate) fn unreadable(error: &ReadError) -> Failure {
    match unread(error) {
        Some(failure) => failure,
        None => disbelieved(error).hint("consilium-audit verify says what else is wrong"),
    }
}

/// The same where `verify` itself says so.
pub(crate) fn unverifiable(error: &ReadError) -> Failure {
    unread(error).unwrap_or_else(|| disbelieved(error))
}

fn disbelieved(error: &ReadError) -> Failure {
    Failure::failed("verification_failed", visible(&chain(error)))
}

/// Why nothing could be looked at, if that is it: it must not read as if something had been forged.
fn unread(error: &ReadError) -> Option<Failure> {
    let message = visible(&chain(error));
    match error {
        ReadError::Missing { path } if path == CHECKPOINT => {
            Some(Failure::unread("not_readable", message).hint(
                "is --log the folder with checkpoint and tile/, or the address that ends in /log?",
            ))
        }
        // What is there and is no file of a log.
        ReadError::Disk { source, .. }
            if matches!(source.kind(), ErrorKind::FileTooLarge | ErrorKind::Unsupported) =>
        {
            None
        }
        ReadError::Disk { source, .. } => {
            let unreached = source.get_ref().and_then(|inner| inner.downcast_ref::<Unreached>());
            Some(match unreached {
                Some(_) if source.kind() == ErrorKind::TimedOut => Failure::timeout(message),
                Some(why) => Failure::unread("not_reached", message).hint(why.hint),
                None => Failure::unread("not_readable", message)
                    .hint("may this user read all files of the log?"),
            })
        }
        ReadError::Missing { .. }
        | ReadError::Malformed { .. }
        | ReadError::Checkpoint(_)
        | ReadError::Policy(_)
        | ReadError::Altered { .. }
        | ReadError::NoSuchEntry { .. }
        | ReadError::Inconsistent { .. } => None,
    }
}

pub(crate) fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let bytes = read_file(path, MAX_POLICY_BYTES)?;
    Policy::parse(&bytes).map_err(|error| bad_policy(path, &error))
}

/// A file that is no policy.
pub(crate) fn bad_policy(path: &Path, error: &PolicyError) -> Failure {
    let message = format!("expected a policy file at {}: {}", path.display(), chain(error));
    Failure::usage("bad_policy", message)
}

/// The checkpoints that a person kept.
pub(crate) fn read_kept(paths: &[PathBuf]) -> Result<Vec<Kept>, Failure> {
    let read = |path: &PathBuf| {
        let bytes = read_file(path, MAX_NOTE_BYTES)?;
        let signed = SignedCheckpoint::parse(&bytes).map_err(|error| {
            let message = format!("expected a checkpoint at {}: {}", path.display(), chain(&error));
            Failure::usage("bad_checkpoint", message)
        })?;
        Ok(Kept { from: format!("--since {}", path.display()), signed })
    };
    paths.iter().map(read).collect()
}

/// A file that a person named.
pub(crate) fn read_file(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).map_or(u64::MAX, |limit| limit.saturating_add(1));
    let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    if let Err(error) = read {
        let message = format!("expected to read {}: {error}", path.display());
        return Err(Failure::usage("bad_file", message));
    }
    if bytes.len() > limit {
        let message = format!("expected at most {limit} bytes in {}", path.display());
        return Err(Failure::usage("bad_file", message));
    }
    Ok(bytes)
}

/// An entry as it is shown and exported.
#[derive(Serialize)]
pub(crate) struct Item {
    pub(crate) index: u64,
    pub(crate) leaf_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<Map<String, Value>>,
    /// The bytes of an entry that is no canonical leaf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base64: Option<String>,
}

impl Item {
    pub(crate) fn new(index: u64, entry: &[u8]) -> Self {
        let hash = HEXLOWER.encode(&leaf_hash(entry));
        let bare =
            Self { index, leaf_hash: hash, time: None, kind: None, data: None, base64: None };
        match Leaf::decode(entry) {
            Ok(leaf) => Self {
                time: Some(leaf.time().to_string()),
                kind: Some(leaf.kind().to_owned()),
                data: Some(leaf.data().clone()),
                ..bare
            },
            Err(_) => Self { base64: Some(BASE64.encode(entry)), ..bare },
        }
    }

    /// The data, or the bytes of an entry that has none, as one text.
    pub(crate) fn content(&self) -> String {
        match (&self.data, &self.base64) {
            (Some(data), _) => serde_json::to_string(data).unwrap_or_default(),
            (None, bytes) => bytes.clone().unwrap_or_default(),
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let (time, kind) = (self.time.as_deref().unwrap_or("-"), self.kind.as_deref());
        format!(
            "{}  {time}  {}  {}",
            self.index,
            kind.unwrap_or("(opaque)"),
            visible(&self.content())
        )
    }
}
