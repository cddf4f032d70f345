//! `export`: all entries in another format, each authenticated against the checkpoint.

mod fhir;
mod ocsf;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use data_encoding::HEXLOWER;
use serde::Serialize;
use transparency::fact::Told;
use transparency::folder::Reader;
use transparency::leaf::Leaf;
use transparency::tile::TILE_WIDTH;
use transparency::tree::leaf_hash;

use crate::entries::{Item, LogArguments, unreadable};
use crate::output::{Failure, Output, write_whole};
use crate::place::Place;

#[derive(Clone, Copy, ValueEnum)]
enum To {
    /// One JSON object a line.
    Jsonl,
    /// A table: index, time, kind, data as JSON, leaf hash.
    Csv,
    /// FHIR R4 AuditEvent resources after IHE BALP, one a line (NDJSON).
    Fhir,
    /// OCSF 1.5.0 events, one a line.
    Ocsf,
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
    /// Entries that are no leaves: the format has no place for them.
    left_out: u64,
    out: PathBuf,
}

/// An entry and what it says, as far as that can be read.
struct Entry {
    index: u64,
    hash: String,
    bytes: Vec<u8>,
    leaf: Option<Leaf>,
    told: Option<Told>,
}

impl Entry {
    fn new(index: u64, bytes: Vec<u8>) -> Self {
        let leaf = Leaf::decode(&bytes).ok();
        let told = leaf.as_ref().and_then(|leaf| Told::read(leaf).ok());
        Self { index, hash: HEXLOWER.encode(&leaf_hash(&bytes)), bytes, leaf, told }
    }
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let reader = arguments.log.open()?;
    let Some(out) = &arguments.out else {
        let left_out = write_all(&reader, arguments.to, output.raw())?;
        output.flush()?;
        return Ok(say_left_out(left_out, output)?);
    };
    let mut left_out = 0;
    write_whole(out, |file| {
        left_out = write_all(&reader, arguments.to, file)?;
        Ok(())
    })?;
    say_left_out(left_out, output)?;
    let entries = reader.size() - left_out;
    output.line(&format!("{entries} entries: {}", out.display()))?;
    Ok(output.data(&Exported { entries, left_out, out: out.clone() })?)
}

fn say_left_out(left_out: u64, output: &mut Output) -> io::Result<()> {
    if left_out == 0 {
        return Ok(());
    }
    output.remark(&format!(
        "{left_out} entries are no canonical leaves, have no time and were left out; jsonl has them"
    ))
}

/// Gives the number of entries that the format has no place for.
fn write_all(reader: &Reader<Place>, to: To, out: &mut impl Write) -> Result<u64, Failure> {
    if matches!(to, To::Csv) {
        out.write_all(b"index,time,kind,data,leaf_hash\r\n")?;
    }
    let origin = reader.signed().checkpoint().origin();
    let mut left_out = 0;
    for bundle in 0..reader.size().div_ceil(TILE_WIDTH) {
        let entries = reader.entries(bundle).map_err(|error| unreadable(&error))?;
        for (index, entry) in (bundle * TILE_WIDTH..).zip(entries) {
            let written = match to {
                To::Jsonl => write_line(Some(&Item::new(index, &entry)), out)?,
                To::Csv => {
                    write_row(&Item::new(index, &entry), out)?;
                    true
                }
                To::Fhir => {
                    write_line(fhir::event(origin, &Entry::new(index, entry)).as_ref(), out)?
                }
                To::Ocsf => {
                    write_line(ocsf::event(origin, &Entry::new(index, entry)).as_ref(), out)?
                }
            };
            left_out += u64::from(!written);
        }
    }
    Ok(left_out)
}

fn write_line(item: Option<&impl Serialize>, out: &mut impl Write) -> io::Result<bool> {
    let Some(item) = item else { return Ok(false) };
    serde_json::to_writer(&mut *out, item).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(true)
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
