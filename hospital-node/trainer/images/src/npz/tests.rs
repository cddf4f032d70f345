use std::io::{Cursor, Write as _};

use ndarray::Array as Values;
use ndarray_npy::NpzWriter;

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
    let images = Values::from_shape_fn((3, 4, 2), |(n, y, x)| {
        u8::try_from(n * 8 + y * 2 + x).expect("below 256")
    });
    let mut columns_first = Values::zeros((3, 4, 2).f());
    columns_first.assign(&images);
    for images in [&images, &columns_first] {
        let mut npz = NpzWriter::new_compressed(Cursor::new(Vec::new()));
        npz.add_array("val_images", images).expect("added");
        npz.add_array("val_labels", &Values::<u8, _>::ones((3, 1))).expect("added");
        let parts = read(npz.finish().expect("memory does not fail")).expect("sound");
        assert_eq!((parts.len(), parts[0].prefix, parts[0].len()), (1, "val", 3));
        assert_eq!(parts[0].label(2), [Some(1)]);
        assert_eq!(parts[0].images.data, (0..24).collect::<Vec<u8>>());
    }
}

/// A file with one part of such images and labels.
fn part(images: &[u8], labels: &[u8]) -> Result<Arrays, NpzFault> {
    let entries = [("train_images.npy", images), ("train_labels.npy", labels)];
    read(packed(&entries)).map(|mut parts| parts.remove(0))
}

/// An array as NumPy would write it.
fn typed(kind: &str, order: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let said = format!("{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
    let mut out = array(&said, 0);
    out.extend(values);
    out
}

#[test]
fn every_number_type_of_either_byte_order_and_axis_order_has_the_same_values() {
    let labels = array(&said("(2,)"), 2);
    let numbers = [1_u8, 2, 3, 4, 5, 6];
    let columns = [1_u8, 4, 2, 5, 3, 6];
    macro_rules! bytes {
        ($kind:ty, $numbers:expr, $to:ident) => {
            $numbers.iter().flat_map(|n| <$kind>::from(*n).$to()).collect::<Vec<u8>>()
        };
    }
    macro_rules! both {
        ($word:literal, $kind:ty) => {{
            let little = format!("<{}", $word);
            let big = format!(">{}", $word);
            let shape = "(2, 1, 3)";
            let whole = typed(&little, "False", shape, &bytes!($kind, numbers, to_le_bytes));
            let turned = typed(&big, "True", shape, &bytes!($kind, columns, to_be_bytes));
            for images in [whole, turned] {
                let part = part(&images, &labels).expect("sound");
                assert_eq!(part.picture(0).values, [1.0, 2.0, 3.0], "{}", $word);
                assert_eq!(part.picture(1).values, [4.0, 5.0, 6.0], "{}", $word);
                assert_eq!(part.images.data, bytes!($kind, numbers, to_le_bytes));
            }
        }};
    }
    both!("i2", i16);
    both!("u2", u16);
    both!("i4", i32);
    both!("u4", u32);
    both!("i8", i64);
    both!("u8", u64);
    both!("f4", f32);
    both!("f8", f64);
    // 0.5, 1 and -2 of half precision; truths; signed bytes.
    let halves = typed("<f2", "False", "(2, 1, 1)", &[0x00, 0x38, 0x00, 0xc0]);
    let halves = part(&halves, &labels).expect("sound");
    assert_eq!((halves.picture(0).values, halves.picture(1).full), (vec![0.5], (-2.0, -2.0)));
    assert_eq!(halves.volume(1).full, None);
    let truths = part(&typed("|b1", "False", "(2, 1, 1)", &[0, 1]), &labels).expect("sound");
    assert_eq!((truths.picture(1).values, truths.picture(1).full), (vec![1.0], (0.0, 255.0)));
    let signed = part(&typed("|i1", "False", "(2, 1, 1)", &[0, 255]), &labels).expect("sound");
    assert_eq!((signed.picture(1).values, signed.picture(1).full), (vec![-1.0], (-128.0, 127.0)));
}

#[test]
fn images_are_told_from_volumes_by_their_shape() {
    let labels = array(&said("(2, 1)"), 2);
    let seen = |shape: &str, values: usize| {
        part(&array(&said(shape), values), &labels).map(|part| (part.sides, part.samples))
    };
    assert_eq!(seen("(2, 5, 6)", 60), Ok(([1, 5, 6], 1)));
    assert_eq!(seen("(2, 5, 6, 1)", 60), Ok(([1, 5, 6], 1)));
    assert_eq!(seen("(2, 5, 6, 3)", 180), Ok(([1, 5, 6], 3)));
    assert_eq!(seen("(2, 1, 5, 6)", 60), Ok(([1, 5, 6], 1)));
    assert_eq!(seen("(2, 3, 5, 6)", 180), Ok(([3, 5, 6], 1)));
    assert_eq!(seen("(2, 3, 5, 6, 1)", 180), Ok(([3, 5, 6], 1)));
    for (shape, values) in [
        ("(2, 9)", 18),
        ("(2, 5, 6, 4)", 240),
        ("(2, 5, 6, 2)", 120),
        ("(2, 3, 5, 6, 3)", 540),
        ("(2, 5, 0)", 0),
    ] {
        let fault = seen(shape, values).expect_err("refused").0;
        assert!(fault.contains("(n, depth, height, width), found"), "{shape}: {fault}");
    }
    let part = part(&array(&said("(2, 2, 1, 6)"), 24), &labels).expect("sound");
    assert_eq!((part.volume(1).shape, part.volume(1).values.len()), ([2, 1, 6], 12));
    assert_eq!(part.volume(1).full, Some((0.0, 255.0)));
}

#[test]
fn labels_are_one_number_or_a_row_of_them_and_what_is_none_is_told() {
    let images = array(&said("(2, 1, 3)"), 6);
    let label = |kind: &str, shape: &str, values: &[u8]| {
        part(&images, &typed(kind, "False", shape, values)).map(|part| part.label(1))
    };
    let wide = [0_i64, 7].map(i64::to_le_bytes).concat();
    assert_eq!(label("<i8", "(2,)", &wide), Ok(vec![Some(7)]));
    let below = [1_i32, -1].map(i32::to_le_bytes).concat();
    assert_eq!(label("<i4", "(2, 1)", &below), Ok(vec![None]));
    let floats = [1.0_f32, 0.0, 1.0, 0.5, f32::NAN, 5e9].map(f32::to_le_bytes).concat();
    assert_eq!(label("<f4", "(2, 3)", &floats), Ok(vec![None; 3]));
    let floats = [1.0_f32, 0.0, 1.0, 0.0].map(f32::to_le_bytes).concat();
    assert_eq!(label("<f4", "(2, 2)", &floats), Ok(vec![Some(1), Some(0)]));
    for (shape, values) in [("(3,)", 3), ("(2, 0)", 0), ("(2, 1, 3)", 6)] {
        let fault = part(&images, &array(&said(shape), values)).expect_err("refused").0;
        assert!(fault.contains("expected (2, 1) or (2, classes)"), "{shape}: {fault}");
    }
}

#[test]
fn only_numbers_of_the_size_that_the_header_says_are_taken() {
    let labels = array(&said("(2,)"), 2);
    let with = |images: &[u8]| {
        read(packed(&[("train_images.npy", images), ("train_labels.npy", &labels)]))
    };
    assert!(with(&array(&said("(2, 1, 3)"), 6)).is_ok());
    for (shape, values, found) in [
        ("(2, 1, 3)", 5, "too few"),
        ("(2, 1, 3)", 7, "more of them"),
        ("(2, 1, -3)", 6, "no shape"),
        ("()", 1, "no shape"),
    ] {
        let fault = with(&array(&said(shape), values)).expect_err("refused").0;
        let text = format!("all its values, found {found}");
        assert!(fault.contains(&text), "{shape}: {fault}");
    }
    let complex = typed("<c8", "False", "(2, 1, 3)", &[0; 48]);
    for other in [complex, typed("|O", "False", "(2, 1, 3)", &[0; 48])] {
        assert!(with(&other).expect_err("refused").0.contains("floats of up to 64 bits, found"));
    }
    let texts = read(packed(&[("scan/1.dcm", b"text")])).expect_err("no arrays").0;
    assert!(texts.contains("another zip archive: unpack it"), "{texts}");
    let arrays = read(packed(&[("pictures.npy", &labels)])).expect_err("other arrays").0;
    assert!(arrays.contains("train_images and train_labels"), "{arrays}");
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
fn images_of_more_values_than_may_be_decoded_are_refused_before_there_is_room_for_them() {
    // A gigabyte of bytes would be four of values. None is there: none is looked at.
    let empty = |shape: &[usize]| {
        let (shape, datatype) = (shape.to_vec(), Datatype::Uint8);
        Array { shape, datatype, data: Vec::new() }
    };
    for shape in [&[1, 1024, 1024, 1024][..], &[1, 32_768, 32_768], &[1, 10_000, 10_000, 3]] {
        let fault = matched("val", empty(shape), empty(&[1])).expect_err("refused").0;
        assert!(fault.starts_with("val_images: each image is too large: "), "{fault}");
    }
    assert!(matched("val", empty(&[9, 1024, 1024, 256]), empty(&[9])).is_ok());
}

#[test]
fn a_header_is_read_as_numpy_writes_it() {
    let read = |text: &str| Header::parse(text).map(|header| header.shape);
    let big = Header::parse("{'descr': '>f4', 'fortran_order': True, 'shape': (2,)}");
    let header = Header {
        datatype: Datatype::Float32,
        big_endian: true,
        shape: vec![2],
        columns_first: true,
    };
    assert_eq!(big, Some(header));
    assert_eq!(
        read("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }"),
        Some(vec![2, 3])
    );
    assert_eq!(read("{\"shape\":(7L,),\"fortran_order\":True,\"descr\":\"B\"}  \n"), Some(vec![7]));
    for text in [
        "",
        "{}",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<U3', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '|u1', 'fortran_order': 0, 'shape': (2,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': 2}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}",
    ] {
        assert_eq!(read(text), None, "{text}");
    }
}
