//! `search`: the entries that match, each authenticated against the checkpoint.

use clap::Args;
use serde_json::{Map, Value};
use transparency::fact::{Digest, KINDS};
use transparency::leaf::canonical;
use transparency::tile::TILE_WIDTH;
use transparency::time::UtcTime;

use crate::entries::{Item, LogArguments, unreadable};
use crate::output::{Failure, Format, Output, visible};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    log: LogArguments,
    /// The kind, or the words that it begins with: "round" finds "round_announced".
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// A value in the data, by its dotted path: "site=st-anna", "privacy.epsilon=3". Of a digest its
    /// first 8 digits or more are enough: "study=a85a2a6b".
    #[arg(long = "where", value_name = "PATH=VALUE", value_parser = parse_where)]
    conditions: Vec<(String, String)>,
    /// Not before this time, such as 2026-11-22, 2026-11-22T08:30:00Z or 2026-11-22T08:30:00.000Z.
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
    let full = match (text.len(), text.strip_suffix('Z')) {
        (10, None) => format!("{text}T00:00:00.000Z"),
        (20, Some(seconds)) => format!("{seconds}.000Z"),
        _ => text.to_owned(),
    };
    full.parse().map_err(|error: transparency::time::NotATime| error.to_string())
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let reader = arguments.log.open()?;
    let size = reader.size();
    let mut counted = Counted::default();
    'log: for bundle in 0..size.div_ceil(TILE_WIDTH) {
        let entries = reader.entries(bundle).map_err(|error| unreadable(&error))?;
        for (index, entry) in (bundle * TILE_WIDTH..).zip(&entries) {
            if arguments.limit.is_some_and(|limit| counted.found >= limit) {
                break 'log;
            }
            let item = Item::new(index, entry);
            counted.searched += 1;
            counted.unread += u64::from(item.data.is_none());
            counted.kind |= is_of_kind(arguments, &item);
            if !matches(arguments, &item) {
                continue;
            }
            counted.found += 1;
            match output.format() {
                Format::Text => output.line(&item.text())?,
                Format::Json => output.object(&item)?,
            }
        }
    }
    let Counted { found, searched, unread, kind } = counted;
    if let Some(wanted) = arguments.kind.as_ref().filter(|_| !kind && searched == size) {
        // A newer coordinator may tell of kinds that this program does not know.
        if !KINDS.iter().any(|known| begins(known, wanted)) {
            let message = format!("expected a kind of leaf, found {wanted:?}: no entry is of it");
            return Err(Failure::usage("no_such_kind", visible(&message))
                .hint(format!("the kinds are {}", KINDS.join(", "))));
        }
    }
    // Nothing found is an answer that must not look like none.
    let mut said = format!("{found} of {size} entries match");
    if searched < size {
        said = format!(
            "{found} of the first {searched} entries match; --limit ended the search of {size}"
        );
    }
    if unread > 0 {
        said.push_str(&format!("; {unread} are no canonical leaves and were not searched"));
    }
    Ok(output.remark(&said)?)
}

/// What a search met.
#[derive(Default)]
struct Counted {
    found: u64,
    searched: u64,
    /// Entries that are no leaves.
    unread: u64,
    /// Whether an entry is of the kind that is searched for.
    kind: bool,
}

/// Whether a kind is this one, or begins with these words.
fn begins(kind: &str, wanted: &str) -> bool {
    kind.strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '.', '-']))
}

fn is_of_kind(arguments: &Arguments, item: &Item) -> bool {
    let wanted = arguments.kind.as_ref();
    wanted.is_none_or(|wanted| item.kind.as_ref().is_some_and(|kind| begins(kind, wanted)))
}

fn matches(arguments: &Arguments, item: &Item) -> bool {
    let Some(data) = &item.data else { return false };
    let time = item.time.as_ref().and_then(|time| time.parse::<UtcTime>().ok());
    is_of_kind(arguments, item)
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
        Value::String(text) => text == wanted || is_digest_of(text, wanted),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            canonical(value).is_ok_and(|text| text == wanted)
        }
    };
    is(value) || value.as_array().is_some_and(|items| items.iter().any(is))
}

/// The fewest digits by which a digest can be named.
const FEWEST_DIGITS: usize = 8;

/// Whether a text is a digest that begins with these digits.
fn is_digest_of(text: &str, wanted: &str) -> bool {
    wanted.len() >= FEWEST_DIGITS
        && Digest::new(text).is_some()
        && text.starts_with(&wanted.to_ascii_lowercase())
}
