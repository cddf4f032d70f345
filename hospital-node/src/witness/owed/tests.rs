use serde_json::{Value, json};
use transparency::time::UtcTime;
use transparency::tree::{Leaves, inclusion_proof, root};

use super::*;

fn me() -> HospitalId {
    HospitalId::new("alpha").expect("a name")
}

fn study() -> StudyId {
    StudyId::new(Digest::sha256(b"study"))
}

/// What the coordinator said yes to: an update that was paid for.
fn owed() -> Owed {
    Owed {
        study: study().to_string(),
        slot: 4,
        round: 3,
        digest: Digest::sha256(b"update").to_string(),
        bytes: 900,
        received: true,
        charge: Some(OwedCharge {
            seq: 7,
            head: [9; 32],
            mode: "distributed".to_owned(),
            unit: "patient".to_owned(),
            z: 1.5,
            q: 0.1,
            figures: [1e-5, 0.5, 2.5, 3.0, 20.0, 1e-6, 0.6, 2.75].map(Some),
            received: true,
        }),
        seen: None,
        settled: false,
        since: 0,
    }
}

/// The same, to which the coordinator has not said yes.
fn told() -> Owed {
    let mut told = Owed { received: false, ..owed() };
    if let Some(charge) = &mut told.charge {
        charge.received = false;
    }
    told
}

/// As the coordinator is told of it.
fn request() -> ChargeRequest {
    ChargeRequest {
        delta: 1e-5,
        epsilon_planned: 0.5,
        epsilon_solo: 2.5,
        cap_planned: 3.0,
        cap_solo: 20.0,
        cap_delta: 1e-6,
        spent_planned: 0.6,
        spent_solo: 2.75,
        ..ChargeRequest::default()
    }
}

fn update() -> (&'static str, Value) {
    let digest = Digest::sha256(b"update").to_string();
    ("round_contribution", json!({"site": "alpha", "digest": digest, "bytes": 900}))
}

fn charge() -> (&'static str, Value) {
    let head = Digest::new([9; 32]).to_string();
    let fields = json!({
        "site": "alpha", "mode": "distributed", "z": 1.5, "q": 0.1, "delta": 1e-5,
        "epsilon_planned": 0.5, "epsilon_solo": 2.5, "cap_planned": 3.0, "cap_solo": 20.0,
        "cap_delta": 1e-6, "spent_planned": 0.6, "spent_solo": 2.75, "seq": 7, "head": head,
    });
    ("ledger_charge", fields)
}

/// A log of these facts, of which each is of the slot, and what the coordinator proves of it.
fn log(facts: &[(&str, Value)]) -> (FactsReply, Head) {
    let leaf = |(kind, fields): &(&str, Value)| {
        let Value::Object(mut fields) = fields.clone() else { return Vec::new() };
        for (key, value) in
            [("study", json!(study().to_string())), ("slot", json!(4)), ("round", json!(3))]
        {
            fields.entry(key).or_insert(value);
        }
        let time = UtcTime::from_millis(5).expect("a time");
        Leaf::new(kind, time, fields).expect("a small leaf").bytes().to_vec()
    };
    let leaves: Vec<Vec<u8>> = facts.iter().map(leaf).collect();
    let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
    let size = u64::try_from(leaves.len()).expect("few");
    let proof = |index: u64| {
        let proof = inclusion_proof(&mut Leaves(&hashes), index, size).expect("in memory");
        proof.expect("below the size").iter().map(|hash| hash.to_vec()).collect()
    };
    let facts =
        (0..).zip(leaves).map(|(index, leaf)| ProvenFact { index, leaf, proof: proof(index) });
    (FactsReply { facts: facts.collect() }, Head { size, root: root(&hashes) })
}

fn judged(facts: &[(&str, Value)], due: Option<u64>) -> Verdict {
    let (reply, head) = log(facts);
    owed().judge(&me(), &proven(&reply, head).expect("proven"), due)
}

fn with(mut fact: (&'static str, Value), key: &str, value: Value) -> (&'static str, Value) {
    fact.1[key] = value;
    fact
}

#[test]
fn what_is_there_unchanged_is_proven_and_what_is_not_yet_due_is_waited_for() {
    assert_eq!(judged(&[update(), charge()], Some(2)), Verdict::Proven);
    assert_eq!(judged(&[charge(), update()], None), Verdict::Proven);
    assert_eq!(judged(&[charge()], None), Verdict::NotYet);
    assert_eq!(judged(&[], None), Verdict::NotYet);
    // Facts of others, and of other slots, are none of this house's.
    let others = [
        with(update(), "site", "beta".into()),
        with(update(), "slot", 5.into()),
        with(update(), "study", Digest::sha256(b"other").to_string().into()),
    ];
    assert_eq!(judged(&others, None), Verdict::NotYet);
}

#[test]
fn what_is_omitted_is_named() {
    for (facts, what) in [
        (vec![charge()], "update"),
        (vec![update()], "ledger charge"),
        (vec![], "update"),
        // Behind what the round names it comes too late.
        (vec![update(), charge()], "ledger charge"),
    ] {
        let due = Some(u64::from(!facts.is_empty()));
        let Verdict::Wrong(why) = judged(&facts, due) else { unreachable!("{facts:?}") };
        assert!(why.starts_with("omitted") && why.contains(what), "{why}");
    }
}

#[test]
fn what_is_altered_is_named_by_its_entry() {
    let none = Value::Null;
    for wrong in [
        with(update(), "digest", Digest::sha256(b"another").to_string().into()),
        with(update(), "bytes", 901.into()),
        with(update(), "round", 4.into()),
        with(charge(), "seq", 8.into()),
        with(charge(), "seq", none.clone()),
        with(charge(), "head", Digest::sha256(b"another").to_string().into()),
        with(charge(), "head", none),
        with(charge(), "delta", 1e-6.into()),
        with(charge(), "epsilon_planned", 0.4.into()),
        with(charge(), "epsilon_solo", 2.4.into()),
        with(charge(), "mode", "silo".into()),
        with(charge(), "z", 1.25.into()),
        with(charge(), "q", 0.05.into()),
        with(charge(), "unit", "image".into()),
        with(charge(), "cap_planned", 4.0.into()),
        with(charge(), "cap_planned", Value::Null),
        with(charge(), "cap_solo", 21.0.into()),
        with(charge(), "cap_solo", Value::Null),
        with(charge(), "cap_delta", 1e-5.into()),
        with(charge(), "spent_planned", 0.5.into()),
        with(charge(), "spent_solo", Value::Null),
    ] {
        // Though the true ones stand beside it, and though nothing is due.
        for due in [None, Some(3)] {
            let Verdict::Wrong(why) = judged(&[update(), charge(), wrong.clone()], due) else {
                unreachable!("{wrong:?}")
            };
            assert!(why.starts_with("altered: entry 2"), "{why}");
        }
    }
    // A charge that this house never made.
    let mut free = owed();
    free.charge = None;
    let (reply, head) = log(&[update(), charge()]);
    let verdict = free.judge(&me(), &proven(&reply, head).expect("proven"), None);
    assert!(matches!(verdict, Verdict::Wrong(_)), "{verdict:?}");
}

fn judge(owed: &Owed, facts: &[(&str, Value)], due: Option<u64>) -> Verdict {
    let (reply, head) = log(facts);
    owed.judge(&me(), &proven(&reply, head).expect("proven"), due)
}

#[test]
fn a_charge_that_was_taken_is_owed_though_its_update_never_arrived() {
    let mut charged = told();
    if let Some(charge) = &mut charged.charge {
        charge.received = true;
    }
    assert_eq!(judge(&charged, &[], None), Verdict::NotYet);
    let Verdict::Wrong(why) = judge(&charged, &[], Some(2)) else { unreachable!("it is owed") };
    assert!(why.starts_with("omitted") && why.contains("ledger charge"), "{why}");
    assert_eq!(judge(&charged, &[charge()], None), Verdict::NotYet, "the update may be there yet");
    assert_eq!(judge(&charged, &[charge()], Some(1)), Verdict::Proven);
}

#[test]
fn what_was_told_and_not_answered_is_not_owed_but_must_be_told_in_the_log_as_it_was() {
    assert_eq!(judge(&told(), &[], None), Verdict::NotYet);
    assert_eq!(judge(&told(), &[], Some(2)), Verdict::Proven, "it may never have arrived");
    assert_eq!(judge(&told(), &[charge(), update()], None), Verdict::Proven);
    let wrong = with(charge(), "cap_solo", 21.0.into());
    for due in [None, Some(1)] {
        let verdict = judge(&told(), std::slice::from_ref(&wrong), due);
        assert!(matches!(verdict, Verdict::Wrong(_)), "{verdict:?}");
    }
}

/// A house may change its caps between saying a charge and saying it again.
#[test]
fn a_charge_is_told_with_the_words_of_the_first_time_even_after_a_restart() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let desk = super::super::tests::desk(&folder);
    assert_eq!(desk.tells(told(), request()), request());
    drop(desk);
    let desk = super::super::tests::desk(&folder);
    let mut changed = told();
    if let Some(charge) = &mut changed.charge {
        charge.figures[4] = Some(9.0);
    }
    let again = ChargeRequest { cap_solo: 9.0, round: 3, ..request() };
    assert_eq!(desk.tells(changed, again), ChargeRequest { round: 3, ..request() });
    desk.is_charged(told());
    desk.is_received(told());
    assert_eq!(
        Claims::read(&desk.state).expect("read").0.into_values().collect::<Vec<_>>(),
        [owed()]
    );
}

/// A kill, or a full disk, may come between any two steps.
#[test]
fn an_omission_is_not_forgotten_before_its_evidence_is_kept() {
    let wrong = || Verdict::Wrong("omitted: a test".to_owned());
    // Neither of the two files can be written, one after the other.
    for blocked in ["witness.alarm.new", "witness.owed.new"] {
        let (folder, desk, witness) = super::super::tests::at_twelve();
        desk.is_charged(owed());
        desk.is_received(owed());
        let claim = desk.claims().0.values().next().cloned().expect("it is owed");
        let block = folder.path().join(blocked);
        std::fs::create_dir(&block).expect("in the way");
        let concluded = desk.conclude(&claim, wrong(), (1, 12), &witness, || "shown".to_owned());
        assert!(matches!(concluded, Err(WitnessError::Alarm(_))), "{concluded:?}");
        assert!(desk.alarmed());
        std::fs::remove_dir(&block).expect("room again");
        let evidence = desk.state.read(super::super::ALARM).expect("read").is_some();
        let claims = Claims::read(&desk.state).expect("read").0.len();
        assert!(claims == 1 && (evidence || blocked == "witness.alarm.new"), "{blocked}");
    }
    let (_folder, desk, witness) = super::super::tests::at_twelve();
    desk.is_received(owed());
    let claim = desk.claims().0.values().next().cloned().expect("it is owed");
    desk.conclude(&claim, wrong(), (1, 12), &witness, String::new).expect_err("an alarm");
    let claims = Claims::read(&desk.state).expect("read").0;
    assert!(claims.values().all(|owed| owed.settled), "it is told once");
}

#[test]
fn only_a_log_that_was_fetched_after_the_yes_counts_as_looked_for() {
    let (_folder, desk, witness) = super::super::tests::at_twelve();
    desk.looks.store(4, Ordering::SeqCst);
    desk.is_received(told());
    let claim = || desk.claims().0.values().next().cloned().expect("it is owed");
    let not_yet = |look| {
        let concluded = desk.conclude(&claim(), Verdict::NotYet, (look, 12), &witness, String::new);
        concluded.expect("nothing is wrong");
        claim().seen
    };
    assert_eq!(not_yet(4), None, "it was under way when the coordinator said yes");
    assert_eq!(not_yet(5), Some(12));
    // More was said while the log was asked.
    let before = claim();
    desk.is_charged(owed());
    let concluded = desk.conclude(&before, Verdict::Proven, (6, 12), &witness, String::new);
    concluded.expect("nothing is wrong");
    assert_eq!(claim().seen, None, "it is looked for anew");
}

#[test]
fn what_is_not_proven_is_no_answer() {
    let (good, head) = log(&[update(), charge(), update()]);
    assert!(proven(&good, head).is_some());
    let other = Head { root: [7; 32], ..head };
    assert!(proven(&good, other).is_none());
    let change = |change: &dyn Fn(&mut ProvenFact)| {
        let mut reply = good.clone();
        change(&mut reply.facts[1]);
        proven(&reply, head)
    };
    assert!(change(&|fact| fact.index = 2).is_none());
    assert!(change(&|fact| fact.index = u64::MAX).is_none());
    assert!(change(&|fact| fact.leaf[3] ^= 1).is_none());
    assert!(change(&|fact| fact.proof[0].clear()).is_none());
    assert!(change(&|fact| drop(fact.proof.pop())).is_none());
    assert!(change(&|fact| fact.proof = vec![vec![0; 32]; 1_000]).is_none());
    let many = FactsReply { facts: vec![good.facts[0].clone(); MAX_FACTS + 1] };
    assert!(proven(&many, head).is_none());
}

#[test]
fn a_claim_is_due_before_the_next_round_and_in_a_log_signed_after_it_was_looked_for() {
    let head = Head { size: 30, root: [0; 32] };
    let terms = |study, slot, size| {
        let mut terms = super::super::tests::terms(slot, 0, &[]);
        terms.study = study;
        terms.log.size = size;
        terms
    };
    let mut owed = owed();
    assert_eq!(owed.due(None, head), None);
    assert_eq!(owed.due(Some(&terms(study(), 5, 20)), head), Some(20));
    assert_eq!(owed.due(Some(&terms(study(), 4, 20)), head), None, "its own round, once more");
    let other = StudyId::new(Digest::sha256(b"other"));
    assert_eq!(owed.due(Some(&terms(other, 5, 20)), head), None);
    owed.seen = Some(30);
    assert_eq!(owed.due(None, head), None, "the same log");
    owed.seen = Some(29);
    assert_eq!(owed.due(None, head), Some(30));
}

#[test]
fn claims_outlive_a_restart_and_a_damaged_file_is_named() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let state = State::open(folder.path()).expect("ours");
    assert!(Claims::read(&state).expect("none yet").0.is_empty());
    let claims = Claims([(owed().place(), owed())].into());
    claims.write(&state).expect("written");
    assert_eq!(Claims::read(&state).expect("read").0, claims.0);
    state.replace(OWED, b"[{}]").expect("written");
    assert!(matches!(Claims::read(&state), Err(IdentityError::Damaged { .. })));
}

/// After a restart under other caps the same update may be sent, and the same charge told, once more.
#[test]
fn what_is_said_of_a_proven_claim_is_still_said_in_its_first_words() {
    let (_folder, desk, witness) = super::super::tests::at_twelve();
    desk.tells(told(), request());
    desk.is_charged(told());
    desk.is_received(told());
    let claim = desk.claims().0.values().next().cloned().expect("it is owed");
    desk.conclude(&claim, Verdict::Proven, (1, 12), &witness, String::new).expect("proven");
    let mut changed = told();
    if let Some(charge) = &mut changed.charge {
        charge.figures[4] = Some(9.0);
    }
    let again = ChargeRequest { cap_solo: 9.0, ..request() };
    assert_eq!(desk.tells(changed.clone(), again), request());
    desk.is_charged(changed.clone());
    desk.is_received(changed.clone());
    let kept = Claims::read(&desk.state).expect("read").0.into_values().collect::<Vec<_>>();
    assert_eq!(kept, [Owed { settled: true, ..claim }]);
    // A later slot has words of its own.
    desk.sends(Owed { slot: changed.slot + 1, ..changed });
    let kept = Claims::read(&desk.state).expect("read").0.into_values().collect::<Vec<_>>();
    assert!(kept.len() == 1 && !kept[0].settled, "{kept:?}");
}

#[test]
fn a_claim_of_a_version_that_told_less_is_read() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let state = State::open(folder.path()).expect("ours");
    Claims([(owed().place(), owed())].into()).write(&state).expect("written");
    let text = state.read(OWED).expect("read").expect("there");
    let mut file: Value = serde_json::from_slice(&text).expect("JSON");
    let claim = file[0].as_object_mut().expect("a claim");
    claim.remove("settled");
    let figures = claim["charge"]["figures"].as_array_mut().expect("figures");
    figures.truncate(5);
    state.replace(OWED, file.to_string().as_bytes()).expect("written");
    let read = Claims::read(&state).expect("read").0.into_values().next().expect("a claim");
    let charge = read.charge.expect("a charge");
    assert!(charge.figures[..5].iter().all(Option::is_some), "{charge:?}");
    assert_eq!(charge.figures[5..], [None; 3]);
}
