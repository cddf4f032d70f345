use std::io::Write as _;

use super::*;

fn chunk(out: &mut Vec<u8>, kind: &[u8; 4], body: &[u8]) {
    out.extend(u32::try_from(body.len()).expect("short").to_be_bytes());
    let mut crc = flate2::Crc::new();
    for part in [&kind[..], body] {
        crc.update(part);
        out.extend_from_slice(part);
    }
    out.extend(crc.sum().to_be_bytes());
}

/// A PNG of a colour type and depth from rows with their filters in front.
fn png_of(color: u8, depth: u8, sides: (u32, u32), interlaced: bool, lines: &[u8]) -> Vec<u8> {
    let mut out = png::BEGIN.to_vec();
    let mut header = [sides.0.to_be_bytes(), sides.1.to_be_bytes()].concat();
    header.extend([depth, color, 0, 0, u8::from(interlaced)]);
    chunk(&mut out, b"IHDR", &header);
    chunk(&mut out, b"tEXt", b"a comment");
    if color == 3 {
        chunk(&mut out, b"PLTE", &[1, 2, 3, 4, 5, 6]);
    }
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(lines).expect("memory does not fail");
    let packed = packer.finish().expect("memory does not fail");
    // In two parts, as large files are.
    chunk(&mut out, b"IDAT", &packed[..4]);
    chunk(&mut out, b"IDAT", &packed[4..]);
    chunk(&mut out, b"IEND", &[]);
    out
}

#[test]
fn every_depth_and_colour_of_png_gives_its_stored_values() {
    for (color, depth, width, line, values) in [
        (0, 1, 3, vec![0, 0b1010_0000], vec![1, 0, 1]),
        (0, 2, 3, vec![0, 0b1101_1000], vec![3, 1, 2]),
        (0, 4, 3, vec![0, 0xa5, 0xf0], vec![10, 5, 15]),
        (0, 8, 2, vec![0, 7, 255], vec![7, 255]),
        (0, 16, 2, vec![0, 1, 2, 3, 4], vec![0x0102, 0x0304]),
        (4, 8, 1, vec![0, 7, 9], vec![7, 9]),
        (2, 8, 1, vec![0, 7, 8, 9], vec![7, 8, 9]),
        (6, 16, 1, vec![0, 0, 1, 0, 2, 0, 3, 0, 4], vec![1, 2, 3, 4]),
        (3, 1, 2, vec![0, 0b0100_0000], vec![1, 2, 3, 4, 5, 6]),
    ] {
        let file = png_of(color, depth, (width, 1), false, &line);
        let stored = Stored::decode(&file).expect("sound");
        assert_eq!(stored.values, values, "colour type {color}, {depth} bits");
        let picture = stored.picture();
        assert_eq!(picture.values.len(), picture.samples * picture.columns);
        assert!(picture.samples == 1 || picture.samples == 3);
    }
}

#[test]
fn the_labels_of_a_mask_with_a_palette_are_its_numbers() {
    let file = png_of(3, 2, (3, 1), false, &[0, 0b0100_0000]);
    let image = crate::Image::decode(&file).expect("sound");
    assert_eq!(image.labels().expect("labels").values, [1, 0, 0]);
    let grey = crate::Image::decode(&png_of(0, 8, (2, 1), false, &[0, 7, 255])).expect("sound");
    assert_eq!(grey.labels().expect("labels").values, [7, 255]);
    let colors = crate::Image::decode(&png_of(2, 8, (1, 1), false, &[0, 7, 8, 9])).expect("sound");
    assert!(colors.labels().is_err());
}

#[test]
fn every_filter_is_undone() {
    let lines = [[1, 10, 5, 5], [2, 1, 2, 3], [3, 7, 7, 7], [4, 1, 1, 1], [0, 9, 8, 7]].concat();
    let stored = Stored::decode(&png_of(0, 8, (3, 5), false, &lines)).expect("sound");
    let rows = [[10, 15, 20], [11, 17, 23], [12, 21, 29], [13, 22, 30], [9, 8, 7]];
    assert_eq!(stored.values, rows.concat());
    let unknown = png_of(0, 8, (3, 1), false, &[5, 1, 2, 3]);
    assert!(Stored::decode(&unknown).is_err());
}

#[test]
fn an_interlaced_image_is_put_together() {
    // Three by three: passes 1, 5, 6 and 7 and a column of the third have pixels.
    let lines = [&[0, 1][..], &[0, 3], &[0, 7, 9], &[0, 2], &[0, 8], &[0, 4, 5, 6]].concat();
    let stored = Stored::decode(&png_of(0, 8, (3, 3), true, &lines));
    let stored = stored.expect("sound");
    assert_eq!(stored.values, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn cut_off_changed_and_oversized_files_are_refused() {
    let whole = png_of(0, 8, (40, 40), false, &[9; 41 * 40].map(|_: u8| 0));
    assert!(Stored::decode(&whole).is_ok());
    for length in 0..whole.len() - 12 {
        assert!(Stored::decode(&whole[..length]).is_err(), "{length}");
    }
    for place in 8..whole.len() - 12 {
        let mut changed = whole.clone();
        changed[place] ^= 0x10;
        assert!(Stored::decode(&changed).is_err(), "{place}");
    }
    for sides in [(u32::MAX, u32::MAX), (65_535, 65_535)] {
        let huge = png_of(0, 8, sides, false, &[0; 100]);
        assert!(matches!(Stored::decode(&huge).expect_err("refused"), Fault::TooLarge(_)));
    }
    let claims = png_of(0, 8, (10_000, 10_000), false, &[0; 100]);
    assert_eq!(Stored::decode(&claims).expect_err("refused"), Fault::Truncated);
    // A JPEG says its size in the frame header, and nowhere else.
    let mut wide = jpeg::tests::flat(8, 80);
    let frame = wide.windows(2).position(|word| word == [0xff, 0xc1]).expect("a frame");
    wide[frame + 5..frame + 9].copy_from_slice(&[0x42, 0x68, 0x3e, 0x80]);
    let fault = Stored::decode(&wide).expect_err("17000 by 16000");
    assert_eq!(fault, Fault::TooLarge(Limit::Pixels(4 * 17_000 * 16_000)));
    assert!(begins_so(&whole) && !begins_so(b"BM"));
}

#[test]
fn grey_luma_and_chroma_are_grey() {
    assert_eq!(red_green_blue([77, 128, 128], 128, 255), [77, 77, 77]);
    assert_eq!(red_green_blue([76, 85, 255], 128, 255), [254, 0, 0]);
}

/// A codestream of few bits that encodes greater values has no greater ones.
#[test]
fn a_lossless_jpeg_has_the_bits_of_its_precision() {
    let values: Vec<u16> = (0..60_u16).map(|place| place.wrapping_mul(40_503)).collect();
    let mut file = jpeg::tests::lossless(10, &values);
    let frame = file.windows(2).position(|word| word == [0xff, 0xc3]).expect("a frame");
    file[frame + 4] = 12;
    let stored = Stored::decode(&file).expect("sound");
    // It begins at the middle of 12 bits where it began at that of 16.
    let expected: Vec<u16> =
        values.iter().map(|value| value.wrapping_sub(30_720) & 4_095).collect();
    assert_eq!((stored.bits, stored.values), (12, expected));
}
