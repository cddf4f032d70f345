//! `hospital-trainer`: arguments, confinement, and one line per failure.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Args, Parser, Subcommand};
use hospital_trainer::dataset::cache::Cache;
use hospital_trainer::dataset::scan::Report;
use hospital_trainer::dataset::{self, DatasetError, Look, SiteSecret, Source};
use hospital_trainer::serve::Settings;
use hospital_trainer::{backend, confine, memory, serve, show, split, synthetic};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::cli::{Exit, Failure, Format, chain, end, write_ok};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

/// What is told when nobody asks for more: not what the JPEG 2000 decoder says of each file, nor
/// what the ways to a GPU say about the machine.
const SPOKEN: &str = "info,jpeg2k=off,wgpu_core=error,wgpu_hal=error,naga=error";

/// Reads a hospital's images and trains on them, without a network.
#[derive(Parser)]
#[command(name = "hospital-trainer", version)]
struct Arguments {
    /// What stdout carries: text or json
    #[arg(long, global = true, default_value = "text")]
    format: Format,
    /// Threads to compute with; all cores when not given. Files are decoded on fewer if memory is short
    #[arg(long, global = true)]
    threads: Option<usize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer the agent over stdin and stdout
    Serve(Serve),
    /// Check every record of a data source
    Scan(Scan),
    /// State the facts of one file's pixels
    Show {
        /// The file
        file: PathBuf,
    },
    /// Write one hospital's synthetic radiographs as DICOM files with a manifest
    Generate(Generate),
    /// Cut an NPZ file into several hospitals' that differ
    Split(Split),
}

#[derive(Args)]
struct Serve {
    /// What computes: auto, cpu, wgpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// MiB of prepared images that may be held in memory, more lie in the cache's folder; 4096, or half of
    /// what is free, when not given
    #[arg(long)]
    memory_mib: Option<u64>,
    /// The folder for prepared images; without it every study decodes its own
    #[arg(long)]
    cache: Option<PathBuf>,
    /// MiB that this folder may hold
    #[arg(long, default_value_t = 8192)]
    cache_mib: u64,
}

#[derive(Args)]
struct Scan {
    /// A folder of images, or an .npz file
    #[arg(long)]
    data: PathBuf,
    /// images or npz; told from the name when not given
    #[arg(long)]
    kind: Option<String>,
    /// The CSV or Parquet file that lists the records of a folder; without it files are checked and nothing more
    #[arg(long)]
    manifest: Option<PathBuf>,
    /// The classes that labels must be among
    #[arg(long, value_delimiter = ',')]
    classes: Option<Vec<String>>,
    /// The site's pseudonym key; the data set's root depends on it
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// A file for the whole report as JSON
    #[arg(long)]
    report: Option<PathBuf>,
}

#[derive(Args)]
struct Generate {
    /// Hospitals in all
    #[arg(long, default_value_t = 5)]
    sites: u32,
    /// Which of them to write, from 1
    #[arg(long)]
    site: u32,
    /// Patients of an average hospital
    #[arg(long, default_value_t = 220)]
    patients: u32,
    /// Decides everything
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Pixels to a side
    #[arg(long, default_value_t = 128)]
    size: u16,
    /// The folder to write to
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args)]
struct Split {
    /// The file to cut
    #[arg(long)]
    npz: PathBuf,
    /// Hospitals to cut it for
    #[arg(long, default_value_t = 5)]
    sites: usize,
    /// Decides everything
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How alike hospitals are: small numbers make them differ
    #[arg(long, default_value_t = 0.5)]
    alpha: f64,
    /// The folder to write to
    #[arg(long)]
    out: PathBuf,
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
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| SPOKEN.into()))
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    // The place of a fault is enough to find it; its message could quote a record. Other people's decoders
    // fault over broken files, which are told as such: an error is only what ends the program.
    let last = Arc::new(Mutex::new(String::new()));
    let told = Arc::clone(&last);
    std::panic::set_hook(Box::new(move |fault| {
        let place = fault.location().map(ToString::to_string).unwrap_or_default();
        tracing::debug!(place, "a fault");
        *told.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }));
    let format = arguments.format;
    match std::panic::catch_unwind(|| run(arguments)) {
        Err(_) => {
            let place = &*last.lock().unwrap_or_else(PoisonError::into_inner);
            tracing::error!(place, "a fault in the program");
            Exit::Bug.into()
        }
        Ok(ended) => end(format, ended),
    }
}

fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { format, threads, command } = arguments;
    // What reads records gives up the network first, while there is one thread.
    match command {
        Command::Serve(_) | Command::Scan(_) | Command::Show { .. } => confine::no_network()
            .map_err(|error| Failure::failed("cannot_confine", error.to_string()))?,
        Command::Generate(_) | Command::Split(_) => {}
    }
    if let Command::Scan(_) | Command::Show { .. } = command {
        // Whoever waits for the answer may go. A study's conversation ends with its pipe.
        let _ = set_parent_process_death_signal(Some(Signal::TERM));
    }
    if let Some(threads) = threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.clamp(1, 1024))
            .build_global()
            .map_err(|error| Failure::failed("threads", error.to_string()))?;
    }
    match command {
        Command::Serve(serve) => answer(&serve),
        Command::Scan(scan) => look(&scan, format),
        Command::Show { file } => {
            let facts = show::show(&file).map_err(|fault| {
                // A name may hold what a terminal would take for an order.
                let name = file.display().to_string();
                let message = format!("{}: {fault}", name.escape_debug());
                Failure::failed(fault.code(), message)
            })?;
            print(format, &facts, &facts)?;
            Ok(Exit::Ok)
        }
        Command::Generate(generate) => write_synthetic(&generate, format),
        Command::Split(split) => cut(&split, format),
    }
}

fn answer(serve: &Serve) -> Result<Exit, Failure> {
    let device = backend::device(&serve.device)
        .map_err(|error| Failure::usage("unknown_device", error.to_string()))?;
    let memory = serve.memory_mib.map(|mib| mib.saturating_mul(1 << 20));
    let memory = memory.unwrap_or_else(memory::for_images);
    // A disk that is full, or a folder that another trainer is busy in, slows things down and stops
    // nothing. Without a folder a study that does not fit into memory is refused.
    let cache = serve.cache.as_ref().and_then(|folder| {
        Cache::open(folder, serve.cache_mib.saturating_mul(1 << 20))
            .inspect_err(|error| tracing::warn!(%error, "prepared images are not kept"))
            .ok()
    });
    let settings = Settings { device, memory, cache: cache.map(Arc::new) };
    // The pipe itself: a frame is whole, and standard output would look for line ends in it.
    let out = io::stdout().as_fd().try_clone_to_owned();
    let mut out = File::from(out.map_err(|error| Failure::failed("stdout", error.to_string()))?);
    serve::serve(&mut io::stdin().lock(), &mut out, &settings)
        .map_err(|error| Failure::failed("conversation", chain(&error)))?;
    Ok(Exit::Ok)
}

fn look(scan: &Scan, format: Format) -> Result<Exit, Failure> {
    let npz = scan.data.extension().is_some_and(|extension| extension == "npz");
    let kind = scan.kind.as_deref().unwrap_or(if npz { "npz" } else { "images" });
    let manifest = scan.manifest.as_deref().map(text).transpose()?.unwrap_or_default();
    let source = Source::new(kind, text(&scan.data)?, manifest)
        .map_err(|error| Failure::usage("data_source", error.to_string()))?;
    // Without the site's key patients are told apart under a passing one, and no root is shown.
    let secret = match &scan.key_file {
        Some(file) => SiteSecret::read(file).map_err(|error| unusable(&error))?,
        None => SiteSecret::new([0; 32]),
    };
    let how =
        Look { secret: &secret, classes: scan.classes.as_deref(), preparation: None, memory: 0 };
    let bar = bar();
    let progress = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let contents = memory::decoding(|| dataset::look(&source, how, &progress));
    bar.finish_and_clear();
    let contents = contents.map_err(|error| unusable(&error))?;
    let report = Report::new(&contents, scan.key_file.is_some());
    if let Some(file) = &scan.report {
        write_report(file, &report).map_err(|error| {
            Failure::failed("report", format!("cannot write the report: {error}"))
        })?;
    }
    print(format, &report, &report)?;
    Ok(if report.bad.is_empty() { Exit::Ok } else { Exit::Failed })
}

fn write_report(file: &Path, report: &Report) -> io::Result<()> {
    let mut out = File::create(file)?;
    serde_json::to_writer_pretty(&mut out, report)?;
    writeln!(out)
}

fn write_synthetic(generate: &Generate, format: Format) -> Result<Exit, Failure> {
    let Generate { sites, site, patients, seed, size, ref out } = *generate;
    let request = synthetic::Request { sites, site, patients, seed, size };
    let made = synthetic::generate(request, out).map_err(|error| match error {
        synthetic::GenerateError::Range { .. } => Failure::usage("arguments", error.to_string()),
        synthetic::GenerateError::Write { .. } => Failure::failed("write", chain(&error)),
    })?;
    let synthetic::Generated { patients, images, lesions } = made;
    let text = format!("{images} images of {patients} patients, {lesions} with a lesion\n");
    print(format, &text, &made)?;
    Ok(Exit::Ok)
}

fn cut(arguments: &Split, format: Format) -> Result<Exit, Failure> {
    let Split { npz, sites, seed, alpha, out } = arguments;
    let cut = split::split(npz, *sites, *seed, *alpha, out).map_err(|error| match error {
        split::SplitError::Request(_) => Failure::usage("arguments", error.to_string()),
        split::SplitError::Source(_) | split::SplitError::Write(_) => {
            Failure::failed("split", chain(&error))
        }
    })?;
    let lines: String = cut.files.iter().map(|file| format!("{}\n", file.display())).collect();
    print(format, &lines, &cut)?;
    Ok(Exit::Ok)
}

/// A bar on stderr when that is a terminal, and nothing at all otherwise.
fn bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} records, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style)
}

fn print(
    format: Format,
    text: &impl std::fmt::Display,
    data: &impl Serialize,
) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match format {
        Format::Text => write!(out, "{text}").and_then(|()| out.flush()),
        Format::Json => write_ok(&mut out, data),
    }
    .map_err(|error| Failure::failed("stdout", error.to_string()))
}

fn unusable(error: &DatasetError) -> Failure {
    Failure::failed("data_source", chain(error))
}

fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| Failure::usage("path", "a path that is not UTF-8".to_owned()))
}
