//! A syslog line, read by its grammar (RFC 5424 section 6) and by nothing that wrote it.

use crate::{Outcome, Trouble};

/// A line taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// 0 to 7.
    pub severity: u8,
    /// 0 to 23.
    pub facility: u8,
    /// As written; none for a dash.
    pub time: Option<String>,
    /// The machine.
    pub host: String,
    /// The program.
    pub program: String,
    /// The kind of line, MSGID.
    pub kind: String,
    /// The fields of every element, in order.
    pub fields: Vec<(String, String)>,
    /// For people.
    pub text: String,
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    /// What the grammar asks for and is not there.
    pub fn parse(bytes: &[u8]) -> Outcome<Self> {
        let line = std::str::from_utf8(bytes)?;
        let wrong = |what: &str| Trouble::new(format!("expected {what} in {line:?}"));
        let (priority, rest) = line
            .strip_prefix('<')
            .and_then(|rest| rest.split_once('>'))
            .ok_or_else(|| wrong("<PRI>"))?;
        let priority: u8 = priority.parse().map_err(|_| wrong("PRI"))?;
        let rest = rest.strip_prefix("1 ").ok_or_else(|| wrong("version 1"))?;
        let mut words = rest.splitn(6, ' ');
        let mut word = |what: &str, most: usize| {
            let word = words.next().unwrap_or_default();
            let fits =
                (1..=most).contains(&word.len()) && word.bytes().all(|c| c.is_ascii_graphic());
            if fits { Ok(word.to_owned()) } else { Err(wrong(what)) }
        };
        let time = word("a time", 32)?;
        let (host, program) = (word("HOSTNAME", 255)?, word("APP-NAME", 48)?);
        word("PROCID", 128)?;
        let kind = word("MSGID", 32)?;
        let mut rest = words.next().unwrap_or_default();
        let mut fields = Vec::new();
        if let Some(after) = rest.strip_prefix('-') {
            rest = after;
        } else {
            while rest.starts_with('[') {
                rest = element(rest, &mut fields).ok_or_else(|| wrong("an element"))?;
            }
        }
        let text = match rest.strip_prefix(' ') {
            // A message in UTF-8 begins with its mark.
            Some(text) => text.strip_prefix('\u{feff}').ok_or_else(|| wrong("a BOM"))?,
            None if rest.is_empty() => "",
            None => return Err(wrong("a space before the message")),
        };
        if priority > 191 || (time != "-" && !is_time(&time)) || text.chars().any(char::is_control)
        {
            return Err(wrong("PRI, TIMESTAMP and MSG as RFC 5424 has them"));
        }
        let time = Some(time).filter(|time| time != "-");
        let (facility, severity, text) = (priority / 8, priority % 8, text.to_owned());
        Ok(Self { severity, facility, time, host, program, kind, fields, text })
    }

    /// A field by its name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// `2026-11-18T11:06:40.123Z`, as section 6.2.3 narrows RFC 3339.
fn is_time(text: &str) -> bool {
    let Some((seconds, fraction)) = text.strip_suffix('Z').map(|text| {
        text.split_once('.').map_or((text, "0"), |(seconds, fraction)| (seconds, fraction))
    }) else {
        return false;
    };
    let shape = "dddd-dd-ddTdd:dd:dd";
    let fits = |(found, wanted): (char, char)| match wanted {
        'd' => found.is_ascii_digit(),
        other => found == other,
    };
    seconds.len() == shape.len()
        && seconds.chars().zip(shape.chars()).all(fits)
        && (1..=6).contains(&fraction.len())
        && fraction.bytes().all(|digit| digit.is_ascii_digit())
}

/// What follows one element, whose fields are taken.
fn element<'a>(text: &'a str, fields: &mut Vec<(String, String)>) -> Option<&'a str> {
    let is_name = |name: &str| {
        let each = |c: u8| c.is_ascii_graphic() && !matches!(c, b'=' | b']' | b'"');
        (1..=32).contains(&name.len()) && name.bytes().all(each)
    };
    let text = text.strip_prefix('[')?;
    let end = text.find([' ', ']'])?;
    let (id, mut rest) = text.split_at(end);
    // A name of one's own has a number that IANA gave (section 6.3.2).
    if !is_name(id) || !id.split_once('@')?.1.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    while let Some(field) = rest.strip_prefix(' ') {
        let (name, value) = field.split_once("=\"")?;
        let (mut read, mut escaped, mut end) = (String::new(), false, None);
        for (at, c) in value.char_indices() {
            match (escaped, c) {
                (false, '\\') => escaped = true,
                (false, '"') => {
                    end = Some(at);
                    break;
                }
                (false, ']') => return None,
                (true, '"' | '\\' | ']') | (false, _) => {
                    escaped = false;
                    read.push(c);
                }
                // A backslash before anything else stands for itself.
                (true, other) => {
                    escaped = false;
                    read.extend(['\\', other]);
                }
            }
        }
        if !is_name(name) {
            return None;
        }
        fields.push((name.to_owned(), read));
        rest = &value[end? + 1..];
    }
    rest.strip_prefix(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        // Section 6.5, examples 1 and 3.
        let line = "<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \u{feff}'su root' \
                    failed for lonvick on /dev/pts/8";
        let read = Line::parse(line.as_bytes()).expect("an example");
        assert_eq!((read.facility, read.severity, read.kind.as_str()), (4, 2, "ID47"));
        assert_eq!(read.text, "'su root' failed for lonvick on /dev/pts/8");
        let line = "<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 \
                    [exampleSDID@32473 iut=\"3\" eventSource=\"Appli\\\"ca\\]tion\" eventID=\"1011\"]\
                    [examplePriority@32473 class=\"high\"] \u{feff}An application event log entry...";
        let read = Line::parse(line.as_bytes()).expect("an example");
        assert_eq!(read.field("eventSource"), Some("Appli\"ca]tion"));
        assert_eq!(read.field("class"), Some("high"));
        assert_eq!(read.fields.len(), 4);
    }

    #[test]
    fn what_is_no_line_is_refused() {
        let good = "<13>1 2003-10-11T22:14:15Z host program - KIND [a@1 b=\"c\"] \u{feff}text";
        Line::parse(good.as_bytes()).expect("a line");
        for (from, to) in [
            ("<13>", "<192>"),
            ("1 2003", "2 2003"),
            ("T22", " 22"),
            ("15Z", "15"),
            ("host ", ""),
            ("KIND", ""),
            ("a@1", "a"),
            ("b=", "="),
            ("\"c\"", "\"c]\""),
            ("\"c\"", "\"c"),
            ("] ", "]"),
            ("\u{feff}", ""),
            ("text", "te\nxt"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert!(Line::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
