//! What a person sees of the demo: the steps of the set-up, a bar for each hospital, a table of
//! rounds. With `--format json`, one line for each round and one at the end.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::cli::{Failure, Format, write_line};
use proto::federation::Stage;
use serde::Serialize;

use crate::cli::study::shown::Done as DoneBy;

/// A closed round, as a line of JSON.
#[derive(Debug, Serialize)]
pub(super) struct RoundLine {
    pub(super) event: &'static str,
    pub(super) round: u32,
    pub(super) sites: Vec<String>,
    pub(super) dropped: Vec<String>,
    #[serde(flatten)]
    pub(super) done: DoneBy,
    /// Hospitals that are not in the sum, or were gone at its end: the last that each did.
    pub(super) dropped_after: BTreeMap<String, &'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) auroc: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) accuracy: Option<f64>,
    /// Spent so far, as planned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epsilon: Option<f64>,
    /// The same against everybody else together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epsilon_solo: Option<f64>,
    pub(super) seconds: f64,
}

/// What came of a `--drop`, as a line of JSON.
#[derive(Debug, Serialize)]
pub(super) struct DropLine {
    pub(super) event: &'static str,
    pub(super) round: u32,
    pub(super) site: String,
    /// After what it was to be killed.
    pub(super) asked: String,
    /// After what it was killed.
    pub(super) last: String,
    pub(super) as_asked: bool,
}

/// The end.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    pub(super) event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) auroc: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) accuracy: Option<f64>,
    pub(super) mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epsilon: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epsilon_solo: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epsilon_target: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delta: Option<f64>,
    pub(super) rounds: u32,
    pub(super) study: String,
    pub(super) model_digest: String,
    pub(super) model: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dir: Option<PathBuf>,
    /// The log's folder.
    pub(super) log: PathBuf,
    /// The policy that it was verified under.
    pub(super) policy: PathBuf,
    /// The report on the study.
    pub(super) report: PathBuf,
    /// Whether `consilium-audit` accepts the log.
    pub(super) log_verified: bool,
    /// The line that verifies it again; for people.
    #[serde(skip)]
    pub(super) verify: String,
    /// The line that adds the kept rounds up again; for people.
    #[serde(skip)]
    pub(super) recompute: String,
    /// Kept rounds whose updates were found to give the sum that the log has.
    pub(super) recomputed: u64,
    pub(super) seconds: f64,
}

/// Where the demo is drawn.
pub(super) struct Screen {
    format: Format,
    /// Whether rounds show what is spent against everybody else together.
    solo: bool,
    board: MultiProgress,
    bars: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Screen {
    pub(super) fn new(format: Format, solo: bool) -> Self {
        let target = match format {
            Format::Text if io::stdout().is_terminal() => ProgressDrawTarget::stdout(),
            Format::Text | Format::Json => ProgressDrawTarget::hidden(),
        };
        let board = MultiProgress::with_draw_target(target);
        Self { format, solo, board, bars: Mutex::new(BTreeMap::new()) }
    }

    /// One step of the set-up is begun.
    pub(super) fn step(&self, what: &str, detail: &str) {
        self.text(&format!("  {what}: {detail}"));
    }

    /// Something went wrong and is being dealt with.
    pub(super) fn event(&self, what: &str) {
        self.text(&format!("  ! {what}"));
    }

    /// What the study waits for.
    pub(super) fn waiting(&self, why: &str) {
        if !why.is_empty() {
            self.text(&format!("  . waiting for {why}"));
        }
    }

    /// What came of a drop that was asked for.
    pub(super) fn dropped(&self, line: &DropLine) {
        let DropLine { round, site, asked, last, as_asked, .. } = line;
        match self.format {
            Format::Json => emit(line),
            Format::Text if *as_asked => {
                self.event(&format!("round {round} has survived that {site} went after {asked}"));
            }
            Format::Text => self.event(&format!(
                "round {round}: {site} was to be killed after {asked}; that came too late: the last it did was {last}"
            )),
        }
    }

    /// The hospitals take their places, and the table its head.
    pub(super) fn begin(&self, hospitals: &[String]) {
        let width = hospitals.iter().map(String::len).max().unwrap_or(0);
        let style = ProgressStyle::with_template("  {prefix}  {bar:30.cyan/blue}  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("━╸─");
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        for name in hospitals {
            let bar = self.board.add(ProgressBar::new(1000).with_style(style.clone()));
            bar.set_prefix(format!("{name:width$}"));
            bar.set_message("waiting");
            bar.enable_steady_tick(Duration::from_millis(200));
            bars.insert(name.clone(), bar);
        }
        drop(bars);
        self.text("");
        let solo = if self.solo { "      solo" } else { "" };
        self.text(&format!(
            "  round  ready  in the sum  signed  unmasked    loss   AUROC                       accuracy  epsilon{solo}  seconds"
        ));
    }

    /// How far a hospital is.
    pub(super) fn progress(&self, site: &str, stage: Stage, permille: u32) {
        let bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bar) = bars.get(site) else { return };
        let (position, message) = match stage {
            Stage::Unspecified => (0, "waiting"),
            Stage::Fetching => (0, "fetching the model"),
            Stage::Training => (u64::from(permille.min(1000)), "training"),
            Stage::Waiting => (1000, "trained, waiting for the others"),
            Stage::Masking => (1000, "masking"),
            Stage::Uploading => (1000, "uploading"),
            Stage::Unmasking => (1000, "in the sum, taking the masks out"),
            Stage::Done => (1000, "in the sum"),
        };
        bar.set_position(position);
        bar.set_message(message);
    }

    /// A round is over, and the model that came out of it has been scored.
    pub(super) fn round(&self, line: &RoundLine) {
        match self.format {
            Format::Json => emit(line),
            Format::Text => self.text(&row(line, self.solo)),
        }
    }

    /// The end of the story.
    pub(super) fn done(&self, done: &Done) -> Result<(), Failure> {
        match self.format {
            Format::Json => write_line(&mut io::stdout().lock(), done)
                .map_err(|error| Failure::failed("stdout", error.to_string())),
            Format::Text => {
                for bar in self.bars.lock().unwrap_or_else(PoisonError::into_inner).values() {
                    bar.finish_and_clear();
                }
                let figure = |value: Option<f64>| {
                    value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.4}"))
                };
                self.text("");
                self.text(&format!("  Done in {:.0} s: {} rounds", done.seconds, done.rounds));
                self.text(&format!("  AUROC     {}", figure(done.auroc)));
                self.text(&format!("  accuracy  {}", figure(done.accuracy)));
                self.text(&format!("  study     {}", done.study));
                self.text(&format!("  model     {}", done.model.display()));
                self.text(&format!("            sha256 {} of its values", done.model_digest));
                self.text(&format!("  report    {}", done.report.display()));
                let verified = if done.log_verified { "verified" } else { "NOT VERIFIED" };
                self.text(&format!("  log       {verified}; again by hand:"));
                self.text(&format!("            {}", done.verify));
                let sums = if done.recomputed == 1 { "sum" } else { "sums" };
                self.text(&format!(
                    "  sums      {} {sums} added up again, and as the log has it",
                    done.recomputed
                ));
                self.text(&format!("            {}", done.recompute));
                if let Some(dir) = &done.dir {
                    self.text(&format!("  all of it {}", dir.display()));
                }
                self.text("");
                for line in privacy(done) {
                    self.text(&line);
                }
                Ok(())
            }
        }
    }

    fn text(&self, line: &str) {
        match self.format {
            Format::Json => {}
            Format::Text if self.board.is_hidden() => emit_text(line),
            // A full terminal or a closed one: the demo goes on without its picture.
            Format::Text => drop(self.board.println(line)),
        }
    }
}

/// What was promised to the patients, and kept.
fn privacy(done: &Done) -> Vec<String> {
    let Done { mode, epsilon, epsilon_solo, epsilon_target, delta, .. } = done;
    let (Some(spent), Some(solo), Some(target), Some(delta)) =
        (epsilon, epsilon_solo, epsilon_target, delta)
    else {
        return vec![format!("  privacy   {mode}: the updates carried no noise")];
    };
    vec![
        format!("  privacy   {mode} noise: epsilon {spent:.4} of {target} at delta {delta}"),
        format!("            against everybody else together: {solo:.4}"),
        "            the scores are exact sums over held-out images, whom no epsilon covers"
            .to_owned(),
    ]
}

fn emit(line: &impl Serialize) {
    // A reader that has gone away does not end the study.
    let _ = write_line(&mut io::stdout().lock(), line);
}

fn emit_text(line: &str) {
    use std::io::Write as _;
    // As above.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

fn row(line: &RoundLine, with_solo: bool) -> String {
    let RoundLine {
        round,
        sites,
        dropped,
        done,
        dropped_after,
        loss,
        auroc,
        accuracy,
        epsilon,
        epsilon_solo,
        seconds,
        ..
    } = line;
    let of = sites.len() + dropped.len();
    let number = |value: &Option<f64>| {
        value.map_or_else(|| "     -".to_owned(), |value| format!("{value:6.4}"))
    };
    let meter = auroc.map_or_else(String::new, meter);
    let spent = |value: &Option<f64>, width: usize| {
        value.map_or_else(|| format!("{:>width$}", "-"), |spent| format!("{spent:width$.4}"))
    };
    let solo = if with_solo { spent(epsilon_solo, 10) } else { String::new() };
    let mut row = format!(
        "  {round:>5}  {:>5}  {:>4} of {of:<2}  {:>6}  {:>8}  {}  {} {meter:<20}   {}  {}{solo}  {seconds:>7.1}",
        done.ready.len(),
        sites.len(),
        done.signed.len(),
        done.unmasked.len(),
        number(loss),
        number(auroc),
        number(accuracy),
        spent(epsilon, 7),
    );
    if !dropped.is_empty() {
        row.push_str("  without ");
        row.push_str(&dropped.join(", "));
    }
    let gone = dropped_after.iter().filter(|(_, after)| **after != "nothing");
    let gone: Vec<String> = gone.map(|(site, after)| format!("{site} after {after}")).collect();
    if !gone.is_empty() {
        row.push_str("  gone: ");
        row.push_str(&gone.join(", "));
    }
    row
}

/// AUROC as a bar from 0.5 (nothing learnt) to 1.
fn meter(auroc: f64) -> String {
    let filled = ((auroc - 0.5) * 40.0).round().clamp(0.0, 20.0);
    (0..20).map(|cell| if f64::from(cell) < filled { '█' } else { '·' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(auroc: Option<f64>, dropped: &[&str]) -> RoundLine {
        RoundLine {
            event: "round",
            round: 7,
            sites: vec!["hospital-1".to_owned()],
            dropped: dropped.iter().map(|&name| name.to_owned()).collect(),
            done: DoneBy::default(),
            dropped_after: dropped.iter().map(|&name| (name.to_owned(), "ready")).collect(),
            loss: Some(0.5),
            auroc,
            accuracy: None,
            epsilon: None,
            epsilon_solo: None,
            seconds: 1.25,
        }
    }

    #[test]
    fn a_row_names_who_is_missing() {
        let row = row(&line(Some(0.75), &["hospital-2"]), false);
        assert!(row.contains("1 of 2") && row.contains("without hospital-2"), "{row}");
        assert!(row.contains("gone: hospital-2 after ready"), "{row}");
        assert!(row.contains("██████████··········"), "{row}");
    }

    #[test]
    fn what_is_spent_alone_is_shown_on_request() {
        let line =
            RoundLine { epsilon: Some(1.5), epsilon_solo: Some(12.25), ..line(Some(0.75), &[]) };
        assert!(row(&line, false).contains("1.5000") && !row(&line, false).contains("12.25"));
        assert!(row(&line, true).contains("   12.2500"), "{}", row(&line, true));
    }

    #[test]
    fn what_was_not_measured_is_left_out_of_the_json() {
        let json = serde_json::to_value(line(None, &[])).expect("plain data");
        assert!(json.get("auroc").is_none() && json.get("accuracy").is_none());
        assert_eq!(json["event"], "round");
    }
}
