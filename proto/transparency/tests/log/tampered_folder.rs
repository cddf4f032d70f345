//! Tampering as an auditor meets it: a folder, a policy, `consilium-audit verify`; each ends with exit 1
//! and a line that says where.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use transparency::checkpoint::{Checkpoint, SignedCheckpoint};
use transparency::folder::{CHECKPOINT, Folder, Source as _};
use transparency::note::Signer;
use transparency::policy::Policy;
use transparency::tile::{Tile, decode_entries, push_entry};

use crate::fixture::{ORIGIN, build, cosigner, fork, leaf, policy, signer, small};
use crate::program::Desk;

const VERIFY: &str = "verify --log log --policy policy";

/// A desk with a log that was published at these sizes, and a policy of two of three.
fn desk(sizes: &[u64], entry: impl Fn(u64) -> Vec<u8>) -> (Desk, Vec<SignedCheckpoint>) {
    let desk = Desk::bare();
    fs::write(desk.at("policy"), policy(2).to_string()).expect("written");
    let kept = build(folder(&desk, "log"), sizes, entry);
    (desk, kept)
}

fn folder(desk: &Desk, name: &str) -> Folder {
    Folder::create(&desk.at(name)).expect("made")
}

/// The program ends with exit 1, its error begins with the place, and says this.
fn caught(desk: &Desk, line: &str, place: &str, said: &str) {
    let answer = desk.run(line);
    assert_eq!(answer.code, Some(1), "{place}: {}{}", answer.out, answer.err);
    assert!(answer.err.starts_with(&format!("error: {place}: ")), "{place}: {}", answer.err);
    assert!(answer.err.contains(said), "{said}: {}", answer.err);
    assert!(answer.out.ends_with("NOT VERIFIED\n"), "{}", answer.out);
}

fn verified(desk: &Desk, line: &str) {
    let answer = desk.run(line);
    assert_eq!(answer.code, Some(0), "{}{}", answer.out, answer.err);
}

/// The paths of all tiles and bundles.
fn tiles(desk: &Desk) -> Vec<String> {
    let mut paths = Vec::new();
    let log = folder(desk, "log");
    assert!(log.list(&mut |path| paths.push(path.to_owned())).expect("listed"));
    paths.retain(|path| path.parse::<Tile>().is_ok());
    paths.sort();
    paths
}

#[test]
fn one_flipped_bit_in_any_tile_or_bundle_is_found_there() {
    // Published within tiles, so that older partial files lie beside newer ones; and three levels.
    let (narrow, _) = desk(&[10, 300, 520, 540], |at| leaf(at, ""));
    let (high, _) = desk(&[65_900], small);
    let upper = ["tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1", "tile/0/257.p/108"];
    for (desk, wanted) in [(&narrow, None), (&high, Some(upper))] {
        verified(desk, VERIFY);
        let mut paths = tiles(desk);
        assert!(paths.len() >= 10, "{paths:?}");
        if let Some(wanted) = wanted {
            assert!(wanted.iter().all(|path| paths.iter().any(|it| it == path)), "{paths:?}");
            paths.retain(|path| wanted.contains(&path.as_str()));
        }
        for (number, path) in paths.iter().enumerate() {
            let file = desk.at("log").join(path);
            let content = fs::read(&file).expect("listed");
            let bit = number * 7_919 % (content.len() * 8);
            let mut altered = content.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, altered).expect("written");
            caught(desk, VERIFY, path, "");
            fs::write(&file, content).expect("written");
        }
        verified(desk, VERIFY);
    }
}

#[test]
fn a_dropped_entry_two_swapped_ones_and_a_cut_or_missing_file_are_found() {
    let (desk, _) = desk(&[600], |at| leaf(at, ""));
    for path in ["tile/entries/000", "tile/entries/002.p/88"] {
        let file = desk.at("log").join(path);
        let content = fs::read(&file).expect("it is there");
        let width = path.parse::<Tile>().expect("a bundle").width();
        let entries = decode_entries(&content, width).expect("a bundle");
        let rewrite = |change: fn(&mut Vec<&[u8]>)| {
            let mut entries = entries.clone();
            change(&mut entries);
            let mut altered = Vec::new();
            for entry in entries {
                push_entry(&mut altered, entry).expect("small");
            }
            fs::write(&file, altered).expect("written");
        };
        rewrite(|entries| {
            entries.remove(40);
        });
        caught(&desk, VERIFY, path, "expected");
        rewrite(|entries| entries.swap(40, 41));
        caught(&desk, VERIFY, path, "entry ");
        fs::write(&file, &content[..content.len() - 1]).expect("cut");
        caught(&desk, VERIFY, path, "");
        fs::remove_file(&file).expect("removed");
        caught(&desk, VERIFY, path, "expected a file, found none");
        fs::write(&file, content).expect("written");
    }
    verified(&desk, VERIFY);
}

#[test]
fn truncated_and_rewritten_histories_with_valid_signatures_are_found_by_a_kept_checkpoint() {
    let (desk, kept) = desk(&[100, 400], |at| leaf(at, ""));
    fs::write(desk.at("kept"), kept[1].to_string()).expect("written");
    let since = format!("{VERIFY} --since kept");
    verified(&desk, &since);
    for (sizes, salt, said) in [
        (&[100, 399][..], "", "rollback: expected at least the 400 entries"),
        (&[100, 400], "rewritten", "rewritten history: --since kept has the root"),
        (&[100, 400, 700], "rewritten", "for the first 400 entries"),
    ] {
        fs::remove_dir_all(desk.at("log")).expect("removed");
        build(folder(&desk, "log"), sizes, |at| leaf(at, if at == 50 { salt } else { "" }));
        // In itself it is a valid log.
        verified(&desk, VERIFY);
        caught(&desk, &since, CHECKPOINT, said);
    }
}

#[test]
fn a_fork_that_one_witness_was_shown_lacks_its_cosignature() {
    let desk = Desk::bare();
    let branches = fork(folder(&desk, "one"), folder(&desk, "log"));
    fs::write(desk.at("kept"), branches.one.to_string()).expect("written");
    fs::write(desk.at("policy"), policy(3).to_string()).expect("written");
    caught(&desk, VERIFY, CHECKPOINT, "missing: hospital-1");
    let one = "verify --log one --policy policy";
    caught(&desk, one, CHECKPOINT, "missing: hospital-2, hospital-3");
    // Two of three are enough for the second branch alone, and not beside what the first has kept.
    fs::write(desk.at("policy"), policy(2).to_string()).expect("written");
    verified(&desk, VERIFY);
    caught(&desk, &format!("{VERIFY} --since kept"), CHECKPOINT, "rewritten history");
    caught(&desk, one, CHECKPOINT, "missing: hospital-2, hospital-3");
}

#[test]
fn missing_and_repeated_cosignatures_are_found() {
    let (desk, _) = desk(&[20], small);
    let file = desk.at("log").join(CHECKPOINT);
    let text = fs::read_to_string(&file).expect("published");
    let lines: Vec<&str> = text.lines().collect();
    let keep = |keep: &[usize]| {
        let lines: Vec<_> = keep.iter().map(|at| lines[*at]).collect();
        fs::write(&file, format!("{}\n", lines.join("\n"))).expect("written");
    };
    // Three lines of text, a blank one, the log's signature, three cosignatures.
    keep(&[0, 1, 2, 3, 4, 5, 7]);
    verified(&desk, VERIFY);
    keep(&[0, 1, 2, 3, 4, 6]);
    caught(&desk, VERIFY, CHECKPOINT, "missing: hospital-1, hospital-3");
    keep(&[0, 1, 2, 3, 4, 5, 6, 6, 7]);
    caught(&desk, VERIFY, CHECKPOINT, "hospital-2: expected one signature");
    keep(&[0, 1, 2, 3, 5, 6, 7]);
    caught(&desk, VERIFY, CHECKPOINT, &format!("expected a signature by {ORIGIN}+"));
}

#[test]
fn a_checkpoint_of_another_log_and_a_policy_with_a_wrong_key_are_found() {
    let (desk, kept) = desk(&[20], small);
    let ours = fs::read(desk.at("log").join(CHECKPOINT)).expect("published");
    let head = kept[0].checkpoint().head();
    let witnesses = |numbers: std::ops::Range<u8>| -> Vec<_> {
        numbers.map(|at| (format!("hospital-{at}"), cosigner(at).key())).collect()
    };
    let write = |name: &str, content: String| fs::write(desk.at(name), content).expect("written");
    for other in ["elsewhere.example/log", ORIGIN] {
        let stranger = Signer::from_seed(other, &[99; 32]).expect("a seed");
        let missing = format!("expected a signature by {}", stranger.key().label());
        let wrong = Policy::threshold(&stranger.key(), &witnesses(1..4), 2).expect("a policy");
        write("policy", wrong.to_string());
        caught(&desk, VERIFY, CHECKPOINT, &missing);
        write("policy", policy(2).to_string());
        let foreign = Checkpoint::new(other, head).expect("a checkpoint");
        let foreign = SignedCheckpoint::sign(foreign, &stranger).expect("its own").to_string();
        write("foreign", foreign.clone());
        caught(&desk, &format!("{VERIFY} --since foreign"), "--since foreign", ORIGIN);
        write("log/checkpoint", foreign);
        caught(&desk, VERIFY, CHECKPOINT, &format!("expected a signature by {ORIGIN}+"));
        fs::write(desk.at("log").join(CHECKPOINT), &ours).expect("written");
    }
    let wrong = Policy::threshold(&signer().key(), &witnesses(4..7), 2).expect("a policy");
    write("policy", wrong.to_string());
    caught(&desk, VERIFY, CHECKPOINT, "missing: hospital-4, hospital-5, hospital-6");
}

/// A pipe that nobody writes to, where a file should be, would be read for ever.
#[test]
fn what_is_no_regular_file_is_found_and_not_waited_for() {
    let (desk, _) = desk(&[20], small);
    let pipe = |file: &Path| {
        let made = Command::new("mkfifo").arg(file).stderr(Stdio::null()).status();
        made.is_ok_and(|status| status.success())
    };
    for path in ["tile/entries/000.p/20", "tile/0/000.p/20", "checkpoint.signed"] {
        let file = desk.at("log").join(path);
        let content = fs::read(&file).expect("it is there");
        fs::remove_file(&file).expect("removed");
        if !pipe(&file) {
            let _ = writeln!(std::io::stderr(), "not tested with a pipe: there is no mkfifo");
            fs::create_dir(&file).expect("made");
        }
        caught(&desk, VERIFY, path, "expected a regular file");
        if file.is_dir() { fs::remove_dir(&file) } else { fs::remove_file(&file) }
            .expect("removed");
        fs::write(&file, content).expect("written");
    }
    verified(&desk, VERIFY);
    fs::remove_file(desk.at("log/checkpoint")).expect("removed");
    assert!(pipe(&desk.at("log/checkpoint")) || fs::create_dir(desk.at("log/checkpoint")).is_ok());
    let answer = desk.run(VERIFY);
    assert_eq!(answer.code, Some(1), "{}", answer.out);
    assert!(answer.err.starts_with("error: checkpoint: expected a regular file"), "{}", answer.err);
}
