//! Every kind as it is written, and the page that documents it.

use serde_json::{Map, json};

use super::*;

fn told(kind: &str, data: Value) -> Result<Told, FactError> {
    let Value::Object(data) = data else { return told(kind, json!({})) };
    let time = UtcTime::from_millis(5).expect("a time");
    Told::read(&Leaf::new(kind, time, data).expect("a small leaf"))
}

fn hex(digit: char) -> String {
    String::from(digit).repeat(64)
}

/// The least that each kind says, in the order of `LEAVES.md`.
fn least() -> Vec<(&'static str, Value)> {
    let (study, digest) = (hex('a'), hex('b'));
    let of = |more: Value| {
        let mut all = json!({"study": study});
        merge(&mut all, more);
        all
    };
    let at = |more: Value| {
        let mut all = json!({"study": study, "round": 3, "slot": 4});
        merge(&mut all, more);
        all
    };
    vec![
        ("site_invited", json!({"site": "north", "by": "operator/root"})),
        ("site_enrolled", json!({"site": "north", "identity": digest})),
        ("site_approved", json!({"site": "north", "by": "operator/root", "certificate": digest})),
        ("site_revoked", json!({"site": "north", "by": "operator/root"})),
        ("certificate_renewed", json!({"site": "north", "certificate": digest})),
        (
            "witness_announced",
            json!({"site": "north", "key": digest, "identity_key": digest, "signature": "00"}),
        ),
        (
            "study_proposed",
            of(json!({"name": "n", "by": "b", "sites": ["north"], "model": digest})),
        ),
        ("study_decided", of(json!({"site": "north", "decision": "approved"}))),
        ("study_changed", of(json!({"from": "approved", "to": "running", "by": "sites"}))),
        (
            "round_announced",
            at(json!({"terms": digest, "work": "train", "model": digest, "invited": ["north"]})),
        ),
        ("round_absent", at(json!({"site": "north"}))),
        ("round_ready", at(json!({"site": "north"}))),
        ("round_declined", at(json!({"site": "north", "reason": "outside its hours"}))),
        ("round_frozen", at(json!({"members": ["north"]}))),
        ("round_contribution", at(json!({"site": "north", "digest": digest, "bytes": 9}))),
        ("round_dropout", at(json!({"site": "north", "reason": "was not ready in time"}))),
        ("round_released", at(json!({"contributed": ["north"]}))),
        ("round_kept", at(json!({"record": digest, "bytes": 12_000}))),
        ("round_forgotten", at(json!({"reason": "retention"}))),
        ("round_abandoned", at(json!({"reason": "the study was paused"}))),
        ("round_resumed", at(json!({}))),
        ("round_evaluated", at(json!({"model": digest, "sites": 4}))),
        ("round_final_set", at(json!({"members": ["north"]}))),
        ("round_set_signed", at(json!({"site": "north"}))),
        ("round_shares", at(json!({"site": "north"}))),
        ("round_wrong_share", at(json!({"site": "north", "of": "south"}))),
        ("round_refused", at(json!({"site": "north", "rule": "R-09"}))),
        ("round_recovery", at(json!({"missing": ["south"]}))),
        ("key_announced", of(json!({"site": "north", "digest": digest}))),
        ("key_nonce", of(json!({"site": "north", "nonce": digest}))),
        ("prekey_batch", of(json!({"site": "north", "batch": 0, "digest": digest}))),
        (
            "ledger_charge",
            at(json!({
                "site": "north", "mode": "distributed", "z": 1.25, "q": 0.05, "delta": 1e-5,
                "epsilon_planned": 0.5, "epsilon_solo": 2.5,
            })),
        ),
        ("ledger_refused", at(json!({"site": "north", "reason": "the cap is 3"}))),
        ("model_changed", at(json!({"before": digest, "after": digest}))),
        ("model_exported", of(json!({"model": digest, "by": "operator/root"}))),
        ("alarm", json!({"reason": "a sum that cannot be"})),
    ]
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
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
