//! Section `[syslog]`.

use std::path::Path;

use proto::syslog::Settings;

use super::{Fault, Section, fault};

/// Bytes of lines that may wait, where nothing is said.
const ROOM: u64 = 64 << 20;

/// Where this program's lines go, besides standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Syslog {
    /// The receiver, and whom it and this node trust.
    pub to: Settings,
    /// Bytes of lines that may wait while it is away.
    pub space: u64,
}

/// Reads it; nothing where there is no such section.
pub(super) fn read(
    section: &mut Section<'_>,
    base: &Path,
    faults: &mut Vec<Fault>,
) -> Option<Syslog> {
    const RECEIVER: &str = "the receiver's HOST or HOST:PORT";
    const EXAMPLE: &str = "\"siem.hospital.example:6514\"";
    let receiver = section.text("receiver", RECEIVER, EXAMPLE, faults).map(str::to_owned);
    let ca = section.path("ca", base, "\"siem-ca.pem\"", faults);
    let certificate = section.path("certificate", base, "\"siem-client.pem\"", faults);
    let key = section.path("key", base, "\"siem-client.key\"", faults);
    let space = match section.text("space", "a number of MiB", "\"64MiB\"", faults) {
        None => Some(ROOM),
        Some(text) => {
            let number = text.strip_suffix("MiB").and_then(|number| number.trim_end().parse().ok());
            let bytes = number.filter(|number| (1..=65_536).contains(number)).map(|n: u64| n << 20);
            if bytes.is_none() {
                let found = format!("{text:?}");
                faults.push(fault("syslog.space", &found, "1MiB to 65536MiB", "\"64MiB\""));
            }
            bytes
        }
    };
    let client = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            let allowed = "certificate and key together, or neither";
            faults.push(fault("syslog.key", "one of the two", allowed, "\"siem-client.key\""));
            None
        }
    };
    match (receiver, ca) {
        (Some(receiver), Some(ca)) => {
            Some(Syslog { to: Settings { receiver, ca, client }, space: space? })
        }
        (None, None) if client.is_none() => None,
        (Some(_), None) => {
            faults.push(fault("syslog.ca", "nothing", "the receiver's CA, PEM", "\"siem-ca.pem\""));
            None
        }
        (None, _) => {
            faults.push(fault("syslog.receiver", "nothing", RECEIVER, EXAMPLE));
            None
        }
    }
}
