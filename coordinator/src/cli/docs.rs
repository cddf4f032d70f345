//! Completions and manual pages, from the command line's own description.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;
use proto::cli::Failure;

use super::out::{Out, heard};

/// Arguments of `coordinator completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// Which shell.
    shell: Shell,
}

/// Arguments of `coordinator man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The folder; it is made if it is not there.
    dir: PathBuf,
}

/// Prints completions.
pub(super) fn completions(
    args: &CompletionArgs,
    mut command: clap::Command,
) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "coordinator", &mut script);
    heard(std::io::Write::write_all(&mut std::io::stdout().lock(), &script))
}

/// Writes one page for each command.
pub(super) fn man(args: &ManArgs, command: clap::Command, out: Out) -> Result<(), Failure> {
    let wrong = |fault: std::io::Error| {
        Failure::failed("no_manual", format!("{}: {fault}", args.dir.display()))
    };
    std::fs::create_dir_all(&args.dir).map_err(wrong)?;
    clap_mangen::generate_to(command, &args.dir).map_err(wrong)?;
    let text = format!("manual pages written to {}", args.dir.display());
    out.result(&serde_json::json!({ "dir": args.dir }), &text)
}
