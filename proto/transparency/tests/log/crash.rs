//! Power is lost, or the process killed, at every step of the writer; what was shown stays true.

use transparency::checkpoint::SignedCheckpoint;
use transparency::folder::{CHECKPOINT, WriteError, Writer};
use transparency::tree::Head;
use transparency::verify::verify;

use crate::fixture::{policy, signer, small};
use crate::memory::{Aftermath, Failing, Memory};

/// Sizes at which something is appended; some fill tiles, some do not.
const SIZES: [u64; 7] = [1, 4, 259, 260, 516, 800, 805];

/// Appends and publishes up to `SIZES`; every checkpoint that anybody could have seen comes back,
/// and the error that ended it.
fn play(
    disk: &Memory,
    salt: u64,
    known: Option<Head>,
) -> (Vec<SignedCheckpoint>, Option<WriteError>) {
    let mut shown = Vec::new();
    let mut run = || -> Result<(), WriteError> {
        let mut writer = Writer::open(disk.clone(), signer(), known)?;
        shown.push(writer.tip().clone());
        for size in SIZES {
            let from = writer.head().size;
            // Other entries in another life: the old ones beyond the checkpoint must not show.
            let entries: Vec<_> = (from..size).map(|at| small(at + (salt << 20))).collect();
            shown.push(writer.append(&entries)?);
            writer.publish(&writer.tip().clone())?;
        }
        Ok(())
    };
    let ended = run().err();
    // A web server shows whatever `checkpoint` is at the moment.
    let published = disk.peek(CHECKPOINT);
    shown.extend(published.and_then(|bytes| SignedCheckpoint::parse(&bytes).ok()));
    (shown, ended)
}

fn newest(shown: &[SignedCheckpoint]) -> Option<Head> {
    shown.iter().map(|signed| signed.checkpoint().head()).max_by_key(|head| head.size)
}

/// What was shown before must be true of the disk now, and stay true while the log goes on.
fn recover(disk: &Memory, shown: &[SignedCheckpoint], about: &str) {
    let known = newest(shown);
    let writer = Writer::open(disk.clone(), signer(), known)
        .unwrap_or_else(|error| unreachable!("{about}: {error:?}"));
    for signed in shown {
        let proof = writer.reader().consistency(signed.checkpoint().head());
        assert!(proof.is_ok(), "{about}: {proof:?}");
    }
    drop(writer);
    let report =
        verify(disk, &policy(0), &[]).unwrap_or_else(|error| unreachable!("{about}: {error}"));
    assert!(report.verified, "{about}: {:?}", report.findings);
    let (_, ended) = play(disk, 1, known);
    assert!(ended.is_none(), "{about}: {ended:?}");
    let report =
        verify(disk, &policy(0), shown).unwrap_or_else(|error| unreachable!("{about}: {error}"));
    assert!(report.verified, "{about}: {:?}", report.findings);
    assert_eq!(report.size, 805, "{about}");
}

fn all_steps() -> u64 {
    let disk = Memory::default();
    let (shown, ended) = play(&disk, 0, None);
    assert!(ended.is_none(), "{ended:?}");
    assert_eq!(newest(&shown).map(|head| head.size), Some(805));
    disk.steps()
}

#[test]
fn after_a_crash_at_any_step_the_log_is_consistent_with_all_that_was_shown() {
    for step in 0..all_steps() {
        for how in [Failing::Before, Failing::After, Failing::Torn] {
            let disk = Memory::failing(step, how, true);
            let (shown, ended) = play(&disk, 0, None);
            assert!(ended.is_some(), "step {step} is within the run");
            let some = (0..3).map(|seed| Aftermath::SomeLost(step * 31 + seed));
            for what in some.chain([Aftermath::Killed, Aftermath::AllLost]) {
                recover(&disk.after(what), &shown, &format!("step {step}, {how:?}, {what:?}"));
            }
        }
    }
}

#[test]
fn a_second_crash_while_the_log_goes_on_changes_nothing() {
    let steps = all_steps();
    for seed in 0..300_u64 {
        let about = format!("seed {seed}");
        let first = Memory::failing(seed * 7_919 % steps, Failing::After, true);
        let (mut shown, _) = play(&first, 0, None);
        let killed = seed.is_multiple_of(2);
        let second =
            first.after(if killed { Aftermath::Killed } else { Aftermath::SomeLost(seed) });
        // Often soon after opening, where what the first life left behind matters most.
        let soon = if seed.is_multiple_of(3) { 30 } else { steps };
        second.fail_later(seed * 104_729 % soon, Failing::Torn);
        let (more, _) = play(&second, 1, newest(&shown));
        shown.extend(more);
        for what in [Aftermath::AllLost, Aftermath::SomeLost(seed + 1)] {
            recover(&second.after(what), &shown, &about);
        }
    }
}

#[test]
fn a_step_that_fails_while_the_machine_goes_on_asks_for_opening_again() {
    for step in 0..all_steps() {
        for how in [Failing::Before, Failing::After, Failing::Torn] {
            let disk = Memory::failing(step, how, false);
            let opened = Writer::open(disk.clone(), signer(), None);
            if let Ok(mut writer) = opened {
                let mut failed = false;
                for size in SIZES {
                    let entries: Vec<_> = (writer.head().size..size).map(small).collect();
                    let appended = writer.append(&entries);
                    let tip = writer.tip().clone();
                    let published = writer.publish(&tip);
                    if failed {
                        assert!(matches!(appended, Err(WriteError::Reopen)), "step {step}");
                        assert!(matches!(published, Err(WriteError::Reopen)), "step {step}");
                    }
                    failed |= appended.is_err() || published.is_err();
                }
                assert!(failed, "step {step} is within the run");
            }
            let shown: Vec<_> = disk
                .peek(CHECKPOINT)
                .and_then(|it| SignedCheckpoint::parse(&it).ok())
                .into_iter()
                .collect();
            recover(&disk, &shown, &format!("step {step}, {how:?}"));
        }
    }
}

#[test]
fn a_restored_backup_is_refused_and_not_continued() {
    let disk = Memory::default();
    let mut writer = Writer::open(disk.clone(), signer(), None).expect("a new log");
    let early = writer.append(&(0..100).map(small).collect::<Vec<_>>()).expect("appended");
    writer.publish(&early).expect("published");
    let backup = disk.copy();
    let late = writer.append(&(100..300).map(small).collect::<Vec<_>>()).expect("appended");
    writer.publish(&late).expect("published");
    drop(writer);
    let (known, before) = (late.checkpoint().head(), early.checkpoint().head());
    let refused = Writer::open(backup.clone(), signer(), Some(known));
    assert!(matches!(refused, Err(WriteError::RolledBack { known: 300, found: 100 })));
    // A backup that went on by itself: as long, but another history.
    let mut writer = Writer::open(backup.clone(), signer(), Some(before)).expect("as of then");
    writer.append(&(500..700).map(small).collect::<Vec<_>>()).expect("appended");
    drop(writer);
    let refused = Writer::open(backup, signer(), Some(known));
    assert!(matches!(refused, Err(WriteError::Forked { size: 300 })));
    // One checkpoint restored beside the other.
    for path in [CHECKPOINT, "checkpoint.signed"] {
        let mixed = disk.copy();
        mixed.tamper(path, Some(early.to_string().into_bytes()));
        let opened = Writer::open(mixed, signer(), Some(known));
        if path == CHECKPOINT {
            // Less published than signed is how a crash between the two looks.
            assert!(opened.is_ok());
        } else {
            assert!(matches!(opened, Err(WriteError::RolledBack { .. })), "{opened:?}");
        }
        let gone = disk.copy();
        gone.tamper(CHECKPOINT, None);
        assert!(matches!(Writer::open(gone, signer(), None), Err(WriteError::Lost { .. })));
    }
}

#[test]
fn a_checkpoint_that_somebody_else_wrote_is_not_overwritten() {
    let disk = Memory::default();
    let mut one = Writer::open(disk.clone(), signer(), None).expect("a new log");
    let mut two = Writer::open(disk.clone(), signer(), None).expect("a disk without locks");
    let theirs = two.append(&[b"theirs"]).expect("appended");
    assert!(matches!(one.append(&[b"ours"]), Err(WriteError::Conflict { .. })));
    assert!(matches!(one.append(&[b"ours"]), Err(WriteError::Reopen)));
    let again = Writer::open(disk, signer(), None).expect("opened again");
    assert_eq!(again.head(), theirs.checkpoint().head());
}

#[test]
fn only_this_logs_checkpoints_are_published_and_never_an_older_one() {
    let disk = Memory::default();
    let mut writer = Writer::open(disk.clone(), signer(), None).expect("a new log");
    let first = writer.append(&[b"one"]).expect("appended");
    let second = writer.append(&[b"two"]).expect("appended");
    writer.publish(&second).expect("published");
    assert!(matches!(writer.publish(&first), Err(WriteError::RolledBack { .. })));
    let other = Memory::default();
    let mut twin = Writer::open(other, signer(), None).expect("a new log");
    let foreign = twin.append(&[b"other".as_slice(), b"history"]).expect("appended");
    assert!(matches!(writer.publish(&foreign), Err(WriteError::Forked { .. })));
    let ahead = twin.append(&[b"more"]).expect("appended");
    assert!(matches!(writer.publish(&ahead), Err(WriteError::RolledBack { .. })));
    // Refusals change nothing.
    writer.append(&[b"three"]).expect("appended");
    assert!(writer.append(&[vec![0; 65_536]]).is_err());
    writer.append(&[vec![0; 65_535]]).expect("the longest entry");
    writer.publish(&writer.tip().clone()).expect("published");
    assert!(verify(&disk, &policy(0), &[first, second]).expect("a log").verified);
}
