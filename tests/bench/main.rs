//! `consilium-bench`: every figure that we claim, measured again.

mod cpu;
mod decode;
mod dp_step;
mod log;
mod mask;
mod round;
mod sampler;
mod secagg;
mod simulate;
mod utility;
mod zoo;

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use harness::{Outcome, stand_in};
use proto::cli::{Exit, Failure, Format, end, write_line};
use serde::Serialize;

/// Measures what this project claims.
#[derive(Debug, Parser)]
#[command(name = "consilium-bench", version, max_term_width = 100)]
struct Cli {
    /// What stdout carries: a table, or one JSON object
    #[arg(long, global = true, value_name = "text|json", default_value = "text")]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The loops that mask and unmask, against the speed of copying memory
    Mask(mask::MaskArgs),
    /// Whole rounds: real processes, mTLS on loopback, and no training
    Round(round::RoundArgs),
    /// The noise sampler, and a private sum's way from floats to the wire
    Sampler(sampler::SamplerArgs),
    /// A step that clips each patient's gradient, against one that clips none
    DpStep(dp_step::DpStepArgs),
    /// Image files from the disk to what a model is shown
    Decode(decode::DecodeArgs),
    /// The log: leaves appended, all of them verified, some of them proven, on one core
    Log(log::LogArgs),
    /// Secure aggregation by itself: whole rounds in this process, charged to whom they fall
    Secagg(secagg::SecaggArgs),
    /// Whole federations of the state machines, each decided by a seed; fails if an invariant does
    Simulate(simulate::SimulateArgs),
    /// How good models are at which epsilon: pooled and federated, private and not
    Utility(utility::UtilityArgs),
    /// What every model of the zoo costs, with and without clipping for each patient
    Zoo(zoo::ZooArgs),
    /// Answers an agent as a trainer would, without training: how `round` starts this program
    #[command(hide = true)]
    Serve {
        /// What a trainer would be told: heard, and of no consequence
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        told: Vec<std::ffi::OsString>,
    },
}

fn main() -> ExitCode {
    let Cli { format, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // Nothing is left to be done when stderr is gone.
            let _ = error.print();
            return exit.into();
        }
    };
    end(format, run(command, format).map(|()| Exit::Ok))
}

/// Prints what was measured.
fn tell<M: Display + Serialize>(measured: Outcome<M>, format: Format) -> Result<(), Failure> {
    let measured =
        measured.map_err(|trouble| Failure::failed("not_measured", trouble.to_string()))?;
    let mut out = io::stdout().lock();
    match format {
        Format::Json => write_line(&mut out, &measured),
        Format::Text => write!(out, "{measured}"),
    }
    .map_err(|error| Failure::failed("stdout", error.to_string()))
}

fn run(command: Command, format: Format) -> Result<(), Failure> {
    match command {
        Command::Round(arguments) => tell(round::measure(&arguments), format),
        Command::Sampler(arguments) => tell(sampler::measure(&arguments), format),
        Command::DpStep(arguments) => tell(dp_step::measure(&arguments), format),
        Command::Decode(arguments) => tell(decode::measure(&arguments), format),
        Command::Log(arguments) => tell(log::measure(&arguments), format),
        Command::Mask(arguments) => tell(mask::measure(&arguments), format),
        Command::Secagg(arguments) => tell(secagg::measure(&arguments), format),
        Command::Utility(arguments) => tell(utility::measure(&arguments), format),
        Command::Zoo(arguments) => tell(zoo::measure(&arguments), format),
        Command::Simulate(arguments) => simulate::run(&arguments, format),
        Command::Serve { told: _ } => {
            answer().map_err(|trouble| Failure::failed("conversation", trouble.to_string()))
        }
    }
}

/// As the trainer, past standard output's search for line ends.
fn answer() -> Outcome<()> {
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    stand_in::speak(io::stdin().lock(), out)
}
