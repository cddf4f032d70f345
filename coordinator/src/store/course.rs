//! What each site of a round did in it, as far as the coordinator has seen.

use std::collections::BTreeMap;

use aggregation::ids::HospitalId;
use serde::{Deserialize, Serialize};

use super::{StoreError, hospital};

/// What one site did in a round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "five answers to five questions")]
pub(crate) struct Course {
    /// It said that it was ready.
    pub(crate) ready: bool,
    /// Its update was complete.
    pub(crate) uploaded: bool,
    /// It signed the final set while that was awaited.
    pub(crate) signed: bool,
    /// It gave its shares while they were awaited.
    pub(crate) unmasked: bool,
    /// It was not connected when the round closed; or when it was announced, if it was not invited.
    pub(crate) away: bool,
}

/// Every site of a round.
pub(crate) type Courses = BTreeMap<HospitalId, Course>;

/// As a column has it.
pub(super) fn text(courses: &Courses) -> Result<String, StoreError> {
    let named: BTreeMap<&str, &Course> =
        courses.iter().map(|(site, course)| (site.as_str(), course)).collect();
    serde_json::to_string(&named).map_err(|_| StoreError::Corrupt("a course".to_owned()))
}

/// Back from a column; a round of an earlier version has none.
pub(super) fn read(column: &str) -> Result<Courses, StoreError> {
    let named: BTreeMap<String, Course> = serde_json::from_str(column)
        .map_err(|_| StoreError::Corrupt("what the sites of a round did".to_owned()))?;
    named.into_iter().map(|(site, course)| Ok((hospital(&site)?, course))).collect()
}

/// Why a site that has approved was not invited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Absence {
    /// It was not connected.
    Away,
    /// Its keys, or those that it needs of the others, were not there.
    NoKeys,
}

impl Absence {
    /// In words.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Away => "was not connected",
            Self::NoKeys => "had no keys for this slot",
        }
    }
}

/// Every site that was not invited.
pub(crate) type Absences = BTreeMap<HospitalId, Absence>;

/// As a column has it.
pub(super) fn absences_text(absences: &Absences) -> Result<String, StoreError> {
    let named: BTreeMap<&str, &Absence> =
        absences.iter().map(|(site, why)| (site.as_str(), why)).collect();
    serde_json::to_string(&named).map_err(|_| StoreError::Corrupt("an absence".to_owned()))
}

/// Back from a column.
pub(super) fn read_absences(column: &str) -> Result<Absences, StoreError> {
    let named: BTreeMap<String, Absence> = serde_json::from_str(column)
        .map_err(|_| StoreError::Corrupt("who was not invited to a round".to_owned()))?;
    named.into_iter().map(|(site, why)| Ok((hospital(&site)?, why))).collect()
}
