//! This house as a witness of the coordinator's log: it remembers the newest checkpoint that it
//! cosigned, and cosigns the next only if it grew out of that one.
//!
//! What is cosigned is on disk before the cosignature exists, so a restart never cosigns a second
//! history. A log that contradicts itself is an alarm: the contradiction is kept as evidence, signed
//! by the log itself, and this house takes part in no round until its administrator has looked. The
//! coordinator is shown what was cosigned last, so that one that was set back notices, too.
//!
//! ```text
//! witness.key          the cosigning key, Ed25519; made here, stays here
//! witness.log          the log's public key, as it was first told; earlier ones on lines below it
//! witness.checkpoint   the newest checkpoint that was cosigned
//! witness.alarm        what the log said against itself, if it did
//! witness.owed         what the coordinator said it has, and is yet to be seen in the log
//! ```

pub(crate) mod owed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aggregation::checkpoint::LogHead;
use aggregation::ids::{HospitalId, SlotId, StudyId};
use aggregation::keys::identity::{Identity, Statement as _};
use aggregation::keys::witness::WitnessKey;
use aggregation::message::Terms;
use proto::federation::{
    CheckpointReply, CheckpointRequest, CosignatureRequest, LogGrown, WitnessKeyRequest,
};
use proto::limits::{MAX_LINE, MAX_OFFER};
use serde_json::json;
use tokio::sync::Mutex;
use tonic::{Code, Response, Status};
use transparency::checkpoint::SignedCheckpoint;
use transparency::cosignature::Cosigner;
use transparency::note::{Signature, VerifierKey};
use transparency::tree::{Hash, Head, empty_root, is_consistent};
use transparency::witness::{Offer, Refusal, Witness};

use crate::clock;
use crate::identity::{self, IdentityError};
use crate::link::Client;
use crate::state::{State, StateError};

const LOG: &str = "witness.log";
const CHECKPOINT: &str = "witness.checkpoint";
const ALARM: &str = "witness.alarm";

/// Heads that are known to be in the past; rounds name the newest.
const MOST_HEADS: usize = 256;
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
    /// The terms name a log that is older than what this house had cosigned a round ago.
    #[error("expected a round that names a log of at least {floor} entries, found one of {found}")]
    Old {
        /// What was cosigned when the last round of the study was taken part in.
        floor: u64,
        /// What is named.
        found: u64,
    },
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
    /// Which look at the log gave the checkpoint that was cosigned last.
    look: u64,
}

/// The witness and its files.
#[derive(Debug)]
pub(crate) struct Desk {
    state: State,
    me: HospitalId,
    origin: String,
    identity: Arc<Identity>,
    cosigner: Cosigner,
    alarm: std::sync::Mutex<Alarm>,
    /// How often the log was looked at.
    looks: AtomicU64,
    held: Mutex<Held>,
    seen: std::sync::Mutex<Seen>,
    claims: std::sync::Mutex<owed::Claims>,
}

/// Whether the log has contradicted itself.
#[derive(Debug)]
enum Alarm {
    /// It has not, or an administrator has looked.
    Quiet,
    /// It has; this is the evidence, which the disk would not take yet.
    Unwritten(Vec<u8>),
    /// It has, and the evidence was seen in its file.
    Written,
}

/// What is known without asking.
#[derive(Debug, Default)]
struct Seen {
    /// Leaves of the newest checkpoint that was cosigned.
    size: u64,
    /// Heads that are in the past of that one.
    heads: BTreeSet<LogHead>,
    /// The same when this program started: no round that is offered since names an older log, of
    /// whatever study.
    begun: u64,
    /// For each study the last round that was taken part in.
    floors: BTreeMap<StudyId, Floor>,
}

/// How old a log a study's rounds may name.
#[derive(Debug, Clone, Copy)]
struct Floor {
    slot: SlotId,
    /// For this slot, if it is offered again.
    before: u64,
    /// For those after it: what had been cosigned when it was taken part in.
    after: u64,
}

impl Seen {
    /// The fewest entries that the log of a round may have. The empty log is nobody's: what this house
    /// approved is in it before a round is opened.
    fn floor(&self, terms: &Terms) -> u64 {
        let floor = match self.floors.get(&terms.study) {
            Some(floor) if floor.slot == terms.slot => floor.before,
            Some(floor) => floor.after,
            None => self.begun,
        };
        floor.max(1)
    }
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
            (Some((log, earlier)), Some(stored)) => Some(
                Witness::resume_after(log, &earlier, &stored)
                    .map_err(|_| damaged("a checkpoint that the pinned log has signed"))?,
            ),
            (Some((log, _)), None) => Some(Witness::new(log)),
            (None, None) => None,
            (None, Some(_)) => return Err(damaged("the log's key beside it, in witness.log")),
        };
        let alarm = if state.read(ALARM)?.is_some() { Alarm::Written } else { Alarm::Quiet };
        let alarm = std::sync::Mutex::new(alarm);
        let size =
            witness.as_ref().and_then(Witness::latest).map_or(0, |one| one.checkpoint().size());
        let seen = std::sync::Mutex::new(Seen { size, begun: size, ..Seen::default() });
        let held = Mutex::new(Held { witness, announced: None, look: 0 });
        let looks = AtomicU64::new(0);
        let claims = std::sync::Mutex::new(owed::Claims::read(&state)?);
        Ok(Self { state, me, origin, identity, cosigner, alarm, looks, held, seen, claims })
    }

    /// Whether the log has contradicted itself. An administrator who has looked takes the file of
    /// the alarm away; one that is not there because the disk was full is tried again.
    pub(crate) fn alarmed(&self) -> bool {
        let mut alarm = self.alarm.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*alarm {
            Alarm::Quiet => {}
            Alarm::Unwritten(evidence) => match self.state.replace(ALARM, evidence) {
                Ok(()) => *alarm = Alarm::Written,
                Err(error) => tracing::error!(%error, file = ALARM, "an ALARM cannot be kept"),
            },
            Alarm::Written => {
                if matches!(self.state.read(ALARM), Ok(None)) {
                    tracing::warn!("the alarm of the log was taken away by hand");
                    *alarm = Alarm::Quiet;
                }
            }
        }
        !matches!(*alarm, Alarm::Quiet)
    }

    /// Whether the evidence of an alarm is on disk.
    fn is_kept(&self) -> bool {
        let alarm = self.alarm.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        matches!(*alarm, Alarm::Written)
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
        let cosigned = self.advance(&mut held, &mut client, grown).await?;
        let size = cosigned.size;
        self.say(&mut held, &mut client, session, cosigned).await?;
        self.collect(&held, &mut client, None).await?;
        Ok(size)
    }

    /// Whether the log that a round names is known to be in the past of what this house witnessed,
    /// and not further back than it was a round ago, or when this program started (PROTOCOL R-25). If
    /// so, the round counts as taken part in.
    pub(crate) fn accepts(&self, terms: &Terms) -> bool {
        let mut seen = self.seen();
        let before = seen.floor(terms);
        if !seen.heads.contains(&terms.log) || terms.log.size < before {
            return false;
        }
        let floor = Floor { slot: terms.slot, before, after: seen.size };
        seen.floors.insert(terms.study, floor);
        true
    }

    /// Makes sure that the log which a round names is in the past of what this house witnessed.
    ///
    /// # Errors
    /// When it cannot be told, or is not.
    pub(crate) async fn vouch(
        &self,
        mut client: Client,
        session: u64,
        grown: &LogGrown,
        terms: &Terms,
    ) -> Result<(), WitnessError> {
        let found = terms.log.size;
        let floor = self.seen().floor(terms);
        if found < floor {
            return Err(WitnessError::Old { floor, found });
        }
        let mut held = self.held.lock().await;
        if self.alarmed() {
            // Raised while this was waiting: its evidence stays.
            return Err(WitnessError::Alarmed);
        }
        if self.seen().size < found {
            let cosigned = self.advance(&mut held, &mut client, grown).await?;
            if let Err(error) = self.say(&mut held, &mut client, session, cosigned).await {
                // It is said again with the next checkpoint; the round need not wait for that.
                tracing::debug!(%error, "a cosignature was not heard");
            }
        }
        let witness = held.witness.as_ref().ok_or(WitnessError::Shape("log to look at"))?;
        let nothing = Head { size: 0, root: empty_root() };
        let latest = witness.latest().map_or(nothing, |signed| signed.checkpoint().head());
        if latest.size < found {
            return Err(WitnessError::Shape("log as long as the round says"));
        }
        // From the named head to what was cosigned, whose root is known here.
        let proof = if found == latest.size {
            Vec::new()
        } else {
            fetch(&mut client, latest.size, found, None).await?.proof
        };
        if in_the_past(&terms.log, latest, &proof) {
            self.collect(&held, &mut client, Some(terms)).await?;
            self.learn(&terms.log);
            return Ok(());
        }
        // What the log itself says of that size, signed, if it says anything.
        let shown = fetch(&mut client, found, 0, None).await;
        let shown = shown.map_or_else(|_| String::new(), |offer| offer.to_string());
        let reason = format!(
            "fork: a round names a log of {found} entries that is not in the past of the {} that were cosigned",
            latest.size
        );
        Err(self.alarm(reason, witness, &shown))
    }

    /// A head was shown to be in the past of what this house witnessed.
    pub(crate) fn learn(&self, head: &LogHead) {
        let mut seen = self.seen();
        seen.heads.insert(*head);
        while seen.heads.len() > MOST_HEADS {
            seen.heads.pop_first();
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Cosigns the newest checkpoint.
    async fn advance(
        &self,
        held: &mut Held,
        client: &mut Client,
        grown: &LogGrown,
    ) -> Result<CosignatureRequest, WitnessError> {
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
        held.look = self.looks.fetch_add(1, Ordering::SeqCst) + 1;
        let latest = witness.latest().map_or(0, |signed| signed.checkpoint().size());
        let offer = match fetch(client, 0, latest, witness.latest()).await {
            // Shorter than what was cosigned: what it shows instead is the evidence.
            Err(WitnessError::Status(status)) if status.code() == Code::OutOfRange => {
                fetch(client, 0, 0, None).await?
            }
            offer => offer?,
        };
        let line = self.take(witness, &offer)?;
        let size = offer.signed.checkpoint().size();
        Ok(CosignatureRequest { size, line: line.to_string() })
    }

    /// Tells the coordinator what was cosigned, and once a session with which key.
    async fn say(
        &self,
        held: &mut Held,
        client: &mut Client,
        session: u64,
        cosigned: CosignatureRequest,
    ) -> Result<(), WitnessError> {
        if held.announced != Some(session) {
            answered(client.send_witness_key(self.announcement())).await?;
            held.announced = Some(session);
        }
        answered(client.send_cosignature(cosigned)).await?;
        Ok(())
    }

    /// Cosigns an offer, once it is on disk that it did.
    fn take(&self, witness: &mut Witness, offer: &Offer) -> Result<Signature, WitnessError> {
        let advance =
            witness.consider(offer).map_err(|refusal| self.refuse(&refusal, witness, offer))?;
        self.state.replace(CHECKPOINT, advance.to_store().as_bytes())?;
        self.seen().size = offer.signed.checkpoint().size();
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
        let Some((pinned, _)) = pinned(&self.state).map_err(|_| WitnessError::Damaged(LOG))? else {
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
        let evidence = json!({
            "at": clock::rfc3339(clock::now()),
            "reason": reason,
            "cosigned": witness.latest().map(ToString::to_string),
            "offered": offered,
        });
        tracing::error!(
            reason,
            file = ALARM,
            "ALARM: the coordinator's log contradicts what this house cosigned, or was told; no round \
             is taken part in until an administrator has looked"
        );
        {
            let mut alarm = self.alarm.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *alarm = Alarm::Unwritten(format!("{evidence:#}\n").into_bytes());
        }
        // Writes it down, now or as soon as the disk takes it.
        self.alarmed();
        WitnessError::Alarm(reason)
    }

    fn announcement(&self) -> WitnessKeyRequest {
        let key = *self.cosigner.key().public();
        let said = WitnessKey { log: self.origin.clone(), hospital: self.me.clone(), key };
        let signature = self.identity.sign(&said).as_bytes().to_vec();
        let proof = self.cosigner.prove_held(said.digest().as_bytes());
        WitnessKeyRequest { key: key.to_vec(), signature, proof }
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
        (Some((log, earlier)), Some(stored)) => {
            let damaged = |_| IdentityError::Damaged {
                path: state.file(CHECKPOINT),
                expected: "a checkpoint that the pinned log has signed",
            };
            let witness = Witness::resume_after(log.clone(), earlier, &stored).map_err(damaged)?;
            witness.latest().map(|signed| signed.checkpoint().size())
        }
        _ => None,
    };
    let alarm = state.read(ALARM)?.map(|evidence| {
        let evidence: serde_json::Value = serde_json::from_slice(&evidence).unwrap_or_default();
        evidence["reason"].as_str().unwrap_or("see the file").to_owned()
    });
    Ok(Standing { key, log: log.map(|(log, _)| log.to_string()), size, alarm })
}

/// Where the evidence lies.
pub(crate) fn alarm_file(state: &State) -> std::path::PathBuf {
    state.file(ALARM)
}

/// The log's key as it was first told, or as an administrator has written it since, and those before.
type Pinned = (VerifierKey, Vec<VerifierKey>);

fn pinned(state: &State) -> Result<Option<Pinned>, IdentityError> {
    let Some(text) = state.read(LOG)? else { return Ok(None) };
    let keys: Option<Vec<VerifierKey>> = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.lines().map(|line| line.parse().ok()).collect());
    let mut keys = keys.unwrap_or_default().into_iter();
    let damaged = || IdentityError::Damaged { path: state.file(LOG), expected: "the log's key" };
    let newest = keys.next().ok_or_else(damaged)?;
    let earlier: Vec<_> = keys.collect();
    if earlier.iter().any(|key| key.name() != newest.name()) {
        return Err(damaged());
    }
    Ok(Some((newest, earlier)))
}

fn log_key(grown: &LogGrown) -> Result<VerifierKey, WitnessError> {
    let text = &grown.key;
    let key = (text.len() <= MAX_LINE).then(|| text.parse().ok()).flatten();
    key.ok_or(WitnessError::Shape("key of a log"))
}

/// Whether the head that a round names is in the past of what was cosigned.
fn in_the_past(named: &LogHead, latest: Head, proof: &[Hash]) -> bool {
    let named = Head { size: named.size, root: *named.root.as_bytes() };
    if named.size == 0 {
        return named.root == empty_root();
    }
    is_consistent(named, latest, proof)
}

async fn fetch(
    client: &mut Client,
    size: u64,
    old_size: u64,
    cosigned: Option<&SignedCheckpoint>,
) -> Result<Offer, WitnessError> {
    let checkpoint = cosigned.map(|signed| signed.to_string().into_bytes()).unwrap_or_default();
    // A longer one is not taken: then nothing is shown.
    let checkpoint = if checkpoint.len() > MAX_OFFER { Vec::new() } else { checkpoint };
    let asked = CheckpointRequest { size, old_size, checkpoint };
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
