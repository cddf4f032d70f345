use super::*;

/// The example of T.87 annex H.3: four by four samples of 8 bits, with the default thresholds.
pub(crate) const EXAMPLE: [u8; 58] = [
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
fn a_component_is_scanned_once_and_a_claim_needs_its_bytes() {
    // A second component, which the first one's scan is repeated in place of.
    let head = [0xff, 0xd8, 0xff, 0xf7, 0, 14, 8, 0, 4, 0, 4, 2, 1, 0x11, 0, 2, 0x11, 0];
    let scan = &EXAMPLE[15..EXAMPLE.len() - 3];
    let twice = [&head[..], scan, scan, &[0xff, 0xd9]].concat();
    assert_eq!(decode(&twice, 32).expect_err("refused"), BROKEN);
    let mut other = scan.to_vec();
    other[5] = 2;
    let both = [&head[..], scan, &other, &[0xff, 0xd9]].concat();
    assert_eq!(decode(&both, 32).expect("sound").values[4..8], [90, 90, 74, 74]);
    for (sides, fault) in [
        ([0x04, 0x00, 0x00, 0x01], Fault::Truncated),
        ([0xff, 0xff, 0xff, 0xff], Fault::Unsupported(TOO_MANY)),
    ] {
        let mut claims = EXAMPLE;
        claims[7..11].copy_from_slice(&sides);
        assert_eq!(decode(&claims, usize::MAX).expect_err("refused"), fault);
    }
}

/// Lines like the one above them, each a single bit, are what a blank image is made of.
#[test]
fn a_blank_image_of_few_bytes_is_sound() {
    let mut blank = EXAMPLE[..25].to_vec();
    blank[7..11].copy_from_slice(&[0, 200, 0xff, 0xff]);
    // Fourteen bytes of ones and stuffed zeros get the first line past its short runs.
    blank.extend([0xff, 0x7f].repeat(60));
    let decoded = decode(&blank, usize::MAX).expect("sound");
    assert_eq!(decoded.values.len(), 200 * 65_535);
    assert!(decoded.values.iter().all(|value| *value == 0));
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
