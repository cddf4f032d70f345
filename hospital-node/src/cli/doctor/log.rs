//! What this house has seen of the coordinator's log.

use super::Checks;
use crate::identity::Enrolled;
use crate::state::State;
use crate::witness::{self, Standing};

/// Changes nothing.
pub(super) fn check(state: &State, enrolled: &Enrolled, checks: &mut Checks) {
    let found = match witness::standing(state, &enrolled.consortium, &enrolled.me) {
        Ok(found) => found,
        Err(error) => {
            let fix = "restore the state folder from a backup, or ask the operator";
            return checks.fail("log", error.to_string(), fix);
        }
    };
    let Standing { key, log, size, alarm } = found;
    let (Some(key), Some(log)) = (key, log) else {
        return checks.skip("log", "not seen yet; `hospital-node run` witnesses it");
    };
    checks.ok("witness key", key);
    if let Some(reason) = alarm {
        let file = witness::alarm_file(state);
        let fix = format!(
            "{} is evidence against the coordinator: tell the other hospitals and the auditor; no \
             round is taken part in while the file is there. If it is a new key of the log, and you \
             were told that key by a way that does not lead through the coordinator: stop the node, \
             write it above the old one in witness.log beside that file, and take the file away",
            file.display()
        );
        return checks.fail("log", format!("ALARM: {reason}"), fix);
    }
    let size = size.map_or_else(|| "nothing yet".to_owned(), |size| format!("{size} entries"));
    checks.ok("log", format!("{log}; cosigned: {size}"));
}
