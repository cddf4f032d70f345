//! What is said to the coordinator in a round. Each call is made once: when the way to the
//! coordinator breaks, a new session begins and the participant says again what still matters.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use aggregation::ids::Digest;
use aggregation::message::{DeclineReason, Terms};
use bytes::Bytes;
use futures_util::{Stream, stream};
use proto::federation::{
    ChargeRequest, DeclineRequest, ReadyRequest, Stage, UpdateHeader, UpdatePart, update_part,
};
use proto::limits::CHUNK;
use tonic::Status;

use super::model::permille;
use super::progress::Progress;
use crate::journal::{JournalError, Packed};
use crate::link::Client;
use crate::witness::Desk;
use crate::witness::owed::Owed;

/// What is read from the file at once: a few chunks, which then share its memory.
const TOGETHER: usize = 4 * CHUNK;

/// A call that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The coordinator's answer, or that there was none.
    #[error("{}", .0.message())]
    Status(#[from] Status),
    /// The update could not be read.
    #[error("the work folder: {0}")]
    Disk(#[from] io::Error),
    /// The journal does not give what is to be sent.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The receipt is for something else.
    #[error("expected a receipt for {expected}, found another")]
    Receipt {
        /// What was sent.
        expected: Digest,
    },
}

pub(super) async fn ready(mut client: Client, terms: Terms) -> Result<(), CallError> {
    let request = ReadyRequest {
        study: terms.study.digest().as_bytes().to_vec(),
        round: terms.round.get(),
        slot: terms.slot.get(),
        terms: terms.digest().as_bytes().to_vec(),
    };
    client.send_ready(request).await?;
    Ok(())
}

pub(super) async fn decline(
    mut client: Client,
    terms: Terms,
    reason: DeclineReason,
) -> Result<(), CallError> {
    let request = DeclineRequest {
        study: terms.study.digest().as_bytes().to_vec(),
        round: terms.round.get(),
        slot: terms.slot.get(),
        terms: terms.digest().as_bytes().to_vec(),
        reason: proto::encode::decline_reason(reason).into(),
    };
    client.send_decline(request).await?;
    Ok(())
}

/// What the log owes this house once the coordinator has it.
pub(super) struct Claim {
    /// Who looks for it.
    pub(super) witness: Arc<Desk>,
    /// The update, and its charge.
    pub(super) owed: Owed,
    /// What is told of that, where the study is private.
    pub(super) charge: Option<ChargeRequest>,
}

/// Tells what was charged for it, where the study is private; then sends the update straight from
/// its file. Never more of it than a few chunks is in memory. The claim is noted before the first byte,
/// and each yes at once: what the coordinator has, the log must have, whatever becomes of the rest.
pub(super) async fn upload(
    mut client: Client,
    terms: Terms,
    claim: Claim,
    packed: Packed,
    file: PathBuf,
    progress: Progress,
) -> Result<(), CallError> {
    let Claim { witness, owed, charge } = claim;
    if let Some(charge) = charge {
        client.send_charge(witness.tells(owed.clone(), charge)).await?;
        witness.is_charged(owed.clone());
    }
    witness.sends(owed.clone());
    let header = UpdateHeader {
        study: terms.study.digest().as_bytes().to_vec(),
        round: terms.round.get(),
        slot: terms.slot.get(),
        terms: terms.digest().as_bytes().to_vec(),
        bytes: packed.bytes,
        digest: packed.digest.as_bytes().to_vec(),
    };
    let file = tokio::task::spawn_blocking(move || File::open(file));
    let file = file.await.map_err(io::Error::other)??;
    let broken = Arc::new(Mutex::new(None));
    let told = {
        let terms = terms.clone();
        move |sent| progress.say(&terms, Stage::Uploading, permille(sent, packed.bytes))
    };
    let reply = client.send_update(parts(header, file, Arc::clone(&broken), told)).await;
    if let Some(error) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(CallError::Disk(error));
    }
    if reply?.into_inner().digest == packed.digest.as_bytes() {
        witness.is_received(owed);
        Ok(())
    } else {
        Err(CallError::Receipt { expected: packed.digest })
    }
}

/// One header, then the file in chunks. A file that cannot be read ends the stream early, which
/// the coordinator does not count, and leaves the reason in `broken`.
fn parts(
    header: UpdateHeader,
    file: File,
    broken: Arc<Mutex<Option<io::Error>>>,
    told: impl Fn(u64) + Send + 'static,
) -> impl Stream<Item = UpdatePart> + Send + 'static {
    let first = UpdatePart { part: Some(update_part::Part::Header(header)) };
    let rest = stream::unfold(
        (file, Bytes::new(), 0_u64, broken, told),
        move |(mut file, mut read, sent, broken, told)| async move {
            if read.is_empty() {
                match more(file).await {
                    Ok(found) => (file, read) = found,
                    Err(error) => {
                        *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        return None;
                    }
                }
            }
            let data = read.split_to(read.len().min(CHUNK));
            if data.is_empty() {
                return None;
            }
            let sent = sent.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
            told(sent);
            let part = UpdatePart { part: Some(update_part::Part::Data(data)) };
            Some((part, (file, read, sent, broken, told)))
        },
    );
    futures_util::StreamExt::chain(stream::iter([first]), rest)
}

/// What comes next in the file; nothing at its end.
async fn more(mut file: File) -> io::Result<(File, Bytes)> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut read = vec![0; TOGETHER];
        let mut have = 0;
        while have < read.len() {
            match file.read(&mut read[have..])? {
                0 => break,
                n => have += n,
            }
        }
        read.truncate(have);
        Ok((file, Bytes::from(read)))
    });
    reading.await.map_err(io::Error::other)?
}
