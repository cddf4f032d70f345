//! A fact as one English sentence, and whether it went well: what every export and report shows
//! beside the fields.

use super::{Charge, Fact};

/// How a fact ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it was meant to.
    Done,
    /// Somebody said no, was missing, or a round released nothing. Ordinary, and worth a look.
    Refused,
    /// Somebody has to look.
    Alarm,
}

impl Fact {
    /// How it ended.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::StudyDecided { decision, .. } if decision != "approved" => Outcome::Refused,
            Self::StudyChanged { to, .. } if to == "failed" => Outcome::Refused,
            Self::RoundAbsent { .. }
            | Self::RoundDeclined { .. }
            | Self::RoundDropout { .. }
            | Self::RoundAbandoned { .. }
            | Self::RoundRefused { .. }
            | Self::LedgerRefused { .. }
            | Self::SiteRevoked { .. } => Outcome::Refused,
            Self::Alarm { .. } | Self::RoundWrongShare { .. } => Outcome::Alarm,
            Self::SiteInvited { .. }
            | Self::SiteEnrolled { .. }
            | Self::SiteApproved { .. }
            | Self::CertificateRenewed { .. }
            | Self::WitnessAnnounced { .. }
            | Self::StudyProposed { .. }
            | Self::StudyDecided { .. }
            | Self::StudyChanged { .. }
            | Self::RoundAnnounced { .. }
            | Self::RoundReady { .. }
            | Self::RoundFrozen { .. }
            | Self::RoundContribution { .. }
            | Self::RoundReleased { .. }
            | Self::RoundKept { .. }
            | Self::RoundForgotten { .. }
            | Self::RoundResumed {}
            | Self::RoundEvaluated { .. }
            | Self::KeyAnnounced { .. }
            | Self::KeyNonce { .. }
            | Self::PrekeyBatch { .. }
            | Self::RoundFinalSet { .. }
            | Self::RoundSetSigned { .. }
            | Self::RoundShares { .. }
            | Self::RoundRecovery { .. }
            | Self::LedgerCharge(_)
            | Self::ModelChanged { .. }
            | Self::ModelExported { .. }
            | Self::Unknown => Outcome::Done,
        }
    }

    /// What happened, without study, round and time. Its texts are the writer's, unescaped.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::SiteInvited { site, by } => format!("{by} invited {site} to enrol"),
            Self::SiteEnrolled { site, identity } => {
                format!("{site} asked to be admitted with identity {}", identity.short())
            }
            Self::SiteApproved { site, by, certificate, .. } => {
                format!("{by} admitted {site} with certificate {}", certificate.short())
            }
            Self::SiteRevoked { site, by } => format!("{by} shut out {site}"),
            Self::CertificateRenewed { site, certificate } => {
                format!("{site} has the new certificate {}", certificate.short())
            }
            Self::WitnessAnnounced { site, key, .. } => {
                format!("{site} announced the key {} as the one it cosigns with", key.short())
            }
            Self::StudyProposed { name, by, sites, privacy, .. } => {
                let accountant = privacy.as_ref().and_then(|plan| plan.accountant.as_ref());
                let counted = accountant.map(|name| format!("; epsilon is counted by {name}"));
                let sites = sites.join(", ");
                format!(
                    "{by} proposed the study {name:?} to {sites}{}",
                    counted.unwrap_or_default()
                )
            }
            Self::StudyDecided { site, decision } => match decision.as_str() {
                "approved" => format!("{site} approved the study"),
                "refused" => format!("{site} refused the study"),
                "withdrawn" => format!("{site} withdrew from the study"),
                other => format!("{site} decided on the study: {other}"),
            },
            Self::StudyChanged { from, to, by, reason } => {
                let why = reason.as_deref().filter(|reason| !reason.is_empty());
                let why = why.map(|reason| format!(": {reason}")).unwrap_or_default();
                format!("{by} took the study from {from} to {to}{why}")
            }
            Self::RoundAnnounced { work, invited, .. } => {
                format!("a round was announced to {} sites ({work})", invited.len())
            }
            Self::RoundAbsent { site } => format!("{site} was not connected"),
            Self::RoundReady { site } => format!("{site} takes part"),
            Self::RoundDeclined { site, reason } => format!("{site} declined: {reason}"),
            Self::RoundFrozen { members } => {
                format!("the cohort was fixed: {}", members.join(", "))
            }
            Self::RoundContribution { site, bytes, .. } => {
                format!("{site} contributed an update of {bytes} bytes")
            }
            Self::RoundDropout { site, reason } => format!("{site} dropped out: {reason}"),
            Self::RoundReleased { contributed, epsilon, .. } => {
                let spent = epsilon.map(|spent| format!("; epsilon is {spent} now"));
                let sites = contributed.len();
                format!("the sum of {sites} sites was released{}", spent.unwrap_or_default())
            }
            Self::RoundRefused { site, rule } => {
                format!("what {site} sent was turned away by rule {rule}")
            }
            Self::RoundKept { bytes, .. } => {
                format!("{bytes} bytes are kept with which the sum can be added up again")
            }
            Self::RoundForgotten { reason } => {
                format!("the sum cannot be added up again: {reason}")
            }
            Self::RoundAbandoned { reason } => format!("nothing was released: {reason}"),
            Self::RoundResumed {} => "the coordinator was restarted and went on".to_owned(),
            Self::RoundEvaluated { sites, .. } => {
                format!("the offered model was evaluated over {sites} sites together")
            }
            Self::KeyAnnounced { site, .. } => format!("{site} announced its keys for the study"),
            Self::KeyNonce { site, .. } => format!("{site} revealed the nonce of its keys"),
            Self::PrekeyBatch { site, batch, .. } => {
                format!("{site} left one-time keys, batch {batch}")
            }
            Self::RoundFinalSet { members } => {
                format!("the updates of {} are to be in the sum", members.join(", "))
            }
            Self::RoundSetSigned { site } => format!("{site} signed whose updates are in the sum"),
            Self::RoundShares { site } => format!("{site} gave its shares"),
            Self::RoundWrongShare { site, of } => {
                format!("{site} gave a share of {of} that is not the one it was given")
            }
            Self::RoundRecovery { missing } if missing.is_empty() => {
                "the sum was unmasked; nobody was missing".to_owned()
            }
            Self::RoundRecovery { missing } => {
                format!("the masks of {} were taken out of the sum", missing.join(", "))
            }
            Self::LedgerCharge(Charge { site, epsilon_planned, epsilon_solo, .. }) => format!(
                "{site} charged its ledger; epsilon is now {epsilon_planned} planned, {epsilon_solo} solo"
            ),
            Self::LedgerRefused { site, reason } => {
                format!("the ledger of {site} refused the round: {reason}")
            }
            Self::ModelChanged { before, after } => {
                format!("the model went from {} to {}", before.short(), after.short())
            }
            Self::ModelExported { model, by } => {
                format!("{by} took out the model {}", model.short())
            }
            Self::Alarm { reason } => format!("alarm: {reason}"),
            Self::Unknown => "a fact of a kind that this program does not know".to_owned(),
        }
    }
}
