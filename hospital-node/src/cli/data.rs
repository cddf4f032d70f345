//! `data scan` and `data show`: the trainer's own commands, since only it may open a record.
//! `data pull`: a program of its own, since only it may see images and a network. Their stdout, stderr
//! and exit codes are passed through.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use proto::cli::{Exit, Failure, Format};
use toml::{Table, Value};

use super::Context;
use crate::config::{Config, DataSet, Proxy, Trainer};
use crate::identity;
use crate::state::State;
use crate::worker::{self, WorkerError};

#[derive(Debug, Subcommand)]
pub(super) enum Data {
    /// Reads every record of a data set, names the bad ones, prints counts and the root
    Scan {
        /// The data set, a section [data.NAME] of the configuration [default: the only one]
        name: Option<String>,
        /// A file for the whole report as JSON: every bad file with its reason
        #[arg(long)]
        report: Option<PathBuf>,
        /// Threads to read files with [default: all that this machine has and its memory is enough for]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_024))]
        threads: Option<u32>,
    },
    /// Fetches images from this house's archive, without the identities in their headers
    Pull {
        /// What is fetched, a section [pull.NAME] of the configuration [default: the only one]
        name: Option<String>,
        /// A file for the whole report as JSON: everything that did not come, with its reason
        #[arg(long)]
        report: Option<PathBuf>,
        /// Fetches what is there already once more: after a change of `keep`, or in the archive
        #[arg(long)]
        refetch: bool,
    },
    /// Says what is in one file
    Show {
        /// The file
        file: PathBuf,
    },
}

impl Data {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Scan { name, report, threads } => {
                let config = context.load()?;
                let name = chosen(&config, name.as_deref())?;
                let set = config.data.get(&name).ok_or_else(|| no_such(&config, &name))?;
                scan(context, &config, set, report.as_deref(), threads).await
            }
            Self::Pull { name, report, refetch } => {
                let config = context.load()?;
                pull(context, &config, name.as_deref(), report.as_deref(), refetch).await
            }
            Self::Show { file } => {
                let arguments =
                    ["show", "--"].map(OsStr::new).into_iter().chain([file.as_os_str()]);
                // A file can be looked at on a machine that is no hospital's yet, and whatever is wrong
                // with what is configured.
                let trainer = context.load().map(|config| config.trainer);
                let trainer = trainer.unwrap_or_else(|_| Trainer::installed());
                pass_through(context, &trainer, None, arguments.collect()).await
            }
        }
    }
}

async fn scan(
    context: &Context,
    config: &Config,
    set: &DataSet,
    report: Option<&Path>,
    threads: Option<u32>,
) -> Result<Exit, Failure> {
    let key = identity::pseudonym_key(&State::unopened(&config.state));
    let mut arguments = vec![
        OsStr::new("scan"),
        OsStr::new("--kind"),
        OsStr::new(set.kind.name()),
        OsStr::new("--data"),
        set.path.as_os_str(),
    ];
    if let Some(manifest) = &set.manifest {
        arguments.extend([OsStr::new("--manifest"), manifest.as_os_str()]);
    }
    if let Some(report) = report {
        arguments.extend([OsStr::new("--report"), report.as_os_str()]);
    }
    // Before enrolment there is no key yet; patients are counted all the same.
    if Path::exists(&key) {
        arguments.extend([OsStr::new("--key-file"), key.as_os_str()]);
    }
    pass_through(context, &config.trainer, threads, arguments).await
}

/// The program that was installed beside this one.
const PULL: &str = "hospital-pull";

async fn pull(
    context: &Context,
    config: &Config,
    name: Option<&str>,
    report: Option<&Path>,
    refetch: bool,
) -> Result<Exit, Failure> {
    let names: Vec<&str> = config.pull.keys().map(String::as_str).collect();
    let name = match (name, names.as_slice()) {
        (Some(name), names) if names.contains(&name) => name,
        (None, [only]) => only,
        (_, names) => {
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let message =
                format!("expected a section [pull.NAME], found {name:?}; there are: {known}");
            return Err(Failure::usage("which_pull", message)
                .hint("the sample configuration says what stands in one"));
        }
    };
    let key = identity::pseudonym_key(&State::unopened(&config.state));
    if !Path::exists(&key) {
        return Err(Failure::usage("no_pseudonym_key", "this house has no key for pseudonyms yet")
            .hint("`hospital-node enroll` makes it; images are fetched after that"));
    }
    let proxy = match &config.proxy {
        Proxy::Auto => "auto",
        Proxy::Direct => "none",
        Proxy::Url(url) => url,
    };
    let base = config.file.parent().unwrap_or(Path::new(""));
    let mut job = Table::new();
    for (key, value) in [
        ("name", name),
        ("base", &base.to_string_lossy()),
        ("secret", &key.to_string_lossy()),
        ("proxy", proxy),
    ] {
        job.insert(key.to_owned(), Value::String(value.to_owned()));
    }
    let section = config.pull.get(name).cloned().unwrap_or_default();
    job.insert("pull".to_owned(), Value::Table(section));
    let mut arguments = Vec::new();
    if context.format == Format::Json {
        arguments.extend([OsStr::new("--format"), OsStr::new("json")]);
    }
    if let Some(report) = report {
        arguments.extend([OsStr::new("--report"), report.as_os_str()]);
    }
    if refetch {
        arguments.push(OsStr::new("--refetch"));
    }
    let program = std::env::current_exe()
        .ok()
        .and_then(|us| us.parent().map(|folder| folder.join(PULL)))
        .unwrap_or_else(|| PathBuf::from(PULL));
    let code = worker::fetch(&program, &arguments, &job.to_string()).await.map_err(|error| {
        if let WorkerError::Killed { .. } = error {
            return error.into();
        }
        Failure::failed("pull", error.to_string())
            .hint("install hospital-pull beside hospital-node")
    })?;
    Ok(exit(code))
}

/// How a program that we have started has ended.
fn exit(code: i32) -> Exit {
    [Exit::Ok, Exit::Failed, Exit::Connection, Exit::Timeout, Exit::Usage]
        .into_iter()
        .find(|exit| i32::from(*exit as u8) == code)
        .unwrap_or(Exit::Bug)
}

async fn pass_through(
    context: &Context,
    trainer: &Trainer,
    threads: Option<u32>,
    mut arguments: Vec<&OsStr>,
) -> Result<Exit, Failure> {
    if context.format == Format::Json {
        // In front: behind `--` it would be a file.
        arguments.splice(..0, ["--format", "json"].map(OsStr::new));
    }
    let code = worker::pass_through(trainer, threads, &arguments).await?;
    Ok(exit(code))
}

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Self {
        let hint = if let WorkerError::Killed { .. } = error {
            "if this machine ran out of memory, its system log says so; `data scan --threads 1` needs the least"
        } else {
            "install hospital-trainer beside hospital-node, or set trainer.program"
        };
        Self::failed("trainer", error.to_string()).hint(hint)
    }
}

/// The data set that is meant.
pub(super) fn chosen(config: &Config, name: Option<&str>) -> Result<String, Failure> {
    let names: Vec<&str> = config.data.keys().map(String::as_str).collect();
    match (name, names.as_slice()) {
        (Some(name), _) if config.data.contains_key(name) => Ok(name.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (Some(name), _) => Err(no_such(config, name)),
        (None, _) => {
            let known = known(config);
            Err(Failure::usage(
                "which_data",
                format!("expected the name of a data set, found none; there are: {known}"),
            )
            .hint("a data set is a section [data.NAME] of the configuration"))
        }
    }
}

fn no_such(config: &Config, name: &str) -> Failure {
    Failure::usage(
        "no_such_data",
        format!("expected a data set of {}, found {name:?}", config.file.display()),
    )
    .hint(format!("data sets there: {}", known(config)))
}

fn known(config: &Config) -> String {
    let names: Vec<&str> = config.data.keys().map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
