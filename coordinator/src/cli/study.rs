//! `coordinator study`: what is trained.

pub(super) mod shown;

use std::path::{Path, PathBuf};

use aggregation::charter::Charter;
use aggregation::study::StudyFault;
use clap::Subcommand;
use proto::cli::{Exit, Failure};
use proto::federation as wire;
use proto::federation::study_event::Event;
use proto::limits::MAX_MANIFEST;

use self::shown::{RoundData, StudyData};
use super::link::{answer, operator, refused};
use super::out::{Out, table};

/// What can be done with studies.
#[derive(Debug, Subcommand)]
pub(super) enum StudyCommand {
    /// Validate a manifest, without a coordinator.
    Check {
        /// The manifest (TOML).
        file: PathBuf,
        /// With so many hospitals; the default is those that it lists, or its quorum and one more.
        /// The noise of a private study depends on it.
        #[arg(long, value_name = "N")]
        sites: Option<usize>,
    },
    /// Propose a study to the hospitals.
    Propose {
        /// The manifest (TOML).
        file: PathBuf,
    },
    /// List studies.
    List,
    /// Show one study with its rounds.
    Show {
        /// Its digest, a start of it, or its name.
        study: String,
    },
    /// Start a study that every hospital has approved.
    Start {
        /// Its digest, a start of it, or its name.
        study: String,
    },
    /// Pause a study; the open round is finished.
    Pause {
        /// Its digest, a start of it, or its name.
        study: String,
    },
    /// Go on with a paused study.
    Resume {
        /// Its digest, a start of it, or its name.
        study: String,
    },
    /// End a study for good; the open round is abandoned.
    Stop {
        /// Its digest, a start of it, or its name.
        study: String,
    },
    /// Follow a study, round by round, until it ends.
    Watch {
        /// Its digest, a start of it, or its name.
        study: String,
    },
}

/// Runs a study command.
pub(super) async fn run(command: StudyCommand, config: &Path, out: Out) -> Result<(), Failure> {
    let control = |study, control: wire::StudyControl| wire::ControlStudyRequest {
        study,
        control: control.into(),
    };
    let asked = match command {
        StudyCommand::Check { file, sites } => return check(&file, sites, out),
        StudyCommand::Propose { file } => {
            let manifest_toml = read_manifest(&file)?;
            let mut operator = operator(config).await?;
            let request = wire::ProposeStudyRequest { manifest_toml };
            let view = answer(operator.propose_study(request)).await.map_err(|failure| {
                // A manifest's faults come one a line.
                Failure { message: failure.message.replace('\n', "\n  "), ..failure }
            })?;
            return one(view, "proposed", out);
        }
        StudyCommand::List => return list(config, out).await,
        StudyCommand::Show { study } => return show(study, config, out).await,
        StudyCommand::Watch { study } => return watch(study, config, out).await,
        StudyCommand::Start { study } => control(study, wire::StudyControl::Start),
        StudyCommand::Pause { study } => control(study, wire::StudyControl::Pause),
        StudyCommand::Resume { study } => control(study, wire::StudyControl::Resume),
        StudyCommand::Stop { study } => control(study, wire::StudyControl::Stop),
    };
    let mut operator = operator(config).await?;
    let view = answer(operator.control_study(asked)).await?;
    let state = shown::state(view.state());
    one(view, state, out)
}

fn read_manifest(file: &Path) -> Result<String, Failure> {
    let unreadable = |fault: &dyn std::fmt::Display| {
        Failure::usage("no_manifest", format!("{}: {fault}", file.display()))
    };
    let size = std::fs::metadata(file).map_err(|fault| unreadable(&fault))?.len();
    if usize::try_from(size).map_or(true, |size| size > MAX_MANIFEST) {
        return Err(unreadable(&format!("expected at most {MAX_MANIFEST} bytes, found {size}")));
    }
    std::fs::read_to_string(file).map_err(|fault| unreadable(&fault))
}

fn check(file: &Path, sites: Option<usize>, out: Out) -> Result<(), Failure> {
    let text = read_manifest(file)?;
    let wrong = |faults: Vec<StudyFault>| {
        let lines: Vec<String> = faults.iter().map(|fault| format!("\n  {fault}")).collect();
        let count = faults.len();
        let plural = if count == 1 { "" } else { "s" };
        let message = format!("{}: {count} fault{plural}{}", file.display(), lines.concat());
        Failure::new(Exit::Usage, "bad_manifest", message)
    };
    let study = proto::manifest::parse(&text).map_err(|faults| wrong(faults.0))?;
    if !study.cohort.sites.is_empty() {
        let sites = study.cohort.sites.iter().cloned().collect();
        Charter::new(study.clone(), sites).map_err(wrong)?;
    }
    let listed = match study.cohort.sites.len() {
        0 => usize::from(study.cohort.quorum).saturating_add(1),
        listed => listed,
    };
    let sites = sites.unwrap_or(listed);
    let noise = study.noise_plan(sites).map_err(|fault| wrong(vec![fault]))?;
    let promised = noise.zip(study.privacy.rules().copied()).map(|(plan, rules)| {
        let spent = plan.epsilon(rules.accountant);
        (plan.noise().get(), spent.planned.get(), spent.solo.get(), rules)
    });
    let digest = study.digest();
    let parameters = study.layout().parameters();
    let cohort = &study.cohort;
    let updates = if cohort.danger_unmasked {
        "unmasked: the coordinator sees each of them".to_owned()
    } else {
        let (quorum, colluding) = (cohort.quorum, cohort.colluding);
        format!("masked, at least {quorum} in a sum, {colluding} hospitals may collude")
    };
    let privacy = match promised {
        None => study.privacy.name().to_owned(),
        Some((noise, planned, solo, rules)) => format!(
            "{}: with {sites} hospitals noise multiplier {noise:.4}, epsilon {planned:.4}, against everybody else together {solo:.4} (delta {}, {}, for each {})",
            rules.mode.name(),
            rules.delta,
            rules.accountant.name(),
            rules.unit.name()
        ),
    };
    let text = format!(
        "{} is valid\nname        {}\ndigest      {digest}\nmodel       {}, {parameters} parameters\nrounds      {}\nupdates     {updates}\nprivacy     {privacy}",
        file.display(),
        study.name,
        study.model.name(),
        study.training.rounds,
    );
    let data = serde_json::json!({
        "name": study.name,
        "digest": digest.to_string(),
        "model": study.model.name(),
        "parameters": parameters,
        "rounds": study.training.rounds,
        "masked": !cohort.danger_unmasked,
        "privacy": study.privacy.name(),
        "sites": sites,
        "noise_multiplier": promised.map(|(noise, ..)| noise),
        "epsilon": promised.map(|(_, planned, ..)| planned),
        "epsilon_solo": promised.map(|(_, _, solo, _)| solo),
    });
    out.result(&data, &text)
}

fn one(view: wire::StudyView, what: &str, out: Out) -> Result<(), Failure> {
    let study = StudyData::new(view);
    let mut text = format!("{} is {what}\ndigest       {}", study.name, study.digest);
    if !study.waiting_for.is_empty() {
        text = format!("{text}\nwaiting for  {}", study.waiting_for);
    }
    out.result(&study, &text)
}

async fn list(config: &Path, out: Out) -> Result<(), Failure> {
    let mut operator = operator(config).await?;
    let request = wire::ListOperatorStudiesRequest {};
    let listed = answer(operator.list_operator_studies(request)).await?;
    let studies: Vec<StudyData> = listed.studies.into_iter().map(StudyData::new).collect();
    let rows: Vec<Vec<String>> = studies.iter().map(StudyData::row).collect();
    let text = if rows.is_empty() {
        "no studies yet; `coordinator study propose FILE` proposes one".to_owned()
    } else {
        table(&["STUDY", "NAME", "STATE", "ROUND", "AUROC", "WAITING FOR"], &rows)
    };
    out.result(&serde_json::json!({ "studies": studies }), &text)
}

async fn show(study: String, config: &Path, out: Out) -> Result<(), Failure> {
    let mut operator = operator(config).await?;
    let view = answer(operator.show_study(wire::StudyRequest { study })).await?;
    let study = StudyData::new(view);
    let mut text = format!(
        "{}\ndigest       {}\nstate        {}\nrounds       {} of {}\n",
        study.name,
        study.digest,
        study.state,
        study.released(),
        study.rounds
    );
    if !study.waiting_for.is_empty() {
        text.push_str(&format!("waiting for  {}\n", study.waiting_for));
    }
    if let Some(open) = &study.open {
        text.push_str(&format!("\n{}\n", open.text()));
    }
    let decisions: Vec<Vec<String>> =
        study.decisions.iter().map(|one| vec![one.site.clone(), one.decision.to_owned()]).collect();
    text.push_str(&format!("\n{}\n", table(&["SITE", "DECISION"], &decisions)));
    if !study.history.is_empty() {
        let rows: Vec<Vec<String>> = study.history.iter().map(RoundData::row).collect();
        text.push_str(&format!("\n{}\n", table(&RoundData::HEAD, &rows)));
        let fits: Vec<Vec<String>> = study.history.iter().filter_map(RoundData::fit).collect();
        if !fits.is_empty() {
            text.push_str(&format!("\n{}\n", table(&RoundData::FIT, &fits)));
            text.push_str("\nDistances are in voxels of what the model is shown.\n");
        }
        text.push_str(
            "\nLoss, AUROC and accuracy of a round are those of the model that it offered.\n",
        );
    }
    out.result(&study, &text)
}

/// A site has done something in a round.
fn step(event: &str, round: u32, site: &str) -> serde_json::Value {
    serde_json::json!({ "event": event, "round": round, "site": site })
}

/// Follows a study until it ends or the operator has seen enough.
async fn watch(study: String, config: &Path, out: Out) -> Result<(), Failure> {
    let mut operator = operator(config).await?;
    let mut events = answer(operator.watch_study(wire::StudyRequest { study })).await?;
    let mut told = shown::Told::default();
    loop {
        let next = events.message().await.map_err(|status| refused(&status))?;
        let Some(event) = next.and_then(|event| event.event) else { return Ok(()) };
        match event {
            Event::Snapshot(view) => {
                let study = StudyData::new(view);
                for line in told.snapshot(&study) {
                    out.item(&line.data, line.text.as_deref())?;
                }
                if study.ended() {
                    return Ok(());
                }
            }
            Event::Closed(round) => {
                if let Some(line) = told.round(&RoundData::new(round)) {
                    out.item(&line.data, line.text.as_deref())?;
                }
            }
            Event::Started(started) => {
                let data = serde_json::json!({
                    "event": "started",
                    "round": started.round,
                    "slot": started.slot,
                    "invited": started.invited,
                });
                out.item(&data, None)?;
            }
            Event::Progress(progress) => {
                let data = serde_json::json!({
                    "event": "progress",
                    "round": progress.round,
                    "site": progress.site,
                    "stage": shown::stage(progress.stage()),
                    "permille": progress.permille,
                });
                out.item(&data, None)?;
            }
            Event::Ready(ready) => out.item(&step("ready", ready.round, &ready.site), None)?,
            Event::Uploaded(uploaded) => {
                out.item(&step("uploaded", uploaded.round, &uploaded.site), None)?;
            }
            Event::Signed(signed) => out.item(&step("signed", signed.round, &signed.site), None)?,
            Event::Unmasked(unmasked) => {
                out.item(&step("unmasked", unmasked.round, &unmasked.site), None)?;
            }
        }
    }
}
