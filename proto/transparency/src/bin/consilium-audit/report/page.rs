//! The page: its head, what was verified, and the order of the sections.

use transparency::fact::Outcome;
use transparency::verify::Ahead;

use super::checks::Check;
use super::html::Html;
use super::{Evidence, privacy, rounds, study};
use crate::witnesses::{Said, Standing};

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub(super) fn write(evidence: &Evidence, checks: &[Check]) -> String {
    let mut html = Html::default();
    html.raw("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n");
    // Nothing is fetched and nothing runs, whatever the log says.
    html.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n");
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Evidence: ");
    html.text(study::name(evidence)).raw("</title>\n<style>\n").raw(STYLE);
    html.raw("</style></head><body><main>\n");
    head(&mut html, evidence, checks);
    let mut sections = Sections { html, number: 0 };
    sections.add("What was verified", &verification(evidence, checks));
    sections.add("What was studied", &study::proposal(evidence));
    sections.add("Who approved it, and when", &study::approvals(evidence));
    sections.add("Who took part", &rounds::participation(&evidence.history));
    sections.add("Privacy spent", &privacy::section(&evidence.history));
    if let Some(quality) = rounds::quality(&evidence.history) {
        sections.add("How the model fared", &quality);
    }
    sections.add("Refusals and alarms", &incidents(evidence));
    sections.add("Where the model came from, and where it went", &rounds::lineage(evidence));
    sections.add("How the sites were admitted", &study::admissions(evidence));
    sections.add("Every attempt at a round", &rounds::attempts(&evidence.history));
    sections.add("To check this by hand", &by_hand(evidence));
    let mut html = sections.html;
    html.raw("<footer>Made by consilium-audit ").text(env!("CARGO_PKG_VERSION"));
    html.raw(" from the log, the policy file and nothing else. The same checkpoint, policy and options give the same page, byte for byte, wherever the log is read; only whether the log had signed more by then is another matter, and stands in the seal and under &quot;Not checked&quot;. All times are UTC, by the coordinator&#39;s clock.</footer>\n</main></body></html>\n");
    html.into_string()
}

struct Sections {
    html: Html,
    number: u64,
}

impl Sections {
    fn add(&mut self, title: &'static str, body: &Html) {
        self.number += 1;
        self.html.raw("<section><h2><span class=\"no\">").count(self.number).raw("</span>");
        self.html.raw(title).raw("</h2>\n").part(body).raw("</section>\n");
    }
}

fn head(html: &mut Html, evidence: &Evidence, checks: &[Check]) {
    let (history, report) = (&evidence.history, &evidence.verified.report);
    html.raw("<header><div><div class=\"kicker\">Evidence report</div><h1>");
    html.text(study::name(evidence)).raw("</h1><p class=\"soft\">Study <code>");
    html.text(evidence.study.as_str()).raw("</code></p><p class=\"soft\">");
    html.raw("As told by the log ").text(&report.origin);
    if let Some(until) = evidence.until {
        html.raw(" up to ").time(until);
    }
    html.raw("</p></div><div class=\"");
    // Nobody vouches that others were shown the same log, or not with a key that is known to be
    // theirs, or not any more.
    let thin = report.cosigned_by.is_empty()
        || report.ahead.is_some()
        || evidence.verified.witnesses.iter().any(|it| it.cosigned && it.said != Said::Announced);
    html.raw(if thin { "seal thin" } else { "seal" });
    html.raw("\"><b><svg viewBox=\"0 0 24 24\"><circle cx=\"12\" cy=\"12\" r=\"12\"/><path d=\"M6.5 12.5l3.6 3.6 7.4-7.8\"/></svg>Verified</b>");
    html.count(report.size).raw(" entries, every hash derived again.<br>Cosigned by ");
    html.count(report.cosigned_by.len() as u64);
    html.raw(if report.cosigned_by.len() == 1 { " witness" } else { " witnesses" });
    html.raw("; asked for: ").text(&report.quorum).raw(".");
    if !report.not_cosigned_by.is_empty() {
        html.raw("<br>Missing: ").text(&report.not_cosigned_by.join(", ")).raw(".");
    }
    if let Some(time) = report.cosigned_by.iter().map(|it| &it.time).max() {
        html.raw("<br>Last cosigned ");
        moment(html, time);
        html.raw(".");
    }
    if let Some(Ahead { entries, since }) = &report.ahead {
        html.raw("<p><strong>")
            .count(*entries)
            .raw(" entries are signed and not cosigned</strong>");
        if let Some(since) = since {
            html.raw(", since ");
            moment(html, since);
        }
        html.raw(". This page does not tell what they say: ask the hospitals why.</p>");
    }
    html.raw("</div></header>\n");

    let all: Vec<_> = history.attempts.values().collect();
    let scored = all.iter().filter(|it| it.work == "evaluate").count();
    let released = all.iter().filter(|it| it.released() && it.work != "evaluate").count();
    let arrived: usize = history.attempts.values().map(|attempt| attempt.arrived.len()).sum();
    let missing: usize = history.attempts.values().map(|attempt| attempt.missing.len()).sum();
    let alarms = history.incidents.iter().filter(|it| it.outcome == Outcome::Alarm).count();
    let exceptions: usize = checks.iter().map(|check| check.exceptions.len()).sum();
    html.raw("<div class=\"tiles\"><div><b>").count(released as u64).raw(" <small>of ");
    html.count((all.len() - scored) as u64);
    html.raw("</small></b>attempts at training released a sum");
    if scored > 0 {
        html.raw("; ").count(scored as u64).raw(" more only scored the model");
    }
    html.raw("</div><div><b>");
    html.count(history.sites().len() as u64).raw("</b>sites</div><div><b>");
    html.count(arrived as u64).raw(" <small>/ ").count(missing as u64);
    html.raw("</small></b>updates that arrived / that were missed</div><div><b>");
    match privacy::most_spent(history) {
        Some(spent) => html.value(spent).raw("</b>highest planned epsilon of a site</div>"),
        None => html.raw("&ndash;</b>no privacy charge is on record</div>"),
    };
    html.raw(if alarms + exceptions > 0 { "<div class=\"look\"><b>" } else { "<div><b>" });
    html.count(alarms as u64).raw(" <small>/ ").count(exceptions as u64);
    html.raw("</small></b>alarms / facts that do not fit</div></div>\n");
}

fn verification(evidence: &Evidence, checks: &[Check]) -> Html {
    let mut html = Html::default();
    let report = &evidence.verified.report;
    let checked = &report.checked;
    html.raw("<p>The log is append-only: each entry is hashed into one tree, whose root the log signed and the witnesses cosigned. Every hash below was computed again for this page.</p><dl>");
    html.raw("<dt>Entries</dt><dd>").count(checked.entries).raw(" in ").count(checked.bundles);
    html.raw(" bundles; ").count(checked.tiles).raw(" tiles at ").count(checked.levels);
    html.raw(" levels</dd>");
    html.raw("<dt>Root</dt><dd><code>").text(&report.root).raw("</code></dd>");
    html.raw("<dt>Signed by</dt><dd>").text(report.signed_by.as_deref().unwrap_or("nobody"));
    html.raw("</dd><dt>Cosigned by</dt><dd>");
    for (at, cosigned) in report.cosigned_by.iter().enumerate() {
        html.raw(if at > 0 { "<br>" } else { "" });
        html.text(&cosigned.witness).raw(" <span class=\"soft\">at ");
        moment(&mut html, &cosigned.time);
        html.raw("</span>");
    }
    if report.cosigned_by.is_empty() {
        html.raw("nobody");
    }
    html.raw("</dd>");
    if !report.not_cosigned_by.is_empty() {
        html.raw("<dt>Not cosigned by</dt><dd>").text(&report.not_cosigned_by.join(", "));
        html.raw("</dd>");
    }
    if let Some(time) = &report.newest_entry {
        html.raw("<dt>Last entry</dt><dd>");
        moment(&mut html, time);
        html.raw("</dd>");
    }
    for size in &checked.since {
        html.raw("<dt>Grew out of</dt><dd>a kept checkpoint of ").count(*size);
        html.raw(" entries</dd>");
    }
    html.raw("</dl>");
    witnesses(&mut html, &evidence.verified.witnesses);
    html.raw("<h3>Do the facts of this study fit together?</h3><ul class=\"list\">");
    for check in checks {
        html.raw(match (check.exceptions.is_empty(), check.asked) {
            (false, _) => "<li class=\"no\">",
            (true, 0) => "<li class=\"open\">",
            (true, _) => "<li class=\"yes\">",
        });
        html.raw(check.rule).raw(" <span class=\"soft\">(");
        match (check.asked, check.exceptions.len()) {
            (0, 0) => html.raw("could not be asked: the log has no such facts"),
            (asked, 0) => {
                html.raw("asked ").count(asked).raw(if asked == 1 { " time" } else { " times" })
            }
            (_, exceptions) => html.count(exceptions as u64).raw(if exceptions == 1 {
                " exception"
            } else {
                " exceptions"
            }),
        };
        html.raw(")</span>");
        if !check.exceptions.is_empty() {
            html.raw("<ul>");
            for exception in &check.exceptions {
                html.raw("<li>").text(exception).raw("</li>");
            }
            html.raw("</ul>");
        }
        html.raw("</li>");
    }
    html.raw("</ul><h3>Not checked</h3><ul class=\"list\">");
    for what in &report.not_checked {
        html.raw("<li class=\"open\">").text(what).raw("</li>");
    }
    for (kind, count) in &evidence.history.unknown {
        html.raw("<li class=\"open\">what ").count(*count).raw(" entries of kind ").text(kind);
        html.raw(" say: this program does not know the kind</li>");
    }
    html.raw("</ul>");
    html
}

/// A time as the report has it.
fn moment(html: &mut Html, time: &str) {
    match time.parse() {
        Ok(time) => html.time(time),
        Err(_) => html.text(time),
    };
}

/// Whose keys the witnesses have, as far as the log tells.
fn witnesses(html: &mut Html, witnesses: &[Standing]) {
    if witnesses.is_empty() {
        return;
    }
    html.raw("<h3>Whose keys are the witnesses&#39;?</h3><p>Each hospital announces in the log, under its identity, which key it cosigns with. Whether the keys and identities are the hospitals&#39; own, a person has to ask there: <code>hospital-node doctor</code> shows a hospital its witness key, <code>hospital-node roster list</code> its identity.</p><table><thead><tr><th class=\"site\">Witness</th><th>Key in the policy</th><th>In the log</th><th>Identity</th></tr></thead><tbody>");
    for it in witnesses {
        html.raw("<tr><td>").text(&it.witness).raw("</td><td><code>").text(&it.key);
        html.raw("</code></td><td>");
        html.raw(match it.said {
            Said::Announced => "<span class=\"chip good\">",
            Said::Earlier | Said::Nothing => "<span class=\"chip warn\">",
            Said::Other | Said::Unsigned => "<span class=\"chip bad\">",
        });
        html.text(&it.words()).raw("</span></td><td><code>");
        html.text(it.identity.as_deref().unwrap_or("-")).raw("</code></td></tr>");
    }
    html.raw("</tbody></table>");
}

fn incidents(evidence: &Evidence) -> Html {
    let mut html = Html::default();
    if let Some(ahead) = &evidence.verified.report.ahead {
        html.raw("<p class=\"note warn\">As far as this page goes: ").count(ahead.entries);
        html.raw(" later entries are signed and not cosigned, and may tell otherwise.</p>");
    }
    let incidents = &evidence.history.incidents;
    if incidents.is_empty() {
        html.raw("<p>None: nobody refused, nobody dropped out, no round was abandoned and there was no alarm.</p>");
        return html;
    }
    html.raw("<table><thead><tr><th>When</th><th>Round</th><th>What</th><th class=\"num\">Entry</th></tr></thead><tbody>");
    for incident in incidents {
        html.raw("<tr><td>").time(incident.time).raw("</td><td>");
        if let Some(round) = incident.round {
            html.count(round);
        }
        html.raw("</td><td>");
        if incident.outcome == Outcome::Alarm {
            html.raw("<span class=\"chip bad\">alarm</span> ");
        }
        let what = incident.what.strip_prefix("alarm: ").unwrap_or(&incident.what);
        html.text(what).raw("</td><td class=\"num soft\">").count(incident.index);
        html.raw("</td></tr>");
    }
    html.raw("</tbody></table>");
    html
}

fn by_hand(evidence: &Evidence) -> Html {
    let mut html = Html::default();
    html.raw("<p>This page proves nothing by itself. Whoever has the log and the policy file can make it again, and any reader of C2SP tlog-tiles can verify the log. An entry that is named here by its number can be shown and proven alone.</p>");
    html.raw("<p><code>consilium-audit verify --log LOG --policy POLICY</code><br><code>consilium-audit report --log LOG --policy POLICY --study ");
    html.text(evidence.study.short()).raw(" --out again.html</code><br><code>consilium-audit prove --log LOG --policy POLICY --index ENTRY</code></p>");
    html.raw("<h3>The checkpoint</h3><p class=\"note\">");
    lines(&mut html, &evidence.checkpoint);
    html.raw("</p><h3>The policy file, SHA-256 <code>").text(&evidence.policy_digest);
    html.raw("</code></h3><p class=\"note\">");
    lines(&mut html, &evidence.policy);
    html.raw("</p>");
    if let Some(manifest) = &evidence.manifest {
        html.raw("<h3>The study file</h3><p class=\"note\">");
        lines(&mut html, manifest.text());
        html.raw("</p>");
    }
    html
}

fn lines(html: &mut Html, text: &str) {
    for line in text.lines() {
        html.raw("<code>").text(line).raw("</code><br>");
    }
}
