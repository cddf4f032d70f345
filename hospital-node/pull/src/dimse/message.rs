//! Messages of the network protocol (PS3.7): their command sets, and the identifiers of queries, both
//! in implicit VR little endian.

use std::collections::BTreeMap;

use crate::charset;
use crate::fault::Fault;
use crate::keep::Tag;

/// What a message is (PS3.7 E.1).
pub const C_STORE: u16 = 0x0001;
/// The answer to [`C_STORE`].
pub const C_STORE_ANSWER: u16 = 0x8001;
/// A request for objects.
pub const C_GET: u16 = 0x0010;
/// The answer to [`C_GET`].
pub const C_GET_ANSWER: u16 = 0x8010;
/// A question.
pub const C_FIND: u16 = 0x0020;
/// The answer to [`C_FIND`].
pub const C_FIND_ANSWER: u16 = 0x8020;

/// Elements of a command set, by their numbers in group 0000.
pub const AFFECTED_CLASS: u16 = 0x0002;
/// What the message is.
pub const FIELD: u16 = 0x0100;
/// Its number.
pub const ID: u16 = 0x0110;
/// The number of what it answers.
pub const ANSWERED: u16 = 0x0120;
/// How urgent it is.
pub const PRIORITY: u16 = 0x0700;
/// Whether a data set follows.
pub const DATA_SET: u16 = 0x0800;
/// How it went.
pub const STATUS: u16 = 0x0900;
/// The instance that is stored.
pub const AFFECTED_INSTANCE: u16 = 0x1000;

/// In an identifier: how its text is written.
pub const CHARACTER_SET: Tag = (0x0008, 0x0005);

/// In [`DATA_SET`]: none.
pub const NO_DATA_SET: u16 = 0x0101;
/// In [`STATUS`]: there is more to come.
pub const PENDING: [u16; 2] = [0xff00, 0xff01];

/// A data set of short values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<Tag, Vec<u8>>);

impl Values {
    /// Adds text, padded to an even length.
    #[must_use]
    pub fn with_text(mut self, tag: Tag, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        if value.len() % 2 == 1 {
            // UIDs are padded with zero, other text with a space.
            let uid = matches!(tag, (0, _) | (8, 0x0016 | 0x0018) | (0x20, 0x0d | 0x0e));
            value.push(if uid { 0 } else { b' ' });
        }
        self.0.insert(tag, value);
        self
    }

    /// Adds a number of 16 bits.
    #[must_use]
    pub fn with_number(mut self, tag: Tag, number: u16) -> Self {
        self.0.insert(tag, number.to_le_bytes().to_vec());
        self
    }

    /// Text without padding.
    #[must_use]
    pub fn text(&self, tag: Tag) -> Option<&str> {
        let text = std::str::from_utf8(self.0.get(&tag)?).ok()?;
        let text = text.trim_matches(|c: char| c == '\0' || c.is_ascii_whitespace());
        Some(text).filter(|text| !text.is_empty())
    }

    /// Text in the character set that these values name; `None` where it is not written in it.
    #[must_use]
    pub fn decoded(&self, tag: Tag) -> Option<String> {
        let set = self.0.get(&CHARACTER_SET).map(Vec::as_slice).unwrap_or_default();
        charset::text(set, self.0.get(&tag)?).filter(|text| !text.is_empty())
    }

    /// The same; what cannot be read is replaced, and the rest stays.
    #[must_use]
    pub fn legible(&self, tag: Tag) -> Option<String> {
        let bytes = self.0.get(&tag)?;
        let lossy = || String::from_utf8_lossy(bytes).trim_matches(['\0', ' ']).to_owned();
        Some(self.decoded(tag).unwrap_or_else(lossy)).filter(|text| !text.is_empty())
    }

    /// A number of 16 bits.
    #[must_use]
    pub fn number(&self, tag: Tag) -> Option<u16> {
        self.0.get(&tag)?.first_chunk::<2>().map(|bytes| u16::from_le_bytes(*bytes))
    }

    /// As it is sent. A command set begins with its length.
    #[must_use]
    pub fn encode(&self, command: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for ((group, element), value) in &self.0 {
            bytes.extend_from_slice(&group.to_le_bytes());
            bytes.extend_from_slice(&element.to_le_bytes());
            bytes.extend_from_slice(&length(value).to_le_bytes());
            bytes.extend_from_slice(value);
        }
        if command {
            let mut whole = vec![0, 0, 0, 0, 4, 0, 0, 0];
            whole.extend_from_slice(&length(&bytes).to_le_bytes());
            whole.append(&mut bytes);
            return whole;
        }
        bytes
    }

    /// Reads what was sent.
    ///
    /// # Errors
    /// What is no data set of short values.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, Fault> {
        let mut values = BTreeMap::new();
        while let Some((header, rest)) = bytes.split_first_chunk::<8>() {
            let [g0, g1, e0, e1, a, b, c, d] = *header;
            let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok();
            let value = length.and_then(|length| rest.split_at_checked(length));
            // A sequence of undefined length is in no answer that we ask for.
            let (value, rest) = value.ok_or(Fault::Answer("an answer of short values"))?;
            values.insert(
                (u16::from_le_bytes([g0, g1]), u16::from_le_bytes([e0, e1])),
                value.to_vec(),
            );
            bytes = rest;
        }
        if bytes.is_empty() { Ok(Self(values)) } else { Err(Fault::Answer("whole elements")) }
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let values = Values::default()
            .with_number((0, FIELD), C_FIND)
            .with_text((0, AFFECTED_CLASS), "1.2.3")
            .with_text((0x10, 0x20), "abc");
        assert_eq!(values.number((0, FIELD)), Some(C_FIND));
        assert_eq!(values.text((0, AFFECTED_CLASS)), Some("1.2.3"));
        assert_eq!(values.text((0x10, 0x20)), Some("abc"));
        assert_eq!(Values::decode(&values.encode(false)), Ok(values.clone()));
        let command = values.encode(true);
        let length = u32::try_from(command.len() - 12).expect("short");
        assert_eq!(command[8..12], length.to_le_bytes());
    }

    #[test]
    fn text_beyond_ascii_is_read_as_it_is_written() {
        let latin = [&[8, 0, 0x3e, 0x10, 8, 0, 0, 0][..], b"R\xf6ntgen "].concat();
        let of = |set: &str| {
            let mut bytes = Values::default().with_text(CHARACTER_SET, set).encode(false);
            bytes.extend_from_slice(&latin);
            Values::decode(&bytes).expect("sound")
        };
        let tag = (8, 0x103e);
        assert_eq!(of("ISO_IR 100").decoded(tag).as_deref(), Some("R\u{f6}ntgen"));
        assert_eq!(of("ISO_IR 100").legible(tag).as_deref(), Some("R\u{f6}ntgen"));
        assert_eq!(of("").decoded(tag), None);
        assert_eq!(of("").legible(tag).as_deref(), Some("R\u{fffd}ntgen"));
        assert_eq!((of("").decoded((8, 0x60)), of("").legible((8, 0x60))), (None, None));
    }

    #[test]
    fn a_length_that_lies_is_refused() {
        let good = Values::default().with_text((0x10, 0x20), "abc").encode(false);
        for cut in 1..good.len() {
            assert!(Values::decode(&good[..cut]).is_err(), "{cut}");
        }
        assert!(Values::decode(&[0x10, 0, 0x20, 0, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
