//! `study`: what the consortium proposes and what this house says to it. A decision is recorded
//! here first and told to the coordinator second, so a lost connection never leaves the coordinator
//! with an approval that this house does not know of.

mod shown;

use std::collections::BTreeMap;

use aggregation::ids::StudyId;
use aggregation::study::Unit;
use clap::{Args, Subcommand};
use proto::cli::{Exit, Failure};
use proto::federation::{DecideStudyRequest, ListStudiesRequest};
use proto::status::to_failure;
use serde_json::{Value, json};

use self::shown::{Shown, row};
use super::{Context, Session, roster};
use crate::clock;
use crate::config::{Config, DataKind};
use crate::identity::{self, Enrolled};
use crate::journal::{Decision, Journal, JournalError, LocalStudy};
use crate::link::{self, Client};
use crate::proposal::{Proposal, decision_to, state_name};
use crate::state::State;

/// The fewest hexadecimal digits that stand for a digest.
const SHORTEST_DIGEST: usize = 4;

#[derive(Debug, Subcommand)]
pub(super) enum Study {
    /// Lists the studies that this site is asked to take part in
    List,
    /// Prints one study: its manifest, its sites, this house's caps
    Show(Which),
    /// Agrees to a study, by its digest, on one of our data sets
    Approve(Approve),
    /// Says no to a study
    Refuse(Decide),
    /// Takes an approval back; a round in progress ends here at once
    Withdraw(Decide),
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// The digest, the start of it, or the name
    #[arg(value_name = "DIGEST-OR-NAME")]
    study: String,
}

#[derive(Debug, Args)]
pub(super) struct Approve {
    #[command(flatten)]
    which: Which,
    /// The data set that it may be trained on [default: the only one]
    #[arg(long, value_name = "NAME")]
    data: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Decide {
    #[command(flatten)]
    which: Which,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Study {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::List => list(context).await,
            Self::Show(which) => show(context, &which).await,
            Self::Approve(approve) => approve.run(context).await,
            Self::Refuse(decide) => decide.run(context, Decision::Refused).await,
            Self::Withdraw(decide) => decide.run(context, Decision::Withdrawn).await,
        }
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self::failed("journal", error.to_string()).hint("check the state folder's disk and owner")
    }
}

async fn list(context: &Context) -> Result<Exit, Failure> {
    let mut session = Session::open(context).await?;
    let journal = Journal::open(&session.state.journal()).await?;
    let proposals = session.proposals(context, &journal).await?;
    let local = journal.studies().await?;
    let rows: Vec<Value> = proposals.iter().map(|p| row(p, &local, &session.config)).collect();
    context.print(&json!({ "studies": rows }), |out| {
        if proposals.is_empty() {
            return writeln!(out, "no studies are proposed to this site");
        }
        writeln!(
            out,
            "{:<13} {:<28} {:<10} {:<24} rounds",
            "digest", "name", "state", "this house"
        )?;
        for proposal in &proposals {
            let Proposal { id, study, state, rounds_released, .. } = proposal;
            let planned = study.last_round();
            let ours = house(decided(&local, *id));
            let state = state_name(*state);
            writeln!(
                out,
                "{:<13} {:<28} {state:<10} {ours:<24} {rounds_released}/{planned}",
                id.short(),
                study.name
            )?;
        }
        Ok(())
    })?;
    Ok(Exit::Ok)
}

fn house(local: Option<&LocalStudy>) -> String {
    match local {
        None => "undecided".to_owned(),
        Some(LocalStudy { decision, data: Some(data), .. }) => {
            format!("{} on {data}", decision.name())
        }
        Some(LocalStudy { decision, data: None, .. }) => decision.name().to_owned(),
    }
}

async fn show(context: &Context, which: &Which) -> Result<Exit, Failure> {
    let mut session = Session::open(context).await?;
    let journal = Journal::open(&session.state.journal()).await?;
    let proposal = which.among(session.proposals(context, &journal).await?)?;
    let local = journal.studies().await?;
    let mut data = row(&proposal, &local, &session.config);
    data["manifest"] = json!(proposal.manifest);
    let shown = session.shown(&journal, &proposal).await?;
    data["identities"] = shown.identities();
    let ours = house(decided(&local, proposal.id));
    context.print(&data, |out| {
        write!(out, "{}", shown.described(&session.config))?;
        writeln!(out, "this house   {ours}\n\n{}", proposal.manifest)
    })?;
    Ok(Exit::Ok)
}

fn decided(local: &[LocalStudy], id: StudyId) -> Option<&LocalStudy> {
    local.iter().find(|study| study.id == id)
}

impl Approve {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let mut session = Session::open(context).await?;
        let data = super::data::chosen(&session.config, self.data.as_deref())?;
        let journal = Journal::open(&session.state.journal()).await?;
        let proposal = self.which.among(session.proposals(context, &journal).await?)?;
        let shown = session.shown(&journal, &proposal).await?;
        context.say(shown.described(&session.config).trim_end());
        context.say(&format!("{:<12} {data}", "data"));
        let noise = proposal.noise();
        let violations = session.config.policy.violations(&proposal.study, noise.as_ref());
        if !violations.is_empty() {
            let all: String =
                violations.iter().map(|violation| format!("\n  {violation}")).collect();
            return Err(Failure::failed(
                "policy",
                format!("this house's policy forbids the study:{all}"),
            )
            .hint(format!("the caps are in [policy] of {}", session.config.file.display())));
        }
        let per_patient = proposal.study.privacy.rules().is_some_and(|r| r.unit == Unit::Patient);
        if per_patient
            && session.config.data.get(&data).is_some_and(|set| set.kind == DataKind::Npz)
        {
            return Err(Failure::failed(
                "no_patients",
                format!(
                    "privacy is per patient, and an .npz file as data set {data:?} does not say whose \
                     its images are"
                ),
            )
            .hint(
                "choose a data set with a manifest, or have the study propose \
                 privacy.danger_image_level_privacy = true",
            ));
        }
        let identities = shown.accepted()?;
        context.confirm("approve this study?", self.yes)?;
        let local = LocalStudy {
            id: proposal.id,
            name: proposal.study.name.clone(),
            manifest: proposal.manifest.clone(),
            sites: proposal.sites.clone(),
            identities,
            data: Some(data),
            decision: Decision::Approved,
            decided: clock::now(),
            told: false,
        };
        settle(context, &journal, &mut session.client, local).await
    }
}

impl Decide {
    /// Refuses or withdraws. Works without the coordinator where this house knows the study.
    async fn run(self, context: &Context, decision: Decision) -> Result<Exit, Failure> {
        let config = context.load()?;
        let state = State::open(&config.state)?;
        let enrolled = Enrolled::load(&state)?;
        let journal = Journal::open(&state.journal()).await?;
        let earlier = self.which.known(journal.studies().await?)?;
        let client = link::connect(&enrolled, &config.proxy).await.map_err(Failure::from);
        let (local, client) = match (earlier, client) {
            (Some(earlier), client) => (earlier, client),
            (None, Err(failure)) => return Err(failure),
            (None, Ok(mut client)) => {
                let found = proposals(context, &mut client, &enrolled, &journal, &config).await?;
                let proposal = self.which.among(found)?;
                if decision == Decision::Withdrawn {
                    return Err(Failure::failed(
                        "not_approved",
                        "this house has not approved the study",
                    )
                    .hint("`study refuse` says no to it"));
                }
                (new_decision(proposal), Ok(client))
            }
        };
        match (decision, local.decision) {
            (Decision::Refused, Decision::Approved) => {
                return Err(Failure::failed("already_approved", "this house approved the study")
                    .hint("`study withdraw` takes an approval back"));
            }
            (Decision::Withdrawn, Decision::Refused) => {
                return Err(Failure::failed("not_approved", "this house refused the study"));
            }
            (Decision::Approved | Decision::Refused | Decision::Withdrawn, _) => {}
        }
        let verb = if decision == Decision::Refused { "refuse" } else { "withdraw from" };
        context
            .confirm(&format!("{verb} study {} ({})?", local.name, local.id.short()), self.yes)?;
        let local =
            LocalStudy { decision, data: None, decided: clock::now(), told: false, ..local };
        match client {
            Ok(mut client) => settle(context, &journal, &mut client, local).await,
            Err(failure) => {
                journal.decide(&local).await?;
                Err(Failure {
                    message: format!(
                        "{} here; the coordinator was not told: {failure}",
                        decision.name()
                    ),
                    ..failure
                }
                .hint("`hospital-node run` tells it when it connects"))
            }
        }
    }
}

fn new_decision(proposal: Proposal) -> LocalStudy {
    LocalStudy {
        id: proposal.id,
        name: proposal.study.name,
        manifest: proposal.manifest,
        sites: proposal.sites,
        identities: BTreeMap::new(),
        data: None,
        decision: Decision::Refused,
        decided: clock::now(),
        told: false,
    }
}

/// Records here, then tells the coordinator.
async fn settle(
    context: &Context,
    journal: &Journal,
    client: &mut Client,
    local: LocalStudy,
) -> Result<Exit, Failure> {
    journal.decide(&local).await?;
    tell(client, &local).await.map_err(|failure| {
        Failure {
            message: format!(
                "{} here; the coordinator was not told: {}",
                local.decision.name(),
                failure.message
            ),
            ..failure
        }
        .hint("`hospital-node run` tells it when it connects")
    })?;
    journal.told(local.id, local.decision).await?;
    let data = json!({
        "digest": local.id.to_string(),
        "name": local.name,
        "decision": local.decision.name(),
        "data": local.data,
    });
    context.print(&data, |out| {
        writeln!(out, "{} {} ({})", local.decision.name(), local.name, local.id.short())
    })?;
    Ok(Exit::Ok)
}

async fn tell(client: &mut Client, local: &LocalStudy) -> Result<(), Failure> {
    let request = DecideStudyRequest {
        study: local.id.digest().as_bytes().to_vec(),
        decision: decision_to(local.decision).into(),
    };
    client.decide_study(request).await.map_err(|status| to_failure(&status))?;
    Ok(())
}

impl Session {
    async fn proposals(
        &mut self,
        context: &Context,
        journal: &Journal,
    ) -> Result<Vec<Proposal>, Failure> {
        proposals(context, &mut self.client, &self.enrolled, journal, &self.config).await
    }

    /// A study with what this house knows of its sites.
    async fn shown<'a>(
        &'a self,
        journal: &Journal,
        proposal: &'a Proposal,
    ) -> Result<Shown<'a>, Failure> {
        let own = identity::signing(&self.state)?.key();
        Ok(Shown { proposal, me: &self.enrolled.me, own, pins: journal.pins().await? })
    }
}

/// Every study of the coordinator that holds together; the others are named on stderr. What it says
/// of the sites' identities is kept.
async fn proposals(
    context: &Context,
    client: &mut Client,
    enrolled: &Enrolled,
    journal: &Journal,
    config: &Config,
) -> Result<Vec<Proposal>, Failure> {
    let reply = client
        .list_studies(ListStudiesRequest {})
        .await
        .map_err(|status| to_failure(&status))?
        .into_inner();
    let mut found = Vec::new();
    for notice in reply.studies {
        match Proposal::check(notice, &enrolled.me) {
            Ok(proposal) => {
                let new = config.policy.new_sites;
                roster::meet(context, journal, &enrolled.me, &proposal.identities, new).await?;
                found.push(proposal);
            }
            Err(error) => tracing::warn!(%error, "the coordinator names a study that we leave out"),
        }
    }
    found.sort_by(|a, b| (&a.study.name, a.id).cmp(&(&b.study.name, b.id)));
    Ok(found)
}

impl Which {
    fn fits(&self, id: StudyId, name: &str) -> bool {
        let digits = self.study.to_ascii_lowercase();
        self.study == name
            || (digits.len() >= SHORTEST_DIGEST && id.to_string().starts_with(&digits))
    }

    fn among(&self, proposals: Vec<Proposal>) -> Result<Proposal, Failure> {
        let fitting = proposals.into_iter().filter(|p| self.fits(p.id, &p.study.name)).collect();
        self.one(fitting, |p: &Proposal| p.id)?.ok_or_else(|| {
            Failure::failed(
                "no_such_study",
                format!("no study {:?} is proposed to this site", self.study),
            )
            .hint("`hospital-node study list` names them")
        })
    }

    fn known(&self, local: Vec<LocalStudy>) -> Result<Option<LocalStudy>, Failure> {
        let fitting = local.into_iter().filter(|study| self.fits(study.id, &study.name)).collect();
        self.one(fitting, |study: &LocalStudy| study.id)
    }

    fn one<T>(
        &self,
        mut fitting: Vec<T>,
        id: impl Fn(&T) -> StudyId,
    ) -> Result<Option<T>, Failure> {
        if fitting.len() > 1 {
            let digests: Vec<String> = fitting.iter().map(|study| id(study).short()).collect();
            return Err(Failure::usage(
                "ambiguous_study",
                format!("{:?} means several studies", self.study),
            )
            .hint(format!("use a digest: {}", digests.join(", "))));
        }
        Ok(fitting.pop())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aggregation::ids::Digest;

    fn local(name: &str, seed: &[u8]) -> LocalStudy {
        LocalStudy {
            id: StudyId::new(Digest::sha256(seed)),
            name: name.to_owned(),
            manifest: String::new(),
            sites: std::collections::BTreeSet::new(),
            identities: BTreeMap::new(),
            data: None,
            decision: Decision::Approved,
            decided: clock::now(),
            told: true,
        }
    }

    fn which(study: &str) -> Which {
        Which { study: study.to_owned() }
    }

    #[test]
    fn a_study_is_meant_by_its_name_its_digest_or_the_start_of_it() {
        let (chest, hip) = (local("chest", b"1"), local("hip", b"2"));
        let all = vec![chest.clone(), hip];
        for text in [
            "chest",
            &chest.id.to_string(),
            &chest.id.short(),
            &chest.id.to_string()[..4].to_uppercase(),
        ] {
            let found = which(text).known(all.clone()).expect("one at most");
            assert_eq!(found.as_ref(), Some(&chest), "{text}");
        }
        for text in ["che", &chest.id.to_string()[..3], "knee", ""] {
            assert_eq!(which(text).known(all.clone()).expect("none"), None, "{text}");
        }
    }

    #[test]
    fn a_name_that_means_two_studies_asks_for_a_digest() {
        let all = vec![local("chest", b"1"), local("chest", b"2")];
        let failure = which("chest").known(all.clone()).expect_err("two");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.hint.contains(&all[0].id.short()), "{failure}");
    }
}
