use super::*;

/// The example of T.87 annex H.3: four by four samples of 8 bits, with the default thresholds.
const EXAMPLE: [u8; 58] = [
    0xff, 0xd8, 0xff, 0xf7, 0x00, 0x0b, 0x08, 0x00, 0x04, 0x00, 0x04, 0x01, 0x01, 0x11, 0x00, 0xff,
    0xda, 0x00, 0x08, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0xc0, 0x00, 0x00, 0x6c, 0x80, 0x20, 0x8e,
    0x01, 0xc0, 0x00, 0x00, 0x57, 0x40, 0x00, 0x00, 0x6e, 0xe6, 0x00, 0x00, 0x01, 0xbc, 0x18, 0x00,
    0x00, 0x05, 0xd8, 0x00, 0x00, 0x91, 0x60, 0xff, 0xd9, 0x00,
];

#[test]
fn the_example_of_the_standard_decodes_to_its_values() {
    let decoded = decode(&EXAMPLE, 16).expect("sound");
    assert_eq!((decoded.width, decoded.height, decoded.components), (4, 4, 1));
    assert_eq!(
        decoded.values,
        [0, 0, 90, 74, 68, 50, 43, 205, 64, 145, 145, 145, 100, 145, 145, 145]
    );
}

#[test]
fn a_larger_image_than_expected_and_a_cut_off_one_are_refused() {
    assert!(matches!(decode(&EXAMPLE, 15), Err(Fault::WrongShape(_))));
    for length in 0..EXAMPLE.len() - 5 {
        assert!(decode(&EXAMPLE[..length], 16).is_err(), "{length} bytes");
    }
}

#[test]
fn changed_codestreams_come_to_an_end_without_a_panic() {
    for place in 2..EXAMPLE.len() {
        for value in [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff] {
            let mut changed = EXAMPLE;
            changed[place] = value;
            let _ = decode(&changed, 1 << 16);
        }
    }
}
