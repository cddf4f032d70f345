//! Rows that name the folder of a DICOM series, or a file of many frames.

use std::fs;
use std::path::Path;

use hospital_trainer::dataset::{self, Contents, Look, SiteSecret, Source};

fn element(out: &mut Vec<u8>, tag: (u16, u16), vr: &[u8; 2], value: &[u8]) {
    out.extend(tag.0.to_le_bytes());
    out.extend(tag.1.to_le_bytes());
    out.extend(vr);
    let length = u32::try_from(value.len()).expect("short");
    if vr == b"OW" {
        out.extend([0, 0]);
        out.extend(length.to_le_bytes());
    } else {
        out.extend(&length.to_le_bytes()[..2]);
    }
    out.extend(value);
}

/// A text of even length.
fn text(out: &mut Vec<u8>, tag: (u16, u16), vr: &[u8; 2], value: &str) {
    let padded = if value.len().is_multiple_of(2) { value.to_owned() } else { format!("{value} ") };
    element(out, tag, vr, padded.as_bytes());
}

/// Two by two pixels of one value in each frame, at this height in the patient.
fn slice(series: &str, height: i32, values: &[u16]) -> Vec<u8> {
    let mut out = vec![0; 128];
    out.extend(b"DICM");
    element(&mut out, (2, 0x10), b"UI", b"1.2.840.10008.1.2.1\0");
    text(&mut out, (0x20, 0xe), b"UI", series);
    text(&mut out, (0x20, 0x32), b"DS", &format!("0\\0\\{height}"));
    text(&mut out, (0x20, 0x37), b"DS", "1\\0\\0\\0\\1\\0");
    element(&mut out, (0x28, 2), b"US", &1_u16.to_le_bytes());
    text(&mut out, (0x28, 4), b"CS", "MONOCHROME2");
    if values.len() > 1 {
        text(&mut out, (0x28, 8), b"IS", &values.len().to_string());
    }
    for (place, number) in
        [(0x10, 2_u16), (0x11, 2), (0x100, 16), (0x101, 16), (0x102, 15), (0x103, 0)]
    {
        element(&mut out, (0x28, place), b"US", &number.to_le_bytes());
    }
    let pixels: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes().repeat(4)).collect();
    element(&mut out, (0x7fe0, 0x10), b"OW", &pixels);
    out
}

fn scanned(folder: &Path, manifest: &str) -> Contents {
    fs::write(folder.join("manifest.csv"), manifest).expect("written");
    let text = |path: &Path| path.to_str().expect("a name of letters").to_owned();
    let source = Source::new("images", &text(folder), &text(&folder.join("manifest.csv")));
    let secret = SiteSecret::new([1; 32]);
    let look = Look { preparation: None, classes: None, secret: &secret, memory: u64::MAX };
    dataset::look(&source.expect("a source"), look, &|_, _| {}).expect("looked at")
}

#[test]
fn a_series_is_one_record_whatever_its_files_are_called() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, names) in [("a", ["1", "2", "3"]), ("b", ["9", "8", "7"]), ("c", ["1", "2", "3"])] {
        fs::create_dir(folder.path().join(name)).expect("made");
        for (height, file) in names.into_iter().enumerate() {
            let height = i32::try_from(height).expect("few");
            let value = if name == "c" { 50 } else { 10 };
            let bytes = slice("1.2", height, &[value + u16::try_from(height).expect("few")]);
            fs::write(folder.path().join(name).join(file), bytes).expect("written");
        }
    }
    fs::create_dir(folder.path().join("mixed")).expect("made");
    for (file, series) in [("1", "1.2"), ("2", "1.3")] {
        let bytes = slice(series, file.parse().expect("a number"), &[1]);
        fs::write(folder.path().join("mixed").join(file), bytes).expect("written");
    }
    fs::write(folder.path().join("frames.dcm"), slice("1.2", 0, &[4, 5, 6])).expect("written");
    let manifest = "path,patient_id,label\na,P1,1\nb,P2,1\nc,P3,0\nframes.dcm,P4,0\nmixed,P5,0\n";
    let contents = scanned(folder.path(), manifest);
    let bad: Vec<_> =
        contents.bad.iter().map(|bad| (bad.name.as_str(), bad.fault.code())).collect();
    assert_eq!(bad, [("b", "duplicate"), ("mixed", "wrong_shape")], "b is a again");
    assert_eq!(contents.records.len(), 3);
    assert_eq!(contents.unlisted, 0, "the slices are their folder's");
}
