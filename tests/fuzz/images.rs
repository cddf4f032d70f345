//! The readers of image files: whatever a file says, it ends in pixels of the size that it says, or in
//! one reason.

use std::io::Cursor;

use hospital_images::{Fault, Image, Picture, dicom, nifti, npz, raster};

/// A DICOM file, its picture, and the volume of its frames.
#[must_use]
pub(crate) fn run_dicom(data: &[u8]) -> bool {
    let Ok(stored) = dicom::Stored::decode(data) else { return false };
    // Wide enough for every product: one that wraps around would agree with a reader's that does.
    let pixels = u128::from(stored.rows) * u128::from(stored.columns);
    let values = pixels * u128::from(stored.samples) * u128::from(stored.frames);
    assert_eq!(stored.data.len() as u128, values * u128::from(stored.bits_allocated / 8));
    if let Ok(picture) = stored.picture() {
        assert_whole(&picture);
    }
    if let Ok(volume) = dicom::volume_of(std::slice::from_ref(&stored)) {
        assert_eq!(volume.values.len(), volume.shape.iter().product::<usize>());
    }
    true
}

/// A NIfTI file, its first volume and its labels.
#[must_use]
pub(crate) fn run_nifti(data: &[u8]) -> bool {
    let Ok(stored) = nifti::Stored::decode(data) else { return false };
    let voxels: u128 = stored.header.shape.iter().map(|side| *side as u128).product();
    assert_eq!(stored.data.len() as u128, voxels * stored.header.datatype.bytes() as u128);
    let volume = match stored.volume(0) {
        Ok(volume) => volume,
        // There is a first volume; of bytes it may have more values than there is room for.
        Err(fault) => {
            assert!(matches!(fault, Fault::TooLarge(_)), "{fault}");
            return true;
        }
    };
    assert_eq!(volume.values.len(), volume.shape.iter().product::<usize>());
    if let Some(spacing) = volume.spacing {
        assert!(spacing.iter().all(|spacing| *spacing > 0.0 && spacing.is_finite()));
    }
    if let Some(grid) = volume.grid {
        assert!(!volume.values.is_empty() && grid.lies_on(&grid, volume.shape));
    }
    if let Ok(labels) = stored.labels(0) {
        assert_eq!((labels.values.len(), labels.shape), (volume.values.len(), volume.shape));
    }
    true
}

/// An archive of arrays.
#[must_use]
pub(crate) fn run_npz(data: &[u8]) -> bool {
    let Ok(parts) = npz::read(Cursor::new(data)) else { return false };
    for part in parts {
        for array in [&part.images, &part.labels] {
            let values: u128 = array.shape.iter().map(|side| *side as u128).product();
            assert_eq!(array.data.len() as u128, values * array.datatype.bytes() as u128);
        }
        assert_eq!(part.labels.rows(), part.len());
        if let Some(last) = part.len().checked_sub(1) {
            assert!(!part.label(last).is_empty());
            assert_eq!(part.volume(last).values.len(), {
                let sides: usize = part.sides.iter().product();
                sides * part.samples
            });
            assert_eq!(part.picture(last).values.len(), part.volume(last).values.len());
        }
    }
    true
}

/// A PNG or JPEG file, or any that is told by how it begins.
#[must_use]
pub(crate) fn run_raster(data: &[u8]) -> bool {
    let Ok(stored) = raster::Stored::decode(data) else {
        return Image::decode(data).is_ok();
    };
    let values = stored.rows as u128 * stored.columns as u128 * stored.samples as u128;
    assert_eq!(stored.values.len() as u128, values);
    assert!(stored.values.iter().all(|value| u32::from(*value) < 1 << stored.bits));
    assert_whole(&stored.picture());
    true
}

fn assert_whole(picture: &Picture) {
    assert_eq!(picture.values.len(), picture.rows * picture.columns * picture.samples);
}

fn element(out: &mut Vec<u8>, tag: (u16, u16), vr: &[u8; 2], value: &[u8]) {
    out.extend(tag.0.to_le_bytes());
    out.extend(tag.1.to_le_bytes());
    out.extend(vr);
    let length = u32::try_from(value.len()).expect("a short value").to_le_bytes();
    if matches!(vr, b"OB" | b"OW" | b"SQ") {
        out.extend([0, 0]);
        out.extend(length);
    } else {
        out.extend(&length[..2]);
    }
    out.extend(value);
}

/// Tag, VR and value.
type Said<'a> = ((u16, u16), &'a [u8; 2], &'a [u8]);

/// A file of four by four pixels in a transfer syntax.
fn dicom_of(syntax: &[u8], bits: u16, more: &[Said<'_>], end: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 128];
    out.extend(b"DICM");
    element(&mut out, (2, 0x10), b"UI", syntax);
    element(&mut out, (0x28, 2), b"US", &[1, 0]);
    element(&mut out, (0x28, 4), b"CS", b"MONOCHROME2 ");
    element(&mut out, (0x28, 0x10), b"US", &[4, 0]);
    element(&mut out, (0x28, 0x11), b"US", &[4, 0]);
    element(&mut out, (0x28, 0x100), b"US", &bits.to_le_bytes());
    for (tag, vr, value) in more {
        element(&mut out, *tag, vr, value);
    }
    out.extend(end);
    out
}

/// Pixels in one fragment behind an empty table of offsets.
fn fragment(codestream: &[u8]) -> Vec<u8> {
    let mut out = vec![0xe0, 0x7f, 0x10, 0, b'O', b'B', 0, 0, 0xff, 0xff, 0xff, 0xff];
    for part in [&[][..], codestream] {
        out.extend([0xfe, 0xff, 0, 0xe0]);
        out.extend(u32::try_from(part.len()).expect("a short value").to_le_bytes());
        out.extend(part);
    }
    out.extend([0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
    out
}

/// T.87 annex H.3.
const JPEG_LS: [u8; 58] = [
    0xff, 0xd8, 0xff, 0xf7, 0x00, 0x0b, 0x08, 0x00, 0x04, 0x00, 0x04, 0x01, 0x01, 0x11, 0x00, 0xff,
    0xda, 0x00, 0x08, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0xc0, 0x00, 0x00, 0x6c, 0x80, 0x20, 0x8e,
    0x01, 0xc0, 0x00, 0x00, 0x57, 0x40, 0x00, 0x00, 0x6e, 0xe6, 0x00, 0x00, 0x01, 0xbc, 0x18, 0x00,
    0x00, 0x05, 0xd8, 0x00, 0x00, 0x91, 0x60, 0xff, 0xd9, 0x00,
];

/// Native, with tables, run lengths, and JPEG-LS.
#[must_use]
pub(crate) fn dicom_examples() -> Vec<Vec<u8>> {
    let mut pixels = Vec::new();
    element(&mut pixels, (0x7fe0, 0x10), b"OW", &[7; 32]);
    let described: [Said<'_>; 6] = [
        ((0x28, 0x101), b"US", &[12, 0]),
        ((0x28, 0x103), b"US", &[1, 0]),
        ((0x28, 0x120), b"US", &[7, 7]),
        ((0x28, 0x1050), b"DS", b"40\\50 "),
        ((0x28, 0x1051), b"DS", b"400\\90"),
        ((0x28, 0x1053), b"DS", b"1.5 "),
    ];
    let mut run_lengths = vec![0; 64];
    (run_lengths[0], run_lengths[4]) = (1, 64);
    run_lengths.extend([0xf1, 9]);
    vec![
        dicom_of(b"1.2.840.10008.1.2.1\0", 16, &[], &pixels),
        dicom_of(b"1.2.840.10008.1.2.1\0", 16, &described, &pixels),
        dicom_of(b"1.2.840.10008.1.2.5\0", 8, &[], &fragment(&run_lengths)),
        dicom_of(b"1.2.840.10008.1.2.4.80", 8, &[], &fragment(&JPEG_LS)),
        dicom_of(b"1.2.840.10008.1.2.4.57", 8, &[], &fragment(&lossless_jpeg())),
    ]
}

fn segment(out: &mut Vec<u8>, marker: u8, body: &[u8]) {
    out.extend([0xff, marker]);
    out.extend(u16::try_from(body.len() + 2).expect("short").to_be_bytes());
    out.extend(body);
}

/// Four by four pixels that are all as predicted.
fn lossless_jpeg() -> Vec<u8> {
    let mut out = vec![0xff, 0xd8];
    segment(&mut out, 0xc4, &[&[0, 1][..], &[0; 15], &[0]].concat());
    segment(&mut out, 0xc3, &[8, 0, 4, 0, 4, 1, 1, 0x11, 0]);
    segment(&mut out, 0xda, &[1, 1, 0, 1, 0, 0]);
    out.extend([0, 0, 0xff, 0xd9]);
    out
}

/// One block, and a progressive one of a single scan.
fn cosine_jpeg(marker: u8) -> Vec<u8> {
    let mut out = vec![0xff, 0xd8];
    segment(&mut out, 0xdb, &[&[0][..], &[3; 64]].concat());
    segment(&mut out, 0xc4, &[&[0, 0, 3][..], &[0; 14], &[0, 3, 5]].concat());
    segment(&mut out, 0xc4, &[&[0x10, 0, 3][..], &[0; 14], &[0, 1, 2]].concat());
    segment(&mut out, marker, &[8, 0, 8, 0, 8, 1, 1, 0x11, 0]);
    let last = if marker == 0xc2 { 0 } else { 63 };
    segment(&mut out, 0xda, &[1, 1, 0, 0, last, 0]);
    out.extend([0x5a, 0x12, 0x34, 0, 0, 0, 0, 0, 0xff, 0xd9]);
    out
}

/// One file of each version, as far as a header goes.
#[must_use]
pub(crate) fn nifti_examples() -> Vec<Vec<u8>> {
    let mut first = vec![0; 352 + 12];
    first[..4].copy_from_slice(&348_u32.to_le_bytes());
    first[40..48].copy_from_slice(&[3, 0, 2, 0, 3, 0, 2, 0]);
    first[70..74].copy_from_slice(&[2, 0, 8, 0]);
    first[344..348].copy_from_slice(b"n+1\0");
    let mut turned = first.clone();
    turned[252..254].copy_from_slice(&[1, 0]);
    turned[256..260].copy_from_slice(&0.7_f32.to_le_bytes());
    let mut second = vec![0; 544 + 16];
    second[..4].copy_from_slice(&540_u32.to_le_bytes());
    second[4..8].copy_from_slice(b"n+2\0");
    second[12..16].copy_from_slice(&[16, 0, 32, 0]);
    for (axis, side) in [3_u8, 2, 2, 1].into_iter().enumerate() {
        second[16 + 8 * axis] = side;
    }
    vec![first, turned, second]
}

/// One stored entry of a zip archive for each array.
#[must_use]
pub(crate) fn npz_examples() -> Vec<Vec<u8>> {
    let array = |kind: &str, order: &str, shape: &str, values: &[u8]| {
        let mut header =
            format!("{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}");
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend(u16::try_from(header.len()).expect("short").to_le_bytes());
        out.extend(header.as_bytes());
        out.extend(values);
        out
    };
    let images = array("|u1", "False", "(2, 2, 2)", &[1, 2, 3, 4, 5, 6, 7, 8]);
    let labels = array("|u1", "False", "(2, 1)", &[0, 1]);
    let flat = zip_of(&[("train_images.npy", &images), ("train_labels.npy", &labels)]);
    let deep = array(">i2", "True", "(2, 2, 1, 5)", &[3; 40]);
    let truths = array("<f4", "False", "(2, 3)", &[0; 24]);
    vec![flat, zip_of(&[("val_images.npy", &deep), ("val_labels.npy", &truths)])]
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, body) in entries {
        let mut about = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        about.extend(crc(body).to_le_bytes());
        let size = u32::try_from(body.len()).expect("short").to_le_bytes();
        about.extend([size, size].concat());
        about.extend(u16::try_from(name.len()).expect("short").to_le_bytes());
        about.extend([0, 0]);
        let place = u32::try_from(out.len()).expect("short").to_le_bytes();
        out.extend([b"PK\x03\x04", about.as_slice(), name.as_bytes(), body].concat());
        let rest = [&[0; 10][..], &place].concat();
        directory.extend([&b"PK\x01\x02\x14\x00"[..], &about, &rest, name.as_bytes()].concat());
    }
    let count = u16::try_from(entries.len()).expect("few").to_le_bytes();
    let (size, place) = (directory.len(), out.len());
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([count, count].concat());
    for number in [size, place] {
        out.extend(u32::try_from(number).expect("short").to_le_bytes());
    }
    out.extend([0, 0]);
    out
}

/// A PNG with its pixels stored as they are, and JPEG of each process.
#[must_use]
pub(crate) fn raster_examples() -> Vec<Vec<u8>> {
    let chunk = |kind: &[u8; 4], body: &[u8]| {
        let named = [&kind[..], body].concat();
        let size = u32::try_from(body.len()).expect("short").to_be_bytes();
        [&size[..], &named, &crc(&named).to_be_bytes()].concat()
    };
    let png = |color: u8, depth: u8, lines: &[u8]| {
        let size = u16::try_from(lines.len()).expect("short");
        let stored = [&[0x78, 1, 1][..], &size.to_le_bytes(), &(!size).to_le_bytes(), lines];
        let (a, b) = lines.iter().fold((1, 0), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (b + a) % 65_521)
        });
        let packed = [&stored.concat()[..], &((b << 16) | a).to_be_bytes()].concat();
        let header = [0, 0, 0, 2, 0, 0, 0, 2, depth, color, 0, 0, 0];
        [
            &b"\x89PNG\r\n\x1a\n"[..],
            &chunk(b"IHDR", &header),
            &chunk(b"PLTE", &[1, 2, 3, 4, 5, 6]),
            &chunk(b"IDAT", &packed),
            &chunk(b"IEND", &[]),
        ]
        .concat()
    };
    vec![
        png(0, 8, &[4, 1, 2, 3, 5, 6]),
        png(0, 16, &[1, 1, 2, 3, 4, 2, 5, 6, 7, 8]),
        png(3, 1, &[0, 0x40, 0, 0x80]),
        lossless_jpeg(),
        cosine_jpeg(0xc0),
        cosine_jpeg(0xc2),
    ]
}
