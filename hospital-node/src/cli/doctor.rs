//! `doctor`: every thing that a round needs, checked one by one, with what to do about it. Changes
//! nothing, and asks the coordinator only what the running node asks as well.

mod keys;
mod log;
mod syslog;

use std::path::Path;
use std::time::Duration;

use proto::channel::{ChannelError, Trouble};
use proto::cli::{Exit, Failure};
use proto::federation::{ListStudiesRequest, WatchRequest, notice};
use proto::status::to_failure;
use serde::Serialize;

use super::Context;
use crate::config::{Config, DataKind, DataSet, Proxy};
use crate::identity::{self, Enrolled, SECRETS};
use crate::link::{self, Client};
use crate::purse::ALARM;
use crate::state::{OTHERS, State};
use crate::{clock, cpu, purse, worker};

/// Less free space than this in the state folder is a fault.
const LEAST_SPACE: u64 = 1 << 30;
/// A certificate that ends sooner than this should have been renewed long ago.
const LEAST_LIFE: Duration = Duration::from_secs(5 * 24 * 3600);
/// A clock further away than this makes certificates look expired or not yet valid.
const MOST_SKEW: Duration = Duration::from_secs(60);
/// How long we wait for an answer of the coordinator.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Fail,
    Skipped,
}

#[derive(Debug, Serialize)]
struct Check {
    check: String,
    result: Verdict,
    found: String,
    fix: String,
}

#[derive(Debug, Serialize)]
struct Report {
    healthy: bool,
    checks: Vec<Check>,
}

#[derive(Debug, Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn add(
        &mut self,
        check: impl Into<String>,
        result: Verdict,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(Check { check: check.into(), result, found: found.into(), fix: fix.into() });
    }

    fn ok(&mut self, check: impl Into<String>, found: impl Into<String>) {
        self.add(check, Verdict::Ok, found, "");
    }

    fn fail(&mut self, check: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) {
        self.add(check, Verdict::Fail, found, fix);
    }

    fn skip(&mut self, check: impl Into<String>, why: impl Into<String>) {
        self.add(check, Verdict::Skipped, why, "");
    }

    /// `Ok`: what was found; `Err`: what was found and how to fix it.
    fn judge(&mut self, check: impl Into<String>, verdict: Result<String, (String, String)>) {
        match verdict {
            Ok(found) => self.ok(check, found),
            Err((found, fix)) => self.fail(check, found, fix),
        }
    }
}

pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let mut checks = Checks::default();
    match Config::load(&context.config) {
        Ok(config) => {
            checks.ok("configuration", context.config.display().to_string());
            examine(&config, &mut checks).await;
        }
        Err(error) => {
            let failure = Failure::from(error);
            checks.fail("configuration", failure.message, failure.hint);
        }
    }
    let healthy = checks.0.iter().all(|check| check.result != Verdict::Fail);
    let report = Report { healthy, checks: checks.0 };
    context.print(&report, |out| {
        for Check { check, result, found, fix } in &report.checks {
            let result = match result {
                Verdict::Ok => "ok",
                Verdict::Fail => "FAIL",
                Verdict::Skipped => "-",
            };
            writeln!(out, "{check:<22} {result:<5} {found}")?;
            if !fix.is_empty() {
                writeln!(out, "{:<28} -> {fix}", "")?;
            }
        }
        Ok(())
    })?;
    Ok(if healthy { Exit::Ok } else { Exit::Failed })
}

async fn examine(config: &Config, checks: &mut Checks) {
    let state = State::unopened(&config.state);
    check_state(&state, checks);
    check_space(&state, checks);
    checks.judge(
        "processor",
        match cpu::require_aes(cpu::has_aes()) {
            Ok(()) => Ok("has AES instructions".to_owned()),
            Err(failure) => Err((failure.message, failure.hint)),
        },
    );
    match Enrolled::load(&state) {
        Ok(enrolled) => {
            checks.ok("enrolment", format!("{} in {}", enrolled.me, enrolled.consortium));
            check_ledger(&state, &enrolled, checks);
            check_certificate(&enrolled, checks);
            log::check(&state, &enrolled, checks);
            check_network(&state, &enrolled, &config.proxy, checks).await;
        }
        Err(error) => {
            let failure = Failure::from(error);
            checks.fail("enrolment", failure.message, failure.hint);
            checks.skip("coordinator", "not asked: this machine cannot say who it is");
        }
    }
    keys::check(&state, checks).await;
    syslog::check(config.syslog.as_ref(), checks).await;
    checks.judge(
        "trainer",
        worker::version(&config.trainer.program).await.map_err(|error| {
            (
                error.to_string(),
                "install hospital-trainer beside hospital-node, or set trainer.program".to_owned(),
            )
        }),
    );
    if config.data.is_empty() {
        checks.fail("data", "no data set", "add a section [data.NAME] to the configuration");
    }
    for (name, set) in &config.data {
        checks.judge(format!("data {name}"), readable(set));
    }
}

/// The privacy ledger can be read, and is not an old copy as far as the running node has seen.
fn check_ledger(state: &State, enrolled: &Enrolled, checks: &mut Checks) {
    let alarm = match state.read(ALARM) {
        Ok(alarm) => alarm.map(|text| String::from_utf8_lossy(&text).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    };
    let fix = "put back the newest copy of the state folder's file `ledger`, then restart the node";
    checks.judge(
        "privacy ledger",
        match (purse::look(state, &enrolled.me), alarm) {
            (Err(error), _) => Err((error.to_string(), fix.to_owned())),
            (Ok(_), Some(alarm)) => Err((alarm, fix.to_owned())),
            (Ok(ledger), None) => Ok(format!("{} records", ledger.head().seq)),
        },
    );
}

fn check_state(state: &State, checks: &mut Checks) {
    use std::os::unix::fs::PermissionsExt as _;
    let root = state.root();
    let verdict = match std::fs::metadata(root) {
        Err(error) => Err((
            format!("{}: {error}", root.display()),
            "`hospital-node enroll` makes it".to_owned(),
        )),
        Ok(found) if !found.is_dir() => {
            Err((format!("{} is no folder", root.display()), "name a folder in `state`".to_owned()))
        }
        Ok(found) => match found.permissions().mode() & 0o777 {
            mode if mode & OTHERS == 0 => Ok(format!("{}, mode {mode:o}", root.display())),
            mode => Err((
                format!("{} has mode {mode:o}", root.display()),
                format!("chmod 700 {}", root.display()),
            )),
        },
    };
    checks.judge("state folder", verdict);
    for name in SECRETS {
        let path = state.file(name);
        let verdict = match identity::mode_of(state, name) {
            None => Err(("missing".to_owned(), "`hospital-node enroll` makes it".to_owned())),
            Some(mode) if mode & OTHERS == 0 => Ok(format!("mode {mode:o}")),
            Some(mode) => Err((format!("mode {mode:o}"), format!("chmod 600 {}", path.display()))),
        };
        checks.judge(name, verdict);
    }
}

fn check_space(state: &State, checks: &mut Checks) {
    let verdict = match rustix::fs::statvfs(state.root()) {
        Err(error) => Err((error.to_string(), "check the state folder".to_owned())),
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let shown = format!("{} MiB free", free >> 20);
            if free >= LEAST_SPACE {
                Ok(shown)
            } else {
                Err((
                    shown,
                    format!(
                        "free at least {} MiB in the state folder's file system",
                        LEAST_SPACE >> 20
                    ),
                ))
            }
        }
    };
    checks.judge("disk space", verdict);
}

fn check_certificate(enrolled: &Enrolled, checks: &mut Checks) {
    let left = enrolled.ends.since(clock::now());
    let ends = clock::rfc3339(enrolled.ends);
    let days = left.as_secs() / 86_400;
    let life = enrolled.ends.since(enrolled.obtained);
    let verdict = if left.is_zero() {
        Err((
            format!("ended at {ends}"),
            "`hospital-node enroll` with a new token from the operator".to_owned(),
        ))
    } else if left < LEAST_LIFE.min(life / 6) {
        Err((
            format!("{days} days left, until {ends}"),
            "`hospital-node renew`; is `run` running?".to_owned(),
        ))
    } else {
        Ok(format!("{days} days left, until {ends}"))
    };
    checks.judge("certificate", verdict);
}

async fn check_network(state: &State, enrolled: &Enrolled, proxy: &Proxy, checks: &mut Checks) {
    // The steps of the way, in order; an error names the one that broke.
    let steps = ["name", "way out (TCP, proxy)", "TLS, consortium's CA"];
    let connected = tokio::time::timeout(PATIENCE + PATIENCE, link::connect(enrolled, proxy)).await;
    let error = match connected {
        Ok(Ok(client)) => {
            for step in steps {
                checks.ok(step, &*enrolled.coordinator);
            }
            check_answers(state, client, checks).await;
            return;
        }
        Ok(Err(error)) => error,
        Err(_) => ChannelError {
            trouble: Trouble::Timeout,
            message: format!("no connection to {}", enrolled.coordinator),
            hint: "check the firewall and the proxy".to_owned(),
        },
    };
    let broken = match error.trouble {
        Trouble::Settings | Trouble::Name => 0,
        Trouble::Unreachable | Trouble::ProxyAuthentication | Trouble::Proxy | Trouble::Timeout => {
            1
        }
        Trouble::WrongServer | Trouble::Clock | Trouble::Rejected | Trouble::Tls => 2,
    };
    for (index, step) in steps.into_iter().enumerate() {
        match index.cmp(&broken) {
            std::cmp::Ordering::Less => checks.ok(step, &*enrolled.coordinator),
            std::cmp::Ordering::Equal => checks.fail(step, &*error.message, &*error.hint),
            std::cmp::Ordering::Greater => checks.skip(step, "not reached"),
        }
    }
    checks.skip("coordinator", "not reached");
}

async fn check_answers(state: &State, mut client: Client, checks: &mut Checks) {
    let asked = tokio::time::timeout(PATIENCE, client.list_studies(ListStudiesRequest {})).await;
    match asked {
        Ok(Ok(reply)) => {
            checks.ok("coordinator", format!("answers; {} studies", reply.get_ref().studies.len()))
        }
        Ok(Err(status)) => {
            let failure = to_failure(&status);
            checks.fail("coordinator", failure.message, failure.hint);
            return;
        }
        Err(_) => {
            checks.fail("coordinator", "no answer in time", "ask the operator");
            return;
        }
    }
    // A session of ours would end that of a running node, which compares the clocks itself.
    let Ok(_held) = state.lock() else {
        checks.skip("clock", "the running node compares it at each connection; see its log");
        return;
    };
    let hello = tokio::time::timeout(PATIENCE, hello(&mut client)).await.ok().flatten();
    let Some(theirs) = hello else {
        checks.skip("clock", "the coordinator did not say the time");
        return;
    };
    let ours = clock::now();
    let away = ours.since(theirs).max(theirs.since(ours));
    let found = format!("{} s from the coordinator's", away.as_secs());
    checks.judge(
        "clock",
        if away <= MOST_SKEW { Ok(found) } else { Err((found, "set the clock by NTP".to_owned())) },
    );
}

async fn hello(client: &mut Client) -> Option<aggregation::units::Timestamp> {
    let request = WatchRequest { version: env!("CARGO_PKG_VERSION").to_owned() };
    let mut notices = client.watch(request).await.ok()?.into_inner();
    let notice::Notice::Hello(hello) = notices.message().await.ok()??.notice? else { return None };
    Some(aggregation::units::Timestamp::from_millis(hello.server_time_ms))
}

fn readable(set: &DataSet) -> Result<String, (String, String)> {
    let fix = || "check the path, and that this user may read it".to_owned();
    let told = |path: &Path, error: std::io::Error| (format!("{}: {error}", path.display()), fix());
    match set.kind {
        DataKind::Images => std::fs::read_dir(&set.path).map(|_| ()),
        DataKind::Npz => std::fs::File::open(&set.path).map(|_| ()),
    }
    .map_err(|error| told(&set.path, error))?;
    if let Some(manifest) = &set.manifest {
        std::fs::File::open(manifest).map_err(|error| told(manifest, error))?;
    }
    Ok(format!("{} at {}", set.kind.name(), set.path.display()))
}
