//! `completions` and `man`: what a package installs beside the program.

use std::io;
use std::path::Path;

use clap::CommandFactory as _;
use proto::cli::{Exit, Failure};
use serde_json::json;

use super::{Cli, Context};

pub(super) fn completions(context: &Context, shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hospital-node", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    context.print(&json!({ "script": script }), |out| out.write_all(script.as_bytes()))?;
    Ok(Exit::Ok)
}

pub(super) fn man(context: &Context, dir: &Path) -> Result<Exit, Failure> {
    let written = || -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        clap_mangen::generate_to(Cli::command(), dir)
    };
    written().map_err(|error| {
        Failure::failed("man", format!("cannot write manual pages to {}: {error}", dir.display()))
    })?;
    context.print(&json!({ "dir": dir }), |out| {
        writeln!(out, "manual pages are in {}", dir.display())
    })?;
    Ok(Exit::Ok)
}
