//! The live feed to a hospital's or a consortium's own collector: every fact of the log, one line each,
//! in their order. The table of facts is the spool: what is delivered is a number, and a collector that
//! was away gets all that happened meanwhile.
//!
//! One line is no fact: that the log was set back. Nothing can be appended to it then, so it is told
//! beside the table, first of all, once in each run of this program; a run that ends for that reason
//! before it has begun tells it too.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use proto::syslog::{Feed, Line, Mark, Receiver, Settings, Severity, feed};
use serde_json::Value;
use transparency::fact::{Fact, Outcome, Told};
use transparency::leaf::Leaf;

use crate::clock;
use crate::coordinator::Coordinator;
use crate::log::{Log, LogError};
use crate::store::Store;

/// The file of the number, in the state folder.
const DELIVERED: &str = "syslog.delivered";
/// Facts in one batch.
const AT_ONCE: u32 = 256;
/// How often new facts are looked for.
const EVERY: Duration = Duration::from_millis(500);

/// Feeds the receiver until it is dropped.
pub(crate) async fn keep_fed(house: Arc<Coordinator>, receiver: Receiver) {
    let mark = Mark::new(house.config.state.join(DELIVERED));
    // A number that cannot be read delivers again, which is the safe way to be wrong.
    let [at] = mark.read().unwrap_or_default();
    let Coordinator { store, log, config, .. } = &*house;
    let place = Place { facts: at, alarm: false };
    feed(&receiver, Facts { store, log, host: &config.url.host, place, mark }).await;
}

/// Tells the receiver why the log is not continued, while this program ends because of it.
pub(crate) async fn tell(settings: &Settings, host: &str, why: &LogError) {
    let frame = alarm(host, clock::now().as_millis(), &why.to_string());
    let told = match Receiver::load(settings) {
        Ok(receiver) => receiver.send(&frame).await.map_err(|fault| fault.to_string()),
        Err(fault) => Err(fault),
    };
    if let Err(fault) = told {
        tracing::warn!(fault, "the syslog receiver is not told of it");
    }
}

/// What is delivered, or sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    facts: u64,
    /// That the log was set back, too.
    alarm: bool,
}

struct Facts<'a> {
    store: &'a Store,
    log: &'a Log,
    host: &'a str,
    place: Place,
    mark: Mark,
}

impl Feed for Facts<'_> {
    type Place = Place;

    async fn next(&mut self, after: Option<&Place>) -> io::Result<Option<(Vec<u8>, Place)>> {
        let from = after.copied().unwrap_or(self.place);
        if let Some(set_back) = self.log.lost().filter(|_| !from.alarm) {
            let frame = alarm(self.host, clock::now().as_millis(), &set_back.to_string());
            return Ok(Some((frame, Place { alarm: true, ..from })));
        }
        let mut at = from.facts;
        let mut rows = self.store.facts_after(at, AT_ONCE).await.map_err(io::Error::other)?;
        if rows.is_empty() {
            // A table that was set back begins again where it ends.
            at = at.min(self.store.facts().await.map_err(io::Error::other)?);
            rows = self.store.facts_after(at, AT_ONCE).await.map_err(io::Error::other)?;
        }
        if after.is_none() {
            self.place.facts = at;
        }
        if rows.is_empty() {
            return Ok(None);
        }
        // What is told outside is not taken back by a power cut.
        self.store.settle().await.map_err(io::Error::other)?;
        let frames = rows.iter().flat_map(|row| frame(self.host, row.as_bytes())).collect();
        let facts = at.saturating_add(rows.len() as u64);
        Ok(Some((frames, Place { facts, ..from })))
    }

    async fn delivered(&mut self, place: Place) -> io::Result<()> {
        self.place = place;
        self.mark.note(&[place.facts])
    }

    async fn more(&mut self) {
        clock::wait_for(EVERY).await;
    }

    fn tell(&mut self, receiver: &str, reached: Result<(), &str>) {
        match reached {
            Ok(()) => tracing::info!(receiver, "the syslog receiver takes our facts"),
            Err(fault) => {
                tracing::warn!(receiver, fault, "the syslog receiver is away; facts wait for it");
            }
        }
    }
}

/// What is told beside the table.
fn alarm(host: &str, millis: u64, text: &str) -> Vec<u8> {
    let (severity, kind, program) = (Severity::Alert, "alarm", env!("CARGO_PKG_NAME"));
    Line { severity, millis, host, program, kind, fields: &[], text: &format!("ALARM: {text}") }
        .frame()
}

/// A fact as a line; nothing for what is no leaf, which no table has.
fn frame(host: &str, leaf: &[u8]) -> Vec<u8> {
    let Ok(leaf) = Leaf::decode(leaf) else { return Vec::new() };
    let fact = Told::read(&leaf).map_or(Fact::Unknown, |told| told.fact);
    let severity = match fact.outcome() {
        Outcome::Done => Severity::Informational,
        Outcome::Refused => Severity::Warning,
        Outcome::Alarm => Severity::Alert,
    };
    let fields: Vec<(String, String)> =
        leaf.data().iter().flat_map(|(name, value)| spelt(name, value)).collect();
    let (millis, text) = (leaf.time().as_millis(), fact.sentence());
    let program = env!("CARGO_PKG_NAME");
    Line { severity, millis, host, program, kind: leaf.kind(), fields: &fields, text: &text }
        .frame()
}

/// A field as one value, or as several with dotted names.
fn spelt(name: &str, value: &Value) -> Vec<(String, String)> {
    match value {
        Value::String(text) => vec![(name.to_owned(), text.clone())],
        Value::Array(items) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            vec![(name.to_owned(), items.join(","))]
        }
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(inner, value)| spelt(&format!("{name}.{inner}"), value))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            vec![(name.to_owned(), value.to_string())]
        }
    }
}

#[cfg(test)]
mod tests {
    use aggregation::ids::HospitalId;
    use aggregation::units::Timestamp;
    use transparency::checkpoint::{Checkpoint, SignedCheckpoint};
    use transparency::tree::Head;

    use super::*;
    use crate::identity::Gate;
    use crate::log::{origin, signer};
    use crate::store;

    #[tokio::test]
    async fn a_log_that_was_set_back_is_told_beside_the_facts_once() {
        let folder = tempfile::tempdir().expect("a folder");
        crate::rehearsal::log_key(folder.path());
        let name = HospitalId::new("north").expect("a name");
        let (state, key) = (folder.path().join("state"), folder.path().join("log.key"));
        let store = Store::open(&state).await.expect("opened");
        let gate = Arc::new(Gate::new(name.clone()));
        let log = Log::open(state.join("log"), &key, &name, &store, gate).await.expect("opened");
        let leaf = |reason: &str| [store::Leaf::new("alarm").with("reason", reason)];
        store.record(Timestamp::from_millis(1), &leaf("first")).await.expect("kept");
        log.integrate(&store).await.expect("integrated");
        let mark = Mark::new(state.join(DELIVERED));
        let place = Place { facts: 0, alarm: false };
        let mut facts = Facts { store: &store, log: &log, host: "host", place, mark };
        let (said, first) = facts.next(None).await.expect("read").expect("one fact");
        assert!(String::from_utf8(said).expect("text").ends_with("alarm: first"));

        // A hospital has a checkpoint of nine entries that this log signed.
        let head = Head { size: 9, root: [7; 32] };
        let known = Checkpoint::new(&origin(&name), head).expect("a checkpoint");
        let signer = signer(&key, &origin(&name)).expect("a key");
        let known = SignedCheckpoint::sign(known, &signer).expect("its own");
        log.show(known.to_string().as_bytes()).await.expect("looked at");
        let (said, second) = facts.next(Some(&first)).await.expect("read").expect("the alarm");
        let said = String::from_utf8(said).expect("text");
        assert!(
            said.contains(" <105>1 ") && said.contains(" host coordinator - alarm - "),
            "{said}"
        );
        assert!(
            said.contains("ALARM: the log was set back") && said.contains(" 9 entries"),
            "{said}"
        );
        assert_eq!(facts.next(Some(&second)).await.expect("read"), None, "told once");
        // It did not arrive: on the next connection it comes again, before what waits.
        let (again, _) = facts.next(None).await.expect("read").expect("the alarm");
        assert!(String::from_utf8(again).expect("text").contains("ALARM"));
        facts.delivered(second).await.expect("noted");
        store.record(Timestamp::from_millis(2), &leaf("second")).await.expect("kept");
        let (said, _) = facts.next(None).await.expect("read").expect("a fact");
        assert!(String::from_utf8(said).expect("text").ends_with("alarm: second"));
        store.close().await;
    }

    #[test]
    fn a_fact_is_a_line_with_its_fields_and_an_alarm_is_louder() {
        let leaf = br#"{"by":"operator/root","kind":"study_proposed","model":"m","name":"n","privacy":{"epsilon":3,"mode":"distributed"},"sites":["north","south"],"study":"s","time_ms":5,"v":1}"#;
        let said = String::from_utf8(frame("host", leaf)).expect("text");
        let wanted = concat!(
            " <110>1 1970-01-01T00:00:00.005Z host coordinator - study_proposed ",
            r#"[consilium@32473 by="operator/root" model="m" name="n" privacy.epsilon="3" "#,
            r#"privacy.mode="distributed" sites="north,south" study="s"] "#,
        );
        assert!(said.contains(wanted), "{said}");
        let alarm = br#"{"kind":"alarm","reason":"impossible","time_ms":5,"v":1}"#;
        let said = String::from_utf8(frame("host", alarm)).expect("text");
        assert!(said.contains(" <105>1 ") && said.ends_with("alarm: impossible"), "{said}");
        assert!(frame("host", b"no leaf").is_empty());
    }
}
