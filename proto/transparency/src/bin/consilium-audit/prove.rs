//! `prove`: a receipt for one entry, to be checked without the log.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::entries::{Item, LogArguments, unreadable};
use crate::output::{Failure, Output, unwritten};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    log: LogArguments,
    /// Which entry, counted from 0.
    #[arg(long, value_name = "N")]
    index: u64,
    /// Where to write the receipt; entry-N.tlog-proof if not given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also write the entry's bytes here, for other tools.
    #[arg(long, value_name = "FILE")]
    entry_out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Proven<'a> {
    proof: &'a Path,
    size: u64,
    entry: Item,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let reader = arguments.log.open()?;
    let (index, size) = (arguments.index, reader.size());
    if index >= size {
        let message = format!("expected an entry below {size}, found {index}");
        return Err(Failure::usage("no_such_entry", message));
    }
    let (entry, proof) = reader.prove(index).map_err(|error| unreadable(&error))?;
    let out = arguments.out.clone();
    let out = out.unwrap_or_else(|| PathBuf::from(format!("entry-{index}.tlog-proof")));
    write(&out, proof.with_entry(&entry).to_string().as_bytes())?;
    if let Some(path) = &arguments.entry_out {
        write(path, &entry)?;
    }
    let item = Item::new(index, &entry);
    output.line(&item.text())?;
    output.line(&format!("proven in a log of {size} entries: {}", out.display()))?;
    Ok(output.data(&Proven { proof: &out, size, entry: item })?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(path, bytes).map_err(unwritten(path))
}
