//! OCSF 1.5.0 events, one for each leaf, for SIEMs.
//!
//! | facts | class |
//! | --- | --- |
//! | of sites, certificates, keys and studies | Entity Management 3004 |
//! | of rounds, models and ledgers | API Activity 6003 |
//! | alarms, and a ledger that refuses a round | Detection Finding 2004 |
//!
//! `unmapped` has the leaf's fields as they are, `metadata.uid` its hash and `metadata.sequence` its
//! place in the log.

use serde_json::{Map, Value, json};
use transparency::fact::{Fact, Outcome, Told};

use super::Entry;

const VERSION: &str = "1.5.0";

#[derive(Clone, Copy)]
enum Class {
    Entity,
    Api,
    Finding,
}

impl Class {
    /// Category, class, its name, and the category's.
    fn uids(self) -> (u32, u32, &'static str, &'static str) {
        match self {
            Self::Entity => (3, 3004, "Entity Management", "Identity & Access Management"),
            Self::Api => (6, 6003, "API Activity", "Application Activity"),
            Self::Finding => (2, 2004, "Detection Finding", "Findings"),
        }
    }
}

const OTHER: (u32, &str) = (99, "Other");

/// The class and the activity within it.
fn sort(fact: &Fact) -> (Class, (u32, &'static str)) {
    match fact {
        Fact::SiteInvited { .. } | Fact::StudyProposed { .. } => (Class::Entity, (1, "Create")),
        Fact::SiteEnrolled { .. } => (Class::Entity, (6, "Enroll")),
        Fact::SiteApproved { .. } => (Class::Entity, (8, "Enable")),
        Fact::SiteRevoked { .. } => (Class::Entity, (9, "Disable")),
        Fact::CertificateRenewed { .. }
        | Fact::StudyDecided { .. }
        | Fact::StudyChanged { .. }
        | Fact::WitnessAnnounced { .. }
        | Fact::KeyAnnounced { .. }
        | Fact::KeyNonce { .. }
        | Fact::PrekeyBatch { .. } => (Class::Entity, (3, "Update")),
        Fact::RoundAnnounced { .. } | Fact::RoundContribution { .. } => (Class::Api, (1, "Create")),
        Fact::RoundReleased { .. } | Fact::ModelExported { .. } => (Class::Api, (2, "Read")),
        Fact::RoundFrozen { .. }
        | Fact::RoundFinalSet { .. }
        | Fact::RoundSetSigned { .. }
        | Fact::RoundShares { .. }
        | Fact::RoundRecovery { .. }
        | Fact::RoundKept { .. }
        | Fact::RoundForgotten { .. }
        | Fact::RoundResumed {}
        | Fact::ModelChanged { .. }
        | Fact::LedgerCharge(_) => (Class::Api, (3, "Update")),
        Fact::RoundAbsent { .. }
        | Fact::RoundReady { .. }
        | Fact::RoundDeclined { .. }
        | Fact::RoundDropout { .. }
        | Fact::RoundAbandoned { .. }
        | Fact::RoundEvaluated { .. }
        | Fact::Unknown => (Class::Api, OTHER),
        Fact::Alarm { .. }
        | Fact::RoundWrongShare { .. }
        | Fact::RoundRefused { .. }
        | Fact::LedgerRefused { .. } => (Class::Finding, (1, "Create")),
    }
}

/// The event of one leaf; `None` for an entry that is no leaf, which has no time.
pub(super) fn event(origin: &str, entry: &Entry) -> Option<Value> {
    let leaf = entry.leaf.as_ref()?;
    let unknown = Fact::Unknown;
    let told = entry.told.as_ref();
    let fact = told.map_or(&unknown, |told| &told.fact);
    let (class, (activity, activity_name)) = sort(fact);
    let (category_uid, class_uid, class_name, category_name) = class.uids();
    let (severity_id, severity) = match fact.outcome() {
        Outcome::Done => (1, "Informational"),
        Outcome::Refused => (2, "Low"),
        Outcome::Alarm => (4, "High"),
    };
    let mut event = Map::new();
    let mut put = |key: &str, value: Value| event.insert(key.to_owned(), value);
    put("activity_id", json!(activity));
    put("activity_name", json!(activity_name));
    put("category_uid", json!(category_uid));
    put("category_name", json!(category_name));
    put("class_uid", json!(class_uid));
    put("class_name", json!(class_name));
    put("type_uid", json!(class_uid * 100 + activity));
    put("type_name", json!(format!("{class_name}: {activity_name}")));
    put("time", json!(leaf.time().as_millis()));
    put("timezone_offset", json!(0));
    put("severity_id", json!(severity_id));
    put("severity", json!(severity));
    put("message", json!(fact.sentence()));
    put("metadata", metadata(origin, entry, leaf.kind()));
    put("unmapped", Value::Object(leaf.data().clone()));
    let site = fact.site();
    match class {
        Class::Entity => {
            put("entity", entity(told, site));
            put("actor", actor(fact));
        }
        Class::Api => {
            put("actor", actor(fact));
            put("api", json!({"operation": leaf.kind(), "service": {"name": "consilium"}}));
            let from = site.or_else(|| fact.by()).unwrap_or(origin);
            put("src_endpoint", json!({"name": from}));
            put("dst_endpoint", json!({"name": origin}));
            let resources = resources(told);
            if !resources.is_empty() {
                put("resources", Value::Array(resources));
            }
        }
        Class::Finding => {
            let info = json!({
                "uid": entry.hash, "title": leaf.kind(), "desc": fact.sentence(),
                "created_time": leaf.time().as_millis(),
            });
            put("finding_info", info);
            put("is_alert", json!(true));
            put("status_id", json!(1));
            put("status", json!("New"));
        }
    }
    if matches!(class, Class::Entity | Class::Api) {
        let failed = fact.outcome() != Outcome::Done;
        put("status_id", json!(if failed { 2 } else { 1 }));
        put("status", json!(if failed { "Failure" } else { "Success" }));
    }
    Some(Value::Object(event))
}

fn metadata(origin: &str, entry: &Entry, kind: &str) -> Value {
    json!({
        "version": VERSION,
        "product": {"name": "Consilium", "vendor_name": "Consilium", "version": env!("CARGO_PKG_VERSION")},
        "log_name": origin,
        "log_provider": "consilium",
        "uid": entry.hash,
        "sequence": entry.index,
        "event_code": kind,
        "original_time": entry.leaf.as_ref().map(|leaf| leaf.time().to_string()),
    })
}

/// What was managed: the study, or a site.
fn entity(told: Option<&Told>, site: Option<&str>) -> Value {
    match (told.and_then(|told| told.study.as_ref()), site) {
        (Some(study), _) => {
            json!({"uid": study.as_str(), "name": study.short(), "type": "study", "type_id": 99})
        }
        (None, site) => {
            json!({"name": site.unwrap_or("consortium"), "type": "Organization", "type_id": 4})
        }
    }
}

fn actor(fact: &Fact) -> Value {
    match (fact.by(), fact.site()) {
        (Some(by), _) => json!({"user": {"name": by}, "app_name": "coordinator"}),
        (None, Some(site)) => {
            json!({"user": {"name": site, "type": "System", "type_id": 3}, "app_name": "hospital-node"})
        }
        (None, None) => json!({"app_name": "coordinator"}),
    }
}

fn resources(told: Option<&Told>) -> Vec<Value> {
    let Some(told) = told else { return Vec::new() };
    let study = told.study.as_ref();
    let mut resources: Vec<Value> =
        study.iter().map(|study| json!({"uid": study.as_str(), "type": "study"})).collect();
    if let (Some(study), Some(round)) = (study, told.round) {
        let slot = told.slot.map(|slot| format!("/{slot}")).unwrap_or_default();
        resources.push(json!({"uid": format!("{study}/{round}{slot}"), "type": "round"}));
    }
    resources
}
