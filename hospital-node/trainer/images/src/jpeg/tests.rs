use super::*;

fn decode(bytes: &[u8], most_values: usize) -> Result<Decoded, Fault> {
    super::decode(bytes, most_values, |_| Fault::WrongShape("more"))
}

fn segment(out: &mut Vec<u8>, marker: u8, body: &[u8]) {
    let length = u16::try_from(body.len() + 2).expect("short");
    out.extend_from_slice(&[0xff, marker]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
}

/// Bits, with the zero byte that follows each byte of ones.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    held: u32,
    count: u32,
}

impl Writer {
    fn put(&mut self, value: u32, bits: u32) {
        for bit in (0..bits).rev() {
            self.held = (self.held << 1) | ((value >> bit) & 1);
            self.count += 1;
            if self.count == 8 {
                let byte = u8::try_from(self.held).expect("eight bits");
                self.bytes.push(byte);
                if byte == 0xff {
                    self.bytes.push(0);
                }
                (self.held, self.count) = (0, 0);
            }
        }
    }

    /// A code of five bits for the size, then the difference.
    fn difference(&mut self, value: i32) {
        let size = 32 - value.unsigned_abs().leading_zeros();
        self.put(size, 5);
        let word = if value < 0 { value - 1 + (1 << size) } else { value };
        if size < 16 {
            self.put(u32::try_from(word).expect("not negative"), size);
        }
    }

    fn end(mut self) -> Vec<u8> {
        while self.count > 0 {
            self.put(1, 1);
        }
        self.bytes
    }
}

/// A lossless codestream of grey values of 16 bits, each predicted from its left neighbour.
pub(crate) fn lossless(width: u16, values: &[u16]) -> Vec<u8> {
    let height = u16::try_from(values.len()).expect("few") / width;
    let mut out = vec![0xff, 0xd8];
    let mut counts = [0; 17];
    counts[5] = 17;
    segment(&mut out, 0xc4, &[&counts[..], &(0..17).collect::<Vec<u8>>()].concat());
    let sides = [height.to_be_bytes(), width.to_be_bytes()].concat();
    segment(&mut out, 0xc3, &[&[16], &sides[..], &[1, 1, 0x11, 0]].concat());
    segment(&mut out, 0xda, &[1, 1, 0, 1, 0, 0]);
    let mut writer = Writer::default();
    let width = usize::from(width);
    for (place, value) in values.iter().enumerate() {
        let predicted = match (place % width, place / width) {
            (0, 0) => 1 << 15,
            (0, _) => i32::from(values[place - width]),
            _ => i32::from(values[place - 1]),
        };
        let difference = i32::from(*value) - predicted;
        // Modulo 2^16, where 32768 stands for its opposite too.
        writer.difference(match difference {
            ..=-32_768 => difference + 65_536,
            32_769.. => difference - 65_536,
            _ => difference,
        });
    }
    out.extend(writer.end());
    out.extend([0xff, 0xd9]);
    out
}

/// A codestream of 8 by 8 blocks with nothing but a constant: what stands before its tables, its
/// frame and its scan, and the step to each constant.
fn blocks(first: &[(u8, &[u8])], frame: (u8, &[u8]), scan: &[u8], steps: &[i32]) -> Vec<u8> {
    let mut out = vec![0xff, 0xd8];
    for (marker, body) in first {
        segment(&mut out, *marker, body);
    }
    segment(&mut out, 0xdb, &[&[0][..], &[1; 64]].concat());
    let mut counts = [0; 17];
    counts[5] = 17;
    let mut table = [&counts[..], &(0..17).collect::<Vec<u8>>()].concat();
    segment(&mut out, 0xc4, &table);
    table[0] = 0x10;
    segment(&mut out, 0xc4, &table);
    segment(&mut out, frame.0, frame.1);
    segment(&mut out, 0xda, scan);
    let mut writer = Writer::default();
    for step in steps {
        writer.difference(*step);
        writer.put(0, 5);
    }
    out.extend(writer.end());
    out.extend([0xff, 0xd9]);
    out
}

/// A sequential codestream of one block.
pub(crate) fn flat(precision: u8, constant: i32) -> Vec<u8> {
    let frame = [precision, 0, 8, 0, 8, 1, 1, 0x11, 0];
    blocks(&[], (0xc1, &frame), &[1, 1, 0, 0, 63, 0], &[constant])
}

/// Three components with these identifiers, each of one block.
pub(crate) fn three([a, b, c]: [u8; 3], segments: &[(u8, &[u8])]) -> Vec<u8> {
    let frame = [8, 0, 8, 0, 8, 3, a, 0x11, 0, b, 0x11, 0, c, 0x11, 0];
    blocks(segments, (0xc0, &frame), &[3, a, 0, b, 0, c, 0, 0, 63, 0], &[80, -80, 8])
}

#[test]
fn a_lossless_image_comes_back_as_it_was() {
    let values: Vec<u16> = (0..60_u16).map(|place| place.wrapping_mul(40_503)).collect();
    let file = lossless(10, &values);
    let decoded = decode(&file, 60).expect("sound");
    assert_eq!((decoded.width, decoded.height, decoded.precision), (10, 6, 16));
    assert_eq!(decoded.values, values);
    assert!(matches!(decode(&file, 59), Err(Fault::WrongShape(_))));
}

#[test]
fn a_constant_block_has_its_shade_at_8_and_at_12_bits() {
    for (precision, constant, shade) in
        [(8, 80, 138), (8, -2000, 0), (8, 2000, 255), (12, 80, 2058)]
    {
        let decoded = decode(&flat(precision, constant), 64).expect("sound");
        assert_eq!(decoded.values, [shade; 64], "{precision} bits, {constant}");
    }
}

#[test]
fn colours_are_what_most_readers_take_them_for() {
    const JFIF: (u8, &[u8]) = (0xe0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0");
    const ADOBE: (u8, &[u8]) = (0xee, b"Adobe\0\x64\0\0\0\0\0");
    const ADOBE_LUMA: (u8, &[u8]) = (0xee, b"Adobe\0\x64\0\0\0\0\x01");
    for (ids, segments, transformed) in [
        ([1, 2, 3], &[][..], None),
        (*b"RGB", &[], Some(false)),
        (*b"RGB", &[JFIF], Some(true)),
        (*b"RGB", &[ADOBE_LUMA], Some(true)),
        ([1, 2, 3], &[ADOBE], Some(false)),
        ([1, 2, 3], &[ADOBE, JFIF], Some(true)),
        ([1, 2, 3], &[JFIF], Some(true)),
    ] {
        let file = three(ids, segments);
        let decoded = decode(&file, 192).expect("sound");
        assert_eq!(decoded.transformed, transformed, "{ids:?} {segments:?}");
        assert_eq!(decoded.values[..3], [138, 118, 129]);
        let shown = crate::raster::Stored::decode(&file).expect("sound").values;
        assert_eq!(shown[..3] == [138, 118, 129], transformed == Some(false));
    }
}

#[test]
fn what_is_cut_off_is_refused_and_what_is_changed_ends_without_a_panic() {
    for file in [lossless(3, &[1, 2, 3, 4, 5, 6]), flat(8, 99)] {
        for length in 0..file.len() - 3 {
            assert!(decode(&file[..length], 64).is_err(), "{length} of {} bytes", file.len());
        }
        for place in 2..file.len() {
            for value in [0, 1, 2, 0x11, 0x7f, 0x80, 0xc2, 0xfe, 0xff] {
                let mut changed = file.clone();
                changed[place] = value;
                let _ = decode(&changed, 1 << 16);
            }
        }
    }
}

#[test]
fn few_bytes_that_claim_many_pixels_set_no_memory_aside() {
    let mut file = flat(8, 1);
    let sides = file.windows(4).position(|w| w == [0, 8, 0, 8]).expect("the frame header");
    file[sides..sides + 4].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    assert_eq!(decode(&file, usize::MAX).expect_err("refused"), Fault::Truncated);
}

#[test]
fn scans_are_counted_by_what_they_go_over() {
    // A frame of 2^28 values, with one scan of a component that it has and nothing in it.
    let (mut frame, mut scan) = (Vec::new(), Vec::new());
    segment(&mut frame, 0xc2, &[8, 0x40, 0, 0x40, 0, 1, 1, 0x11, 0]);
    segment(&mut scan, 0xda, &[1, 1, 0, 0, 0, 0]);
    let mut decoder = Decoder::new(&frame, usize::MAX, |_| BROKEN);
    decoder.frame = Some(Frame {
        width: 1 << 14,
        height: 1 << 14,
        precision: 8,
        kind: Kind::Progressive,
        components: vec![Component {
            id: 1,
            factors: (1, 1),
            quantisation: 0,
            size: (0, 0),
            blocks: (0, 0),
            coefficients: Vec::new(),
        }],
        most: (1, 1),
    });
    decoder.scans = 15;
    assert_eq!(decoder.scan(&scan[4..]), Ok(()));
    decoder.scans = 16;
    assert!(matches!(decoder.scan(&scan[4..]), Err(Fault::Unsupported(_))));
}
