//! One line, as RFC 5424 section 6 spells it.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

/// "Log audit" (RFC 5424 section 6.2.1).
const FACILITY: u8 = 13;
/// The structured data's name. The number is the one that RFC 5612 sets aside for documentation:
/// nobody has assigned one to this program.
const ELEMENT: &str = "consilium@32473";
/// Longest value of a field, and longest text, in characters: together with [`MOST_FIELDS`] a line
/// stays below the 8,192 bytes that receivers should take (RFC 5425 section 4.3.1), unless it is
/// written in letters of several bytes each.
const MOST_VALUE: usize = 400;
const MOST_TEXT: usize = 1_024;
const MOST_FIELDS: usize = 24;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// A person has to look now.
    Alert = 1,
    /// Something failed.
    Error = 3,
    /// Somebody said no, or was missing.
    Warning = 4,
    /// As it was meant to be.
    Informational = 6,
}

/// One fact or alarm.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    /// How much it matters.
    pub severity: Severity,
    /// When, in milliseconds since 1970.
    pub millis: u64,
    /// Which machine.
    pub host: &'a str,
    /// Which program.
    pub program: &'a str,
    /// Which kind of line, such as `round_released`.
    pub kind: &'a str,
    /// Fields by name.
    pub fields: &'a [(String, String)],
    /// For people.
    pub text: &'a str,
}

impl Line<'_> {
    /// The line with its length in front of it, as it travels (RFC 5425 section 4.3).
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let line = self.encode();
        let mut frame = format!("{} ", line.len()).into_bytes();
        frame.extend(line.into_bytes());
        frame
    }

    /// The line alone.
    #[must_use]
    pub fn encode(&self) -> String {
        let priority = FACILITY * 8 + self.severity as u8;
        // The formatter's last year is 9999; a line without a time has a dash.
        let time = match UNIX_EPOCH.checked_add(Duration::from_millis(self.millis)) {
            Some(time) if self.millis < 253_402_300_800_000 => {
                humantime::format_rfc3339_millis(time).to_string()
            }
            Some(_) | None => "-".to_owned(),
        };
        let (host, program) = (word(self.host, 255), word(self.program, 48));
        let mut line = format!("<{priority}>1 {time} {host} {program} - {} ", word(self.kind, 32));
        if self.fields.is_empty() {
            line.push('-');
        } else {
            line.push('[');
            line.push_str(ELEMENT);
            for (name, value) in self.fields.iter().take(MOST_FIELDS) {
                let name: String =
                    word(name, 32).chars().filter(|c| !matches!(c, '=' | ']' | '"')).collect();
                // Writing into a text never fails.
                let _ = write!(line, " {name}=\"{}\"", escaped(value));
            }
            line.push(']');
        }
        line.push_str(" \u{feff}");
        line.extend(printable(self.text).take(MOST_TEXT));
        line
    }
}

/// A word of printable ASCII; a dash for none (RFC 5424 section 6).
fn word(text: &str, most: usize) -> String {
    let word: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

/// Control characters say nothing to a reader and much to a terminal.
fn printable(text: &str) -> impl Iterator<Item = char> {
    text.chars().map(|c| if c.is_control() { ' ' } else { c })
}

/// RFC 5424 section 6.3.3.
fn escaped(value: &str) -> String {
    let mut escaped = String::new();
    for c in printable(value).take(MOST_VALUE) {
        if matches!(c, '"' | '\\' | ']') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
