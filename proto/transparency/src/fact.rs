//! The vocabulary of the log: what each kind of leaf tells. `LEAVES.md` has it in one page.
//!
//! Reading is tolerant where a newer writer may know more: unknown kinds and additional fields are
//! no fault. It is strict where a known kind lacks what makes it say something: that is an error
//! which names the field, and never a fact with a hole.
//!
//! Texts are what the writer put there. Whoever shows them makes them safe for the place where they
//! are shown.

mod words;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::leaf::Leaf;
use crate::time::UtcTime;

pub use self::words::Outcome;

/// Why a leaf of a known kind does not say what its kind says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// A field is missing or has another type.
    #[error("expected a leaf of kind {kind}: {what}")]
    Shape {
        /// The kind.
        kind: String,
        /// Which field, and what is wrong.
        what: String,
    },
    /// A fact of a study or a round does not say of which.
    #[error("expected {missing} in a leaf of kind {kind}")]
    Place {
        /// The kind.
        kind: String,
        /// `study`, `round` or `slot`.
        missing: &'static str,
    },
}

/// A SHA-256 or BLAKE3 digest as leaves spell it: 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of that spelling; `None` if it is none.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 64 && text.bytes().all(hex)).then(|| Self(text.to_owned()))
    }

    /// All 64 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, enough to tell things of one log apart.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text).ok_or("expected a digest of 64 lower-case hexadecimal digits")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a study promised about privacy when it was proposed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct PrivacyPlan {
    /// `distributed`, `silo`, or `danger_no_privacy`.
    pub mode: String,
    /// The epsilon that the whole study may cost against the coordinator.
    pub epsilon: Option<f64>,
    /// The delta at which epsilon is counted.
    pub delta: Option<f64>,
    /// The norm that one patient's contribution is clipped to.
    pub clipping_norm: Option<f64>,
    /// The probability that a patient is sampled for a round.
    pub sampling_rate: Option<f64>,
    /// The cap on the epsilon that holds if all other sites collude.
    pub solo_epsilon_cap: Option<f64>,
    /// By which accountant epsilon is counted: `rdp` or `pld`.
    pub accountant: Option<String>,
}

/// What one round cost a site.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Charge {
    /// Whose ledger.
    pub site: String,
    /// `distributed` or `silo`.
    pub mode: String,
    /// Noise multiplier: the noise's standard deviation over the clipping norm.
    pub z: f64,
    /// The probability that a patient is sampled.
    pub q: f64,
    /// The delta at which epsilon is counted.
    pub delta: f64,
    /// Epsilon of the study at this site after the round, against the coordinator and the tolerated
    /// number of sites.
    pub epsilon_planned: f64,
    /// The same against all other sites together.
    pub epsilon_solo: f64,
    /// The site's cap for this study on what is spent against the coordinator and the tolerated
    /// number of sites.
    pub cap_planned: Option<f64>,
    /// The same on what is spent against all other sites together.
    pub cap_solo: Option<f64>,
    /// The delta that the caps are in, which need not be the study's.
    pub cap_delta: Option<f64>,
    /// What the site holds against `cap_planned`: epsilon at `cap_delta`, by its own accountant.
    pub spent_planned: Option<f64>,
    /// What it holds against `cap_solo`.
    pub spent_solo: Option<f64>,
    /// Whom one unit of privacy protects: `patient`, which is also meant when nothing is said, or
    /// `image`.
    pub unit: Option<String>,
    /// The number of the ledger's record, counted from 1.
    pub seq: Option<u64>,
    /// The hash of the ledger's record.
    pub head: Option<Digest>,
}

/// What a site holds against its caps, by either count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Held {
    /// The delta of the caps' own measure; without it the figures are the study's.
    pub delta: Option<f64>,
    /// Against the coordinator and the tolerated number of sites.
    pub planned: f64,
    /// Against all other sites together.
    pub solo: f64,
}

impl Charge {
    /// What the site holds against its caps: in the caps' own measure, where the charge tells all of
    /// it. Otherwise nothing that it tells makes less of the study's figures.
    #[must_use]
    pub fn against_caps(&self) -> Held {
        // On the wire an older node's silence is a 0, which is no delta.
        let delta = self.cap_delta.filter(|delta| *delta > 0.0 && *delta < 1.0);
        if let (Some(_), Some(planned), Some(solo)) = (delta, self.spent_planned, self.spent_solo) {
            return Held { delta, planned, solo };
        }
        let most = |told: Option<f64>, epsilon: f64| told.map_or(epsilon, |told| told.max(epsilon));
        Held {
            delta: None,
            planned: most(self.spent_planned, self.epsilon_planned),
            solo: most(self.spent_solo, self.epsilon_solo),
        }
    }
}

/// What happened. Facts whose names begin with `Round` tell of one attempt at one round; `Study`,
/// `Model` and `Ledger` of one study; `Site` and `Certificate` of the consortium.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "LEAVES.md describes every field, and a test holds it to this list"
)]
pub enum Fact {
    /// An operator made a token with which a site may enrol.
    SiteInvited { site: String, by: String },
    /// A site sent its certificate request and identity key.
    SiteEnrolled { site: String, identity: Digest },
    /// An operator admitted the site.
    SiteApproved { site: String, by: String, certificate: Digest, identity: Option<Digest> },
    /// An operator shut the site out.
    SiteRevoked { site: String, by: String },
    /// The site has a new certificate.
    CertificateRenewed { site: String, certificate: Digest },
    /// The site said, under its identity, which key it cosigns this log with.
    WitnessAnnounced { site: String, key: Digest, identity_key: Digest, signature: String },
    /// Somebody proposed a study to its sites.
    StudyProposed {
        name: String,
        by: String,
        sites: Vec<String>,
        model: Digest,
        manifest: Option<Digest>,
        privacy: Option<PrivacyPlan>,
    },
    /// A site approved or refused the study by its digest, or withdrew.
    StudyDecided { site: String, decision: String },
    /// The study went from one state of its life to another.
    StudyChanged { from: String, to: String, by: String, reason: Option<String> },
    /// An attempt at a round began.
    RoundAnnounced { terms: Digest, work: String, model: Digest, invited: Vec<String> },
    /// A site of the study was not connected and so was not invited.
    RoundAbsent { site: String },
    /// A site takes part.
    RoundReady { site: String },
    /// A site does not take part.
    RoundDeclined { site: String, reason: String },
    /// Who may contribute is fixed.
    RoundFrozen { members: Vec<String> },
    /// A site's update arrived complete.
    RoundContribution { site: String, digest: Digest, bytes: u64 },
    /// An invited site did not contribute.
    RoundDropout { site: String, reason: String },
    /// The sum left the aggregation.
    RoundReleased {
        contributed: Vec<String>,
        sum: Option<Digest>,
        noise_multiplier: Option<f64>,
        epsilon: Option<f64>,
        epsilon_solo: Option<f64>,
        delta: Option<f64>,
        recompute_share: Option<f64>,
    },
    /// The coordinator turned away what a site sent for the open round.
    RoundRefused { site: String, rule: String },
    /// What it takes to add the sum up again is kept for an auditor.
    RoundKept { record: Digest, bytes: u64 },
    /// What was kept, or was to be, is not there any more.
    RoundForgotten { reason: String },
    /// Nothing was released; the round is tried again in another slot.
    RoundAbandoned { reason: String },
    /// The coordinator went on after a restart.
    RoundResumed {},
    /// How good the model was that the round offered, over all sites together.
    RoundEvaluated {
        model: Digest,
        sites: u64,
        loss: Option<f64>,
        auroc: Option<f64>,
        accuracy: Option<f64>,
        dice: Option<f64>,
        hausdorff: Option<f64>,
        hausdorff_95: Option<f64>,
    },
    /// A site told the others its keys for the study.
    KeyAnnounced { site: String, digest: Digest },
    /// A site revealed the nonce that it had committed to with its keys.
    KeyNonce { site: String, nonce: Digest },
    /// A site left one-time keys for the slots of a batch.
    PrekeyBatch { site: String, batch: u64, digest: Digest },
    /// Whose updates are to be in the sum; the sites were asked to sign it.
    RoundFinalSet { members: Vec<String> },
    /// A site signed the final set.
    RoundSetSigned { site: String },
    /// A site gave its shares of the others' secrets.
    RoundShares { site: String },
    /// A site gave a share that is not the one that it was given.
    RoundWrongShare { site: String, of: String },
    /// The masks of the missing were taken out of the sum.
    RoundRecovery { missing: Vec<String> },
    /// A site's ledger charged a round, before its update left the site.
    LedgerCharge(Charge),
    /// A site's ledger refused a round.
    LedgerRefused { site: String, reason: String },
    /// A released round made a new model.
    ModelChanged { before: Digest, after: Digest },
    /// An operator took a model out.
    ModelExported { model: Digest, by: String },
    /// What is believed impossible happened.
    Alarm { reason: String },
    /// A kind that this program does not know.
    #[serde(other)]
    Unknown,
}

/// The kinds of leaves that this program knows, in the order of [`Fact`].
pub const KINDS: [&str; 36] = [
    "site_invited",
    "site_enrolled",
    "site_approved",
    "site_revoked",
    "certificate_renewed",
    "witness_announced",
    "study_proposed",
    "study_decided",
    "study_changed",
    "round_announced",
    "round_absent",
    "round_ready",
    "round_declined",
    "round_frozen",
    "round_contribution",
    "round_dropout",
    "round_released",
    "round_refused",
    "round_kept",
    "round_forgotten",
    "round_abandoned",
    "round_resumed",
    "round_evaluated",
    "key_announced",
    "key_nonce",
    "prekey_batch",
    "round_final_set",
    "round_set_signed",
    "round_shares",
    "round_wrong_share",
    "round_recovery",
    "ledger_charge",
    "ledger_refused",
    "model_changed",
    "model_exported",
    "alarm",
];

/// What a fact needs to know about its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Consortium,
    Study,
    Round,
}

impl Fact {
    /// The fact of a leaf.
    ///
    /// # Errors
    /// When the kind is known and a field of it is missing or of another type.
    pub fn read(leaf: &Leaf) -> Result<Self, FactError> {
        let mut fields = leaf.data().clone();
        fields.insert("kind".to_owned(), Value::String(leaf.kind().to_owned()));
        serde_json::from_value(Value::Object(fields)).map_err(|error| FactError::Shape {
            kind: leaf.kind().to_owned(),
            what: error.to_string(),
        })
    }

    fn place(&self) -> Place {
        match self {
            Self::SiteInvited { .. }
            | Self::SiteEnrolled { .. }
            | Self::SiteApproved { .. }
            | Self::SiteRevoked { .. }
            | Self::CertificateRenewed { .. }
            | Self::WitnessAnnounced { .. }
            | Self::Alarm { .. }
            | Self::Unknown => Place::Consortium,
            Self::StudyProposed { .. }
            | Self::StudyDecided { .. }
            | Self::StudyChanged { .. }
            | Self::KeyAnnounced { .. }
            | Self::KeyNonce { .. }
            | Self::PrekeyBatch { .. }
            | Self::ModelExported { .. } => Place::Study,
            Self::RoundAnnounced { .. }
            | Self::RoundAbsent { .. }
            | Self::RoundReady { .. }
            | Self::RoundDeclined { .. }
            | Self::RoundFrozen { .. }
            | Self::RoundContribution { .. }
            | Self::RoundDropout { .. }
            | Self::RoundReleased { .. }
            | Self::RoundRefused { .. }
            | Self::RoundKept { .. }
            | Self::RoundForgotten { .. }
            | Self::RoundAbandoned { .. }
            | Self::RoundResumed {}
            | Self::RoundEvaluated { .. }
            | Self::RoundFinalSet { .. }
            | Self::RoundSetSigned { .. }
            | Self::RoundShares { .. }
            | Self::RoundWrongShare { .. }
            | Self::RoundRecovery { .. }
            | Self::LedgerCharge(_)
            | Self::LedgerRefused { .. }
            | Self::ModelChanged { .. } => Place::Round,
        }
    }

    /// The one site that the fact is about, if it is about one.
    #[must_use]
    pub fn site(&self) -> Option<&str> {
        match self {
            Self::SiteInvited { site, .. }
            | Self::SiteEnrolled { site, .. }
            | Self::SiteApproved { site, .. }
            | Self::SiteRevoked { site, .. }
            | Self::CertificateRenewed { site, .. }
            | Self::WitnessAnnounced { site, .. }
            | Self::StudyDecided { site, .. }
            | Self::RoundAbsent { site }
            | Self::RoundReady { site }
            | Self::RoundDeclined { site, .. }
            | Self::RoundContribution { site, .. }
            | Self::RoundDropout { site, .. }
            | Self::KeyAnnounced { site, .. }
            | Self::KeyNonce { site, .. }
            | Self::PrekeyBatch { site, .. }
            | Self::RoundSetSigned { site }
            | Self::RoundShares { site }
            | Self::RoundWrongShare { site, .. }
            | Self::RoundRefused { site, .. }
            | Self::LedgerCharge(Charge { site, .. })
            | Self::LedgerRefused { site, .. } => Some(site),
            Self::StudyProposed { .. }
            | Self::StudyChanged { .. }
            | Self::RoundAnnounced { .. }
            | Self::RoundFrozen { .. }
            | Self::RoundReleased { .. }
            | Self::RoundKept { .. }
            | Self::RoundForgotten { .. }
            | Self::RoundAbandoned { .. }
            | Self::RoundResumed {}
            | Self::RoundEvaluated { .. }
            | Self::RoundFinalSet { .. }
            | Self::RoundRecovery { .. }
            | Self::ModelChanged { .. }
            | Self::ModelExported { .. }
            | Self::Alarm { .. }
            | Self::Unknown => None,
        }
    }

    /// The person or party that an operator's act is attributed to.
    #[must_use]
    pub fn by(&self) -> Option<&str> {
        match self {
            Self::SiteInvited { by, .. }
            | Self::SiteApproved { by, .. }
            | Self::SiteRevoked { by, .. }
            | Self::StudyProposed { by, .. }
            | Self::StudyChanged { by, .. }
            | Self::ModelExported { by, .. } => Some(by),
            Self::SiteEnrolled { .. }
            | Self::CertificateRenewed { .. }
            | Self::WitnessAnnounced { .. }
            | Self::StudyDecided { .. }
            | Self::RoundAnnounced { .. }
            | Self::RoundAbsent { .. }
            | Self::RoundReady { .. }
            | Self::RoundDeclined { .. }
            | Self::RoundFrozen { .. }
            | Self::RoundContribution { .. }
            | Self::RoundDropout { .. }
            | Self::RoundReleased { .. }
            | Self::RoundRefused { .. }
            | Self::RoundKept { .. }
            | Self::RoundForgotten { .. }
            | Self::RoundAbandoned { .. }
            | Self::RoundResumed {}
            | Self::RoundEvaluated { .. }
            | Self::KeyAnnounced { .. }
            | Self::KeyNonce { .. }
            | Self::PrekeyBatch { .. }
            | Self::RoundFinalSet { .. }
            | Self::RoundSetSigned { .. }
            | Self::RoundShares { .. }
            | Self::RoundWrongShare { .. }
            | Self::RoundRecovery { .. }
            | Self::LedgerCharge(_)
            | Self::LedgerRefused { .. }
            | Self::ModelChanged { .. }
            | Self::Alarm { .. }
            | Self::Unknown => None,
        }
    }
}

/// A fact with its time and place.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// When, by the writer's clock.
    pub time: UtcTime,
    /// The digest of the study's manifest.
    pub study: Option<Digest>,
    /// Which round, counted from 1.
    pub round: Option<u64>,
    /// Which attempt: one-time keys of this number were used.
    pub slot: Option<u64>,
    /// What happened.
    pub fact: Fact,
}

impl Told {
    /// What a leaf tells.
    ///
    /// # Errors
    /// When the kind is known and lacks a field, or does not say of which study or round.
    pub fn read(leaf: &Leaf) -> Result<Self, FactError> {
        let fact = Fact::read(leaf)?;
        let field = |key: &str| leaf.data().get(key);
        let study = field("study").and_then(Value::as_str).and_then(Digest::new);
        let [round, slot] = ["round", "slot"].map(|key| field(key).and_then(Value::as_u64));
        let asked: &[(&'static str, bool)] = match fact.place() {
            Place::Consortium => &[],
            Place::Study => &[("study", study.is_some())],
            Place::Round => {
                &[("study", study.is_some()), ("round", round.is_some()), ("slot", slot.is_some())]
            }
        };
        if let Some((missing, _)) = asked.iter().find(|(_, there)| !there) {
            return Err(FactError::Place { kind: leaf.kind().to_owned(), missing });
        }
        Ok(Self { time: leaf.time(), study, round, slot, fact })
    }
}

#[cfg(test)]
mod tests;
