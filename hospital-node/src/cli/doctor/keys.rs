//! What the journal knows of the other sites' identities and of this house's keys.

use aggregation::charter::Charter;

use super::Checks;
use crate::journal::{Decision, Journal, JournalError, KeysLeft, LocalStudy};
use crate::state::State;

/// Changes nothing: without a journal there is nothing to know yet.
pub(super) async fn check(state: &State, checks: &mut Checks) {
    if !state.journal().exists() {
        return checks.skip("identities", "no journal yet; `hospital-node run` makes it");
    }
    if let Err(error) = read(state, checks).await {
        checks.fail("journal", error.to_string(), "check the state folder's disk and owner");
    }
}

async fn read(state: &State, checks: &mut Checks) -> Result<(), JournalError> {
    let journal = Journal::open(&state.journal()).await?;
    let pins = journal.pins().await?;
    let waits: Vec<&str> =
        pins.iter().filter(|(_, pin)| pin.found.is_some()).map(|(site, _)| site.as_str()).collect();
    let pinned = pins.values().filter(|pin| pin.key.is_some()).count();
    checks.judge(
        "identities",
        if waits.is_empty() {
            Ok(format!("{pinned} pinned"))
        } else {
            Err((
                format!("{pinned} pinned; new or changed: {}", waits.join(", ")),
                "`hospital-node roster list`, compare, `roster accept --site NAME`".to_owned(),
            ))
        },
    );
    let studies = journal.studies().await?;
    for study in studies.iter().filter(|study| study.decision == Decision::Approved) {
        if !masked(study) {
            continue;
        }
        let check = format!("keys of {}", study.name);
        match journal.keys_left(study.id).await? {
            None => checks.skip(check, "none: the study does not run yet, or is over"),
            Some(KeysLeft::Announced) => checks.ok(check, "announced; other sites are awaited"),
            Some(KeysLeft::Agreed { slots }) => {
                checks.ok(check, format!("agreed; {slots} slots left"));
            }
        }
    }
    Ok(())
}

fn masked(study: &LocalStudy) -> bool {
    proto::manifest::parse(&study.manifest)
        .ok()
        .and_then(|manifest| Charter::new(manifest, study.sites.clone()).ok())
        .is_some_and(|charter| charter.thresholds().is_some())
}
