//! Studies and rounds as the command line shows them.

use std::collections::BTreeMap;

use proto::federation as wire;
use serde::Serialize;
use serde_json::Value;

use crate::cli::out::table;

/// A study.
#[derive(Debug, Serialize)]
pub(super) struct StudyData {
    pub(super) digest: String,
    pub(super) name: String,
    pub(super) state: &'static str,
    pub(super) rounds: u32,
    pub(super) waiting_for: String,
    pub(super) decisions: Vec<DecisionData>,
    pub(super) history: Vec<RoundData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) open: Option<OpenData>,
}

/// What a site has decided.
#[derive(Debug, Serialize)]
pub(super) struct DecisionData {
    pub(super) site: String,
    pub(super) decision: &'static str,
}

/// A round that has closed. Its metrics are those of the model that it offered.
#[derive(Debug, Clone, Serialize)]
pub(super) struct RoundData {
    pub(super) round: u32,
    pub(super) slot: u64,
    pub(super) released: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) reason: String,
    pub(super) sites: Vec<String>,
    pub(super) dropped: Vec<String>,
    #[serde(flatten)]
    pub(super) done: Done,
    /// Sites that are not in the sum, or were gone when the round closed: the last that each did.
    pub(super) dropped_after: BTreeMap<String, &'static str>,
    /// Why sites are not in the sum.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) missing: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) auroc: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dice: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hausdorff: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hausdorff_95: Option<f64>,
    /// Spent by the patients of a private study after this round, as planned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epsilon: Option<f64>,
    /// The same against everybody else together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epsilon_solo: Option<f64>,
    pub(super) seconds: f64,
    pub(super) model: String,
}

/// Who did what in a round, as far as the coordinator has seen; signatures and shares that come
/// when there are enough are not counted.
#[derive(Debug, Clone, Default, Serialize)]
pub(in crate::cli) struct Done {
    pub(in crate::cli) ready: Vec<String>,
    pub(in crate::cli) uploaded: Vec<String>,
    pub(in crate::cli) signed: Vec<String>,
    pub(in crate::cli) unmasked: Vec<String>,
}

/// The round that is open.
#[derive(Debug, Clone, Serialize)]
pub(super) struct OpenData {
    pub(super) round: u32,
    pub(super) slot: u64,
    pub(super) phase: String,
    #[serde(flatten)]
    pub(super) done: Done,
    pub(super) awaited: Vec<String>,
    pub(super) needed: u32,
    #[serde(skip)]
    courses: Vec<wire::SiteCourse>,
}

impl Done {
    pub(in crate::cli) fn new(courses: &[wire::SiteCourse]) -> Self {
        let who = |done: fn(&wire::SiteCourse) -> bool| {
            courses.iter().filter(|one| done(one)).map(|one| one.site.clone()).collect()
        };
        Self {
            ready: who(|one| one.ready),
            uploaded: who(|one| one.uploaded),
            signed: who(|one| one.signed),
            unmasked: who(|one| one.unmasked),
        }
    }
}

impl OpenData {
    fn new(open: wire::OpenRound) -> Self {
        Self {
            round: open.round,
            slot: open.slot,
            phase: open.phase,
            done: Done::new(&open.courses),
            awaited: open.awaited,
            needed: open.needed,
            courses: open.courses,
        }
    }

    /// What is waited for, in words.
    pub(super) fn waits(&self) -> String {
        let Self { awaited, needed, .. } = self;
        let of = awaited.join(", ");
        match self.phase.as_str() {
            "sign" => format!("{needed} more signatures, of {of}"),
            "unmask" => format!("{needed} more answers to unmask with, of {of}"),
            "mask" => format!("the updates of {of}"),
            _ => format!("{of} to be ready"),
        }
    }

    /// The round in lines.
    pub(super) fn text(&self) -> String {
        let tick = |done: bool| if done { "yes" } else { "-" }.to_owned();
        let row = |one: &wire::SiteCourse| {
            let ticks = [one.ready, one.uploaded, one.signed, one.unmasked].map(tick);
            [vec![one.site.clone()], ticks.to_vec()].concat()
        };
        let rows: Vec<Vec<String>> = self.courses.iter().map(row).collect();
        let head = ["SITE", "READY", "UPLOADED", "SIGNED", "UNMASKED"];
        format!(
            "round {} is open, waiting for {}\n{}",
            self.round,
            self.waits(),
            table(&head, &rows)
        )
    }
}

/// The last that a site did in a round.
fn last(course: &wire::SiteCourse) -> &'static str {
    let wire::SiteCourse { ready, uploaded, signed, unmasked, .. } = course;
    match (unmasked, signed, uploaded, ready) {
        (true, ..) => "unmask",
        (_, true, ..) => "signed",
        (_, _, true, _) => "masked",
        (_, _, _, true) => "ready",
        (false, false, false, false) => "nothing",
    }
}

/// Sites that are not in the sum, or were gone when the round closed, and the last that each did.
pub(in crate::cli) fn dropped_after(
    courses: &[wire::SiteCourse],
) -> BTreeMap<String, &'static str> {
    let dropped = courses.iter().filter(|one| one.away || !one.missing.is_empty());
    dropped.map(|one| (one.site.clone(), last(one))).collect()
}

/// Why sites are not in a round's sum.
fn missing(courses: &[wire::SiteCourse]) -> BTreeMap<String, String> {
    let missing = courses.iter().filter(|one| !one.missing.is_empty());
    missing.map(|one| (one.site.clone(), one.missing.clone())).collect()
}

/// The word for a study's state.
pub(super) fn state(state: wire::StudyState) -> &'static str {
    match state {
        wire::StudyState::Unspecified => "unknown",
        wire::StudyState::Proposed => "proposed",
        wire::StudyState::Approved => "approved",
        wire::StudyState::Running => "running",
        wire::StudyState::Paused => "paused",
        wire::StudyState::Completed => "completed",
        wire::StudyState::Failed => "failed",
        wire::StudyState::Stopped => "stopped",
    }
}

/// The word for how far a site is.
pub(super) fn stage(stage: wire::Stage) -> &'static str {
    match stage {
        wire::Stage::Unspecified => "unknown",
        wire::Stage::Fetching => "fetching",
        wire::Stage::Training => "training",
        wire::Stage::Waiting => "waiting",
        wire::Stage::Masking => "masking",
        wire::Stage::Uploading => "uploading",
        wire::Stage::Unmasking => "unmasking",
        wire::Stage::Done => "done",
    }
}

impl StudyData {
    pub(super) fn new(view: wire::StudyView) -> Self {
        Self {
            state: state(view.state()),
            decisions: view
                .decisions
                .iter()
                .map(|one| DecisionData {
                    site: one.site.clone(),
                    decision: match one.decision() {
                        wire::Decision::Unspecified => "none yet",
                        wire::Decision::Approved => "approved",
                        wire::Decision::Refused => "refused",
                        wire::Decision::Withdrawn => "withdrawn",
                    },
                })
                .collect(),
            digest: view.digest,
            name: view.name,
            rounds: view.rounds,
            waiting_for: view.waiting_for,
            history: view.history.into_iter().map(RoundData::new).collect(),
            open: view.open.map(OpenData::new),
        }
    }

    /// Rounds of training that were released.
    pub(super) fn released(&self) -> usize {
        self.history.iter().filter(|round| round.released && round.round <= self.rounds).count()
    }

    /// Whether nothing more can happen.
    pub(super) fn ended(&self) -> bool {
        ["completed", "failed", "stopped"].contains(&self.state)
    }

    pub(super) fn row(&self) -> Vec<String> {
        let auroc = self.history.iter().rev().find_map(|round| round.auroc);
        vec![
            self.digest.chars().take(12).collect(),
            self.name.clone(),
            self.state.to_owned(),
            format!("{}/{}", self.released(), self.rounds),
            figure(auroc),
            self.waiting_for.clone(),
        ]
    }
}

fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}

fn names(sites: &[String]) -> String {
    if sites.is_empty() { "-".to_owned() } else { sites.join(",") }
}

/// Who is missing or was gone, and after what.
fn dropped(round: &RoundData) -> String {
    if round.dropped_after.is_empty() {
        return names(&round.dropped);
    }
    let why = |site: &String| round.missing.get(site).filter(|why| why.starts_with("declined"));
    let one = |(site, after): (&String, &&str)| match (why(site), *after) {
        (Some(why), _) => format!("{site} ({why})"),
        (None, "nothing") => site.clone(),
        (None, after) => format!("{site} (after {after})"),
    };
    round.dropped_after.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl RoundData {
    /// Of [`Self::fit`].
    pub(super) const FIT: [&'static str; 5] = ["ROUND", "LOSS", "DICE", "HAUSDORFF", "HAUSDORFF95"];

    pub(super) const HEAD: [&'static str; 12] = [
        "ROUND", "OUTCOME", "READY", "SITES", "SIGNED", "UNMASKED", "LOSS", "AUROC", "ACCURACY",
        "EPSILON", "SECONDS", "DROPPED",
    ];

    pub(super) fn new(view: wire::RoundView) -> Self {
        let span = view.closed_ms.saturating_sub(view.announced_ms);
        Self {
            done: Done::new(&view.courses),
            dropped_after: dropped_after(&view.courses),
            missing: missing(&view.courses),
            round: view.round,
            slot: view.slot,
            released: view.released,
            reason: view.reason,
            sites: view.contributed,
            dropped: view.dropped,
            loss: view.loss,
            auroc: view.auroc,
            accuracy: view.accuracy,
            dice: view.dice,
            hausdorff: view.hausdorff,
            hausdorff_95: view.hausdorff_95,
            epsilon: view.epsilon,
            epsilon_solo: view.epsilon_solo,
            seconds: std::time::Duration::from_millis(span).as_secs_f64(),
            model: view.model,
        }
    }

    /// How well a segmentation's regions fit, if this round judged one.
    pub(super) fn fit(&self) -> Option<Vec<String>> {
        self.dice?;
        let figures = [self.loss, self.dice, self.hausdorff, self.hausdorff_95];
        Some(std::iter::once(self.round.to_string()).chain(figures.map(figure)).collect())
    }

    pub(super) fn row(&self) -> Vec<String> {
        let outcome = if self.released {
            "released".to_owned()
        } else {
            format!("abandoned: {}", self.reason)
        };
        vec![
            self.round.to_string(),
            outcome,
            self.done.ready.len().to_string(),
            self.sites.len().to_string(),
            self.done.signed.len().to_string(),
            self.done.unmasked.len().to_string(),
            figure(self.loss),
            figure(self.auroc),
            figure(self.accuracy),
            figure(self.epsilon),
            format!("{:.2}", self.seconds),
            dropped(self),
        ]
    }
}

/// A line of a stream.
pub(super) struct Line {
    pub(super) data: Value,
    pub(super) text: Option<String>,
}

/// What a watching operator has been told; nothing is told twice.
#[derive(Debug, Default)]
pub(super) struct Told {
    state: Option<&'static str>,
    waiting_for: String,
    slot: u64,
    headed: bool,
}

impl Told {
    /// What is new in a snapshot.
    pub(super) fn snapshot(&mut self, study: &StudyData) -> Vec<Line> {
        let mut lines: Vec<Line> =
            study.history.iter().filter_map(|round| self.round(round)).collect();
        if self.state != Some(study.state) || self.waiting_for != study.waiting_for {
            self.state = Some(study.state);
            self.waiting_for.clone_from(&study.waiting_for);
            let waiting = match study.waiting_for.as_str() {
                "" => String::new(),
                why => format!(", waiting for {why}"),
            };
            lines.push(Line {
                data: serde_json::json!({
                    "event": "state",
                    "study": study.digest,
                    "name": study.name,
                    "state": study.state,
                    "waiting_for": study.waiting_for,
                }),
                text: Some(format!("{} is {}{waiting}", study.name, study.state)),
            });
        }
        lines
    }

    /// A round, unless it was told already.
    pub(super) fn round(&mut self, round: &RoundData) -> Option<Line> {
        if round.slot <= self.slot {
            return None;
        }
        self.slot = round.slot;
        let head = [
            " ROUND",
            "OUTCOME  ",
            "SITES",
            "   LOSS",
            "  AUROC",
            "ACCURACY",
            "EPSILON",
            "SECONDS",
            "DROPPED",
        ];
        let cells = vec![
            format!("{:>6}", round.round),
            if round.released { "released " } else { "abandoned" }.to_owned(),
            format!("{:>5}", round.sites.len()),
            format!("{:>7}", figure(round.loss)),
            format!("{:>7}", figure(round.auroc)),
            format!("{:>8}", figure(round.accuracy)),
            format!("{:>7}", figure(round.epsilon)),
            format!("{:>7.2}", round.seconds),
            if round.reason.is_empty() {
                dropped(round)
            } else {
                format!("{} ({})", dropped(round), round.reason)
            },
        ];
        let both = table(&head, &[cells]);
        let text = if self.headed {
            both.lines().nth(1).unwrap_or_default().to_owned()
        } else {
            self.headed = true;
            both
        };
        let mut data = serde_json::to_value(round).unwrap_or_default();
        if let Value::Object(fields) = &mut data {
            fields.insert("event".to_owned(), "round".into());
        }
        Some(Line { data, text: Some(text) })
    }
}
