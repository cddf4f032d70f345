//! Rounds: who took part, how good the model was, where it came from, and every attempt.

use std::collections::BTreeMap;

use super::Evidence;
use super::history::{End, History, Part};
use super::html::Html;
use super::plot::{Curve, clipped, curves, mark, participation as drawing};

const LEGEND: [(Part, &str); 5] = [
    (Part::InSum, "in the released sum"),
    (Part::InVain, "ready or arrived, nothing was released"),
    (Part::Dropped, "dropped out"),
    (Part::Declined, "declined"),
    (Part::Absent, "not connected"),
];

/// Site by attempt, and each site's sums.
pub(super) fn participation(history: &History) -> Html {
    let mut html = Html::default();
    if history.attempts.is_empty() {
        html.raw("<p>No round was announced.</p>");
        return html;
    }
    let sites = history.sites();
    html.part(&drawing(history, &sites)).raw("<p class=\"legend\">");
    for (part, name) in LEGEND {
        html.raw("<span><svg viewBox=\"0 0 12 12\">");
        mark(&mut html, part, (0.5, 0.5), 11.0);
        html.raw("</svg>").raw(name).raw("</span>");
    }
    html.raw("<span>grey column: nothing was released</span></p>");
    html.raw("<table><thead><tr><th class=\"site\">Site</th><th class=\"num\">In sums</th><th class=\"num\">Share</th><th class=\"num\">In vain</th><th class=\"num\">Dropped out</th><th class=\"num\">Declined</th><th class=\"num\">Absent</th><th>Reasons</th></tr></thead><tbody>");
    for site in &sites {
        let parts: Vec<Part> = history.attempts.values().map(|it| it.part(site)).collect();
        let count = |part: Part| parts.iter().filter(|one| **one == part).count() as u64;
        let of = parts.iter().filter(|part| **part != Part::None).count() as u64;
        html.raw("<tr><td>").text(site);
        let sums = count(Part::InSum);
        html.raw("</td><td class=\"num\">").count(sums).raw("</td><td class=\"num\">");
        match (sums * 100).checked_div(of) {
            Some(percent) => html.count(percent).raw("%"),
            None => html.raw("&ndash;"),
        };
        for part in [Part::InVain, Part::Dropped, Part::Declined, Part::Absent] {
            html.raw("</td><td class=\"num\">").count(count(part));
        }
        html.raw("</td><td>");
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        for reason in history.attempts.values().filter_map(|attempt| attempt.missing.get(site)) {
            *reasons.entry(reason).or_default() += 1;
        }
        for (at, (reason, times)) in reasons.into_iter().enumerate() {
            html.raw(if at > 0 { "; " } else { "" }).text(reason);
            html.raw(" <span class=\"soft\">&times;").count(times).raw("</span>");
        }
        html.raw("</td></tr>");
    }
    html.raw("</tbody></table>");
    html
}

/// Loss and AUROC over rounds, if the log has any.
pub(super) fn quality(history: &History) -> Option<Html> {
    let points = |value: fn(&super::history::Evaluated) -> Option<f64>| -> Vec<(u64, f64)> {
        history.evaluated.iter().filter_map(|one| Some((one.round, value(one)?))).collect()
    };
    let all = [
        ("Loss by round", points(|one| one.loss)),
        ("AUROC by round", points(|one| one.auroc)),
        ("Accuracy by round", points(|one| one.accuracy)),
        ("Dice by round", points(|one| one.dice)),
    ];
    if all.iter().all(|(_, points)| points.is_empty()) {
        return None;
    }
    let mut html = Html::default();
    html.raw("<p class=\"soft\">Of the model that the round offered, over all sites together; no single site&#39;s figures are in the log.</p><div class=\"pair\">");
    for (label, points) in all {
        if points.is_empty() {
            continue;
        }
        let last = points.last().map(|(_, value)| *value);
        html.raw("<div><h3>").raw(label);
        if let Some(last) = last {
            html.raw(", last ").value(last);
        }
        html.raw("</h3>");
        let curve = Curve { name: label.to_owned(), points, cap: None };
        html.part(&curves(label, &[curve], history.rounds(), false, None)).raw("</div>");
    }
    html.raw("</div>");
    Some(html)
}

/// The chain of models, and who took one out.
pub(super) fn lineage(evidence: &Evidence) -> Html {
    let history = &evidence.history;
    let mut html = Html::default();
    // A round that only scores a model gives it on as it was.
    if let Some(last) = history.changes.iter().rfind(|change| change.before != change.after) {
        html.raw("<dl>");
        if let Some(proposal) = &history.proposal {
            html.raw("<dt>First model</dt><dd><code>").text(proposal.model.as_str());
            html.raw("</code></dd>");
        }
        html.raw("<dt>Last model</dt><dd><code>").text(last.after.as_str());
        html.raw("</code><br><span class=\"soft\">made by round ").count(last.round);
        html.raw(", ").time(last.time).raw("</span></dd></dl>");
    } else {
        html.raw("<p>No model was made.</p>");
    }
    for export in &history.exports {
        html.raw("<p class=\"note\">").time(export.time).raw(": ").text(&export.what);
        html.raw(" <span class=\"soft\">(entry ").count(export.index).raw(")</span>");
        if let Some(digest) = &export.digest {
            html.raw("<br><code>").text(digest.as_str()).raw("</code>");
        }
        html.raw("</p>");
    }
    if history.changes.is_empty() {
        return html;
    }
    html.raw("<table><thead><tr><th>Round</th><th>When</th><th>Model made</th><th class=\"num\">Entry</th></tr></thead><tbody>");
    for change in &history.changes {
        html.raw("<tr><td>").count(change.round).raw("</td><td>").time(change.time);
        html.raw("</td><td><code>").text(change.after.as_str()).raw("</code>");
        html.raw(if change.before == change.after {
            " <span class=\"soft\">as before</span>"
        } else {
            ""
        });
        html.raw("</td><td class=\"num soft\">").count(change.index).raw("</td></tr>");
    }
    html.raw("</tbody></table>");
    html
}

/// Every attempt, a line each.
pub(super) fn attempts(history: &History) -> Html {
    let mut html = Html::default();
    if history.attempts.is_empty() {
        html.raw("<p>None.</p>");
        return html;
    }
    html.raw("<table><thead><tr><th>Round</th><th>Slot</th><th>Announced</th><th class=\"num\">Took</th><th>Cohort</th><th>Missing</th><th>Outcome</th><th>Terms</th></tr></thead><tbody>");
    for attempt in history.attempts.values() {
        html.raw("<tr><td>").count(attempt.round).raw("</td><td class=\"soft\">");
        html.count(attempt.slot).raw("</td><td>");
        if let Some(time) = attempt.announced {
            html.time(time);
        }
        html.raw("</td><td class=\"num\">");
        if let (Some(from), Some(to)) = (attempt.announced, attempt.ended) {
            html.count(to.as_millis().saturating_sub(from.as_millis()).div_ceil(1_000)).raw(" s");
        }
        let contributed = match &attempt.end {
            End::Released { contributed, .. } => contributed.len(),
            End::Open | End::Abandoned { .. } => attempt.arrived.len(),
        };
        html.raw("</td><td>").count(contributed as u64).raw(" of ");
        html.count(attempt.invited.len() as u64).raw("</td><td>");
        let missing = attempt.missing.iter().map(|(site, why)| (site, why.as_str()));
        let absent = attempt.absent.iter().map(|site| (site, "not connected"));
        for (at, (site, why)) in missing.chain(absent).enumerate() {
            html.raw(if at > 0 { "<br>" } else { "" }).text(&clipped(site, 32)).raw(": ");
            html.text(why);
        }
        html.raw("</td><td>");
        match &attempt.end {
            End::Released { sum, .. } => {
                html.raw("released");
                if let Some(sum) = sum {
                    html.raw(" <span class=\"soft\">").short(sum.as_str()).raw("</span>");
                }
            }
            End::Abandoned { reason } => {
                html.raw("<span class=\"chip warn\">abandoned</span> ").text(reason);
            }
            End::Open => {
                html.raw("<span class=\"chip\">open</span>");
            }
        }
        html.raw("</td><td>");
        if let Some(terms) = &attempt.terms {
            html.short(terms.as_str());
        }
        html.raw("</td></tr>");
    }
    html.raw("</tbody></table>");
    html
}
