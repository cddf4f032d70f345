//! The exports for other people's tools, on a whole consortium's log.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::BASE64;
use serde_json::Value;
use transparency::folder::Folder;

use crate::fixture::{ORIGIN, build, policy};
use crate::least::least;
use crate::program::Desk;
use crate::python::environment;
use crate::story::{SITES, Story};

fn desk() -> (Desk, Story) {
    let desk = Desk::bare();
    let mut story = Story::new("chest radiographs", SITES[4]);
    // And every kind that there is, with no more than it must say.
    for (kind, data) in least() {
        story.tell(kind, data);
    }
    let size = story.leaves.len();
    let at = |number: u64| story.leaves[usize::try_from(number).expect("few")].clone();
    build(Folder::create(&desk.at("log")).expect("made"), &[size as u64], at);
    fs::write(desk.at("policy"), policy(2).to_string()).expect("written");
    (desk, story)
}

fn export(desk: &Desk, to: &str) -> Vec<Value> {
    let answer = desk.run(&format!("export --log log --policy policy --to {to}"));
    assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""));
    answer.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The events of a kind, by the code that every FHIR event has.
fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let of = events.iter().filter(|event| event["subtype"][0]["code"] == kind);
    of.collect()
}

#[test]
fn every_leaf_is_one_fhir_audit_event_that_carries_it() {
    let (desk, story) = desk();
    let events = export(&desk, "fhir");
    assert_eq!(events.len(), story.leaves.len());
    let ids: BTreeSet<_> = events.iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), events.len());
    for (event, leaf) in events.iter().zip(&story.leaves) {
        let entities = event["entity"].as_array().expect("a list");
        let detail = &entities.last().expect("the leaf")["detail"];
        assert_eq!(detail[2]["valueBase64Binary"], BASE64.encode(leaf));
        assert_eq!(detail[1]["valueString"], event["id"]);
        let agents = event["agent"].as_array().expect("a list");
        assert_eq!(agents.iter().filter(|agent| agent["requestor"] == true).count(), 1);
        assert_eq!(event["source"]["observer"]["identifier"]["value"], ORIGIN);
    }
    for (kind, _) in least() {
        assert!(!of_kind(&events, kind).is_empty(), "{kind}");
    }
    let left = of_kind(&events, "round_contribution");
    assert_eq!((&left[0]["type"]["code"], &left[0]["action"]), (&"110106".into(), &"R".into()));
    assert_eq!(left[0]["agent"][0]["type"]["coding"][0]["code"], "110153");
    assert_eq!(left[0]["agent"][1]["type"]["coding"][0]["code"], "110152");
    assert_eq!(left[0]["purposeOfEvent"][0]["coding"][0]["code"], "HRESCH");
    assert_eq!(of_kind(&events, "alarm")[0]["outcome"], "8");
    let dropped = of_kind(&events, "round_dropout");
    assert_eq!((dropped.len() > 3, &dropped[0]["outcome"]), (true, &"4".into()));
}

/// Says what was done, past the test harness, which hides what passes.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "fhir.resources: {what}");
}

#[test]
fn other_peoples_models_of_fhir_accept_every_audit_event() {
    let wanted = ["fhir.resources==8.3.0"];
    let python = match environment("fhir-models", "import fhir.resources.R4B.auditevent", &wanted) {
        Ok(python) => python,
        Err(why) => return say(&format!("not asked: {why}")),
    };
    let (desk, story) = desk();
    let done = desk.run("export --log log --policy policy --to fhir --out events.ndjson");
    assert_eq!(done.code, Some(0), "{}", done.err);
    let judged = judge(&python, &desk.at("events.ndjson"));
    assert_eq!(judged, format!("{} accepted, 0 refused\n", story.leaves.len()));
    say(&format!("8.3.0 (R4B) accepts all {} events", story.leaves.len()));
    // It is no rubber stamp.
    let text = fs::read_to_string(desk.at("events.ndjson")).expect("written");
    let wrong = text.replacen("\"recorded\":", "\"noted\":", 1);
    fs::write(desk.at("events.ndjson"), wrong).expect("written");
    assert!(judge(&python, &desk.at("events.ndjson")).ends_with(" 1 refused\n"));
}

fn judge(python: &PathBuf, events: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/log/fhir_models.py");
    let output = Command::new(python).arg(script).arg(events).output().expect("it answered before");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What OCSF 1.5.0 requires of the three classes, from the schema's own files.
fn required(class: u64) -> &'static [&'static str] {
    match class {
        3004 => &["entity"],
        6003 => &["actor", "api", "src_endpoint"],
        2004 => &["finding_info"],
        _ => &["a class that is not exported"],
    }
}

#[test]
fn every_leaf_is_one_ocsf_event_with_what_its_class_requires() {
    let (desk, story) = desk();
    let events = export(&desk, "ocsf");
    assert_eq!(events.len(), story.leaves.len());
    let mut classes = BTreeSet::new();
    for (at, event) in events.iter().enumerate() {
        let number = |key: &str| event[key].as_u64().expect("a number");
        for key in ["activity_id", "category_uid", "class_uid", "severity_id", "time", "type_uid"] {
            assert!(number(key) > 0, "{key}: {event}");
        }
        assert_eq!(number("type_uid"), number("class_uid") * 100 + number("activity_id"));
        assert_eq!(number("class_uid") / 1_000, number("category_uid"));
        for key in required(number("class_uid")) {
            assert!(event[*key].is_object(), "{key}: {event}");
        }
        assert_eq!(event["metadata"]["version"], "1.5.0");
        assert_eq!(event["metadata"]["product"]["vendor_name"], "Consilium");
        assert_eq!(event["metadata"]["sequence"], at);
        classes.insert(number("class_uid"));
    }
    assert_eq!(classes, BTreeSet::from([2004, 3004, 6003]));
    let alarm = events.iter().find(|event| event["metadata"]["event_code"] == "alarm");
    assert_eq!(alarm.expect("one alarm")["severity"], "High");
}

#[test]
fn what_is_no_leaf_is_left_out_and_counted() {
    let desk = Desk::bare();
    build(Folder::create(&desk.at("log")).expect("made"), &[3], crate::fixture::small);
    fs::write(desk.at("policy"), policy(2).to_string()).expect("written");
    for to in ["fhir", "ocsf"] {
        let streamed = desk.run(&format!("export --log log --policy policy --to {to}"));
        assert_eq!((streamed.code, streamed.out.as_str()), (Some(0), ""));
        assert!(streamed.err.contains("3 entries are no canonical leaves"), "{}", streamed.err);
        let line = format!("export --log log --policy policy --to {to} --out out --format json");
        let json = desk.run(&line).json();
        assert_eq!((&json["data"]["entries"], &json["data"]["left_out"]), (&0.into(), &3.into()));
    }
}
