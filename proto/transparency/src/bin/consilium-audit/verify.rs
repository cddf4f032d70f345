//! `verify`: the whole log, every hash.

use std::path::PathBuf;

use clap::Args;
use transparency::verify::{Report, verify};

use crate::entries::{LogArguments, read_checkpoint, unverifiable};
use crate::output::{Failure, Output, visible};

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
    let since = arguments.since.iter().map(|path| read_checkpoint(path));
    let since = since.collect::<Result<Vec<_>, _>>()?;
    let place = arguments.log.place()?;
    let report = verify(&place, &policy, &since).map_err(|error| unverifiable(&error))?;
    for line in describe(&report) {
        output.line(&visible(&line))?;
    }
    match report.findings.first() {
        None => Ok(output.data(&report)?),
        Some(first) => {
            let more = match report.findings.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            let message = visible(&format!("{}: {}{more}", first.place, first.what));
            Err(Failure::failed("verification_failed", message).data(&report))
        }
    }
}

fn describe(report: &Report) -> Vec<String> {
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
    lines.push(format!(
        "checked      {} entries in {} bundles, {} tiles at {} levels, {} older partial files",
        checked.entries, checked.bundles, checked.tiles, checked.levels, checked.older_files
    ));
    for size in &checked.since {
        lines.push(format!("checked      grown out of the checkpoint of {size} entries"));
    }
    lines.extend(report.not_checked.iter().map(|what| format!("not checked  {what}")));
    lines
        .extend(report.findings.iter().map(|it| format!("wrong        {}: {}", it.place, it.what)));
    lines.push(if report.verified { "verified".to_owned() } else { "NOT VERIFIED".to_owned() });
    lines
}
