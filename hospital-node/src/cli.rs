//! The command line: what can be typed, and how every command ends. One envelope or one text on
//! stdout, everything else on stderr, exit codes as DESIGN section 10 says.

mod data;
mod doctor;
mod enroll;
mod ledger;
mod pages;
mod roster;
mod run;
mod study;

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use proto::cli::{Exit, Failure, Format, end, write_ok};
use serde::Serialize;

use crate::config::Config;
use crate::identity::Enrolled;
use crate::link::{self, Client};
use crate::state::State;
use crate::telemetry::{self, LogFormat};

/// Guards one hospital's data in a federation: enrols, decides on studies, takes part in rounds.
#[derive(Debug, Parser)]
#[command(name = "hospital-node", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// The configuration
    #[arg(long, global = true, value_name = "FILE", default_value = "node.toml")]
    config: PathBuf,
    /// What stdout carries: text, or one JSON envelope
    #[arg(long, global = true, value_name = "text|json", default_value = "text")]
    format: Format,
    /// How the log on stderr looks
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
    /// How much is logged: error, warn, info, debug, or directives [run: info, else: warn]
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes this site's keys and asks the coordinator for a certificate
    Enroll(enroll::Enroll),
    /// Renews the certificate now; `run` does so by itself
    Renew,
    /// Takes part in the rounds of approved studies, until stopped
    Run(run::Run),
    /// Looks at the data sets of this house
    #[command(subcommand)]
    Data(data::Data),
    /// Lists studies and decides on them
    #[command(subcommand)]
    Study(study::Study),
    /// Shows what was spent of the patients' privacy, and what is left
    Ledger,
    /// Shows and accepts the identity keys of the other sites
    #[command(subcommand)]
    Roster(roster::Roster),
    /// Checks everything that a round needs, and says how to mend what is wrong
    Doctor,
    /// Prints completions for a shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages
    Man {
        /// The folder
        dir: PathBuf,
    },
}

/// What a command is given beside its own arguments.
#[derive(Debug)]
pub(crate) struct Context {
    /// Where the configuration is.
    pub(crate) config: PathBuf,
    /// What stdout carries.
    pub(crate) format: Format,
}

impl Context {
    /// Reads the settings.
    fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(&self.config)?)
    }

    /// Writes a result: one envelope, or the text.
    fn print(
        &self,
        data: &impl Serialize,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let written = match self.format {
            Format::Json => write_ok(&mut out, data),
            Format::Text => text(&mut out).and_then(|()| out.flush()),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|error| {
                Failure::failed("stdout", format!("cannot write to stdout: {error}"))
            }),
        }
    }

    /// Says something to a person on stderr, as it happens.
    fn say(&self, text: &str) {
        // Without a stderr there is nobody to tell.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Asks for a yes on the terminal; `yes` answers in advance.
    fn confirm(&self, question: &str, yes: bool) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(Failure::usage(
                "not_confirmed",
                "stdin is no terminal, so nobody can be asked",
            )
            .hint("add --yes to decide without being asked"));
        }
        let mut err = io::stderr();
        let mut answer = String::new();
        write!(err, "{question} [y/N] ")
            .and_then(|()| err.flush())
            .and_then(|()| io::stdin().read_line(&mut answer))
            .map_err(|error| Failure::failed("terminal", format!("cannot ask: {error}")))?;
        if ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) {
            Ok(())
        } else {
            Err(Failure::failed("not_confirmed", "nothing was changed"))
        }
    }
}

/// An enrolled site with an open channel to its coordinator.
#[derive(Debug)]
struct Session {
    config: Config,
    state: State,
    enrolled: Enrolled,
    client: Client,
}

impl Session {
    async fn open(context: &Context) -> Result<Self, Failure> {
        let config = context.load()?;
        let state = State::open(&config.state)?;
        let enrolled = Enrolled::load(&state)?;
        let client = link::connect(&enrolled, &config.proxy).await.map_err(Failure::from)?;
        Ok(Self { config, state, enrolled, client })
    }
}

/// The whole program.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse_arguments(&error),
    };
    let Cli { common, command } = cli;
    let context = Context { config: common.config, format: common.format };
    let level = common.log.unwrap_or_else(|| standard_level(&command).to_owned());
    let ended = telemetry::start(common.log_format, &level)
        .map_err(|message| Failure::usage("log_filter", message))
        .and_then(|()| dispatch(&context, command));
    end(context.format, ended)
}

const fn standard_level(command: &Command) -> &'static str {
    match command {
        Command::Run(_) => "info",
        Command::Enroll(_)
        | Command::Renew
        | Command::Data(_)
        | Command::Study(_)
        | Command::Roster(_)
        | Command::Ledger
        | Command::Doctor
        | Command::Completions { .. }
        | Command::Man { .. } => "warn",
    }
}

fn dispatch(context: &Context, command: Command) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("runtime", format!("cannot start: {error}")))?;
    runtime.block_on(async {
        match command {
            Command::Enroll(enroll) => enroll.run(context).await,
            Command::Renew => enroll::renew(context).await,
            Command::Run(run) => run.run(context).await,
            Command::Data(data) => data.run(context).await,
            Command::Study(study) => study.run(context).await,
            Command::Ledger => ledger::run(context).await,
            Command::Roster(roster) => roster.run(context).await,
            Command::Doctor => doctor::run(context).await,
            Command::Completions { shell } => pages::completions(context, shell),
            Command::Man { dir } => pages::man(context, &dir),
        }
    })
}

fn refuse_arguments(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed pipe has read enough.
        let _ = error.print();
        return Exit::Ok.into();
    }
    let mut arguments = std::env::args();
    let json = arguments.any(|argument| argument == "--format=json")
        || std::env::args()
            .zip(std::env::args().skip(1))
            .any(|(flag, value)| flag == "--format" && value == "json");
    if !json {
        let _ = error.print();
        return Exit::Usage.into();
    }
    let text = error.render().to_string();
    let first = text.lines().next().unwrap_or("wrong arguments").trim_start_matches("error: ");
    end(Format::Json, Err(Failure::usage("arguments", first).hint("see --help")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }
}
