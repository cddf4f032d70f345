//! Whether this house's collector would take the lines of a node that runs.

use proto::syslog::Receiver;

use super::Checks;
use crate::config::Syslog;

/// Connects as the running node does, and sends nothing.
pub(super) async fn check(settings: Option<&Syslog>, checks: &mut Checks) {
    let Some(settings) = settings else {
        return checks.skip("syslog", "no section [syslog]: lines go to standard error alone");
    };
    let verdict = match Receiver::load(&settings.to) {
        Ok(receiver) => match receiver.probe().await {
            Ok(()) => Ok(format!("{} is there, and each trusts the other", receiver.address())),
            Err(error) => Err((error.message, error.hint)),
        },
        Err(fault) => Err((fault, "check the files that [syslog] names".to_owned())),
    };
    checks.judge("syslog", verdict);
}
