//! What the program tells of itself, on stderr: `info` tells a round in about ten lines, `debug` is
//! each message. Never updates, keys, records, counts or losses: they are not given to `tracing`
//! anywhere in this program, and the trainer's own words come through at `debug` only.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::syslog::Tap;

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts writing the log. `filter` is `error`, `warn`, `info`, `debug`, `trace`, or directives as
/// `hospital_node=debug,info`.
///
/// # Errors
/// What is wrong with the filter.
pub(crate) fn start(format: LogFormat, filter: &str) -> Result<(), String> {
    // A bare level above `warn` is meant for us: libraries below us trace frames and statements.
    let directives = match filter.parse::<LevelFilter>() {
        Ok(level) if level > LevelFilter::WARN => {
            format!("warn,hospital_node={level},proto={level}")
        }
        Ok(_) | Err(_) => filter.to_owned(),
    };
    let parsed = EnvFilter::try_new(&directives).map_err(|error| {
        format!("--log: expected a level or directives, found {filter:?}: {error}")
    })?;
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    let tap = Tap.with_filter(Targets::new().with_target("hospital_node", LevelFilter::INFO));
    let base = tracing_subscriber::registry().with(tap);
    let started = match format {
        LogFormat::Text => base.with(lines.with_target(false).with_filter(parsed)).try_init(),
        LogFormat::Json => {
            base.with(lines.json().flatten_event(true).with_filter(parsed)).try_init()
        }
    };
    // A second subscriber is only possible in tests, where the first one serves as well.
    drop(started);
    Ok(())
}
