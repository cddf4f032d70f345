//! This house as a witness of the coordinator's log: it remembers the newest checkpoint that it
//! cosigned, and cosigns the next only if it grew out of that one.
//!
//! What is cosigned is on disk before the cosignature exists, so a restart never cosigns a second
//! history. A log that contradicts itself is an alarm: the contradiction is kept as evidence, signed
//! by the log itself, and this house takes part in no round until its administrator has looked.
//!
//! ```text
//! witness.key          the cosigning key, Ed25519; made here, stays here
//! witness.log          the log's public key, as it was first told
//! witness.checkpoint   the newest checkpoint that was cosigned
//! witness.alarm        what the log said against itself, if it did
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aggregation::ids::HospitalId;
use aggregation::keys::identity::Identity;
use aggregation::keys::witness::WitnessKey;
use proto::federation::{
    CheckpointReply, CheckpointRequest, CosignatureRequest, LogGrown, WitnessKeyRequest,
};
use proto::limits::{MAX_LINE, MAX_OFFER};
use serde_json::json;
use tokio::sync::Mutex;
use tonic::{Code, Response, Status};
use transparency::cosignature::Cosigner;
use transparency::note::{Signature, VerifierKey};
use transparency::witness::{Offer, Refusal, Witness};

use crate::clock;
use crate::identity::{self, IdentityError};
use crate::link::Client;
use crate::state::{State, StateError};

const LOG: &str = "witness.log";
const CHECKPOINT: &str = "witness.checkpoint";
const ALARM: &str = "witness.alarm";

/// How long the coordinator may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a checkpoint was not cosigned this time. Without an alarm, it may be the next time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WitnessError {
    /// The coordinator's answer, or that there was none.
    #[error("{}", .0.message())]
    Status(Box<Status>),
    /// No answer in time.
    #[error("the coordinator did not answer in time")]
    Late,
    /// Not what was asked for.
    #[error("the coordinator's answer is no {0}")]
    Shape(&'static str),
    /// The log contradicts itself.
    #[error("the log contradicts itself: {0}")]
    Alarm(String),
    /// An alarm was raised before.
    #[error("an alarm was raised before; see {ALARM} in the state folder")]
    Alarmed,
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file of the state folder is not what was written.
    #[error("{0} in the state folder is damaged")]
    Damaged(&'static str),
}

impl From<Status> for WitnessError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// What an administrator is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// This house's cosigning key, as policy files have it.
    pub(crate) key: Option<String>,
    /// The log's key.
    pub(crate) log: Option<String>,
    /// Leaves of the newest checkpoint that was cosigned.
    pub(crate) size: Option<u64>,
    /// Why it refuses.
    pub(crate) alarm: Option<String>,
}

#[derive(Debug, Default)]
struct Held {
    witness: Option<Witness>,
    /// Under which session the key was announced.
    announced: Option<u64>,
}

/// The witness and its files.
#[derive(Debug)]
pub(crate) struct Desk {
    state: State,
    me: HospitalId,
    origin: String,
    identity: Arc<Identity>,
    cosigner: Cosigner,
    alarmed: AtomicBool,
    held: Mutex<Held>,
}

/// What the log of a consortium is called.
fn origin(consortium: &HospitalId) -> String {
    format!("consilium/{consortium}")
}

impl Desk {
    /// Takes up what this house witnessed before; makes the key if there is none.
    ///
    /// # Errors
    /// When a file is damaged or exposed, or cannot be made.
    pub(crate) fn open(
        state: State,
        consortium: &HospitalId,
        me: HospitalId,
        identity: Arc<Identity>,
    ) -> Result<Self, IdentityError> {
        let origin = origin(consortium);
        let cosigner = identity::cosigner(&state, &format!("{origin}/{me}"))?;
        let damaged = |expected| IdentityError::Damaged { path: state.file(CHECKPOINT), expected };
        let witness = match (pinned(&state)?, state.read(CHECKPOINT)?) {
            (Some(log), Some(stored)) => Some(
                Witness::resume(log, &stored)
                    .map_err(|_| damaged("a checkpoint that the pinned log has signed"))?,
            ),
            (Some(log), None) => Some(Witness::new(log)),
            (None, None) => None,
            (None, Some(_)) => return Err(damaged("the log's key beside it, in witness.log")),
        };
        let alarmed = AtomicBool::new(state.read(ALARM)?.is_some());
        let held = Mutex::new(Held { witness, announced: None });
        Ok(Self { state, me, origin, identity, cosigner, alarmed, held })
    }

    /// Whether the log has contradicted itself. An administrator who has looked takes the file of
    /// the alarm away.
    pub(crate) fn alarmed(&self) -> bool {
        if self.alarmed.load(Ordering::Acquire) && matches!(self.state.read(ALARM), Ok(None)) {
            tracing::warn!("the alarm of the log was taken away by hand");
            self.alarmed.store(false, Ordering::Release);
        }
        self.alarmed.load(Ordering::Acquire)
    }

    /// Follows the log to its newest checkpoint, and cosigns that.
    ///
    /// # Errors
    /// When it cannot, or must not.
    pub(crate) async fn follow(
        &self,
        mut client: Client,
        session: u64,
        grown: &LogGrown,
    ) -> Result<u64, WitnessError> {
        let mut held = self.held.lock().await;
        if self.alarmed() {
            return Err(WitnessError::Alarmed);
        }
        let witness = match &mut held.witness {
            Some(witness) => {
                self.same_log(witness, grown)?;
                witness
            }
            none @ None => none.insert(self.meet(grown)?),
        };
        let latest = witness.latest().map_or(0, |signed| signed.checkpoint().size());
        let offer = match fetch(&mut client, 0, latest).await {
            // Shorter than what was cosigned: what it shows instead is the evidence.
            Err(WitnessError::Status(status)) if status.code() == Code::OutOfRange => {
                fetch(&mut client, 0, 0).await?
            }
            offer => offer?,
        };
        let line = self.take(witness, &offer)?;
        let size = offer.signed.checkpoint().size();
        if held.announced != Some(session) {
            answered(client.send_witness_key(self.announcement())).await?;
            held.announced = Some(session);
        }
        let said = CosignatureRequest { size, line: line.to_string() };
        answered(client.send_cosignature(said)).await?;
        Ok(size)
    }

    /// Cosigns an offer, once it is on disk that it did.
    fn take(&self, witness: &mut Witness, offer: &Offer) -> Result<Signature, WitnessError> {
        let advance =
            witness.consider(offer).map_err(|refusal| self.refuse(&refusal, witness, offer))?;
        self.state.replace(CHECKPOINT, advance.to_store().as_bytes())?;
        let seconds = clock::now().as_millis() / 1_000;
        Ok(witness.cosign(advance, &self.cosigner, seconds))
    }

    /// Pins the log's key.
    fn meet(&self, grown: &LogGrown) -> Result<Witness, WitnessError> {
        let log = log_key(grown)?;
        if log.name() != self.origin {
            return Err(WitnessError::Shape("log of this consortium"));
        }
        self.state.replace(LOG, format!("{log}\n").as_bytes())?;
        tracing::info!(log = log.to_string(), "this house witnesses the log with this key");
        Ok(Witness::new(log))
    }

    fn same_log(&self, witness: &Witness, grown: &LogGrown) -> Result<(), WitnessError> {
        let found = log_key(grown)?;
        let Some(pinned) = pinned(&self.state).map_err(|_| WitnessError::Damaged(LOG))? else {
            return Err(WitnessError::Damaged(LOG));
        };
        if found == pinned {
            return Ok(());
        }
        let reason = format!("expected the log's key {pinned}, found {found}");
        Err(self.alarm(reason, witness, ""))
    }

    fn refuse(&self, refusal: &Refusal, witness: &Witness, offer: &Offer) -> WitnessError {
        match refusal {
            // The log has gone on between two questions; the next notice begins anew.
            Refusal::Stale { .. } => WitnessError::Shape("proof from the checkpoint asked for"),
            Refusal::UnknownLog { .. }
            | Refusal::Signature(_)
            | Refusal::Rollback { .. }
            | Refusal::Fork { .. } => self.alarm(refusal.to_string(), witness, &offer.to_string()),
        }
    }

    /// Keeps the evidence, and takes part in nothing from now on.
    fn alarm(&self, reason: String, witness: &Witness, offered: &str) -> WitnessError {
        self.alarmed.store(true, Ordering::Release);
        let evidence = json!({
            "at": clock::rfc3339(clock::now()),
            "reason": reason,
            "cosigned": witness.latest().map(ToString::to_string),
            "offered": offered,
        });
        tracing::error!(
            reason,
            file = ALARM,
            "ALARM: the coordinator's log contradicts what this house cosigned; no round is taken \
             part in until an administrator has looked"
        );
        match self.state.replace(ALARM, format!("{evidence:#}\n").as_bytes()) {
            Ok(()) => WitnessError::Alarm(reason),
            Err(error) => error.into(),
        }
    }

    fn announcement(&self) -> WitnessKeyRequest {
        let key = *self.cosigner.key().public();
        let said = WitnessKey { log: self.origin.clone(), hospital: self.me.clone(), key };
        let signature = self.identity.sign(&said).as_bytes().to_vec();
        WitnessKeyRequest { key: key.to_vec(), signature }
    }
}

/// What the state folder tells, without changing it.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn standing(
    state: &State,
    consortium: &HospitalId,
    me: &HospitalId,
) -> Result<Standing, IdentityError> {
    let name = format!("{}/{me}", origin(consortium));
    let key = identity::known_cosigner(state, &name)?.map(|cosigner| cosigner.key().to_string());
    let log = pinned(state)?;
    let size = match (&log, state.read(CHECKPOINT)?) {
        (Some(log), Some(stored)) => {
            let damaged = |_| IdentityError::Damaged {
                path: state.file(CHECKPOINT),
                expected: "a checkpoint that the pinned log has signed",
            };
            let witness = Witness::resume(log.clone(), &stored).map_err(damaged)?;
            witness.latest().map(|signed| signed.checkpoint().size())
        }
        _ => None,
    };
    let alarm = state.read(ALARM)?.map(|evidence| {
        let evidence: serde_json::Value = serde_json::from_slice(&evidence).unwrap_or_default();
        evidence["reason"].as_str().unwrap_or("see the file").to_owned()
    });
    Ok(Standing { key, log: log.map(|log| log.to_string()), size, alarm })
}

/// Where the evidence lies.
pub(crate) fn alarm_file(state: &State) -> std::path::PathBuf {
    state.file(ALARM)
}

/// The log's key as it was first told.
fn pinned(state: &State) -> Result<Option<VerifierKey>, IdentityError> {
    let Some(text) = state.read(LOG)? else { return Ok(None) };
    let key = std::str::from_utf8(&text).ok().and_then(|text| text.trim_end().parse().ok());
    key.map(Some)
        .ok_or_else(|| IdentityError::Damaged { path: state.file(LOG), expected: "the log's key" })
}

fn log_key(grown: &LogGrown) -> Result<VerifierKey, WitnessError> {
    let text = &grown.key;
    let key = (text.len() <= MAX_LINE).then(|| text.parse().ok()).flatten();
    key.ok_or(WitnessError::Shape("key of a log"))
}

async fn fetch(client: &mut Client, size: u64, old_size: u64) -> Result<Offer, WitnessError> {
    let asked = CheckpointRequest { size, old_size };
    let CheckpointReply { offer } = answered(client.fetch_checkpoint(asked)).await?;
    let offer = (offer.len() <= MAX_OFFER).then(|| Offer::parse(&offer).ok()).flatten();
    offer.ok_or(WitnessError::Shape("checkpoint with a proof"))
}

async fn answered<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, WitnessError> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(WitnessError::Late),
    }
}

#[cfg(test)]
mod tests;
