//! What is written is there, once, in order.

mod erasure;

use std::collections::BTreeMap;

use super::*;
use aggregation::checkpoint::LogHead;
use aggregation::ids::{HospitalId, RoundId, SlotId, StudyId};
use aggregation::keys::identity::IdentityKey;
use aggregation::message::{DeclineReason, Terms, Work};
use aggregation::units::Timestamp;

use crate::policy::NewSites;

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
        log: LogHead::empty(),
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

#[tokio::test]
async fn a_journal_of_version_1_is_brought_up_and_says_what_it_said() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("journal.sqlite");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let old = SqlitePool::connect_with(options).await.expect("opens");
    sqlx::raw_sql(schema::FIRST).execute(&old).await.expect("as version 1 had it");
    let LocalStudy { id, name, manifest, decided, .. } = approval();
    sqlx::query("INSERT INTO study VALUES (?1, ?2, ?3, 'anna,bert', 'images', 'approved', ?4, 0)")
        .bind(id.digest().as_bytes().as_slice())
        .bind(name)
        .bind(manifest)
        .bind(signed(decided.as_millis(), "time").expect("small"))
        .execute(&old)
        .await
        .expect("written");
    sqlx::query("INSERT INTO slot VALUES (?1, 4, ?2, 'declined', 5, NULL, NULL, NULL, 1)")
        .bind(id.digest().as_bytes().as_slice())
        .bind(prost::Message::encode_to_vec(&proto::encode::terms(&terms(4))))
        .execute(&old)
        .await
        .expect("written");
    old.close().await;

    for _ in 0..2 {
        let journal = open(&folder).await;
        let found = journal.study(study()).await.expect("read");
        assert_eq!(found, Some(LocalStudy { identities: BTreeMap::new(), ..approval() }));
        let last = journal.last_slot(study()).await.expect("read").expect("there");
        assert_eq!(last.stage, Stage::Declined(DeclineReason::Trainer));
        assert!(journal.begin(&terms(4), NOW).await.is_err(), "used is used");
        journal.decide(&LocalStudy { told: false, ..approval() }).await.expect("recorded");
        assert_eq!(journal.study(study()).await.expect("read"), Some(approval()));
        journal
            .decide(&LocalStudy { identities: BTreeMap::new(), ..approval() })
            .await
            .expect("recorded");
        journal.finish().await;
    }
}

#[tokio::test]
async fn an_identity_is_pinned_once_and_another_one_waits_for_a_person() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let journal = open(&folder).await;
    let bert = hospital("bert");
    let later = Timestamp::from_millis(NOW.as_millis() + 1);
    let told = |byte| BTreeMap::from([(bert.clone(), key(byte))]);
    let news = |byte, what| vec![(bert.clone(), key(byte), what)];
    let pin = |journal: Journal| {
        let bert = bert.clone();
        async move { journal.pins().await.expect("read").get(&bert).copied().unwrap_or_default() }
    };

    let met = journal.meet(&told(1), NewSites::Pin, NOW).await.expect("written");
    assert_eq!(met, news(1, News::Pinned));
    let met = journal.meet(&told(1), NewSites::Pin, later).await.expect("nothing new");
    assert!(met.is_empty());
    let first = Pin { key: Some((key(1), NOW)), found: None };
    assert_eq!(pin(journal.clone()).await, first);

    // Another key: whatever the policy, it counts for nothing, however often it is told.
    for policy in [NewSites::Pin, NewSites::Ask] {
        journal.meet(&told(2), policy, later).await.expect("written");
        let changed = Pin { key: Some((key(1), NOW)), found: Some((key(2), later)) };
        assert_eq!(pin(journal.clone()).await, changed);
    }
    assert!(journal.meet(&told(2), NewSites::Pin, later).await.expect("known").is_empty());
    // The coordinator names the old one again: nothing waits any more.
    assert!(journal.meet(&told(1), NewSites::Pin, later).await.expect("written").is_empty());
    assert_eq!(pin(journal.clone()).await, first);

    journal.meet(&told(3), NewSites::Pin, later).await.expect("written");
    journal.accept(&bert, key(3), later).await.expect("written");
    let accepted = Pin { key: Some((key(3), later)), found: None };
    assert_eq!(pin(journal.clone()).await, accepted);

    let carl = BTreeMap::from([(hospital("carl"), key(4))]);
    let met = journal.meet(&carl, NewSites::Ask, NOW).await.expect("written");
    assert_eq!(met, vec![(hospital("carl"), key(4), News::Waits)]);
    assert!(journal.meet(&carl, NewSites::Ask, NOW).await.expect("known").is_empty());
    assert_eq!(journal.pins().await.expect("read")[&hospital("carl")].key, None);
    let met = journal.meet(&carl, NewSites::Pin, NOW).await.expect("written");
    assert_eq!(met, vec![(hospital("carl"), key(4), News::Pinned)], "the policy was loosened");
}
