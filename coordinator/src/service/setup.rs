//! What sites say about their keys and fetch of the others'. A batch is received whole into memory,
//! but only in the one size that may come from this site, one of each site and few of all at once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use aggregation::ids::{HospitalId, StudyId};
use aggregation::keys::slots::PrekeyBatch;
use aggregation::setup::{SetupRefused, SignedBatch};
use bytes::Bytes;
use proto::decode;
use proto::federation as wire;
use proto::federation::batch_part::Part;
use proto::limits::{CHUNK, MAX_CHUNK};
use proto::masks::setup::{announcement, batch_header, nonce};
use proto::status::{from_decode, from_setup};
use tokio::sync::Semaphore;
use tonic::{Status, Streaming};

use super::store_status;
use crate::board::Entry;
use crate::coordinator::Coordinator;
use crate::setup::{Key, SetupFault, Shared};

/// Batches that are received at once, whoever sends them.
const AT_ONCE: usize = 4;

/// Who sends a batch right now.
#[derive(Debug)]
pub(super) struct Receiving {
    places: Semaphore,
    sending: Mutex<HashSet<(StudyId, HospitalId)>>,
}

impl Default for Receiving {
    fn default() -> Self {
        Self { places: Semaphore::new(AT_ONCE), sending: Mutex::default() }
    }
}

/// A site's turn to send.
struct Turn<'a> {
    sending: &'a Mutex<HashSet<(StudyId, HospitalId)>>,
    key: (StudyId, HospitalId),
}

impl Receiving {
    fn take(&self, study: StudyId, site: &HospitalId) -> Result<Turn<'_>, Status> {
        let key = (study, site.clone());
        let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        if !sending.insert(key.clone()) {
            return Err(Status::aborted(
                "another batch of this site is under way; try again when it has ended",
            ));
        }
        Ok(Turn { sending: &self.sending, key })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// What a site is told when something about keys was not taken.
pub(super) fn setup_status(fault: &SetupFault) -> Status {
    match fault {
        SetupFault::Refused(refused) => from_setup(refused),
        SetupFault::Unmasked | SetupFault::NotNow(_) => {
            Status::failed_precondition(fault.to_string())
        }
        SetupFault::NoBatch { .. } => Status::not_found(fault.to_string()),
        SetupFault::Store(cause) => store_status(cause),
    }
}

/// A site's announcement.
pub(super) async fn announce(
    house: &Arc<Coordinator>,
    entry: &Arc<Entry>,
    site: &HospitalId,
    said: &wire::AnnouncementRequest,
) -> Result<(), Status> {
    let said = said
        .announcement
        .as_ref()
        .ok_or_else(|| Status::invalid_argument("announcement: expected a value, found none"))?;
    let said = announcement(entry.id, said).map_err(|fault| from_decode(&fault))?;
    hear(house, entry, site, Key::Announcement(said)).await
}

/// A site's nonce.
pub(super) async fn reveal(
    house: &Arc<Coordinator>,
    entry: &Arc<Entry>,
    site: &HospitalId,
    said: &wire::NonceRequest,
) -> Result<(), Status> {
    let nonce = nonce(&said.nonce).map_err(|fault| from_decode(&fault))?;
    hear(house, entry, site, Key::Nonce(nonce)).await
}

/// Whose batches a site has opened.
pub(super) async fn opened(
    house: &Arc<Coordinator>,
    entry: &Arc<Entry>,
    site: &HospitalId,
    said: &wire::OpenedRequest,
) -> Result<(), Status> {
    let owners = decode::hospitals("owners", &said.owners).map_err(|fault| from_decode(&fault))?;
    hear(house, entry, site, Key::Opened { number: said.batch, owners }).await
}

async fn hear(
    house: &Arc<Coordinator>,
    entry: &Arc<Entry>,
    site: &HospitalId,
    key: Key,
) -> Result<(), Status> {
    house.hear_key(entry, site, key).await.map_err(|fault| setup_status(&fault))
}

/// What a batch is called in a status.
const BATCH: &str = "batch";

/// Receives a batch.
pub(super) async fn receive(
    house: &Arc<Coordinator>,
    receiving: &Receiving,
    site: &HospitalId,
    mut parts: Streaming<wire::BatchPart>,
) -> Result<(), Status> {
    let header = match next(house, &mut parts).await? {
        Some(Part::Header(header)) => header,
        Some(Part::Data(_)) | None => {
            return Err(Status::invalid_argument("expected a header first"));
        }
    };
    let header = batch_header(&header).map_err(|fault| from_decode(&fault))?;
    let entry = house
        .board
        .study(header.study)
        .filter(|entry| entry.sites.contains(site))
        .ok_or_else(|| Status::not_found("no such study asks this site to take part"))?;
    if header.owner != site.as_str() {
        let hospital = decode::hospital("owner", header.owner).map_err(|f| from_decode(&f))?;
        return Err(from_setup(&SetupRefused::ForAnother { from: site.clone(), hospital }));
    }
    let number = header.number;
    // PROTOCOL M-17: only in this size, asked before a byte is kept.
    let expected =
        house.expects_batch(&entry, site, number).await.map_err(|fault| setup_status(&fault))?;
    if header.bytes != expected {
        return Err(wrong_size(expected, &format!("{} declared", header.bytes)));
    }
    let _turn = receiving.take(header.study, site)?;
    let _place = receiving
        .places
        .acquire()
        .await
        .map_err(|_| Status::unavailable("the coordinator is stopping"))?;
    let bytes = fill(house, expected, &mut parts).await?;
    let signature = header.signature;
    let batch =
        PrekeyBatch::decode(bytes).map_err(|refused| from_setup(&SetupRefused::from(refused)))?;
    let said = SignedBatch { batch, signature };
    hear(house, &entry, site, Key::Batch { number, said }).await
}

fn wrong_size(expected: usize, found: &str) -> Status {
    Status::invalid_argument(format!("{BATCH}: expected {expected} bytes, found {found} (M-17)"))
}

async fn fill(
    house: &Coordinator,
    expected: usize,
    parts: &mut Streaming<wire::BatchPart>,
) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    loop {
        let chunk = match next(house, parts).await? {
            Some(Part::Data(chunk)) => chunk,
            Some(Part::Header(_)) => {
                return Err(Status::invalid_argument("expected data, found a second header"));
            }
            None if bytes.len() == expected => return Ok(bytes),
            None => return Err(wrong_size(expected, &bytes.len().to_string())),
        };
        if chunk.len() > MAX_CHUNK {
            return Err(Status::invalid_argument(format!(
                "chunk: expected at most {MAX_CHUNK} bytes, found {}",
                chunk.len()
            )));
        }
        if bytes.len() + chunk.len() > expected {
            return Err(wrong_size(expected, "more"));
        }
        if bytes.is_empty() {
            bytes.reserve_exact(expected);
        }
        bytes.extend_from_slice(&chunk);
    }
}

/// The next part; a peer that is silent for too long is given up.
async fn next(
    house: &Coordinator,
    parts: &mut Streaming<wire::BatchPart>,
) -> Result<Option<Part>, Status> {
    let idle = house.config.limits.upload_idle;
    match tokio::time::timeout(idle, parts.message()).await {
        Ok(Ok(Some(wire::BatchPart { part: Some(part) }))) => Ok(Some(part)),
        Ok(Ok(Some(wire::BatchPart { part: None }))) => {
            Err(Status::invalid_argument("expected a header or data, found neither"))
        }
        Ok(Ok(None)) => Ok(None),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "the batch was silent for {}",
            humantime::format_duration(idle)
        ))),
    }
}

/// A batch as it is sent: its header, then chunks that share its memory.
pub(super) async fn fetch(
    house: &Arc<Coordinator>,
    entry: &Entry,
    asked: &wire::FetchBatchRequest,
) -> Result<impl Iterator<Item = Result<wire::BatchPart, Status>> + Send + use<>, Status> {
    let owner = decode::hospital("owner", &asked.owner).map_err(|fault| from_decode(&fault))?;
    let SignedBatch { batch, signature } =
        house.batch(entry, &owner, asked.batch).await.map_err(|fault| setup_status(&fault))?;
    let bytes = Bytes::from_owner(Shared(batch.shared()));
    let header = wire::BatchHeader {
        study: entry.id.digest().as_bytes().to_vec(),
        batch: asked.batch,
        owner: owner.to_string(),
        bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        signature: signature.as_bytes().to_vec(),
    };
    let part = |part| Ok(wire::BatchPart { part: Some(part) });
    let size = bytes.len();
    let chunks = (0..size).step_by(CHUNK).map(move |from| {
        let data = bytes.slice(from..size.min(from + CHUNK));
        part(Part::Data(data.into()))
    });
    Ok(std::iter::once(part(Part::Header(header))).chain(chunks))
}
