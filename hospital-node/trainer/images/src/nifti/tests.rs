use std::io::Write as _;

use super::*;

/// A NIfTI-1 file of these voxels, in either byte order.
fn file(big: bool, code: i16, dims: &[i16], voxels: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 352];
    let mut put = |place: usize, mut field: Vec<u8>| {
        if big {
            field.reverse();
        }
        bytes[place..place + field.len()].copy_from_slice(&field);
    };
    put(0, 348_i32.to_le_bytes().to_vec());
    put(40, i16::try_from(dims.len()).expect("few").to_le_bytes().to_vec());
    for (axis, dim) in dims.iter().enumerate() {
        put(42 + 2 * axis, dim.to_le_bytes().to_vec());
        put(80 + 4 * axis, 2.0_f32.to_le_bytes().to_vec());
    }
    put(70, code.to_le_bytes().to_vec());
    let bits = match code {
        2 | 256 => 8_i16,
        4 | 512 => 16,
        8 | 16 | 768 => 32,
        _ => 64,
    };
    put(72, bits.to_le_bytes().to_vec());
    put(108, 352.0_f32.to_le_bytes().to_vec());
    bytes[344..348].copy_from_slice(b"n+1\0");
    bytes.extend_from_slice(voxels);
    bytes
}

fn put(bytes: &mut [u8], place: usize, field: &[u8]) {
    bytes[place..place + field.len()].copy_from_slice(field);
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(bytes).expect("memory does not fail");
    packer.finish().expect("memory does not fail")
}

fn values(file: &[u8]) -> Vec<f64> {
    let mut values = Vec::new();
    Stored::decode(file).expect("a sound file").each(&mut |value| values.push(value));
    values
}

#[test]
fn every_number_type_reads_the_same_in_both_byte_orders() {
    for big in [false, true] {
        let ordered = |mut word: Vec<u8>| {
            if big {
                word.reverse();
            }
            word
        };
        for (code, word, value) in [
            (2, 200_u8.to_le_bytes().to_vec(), 200.0),
            (4, (-5_i16).to_le_bytes().to_vec(), -5.0),
            (8, (-70_000_i32).to_le_bytes().to_vec(), -70_000.0),
            (16, 1.5_f32.to_le_bytes().to_vec(), 1.5),
            (64, (-2.25_f64).to_le_bytes().to_vec(), -2.25),
            (256, (-3_i8).to_le_bytes().to_vec(), -3.0),
            (512, 65_000_u16.to_le_bytes().to_vec(), 65_000.0),
            (768, 4_000_000_000_u32.to_le_bytes().to_vec(), 4e9),
            (1024, (-9_i64).to_le_bytes().to_vec(), -9.0),
            (1280, 9_u64.to_le_bytes().to_vec(), 9.0),
        ] {
            let file = file(big, code, &[1, 1, 1], &ordered(word));
            assert_eq!(values(&file), [value], "type {code}, big {big}");
            assert_eq!(values(&gzipped(&file)), [value], "type {code}, big {big}");
        }
    }
}

#[test]
fn unsupported_types_and_broken_headers_are_refused() {
    let fault = |bytes: &[u8]| Stored::decode(bytes).expect_err("refused");
    for code in [1, 32, 128, 1536, 2048, 2304, 0, -1] {
        let mut bytes = file(false, 2, &[1, 1, 1], &[0; 64]);
        put(&mut bytes, 70, &i16::to_le_bytes(code));
        assert!(matches!(fault(&bytes), Fault::Unsupported(_)), "{code}");
    }
    let good = file(false, 4, &[2, 2, 2], &[0; 16]);
    assert!(Stored::decode(&good).is_ok());
    assert_eq!(fault(&good[..good.len() - 1]), Fault::Truncated);
    assert_eq!(fault(&gzipped(&good[..good.len() - 1])), Fault::Truncated);
    assert!(matches!(fault(b""), Fault::NotAnImage(_)));
    assert!(matches!(fault(&good[..300]), Fault::NotAnImage(_)));
    assert!(matches!(fault(&gzipped(b"short")), Fault::NotAnImage(_)));
    for (place, field) in [
        (40, 0_i16.to_le_bytes()),
        (40, 8_i16.to_le_bytes()),
        (42, 0_i16.to_le_bytes()),
        (44, (-1_i16).to_le_bytes()),
        (344, *b"no"),
    ] {
        let mut bytes = good.clone();
        put(&mut bytes, place, &field);
        let _ = fault(&bytes);
    }
    let mut bytes = good;
    put(&mut bytes, 108, &f32::NAN.to_le_bytes());
    assert_eq!(fault(&bytes), Fault::Truncated);
}

#[test]
fn claims_that_no_bytes_back_set_no_memory_aside() {
    let huge = file(false, 16, &[32_767, 32_767, 32_767, 32_767, 32_767, 32_767, 32_767], &[0; 8]);
    assert!(matches!(Stored::decode(&huge).expect_err("refused"), Fault::TooLarge(_)));
    // Within the limit, but so few bytes cannot become a gigabyte.
    let large = file(false, 2, &[1000, 1000, 1000], &[0; 8]);
    assert_eq!(Stored::decode(&large).expect_err("refused"), Fault::Truncated);
    assert_eq!(Stored::decode(&gzipped(&large)).expect_err("refused"), Fault::Truncated);
    // A bomb behind an honest header is read as far as the header says.
    let mut bomb = file(false, 2, &[2, 1, 1], &[7, 8]);
    bomb.extend(vec![0; 4 << 20]);
    assert_eq!(values(&gzipped(&bomb)), [7.0, 8.0]);
}

#[test]
fn a_volume_of_more_values_than_may_be_decoded_is_refused_before_there_is_room_for_them() {
    // A gigabyte of bytes would be four of values. None is there: none is looked at.
    let mut stored = Stored::decode(&file(false, 2, &[1, 1, 1], &[0])).expect("sound");
    stored.header.shape = vec![1024, 1024, 1024];
    let fault = Fault::TooLarge(Limit::Pixels(4 << 30));
    assert_eq!(stored.volume(0), Err(fault.clone()));
    assert_eq!(stored.labels(0), Err(fault.clone()));
    assert_eq!(stored.labels_along(0, [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]), Err(fault));
}

#[test]
fn slope_and_intercept_scale_and_labels_are_whole() {
    let mut bytes = file(false, 2, &[2, 1, 1], &[0, 3]);
    put(&mut bytes, 112, &2.0_f32.to_le_bytes());
    put(&mut bytes, 116, &1.0_f32.to_le_bytes());
    let stored = Stored::decode(&bytes).expect("sound");
    assert_eq!(stored.volume(0).expect("one").values, [1.0, 7.0]);
    assert_eq!(stored.labels(0).expect("whole").values, [1, 7]);
    assert!(stored.volume(1).is_err());
    put(&mut bytes, 112, &0.5_f32.to_le_bytes());
    assert!(Stored::decode(&bytes).expect("sound").labels(0).is_err());
    put(&mut bytes, 112, &(-2.0_f32).to_le_bytes());
    assert!(Stored::decode(&bytes).expect("sound").labels(0).is_err());
    // Without a slope the intercept means nothing.
    put(&mut bytes, 112, &0.0_f32.to_le_bytes());
    assert_eq!(Stored::decode(&bytes).expect("sound").labels(0).expect("whole").values, [0, 3]);
}

#[test]
fn axes_are_turned_to_right_front_up() {
    // Stored first axis runs to the back, second up, third to the left.
    let mut bytes = file(false, 2, &[2, 3, 2], &(0..12).collect::<Vec<u8>>());
    put(&mut bytes, 254, &1_i16.to_le_bytes());
    let rows = [[0.0, 0.0, -3.0, 9.0], [-1.0, 0.1, 0.0, 9.0], [0.1, 2.0, 0.0, 9.0_f32]];
    for (row, values) in rows.iter().enumerate() {
        for (axis, value) in values.iter().enumerate() {
            put(&mut bytes, 280 + 16 * row + 4 * axis, &value.to_le_bytes());
        }
    }
    let volume = Stored::decode(&bytes).expect("sound").volume(0).expect("one");
    assert_eq!(volume.shape, [3, 2, 2]);
    for (found, expected) in volume.spacing.expect("said").iter().zip([2.002, 1.005, 3.0]) {
        assert!((found - expected).abs() < 1e-3, "{:?}", volume.spacing);
    }
    // Stored index is back + 2 * up + 6 * left; the first voxel is lowest, rearmost, leftmost.
    let at = |up: usize, front: usize, right: usize| 1 - front + 2 * up + 6 * (1 - right);
    let mut expected = Vec::new();
    for up in 0..3 {
        for front in 0..2 {
            expected.extend(
                [0, 1].map(|right| f32::from(u8::try_from(at(up, front, right)).expect("small"))),
            );
        }
    }
    assert_eq!(volume.values, expected);
}

#[test]
fn an_orientation_that_makes_no_sense_leaves_the_axes_as_they_are() {
    for factor in [0.0_f32, f32::NAN, f32::INFINITY] {
        let mut bytes = file(false, 2, &[2, 2, 1], &[1, 2, 3, 4]);
        put(&mut bytes, 254, &1_i16.to_le_bytes());
        for place in (280..328).step_by(4) {
            put(&mut bytes, place, &factor.to_le_bytes());
        }
        let volume = Stored::decode(&bytes).expect("sound").volume(0).expect("one");
        assert_eq!((volume.shape, volume.values), ([1, 2, 2], vec![1.0, 2.0, 3.0, 4.0]));
    }
}

#[test]
fn voxels_without_a_size_are_not_taken_for_a_millimetre_apart() {
    let spacing = |dims: &[i16], sizes: [f32; 3], qform: i16| {
        let mut bytes = file(false, 2, dims, &[0; 8]);
        for (axis, size) in sizes.iter().enumerate() {
            put(&mut bytes, 80 + 4 * axis, &size.to_le_bytes());
        }
        put(&mut bytes, 252, &qform.to_le_bytes());
        let stored = Stored::decode(&bytes).expect("sound");
        let picture = crate::Image::Nifti(stored.clone()).picture().ok();
        let volume = stored.volume(0).expect("one");
        if let Some(picture) = picture {
            assert_eq!(picture.spacing, volume.spacing.map(|[_, rows, columns]| [rows, columns]));
        }
        volume.spacing
    };
    for qform in [0, 1] {
        assert_eq!(spacing(&[2, 2, 2], [1.0, 2.0, 3.0], qform), Some([3.0, 2.0, 1.0]));
        assert_eq!(spacing(&[2, 2, 2], [1.0, -2.0, 3.0], qform), Some([3.0, 2.0, 1.0]));
        for wrong in [0.0, f32::NAN, f32::INFINITY] {
            assert_eq!(spacing(&[2, 2, 2], [1.0, wrong, 3.0], qform), None, "{wrong}");
            assert_eq!(spacing(&[2, 2, 2], [wrong; 3], qform), None, "{wrong}");
            // Nothing lies along an axis of one voxel.
            assert_eq!(spacing(&[2, 4, 1], [1.0, 2.0, wrong], qform), Some([1.0, 2.0, 1.0]));
            assert_eq!(spacing(&[2, 4], [1.0, 2.0, wrong], qform), Some([1.0, 2.0, 1.0]));
            assert_eq!(spacing(&[2, 4], [wrong, 2.0, 3.0], qform), None, "{wrong}");
        }
    }
    // A matrix says it by the length of its columns, whatever else is there.
    let diagonal =
        |size: f32| Some([[2.0, 0.0, 0.0, 5.0], [0.0, size, 0.0, 7.0], [0.0, 0.0, 0.0, 9.0]]);
    let spacing = |size| mask(diagonal(size), &[3, 2, 1]).volume(0).expect("one").spacing;
    assert_eq!(spacing(4.0), Some([1.0, 4.0, 2.0]));
    for wrong in [0.0, f32::NAN, f32::INFINITY] {
        assert_eq!(spacing(wrong), None, "{wrong}");
    }
}

#[test]
fn a_pair_is_found_from_either_half() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let mut header = file(false, 2, &[2, 1, 1], &[]);
    put(&mut header, 344, b"ni1\0");
    put(&mut header, 108, &0.0_f32.to_le_bytes());
    assert!(Stored::decode(&header).is_err());
    let (first, second) = (folder.path().join("a.hdr"), folder.path().join("a.img.gz"));
    std::fs::write(&first, &header[..348]).expect("written");
    assert_eq!(Stored::read(&first).expect_err("alone"), ALONE);
    let gone = folder.path().join("gone.hdr");
    assert_eq!(Stored::read(&gone).expect_err("not there"), Fault::Missing);
    std::fs::write(&second, gzipped(&[5, 6])).expect("written");
    for path in [&first, &second] {
        assert_eq!(Stored::read(path).expect("a pair").data, [5, 6]);
        assert!(is_named_so(path));
    }
    assert!(!is_named_so(Path::new("a.dcm.gz")));
}

#[test]
fn names_of_pairs_may_be_in_capitals_and_other_files_may_have_such_names() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let mut header = file(false, 2, &[2, 1, 1], &[]);
    put(&mut header, 344, b"ni1\0");
    put(&mut header, 108, &0.0_f32.to_le_bytes());
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("A.HDR"), &header[..348]).expect("written");
    std::fs::write(at("A.IMG"), [5, 6]).expect("written");
    for name in ["A.HDR", "A.IMG"] {
        assert_eq!(Stored::read(&at(name)).expect("a pair").data, [5, 6], "{name}");
    }
    // One file with header and voxels, and an image of another kind.
    let single = file(false, 2, &[2, 1, 1], &[7, 8]);
    let other = crate::png::BEGIN;
    for name in ["single.img", "single.hdr"] {
        std::fs::write(at(name), &single).expect("written");
        assert_eq!(Stored::read(&at(name)).expect("whole").data, [7, 8], "{name}");
        std::fs::write(at(name), other).expect("written");
        let fault = crate::Image::read(&at(name)).expect_err("a broken picture");
        assert_eq!(fault, Fault::Truncated, "{name}");
    }
}

#[test]
fn a_compressed_file_is_read_in_all_its_parts_and_its_checksum_compared() {
    let whole = file(false, 2, &[200, 1, 1], &(0..200).collect::<Vec<u8>>());
    let parts =
        [gzipped(&whole[..300]), gzipped(&whole[300..500]), gzipped(&whole[500..])].concat();
    assert_eq!(Stored::decode(&parts).expect("sound").data, whole[352..]);
    let mut damaged = gzipped(&whole);
    let sum = damaged.len() - 8;
    damaged[sum] ^= 1;
    assert!(matches!(Stored::decode(&damaged), Err(Fault::Unreadable(_))));
}

#[test]
fn integers_of_64_bits_are_not_rounded() {
    let words = [i64::MIN, i64::MAX - 1, (1 << 53) + 1].map(i64::to_le_bytes).concat();
    let whole = Stored::decode(&file(false, 1024, &[3, 1, 1], &words)).expect("sound").whole();
    let whole = whole.expect("whole numbers");
    assert_eq!((whole.least, whole.greatest), (i64::MIN.into(), i128::from(i64::MAX) - 1));
    assert_eq!(whole.sum, (1 << 53) - 1);
    let words = [u64::MAX, u64::MAX].map(u64::to_le_bytes).concat();
    let whole = Stored::decode(&file(false, 1280, &[2, 1, 1], &words)).expect("sound").whole();
    assert_eq!(whole.expect("whole numbers").sum, 2 * i128::from(u64::MAX));
}

#[test]
fn a_header_of_the_second_kind_is_read() {
    let mut bytes = vec![0; 544];
    put(&mut bytes, 0, &540_i32.to_be_bytes());
    put(&mut bytes, 4, b"n+2\0");
    put(&mut bytes, 12, &512_i16.to_be_bytes());
    put(&mut bytes, 14, &16_i16.to_be_bytes());
    for (axis, dim) in [4_i64, 2, 1, 1, 2].into_iter().enumerate() {
        put(&mut bytes, 16 + 8 * axis, &dim.to_be_bytes());
    }
    put(&mut bytes, 168, &544_i64.to_be_bytes());
    bytes.extend([0, 1, 0, 2, 1, 0, 2, 0]);
    assert_eq!(values(&bytes), [1.0, 2.0, 256.0, 512.0]);
    let stored = Stored::decode(&bytes).expect("sound");
    assert_eq!(stored.volumes(), 2);
    assert_eq!(stored.volume(1).expect("the second").values, [256.0, 512.0]);
    assert_eq!(stored.whole_sum(), Some(771));
    // Offsets and axes that no file can have.
    put(&mut bytes, 168, &i64::MAX.to_be_bytes());
    assert_eq!(Stored::decode(&bytes).expect_err("refused"), Fault::Truncated);
    put(&mut bytes, 168, &544_i64.to_be_bytes());
    put(&mut bytes, 24, &i64::MAX.to_be_bytes());
    assert!(matches!(Stored::decode(&bytes).expect_err("refused"), Fault::TooLarge(_)));
}

/// A mask of 3 by 2 voxels, its labels in the file's order, with these rows of its matrix.
fn mask(affine: Option<[[f32; 4]; 3]>, dims: &[i16]) -> Stored {
    let mut bytes = file(false, 2, dims, &[1, 2, 3, 4, 5, 6]);
    if let Some(rows) = affine {
        put(&mut bytes, 254, &1_i16.to_le_bytes());
        for (place, factor) in rows.as_flattened().iter().enumerate() {
            put(&mut bytes, 280 + 4 * place, &factor.to_le_bytes());
        }
    }
    Stored::decode(&bytes).expect("a sound file")
}

#[test]
fn a_mask_of_a_flat_image_is_turned_as_the_image_runs() {
    let axial = [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]];
    let labels = |mask: &Stored, [across, down]: [[f64; 3]; 2]| {
        let Labels { shape, values, .. } = mask.labels_along(0, across, down).expect("labels");
        (shape, values)
    };
    let diagonal =
        |x: f32, y: f32| Some([[x, 0.0, 0.0, 5.0], [0.0, y, 0.0, 7.0], [0.0, 0.0, 3.0, 9.0]]);
    let stored = ([1, 2, 3], vec![1, 2, 3, 4, 5, 6]);
    // Without a word on its axes, and as ITK writes what it read from a picture.
    for dims in [&[3, 2][..], &[3, 2, 1]] {
        assert_eq!(labels(&mask(None, dims), axial), stored);
        assert_eq!(labels(&mask(diagonal(-2.0, -2.0), dims), axial), stored);
    }
    // To the right; to the right and the front; rows and columns changed for each other.
    let right = mask(diagonal(2.0, -2.0), &[3, 2, 1]);
    assert_eq!(labels(&right, axial).1, [3, 2, 1, 6, 5, 4]);
    let front = mask(diagonal(2.0, 2.0), &[3, 2, 1]);
    assert_eq!(labels(&front, axial).1, [6, 5, 4, 3, 2, 1]);
    let changed = [[0.0, -2.0, 0.0, 0.0], [-2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    let changed = mask(Some(changed), &[3, 2, 1]);
    assert_eq!(labels(&changed, axial), ([1, 3, 2], vec![1, 4, 2, 5, 3, 6]));
    // A sagittal image, rows to the back and columns down: one voxel from left to right.
    let sagittal = [[0.0, -1.0, 0.0], [0.0, 0.0, -1.0]];
    let upright = [[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]];
    let upright = mask(Some(upright), &[1, 3, 2]);
    assert_eq!(labels(&upright, sagittal), ([1, 2, 3], vec![6, 5, 4, 3, 2, 1]));
    // The same mask lies across an axial image.
    assert_eq!(labels(&upright, axial).0, [2, 3, 1]);
}

/// Sides and rows of a matrix, such as images are stored with.
type Lie = ([i16; 3], Option<[[f32; 4]; 3]>);

/// To the right and front, to the left and back, to the right and back, axes changed for each other,
/// sagittal, coronal, and without a word.
fn lies() -> [Lie; 7] {
    let axial =
        |x: f32, y: f32| Some([[x, 0.0, 0.0, 5.0], [0.0, y, 0.0, 7.0], [0.0, 0.0, 3.0, 9.0]]);
    let changed = [[0.0, 2.0, 0.0, 0.0], [-2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    let sagittal = [[0.0, 0.0, 2.0, 0.0], [-2.0, 0.0, 0.0, 0.0], [0.0, -2.0, 0.0, 0.0]];
    let coronal = [[-2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, -2.0, 0.0]];
    [
        ([3, 2, 1], axial(2.0, 2.0)),
        ([3, 2, 1], axial(-2.0, -2.0)),
        ([3, 2, 1], axial(2.0, -2.0)),
        ([3, 2, 1], Some(changed)),
        ([3, 2, 1], Some(sagittal)),
        ([3, 1, 2], Some(coronal)),
        ([3, 2, 1], None),
    ]
}

/// A picture of two rows, its labels in their order.
fn picture(rows: usize, columns: usize) -> crate::Image {
    let (values, indices) = ((1..=6).collect(), None);
    crate::Image::Raster(crate::raster::Stored {
        rows,
        columns,
        samples: 1,
        bits: 8,
        values,
        indices,
    })
}

/// All files here hold the numbers 1 to 6 in the order in which they are stored, masks and images:
/// where a mask lies right, each voxel's label is its value.
#[test]
fn a_mask_lies_on_its_image_as_stored_unless_both_say_otherwise() {
    for (dims, affine) in lies() {
        let stored = mask(affine, &dims);
        let volume = stored.volume(0).expect("a volume");
        let image = crate::Image::Nifti(stored.clone());
        let lies_right = |mask: &crate::Image| {
            let labels = mask.labels_of(&image).expect("labels");
            let values: Vec<f32> = labels
                .values
                .iter()
                .map(|label| f32::from(u8::try_from(*label).expect("6")))
                .collect();
            assert_eq!((labels.shape, values), (volume.shape, volume.values.clone()), "{affine:?}");
        };
        lies_right(&picture(2, 3));
        lies_right(&image);
        // A mask that does not say where it lies, and one of an image that does not.
        lies_right(&crate::Image::Nifti(mask(None, &dims)));
        if affine.is_none() {
            for (of, affine) in lies().into_iter().filter(|(of, _)| *of == dims) {
                lies_right(&crate::Image::Nifti(mask(affine, &of)));
            }
        }
        let fault = picture(3, 2).labels_of(&image).expect_err("of other sides");
        assert_eq!(fault, Fault::WrongShape("a mask of another size than its image"));
    }
    // Both say where they lie: each voxel at its place.
    let [right, left, ..] = lies().map(|(dims, affine)| crate::Image::Nifti(mask(affine, &dims)));
    let labels = left.labels_of(&right).expect("labels");
    assert_eq!(labels.values, [6, 5, 4, 3, 2, 1]);
    // A picture's picture is as it is; a file's lies as ITK has it.
    let as_stored = Labels { shape: [1, 2, 3], values: (1..=6).collect(), grid: None };
    assert_eq!(picture(2, 3).labels_of(&picture(2, 3)), Ok(as_stored.clone()));
    assert_eq!(left.labels_of(&picture(2, 3)), Ok(as_stored));
    assert_eq!(right.labels_of(&picture(2, 3)).expect("labels").values, [6, 5, 4, 3, 2, 1]);
}

#[test]
fn a_mask_lies_on_its_image_to_half_a_voxel_whichever_way_each_is_stored() {
    let at = |steps: [f32; 3], first: [f32; 3]| {
        let mut rows = [[0.0; 4]; 3];
        for axis in 0..3 {
            rows[axis][axis] = steps[axis];
            rows[axis][3] = first[axis];
        }
        mask(Some(rows), &[3, 2, 1])
    };
    // Voxels at 5, 7 and 9 to the right, at 10 and 14 to the front.
    let image = at([2.0, 4.0, 6.0], [5.0, 10.0, 20.0]).volume(0).expect("a volume");
    let lies = |mask: &Stored| {
        let labels = mask.labels(0).expect("labels");
        assert_eq!(labels.shape, image.shape);
        labels.grid.zip(image.grid).map(|(mask, image)| mask.lies_on(&image, labels.shape))
    };
    for (steps, first, right) in [
        ([2.0, 4.0, 6.0], [5.0, 10.0, 20.0], true),
        ([-2.0, 4.0, 6.0], [9.0, 10.0, 20.0], true),
        ([-2.0, -4.0, -6.0], [9.0, 14.0, 20.0], true),
        ([2.0, 4.0, 6.0], [5.9, 11.9, 22.9], true),
        ([2.0, 4.0, 6.0], [6.2, 10.0, 20.0], false),
        ([2.0, 4.0, 6.0], [5.0, 7.8, 20.0], false),
        ([2.0, 4.0, 6.0], [5.0, 10.0, 23.2], false),
        // As far as the first voxel goes they agree: stored the other way, or of another size.
        ([-2.0, 4.0, 6.0], [5.0, 10.0, 20.0], false),
        ([3.0, 4.0, 6.0], [5.0, 10.0, 20.0], false),
        ([2.1, 4.1, 6.5], [5.0, 10.0, 20.0], true),
    ] {
        assert_eq!(lies(&at(steps, first)), Some(right), "{steps:?} from {first:?}");
    }
    assert_eq!(lies(&mask(None, &[3, 2, 1])), None);
    assert_eq!(lies(&at([2.0, 4.0, 6.0], [f32::NAN; 3])), None);
    assert_eq!(lies(&at([f32::MAX; 3], [5.0, 10.0, 20.0])), None);
    // Where only one of the two says it, voxels lie as they are stored.
    let silent = mask(None, &[3, 2, 1]);
    let elsewhere = at([-2.0, 4.0, 6.0], [5.0, 10.0, 20.0]);
    assert_eq!(elsewhere.labels_of(&silent).expect("labels").grid, None);
    assert_eq!(silent.labels_of(&elsewhere).expect("labels").grid, None);
}

#[test]
fn headers_that_other_readers_put_right_are_put_right() {
    let words = [1, 0, 2, 0];
    let good = file(false, 4, &[2, 1, 1, 1], &words);
    for bits in [0_i16, 8, 64] {
        let mut bytes = good.clone();
        put(&mut bytes, 72, &bits.to_le_bytes());
        assert_eq!(values(&bytes), [1.0, 2.0], "{bits} bits");
    }
    let without = file(false, 4, &[2, 1, 1, 0, 0], &words);
    assert_eq!(Stored::decode(&without).expect("sound").header.shape, [2, 1, 1, 1, 1]);
    for dims in [&[2, 0, 1][..], &[2, 1, 0], &[0, 1, 1], &[2, 1, 1, -1]] {
        let fault = Stored::decode(&file(false, 4, dims, &words)).expect_err("no voxels");
        assert!(matches!(fault, Fault::NotAnImage(_)), "{dims:?}: {fault}");
    }
}
