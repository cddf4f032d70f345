//! From the file that a person wrote to the settings that we trust.
//!
//! One run reports every fault. Paths in the file are relative to the file. Nothing in it is a
//! secret: keys are named by path.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::syslog::Settings;
use toml::{Table, Value};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The valid settings of a coordinator.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// The consortium's name; part of every certificate.
    pub(crate) consortium: String,
    /// Where hospitals and operators reach this coordinator.
    pub(crate) url: ServiceUrl,
    /// Where this coordinator listens.
    pub(crate) listen: SocketAddr,
    /// The folder of the database, the blobs and the log.
    pub(crate) state: PathBuf,
    /// What the log is signed with.
    pub(crate) log_key: PathBuf,
    /// Certificates of the consortium.
    pub(crate) certificates: Certificates,
    /// Who the operator's commands speak as.
    pub(crate) operator: Operator,
    /// How much is accepted at once.
    pub(crate) limits: Limits,
    /// What is kept of rounds for an auditor.
    pub(crate) recompute: Recompute,
    /// Where facts are fed to, if anywhere.
    pub(crate) syslog: Option<Settings>,
}

/// Section `[certificates]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificates {
    /// The consortium's CA.
    pub(crate) ca: PathBuf,
    /// Its key.
    pub(crate) ca_key: PathBuf,
    /// The server's certificate; rewritten when it renews itself.
    pub(crate) server: PathBuf,
    /// The server's key.
    pub(crate) server_key: PathBuf,
    /// How long a site's certificate lives.
    pub(crate) site_lifetime: Duration,
    /// How long the server's certificate lives.
    pub(crate) server_lifetime: Duration,
}

/// Section `[operator]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operator {
    /// The certificate of the operator's commands.
    pub(crate) certificate: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
}

/// Section `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Open connections.
    pub(crate) connections: usize,
    /// TLS handshakes under way at once.
    pub(crate) handshakes: usize,
    /// How long a peer may be silent in the middle of an upload.
    pub(crate) upload_idle: Duration,
}

/// Section `[recompute]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Recompute {
    /// The share of released rounds that are kept to be added up again, from 0 to 1.
    pub(crate) share: f64,
    /// Bytes that all of them may take on disk.
    pub(crate) space: u64,
    /// How long each is kept.
    pub(crate) retention: Duration,
}

/// An `https` address with its host and port taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceUrl {
    /// The address as written.
    pub(crate) text: String,
    /// A DNS name or an IP address, without brackets.
    pub(crate) host: String,
    /// The port; 443 when none is written.
    pub(crate) port: u16,
}

impl ServiceUrl {
    /// Reads an address.
    ///
    /// # Errors
    /// What was expected, when it is not `https://HOST[:PORT]`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        const ALLOWED: &str = "https://HOST or https://HOST:PORT, without a path";
        let uri: http::Uri = text.parse().map_err(|_| ALLOWED.to_owned())?;
        let plain = uri.path() == "/" && uri.query().is_none() && !text.ends_with('/');
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        if uri.scheme_str() != Some("https") || host.is_empty() || !plain || text.contains('@') {
            return Err(ALLOWED.to_owned());
        }
        let port = match uri.port() {
            Some(port) => port.as_u16(),
            None => 443,
        };
        Ok(Self { text: text.to_owned(), host: host.to_owned(), port })
    }
}

/// One thing wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The key, with its section.
    pub(crate) key: String,
    /// What stands there.
    pub(crate) found: String,
    /// What may stand there, with an example.
    pub(crate) allowed: String,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML: {message}", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Where and why, on one line.
        message: String,
    },
    /// Every fault of its content.
    #[error("{}: {}", path.display(), Faults(faults))]
    Faults {
        /// The file.
        path: PathBuf,
        /// All of them.
        faults: Vec<Fault>,
    },
}

struct Faults<'a>(&'a [Fault]);

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} fault{}", if count == 1 { "" } else { "s" })?;
        for fault in self.0 {
            write!(f, "\n  {}: found {}; expected {}", fault.key, fault.found, fault.allowed)?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads and validates a file, and checks that the files it names are there.
    ///
    /// # Errors
    /// Every fault at once.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Self::parse(&text, &folder).map_err(|refused| match refused {
            Refused::Toml(message) => ConfigError::NotToml { path: path.to_owned(), message },
            Refused::Faults(faults) => ConfigError::Faults { path: path.to_owned(), faults },
        })
    }

    /// Validates the text of a file that lies in `folder`.
    fn parse(text: &str, folder: &Path) -> Result<Self, Refused> {
        let table: Table = text.parse().map_err(|fault: toml::de::Error| {
            Refused::Toml(fault.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
        })?;
        let mut faults = Vec::new();
        let mut top = Section::new("", table);
        let consortium = top.name("consortium", &mut faults);
        let url = top.url("url", &mut faults);
        let listen = top.address("listen", &mut faults);
        let state = top.path("state", "state", folder);
        let log_key = top.path("log_key", "log.key", folder);
        let mut section = top.section("certificates", &mut faults);
        let certificates = Certificates {
            ca: section.path("ca", "ca.pem", folder),
            ca_key: section.path("ca_key", "ca.key", folder),
            server: section.path("server", "server.pem", folder),
            server_key: section.path("server_key", "server.key", folder),
            site_lifetime: section.span(
                "site_lifetime",
                30 * DAY,
                DAY / 24,
                398 * DAY,
                &mut faults,
            ),
            server_lifetime: section.span(
                "server_lifetime",
                90 * DAY,
                DAY / 24,
                398 * DAY,
                &mut faults,
            ),
        };
        section.finish(&mut faults);
        let mut section = top.section("operator", &mut faults);
        let operator = Operator {
            certificate: section.path("certificate", "operator.pem", folder),
            key: section.path("key", "operator.key", folder),
        };
        section.finish(&mut faults);
        let mut section = top.section("limits", &mut faults);
        let limits = Limits {
            connections: section.count("connections", 1024, 1, 65_536, &mut faults),
            handshakes: section.count("handshakes", 64, 1, 4096, &mut faults),
            upload_idle: section.span(
                "upload_idle",
                Duration::from_secs(30),
                Duration::from_secs(1),
                DAY / 24,
                &mut faults,
            ),
        };
        section.finish(&mut faults);
        let mut section = top.section("recompute", &mut faults);
        let recompute = Recompute {
            share: section.share("share", 0.1, &mut faults),
            space: section.space("space", 16 << 30, &mut faults),
            retention: section.span("retention", 365 * DAY, DAY, 3_650 * DAY, &mut faults),
        };
        section.finish(&mut faults);
        let syslog = top.table.contains_key("syslog").then(|| top.syslog(folder, &mut faults));
        top.finish(&mut faults);
        match (consortium, url, listen) {
            (Some(consortium), Some(url), Some(listen)) if faults.is_empty() => Ok(Self {
                consortium,
                url,
                listen,
                state,
                log_key,
                certificates,
                operator,
                limits,
                recompute,
                syslog: syslog.flatten(),
            }),
            _ => Err(Refused::Faults(faults)),
        }
    }
}

enum Refused {
    Toml(String),
    Faults(Vec<Fault>),
}

/// Whether `text` can name a consortium, a site or an operator: 1 to 63 of `a-z0-9-`, no `-` at the ends.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// One table of the file; what is left in it at the end is unknown.
struct Section {
    prefix: String,
    table: Table,
}

impl Section {
    fn new(prefix: &str, table: Table) -> Self {
        Self { prefix: prefix.to_owned(), table }
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn fault(&self, key: &str, found: impl fmt::Display, allowed: impl fmt::Display) -> Fault {
        Fault { key: self.key(key), found: found.to_string(), allowed: allowed.to_string() }
    }

    fn section(&mut self, key: &str, faults: &mut Vec<Fault>) -> Self {
        let table = match self.table.remove(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                faults.push(self.fault(key, shown(&other), format!("a section [{key}]")));
                Table::new()
            }
        };
        Self::new(&format!("{}{key}.", self.prefix), table)
    }

    /// A key that must be there and must be a string.
    fn text(&mut self, key: &str, allowed: &str, faults: &mut Vec<Fault>) -> Option<String> {
        match self.table.remove(key) {
            Some(Value::String(text)) => Some(text),
            Some(other) => {
                faults.push(self.fault(key, shown(&other), allowed));
                None
            }
            None => {
                faults.push(self.fault(key, "nothing", allowed));
                None
            }
        }
    }

    fn name(&mut self, key: &str, faults: &mut Vec<Fault>) -> Option<String> {
        let allowed = "1 to 63 of a-z, 0-9 and '-', such as \"north-consortium\"";
        let text = self.text(key, allowed, faults)?;
        if is_name(&text) {
            return Some(text);
        }
        faults.push(self.fault(key, format!("{text:?}"), allowed));
        None
    }

    fn url(&mut self, key: &str, faults: &mut Vec<Fault>) -> Option<ServiceUrl> {
        let allowed = "an address such as \"https://coordinator.example.org:8443\"";
        let text = self.text(key, allowed, faults)?;
        match ServiceUrl::parse(&text) {
            Ok(url) => Some(url),
            Err(expected) => {
                faults.push(self.fault(key, format!("{text:?}"), expected));
                None
            }
        }
    }

    fn address(&mut self, key: &str, faults: &mut Vec<Fault>) -> Option<SocketAddr> {
        let allowed = "an address and port such as \"0.0.0.0:8443\"";
        let text = self.text(key, allowed, faults)?;
        match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                faults.push(self.fault(key, format!("{text:?}"), allowed));
                None
            }
        }
    }

    /// A path, relative to the file's folder. Anything but a string is left for `finish` to name.
    fn path(&mut self, key: &str, default: &str, folder: &Path) -> PathBuf {
        match self.table.get(key) {
            Some(Value::String(text)) if !text.is_empty() => {
                let path = folder.join(text);
                self.table.remove(key);
                path
            }
            _ => folder.join(default),
        }
    }

    fn span(
        &mut self,
        key: &str,
        default: Duration,
        least: Duration,
        most: Duration,
        faults: &mut Vec<Fault>,
    ) -> Duration {
        let Some(value) = self.table.remove(key) else { return default };
        let parsed = value.as_str().and_then(|text| humantime::parse_duration(text).ok());
        match parsed {
            Some(span) if span >= least && span <= most => span,
            Some(_) | None => {
                let (least, most) =
                    (humantime::format_duration(least), humantime::format_duration(most));
                let example = humantime::format_duration(default);
                let allowed =
                    format!("a span from \"{least}\" to \"{most}\", such as \"{example}\"");
                faults.push(self.fault(key, shown(&value), allowed));
                default
            }
        }
    }

    fn count(
        &mut self,
        key: &str,
        default: usize,
        least: usize,
        most: usize,
        faults: &mut Vec<Fault>,
    ) -> usize {
        let Some(value) = self.table.remove(key) else { return default };
        let parsed = value.as_integer().and_then(|number| usize::try_from(number).ok());
        match parsed {
            Some(number) if number >= least && number <= most => number,
            Some(_) | None => {
                let allowed = format!("a number from {least} to {most}, such as {default}");
                faults.push(self.fault(key, shown(&value), allowed));
                default
            }
        }
    }

    /// A part of a whole, from 0 to 1.
    fn share(&mut self, key: &str, default: f64, faults: &mut Vec<Fault>) -> f64 {
        let Some(value) = self.table.remove(key) else { return default };
        let whole = value.as_integer().and_then(|number| i32::try_from(number).ok());
        match value.as_float().or(whole.map(f64::from)) {
            Some(share) if (0.0..=1.0).contains(&share) => share,
            Some(_) | None => {
                let allowed = format!("a number from 0 to 1, such as {default}");
                faults.push(self.fault(key, shown(&value), allowed));
                default
            }
        }
    }

    /// Bytes, as a number with its unit.
    fn space(&mut self, key: &str, default: u64, faults: &mut Vec<Fault>) -> u64 {
        let Some(value) = self.table.remove(key) else { return default };
        let units = [("MiB", 20), ("GiB", 30), ("TiB", 40)];
        let parsed = value.as_str().and_then(|text| {
            let (unit, shift) = units.iter().find(|(unit, _)| text.ends_with(unit))?;
            let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
            number.checked_mul(1 << shift)
        });
        if let Some(bytes) = parsed {
            return bytes;
        }
        let allowed = "a number of MiB, GiB or TiB, such as \"16GiB\"";
        faults.push(self.fault(key, shown(&value), allowed));
        default
    }

    fn syslog(&mut self, folder: &Path, faults: &mut Vec<Fault>) -> Option<Settings> {
        let mut section = self.section("syslog", faults);
        let allowed = "the receiver's HOST or HOST:PORT, such as \"siem.example.org:6514\"";
        let receiver = section.text("receiver", allowed, faults);
        let ca = section.path("ca", "siem-ca.pem", folder);
        let shown = ["certificate", "key"].map(|key| section.table.contains_key(key));
        let files = ["certificate", "key"].map(|key| section.path(key, "", folder));
        if shown[0] != shown[1] {
            let allowed = "certificate and key together, or neither";
            faults.push(section.fault("key", "one of the two", allowed));
        }
        section.finish(faults);
        let [certificate, key] = files;
        let client = shown[0].then_some((certificate, key));
        receiver.map(|receiver| Settings { receiver, ca, client })
    }

    /// Names every key that nothing above has taken.
    fn finish(self, faults: &mut Vec<Fault>) {
        for (key, value) in &self.table {
            let path_like = ["state", "ca", "ca_key", "server", "server_key", "certificate", "key"];
            let allowed = if path_like.contains(&key.as_str()) && !value.is_table() {
                "a path, such as \"state\""
            } else {
                "no such key; remove it"
            };
            faults.push(self.fault(key, shown(value), allowed));
        }
    }
}

/// A value on one short line.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Table(_) => "a section".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::String(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Datetime(_) => value.to_string(),
    };
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use aggregation::privacy::accountant::Accountant;
    use aggregation::study::Study;

    use super::*;

    const GOOD: &str =
        "consortium = \"north\"\nurl = \"https://localhost:8443\"\nlisten = \"127.0.0.1:8443\"\n";

    #[test]
    fn the_samples_are_a_good_configuration_and_a_good_study() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compose/coordinator.toml");
        let config = Config::load(&file).expect("no faults");
        assert_eq!((config.consortium.as_str(), config.url.port), ("council", 443));
        let study = proto::manifest::parse(include_str!("../../compose/study.toml"));
        assert_eq!(study.expect("no faults").cohort.quorum, 3);
        let study = proto::manifest::parse(include_str!("../../compose/private-study.toml"));
        let study = study.expect("no faults");
        let plan = study.noise_plan(5).expect("five hospitals can keep it").expect("private");
        assert!(plan.epsilon(plan_accountant(&study)).planned.get() <= 3.0);
    }

    fn plan_accountant(study: &Study) -> Accountant {
        study.privacy.rules().expect("private").accountant
    }

    fn faults(text: &str) -> Vec<String> {
        match Config::parse(text, Path::new("/etc/consilium")) {
            Ok(_) => Vec::new(),
            Err(Refused::Faults(faults)) => faults.into_iter().map(|f| f.key).collect(),
            Err(Refused::Toml(message)) => vec![message],
        }
    }

    #[test]
    fn the_shortest_file_is_enough_and_paths_are_relative_to_it() {
        let Ok(config) = Config::parse(GOOD, Path::new("/etc/consilium")) else {
            unreachable!("the file is valid")
        };
        assert_eq!(config.state, Path::new("/etc/consilium/state"));
        assert_eq!(config.certificates.site_lifetime, 30 * DAY);
        assert_eq!(config.url.port, 8443);
        let share =
            format!("{GOOD}[recompute]\nshare = 1\nspace = \"64 MiB\"\nretention = \"30d\"\n");
        let Ok(config) = Config::parse(&share, Path::new("/")) else {
            unreachable!("the file is valid")
        };
        let wanted = Recompute { share: 1.0, space: 64 << 20, retention: 30 * DAY };
        assert_eq!((config.recompute, config.syslog), (wanted, None));
        let fed = format!("{GOOD}[syslog]\nreceiver = \"siem.example.org\"\nca = \"ca.pem\"\n");
        let Ok(config) = Config::parse(&fed, Path::new("/etc")) else {
            unreachable!("the file is valid")
        };
        let syslog = config.syslog.expect("it is there");
        assert_eq!((syslog.receiver.as_str(), syslog.client), ("siem.example.org", None));
        assert_eq!(faults(&fed.replace("ca =", "key =")), ["syslog.key"]);
        assert_eq!(faults(&fed.replace("receiver", "colour")).len(), 2);
    }

    #[test]
    fn every_fault_is_reported_in_one_run() {
        let found = faults(
            "consortium = \"North!\"\nurl = \"http://x\"\nlisten = 8443\nstate = 7\ncolour = \"red\"\n\
             [certificates]\nsite_lifetime = \"5 minutes\"\nca = 3\n[limits]\nconnections = 0\nspeed = 1\n\
             [recompute]\nshare = 2\nspace = \"16\"\nretention = 7\n",
        );
        for key in [
            "consortium",
            "url",
            "listen",
            "state",
            "colour",
            "certificates.site_lifetime",
            "certificates.ca",
            "limits.connections",
            "limits.speed",
            "recompute.share",
            "recompute.space",
            "recompute.retention",
        ] {
            assert!(found.iter().any(|f| f == key), "{key} is not among {found:?}");
        }
        assert_eq!(found.len(), 12, "{found:?}");
    }

    #[test]
    fn an_address_is_https_without_a_path() {
        for bad in ["https://", "https://a/b", "http://a", "a:443", "https://a/", "https://u@a", ""]
        {
            assert!(ServiceUrl::parse(bad).is_err(), "{bad}");
        }
        let six = ServiceUrl::parse("https://[::1]:9000").expect("an IPv6 address is valid");
        assert_eq!((six.host.as_str(), six.port), ("::1", 9000));
        let plain = ServiceUrl::parse("https://coordinator.example.org").expect("no port is valid");
        assert_eq!(plain.port, 443);
    }
}
