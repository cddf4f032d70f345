//! Completions and manual pages, from the command line's own description.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use crate::output::{Failure, Output};

#[derive(Args)]
pub(crate) struct CompletionArguments {
    /// Which shell.
    shell: Shell,
}

#[derive(Args)]
pub(crate) struct ManArguments {
    /// The folder; it is made if it is not there.
    dir: PathBuf,
}

pub(crate) fn completions(
    arguments: &CompletionArguments,
    mut command: clap::Command,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "consilium-audit", &mut script);
    output.raw().write_all(&script)?;
    Ok(output.flush()?)
}

pub(crate) fn man(
    arguments: &ManArguments,
    command: clap::Command,
    output: &mut Output,
) -> Result<(), Failure> {
    fs::create_dir_all(&arguments.dir)?;
    clap_mangen::generate_to(command, &arguments.dir)?;
    output.line(&format!("manual pages written to {}", arguments.dir.display()))?;
    Ok(output.data(&serde_json::json!({ "dir": arguments.dir }))?)
}
