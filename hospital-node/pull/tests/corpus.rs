//! Every DICOM file of the shared collection, where it lies beside the checkout: what the allow-list
//! lets through has the same pixels, meaning and place for the trainer's reader as the file had, and
//! nothing of what the file says of a person.

#[path = "../../../tests/scenarios/shared_data.rs"]
mod shared_data;

use std::path::{Path, PathBuf};

use hospital_images::Image;
use hospital_images::dicom::Stored;
use hospital_pull::fault::Fault;
use hospital_pull::keep::Keep;
use hospital_pull::names::Names;
use hospital_pull::sieve::{Asked, Form, MOST, Rules, sieve};

use crate::shared_data::shared;

fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Every value that could be this UID: what stands behind its tag, with a VR or without.
fn uids(bytes: &[u8], [group, element]: [u8; 2]) -> Vec<String> {
    let marks = [[group, 0, element, 0], [0, group, 0, element]];
    let mut found = Vec::new();
    for (at, _) in bytes
        .windows(10)
        .enumerate()
        .filter(|(_, window)| marks.iter().any(|mark| window.starts_with(mark)))
    {
        let lengths = [bytes[at + 4], bytes[at + 6], bytes[at + 7]].map(usize::from);
        for length in lengths {
            let value = bytes.get(at + 8..at + 8 + length).unwrap_or_default();
            let text = String::from_utf8_lossy(value).trim_matches(['\0', ' ']).to_owned();
            if text.contains('.') && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
            {
                found.push(text);
            }
        }
    }
    found.push(String::new());
    found
}

/// Elements that name somebody: the tag, and its VR where that is written.
const NAMES: [([u8; 4], &[u8; 2]); 12] = [
    ([0x08, 0, 0x50, 0], b"SH"),
    ([0x08, 0, 0x80, 0], b"LO"),
    ([0x08, 0, 0x81, 0], b"ST"),
    ([0x08, 0, 0x90, 0], b"PN"),
    ([0x08, 0, 0x50, 0x10], b"PN"),
    ([0x08, 0, 0x60, 0x10], b"PN"),
    ([0x08, 0, 0x70, 0x10], b"PN"),
    ([0x10, 0, 0x10, 0], b"PN"),
    ([0x10, 0, 0x20, 0], b"LO"),
    ([0x10, 0, 0x30, 0], b"DA"),
    ([0x20, 0, 0x10, 0], b"SH"),
    ([0x32, 0, 0x32, 0x10], b"PN"),
];

/// What stands before the pixels.
fn header(bytes: &[u8]) -> &[u8] {
    let end = bytes.windows(4).position(|tag| tag == [0xe0, 0x7f, 0x10, 0]);
    &bytes[..end.unwrap_or(bytes.len())]
}

/// What the header of a file in explicit VR little endian says of persons: values long enough not to
/// be found by chance.
fn said_of_persons(bytes: &[u8]) -> Vec<&[u8]> {
    let header = header(bytes);
    let mut found = Vec::new();
    for (tag, vr) in NAMES {
        for (at, _) in
            header.windows(6).enumerate().filter(|(_, six)| six[..4] == tag && six[4..] == *vr)
        {
            let length = [header.get(at + 6), header.get(at + 7)].map(|byte| byte.copied());
            let [Some(low), Some(high)] = length else { continue };
            let value = header.get(at + 8..).unwrap_or_default();
            let value = &value[..usize::from(u16::from_le_bytes([low, high])).min(value.len())];
            let value = value.trim_ascii();
            if value.iter().filter(|byte| byte.is_ascii_alphanumeric()).count() >= 6 {
                found.push(value);
            }
        }
    }
    found
}

fn through(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let names = Names::new([7; 32]);
    let keep = Keep::default();
    // Nothing has told us what to ask for: the first that is found, and so on.
    let kinds = [("study", [0x20, 0x0d]), ("series", [0x20, 0x0e]), ("instance", [0x08, 0x18])];
    let mut all = kinds.map(|(kind, tag)| (kind, uids(bytes, tag).into_iter().peekable()));
    loop {
        let [study, series, instance] =
            all.each_mut().map(|(_, uids)| uids.peek().cloned().unwrap_or_default());
        let asked = Asked { study: &study, series: &series, instance: &instance };
        let rules = Rules { keep: &keep, names: &names, asked, patient: &|_| true, most: MOST };
        let mut to = Vec::new();
        match sieve(&mut &*bytes, Form::File, &mut to, &rules) {
            Ok(_) => return Ok(to),
            Err(Fault::Another(what)) => {
                let Some((_, uids)) = all.iter_mut().find(|(kind, _)| *kind == what) else {
                    return Err(Fault::Another(what));
                };
                if uids.next().is_none() {
                    return Err(Fault::Another(what));
                }
            }
            Err(fault) => return Err(fault),
        }
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "says how many files were compared")]
fn the_trainers_reader_sees_no_difference() {
    let Some(folder) = shared("dicom") else { return };
    let (mut same, mut persons, mut refused) = (0, 0, Vec::new());
    for file in files(&folder) {
        let bytes = std::fs::read(&file).expect("readable");
        let Ok(before) = Stored::decode(&bytes) else { continue };
        match through(&bytes) {
            Ok(out) => {
                let after = Stored::decode(&out).expect("still an image");
                let name = file.display();
                assert_eq!(after.data, before.data, "{name}");
                let place = |stored: &Stored| {
                    let place = &stored.place;
                    let parts = (place.number, place.positions.clone(), place.orientation);
                    (parts, place.spacing, place.between, place.series.is_some())
                };
                assert_eq!(place(&after), place(&before), "{name}");
                let facts = |stored: &Stored| {
                    let kind = (stored.modality, stored.photometric, stored.burned_in, stored.kind);
                    (kind, stored.bits_stored, stored.bits_allocated, stored.samples)
                };
                assert_eq!(facts(&after), facts(&before), "{name}");
                let picture = |bytes: &[u8]| Image::decode(bytes).and_then(|image| image.picture());
                let shown = |bytes: &[u8]| {
                    picture(bytes).ok().map(|picture| {
                        (
                            picture.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
                            picture.shown,
                            picture.inverted,
                        )
                    })
                };
                assert!(shown(&out) == shown(&bytes), "{name}");
                for value in said_of_persons(&bytes) {
                    persons += 1;
                    let told = header(&out).windows(value.len()).any(|window| window == value);
                    assert!(!told, "{name}: {}", String::from_utf8_lossy(value));
                }
                same += 1;
            }
            Err(fault) => refused.push((file, fault)),
        }
    }
    for (file, fault) in &refused {
        eprintln!("not taken: {}: {fault}", file.display());
    }
    eprintln!("{same} files the same, {} not taken, {persons} names gone", refused.len());
    assert!(persons > same, "there is something to be gone in most of them");
    assert!(same > 5 * refused.len(), "most files go through");
}

#[test]
fn malformed_files_are_refused_or_go_through_and_nothing_else_happens() {
    let Some(folder) = shared("dicom-malformed") else { return };
    for file in files(&folder) {
        let bytes = std::fs::read(&file).expect("readable");
        // Never longer than it was, but for the ends of sequences and the pseudonyms.
        if let Ok(out) = through(&bytes) {
            assert!(out.len() < 2 * bytes.len() + 4096, "{}", file.display());
        }
    }
}
