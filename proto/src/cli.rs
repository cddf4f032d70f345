//! The command line's contract, the same for every program: one JSON envelope, and exit codes that
//! mean something.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

/// The version of the envelope's shape.
pub const SCHEMA_VERSION: u32 = 1;

/// What stdout carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One envelope, or for streams one JSON object a line.
    Json,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("expected \"text\" or \"json\", found {other:?}")),
        }
    }
}

/// How a program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what was asked.
    Ok = 0,
    /// It tried, and the answer is no.
    Failed = 1,
    /// The other side was not reached, or did not let us in.
    Connection = 2,
    /// It took too long.
    Timeout = 3,
    /// The arguments or the configuration are wrong; nothing was tried.
    Usage = 4,
    /// Our fault.
    Bug = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what was asked: one line for a person, a code for a script.
#[derive(Clone, Debug)]
pub struct Failure {
    /// How the program ends.
    pub exit: Exit,
    /// Stable, `lower_snake_case`, for scripts.
    pub code: &'static str,
    /// What was expected and what was found.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl Failure {
    /// A failure without a hint.
    #[must_use]
    pub fn new(exit: Exit, code: &'static str, message: impl Into<String>) -> Self {
        Self { exit, code, message: message.into(), hint: String::new() }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// It tried, and the answer is no.
    #[must_use]
    pub fn failed(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, code, message)
    }

    /// Wrong arguments or configuration.
    #[must_use]
    pub fn usage(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, code, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// An error and what is behind it, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        text = format!("{text}: {one}");
        cause = one.source();
    }
    text
}

#[derive(Serialize)]
struct Envelope<'a, T: Serialize> {
    schema_version: u32,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

/// Writes the envelope of a success.
///
/// # Errors
/// The writer's own, and data that does not serialise.
pub fn write_ok(to: &mut impl Write, data: &impl Serialize) -> io::Result<()> {
    let envelope = Envelope {
        schema_version: SCHEMA_VERSION,
        status: "ok",
        data: Some(data),
        error_code: None,
        message: None,
        hint: None,
    };
    write_line(to, &envelope)
}

/// Writes a failure: with [`Format::Json`] the envelope to `out`, always one line to `err`.
fn write_failure(
    format: Format,
    out: &mut impl Write,
    err: &mut impl Write,
    failure: &Failure,
) -> io::Result<()> {
    writeln!(err, "error: {}", failure.message)?;
    if !failure.hint.is_empty() {
        writeln!(err, "hint: {}", failure.hint)?;
    }
    match format {
        Format::Text => Ok(()),
        Format::Json => {
            let envelope: Envelope<'_, ()> = Envelope {
                schema_version: SCHEMA_VERSION,
                status: "error",
                data: None,
                error_code: Some(failure.code),
                message: Some(&failure.message),
                hint: Some(&failure.hint),
            };
            write_line(out, &envelope)
        }
    }
}

/// How a program ends. A failure is said first: always in one line on stderr, with [`Format::Json`]
/// in an envelope on stdout too.
pub fn end(format: Format, ended: Result<Exit, Failure>) -> ExitCode {
    let failure = match ended {
        Ok(exit) => return exit.into(),
        Err(failure) => failure,
    };
    // Nothing more can be done about a broken stdout or stderr; the exit code still says it.
    let _ = write_failure(format, &mut io::stdout(), &mut io::stderr(), &failure);
    failure.exit.into()
}

/// Writes one object on one line and flushes it: an item of a stream.
///
/// # Errors
/// The writer's own, and data that does not serialise.
pub fn write_line(to: &mut impl Write, data: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(data).map_err(io::Error::other)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_is_one_line_with_a_version_and_data() {
        let mut out = Vec::new();
        write_ok(&mut out, &serde_json::json!({"a": 1})).expect("memory");
        assert_eq!(out, b"{\"schema_version\":1,\"status\":\"ok\",\"data\":{\"a\":1}}\n");
    }

    #[test]
    fn a_failure_goes_to_both_with_json_and_to_stderr_alone_without() {
        let failure =
            Failure::failed("no_such_study", "no study 'x'").hint("`study list` lists them");
        let (mut out, mut err) = (Vec::new(), Vec::new());
        write_failure(Format::Json, &mut out, &mut err, &failure).expect("memory");
        let envelope: serde_json::Value = serde_json::from_slice(&out).expect("json");
        assert_eq!(envelope["status"], "error");
        assert_eq!(envelope["error_code"], "no_such_study");
        assert_eq!(err, b"error: no study 'x'\nhint: `study list` lists them\n");
        let (mut out, mut err) = (Vec::new(), Vec::new());
        write_failure(Format::Text, &mut out, &mut err, &failure).expect("memory");
        assert!(out.is_empty() && !err.is_empty());
    }
}
