//! New keys for a log that goes on: of a witness, and of the log itself.

use std::fs;

use transparency::checkpoint::SignedCheckpoint;
use transparency::cosignature::Cosigner;
use transparency::folder::{CHECKPOINT, Folder, ReadError, Reader, Writer, rotate};
use transparency::note::Signer;
use transparency::policy::Policy;
use transparency::verify::verify;
use transparency::witness::{Offer, Witness};

use crate::fixture::{Federation, ORIGIN, WITNESSES, build, cosigner, leaf, policy, signer, small};
use crate::memory::{Aftermath, Failing, Memory};

fn text_of(log: &[Signer], witnesses: &[(&str, String)], groups: &[&str], quorum: &str) -> Policy {
    let mut text = String::new();
    for signer in log {
        text.push_str(&format!("log {}\n", signer.key()));
    }
    for (name, key) in witnesses {
        text.push_str(&format!("witness {name} {key}\n"));
    }
    groups.iter().for_each(|group| text.push_str(&format!("group {group}\n")));
    text.push_str(&format!("quorum {quorum}\n"));
    Policy::parse(text.as_bytes()).expect("a policy")
}

#[test]
fn a_witness_with_a_new_key_counts_once_under_a_policy_that_names_both() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut federation = Federation::new(Folder::create(folder.path()).expect("made"));
    let before = federation.publish(&(0..300).map(|at| leaf(at, "")).collect::<Vec<_>>(), 1);
    let again =
        Cosigner::from_seed("consilium.example/witness/hospital-2", &[99; 32]).expect("a key");
    federation.replace(2, again);
    federation.publish(&(300..600).map(|at| leaf(at, "")).collect::<Vec<_>>(), 2);

    let key = |at: u8| cosigner(at).key().to_string();
    let new =
        Cosigner::from_seed("consilium.example/witness/hospital-2", &[99; 32]).expect("a key");
    let witnesses = [
        ("one", key(1)),
        ("two-old", key(2)),
        ("two-new", new.key().to_string()),
        ("three", key(3)),
    ];
    let both = text_of(
        &[signer()],
        &witnesses,
        &["two any two-old two-new", "hospitals all one two three"],
        "hospitals",
    );
    let source = Folder::open(folder.path()).expect("there");
    let report = verify(&source, &both, std::slice::from_ref(&before)).expect("read");
    assert!(report.verified, "{:?}", report.findings);
    assert!(both.judge(&before).faults().is_empty(), "the older one, by its older key");
    // The old policy asks for a cosignature that is not there any more.
    let report = verify(&source, &policy(WITNESSES.into()), &[]).expect("read");
    assert!(!report.verified);
    // Two keys of one are not two witnesses.
    let greedy = text_of(
        &[signer()],
        &witnesses,
        &["two any two-old two-new", "hospitals 3 one two three"],
        "hospitals",
    );
    let others = before.note().signatures().iter().skip(1);
    let others = others.filter(|line| !line.name().ends_with("hospital-3")).cloned();
    let mut lines: Vec<_> = others.collect();
    let mut fresh = Witness::new(signer().key());
    let offer = Offer { old_size: 0, proof: Vec::new(), signed: before.clone() };
    let advance = fresh.consider(&offer).expect("the first that it sees");
    lines.push(fresh.cosign(advance, &new, 3));
    let twice = SignedCheckpoint::sign(before.checkpoint().clone(), &signer()).expect("signed");
    let twice = twice.with(&lines).expect("a few lines");
    assert_eq!(twice.note().signatures().len(), 4);
    assert!(!greedy.judge(&twice).faults().is_empty());
    assert!(greedy.judge(&before).faults().is_empty());
}

fn new_signer() -> Signer {
    Signer::from_seed(ORIGIN, &[77; 32]).expect("a seed makes a key")
}

#[test]
fn a_log_goes_on_under_a_new_key_with_the_cosignatures_that_it_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = build(Folder::create(folder.path()).expect("made"), &[300, 600], |at| leaf(at, ""));
    let open = || Folder::open(folder.path()).expect("there");
    for _ in 0..2 {
        // The second time there is nothing left to do.
        let head = rotate(open(), &signer().key(), &new_signer()).expect("rotated");
        assert_eq!(head, kept[1].checkpoint().head());
    }
    assert!(matches!(Reader::open(open(), &policy(2)), Err(ReadError::Policy(_))));
    let witnesses: Vec<(String, String)> = (1..=WITNESSES)
        .map(|at| (format!("hospital-{at}"), cosigner(at).key().to_string()))
        .collect();
    let witnesses: Vec<(&str, String)> =
        witnesses.iter().map(|(name, key)| (name.as_str(), key.clone())).collect();
    let group = "hospitals 2 hospital-1 hospital-2 hospital-3";
    let new = text_of(&[new_signer()], &witnesses, &[group], "hospitals");
    let report = verify(&open(), &new, &[]).expect("read");
    assert!(report.verified && report.cosigned_by.len() == 3, "{report:?}");
    // A checkpoint from before is believed by who names both keys, and by nobody else.
    let both = text_of(&[new_signer(), signer()], &witnesses, &[group], "hospitals");
    assert!(verify(&open(), &both, &kept).expect("read").verified);

    // It is written on, and a witness that was told of the new key goes on from what it knew.
    let mut writer =
        Writer::open(open(), new_signer(), Some(kept[1].checkpoint().head())).expect("its own");
    writer.append(&[leaf(600, "")]).expect("appended");
    let stored = kept[1].to_string();
    assert!(Witness::resume(new_signer().key(), stored.as_bytes()).is_err());
    let witness = Witness::resume_after(new_signer().key(), &[signer().key()], stored.as_bytes());
    let witness = witness.expect("its own");
    let offer = writer.offer(kept[1].checkpoint().head()).expect("it grew");
    witness.consider(&offer).expect("it grew out of what was cosigned");
}

#[test]
fn what_neither_key_has_signed_is_not_signed_again() {
    let folder = tempfile::tempdir().expect("a folder");
    build(Folder::create(folder.path()).expect("made"), &[300], |at| leaf(at, ""));
    let open = || Folder::open(folder.path()).expect("there");
    let before = fs::read(folder.path().join(CHECKPOINT)).expect("there");
    let stranger = Signer::from_seed(ORIGIN, &[5; 32]).expect("a key");
    assert!(rotate(open(), &stranger.key(), &new_signer()).is_err());
    let renamed = Signer::from_seed("consilium.example/other", &[77; 32]).expect("a key");
    let refused = rotate(open(), &signer().key(), &renamed).expect_err("another name").to_string();
    assert!(refused.contains("consilium.example/other"), "{refused}");
    assert_eq!(fs::read(folder.path().join(CHECKPOINT)).expect("there"), before);
    let empty = tempfile::tempdir().expect("a folder");
    let none = Folder::open(empty.path()).expect("there");
    assert!(rotate(none, &signer().key(), &new_signer()).is_err());
}

#[test]
fn a_rotation_that_is_cut_off_at_any_step_is_done_again_and_loses_nothing() {
    let begin = || {
        let disk = Memory::default();
        build(disk.clone(), &[300, 600], small);
        // Ahead of what is published, as a log is while cosignatures are gathered.
        let mut writer = Writer::open(disk.clone(), signer(), None).expect("its own");
        writer.append(&(600..601).map(small).collect::<Vec<_>>()).expect("appended");
        disk
    };
    let both = text_of(&[new_signer(), signer()], &[], &[], "none");
    let mut cut_off = 0;
    for how in [Failing::Before, Failing::After, Failing::Torn] {
        for step in 0.. {
            let disk = begin();
            disk.fail_later(step, how);
            if rotate(disk.clone(), &signer().key(), &new_signer()).is_ok() {
                break;
            }
            cut_off += 1;
            let some = (0..3).map(|seed| Aftermath::SomeLost(step * 31 + seed));
            for what in some.chain([Aftermath::Killed, Aftermath::AllLost]) {
                let (disk, about) = (disk.after(what), format!("step {step}, {how:?}, {what:?}"));
                let report = verify(&disk, &both, &[]).expect("read");
                assert!(report.verified && report.size == 600, "{about}: {report:?}");
                let head = rotate(disk.clone(), &signer().key(), &new_signer());
                let head = head.unwrap_or_else(|error| unreachable!("{about}: {error:?}"));
                assert_eq!(head.size, 601, "{about}");
                let mut writer = Writer::open(disk.clone(), new_signer(), Some(head))
                    .unwrap_or_else(|error| unreachable!("{about}: {error:?}"));
                let signed = writer.append(&[small(601)]).expect("appended");
                writer.publish(&signed).expect("published");
                let new = text_of(&[new_signer()], &[], &[], "none");
                assert!(verify(&disk, &new, &[]).expect("read").verified, "{about}");
            }
        }
    }
    assert!(cut_off > 15, "{cut_off}");
}
