//! Why something that was said is not accepted. A refusal changes nothing (PROTOCOL R-17).

use crate::ids::{Digest, HospitalId, RoundId, SlotId, StudyId};
use crate::masking::group::WrongLength;
use crate::message::Work;

/// Why something that was said is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A hospital that has no part in this.
    #[error("{hospital} was not invited to this round")]
    Stranger {
        /// Who spoke, or was named.
        hospital: HospitalId,
    },
    /// A hospital that was revoked or has withdrawn.
    #[error("{hospital} was revoked or has withdrawn")]
    Removed {
        /// Who spoke.
        hospital: HospitalId,
    },
    /// Another study than the one that was approved.
    #[error("the study is {expected}; found {found}")]
    OtherStudy {
        /// The study here.
        expected: StudyId,
        /// The study found.
        found: StudyId,
    },
    /// Other terms than those of this attempt.
    #[error("the terms are {expected}; found {found}")]
    OtherTerms {
        /// The terms here.
        expected: Digest,
        /// The terms found.
        found: Digest,
    },
    /// A round outside of the study's plan, or before one that was seen.
    #[error("rounds {first} to {last} can be offered; found {found}")]
    WrongRound {
        /// The first acceptable round.
        first: RoundId,
        /// The study's last round.
        last: RoundId,
        /// The round found.
        found: RoundId,
    },
    /// Other work than the study plans for the round.
    #[error("the study's work in this round is {expected}; found {found}")]
    OtherWork {
        /// The planned work.
        expected: Work,
        /// The work found.
        found: Work,
    },
    /// A slot that was used before.
    #[error("slots up to {used} are used; found {found}")]
    UsedSlot {
        /// The last slot that was used.
        used: SlotId,
        /// The slot found.
        found: SlotId,
    },
    /// Fewer sites than may be summed.
    #[error("{found} sites are fewer than the quorum of {quorum}")]
    BelowQuorum {
        /// Sites found.
        found: usize,
        /// Fewest that are needed.
        quorum: u16,
    },
    /// Something that has no place in this phase.
    #[error("{what} has no place in the phase {phase}")]
    OutOfPhase {
        /// What was said.
        what: &'static str,
        /// The phase.
        phase: &'static str,
    },
    /// The same thing said differently the second time.
    #[error("{what} is not what was said the first time")]
    Changed {
        /// What was said.
        what: &'static str,
    },
    /// An update of another length than the study's format gives.
    #[error(transparent)]
    WrongLength(#[from] WrongLength),
    /// An update that is not what its digest says.
    #[error("the update's digest is {found}; declared was {declared}")]
    WrongDigest {
        /// The digest that was declared.
        declared: Digest,
        /// The digest of what arrived.
        found: Digest,
    },
    /// An update from a site that was not ready when the roster was frozen.
    #[error("{hospital} is not in the frozen roster")]
    NotInRoster {
        /// Who spoke.
        hospital: HospitalId,
    },
    /// A final set that cannot be one.
    #[error("the final set is not a set of this roster: {why}")]
    BadSet {
        /// What is wrong with it.
        why: &'static str,
    },
    /// Fewer valid signatures than it takes.
    #[error("the final set has {valid} valid signatures; {needed} are needed")]
    TooFewSignatures {
        /// Signatures that hold.
        valid: usize,
        /// Fewest that are needed.
        needed: u16,
    },
    /// A signature that does not hold.
    #[error("the signature of {hospital} is not one of this final set")]
    BadSignature {
        /// Whose.
        hospital: HospitalId,
    },
    /// Shares of other hospitals, of the other kind, or under another number than expected.
    #[error("the shares of {hospital} are not those that were asked for: {why}")]
    WrongShares {
        /// Who gave them.
        hospital: HospitalId,
        /// What is wrong with them.
        why: &'static str,
    },
    /// Something said after its deadline, or after the round.
    #[error("{what} came after its deadline")]
    TooLate {
        /// What was said.
        what: &'static str,
    },
}

impl Refusal {
    /// The rule of `PROTOCOL.md` that was broken.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::OtherTerms { .. } => "R-02",
            Self::OtherStudy { .. } => "R-03",
            Self::WrongRound { .. } | Self::OtherWork { .. } => "R-04",
            Self::Stranger { .. } | Self::Removed { .. } => "R-05",
            Self::UsedSlot { .. } => "R-06",
            Self::Changed { .. } => "R-07",
            Self::OutOfPhase { .. } | Self::NotInRoster { .. } => "R-08",
            Self::WrongLength(_) | Self::WrongDigest { .. } => "R-09",
            Self::BelowQuorum { .. } => "R-13",
            Self::BadSet { .. } => "R-21",
            Self::BadSignature { .. } | Self::TooFewSignatures { .. } => "R-22",
            Self::WrongShares { .. } => "R-23",
            Self::TooLate { .. } => "R-15",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearsal::{charter, site, terms};

    #[test]
    fn every_refusal_names_a_rule_that_is_written_down() {
        let rules = include_str!("../PROTOCOL.md");
        let study = charter(3, 3).id();
        let (hospital, digest) = (site(0), Digest::new([0; 32]));
        let (round, slot) = (RoundId::FIRST, terms(&charter(3, 3), 1, 1).slot);
        let refusals = [
            Refusal::Stranger { hospital: hospital.clone() },
            Refusal::Removed { hospital: hospital.clone() },
            Refusal::OtherStudy { expected: study, found: study },
            Refusal::OtherTerms { expected: digest, found: digest },
            Refusal::WrongRound { first: round, last: round, found: round },
            Refusal::OtherWork { expected: Work::Train, found: Work::Evaluate },
            Refusal::UsedSlot { used: slot, found: slot },
            Refusal::BelowQuorum { found: 2, quorum: 3 },
            Refusal::OutOfPhase { what: "an update", phase: "announce" },
            Refusal::Changed { what: "an update" },
            Refusal::WrongLength(WrongLength { expected: 1, found: 2 }),
            Refusal::WrongDigest { declared: digest, found: digest },
            Refusal::NotInRoster { hospital },
            Refusal::TooLate { what: "an update" },
        ];
        for refusal in refusals {
            assert!(rules.contains(&format!("**{} ", refusal.rule())), "{refusal}");
            // House style: lower case, one line.
            let text = refusal.to_string();
            assert!(!text.contains('\n') && !text.starts_with(char::is_uppercase), "{text}");
        }
    }
}
