//! A coordinator that tells the test what it hears, and says yes to all of it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aggregation::ids::Digest;
use futures_util::{Stream, stream};
use prost::Message as _;
use proto::federation::federation_server::Federation;
use proto::federation::{self as wire, batch_part, update_part::Part};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

/// What the coordinator heard.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    Ready(u64),
    Declined(u64, wire::DeclineReason),
    Charge(Box<wire::ChargeRequest>),
    Update(u64, Vec<u8>),
    Fetch(u64),
    Decided(wire::Decision),
    Announcement(wire::Announcement),
    Nonce(Vec<u8>),
    Batch(wire::BatchHeader, Vec<u8>),
    FetchBatch(u64, String),
    Opened(u64, Vec<String>),
    Signature(wire::SignatureRequest),
    /// Encoded: shares are not printed.
    Shares(Vec<u8>),
}

/// The batches that can be fetched, by number and owner.
pub(in crate::driver) type Batches =
    Arc<Mutex<BTreeMap<(u64, String), (wire::BatchHeader, Vec<u8>)>>>;

pub(super) struct Fake {
    pub(super) model: Vec<u8>,
    /// Bytes that the first download gives before it breaks off.
    pub(super) cut: AtomicUsize,
    pub(super) said: mpsc::UnboundedSender<Said>,
    pub(super) batches: Batches,
    /// Whether updates get no receipt.
    pub(super) silent: Arc<AtomicBool>,
}

type Pinned<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Fake {
    fn heard<T>(&self, said: Said, reply: T) -> Result<Response<T>, Status> {
        self.said.send(said).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(reply))
    }
}

#[tonic::async_trait]
impl Federation for Fake {
    type WatchStream = Pinned<wire::Notice>;
    type FetchModelStream = Pinned<wire::Chunk>;
    type FetchBatchStream = Pinned<wire::BatchPart>;

    async fn watch(
        &self,
        _: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("the test speaks to the driver itself"))
    }

    async fn list_studies(
        &self,
        _: Request<wire::ListStudiesRequest>,
    ) -> Result<Response<wire::ListStudiesReply>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn decide_study(
        &self,
        request: Request<wire::DecideStudyRequest>,
    ) -> Result<Response<wire::DecideStudyReply>, Status> {
        self.heard(Said::Decided(request.get_ref().decision()), wire::DecideStudyReply::default())
    }

    async fn fetch_model(
        &self,
        request: Request<wire::FetchModelRequest>,
    ) -> Result<Response<Self::FetchModelStream>, Status> {
        let offset = request.get_ref().offset;
        let cut = self.cut.swap(usize::MAX, Ordering::SeqCst);
        let rest = &self.model[usize::try_from(offset).expect("small")..];
        let chunk = Ok(wire::Chunk { data: rest[..rest.len().min(cut)].to_vec().into() });
        let end = (cut < rest.len()).then(|| Err(Status::unavailable("the line broke")));
        let chunks: Self::FetchModelStream = Box::pin(stream::iter([chunk].into_iter().chain(end)));
        self.heard(Said::Fetch(offset), chunks)
    }

    async fn send_ready(
        &self,
        request: Request<wire::ReadyRequest>,
    ) -> Result<Response<wire::ReadyReply>, Status> {
        self.heard(Said::Ready(request.get_ref().slot), wire::ReadyReply {})
    }

    async fn send_decline(
        &self,
        request: Request<wire::DeclineRequest>,
    ) -> Result<Response<wire::DeclineReply>, Status> {
        let said = Said::Declined(request.get_ref().slot, request.get_ref().reason());
        self.heard(said, wire::DeclineReply {})
    }

    async fn send_charge(
        &self,
        request: Request<wire::ChargeRequest>,
    ) -> Result<Response<wire::ChargeReply>, Status> {
        self.heard(Said::Charge(Box::new(request.into_inner())), wire::ChargeReply {})
    }

    async fn send_update(
        &self,
        request: Request<Streaming<wire::UpdatePart>>,
    ) -> Result<Response<wire::UpdateReceipt>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|part| part.part);
        let Some(Part::Header(header)) = first else {
            return Err(Status::invalid_argument("no header"));
        };
        let mut update = Vec::new();
        while let Some(part) = parts.next().await {
            match part?.part {
                Some(Part::Data(data)) => update.extend_from_slice(&data),
                Some(Part::Header(_)) | None => return Err(Status::invalid_argument("no data")),
            }
        }
        assert_eq!(header.bytes, u64::try_from(update.len()).expect("small"));
        assert_eq!(header.digest, Digest::blake3(&update).as_bytes());
        let receipt = wire::UpdateReceipt { digest: header.digest };
        let heard = self.heard(Said::Update(header.slot, update), receipt)?;
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Ok(heard)
    }

    async fn send_signature(
        &self,
        request: Request<wire::SignatureRequest>,
    ) -> Result<Response<wire::SignatureReply>, Status> {
        self.heard(Said::Signature(request.into_inner()), wire::SignatureReply {})
    }

    async fn send_shares(
        &self,
        request: Request<wire::SharesRequest>,
    ) -> Result<Response<wire::SharesReply>, Status> {
        self.heard(Said::Shares(request.get_ref().encode_to_vec()), wire::SharesReply {})
    }

    async fn send_announcement(
        &self,
        request: Request<wire::AnnouncementRequest>,
    ) -> Result<Response<wire::AnnouncementReply>, Status> {
        let said = request.into_inner().announcement;
        let said = said.ok_or_else(|| Status::invalid_argument("no announcement"))?;
        self.heard(Said::Announcement(said), wire::AnnouncementReply {})
    }

    async fn send_nonce(
        &self,
        request: Request<wire::NonceRequest>,
    ) -> Result<Response<wire::NonceReply>, Status> {
        self.heard(Said::Nonce(request.into_inner().nonce), wire::NonceReply {})
    }

    async fn send_batch(
        &self,
        request: Request<Streaming<wire::BatchPart>>,
    ) -> Result<Response<wire::BatchReceipt>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|part| part.part);
        let Some(batch_part::Part::Header(header)) = first else {
            return Err(Status::invalid_argument("no header"));
        };
        let mut batch = Vec::new();
        while let Some(part) = parts.next().await {
            match part?.part {
                Some(batch_part::Part::Data(data)) => batch.extend_from_slice(&data),
                Some(batch_part::Part::Header(_)) | None => {
                    return Err(Status::invalid_argument("no data"));
                }
            }
        }
        self.heard(Said::Batch(header, batch), wire::BatchReceipt {})
    }

    async fn fetch_batch(
        &self,
        request: Request<wire::FetchBatchRequest>,
    ) -> Result<Response<Self::FetchBatchStream>, Status> {
        let wire::FetchBatchRequest { batch, owner, .. } = request.into_inner();
        let found = self.batches.lock().expect("no panic").get(&(batch, owner.clone())).cloned();
        let (header, data) = found.ok_or_else(|| Status::not_found("no such batch"))?;
        let part = |part| Ok(wire::BatchPart { part: Some(part) });
        let mut parts = vec![part(batch_part::Part::Header(header))];
        let data = data.chunks(100_000);
        parts.extend(data.map(|data| part(batch_part::Part::Data(data.to_vec()))));
        let parts: Self::FetchBatchStream = Box::pin(stream::iter(parts));
        self.heard(Said::FetchBatch(batch, owner), parts)
    }

    async fn send_opened(
        &self,
        request: Request<wire::OpenedRequest>,
    ) -> Result<Response<wire::OpenedReply>, Status> {
        let wire::OpenedRequest { batch, owners, .. } = request.into_inner();
        self.heard(Said::Opened(batch, owners), wire::OpenedReply {})
    }

    async fn report_progress(
        &self,
        _: Request<wire::ProgressRequest>,
    ) -> Result<Response<wire::ProgressReply>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn fetch_checkpoint(
        &self,
        _: Request<wire::CheckpointRequest>,
    ) -> Result<Response<wire::CheckpointReply>, Status> {
        Err(Status::unimplemented("no log here"))
    }

    async fn prove_facts(
        &self,
        _: Request<wire::FactsRequest>,
    ) -> Result<Response<wire::FactsReply>, Status> {
        Err(Status::unimplemented("no log here"))
    }

    async fn send_witness_key(
        &self,
        _: Request<wire::WitnessKeyRequest>,
    ) -> Result<Response<wire::WitnessKeyReply>, Status> {
        Err(Status::unimplemented("no log here"))
    }

    async fn send_cosignature(
        &self,
        _: Request<wire::CosignatureRequest>,
    ) -> Result<Response<wire::CosignatureReply>, Status> {
        Err(Status::unimplemented("no log here"))
    }

    async fn renew(
        &self,
        _: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::RenewReply>, Status> {
        Err(Status::unimplemented("no certificates here"))
    }
}
