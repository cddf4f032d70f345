//! What this house allows, whatever the coordinator says.
//!
//! Asked twice: when an administrator approves a study, and again at every round that is offered,
//! so that a cap that was tightened later binds the studies that were approved before.

use std::fmt;
use std::str::FromStr;

use aggregation::privacy::accountant::Accountant;
use aggregation::privacy::charge::Figures;
use aggregation::privacy::ledger::{Cap, Caps};
use aggregation::privacy::plan::Plan;
use aggregation::study::{Privacy, Study, Unit};
use aggregation::units::{Delta, Epsilon, Timestamp};

/// The caps of one hospital.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    /// Whether studies without differential privacy may run here at all.
    pub danger_allow_no_privacy: bool,
    /// Whether studies may run here that protect single images rather than patients.
    pub danger_allow_image_level_privacy: bool,
    /// What patients' privacy may be spent, and how it is counted.
    pub budget: Caps,
    /// Whether studies whose updates the coordinator can read may run here at all.
    pub danger_accept_unmasked_updates: bool,
    /// What becomes of the identity of a site that was never seen before.
    pub new_sites: NewSites,
    /// The most rounds that a study may have.
    pub max_rounds: u32,
    /// The fewest hospitals whose sum may be released.
    pub min_cohort: u32,
    /// When work may be done; empty: always.
    pub hours: Vec<Window>,
}

/// What becomes of the identity of a site that was never seen before. One that *changed* is never
/// taken without an administrator's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum NewSites {
    /// It is pinned as it is found.
    #[default]
    Pin,
    /// An administrator has to accept it.
    Ask,
}

/// The caps on privacy as they are written in the configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Budget {
    /// By one study, against the coordinator and the sites that the study tolerates.
    pub epsilon_per_study: f64,
    /// By one study, against everybody else together.
    pub solo_epsilon_per_study: f64,
    /// By all studies.
    pub epsilon_lifetime: f64,
    /// By all studies, against everybody else together.
    pub solo_epsilon_lifetime: f64,
    /// At which delta.
    pub delta: f64,
    /// By which bound.
    pub accountant: Accountant,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            epsilon_per_study: 3.0,
            solo_epsilon_per_study: 20.0,
            epsilon_lifetime: 10.0,
            solo_epsilon_lifetime: 60.0,
            delta: 1e-5,
            accountant: Accountant::Rdp,
        }
    }
}

impl Budget {
    /// The caps; none when one is not above 0 and finite, or delta not below 1.
    #[must_use]
    pub(crate) fn caps(&self) -> Option<Caps> {
        let cap = |planned, solo| {
            Some(Cap { planned: Epsilon::new(planned).ok()?, solo: Epsilon::new(solo).ok()? })
        };
        Some(Caps {
            study: cap(self.epsilon_per_study, self.solo_epsilon_per_study)?,
            lifetime: cap(self.epsilon_lifetime, self.solo_epsilon_lifetime)?,
            delta: Delta::new(self.delta).ok()?,
            accountant: self.accountant,
        })
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            danger_allow_no_privacy: false,
            danger_allow_image_level_privacy: false,
            budget: Budget::default().caps().expect("the standard caps are numbers above 0"),
            danger_accept_unmasked_updates: false,
            new_sites: NewSites::default(),
            max_rounds: 1000,
            min_cohort: 3,
            hours: Vec::new(),
        }
    }
}

/// One cap that a study does not keep to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The key of the configuration that says no.
    pub key: &'static str,
    /// What the study asks for.
    pub found: String,
    /// What this house allows.
    pub allowed: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the study has {}, this house allows {}", self.key, self.found, self.allowed)
    }
}

/// A figure that is shown with so many decimals, rounded up: nobody is told less than was spent.
#[must_use]
pub(crate) fn up(figure: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    // What is exact in decimal is not lifted by the last bit of its product.
    ((figure * scale * (1.0 - 4.0 * f64::EPSILON)).ceil()) / scale
}

impl Policy {
    /// Every cap that the study breaks, all at once. `noise` is the study's, if it has any.
    #[must_use]
    pub(crate) fn violations(&self, study: &Study, noise: Option<&Plan>) -> Vec<Violation> {
        let mut found = Vec::new();
        match &study.privacy {
            Privacy::DangerNone if !self.danger_allow_no_privacy => found.push(Violation {
                key: "policy.danger_allow_no_privacy",
                found: "no differential privacy".to_owned(),
                allowed: "only studies with it".to_owned(),
            }),
            Privacy::DangerNone => {}
            Privacy::Patients(rules) => {
                if rules.unit == Unit::DangerImage && !self.danger_allow_image_level_privacy {
                    found.push(Violation {
                        key: "policy.danger_allow_image_level_privacy",
                        found: "privacy for each image alone".to_owned(),
                        allowed: "only privacy for each patient".to_owned(),
                    });
                }
                if let Some(plan) = noise {
                    let Caps { study: cap, delta, accountant, .. } = self.budget;
                    let rounds = plan.wanted().rounds;
                    let Figures { planned, solo } =
                        plan.spending(rounds).epsilon(accountant, delta);
                    let over = [
                        ("policy.epsilon_per_study", "an epsilon", planned, cap.planned),
                        ("policy.solo_epsilon_per_study", "a solo epsilon", solo, cap.solo),
                    ];
                    for (key, what, asked, cap) in over {
                        if !asked.within(cap) {
                            found.push(Violation {
                                key,
                                found: format!(
                                    "{what} of {:.3} at delta {delta}",
                                    up(asked.get(), 3)
                                ),
                                allowed: format!("at most {cap}"),
                            });
                        }
                    }
                }
            }
        }
        if study.cohort.danger_unmasked && !self.danger_accept_unmasked_updates {
            found.push(Violation {
                key: "policy.danger_accept_unmasked_updates",
                found: "updates that the coordinator can read".to_owned(),
                allowed: "only masked ones".to_owned(),
            });
        }
        if study.training.rounds > self.max_rounds {
            found.push(Violation {
                key: "policy.max_rounds",
                found: format!("{} rounds", study.training.rounds),
                allowed: format!("at most {}", self.max_rounds),
            });
        }
        // The quorum is the fewest whose sum is ever released, so it is what the cap binds.
        if u32::from(study.cohort.quorum) < self.min_cohort {
            found.push(Violation {
                key: "policy.min_cohort",
                found: format!("a quorum of {}", study.cohort.quorum),
                allowed: format!("at least {}", self.min_cohort),
            });
        }
        found
    }

    /// Whether work may be done at this moment.
    #[must_use]
    pub(crate) fn open_at(&self, now: Timestamp) -> bool {
        let minute = u16::try_from(now.as_millis() / 60_000 % 1440).unwrap_or(0);
        self.hours.is_empty() || self.hours.iter().any(|window| window.contains(minute))
    }
}

/// From a minute of the day to another, UTC; over midnight where the second is the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    from: u16,
    to: u16,
}

impl Window {
    const fn contains(self, minute: u16) -> bool {
        if self.from < self.to {
            self.from <= minute && minute < self.to
        } else {
            self.from <= minute || minute < self.to
        }
    }
}

/// Not of the form `HH:MM-HH:MM`, or an empty window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected HH:MM-HH:MM in UTC with two different moments")]
pub(crate) struct InvalidWindow;

impl FromStr for Window {
    type Err = InvalidWindow;

    fn from_str(text: &str) -> Result<Self, InvalidWindow> {
        let (from, to) = text.split_once('-').ok_or(InvalidWindow)?;
        let (from, to) = (minute(from)?, minute(to)?);
        // 24:00 may end a window; it may not start one.
        if from == to || from == 1440 {
            return Err(InvalidWindow);
        }
        Ok(Self { from, to })
    }
}

fn minute(text: &str) -> Result<u16, InvalidWindow> {
    let (hours, minutes) = text.split_once(':').ok_or(InvalidWindow)?;
    let number = |digits: &str| {
        let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|_| plain).ok_or(InvalidWindow)
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let fits = (hours < 24 && minutes < 60) || (hours == 24 && minutes == 0);
    if fits { Ok(hours * 60 + minutes) } else { Err(InvalidWindow) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const MANIFEST: &str = r#"
name = "small"
[task]
kind = "classification"
classes = ["normal", "pneumonia"]
input = { channels = 1, height = 8, width = 8 }
[model]
arch = "linear"
[train]
rounds = 500
strategy = "fedavg"
local = { epochs = 1, batch_size = 32, optimizer = "sgd", learning_rate = 1e-3 }
[privacy]
mode = "danger_no_privacy"
[cohort]
quorum = 3
danger_unmasked_updates = true
round_deadline = "120s"
[evaluate]
every = 0
split = "test"
metrics = ["auroc"]
"#;

    #[test]
    fn every_cap_that_a_study_breaks_is_named_at_once() {
        let study = proto::manifest::parse(MANIFEST).expect("a valid manifest");
        let keys = |policy: &Policy| -> Vec<&str> {
            policy.violations(&study, None).iter().map(|violation| violation.key).collect()
        };
        let strict = Policy { max_rounds: 499, min_cohort: 4, ..Policy::default() };
        let all = [
            "policy.danger_allow_no_privacy",
            "policy.danger_accept_unmasked_updates",
            "policy.max_rounds",
            "policy.min_cohort",
        ];
        assert_eq!(keys(&strict), all);
        let wide = Policy {
            danger_allow_no_privacy: true,
            danger_accept_unmasked_updates: true,
            max_rounds: 500,
            min_cohort: 3,
            ..Policy::default()
        };
        assert!(keys(&wide).is_empty(), "caps are inclusive");
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::from_millis(
            u64::from(minute(text).expect("a time")) * 60_000 + 86_400_000 * 20_000,
        )
    }

    fn with(hours: &[&str]) -> Policy {
        let hours = hours.iter().map(|text| text.parse().expect("a window")).collect();
        Policy { hours, ..Policy::default() }
    }

    #[test]
    fn a_window_over_midnight_is_open_on_both_sides_of_it() {
        let policy = with(&["22:00-06:00"]);
        for (time, open) in [
            ("21:59", false),
            ("22:00", true),
            ("23:59", true),
            ("00:00", true),
            ("05:59", true),
            ("06:00", false),
            ("12:00", false),
        ] {
            assert_eq!(policy.open_at(at(time)), open, "{time}");
        }
    }

    #[test]
    fn windows_add_up_and_none_means_always() {
        let policy = with(&["12:00-13:00", "20:00-24:00"]);
        assert!(policy.open_at(at("12:30")) && policy.open_at(at("23:59")));
        assert!(!policy.open_at(at("13:00")) && !policy.open_at(at("00:00")));
        assert!(with(&[]).open_at(at("09:00")));
    }

    #[test]
    fn windows_that_say_nothing_sensible_are_refused() {
        for text in [
            "",
            "22:00",
            "22:00-22:00",
            "24:00-06:00",
            "22:60-23:00",
            "25:00-26:00",
            "2:00-3:00",
            "+2:00-03:00",
        ] {
            assert_eq!(text.parse::<Window>(), Err(InvalidWindow), "{text}");
        }
    }
}
