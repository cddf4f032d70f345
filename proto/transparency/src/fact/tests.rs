//! Every kind as it is written, and the page that documents it.

use serde_json::{Map, json};

use self::least::{hex, least, merge};
use super::*;

#[path = "../../tests/log/least.rs"]
mod least;

fn told(kind: &str, data: Value) -> Result<Told, FactError> {
    let Value::Object(data) = data else { return told(kind, json!({})) };
    let time = UtcTime::from_millis(5).expect("a time");
    Told::read(&Leaf::new(kind, time, data).expect("a small leaf"))
}

/// The kinds that this program knows, in the spelling of leaves.
fn kinds() -> Vec<String> {
    let source = include_str!("../fact.rs");
    let (_, list) = source.split_once("pub enum Fact {").expect("there is one");
    let (list, _) = list.split_once("#[serde(other)]").expect("the last of them");
    let names = list.lines().filter_map(|line| line.strip_prefix("    "));
    let names = names.filter(|line| line.starts_with(|letter: char| letter.is_ascii_uppercase()));
    names
        .map(|line| {
            let name = line.chars().take_while(char::is_ascii_alphanumeric);
            let mut kind = String::new();
            for letter in name {
                if letter.is_ascii_uppercase() && !kind.is_empty() {
                    kind.push('_');
                }
                kind.push(letter.to_ascii_lowercase());
            }
            kind
        })
        .collect()
}

#[test]
fn every_kind_is_among_those_that_tests_tell() {
    let mut told: Vec<_> = least().into_iter().map(|(kind, _)| kind.to_owned()).collect();
    let mut known = kinds();
    assert_eq!(known, KINDS);
    known.sort();
    told.sort();
    assert!(known.len() > 30, "{known:?}");
    assert_eq!(told, known);
}

#[test]
fn the_least_that_a_kind_says_is_read_and_more_is_no_fault() {
    for (kind, data) in least() {
        let plain = told(kind, data.clone()).expect(kind);
        assert_ne!(plain.fact, Fact::Unknown, "{kind}");
        let mut more = data;
        merge(&mut more, json!({"a_field_of_tomorrow": {"deep": [1, 2]}}));
        assert_eq!(told(kind, more).expect(kind), plain);
    }
    assert_eq!(told("kind_of_tomorrow", json!({})).expect("unknown").fact, Fact::Unknown);
}

#[test]
fn a_known_kind_without_one_of_its_fields_is_an_error_that_names_it() {
    for (kind, data) in least() {
        let Value::Object(data) = data else { continue };
        for key in data.keys() {
            let mut less: Map<_, _> = data.clone();
            less.remove(key);
            let fault = told(kind, Value::Object(less)).expect_err(kind).to_string();
            assert!(fault.contains(key.as_str()) && fault.contains(kind), "{kind} {key}: {fault}");
        }
    }
    let upper = json!({"site": "north", "certificate": hex('A')});
    assert!(told("certificate_renewed", upper).is_err());
}

#[test]
fn the_page_documents_every_kind_with_its_fields() {
    let page = include_str!("../../LEAVES.md");
    for (kind, data) in least() {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{kind}` |")));
        let row = row.unwrap_or_default();
        assert!(!row.is_empty(), "LEAVES.md has no row for {kind}");
        for key in data.as_object().expect("an object").keys() {
            let shared = ["study", "round", "slot"].contains(&key.as_str());
            assert!(shared || row.contains(&format!("`{key}`")), "{kind}: {key}");
        }
        // What may be left out, too: each field of the fact is in its words for people who debug.
        let words = format!("{:?}", told(kind, data).expect("all that it needs").fact);
        let field =
            |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        for key in words.split(' ').filter_map(|word| word.strip_suffix(':')).filter(field) {
            assert!(row.contains(&format!("`{key}`")), "{kind}: {key}");
        }
    }
}

#[test]
fn a_leaf_as_the_coordinator_wrote_it_is_read() {
    let bytes = format!(
        r#"{{"bytes":2000000,"digest":"{}","kind":"round_contribution","round":7,"site":"alpha","slot":9,"study":"{}","time_ms":1795336200000,"v":1}}"#,
        hex('c'),
        hex('d')
    );
    let told = Told::read(&Leaf::decode(bytes.as_bytes()).expect("canonical")).expect("known");
    assert_eq!((told.round, told.slot, told.fact.site()), (Some(7), Some(9), Some("alpha")));
    assert_eq!(told.study.as_ref().map(Digest::short), Some("dddddddddddd"));
}

#[test]
fn a_sentence_says_no_more_than_there_is() {
    let of = |kind: &str, more: Value| {
        let mut data = json!({"study": hex('a'), "round": 3, "slot": 4});
        merge(&mut data, more);
        told(kind, data).expect(kind).fact.sentence()
    };
    let nobody = of("round_recovery", json!({"missing": []}));
    assert_eq!(nobody, "the sum was unmasked; nobody was missing");
    let one = of("round_recovery", json!({"missing": ["south"]}));
    assert_eq!(one, "the masks of south were taken out of the sum");
    let proposed = |privacy: Value| {
        let fields = json!({"name": "n", "by": "b", "sites": ["s"], "model": hex('b')});
        let mut fields = fields;
        merge(&mut fields, json!({ "privacy": privacy }));
        of("study_proposed", fields)
    };
    assert_eq!(proposed(json!({"mode": "silo"})), "b proposed the study \"n\" to s");
    let counted = proposed(json!({"mode": "silo", "accountant": "pld"}));
    assert!(counted.ends_with("; epsilon is counted by pld"), "{counted}");
}
