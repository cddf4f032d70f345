//! `search`: the entries that match, each authenticated against the checkpoint.

use clap::Args;
use serde_json::{Map, Value};
use transparency::leaf::canonical;
use transparency::tile::TILE_WIDTH;
use transparency::time::UtcTime;

use crate::entries::{Item, LogArguments, unreadable};
use crate::output::{Failure, Format, Output};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    log: LogArguments,
    /// The kind, or the words that it begins with: "round" finds "round_announced".
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// A value in the data, by its dotted path: "study=ab12", "privacy.epsilon=3".
    #[arg(long = "where", value_name = "PATH=VALUE", value_parser = parse_where)]
    conditions: Vec<(String, String)>,
    /// Not before this time, such as 2026-11-22 or 2026-11-22T08:30:00.000Z.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<UtcTime>,
    /// Before this time.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<UtcTime>,
    /// Stop after so many.
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
}

fn parse_where(text: &str) -> Result<(String, String), String> {
    let (path, value) = text.split_once('=').ok_or("expected PATH=VALUE")?;
    Ok((path.to_owned(), value.to_owned()))
}

fn parse_time(text: &str) -> Result<UtcTime, String> {
    let full = if text.len() == 10 { format!("{text}T00:00:00.000Z") } else { text.to_owned() };
    full.parse().map_err(|error: transparency::time::NotATime| error.to_string())
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let reader = arguments.log.open()?;
    let mut found = 0;
    let mut unreadable_entries = 0_u64;
    for bundle in 0..reader.size().div_ceil(TILE_WIDTH) {
        let entries = reader.entries(bundle).map_err(|error| unreadable(&error))?;
        for (index, entry) in (bundle * TILE_WIDTH..).zip(&entries) {
            let item = Item::new(index, entry);
            unreadable_entries += u64::from(item.data.is_none());
            if !matches(arguments, &item) {
                continue;
            }
            if arguments.limit.is_some_and(|limit| found >= limit) {
                return Ok(output.flush()?);
            }
            found += 1;
            match output.format() {
                Format::Text => output.line(&item.text())?,
                Format::Json => output.object(&item)?,
            }
        }
    }
    if unreadable_entries > 0 {
        output.line(&format!(
            "({unreadable_entries} entries are no canonical leaves and were not searched)"
        ))?;
    }
    Ok(output.flush()?)
}

fn matches(arguments: &Arguments, item: &Item) -> bool {
    let (Some(kind), Some(data)) = (&item.kind, &item.data) else { return false };
    let time = item.time.as_ref().and_then(|time| time.parse::<UtcTime>().ok());
    let kind_matches = arguments.kind.as_ref().is_none_or(|wanted| {
        kind.strip_prefix(wanted.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '.', '-']))
    });
    kind_matches
        && arguments.from.is_none_or(|from| time.is_some_and(|time| time >= from))
        && arguments.until.is_none_or(|until| time.is_some_and(|time| time < until))
        && arguments.conditions.iter().all(|(path, value)| has(data, path, value))
}

/// Whether the data has this value at this path; in a list, whether one of its items is it.
fn has(data: &Map<String, Value>, path: &str, wanted: &str) -> bool {
    let mut keys = path.split('.');
    let first = keys.next().and_then(|key| data.get(key));
    let Some(value) = keys.fold(first, |value, key| value?.get(key)) else { return false };
    let is = |value: &Value| match value {
        Value::String(text) => text == wanted,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            canonical(value).is_ok_and(|text| text == wanted)
        }
    };
    is(value) || value.as_array().is_some_and(|items| items.iter().any(is))
}
