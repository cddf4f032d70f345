use super::*;

/// What a test file says; the rest is as in most.
struct Made<'a> {
    syntax: &'a [u8],
    sides: (u16, u16),
    bits: (u16, u16),
    signed: u16,
    photometric: &'a str,
    more: &'a [(Tag, &'a [u8; 2], &'a [u8])],
    pixels: &'a [u8],
}

use super::elements::Tag;
use crate::volume::Turn;

const PLAIN: Made<'_> = Made {
    syntax: b"1.2.840.10008.1.2.1\0",
    sides: (1, 4),
    bits: (16, 12),
    signed: 0,
    photometric: "MONOCHROME2 ",
    more: &[],
    pixels: &[0, 0, 1, 0, 2, 0, 0xff, 0x0f],
};

fn element(out: &mut Vec<u8>, tag: Tag, vr: &[u8; 2], value: &[u8]) {
    out.extend_from_slice(&tag.0.to_le_bytes());
    out.extend_from_slice(&tag.1.to_le_bytes());
    out.extend_from_slice(vr);
    let length = u32::try_from(value.len()).expect("short").to_le_bytes();
    if matches!(vr, b"OW" | b"OB" | b"SQ" | b"UN") {
        out.extend([0, 0]);
        out.extend_from_slice(&length);
    } else {
        out.extend_from_slice(&length[..2]);
    }
    out.extend_from_slice(value);
}

fn made(what: &Made<'_>) -> Vec<u8> {
    let mut out = vec![0; 128];
    out.extend_from_slice(b"DICM");
    element(&mut out, (2, 0x10), b"UI", what.syntax);
    let mut all: Vec<(Tag, &[u8; 2], Vec<u8>)> = vec![
        ((0x28, 2), b"US", 1_u16.to_le_bytes().to_vec()),
        ((0x28, 4), b"CS", what.photometric.as_bytes().to_vec()),
        ((0x28, 0x10), b"US", what.sides.0.to_le_bytes().to_vec()),
        ((0x28, 0x11), b"US", what.sides.1.to_le_bytes().to_vec()),
        ((0x28, 0x100), b"US", what.bits.0.to_le_bytes().to_vec()),
        ((0x28, 0x101), b"US", what.bits.1.to_le_bytes().to_vec()),
        ((0x28, 0x103), b"US", what.signed.to_le_bytes().to_vec()),
        ((0x7fe0, 0x10), b"OW", what.pixels.to_vec()),
    ];
    all.extend(what.more.iter().map(|(tag, vr, value)| (*tag, *vr, value.to_vec())));
    all.sort_by_key(|(tag, _, _)| *tag);
    for (tag, vr, value) in all {
        element(&mut out, tag, vr, &value);
    }
    out
}

fn decoded(what: &Made<'_>) -> Stored {
    Stored::decode(&made(what)).expect("a sound file")
}

fn values(stored: &Stored) -> Vec<f64> {
    let mut values = Vec::new();
    stored.each(&mut |value| values.push(value));
    values
}

#[test]
fn unused_bits_are_left_out_and_the_sign_is_that_of_the_stored_bits() {
    let unused = Made { pixels: &[0, 0xf0, 1, 0, 2, 0, 0xff, 0x0f], ..PLAIN };
    assert_eq!(values(&decoded(&unused)), [0.0, 1.0, 2.0, 4095.0]);
    assert_eq!(values(&decoded(&Made { signed: 1, ..unused })), [0.0, 1.0, 2.0, -1.0]);
}

#[test]
fn values_are_taken_from_where_the_high_bit_says_that_they_are() {
    let bits = [[0xf0, 0xff], [0x10, 0], [0x20, 0], [0, 0x80]];
    let high = |bit: u16| bit.to_le_bytes();
    let with = |bits, signed, high: &[u8; 2], pixels: &[u8]| {
        let more: [(Tag, &[u8; 2], &[u8]); 1] = [((0x28, 0x102), b"US", high)];
        Stored::decode(&made(&Made { bits, signed, more: &more, pixels, ..PLAIN }))
    };
    let shifted = |signed| {
        let stored = with((16, 12), signed, &high(15), bits.as_flattened());
        values(&stored.expect("sound"))
    };
    assert_eq!(shifted(0), [4095.0, 1.0, 2.0, 2048.0]);
    assert_eq!(shifted(1), [-1.0, 1.0, 2.0, -2048.0]);
    // In the middle, with something on either side.
    let middle = with((16, 8), 0, &high(11), &[0x1f, 0xf0, 0x2f, 0xf0, 0, 0, 0xf0, 0x0f]);
    assert_eq!(values(&middle.expect("sound")), [1.0, 2.0, 0.0, 255.0]);
    let bytes = with((8, 4), 1, &high(7), &[0x1f, 0xf0, 0x80, 0x70]);
    assert_eq!(values(&bytes.expect("sound")), [1.0, -1.0, -8.0, 7.0]);
    let plain = with((16, 12), 0, &high(11), PLAIN.pixels);
    assert_eq!(values(&plain.expect("sound")), [0.0, 1.0, 2.0, 4095.0]);
    for wrong in [0, 10, 16, u16::MAX] {
        let fault = with((16, 12), 0, &high(wrong), PLAIN.pixels).expect_err("no such bits");
        assert!(matches!(fault, Fault::Unreadable(_)), "{wrong}: {fault}");
        // Where all bits carry the value, there is no other place for them.
        let whole = with((16, 16), 0, &high(wrong), PLAIN.pixels).expect("sound");
        assert_eq!(values(&whole), [0.0, 1.0, 2.0, 4095.0]);
    }
}

#[test]
fn rescale_window_functions_and_inversion_make_the_picture() {
    let rescaled: [(Tag, &[u8; 2], &[u8]); 4] = [
        ((0x28, 0x1052), b"DS", b"-1000 "),
        ((0x28, 0x1053), b"DS", b"2 "),
        ((0x28, 0x1050), b"DS", b"-998\\0"),
        ((0x28, 0x1051), b"DS", b"4\\100 "),
    ];
    let linear = decoded(&Made { more: &rescaled, ..PLAIN }).picture().expect("grey");
    assert_eq!(linear.values, [-1000.0, -998.0, -996.0, 7190.0]);
    assert_eq!((linear.full, linear.inverted), ((-1000.0, 7190.0), false));
    assert_eq!(linear.shown, Some(Shown::Line { low: -1000.0, high: -997.0 }));
    for (function, shown) in [
        (&b"LINEAR_EXACT"[..], Shown::Line { low: -1000.0, high: -996.0 }),
        (b"SIGMOID ", Shown::Sigmoid { center: -998.0, width: 4.0 }),
    ] {
        let mut more = rescaled.to_vec();
        more.push(((0x28, 0x1056), b"CS", function));
        let picture = decoded(&Made { more: &more, ..PLAIN }).picture().expect("grey");
        assert!((shown.shade(-998.0) - 0.5).abs() < 1e-6);
        assert_eq!(picture.shown, Some(shown));
    }
    let inverted = Made { photometric: "MONOCHROME1 ", ..PLAIN };
    assert!(decoded(&inverted).picture().expect("grey").inverted);
}

#[test]
fn padding_is_shown_as_the_darkest_pixel() {
    let padded: [(Tag, &[u8; 2], &[u8]); 1] = [((0x28, 0x120), b"US", &[0, 0])];
    let picture = |photometric| {
        decoded(&Made { more: &padded, photometric, ..PLAIN }).picture().expect("grey").values
    };
    assert_eq!(picture("MONOCHROME2 "), [1.0, 1.0, 2.0, 4095.0]);
    assert_eq!(picture("MONOCHROME1 "), [4095.0, 1.0, 2.0, 4095.0]);
}

#[test]
fn a_palette_becomes_colours_and_tables_become_shades() {
    let palette: [(Tag, &[u8; 2], &[u8]); 6] = [
        ((0x28, 0x1101), b"US", &[2, 0, 1, 0, 8, 0]),
        ((0x28, 0x1102), b"US", &[2, 0, 1, 0, 8, 0]),
        ((0x28, 0x1103), b"US", &[2, 0, 1, 0, 8, 0]),
        ((0x28, 0x1201), b"OW", &[10, 20]),
        ((0x28, 0x1202), b"OW", &[30, 40]),
        ((0x28, 0x1203), b"OW", &[50, 60]),
    ];
    let colored = Made { more: &palette, photometric: "PALETTE COLOR ", ..PLAIN };
    let picture = decoded(&colored).picture().expect("in colour");
    assert_eq!(picture.values[..6], [10.0, 30.0, 50.0, 10.0, 30.0, 50.0]);
    assert_eq!(picture.values[6..], [20.0, 40.0, 60.0, 20.0, 40.0, 60.0]);
    // A modality table and a VOI table, each in its sequence.
    let mut table = vec![0xfe, 0xff, 0, 0xe0];
    let mut item = Vec::new();
    element(&mut item, (0x28, 0x3002), b"US", &[3, 0, 0, 0, 8, 0]);
    element(&mut item, (0x28, 0x3006), b"US", &[0, 0, 51, 0, 255, 0]);
    table.extend(u32::try_from(item.len()).expect("short").to_le_bytes());
    table.extend(item);
    let tabled: [(Tag, &[u8; 2], &[u8]); 2] =
        [((0x28, 0x3000), b"SQ", &table), ((0x28, 0x3010), b"SQ", &table)];
    let picture = decoded(&Made { more: &tabled, ..PLAIN }).picture().expect("grey");
    assert_eq!(picture.values, [0.0, 51.0, 255.0, 255.0]);
    let shown = picture.shown.expect("a table");
    assert_eq!([-1.0, 1.0, 9.0].map(|value| shown.shade(value)).to_vec(), vec![0.0, 0.2, 1.0]);
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    let fault = |what: &Made<'_>| Stored::decode(&made(what)).expect_err("refused");
    assert_eq!(fault(&Made { pixels: &PLAIN.pixels[..6], ..PLAIN }), Fault::Truncated);
    assert!(matches!(fault(&Made { sides: (65_535, 65_535), ..PLAIN }), Fault::TooLarge(_)));
    assert_eq!(fault(&Made { sides: (16_384, 16_384), ..PLAIN }), Fault::Truncated);
    // Bytes of which no picture could be made, whose values have four.
    let bytes = Made { sides: (16_384, 16_385), bits: (8, 8), ..PLAIN };
    assert!(matches!(fault(&bytes), Fault::TooLarge(_)));
    // Products that wrap around to little.
    for (samples, frames) in [(8, &b"2147483648"[..]), (16, b"1073741824"), (0x8000, b"4294967295")]
    {
        let more: [(Tag, &[u8; 2], &[u8]); 2] =
            [((0x28, 8), b"IS", frames), ((0x28, 2), b"US", &u16::to_le_bytes(samples))];
        let many = Made { sides: (32_768, 32_768), more: &more, ..PLAIN };
        assert!(matches!(fault(&many), Fault::TooLarge(_)));
    }
    for bits in [(12, 12), (16, 0), (16, 17), (24, 8)] {
        assert!(matches!(fault(&Made { bits, ..PLAIN }), Fault::Unreadable(_)), "{bits:?}");
    }
    assert!(matches!(fault(&Made { sides: (0, 4), ..PLAIN }), Fault::NotAnImage(_)));
    for frames in ["1A", "1.5", "-1", "9999999999", ".0", "1.0.0"] {
        let more: [(Tag, &[u8; 2], &[u8]); 1] = [((0x28, 8), b"IS", frames.as_bytes())];
        assert!(matches!(fault(&Made { more: &more, ..PLAIN }), Fault::Unreadable(_)), "{frames}");
    }
    let compressed = Made { syntax: b"1.2.840.10008.1.2.4.50", ..PLAIN };
    assert!(matches!(fault(&compressed), Fault::Unreadable(_)));
}

#[test]
fn pixels_are_as_far_apart_as_the_file_says_and_not_by_a_guess() {
    let spacing = |tag: Tag, text: &[u8]| {
        let more: [(Tag, &[u8; 2], &[u8]); 1] = [(tag, b"DS", text)];
        decoded(&Made { more: &more, ..PLAIN }).picture().expect("a picture").spacing
    };
    assert_eq!(spacing((0x28, 0x30), b"0.5\\0.25"), Some([0.5, 0.25]));
    // A detector's, where nothing is calibrated in the patient; a film's.
    assert_eq!(spacing((0x18, 0x1164), b"0.143\\0.143 "), Some([0.143, 0.143]));
    assert_eq!(spacing((0x18, 0x2010), b"0.2\\0.2 "), Some([0.2, 0.2]));
    for text in [&b"0\\0 "[..], b"-1\\1", b"0.5 ", b"1e99\\1 ", b""] {
        assert_eq!(spacing((0x28, 0x30), text), None, "{text:?}");
    }
}

#[test]
fn the_number_of_frames_is_read_as_it_was_meant() {
    for (word, frames) in
        [("", 1), ("0", 1), ("1", 1), ("+2", 2), ("02 ", 2), ("2.0", 2), ("2.", 2)]
    {
        let more: [(Tag, &[u8; 2], &[u8]); 1] = [((0x28, 8), b"IS", word.as_bytes())];
        let file = Made { more: &more, sides: (1, 2), ..PLAIN };
        assert_eq!(decoded(&file).frames, frames, "{word}");
    }
}

/// A sequence of one item, by its elements.
fn item(elements: &[u8]) -> Vec<u8> {
    let length = u32::try_from(elements.len()).expect("short").to_le_bytes();
    [&[0xfe, 0xff, 0, 0xe0], &length, elements].concat()
}

/// An element without a VR.
fn bare(tag: Tag, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).expect("short").to_le_bytes();
    [&tag.0.to_le_bytes()[..], &tag.1.to_le_bytes(), &length, value].concat()
}

#[test]
fn a_rescale_is_found_in_groups_that_were_written_without_a_dictionary() {
    let transformation = item(&[bare((0x28, 0x1052), b"-8"), bare((0x28, 0x1053), b"2 ")].concat());
    let groups = item(&bare((0x28, 0x9145), &transformation));
    for (value, expected) in [
        (&groups[..], [-8.0, -6.0, -4.0, 8182.0]),
        (&b"no sequence!"[..], [0.0, 1.0, 2.0, 4095.0]),
        (&groups[..groups.len() - 2], [0.0, 1.0, 2.0, 4095.0]),
    ] {
        let more: [(Tag, &[u8; 2], &[u8]); 1] = [((0x5200, 0x9229), b"UN", value)];
        let picture = decoded(&Made { more: &more, ..PLAIN }).picture().expect("grey");
        assert_eq!(picture.values, expected);
    }
}

#[test]
fn the_first_value_of_a_voi_table_has_a_sign_where_it_is_meant_to() {
    let implicit = item(
        &[bare((0x28, 0x3002), &[2, 0, 0xfe, 0xff, 8, 0]), bare((0x28, 0x3006), &[0, 0, 255, 0])]
            .concat(),
    );
    let explicit = |vr: &[u8; 2]| {
        let mut all = Vec::new();
        element(&mut all, (0x28, 0x3002), vr, &[2, 0, 0xfe, 0xff, 8, 0]);
        element(&mut all, (0x28, 0x3006), b"OW", &[0, 0, 255, 0]);
        item(&all)
    };
    for (table, intercept, first) in [
        (&implicit, "-9", -2.0),
        (&implicit, "0 ", 65_534.0),
        (&explicit(b"SS"), "-9", -2.0),
        (&explicit(b"SS"), "0 ", -2.0),
        (&explicit(b"US"), "0 ", 65_534.0),
        // Above all values: whoever wrote this meant a sign.
        (&explicit(b"US"), "-9", -2.0),
    ] {
        let more: [(Tag, &[u8; 2], &[u8]); 3] = [
            ((0x28, 0x1052), b"DS", intercept.as_bytes()),
            ((0x28, 0x1053), b"DS", b"1 "),
            ((0x28, 0x3010), b"SQ", table),
        ];
        let picture = decoded(&Made { more: &more, ..PLAIN }).picture().expect("grey");
        let shown = Shown::Table { first, shades: vec![0.0, 1.0] };
        assert_eq!(picture.shown, Some(shown), "after {intercept}");
    }
}

#[test]
fn a_window_of_one_is_a_step() {
    for (center, function) in
        [("0 ", &b"LINEAR"[..]), ("2000", b"LINEAR"), ("1e9 ", b"LINEAR_EXACT")]
    {
        let width = if function == b"LINEAR" { "1 " } else { "1e-9" };
        let more: [(Tag, &[u8; 2], &[u8]); 3] = [
            ((0x28, 0x1050), b"DS", center.as_bytes()),
            ((0x28, 0x1051), b"DS", width.as_bytes()),
            ((0x28, 0x1056), b"CS", function),
        ];
        let shown = decoded(&Made { more: &more, ..PLAIN }).picture().expect("grey").shown;
        let shown = shown.expect("a window");
        let center: f32 = center.trim().parse().expect("a number");
        let around = [center - 128.0, center + 128.0].map(|value| shown.shade(value));
        assert_eq!(around.to_vec(), vec![0.0, 1.0], "around {center}");
    }
}

/// A file in the encoding of a transfer syntax, its body as given.
fn raw(syntax: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 128];
    out.extend_from_slice(b"DICM");
    element(&mut out, (2, 0x10), b"UI", syntax);
    [out, body.to_vec()].concat()
}

/// The elements of [`PLAIN`] without VRs.
fn implicit() -> Vec<u8> {
    let words: [(Tag, u16); 5] = [
        ((0x28, 2), 1),
        ((0x28, 0x10), 1),
        ((0x28, 0x11), 4),
        ((0x28, 0x100), 16),
        ((0x28, 0x101), 12),
    ];
    let mut body = bare((8, 0x60), b"CT");
    body.extend(words.iter().flat_map(|(tag, word)| bare(*tag, &word.to_le_bytes())));
    body.extend(bare((0x7fe0, 0x10), PLAIN.pixels));
    body
}

#[test]
fn an_encoding_other_than_the_one_announced_is_noticed() {
    let expected = [0.0, 1.0, 2.0, 4095.0];
    for syntax in
        [&b"1.2.840.10008.1.2\0"[..], b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1 \0\0\0"]
    {
        let stored = Stored::decode(&raw(syntax, &implicit())).expect("implicit");
        assert_eq!(values(&stored), expected);
        assert_eq!(values(&decoded(&Made { syntax, ..PLAIN })), expected);
    }
}

#[test]
fn an_item_of_the_other_encoding_is_stepped_over() {
    let mut with_vr = Vec::new();
    element(&mut with_vr, (0x40, 0x100), b"CS", b"SOME");
    let without = bare((0x40, 0x100), b"SOME");
    for (vr, inside) in [(b"SQ", &without), (b"SQ", &with_vr), (b"UN", &with_vr), (b"UN", &without)]
    {
        let mut body = vec![9, 0, 1, 0x10, vr[0], vr[1], 0, 0, 0xff, 0xff, 0xff, 0xff];
        body.extend([0xfe, 0xff, 0, 0xe0, 0xff, 0xff, 0xff, 0xff]);
        body.extend_from_slice(inside);
        body.extend([0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0, 0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
        let rest = &made(&PLAIN)[128 + 4 + 8 + PLAIN.syntax.len()..];
        let file = raw(PLAIN.syntax, &[&body, rest].concat());
        assert_eq!(values(&Stored::decode(&file).expect("sound")), [0.0, 1.0, 2.0, 4095.0]);
    }
}

#[test]
fn unknown_vrs_and_whatever_follows_the_pixels_are_no_obstacle() {
    for unknown in [
        &[9, 0, 1, 0x10, b'Z', b'Z', 4, 0, 1, 2, 3, 4][..],
        &[9, 0, 1, 0x10, b'Z', b'Z', 0, 0],
        &[9, 0, 1, 0x10, b'Z', b'Z', 0, 0, 2, 0, 0, 0, 1, 2],
    ] {
        let rest = &made(&PLAIN)[128 + 4 + 8 + PLAIN.syntax.len()..];
        let file = raw(PLAIN.syntax, &[unknown, rest].concat());
        assert_eq!(values(&Stored::decode(&file).expect("sound")), [0.0, 1.0, 2.0, 4095.0]);
    }
    let mut cut = Vec::new();
    element(&mut cut, (0xfffc, 0xfffc), b"OB", &[0; 20]);
    for end in [&[0x55; 40][..], &[0; 40], &cut[..cut.len() - 4], b"MORE"] {
        for whole in [made(&PLAIN), raw(b"1.2.840.10008.1.2\0", &implicit())] {
            let file = [&whole, end].concat();
            assert_eq!(values(&Stored::decode(&file).expect("sound")), [0.0, 1.0, 2.0, 4095.0]);
        }
    }
    let whole = made(&PLAIN);
    assert_eq!(Stored::decode(&whole[..whole.len() - 1]).expect_err("cut"), Fault::Truncated);
}

#[test]
fn a_file_without_its_preamble_is_one_however_long_its_numbers_are() {
    let mut meta = Vec::new();
    element(&mut meta, (2, 0), b"UL", &[0; 4]);
    element(&mut meta, (2, 3), b"UI", &[b'1'; 64]);
    element(&mut meta, (2, 0x10), b"UI", PLAIN.syntax);
    let rest = &made(&PLAIN)[128 + 4 + 8 + PLAIN.syntax.len()..];
    for begin in [&b""[..], b"DICM"] {
        let file = [begin, &meta, rest].concat();
        assert!(begins_so(&file) && begins_so(&file[..40]));
        assert_eq!(values(&Stored::decode(&file).expect("sound")), [0.0, 1.0, 2.0, 4095.0]);
    }
    assert!(!begins_so(b"MCID") && !begins_so(b""));
    // Cut anywhere, also within the header of an element with a long length.
    let mut whole = b"DICM".to_vec();
    element(&mut whole, (2, 1), b"OB", &[0, 1]);
    whole.extend(&made(&PLAIN)[132..]);
    for length in 0..whole.len() {
        assert!(Stored::decode(&whole[..length]).is_err(), "{length}");
    }
    assert!(Stored::decode(&whole).is_ok());
}

#[test]
fn millions_of_empty_items_are_refused_before_they_fill_the_memory() {
    let items = [0xfe, 0xff, 0, 0xe0, 0, 0, 0, 0].repeat(1 << 20);
    let mut groups = Vec::new();
    element(&mut groups, (0x28, 0x9145), b"SQ", &items);
    let more: [(Tag, &[u8; 2], &[u8]); 1] = [((0x5200, 0x9230), b"SQ", &item(&groups))];
    let fault = Stored::decode(&made(&Made { more: &more, ..PLAIN })).expect_err("refused");
    assert!(matches!(fault, Fault::Unsupported(_)), "{fault}");
}

/// A big-endian element.
fn big(tag: Tag, vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).expect("short").to_be_bytes();
    let length = if vr == b"OW" { [&[0; 2], &length[..]].concat() } else { length[2..].to_vec() };
    [&tag.0.to_be_bytes()[..], &tag.1.to_be_bytes(), vr, &length, value].concat()
}

#[test]
fn halved_chroma_is_doubled_in_either_order_of_bytes_and_whole_chroma_is_kept() {
    let sides: [(Tag, &[u8; 2], &[u8]); 1] = [((0x28, 2), b"US", &[3, 0])];
    let colored =
        Made { sides: (1, 2), bits: (8, 8), photometric: "YBR_FULL_422", more: &sides, ..PLAIN };
    let halved = decoded(&Made { pixels: &[1, 2, 3, 4], ..colored });
    assert_eq!(halved.data, [1, 3, 4, 2, 3, 4]);
    let whole = decoded(&Made { pixels: &[1, 3, 4, 2, 5, 6], ..colored });
    assert_eq!((whole.data, whole.photometric), (vec![1, 3, 4, 2, 5, 6], Photometric::YbrFull));
    let body = [
        big((0x28, 2), b"US", &[0, 3]),
        big((0x28, 4), b"CS", b"YBR_FULL_422"),
        big((0x28, 0x10), b"US", &[0, 1]),
        big((0x28, 0x11), b"US", &[0, 2]),
        big((0x28, 0x100), b"US", &[0, 8]),
        big((0x7fe0, 0x10), b"OW", &[2, 1, 4, 3]),
    ];
    let turned = Stored::decode(&raw(b"1.2.840.10008.1.2.2\0", &body.concat())).expect("sound");
    assert_eq!(turned.data, [1, 3, 4, 2, 3, 4]);
    // An odd number of bytes ends with a word too.
    let body = [
        big((0x28, 0x10), b"US", &[0, 1]),
        big((0x28, 0x11), b"US", &[0, 3]),
        big((0x28, 0x100), b"US", &[0, 8]),
        big((0x7fe0, 0x10), b"OW", &[2, 1, 0, 3]),
    ];
    let odd = Stored::decode(&raw(b"1.2.840.10008.1.2.2\0", &body.concat())).expect("sound");
    assert_eq!(odd.data, [1, 2, 3]);
}

mod compressed;
mod slices;
