//! Results on stdout: a text for people or one JSON envelope.

use std::io::{self, Write as _};

use proto::cli::{Failure, Format, write_line, write_ok};
use serde::Serialize;

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    format: Format,
}

impl Out {
    /// Results in this format.
    pub(super) fn new(format: Format) -> Self {
        Self { format }
    }

    /// The one result of a command.
    pub(super) fn result(self, data: &impl Serialize, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        let written = match self.format {
            Format::Json => write_ok(&mut stdout, data),
            Format::Text => writeln!(stdout, "{}", text.trim_end()),
        };
        heard(written)
    }

    /// The end of a command that has nothing to tell people.
    pub(super) fn silent(self, data: &impl Serialize) -> Result<(), Failure> {
        match self.format {
            Format::Json => heard(write_ok(&mut io::stdout().lock(), data)),
            Format::Text => Ok(()),
        }
    }

    /// One item of a stream. With no text it is for programs only.
    pub(super) fn item(self, data: &impl Serialize, text: Option<&str>) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        let written = match (self.format, text) {
            (Format::Json, _) => write_line(&mut stdout, data),
            (Format::Text, Some(text)) => writeln!(stdout, "{text}").and_then(|()| stdout.flush()),
            (Format::Text, None) => Ok(()),
        };
        heard(written)
    }
}

/// A reader that closes its end has heard enough; anything else is trouble.
pub(super) fn heard(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Ok(()) => Ok(()),
        Err(fault) if fault.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(fault) => Err(Failure::failed("no_output", format!("stdout: {fault}"))),
    }
}

/// Columns as wide as their widest cell, two spaces apart.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> =
            cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows =
            vec![vec!["alpha".to_owned(), "yes".to_owned()], vec!["b".to_owned(), String::new()]];
        assert_eq!(table(&["SITE", "HERE"], &rows), "SITE   HERE\nalpha  yes\nb");
    }
}
