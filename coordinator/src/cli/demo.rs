//! `coordinator demo`: a whole consortium on this machine, to watch.
//!
//! Nothing is simulated: the coordinator, one node and one trainer per hospital are the programs
//! that a real consortium runs, each its own process, over mTLS on loopback, on DICOM files.

mod drop;
mod federation;
mod manifest;
mod screen;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use proto::cli::{Failure, Format};
use proto::federation::operator_client::OperatorClient;
use proto::federation::{
    ControlStudyRequest, ExportModelRequest, ProposeStudyRequest, RoundView, StudyControl,
    StudyEvent, StudyRequest, StudyState, StudyView, study_event,
};
use tonic::transport::Channel;

use self::drop::{Drops, Wish};
use self::federation::{Federation, Source};
use self::screen::{Done, RoundLine, Screen};
use crate::clock;

/// What the demo shows.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Hospitals, each with a node and a trainer of its own.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(3..=40))]
    hospitals: u16,
    /// Rounds of training; the default depends on the data.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: Option<u32>,
    /// "synthetic" writes radiographs as DICOM files; or a MedMNIST-style .npz file to be split.
    #[arg(long, default_value = "synthetic", value_name = "synthetic|FILE.npz")]
    data: String,
    /// The model's architecture.
    #[arg(long, default_value = "cnn-small", value_name = "ARCH")]
    model: String,
    /// Privacy: this version trains without noise only.
    #[arg(long, value_enum, default_value_t = Mode::None)]
    mode: Mode,
    /// Kills hospital SITE (from 1) in a round, once it is ready, masked (uploaded), signed or at
    /// unmask (its shares given), and starts it again for the next. May be given more than once.
    #[arg(long, value_name = "SITE@ROUND:PHASE")]
    drop: Vec<Wish>,
    /// Decides data, split and training: the same seed gives the same model.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where everything is written; must not exist or be empty. Default: a new temporary folder.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Keep the whole consortium on disk, ready to be started again. With it, a coordinator that is
    /// killed is not started again by the demo: `coordinator serve` does that.
    #[arg(long)]
    keep: bool,
}

/// The privacy modes that this version can run.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// `danger_no_privacy`, with every hospital's own opt-in.
    None,
}

/// Runs the demo to its end.
pub(crate) async fn run(args: &DemoArgs, format: Format) -> Result<(), Failure> {
    let Mode::None = args.mode;
    let begun = clock::now();
    let source = Source::parse(&args.data)?;
    if let Some(wish) = args.drop.iter().find(|wish| wish.site() > args.hospitals) {
        let message = format!(
            "--drop: expected a hospital from 1 to {}, found {}",
            args.hospitals,
            wish.site()
        );
        return Err(Failure::usage("bad_drop", message));
    }
    let folder = Folder::create(args.dir.as_deref(), args.keep)?;
    let screen = Screen::new(format);
    let mut federation =
        Federation::build(folder.path(), args.hospitals, &source, args.seed, args.keep, &screen)
            .await?;
    let told = tokio::select! {
        told = story(args, &source, &mut federation, &screen) => told,
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::failed("interrupted", "interrupted before the study was complete"))
        }
    };
    federation.stop().await;
    let told = match told {
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
        rounds: told.rounds,
        study: told.study,
        model_digest: told.model_digest,
        model: told.model,
        dir: args.keep.then(|| folder.path().to_owned()),
        seconds: clock::now().since(begun).as_secs_f64(),
    })
}

struct Told {
    auroc: Option<f64>,
    accuracy: Option<f64>,
    rounds: u32,
    study: String,
    model_digest: String,
    model: PathBuf,
}

/// From a proposal to an exported model, through the same calls that the command line makes.
async fn story(
    args: &DemoArgs,
    source: &Source,
    federation: &mut Federation,
    screen: &Screen,
) -> Result<Told, Failure> {
    let manifest_toml = manifest::text(args, source);
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

    let last = watch(&proposed.digest, &args.drop, federation, screen).await?;
    if last.state() != StudyState::Completed {
        let reason =
            if last.waiting_for.is_empty() { "no reason given" } else { &last.waiting_for };
        return Err(Failure::failed("study_not_completed", format!("the study ended: {reason}")));
    }
    let model = federation.dir().join("model.safetensors");
    let mut operator = federation.operator().await?;
    export(&mut operator, &last.digest, &model).await?;
    let measured = last.history.iter().rev().find(|round| round.released && round.auroc.is_some());
    Ok(Told {
        auroc: measured.and_then(|round| round.auroc),
        accuracy: measured.and_then(|round| round.accuracy),
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

/// Follows the study to its end, through restarts of anything.
async fn watch(
    study: &str,
    wishes: &[Wish],
    federation: &mut Federation,
    screen: &Screen,
) -> Result<StudyView, Failure> {
    screen.begin(&federation.names());
    let mut shown = Shown::default();
    let mut drops = Drops::new(wishes);
    loop {
        let mut operator = federation.operator().await?;
        let request = StudyRequest { study: study.to_owned() };
        if let Ok(stream) = operator.watch_study(request).await {
            let mut events = stream.into_inner();
            loop {
                let next = tokio::time::timeout(CHECK, events.message()).await;
                if let Ok(Ok(Some(StudyEvent { event: Some(event) }))) = &next {
                    if let Some((site, wish)) = drops.due(event) {
                        federation.kill(&site)?;
                        screen.event(&format!("{site} is killed in round {}", wish.round()));
                    }
                    for late in drops.closed(event) {
                        screen.event(&late);
                    }
                }
                for name in federation.revive_nodes(|name| drops.keeps_down(name))? {
                    screen.event(&format!("{name} had ended and is started again"));
                }
                match next {
                    // Quiet: time to look after the processes, as above.
                    Err(_) => {}
                    Ok(Ok(Some(event))) => {
                        if let Some(last) = shown.event(event, screen) {
                            drops.unfulfilled().for_each(|wish| screen.event(&wish));
                            return Ok(last);
                        }
                    }
                    Ok(Ok(None) | Err(_)) => break,
                }
            }
        }
        if federation.revive_coordinator()? {
            screen.event("the coordinator had ended and is started again");
        } else {
            screen.event("the coordinator does not answer; waiting for it");
        }
        tokio::time::sleep(CHECK).await;
    }
}

const CHECK: Duration = Duration::from_millis(500);

/// What has been put on the screen so far; a reconnected stream repeats things.
///
/// A round's metrics are those of the model that it offered, which is the model that the round
/// before it made. The table shows each model beside the round that made it, so a row waits for
/// the next round.
#[derive(Default)]
struct Shown {
    planned: u32,
    seen: u32,
    slot: u64,
    row: Option<RoundLine>,
}

impl Shown {
    /// Shows an event; the study's last view when it has ended.
    fn event(&mut self, event: StudyEvent, screen: &Screen) -> Option<StudyView> {
        match event.event? {
            study_event::Event::Snapshot(view) => {
                self.planned = view.rounds;
                for round in &view.history {
                    self.round(round, screen);
                }
                let over = matches!(
                    view.state(),
                    StudyState::Completed
                        | StudyState::Failed
                        | StudyState::Stopped
                        | StudyState::Paused
                );
                return over.then_some(view);
            }
            study_event::Event::Started(started) => {
                for site in &started.invited {
                    screen.progress(site, proto::federation::Stage::Unspecified, 0);
                }
            }
            study_event::Event::Progress(progress) => {
                screen.progress(&progress.site, progress.stage(), progress.permille);
            }
            study_event::Event::Ready(ready) => {
                screen.progress(&ready.site, proto::federation::Stage::Waiting, 1000);
            }
            study_event::Event::Uploaded(uploaded) => {
                screen.progress(&uploaded.site, proto::federation::Stage::Done, 1000);
            }
            study_event::Event::Signed(_) | study_event::Event::Unmasked(_) => {}
            study_event::Event::Closed(round) => self.round(&round, screen),
        }
        None
    }

    fn round(&mut self, round: &RoundView, screen: &Screen) {
        if !round.released {
            if round.slot > self.slot {
                let RoundView { round: number, reason, dropped, .. } = round;
                let missing = dropped.join(", ");
                screen
                    .event(&format!("round {number} is tried again: {reason}; without {missing}"));
            }
            self.slot = self.slot.max(round.slot);
            return;
        }
        if round.round <= self.seen {
            return;
        }
        self.seen = round.round;
        if let Some(mut row) = self.row.take() {
            (row.loss, row.auroc, row.accuracy) = (round.loss, round.auroc, round.accuracy);
            screen.round(&row);
        }
        // The last round only scores; there is no model of its own to wait for.
        if round.round > self.planned {
            return;
        }
        let seconds = Duration::from_millis(round.closed_ms.saturating_sub(round.announced_ms));
        self.row = Some(RoundLine {
            event: "round",
            round: round.round,
            sites: round.contributed.clone(),
            dropped: round.dropped.clone(),
            notes: notes(round),
            loss: None,
            auroc: None,
            accuracy: None,
            seconds: seconds.as_secs_f64(),
        });
    }
}

/// Who dropped out of a round, and how far each had come.
fn notes(round: &RoundView) -> Vec<String> {
    let mut notes = Vec::new();
    for site in &round.dropped {
        let course = round.courses.iter().find(|course| course.site == *site);
        let why = match course {
            Some(course) if course.ready => " (ready, then no upload)",
            Some(_) | None => "",
        };
        notes.push(format!("without {site}{why}"));
    }
    for course in round.courses.iter().filter(|course| course.away && course.uploaded) {
        let last = match (course.unmasked, course.signed) {
            (true, _) => "gave its shares",
            (false, true) => "signed",
            (false, false) => "uploaded",
        };
        notes.push(format!("{} {last}, then left", course.site));
    }
    notes
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
            // What cannot be removed stays; the results are not touched by it.
            if path.is_dir() {
                let _ = fs::remove_dir_all(&path);
            } else if path.extension().is_none_or(|extension| extension != "safetensors") {
                let _ = fs::remove_file(&path);
            }
        }
    }
}
