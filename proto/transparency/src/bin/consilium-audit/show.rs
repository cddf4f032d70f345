//! `show`: entries by their place, each authenticated against the checkpoint.

use clap::Args;
use serde::Serialize;
use transparency::folder::Reader;
use transparency::tile::TILE_WIDTH;

use crate::entries::{Item, LogArguments, unreadable};
use crate::output::{Failure, Output, visible};
use crate::place::Place;

/// The most entries that are shown at once; `export` has no limit.
const MOST: u64 = 10_000;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    log: LogArguments,
    /// Only this entry; may be given repeatedly.
    #[arg(long, value_name = "N", conflicts_with = "last")]
    index: Vec<u64>,
    /// The newest entries.
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=MOST))]
    last: u64,
}

#[derive(Serialize)]
struct Shown<'a> {
    origin: &'a str,
    size: u64,
    entries: Vec<Item>,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let reader = arguments.log.open()?;
    let size = reader.size();
    let wanted: Vec<u64> = if arguments.index.is_empty() {
        (size.saturating_sub(arguments.last)..size).collect()
    } else {
        arguments.index.clone()
    };
    if let Some(outside) = wanted.iter().find(|index| **index >= size) {
        let message = format!("expected an entry below {size}, found {outside}");
        return Err(Failure::usage("no_such_entry", message));
    }
    let entries = read(&reader, &wanted)?;
    let origin = reader.signed().checkpoint().origin();
    output.line(&format!("{size} entries in {}", visible(origin)))?;
    for item in &entries {
        output.line(&item.text())?;
    }
    Ok(output.data(&Shown { origin, size, entries })?)
}

fn read(reader: &Reader<Place>, wanted: &[u64]) -> Result<Vec<Item>, Failure> {
    let mut items = Vec::with_capacity(wanted.len());
    let mut held: Option<(u64, Vec<Vec<u8>>)> = None;
    for &index in wanted {
        let bundle = index / TILE_WIDTH;
        let entries = match held.take() {
            Some((at, entries)) if at == bundle => entries,
            _ => reader.entries(bundle).map_err(|error| unreadable(&error))?,
        };
        let place = usize::try_from(index % TILE_WIDTH).unwrap_or(usize::MAX);
        items.extend(entries.get(place).map(|entry| Item::new(index, entry)));
        held = Some((bundle, entries));
    }
    Ok(items)
}
