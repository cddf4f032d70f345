//! The log, as it is read and as it is cosigned.
//!
//! Its files are read by plain GET below `/log/`, by whoever has a certificate of the consortium. A
//! path is answered only if it is `checkpoint` or the one spelling of a tile's name, so none leads
//! out of the folder; the answer is streamed from the disk in small pieces.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aggregation::ids::{Digest, HospitalId, SlotId, StudyId};
use aggregation::keys::identity::{Signature as Said, Statement as _};
use aggregation::keys::witness::WitnessKey;
use bytes::BytesMut;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proto::cli::chain;
use proto::federation as wire;
use proto::limits::{MAX_LINE, MAX_OFFER};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tonic::Status;
use tonic::body::Body;
use transparency::folder::CHECKPOINT;
use transparency::note::Signature;
use transparency::recompute::{RECORD, update_file};
use transparency::tile::Tile;

use super::store_status;
use crate::clock;
use crate::coordinator::Coordinator;
use crate::identity::{KEPT, LOG, Peer, refused_status};
use crate::log::LogError;
use crate::log::witnesses::{CosignError, Witness, key_of};

/// How long a reader may be silent. A program that verifies what it has read asks for the next file
/// within this time, or connects again.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes of a request's line and headers.
const MOST_HEADERS: usize = 16 * 1024;
/// Bytes of a file that are in memory at once.
const PIECE: usize = 64 * 1024;

/// Serves the log to somebody who speaks HTTP/1.1, until they are silent for a while.
pub(super) async fn serve(
    house: Arc<Coordinator>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Arc<Peer>,
) {
    let answer = |request: Request<Incoming>| {
        let (house, peer) = (Arc::clone(&house), Arc::clone(&peer));
        async move {
            let path = request.uri().path();
            let answer = if !path.starts_with(LOG) {
                bare(StatusCode::NOT_FOUND)
            } else if let Err(refused) = house.gate.check(path, &peer, clock::now()) {
                tracing::warn!(method = path, reason = refused.message(), "call refused");
                bare(refused_status(&refused))
            } else {
                get(&house, request.method(), path).await
            };
            Ok::<_, Infallible>(answer)
        }
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        // Between two requests as well.
        .header_read_timeout(IDLE)
        .max_buf_size(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
    if let Err(fault) = served {
        tracing::debug!(%fault, "a reader of the log is gone");
    }
}

/// Answers a GET below `/log/`.
pub(super) async fn get(house: &Coordinator, method: &Method, path: &str) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        return bare(StatusCode::METHOD_NOT_ALLOWED);
    }
    let found = match path.strip_prefix(KEPT) {
        Some(path) => {
            kept_file(house, path).await.map(|file| (file, "application/octet-stream", "no-store"))
        }
        None => {
            let path = path.strip_prefix(LOG).unwrap_or_default();
            file_kind(path).map(|(kind, caching)| (house.log.folder().join(path), kind, caching))
        }
    };
    let Some((path, kind, caching)) = found else { return bare(StatusCode::NOT_FOUND) };
    let opened = async {
        let file = File::open(path).await?;
        let length = file.metadata().await?.len();
        Ok::<_, std::io::Error>((file, length))
    };
    let (file, length) = match opened.await {
        Ok(opened) => opened,
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => {
            return bare(StatusCode::NOT_FOUND);
        }
        Err(fault) => {
            tracing::error!(%fault, "a file of the log cannot be read");
            return bare(StatusCode::INTERNAL_SERVER_ERROR);
        }
    };
    let body = if method == Method::HEAD { Body::empty() } else { pieces(file, length) };
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static(caching));
    headers.insert(header::CONTENT_LENGTH, length.into());
    answer
}

/// The file of a kept round, by its one spelling; none of a round that is not kept.
async fn kept_file(house: &Coordinator, path: &str) -> Option<PathBuf> {
    let (study, slot, file) = kept_name(path)?;
    let rows = house.store.kept_rounds(Some(study)).await.ok()?;
    let kept = rows.iter().any(|row| row.kept && row.slot == slot);
    kept.then(|| house.store.shelf.place(study, slot).join(file))
}

/// What `STUDY/SLOT/FILE` names.
fn kept_name(path: &str) -> Option<(StudyId, SlotId, String)> {
    let mut parts = path.split('/');
    let (study, slot, file) = (parts.next()?, parts.next()?, parts.next()?);
    let (digest, number): (Digest, u64) = (study.parse().ok()?, slot.parse().ok()?);
    let file = match file.strip_suffix(".update") {
        Some(site) => update_file(HospitalId::new(site).ok()?.as_str()),
        None => RECORD.to_owned(),
    };
    let (study, slot) = (StudyId::new(digest), SlotId::new(number));
    (path == format!("{study}/{number}/{file}")).then_some((study, slot, file))
}

/// Type and caching of a file of the log; `None` for what is none.
fn file_kind(path: &str) -> Option<(&'static str, &'static str)> {
    if path == CHECKPOINT {
        return Some(("text/plain; charset=utf-8", "no-cache"));
    }
    // Its one spelling: what reads back as it was written has neither "..", "//" nor an escape.
    let tile: Tile = path.parse().ok()?;
    (tile.to_string() == path)
        .then_some(("application/octet-stream", "max-age=31536000, immutable"))
}

/// The first `length` bytes of a file, piece by piece, each read when the one before was taken.
fn pieces(file: File, length: u64) -> Body {
    let pieces = stream::try_unfold((file, length), |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
        let mut piece = BytesMut::with_capacity(most);
        let read = (&mut file).take(most as u64).read_buf(&mut piece).await?;
        if read == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
        }
        let left = left.saturating_sub(read as u64);
        let frame = http_body::Frame::data(piece.freeze());
        Ok::<_, std::io::Error>(Some((frame, (file, left))))
    });
    Body::new(StreamBody::new(pieces))
}

/// An answer without a body.
pub(crate) fn bare(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}

/// What a caller is told of the log's trouble; our own log has the whole chain.
pub(super) fn log_status(fault: &LogError) -> Status {
    if let LogError::Store(fault) = fault {
        return store_status(fault);
    }
    tracing::error!(fault = %chain(fault), "the log refused");
    Status::internal("the coordinator cannot read or write its log")
}

/// A checkpoint with its proof. What the site shows of an earlier one is looked at first.
pub(super) async fn fetch(
    house: &Coordinator,
    asked: &wire::CheckpointRequest,
) -> Result<wire::CheckpointReply, Status> {
    if asked.checkpoint.len() > MAX_OFFER {
        return Err(Status::invalid_argument(format!(
            "checkpoint: expected at most {MAX_OFFER} bytes, found {}",
            asked.checkpoint.len()
        )));
    }
    if !asked.checkpoint.is_empty()
        && let Err(fault) = house.log.show(&asked.checkpoint).await
    {
        // Whether it is evidence or not, the site gets its answer.
        tracing::error!(fault = %chain(&fault), "what a site has cosigned cannot be looked at");
    }
    let offer =
        house.log.offer(asked.size, asked.old_size).await.map_err(|fault| log_status(&fault))?;
    let offer = offer.ok_or_else(|| {
        Status::out_of_range(format!(
            "expected sizes of at most {}, found {} and {}",
            house.log.size().signed,
            asked.old_size,
            asked.size
        ))
    })?;
    Ok(wire::CheckpointReply { offer: offer.to_string().into_bytes() })
}

/// What the log tells of a site in one slot, with proofs.
pub(super) async fn prove(
    house: &Coordinator,
    site: &HospitalId,
    asked: &wire::FactsRequest,
) -> Result<wire::FactsReply, Status> {
    let study = Digest::from_slice(&asked.study)
        .map_err(|_| Status::invalid_argument("study: expected a digest of 32 bytes"))?;
    let (study, slot) = (StudyId::new(study), SlotId::new(asked.slot));
    let found = house.store.facts_of_site(study, slot, site, asked.size).await;
    let mut facts = Vec::new();
    for (index, leaf) in found.map_err(|fault| store_status(&fault))? {
        let proof = house.log.inclusion(index, asked.size).await;
        let proof = proof.map_err(|fault| log_status(&fault))?.ok_or_else(|| {
            let signed = house.log.size().signed;
            Status::out_of_range(format!(
                "expected a size of at most {signed}, found {}",
                asked.size
            ))
        })?;
        let proof = proof.iter().map(|hash| hash.to_vec()).collect();
        facts.push(wire::ProvenFact { index, leaf: leaf.into_bytes(), proof });
    }
    Ok(wire::FactsReply { facts })
}

/// A site says which key it cosigns with.
pub(super) async fn announce(
    house: &Arc<Coordinator>,
    site: &HospitalId,
    said: &wire::WitnessKeyRequest,
) -> Result<(), Status> {
    let wrong = |what: &str| Status::invalid_argument(format!("witness key: expected {what}"));
    let key: [u8; 32] = said.key.as_slice().try_into().map_err(|_| wrong("32 bytes"))?;
    let signature: [u8; 64] =
        said.signature.as_slice().try_into().map_err(|_| wrong("a signature of 64 bytes"))?;
    let signature: Said<WitnessKey> = Said::new(signature);
    let log = house.log.key().name().to_owned();
    let cosigner = key_of(&log, site, key).map_err(|fault| wrong(&fault.to_string()))?;
    let identities = house.store.identities().await.map_err(|fault| store_status(&fault))?;
    let identity = *identities
        .get(site)
        .ok_or_else(|| Status::failed_precondition("this site has no identity key"))?;
    let statement = WitnessKey { log, hospital: site.clone(), key };
    identity.verify(&statement, &signature).map_err(|fault| wrong(&fault.to_string()))?;
    // Keys are public: only who holds one may have it counted.
    if !cosigner.is_held(statement.digest().as_bytes(), &said.proof) {
        return Err(wrong("a proof that the key is held"));
    }
    let _turn = house.log.announcing.lock().await;
    if house.log.knows(site, &cosigner, &identity) {
        return Ok(());
    }
    if let Some(other) = house.log.holder(site, &cosigner) {
        tracing::warn!(%site, %other, "a site announced another site's cosigning key");
        return Err(Status::already_exists("another site cosigns with this key"));
    }
    let kept = house.store.keep_witness(&statement, &identity, &signature, clock::now()).await;
    kept.map_err(|fault| store_status(&fault))?;
    tracing::info!(%site, key = cosigner.label(), "a site announced its cosigning key");
    house.log.learn(site.clone(), Witness { key: cosigner, identity, said: signature, size: 0 });
    house.log.ask();
    Ok(())
}

/// A site cosigns.
pub(super) async fn cosign(
    house: &Arc<Coordinator>,
    site: &HospitalId,
    said: &wire::CosignatureRequest,
) -> Result<(), Status> {
    let wrong = || Status::invalid_argument("cosignature: expected a signature line");
    if said.line.len() > MAX_LINE {
        return Err(wrong());
    }
    let line: Signature = said.line.parse().map_err(|_| wrong())?;
    let taken = house.log.cosigned(site, said.size, &line).await;
    taken.map_err(|fault| match fault {
        CosignError::Unannounced | CosignError::NotAwaited(_) => {
            Status::failed_precondition(fault.to_string())
        }
        CosignError::Invalid(_) => Status::invalid_argument(fault.to_string()),
        CosignError::Log(fault) => log_status(&fault),
    })
}

/// The log as operators and auditors see it.
pub(super) async fn view(house: &Arc<Coordinator>) -> Result<wire::LogView, Status> {
    let facts = house.store.facts().await.map_err(|fault| store_status(&fault))?;
    let (signed, published) = house.log.checkpoints().await.map_err(|fault| log_status(&fault))?;
    if facts > signed.checkpoint().size() {
        // Whoever asks is waiting for it.
        house.log.ask();
    }
    let witnesses = house.log.standing();
    let one = |(site, witness): (&HospitalId, &Witness)| wire::WitnessView {
        site: site.to_string(),
        key: witness.key.to_string(),
        identity: witness.identity.as_bytes().to_vec(),
        signature: witness.said.as_bytes().to_vec(),
        size: witness.size,
        connected: house.board.left(site).is_none(),
    };
    Ok(wire::LogView {
        key: house.log.key().to_string(),
        facts,
        signed: signed.to_string(),
        published: published.to_string(),
        quorum: u32::try_from(house.log.quorum()).unwrap_or(u32::MAX),
        witnesses: witnesses.iter().map(one).collect(),
        unannounced: house.log.unannounced().iter().map(ToString::to_string).collect(),
        alarm: house.log.lost().map_or_else(String::new, |set_back| set_back.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_files_of_a_log_have_a_path() {
        for good in [
            "checkpoint",
            "tile/0/000",
            "tile/0/x001/234",
            "tile/entries/000.p/17",
            "tile/1/000.p/1",
        ] {
            assert!(file_kind(good).is_some(), "{good}");
        }
        for wrong in [
            "",
            "checkpoint.signed",
            "checkpoint/",
            "writer.lock",
            "../coordinator.sqlite",
            "tile/../../coordinator.sqlite",
            "tile/0/../0/000",
            "tile//0/000",
            "tile/0/000.tmp",
            "tile/0/%30%30%30",
            "tile/0/000.p/256",
            "tile/0/000.p/017",
            "tile/64/000",
            "/etc/passwd",
        ] {
            assert!(file_kind(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn only_the_files_of_a_kept_round_have_a_path() {
        let study = "ab".repeat(32);
        for good in ["record.json", "north-1.update"] {
            assert!(kept_name(&format!("{study}/17/{good}")).is_some(), "{good}");
        }
        let upper = study.to_uppercase();
        for wrong in [
            String::new(),
            study.clone(),
            format!("{study}/17"),
            format!("{study}/17/"),
            format!("{study}/017/record.json"),
            format!("{study}/17/record.tmp"),
            format!("{study}/17/record.json/"),
            format!("{study}/17/../.update"),
            format!("{study}/../17/record.json"),
            format!("{upper}/17/record.json"),
            format!("{study}/17//etc/passwd"),
            format!("{study}/17/%2e%2e.update"),
        ] {
            assert!(kept_name(&wrong).is_none(), "{wrong}");
        }
    }
}
