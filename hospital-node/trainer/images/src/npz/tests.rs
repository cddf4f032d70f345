use std::io::{Cursor, Write as _};

use ndarray::Array;
use ndarray_npy::{NpzWriter, WriteNpyExt as _};

use super::*;

fn packed(entries: &[(&str, &[u8])]) -> Cursor<Vec<u8>> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        archive.start_file(*name, zip::write::SimpleFileOptions::default()).expect("started");
        archive.write_all(bytes).expect("memory does not fail");
    }
    archive.finish().expect("finished")
}

/// An array with this header, and values that are all alike.
fn array(said: &str, values: usize) -> Vec<u8> {
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend(u16::try_from(said.len()).expect("short").to_le_bytes());
    out.extend(said.as_bytes());
    out.resize(out.len() + values, 7);
    out
}

fn said(shape: &str) -> String {
    format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n")
}

#[test]
fn arrays_of_both_orders_have_the_same_values() {
    let images = Array::from_shape_fn((3, 4, 2), |(n, y, x)| {
        u8::try_from(n * 8 + y * 2 + x).expect("below 256")
    });
    let mut columns_first = Array::zeros((3, 4, 2).f());
    columns_first.assign(&images);
    for images in [&images, &columns_first] {
        let mut npz = NpzWriter::new_compressed(Cursor::new(Vec::new()));
        npz.add_array("val_images", images).expect("added");
        npz.add_array("val_labels", &Array::<u8, _>::ones((3, 1))).expect("added");
        let parts = read(npz.finish().expect("memory does not fail")).expect("sound");
        assert_eq!((parts.len(), parts[0].prefix, &parts[0].labels), (1, "val", &vec![1; 3]));
        let values = parts[0].images.as_slice().expect("in order");
        assert_eq!(values, (0..24).collect::<Vec<u8>>());
    }
}

#[test]
fn only_unsigned_bytes_of_the_size_that_the_header_says_are_taken() {
    let labels = array(&said("(2,)"), 2);
    let with = |images: &[u8]| {
        read(packed(&[("train_images.npy", images), ("train_labels.npy", &labels)]))
    };
    assert!(with(&array(&said("(2, 1, 3)"), 6)).is_ok());
    for (shape, values) in [("(2, 1, 3)", 5), ("(2, 1, 3)", 7), ("(2, 1, -3)", 6), ("()", 1)] {
        let fault = with(&array(&said(shape), values)).expect_err("refused").0;
        assert!(fault.contains("all its values"), "{shape}: {fault}");
    }
    let mut floats = Vec::new();
    Array::<f32, _>::zeros((2, 1, 3)).write_npy(&mut floats).expect("memory");
    assert!(with(&floats).expect_err("refused").0.contains("unsigned bytes"));
    for cut in [0, 7, 9, 20] {
        assert!(with(&labels[..cut]).expect_err("refused").0.contains("cut off"), "{cut}");
    }
}

#[test]
fn a_claim_that_the_file_cannot_meet_sets_no_memory_aside() {
    for shape in
        ["(99999999999, 9, 9)", "(1000000, 1000, 1)", "(9999999999, 9999999999, 9999999999)"]
    {
        let images = array(&said(shape), 6);
        let fault = read(packed(&[("val_images.npy", &images), ("val_labels.npy", &images)]));
        assert!(fault.expect_err("refused").0.contains("all its values"), "{shape}");
    }
}

#[test]
fn all_arrays_together_stay_within_one_limit() {
    let mut file = packed(&[("val_images.npy", &array(&said("(6, 1, 1)"), 6))]);
    let packed = file.seek(SeekFrom::End(0)).expect("memory");
    let archive = ZipArchive::new(file).expect("sound");
    let mut archive = Archive { archive, packed, room: 10 };
    assert!(archive.array(0, "first").is_ok());
    let fault = archive.array(0, "second").expect_err("refused").0;
    assert!(fault.contains("MiB when unpacked"), "{fault}");
}

#[test]
fn a_header_is_read_as_numpy_writes_it() {
    let read = |text: &str| Header::parse(text).map(|header| header.shape);
    assert_eq!(
        read("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }"),
        Some(vec![2, 3])
    );
    assert_eq!(read("{\"shape\":(7L,),\"fortran_order\":True,\"descr\":\"B\"}  \n"), Some(vec![7]));
    for text in [
        "",
        "{}",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '|u1', 'fortran_order': 0, 'shape': (2,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': 2}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}",
    ] {
        assert_eq!(read(text), None, "{text}");
    }
}
