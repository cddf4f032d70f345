//! `consilium-audit`: reads a log and says whether it is what it claims to be.
//!
//! It needs a policy file and the log's static files, from a folder or over HTTPS. The policy file is
//! all that it trusts: whoever serves the files can withhold them, and cannot alter them unnoticed.

mod docs;
mod entries;
mod epsilon;
mod export;
mod output;
mod place;
mod prove;
mod recompute;
mod report;
mod search;
mod show;
mod verify;
mod verify_proof;
mod witnesses;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::output::{Exit, Failure, Format, Output};

/// Verify and read a Consilium transparency log, trusting nothing but a policy file.
#[derive(Parser)]
#[command(name = "consilium-audit", version, propagate_version = true)]
struct Arguments {
    /// What stdout carries: text for people, or one JSON envelope (streams: JSON lines).
    #[arg(long, value_enum, global = true, default_value_t)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Derive every hash again and compare it with tiles, checkpoint, signatures and cosignatures.
    Verify(verify::Arguments),
    /// Print entries by their place.
    Show(show::Arguments),
    /// Print the entries that match.
    Search(search::Arguments),
    /// Write a receipt that proves one entry without the log.
    Prove(prove::Arguments),
    /// Check such a receipt.
    VerifyProof(verify_proof::Arguments),
    /// Write all entries in another format.
    Export(export::Arguments),
    /// Compute what noised steps cost, or the noise that a target takes.
    Epsilon(epsilon::Arguments),
    /// Write one study as a page that a person reads and prints.
    Report(report::Arguments),
    /// Add the updates of kept rounds up again and compare with the sums that the log has.
    Recompute(recompute::Arguments),
    /// Print completions for a shell.
    Completions(docs::CompletionArguments),
    /// Write manual pages, one for each command.
    Man(docs::ManArguments),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => {
            let failure = Failure::usage("bad_arguments", misread(&error))
                .hint("consilium-audit --help lists commands and options");
            return Output::new(Format::from_raw_arguments()).failure(&failure);
        }
        // Help and version.
        Err(error) => {
            return if error.print().is_ok() { Exit::Ok.into() } else { Exit::Failed.into() };
        }
    };
    let mut output = Output::new(arguments.format);
    let done = match &arguments.command {
        Command::Verify(arguments) => verify::run(arguments, &mut output),
        Command::Show(arguments) => show::run(arguments, &mut output),
        Command::Search(arguments) => search::run(arguments, &mut output),
        Command::Prove(arguments) => prove::run(arguments, &mut output),
        Command::VerifyProof(arguments) => verify_proof::run(arguments, &mut output),
        Command::Export(arguments) => export::run(arguments, &mut output),
        Command::Epsilon(arguments) => epsilon::run(arguments, &mut output),
        Command::Report(arguments) => report::run(arguments, &mut output),
        Command::Recompute(arguments) => recompute::run(arguments, &mut output),
        Command::Completions(arguments) => {
            docs::completions(arguments, Arguments::command(), &mut output)
        }
        Command::Man(arguments) => docs::man(arguments, Arguments::command(), &mut output),
    };
    match done {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => output.failure(&failure),
    }
}

/// What is wrong with the arguments, on one line: usage is for `--help`.
fn misread(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "expected a command, found none".to_owned();
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let mut said = String::new();
    for line in lines {
        let between = match said.chars().next_back() {
            None => "",
            Some(':') => " ",
            Some(_) if line.starts_with('[') => " ",
            Some(_) => ", ",
        };
        said.push_str(between);
        said.push_str(line);
    }
    said
}
