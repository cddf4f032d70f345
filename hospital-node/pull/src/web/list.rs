//! A list in DICOM JSON (PS3.18 F.2), read as it arrives: of each answer the few attributes that are
//! asked for stay, all others are passed over without being held.

use std::fmt;
use std::io::{self, BufReader, Read};

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::fault::Fault;

/// One answer, of whatever level.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Row {
    #[serde(rename = "0020000D", default)]
    pub(super) study: Attribute,
    #[serde(rename = "0020000E", default)]
    pub(super) series: Attribute,
    #[serde(rename = "00080018", default)]
    pub(super) instance: Attribute,
    #[serde(rename = "00080016", default)]
    pub(super) class: Attribute,
    #[serde(rename = "00100020", default)]
    pub(super) patient: Attribute,
    #[serde(rename = "00080020", default)]
    pub(super) date: Attribute,
    #[serde(rename = "00080060", default)]
    pub(super) modality: Attribute,
    #[serde(rename = "0008103E", default)]
    pub(super) description: Attribute,
}

/// An attribute's first value, if that is text.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Attribute {
    #[serde(rename = "Value", default)]
    first: First,
}

impl Attribute {
    pub(super) fn text(self) -> Option<String> {
        self.first.0
    }
}

#[derive(Debug, Default)]
struct First(Option<String>);

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Values)
    }
}

struct Values;

impl<'de> Visitor<'de> for Values {
    type Value = First;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of values")
    }

    fn visit_unit<E>(self) -> Result<First, E> {
        Ok(First(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<First, A::Error> {
        let first = from.next_element::<Text>()?.and_then(|Text(text)| text);
        while from.next_element::<IgnoredAny>()?.is_some() {}
        Ok(First(first))
    }
}

/// A value; nothing where it is no text or empty.
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(OneValue)
    }
}

struct OneValue;

impl<'de> Visitor<'de> for OneValue {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text(Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned)))
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Text, A::Error> {
        while from.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Text, A::Error> {
        while from.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text(None))
    }
}

/// What takes the answers one by one, and why it did not take the last.
struct Rows<'a> {
    take: &'a mut dyn FnMut(Row) -> Result<(), Fault>,
    refused: &'a mut Option<Fault>,
}

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of answers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<(), A::Error> {
        while let Some(row) = from.next_element()? {
            if let Err(fault) = (self.take)(row) {
                *self.refused = Some(fault);
                return Err(A::Error::custom("enough"));
            }
        }
        Ok(())
    }
}

/// Gives the answers of a list to `take`, in order.
///
/// # Errors
/// What is no such list, what ends, and what `take` says.
pub(super) fn read(
    from: impl Read,
    take: &mut dyn FnMut(Row) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut refused = None;
    let mut from = serde_json::Deserializer::from_reader(BufReader::new(from));
    let rows = Rows { take, refused: &mut refused };
    let read = rows.deserialize(&mut from).and_then(|()| from.end());
    read.map_err(|error| match refused {
        Some(fault) => fault,
        None if error.is_io() => Fault::reading(io::Error::from(error)),
        None => Fault::Answer("DICOM JSON"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uids(text: &str) -> Result<Vec<Option<String>>, Fault> {
        let mut found = Vec::new();
        read(text.as_bytes(), &mut |row| {
            found.push(row.study.text());
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn whatever_an_attribute_holds_a_row_has_its_first_text_or_none() {
        let row = |value: &str| format!("{{\"0020000D\":{{\"vr\":\"UI\",\"Value\":{value}}}}}");
        for (value, expected) in [
            ("[\" 1.2 \"]", Some("1.2")),
            ("[\"1.2\",\"1.3\",{\"a\":[1]}]", Some("1.2")),
            ("null", None),
            ("[]", None),
            ("[null]", None),
            ("[\"\"]", None),
            ("[12,\"1.2\"]", None),
            ("[-1.5]", None),
            ("[true]", None),
            ("[[\"1.2\"]]", None),
            ("[{\"Alphabetic\":\"1.2\"}]", None),
        ] {
            let found = uids(&format!("[{}]", row(value)));
            assert_eq!(found, Ok(vec![expected.map(str::to_owned)]), "{value}");
        }
        let others = "[{\"00100010\":{\"Value\":[{\"Alphabetic\":\"x\"}]},\"0020000D\":{}}, {}]";
        assert_eq!(uids(others), Ok(vec![None, None]));
        assert_eq!(uids(" [ ] "), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let deep = "[".repeat(1 << 20);
        for text in ["", "{}", "[1]", "[{}", "[{}] x", "<html>", "\"[]\"", "[{}]]", &deep] {
            assert_eq!(uids(text), Err(Fault::Answer("DICOM JSON")), "{text:.20}");
        }
    }

    #[test]
    fn what_takes_the_answers_may_have_enough() {
        let mut count = 0;
        let read = read(&b"[{},{},{},"[..], &mut |_| {
            count += 1;
            if count == 2 { Err(Fault::TooLarge("it")) } else { Ok(()) }
        });
        assert_eq!((read, count), (Err(Fault::TooLarge("it")), 2));
    }
}
