//! The live feed to a hospital's or a consortium's own collector: every fact of the log, one line each,
//! in their order. The table of facts is the spool: what is delivered is a number, and a collector that
//! was away gets all that happened meanwhile.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use proto::syslog::{Feed, Line, Mark, Receiver, Severity, feed};
use serde_json::Value;
use transparency::fact::{Fact, Outcome, Told};
use transparency::leaf::Leaf;

use crate::clock;
use crate::coordinator::Coordinator;

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
    feed(&receiver, Facts { house, at, mark }).await;
}

struct Facts {
    house: Arc<Coordinator>,
    /// Facts that are delivered.
    at: u64,
    mark: Mark,
}

impl Feed for Facts {
    type Place = u64;

    async fn next(&mut self) -> io::Result<Option<(Vec<u8>, u64)>> {
        let store = &self.house.store;
        let mut rows = store.facts_after(self.at, AT_ONCE).await.map_err(io::Error::other)?;
        if rows.is_empty() {
            // A table that was set back begins again where it ends.
            self.at = self.at.min(store.facts().await.map_err(io::Error::other)?);
            rows = store.facts_after(self.at, AT_ONCE).await.map_err(io::Error::other)?;
        }
        if rows.is_empty() {
            return Ok(None);
        }
        // What is told outside is not taken back by a power cut.
        store.settle().await.map_err(io::Error::other)?;
        let host = &self.house.config.url.host;
        let frames = rows.iter().flat_map(|row| frame(host, row.as_bytes())).collect();
        Ok(Some((frames, self.at.saturating_add(rows.len() as u64))))
    }

    async fn delivered(&mut self, place: u64) -> io::Result<()> {
        self.at = place;
        self.mark.note(&[place])
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
    use super::*;

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
