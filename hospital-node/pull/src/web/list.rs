//! A list in DICOM JSON (PS3.18 F.2), read as it arrives: of each answer the few attributes that are
//! asked for stay, all others are passed over without being held.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::fault::Fault;

/// One answer, of whatever level. Whatever is wrong with an attribute, the others stay.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) study: Attribute,
    pub(super) series: Attribute,
    pub(super) instance: Attribute,
    pub(super) class: Attribute,
    pub(super) patient: Attribute,
    pub(super) date: Attribute,
    pub(super) modality: Attribute,
    pub(super) description: Attribute,
}

impl Row {
    fn attribute(&mut self, tag: &str) -> Option<&mut Attribute> {
        Some(match tag {
            "0020000D" => &mut self.study,
            "0020000E" => &mut self.series,
            "00080018" => &mut self.instance,
            "00080016" => &mut self.class,
            "00100020" => &mut self.patient,
            "00080020" => &mut self.date,
            "00080060" => &mut self.modality,
            "0008103E" => &mut self.description,
            _ => return None,
        })
    }
}

/// An attribute's first value, if that is text.
#[derive(Debug, Default)]
pub(super) struct Attribute(Once);

impl Attribute {
    pub(super) fn text(self) -> Option<String> {
        match self.0 {
            Once::Said(text) => text,
            Once::Not | Once::Twice => None,
        }
    }
}

/// What an object says under one name.
#[derive(Debug, Default)]
enum Once {
    #[default]
    Not,
    Said(Option<String>),
    /// Whichever of them is meant.
    Twice,
}

impl Once {
    fn say(&mut self, text: Option<String>) {
        *self = match self {
            Self::Not => Self::Said(text),
            Self::Said(_) | Self::Twice => Self::Twice,
        };
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Attributes)
    }
}

struct Attributes;

impl<'de> Visitor<'de> for Attributes {
    type Value = Row;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer's attributes")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Row, A::Error> {
        let mut row = Row::default();
        while let Some(tag) = from.next_key::<String>()? {
            match row.attribute(&tag) {
                Some(Attribute(once)) => once.say(from.next_value::<Loose<Content>>()?.0),
                None => {
                    from.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(row)
    }
}

/// Where a text is looked for.
trait Place {
    /// In an object.
    fn of_map<'de, A: MapAccess<'de>>(from: A) -> Result<Option<String>, A::Error> {
        let mut from = from;
        while from.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    /// In a list.
    fn of_seq<'de, A: SeqAccess<'de>>(from: A) -> Result<Option<String>, A::Error> {
        let mut from = from;
        while from.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    /// In a text itself.
    fn of_str(_: &str) -> Option<String> {
        None
    }
}

/// An attribute's object with `Value` in it.
struct Content;

impl Place for Content {
    fn of_map<'de, A: MapAccess<'de>>(mut from: A) -> Result<Option<String>, A::Error> {
        let mut first = Attribute::default();
        while let Some(name) = from.next_key::<String>()? {
            if name == "Value" {
                first.0.say(from.next_value::<Loose<Values>>()?.0);
            } else {
                from.next_value::<IgnoredAny>()?;
            }
        }
        Ok(first.text())
    }
}

/// The list of an attribute's values.
struct Values;

impl Place for Values {
    fn of_seq<'de, A: SeqAccess<'de>>(mut from: A) -> Result<Option<String>, A::Error> {
        let first = from.next_element::<Loose<One>>()?.and_then(|Loose(text, _)| text);
        while from.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first)
    }
}

/// A value itself; nothing where it is empty.
struct One;

impl Place for One {
    fn of_str(text: &str) -> Option<String> {
        Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned)
    }
}

/// The text at a place; nothing where there is something else.
struct Loose<P>(Option<String>, PhantomData<P>);

impl<'de, P: Place> Deserialize<'de> for Loose<P> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Look::<P>(PhantomData)).map(|text| Self(text, PhantomData))
    }
}

struct Look<P>(PhantomData<P>);

impl<'de, P: Place> Visitor<'de> for Look<P> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E>(self, text: &str) -> Result<Option<String>, E> {
        Ok(P::of_str(text))
    }

    fn visit_unit<E>(self) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, from: A) -> Result<Option<String>, A::Error> {
        P::of_seq(from)
    }

    fn visit_map<A: MapAccess<'de>>(self, from: A) -> Result<Option<String>, A::Error> {
        P::of_map(from)
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
        for text in [
            "{\"0020000D\":null}",
            "{\"0020000D\":\"1.2\"}",
            "{\"0020000D\":[\"1.2\"]}",
            "{\"0020000D\":7}",
            "{\"0020000D\":{\"Value\":\"1.2\"}}",
            "{\"0020000D\":{\"Value\":{\"a\":[\"1.2\"]}}}",
            "{\"0020000D\":{\"Value\":[\"1.2\"],\"Value\":[\"1.3\"]}}",
            "{\"0020000D\":{\"Value\":[\"1.2\"]},\"0020000D\":{\"Value\":[\"1.2\"]}}",
        ] {
            let found = uids(&format!("[{{}},{text},{}]", row("[\"1.9\"]")));
            assert_eq!(found, Ok(vec![None, None, Some("1.9".to_owned())]), "{text}");
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
