//! `ledger`: what was spent of the patients' privacy, study by study, and how much is left.

use std::collections::BTreeMap;

use aggregation::ids::StudyId;
use aggregation::privacy::accountant::Spent;
use aggregation::privacy::charge::{Charge, Figures};
use aggregation::privacy::ledger::{Caps, Ledger, Scope, State as Stage};
use proto::cli::{Exit, Failure};
use serde_json::{Value, json};

use super::Context;
use crate::identity::Enrolled;
use crate::journal::Journal;
use crate::policy::up;
use crate::purse::{self, ALARM, PurseError};
use crate::state::State;

impl From<PurseError> for Failure {
    fn from(error: PurseError) -> Self {
        let code = match &error {
            PurseError::Disk { .. } => "ledger_unreadable",
            PurseError::Damaged { .. } => "ledger_damaged",
        };
        Self::failed(code, error.to_string())
            .hint("nothing is spent while the ledger cannot be read; see `hospital-node doctor`")
    }
}

/// What one study has spent.
struct Row {
    name: String,
    study: StudyId,
    rounds: usize,
    released: usize,
    spent: Figures,
    left: u32,
}

pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let config = context.load()?;
    let state = State::open(&config.state)?;
    let enrolled = Enrolled::load(&state)?;
    let ledger = purse::look(&state, &enrolled.me)?;
    let journal = Journal::open(&state.journal()).await?;
    let caps = config.policy.budget;
    let alarm = state.read(ALARM)?.map(|text| String::from_utf8_lossy(&text).trim().to_owned());

    // The last charge of each study says what its next round costs.
    let mut studies: BTreeMap<StudyId, Charge> = BTreeMap::new();
    for record in ledger.records() {
        studies.insert(record.entry().study, record.entry().charge);
    }
    let mut rows = Vec::new();
    for (study, charge) in studies {
        let known = journal.study(study).await?;
        let of_study = |stage| {
            let records = ledger.records().iter();
            records.filter(|r| r.entry().study == study && r.state() == stage).count()
        };
        rows.push(Row {
            name: known.map_or_else(|| study.short(), |local| local.name),
            study,
            rounds: of_study(Stage::Charged),
            released: of_study(Stage::Released),
            spent: ledger.epsilon(Scope::Study, study, &caps),
            left: ledger.rounds_left(study, &charge, &caps),
        });
    }
    show(context, &ledger, &rows, &caps, alarm.as_deref())?;
    Ok(if alarm.is_some() { Exit::Failed } else { Exit::Ok })
}

fn show(
    context: &Context,
    ledger: &Ledger,
    rows: &[Row],
    caps: &Caps,
    alarm: Option<&str>,
) -> Result<(), Failure> {
    let anything = rows.first().map(|row| row.study);
    let all = anything.map(|study| ledger.epsilon(Scope::Lifetime, study, caps));
    let all = all.unwrap_or(Figures { planned: Spent::NOTHING, solo: Spent::NOTHING });
    let head = ledger.head();
    let data = json!({
        "studies": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "epsilon_planned": all.planned.get(),
        "epsilon_solo": all.solo.get(),
        "caps": {
            "epsilon_per_study": caps.study.planned.get(),
            "solo_epsilon_per_study": caps.study.solo.get(),
            "epsilon_lifetime": caps.lifetime.planned.get(),
            "solo_epsilon_lifetime": caps.lifetime.solo.get(),
            "delta": caps.delta.get(),
            "accountant": caps.accountant.name(),
        },
        "records": head.seq,
        "head": head.hash.to_string(),
        "alarm": alarm,
    });
    context.print(&data, |out| {
        if rows.is_empty() {
            writeln!(out, "nothing was spent yet")?;
        } else {
            writeln!(
                out,
                "{:<28} {:>7} {:>9} {:>10} {:>10} {:>12}",
                "study", "charged", "released", "epsilon", "solo", "rounds left"
            )?;
            for Row { name, rounds, released, spent, left, .. } in rows {
                let (planned, solo) = (up(spent.planned.get(), 4), up(spent.solo.get(), 4));
                writeln!(
                    out,
                    "{name:<28} {rounds:>7} {released:>9} {planned:>10.4} {solo:>10.4} {left:>12}"
                )?;
            }
        }
        let Caps { study, lifetime, delta, accountant } = caps;
        writeln!(
            out,
            "\nall studies: epsilon {:.4} of {}, solo {:.4} of {}",
            up(all.planned.get(), 4),
            lifetime.planned,
            up(all.solo.get(), 4),
            lifetime.solo
        )?;
        writeln!(
            out,
            "each study: at most {}, solo {} (delta {delta}, {})",
            study.planned,
            study.solo,
            accountant.name()
        )?;
        writeln!(out, "{} records; the last is {}", head.seq, head.hash)?;
        match alarm {
            Some(alarm) => writeln!(out, "\nALARM: {alarm}"),
            None => Ok(()),
        }
    })
}

impl Row {
    fn json(&self) -> Value {
        let Self { name, study, rounds, released, spent, left } = self;
        json!({
            "name": name,
            "study": study.to_string(),
            "charged": rounds,
            "released": released,
            "epsilon_planned": spent.planned.get(),
            "epsilon_solo": spent.solo.get(),
            "rounds_left": left,
        })
    }
}
