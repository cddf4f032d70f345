//! Studies, rounds and sites as operators see them.

use std::collections::BTreeMap;
use std::sync::Arc;

use aggregation::ids::{HospitalId, RoundId};
use aggregation::study::Privacy;
use proto::encode;
use proto::federation as wire;

use crate::board::{Board, Entry, Standing};
use crate::identity::authority::fingerprint_text;
use crate::store::course::{Course, Courses};
use crate::store::rounds::RoundRow;
use crate::store::sites::{Site, SiteState};
use crate::store::{Store, StoreError};

/// A round that has closed.
pub(super) fn round(row: &RoundRow) -> wire::RoundView {
    wire::RoundView {
        round: row.round.get(),
        slot: row.slot.get(),
        released: row.released,
        reason: row.reason.clone(),
        contributed: row.contributed.iter().map(ToString::to_string).collect(),
        dropped: row.dropped.keys().map(ToString::to_string).collect(),
        loss: row.loss,
        auroc: row.auroc,
        accuracy: row.accuracy,
        announced_ms: row.announced.as_millis(),
        closed_ms: row.closed.as_millis(),
        model: row.model.to_string(),
        courses: courses(&row.courses, &row.dropped),
        epsilon: row.epsilon.map(|spent| spent.planned),
        epsilon_solo: row.epsilon.map(|spent| spent.solo),
        dice: row.fit.dice,
        hausdorff: row.fit.hausdorff,
        hausdorff_95: row.fit.hausdorff_95,
    }
}

fn courses(courses: &Courses, missing: &BTreeMap<HospitalId, String>) -> Vec<wire::SiteCourse> {
    let one = |(site, course): (&HospitalId, &Course)| wire::SiteCourse {
        site: site.to_string(),
        ready: course.ready,
        uploaded: course.uploaded,
        signed: course.signed,
        unmasked: course.unmasked,
        away: course.away,
        missing: missing.get(site).cloned().unwrap_or_default(),
    };
    courses.iter().map(one).collect()
}

/// The round that is open, and whom it waits for.
fn open(entry: &Entry, standing: &Standing) -> Option<wire::OpenRound> {
    let terms = standing.offer.as_ref()?;
    let shares = entry.study.cohort.thresholds(entry.sites.len()).ok().flatten();
    let shares = shares.map_or(0, |thresholds| usize::from(thresholds.shares()));
    let (phase, asked, done): (_, _, fn(&Course) -> bool) =
        match (&standing.signed_set, &standing.final_set, &standing.roster) {
            (Some(_), _, Some(roster)) => ("unmask", &roster.members, |course| course.unmasked),
            (_, Some(set), _) => ("sign", &set.members, |course| course.signed),
            (_, None, Some(roster)) => ("mask", &roster.members, |course| course.uploaded),
            (_, None, None) => ("announce", &terms.invited, |course| course.ready),
        };
    let did = |site: &&HospitalId| standing.courses.get(*site).is_some_and(done);
    let awaited: Vec<String> =
        asked.iter().filter(|site| !did(site)).map(ToString::to_string).collect();
    let needed = match phase {
        "sign" | "unmask" => shares.saturating_sub(asked.len() - awaited.len()),
        _ => 0,
    };
    Some(wire::OpenRound {
        round: terms.round.get(),
        slot: terms.slot.get(),
        phase: phase.to_owned(),
        courses: courses(&standing.courses, &BTreeMap::new()),
        awaited,
        needed: u32::try_from(needed).unwrap_or(u32::MAX),
    })
}

/// A study with its history.
pub(super) async fn study(
    store: &Store,
    entry: &Arc<Entry>,
) -> Result<wire::StudyView, StoreError> {
    let history = store.history(entry.id).await?;
    let standing = entry.standing();
    let decisions = entry
        .sites
        .iter()
        .map(|site| wire::SiteDecision {
            site: site.to_string(),
            decision: standing
                .decisions
                .get(site)
                .copied()
                .unwrap_or(wire::Decision::Unspecified)
                .into(),
        })
        .collect();
    Ok(wire::StudyView {
        digest: entry.id.to_string(),
        name: entry.study.name.clone(),
        state: encode::life(standing.life).into(),
        manifest_toml: entry.manifest.clone(),
        decisions,
        rounds: entry.study.training.rounds,
        history: history.iter().map(round).collect(),
        waiting_for: waiting_for(entry, &standing),
        open: open(entry, &standing),
    })
}

/// Why nothing happens right now; empty when something does.
fn waiting_for(entry: &Entry, standing: &Standing) -> String {
    use aggregation::life::Life;
    match standing.life {
        Life::Proposed => {
            let open: Vec<&str> = entry
                .sites
                .iter()
                .filter(|site| standing.decisions.get(*site) != Some(&wire::Decision::Approved))
                .map(HospitalId::as_str)
                .collect();
            format!("approval by {}", open.join(", "))
        }
        Life::Approved => "an operator's start".to_owned(),
        Life::Running | Life::Paused => standing.waiting_for.clone(),
        Life::Completed | Life::Failed | Life::Stopped => standing.reason.clone(),
    }
}

/// A site.
pub(super) fn site(board: &Board, site: &Site) -> wire::SiteView {
    let state = match site.state {
        SiteState::Invited => wire::SiteState::Invited,
        SiteState::Pending => wire::SiteState::Pending,
        SiteState::Approved => wire::SiteState::Approved,
        SiteState::Revoked => wire::SiteState::Revoked,
    };
    let (connected, version) = board.present(&site.name);
    wire::SiteView {
        site: site.name.to_string(),
        state: state.into(),
        identity_fingerprint: site.identity.map(fingerprint_text).unwrap_or_default(),
        certificate_ends_ms: site.certificate_ends.map_or(0, |ends| ends.as_millis()),
        connected,
        version,
    }
}

/// What an exported model says of itself.
pub(super) fn card(
    entry: &Entry,
    row: &RoundRow,
    history: &[RoundRow],
) -> BTreeMap<String, String> {
    let contributed: std::collections::BTreeSet<&HospitalId> = history
        .iter()
        .filter(|one| one.released && one.slot <= row.slot)
        .flat_map(|one| &one.contributed)
        .collect();
    let names = |sites: Vec<&str>| sites.join(",");
    let trained = row.round.get().min(entry.study.training.rounds);
    let mut card = BTreeMap::from([
        ("format".to_owned(), "pt".to_owned()),
        ("study".to_owned(), entry.id.to_string()),
        ("study_name".to_owned(), entry.study.name.clone()),
        ("architecture".to_owned(), entry.study.model.name().to_owned()),
        ("classes".to_owned(), entry.study.task.classes.join(",")),
        ("round".to_owned(), trained.to_string()),
        ("rounds_planned".to_owned(), entry.study.training.rounds.to_string()),
        ("sites".to_owned(), names(entry.sites.iter().map(HospitalId::as_str).collect())),
        (
            "contributed".to_owned(),
            names(contributed.into_iter().map(HospitalId::as_str).collect()),
        ),
        ("privacy".to_owned(), privacy(&entry.study.privacy)),
        ("model_digest".to_owned(), row.model.to_string()),
    ]);
    if let Some(spent) = row.epsilon {
        card.insert("epsilon".to_owned(), format!("{:.6}", spent.planned));
        card.insert("epsilon_solo".to_owned(), format!("{:.6}", spent.solo));
    }
    if let Some(measured) = measured(row, entry.study.last_round(), history) {
        let metrics = [
            ("loss", measured.loss),
            ("auroc", measured.auroc),
            ("accuracy", measured.accuracy),
            ("dice", measured.fit.dice),
            ("hausdorff", measured.fit.hausdorff),
            ("hausdorff_95", measured.fit.hausdorff_95),
        ];
        for (name, value) in metrics {
            card.extend(value.map(|value| (name.to_owned(), format!("{value:.6}"))));
        }
    }
    card
}

/// The round that measured the model after `row`: the next one, since each round measures the
/// model that it offers; the last round measures and changes nothing.
fn measured<'a>(row: &'a RoundRow, last: RoundId, history: &'a [RoundRow]) -> Option<&'a RoundRow> {
    if row.round == last {
        return Some(row);
    }
    history.iter().find(|one| one.released && one.round == row.round.next())
}

fn privacy(privacy: &Privacy) -> String {
    match privacy {
        Privacy::DangerNone => "none (danger_no_privacy)".to_owned(),
        Privacy::Patients(rules) => format!(
            "{} noise, epsilon at most {} at delta {} for each {} ({})",
            rules.mode.name(),
            rules.epsilon,
            rules.delta,
            rules.unit.name(),
            rules.accountant.name()
        ),
    }
}
