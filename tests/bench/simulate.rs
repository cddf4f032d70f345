//! `consilium-bench simulate`: federations of the real state machines, one for each seed. Reports
//! what happened in them, and fails with the seed if an invariant did not hold in one.

use std::fmt;
use std::io::{self, Write as _};

use clap::Args;
use harness::simulation::flaw::Flaw;
use harness::simulation::{Counts, Many, Options, Played, play, play_many};
use proto::cli::{Failure, Format, write_line};
use serde::Serialize;

/// The most seeds whose traces are printed.
const MOST_TRACED: u64 = 100;

/// Which seeds are played, and how.
#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// Seeds to play
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Print what happens in each, line by line
    #[arg(long)]
    trace: bool,
    /// Plant a bug, by its name in the harness: to see that it is found
    #[arg(long, value_name = "FLAW", value_parser = flaw, hide = true)]
    plant: Option<Flaw>,
}

fn flaw(name: &str) -> Result<Flaw, String> {
    let found = Flaw::ALL.into_iter().find(|flaw| format!("{flaw:?}") == name);
    found.ok_or_else(|| format!("expected one of {:?}", Flaw::ALL))
}

/// What came out.
#[derive(Debug, Serialize)]
struct Simulated {
    seeds: u64,
    first: u64,
    events: u64,
    crashes: u64,
    drops: u64,
    attempts: u64,
    released: u64,
    /// Words that the coordinator refused.
    refusals: u64,
    /// Alarms; without an adversary there is none.
    alarms: u64,
    failures: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trace: Vec<String>,
}

impl Simulated {
    fn new(first: u64, many: &Many, trace: Vec<String>) -> Self {
        let Counts { events, crashes, drops, attempts, released, refusals, alarms, .. } =
            many.counts;
        let (seeds, failures) = (many.seeds, many.failures.len());
        Self {
            seeds,
            first,
            events,
            crashes,
            drops,
            attempts,
            released,
            refusals,
            alarms,
            failures,
            trace,
        }
    }
}

impl fmt::Display for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        let mut line = |name: &str, value: u64| writeln!(f, "{name:<34} {value:>12}");
        line("seeds", self.seeds)?;
        line("first seed", self.first)?;
        line("events", self.events)?;
        line("crashes", self.crashes)?;
        line("drops", self.drops)?;
        line("attempts at rounds", self.attempts)?;
        line("rounds released", self.released)?;
        line("words refused", self.refusals)?;
        line("alarms, all of adversaries' making", self.alarms)?;
        writeln!(f, "{:<34} {:>12}", "failures", self.failures)
    }
}

/// Plays the seeds.
pub(crate) fn run(arguments: &SimulateArgs, format: Format) -> Result<(), Failure> {
    let SimulateArgs { seeds, first, trace, plant } = *arguments;
    let options = Options { trace, flaw: plant, ..Options::default() };
    let (many, lines) = if trace {
        if seeds > MOST_TRACED {
            let said = format!("traces are printed of at most {MOST_TRACED} seeds, found {seeds}");
            return Err(Failure::usage("too_many_traces", said));
        }
        traced(first, seeds, options)
    } else {
        (play_many(first, seeds, options), Vec::new())
    };
    let simulated = Simulated::new(first, &many, lines);
    let mut out = io::stdout().lock();
    match format {
        Format::Json => write_line(&mut out, &simulated),
        Format::Text => write!(out, "{simulated}"),
    }
    .map_err(|error| Failure::failed("stdout", error.to_string()))?;
    match many.failures.first() {
        None => Ok(()),
        Some(failed) => Err(failure(failed)),
    }
}

/// One after the other, with what happened.
fn traced(first: u64, seeds: u64, options: Options) -> (Many, Vec<String>) {
    let mut many = Many::default();
    let mut lines = Vec::new();
    for number in 0..seeds {
        let mut played = play(first.wrapping_add(number), options);
        lines.push(format!("seed {}", played.seed));
        lines.append(&mut played.trace);
        many.add(played);
    }
    (many, lines)
}

fn failure(failed: &Played) -> Failure {
    let seed = failed.seed;
    let seen = failed.violation.as_ref().map(ToString::to_string).unwrap_or_default();
    Failure::failed("invariant_broken", format!("seed {seed}: {seen}"))
        .hint(format!("consilium-bench simulate --first {seed} --seeds 1 --trace"))
}
