//! From the file that a person wrote to the settings that we trust.
//!
//! When [`Config::load`] returns, every value is within its bounds and every path is absolute or
//! relative to the working folder; nothing has been opened yet. One run reports every fault.
//! The coordinator's address and our name are not here: they come from enrolment.

mod data;
mod syslog;
mod trainer;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use aggregation::privacy::accountant::Accountant;
use proto::cli::Failure;
use toml::{Table, Value};

pub(crate) use self::syslog::Syslog;
pub(crate) use self::trainer::Trainer;
use crate::policy::{Budget, NewSites, Policy, Window};

/// What `enroll` writes when there is no configuration yet.
pub(crate) const SAMPLE: &str = include_str!("../../compose/node.toml");

/// The settings of one hospital's agent.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Where they were read.
    pub file: PathBuf,
    /// Keys, certificate, journal, work files.
    pub state: PathBuf,
    /// How the network is reached.
    pub proxy: Proxy,
    /// What this house allows.
    pub policy: Policy,
    /// The program that sees the records.
    pub trainer: Trainer,
    /// Where its lines go besides standard error, if anywhere.
    pub syslog: Option<Syslog>,
    /// The data sets by the name that the administrator gave them.
    pub data: BTreeMap<String, DataSet>,
    /// What is fetched from the house's archive, by name; what may stand there is for the program that
    /// fetches to say.
    pub pull: BTreeMap<String, Table>,
}

/// How connections leave the hospital.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// As `HTTPS_PROXY` and `NO_PROXY` say.
    Auto,
    /// Straight.
    Direct,
    /// Through this one.
    Url(String),
}

/// One folder or file of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataSet {
    /// What it is made of.
    pub kind: DataKind,
    /// The folder, or the file.
    pub path: PathBuf,
    /// Its manifest, where the kind has one.
    pub manifest: Option<PathBuf>,
}

/// What a data set is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataKind {
    /// A folder of images (DICOM, NIfTI, PNG, JPEG) and a manifest.
    Images,
    /// One NPZ file in the manner of `MedMNIST`.
    Npz,
}

impl DataKind {
    /// The word in the file and on the wire to the trainer.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Npz => "npz",
        }
    }
}

/// One thing that is wrong in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, as `section.key`.
    pub key: String,
    /// What stands there.
    pub found: String,
    /// What may stand there.
    pub allowed: &'static str,
    /// One that would do.
    pub example: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, found, allowed, example } = self;
        write!(f, "{key}: found {found}; allowed: {allowed}; for example {example}")
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there.
    #[error("no configuration at {}", .0.display())]
    Missing(PathBuf),
    /// It is there and cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("{} is not TOML: {found}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and what.
        found: String,
    },
    /// It is TOML, and some of it will not do.
    #[error("{} fault(s) in {}:{}", faults.len(), path.display(), listed(faults))]
    Faults {
        /// Which file.
        path: PathBuf,
        /// All of them.
        faults: Vec<Fault>,
    },
}

fn listed(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let (code, hint) = match &error {
            ConfigError::Missing(_) => (
                "config_missing",
                "name it with --config FILE; `hospital-node enroll` writes a sample",
            ),
            ConfigError::Unreadable { .. } => ("config_unreadable", "check its owner and mode"),
            ConfigError::Syntax { .. } => ("config_syntax", ""),
            ConfigError::Faults { .. } => ("config_faults", ""),
        };
        Self::usage(code, error.to_string()).hint(hint)
    }
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// When it is missing, unreadable, not TOML, or has faults; then all of them at once.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| {
            let path = path.to_owned();
            if source.kind() == std::io::ErrorKind::NotFound {
                ConfigError::Missing(path)
            } else {
                ConfigError::Unreadable { path, source }
            }
        })?;
        Self::parse(&text, path)
    }

    /// Checks text that came from `path`; paths in it are relative to that file's folder.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
            path: path.to_owned(),
            found: located(text, &error),
        })?;
        let base = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
        let mut faults = Vec::new();

        let mut top = Section::new("", Some(&table));
        let state = top.path("state", &base, "\"state\"", &mut faults);
        if state.is_none() && !table.contains_key("state") {
            faults.push(fault(
                "state",
                "nothing",
                "a folder, it is made if it is not there",
                "\"state\"",
            ));
        }
        let mut network = top.section("network", &mut faults);
        let mut policy = top.section("policy", &mut faults);
        let mut trainer = top.section("trainer", &mut faults);
        let mut feed = top.section("syslog", &mut faults);
        let data = data::read(&mut top, &base, &mut faults);
        let pull = data::pulls(&mut top, &mut faults);
        top.finish(&mut faults);

        let proxy = read_proxy(&mut network, &mut faults);
        let policy_settings = read_policy(&mut policy, &mut faults);
        let trainer_settings = trainer::read_trainer(&mut trainer, &base, &mut faults);
        let syslog = syslog::read(&mut feed, &base, &mut faults);
        for section in [network, policy, trainer, feed] {
            section.finish(&mut faults);
        }
        match state {
            Some(state) if faults.is_empty() => Ok(Self {
                file: path.to_owned(),
                trainer: Trainer {
                    cache: trainer_settings.cache.map(|(name, mib)| (state.join(name), mib)),
                    ..trainer_settings
                },
                state,
                proxy,
                policy: policy_settings,
                syslog,
                data,
                pull,
            }),
            _ => Err(ConfigError::Faults { path: path.to_owned(), faults }),
        }
    }
}

fn located(text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    error.span().map_or_else(
        || message.to_owned(),
        |span| {
            let before = text.get(..span.start).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            format!("line {line}: {message}")
        },
    )
}

fn read_proxy(section: &mut Section<'_>, faults: &mut Vec<Fault>) -> Proxy {
    const ALLOWED: &str = "\"auto\" (HTTPS_PROXY, NO_PROXY), \"none\", or http://host:port without a password (a password belongs in HTTPS_PROXY)";
    const EXAMPLE: &str = "\"http://proxy.hospital.example:3128\"";
    match section.text("proxy", ALLOWED, EXAMPLE, faults) {
        None | Some("auto") => Proxy::Auto,
        Some("none") => Proxy::Direct,
        Some(url) => {
            let parsed = url.parse::<http::Uri>().ok();
            let fits = parsed.is_some_and(|uri| {
                uri.scheme_str() == Some("http")
                    && uri.authority().is_some_and(|at| !at.as_str().contains('@'))
            });
            if !fits {
                // The value is not repeated: it may hold a password.
                faults.push(fault("network.proxy", "something else", ALLOWED, EXAMPLE));
            }
            Proxy::Url(url.to_owned())
        }
    }
}

fn read_policy(section: &mut Section<'_>, faults: &mut Vec<Fault>) -> Policy {
    let standard = Policy::default();
    let mut hours = Vec::new();
    if let Some(value) = section.take("hours") {
        const ALLOWED: &str = "a list of \"HH:MM-HH:MM\" in UTC; left out: any time";
        const EXAMPLE: &str = "[\"22:00-06:00\"]";
        match value.as_array() {
            Some(list) if !list.is_empty() => {
                for (index, item) in list.iter().enumerate() {
                    match item.as_str().and_then(|text| text.parse::<Window>().ok()) {
                        Some(window) => hours.push(window),
                        None => {
                            let key = format!("policy.hours[{index}]");
                            faults.push(fault(&key, &shown(item), ALLOWED, EXAMPLE));
                        }
                    }
                }
            }
            _ => faults.push(fault("policy.hours", &shown(value), ALLOWED, EXAMPLE)),
        }
    }
    const NEW_SITES: &str = "\"pin\" (at first sight) or \"ask\" (`hospital-node roster accept`)";
    let new_sites = match section.text("new_sites", NEW_SITES, "\"ask\"", faults) {
        None => standard.new_sites,
        Some("pin") => NewSites::Pin,
        Some("ask") => NewSites::Ask,
        Some(other) => {
            faults.push(fault("policy.new_sites", &format!("{other:?}"), NEW_SITES, "\"ask\""));
            standard.new_sites
        }
    };
    let standard_budget = Budget::default();
    let mut cap = |key, standard: f64, faults: &mut Vec<Fault>| {
        section
            .real(key, "a number above 0", "3.0", |value| value > 0.0, faults)
            .unwrap_or(standard)
    };
    let mut budget = Budget {
        epsilon_per_study: cap("epsilon_per_study", standard_budget.epsilon_per_study, faults),
        solo_epsilon_per_study: cap(
            "solo_epsilon_per_study",
            standard_budget.solo_epsilon_per_study,
            faults,
        ),
        epsilon_lifetime: cap("epsilon_lifetime", standard_budget.epsilon_lifetime, faults),
        solo_epsilon_lifetime: cap(
            "solo_epsilon_lifetime",
            standard_budget.solo_epsilon_lifetime,
            faults,
        ),
        ..standard_budget
    };
    let below_one = |value| value > 0.0 && value < 1.0;
    budget.delta = section
        .real("delta", "a number above 0 and below 1", "1e-5", below_one, faults)
        .unwrap_or(budget.delta);
    const ACCOUNTANTS: &str = "\"rdp\" or \"pld\", which is tighter";
    match section.text("accountant", ACCOUNTANTS, "\"rdp\"", faults) {
        None | Some("rdp") => {}
        Some("pld") => budget.accountant = Accountant::Pld,
        Some(other) => {
            faults.push(fault("policy.accountant", &format!("{other:?}"), ACCOUNTANTS, "\"rdp\""))
        }
    }
    Policy {
        budget: budget.caps().unwrap_or(standard.budget),
        danger_allow_image_level_privacy: section
            .flag("danger_allow_image_level_privacy", faults)
            .unwrap_or(standard.danger_allow_image_level_privacy),
        new_sites,
        danger_accept_unmasked_updates: section
            .flag("danger_accept_unmasked_updates", faults)
            .unwrap_or(standard.danger_accept_unmasked_updates),
        danger_allow_no_privacy: section
            .flag("danger_allow_no_privacy", faults)
            .unwrap_or(standard.danger_allow_no_privacy),
        max_rounds: section
            .number("max_rounds", 1..=1_000_000, "1 to 1000000", "500", faults)
            .unwrap_or(standard.max_rounds),
        min_cohort: section
            .number("min_cohort", 2..=4096, "2 to 4096", "3", faults)
            .unwrap_or(standard.min_cohort),
        hours,
    }
}

/// One table of the file, and which of its keys we asked for: the others are faults.
struct Section<'t> {
    prefix: String,
    table: Option<&'t Table>,
    asked: Vec<&'static str>,
}

impl<'t> Section<'t> {
    fn new(prefix: &str, table: Option<&'t Table>) -> Self {
        Self { prefix: prefix.to_owned(), table, asked: Vec::new() }
    }

    fn key(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) }
    }

    fn take(&mut self, key: &'static str) -> Option<&'t Value> {
        self.asked.push(key);
        self.table.and_then(|table| table.get(key))
    }

    fn section(&mut self, key: &'static str, faults: &mut Vec<Fault>) -> Self {
        let value = self.take(key);
        let table = value.and_then(Value::as_table);
        if let (Some(value), None) = (value, table) {
            faults.push(fault(&self.key(key), &shown(value), "a section", "[network]"));
        }
        Self::new(&self.key(key), table)
    }

    fn text(
        &mut self,
        key: &'static str,
        allowed: &'static str,
        example: &'static str,
        faults: &mut Vec<Fault>,
    ) -> Option<&'t str> {
        let value = self.take(key)?;
        let text = value.as_str();
        if text.is_none() {
            faults.push(fault(&self.key(key), &shown(value), allowed, example));
        }
        text
    }

    fn path(
        &mut self,
        key: &'static str,
        base: &Path,
        example: &'static str,
        faults: &mut Vec<Fault>,
    ) -> Option<PathBuf> {
        const ALLOWED: &str = "a path, relative to the configuration file or absolute";
        let text = self.text(key, ALLOWED, example, faults)?;
        if text.is_empty() {
            faults.push(fault(&self.key(key), "\"\"", ALLOWED, example));
            return None;
        }
        Some(base.join(text))
    }

    fn flag(&mut self, key: &'static str, faults: &mut Vec<Fault>) -> Option<bool> {
        let value = self.take(key)?;
        let flag = value.as_bool();
        if flag.is_none() {
            faults.push(fault(&self.key(key), &shown(value), "true or false", "false"));
        }
        flag
    }

    fn number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u32>,
        allowed: &'static str,
        example: &'static str,
        faults: &mut Vec<Fault>,
    ) -> Option<u32> {
        let value = self.take(key)?;
        let number = value
            .as_integer()
            .and_then(|found| u32::try_from(found).ok())
            .filter(|found| range.contains(found));
        if number.is_none() {
            faults.push(fault(&self.key(key), &shown(value), allowed, example));
        }
        number
    }

    fn real(
        &mut self,
        key: &'static str,
        allowed: &'static str,
        example: &'static str,
        fits: impl Fn(f64) -> bool,
        faults: &mut Vec<Fault>,
    ) -> Option<f64> {
        let value = self.take(key)?;
        let small = |found: i64| i32::try_from(found).ok().map(f64::from);
        let number = value
            .as_float()
            .or_else(|| value.as_integer().and_then(small))
            .filter(|found| found.is_finite() && fits(*found));
        if number.is_none() {
            faults.push(fault(&self.key(key), &shown(value), allowed, example));
        }
        number
    }

    fn finish(self, faults: &mut Vec<Fault>) {
        let unknown = self.table.into_iter().flat_map(Table::keys);
        for key in unknown.filter(|key| !self.asked.contains(&key.as_str())) {
            faults.push(Fault {
                key: self.key(key),
                found: "a key that we do not know".to_owned(),
                allowed: "only the keys of the sample",
                example: "a comment, \"# like this\"",
            });
        }
    }
}

fn fault(key: &str, found: &str, allowed: &'static str, example: &'static str) -> Fault {
    Fault { key: key.to_owned(), found: found.to_owned(), allowed, example }
}

/// A value in few characters.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Datetime(moment) => moment.to_string(),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Table(_) => "a section".to_owned(),
    }
}

#[cfg(test)]
mod tests;
