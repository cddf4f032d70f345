//! The command line's contract: one JSON envelope, and exit codes that mean something.
//!
//! The servers have the same contract in their own crate, on which this program must not depend.

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Stdout, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

/// The version of the envelope's shape.
const SCHEMA_VERSION: u32 = 1;

/// What stdout carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One envelope, or for streams one object a line.
    Json,
}

impl Format {
    /// The format that was asked for on a command line that could not be parsed.
    pub(crate) fn from_raw_arguments() -> Self {
        let words: Vec<_> = std::env::args_os().collect();
        let pair = words.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json");
        if pair || words.iter().any(|word| word == "--format=json") {
            Self::Json
        } else {
            Self::Text
        }
    }
}

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It did what was asked.
    Ok = 0,
    /// It tried, and the answer is no.
    Failed = 1,
    /// The log was not reached, or could not be read: nothing is known about it.
    Unread = 2,
    /// It took too long.
    Timeout = 3,
    /// The arguments are wrong; nothing was tried.
    Usage = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    code: &'static str,
    message: String,
    hint: String,
    data: Option<serde_json::Value>,
}

impl Failure {
    fn new(exit: Exit, code: &'static str, message: impl Into<String>) -> Self {
        Self { exit, code, message: message.into(), hint: String::new(), data: None }
    }

    /// It tried, and the answer is no.
    pub(crate) fn failed(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, code, message)
    }

    /// Wrong arguments.
    pub(crate) fn usage(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, code, message)
    }

    /// Nothing could be looked at.
    pub(crate) fn unread(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Exit::Unread, code, message)
    }

    /// It took too long.
    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::new(Exit::Timeout, "timeout", message)
    }

    /// What to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// What is known nevertheless.
    pub(crate) fn data(mut self, data: &impl Serialize) -> Self {
        self.data = serde_json::to_value(data).ok();
        self
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // A reader that has seen enough closes the pipe; that is no failure worth a line.
        let code = if error.kind() == ErrorKind::BrokenPipe { "closed" } else { "output" };
        Self::failed(code, format!("expected to write the output: {error}"))
    }
}

/// A file that could not be written.
pub(crate) fn unwritten(path: &Path) -> impl Fn(io::Error) -> Failure {
    move |error| {
        let message = format!("expected to write {}: {error}", path.display());
        Failure::failed("output", visible(&message))
    }
}

/// Writes a file in one step: one that is there is whole.
pub(crate) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let unwritten = unwritten(path);
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let mut file = BufWriter::new(File::create(&beside).map_err(&unwritten)?);
    write(&mut file)?;
    file.flush().map_err(&unwritten)?;
    fs::rename(&beside, path).map_err(&unwritten)
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Text that comes from a log, safe for a terminal: control characters are spelt out.
pub(crate) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
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

/// Where a command says what it found.
pub(crate) struct Output {
    format: Format,
    out: BufWriter<Stdout>,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, out: BufWriter::new(io::stdout()) }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// One line for people; nothing with JSON.
    pub(crate) fn line(&mut self, line: &str) -> io::Result<()> {
        match self.format {
            Format::Text => writeln!(self.out, "{line}"),
            Format::Json => Ok(()),
        }
    }

    /// A remark that is no part of the output: on stderr, in either format.
    pub(crate) fn remark(&mut self, line: &str) -> io::Result<()> {
        self.out.flush()?;
        writeln!(io::stderr(), "note: {line}")
    }

    /// The envelope of a success; nothing with text.
    pub(crate) fn data(&mut self, data: &impl Serialize) -> io::Result<()> {
        if self.format == Format::Text {
            return self.out.flush();
        }
        let envelope = Envelope {
            schema_version: SCHEMA_VERSION,
            status: "ok",
            data: Some(data),
            error_code: None,
            message: None,
            hint: None,
        };
        self.object(&envelope)?;
        self.out.flush()
    }

    /// One object on one line, in either format: an item of a stream.
    pub(crate) fn object(&mut self, item: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, item).map_err(io::Error::from)?;
        self.out.write_all(b"\n")
    }

    /// Where a stream in a format of its own goes.
    pub(crate) fn raw(&mut self) -> &mut impl Write {
        &mut self.out
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Says why not, and how the program ends.
    pub(crate) fn failure(&mut self, failure: &Failure) -> ExitCode {
        if failure.code == "closed" {
            return failure.exit.into();
        }
        let mut err = io::stderr();
        // There is nowhere left to report a failure to report.
        let _ = writeln!(err, "error: {}", failure.message);
        if !failure.hint.is_empty() {
            let _ = writeln!(err, "hint: {}", failure.hint);
        }
        if self.format == Format::Json {
            let envelope = Envelope {
                schema_version: SCHEMA_VERSION,
                status: "error",
                data: failure.data.as_ref(),
                error_code: Some(failure.code),
                message: Some(&failure.message),
                hint: Some(&failure.hint),
            };
            let _ = self.object(&envelope);
        }
        let _ = self.out.flush();
        failure.exit.into()
    }
}
