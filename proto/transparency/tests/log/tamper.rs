//! Whatever is changed is found, and the finding says where.

use std::io;

use transparency::checkpoint::{Checkpoint, SignedCheckpoint};
use transparency::folder::{CHECKPOINT, ReadError, Reader, SIGNED, Source, WriteError, Writer};
use transparency::note::Signer;
use transparency::policy::Policy;
use transparency::tile::{Tile, decode_entries, push_entry};
use transparency::tree::{Head, Leaves, consistency_proof, is_consistent, leaf_hash};
use transparency::verify::{Report, verify};
use transparency::witness::{Offer, Refusal, Witness};

use crate::fixture::{build, cosigner, fork, forked, leaf, policy, signer, small};
use crate::memory::Memory;

fn report(disk: &Memory, since: &[SignedCheckpoint]) -> Report {
    verify(disk, &policy(2), since).expect("there is a checkpoint")
}

/// The finding that must be there: at this place, and the only one.
fn only_at(report: &Report, place: &str) {
    let places: Vec<_> = report.findings.iter().map(|finding| finding.place.as_str()).collect();
    assert_eq!(places, [place], "{:?}", report.findings);
    assert!(!report.verified);
}

fn flipped(content: &[u8], bit: usize) -> Vec<u8> {
    let mut content = content.to_vec();
    content[bit / 8] ^= 1 << (bit % 8);
    content
}

#[test]
fn an_untouched_log_is_verified() {
    let disk = Memory::default();
    let kept = build(disk.clone(), &[1, 100, 300, 700, 1_000], |at| leaf(at, ""));
    let report = report(&disk, &kept);
    assert!(report.verified, "{:?}", report.findings);
    let checked = &report.checked;
    assert_eq!((checked.entries, checked.bundles, checked.tiles, checked.levels), (1_000, 4, 5, 2));
    assert_eq!(checked.since, [1, 100, 300, 700, 1_000]);
    assert_eq!(report.cosigned_by.len(), 3);
    assert!(
        disk.paths()
            .iter()
            .all(|path| path.starts_with(CHECKPOINT) || path.parse::<Tile>().is_ok())
    );
    assert_eq!(report.not_checked.len(), 2, "{:?}", report.not_checked);
}

#[test]
fn logs_of_every_size_around_the_edges_of_tiles_are_verified() {
    for size in [0, 1, 2, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537] {
        let disk = Memory::default();
        let kept = build(disk.clone(), &[size / 2, size], small);
        let report = report(&disk, &kept);
        assert!(report.verified, "{size}: {:?}", report.findings);
        assert_eq!(report.checked.entries, size);
    }
}

#[test]
fn one_flipped_bit_in_any_file_is_found_there() {
    let disk = Memory::default();
    // Published twice within a tile, so that older partial files lie beside newer ones.
    build(disk.clone(), &[10, 300, 520, 540], |at| leaf(at, ""));
    let paths: Vec<_> =
        disk.paths().into_iter().filter(|path| path.parse::<Tile>().is_ok()).collect();
    assert!(paths.iter().any(|path| path == "tile/0/002.p/8"), "{paths:?}");
    assert!(paths.iter().any(|path| path == "tile/entries/002.p/8"), "{paths:?}");
    for path in &paths {
        let content = disk.peek(path).expect("listed");
        let bits = content.len() * 8;
        for bit in (0..bits).step_by(bits / 40 + 1).chain([bits - 1]) {
            disk.tamper(path, Some(flipped(&content, bit)));
            only_at(&report(&disk, &[]), path);
        }
        disk.tamper(path, Some(content));
    }
    assert!(report(&disk, &[]).verified);
}

#[test]
fn one_flipped_bit_in_every_file_of_three_levels_is_found_there() {
    let disk = Memory::default();
    build(disk.clone(), &[65_900], small);
    let paths: Vec<_> =
        disk.paths().into_iter().filter(|path| path.parse::<Tile>().is_ok()).collect();
    for level in ["tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1"] {
        assert!(paths.iter().any(|path| path == level), "{level}");
    }
    for (number, path) in paths.iter().enumerate() {
        let content = disk.peek(path).expect("listed");
        disk.tamper(path, Some(flipped(&content, number * 7_919 % (content.len() * 8))));
        only_at(&report(&disk, &[]), path);
        disk.tamper(path, Some(content));
    }
    assert!(report(&disk, &[]).verified);
}

#[test]
fn two_damaged_files_are_both_found() {
    let disk = Memory::default();
    build(disk.clone(), &[1_000], small);
    for path in ["tile/entries/000", "tile/0/002"] {
        let content = disk.peek(path).expect("it is there");
        disk.tamper(path, Some(flipped(&content, 784)));
    }
    let report = report(&disk, &[]);
    let places: Vec<_> = report.findings.iter().map(|finding| finding.place.as_str()).collect();
    assert_eq!(places, ["tile/entries/000", "tile/0/002"]);
    assert!(report.findings[0].what.contains("tile/0/000"), "{:?}", report.findings);
}

#[test]
fn a_missing_or_cut_file_is_found() {
    let disk = Memory::default();
    build(disk.clone(), &[66_000], small);
    for path in [
        "tile/0/000",
        "tile/0/257.p/208",
        "tile/1/000",
        "tile/2/000.p/1",
        "tile/entries/100",
        "tile/entries/257.p/208",
    ] {
        let content = disk.peek(path).expect("it is there");
        disk.tamper(path, None);
        only_at(&report(&disk, &[]), path);
        for length in [0, 1, content.len() - 1] {
            disk.tamper(path, Some(content[..length].to_vec()));
            only_at(&report(&disk, &[]), path);
        }
        disk.tamper(path, Some([content.as_slice(), &[0]].concat()));
        only_at(&report(&disk, &[]), path);
        disk.tamper(path, Some(vec![0; 17_000_000]));
        only_at(&report(&disk, &[]), path);
        disk.tamper(path, Some(content));
    }
    assert!(report(&disk, &[]).verified);
}

/// Writes entries into bundles behind the log's back.
fn rewrite_bundle(disk: &Memory, path: &str, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let content = disk.peek(path).expect("it is there");
    let width = path.parse::<Tile>().expect("a bundle").width();
    let entries = decode_entries(&content, width).expect("a bundle");
    let mut entries: Vec<Vec<u8>> = entries.into_iter().map(<[u8]>::to_vec).collect();
    change(&mut entries);
    let mut content = Vec::new();
    for entry in &entries {
        push_entry(&mut content, entry).expect("small");
    }
    disk.tamper(path, Some(content));
}

#[test]
fn a_dropped_entry_and_two_swapped_ones_are_found() {
    let disk = Memory::default();
    build(disk.clone(), &[600], |at| leaf(at, ""));
    for path in ["tile/entries/000", "tile/entries/002.p/88"] {
        let copy = disk.copy();
        rewrite_bundle(&copy, path, |entries| drop(entries.remove(40)));
        let found = report(&copy, &[]);
        only_at(&found, path);
        assert!(found.findings[0].what.starts_with("expected"), "{:?}", found.findings);
        let copy = disk.copy();
        rewrite_bundle(&copy, path, |entries| entries.swap(40, 41));
        let found = report(&copy, &[]);
        only_at(&found, path);
        assert!(found.findings[0].what.contains("entry "), "{:?}", found.findings);
    }
}

#[test]
fn entries_changed_together_with_their_tiles_are_found_at_the_root() {
    // Another history, complete in itself, under the checkpoint of the first.
    for (kept, other) in [(600, 600), (600, 599), (600, 601)] {
        let (disk, forged) = (Memory::default(), Memory::default());
        build(disk.clone(), &[kept], small);
        build(forged.clone(), &[other], |at| small(if at == 300 { 9_999 } else { at }));
        forged.tamper(CHECKPOINT, disk.peek(CHECKPOINT));
        forged.tamper("checkpoint.signed", disk.peek("checkpoint.signed"));
        let found = report(&forged, &[]);
        assert!(!found.verified);
        if kept == other {
            only_at(&found, CHECKPOINT);
        }
    }
}

#[test]
fn a_rewritten_history_with_a_valid_signature_is_found_by_a_kept_checkpoint() {
    let (disk, forged) = (Memory::default(), Memory::default());
    let kept = build(disk, &[100, 400], |at| leaf(at, ""));
    let forged_checkpoints = build(forged.clone(), &[100, 400, 700], |at| {
        leaf(at, if at == 50 { "rewritten" } else { "" })
    });
    // In itself it is a valid log.
    assert!(report(&forged, &forged_checkpoints).verified);
    for old in &kept {
        let found = report(&forged, std::slice::from_ref(old));
        only_at(&found, CHECKPOINT);
        assert!(found.findings[0].what.starts_with("rewritten history"), "{:?}", found.findings);
    }
}

#[test]
fn a_damaged_file_does_not_look_like_a_rewritten_history() {
    let disk = Memory::default();
    let kept = build(disk.clone(), &[100, 400], |at| leaf(at, ""));
    for path in ["tile/entries/000", "tile/entries/001.p/144", "tile/0/001.p/144", "tile/1/000.p/1"]
    {
        let content = disk.peek(path).expect("it is there");
        disk.tamper(path, Some(flipped(&content, content.len() * 4)));
        only_at(&report(&disk, &kept), path);
        disk.tamper(path, Some(content));
    }
    assert!(report(&disk, &kept).verified);
}

#[test]
fn a_truncated_log_with_a_valid_signature_is_found_by_a_kept_checkpoint() {
    let (disk, shorter) = (Memory::default(), Memory::default());
    let kept = build(disk, &[100, 400], small);
    build(shorter.clone(), &[100, 399], small);
    assert!(report(&shorter, &kept[..1]).verified);
    let found = report(&shorter, &kept[1..]);
    only_at(&found, CHECKPOINT);
    assert!(found.findings[0].what.starts_with("rollback"), "{:?}", found.findings);
}

#[test]
fn a_fork_is_refused_by_the_witness_and_lacks_its_cosignature() {
    let (one, two) = (Memory::default(), Memory::default());
    let fork = fork(one.clone(), two.clone());
    assert_eq!(fork.refusal, Refusal::Fork { latest: 120, offered: 180 });
    assert!(fork.refusal.is_alarm());
    for (disk, missing) in
        [(&one, "missing: hospital-2, hospital-3"), (&two, "missing: hospital-1")]
    {
        let found = verify(disk, &policy(3), &[]).expect("there is a checkpoint");
        only_at(&found, CHECKPOINT);
        assert!(found.findings[0].what.ends_with(missing), "{:?}", found.findings);
    }
    // Most of the three were shown the second branch. Whoever keeps what the first was shown sees it.
    assert!(report(&two, &[]).verified);
    let found = report(&two, std::slice::from_ref(&fork.one));
    only_at(&found, CHECKPOINT);
    assert!(found.findings[0].what.starts_with("rewritten history"), "{:?}", found.findings);
    // Not even with another beginning of the proof is there one that the witness would take.
    let mut witness = Witness::new(signer().key());
    let first = Offer { old_size: 0, proof: Vec::new(), signed: fork.one.clone() };
    let advance = witness.consider(&first).expect("the first that it sees");
    let _line = witness.cosign(advance, &cosigner(1), 7);
    let leaves: Vec<_> = (0..180).map(|at| leaf_hash(&forked(at, "two"))).collect();
    let proof = consistency_proof(&mut Leaves(&leaves), 50, 180).expect("in memory");
    let proof = proof.expect("smaller");
    witness
        .consider(&Offer { old_size: 50, proof, signed: fork.two.clone() })
        .expect_err("another branch");
    // The reader of the second branch cannot make the proof that the witness asks for.
    let reader = Reader::at(two, fork.two);
    let asked = reader.consistency(fork.one.checkpoint().head());
    assert!(matches!(asked, Err(ReadError::Inconsistent { old: 120, size: 180 })));
}

/// The witnesses were shown one branch; the log has signed another since.
#[test]
fn a_fork_beyond_what_is_cosigned_is_found_and_what_cannot_be_read_of_it_is_told() {
    let (one, two) = (Memory::default(), Memory::default());
    fork(one.clone(), two.clone());
    // What the second branch has beyond the first lies beside it, as far as names allow.
    let forked = one.copy();
    for path in two.paths().iter().filter(|path| *path == SIGNED || path.ends_with("/180")) {
        forked.tamper(path, two.peek(path));
    }
    let ask = |disk: &Memory| verify(disk, &policy(1), &[]).expect("there is a checkpoint");
    let found = ask(&forked);
    only_at(&found, SIGNED);
    assert!(found.findings[0].what.starts_with("fork: expected its 180"), "{:?}", found.findings);
    assert_eq!(found.ahead.expect("it is ahead").entries, 60);

    let unknown = "whether the 180 entries of checkpoint.signed are there, and grew out of the 120";
    let told = |report: &Report| report.not_checked.iter().any(|it| it.starts_with(unknown));
    for path in ["tile/0/000.p/180", "tile/entries/000.p/180"] {
        let honest = one.copy();
        let mut writer = Writer::open(honest.clone(), signer(), None).expect("whole");
        let more: Vec<_> = (120..180).map(small).collect();
        writer.append(&more).expect("appended");
        let grown = ask(&honest);
        assert!(grown.verified && !told(&grown), "{:?}", grown.findings);
        let content = honest.peek(path).expect("it is there");
        honest.tamper(path, Some(flipped(&content, content.len() * 8 - 1)));
        let altered = ask(&honest);
        only_at(&altered, if path.contains("entries") { path } else { SIGNED });
        honest.tamper(path, None);
        let missing = ask(&honest);
        assert!(missing.verified && told(&missing), "{:?}", missing.not_checked);
        // A damaged log says nothing of forks.
        let first = honest.peek("tile/0/000.p/120").expect("it is there");
        honest.tamper("tile/0/000.p/120", Some(flipped(&first, 9)));
        let damaged = ask(&honest);
        only_at(&damaged, "tile/0/000.p/120");
        assert!(told(&damaged), "{:?}", damaged.not_checked);
    }
}

#[test]
fn a_missing_and_a_repeated_cosignature_are_found() {
    let disk = Memory::default();
    build(disk.clone(), &[20], small);
    let text = String::from_utf8(disk.peek(CHECKPOINT).expect("published")).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    let with = |keep: &[usize]| {
        let lines: Vec<_> = keep.iter().map(|at| lines[*at]).collect();
        disk.tamper(CHECKPOINT, Some(format!("{}\n", lines.join("\n")).into_bytes()));
        report(&disk, &[])
    };
    // Three lines of text, a blank one, the log's signature, three cosignatures.
    assert!(with(&[0, 1, 2, 3, 4, 5, 6, 7]).verified);
    assert!(with(&[0, 1, 2, 3, 4, 5, 7]).verified);
    let missing = with(&[0, 1, 2, 3, 4, 6]);
    only_at(&missing, CHECKPOINT);
    assert!(
        missing.findings[0].what.contains("missing: hospital-1, hospital-3"),
        "{:?}",
        missing.findings
    );
    let repeated = with(&[0, 1, 2, 3, 4, 5, 6, 6, 7]);
    only_at(&repeated, CHECKPOINT);
    assert!(
        repeated.findings[0].what.contains("hospital-2: expected one signature"),
        "{:?}",
        repeated.findings
    );
    let unsigned = with(&[0, 1, 2, 3, 5, 6, 7]);
    only_at(&unsigned, CHECKPOINT);
    assert!(unsigned.findings[0].what.contains("expected a signature by consilium.example/log+"));
}

#[test]
fn a_checkpoint_of_another_log_and_a_policy_with_a_wrong_key_are_found() {
    let disk = Memory::default();
    let kept = build(disk.clone(), &[20], small);
    let head = kept[0].checkpoint().head();
    for other in ["elsewhere.example/log", crate::fixture::ORIGIN] {
        let stranger = Signer::from_seed(other, &[99; 32]).expect("a seed");
        let wrong = Policy::threshold(&stranger.key(), &[], 0).expect("a policy");
        let found = verify(&disk, &wrong, &[]).expect("there is a checkpoint");
        assert_eq!(found.findings[0].place, CHECKPOINT);
        assert!(found.findings[0].what.contains(&stranger.key().label()), "{:?}", found.findings);
        // The same tree under another log's checkpoint.
        let foreign = Checkpoint::new(other, head).expect("a checkpoint");
        let foreign = SignedCheckpoint::sign(foreign, &stranger).expect("its own");
        let copy = disk.copy();
        copy.tamper(CHECKPOINT, Some(foreign.to_string().into_bytes()));
        let found = report(&copy, &[]);
        assert_eq!(found.findings[0].place, CHECKPOINT);
        // And as a checkpoint that was kept.
        only_at(&report(&disk, &[foreign]), "--since");
    }
    let hospitals: Vec<_> =
        (4..7).map(|at| (format!("hospital-{at}"), cosigner(at).key())).collect();
    let wrong = Policy::threshold(&signer().key(), &hospitals, 2).expect("a policy");
    let found = verify(&disk, &wrong, &[]).expect("there is a checkpoint");
    assert!(found.findings[0].what.contains("missing: hospital-4, hospital-5, hospital-6"));
}

#[test]
fn a_checkpoint_of_another_log_that_the_policy_names_too_is_no_rewritten_history() {
    let disk = Memory::default();
    build(disk.clone(), &[20], small);
    let other = Signer::from_seed("elsewhere.example/log", &[99; 32]).expect("a seed");
    let both = format!("log {}\n{}", other.key(), policy(2));
    let both = Policy::parse(both.as_bytes()).expect("two logs");
    for size in [10, 20, 30] {
        let head = Head { size, root: [7; 32] };
        let foreign = Checkpoint::new(other.key().name(), head).expect("a checkpoint");
        let foreign = SignedCheckpoint::sign(foreign, &other).expect("its own");
        let found = verify(&disk, &both, std::slice::from_ref(&foreign)).expect("there is one");
        only_at(&found, "--since");
        assert!(found.findings[0].what.contains("found one of \"elsewhere"), "{found:?}");
        let copy = disk.copy();
        copy.tamper(SIGNED, Some(foreign.to_string().into_bytes()));
        only_at(&verify(&copy, &both, &[]).expect("there is one"), SIGNED);
    }
}

/// A server that fails when it is asked for one file.
struct Failing<'a> {
    disk: &'a Memory,
    file: &'a str,
}

impl Source for Failing<'_> {
    fn read(&self, path: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        if path == self.file { Err(io::Error::other("500")) } else { self.disk.read(path, limit) }
    }

    fn list(&self, visit: &mut dyn FnMut(&str)) -> io::Result<bool> {
        self.disk.list(visit)?;
        if self.file == "tile" { Err(io::Error::other("500")) } else { Ok(true) }
    }
}

/// Otherwise whoever serves a forged log need only fail at a later file to leave nobody the wiser.
#[test]
fn what_is_proven_is_told_though_reading_fails_afterwards() {
    let disk = Memory::default();
    let kept = build(disk.clone(), &[100, 700, 1_000], small);
    let sure = policy(2);
    let strangers: Vec<_> =
        (4..7).map(|at| (format!("hospital-{at}"), cosigner(at).key())).collect();
    let unsure = Policy::threshold(&signer().key(), &strangers, 2).expect("a policy");
    let altered = |path: &str| {
        let copy = disk.copy();
        let content = disk.peek(path).expect("it is there");
        copy.tamper(path, Some(flipped(&content, 784)));
        copy
    };
    let (shorter, rewritten) = (Memory::default(), Memory::default());
    build(shorter.clone(), &[100, 900], small);
    build(rewritten.clone(), &[1_000], |at| small(if at == 300 { 9_999 } else { at }));
    let under = rewritten.copy();
    under.tamper(CHECKPOINT, disk.peek(CHECKPOINT));
    under.tamper(SIGNED, disk.peek(SIGNED));
    for (disk, policy, since, file, place, said) in [
        (&disk, &unsure, &kept[..0], SIGNED, CHECKPOINT, "missing: hospital-4"),
        (&shorter, &sure, &kept[2..], "tile/entries/000", CHECKPOINT, "rollback"),
        (&altered("tile/0/001"), &sure, &kept[..0], "tile/0/002", "tile/0/001", "parent"),
        (&altered("tile/entries/001"), &sure, &[], "tile/1/000.p/3", "tile/entries/001", "entry "),
        (&rewritten, &sure, &kept[1..2], "tile/0/003.p/232", CHECKPOINT, "another history"),
        (&under, &sure, &[], "tile/1/000.p/3", CHECKPOINT, "expected the root"),
    ] {
        let found = verify(&Failing { disk, file }, policy, since).expect("it is told");
        only_at(&found, place);
        assert!(found.findings[0].what.contains(said), "{said}: {:?}", found.findings);
        let unread = format!("{file}: expected to read it: 500");
        let told = found.not_checked.iter().any(|what| what.contains(&unread));
        assert!(told, "{unread}: {:?}", found.not_checked);
    }
    for file in [CHECKPOINT, SIGNED, "tile/0/002", "tile/entries/003.p/232", "tile/1/000.p/3"] {
        let unread = verify(&Failing { disk: &disk, file }, &sure, &kept);
        assert!(matches!(unread, Err(ReadError::Disk { path, .. }) if path == file));
    }
}

#[test]
fn a_file_that_the_checkpoint_does_not_need_and_cannot_be_read_is_only_told() {
    let disk = Memory::default();
    build(disk.clone(), &[100, 300], small);
    // As a writer leaves it that stopped before it tidied up.
    let older = disk.peek("tile/0/000").expect("a full tile");
    disk.tamper("tile/0/000.p/100", Some(older[..3_200].to_vec()));
    for file in ["tile/0/000.p/100", "tile"] {
        let found = verify(&Failing { disk: &disk, file }, &policy(2), &[]).expect("it is told");
        assert!(found.verified, "{:?}", found.findings);
        let told = found.files_not_checked.iter().any(|what| what.ends_with(": 500"));
        assert!(told, "{:?}", found.files_not_checked);
    }
}

#[test]
fn a_flipped_bit_in_either_checkpoint_is_found() {
    let disk = Memory::default();
    build(disk.clone(), &[20], small);
    for path in [CHECKPOINT, "checkpoint.signed"] {
        let content = disk.peek(path).expect("it is there");
        for bit in 0..content.len() * 8 {
            disk.tamper(path, Some(flipped(&content, bit)));
            match verify(&disk, &policy(3), &[]) {
                Ok(report) => assert!(!report.verified, "{path}, bit {bit}"),
                Err(error) => assert!(error.to_string().starts_with(CHECKPOINT), "{error}"),
            }
        }
        disk.tamper(path, Some(content));
    }
}

#[test]
fn what_is_not_checked_is_said() {
    let disk = Memory::default();
    build(disk.clone(), &[20], small);
    disk.tamper("tile/0/001", Some(vec![0; 8_192]));
    disk.tamper("tile/entries/000.p/3.tmp", Some(Vec::new()));
    disk.tamper("notes\u{1b}.txt", Some(Vec::new()));
    let found = report(&disk, &[]);
    let said = [found.not_checked, found.files_not_checked].concat().join("\n");
    for expected in [
        "1 tiles and bundles that reach beyond",
        "1 files of an unfinished write",
        "notes\\u{1b}.txt",
        "20 entries say",
        "checkpoint that you kept",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let nobody = verify(&disk, &policy(0), &[]).expect("there is a checkpoint");
    assert!(nobody.not_checked.join("\n").contains("no witness"));
}

#[test]
fn a_reader_hands_out_nothing_from_an_altered_log() {
    let disk = Memory::default();
    build(disk.clone(), &[66_000], small);
    let (reader, _) = Reader::open(disk.clone(), &policy(2)).expect("a good log");
    for index in [0, 255, 256, 65_535, 65_536, 65_999] {
        let (entry, proof) = reader.prove(index).expect("it is there");
        assert_eq!(entry, small(index));
        assert!(proof.verify(&entry, &policy(2)).is_ok());
    }
    assert!(matches!(reader.prove(66_000), Err(ReadError::NoSuchEntry { .. })));
    assert!(reader.entries(258).is_err());
    assert!(reader.entries(u64::MAX).is_err());
    for path in ["tile/entries/000", "tile/1/000", "tile/0/257.p/208", "tile/1/001.p/1"] {
        let content = disk.peek(path).expect("it is there");
        // A bit of the first entry's data, or of a tile's last hash.
        let bit = if path.contains("entries") { 30 } else { content.len() * 8 - 1 };
        disk.tamper(path, Some(flipped(&content, bit)));
        let index = 1;
        assert!(reader.prove(index).is_err(), "{path}");
        assert!(reader.entries(0).is_err(), "{path}");
        disk.tamper(path, Some(content));
    }
    let old = Head { size: 100, root: [0; 32] };
    assert!(matches!(reader.consistency(old), Err(ReadError::Inconsistent { .. })));
}

/// A disk rots; a log that signed what it reads there would be a fork to every hospital.
#[test]
fn a_log_signs_nothing_that_a_rotten_tile_says() {
    let disk = Memory::default();
    build(disk.clone(), &[300, 700], small);
    let hashes: Vec<_> = (0..700).map(|at| leaf_hash(&small(at))).collect();
    let truly = |size: u64| {
        let leaves = &hashes[..usize::try_from(size).expect("few")];
        Head { size, root: transparency::tree::root(leaves) }
    };
    let path = "tile/0/001";
    let content = disk.peek(path).expect("a full tile");
    let (mut refused, mut signed) = (0, 0);
    for bit in (0..content.len() * 8).step_by(501) {
        let writer = Writer::open(disk.clone(), signer(), None).expect("whole");
        disk.tamper(path, Some(flipped(&content, bit)));
        for (old, size) in [(0, 300), (0, 512), (0, 700), (100, 300), (256, 700), (300, 700)] {
            let Ok(offer) = writer.offer_of(size, old) else {
                refused += 1;
                continue;
            };
            let offer = offer.expect("not above the log");
            assert_eq!(offer.signed.checkpoint().head(), truly(size), "{old} to {size}");
            assert!(is_consistent(truly(old), truly(size), &offer.proof), "{old} to {size}");
            signed += 1;
        }
        // What somebody knows of the log is no fork because a tile cannot be read.
        for size in [300, 512] {
            let unsure = writer.extends(truly(size));
            assert!(!matches!(unsure, Err(WriteError::Forked { .. })), "{unsure:?}");
        }
        disk.tamper(path, Some(content.clone()));
        let forked = Head { size: 300, root: [7; 32] };
        assert!(matches!(writer.extends(forked), Err(WriteError::Forked { size: 300 })));
        writer.extends(truly(300)).expect("its own past");
    }
    assert!(refused > 0 && signed > 0, "{refused} refused, {signed} signed");
}
