//! How a round's facts are told: as leaves that stay, as events that pass by, as trace.

use aggregation::ids::HospitalId;
use aggregation::message::{DeclineReason, Terms};
use aggregation::round::{Fact, Output};
use serde_json::Value;

use super::{Driver, Open, Taken, closes, fact_of_round};
use crate::board::Happened;
use crate::store::Leaf;
use crate::store::course::{Course, Courses};

/// The leaves of what was taken. Those of the closing input are left out, as they are kept with the
/// closing itself; but for the update that it may be, whose site gets its receipt now.
pub(super) fn leaves(terms: &Terms, taken: &[Taken], closing: bool) -> Vec<Leaf> {
    taken
        .iter()
        .flat_map(|one| {
            let last = closing && closes(one);
            facts(&one.outputs).filter(move |fact| !last || is_receipt(fact))
        })
        .map(|fact| leaf(terms, fact))
        .collect()
}

/// Whether a site is told of it before the round is closed for good.
pub(super) const fn is_receipt(fact: &Fact) -> bool {
    matches!(fact, Fact::Contributed { .. })
}

/// The facts among some outputs.
pub(super) fn facts(outputs: &[Output]) -> impl Iterator<Item = &Fact> {
    outputs.iter().filter_map(Output::fact)
}

fn names<'a>(sites: impl IntoIterator<Item = &'a HospitalId>) -> Value {
    Value::from_iter(sites.into_iter().map(HospitalId::as_str))
}

/// A fact of the round as a leaf.
pub(super) fn leaf(terms: &Terms, fact: &Fact) -> Leaf {
    let kind = match fact {
        Fact::Announced { .. } => "round_announced",
        Fact::Ready { .. } => "round_ready",
        Fact::Declined { reason: DeclineReason::Budget | DeclineReason::Ledger, .. } => {
            "ledger_refused"
        }
        Fact::Declined { .. } => "round_declined",
        Fact::Frozen { .. } => "round_frozen",
        Fact::Contributed { .. } => "round_contribution",
        Fact::Fixed { .. } => "round_final_set",
        Fact::Signed { .. } => "round_set_signed",
        Fact::Unmasked { .. } => "round_shares",
        Fact::WrongShare { .. } => "round_wrong_share",
        Fact::Recovered { .. } => "round_recovery",
        Fact::DroppedOut { .. } => "round_dropout",
        Fact::Released { .. } => "round_released",
        Fact::Abandoned { .. } => "round_abandoned",
        Fact::Alarm { .. } => "alarm",
    };
    let leaf = fact_of_round(terms, kind);
    match fact {
        Fact::Announced { terms: digest, invited } => leaf
            .with("terms", digest.to_string())
            .with("work", terms.work.name())
            .with("model", terms.model.to_string())
            .with("invited", names(invited)),
        Fact::Ready { hospital } | Fact::Signed { hospital } | Fact::Unmasked { hospital } => {
            leaf.with("site", hospital.as_str())
        }
        Fact::Declined { hospital, reason } => {
            leaf.with("site", hospital.as_str()).with("reason", reason.name())
        }
        Fact::Frozen { members } | Fact::Fixed { members } => leaf.with("members", names(members)),
        Fact::WrongShare { hospital, of } => {
            leaf.with("site", hospital.as_str()).with("of", of.as_str())
        }
        Fact::Recovered { dropped } => leaf.with("missing", names(dropped)),
        Fact::Contributed { hospital, digest, bytes } => leaf
            .with("site", hospital.as_str())
            .with("digest", digest.to_string())
            .with("bytes", *bytes),
        Fact::DroppedOut { hospital, why } => {
            leaf.with("site", hospital.as_str()).with("reason", why.to_string())
        }
        Fact::Released { contributed, sum } => {
            leaf.with("contributed", names(contributed)).with("sum", sum.to_string())
        }
        Fact::Abandoned { why } => leaf.with("reason", why.to_string()),
        Fact::Alarm { reason } => leaf.with("reason", reason.as_str()),
    }
}

/// Traces a fact: `info` tells a round in about ten lines.
pub(super) fn trace(terms: &Terms, fact: &Fact) {
    let (study, round, slot) = (terms.study.short(), terms.round.get(), terms.slot.get());
    match fact {
        Fact::Announced { invited, .. } => tracing::info!(
            %study, round, slot, work = terms.work.name(), invited = invited.len(), "round announced"
        ),
        Fact::Ready { hospital } => tracing::debug!(%study, round, slot, %hospital, "ready"),
        Fact::Declined { hospital, reason } => {
            tracing::warn!(%study, round, slot, %hospital, %reason, "declined");
        }
        Fact::Frozen { members } => {
            tracing::info!(%study, round, slot, members = members.len(), "roster frozen");
        }
        Fact::Contributed { hospital, bytes, .. } => {
            tracing::debug!(%study, round, slot, %hospital, bytes, "update complete");
        }
        Fact::Fixed { members } => {
            tracing::info!(%study, round, slot, members = members.len(), "final set fixed");
        }
        Fact::Signed { hospital } => {
            tracing::debug!(%study, round, slot, %hospital, "final set signed");
        }
        Fact::Unmasked { hospital } => {
            tracing::debug!(%study, round, slot, %hospital, "shares given");
        }
        Fact::WrongShare { hospital, of } => {
            tracing::error!(%study, round, slot, %hospital, %of, "a share that is not the one it was given");
        }
        Fact::Recovered { dropped } => {
            tracing::info!(%study, round, slot, dropped = dropped.len(), "secrets recovered");
        }
        Fact::DroppedOut { hospital, why } => {
            tracing::warn!(%study, round, slot, %hospital, reason = %why, "dropped out");
        }
        Fact::Released { contributed, .. } => {
            tracing::info!(%study, round, slot, contributed = contributed.len(), "sum released");
        }
        Fact::Abandoned { why } => {
            tracing::warn!(%study, round, slot, reason = %why, "round abandoned");
        }
        Fact::Alarm { reason } => tracing::error!(%study, round, slot, reason, "alarm"),
    }
}

/// Notes what a site has done.
pub(super) fn note(courses: &mut Courses, fact: &Fact) {
    let done: fn(&mut Course) = match fact {
        Fact::Ready { .. } => |course| course.ready = true,
        Fact::Contributed { .. } => |course| course.uploaded = true,
        Fact::Signed { .. } => |course| course.signed = true,
        Fact::Unmasked { .. } => |course| course.unmasked = true,
        Fact::Announced { .. }
        | Fact::Declined { .. }
        | Fact::Frozen { .. }
        | Fact::Fixed { .. }
        | Fact::WrongShare { .. }
        | Fact::Recovered { .. }
        | Fact::DroppedOut { .. }
        | Fact::Released { .. }
        | Fact::Abandoned { .. }
        | Fact::Alarm { .. } => return,
    };
    if let Some(course) = fact.hospital().and_then(|hospital| courses.get_mut(hospital)) {
        done(course);
    }
}

/// Nobody has done anything yet.
pub(super) fn courses(terms: &Terms) -> Courses {
    terms.invited.iter().map(|site| (site.clone(), Course::default())).collect()
}

impl Driver {
    /// A fact of the closing input as a leaf: of a release also what the round does not know.
    pub(super) fn told(&self, terms: &Terms, fact: &Fact) -> Leaf {
        let told = leaf(terms, fact);
        let Fact::Released { contributed, .. } = fact else { return told };
        let told = told.with("recompute_share", self.share());
        let sites = u32::try_from(contributed.len()).unwrap_or(u32::MAX);
        let noise = self.charter.noise().filter(|_| terms.work.trains());
        match noise.and_then(|noise| noise.noise_in_sum(sites)) {
            Some(noise) => told.with("noise_multiplier", noise),
            None => told,
        }
    }

    /// Tells watching operators of a fact, as far as it concerns them.
    pub(super) fn announce_fact(&self, open: &Open, fact: &Fact) {
        let round = open.terms.round.get();
        match fact {
            Fact::Ready { hospital } => self.entry.tell(Happened::Ready(round, hospital.clone())),
            Fact::Contributed { hospital, .. } => {
                self.entry.tell(Happened::Uploaded(round, hospital.clone()));
            }
            Fact::Signed { hospital } => {
                self.entry.tell(Happened::Signed(round, hospital.clone()));
            }
            Fact::Unmasked { hospital } => {
                self.entry.tell(Happened::Unmasked(round, hospital.clone()));
            }
            Fact::Announced { .. }
            | Fact::Declined { .. }
            | Fact::Frozen { .. }
            | Fact::Fixed { .. }
            | Fact::WrongShare { .. }
            | Fact::Recovered { .. }
            | Fact::DroppedOut { .. }
            | Fact::Released { .. }
            | Fact::Abandoned { .. }
            | Fact::Alarm { .. } => {}
        }
    }
}
