//! What was studied, who approved it, and how the sites came to be there.

use transparency::fact::PrivacyPlan;

use super::Evidence;
use super::history::NO_PRIVACY;
use super::html::Html;

/// The study's name, or what stands in for it.
pub(super) fn name(evidence: &Evidence) -> &str {
    let proposal = evidence.history.proposal.as_ref();
    proposal.map_or("a study whose proposal is not in the log", |proposal| proposal.name.as_str())
}

/// The proposal.
pub(super) fn proposal(evidence: &Evidence) -> Html {
    let mut html = Html::default();
    let Some(proposal) = &evidence.history.proposal else {
        html.raw("<p class=\"note warn\">The proposal of this study is not in the log.</p>");
        return html;
    };
    html.raw("<dl><dt>Proposed</dt><dd>").time(proposal.time).raw(" by ").text(&proposal.by);
    html.raw(" <span class=\"soft\">(entry ").count(proposal.index).raw(")</span></dd>");
    html.raw("<dt>Study digest</dt><dd><code>").text(evidence.study.as_str());
    html.raw("</code><br><span class=\"soft\">of what the study file means; it is what the sites approved</span></dd>");
    if let Some(manifest) = &proposal.manifest {
        html.raw("<dt>Study file, SHA-256</dt><dd><code>").text(manifest.as_str());
        html.raw("</code><br><span class=\"soft\">of its text as it was proposed: what <code>sha256sum</code> says of the file</span></dd>");
    }
    html.raw("<dt>Initial model</dt><dd><code>").text(proposal.model.as_str());
    html.raw("</code></dd><dt>Sites</dt><dd>").text(&proposal.sites.join(", "));
    html.raw("</dd><dt>Privacy as proposed</dt><dd>");
    plan(&mut html, proposal.privacy.as_ref());
    html.raw("</dd>");
    if let Some(manifest) = &evidence.manifest {
        manifest.summary(&mut html);
    }
    html.raw("</dl>");
    html.raw(if evidence.manifest.is_some() {
        "<p class=\"soft\">Task, model, rounds, quorum and colluders are from the study file, whose digest is the one above; all of it stands at the end.</p>"
    } else {
        "<p class=\"note\"><b>Not in the log:</b> task, model, planned rounds, quorum, tolerated colluders, preprocessing and the other settings. They stand in the study file. <code>report --manifest FILE</code> holds a file against the digest above and then shows them.</p>"
    });
    html
}

fn plan(html: &mut Html, plan: Option<&PrivacyPlan>) {
    let Some(plan) = plan else {
        html.raw("not stated in the log; the study file has it");
        return;
    };
    if plan.mode == NO_PRIVACY {
        html.raw("<span class=\"chip bad\">off</span> danger_no_privacy");
        return;
    }
    html.raw("<span class=\"chip good\">").text(&plan.mode).raw("</span>");
    let figures = [
        ("epsilon at most", plan.epsilon),
        ("delta", plan.delta),
        ("clipping norm", plan.clipping_norm),
        ("sampling rate", plan.sampling_rate),
        ("solo epsilon at most", plan.solo_epsilon_cap),
    ];
    for (at, (name, value)) in
        figures.into_iter().filter_map(|(name, value)| Some((name, value?))).enumerate()
    {
        html.raw(if at == 0 { " " } else { ", " }).raw(name).raw(" ").value(value);
    }
}

/// Decisions of the sites, and the study's life.
pub(super) fn approvals(evidence: &Evidence) -> Html {
    let history = &evidence.history;
    let mut html = Html::default();
    html.raw("<p class=\"soft\">Every decision is on the digest <code>");
    html.text(evidence.study.short())
        .raw("&hellip;</code>, so on all that the study file means.</p>");
    html.raw("<table><thead><tr><th class=\"site\">Site</th><th>Decision</th><th>When</th><th class=\"num\">Entry</th></tr></thead><tbody>");
    for decision in &history.decisions {
        html.raw("<tr><td>").text(&decision.site).raw("</td><td>");
        html.raw(match decision.decision.as_str() {
            "approved" => "<span class=\"chip good\">",
            "refused" | "withdrawn" => "<span class=\"chip bad\">",
            _ => "<span class=\"chip\">",
        });
        html.text(&decision.decision).raw("</span></td><td>").time(decision.time);
        html.raw("</td><td class=\"num soft\">").count(decision.index).raw("</td></tr>");
    }
    let silent = history.proposal.iter().flat_map(|proposal| &proposal.sites);
    for site in silent.filter(|site| history.decisions.iter().all(|it| it.site != **site)) {
        html.raw("<tr><td>").text(site);
        html.raw("</td><td class=\"soft\">none in the log</td><td></td><td></td></tr>");
    }
    html.raw("</tbody></table>");
    if history.life.is_empty() {
        return html;
    }
    html.raw("<h3>The study&#39;s life</h3><table><thead><tr><th>When</th><th>From</th><th>To</th><th>By</th><th>Reason</th><th class=\"num\">Entry</th></tr></thead><tbody>");
    for step in &history.life {
        html.raw("<tr><td>").time(step.time).raw("</td><td class=\"soft\">").text(&step.from);
        html.raw("</td><td>").text(&step.to).raw("</td><td>").text(&step.by).raw("</td><td>");
        html.text(&step.reason).raw("</td><td class=\"num soft\">").count(step.index);
        html.raw("</td></tr>");
    }
    html.raw("</tbody></table>");
    html
}

/// Invitations, enrolments, certificates and revocations of the study's sites.
pub(super) fn admissions(evidence: &Evidence) -> Html {
    let mut html = Html::default();
    let sites = evidence.history.sites();
    let acts: Vec<_> =
        evidence.history.admissions.iter().filter(|(site, _)| sites.contains(site)).collect();
    if acts.is_empty() {
        html.raw("<p>The log does not tell how the sites of this study were admitted.</p>");
        return html;
    }
    html.raw("<p class=\"soft\">Facts of the whole consortium, also after the study&#39;s end.</p><table><thead><tr><th>When</th><th>What</th><th>Identity or certificate</th><th class=\"num\">Entry</th></tr></thead><tbody>");
    for (_, act) in acts {
        html.raw("<tr><td>").time(act.time).raw("</td><td>").text(&act.what).raw("</td><td>");
        if let Some(digest) = &act.digest {
            html.short(digest.as_str());
        }
        html.raw("</td><td class=\"num soft\">").count(act.index).raw("</td></tr>");
    }
    html.raw("</tbody></table>");
    html
}
