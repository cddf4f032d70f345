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
    if matches!(vr, b"OW" | b"OB" | b"SQ") {
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
    assert_eq!(fault(&Made { sides: (65_535, 65_535), ..PLAIN }), Fault::TooLarge);
    assert_eq!(fault(&Made { sides: (16_384, 16_384), ..PLAIN }), Fault::Truncated);
    for bits in [(12, 12), (16, 0), (16, 17), (24, 8), (64, 64)] {
        assert!(matches!(fault(&Made { bits, ..PLAIN }), Fault::Unreadable(_)), "{bits:?}");
    }
    assert!(matches!(fault(&Made { sides: (0, 4), ..PLAIN }), Fault::NotAnImage(_)));
    let frames: [(Tag, &[u8; 2], &[u8]); 1] = [((0x28, 8), b"IS", b"1A")];
    assert!(matches!(fault(&Made { more: &frames, ..PLAIN }), Fault::Unreadable(_)));
    let compressed = Made { syntax: b"1.2.840.10008.1.2.4.50", ..PLAIN };
    assert!(matches!(fault(&compressed), Fault::Unreadable(_)));
}

/// One slice of four pixels, this high up in the patient.
fn slice(height: &str, first: u8) -> Stored {
    let position = format!("10\\20\\{height}");
    let more: [(Tag, &[u8; 2], &[u8]); 3] = [
        ((0x20, 0x32), b"DS", position.as_bytes()),
        ((0x20, 0x37), b"DS", b"1\\0\\0\\0\\1\\0 "),
        ((0x28, 0x30), b"DS", b"0.5\\0.25"),
    ];
    let pixels = [first, 0, first + 1, 0, first + 2, 0, first + 3, 0];
    decoded(&Made { sides: (2, 2), more: &more, pixels: &pixels, ..PLAIN })
}

#[test]
fn slices_become_a_volume_in_the_order_of_their_places() {
    let volume = volume_of(&[slice("7", 20), slice("1", 0), slice("4", 10)]).expect("a volume");
    assert_eq!((volume.shape, volume.spacing), ([3, 2, 2], [3.0, 0.5, 0.25]));
    // DICOM counts columns to the left and rows to the back: both are turned round.
    let turned = |first: f32| [first + 3.0, first + 2.0, first + 1.0, first];
    assert_eq!(volume.values, [turned(0.0), turned(10.0), turned(20.0)].concat());
    assert!(volume_of(&[slice("7", 20), slice("7", 0)]).is_err());
    assert!(volume_of(&[]).is_err());
    assert!(volume_of(&[slice("7", 20), decoded(&PLAIN)]).is_err());
}
