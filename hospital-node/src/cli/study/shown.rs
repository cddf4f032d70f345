//! A study as a person, or a script, is shown it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aggregation::ids::HospitalId;
use aggregation::keys::identity::IdentityKey;
use aggregation::keys::thresholds::Thresholds;
use aggregation::privacy::plan::Plan;
use aggregation::study::{Privacy, Study, Unit};
use proto::cli::Failure;
use serde_json::{Value, json};

use super::decided;
use crate::clock;
use crate::config::Config;
use crate::identity::fingerprint;
use crate::journal::{Decision, LocalStudy, Pin};
use crate::policy::{Violation, up};
use crate::proposal::{Proposal, state_name};

/// A study as one object.
pub(super) fn row(proposal: &Proposal, local: &[LocalStudy], config: &Config) -> Value {
    let ours = decided(local, proposal.id);
    let noise = proposal.noise();
    let violations = config.policy.violations(&proposal.study, noise.as_ref());
    let violations: Vec<String> = violations.iter().map(Violation::to_string).collect();
    json!({
        "digest": proposal.id.to_string(),
        "name": proposal.study.name,
        "state": state_name(proposal.state),
        "model": proposal.study.model.name(),
        "rounds": proposal.study.training.rounds,
        "rounds_released": proposal.rounds_released,
        "quorum": proposal.study.cohort.quorum,
        "privacy": privacy(&proposal.study),
        "epsilon": noise.map(|plan| figures(&proposal.study, &plan)),
        "masked": !proposal.study.cohort.danger_unmasked,
        "thresholds": thresholds(proposal).map(|of| json!({
            "sites": of.provisioned(),
            "tolerate_colluding": of.colluding(),
            "quorum": of.least(),
            "unmask": of.shares(),
        })),
        "sites": proposal.sites.iter().map(|site| site.as_str()).collect::<Vec<_>>(),
        "decision": ours.map(|study| study.decision.name()),
        "data": ours.and_then(|study| study.data.as_deref()),
        "decided": ours.map(|study| clock::rfc3339(study.decided)),
        "coordinator_knows": proposal.known.map(Decision::name),
        "violations": violations,
    })
}

/// n, t, m and T; none for a study without masks.
fn thresholds(proposal: &Proposal) -> Option<Thresholds> {
    proposal.study.cohort.thresholds(proposal.sites.len()).ok().flatten()
}

/// A study, and what this house knows of its sites.
pub(super) struct Shown<'a> {
    /// The study.
    pub(super) proposal: &'a Proposal,
    /// This site.
    pub(super) me: &'a HospitalId,
    /// Its own key.
    pub(super) own: IdentityKey,
    /// The others'.
    pub(super) pins: BTreeMap<HospitalId, Pin>,
}

/// Whether a key counts here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is this site's own.
    Own,
    /// It should be this site's own.
    NotOurs,
    /// It was pinned or accepted.
    Pinned,
    /// Another one was.
    Changed,
    /// None was.
    New,
}

impl Standing {
    const fn name(self) -> &'static str {
        match self {
            Self::Own => "this site",
            Self::NotOurs => "NOT THIS SITE'S",
            Self::Pinned => "pinned",
            Self::Changed => "CHANGED",
            Self::New => "new",
        }
    }
}

impl Shown<'_> {
    /// Whether the key that the coordinator names for a site is the one that counts here.
    fn standing(&self, site: &HospitalId, key: &IdentityKey) -> Standing {
        if site == self.me {
            return if *key == self.own { Standing::Own } else { Standing::NotOurs };
        }
        match self.pins.get(site).and_then(|pin| pin.key) {
            Some((pinned, _)) if pinned == *key => Standing::Pinned,
            Some(_) => Standing::Changed,
            None => Standing::New,
        }
    }

    /// The same for a script.
    pub(super) fn identities(&self) -> Value {
        let one = |(site, key): (&HospitalId, &IdentityKey)| {
            let standing = self.standing(site, key).name();
            json!({ "site": site.as_str(), "fingerprint": fingerprint(key), "standing": standing })
        };
        Value::from_iter(self.proposal.identities.iter().map(one))
    }

    /// The keys to approve the study with: none for one without masks.
    ///
    /// # Errors
    /// When the coordinator names none, or one that does not count here.
    pub(super) fn accepted(&self) -> Result<BTreeMap<HospitalId, IdentityKey>, Failure> {
        let Proposal { study, identities, .. } = self.proposal;
        if study.cohort.danger_unmasked {
            return Ok(BTreeMap::new());
        }
        if identities.is_empty() {
            let text = "expected the identity keys of the sites, found none";
            return Err(Failure::failed("no_identities", text)
                .hint("the coordinator may be older than this program"));
        }
        for (site, key) in identities {
            let text = match self.standing(site, key) {
                Standing::Own | Standing::Pinned => continue,
                Standing::New => format!("the identity of {site} is not accepted yet"),
                Standing::Changed => {
                    format!("the identity key of {site} is not the one that was pinned")
                }
                Standing::NotOurs => {
                    "the coordinator names another identity key for this site than ours".to_owned()
                }
            };
            return Err(Failure::failed("identity_not_accepted", text).hint(format!(
                "compare {} with the site itself, then `hospital-node roster accept --site {site}`",
                fingerprint(key)
            )));
        }
        Ok(identities.clone())
    }

    /// What a person needs to see before saying yes.
    pub(super) fn described(&self, config: &Config) -> String {
        let Proposal { id, study, sites, .. } = self.proposal;
        let sites: Vec<&str> = sites.iter().map(|site| site.as_str()).collect();
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<12} {value}");
        };
        line("study", study.name.clone());
        line("digest", id.to_string());
        line("model", study.model.name().to_owned());
        line("rounds", study.training.rounds.to_string());
        line("strategy", strategy(study).to_owned());
        line("privacy", privacy(study).to_owned());
        line("quorum", format!("{} of {} sites", study.cohort.quorum, sites.len()));
        match thresholds(self.proposal) {
            Some(of) => line(
                "masks",
                format!(
                    "on: n = {} sites, of which t = {} may collude; m = {} in every sum; T = {} sign \
                 and unmask it",
                    of.provisioned(),
                    of.colluding(),
                    of.least(),
                    of.shares()
                ),
            ),
            None => line(
                "DANGER",
                "UPDATES ARE NOT MASKED: the coordinator can read the update of each single site"
                    .to_owned(),
            ),
        }
        line("sites", sites.join(", "));
        for (site, key) in &self.proposal.identities {
            let standing = self.standing(site, key).name();
            line("identity", format!("{site} {} {standing}", fingerprint(key)));
        }
        let noise = self.proposal.noise();
        match &study.privacy {
            Privacy::DangerNone => line(
                "DANGER",
                "NO DIFFERENTIAL PRIVACY: the released sums, and the model, can reveal single \
                 patients"
                    .to_owned(),
            ),
            Privacy::Patients(rules) => {
                if let Some(plan) = &noise {
                    let spent = plan.epsilon(rules.accountant);
                    let t = study.cohort.colluding;
                    line(
                        "epsilon",
                        format!(
                            "{:.3} against the coordinator and {t} of the sites; {:.3} against \
                             everybody else together (delta {}, {}); {} rounds that are tried again \
                             included",
                            up(spent.planned.get(), 3),
                            up(spent.solo.get(), 3),
                            rules.delta,
                            rules.accountant.name(),
                            rules.spare_rounds
                        ),
                    );
                    line(
                        "noise",
                        format!(
                            "multiplier {:.4} at clipping norm {}; each patient takes part in a \
                             round with probability {}",
                            plan.noise().get(),
                            rules.clipping_norm,
                            rules.sampling_rate
                        ),
                    );
                }
                if rules.unit == Unit::DangerImage {
                    let what =
                        "PRIVACY FOR EACH IMAGE ALONE: a patient with many is less protected";
                    line("DANGER", what.to_owned());
                }
                if study.evaluation.danger_exact {
                    let what = "EXACT SCORES: sums over held-out patients, whom no epsilon covers; rounds \
                                that differ by a hospital can tell that hospital's";
                    line("DANGER", what.to_owned());
                }
            }
        }
        for violation in config.policy.violations(study, noise.as_ref()) {
            line("FORBIDDEN", violation.to_string());
        }
        text
    }
}

const fn strategy(study: &Study) -> &'static str {
    match study.training.strategy {
        aggregation::study::Strategy::FedAvg => "fedavg",
        aggregation::study::Strategy::FedSgd => "fedsgd",
        aggregation::study::Strategy::DpFedSgd => "dp-fedsgd",
    }
}

const fn privacy(study: &Study) -> &'static str {
    study.privacy.name()
}

/// What the whole study spends.
fn figures(study: &Study, plan: &Plan) -> Value {
    let Some(rules) = study.privacy.rules() else { return Value::Null };
    let spent = plan.epsilon(rules.accountant);
    json!({
        "planned": spent.planned.get(),
        "solo": spent.solo.get(),
        "delta": rules.delta,
        "accountant": rules.accountant.name(),
        "unit": rules.unit.name(),
        "noise_multiplier": plan.noise().get(),
        "sampling_rate": rules.sampling_rate,
        "clipping_norm": rules.clipping_norm,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aggregation::units::Timestamp;
    use proto::federation::StudyNotice;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn key(byte: u8) -> IdentityKey {
        IdentityKey::new([byte; 32])
    }

    fn proposal(masked: bool, keys: &[u8]) -> Proposal {
        let manifest = crate::policy::tests::MANIFEST;
        let manifest = if masked {
            manifest.replace("danger_unmasked_updates = true", "")
        } else {
            manifest.to_owned()
        };
        let study = proto::manifest::parse(&manifest).expect("valid");
        let notice = StudyNotice {
            digest: study.digest().digest().as_bytes().to_vec(),
            manifest_toml: manifest,
            sites: ["anna", "bert", "carl"].map(str::to_owned).to_vec(),
            identities: keys.iter().map(|byte| vec![*byte; 32]).collect(),
            ..StudyNotice::default()
        };
        let me = HospitalId::new("anna").expect("a name");
        Proposal::check(notice, &me).expect("holds together")
    }

    fn config() -> Config {
        Config::parse("state = \"s\"\n", std::path::Path::new("node.toml")).expect("valid")
    }

    #[test]
    fn a_person_sees_who_masks_with_whom_and_by_which_keys() {
        let me = HospitalId::new("anna").expect("a name");
        let pin = |byte| Pin { key: Some((key(byte), NOW)), found: None };
        let pins: BTreeMap<_, _> = [("bert", pin(2)), ("carl", pin(3))]
            .map(|(name, pin)| (HospitalId::new(name).expect("a name"), pin))
            .into();
        let masked = proposal(true, &[1, 2, 3]);
        let shown = Shown { proposal: &masked, me: &me, own: key(1), pins: pins.clone() };
        let text = shown.described(&config());
        for expected in [
            "on: n = 3 sites, of which t = 1 may collude; m = 3 in every sum; T = 3 sign",
            &format!("anna {} this site", fingerprint(&key(1))),
            &format!("bert {} pinned", fingerprint(&key(2))),
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert_eq!(shown.accepted().expect("all count"), masked.identities);
        let data = row(&masked, &[], &config());
        assert_eq!(data["thresholds"]["unmask"], 3);
        assert_eq!(data["masked"], true);

        for (keys, word, code) in [
            (vec![1, 2, 9], "CHANGED", "identity_not_accepted"),
            (vec![9, 2, 3], "NOT THIS SITE'S", "identity_not_accepted"),
            (vec![], "", "no_identities"),
        ] {
            let other = proposal(true, &keys);
            let shown = Shown { proposal: &other, me: &me, own: key(1), pins: pins.clone() };
            assert!(shown.described(&config()).contains(word), "{word}");
            assert_eq!(shown.accepted().expect_err(word).code, code);
        }
        let shown = Shown { proposal: &masked, me: &me, own: key(1), pins: BTreeMap::new() };
        assert!(shown.described(&config()).contains("new"));
        assert_eq!(shown.accepted().expect_err("new").code, "identity_not_accepted");
    }

    #[test]
    fn a_study_without_masks_says_so_in_capitals() {
        let me = HospitalId::new("anna").expect("a name");
        let plain = proposal(false, &[1, 2, 3]);
        let shown = Shown { proposal: &plain, me: &me, own: key(1), pins: BTreeMap::new() };
        let text = shown.described(&config());
        assert!(text.contains("UPDATES ARE NOT MASKED"), "{text}");
        assert!(text.contains("policy.danger_accept_unmasked_updates"), "{text}");
        assert!(shown.accepted().expect("none needed").is_empty());
        let data = row(&plain, &[], &config());
        assert_eq!((data["masked"].as_bool(), data["thresholds"].is_null()), (Some(false), true));
    }
}
