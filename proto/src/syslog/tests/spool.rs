//! What waits on disk, and what becomes of it when the disk or a person meddles.

use std::path::PathBuf;

use super::*;

#[test]
fn what_waits_outlives_a_restart_in_order_and_what_is_delivered_does_not_come_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(folder.path(), 1 << 20).expect("opened");
    for number in 0..50 {
        spool.append(&frame(number)).expect("kept");
    }
    let (first, place) = spool.next(1, None).expect("read").expect("some wait");
    assert_eq!(numbers(&first), (0..50).collect::<Vec<_>>());
    drop(spool);
    // Not delivered: it comes again.
    let mut spool = Spool::open(folder.path(), 1 << 20).expect("opened");
    assert_eq!(spool.next(1, None).expect("read").map(|(bytes, _)| bytes), Some(first));
    spool.delivered(place).expect("noted");
    spool.append(&frame(50)).expect("kept");
    drop(spool);
    let mut spool = Spool::open(folder.path(), 1 << 20).expect("opened");
    assert_eq!(all(&mut spool), [50]);
    assert_eq!(spool.next(1, None).expect("read"), None);
}

#[test]
fn a_frame_that_was_cut_off_is_dropped_and_those_after_it_are_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    for cut in 1..frame(7).len() {
        let folder = folder.path().join(cut.to_string());
        let mut spool = Spool::open(&folder, 1 << 20).expect("opened");
        spool.append(&frame(6)).expect("kept");
        drop(spool);
        let file = fs::read_dir(&folder).expect("there").map(|entry| entry.expect("there").path());
        let file = file.last().expect("one file");
        let mut bytes = fs::read(&file).expect("there");
        bytes.extend(&frame(7)[..cut]);
        fs::write(&file, bytes).expect("written");
        let mut spool = Spool::open(&folder, 1 << 20).expect("opened");
        spool.append(&frame(8)).expect("kept");
        assert_eq!(all(&mut spool), [6, 8], "cut at {cut}");
    }
}

#[test]
fn without_room_the_oldest_go_and_are_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(folder.path(), 1_600).expect("opened");
    for number in 0..1_000 {
        spool.append(&frame(number)).expect("kept");
    }
    let lost = spool.lost();
    spool.owned_up(lost);
    let taken: u64 = fs::read_dir(folder.path())
        .expect("there")
        .map(|entry| entry.expect("there").metadata().expect("there").len())
        .sum();
    assert!(taken < 2_000, "{taken} bytes");
    let left = all(&mut spool);
    assert_eq!(u64::try_from(left.len()).expect("few") + lost, 1_000);
    assert_eq!(left, (1_000 - u32::try_from(left.len()).expect("few")..1_000).collect::<Vec<_>>());
    // Delivered ones that go are no loss.
    spool.append(&frame(1_000)).expect("kept");
    assert_eq!(spool.lost(), 0);
}

fn file_of(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder).expect("there").map(|entry| entry.expect("there").path());
    let mut files: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|kind| kind == "spool")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

/// A spool with so many lines, all delivered.
fn delivered(folder: &Path, lines: u32) {
    let mut spool = Spool::open(folder, 1 << 20).expect("opened");
    for number in 0..lines {
        spool.append(&frame(number)).expect("kept");
    }
    assert_eq!(all(&mut spool).len(), lines as usize);
}

#[test]
fn a_file_shorter_than_what_was_delivered_of_it_holds_nothing_back() {
    // It came back from a power cut without its last frames, or with half of one, or empty.
    for left in [0, 1, 3 * frame(0).len() - 2, 3 * frame(0).len()] {
        let scratch = tempfile::tempdir().expect("a folder");
        delivered(scratch.path(), 9);
        let file = file_of(scratch.path());
        fs::write(&file, &fs::read(&file).expect("there")[..left]).expect("cut");
        let mut spool = Spool::open(scratch.path(), 1 << 20).expect("opened");
        for number in 20..23 {
            spool.append(&frame(number)).expect("kept");
        }
        drop(spool);
        // Killed before anything was delivered, and started again.
        let mut spool = Spool::open(scratch.path(), 1 << 20).expect("opened");
        spool.append(&frame(23)).expect("kept");
        let found = all(&mut spool);
        // What is left of the file may come twice.
        assert!(found.ends_with(&[20, 21, 22, 23]), "{left}: {found:?}");
        assert_eq!(spool.lost(), 0);
    }
}

#[test]
fn files_that_were_removed_hold_nothing_back() {
    for twice in [false, true] {
        let scratch = tempfile::tempdir().expect("a folder");
        delivered(scratch.path(), 9);
        fs::remove_file(file_of(scratch.path())).expect("removed");
        let mut spool = Spool::open(scratch.path(), 1 << 20).expect("opened");
        // As long as what was delivered, and longer.
        for number in 20..30 {
            spool.append(&frame(number)).expect("kept");
            if twice {
                drop(spool);
                spool = Spool::open(scratch.path(), 1 << 20).expect("opened");
            }
        }
        assert_eq!(all(&mut spool), (20..30).collect::<Vec<_>>());
    }
}

#[test]
fn files_that_are_removed_or_emptied_under_a_running_spool_hold_nothing_back_and_are_owned_up_to() {
    for meddle in [
        (|file| fs::remove_file(file)) as fn(&Path) -> io::Result<()>,
        |file| fs::write(file, ""),
        |file| fs::remove_dir_all(file.parent().expect("in a folder")),
    ] {
        let scratch = tempfile::tempdir().expect("a folder");
        let folder = scratch.path().join("syslog");
        let mut spool = Spool::open(&folder, 1 << 20).expect("opened");
        for number in 0..4 {
            spool.append(&frame(number)).expect("kept");
        }
        let (_, place) = spool.next(1, None).expect("read").expect("four");
        meddle(&file_of(&folder)).expect("meddled with");
        assert_eq!(spool.next(1, Some(place)).expect("nothing new"), None);
        spool.append(&frame(4)).expect("kept");
        spool.append(&frame(5)).expect("kept");
        assert_eq!(all(&mut spool), [4, 5]);
        assert_eq!(spool.lost(), 1);
    }
}

#[test]
fn what_is_spoilt_in_a_file_is_passed_over_and_owned_up_to() {
    let scratch = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(scratch.path(), 1_600).expect("opened");
    let numbers: Vec<u32> = (10..40).collect();
    for number in &numbers {
        spool.append(&frame(*number)).expect("kept");
    }
    let mut files: Vec<_> = fs::read_dir(scratch.path())
        .expect("there")
        .map(|entry| entry.expect("there").path())
        .filter(|file| file.extension().is_some_and(|kind| kind == "spool"))
        .collect();
    files.sort();
    let mut bytes = fs::read(&files[0]).expect("there");
    // Its second frame and all behind it.
    let (at, of_ten) = (frame(10).len(), bytes.len() / frame(10).len());
    bytes[at] = b'x';
    fs::write(&files[0], &bytes).expect("spoilt");
    let mut found = Vec::new();
    let mut place = None;
    while let Some((bytes, behind)) = spool.next(1, place).expect("read") {
        found.extend(super::numbers(&bytes));
        place = Some(behind);
    }
    let expected: Vec<u32> = [&numbers[..1], &numbers[of_ten..]].concat();
    assert_eq!(found, expected);
    assert_eq!(spool.lost(), 1);
    assert_eq!(spool.next(1, place).expect("read"), None);
    assert_eq!(spool.lost(), 1, "counted once");
    drop(spool);

    // In the newest file, which is appended to.
    let newest = files.last().expect("some");
    let mut bytes = fs::read(newest).expect("there");
    bytes.extend([0; 40]);
    fs::write(newest, bytes).expect("spoilt");
    let mut spool = Spool::open(scratch.path(), 1_600).expect("opened");
    assert_eq!(spool.lost(), 1);
    spool.append(&frame(99)).expect("kept");
    assert_eq!(all(&mut spool).last(), Some(&99));
}

#[test]
fn a_mark_that_cannot_be_understood_begins_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("delivered");
    let mark = Mark::new(file.clone());
    assert_eq!(mark.read().expect("nothing there"), [0, 0]);
    mark.note(&[7, 8]).expect("noted");
    assert_eq!(mark.read().expect("there"), [7, 8]);
    for strange in ["7", "7 8 9", "7 eight", "\u{fffd}", ""] {
        fs::write(&file, strange).expect("written");
        assert_eq!(mark.read().expect("there"), [0, 0], "{strange:?}");
    }
    fs::write(&file, [0xff, 0xfe]).expect("written");
    assert_eq!(mark.read().expect("there"), [0]);
    assert!(Mark::new(folder.path().to_owned()).read::<1>().is_err());
}
