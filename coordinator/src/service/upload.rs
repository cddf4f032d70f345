//! One update on its way in: a header, then chunks, each on disk before the next is read.
//!
//! Nothing is stored before the header's size is what the open round expects of this site. What is
//! cut off, too long or too short is deleted, and so is what the round then refuses: because it is
//! not what its digest says, or for any other reason.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use aggregation::ids::{Digest, HospitalId, RoundId, SlotId, StudyId};
use proto::decode;
use proto::federation as wire;
use proto::federation::update_part::Part;
use proto::limits::MAX_CHUNK;
use proto::status::from_decode;
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

use super::federation::driver_of;
use super::{charge, store_status, turned_status};
use crate::coordinator::Coordinator;
use crate::driver::{Command, Heard, Heed, Turned};
use crate::store::blobs::Staging;

/// Which sites are sending an update right now: one at a time for each study.
#[derive(Debug, Default)]
pub(super) struct Slots(Arc<Mutex<HashSet<(StudyId, HospitalId)>>>);

/// A site's turn to send.
struct Turn {
    slots: Arc<Mutex<HashSet<(StudyId, HospitalId)>>>,
    key: (StudyId, HospitalId),
}

impl Slots {
    fn take(&self, study: StudyId, site: &HospitalId) -> Result<Turn, Status> {
        let key = (study, site.clone());
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !taken.insert(key.clone()) {
            return Err(Status::aborted(
                "another upload of this site is under way; try again when it has ended",
            ));
        }
        Ok(Turn { slots: Arc::clone(&self.0), key })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// What the header declares.
struct Header {
    study: StudyId,
    round: RoundId,
    slot: SlotId,
    terms: Digest,
    bytes: u64,
    digest: Digest,
}

/// What an update of another length than the model's is refused by.
const WRONG_LENGTH: &str = "R-09";

/// Receives an update, hands it to the study's driver, and gives its digest once it is kept.
pub(super) async fn receive(
    house: &Arc<Coordinator>,
    slots: &Slots,
    site: &HospitalId,
    mut parts: Streaming<wire::UpdatePart>,
) -> Result<Digest, Status> {
    let header = match next(house, &mut parts).await? {
        Some(Part::Header(header)) => read_header(&header)?,
        Some(Part::Data(_)) | None => {
            return Err(Status::invalid_argument("expected a header first"));
        }
    };
    let entry = house
        .board
        .study(header.study)
        .filter(|entry| entry.sites.contains(site))
        .ok_or_else(|| Status::not_found("no such study asks this site to take part"))?;
    let driver = driver_of(&entry)?;
    charge::is_paid(house, &entry, site, header.slot).await?;
    let turn = slots.take(header.study, site)?;
    let gone = || Status::unavailable("the coordinator is stopping");
    let (reply, answer) = oneshot::channel();
    let Header { round, slot, terms, .. } = header;
    let ask = Command::Expect { from: site.clone(), round, slot, terms, reply };
    driver.send(ask).await.map_err(|_| gone())?;
    let expected = answer.await.map_err(|_| gone())?.map_err(|turned| turned_status(&turned))?;
    if u64::try_from(expected) != Ok(header.bytes) {
        house.refused(&entry, site, WRONG_LENGTH).await;
        return Err(Status::invalid_argument(format!(
            "{WRONG_LENGTH}: update: expected {expected} bytes, found {} declared",
            header.bytes
        )));
    }
    let staging = house
        .store
        .blobs
        .stage(header.study, header.slot, site, header.digest)
        .await
        .map_err(|fault| store_status(&fault))?;
    let staging = fill(house, staging, expected, &mut parts).await?;
    // From here on it goes to its end, even if the site hangs up: a staged update that no round
    // needs must not stay behind.
    let kept =
        tokio::spawn(hand_over(Arc::clone(house), site.clone(), header, staging, driver, turn));
    kept.await.map_err(|_| Status::internal("the update was not handed over"))?
}

/// Puts a complete update in its place and tells the driver of it.
async fn hand_over(
    house: Arc<Coordinator>,
    site: HospitalId,
    header: Header,
    staging: Staging,
    driver: mpsc::Sender<Command>,
    _turn: Turn,
) -> Result<Digest, Status> {
    let gone = || Status::unavailable("the coordinator is stopping");
    staging.finish().await.map_err(|fault| store_status(&fault))?;
    let (reply, answer) = oneshot::channel();
    let heard = Heard::Update { terms: header.terms, digest: header.digest };
    let said = Command::Said { from: site.clone(), heard, reply };
    if driver.send(said).await.is_err() {
        // The driver ended while this was on its way: nobody has heard of it, and nobody will.
        house.store.blobs.unstage(header.study, header.slot, &site, header.digest).await;
        return Err(gone());
    }
    // Without an answer it may be in the journal. If the study has ended, everything staged goes with
    // it; else the next start decides.
    let heeded = answer.await.map_err(|_| gone())?;
    // What was not kept may have been kept all the same, if only the answer of the disk was lost;
    // it goes with its slot.
    if !matches!(heeded, Ok(Heed::Kept) | Err(Turned::NotKept { .. })) {
        house.store.blobs.unstage(header.study, header.slot, &site, header.digest).await;
    }
    heeded.map(|_| header.digest).map_err(|turned| turned_status(&turned))
}

fn read_header(header: &wire::UpdateHeader) -> Result<Header, Status> {
    let wrong = |fault| from_decode(&fault);
    let (study, round, slot) =
        decode::place(&header.study, header.round, header.slot).map_err(wrong)?;
    Ok(Header {
        study,
        round,
        slot,
        terms: decode::digest("terms", &header.terms).map_err(wrong)?,
        bytes: header.bytes,
        digest: decode::digest("digest", &header.digest).map_err(wrong)?,
    })
}

/// The next part; a peer that is silent for too long is given up.
async fn next(
    house: &Coordinator,
    parts: &mut Streaming<wire::UpdatePart>,
) -> Result<Option<Part>, Status> {
    let idle = house.config.limits.upload_idle;
    match tokio::time::timeout(idle, parts.message()).await {
        Ok(Ok(Some(wire::UpdatePart { part: Some(part) }))) => Ok(Some(part)),
        Ok(Ok(Some(wire::UpdatePart { part: None }))) => {
            Err(Status::invalid_argument("expected a header or data, found neither"))
        }
        Ok(Ok(None)) => Ok(None),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "the upload was silent for {}",
            humantime::format_duration(idle)
        ))),
    }
}

/// Writes the chunks as they come, until all that is expected is there; else deletes them.
async fn fill(
    house: &Coordinator,
    mut staging: Staging,
    expected: usize,
    parts: &mut Streaming<wire::UpdatePart>,
) -> Result<Staging, Status> {
    let mut received = 0_usize;
    let refused = loop {
        let chunk = match next(house, parts).await {
            Ok(Some(Part::Data(chunk))) => chunk,
            Ok(Some(Part::Header(_))) => {
                break Status::invalid_argument("expected data, found a second header");
            }
            Ok(None) if received == expected => return Ok(staging),
            Ok(None) => {
                break Status::invalid_argument(format!(
                    "update: expected {expected} bytes, found {received}"
                ));
            }
            Err(status) => break status,
        };
        if chunk.len() > MAX_CHUNK {
            break Status::invalid_argument(format!(
                "chunk: expected at most {MAX_CHUNK} bytes, found {}",
                chunk.len()
            ));
        }
        received = received.saturating_add(chunk.len());
        if received > expected {
            break Status::invalid_argument(format!(
                "update: expected {expected} bytes, found more"
            ));
        }
        if let Err(fault) = staging.write(chunk).await {
            break store_status(&fault);
        }
    };
    staging.discard().await;
    Err(refused)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn an_update_that_arrives_when_its_study_is_over_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let house = crate::rehearsal::house(folder.path()).await;
        let (study, slot) = (StudyId::new(Digest::sha256(b"study")), SlotId::new(3));
        let site = HospitalId::new("alpha").expect("a valid name");
        let update = Bytes::from_static(b"an update");
        let digest = Digest::blake3(&update);
        let header = Header {
            study,
            round: RoundId::FIRST,
            slot,
            terms: Digest::sha256(b"terms"),
            bytes: 9,
            digest,
        };
        let mut staging = house.store.blobs.stage(study, slot, &site, digest).await.expect("begun");
        staging.write(update).await.expect("written");
        let (driver, inbox) = mpsc::channel(1);
        drop(inbox);
        let turn = Slots::default().take(study, &site).expect("nobody else");
        let brought = hand_over(Arc::clone(&house), site.clone(), header, staging, driver, turn);
        let refused = brought.await.expect_err("nobody takes it");
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert!(house.store.blobs.staged(study, slot, &site, digest).await.is_err());
        house.store.close().await;
    }
}
