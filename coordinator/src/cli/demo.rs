//! `coordinator demo`: a whole consortium on this machine, to watch.
//!
//! Nothing is simulated: the coordinator, one node and one trainer per hospital are the programs
//! that a real consortium runs, each its own process, over mTLS on loopback, on DICOM files.

mod drops;
mod evidence;
mod federation;
mod manifest;
mod privacy;
mod screen;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};

use aggregation::keys::thresholds::Thresholds;
use clap::Args;
use proto::cli::{Failure, Format};
use proto::federation::operator_client::OperatorClient;
use proto::federation::{
    ControlStudyRequest, ExportModelRequest, ProposeStudyRequest, StudyControl, StudyState,
};
use tonic::transport::Channel;

use self::drops::{Drop, Drops};
use self::federation::{Federation, Source};
use self::privacy::{Mode, Privacy};
use self::screen::{Done, Screen};
use crate::clock;

/// What the demo shows.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Hospitals, each with a node and a trainer of its own; 3 to 40.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(..=40))]
    hospitals: u16,
    /// Rounds of training; the default depends on the data.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: Option<u32>,
    /// "synthetic" writes radiographs as DICOM files; or a MedMNIST-style .npz file to be split.
    #[arg(long, default_value = "synthetic", value_name = "synthetic|FILE.npz")]
    data: String,
    /// The model's architecture; the default depends on data and privacy.
    #[arg(long, value_name = "ARCH")]
    model: Option<String>,
    /// Differential privacy for each patient: the whole study spends at most this epsilon, at delta
    /// 1e-5. Alone it means --mode distributed.
    #[arg(long, value_name = "EPSILON")]
    epsilon: Option<f64>,
    /// Who adds the noise; without it, and without --epsilon, there is none.
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// With every round also what is spent against everybody else together, rather than at the end
    /// alone.
    #[arg(long)]
    solo: bool,
    /// Decides data, split and training: the same seed gives the same model.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Kill a hospital (numbered from 1) in a round after what it did last: ready, masked, signed or
    /// unmask; it is started again for the next round. Can be given several times.
    #[arg(long, value_name = "SITE@ROUND:PHASE")]
    drop: Vec<Drop>,
    /// Where everything is written; must not exist or be empty. Default: a new temporary folder.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Keep the whole consortium on disk, ready to be started again. With it, a coordinator that is
    /// killed is not started again by the demo: `coordinator serve` does that.
    #[arg(long)]
    keep: bool,
}

/// Runs the demo to its end.
pub(crate) async fn run(args: &DemoArgs, format: Format) -> Result<(), Failure> {
    let privacy = Privacy::of(args)?;
    let begun = clock::now();
    let source = Source::parse(&args.data)?;
    let thresholds = manifest::thresholds(args.hospitals)
        .map_err(|bad| Failure::usage("bad_thresholds", format!("--hospitals: {bad}")))?;
    check_drops(args, &source, privacy)?;
    let folder = Folder::create(args.dir.as_deref(), args.keep)?;
    let screen = Screen::new(format, args.solo);
    let mut federation = Federation::build(folder.path(), args, &source, &privacy, &screen).await?;
    let told = tokio::select! {
        told = story(args, &source, privacy, &thresholds, &mut federation, &screen) => told,
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::failed("interrupted", "interrupted before the study was complete"))
        }
    };
    federation.stop().await;
    let told = match told {
        Ok(told) => evidence::gather(folder.path(), &told.study).await.map(|found| (told, found)),
        Err(failure) => Err(failure),
    };
    let (told, evidence) = match told {
        Ok(told) => told,
        Err(failure) => {
            let hint = format!("logs and state are in {}", folder.path().display());
            return Err(Failure { hint, ..failure });
        }
    };
    folder.tidy();
    screen.done(&Done {
        event: "done",
        auroc: told.auroc,
        accuracy: told.accuracy,
        mode: privacy.name(),
        epsilon: told.epsilon,
        epsilon_solo: told.epsilon_solo,
        epsilon_target: privacy.epsilon,
        delta: privacy.epsilon.map(|_| privacy::DELTA),
        rounds: told.rounds,
        study: told.study,
        model_digest: told.model_digest,
        model: told.model,
        dir: args.keep.then(|| folder.path().to_owned()),
        verify: evidence.line(),
        recompute: evidence.recompute(),
        recomputed: evidence.recomputed,
        log: evidence.log,
        policy: evidence.policy,
        report: evidence.report,
        log_verified: evidence.verified,
        seconds: clock::now().since(begun).as_secs_f64(),
    })
}

/// Whether every drop is of a hospital and a round that there will be, and each only once a round.
fn check_drops(args: &DemoArgs, source: &Source, privacy: Privacy) -> Result<(), Failure> {
    let wrong = |drop: &Drop, what: String| {
        let Drop { site, round, phase } = drop;
        Failure::usage("bad_drop", format!("--drop {site}@{round}:{phase}: {what}"))
    };
    // The round after the last that trains scores the model.
    let rounds = manifest::rounds(args, source, privacy).saturating_add(1);
    for (index, drop) in args.drop.iter().enumerate() {
        if drop.site > args.hospitals {
            return Err(wrong(drop, format!("expected a hospital from 1 to {}", args.hospitals)));
        }
        if drop.round > rounds {
            return Err(wrong(drop, format!("expected a round from 1 to {rounds}")));
        }
        let same = |other: &Drop| (other.site, other.round) == (drop.site, drop.round);
        if args.drop.iter().take(index).any(same) {
            return Err(wrong(
                drop,
                "the same hospital is dropped in this round before".to_owned(),
            ));
        }
    }
    Ok(())
}

struct Told {
    auroc: Option<f64>,
    accuracy: Option<f64>,
    epsilon: Option<f64>,
    epsilon_solo: Option<f64>,
    rounds: u32,
    study: String,
    model_digest: String,
    model: PathBuf,
}

/// From a proposal to an exported model, through the same calls that the command line makes.
async fn story(
    args: &DemoArgs,
    source: &Source,
    privacy: Privacy,
    thresholds: &Thresholds,
    federation: &mut Federation,
    screen: &Screen,
) -> Result<Told, Failure> {
    let manifest_toml = manifest::text(args, source, privacy, thresholds, federation.patients());
    let mut operator = federation.operator().await?;
    let proposed = operator
        .propose_study(ProposeStudyRequest { manifest_toml })
        .await
        .map_err(|status| refused("the study", &status))?
        .into_inner();
    screen.step("Every hospital approves the study by its digest", &proposed.digest);
    federation.approve(&proposed.digest).await?;
    let control = StudyControl::Start.into();
    operator
        .control_study(ControlStudyRequest { study: proposed.digest.clone(), control })
        .await
        .map_err(|status| refused("the start", &status))?;

    let mut drops = Drops::new(&args.drop, &federation.names(), thresholds.shares());
    let last = watch::watch(&proposed.digest, federation, &mut drops, screen).await?;
    if last.state() != StudyState::Completed {
        let reason =
            if last.waiting_for.is_empty() { "no reason given" } else { &last.waiting_for };
        return Err(Failure::failed("study_not_completed", format!("the study ended: {reason}")));
    }
    let model = federation.dir().join("model.safetensors");
    let mut operator = federation.operator().await?;
    export(&mut operator, &last.digest, &model).await?;
    screen.step("The hospitals cosign the log", "all that happened, up to the last round");
    evidence::settle(&mut operator, federation.dir()).await?;
    let measured = last.history.iter().rev().find(|round| round.released && round.auroc.is_some());
    Ok(Told {
        auroc: measured.and_then(|round| round.auroc),
        accuracy: measured.and_then(|round| round.accuracy),
        epsilon: last.history.iter().rev().find_map(|round| round.epsilon),
        epsilon_solo: last.history.iter().rev().find_map(|round| round.epsilon_solo),
        rounds: last.rounds,
        study: last.digest.clone(),
        model_digest: last
            .history
            .iter()
            .rev()
            .find(|round| round.released)
            .map_or_else(String::new, |round| round.model.clone()),
        model,
    })
}

/// What a call was answered when it was not answered well.
fn refused(what: &str, status: &tonic::Status) -> Failure {
    let failure = proto::status::to_failure(status);
    Failure { message: format!("{what}: {}", failure.message), ..failure }
}

async fn export(
    operator: &mut OperatorClient<Channel>,
    study: &str,
    to: &Path,
) -> Result<(), Failure> {
    let request = ExportModelRequest { study: study.to_owned(), round: 0 };
    let mut chunks = operator
        .export_model(request)
        .await
        .map_err(|status| refused("the export", &status))?
        .into_inner();
    let mut file = Vec::new();
    while let Some(chunk) =
        chunks.message().await.map_err(|status| refused("the export", &status))?
    {
        file.extend_from_slice(&chunk.data);
    }
    fs::write(to, file)
        .map_err(|error| Failure::failed("demo_files", format!("{}: {error}", to.display())))
}

/// The demo's folder: gone at the end but for the model, unless it is to be kept.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn create(dir: Option<&Path>, keep: bool) -> Result<Self, Failure> {
        let wrong = |path: &Path, error: &dyn std::fmt::Display| {
            Failure::usage("bad_dir", format!("--dir: {}: {error}", path.display()))
        };
        let path = match dir {
            None => tempfile::Builder::new()
                .prefix("consilium-demo-")
                .tempdir()
                .map_err(|error| Failure::failed("demo_files", error.to_string()))?
                .keep(),
            Some(dir) => {
                fs::create_dir_all(dir).map_err(|error| wrong(dir, &error))?;
                let mut entries = fs::read_dir(dir).map_err(|error| wrong(dir, &error))?;
                if entries.next().is_some() {
                    return Err(wrong(dir, &"expected a new or empty folder, found files in it"));
                }
                dir.canonicalize().map_err(|error| wrong(dir, &error))?
            }
        };
        Ok(Self { path, keep })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what is not a result.
    fn tidy(&self) {
        if self.keep {
            return;
        }
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if evidence::KEPT.iter().any(|kept| entry.file_name() == *kept) {
                continue;
            }
            // What cannot be removed stays; the results are not touched by it.
            if path.is_dir() {
                let _ = fs::remove_dir_all(&path);
            } else if path.extension().is_none_or(|extension| extension != "safetensors") {
                let _ = fs::remove_file(&path);
            }
        }
    }
}
