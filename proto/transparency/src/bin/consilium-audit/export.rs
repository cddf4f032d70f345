//! `export`: all entries in another format, each authenticated against the checkpoint.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use transparency::folder::{Folder, Reader};
use transparency::tile::TILE_WIDTH;

use crate::entries::{Item, LogArguments, unreadable};
use crate::output::{Failure, Output};

#[derive(Clone, Copy, ValueEnum)]
enum To {
    /// One JSON object a line.
    Jsonl,
    /// A table: index, time, kind, data as JSON, leaf hash.
    Csv,
}

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    log: LogArguments,
    /// The format.
    #[arg(long, value_enum)]
    to: To,
    /// Where to write; stdout if not given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Exported {
    entries: u64,
    out: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let reader = arguments.log.open()?;
    let Some(out) = &arguments.out else {
        write_all(&reader, arguments.to, output.raw())?;
        return Ok(output.flush()?);
    };
    // A file that is there is whole.
    let mut beside = out.clone().into_os_string();
    beside.push(".tmp");
    let mut file = BufWriter::new(File::create(&beside)?);
    write_all(&reader, arguments.to, &mut file)?;
    file.flush()?;
    fs::rename(&beside, out)?;
    output.line(&format!("{} entries: {}", reader.size(), out.display()))?;
    Ok(output.data(&Exported { entries: reader.size(), out: out.clone() })?)
}

fn write_all(reader: &Reader<Folder>, to: To, out: &mut impl Write) -> Result<(), Failure> {
    if matches!(to, To::Csv) {
        out.write_all(b"index,time,kind,data,leaf_hash\r\n")?;
    }
    for bundle in 0..reader.size().div_ceil(TILE_WIDTH) {
        let entries = reader.entries(bundle).map_err(|error| unreadable(&error))?;
        for (index, entry) in (bundle * TILE_WIDTH..).zip(&entries) {
            let item = Item::new(index, entry);
            match to {
                To::Jsonl => {
                    serde_json::to_writer(&mut *out, &item).map_err(io::Error::from)?;
                    out.write_all(b"\n")?;
                }
                To::Csv => write_row(&item, out)?,
            }
        }
    }
    Ok(())
}

/// A row after RFC 4180. No cell can be taken for a formula: they begin with a digit, a letter, a
/// brace, or base64, which is written after an apostrophe where it begins with a sign.
fn write_row(item: &Item, out: &mut impl Write) -> io::Result<()> {
    let content = item.content();
    let guard = if content.starts_with(['+', '-', '=', '@']) { "'" } else { "" };
    write!(
        out,
        "{},{},{},\"{guard}{}\",{}\r\n",
        item.index,
        item.time.as_deref().unwrap_or_default(),
        item.kind.as_deref().unwrap_or_default(),
        content.replace('"', "\"\""),
        item.leaf_hash
    )
}
