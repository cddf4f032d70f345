//! What the demo leaves for an auditor: the log, the policy to verify it with, and a report, made by
//! the auditor's own program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use proto::cli::{Exit, Failure};
use proto::federation::ShowLogRequest;
use proto::federation::operator_client::OperatorClient;
use tokio::process::Command;
use tonic::transport::Channel;

use super::federation::program;
use super::refused;
use crate::cli::log::Log;

/// How long the hospitals may take to cosign the whole log.
const PATIENCE: Duration = Duration::from_secs(60);
/// After so long, a hospital that has not cosigned is not waited for.
const ENOUGH: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(100);

/// What an auditor needs.
#[derive(Debug)]
pub(super) struct Evidence {
    /// The log's folder.
    pub(super) log: PathBuf,
    /// The policy file.
    pub(super) policy: PathBuf,
    /// The report on the study.
    pub(super) report: PathBuf,
    /// Rounds that were kept to be added up again.
    pub(super) kept: PathBuf,
    /// Whether the auditor's program found nothing wrong with the log.
    pub(super) verified: bool,
    /// How many of their sums were found to be those of the log.
    pub(super) recomputed: u64,
}

/// What of the demo's folder stays when the rest of it is removed.
pub(super) const KEPT: [&str; 4] = ["log", "policy.txt", "report.html", "kept"];

/// Waits until everything that happened is in a checkpoint that the hospitals have cosigned, and
/// writes the policy file.
pub(super) async fn settle(
    operator: &mut OperatorClient<Channel>,
    dir: &Path,
) -> Result<(), Failure> {
    let mut waited = Duration::ZERO;
    loop {
        let view = operator.show_log(ShowLogRequest {}).await;
        let log = Log::read(view.map_err(|status| refused("the log", &status))?.into_inner())?;
        if log.is_settled() || waited > ENOUGH && log.is_published() {
            let path = dir.join("policy.txt");
            return fs::write(&path, log.policy(None)?).map_err(|error| files(&path, &error));
        }
        if waited > PATIENCE {
            let message = "the log was not cosigned in time by most of the hospitals";
            return Err(Failure::new(Exit::Timeout, "log_not_cosigned", message));
        }
        tokio::time::sleep(PAUSE).await;
        waited += PAUSE;
    }
}

/// Verifies the log under that policy as anybody would, and writes the report. The coordinator must
/// have ended: the log is copied.
pub(super) async fn gather(dir: &Path, study: &str) -> Result<Evidence, Failure> {
    let [log, policy, report, kept] = KEPT.map(|name| dir.join(name));
    for (from, to) in [("log", &log), ("kept", &kept)] {
        let from = dir.join("coordinator/state").join(from);
        copy(&from, to).map_err(|error| files(&from, &error))?;
    }
    let audit = |command: &str| -> Result<Command, Failure> {
        let mut audit = Command::new(program("consilium-audit")?);
        audit.arg(command).arg("--log").arg(&log).arg("--policy").arg(&policy);
        Ok(audit)
    };
    let mut verify = audit("verify")?;
    verify.args(["--format", "json"]);
    let verified = said(verify).await?["verified"] == true;
    let mut page = audit("report")?;
    page.args(["--study", study]).arg("--out").arg(&report);
    run(page).await?;
    let mut again = audit("recompute")?;
    again.args(["--format", "json", "--study", study]).arg("--kept").arg(&kept);
    let recomputed = said(again).await?["same"].as_u64().unwrap_or_default();
    Ok(Evidence { log, policy, report, kept, verified, recomputed })
}

impl Evidence {
    /// The line that verifies it again.
    pub(super) fn line(&self) -> String {
        let (log, policy) = (self.log.display(), self.policy.display());
        format!("consilium-audit verify --log {log} --policy {policy}")
    }

    /// The line that adds the kept rounds up again.
    pub(super) fn recompute(&self) -> String {
        let Self { log, policy, kept, .. } = self;
        let (log, policy, kept) = (log.display(), policy.display(), kept.display());
        format!("consilium-audit recompute --log {log} --policy {policy} --kept {kept}")
    }
}

/// The data of what it says in JSON.
async fn said(audit: Command) -> Result<serde_json::Value, Failure> {
    let mut said: serde_json::Value = serde_json::from_slice(&run(audit).await?)
        .map_err(|error| Failure::failed("log_not_verified", error.to_string()))?;
    Ok(said["data"].take())
}

async fn run(mut audit: Command) -> Result<Vec<u8>, Failure> {
    let failed = |what: &dyn std::fmt::Display| {
        Failure::failed("log_not_verified", format!("consilium-audit: {what}"))
    };
    let output = audit.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| failed(&error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let error = said.lines().find_map(|line| line.strip_prefix("error: "));
    Err(failed(&error.unwrap_or("it said nothing")))
}

/// Copies a folder of files and folders; the writer's lock is no part of a log.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(name))?;
        } else if name != transparency::folder::LOCK {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

fn files(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed("demo_files", format!("{}: {error}", path.display()))
}
