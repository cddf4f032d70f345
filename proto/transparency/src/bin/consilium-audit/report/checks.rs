//! What the log's facts say about each other. The tree proves that nobody took a fact back; this is
//! whether the facts fit together, and where they do not.

use std::collections::{BTreeMap, BTreeSet};

use transparency::fact::PrivacyPlan;

use super::history::{End, History, NO_PRIVACY};

/// One question and its answer.
pub(super) struct Check {
    /// What holds if there is no exception.
    pub(super) rule: &'static str,
    /// How many facts it was asked of. None: it could not be asked.
    pub(super) asked: u64,
    /// What does not fit.
    pub(super) exceptions: Vec<String>,
}

impl Check {
    pub(super) fn new(rule: &'static str) -> Self {
        Self { rule, asked: 0, exceptions: Vec::new() }
    }

    pub(super) fn ask(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        self.asked += 1;
        if !holds {
            self.exceptions.push(otherwise());
        }
    }
}

/// Every question, in the order in which a study lives.
pub(super) fn all(history: &History) -> Vec<Check> {
    vec![
        approvals(history),
        consent(history),
        rounds(history),
        cohorts(history),
        once(history),
        lineage(history),
        sums(history),
        exports(history),
        offers(history),
        charges(history),
        epsilons(history),
        super::accounted::accounted(history),
        super::accounted::released(history),
        super::accounted::held(history),
        caps(history),
        times(history),
        readable(history),
    ]
}

fn approvals(history: &History) -> Check {
    let mut check = Check::new(
        "The study was proposed, and every site of it approved it before its first round",
    );
    // The order of the log counts, which is signed; a time is whatever its writer says.
    let first = history.attempts.values().filter_map(|attempt| attempt.began).min();
    let mut sites: BTreeSet<&String> =
        history.proposal.iter().flat_map(|proposal| &proposal.sites).collect();
    for attempt in history.attempts.values() {
        sites.extend(attempt.invited.iter().chain(attempt.arrived.keys()));
        if let End::Released { contributed, .. } = &attempt.end {
            sites.extend(contributed);
        }
    }
    if first.is_some() {
        check.ask(history.proposal.is_some(), || "the study was never proposed".to_owned());
    }
    for site in sites.into_iter().filter(|_| first.is_some()) {
        let approved = history.decisions.iter().find(|it| {
            it.site == *site
                && it.decision == "approved"
                && first.is_none_or(|first| it.index < first)
        });
        check.ask(approved.is_some(), || format!("{site}: no approval before the first round"));
    }
    check
}

fn consent(history: &History) -> Check {
    let mut check =
        Check::new("No sum is of a site that had refused the study or withdrawn from it");
    for attempt in history.attempts.values() {
        let End::Released { contributed, .. } = &attempt.end else { continue };
        for site in contributed {
            // The last word of the site before the round; its silence is the rule above.
            let before = |index| attempt.began.is_none_or(|began| index < began);
            let mut decisions = history.decisions.iter();
            let last = decisions.rfind(|it| it.site == *site && before(it.index));
            check.ask(last.is_none_or(|last| last.decision == "approved"), || {
                let decision = last.map_or("", |last| last.decision.as_str());
                format!("round {}: {site}, which had {decision}", attempt.round)
            });
        }
    }
    check
}

fn once(history: &History) -> Check {
    let mut check = Check::new("Every attempt is told once, from its beginning to its end");
    for attempt in history.attempts.values() {
        let place = |what: &str| format!("round {}, slot {}: {what}", attempt.round, attempt.slot);
        check.ask(attempt.began.is_some(), || place("never announced"));
        check.exceptions.extend(attempt.again.iter().map(|what| place(what)));
    }
    check
}

fn times(history: &History) -> Check {
    let mut check = Check::new("No fact is dated more than a minute before one that the log had");
    check.asked = history.leaves;
    for (index, time) in &history.back {
        check.exceptions.push(format!("entry {index}: {time}"));
    }
    check
}

fn rounds(history: &History) -> Check {
    let mut check = Check::new("No round was released twice, and none was passed over");
    let mut next = 1;
    for attempt in history.attempts.values() {
        check.ask(attempt.round == next, || {
            format!("slot {}: expected round {next}, found round {}", attempt.slot, attempt.round)
        });
        next = if attempt.released() { attempt.round.saturating_add(1) } else { attempt.round };
    }
    check
}

fn cohorts(history: &History) -> Check {
    let mut check = Check::new("Every sum is of sites that were invited and whose updates arrived");
    for attempt in history.attempts.values() {
        let End::Released { contributed, .. } = &attempt.end else { continue };
        for site in contributed {
            let fits = attempt.invited.contains(site)
                && attempt.arrived.contains_key(site)
                && attempt.members.as_ref().is_none_or(|members| members.contains(site));
            check.ask(fits, || format!("round {}: {site}", attempt.round));
        }
    }
    check
}

fn lineage(history: &History) -> Check {
    let mut check = Check::new("Every model follows from the one before it, back to the proposal");
    let mut current = history.proposal.as_ref().map(|proposal| proposal.model.clone());
    for change in &history.changes {
        if let Some(current) = &current {
            check.ask(*current == change.before, || {
                format!("round {}: expected to start from {current}", change.round)
            });
        }
        current = Some(change.after.clone());
    }
    check
}

fn sums(history: &History) -> Check {
    let mut check = Check::new("Every model was made by a released sum, one by each");
    let mut made = BTreeSet::new();
    for change in &history.changes {
        let attempt = history.attempts.get(&change.slot);
        let released = attempt.is_some_and(|it| it.released() && it.round == change.round);
        check.ask(released && made.insert(change.slot), || {
            format!("round {}, slot {}: model {}", change.round, change.slot, change.after)
        });
    }
    check
}

fn exports(history: &History) -> Check {
    let mut check = Check::new("Every model that was taken out is one of the study");
    let first = history.proposal.iter().map(|proposal| (proposal.index, &proposal.model));
    let later = history.changes.iter().map(|change| (change.index, &change.after));
    let models: Vec<_> = first.chain(later).collect();
    for export in &history.exports {
        let Some(taken) = &export.digest else { continue };
        let known = models.iter().any(|(index, model)| *model == taken && *index < export.index);
        check.ask(known, || format!("entry {}: {taken}", export.index));
    }
    check
}

fn offers(history: &History) -> Check {
    let mut check = Check::new("Every round offered the model that the round before it made");
    let mut made: BTreeMap<u64, _> = BTreeMap::new();
    if let Some(proposal) = &history.proposal {
        made.insert(0, &proposal.model);
    }
    made.extend(history.changes.iter().map(|change| (change.round, &change.after)));
    for attempt in history.attempts.values() {
        let before = made.range(..attempt.round).next_back().map(|(_, model)| *model);
        if let (Some(before), Some(offered)) = (before, &attempt.model) {
            check.ask(before == offered, || format!("round {}: offered {offered}", attempt.round));
        }
    }
    check
}

fn charges(history: &History) -> Check {
    let mut check = Check::new("Every update that arrived was charged to its site's ledger");
    let plan = history.proposal.as_ref().and_then(|proposal| proposal.privacy.as_ref());
    let private = plan.is_some_and(|plan| plan.mode != NO_PRIVACY);
    if history.charges.is_empty() && !private {
        return check;
    }
    for attempt in history.attempts.values().filter(|attempt| attempt.work != "evaluate") {
        for site in attempt.arrived.keys() {
            check.ask(attempt.charged.contains(site), || {
                format!("round {}, slot {}: {site}", attempt.round, attempt.slot)
            });
        }
    }
    check
}

fn epsilons(history: &History) -> Check {
    let mut check = Check::new("No ledger ever went back");
    for (site, charges) in &history.charges {
        for pair in charges.windows(2) {
            let (one, next) = (&pair[0], &pair[1]);
            let grows = next.charge.epsilon_planned >= one.charge.epsilon_planned
                && next.charge.epsilon_solo >= one.charge.epsilon_solo
                && next.slot > one.slot
                && one.charge.seq.zip(next.charge.seq).is_none_or(|(one, next)| one < next);
            check.ask(grows, || format!("{site}: round {} after round {}", next.round, one.round));
        }
    }
    check
}

fn caps(history: &History) -> Check {
    let mut check = Check::new("No site spent more than its caps and the study allow");
    let plan = history.proposal.as_ref().and_then(|proposal| proposal.privacy.as_ref());
    let mut told = BTreeSet::new();
    for (site, charges) in &history.charges {
        for one in charges {
            let charge = &one.charge;
            let held = charge.against_caps();
            let study = |cap: fn(&PrivacyPlan) -> Option<f64>| plan.and_then(cap);
            for (spent, cap, figure) in [
                (charge.epsilon_planned, study(|plan| plan.epsilon), "planned"),
                (held.planned, charge.cap_planned, "planned"),
                (charge.epsilon_solo, study(|plan| plan.solo_epsilon_cap), "solo"),
                (held.solo, charge.cap_solo, "solo"),
            ] {
                let Some(cap) = cap else { continue };
                let holds = spent <= cap;
                check.asked += 1;
                if !holds && told.insert((site, figure)) {
                    check.exceptions.push(format!(
                        "{site}: {figure} epsilon {} above {} since round {}",
                        super::html::value_text(spent),
                        super::html::value_text(cap),
                        one.round
                    ));
                }
            }
        }
    }
    check
}

fn readable(history: &History) -> Check {
    let mut check = Check::new("Every leaf of a known kind says what its kind says");
    check.asked = history.leaves;
    for (index, what) in &history.defects {
        check.exceptions.push(format!("entry {index}: {what}"));
    }
    check
}
