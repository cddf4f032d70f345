use super::*;

/// A preamble and a meta group that says explicit VR little endian, then these bytes.
fn file(data_set: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes.extend_from_slice(b"DICM");
    bytes.extend([2, 0, 0x10, 0, b'U', b'I', 20, 0]);
    bytes.extend_from_slice(b"1.2.840.10008.1.2.1\0");
    bytes.extend_from_slice(data_set);
    bytes
}

fn check(data_set: &[u8]) -> Result<(), Fault> {
    let file = file(data_set);
    let opened = File::open(&file)?;
    opened.elements().map(drop)
}

#[test]
fn a_length_beyond_the_end_is_found_wherever_it_is() {
    let plain = [0x28, 0, 0x10, 0, b'U', b'S', 2, 0, 4, 0];
    assert_eq!(check(&plain), Ok(()));
    let huge = [0xe0, 0x7f, 0x10, 0, b'O', b'W', 0, 0, 0xfe, 0xff, 0xff, 0xff, 1, 2];
    assert_eq!(check(&huge), Err(Fault::Truncated));
    // The same in an item of a sequence of undefined length.
    let mut nested = vec![8, 0, 0x40, 0x11, b'S', b'Q', 0, 0, 0xff, 0xff, 0xff, 0xff];
    nested.extend([0xfe, 0xff, 0, 0xe0, 0xff, 0xff, 0xff, 0xff]);
    nested.extend(huge);
    assert_eq!(check(&nested), Err(Fault::Truncated));
    // A fragment of compressed pixels.
    let mut fragment = vec![0xe0, 0x7f, 0x10, 0, b'O', b'B', 0, 0, 0xff, 0xff, 0xff, 0xff];
    fragment.extend([0xfe, 0xff, 0, 0xe0, 0xff, 0xff, 0xff, 0x7f]);
    assert_eq!(check(&fragment), Err(Fault::Truncated));
}

#[test]
fn sequences_that_nest_without_end_are_refused() {
    let level = [
        8, 0, 0x40, 0x11, b'S', b'Q', 0, 0, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xff, 0, 0xe0, 0xff,
        0xff, 0xff, 0xff,
    ];
    assert_eq!(check(&level.repeat(10)), Ok(()));
    assert!(matches!(check(&level.repeat(100_000)), Err(Fault::Unreadable(_))));
}

#[test]
fn only_what_decides_pixels_is_taken_along() {
    let mut data_set = vec![0x10, 0, 0x10, 0, b'P', b'N', 4, 0];
    data_set.extend_from_slice(b"A^B ");
    data_set.extend([0x28, 0, 0x10, 0, b'U', b'S', 2, 0, 4, 0]);
    let file = file(&data_set);
    let opened = File::open(&file).expect("sound");
    let elements = opened.elements().expect("sound");
    assert_eq!(elements.word((0x28, 0x10)), Some(4));
    assert_eq!(elements.value((0x10, 0x10)), None);
}

#[test]
fn a_deflated_bomb_is_not_inflated_to_its_end() {
    use std::io::Write as _;
    let mut bytes = file(&[]);

    bytes.truncate(132);
    bytes.extend([2, 0, 0x10, 0, b'U', b'I', 22, 0]);
    bytes.extend_from_slice(b"1.2.840.10008.1.2.1.99");
    let mut packer = flate2::write::DeflateEncoder::new(bytes, flate2::Compression::fast());
    packer.write_all(&vec![0; 32 << 20]).expect("memory does not fail");
    let bomb = packer.finish().expect("memory does not fail");
    assert!(matches!(File::open(&bomb), Err(Fault::Unreadable(_) | Fault::NotAnImage(_))));
}

#[test]
fn any_bytes_at_all_come_to_an_end() {
    let mut state = 1_u32;
    for _ in 0..2000 {
        let noise: Vec<u8> = (0..200)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0] & 0x7f
            })
            .collect();
        // Whatever it says, it says it without a panic.
        let _ = check(&noise);
        let _ = File::open(&noise);
    }
}
