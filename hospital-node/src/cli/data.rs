//! `data scan` and `data show`: the trainer's own commands, since only it may open a record. Its
//! stdout, stderr and exit code are passed through.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use proto::cli::{Exit, Failure, Format};

use super::Context;
use crate::config::{Config, DataSet, Trainer};
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
            Self::Scan { name, report } => {
                let config = context.load()?;
                let name = chosen(&config, name.as_deref())?;
                let set = config.data.get(&name).ok_or_else(|| no_such(&config, &name))?;
                scan(context, &config, set, report.as_deref()).await
            }
            Self::Show { file } => {
                let arguments = [OsStr::new("show"), file.as_os_str()];
                // A file can be looked at on a machine that is no hospital's yet.
                if context.config.exists() {
                    pass_through(context, &context.load()?.trainer, &arguments).await
                } else {
                    pass_through(context, &Trainer::installed(), &arguments).await
                }
            }
        }
    }
}

async fn scan(
    context: &Context,
    config: &Config,
    set: &DataSet,
    report: Option<&Path>,
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
    pass_through(context, &config.trainer, &arguments).await
}

async fn pass_through(
    context: &Context,
    trainer: &Trainer,
    arguments: &[&OsStr],
) -> Result<Exit, Failure> {
    let mut arguments = arguments.to_vec();
    if context.format == Format::Json {
        arguments.extend([OsStr::new("--format"), OsStr::new("json")]);
    }
    let code = worker::pass_through(trainer, &arguments).await?;
    Ok([Exit::Ok, Exit::Failed, Exit::Connection, Exit::Timeout, Exit::Usage]
        .into_iter()
        .find(|exit| i32::from(*exit as u8) == code)
        .unwrap_or(Exit::Bug))
}

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Self {
        Self::failed("trainer", error.to_string())
            .hint("install hospital-trainer beside hospital-node, or set trainer.program")
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
