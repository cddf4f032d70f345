//! Slices and frames that make a volume, and those that make none.

use super::*;

/// One slice of four pixels, this high up in the patient.
fn slice(height: &str, first: u8) -> Stored {
    slice_with(height, first, b"1\\0\\0\\0\\1\\0 ", b"0.5\\0.25", "MONOCHROME2 ")
}

fn slice_with(
    height: &str,
    first: u8,
    orientation: &[u8],
    spacing: &[u8],
    photometric: &str,
) -> Stored {
    let position = format!("10\\20\\{height}");
    let more: [(Tag, &[u8; 2], &[u8]); 3] = [
        ((0x20, 0x32), b"DS", position.as_bytes()),
        ((0x20, 0x37), b"DS", orientation),
        ((0x28, 0x30), b"DS", spacing),
    ];
    let pixels = [first, 0, first + 1, 0, first + 2, 0, first + 3, 0];
    decoded(&Made { sides: (2, 2), more: &more, pixels: &pixels, photometric, ..PLAIN })
}

#[test]
fn slices_that_are_not_of_one_volume_are_refused_with_what_differs() {
    let stack = |heights: &[&str]| heights.iter().map(|at| slice(at, 0)).collect::<Vec<Stored>>();
    // As scanners round them; one alone, and two, are as far apart as they are.
    for heights in [&["0", "2", "4.3", "6"][..], &["5"], &["5", "99"]] {
        assert!(volume_of(&stack(heights)).is_ok(), "{heights:?}");
    }
    for (heights, text) in [
        (&["1", "2", "3", "7", "8"][..], "1.00 mm apart as most are, found two 4.00 mm"),
        (&["4", "0", "2", "30"], "2.00 mm apart as most are, found two 26.00 mm"),
        (&["0", "3", "9"], "3.00 mm apart as most are, found two 6.00 mm"),
        (&["0", "3", "6", "7"], "3.00 mm apart as most are, found two 1.00 mm"),
    ] {
        let fault = volume_of(&stack(heights)).expect_err("uneven");
        assert!(fault.to_string().contains(text), "{fault}");
        assert_eq!(fault.code(), "wrong_shape");
    }
    let (flat, apart, grey) = (&b"1\\0\\0\\0\\1\\0 "[..], &b"0.5\\0.25"[..], "MONOCHROME2 ");
    for (orientation, spacing, photometric, text) in [
        (flat, &b"0.5004\\0.25 "[..], grey, None),
        (b"1\\0.001\\0\\0\\1\\0 ", apart, grey, None),
        (b"0\\1\\0\\0\\0\\-1", apart, grey, Some("several orientations")),
        (b"1\\0\\0\\0\\0.9\\0.4 ", apart, grey, Some("several orientations")),
        (
            flat,
            b"1.5\\0.25",
            grey,
            Some("0.500 by 0.250 mm apart as in another slice, found 1.500"),
        ),
        (flat, apart, "MONOCHROME1 ", Some("several photometric")),
    ] {
        let other = slice_with("4", 0, orientation, spacing, photometric);
        let made = volume_of(&[slice("0", 0), slice("2", 0), other]);
        let said = made.err().map(|fault| fault.to_string());
        assert!(
            said.as_deref().zip(text).is_some_and(|(said, text)| said.contains(text))
                || (said.is_none() && text.is_none()),
            "{text:?}: {said:?}"
        );
    }
}

#[test]
fn slices_are_the_same_volume_or_the_same_refusal_in_whatever_order_they_come() {
    let with = |height: &str, spacing: &[u8]| {
        slice_with(height, 7, b"1\\0\\0\\0\\1\\0 ", spacing, "MONOCHROME2 ")
    };
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    // Within a hundredth of each other, and only of the one between them.
    for spacings in [
        [&b"1.000\\1.0 "[..], b"1.004\\1.0 ", b"0.997\\1.0 "],
        [b"1.000\\1.0 ", b"1.008\\1.0 ", b"0.993\\1.0 "],
        [b"1.008\\1.0 ", b"1.000\\1.0 ", b"0.993\\1.0 "],
    ] {
        let seen = orders.map(|order| {
            let slices = order.map(|at| with(["0", "2", "4"][at], spacings[at]));
            volume_of(&slices).map(|volume| (volume.spacing, volume.values))
        });
        let first = &seen[0];
        assert!(seen.iter().all(|seen| seen == first), "{seen:?}");
    }
}

#[test]
fn frames_of_several_orientations_are_no_volume() {
    let frame = |orientation: &[u8], height: &[u8]| {
        let plane = item(&bare((0x20, 0x37), orientation));
        let position = item(&bare((0x20, 0x32), height));
        item(&[bare((0x20, 0x9113), &position), bare((0x20, 0x9116), &plane)].concat())
    };
    let of = |second: &[u8]| {
        let flat = b"1\\0\\0\\0\\1\\0 ";
        let groups = [frame(flat, b"0\\0\\0 "), frame(second, b"0\\0\\2 ")].concat();
        let more: [(Tag, &[u8; 2], &[u8]); 2] =
            [((0x28, 8), b"IS", b"2 "), ((0x5200, 0x9230), b"UN", &groups)];
        volume_of(&[decoded(&Made { sides: (1, 2), more: &more, ..PLAIN })])
    };
    assert_eq!(of(b"1\\0\\0\\0\\1\\0 ").expect("parallel").shape, [2, 1, 2]);
    let fault = of(b"0\\1\\0\\0\\0\\-1").expect_err("across");
    assert!(fault.to_string().contains("several orientations"), "{fault}");
}

#[test]
fn slices_become_a_volume_in_the_order_of_their_places() {
    let volume = volume_of(&[slice("7", 20), slice("1", 0), slice("4", 10)]).expect("a volume");
    assert_eq!((volume.shape, volume.spacing), ([3, 2, 2], Some([3.0, 0.5, 0.25])));
    assert_eq!(slice("7", 20).picture().expect("a picture").spacing, Some([0.5, 0.25]));
    // DICOM counts columns to the left and rows to the back: both are turned round.
    let turned = |first: f32| [first + 3.0, first + 2.0, first + 1.0, first];
    assert_eq!(volume.values, [turned(0.0), turned(10.0), turned(20.0)].concat());
    assert!(volume_of(&[slice("7", 20), slice("7", 0)]).is_err());
    assert!(volume_of(&[]).is_err());
    assert!(volume_of(&[slice("7", 20), decoded(&PLAIN)]).is_err());
    // More slices than scanners make are not even counted up.
    let many = Stored { frames: u32::MAX, ..slice("7", 20) };
    assert!(matches!(volume_of(&[many]).expect_err("refused"), Fault::TooLarge(_)));
}

#[test]
fn a_volume_of_slices_that_are_shown_inverted_says_so() {
    let (flat, apart) = (b"1\\0\\0\\0\\1\\0 ", b"0.5\\0.25");
    for (photometric, inverted) in [("MONOCHROME1 ", true), ("MONOCHROME2 ", false)] {
        let slices = ["0", "2"].map(|at| slice_with(at, 0, flat, apart, photometric));
        let volume = volume_of(&slices).expect("a volume");
        assert_eq!((volume.shape, volume.inverted), ([2, 2, 2], inverted));
        let more: [(Tag, &[u8; 2], &[u8]); 1] = [((0x28, 8), b"IS", b"2 ")];
        let frames = decoded(&Made { sides: (1, 2), more: &more, photometric, ..PLAIN });
        let volume = crate::Image::Dicom(Box::new(frames)).volume().expect("a volume");
        assert_eq!((volume.shape, volume.inverted), ([2, 1, 2], inverted));
    }
}

#[test]
fn a_volume_lies_where_its_slices_say_and_nowhere_where_they_do_not() {
    let grid = |slices: &[Stored]| volume_of(slices).expect("a volume").grid;
    let said = grid(&["1", "4", "7"].map(|height| slice(height, 0))).expect("a place");
    // DICOM counts to the left and to the back; the same to the right and to the front.
    let stored = [[-0.25, 0.0, 0.0, -10.0], [0.0, -0.5, 0.0, -20.0], [0.0, 0.0, 3.0, 1.0]];
    let turned = [[0.25, 0.0, 0.0, -10.25], [0.0, 0.5, 0.0, -20.5], [0.0, 0.0, -3.0, 7.0]];
    let mirrored = [[0.25, 0.0, 0.0, 10.0], [0.0, 0.5, 0.0, 20.0], [0.0, 0.0, 3.0, 1.0]];
    for (rows, right) in [(stored, true), (turned, true), (mirrored, false)] {
        let other = Turn::new(&[2, 2, 3], &rows).grid.expect("finite");
        assert_eq!(said.lies_on(&other, [3, 2, 2]), right, "{rows:?}");
        assert_eq!(other.lies_on(&said, [3, 2, 2]), right, "{rows:?}");
    }
    for (orientation, spacing) in [(&b""[..], &b"0.5\\0.25"[..]), (b"1\\0\\0\\0\\1\\0 ", b"")] {
        let slice = |height| slice_with(height, 0, orientation, spacing, "MONOCHROME2 ");
        assert_eq!(grid(&["1", "4"].map(slice)), None);
    }
}
