//! What is said to the coordinator about keys. Everything may be said again.

use std::collections::BTreeSet;

use aggregation::ids::{HospitalId, StudyId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::slots::{PrekeyBatch, SlotRefused};
use aggregation::setup::{SignedAnnounce, SignedBatch};
use futures_util::stream;
use proto::decode::DecodeError;
use proto::federation::{
    AnnouncementRequest, BatchHeader, BatchPart, FetchBatchRequest, NonceRequest, OpenedRequest,
    batch_part,
};
use proto::limits::{CHUNK, MAX_CHUNK};
use proto::masks::setup::{batch_header, encode_announcement};
use tonic::Status;

use crate::link::Client;

/// A batch could not be had.
#[derive(Debug, thiserror::Error)]
pub(in crate::driver) enum FetchError {
    /// The coordinator's answer, or that there was none.
    #[error("{}", .0.message())]
    Status(#[from] Status),
    /// It does not begin with a header, or with one that cannot be.
    #[error("the batch of {owner}: {source}")]
    Header {
        /// Whose batch was asked for.
        owner: HospitalId,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// It is another one than was asked for, or not as long as it says.
    #[error("the batch of {owner}: expected {expected}, found {found}")]
    Other {
        /// Whose batch was asked for.
        owner: HospitalId,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// It is none.
    #[error("the batch of {owner}: {source} ({})", .source.rule())]
    None {
        /// Whose batch was asked for.
        owner: HospitalId,
        /// What is wrong with it.
        source: SlotRefused,
    },
}

fn bytes(study: StudyId) -> Vec<u8> {
    study.digest().as_bytes().to_vec()
}

pub(super) async fn announce(client: &mut Client, said: &SignedAnnounce) -> Result<(), Status> {
    let announcement = Some(encode_announcement(said));
    let study = bytes(said.announce.study);
    client.send_announcement(AnnouncementRequest { study, announcement }).await?;
    Ok(())
}

pub(super) async fn reveal(
    client: &mut Client,
    study: StudyId,
    nonce: &GraphNonce,
) -> Result<(), Status> {
    let nonce = nonce.as_bytes().to_vec();
    client.send_nonce(NonceRequest { study: bytes(study), nonce }).await?;
    Ok(())
}

pub(super) async fn leave(
    client: &mut Client,
    number: u64,
    said: &SignedBatch,
) -> Result<(), Status> {
    let encoded = said.batch.encoded();
    let header = BatchHeader {
        study: bytes(said.batch.scope().study),
        batch: number,
        owner: said.batch.scope().owner.to_string(),
        bytes: u64::try_from(encoded.len()).unwrap_or(u64::MAX),
        signature: said.signature.as_bytes().to_vec(),
    };
    let part = |part| BatchPart { part: Some(part) };
    let mut parts = vec![part(batch_part::Part::Header(header))];
    let chunks = encoded.chunks(CHUNK);
    parts.extend(chunks.map(|data| part(batch_part::Part::Data(data.to_vec()))));
    client.send_batch(stream::iter(parts)).await?;
    Ok(())
}

/// Fetches a batch of exactly so many bytes; nothing is allocated by a number that it contains.
pub(super) async fn fetch(
    client: &mut Client,
    study: StudyId,
    number: u64,
    owner: &HospitalId,
    bytes_due: usize,
) -> Result<SignedBatch, FetchError> {
    let other =
        |expected, found: String| FetchError::Other { owner: owner.clone(), expected, found };
    let request =
        FetchBatchRequest { study: bytes(study), batch: number, owner: owner.to_string() };
    let mut parts = client.fetch_batch(request).await?.into_inner();
    let first = parts.message().await?.and_then(|part| part.part);
    let Some(batch_part::Part::Header(header)) = first else {
        return Err(other("a header first", "none".to_owned()));
    };
    let header = batch_header(&header)
        .map_err(|source| FetchError::Header { owner: owner.clone(), source })?;
    if (header.study, header.number, header.owner) != (study, number, owner.as_str()) {
        return Err(other("what was asked for", "a header of another".to_owned()));
    }
    if header.bytes != bytes_due {
        let found = format!("{} bytes", header.bytes);
        return Err(other("the size that the slots give", found));
    }
    let mut encoded = Vec::new();
    while let Some(part) = parts.message().await? {
        match part.part {
            Some(batch_part::Part::Data(data))
                if data.len() <= MAX_CHUNK && encoded.len() + data.len() <= header.bytes =>
            {
                encoded.extend_from_slice(&data);
            }
            Some(batch_part::Part::Data(_) | batch_part::Part::Header(_)) | None => {
                return Err(other("as many bytes as its header says", "more".to_owned()));
            }
        }
    }
    if encoded.len() != header.bytes {
        let found = format!("{} bytes", encoded.len());
        return Err(other("as many bytes as its header says", found));
    }
    let batch = PrekeyBatch::decode(encoded)
        .map_err(|source| FetchError::None { owner: owner.clone(), source })?;
    Ok(SignedBatch { batch, signature: header.signature })
}

pub(super) async fn opened(
    client: &mut Client,
    study: StudyId,
    number: u64,
    owners: &BTreeSet<HospitalId>,
) -> Result<(), Status> {
    let owners = owners.iter().map(ToString::to_string).collect();
    client.send_opened(OpenedRequest { study: bytes(study), batch: number, owners }).await?;
    Ok(())
}
