//! What every site agreed to: a study and its roster; and whether a round's terms meet it.
//!
//! Both ends take their parameters from here and from nothing that is said in a round.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ids::{HospitalId, RoundId, StudyId};
use crate::keys::thresholds::Thresholds;
use crate::message::{Terms, Work};
use crate::privacy::plan::Plan as NoisePlan;
use crate::refusal::Refusal;
use crate::round::{Masks, Plan};
use crate::study::{Study, StudyFault};
use crate::vector::{MAX_SITES, VectorFormat};

/// A study that can be run, with the sites that run it.
#[derive(Debug, Clone, PartialEq)]
pub struct Charter {
    study: Study,
    id: StudyId,
    sites: BTreeSet<HospitalId>,
    noise: Option<NoisePlan>,
}

impl Charter {
    /// Joins a study and its roster.
    ///
    /// # Errors
    /// With every fault of the study, and when the roster is not the study's list, is empty, has
    /// more sites than an update has room for, or fewer than the quorum (PROTOCOL R-13), or when
    /// the quorum is too small for that many sites to mask (PROTOCOL M-21 to M-23).
    pub fn new(study: Study, sites: BTreeSet<HospitalId>) -> Result<Self, Vec<StudyFault>> {
        let mut faults = study.faults();
        let listed: BTreeSet<_> = study.cohort.sites.iter().cloned().collect();
        if !listed.is_empty() && listed != sites {
            faults.push(StudyFault {
                key: "cohort.sites".to_owned(),
                found: format!("a roster of {} sites", sites.len()),
                allowed: format!("the {} sites of the study", listed.len()),
            });
        }
        if sites.is_empty() || sites.len() > MAX_SITES {
            faults.push(StudyFault {
                key: "cohort.sites".to_owned(),
                found: format!("{} sites", sites.len()),
                allowed: format!("1 to {MAX_SITES} sites"),
            });
        }
        if sites.len() < usize::from(study.cohort.quorum) {
            faults.push(StudyFault {
                key: "cohort.quorum".to_owned(),
                found: format!("{} of {} sites", study.cohort.quorum, sites.len()),
                allowed: "at most the number of sites".to_owned(),
            });
        }
        if faults.is_empty()
            && let Err(fault) = study.cohort.thresholds(sites.len())
        {
            faults.push(fault);
        }
        if faults.is_empty() {
            match study.noise_plan(sites.len()) {
                Ok(noise) => return Ok(Self { id: study.digest(), study, sites, noise }),
                Err(fault) => faults.push(fault),
            }
        }
        Err(faults)
    }

    /// The study.
    #[must_use]
    pub const fn study(&self) -> &Study {
        &self.study
    }

    /// The study's digest.
    #[must_use]
    pub const fn id(&self) -> StudyId {
        self.id
    }

    /// The roster.
    #[must_use]
    pub const fn sites(&self) -> &BTreeSet<HospitalId> {
        &self.sites
    }

    /// n, t, m and T; none for a study whose updates travel unmasked.
    #[must_use]
    pub fn thresholds(&self) -> Option<Thresholds> {
        // [`Charter::new`] has seen that they hold together.
        self.study.cohort.thresholds(self.sites.len()).ok().flatten()
    }

    /// The noise of a private study; none of another.
    #[must_use]
    pub const fn noise(&self) -> Option<&NoisePlan> {
        self.noise.as_ref()
    }

    /// The format of an update of such work (PROTOCOL R-03).
    ///
    /// # Errors
    /// Never for a charter that was made by [`Charter::new`]; the reason stands in the fault.
    pub fn format(&self, work: Work) -> Result<VectorFormat, StudyFault> {
        VectorFormat::planned(&self.study, self.sites.len(), work, self.noise.as_ref())
    }

    /// How the coordinator runs a round of such work, with the masks that it has been given keys
    /// for.
    ///
    /// # Errors
    /// As [`Charter::format`]; and when there are masks for a study that has none, or none for a
    /// study that has them: a round never runs unmasked by omission (PROTOCOL R-24).
    pub fn plan(&self, work: Work, masks: Option<Arc<Masks>>) -> Result<Plan, StudyFault> {
        let cohort = &self.study.cohort;
        // PROTOCOL R-24
        if masks.is_some() == cohort.danger_unmasked {
            return Err(StudyFault {
                key: "cohort.danger_unmasked_updates".to_owned(),
                found: cohort.danger_unmasked.to_string(),
                allowed: if masks.is_some() { "false, with masks" } else { "true, without masks" }
                    .to_owned(),
            });
        }
        Ok(Plan {
            masks,
            format: self.format(work)?,
            quorum: cohort.quorum,
            round_deadline: cohort.round_deadline,
            upload_deadline: cohort.upload_deadline,
        })
    }

    /// Whether a site may work under these terms.
    ///
    /// # Errors
    /// When they are of another study, of a round or work that the study does not plan, name a
    /// site that is not on the roster, or too few sites.
    pub fn check(&self, terms: &Terms) -> Result<(), Refusal> {
        // PROTOCOL R-03: the study that was approved, and no other.
        if terms.study != self.id {
            return Err(Refusal::OtherStudy { expected: self.id, found: terms.study });
        }
        // PROTOCOL R-04
        let last = self.study.last_round();
        if terms.round > last {
            return Err(Refusal::WrongRound { first: RoundId::FIRST, last, found: terms.round });
        }
        let expected = self.study.work_in(terms.round);
        if terms.work != expected {
            return Err(Refusal::OtherWork { expected, found: terms.work });
        }
        // PROTOCOL R-05
        if let Some(stranger) = terms.invited.difference(&self.sites).next() {
            return Err(Refusal::Stranger { hospital: stranger.clone() });
        }
        // PROTOCOL R-13
        let (found, quorum) = (terms.invited.len(), self.study.cohort.quorum);
        if found < usize::from(quorum) {
            return Err(Refusal::BelowQuorum { found, quorum });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearsal::{charter, site, terms};
    use crate::study::tests::example;

    #[test]
    fn terms_that_meet_the_charter_are_accepted() {
        let charter = charter(4, 3);
        for round in 1..=11 {
            assert_eq!(charter.check(&terms(&charter, round, 9)), Ok(()));
        }
        let mut fewer = terms(&charter, 1, 1);
        fewer.invited.remove(&site(0));
        assert_eq!(charter.check(&fewer), Ok(()));
    }

    /// Breaks, one at a time.
    #[test]
    fn terms_that_do_not_meet_the_charter_are_refused_by_the_rule_they_break() {
        let charter = charter(4, 3);
        let mut other = example();
        other.name = "another".to_owned();
        type Change = Box<dyn Fn(&mut Terms)>;
        let cases: [(&str, Change); 6] = [
            ("R-03", Box::new(move |t| t.study = other.digest())),
            ("R-04", Box::new(|t| t.round = RoundId::after(11))),
            ("R-04", Box::new(|t| t.work = Work::Evaluate)),
            ("R-04", Box::new(|t| t.work = Work::TrainAndEvaluate)),
            ("R-05", Box::new(|t| assert!(t.invited.insert(site(9))))),
            ("R-13", Box::new(|t| t.invited = [site(0), site(1)].into())),
        ];
        for (rule, change) in cases {
            let mut terms = terms(&charter, 1, 1);
            change(&mut terms);
            assert_eq!(charter.check(&terms).map_err(|refusal| refusal.rule()), Err(rule));
        }
    }

    #[test]
    fn a_roster_that_does_not_fit_the_study_is_refused() {
        let keys = |study: Study, sites: usize| {
            Charter::new(study, (0..sites).map(site).collect())
                .map(|_| ())
                .map_err(|faults| faults.into_iter().map(|fault| fault.key).collect::<Vec<_>>())
        };
        assert_eq!(keys(example(), 3), Ok(()));
        assert_eq!(keys(example(), 2), Err(vec!["cohort.quorum".to_owned()]));
        assert_eq!(
            keys(example(), 0),
            Err(vec!["cohort.sites".to_owned(), "cohort.quorum".to_owned()])
        );
        let mut listed = example();
        listed.cohort.sites = (0..3).map(site).collect();
        assert_eq!(keys(listed.clone(), 3), Ok(()));
        assert_eq!(keys(listed, 4), Err(vec!["cohort.sites".to_owned()]));
        let mut faulty = example();
        faulty.training.rounds = 0;
        assert_eq!(keys(faulty, 3), Err(vec!["train.rounds".to_owned()]));
    }

    #[test]
    fn the_plan_is_the_studys() {
        let charter = charter(4, 3);
        let plan = charter.plan(Work::Evaluate, None).expect("the example has a format");
        assert_eq!((plan.quorum, plan.format.model(), plan.format.sites()), (3, 0, 4));
        assert_eq!(plan.round_deadline, charter.study().cohort.round_deadline);
        assert_eq!(plan.upload_deadline, charter.study().cohort.upload_deadline);
    }
}
