//! What sites say and are told.

use std::pin::Pin;
use std::sync::Arc;

use aggregation::ids::{Digest, HospitalId, StudyId};
use aggregation::life::{Change, Life};
use futures_util::Stream;
use proto::federation as wire;
use proto::federation::Decision;
use proto::federation::federation_server::Federation;
use proto::federation::notice::Notice as Kind;
use proto::limits::{CHUNK, MAX_CSR, MAX_VERSION};
use proto::masks::round::{encode_final_set, encode_signed_set, set_signature, shares};
use proto::status::from_decode;
use proto::{decode, encode};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::enrolment::site_status;
use super::{charge, log, setup, store_status, turned_status, upload};
use crate::board::{Addressed, Entry, Happened, Told};
use crate::clock;
use crate::coordinator::{Coordinator, all_approve};
use crate::driver::{Command, Heard};
use crate::identity::Caller;
use crate::store::Leaf;
use crate::store::studies::decision_name;

/// Notices that wait for a site to read them; then the stream waits.
const OUTBOX: usize = 64;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    house: Arc<Coordinator>,
    uploads: upload::Slots,
    batches: setup::Receiving,
}

type Notices = Pin<Box<dyn Stream<Item = Result<wire::Notice, Status>> + Send>>;
type Chunks = Pin<Box<dyn Stream<Item = Result<wire::Chunk, Status>> + Send>>;
type Parts = Pin<Box<dyn Stream<Item = Result<wire::BatchPart, Status>> + Send>>;

impl Service {
    pub(crate) fn new(house: Arc<Coordinator>) -> Self {
        Self { house, uploads: upload::Slots::default(), batches: setup::Receiving::default() }
    }

    /// A study that this site is on the roster of.
    fn study(&self, digest: &[u8], site: &HospitalId) -> Result<Arc<Entry>, Status> {
        let id = decode::study(digest).map_err(|fault| from_decode(&fault))?;
        self.house
            .board
            .study(id)
            .filter(|entry| entry.sites.contains(site))
            .ok_or_else(|| unknown_study(id))
    }

    /// Hands what a site said to the study's driver and waits until it is kept.
    async fn say(&self, study: &[u8], from: HospitalId, heard: Heard) -> Result<(), Status> {
        let entry = self.study(study, &from)?;
        let driver = driver_of(&entry)?;
        let (reply, answer) = oneshot::channel();
        let gone = || Status::unavailable("the coordinator is stopping");
        driver.send(Command::Said { from, heard, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map(drop).map_err(|turned| turned_status(&turned))
    }

    /// What a site hears after this outlives a power cut. A site writes down that we have its update
    /// or its charge, never sends it again, and raises an alarm when the log lacks it.
    async fn settled(&self) -> Result<(), Status> {
        self.house.store.settle().await.map_err(|fault| store_status(&fault))
    }
}

/// The driver of a running study.
pub(super) fn driver_of(entry: &Entry) -> Result<mpsc::Sender<Command>, Status> {
    let standing = entry.standing();
    standing
        .driver
        .clone()
        .ok_or_else(|| Status::failed_precondition(format!("the study is {}", standing.life)))
}

fn unknown_study(id: StudyId) -> Status {
    Status::not_found(format!("no study {} asks this site to take part", id.short()))
}

#[tonic::async_trait]
impl Federation for Service {
    type WatchStream = Notices;
    type FetchModelStream = Chunks;
    type FetchBatchStream = Parts;

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Notices>, Status> {
        let site = Caller::site(&request)?;
        let version: String = request
            .into_inner()
            .version
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_VERSION)
            .collect();
        let house = Arc::clone(&self.house);
        let (out, notices) = mpsc::channel(OUTBOX);
        tokio::spawn(async move {
            let board = Arc::clone(&house.board);
            let told = tell(&house, &site, &version, &out);
            let ended = tokio::select! {
                ended = told => ended,
                () = out.closed() => return,
                () = board.until_expelled(&site) => Err(Status::permission_denied("this site was revoked")),
                () = board.until_closing() => Err(Status::unavailable("the coordinator is stopping")),
            };
            if let Err(status) = ended {
                // The site may be gone already.
                let _ = out.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(notices))))
    }

    async fn list_studies(
        &self,
        request: Request<wire::ListStudiesRequest>,
    ) -> Result<Response<wire::ListStudiesReply>, Status> {
        let site = Caller::site(&request)?;
        let studies = self.house.board.studies();
        let studies = studies
            .iter()
            .filter(|entry| entry.sites.contains(&site))
            .map(|entry| entry.notice(&site))
            .collect();
        Ok(Response::new(wire::ListStudiesReply { studies }))
    }

    async fn decide_study(
        &self,
        request: Request<wire::DecideStudyRequest>,
    ) -> Result<Response<wire::DecideStudyReply>, Status> {
        let site = Caller::site(&request)?;
        let asked = request.into_inner();
        let entry = self.study(&asked.study, &site)?;
        let decision = match Decision::try_from(asked.decision) {
            Ok(Decision::Unspecified) | Err(_) => {
                return Err(Status::invalid_argument(
                    "decision: expected approved, refused or withdrawn",
                ));
            }
            Ok(decision) => decision,
        };
        decide(&self.house, &entry, &site, decision).await?;
        Ok(Response::new(wire::DecideStudyReply { study: Some(entry.notice(&site)) }))
    }

    async fn fetch_model(
        &self,
        request: Request<wire::FetchModelRequest>,
    ) -> Result<Response<Chunks>, Status> {
        let site = Caller::site(&request)?;
        let asked = request.into_inner();
        let entry = self.study(&asked.study, &site)?;
        let wanted = decode::digest("model", &asked.model).map_err(|fault| from_decode(&fault))?;
        let model = {
            let standing = entry.standing();
            if standing.decisions.get(&site) != Some(&Decision::Approved) {
                return Err(Status::failed_precondition("this site has not approved the study"));
            }
            standing.model.clone()
        };
        let bytes = match model {
            Some((digest, bytes)) if digest == wanted => bytes,
            Some(_) | None => return Err(not_on_offer(wanted)),
        };
        let size = bytes.len();
        let offset = usize::try_from(asked.offset)
            .ok()
            .filter(|offset| *offset <= size)
            .ok_or_else(|| {
                Status::out_of_range(format!(
                    "offset: expected at most {size}, found {}",
                    asked.offset
                ))
            })?;
        // Chunks share the model's memory; each is cut when the one before has been taken.
        let chunks = (offset..size).step_by(CHUNK).map(move |from| {
            let data = bytes.slice(from..size.min(from + CHUNK));
            Ok(wire::Chunk { data })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn send_ready(
        &self,
        request: Request<wire::ReadyRequest>,
    ) -> Result<Response<wire::ReadyReply>, Status> {
        let site = Caller::site(&request)?;
        let said = request.into_inner();
        let terms = decode::digest("terms", &said.terms).map_err(|fault| from_decode(&fault))?;
        self.say(&said.study, site, Heard::Ready(terms)).await?;
        Ok(Response::new(wire::ReadyReply {}))
    }

    async fn send_decline(
        &self,
        request: Request<wire::DeclineRequest>,
    ) -> Result<Response<wire::DeclineReply>, Status> {
        let site = Caller::site(&request)?;
        let said = request.into_inner();
        let terms = decode::digest("terms", &said.terms).map_err(|fault| from_decode(&fault))?;
        let reason = decode::decline_reason(said.reason).map_err(|fault| from_decode(&fault))?;
        self.say(&said.study, site, Heard::Declined(terms, reason)).await?;
        Ok(Response::new(wire::DeclineReply {}))
    }

    async fn send_charge(
        &self,
        request: Request<wire::ChargeRequest>,
    ) -> Result<Response<wire::ChargeReply>, Status> {
        let site = Caller::site(&request)?;
        let said = request.into_inner();
        let entry = self.study(&said.study, &site)?;
        charge::receive(&self.house, &entry, &site, &said).await?;
        self.settled().await?;
        Ok(Response::new(wire::ChargeReply {}))
    }

    async fn send_update(
        &self,
        request: Request<Streaming<wire::UpdatePart>>,
    ) -> Result<Response<wire::UpdateReceipt>, Status> {
        let site = Caller::site(&request)?;
        let parts = request.into_inner();
        let receive = upload::receive(&self.house, &self.uploads, &site, parts);
        let digest = tokio::select! {
            received = receive => received?,
            () = self.house.board.until_expelled(&site) => {
                return Err(Status::permission_denied("this site was revoked"));
            }
        };
        self.settled().await?;
        Ok(Response::new(wire::UpdateReceipt { digest: digest.as_bytes().to_vec() }))
    }

    async fn send_signature(
        &self,
        request: Request<wire::SignatureRequest>,
    ) -> Result<Response<wire::SignatureReply>, Status> {
        let site = Caller::site(&request)?;
        let said = request.into_inner();
        let (place, signature) = set_signature(&said).map_err(|fault| from_decode(&fault))?;
        self.say(&said.study, site, Heard::Signed(place.terms, signature)).await?;
        Ok(Response::new(wire::SignatureReply {}))
    }

    async fn send_shares(
        &self,
        request: Request<wire::SharesRequest>,
    ) -> Result<Response<wire::SharesReply>, Status> {
        let site = Caller::site(&request)?;
        let said = request.into_inner();
        let (place, shares) = shares(&said).map_err(|fault| from_decode(&fault))?;
        self.say(&said.study, site, Heard::Unmask(place.terms, Arc::new(shares))).await?;
        Ok(Response::new(wire::SharesReply {}))
    }

    async fn send_announcement(
        &self,
        request: Request<wire::AnnouncementRequest>,
    ) -> Result<Response<wire::AnnouncementReply>, Status> {
        let site = Caller::site(&request)?;
        let said = request.into_inner();
        let entry = self.study(&said.study, &site)?;
        setup::announce(&self.house, &entry, &site, &said).await?;
        Ok(Response::new(wire::AnnouncementReply {}))
    }

    async fn send_nonce(
        &self,
        request: Request<wire::NonceRequest>,
    ) -> Result<Response<wire::NonceReply>, Status> {
        let site = Caller::site(&request)?;
        let said = request.into_inner();
        let entry = self.study(&said.study, &site)?;
        setup::reveal(&self.house, &entry, &site, &said).await?;
        Ok(Response::new(wire::NonceReply {}))
    }

    async fn send_batch(
        &self,
        request: Request<Streaming<wire::BatchPart>>,
    ) -> Result<Response<wire::BatchReceipt>, Status> {
        let site = Caller::site(&request)?;
        let parts = request.into_inner();
        tokio::select! {
            received = setup::receive(&self.house, &self.batches, &site, parts) => received?,
            () = self.house.board.until_expelled(&site) => {
                return Err(Status::permission_denied("this site was revoked"));
            }
        }
        Ok(Response::new(wire::BatchReceipt {}))
    }

    async fn fetch_batch(
        &self,
        request: Request<wire::FetchBatchRequest>,
    ) -> Result<Response<Parts>, Status> {
        let site = Caller::site(&request)?;
        let asked = request.into_inner();
        let entry = self.study(&asked.study, &site)?;
        let parts = setup::fetch(&self.house, &entry, &asked).await?;
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn send_opened(
        &self,
        request: Request<wire::OpenedRequest>,
    ) -> Result<Response<wire::OpenedReply>, Status> {
        let site = Caller::site(&request)?;
        let said = request.into_inner();
        let entry = self.study(&said.study, &site)?;
        setup::opened(&self.house, &entry, &site, &said).await?;
        Ok(Response::new(wire::OpenedReply {}))
    }

    async fn report_progress(
        &self,
        request: Request<wire::ProgressRequest>,
    ) -> Result<Response<wire::ProgressReply>, Status> {
        let site = Caller::site(&request)?;
        let said = request.into_inner();
        let entry = self.study(&said.study, &site)?;
        let stage = wire::Stage::try_from(said.stage)
            .map_err(|_| Status::invalid_argument("stage: expected one that this version knows"))?;
        let progress = wire::SiteProgress {
            round: said.round,
            site: site.to_string(),
            stage: stage.into(),
            permille: said.permille.min(1000),
        };
        let current = {
            let mut standing = entry.standing();
            let current = standing.offer.as_ref().is_some_and(|terms| {
                terms.slot.get() == said.slot && terms.invited.contains(&site)
            });
            if current {
                standing.progress.insert(site, progress.clone());
            }
            current
        };
        if current {
            entry.tell(Happened::Progress(progress));
        }
        Ok(Response::new(wire::ProgressReply {}))
    }

    async fn fetch_checkpoint(
        &self,
        request: Request<wire::CheckpointRequest>,
    ) -> Result<Response<wire::CheckpointReply>, Status> {
        Ok(Response::new(log::fetch(&self.house, request.get_ref()).await?))
    }

    async fn prove_facts(
        &self,
        request: Request<wire::FactsRequest>,
    ) -> Result<Response<wire::FactsReply>, Status> {
        let site = Caller::site(&request)?;
        Ok(Response::new(log::prove(&self.house, &site, request.get_ref()).await?))
    }

    async fn send_witness_key(
        &self,
        request: Request<wire::WitnessKeyRequest>,
    ) -> Result<Response<wire::WitnessKeyReply>, Status> {
        let site = Caller::site(&request)?;
        log::announce(&self.house, &site, request.get_ref()).await?;
        Ok(Response::new(wire::WitnessKeyReply {}))
    }

    async fn send_cosignature(
        &self,
        request: Request<wire::CosignatureRequest>,
    ) -> Result<Response<wire::CosignatureReply>, Status> {
        let site = Caller::site(&request)?;
        log::cosign(&self.house, &site, request.get_ref()).await?;
        Ok(Response::new(wire::CosignatureReply {}))
    }

    async fn renew(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::RenewReply>, Status> {
        let site = Caller::site(&request)?;
        let csr = request.into_inner().csr_der;
        if csr.len() > MAX_CSR {
            return Err(Status::invalid_argument(format!(
                "certificate request: expected at most {MAX_CSR} bytes, found {}",
                csr.len()
            )));
        }
        let now = clock::now();
        let issued = self
            .house
            .certify_site(&site, &csr, now)
            .map_err(|fault| site_status(&fault.into()))?;
        self.house
            .store
            .renew_site(&site, &issued, now)
            .await
            .map_err(|fault| site_status(&fault))?;
        tracing::info!(%site, "certificate renewed");
        Ok(Response::new(wire::RenewReply {
            certificate_pem: issued.pem,
            ca_pem: self.house.authority.pem().to_owned(),
        }))
    }
}

fn not_on_offer(wanted: Digest) -> Status {
    Status::not_found(format!("the model {} is not on offer", wanted.short()))
}

/// Says hello, then the whole present state, then whatever happens.
async fn tell(
    house: &Arc<Coordinator>,
    site: &HospitalId,
    version: &str,
    out: &mpsc::Sender<Result<wire::Notice, Status>>,
) -> Result<(), Status> {
    // Listen first: what happens while the present state is told is told after it.
    let mut notices = house.board.notices();
    let gone = |_| Status::cancelled("the site has gone");
    let hello = Kind::Hello(wire::Hello {
        consortium: house.consortium.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        server_time_ms: clock::now().as_millis(),
        ledger: house.store.ledger_end(site).await.map_err(|fault| store_status(&fault))?,
    });
    out.send(Ok(notice(hello))).await.map_err(gone)?;
    out.send(Ok(notice(Kind::Log(house.log_grown())))).await.map_err(gone)?;
    for entry in house.board.studies().iter().filter(|entry| entry.sites.contains(site)) {
        for kind in present(entry, site) {
            out.send(Ok(notice(kind))).await.map_err(gone)?;
        }
    }
    tracing::info!(%site, version, "site connected");
    // Only now is the site here: a round that is announced next finds it listening.
    let here = house.board.arrive(site, version);
    if !house.gate.stands(site) {
        // Revoked between the gate and here.
        return Err(Status::permission_denied("this site was revoked"));
    }
    let ended = loop {
        match notices.recv().await {
            Ok(addressed) => {
                if let Some(kind) = addressed_to(&addressed, site)
                    && out.send(Ok(notice(kind))).await.is_err()
                {
                    break Ok(());
                }
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {
                break Err(Status::unavailable("this site reads too slowly; connect again"));
            }
            Err(broadcast::error::RecvError::Closed) => break Ok(()),
        }
    };
    drop(here);
    ended
}

fn notice(kind: Kind) -> wire::Notice {
    wire::Notice { notice: Some(kind) }
}

/// What a site must know of a study to go on where it is.
fn present(entry: &Entry, site: &HospitalId) -> Vec<Kind> {
    let mut kinds = vec![Kind::Study(entry.notice(site))];
    let standing = entry.standing();
    kinds.extend(standing.keys.iter().map(|keys| Kind::Keys(wire::KeySetup::clone(keys))));
    match &standing.offer {
        Some(terms) if terms.invited.contains(site) => {
            kinds.push(Kind::Offer(encode::terms(terms)));
            kinds.extend(standing.roster.iter().map(|roster| Kind::Roster(encode::roster(roster))));
            if standing.roster.as_ref().is_some_and(|roster| roster.members.contains(site)) {
                kinds.extend(
                    standing.final_set.iter().map(|set| Kind::FinalSet(encode_final_set(set))),
                );
                let signed = standing.signed_set.iter();
                kinds.extend(signed.map(|signed| Kind::SignedSet(encode_signed_set(signed))));
            }
        }
        Some(_) | None => {
            kinds.extend(standing.last.iter().map(|closed| Kind::Closed(encode::closed(closed))));
        }
    }
    kinds
}

fn addressed_to(addressed: &Addressed, site: &HospitalId) -> Option<Kind> {
    addressed.to.contains(site).then(|| match &addressed.what {
        Told::Study(entry) => Kind::Study(entry.notice(site)),
        Told::Offer(terms) => Kind::Offer(encode::terms(terms)),
        Told::Roster(roster) => Kind::Roster(encode::roster(roster)),
        Told::FinalSet(set) => Kind::FinalSet(encode_final_set(set)),
        Told::SignedSet(signed) => Kind::SignedSet(encode_signed_set(signed)),
        Told::Keys(keys) => Kind::Keys(wire::KeySetup::clone(keys)),
        Told::Closed(closed) => Kind::Closed(encode::closed(closed)),
        Told::Log(grown) => Kind::Log(grown.clone()),
    })
}

/// Keeps a site's decision and what follows from it.
async fn decide(
    house: &Arc<Coordinator>,
    entry: &Arc<Entry>,
    site: &HospitalId,
    decision: Decision,
) -> Result<(), Status> {
    let _turn = entry.turn.lock().await;
    let (before, life, mut decisions) = {
        let standing = entry.standing();
        (standing.decisions.get(site).copied(), standing.life, standing.decisions.clone())
    };
    if before == Some(decision) {
        return Ok(());
    }
    if life.ended() {
        return Err(Status::failed_precondition(format!("the study is {life}")));
    }
    decisions.insert(site.clone(), decision);
    let complete = life == Life::Proposed && all_approve(&entry.sites, &decisions);
    let after = if complete {
        life.apply(Change::Approve)
            .map_err(|refused| Status::failed_precondition(refused.to_string()))?
    } else {
        life
    };
    let mut facts = vec![
        Leaf::of(entry.id, "study_decided")
            .with("site", site.as_str())
            .with("decision", decision_name(decision)),
    ];
    if after != life {
        facts.push(
            Leaf::of(entry.id, "study_changed")
                .with("from", life.name())
                .with("to", after.name())
                .with("by", "sites"),
        );
    }
    house
        .store
        .decide(entry.id, site, decision, after, clock::now(), &facts)
        .await
        .map_err(|fault| store_status(&fault))?;
    {
        let mut standing = entry.standing();
        standing.decisions = decisions;
        standing.life = after;
    }
    tracing::info!(study = %entry.id.short(), %site, decision = decision_name(decision), "study decided");
    house.board.changed(entry);
    let driver = entry.standing().driver.clone();
    if let Some(driver) = driver {
        // A full inbox means that the driver is busy, and will look at the decisions next.
        let _ = driver.try_send(Command::Nudge);
    }
    if decision != Decision::Approved {
        house.remove_from_rounds(site, Some(entry.id)).await;
    }
    Ok(())
}
