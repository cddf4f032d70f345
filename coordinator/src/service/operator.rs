//! What operators, administrators and auditors ask.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aggregation::ids::HospitalId;
use aggregation::life::Change;
use bytes::Bytes;
use futures_util::Stream;
use proto::decode;
use proto::federation as wire;
use proto::federation::operator_server::Operator;
use proto::federation::study_event::Event;
use proto::limits::CHUNK;
use proto::status::from_decode;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::enrolment::site_status;
use super::{log, operator_view as view, store_status};
use crate::board::{Entry, Happened};
use crate::clock;
use crate::coordinator::{ChangeError, Coordinator};
use crate::identity::Caller;
use crate::model_file;
use crate::proposal::ProposalError;
use crate::store::Leaf;

/// A token is good for a day unless the operator says otherwise, and never for more than a month.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
const TOKEN_LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);
/// Events that wait for a watching operator to read them.
const OUTBOX: usize = 64;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    house: Arc<Coordinator>,
}

type Events = Pin<Box<dyn Stream<Item = Result<wire::StudyEvent, Status>> + Send>>;
type Chunks = Pin<Box<dyn Stream<Item = Result<wire::Chunk, Status>> + Send>>;

impl Service {
    pub(crate) fn new(house: Arc<Coordinator>) -> Self {
        Self { house }
    }

    /// A study by its digest, an unambiguous start of it, or its name.
    fn find(&self, wanted: &str) -> Result<Arc<Entry>, Status> {
        let shown: String = wanted.chars().take(80).collect();
        let studies = self.house.board.studies();
        let named: Vec<_> = studies.iter().filter(|entry| entry.study.name == wanted).collect();
        let started: Vec<_> = studies
            .iter()
            .filter(|entry| !wanted.is_empty() && entry.id.to_string().starts_with(wanted))
            .collect();
        match (named.as_slice(), started.as_slice()) {
            ([one], _) | ([], [one]) => Ok(Arc::clone(one)),
            ([], []) => Err(Status::not_found(format!("there is no study {shown:?}"))),
            (several, _) if !several.is_empty() => Err(Status::failed_precondition(format!(
                "{} studies are called {shown:?}; name one by its digest",
                several.len()
            ))),
            (_, several) => Err(Status::failed_precondition(format!(
                "{} studies start with {shown:?}; write more of the digest",
                several.len()
            ))),
        }
    }

    async fn view(&self, entry: &Arc<Entry>) -> Result<wire::StudyView, Status> {
        view::study(&self.house.store, entry).await.map_err(|fault| store_status(&fault))
    }
}

fn site_name(name: &str) -> Result<HospitalId, Status> {
    decode::hospital("site", name).map_err(|fault| from_decode(&fault))
}

#[tonic::async_trait]
impl Operator for Service {
    type WatchStudyStream = Events;
    type ExportModelStream = Chunks;

    async fn create_token(
        &self,
        request: Request<wire::CreateTokenRequest>,
    ) -> Result<Response<wire::CreateTokenReply>, Status> {
        let by = Caller::name(&request);
        let asked = request.into_inner();
        let site = site_name(&asked.site)?;
        let valid = match asked.valid_seconds {
            0 => TOKEN_LIFETIME,
            seconds => Duration::from_secs(seconds).min(TOKEN_LONGEST),
        };
        let (token, ends) = self
            .house
            .store
            .create_token(&site, valid, &by, clock::now())
            .await
            .map_err(|fault| site_status(&fault))?;
        tracing::info!(%site, by, "token made");
        Ok(Response::new(wire::CreateTokenReply {
            token,
            expires_ms: ends.as_millis(),
            ca_fingerprint: self.house.authority.fingerprint(),
            url: self.house.config.url.text.clone(),
        }))
    }

    async fn list_sites(
        &self,
        _request: Request<wire::ListSitesRequest>,
    ) -> Result<Response<wire::ListSitesReply>, Status> {
        let sites = self.house.store.sites().await.map_err(|fault| store_status(&fault))?;
        let sites = sites.iter().map(|site| view::site(&self.house.board, site)).collect();
        Ok(Response::new(wire::ListSitesReply { sites }))
    }

    async fn approve_site(
        &self,
        request: Request<wire::ApproveSiteRequest>,
    ) -> Result<Response<wire::ApproveSiteReply>, Status> {
        let by = Caller::name(&request);
        let asked = request.into_inner();
        let site = site_name(&asked.site)?;
        let expected = Some(asked.identity_fingerprint.as_str()).filter(|text| !text.is_empty());
        let now = clock::now();
        let approved = self
            .house
            .store
            .approve_site(&site, expected, &by, now, |csr| self.house.certify_site(&site, csr, now))
            .await
            .map_err(|fault| site_status(&fault))?;
        self.house.gate.admit(site.clone());
        tracing::info!(%site, by, "site approved");
        let site = Some(view::site(&self.house.board, &approved));
        Ok(Response::new(wire::ApproveSiteReply { site }))
    }

    async fn revoke_site(
        &self,
        request: Request<wire::RevokeSiteRequest>,
    ) -> Result<Response<wire::RevokeSiteReply>, Status> {
        let by = Caller::name(&request);
        let site = site_name(&request.into_inner().site)?;
        let (revoked, certificates) = self
            .house
            .store
            .revoke_site(&site, &by, clock::now())
            .await
            .map_err(|fault| site_status(&fault))?;
        // First no new call, then an end to the open ones, then out of the open rounds.
        self.house.gate.expel(&site, certificates);
        self.house.board.expel(&site);
        self.house.remove_from_rounds(&site, None).await;
        tracing::warn!(%site, by, "site revoked");
        let site = Some(view::site(&self.house.board, &revoked));
        Ok(Response::new(wire::RevokeSiteReply { site }))
    }

    async fn propose_study(
        &self,
        request: Request<wire::ProposeStudyRequest>,
    ) -> Result<Response<wire::StudyView>, Status> {
        let by = Caller::name(&request);
        let manifest = request.into_inner().manifest_toml;
        let entry = self.house.propose(&manifest, &by).await.map_err(|fault| match fault {
            ProposalError::Faults(_) => Status::invalid_argument(fault.to_string()),
            ProposalError::Model(cause) => Status::failed_precondition(cause.to_string()),
            ProposalError::Roll(cause) => {
                Status::failed_precondition(format!("{cause} ({})", cause.rule()))
            }
            ProposalError::Store(cause) => store_status(&cause),
        })?;
        Ok(Response::new(self.view(&entry).await?))
    }

    async fn list_operator_studies(
        &self,
        _request: Request<wire::ListOperatorStudiesRequest>,
    ) -> Result<Response<wire::ListOperatorStudiesReply>, Status> {
        let mut studies = Vec::new();
        for entry in self.house.board.studies() {
            studies.push(self.view(&entry).await?);
        }
        Ok(Response::new(wire::ListOperatorStudiesReply { studies }))
    }

    async fn show_study(
        &self,
        request: Request<wire::StudyRequest>,
    ) -> Result<Response<wire::StudyView>, Status> {
        let entry = self.find(&request.into_inner().study)?;
        Ok(Response::new(self.view(&entry).await?))
    }

    async fn control_study(
        &self,
        request: Request<wire::ControlStudyRequest>,
    ) -> Result<Response<wire::StudyView>, Status> {
        let by = Caller::name(&request);
        let asked = request.into_inner();
        let entry = self.find(&asked.study)?;
        let change = match wire::StudyControl::try_from(asked.control) {
            Ok(wire::StudyControl::Start) => Change::Start,
            Ok(wire::StudyControl::Pause) => Change::Pause,
            Ok(wire::StudyControl::Resume) => Change::Resume,
            Ok(wire::StudyControl::Stop) => Change::Stop,
            Ok(wire::StudyControl::Unspecified) | Err(_) => {
                return Err(Status::invalid_argument(
                    "control: expected start, pause, resume or stop",
                ));
            }
        };
        self.house.change_life(&entry, change, "", &by).await.map_err(|fault| match fault {
            ChangeError::Refused(_) | ChangeError::Unfit(_) => {
                Status::failed_precondition(fault.to_string())
            }
            ChangeError::Store(cause) => store_status(&cause),
        })?;
        Ok(Response::new(self.view(&entry).await?))
    }

    async fn watch_study(
        &self,
        request: Request<wire::StudyRequest>,
    ) -> Result<Response<Events>, Status> {
        let entry = self.find(&request.into_inner().study)?;
        let house = Arc::clone(&self.house);
        let (out, events) = mpsc::channel(OUTBOX);
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = tell(&house, &entry, &out) => ended,
                () = out.closed() => return,
                () = house.board.until_closing() => Err(Status::unavailable("the coordinator is stopping")),
            };
            if let Err(status) = ended {
                // The operator may be gone already.
                let _ = out.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }

    async fn list_models(
        &self,
        request: Request<wire::StudyRequest>,
    ) -> Result<Response<wire::ListModelsReply>, Status> {
        let entry = self.find(&request.into_inner().study)?;
        let history =
            self.house.store.history(entry.id).await.map_err(|fault| store_status(&fault))?;
        let models = history.iter().filter(|row| row.released).map(view::round).collect();
        Ok(Response::new(wire::ListModelsReply { models }))
    }

    async fn export_model(
        &self,
        request: Request<wire::ExportModelRequest>,
    ) -> Result<Response<Chunks>, Status> {
        let by = Caller::name(&request);
        let asked = request.into_inner();
        let entry = self.find(&asked.study)?;
        let history =
            self.house.store.history(entry.id).await.map_err(|fault| store_status(&fault))?;
        let row = history
            .iter()
            .rev()
            .find(|row| row.released && (asked.round == 0 || row.round.get() == asked.round))
            .ok_or_else(|| match asked.round {
                0 => Status::failed_precondition("no round of this study has been released yet"),
                round => Status::not_found(format!("round {round} of this study was not released")),
            })?;
        let model =
            self.house.store.blobs.model(row.model).await.map_err(|fault| store_status(&fault))?;
        let card = view::card(&entry, row, &history);
        let layout = entry.study.layout();
        let file = tokio::task::spawn_blocking(move || model_file::write(&layout, &model, card))
            .await
            .map_err(|fault| Status::internal(fault.to_string()))?
            .map_err(Status::internal)?;
        let fact = Leaf::of(entry.id, "model_exported")
            .with("round", row.round.get())
            .with("model", row.model.to_string())
            .with("by", by);
        self.house
            .store
            .record(clock::now(), &[fact])
            .await
            .map_err(|fault| store_status(&fault))?;
        let file = Bytes::from(file);
        let size = file.len();
        let chunks = (0..size).step_by(CHUNK).map(move |from| {
            let data = file.slice(from..size.min(from + CHUNK));
            Ok(wire::Chunk { data })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn show_log(
        &self,
        _request: Request<wire::ShowLogRequest>,
    ) -> Result<Response<wire::LogView>, Status> {
        Ok(Response::new(log::view(&self.house).await?))
    }
}

fn event(event: Event) -> wire::StudyEvent {
    wire::StudyEvent { event: Some(event) }
}

/// The present state, then what happens; ends when the study does.
async fn tell(
    house: &Arc<Coordinator>,
    entry: &Arc<Entry>,
    out: &mpsc::Sender<Result<wire::StudyEvent, Status>>,
) -> Result<(), Status> {
    let mut events = entry.events();
    let gone = |_| Status::cancelled("the operator has gone");
    let snapshot = || async {
        let shown = view::study(&house.store, entry).await.map_err(|fault| store_status(&fault))?;
        Ok::<_, Status>(event(Event::Snapshot(shown)))
    };
    out.send(Ok(snapshot().await?)).await.map_err(gone)?;
    let present: Vec<_> = {
        let standing = entry.standing();
        let started = standing.offer.iter().map(|terms| Event::Started(started(terms)));
        started.chain(standing.progress.values().cloned().map(Event::Progress)).collect()
    };
    for one in present {
        out.send(Ok(event(one))).await.map_err(gone)?;
    }
    loop {
        if entry.standing().life.ended() && events.is_empty() {
            return Ok(());
        }
        let next = match events.recv().await {
            Ok(Happened::Changed) => snapshot().await?,
            Ok(happened) => match told(happened) {
                Some(one) => event(one),
                None => continue,
            },
            // What was missed is in the snapshot.
            Err(broadcast::error::RecvError::Lagged(_)) => snapshot().await?,
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        };
        out.send(Ok(next)).await.map_err(gone)?;
    }
}

fn started(terms: &aggregation::message::Terms) -> wire::RoundStarted {
    wire::RoundStarted {
        round: terms.round.get(),
        slot: terms.slot.get(),
        invited: terms.invited.iter().map(ToString::to_string).collect(),
    }
}

fn told(happened: Happened) -> Option<Event> {
    match happened {
        Happened::Changed => None,
        Happened::Started(terms) => Some(Event::Started(started(&terms))),
        Happened::Progress(progress) => Some(Event::Progress(progress)),
        Happened::Ready(round, site) => {
            Some(Event::Ready(wire::SiteReady { round, site: site.to_string() }))
        }
        Happened::Uploaded(round, site) => {
            Some(Event::Uploaded(wire::SiteUploaded { round, site: site.to_string() }))
        }
        Happened::Signed(round, site) => {
            Some(Event::Signed(wire::SiteSigned { round, site: site.to_string() }))
        }
        Happened::Unmasked(round, site) => {
            Some(Event::Unmasked(wire::SiteUnmasked { round, site: site.to_string() }))
        }
        Happened::Closed(row) => Some(Event::Closed(view::round(&row))),
    }
}
