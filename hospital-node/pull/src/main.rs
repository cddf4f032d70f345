//! `hospital-pull`: a job on standard input, a report on standard output, one line per failure.
//! `hospital-node data pull` starts it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use hospital_pull::archive::{Archive, Patience};
use hospital_pull::dimse::Dimse;
use hospital_pull::fault::Fault;
use hospital_pull::job::{Job, Origin};
use hospital_pull::names::Names;
use hospital_pull::pull::{Progress, PullError, Report, Stopped, pull};
use hospital_pull::store::{IMAGES, Store, StoreError};
use hospital_pull::trust::Trust;
use hospital_pull::web::Web;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::cli::{Exit, Failure, Format, end, write_ok};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::Serialize;

/// The longest job.
const MOST_JOB: u64 = 1 << 20;
/// Failures that the text names; the report names all.
const NAMED: usize = 50;

/// Fetches images from the hospital's archive into a folder, without the identities in their headers.
#[derive(Parser)]
#[command(name = "hospital-pull", version)]
struct Arguments {
    /// What stdout carries: text or json
    #[arg(long, default_value = "text")]
    format: Format,
    /// A file for the whole report as JSON
    #[arg(long)]
    report: Option<PathBuf>,
    /// Fetches what is there already once more
    #[arg(long)]
    refetch: bool,
}

/// What is printed in the end.
#[derive(Serialize)]
struct Outcome<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// The folder of a data set.
    path: &'a Path,
    /// Why it went no further.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<Reason<'a>>,
}

/// As failures are printed.
#[derive(Serialize)]
struct Reason<'a> {
    reason: &'static str,
    detail: &'a str,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // Nothing is left to be done when stderr is gone.
            let _ = error.print();
            return exit.into();
        }
    };
    // The place of a fault is enough to find it; its message could quote a header.
    std::panic::set_hook(Box::new(|fault| {
        let place = fault.location().map(ToString::to_string).unwrap_or_default();
        // As above.
        let _ = writeln!(io::stderr(), "a fault in the program at {place}");
    }));
    // Whoever has started us and is gone shall find the folder free when they come again. Where it
    // cannot be had, we end by ourselves in time.
    let _ = set_parent_process_death_signal(Some(Signal::TERM));
    let format = arguments.format;
    match std::panic::catch_unwind(|| run(&arguments)) {
        Err(_) => Exit::Bug.into(),
        Ok(ended) => end(format, ended),
    }
}

fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let mut text = String::new();
    io::stdin()
        .take(MOST_JOB)
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage("job", format!("cannot read the job: {error}")))?;
    let mut job = Job::parse(&text).map_err(|faults| {
        let lines: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
        Failure::usage("config_faults", format!("{} fault(s):{lines}", faults.len()))
    })?;
    job.refetch = arguments.refetch;
    let names = Names::read(&job.names).map_err(|error| {
        Failure::usage("pseudonym_key", error)
            .hint("`hospital-node enroll` makes the key; images are fetched after that")
    })?;
    let mut archive = connect(&job)?;
    let mut store = Store::open(&job.into, &names.mark()).map_err(|error| unusable(&error))?;
    let bar = Bar::new();
    let ended = pull(&job, &names, archive.as_mut(), &mut store, &bar);
    bar.0.finish_and_clear();
    let (report, failure) = match ended {
        Ok(report) => (report, None),
        Err(stopped) => {
            let Stopped { error, report } = *stopped;
            let failure = match error {
                PullError::Store(error) => unusable(&error),
                PullError::Archive(fault) => failure(&fault),
            };
            (report, Some(failure))
        }
    };
    let stopped =
        failure.as_ref().map(|failure| Reason { reason: failure.code, detail: &failure.message });
    let outcome = Outcome { report: &report, path: &job.into.join(IMAGES), stopped };
    // However it ended, what it came to is written.
    let written = arguments.report.as_ref().map_or(Ok(()), |file| write_report(file, &outcome));
    let mut out = io::stdout().lock();
    match (arguments.format, &failure) {
        // There is one object on stdout, and that is the failure's.
        (Format::Json, Some(_)) => Ok(()),
        (Format::Json, None) => write_ok(&mut out, &outcome),
        (Format::Text, _) => out.write_all(told(&outcome).as_bytes()).and_then(|()| out.flush()),
    }
    .map_err(|error| Failure::failed("stdout", error.to_string()))?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    written
        .map_err(|error| Failure::failed("report", format!("cannot write the report: {error}")))?;
    Ok(if report.is_whole() { Exit::Ok } else { Exit::Failed })
}

fn connect(job: &Job) -> Result<Box<dyn Archive>, Failure> {
    let client = job.client.as_ref().map(|(chain, key)| (chain.as_path(), key.as_path()));
    let trust = |tls: bool| {
        tls.then(|| Trust::load(job.ca.as_deref(), client))
            .transpose()
            .map_err(|error| Failure::usage("certificates", error))
    };
    let patience = Patience::default();
    Ok(match &job.from {
        Origin::Web { base, tls, login } => {
            let trust = trust(*tls)?;
            let web = Web::new(base, trust.as_ref(), login.as_ref(), &job.proxy, patience);
            Box::new(web.map_err(|error| Failure::usage("connection", error))?)
        }
        Origin::Dimse { host, port, tls, called, calling } => {
            let config = trust(*tls)?.map(|trust| trust.config()).transpose();
            let config = config.map_err(|error| Failure::usage("certificates", error))?;
            let (called, calling) = (called.clone(), calling.clone());
            Box::new(Dimse::new(host.clone(), *port, config, called, calling, patience))
        }
    })
}

fn unusable(error: &StoreError) -> Failure {
    let failure = Failure::failed("folder", error.to_string());
    if matches!(error, StoreError::Version { .. }) {
        return failure.hint(
            "the folder can be trained on as it is; what was edited in its manifest is not taken over",
        );
    }
    failure
}

fn failure(fault: &Fault) -> Failure {
    let exit = match fault {
        Fault::Unreachable(_) | Fault::Refused(_) | Fault::Forbidden(_) => Exit::Connection,
        Fault::Slow => Exit::Timeout,
        Fault::Status(_)
        | Fault::Missing
        | Fault::Answer(_)
        | Fault::Nameless(_)
        | Fault::TooLarge(_)
        | Fault::Cut
        | Fault::Header(_)
        | Fault::NotAnImage { .. }
        | Fault::NoPixels
        | Fault::NoPatient
        | Fault::Another(_)
        | Fault::Disk(_) => Exit::Failed,
    };
    Failure::new(exit, fault.code(), fault.to_string())
        .hint("what has come is kept; the same command goes on from there")
}

fn write_report(file: &Path, outcome: &Outcome<'_>) -> io::Result<()> {
    let mut out = File::create(file)?;
    serde_json::to_writer_pretty(&mut out, outcome)?;
    writeln!(out)
}

/// The report for a person.
fn told(outcome: &Outcome<'_>) -> String {
    let Outcome { report, path, .. } = outcome;
    let mut text = String::new();
    for failed in report.failed.iter().take(NAMED) {
        let what =
            [("image", &failed.instance), ("series", &failed.series), ("study", &failed.study)];
        let what = what.iter().find(|(_, name)| !name.is_empty());
        let what =
            what.map_or_else(|| "a query".to_owned(), |(kind, name)| format!("{kind} {name}"));
        // A string takes everything.
        let _ = writeln!(text, "{what}: {}", failed.detail);
    }
    let more = report.failed.len().saturating_sub(NAMED);
    if more > 0 {
        let _ = writeln!(text, "... and {more} more; --report FILE names all");
    }
    let Report { found, fetched, already, not_images, failed, not_tried, holds, .. } = report;
    let _ = writeln!(
        text,
        "{found} found, {fetched} fetched, {already} there already, {not_images} without pixels, \
         {} failed, {not_tried} not tried",
        failed.len()
    );
    if report.not_asked > 0 {
        let count = report.not_asked;
        let _ = writeln!(
            text,
            "{count} questions not asked: what they would have found is not counted"
        );
    }
    if report.taken_out > 0 {
        let count = report.taken_out;
        let _ = writeln!(
            text,
            "{count} rows taken out of the manifest, of patients who are not on the list any more"
        );
    }
    if report.off_list > 0 {
        let count = report.off_list;
        let _ = writeln!(
            text,
            "{count} images of patients who are not on the list any more: not in the manifest, and \
             still in the folder"
        );
    }
    if report.not_listed > 0 {
        let count = report.not_listed;
        let _ = writeln!(
            text,
            "{count} images in the folder are in no row of the manifest: taken out by hand, missing in \
             an older copy of it, or of a series that is not whole; if the manifest is removed, the \
             next pull lists all anew"
        );
    }
    let _ = writeln!(
        text,
        "{}: {} patients, {} studies, {} series, {} images",
        path.display(),
        holds.patients,
        holds.studies,
        holds.series,
        holds.images
    );
    let _ = writeln!(text, "{}", report.manifest.display());
    text
}

/// A bar on stderr when that is a terminal, and nothing at all otherwise.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        if !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        Self(bar.with_style(style))
    }
}

impl Progress for Bar {
    fn found(&self, count: usize) {
        self.0.set_message("found");
        self.0.set_length(count as u64);
    }

    fn done(&self, count: usize, all: usize) {
        self.0.set_message("fetched");
        self.0.set_length(all as u64);
        self.0.set_position(count as u64);
    }

    #[expect(clippy::disallowed_methods, reason = "there is one thread, and nothing else to do")]
    fn rest(&self, time: Duration) {
        self.0.set_message("waiting for the archive");
        std::thread::sleep(time);
    }
}
