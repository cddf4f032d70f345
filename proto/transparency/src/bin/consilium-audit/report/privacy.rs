//! Privacy spent, site by site, against the caps; or the plain statement that none was accounted.

use transparency::fact::Charge;

use super::accounted;
use super::history::{Charged, History, NO_PRIVACY};
use super::html::Html;
use super::plot::{Curve, curves, gauge};

/// The highest planned epsilon of any site.
pub(super) fn most_spent(history: &History) -> Option<f64> {
    let charges = history.charges.values().flatten();
    charges.map(|one| one.charge.epsilon_planned).max_by(f64::total_cmp)
}

/// The section.
pub(super) fn section(history: &History) -> Html {
    let mut html = Html::default();
    let plan = history.proposal.as_ref().and_then(|proposal| proposal.privacy.as_ref());
    let off = plan.is_some_and(|plan| plan.mode == NO_PRIVACY);
    if off {
        html.raw("<p class=\"note bad\"><b>Privacy was off.</b> The study was proposed with <code>danger_no_privacy</code>: no noise was added, no contribution was clipped for privacy, and no bound on what the model reveals about a patient is claimed.</p>");
    }
    if history.charges.is_empty() {
        if !off {
            html.raw("<p class=\"note warn\"><b>The log has no privacy charge for this study.</b> Nothing here shows that differential privacy was in force; take it as off unless the sites&#39; own ledgers show otherwise.</p>");
        }
        return html;
    }
    let unit_is_image = history
        .charges
        .values()
        .flatten()
        .any(|one| one.charge.unit.as_deref().is_some_and(|unit| unit != "patient"));
    html.raw("<p>Each site charges its own ledger before an update leaves it, and refuses when a cap would be crossed. <b>Planned</b> epsilon holds against the coordinator and the tolerated number of sites, <b>solo</b> epsilon against all other sites together. ");
    html.raw(if unit_is_image {
        "</p><p class=\"note bad\"><b>The unit of privacy was not the patient at every site.</b> A patient with k images may be exposed k times as much as the figures say.</p>"
    } else {
        "The unit is the patient.</p>"
    });
    counted(&mut html, history, plan.and_then(|plan| plan.accountant.as_deref()));
    html.raw("<table><thead><tr><th class=\"site\">Site</th><th class=\"num\">Charges</th><th>Planned epsilon</th><th>Solo epsilon</th><th class=\"num\">Delta</th><th class=\"num\">Noise <i>z</i></th><th class=\"num\">Rate <i>q</i></th><th>Last ledger record</th></tr></thead><tbody>");
    for (site, charges) in &history.charges {
        let Some(Charged { charge, .. }) = charges.last() else { continue };
        html.raw("<tr><td>").text(site).raw("</td><td class=\"num\">").count(charges.len() as u64);
        html.raw("</td><td>");
        let held = charge.against_caps();
        let promised = plan.and_then(|plan| plan.epsilon);
        let planned = charge.cap_planned.map(|cap| (held.planned, cap));
        spent(&mut html, charge.epsilon_planned, planned, promised);
        html.raw("</td><td>");
        let promised = plan.and_then(|plan| plan.solo_epsilon_cap);
        let solo = charge.cap_solo.map(|cap| (held.solo, cap));
        spent(&mut html, charge.epsilon_solo, solo, promised);
        html.raw("</td><td class=\"num\">").value(charge.delta).raw("</td><td class=\"num\">");
        html.value(charge.z).raw("</td><td class=\"num\">").value(charge.q).raw("</td><td>");
        if let Some(seq) = charge.seq {
            html.count(seq).raw(" ");
        }
        if let Some(head) = &charge.head {
            html.short(head.as_str());
        }
        html.raw("</td></tr>");
    }
    html.raw("</tbody></table>");
    let rounds = history.rounds();
    let promised = plan.and_then(|plan| plan.epsilon);
    let promised_solo = plan.and_then(|plan| plan.solo_epsilon_cap);
    let planned = all_curves(
        history,
        |charged| charged.charge.epsilon_planned,
        |charge| {
            charge
                .cap_planned
                .filter(|_| same(charge.against_caps().planned, charge.epsilon_planned))
        },
    );
    let solo = all_curves(
        history,
        |charged| charged.charge.epsilon_solo,
        |charge| charge.cap_solo.filter(|_| same(charge.against_caps().solo, charge.epsilon_solo)),
    );
    html.raw("<div class=\"pair\"><div><h3>Planned epsilon by round</h3>");
    html.part(&curves("planned epsilon by round", &planned, rounds, true, promised));
    html.raw("</div><div><h3>Solo epsilon by round</h3>");
    html.part(&curves("solo epsilon by round", &solo, rounds, true, promised_solo));
    html.raw("</div></div><p class=\"soft\">Solid grey: the most that the study may spend. Dotted: the sites&#39; own caps, where they are in the study&#39;s measure. Neither is drawn above ten times what was spent.</p>");
    html
}

/// By which accountant epsilon is counted, and how to count it again.
fn counted(html: &mut Html, history: &History, named: Option<&str>) {
    let found = accounted::counted_by(history);
    html.raw("<p>");
    match (named, found) {
        (Some(named), _) => {
            html.raw("Epsilon is counted by the accountant <b>").text(named);
            html.raw("</b>, as the proposal says.")
        }
        (None, Some(found)) => {
            html.raw("The log does not name the accountant; the planned figures are those of <b>");
            html.text(found).raw("</b>.")
        }
        (None, None) => html.raw("The log does not name the accountant, and the planned figures are neither those of <b>rdp</b> nor of <b>pld</b>; the study file names it."),
    };
    let commands = accounted::commands(history, named.or(found));
    if !commands.is_empty() {
        html.raw(" To count a site&#39;s planned epsilon again:</p><p>");
        for command in &commands {
            html.raw("<code>").text(command).raw("</code><br>");
        }
    }
    html.raw("</p><p class=\"soft\">The noise that holds against all other sites together is not in the log, so solo figures cannot be counted again from it.</p>");
}

/// What was spent, and how much of a cap that is: of the site's own, in whose measure it may be
/// another figure, or else of what the study promised.
fn spent(html: &mut Html, spent: f64, own: Option<(f64, f64)>, promised: Option<f64>) {
    html.value(spent);
    let (against, cap) = own.map_or((spent, promised), |(against, cap)| (against, Some(cap)));
    match cap {
        Some(cap) if against.total_cmp(&spent).is_ne() => {
            html.raw(" <span class=\"soft\">which the site counts as ").value(against);
            html.raw(" of ").value(cap).raw("</span>")
        }
        Some(cap) => html.raw(" <span class=\"soft\">of ").value(cap).raw("</span>"),
        None => html.raw(" <span class=\"soft\">no cap told</span>"),
    };
    let promised =
        promised.filter(|promised| own.is_some_and(|(_, cap)| promised.total_cmp(&cap).is_ne()));
    if let Some(promised) = promised {
        html.raw("<span class=\"soft\">; the study may spend ").value(promised).raw("</span>");
    }
    html.part(&gauge(against, cap, promised.filter(|_| against.total_cmp(&spent).is_eq())));
}

/// Whether the site counts as the study does, so that its cap can be drawn beside the study's figures.
fn same(held: f64, told: f64) -> bool {
    held.total_cmp(&told).is_eq()
}

/// A curve for each site; sites with the same curve share one.
fn all_curves(
    history: &History,
    value: impl Fn(&Charged) -> f64,
    cap: impl Fn(&Charge) -> Option<f64>,
) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for (site, charges) in &history.charges {
        let points: Vec<_> = charges.iter().map(|one| (one.round, value(one))).collect();
        let cap = charges.last().and_then(|last| cap(&last.charge));
        match curves.iter_mut().find(|curve| curve.points == points && curve.cap == cap) {
            Some(same) => {
                same.name.push_str(", ");
                same.name.push_str(site);
            }
            None => curves.push(Curve { name: site.clone(), points, cap }),
        }
    }
    curves
}
