//! The life of a study, from proposal to its end: one table of what may follow what.

use std::fmt;

/// Where a study stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// Waits for the approval of its sites.
    Proposed,
    /// Approved by every site, not started.
    Approved,
    /// Its rounds run.
    Running,
    /// No new round starts until it is resumed.
    Paused,
    /// All rounds are done.
    Completed,
    /// It cannot go on.
    Failed,
    /// An operator ended it.
    Stopped,
}

impl Life {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Proposed,
        Self::Approved,
        Self::Running,
        Self::Paused,
        Self::Completed,
        Self::Failed,
        Self::Stopped,
    ];

    /// What the state is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Approved => "approved",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|life| life.name() == name)
    }

    /// Whether nothing can follow.
    #[must_use]
    pub const fn ended(self) -> bool {
        match self {
            Self::Proposed | Self::Approved | Self::Running | Self::Paused => false,
            Self::Completed | Self::Failed | Self::Stopped => true,
        }
    }

    /// What the change makes of this state (PROTOCOL R-19). A change that has already happened is
    /// answered as the first time.
    ///
    /// # Errors
    /// When the change cannot follow this state.
    pub const fn apply(self, change: Change) -> Result<Self, Refused> {
        match (self, change) {
            (Self::Proposed | Self::Approved, Change::Approve) => Ok(Self::Approved),
            (Self::Approved | Self::Running, Change::Start) => Ok(Self::Running),
            (Self::Running | Self::Paused, Change::Pause) => Ok(Self::Paused),
            (Self::Paused | Self::Running, Change::Resume) => Ok(Self::Running),
            (Self::Running | Self::Completed, Change::Complete) => Ok(Self::Completed),
            (
                Self::Proposed | Self::Approved | Self::Running | Self::Paused | Self::Failed,
                Change::Fail,
            ) => Ok(Self::Failed),
            (
                Self::Proposed | Self::Approved | Self::Running | Self::Paused | Self::Stopped,
                Change::Stop,
            ) => Ok(Self::Stopped),
            (
                Self::Running | Self::Paused | Self::Completed | Self::Failed | Self::Stopped,
                Change::Approve,
            )
            | (
                Self::Proposed | Self::Paused | Self::Completed | Self::Failed | Self::Stopped,
                Change::Start,
            )
            | (
                Self::Proposed | Self::Approved | Self::Completed | Self::Failed | Self::Stopped,
                Change::Pause | Change::Resume,
            )
            | (
                Self::Proposed | Self::Approved | Self::Paused | Self::Failed | Self::Stopped,
                Change::Complete,
            )
            | (Self::Completed | Self::Stopped, Change::Fail)
            | (Self::Completed | Self::Failed, Change::Stop) => Err(Refused { life: self, change }),
        }
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What can happen to a study.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The last outstanding site approved it.
    Approve,
    /// An operator started it.
    Start,
    /// An operator paused it.
    Pause,
    /// An operator resumed it.
    Resume,
    /// Its last round was released.
    Complete,
    /// It cannot go on: a site refused it, or rounds failed too often.
    Fail,
    /// An operator ended it.
    Stop,
}

impl Change {
    /// Every change.
    pub const ALL: [Self; 7] = [
        Self::Approve,
        Self::Start,
        Self::Pause,
        Self::Resume,
        Self::Complete,
        Self::Fail,
        Self::Stop,
    ];
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Approve => "approved",
            Self::Start => "started",
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Complete => "completed",
            Self::Fail => "failed",
            Self::Stop => "stopped",
        })
    }
}

/// A change that cannot follow a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a study that is {life} cannot be {change}")]
pub struct Refused {
    /// The state it is in.
    pub life: Life,
    /// What was to happen.
    pub change: Change,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_study_runs_its_course() {
        let course = [
            (Change::Approve, Life::Approved),
            (Change::Start, Life::Running),
            (Change::Pause, Life::Paused),
            (Change::Resume, Life::Running),
            (Change::Complete, Life::Completed),
        ];
        let mut life = Life::Proposed;
        for (change, next) in course {
            assert_eq!(life.apply(change), Ok(next));
            // Said twice, answered as the first time.
            assert_eq!(next.apply(change), Ok(next));
            life = next;
        }
    }

    /// Breaks R-19: no change leads out of an end.
    #[test]
    fn nothing_follows_an_end() {
        for life in Life::ALL.into_iter().filter(|life| life.ended()) {
            for change in Change::ALL {
                assert!(
                    life.apply(change).is_ok_and(|next| next == life)
                        || life.apply(change).is_err()
                );
            }
        }
    }

    #[test]
    fn a_study_starts_only_when_every_site_approved() {
        assert_eq!(
            Life::Proposed.apply(Change::Start).map_err(|e| e.to_string()),
            Err("a study that is proposed cannot be started".to_owned())
        );
        assert!(Life::Paused.apply(Change::Complete).is_err());
    }

    #[test]
    fn names_lead_back_to_states() {
        for life in Life::ALL {
            assert_eq!(Life::from_name(life.name()), Some(life));
        }
        assert_eq!(Life::from_name("drafted"), None);
    }
}
