//! The least that each kind of leaf says. Tests of the vocabulary and of the exports use this file.

use serde_json::{Value, json};

pub(crate) fn hex(digit: char) -> String {
    String::from(digit).repeat(64)
}

/// The least that each kind says, in the order of `LEAVES.md`.
pub(crate) fn least() -> Vec<(&'static str, Value)> {
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

pub(crate) fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}
