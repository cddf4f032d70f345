//! What an entry says: a canonical JSON object of version, kind, time and the kind's own fields, as
//! in `{"by":"operator/root","kind":"site_approved","site":"alpha","time_ms":5,"v":1}`. What the
//! kinds are is in [`crate::fact`].
//!
//! Canonical means RFC 8785 with numbers below 2^53 in magnitude: sorted keys, no spaces, one
//! spelling for each value. The bytes that are hashed are the bytes that are stored; a reader
//! refuses bytes that it would have written otherwise, so that two readers never differ over what
//! an entry says (a key given twice, a number that one of them rounds).
//!
//! What may be said is the writer's affair. Nothing here is private: a log is for showing.

use serde_json::{Map, Number, Value};

use crate::tile::MAX_ENTRY_BYTES;
use crate::time::UtcTime;

/// The version of the envelope.
pub const LEAF_VERSION: u64 = 1;

/// The envelope's own fields.
const KIND: &str = "kind";
const TIME: &str = "time_ms";
const VERSION: &str = "v";

/// The longest name of a kind.
const MAX_KIND_BYTES: usize = 64;

/// The first magnitude at which neighbouring whole numbers fall together in other people's readers.
const FIRST_INEXACT: u64 = 1 << 53;

/// Why bytes or values do not make a leaf.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// More bytes than an entry may have.
    #[error("expected a leaf of at most {MAX_ENTRY_BYTES} bytes, found {0}")]
    TooLong(usize),
    /// Not JSON.
    #[error("expected JSON: {0}")]
    Json(String),
    /// JSON in another spelling than the canonical one.
    #[error("expected canonical JSON (RFC 8785), found another spelling")]
    Spelling,
    /// A key is missing, there is another, or a value has the wrong type.
    #[error(
        "expected an object with the kind's name, time_ms in milliseconds and v = {LEAF_VERSION}"
    )]
    Envelope,
    /// A field of the facts has the name of one of the envelope's.
    #[error("expected fields other than kind, time_ms and v, found {0} among them")]
    Reserved(&'static str),
    /// The kind's name.
    #[error(
        "expected a kind of at most {MAX_KIND_BYTES} bytes like \"round_announced\", found {0:?}"
    )]
    Kind(String),
    /// A time after the year 9999.
    #[error("expected time_ms before the year 10000, found {0}")]
    Time(u64),
    /// A number that readers of JSON do not agree on.
    #[error("expected numbers below 2^53 in magnitude, found {0}")]
    Number(String),
}

/// One entry of the log, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    kind: String,
    time: UtcTime,
    data: Map<String, Value>,
    bytes: Vec<u8>,
}

impl Leaf {
    /// A leaf of this kind, time and facts.
    ///
    /// # Errors
    /// When the kind is misspelt, a field has a name of the envelope's, a number is inexact, or the
    /// leaf becomes too long.
    pub fn new(kind: &str, time: UtcTime, data: Map<String, Value>) -> Result<Self, LeafError> {
        check_kind(kind)?;
        let mut envelope = data;
        let own = [
            (KIND, Value::String(kind.to_owned())),
            (TIME, Value::Number(time.as_millis().into())),
            (VERSION, Value::Number(LEAF_VERSION.into())),
        ];
        for (key, value) in own {
            if envelope.insert(key.to_owned(), value).is_some() {
                return Err(LeafError::Reserved(key));
            }
        }
        let envelope = Value::Object(envelope);
        Self::decode(canonical(&envelope)?.as_bytes())
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// When the bytes are not a leaf in its one spelling.
    pub fn decode(bytes: &[u8]) -> Result<Self, LeafError> {
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(LeafError::TooLong(bytes.len()));
        }
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| LeafError::Json(error.to_string()))?;
        if canonical(&value)?.as_bytes() != bytes {
            return Err(LeafError::Spelling);
        }
        let Value::Object(mut data) = value else { return Err(LeafError::Envelope) };
        let [Some(Value::String(kind)), Some(time), Some(version)] =
            [KIND, TIME, VERSION].map(|key| data.remove(key))
        else {
            return Err(LeafError::Envelope);
        };
        let (Some(millis), Some(LEAF_VERSION)) = (time.as_u64(), version.as_u64()) else {
            return Err(LeafError::Envelope);
        };
        check_kind(&kind)?;
        let time = UtcTime::from_millis(millis).ok_or(LeafError::Time(millis))?;
        Ok(Self { kind, time, data, bytes: bytes.to_vec() })
    }

    /// What happened, such as `round_announced`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// When, by the writer's clock.
    #[must_use]
    pub fn time(&self) -> UtcTime {
        self.time
    }

    /// The fields of the kind.
    #[must_use]
    pub fn data(&self) -> &Map<String, Value> {
        &self.data
    }

    /// The bytes that are hashed and stored.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn check_kind(kind: &str) -> Result<(), LeafError> {
    let word = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    if kind.len() <= MAX_KIND_BYTES && kind.split(['.', '-', '_']).all(word) {
        return Ok(());
    }
    Err(LeafError::Kind(kind.chars().take(MAX_KIND_BYTES + 1).collect()))
}

/// The one spelling of a JSON value.
///
/// # Errors
/// When it has a number of 2^53 or more in magnitude.
pub fn canonical(value: &Value) -> Result<String, LeafError> {
    let mut out = String::new();
    write(value, &mut out)?;
    Ok(out)
}

fn write(value: &Value, out: &mut String) -> Result<(), LeafError> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&write_number(number)?),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(item, out)?;
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
            out.push('{');
            for (at, (key, item)) in pairs.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_string(key, out);
                out.push(':');
                write(item, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn write_string(text: &str, out: &mut String) {
    // serde_json escapes as RFC 8785 section 3.2.2.2 asks: the short forms, and \u00xx in lower case.
    out.push_str(&Value::String(text.to_owned()).to_string());
}

/// ECMAScript's spelling of a number (RFC 8785 section 3.2.2.3), for magnitudes below 2^53.
fn write_number(number: &Number) -> Result<String, LeafError> {
    let inexact = || LeafError::Number(number.to_string());
    if let Some(whole) = number.as_i64() {
        return if whole.unsigned_abs() < FIRST_INEXACT {
            Ok(whole.to_string())
        } else {
            Err(inexact())
        };
    }
    let float = number.as_f64().filter(|float| float.abs() < 9_007_199_254_740_992.0);
    let float = float.ok_or_else(inexact)?;
    let magnitude = float.abs();
    if magnitude >= 1e-6 {
        return Ok(float.to_string());
    }
    if magnitude <= 0.0 {
        // Minus zero is zero.
        return Ok("0".to_owned());
    }
    Ok(format!("{float:e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn time() -> UtcTime {
        "2026-11-22T08:30:00.000Z".parse().expect("a time")
    }

    fn leaf(data: Value) -> Result<Leaf, LeafError> {
        let Value::Object(data) = data else { return Err(LeafError::Envelope) };
        Leaf::new("round_announced", time(), data)
    }

    #[test]
    fn a_leaf_has_one_spelling_and_is_read_back() {
        let leaf = leaf(json!({"round": 7, "epsilon": 0.5, "cohort": ["b", "a"]})).expect("a leaf");
        assert_eq!(
            std::str::from_utf8(leaf.bytes()),
            Ok(
                r#"{"cohort":["b","a"],"epsilon":0.5,"kind":"round_announced","round":7,"time_ms":1795336200000,"v":1}"#
            )
        );
        assert_eq!(Leaf::decode(leaf.bytes()), Ok(leaf));
    }

    #[test]
    fn numbers_are_spelt_as_in_rfc_8785() {
        for (number, text) in [
            (json!(0.0), "0"),
            (json!(-0.0), "0"),
            (json!(3.0), "3"),
            (json!(-1.5), "-1.5"),
            (json!(1e-6), "0.000001"),
            (json!(9.999_999e-7), "9.999999e-7"),
            (json!(1e-7), "1e-7"),
            (json!(5e-324), "5e-324"),
            (json!(0.1), "0.1"),
            (json!(333_333_333.333_333_3), "333333333.3333333"),
            (json!(9_007_199_254_740_991_u64), "9007199254740991"),
            (json!(-9_007_199_254_740_991_i64), "-9007199254740991"),
        ] {
            assert_eq!(canonical(&number).as_deref(), Ok(text));
            let again: Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(canonical(&again).as_deref(), Ok(text));
        }
        for number in [json!(1_u64 << 53), json!(u64::MAX), json!(i64::MIN), json!(1e300)] {
            assert!(matches!(canonical(&number), Err(LeafError::Number(_))), "{number}");
        }
    }

    #[test]
    fn strings_and_keys_are_spelt_as_in_rfc_8785() {
        // The two objects of RFC 8785 sections 3.2.2 and 3.2.3, without the number of 1e30.
        let strings: Value = serde_json::from_str(r#"{"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#)
            .expect("JSON");
        assert_eq!(
            canonical(&strings).as_deref(),
            Ok(r#"{"literals":[null,true,false],"string":"€$\u000f\nA'B\"\\\\\"/"}"#)
        );
        let keys: Value = serde_json::from_str(
            r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#,
        )
        .expect("JSON");
        let text = canonical(&keys).expect("no numbers");
        let places: Vec<_> = ["Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew"]
            .iter()
            .map(|word| text.find(word).expect("it is there"))
            .collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn every_float_of_a_leaf_is_read_back_exactly() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let float = f64::from_bits(state);
            if !float.is_finite() || float.abs() >= 9e15 {
                continue;
            }
            let text = canonical(&json!(float)).expect("small enough");
            let again: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(canonical(&again), Ok(text));
        }
    }

    #[test]
    fn another_spelling_or_shape_is_refused() {
        let good = r#"{"a":{},"kind":"a_b","time_ms":5,"v":1}"#;
        assert!(Leaf::decode(good.as_bytes()).is_ok());
        for (from, to) in [
            ("{}", "{ }"),
            ("{}", r#"{"b":1,"a":2}"#),
            ("{}", r#"{"a":1,"a":1}"#),
            ("{}", "1.0"),
            ("{}", r#""\/""#),
            (r#""kind":"a_b","#, ""),
            ("a_b", "A"),
            ("a_b", "a__b"),
            ("a_b", ""),
            (r#""a_b""#, "7"),
            (":5,", ":-5,"),
            (":5,", ":5.5,"),
            (":5,", r#":"5","#),
            (":5,", ":253402300800000,"),
            (":1}", ":2}"),
            (":1}", ":1}\n"),
            (r#","v":1"#, ""),
        ] {
            let wrong = good.replacen(from, to, 1);
            assert_ne!(wrong, good);
            assert!(Leaf::decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
        for key in ["kind", "time_ms", "v"] {
            assert_eq!(leaf(json!({ key: 1 })), Err(LeafError::Reserved(key)));
        }
        assert!(Leaf::decode(b"[]").is_err());
        assert!(Leaf::decode(b"\xff").is_err());
        assert!(Leaf::decode("[".repeat(1_000).as_bytes()).is_err());
        assert!(matches!(leaf(json!({"a": "x".repeat(65_536)})), Err(LeafError::TooLong(_))));
    }
}
