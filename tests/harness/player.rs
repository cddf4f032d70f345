//! A site played by hand: it holds a real certificate, speaks the wire directly, and so can say
//! what an honest agent never would. Also whoever else knocks with a certificate.

mod masked;

pub use self::masked::{Masked, SlotSecrets};

use std::time::Duration;

use aggregation::ids::Digest;
use aggregation::message::{Roster, Terms, Work};
use aggregation::study::Study;
use proto::channel::{ClientIdentity, Target, connect};
use proto::federation::federation_client::FederationClient;
use proto::federation::{
    DecideStudyRequest, Decision, FetchModelRequest, Notice, ReadyRequest, UpdateHeader,
    UpdatePart, UpdateReceipt, WatchRequest, notice, update_part,
};
use proto::limits::CHUNK;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::consortium::Consortium;
use crate::site::Site;
use crate::{Outcome, Trouble, stand_in};

/// How long the coordinator may take to notice that an upload was cut off.
const NOTICED: Duration = Duration::from_millis(100);
/// How often an upload is sent again for that.
const TRIES: u32 = 50;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A site without an agent, and its side of the conversation.
#[derive(Debug)]
pub struct Player {
    name: String,
    client: FederationClient<Channel>,
    notices: Streaming<Notice>,
}

/// What a player sends as an update: the header, then parts, each as it is.
#[derive(Debug, Clone)]
pub struct Upload {
    /// What is claimed.
    pub header: UpdateHeader,
    /// What is sent.
    pub parts: Vec<Vec<u8>>,
}

impl Upload {
    /// An honest upload of these bytes.
    #[must_use]
    pub fn new(terms: &Terms, packed: &[u8]) -> Self {
        let header = UpdateHeader {
            study: terms.study.digest().as_bytes().to_vec(),
            round: terms.round.get(),
            slot: terms.slot.get(),
            terms: terms.digest().as_bytes().to_vec(),
            bytes: u64::try_from(packed.len()).unwrap_or(u64::MAX),
            digest: blake3::hash(packed).as_bytes().to_vec(),
        };
        Self { header, parts: packed.chunks(CHUNK).map(<[u8]>::to_vec).collect() }
    }

    fn messages(self) -> Vec<UpdatePart> {
        let header = UpdatePart { part: Some(update_part::Part::Header(self.header)) };
        let parts = self
            .parts
            .into_iter()
            .map(|data| UpdatePart { part: Some(update_part::Part::Data(data.into())) });
        std::iter::once(header).chain(parts).collect()
    }
}

impl Player {
    /// Takes a site's seat; its agent must not be running.
    ///
    /// # Errors
    /// When the site is not enrolled, or the coordinator does not let it in.
    pub async fn take_seat(consortium: &Consortium, site: &Site) -> Outcome<Self> {
        let (client, _) = site.identity()?;
        Self::sit(&site.name, &consortium.target(Some(client))?).await
    }

    /// Takes the seat of the site of this name, which is whom the target's certificate speaks for.
    ///
    /// # Errors
    /// When the coordinator does not let it in.
    pub async fn sit(name: &str, target: &Target) -> Outcome<Self> {
        let mut client = federation(target).await?;
        let request = WatchRequest { version: "player".to_owned() };
        let notices = client.watch(request).await.map_err(|status| said(&status))?.into_inner();
        Ok(Self { name: name.to_owned(), client, notices })
    }

    /// Approves a study.
    ///
    /// # Errors
    /// When the coordinator refuses.
    pub async fn approve(&mut self, study: &Study) -> Outcome<()> {
        let request = DecideStudyRequest {
            study: study.digest().digest().as_bytes().to_vec(),
            decision: Decision::Approved.into(),
        };
        self.client.decide_study(request).await.map_err(|status| said(&status))?;
        Ok(())
    }

    /// The next notice that `wanted` takes something from; others pass by.
    async fn await_notice<T>(
        &mut self,
        what: &str,
        wanted: impl Fn(notice::Notice) -> Option<T>,
    ) -> Outcome<T> {
        let heard = async {
            loop {
                match self.notices.message().await {
                    Ok(Some(notice)) => {
                        if let Some(found) = notice.notice.and_then(&wanted) {
                            return Ok(found);
                        }
                    }
                    Ok(None) => return Err(Trouble::new(format!("no {what}: the stream ended"))),
                    Err(status) => return Err(said(&status)),
                }
            }
        };
        let late = || Trouble::new(format!("{} waited for {what}", self.name));
        let waited = tokio::time::timeout(PATIENCE, heard).await;
        waited.map_err(|_| late())?
    }

    /// Waits for the terms of a round.
    ///
    /// # Errors
    /// When they do not come, or do not decode.
    pub async fn await_offer(&mut self, round: u32) -> Outcome<Terms> {
        let terms = self
            .await_notice("terms", |notice| {
                let notice::Notice::Offer(terms) = notice else { return None };
                (terms.round == round).then_some(terms)
            })
            .await?;
        Ok(proto::decode::terms(&terms)?)
    }

    /// Waits for the frozen roster of these terms.
    ///
    /// # Errors
    /// When it does not come, or does not decode.
    pub async fn await_roster(&mut self, terms: &Terms) -> Outcome<Roster> {
        let slot = terms.slot.get();
        let roster = self
            .await_notice("the roster", |notice| {
                let notice::Notice::Roster(roster) = notice else { return None };
                (roster.slot == slot).then_some(roster)
            })
            .await?;
        Ok(proto::decode::roster(&roster)?)
    }

    /// Waits for a round's end; whether its sum was released.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn await_end(&mut self, terms: &Terms) -> Outcome<bool> {
        let slot = terms.slot.get();
        self.await_notice("the round's end", |notice| {
            let notice::Notice::Closed(closed) = notice else { return None };
            (closed.slot == slot).then_some(closed.released)
        })
        .await
    }

    /// Waits until the coordinator ends the stream of notices; how it did.
    ///
    /// # Errors
    /// When it goes on, or ends without a word.
    pub async fn await_hang_up(&mut self) -> Outcome<Status> {
        let heard = async {
            loop {
                match self.notices.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Err(Trouble::new("the stream ended without a word")),
                    Err(status) => return Ok(status),
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, heard).await;
        waited.map_err(|_| Trouble::new("waited for the stream to be ended"))?
    }

    /// Says that it has trained.
    ///
    /// # Errors
    /// The coordinator's refusal.
    pub async fn ready(&mut self, terms: &Terms) -> Result<(), Status> {
        let request = ReadyRequest {
            study: terms.study.digest().as_bytes().to_vec(),
            round: terms.round.get(),
            slot: terms.slot.get(),
            terms: terms.digest().as_bytes().to_vec(),
        };
        self.send_ready(request).await
    }

    /// Says this, whatever it is.
    ///
    /// # Errors
    /// The coordinator's refusal.
    pub async fn send_ready(&mut self, request: ReadyRequest) -> Result<(), Status> {
        in_time(self.client.send_ready(request)).await.map(|_| ())
    }

    /// The model of these terms.
    ///
    /// # Errors
    /// When it does not come whole.
    pub async fn fetch(&mut self, terms: &Terms) -> Outcome<Vec<f32>> {
        let request = FetchModelRequest {
            study: terms.study.digest().as_bytes().to_vec(),
            model: terms.model.as_bytes().to_vec(),
            offset: 0,
        };
        let answer = in_time(self.client.fetch_model(request)).await;
        let mut chunks = answer.map_err(|status| said(&status))?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.message().await.map_err(|status| said(&status))? {
            bytes.extend(chunk.data);
        }
        if Digest::sha256(&bytes) != terms.model {
            return Err(Trouble::new("expected the model that the terms name, found another"));
        }
        Ok(aggregation::architecture::model_from_bytes(&bytes)?)
    }

    /// What the stand-in trainer would send for these terms.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn update(&self, study: &Study, sites: usize, work: Work) -> Outcome<Vec<u8>> {
        Ok(stand_in::update(study, sites, work, &self.name)?.packed)
    }

    /// Sends an upload to its end.
    ///
    /// # Errors
    /// The coordinator's refusal.
    pub async fn send(&mut self, upload: Upload) -> Result<UpdateReceipt, Status> {
        self.send_messages(upload.messages()).await
    }

    /// Sends these messages as an upload; again, as an agent does, while the coordinator has not
    /// noticed yet that an earlier one was cut off.
    ///
    /// # Errors
    /// The coordinator's refusal.
    pub async fn send_messages(&mut self, parts: Vec<UpdatePart>) -> Result<UpdateReceipt, Status> {
        let mut tries = 0;
        loop {
            let mut client = self.client.clone().max_encoding_message_size(64 << 20);
            let stream = tokio_stream::iter(parts.clone());
            match in_time(client.send_update(stream)).await {
                Err(status) if status.code() == Code::Aborted && tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(NOTICED).await;
                }
                answered => return answered.map(tonic::Response::into_inner),
            }
        }
    }

    /// Begins an upload and hangs up after its first part, in the middle of the stream.
    ///
    /// # Errors
    /// When the coordinator ends it first.
    pub async fn send_cut_off(&mut self, upload: Upload) -> Outcome<()> {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let mut client = self.client.clone();
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let sending = tokio::spawn(async move { client.send_update(stream).await.map(|_| ()) });
        for part in upload.messages().into_iter().take(2) {
            sender.send(part).await?;
        }
        // The parts are on their way when there is room for another.
        let _room = sender.reserve().await?;
        sending.abort();
        Ok(())
    }
}

/// A client of the site's service, whoever the certificate says.
///
/// # Errors
/// When there is no connection.
pub async fn federation(target: &Target) -> Outcome<FederationClient<Channel>> {
    Ok(FederationClient::new(connect(target).await?))
}

/// Asks to watch, with this identity or none.
///
/// # Errors
/// Why not: the coordinator's code, or the trouble of the channel.
pub async fn knock(consortium: &Consortium, identity: Option<ClientIdentity>) -> Result<(), Knock> {
    let target =
        consortium.target(identity).map_err(|trouble| Knock::Story(trouble.to_string()))?;
    let channel = connect(&target).await.map_err(|error| Knock::Channel(error.trouble))?;
    let request = WatchRequest { version: "knock".to_owned() };
    match in_time(FederationClient::new(channel).watch(request)).await {
        Ok(_) => Ok(()),
        Err(status) => match proto::channel::explain(&status) {
            Some(error) => Err(Knock::Channel(error.trouble)),
            None => Err(Knock::Refused(status.code(), status.message().to_owned())),
        },
    }
}

/// Why a door stayed shut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Knock {
    /// At the TLS layer or below.
    Channel(proto::channel::Trouble),
    /// By the coordinator.
    Refused(Code, String),
    /// The story itself went wrong.
    Story(String),
}

/// A refusal as a line.
#[must_use]
pub fn said(status: &Status) -> Trouble {
    Trouble::new(format!("{:?}: {}", status.code(), status.message()))
}

async fn in_time<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<tonic::Response<T>, Status> {
    let late = |_| Status::deadline_exceeded("the harness gave up waiting");
    tokio::time::timeout(PATIENCE, call).await.map_err(late)?
}
