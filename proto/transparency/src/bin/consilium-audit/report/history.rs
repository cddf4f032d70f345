//! One study, put together again from the leaves of the log.

use std::collections::{BTreeMap, BTreeSet};

use transparency::fact::{Charge, Digest, Fact, Outcome, PrivacyPlan, Told};
use transparency::time::UtcTime;

/// The mode of a study that protects nobody.
pub(super) const NO_PRIVACY: &str = "danger_no_privacy";

/// How far a clock may be put back without a word.
const CLOCK_MILLIS: u64 = 60_000;

/// A study as it was proposed.
pub(super) struct Proposal {
    pub(super) index: u64,
    pub(super) time: UtcTime,
    pub(super) name: String,
    pub(super) by: String,
    pub(super) sites: Vec<String>,
    pub(super) model: Digest,
    pub(super) manifest: Option<Digest>,
    pub(super) privacy: Option<PrivacyPlan>,
}

/// What a site decided on the study.
pub(super) struct Decision {
    pub(super) index: u64,
    pub(super) time: UtcTime,
    pub(super) site: String,
    pub(super) decision: String,
}

/// A step of the study's life.
pub(super) struct Step {
    pub(super) index: u64,
    pub(super) time: UtcTime,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) by: String,
    pub(super) reason: String,
}

/// How an attempt ended.
#[derive(Default)]
pub(super) enum End {
    /// It has not, as far as the log goes.
    #[default]
    Open,
    Released {
        contributed: Vec<String>,
        sum: Option<Digest>,
    },
    Abandoned {
        reason: String,
    },
}

/// One attempt at one round.
#[derive(Default)]
pub(super) struct Attempt {
    pub(super) round: u64,
    pub(super) slot: u64,
    pub(super) announced: Option<UtcTime>,
    /// The entry that announced it: what comes before it in the log was known then, whatever its time.
    pub(super) began: Option<u64>,
    pub(super) ended: Option<UtcTime>,
    pub(super) work: String,
    pub(super) terms: Option<Digest>,
    pub(super) model: Option<Digest>,
    pub(super) invited: BTreeSet<String>,
    pub(super) absent: BTreeSet<String>,
    pub(super) members: Option<BTreeSet<String>>,
    /// Who was ready.
    pub(super) ready: BTreeSet<String>,
    /// What arrived whole, by site.
    pub(super) arrived: BTreeMap<String, Digest>,
    /// Who is missing, and why; the reason that came first, which is the site's own.
    pub(super) missing: BTreeMap<String, String>,
    /// Those of the missing who said no themselves.
    pub(super) declined: BTreeSet<String>,
    /// Sites whose ledgers were charged.
    pub(super) charged: BTreeSet<String>,
    /// What the coordinator says the patients had spent when the sum was released.
    pub(super) spent: Option<f64>,
    pub(super) end: End,
    /// What the log tells of it once more, and differently: the first word counts.
    pub(super) again: Vec<String>,
}

/// How a site took part in an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Its update is in the released sum.
    InSum,
    /// Its update arrived, or it was ready and nobody was asked for one, and nothing was released.
    InVain,
    /// It declined.
    Declined,
    /// It was invited, and did not deliver.
    Dropped,
    /// It was not connected.
    Absent,
    /// It was no part of the attempt, or the attempt is open.
    None,
}

impl Attempt {
    pub(super) fn part(&self, site: &str) -> Part {
        let released = match &self.end {
            End::Released { contributed, .. } => contributed.iter().any(|one| one == site),
            End::Open | End::Abandoned { .. } => false,
        };
        if released {
            Part::InSum
        } else if self.declined.contains(site) {
            Part::Declined
        } else if self.members.is_none() && self.ready.contains(site) && !self.is_open() {
            Part::InVain
        } else if self.missing.contains_key(site) {
            Part::Dropped
        } else if self.absent.contains(site) {
            Part::Absent
        } else if self.arrived.contains_key(site) {
            Part::InVain
        } else {
            Part::None
        }
    }

    const fn is_open(&self) -> bool {
        matches!(self.end, End::Open)
    }

    pub(super) fn released(&self) -> bool {
        matches!(self.end, End::Released { .. })
    }
}

/// A charge and its place.
pub(super) struct Charged {
    pub(super) round: u64,
    pub(super) slot: u64,
    pub(super) charge: Charge,
}

/// A model that a round made.
pub(super) struct Change {
    pub(super) index: u64,
    pub(super) time: UtcTime,
    pub(super) round: u64,
    pub(super) slot: u64,
    pub(super) before: Digest,
    pub(super) after: Digest,
}

/// How good a model was, over all sites together.
pub(super) struct Evaluated {
    pub(super) round: u64,
    pub(super) loss: Option<f64>,
    pub(super) auroc: Option<f64>,
    pub(super) accuracy: Option<f64>,
    pub(super) dice: Option<f64>,
}

/// Something that a reader of the report should see.
pub(super) struct Incident {
    pub(super) index: u64,
    pub(super) time: UtcTime,
    pub(super) round: Option<u64>,
    pub(super) what: String,
    pub(super) outcome: Outcome,
}

/// A fact about a site's admission, or an operator's act.
pub(super) struct Act {
    pub(super) index: u64,
    pub(super) time: UtcTime,
    pub(super) what: String,
    pub(super) digest: Option<Digest>,
}

/// Everything that the log tells of one study.
#[derive(Default)]
pub(super) struct History {
    pub(super) proposal: Option<Proposal>,
    pub(super) decisions: Vec<Decision>,
    pub(super) life: Vec<Step>,
    /// By slot, which ascends.
    pub(super) attempts: BTreeMap<u64, Attempt>,
    pub(super) charges: BTreeMap<String, Vec<Charged>>,
    pub(super) changes: Vec<Change>,
    pub(super) evaluated: Vec<Evaluated>,
    pub(super) incidents: Vec<Incident>,
    pub(super) exports: Vec<Act>,
    /// Invitations, certificates and the like, of every site that the log tells of.
    pub(super) admissions: Vec<(String, Act)>,
    /// Leaves of this study.
    pub(super) leaves: u64,
    /// The latest time of a leaf.
    newest: Option<UtcTime>,
    /// Leaves with an earlier time than one before them.
    pub(super) back: Vec<(u64, UtcTime)>,
    /// Leaves of known kinds that lack something, of any study.
    pub(super) defects: Vec<(u64, String)>,
    /// Leaves of kinds that this program does not know, of this study or of none.
    pub(super) unknown: BTreeMap<String, u64>,
}

impl History {
    /// The study's sites: those of the proposal, and whoever else shows up.
    pub(super) fn sites(&self) -> Vec<String> {
        let mut sites: Vec<String> =
            self.proposal.iter().flat_map(|proposal| proposal.sites.clone()).collect();
        let others: BTreeSet<&String> = self
            .attempts
            .values()
            .flat_map(|attempt| attempt.invited.iter().chain(&attempt.absent))
            .chain(self.charges.keys())
            .collect();
        for site in others {
            if !sites.contains(site) {
                sites.push(site.clone());
            }
        }
        sites
    }

    /// The highest round that was announced; 0 when there is none.
    pub(super) fn rounds(&self) -> u64 {
        self.attempts.values().map(|attempt| attempt.round).max().unwrap_or(0)
    }

    /// Takes one leaf's fact in, if it is of `study` or of the consortium.
    pub(super) fn take(&mut self, study: &Digest, index: u64, kind: &str, told: Told) {
        let Told { time, study: of, round, slot, fact } = told;
        if of.as_ref().is_some_and(|of| of != study) {
            return;
        }
        self.leaves += u64::from(of.is_some());
        let newest = *self.newest.get_or_insert(time);
        if newest.as_millis().saturating_sub(time.as_millis()) > CLOCK_MILLIS {
            self.back.push((index, time));
        }
        self.newest = Some(newest.max(time));
        let site = fact.site().map(ToOwned::to_owned);
        if fact.outcome() != Outcome::Done && (of.is_some() || matches!(fact, Fact::Alarm { .. })) {
            let (what, outcome) = (fact.sentence(), fact.outcome());
            self.incidents.push(Incident { index, time, round, what, outcome });
        }
        if of.is_none() {
            if let Some(site) = site {
                let what = fact.sentence();
                let digest = if let Fact::SiteApproved { certificate: digest, .. }
                | Fact::CertificateRenewed { certificate: digest, .. }
                | Fact::SiteEnrolled { identity: digest, .. } = fact
                {
                    Some(digest)
                } else {
                    None
                };
                self.admissions.push((site, Act { index, time, what, digest }));
            } else if fact == Fact::Unknown {
                *self.unknown.entry(kind.to_owned()).or_default() += 1;
            }
            return;
        }
        self.take_study(index, time, kind, fact, round, slot);
    }

    fn take_study(
        &mut self,
        index: u64,
        time: UtcTime,
        kind: &str,
        fact: Fact,
        round: Option<u64>,
        slot: Option<u64>,
    ) {
        match fact {
            Fact::StudyProposed { name, by, sites, model, manifest, privacy } => {
                let proposal = Proposal { index, time, name, by, sites, model, manifest, privacy };
                // The first one counts: a study is its digest, so another can say nothing new.
                self.proposal.get_or_insert(proposal);
            }
            Fact::StudyDecided { site, decision } => {
                self.decisions.push(Decision { index, time, site, decision });
            }
            Fact::StudyChanged { from, to, by, reason } => {
                let reason = reason.unwrap_or_default();
                self.life.push(Step { index, time, from, to, by, reason });
            }
            Fact::ModelExported { ref model, .. } => {
                let digest = Some(model.clone());
                self.exports.push(Act { index, time, what: fact.sentence(), digest });
            }
            Fact::KeyAnnounced { .. }
            | Fact::KeyNonce { .. }
            | Fact::PrekeyBatch { .. }
            | Fact::Alarm { .. } => {}
            Fact::Unknown => *self.unknown.entry(kind.to_owned()).or_default() += 1,
            Fact::SiteInvited { .. }
            | Fact::SiteEnrolled { .. }
            | Fact::SiteApproved { .. }
            | Fact::SiteRevoked { .. }
            | Fact::CertificateRenewed { .. }
            | Fact::WitnessAnnounced { .. } => {}
            Fact::ModelChanged { before, after } => {
                let (round, slot) = (round.unwrap_or_default(), slot.unwrap_or_default());
                self.changes.push(Change { index, time, round, slot, before, after });
            }
            Fact::RoundEvaluated { loss, auroc, accuracy, dice, .. } => {
                let round = round.unwrap_or_default();
                self.evaluated.push(Evaluated { round, loss, auroc, accuracy, dice });
            }
            of_round @ (Fact::RoundAnnounced { .. }
            | Fact::RoundAbsent { .. }
            | Fact::RoundReady { .. }
            | Fact::RoundDeclined { .. }
            | Fact::RoundFrozen { .. }
            | Fact::RoundContribution { .. }
            | Fact::RoundDropout { .. }
            | Fact::RoundReleased { .. }
            | Fact::RoundRefused { .. }
            | Fact::RoundAbandoned { .. }
            | Fact::RoundResumed {}
            | Fact::RoundFinalSet { .. }
            | Fact::RoundSetSigned { .. }
            | Fact::RoundShares { .. }
            | Fact::RoundWrongShare { .. }
            | Fact::RoundRecovery { .. }
            | Fact::RoundKept { .. }
            | Fact::RoundForgotten { .. }
            | Fact::LedgerCharge(_)
            | Fact::LedgerRefused { .. }) => {
                if let (Some(round), Some(slot)) = (round, slot) {
                    self.take_round(index, time, round, slot, of_round);
                }
            }
        }
    }

    fn take_round(&mut self, index: u64, time: UtcTime, round: u64, slot: u64, fact: Fact) {
        let attempt = self.attempts.entry(slot).or_default();
        if attempt.slot == 0 {
            (attempt.round, attempt.slot) = (round, slot);
        } else if attempt.round != round {
            attempt.again.push(format!("its slot is round {round} as well"));
            return;
        }
        match fact {
            Fact::RoundAnnounced { .. } if attempt.began.is_some() => {
                attempt.again.push("announced once more".to_owned());
            }
            Fact::RoundAnnounced { terms, work, model, invited } => {
                (attempt.announced, attempt.began) = (Some(time), Some(index));
                attempt.work = work;
                attempt.terms = Some(terms);
                attempt.model = Some(model);
                attempt.invited = invited.into_iter().collect();
            }
            Fact::RoundAbsent { site } => {
                attempt.absent.insert(site);
            }
            Fact::RoundReady { site } => {
                attempt.ready.insert(site);
            }
            Fact::RoundDeclined { site, reason } => {
                attempt.declined.insert(site.clone());
                attempt.missing.entry(site).or_insert(reason);
            }
            Fact::RoundDropout { site, reason } => {
                attempt.missing.entry(site).or_insert(reason);
            }
            Fact::RoundFrozen { members } => attempt.members = Some(members.into_iter().collect()),
            Fact::RoundContribution { site, .. } if !matches!(attempt.end, End::Open) => {
                attempt.again.push(format!("an update of {site} after its end"));
            }
            Fact::RoundContribution { site, digest, .. } => {
                let first = attempt.arrived.entry(site.clone()).or_insert_with(|| digest.clone());
                if *first != digest {
                    attempt.again.push(format!("another update of {site}"));
                }
            }
            Fact::RoundReleased { .. } | Fact::RoundAbandoned { .. }
                if !matches!(attempt.end, End::Open) =>
            {
                attempt.again.push("ended once more".to_owned());
            }
            Fact::RoundReleased { contributed, sum, epsilon, .. } => {
                attempt.ended = Some(time);
                attempt.spent = epsilon;
                attempt.end = End::Released { contributed, sum };
            }
            Fact::RoundAbandoned { reason } => {
                attempt.ended = Some(time);
                attempt.end = End::Abandoned { reason };
            }
            Fact::LedgerCharge(charge) => {
                attempt.charged.insert(charge.site.clone());
                let charges = self.charges.entry(charge.site.clone()).or_default();
                charges.push(Charged { round, slot, charge });
            }
            Fact::SiteInvited { .. }
            | Fact::SiteEnrolled { .. }
            | Fact::SiteApproved { .. }
            | Fact::SiteRevoked { .. }
            | Fact::CertificateRenewed { .. }
            | Fact::WitnessAnnounced { .. }
            | Fact::StudyProposed { .. }
            | Fact::StudyDecided { .. }
            | Fact::StudyChanged { .. }
            | Fact::RoundResumed {}
            | Fact::RoundEvaluated { .. }
            | Fact::KeyAnnounced { .. }
            | Fact::KeyNonce { .. }
            | Fact::PrekeyBatch { .. }
            | Fact::RoundFinalSet { .. }
            | Fact::RoundSetSigned { .. }
            | Fact::RoundShares { .. }
            | Fact::RoundRefused { .. }
            | Fact::RoundWrongShare { .. }
            | Fact::RoundRecovery { .. }
            | Fact::RoundKept { .. }
            | Fact::RoundForgotten { .. }
            | Fact::LedgerRefused { .. }
            | Fact::ModelChanged { .. }
            | Fact::ModelExported { .. }
            | Fact::Alarm { .. }
            | Fact::Unknown => {}
        }
    }
}
