//! `consilium-bench secagg`: what secure aggregation costs by itself, without network, disk or
//! training.
//!
//! A whole round is played in this process by the library's own functions, and the CPU time of one
//! thread is charged to hospitals and coordinator as it falls to them. A dropout is the costly one:
//! a hospital that is on the frozen roster and whose update never arrives. The sum must be, lane by
//! lane, that of the same updates added without any protocol.

mod play;
mod setup;

use std::env::current_exe;
use std::fmt;
use std::process::Command;

use aggregation::ids::RoundId;
use aggregation::vector::VectorFormat;
use clap::Args;
use harness::manifests::Manifest;
use harness::{Outcome, Trouble, proc};
use serde::{Deserialize, Serialize};

use crate::cpu::timed;
use crate::round::{input_for, median};
use setup::Federation;

/// What the table is made of.
const SITES: [u16; 4] = [3, 5, 10, 20];
const PARAMS: [u32; 3] = [100_000, 1_000_000, 10_000_000];
const DROPOUTS: [u16; 2] = [0, 1];

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct SecaggArgs {
    /// The whole table, as without --sites, --params and --dropouts
    #[arg(long, conflicts_with_all = ["sites", "params", "dropouts"])]
    table: bool,
    /// Hospitals [default: 10]
    #[arg(long, value_parser = clap::value_parser!(u16).range(3..=128))]
    sites: Option<u16>,
    /// Parameters of the model; the nearest number above that a linear model can have is taken
    /// [default: 1000000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=200_000_000))]
    params: Option<u32>,
    /// Hospitals that drop out before their update is complete [default: 0]
    #[arg(long)]
    dropouts: Option<u16>,
    /// Rounds to take the median over
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

/// CPU seconds of everybody: all hospitals together, and the coordinator.
#[derive(Debug, Default, Clone, Copy)]
struct Spent {
    hospitals: f64,
    coordinator: f64,
}

impl Spent {
    fn hospital<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (came, seconds) = timed(work);
        self.hospitals += seconds;
        came
    }

    fn coordinator<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (came, seconds) = timed(work);
        self.coordinator += seconds;
        came
    }
}

/// What came out, of one case or of all in the table.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Measured {
    One(Case),
    Table { rows: Vec<Row> },
}

/// One case.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Case {
    sites: u16,
    parameters: u32,
    dropouts: u16,
    /// Width of a lane.
    bits: u32,
    rounds: u32,
    /// One hospital's in a round: encoding, masking, signatures, shares.
    client_cpu_seconds: f64,
    /// In a round: signatures, adding, recovering, unmasking, reading the sum.
    coordinator_cpu_seconds: f64,
    /// In a round, without any framing.
    bytes_up_per_site: usize,
    /// Most memory that this process had, which plays one hospital at a time and the coordinator.
    peak_mib: f64,
    /// Whether every round's sum was that of the same updates added without any protocol.
    exact: bool,
    /// One hospital's, once per study with slots for these rounds.
    setup_client_cpu_seconds: f64,
    setup_coordinator_cpu_seconds: f64,
    setup_bytes_up_per_site: usize,
}

/// One case of the table.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Row {
    Played(Case),
    /// A round that must not end, and why.
    Refused {
        sites: u16,
        parameters: u32,
        dropouts: u16,
        refused: String,
    },
}

/// Plays the case, or the table.
pub(crate) fn measure(arguments: &SecaggArgs) -> Outcome<Measured> {
    let SecaggArgs { table, sites, params, dropouts, rounds } = *arguments;
    if table || (sites.is_none() && params.is_none() && dropouts.is_none()) {
        return Ok(Measured::Table { rows: table_of(rounds)? });
    }
    let (sites, dropouts) = (sites.unwrap_or(10), dropouts.unwrap_or(0));
    if let Some(refused) = refused(sites, dropouts)? {
        return Err(Trouble::new(refused));
    }
    Ok(Measured::One(case(sites, params.unwrap_or(1_000_000), dropouts, rounds)?))
}

/// Why a round with so many dropouts releases nothing, if that is so.
fn refused(sites: u16, dropouts: u16) -> Outcome<Option<String>> {
    let least = setup::thresholds(sites)?.least();
    let left = sites.saturating_sub(dropouts);
    Ok((left < least).then(|| {
        format!("of {sites} hospitals at least {least} must be in a sum; {left} would be")
    }))
}

/// Each case in a process of its own, so that it has its own peak of memory.
fn table_of(rounds: u32) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for parameters in PARAMS {
        for (sites, dropouts) in SITES.iter().flat_map(|sites| DROPOUTS.map(|k| (*sites, k))) {
            if let Some(refused) = refused(sites, dropouts)? {
                rows.push(Row::Refused { sites, parameters, dropouts, refused });
                continue;
            }
            let flags = [
                ("--sites", sites.to_string()),
                ("--params", parameters.to_string()),
                ("--dropouts", dropouts.to_string()),
                ("--rounds", rounds.to_string()),
            ];
            let mut command = Command::new(current_exe()?);
            command.args(["--format", "json", "secagg"]);
            command.args(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
            let output = command.output()?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(Trouble::new(format!("{sites} hospitals: {}", said.trim())));
            }
            rows.push(Row::Played(serde_json::from_slice(&output.stdout)?));
        }
    }
    Ok(rows)
}

/// The nearest number of parameters that a linear model can have, and its format.
fn vector_format(sites: u16, params: u32) -> Outcome<(u32, VectorFormat)> {
    let (input, parameters) = input_for(params)?;
    let manifest = Manifest { input, ..Manifest::linear(1, 1) };
    let study = proto::manifest::parse(&manifest.text())
        .map_err(|faults| Trouble::new(format!("the bench's own manifest: {faults:?}")))?;
    let format = study.vector_format(sites.into());
    Ok((parameters, format.map_err(|fault| Trouble::new(fault.to_string()))?))
}

fn case(sites: u16, params: u32, dropouts: u16, rounds: u32) -> Outcome<Case> {
    let (parameters, format) = vector_format(sites, params)?;
    let mut once = Spent::default();
    let mut federation = Federation::set_up(&setup::thresholds(sites)?, rounds, &mut once)?;
    let (mut hospitals, mut coordinator) = (Vec::new(), Vec::new());
    let mut sums = Vec::new();
    let mut bytes_up_per_site = 0;
    let mut round = RoundId::FIRST;
    for _ in 0..rounds {
        let played = federation.play(&format, round, dropouts)?;
        hospitals.push(played.spent.hospitals / f64::from(sites - dropouts));
        coordinator.push(played.spent.coordinator);
        bytes_up_per_site = played.bytes_up;
        sums.push(played.sum);
        round = round.next();
    }
    // Before the same is added up again for comparison.
    let peak_mib = proc::peak_mib(std::process::id())?;
    let plain = play::plain_sum(&format, sites - dropouts)?;
    hospitals.sort_by(f64::total_cmp);
    coordinator.sort_by(f64::total_cmp);
    Ok(Case {
        sites,
        parameters,
        dropouts,
        bits: format.modulus().bits(),
        rounds,
        client_cpu_seconds: median(&hospitals),
        coordinator_cpu_seconds: median(&coordinator),
        bytes_up_per_site,
        peak_mib,
        exact: sums.iter().all(|sum| *sum == plain),
        setup_client_cpu_seconds: once.hospitals / f64::from(sites),
        setup_coordinator_cpu_seconds: once.coordinator,
        setup_bytes_up_per_site: federation.bytes_up,
    })
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<&Row> = match self {
            Self::Table { rows } => rows.iter().collect(),
            Self::One(case) => return write_table(f, [Ok(case)]),
        };
        write_table(
            f,
            rows.into_iter().map(|row| match row {
                Row::Played(case) => Ok(case),
                Row::Refused { sites, parameters, dropouts, refused } => {
                    Err((*sites, *parameters, *dropouts, refused.as_str()))
                }
            }),
        )
    }
}

fn write_table<'a>(
    f: &mut fmt::Formatter<'_>,
    rows: impl IntoIterator<Item = Result<&'a Case, (u16, u32, u16, &'a str)>>,
) -> fmt::Result {
    writeln!(
        f,
        "sites parameters drops  client CPU s  coordinator CPU s  bytes up/site  peak MiB  exact  \
         setup: client CPU s, bytes up"
    )?;
    for row in rows {
        match row {
            Ok(case) => {
                write!(f, "{:>5} {:>10} {:>5}", case.sites, case.parameters, case.dropouts)?;
                write!(
                    f,
                    " {:>13.4} {:>18.4}",
                    case.client_cpu_seconds, case.coordinator_cpu_seconds
                )?;
                write!(f, " {:>14} {:>9.1}", case.bytes_up_per_site, case.peak_mib)?;
                write!(f, " {:>6}", if case.exact { "yes" } else { "NO" })?;
                writeln!(
                    f,
                    " {:>20.4} {:>9}",
                    case.setup_client_cpu_seconds, case.setup_bytes_up_per_site
                )?;
            }
            Err((sites, parameters, dropouts, refused)) => {
                writeln!(f, "{sites:>5} {parameters:>10} {dropouts:>5}  refused: {refused}")?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_with_and_without_a_dropout_is_exact_and_says_what_it_should() {
        for dropouts in [0, 1] {
            let case = case(5, 5_000, dropouts, 2).expect("four of five are enough");
            assert!(case.exact, "{case:?}");
            // Three signatures, a digest, five shares of 34 bytes, and the lanes.
            let format = vector_format(5, 5_000).expect("a small study").1;
            let said = 3 * 64 + 32 + 5 * 34 + format.packed_bytes();
            assert_eq!(case.bytes_up_per_site, said);
            // PROTOCOL-NOTES 1.2: 112 k + 80 bytes a slot.
            assert!(case.setup_bytes_up_per_site > 2 * (112 * 4 + 80));
            assert!(case.client_cpu_seconds > 0.0 && case.coordinator_cpu_seconds > 0.0);
        }
    }

    #[test]
    fn a_hospital_too_few_is_another_sum() {
        let format = vector_format(5, 1_000).expect("a small study").1;
        let sum = |sites| play::plain_sum(&format, sites).expect("there is room for five");
        assert_eq!(sum(5), sum(5));
        assert_ne!(sum(4), sum(5));
    }

    #[test]
    fn a_round_that_may_not_end_is_refused_with_its_reason() {
        for (sites, dropouts, why) in [(3, 1, "at least 3"), (10, 3, "at least 8")] {
            let refused = refused(sites, dropouts).expect("the thresholds hold together");
            assert!(refused.is_some_and(|text| text.contains(why)));
        }
        for (sites, dropouts) in [(3, 0), (5, 1), (10, 2), (20, 4), (128, 1)] {
            assert_eq!(refused(sites, dropouts).expect("they hold together"), None);
        }
        let arguments =
            SecaggArgs { table: false, sites: Some(3), params: None, dropouts: Some(1), rounds: 1 };
        assert!(measure(&arguments).is_err());
    }
}
