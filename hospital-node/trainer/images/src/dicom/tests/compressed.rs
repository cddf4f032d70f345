//! Pixels in fragments.

use super::*;
use crate::jpegls::tests::EXAMPLE;

/// Such a file, its pixels one frame in one fragment.
fn compressed(what: &Made<'_>, frame: &[u8]) -> Vec<u8> {
    let head = made(&Made { pixels: &[], ..*what });
    let pixels = [0xe0, 0x7f, 0x10, 0, b'O', b'B', 0, 0, 0xff, 0xff, 0xff, 0xff];
    [&head[..head.len() - 12], &pixels, &item(&[]), &item(frame)].concat()
}

#[test]
fn a_jpeg_ls_image_has_the_bits_of_its_codestream() {
    let file = |bits: (u16, u16), codestream: &[u8]| {
        let syntax = b"1.2.840.10008.1.2.4.80";
        compressed(&Made { syntax, sides: (4, 4), bits, signed: 1, ..PLAIN }, codestream)
    };
    let first = |file: &[u8]| values(&Stored::decode(file).expect("sound"))[..8].to_vec();
    let expected = [0.0, 0.0, 90.0, 74.0, 68.0, 50.0, 43.0, -51.0];
    for bits in [(8, 8), (16, 8), (16, 16), (16, 12)] {
        assert_eq!(first(&file(bits, &EXAMPLE)), expected, "{bits:?}");
    }
    let mut deeper = EXAMPLE;
    deeper[6] = 12; // bits
    let fault = Stored::decode(&file((8, 8), &deeper)).expect_err("more bits than there is room");
    assert!(matches!(fault, Fault::Unreadable(_)), "{fault}");
}

#[test]
fn only_the_stored_bits_of_a_jpeg_are_values_and_the_sign_is_theirs() {
    use crate::jpeg::tests::{flat, lossless};
    let syntax = b"1.2.840.10008.1.2.4.70";
    let read = |bits, signed, codestream: &[u8], sides| {
        let what = Made { syntax, sides, bits, signed, ..PLAIN };
        values(&Stored::decode(&compressed(&what, codestream)).expect("sound"))
    };
    let words = [0, 0xf001, 0x0800, 0xffff];
    let codestream = lossless(4, &words);
    for (bits, signed, expected) in [
        ((16, 12), 0, [0.0, 1.0, 2048.0, 4095.0]),
        ((16, 12), 1, [0.0, 1.0, -2048.0, -1.0]),
        ((16, 16), 0, words.map(f64::from)),
        ((16, 16), 1, [0.0, -4095.0, 2048.0, -1.0]),
    ] {
        assert_eq!(read(bits, signed, &codestream, (1, 4)), expected, "{bits:?} {signed}");
    }
    // Twelve bits in a codestream are not a sign in sixteen.
    assert_eq!(read((16, 16), 1, &flat(12, 80), (8, 8))[..2], [2058.0, 2058.0]);
    // A lossy overshoot is the brightest value and no dark one.
    assert_eq!(read((16, 11), 0, &flat(12, 80), (8, 8))[..2], [2047.0, 2047.0]);
}

#[test]
fn unused_bits_of_frames_that_are_not_transformed_are_left_out() {
    let pixels = [0, 0xf0, 1, 0, 2, 0x80, 0xff, 0x0f];
    let mut deflated = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut deflated, &pixels).expect("into memory");
    let deflated = deflated.finish().expect("into memory");
    for (syntax, frame) in
        [(&b"1.2.840.10008.1.2.1.98"[..], &pixels[..]), (b"1.2.840.10008.1.2.8.1 ", &deflated)]
    {
        let file = compressed(&Made { syntax, ..PLAIN }, frame);
        assert_eq!(values(&Stored::decode(&file).expect("sound")), [0.0, 1.0, 2.0, 4095.0]);
    }
}

#[test]
fn the_high_bit_is_that_of_words_and_not_of_codestreams() {
    let more: [(Tag, &[u8; 2], &[u8]); 1] = [((0x28, 0x102), b"US", &[15, 0])];
    let read = |syntax, frame: &[u8]| {
        let file = compressed(&Made { syntax, more: &more, ..PLAIN }, frame);
        values(&Stored::decode(&file).expect("sound"))
    };
    let pixels = [0xf0, 0xff, 0x1f, 0, 0x20, 0, 0, 0x80];
    let expected = [4095.0, 1.0, 2.0, 2048.0];
    assert_eq!(read(b"1.2.840.10008.1.2.1.98", &pixels), expected);
    // Two segments, the upper bytes first, of four bytes each that are as they are.
    let mut runs = vec![0; 64];
    (runs[0], runs[4], runs[8]) = (2, 64, 69);
    runs.extend([3, 0xff, 0, 0, 0x80, 3, 0xf0, 0x1f, 0x20, 0]);
    assert_eq!(read(b"1.2.840.10008.1.2.5\0", &runs), expected);
    let codestream = crate::jpeg::tests::lossless(4, &[4095, 1, 2, 2048]);
    assert_eq!(read(b"1.2.840.10008.1.2.4.70", &codestream), expected);
}

#[test]
fn colours_are_those_of_the_codestream_where_it_says_them() {
    use Photometric::{Rgb, YbrFull, YbrFull422};
    const ADOBE: (u8, &[u8]) = (0xee, b"Adobe\0\x64\0\0\0\0\0");
    const ADOBE_LUMA: (u8, &[u8]) = (0xee, b"Adobe\0\x64\0\0\0\0\x01");
    for (said, ids, segments, expected) in [
        ("YBR_FULL_422", [1, 2, 3], &[][..], YbrFull422),
        ("YBR_FULL_422", [1, 2, 3], &[ADOBE], Rgb),
        ("YBR_FULL", *b"RGB", &[], Rgb),
        ("YBR_FULL", [1, 2, 3], &[ADOBE_LUMA], YbrFull),
        ("RGB ", [1, 2, 3], &[ADOBE_LUMA], YbrFull),
        ("RGB ", [1, 2, 3], &[], Rgb),
    ] {
        let codestream = crate::jpeg::tests::three(ids, segments);
        let samples: [(Tag, &[u8; 2], &[u8]); 1] = [((0x28, 2), b"US", &[3, 0])];
        let what = Made {
            syntax: b"1.2.840.10008.1.2.4.50",
            sides: (8, 8),
            bits: (8, 8),
            photometric: said,
            more: &samples,
            ..PLAIN
        };
        let stored = Stored::decode(&compressed(&what, &codestream)).expect("sound");
        assert_eq!(stored.photometric, expected, "{said} {ids:?}");
    }
}

#[test]
fn a_fault_is_said_as_what_it_is() {
    let fault = |file: &[u8]| Stored::decode(file).expect_err("refused").to_string();
    let wide = fault(&made(&Made { bits: (64, 64), ..PLAIN }));
    assert!(wide.contains("unsupported: integers of 64 bits"), "{wide}");
    for syntax in [&b"1.2.840.113619.5.2"[..], b"1.2.3.4 "] {
        let private = fault(&made(&Made { syntax, ..PLAIN }));
        assert!(private.contains("not a registered one"), "{private}");
    }
    let empty = fault(&made(&Made { pixels: &[], ..PLAIN }));
    assert!(empty.contains("its pixel data is empty"), "{empty}");
    let more: [(Tag, &[u8; 2], &[u8]); 1] = [((0x28, 8), b"IS", b"3 ")];
    let few = compressed(&Made { syntax: b"1.2.840.10008.1.2.5 ", more: &more, ..PLAIN }, &[0; 64]);
    assert!(fault(&few).contains("truncated"), "without an end");
    let ended = [&few[..], &[0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]].concat();
    assert!(fault(&ended).contains("fewer frames than its header says"), "{}", fault(&ended));
}

#[test]
fn blank_frames_are_no_way_to_take_hours() {
    let of = |frames: &[u8]| {
        let more: [(Tag, &[u8; 2], &[u8]); 1] = [((0x28, 8), b"IS", frames)];
        let syntax = b"1.2.840.10008.1.2.4.90";
        let what = Made { syntax, sides: (8192, 8192), bits: (8, 8), more: &more, ..PLAIN };
        // Each frame is the same few bytes, and no codestream.
        let count: usize = std::str::from_utf8(frames).expect("text").trim().parse().expect("few");
        let file = [compressed(&what, b"no"), item(b"no").repeat(count - 1)].concat();
        Stored::decode(&file).expect_err("refused")
    };
    assert!(matches!(of(b"2 "), Fault::Unreadable(_)), "looked into");
    assert!(matches!(of(b"3 "), Fault::Unsupported(_)));
}
