//! Where events go: standard error, as text for people or as JSON lines for a collector.
//!
//! `info` tells a round in about ten lines. Updates, keys, tokens and records are never fields.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// One readable line for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// Starts writing events at `level` (a filter as `info` or `coordinator=debug`).
///
/// # Errors
/// A sentence, when the filter cannot be read or a subscriber is already there.
pub(crate) fn start(format: LogFormat, level: &str) -> Result<(), String> {
    let filter =
        EnvFilter::try_new(level).map_err(|fault| format!("log level {level:?}: {fault}"))?;
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => base.with_target(false).finish().try_init(),
        LogFormat::Json => base.json().flatten_event(true).finish().try_init(),
    };
    started.map_err(|fault| fault.to_string())
}
