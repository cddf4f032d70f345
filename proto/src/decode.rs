//! Wire to `aggregation`. Sizes, counts and presence are checked here and nowhere else.

use std::collections::BTreeSet;

use aggregation::checkpoint::LogHead;
use aggregation::ids::{Digest, HospitalId, RoundId, SlotId, StudyId};
use aggregation::life::Life;
use aggregation::message::{ClosedNotice, DeclineReason, Roster, Terms, Work};
use aggregation::units::Timestamp;
use thiserror::Error;

use crate::federation as wire;
use crate::limits::MAX_SITES;

/// A message that does not say what it must.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// A digest of another length.
    #[error("{field}: expected {expected} bytes, found {found}")]
    Length {
        /// Which field.
        field: &'static str,
        /// What it must have.
        expected: usize,
        /// What it has.
        found: usize,
    },
    /// Something that has to be there.
    #[error("{field}: expected a value, found none")]
    Missing {
        /// Which field.
        field: &'static str,
    },
    /// A value outside its range.
    #[error("{field}: expected {expected}, found {found}")]
    Range {
        /// Which field.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is; shortened.
        found: String,
    },
    /// More items than can be.
    #[error("{field}: expected at most {most} items, found {found}")]
    TooMany {
        /// Which field.
        field: &'static str,
        /// The most that may be.
        most: usize,
        /// How many there are.
        found: usize,
    },
}

pub(crate) fn range(
    field: &'static str,
    expected: &'static str,
    found: impl ToString,
) -> DecodeError {
    let found = found.to_string().chars().take(80).collect();
    DecodeError::Range { field, expected, found }
}

/// A digest of 32 bytes.
///
/// # Errors
/// Any other length.
pub fn digest(field: &'static str, bytes: &[u8]) -> Result<Digest, DecodeError> {
    Digest::from_slice(bytes).map_err(|_| DecodeError::Length {
        field,
        expected: 32,
        found: bytes.len(),
    })
}

/// A study's digest.
///
/// # Errors
/// Any other length than 32.
pub fn study(bytes: &[u8]) -> Result<StudyId, DecodeError> {
    digest("study", bytes).map(StudyId::new)
}

/// A round's number.
///
/// # Errors
/// Zero, which is no round.
pub fn round(number: u32) -> Result<RoundId, DecodeError> {
    RoundId::new(number).map_err(|_| range("round", "a number from 1", number))
}

/// Study, round and attempt, as most messages carry them.
///
/// # Errors
/// As [`study`] and [`round`].
pub fn place(
    study: &[u8],
    round: u32,
    slot: u64,
) -> Result<(StudyId, RoundId, SlotId), DecodeError> {
    Ok((self::study(study)?, self::round(round)?, SlotId::new(slot)))
}

/// A site's name.
///
/// # Errors
/// What is no name by the rule of [`HospitalId`].
pub fn hospital(field: &'static str, name: &str) -> Result<HospitalId, DecodeError> {
    HospitalId::new(name)
        .map_err(|_| range(field, "1 to 63 characters of a-z, 0-9 and '-'", format!("{name:?}")))
}

/// A sorted list of names without repetition.
///
/// # Errors
/// Too many, out of order, twice the same, or what is no name.
pub fn hospitals(
    field: &'static str,
    names: &[String],
) -> Result<BTreeSet<HospitalId>, DecodeError> {
    if names.len() > MAX_SITES {
        return Err(DecodeError::TooMany { field, most: MAX_SITES, found: names.len() });
    }
    if !names.is_sorted_by(|before, after| before < after) {
        return Err(range(field, "names in ascending order, each once", "another order"));
    }
    names.iter().map(|name| hospital(field, name)).collect()
}

/// What a round asks for.
///
/// # Errors
/// A number that this version does not know.
pub fn work(number: i32) -> Result<Work, DecodeError> {
    match wire::Work::try_from(number) {
        Ok(wire::Work::Train) => Ok(Work::Train),
        Ok(wire::Work::TrainAndEvaluate) => Ok(Work::TrainAndEvaluate),
        Ok(wire::Work::Evaluate) => Ok(Work::Evaluate),
        Ok(wire::Work::Unspecified) => Err(DecodeError::Missing { field: "work" }),
        Err(_) => Err(range("work", "a kind of work that this version knows", number)),
    }
}

/// The terms of a round.
///
/// # Errors
/// Any field that cannot be.
pub fn terms(said: &wire::Terms) -> Result<Terms, DecodeError> {
    let (study, round, slot) = place(&said.study, said.round, said.slot)?;
    Ok(Terms {
        study,
        round,
        slot,
        work: work(said.work)?,
        model: digest("model", &said.model)?,
        invited: hospitals("invited", &said.invited)?,
        ready_by: Timestamp::from_millis(said.ready_by_ms),
        log: LogHead { size: said.log_size, root: digest("log_root", &said.log_root)? },
    })
}

/// A frozen roster.
///
/// # Errors
/// Any field that cannot be.
pub fn roster(said: &wire::Roster) -> Result<Roster, DecodeError> {
    let (study, round, slot) = place(&said.study, said.round, said.slot)?;
    Ok(Roster {
        study,
        round,
        slot,
        terms: digest("terms", &said.terms)?,
        members: hospitals("members", &said.members)?,
        upload_by: Timestamp::from_millis(said.upload_by_ms),
    })
}

/// How a round ended.
///
/// # Errors
/// Any field that cannot be.
pub fn closed(said: &wire::Closed) -> Result<ClosedNotice, DecodeError> {
    let (study, round, slot) = place(&said.study, said.round, said.slot)?;
    Ok(ClosedNotice {
        study,
        round,
        slot,
        released: said.released,
        reason: said.reason.chars().filter(|c| !c.is_control()).take(300).collect(),
        contributed: hospitals("contributed", &said.contributed)?,
        dropped: hospitals("dropped", &said.dropped)?,
    })
}

/// Why a site takes no part.
///
/// # Errors
/// A number that this version does not know.
pub fn decline_reason(number: i32) -> Result<DeclineReason, DecodeError> {
    match wire::DeclineReason::try_from(number) {
        Ok(wire::DeclineReason::NotApproved) => Ok(DeclineReason::NotApproved),
        Ok(wire::DeclineReason::Policy) => Ok(DeclineReason::Policy),
        Ok(wire::DeclineReason::OutsideHours) => Ok(DeclineReason::OutsideHours),
        Ok(wire::DeclineReason::Terms) => Ok(DeclineReason::Terms),
        Ok(wire::DeclineReason::Trainer) => Ok(DeclineReason::Trainer),
        Ok(wire::DeclineReason::NoKeys) => Ok(DeclineReason::NoKeys),
        Ok(wire::DeclineReason::Budget) => Ok(DeclineReason::Budget),
        Ok(wire::DeclineReason::Ledger) => Ok(DeclineReason::Ledger),
        Ok(wire::DeclineReason::Log) => Ok(DeclineReason::Log),
        Ok(wire::DeclineReason::Unspecified) => Err(DecodeError::Missing { field: "reason" }),
        Err(_) => Err(range("reason", "a reason that this version knows", number)),
    }
}

/// Where a study stands.
///
/// # Errors
/// A number that this version does not know.
pub fn life(number: i32) -> Result<Life, DecodeError> {
    match wire::StudyState::try_from(number) {
        Ok(wire::StudyState::Proposed) => Ok(Life::Proposed),
        Ok(wire::StudyState::Approved) => Ok(Life::Approved),
        Ok(wire::StudyState::Running) => Ok(Life::Running),
        Ok(wire::StudyState::Paused) => Ok(Life::Paused),
        Ok(wire::StudyState::Completed) => Ok(Life::Completed),
        Ok(wire::StudyState::Failed) => Ok(Life::Failed),
        Ok(wire::StudyState::Stopped) => Ok(Life::Stopped),
        Ok(wire::StudyState::Unspecified) => Err(DecodeError::Missing { field: "state" }),
        Err(_) => Err(range("state", "a state that this version knows", number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode;

    fn example() -> Terms {
        Terms {
            study: StudyId::new(Digest::sha256(b"study")),
            round: RoundId::FIRST,
            slot: SlotId::new(3),
            work: Work::TrainAndEvaluate,
            model: Digest::sha256(b"model"),
            invited: ["a", "b"].iter().map(|name| HospitalId::new(name).expect("valid")).collect(),
            ready_by: Timestamp::from_millis(99),
            log: LogHead { size: 9, root: Digest::sha256(b"root") },
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let said = example();
        assert_eq!(terms(&encode::terms(&said)), Ok(said.clone()));
        let frozen = Roster {
            study: said.study,
            round: said.round,
            slot: said.slot,
            terms: said.digest(),
            members: said.invited.clone(),
            upload_by: said.ready_by,
        };
        assert_eq!(roster(&encode::roster(&frozen)), Ok(frozen));
        for reason in DeclineReason::ALL {
            assert_eq!(decline_reason(encode::decline_reason(reason).into()), Ok(reason));
        }
        for state in Life::ALL {
            assert_eq!(life(encode::life(state).into()), Ok(state));
        }
    }

    #[test]
    fn each_field_that_cannot_be_is_refused_by_name() {
        type Break = fn(&mut wire::Terms);
        let cases: [(&str, Break); 9] = [
            ("study", |t| t.study.truncate(31)),
            ("round", |t| t.round = 0),
            ("work", |t| t.work = 0),
            ("work", |t| t.work = 77),
            ("model", |t| t.model.push(0)),
            ("log_root", |t| t.log_root.truncate(31)),
            ("invited", |t| t.invited.reverse()),
            ("invited", |t| t.invited[1] = t.invited[0].clone()),
            ("invited", |t| t.invited[0] = "A!".to_owned()),
        ];
        for (field, spoil) in cases {
            let mut said = encode::terms(&example());
            spoil(&mut said);
            let error = terms(&said).expect_err(field);
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }

    #[test]
    fn more_names_than_can_be_are_refused_before_they_are_read() {
        let names = vec![String::new(); MAX_SITES + 1];
        assert!(matches!(hospitals("members", &names), Err(DecodeError::TooMany { .. })));
    }
}
