//! What a study promises to patients, and the noise that keeps the promise.

use crate::privacy::accountant::Accountant;
use crate::privacy::charge::Mode;
use crate::privacy::ledger::{Cap, Promise};
use crate::privacy::plan::{BadPlan, Calibration, Plan, Wanted};
use crate::study::{Study, StudyFault};
use crate::units::{ClipNorm, Delta, Epsilon, OutOfRange, SamplingRate};

/// What protects the patients beyond the sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Privacy {
    /// Nothing: spelt out as a danger in the manifest, and each site has to opt in as well.
    DangerNone,
    /// Every sum that is released is differentially private for each patient.
    Patients(PrivacyRules),
}

/// How private, against whom, and at which clipping norm and sampling rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrivacyRules {
    /// Who adds how much of the noise.
    pub mode: Mode,
    /// What is present or absent as a whole.
    pub unit: Unit,
    /// The planned epsilon of the whole study: against the coordinator and the tolerated sites.
    pub epsilon: f64,
    /// The failure probability of the whole study.
    pub delta: f64,
    /// By which bound epsilon is counted.
    pub accountant: Accountant,
    /// The most that the epsilon against everybody else together may be.
    pub solo_cap: f64,
    /// The greatest L2 norm of what one patient adds to a step: C.
    pub clipping_norm: f64,
    /// The probability with which a patient takes part in a step: q.
    pub sampling_rate: f64,
    /// Training patients that all sites together expect to have: N. Sums are divided by `q N`, so
    /// that nobody has to tell how many were drawn; it need not be exact.
    pub patients: u32,
    /// Rounds beyond those of the study that the noise is planned for: one that is tried again is
    /// paid for again.
    pub spare_rounds: u32,
    /// Augmented views of a patient's image, of which the mean loss counts (\[DBH+22\] section 3.2).
    pub views: u16,
}

/// What is present or absent as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// All that one hospital holds about one person.
    Patient,
    /// One image: somebody with many is protected that many times less.
    DangerImage,
}

impl Unit {
    /// The name in evidence.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::DangerImage => "image",
        }
    }
}

impl Privacy {
    /// The rules of a private study.
    #[must_use]
    pub const fn rules(&self) -> Option<&PrivacyRules> {
        match self {
            Self::DangerNone => None,
            Self::Patients(rules) => Some(rules),
        }
    }

    /// The name that people type.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::DangerNone => "danger_no_privacy",
            Self::Patients(rules) => rules.mode.name(),
        }
    }
}

impl PrivacyRules {
    /// Rounds to spare where a study does not say: a twentieth.
    #[must_use]
    pub const fn spare_rounds_of(rounds: u32) -> u32 {
        rounds.div_ceil(20)
    }

    /// Patients that a step of the whole consortium expects: `q N`.
    #[must_use]
    pub fn batch(&self) -> f64 {
        self.sampling_rate * f64::from(self.patients)
    }
}

impl Study {
    /// What a private study promises to spend at most; every site holds it to that.
    #[must_use]
    pub fn promise(&self) -> Option<Promise> {
        let rules = self.privacy.rules()?;
        let epsilon = |value| Epsilon::new(value).ok();
        Some(Promise {
            cap: Cap { planned: epsilon(rules.epsilon)?, solo: epsilon(rules.solo_cap)? },
            delta: Delta::new(rules.delta).ok()?,
            accountant: rules.accountant,
        })
    }

    /// The noise of a private study whose roster has so many sites; none for another. Everyone
    /// computes it from what was approved, and from nothing else (PROTOCOL D-25).
    ///
    /// # Errors
    /// When no noise does what the study asks for, or not within the solo cap.
    pub fn noise_plan(&self, sites: usize) -> Result<Option<Plan>, StudyFault> {
        let Some(rules) = self.privacy.rules() else { return Ok(None) };
        let fault = |key: &str, found: String, allowed: String| {
            Err(StudyFault { key: key.to_owned(), found, allowed })
        };
        let Some(thresholds) = self.cohort.thresholds(sites)? else {
            let allowed = "false in a private study".to_owned();
            return fault("cohort.danger_unmasked_updates", "true".to_owned(), allowed);
        };
        let wanted = || {
            let target = Epsilon::new(rules.epsilon)?;
            Ok::<_, OutOfRange>(Wanted {
                mode: rules.mode,
                thresholds,
                calibration: Calibration::Target(target, rules.accountant),
                rate: SamplingRate::new(rules.sampling_rate)?,
                delta: Delta::new(rules.delta)?,
                clip: ClipNorm::new(rules.clipping_norm)?,
                rounds: self.training.rounds.saturating_add(rules.spare_rounds),
                steps_per_round: 1,
                parameters: crate::units::count(self.layout().parameters()),
                patients: whole(rules.batch()),
            })
        };
        let wanted = match wanted() {
            Ok(wanted) => wanted,
            Err(bad) => {
                return fault(
                    "privacy",
                    bad.found.to_string(),
                    format!("{}: {}", bad.unit, bad.allowed),
                );
            }
        };
        let plan = match Plan::new(&wanted) {
            Ok(plan) => plan,
            Err(bad) => {
                let key = match bad {
                    BadPlan::NoGrid { .. } => "privacy.clipping_norm",
                    BadPlan::TooManyParameters { .. } | BadPlan::NoParameters => "model.arch",
                    BadPlan::NoSteps { .. } | BadPlan::UnnoisedSteps { .. } => "train.rounds",
                    BadPlan::NoPatients => "privacy.patients",
                    BadPlan::Sampler { .. } | BadPlan::Unsolvable(_) | BadPlan::Charge(_) => {
                        "privacy.epsilon"
                    }
                };
                return fault(
                    key,
                    format!("no plan: {bad}"),
                    "a target that can be met".to_owned(),
                );
            }
        };
        let solo = plan.epsilon(rules.accountant).solo.get();
        if solo > rules.solo_cap {
            return fault(
                "privacy.solo_epsilon_cap",
                format!("{}, and a solo epsilon of {solo:.2}", rules.solo_cap),
                format!(
                    "at least {solo:.2} with {} sites of which {} may collude; or mode \"silo\"",
                    thresholds.provisioned(),
                    self.cohort.colluding
                ),
            );
        }
        Ok(Some(plan))
    }
}

/// The expected batch, rounded up.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and neither factor is negative"
)]
fn whole(batch: f64) -> u32 {
    libm::ceil(batch) as u32
}

// [DBH+22]: De et al.: Unlocking High-Accuracy Differentially Private Image Classification through Scale, arXiv 2204.13650.

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::study::Strategy;
    use crate::study::tests::example;

    /// Rules that a small study can keep.
    pub(crate) const fn rules(mode: Mode) -> PrivacyRules {
        PrivacyRules {
            mode,
            unit: Unit::Patient,
            epsilon: 3.0,
            delta: 1e-5,
            accountant: Accountant::Rdp,
            solo_cap: 30.0,
            clipping_norm: 1.0,
            sampling_rate: 0.1,
            patients: 1_000,
            spare_rounds: 1,
            views: 1,
        }
    }

    /// The example, private.
    pub(crate) fn private(mode: Mode) -> Study {
        let mut study = example();
        study.privacy = Privacy::Patients(rules(mode));
        study.training.strategy = Strategy::DpFedSgd;
        study.evaluation.every = 0;
        study.cohort.quorum = 4;
        study
    }

    fn changed(change: impl FnOnce(&mut PrivacyRules)) -> Study {
        let mut study = private(Mode::Distributed);
        if let Privacy::Patients(rules) = &mut study.privacy {
            change(rules);
        }
        study
    }

    #[test]
    fn the_plan_meets_the_target_and_the_solo_cap_is_kept() {
        for mode in [Mode::Distributed, Mode::Silo] {
            let plan = private(mode).noise_plan(5).expect("a plan").expect("private");
            let figures = plan.epsilon(Accountant::Rdp);
            assert!(figures.planned.get() <= 3.0 && figures.planned.get() > 2.99, "{figures:?}");
        }
        assert_eq!(example().noise_plan(5), Ok(None));
        let fault = changed(|rules| rules.solo_cap = 3.5).noise_plan(5).expect_err("solo is more");
        assert_eq!(fault.key, "privacy.solo_epsilon_cap");
        assert!(fault.allowed.contains("silo"), "{fault}");
        assert!(changed(|r| (r.solo_cap, r.mode) = (3.5, Mode::Silo)).noise_plan(5).is_ok());
    }

    #[test]
    fn what_no_noise_can_do_is_said_with_its_key() {
        let key = |study: &Study| study.noise_plan(5).map_err(|fault| fault.key);
        assert_eq!(key(&changed(|rules| rules.epsilon = 1e-4)), Err("privacy.epsilon".to_owned()));
        let tiny = changed(|rules| rules.clipping_norm = f64::MIN_POSITIVE);
        assert_eq!(key(&tiny), Err("privacy.clipping_norm".to_owned()));
        let mut readable = private(Mode::Distributed);
        readable.cohort.danger_unmasked = true;
        assert_eq!(key(&readable), Err("cohort.danger_unmasked_updates".to_owned()));
    }
}
