//! `verify`: the whole log, every hash.

use std::path::PathBuf;

use clap::Args;

use crate::entries::{LogArguments, read_kept, unverifiable};
use crate::output::{Failure, Output, visible};
use crate::witnesses::{Verified, verify};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    log: LogArguments,
    /// A checkpoint that you kept: the log must have grown out of it. May be given repeatedly.
    #[arg(long, value_name = "CHECKPOINT")]
    since: Vec<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let policy = arguments.log.read_policy()?;
    let since = read_kept(&arguments.since)?;
    let place = arguments.log.place()?;
    let verified = verify(&place, &policy, &since).map_err(|error| unverifiable(&error))?;
    for line in describe(&verified) {
        output.line(&visible(&line))?;
    }
    let findings = &verified.report.findings;
    match findings.first() {
        None => Ok(output.data(&verified)?),
        Some(first) => {
            let more = match findings.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            let message = visible(&format!("{}: {}{more}", first.place, first.what));
            Err(Failure::failed("verification_failed", message).data(&verified))
        }
    }
}

fn describe(Verified { report, witnesses }: &Verified) -> Vec<String> {
    let checked = &report.checked;
    let mut lines = vec![
        format!("log          {}", report.origin),
        format!("size         {} entries, root {}", report.size, report.root),
        format!("signed by    {}", report.signed_by.as_deref().unwrap_or("nobody of the policy")),
    ];
    let cosigned: Vec<_> =
        report.cosigned_by.iter().map(|it| format!("{} at {}", it.witness, it.time)).collect();
    let cosigned = if cosigned.is_empty() { "nobody".to_owned() } else { cosigned.join(", ") };
    lines.push(format!("cosigned by  {cosigned} (asked for: {})", report.quorum));
    if !report.not_cosigned_by.is_empty() {
        lines.push(format!("missing      {}: no cosignature", report.not_cosigned_by.join(", ")));
    }
    if let Some(time) = &report.newest_entry {
        lines.push(format!("newest       the last entry is from {time}"));
    }
    if let Some(time) = report.cosigned_by.iter().map(|it| &it.time).max() {
        lines.push(format!("newest       the last cosignature is from {time}"));
    }
    if let Some(ahead) = &report.ahead {
        let since = ahead.since.as_deref().map(|since| format!(", since {since}"));
        lines.push(format!(
            "NOT COSIGNED {} entries are signed and not cosigned{}: the witnesses may have refused them, ask the hospitals",
            ahead.entries,
            since.unwrap_or_default()
        ));
    }
    lines.push(format!(
        "checked      {} entries in {} bundles, {} tiles at {} levels, {} older partial files",
        checked.entries, checked.bundles, checked.tiles, checked.levels, checked.older_files
    ));
    for size in &checked.since {
        lines.push(format!("checked      grown out of the checkpoint of {size} entries"));
    }
    for it in witnesses {
        let identity = it.identity.as_deref().map(|identity| format!(" under identity {identity}"));
        let identity = identity.unwrap_or_default();
        lines.push(format!("witness      {} ({}) {}{identity}", it.witness, it.key, it.words()));
    }
    let not_checked = report.not_checked.iter().chain(&report.files_not_checked);
    lines.extend(not_checked.map(|what| format!("not checked  {what}")));
    lines
        .extend(report.findings.iter().map(|it| format!("wrong        {}: {}", it.place, it.what)));
    lines.push(if report.verified { "verified".to_owned() } else { "NOT VERIFIED".to_owned() });
    lines
}
