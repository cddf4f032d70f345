//! What is written is there, once, in order.

use std::collections::BTreeMap;

use super::*;
use aggregation::ids::{HospitalId, RoundId, SlotId, StudyId};
use aggregation::keys::identity::IdentityKey;
use aggregation::message::{DeclineReason, Terms, Work};
use aggregation::units::Timestamp;

fn study() -> StudyId {
    StudyId::new(Digest::sha256(b"study"))
}

fn hospital(name: &str) -> HospitalId {
    HospitalId::new(name).expect("a name")
}

fn terms(slot: u64) -> Terms {
    Terms {
        study: study(),
        round: RoundId::FIRST,
        slot: SlotId::new(slot),
        work: Work::Train,
        model: Digest::sha256(b"model"),
        invited: [hospital("anna"), hospital("bert")].into(),
        ready_by: NOW,
    }
}

fn key(byte: u8) -> IdentityKey {
    IdentityKey::new([byte; 32])
}

fn packed(content: &[u8]) -> Packed {
    Packed { digest: Digest::blake3(content), bytes: 3 }
}

fn approval() -> LocalStudy {
    LocalStudy {
        id: study(),
        name: "chest".to_owned(),
        manifest: "name = \"chest\"".to_owned(),
        sites: [hospital("anna"), hospital("bert")].into(),
        identities: [(hospital("anna"), key(1)), (hospital("bert"), key(2))].into(),
        data: Some("images".to_owned()),
        decision: Decision::Approved,
        decided: NOW,
        told: false,
    }
}

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

async fn open(folder: &tempfile::TempDir) -> Journal {
    Journal::open(&folder.path().join("journal.sqlite")).await.expect("opens")
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let journal = open(&folder).await;
    journal.decide(&approval()).await.expect("recorded");
    journal.begin(&terms(1), NOW).await.expect("begun");
    journal.trained(study(), SlotId::new(1), packed(b"abc")).await.expect("trained");
    // No farewell: this is what a kill leaves.
    drop(journal);
    let journal = open(&folder).await;
    assert_eq!(journal.study(study()).await.expect("read"), Some(approval()));
    let last = journal.last_slot(study()).await.expect("read").expect("there");
    assert_eq!(last, SlotUse { terms: terms(1), stage: Stage::Trained(packed(b"abc")) });
}

#[tokio::test]
async fn a_slot_is_used_once_and_in_order() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let journal = open(&folder).await;
    journal.begin(&terms(5), NOW).await.expect("begun");
    for used in [5, 4] {
        let found = journal.begin(&terms(used), NOW).await;
        assert!(matches!(found, Err(JournalError::SlotUsed { last: 5, .. })), "{found:?}");
    }
    journal.begin(&terms(6), NOW).await.expect("a later one");
}

#[tokio::test]
async fn the_bytes_of_a_slot_never_change() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let journal = open(&folder).await;
    let slot = SlotId::new(1);
    assert!(journal.trained(study(), slot, packed(b"abc")).await.is_err(), "never begun");
    journal.begin(&terms(1), NOW).await.expect("begun");
    journal.trained(study(), slot, packed(b"abc")).await.expect("trained");
    assert!(journal.trained(study(), slot, packed(b"xyz")).await.is_err(), "other bytes");
    let last = journal.last_slot(study()).await.expect("read").expect("there");
    assert_eq!(last.stage, Stage::Trained(packed(b"abc")));
    journal.close(study(), slot, "released", None).await.expect("closed");
    assert!(journal.trained(study(), slot, packed(b"abc")).await.is_err(), "over");
    let last = journal.last_slot(study()).await.expect("read").expect("there");
    assert_eq!(last.stage, Stage::Closed);
}

#[tokio::test]
async fn a_decline_is_kept_whether_or_not_work_was_begun() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let journal = open(&folder).await;
    journal.decline(&terms(1), DeclineReason::Policy, NOW).await.expect("declined");
    journal.begin(&terms(2), NOW).await.expect("begun");
    for reason in [DeclineReason::Trainer, DeclineReason::Trainer] {
        journal.decline(&terms(2), reason, NOW).await.expect("declined, and again");
    }
    let last = journal.last_slot(study()).await.expect("read").expect("there");
    assert_eq!(last, SlotUse { terms: terms(2), stage: Stage::Declined(DeclineReason::Trainer) });
}

#[tokio::test]
async fn the_daemon_notices_what_the_command_line_writes() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (daemon, command) = (open(&folder).await, open(&folder).await);
    let before = daemon.version().await.expect("read");
    daemon.decide(&approval()).await.expect("our own");
    assert_eq!(daemon.version().await.expect("read"), before, "our own writing is no news");
    let withdrawn = LocalStudy { decision: Decision::Withdrawn, data: None, ..approval() };
    command.decide(&withdrawn).await.expect("recorded");
    assert_ne!(daemon.version().await.expect("read"), before);
    assert_eq!(daemon.studies().await.expect("read"), vec![withdrawn]);
    daemon.told(study(), Decision::Approved).await.expect("an old decision");
    assert!(!daemon.studies().await.expect("read")[0].told, "the new one is still untold");
    daemon.told(study(), Decision::Withdrawn).await.expect("the new one");
    assert!(daemon.studies().await.expect("read")[0].told);
}

#[tokio::test]
async fn a_newer_journal_is_refused() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let journal = open(&folder).await;
    sqlx::raw_sql("PRAGMA user_version = 99").execute(&journal.pool).await.expect("set");
    journal.finish().await;
    let found = Journal::open(&folder.path().join("journal.sqlite")).await;
    assert!(matches!(found, Err(JournalError::Newer { found: 99 })));
}
