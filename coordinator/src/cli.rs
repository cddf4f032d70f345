//! What people type. Every command prints one result on stdout, or one line of trouble on stderr.

mod certify;
mod demo;
mod docs;
mod init;
mod link;
mod log;
mod model;
mod out;
mod serve;
mod site;
mod study;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use proto::cli::{Exit, Failure, Format, end};

use self::out::Out;

/// Threads for files and sums. Each keeps memory of the size of the largest update that it has
/// handled, so they are few.
const BLOCKING_THREADS: usize = 4;

/// Trains one model across hospitals; no hospital's data or update leaves it alone.
#[derive(Debug, Parser)]
#[command(name = "coordinator", version, max_term_width = 100)]
struct Cli {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = "coordinator.toml")]
    config: PathBuf,
    /// "text" for people, "json" for one envelope (for streams: one object a line) on stdout.
    #[arg(long, alias = "output", global = true, value_name = "text|json", default_value = "text")]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set up a consortium: CA, server certificate, keys, configuration.
    Init(init::InitArgs),
    /// Run the coordinator.
    Serve(serve::ServeArgs),
    /// Validate the configuration and the files that it names.
    Check,
    /// Make another certificate for an operator or an auditor.
    Certify(certify::CertifyArgs),
    /// Invite, list, approve and revoke hospitals.
    #[command(subcommand)]
    Site(site::SiteCommand),
    /// Propose, start and watch studies.
    #[command(subcommand)]
    Study(study::StudyCommand),
    /// List and export models.
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// How far the log is, and the policy file with which others verify it.
    #[command(subcommand)]
    Log(log::LogCommand),
    /// A whole consortium on this machine, to watch.
    Demo(demo::DemoArgs),
    /// Print completions for a shell.
    Completions(docs::CompletionArgs),
    /// Write manual pages into a folder.
    Man(docs::ManArgs),
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match Cli::try_parse_from(&arguments) {
        Ok(cli) => {
            let format = cli.format;
            end(format, start(cli).map(|()| Exit::Ok))
        }
        Err(fault) => misread(&arguments, &fault),
    }
}

fn start(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(|fault| {
            Failure::new(Exit::Bug, "no_runtime", format!("the runtime does not start: {fault}"))
        })?;
    let ended = runtime.block_on(run(cli));
    // A read of standard input cannot be called off; everything that must last has been written.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    ended
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let out = Out::new(cli.format);
    match cli.command {
        Command::Init(args) => init::run(&args, out),
        Command::Serve(args) => serve::run(&args, &cli.config, out).await,
        Command::Check => serve::check(&cli.config, out),
        Command::Certify(args) => certify::run(&args, &cli.config, out),
        Command::Site(command) => site::run(command, &cli.config, out).await,
        Command::Study(command) => study::run(command, &cli.config, out).await,
        Command::Model(command) => model::run(command, &cli.config, out).await,
        Command::Log(command) => log::run(command, &cli.config, out).await,
        Command::Demo(args) => demo::run(&args, cli.format).await,
        Command::Completions(args) => docs::completions(&args, Cli::command()),
        Command::Man(args) => docs::man(&args, Cli::command(), out),
    }
}

/// Help and version are answers; everything else that clap says is a fault of the arguments.
fn misread(arguments: &[OsString], fault: &clap::Error) -> ExitCode {
    if matches!(fault.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed pipe has read enough.
        let _ = fault.print();
        return Exit::Ok.into();
    }
    let json = arguments
        .windows(2)
        .any(|pair| (pair[0] == "--format" || pair[0] == "--output") && pair[1] == "json")
        || arguments.iter().any(|one| one == "--format=json" || one == "--output=json");
    let text = fault.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut message = lines.next().unwrap_or("the arguments are not understood").to_owned();
    if fault.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        message = "expected a subcommand, found none".to_owned();
    } else if message.ends_with(':') {
        // What is missing stands on the lines after; usage and tips are for `--help`.
        let missing: Vec<&str> = lines.take_while(|line| !line.starts_with("Usage")).collect();
        message = format!("{message} {}", missing.join(", "));
    }
    let failure = Failure::usage("bad_arguments", message).hint("coordinator --help");
    end(if json { Format::Json } else { Format::Text }, Err(failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }
}
