//! FHIR R4 (4.0.1) `AuditEvent`, one for each leaf, shaped by IHE BALP (Basic Audit Log Patterns).
//!
//! An update that leaves a site is a DICOM *Export* with source and destination agents, a model that
//! is offered an *Import*, and so on, as BALP's disclosure pattern has it; why is in the purpose of
//! use. No profile is claimed in `meta`: BALP's are of REST interactions and of disclosures of one
//! patient, and these facts are neither. No network address is given, since the log has none.
//!
//! The leaf itself is in an entity, as bytes, with its place and hash: whoever holds one event can
//! ask the log for the proof. The resource's id is the leaf's hash, so exporting twice says the same.

use serde_json::{Map, Value, json};
use transparency::fact::{Fact, Outcome, Told};

use super::Entry;

const DCM: &str = "http://dicom.nema.org/resources/ontology/DCM";
const ACT_REASON: &str = "http://terminology.hl7.org/CodeSystem/v3-ActReason";
const ENTITY_TYPE: &str = "http://terminology.hl7.org/CodeSystem/audit-entity-type";
const ENTITY_ROLE: &str = "http://terminology.hl7.org/CodeSystem/object-role";
const SOURCE_TYPE: &str = "http://terminology.hl7.org/CodeSystem/security-source-type";

/// Identifiers of ours: what they name is within the log of this origin.
const OURS: &str = "urn:consilium";

/// DICOM's code and name for the event, and FHIR's action.
struct Sort {
    code: &'static str,
    name: &'static str,
    action: &'static str,
}

impl Sort {
    fn of(fact: &Fact) -> Self {
        let sort = |code, name, action| Self { code, name, action };
        match fact {
            Fact::SiteInvited { .. } | Fact::SiteEnrolled { .. } | Fact::SiteApproved { .. } => {
                sort("110108", "Network Entry", "C")
            }
            Fact::SiteRevoked { .. } => sort("110108", "Network Entry", "D"),
            Fact::CertificateRenewed { .. } | Fact::WitnessAnnounced { .. } => {
                sort("110108", "Network Entry", "U")
            }
            Fact::RoundContribution { .. } => sort("110106", "Export", "R"),
            Fact::RoundReleased { .. } | Fact::ModelExported { .. } => {
                sort("110106", "Export", "R")
            }
            Fact::RoundAnnounced { .. } => sort("110107", "Import", "C"),
            Fact::Alarm { .. }
            | Fact::RoundWrongShare { .. }
            | Fact::RoundRefused { .. }
            | Fact::LedgerRefused { .. } => sort("110113", "Security Alert", "E"),
            Fact::StudyProposed { .. } => sort("110100", "Application Activity", "C"),
            Fact::StudyDecided { .. } | Fact::StudyChanged { .. } | Fact::ModelChanged { .. } => {
                sort("110100", "Application Activity", "U")
            }
            Fact::RoundAbsent { .. }
            | Fact::RoundReady { .. }
            | Fact::RoundDeclined { .. }
            | Fact::RoundFrozen { .. }
            | Fact::RoundDropout { .. }
            | Fact::RoundAbandoned { .. }
            | Fact::RoundResumed {}
            | Fact::RoundEvaluated { .. }
            | Fact::KeyAnnounced { .. }
            | Fact::KeyNonce { .. }
            | Fact::PrekeyBatch { .. }
            | Fact::RoundFinalSet { .. }
            | Fact::RoundSetSigned { .. }
            | Fact::RoundShares { .. }
            | Fact::RoundRecovery { .. }
            | Fact::RoundKept { .. }
            | Fact::RoundForgotten { .. }
            | Fact::LedgerCharge(_)
            | Fact::Unknown => sort("110100", "Application Activity", "E"),
        }
    }
}

/// The resource of one leaf; `None` for an entry that is no leaf, which has no time.
pub(super) fn event(origin: &str, entry: &Entry) -> Option<Value> {
    let leaf = entry.leaf.as_ref()?;
    let unknown = Fact::Unknown;
    let told = entry.told.as_ref();
    let fact = told.map_or(&unknown, |told| &told.fact);
    let sort = Sort::of(fact);
    let outcome = match fact.outcome() {
        Outcome::Done => "0",
        Outcome::Refused => "4",
        Outcome::Alarm => "8",
    };
    let purpose = if told.is_some_and(|told| told.study.is_some()) {
        coding(ACT_REASON, "HRESCH", "healthcare research")
    } else {
        coding(ACT_REASON, "HSYSADMIN", "health system administration")
    };
    Some(json!({
        "resourceType": "AuditEvent",
        "id": entry.hash,
        "type": coding(DCM, sort.code, sort.name),
        "subtype": [{"system": format!("{OURS}:leaf-kind"), "code": leaf.kind()}],
        "action": sort.action,
        "recorded": leaf.time().to_string(),
        "outcome": outcome,
        "outcomeDesc": fact.sentence(),
        "purposeOfEvent": [{"coding": [purpose]}],
        "agent": agents(origin, fact),
        "source": {
            "observer": named("log", origin, origin),
            "type": [coding(SOURCE_TYPE, "4", "Application Server")],
        },
        "entity": entities(origin, entry, told),
    }))
}

fn coding(system: &str, code: &str, display: &str) -> Value {
    json!({"system": system, "code": code, "display": display})
}

fn named(what: &str, value: &str, display: &str) -> Value {
    json!({"identifier": {"system": format!("{OURS}:{what}"), "value": value}, "display": display})
}

/// Who asked for it, and the coordinator that saw it. One of them is the requestor.
fn agents(origin: &str, fact: &Fact) -> Vec<Value> {
    let exports = matches!(fact, Fact::RoundContribution { .. });
    let agent = |kind: Value, who: Value, requestor: bool| json!({"type": {"coding": [kind]}, "who": who, "requestor": requestor});
    let source = || coding(DCM, "110153", "Source Role ID");
    let application = || coding(DCM, "110150", "Application");
    let mut agents = Vec::new();
    match (fact.by(), fact.site()) {
        (Some(by), _) => agents.push(agent(application(), named("actor", by, by), true)),
        (None, Some(site)) => {
            let kind = if exports { source() } else { application() };
            agents.push(agent(kind, named("site", site, site), true));
        }
        (None, None) => {}
    }
    let kind = if exports { coding(DCM, "110152", "Destination Role ID") } else { application() };
    let alone = agents.is_empty();
    agents.push(agent(kind, named("log", origin, "coordinator"), alone));
    agents
}

fn entities(origin: &str, entry: &Entry, told: Option<&Told>) -> Vec<Value> {
    let entity = |what: Value, role: &str, display: &str| {
        let mut entity = Map::new();
        entity.insert("what".to_owned(), what);
        entity.insert("type".to_owned(), coding(ENTITY_TYPE, "2", "System Object"));
        entity.insert("role".to_owned(), coding(ENTITY_ROLE, role, display));
        entity
    };
    let mut entities = Vec::new();
    if let Some(told) = told {
        if let Some(study) = &told.study {
            let what = named("study", study.as_str(), "study");
            entities.push(entity(what, "20", "Job"));
            if let Some(round) = told.round {
                let slot = told.slot.map(|slot| format!("/{slot}")).unwrap_or_default();
                let name = format!("{study}/{round}{slot}");
                let what = named("round", &name, &format!("round {round}"));
                entities.push(entity(what, "21", "Job Stream"));
            }
        }
        if let (Some(_), Some(site)) = (told.fact.by(), told.fact.site()) {
            entities.push(entity(named("site", site, site), "4", "Domain Resource"));
        }
    }
    let place = format!("{origin}#{}", entry.index);
    let mut leaf = entity(named("log-entry", &place, "entry of the log"), "3", "Report");
    let detail = json!([
        {"type": "index", "valueString": entry.index.to_string()},
        {"type": "leaf-hash", "valueString": entry.hash},
        {"type": "leaf", "valueBase64Binary": data_encoding::BASE64.encode(&entry.bytes)},
    ]);
    leaf.insert("detail".to_owned(), detail);
    entities.push(leaf);
    entities.into_iter().map(Value::Object).collect()
}
