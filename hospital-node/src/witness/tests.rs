use aggregation::secret::Secret;
use transparency::checkpoint::{Checkpoint, SignedCheckpoint};
use transparency::note::Signer;
use transparency::tree::{Hash, Head, Leaves, consistency_proof, leaf_hash, root};

use super::*;

fn name(text: &str) -> HospitalId {
    HospitalId::new(text).expect("a name")
}

fn log(seed: u8) -> Signer {
    Signer::from_seed("consilium/north", &[seed; 32]).expect("a seed")
}

fn grown(log: &Signer) -> LogGrown {
    LogGrown { key: log.key().to_string(), size: 0 }
}

/// Leaves of which the first ten are common to all salts.
fn leaves(salt: u8) -> Vec<Hash> {
    (0..40_u8).map(|at| leaf_hash(&[at, if at < 10 { 0 } else { salt }])).collect()
}

fn offer(log: &Signer, leaves: &[Hash], from: usize, to: usize) -> Offer {
    let head = Head { size: to as u64, root: root(&leaves[..to]) };
    let checkpoint = Checkpoint::new("consilium/north", head).expect("a checkpoint");
    let proof = consistency_proof(&mut Leaves(leaves), from as u64, to as u64)
        .expect("in memory")
        .unwrap_or_default();
    let signed = SignedCheckpoint::sign(checkpoint, log).expect("our own log");
    Offer { old_size: from as u64, proof, signed }
}

fn identity() -> Arc<Identity> {
    Arc::new(Identity::from_seed(&Secret::new([3; 32])).expect("a seed"))
}

pub(super) fn desk(folder: &tempfile::TempDir) -> Desk {
    let state = State::open(folder.path()).expect("ours");
    Desk::open(state, &name("north"), name("alpha"), identity()).expect("opened")
}

/// A desk on a new folder that has cosigned twelve leaves of the log.
pub(super) fn at_twelve() -> (tempfile::TempDir, Desk, Witness) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let desk = desk(&folder);
    let mut witness = desk.meet(&grown(&log(1))).expect("the first log");
    let offer = offer(&log(1), &leaves(0), 0, 12);
    let line = desk.take(&mut witness, &offer).expect("from nothing");
    let key = desk.cosigner.key();
    assert!(key.check(&line, offer.signed.note().text()).is_some_and(|time| time > 0));
    assert_eq!(key.name(), "consilium/north/alpha");
    (folder, desk, witness)
}

#[test]
fn what_was_cosigned_is_on_disk_and_a_restart_goes_on_from_there() {
    let (folder, first, _) = at_twelve();
    let key = first.cosigner.key();
    drop(first);
    let again = desk(&folder);
    assert_eq!(again.cosigner.key(), key, "the key stays");
    let mut held = again.held.try_lock().expect("nobody else");
    let witness = held.witness.as_mut().expect("it has witnessed before");
    again.same_log(witness, &grown(&log(1))).expect("the log that was pinned");
    again.take(witness, &offer(&log(1), &leaves(0), 12, 30)).expect("it has grown");
    assert!(!again.alarmed());
    let told = standing(&again.state, &name("north"), &name("alpha")).expect("read");
    assert_eq!((told.size, told.alarm), (Some(30), None));
    assert_eq!(told.key, Some(key.to_string()));
}

#[test]
fn what_contradicts_the_log_is_kept_as_evidence_and_bars_until_it_is_taken_away() {
    let foreign = Signer::from_seed("consilium/south", &[1; 32]).expect("a seed");
    let cases: [(&str, Offer); 5] = [
        ("fork", offer(&log(1), &leaves(1), 12, 20)),
        ("fork", offer(&log(1), &leaves(1), 12, 12)),
        ("rollback", offer(&log(1), &leaves(0), 0, 11)),
        ("signed by the log", offer(&log(2), &leaves(0), 12, 20)),
        ("checkpoint of consilium/north, found", {
            let head = Head { size: 3, root: root(&leaves(0)[..3]) };
            let checkpoint = Checkpoint::new("consilium/south", head).expect("a checkpoint");
            let signed = SignedCheckpoint::sign(checkpoint, &foreign).expect("its own");
            Offer { old_size: 12, proof: Vec::new(), signed }
        }),
    ];
    for (what, wrong) in cases {
        let (folder, desk, mut witness) = at_twelve();
        let error = desk.take(&mut witness, &wrong).expect_err(what).to_string();
        assert!(error.contains(what), "{error}");
        assert!(desk.alarmed());
        // Kill -9 changes nothing about it.
        let again = self::desk(&folder);
        assert!(again.alarmed());
        let file = alarm_file(&again.state);
        let evidence = std::fs::read_to_string(&file).expect("kept");
        let evidence: serde_json::Value = serde_json::from_str(&evidence).expect("JSON");
        assert_eq!(evidence["offered"], wrong.to_string());
        let cosigned = evidence["cosigned"].as_str().expect("text");
        let cosigned = SignedCheckpoint::parse(cosigned.as_bytes()).expect("a checkpoint");
        assert_eq!(cosigned.verify(&log(1).key()), Ok(()));
        let told = standing(&again.state, &name("north"), &name("alpha")).expect("read");
        assert!(told.alarm.is_some_and(|alarm| alarm.contains(what)));
        assert_eq!(told.size, Some(12), "what was refused was not cosigned");
        std::fs::remove_file(file).expect("taken away");
        assert!(!again.alarmed());
    }
}

#[test]
fn an_alarm_whose_evidence_the_disk_would_not_take_bars_until_it_is_kept_and_looked_at() {
    let (folder, desk, mut witness) = at_twelve();
    let block = folder.path().join("witness.alarm.new");
    std::fs::create_dir(&block).expect("in the way");
    let wrong = offer(&log(1), &leaves(1), 12, 20);
    let error = desk.take(&mut witness, &wrong).expect_err("a fork");
    assert!(matches!(error, WitnessError::Alarm(_)), "{error}");
    for _ in 0..2 {
        assert!(desk.alarmed(), "there is no file, and nobody took one away");
    }
    std::fs::remove_dir(&block).expect("room again");
    assert!(desk.alarmed());
    let evidence = std::fs::read_to_string(alarm_file(&desk.state)).expect("kept");
    let evidence: serde_json::Value = serde_json::from_str(&evidence).expect("JSON");
    assert_eq!(evidence["offered"], wrong.to_string());
    std::fs::remove_file(alarm_file(&desk.state)).expect("taken away");
    assert!(!desk.alarmed());
}

#[test]
fn another_key_of_the_log_is_an_alarm_and_a_stale_proof_is_none() {
    let (_folder, desk, mut witness) = at_twelve();
    let stale = desk.take(&mut witness, &offer(&log(1), &leaves(0), 11, 20));
    assert!(matches!(stale, Err(WitnessError::Shape(_))), "{stale:?}");
    assert!(!desk.alarmed());
    for nothing in ["", "no key", &"x".repeat(MAX_LINE + 1)] {
        let grown = LogGrown { key: nothing.to_owned(), size: 0 };
        assert!(matches!(desk.same_log(&witness, &grown), Err(WitnessError::Shape(_))));
    }
    assert!(!desk.alarmed());
    desk.same_log(&witness, &grown(&log(2))).expect_err("another key");
    assert!(desk.alarmed());
}

#[test]
fn a_new_key_of_the_log_is_taken_from_an_administrator_and_from_nobody_else() {
    let (folder, desk, mut witness) = at_twelve();
    let rotated = offer(&log(2), &leaves(0), 12, 20);
    desk.take(&mut witness, &rotated).expect_err("nobody has told of it");
    assert!(desk.alarmed());
    drop(desk);
    let state = State::open(folder.path()).expect("ours");
    std::fs::remove_file(alarm_file(&state)).expect("looked at");
    let keys = format!("{}\n{}\n", log(2).key(), log(1).key());
    state.replace(LOG, keys.as_bytes()).expect("written");
    let told = standing(&state, &name("north"), &name("alpha")).expect("read");
    assert_eq!((told.size, told.log), (Some(12), Some(log(2).key().to_string())));
    let desk = self::desk(&folder);
    let mut held = desk.held.try_lock().expect("nobody else");
    let witness = held.witness.as_mut().expect("it has witnessed before");
    desk.same_log(witness, &grown(&log(2))).expect("as it was told");
    desk.take(witness, &offer(&log(2), &leaves(0), 12, 30)).expect("it grew out of what was known");
    desk.take(witness, &offer(&log(1), &leaves(0), 30, 32)).expect_err("the old key is over");
    assert!(desk.alarmed());
    drop(held);
    // Another log's key beside it is no history of this one.
    let south = Signer::from_seed("consilium/south", &[1; 32]).expect("a seed");
    state.replace(LOG, format!("{}\n{}\n", log(2).key(), south.key()).as_bytes()).expect("written");
    assert!(standing(&state, &name("north"), &name("alpha")).is_err());
}

#[test]
fn the_announced_key_is_under_this_houses_identity_and_for_this_log() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let desk = desk(&folder);
    let said = desk.announcement();
    let key: [u8; 32] = said.key.try_into().expect("32 bytes");
    let statement = WitnessKey { log: "consilium/north".to_owned(), hospital: name("alpha"), key };
    assert!(desk.cosigner.key().is_held(statement.digest().as_bytes(), &said.proof));
    let signature =
        aggregation::keys::identity::Signature::new(said.signature.try_into().expect("64 bytes"));
    assert!(identity().key().verify(&statement, &signature).is_ok());
    let south = Signer::from_seed("consilium/south", &[1; 32]).expect("a seed");
    assert!(matches!(desk.meet(&grown(&south)), Err(WitnessError::Shape(_))));
}

/// Terms that name this head.
pub(super) fn terms(slot: u64, size: usize, leaves: &[Hash]) -> Terms {
    use aggregation::ids::{Digest, RoundId};
    use aggregation::message::Work;
    use aggregation::units::Timestamp;
    let log = LogHead { size: size as u64, root: Digest::new(root(&leaves[..size])) };
    Terms {
        study: StudyId::new(Digest::sha256(b"study")),
        round: RoundId::FIRST,
        slot: SlotId::new(slot),
        work: Work::Train,
        model: Digest::sha256(b"model"),
        invited: [name("alpha")].into(),
        ready_by: Timestamp::from_millis(1),
        log,
    }
}

/// only a head in the past of what was cosigned, shown by a proof.
#[test]
fn a_round_may_name_what_is_in_the_past_and_nothing_beside_it() {
    let (ours, other) = (leaves(0), leaves(1));
    let latest = Head { size: 30, root: root(&ours[..30]) };
    for size in 0..=30 {
        let proof = consistency_proof(&mut Leaves(&ours), size as u64, 30).expect("in memory");
        let proof = proof.unwrap_or_default();
        let named = terms(1, size, &ours).log;
        assert!(in_the_past(&named, latest, &proof), "{size}");
        if size > 10 {
            let beside = terms(1, size, &other).log;
            assert!(!in_the_past(&beside, latest, &proof), "{size}");
            let theirs = consistency_proof(&mut Leaves(&other), size as u64, 30);
            let theirs = theirs.expect("in memory").unwrap_or_default();
            assert!(!in_the_past(&beside, latest, &theirs), "{size}");
        }
    }
    assert!(!in_the_past(&terms(1, 31, &ours).log, latest, &[]), "not cosigned yet");
}

/// a coordinator cannot go on naming what all histories have in common.
#[test]
fn a_round_may_not_name_an_older_log_than_this_house_had_cosigned_a_round_ago() {
    let (_folder, desk, mut witness) = at_twelve();
    let all = leaves(0);
    assert!(!desk.accepts(&terms(1, 9, &all)), "not looked at yet");
    desk.learn(&terms(1, 9, &all).log);
    assert!(desk.accepts(&terms(1, 9, &all)), "the first round of the study");
    assert!(desk.accepts(&terms(1, 9, &all)), "the same, offered again");
    assert!(!desk.accepts(&terms(2, 9, &all)), "twelve were cosigned then");
    assert!(!desk.accepts(&terms(2, 0, &all)), "nor the empty log");
    desk.take(&mut witness, &offer(&log(1), &all, 12, 30)).expect("it has grown");
    desk.learn(&terms(2, 14, &all).log);
    assert!(desk.accepts(&terms(2, 14, &all)), "announced before the log grew to thirty");
    desk.learn(&terms(3, 29, &all).log);
    assert!(!desk.accepts(&terms(3, 29, &all)));
}

/// neither the empty log, which all histories have in common, nor in a study's first round
/// anything older than what was cosigned when the program started.
#[test]
fn the_first_round_of_a_study_is_bound_to_the_log_as_well() {
    let (folder, desk, _) = at_twelve();
    let all = leaves(0);
    desk.learn(&terms(1, 0, &all).log);
    assert!(!desk.accepts(&terms(1, 0, &all)), "what was approved is in no empty log");
    drop(desk);
    let desk = self::desk(&folder);
    for size in [11, 12] {
        desk.learn(&terms(1, size, &all).log);
        assert_eq!(desk.accepts(&terms(1, size, &all)), size == 12, "{size}");
    }
    let new = tempfile::tempdir().expect("a scratch folder");
    let desk = self::desk(&new);
    desk.learn(&terms(1, 0, &all).log);
    assert!(!desk.accepts(&terms(1, 0, &all)), "nor for a house that has seen nothing yet");
}
