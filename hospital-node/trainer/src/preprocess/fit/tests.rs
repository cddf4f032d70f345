use aggregation::study::{InputShape, Preprocess, TaskKind};

use super::*;
use crate::random::Random;

fn preparation(to: [u16; 3], fit: Fit, spacing: Option<[f64; 3]>) -> Preparation {
    let [depth, height, width] = to;
    Preparation {
        kind: TaskKind::Segmentation,
        classes: 256,
        input: InputShape { channels: 1, depth, height, width },
        preprocess: Preprocess { spacing, fit, ..Preprocess::PLAIN },
        cache: None,
    }
}

/// A plane fitted without a word on distances.
fn plane(values: &[f32], from: (usize, usize), to: (u16, u16), fit: Fit) -> Vec<f32> {
    let sides = preparation([1, to.0, to.1], fit, None).sides([1, from.0, from.1], None);
    fitted(values, &sides.expect("no distances"))
}

/// The values 0, 1, 2 and so on.
fn counted(many: u8) -> Vec<f32> {
    (0..many).map(f32::from).collect()
}

#[test]
fn shrinking_averages_the_covered_area() {
    assert_eq!(plane(&counted(9), (3, 3), (1, 1), Fit::Stretch), [4.0]);
    let halves = plane(&[0.0, 3.0, 6.0], (1, 3), (1, 2), Fit::Stretch);
    assert!((halves[0] - 1.0).abs() < 1e-6 && (halves[1] - 5.0).abs() < 1e-6, "{halves:?}");
}

#[test]
fn growing_is_linear_between_centres() {
    assert_eq!(plane(&[0.0, 4.0], (1, 2), (1, 4), Fit::Stretch), [0.0, 1.0, 3.0, 4.0]);
}

#[test]
fn cropping_and_padding_keep_proportions() {
    let values = counted(8);
    assert_eq!(plane(&values, (2, 4), (2, 2), Fit::Crop), [1.0, 2.0, 5.0, 6.0]);
    assert_eq!(plane(&values, (4, 2), (1, 2), Fit::Crop), [2.0, 3.0]);
    let padded = plane(&values, (2, 4), (4, 4), Fit::Pad);
    assert_eq!(
        (&padded[..4], &padded[4..12], &padded[12..]),
        (&[0.0; 4][..], &values[..], &[0.0; 4][..])
    );
    // Half as large: the mean over four pixels, of which those outside are dark.
    assert_eq!(plane(&values, (2, 4), (2, 2), Fit::Pad), [0.25, 1.25, 2.25, 3.25]);
    assert_eq!(plane(&[1.0; 8], (2, 4), (2, 2), Fit::Pad), [0.5; 4]);
    let line = plane(&[1.0; 1000], (1, 1000), (2, 2), Fit::Pad);
    assert!(line.iter().all(|shade| (shade - 0.001).abs() < 1e-6), "{line:?}");
}

#[test]
fn the_middle_is_cut_out_pixel_by_pixel_and_what_is_missing_is_dark() {
    let values = counted(15);
    assert_eq!(plane(&values, (3, 5), (1, 3), Fit::Centre), [6.0, 7.0, 8.0]);
    // An odd number is left over: no pixel is smeared over two.
    assert_eq!(plane(&values, (3, 5), (2, 2), Fit::Centre), [1.0, 2.0, 6.0, 7.0]);
    let wide = plane(&counted(2), (1, 2), (3, 4), Fit::Centre);
    assert_eq!(wide, [&[0.0; 5][..], &[0.0, 1.0], &[0.0; 5]].concat());
    let sides = preparation([2, 1, 3], Fit::Centre, None).sides([4, 1, 1], None).expect("sides");
    assert_eq!(fitted(&counted(4), &sides), [0.0, 1.0, 0.0, 0.0, 2.0, 0.0]);
    assert_eq!(fitted_mask(&[9, 8, 7, 6], &sides), [0, 8, 0, 0, 7, 0]);
}

/// A value by its definition, in double precision and with every stored pixel looked at: the mean over
/// the covered box, or linear between centres, side by side.
fn by_definition(
    values: &[f32],
    from: [usize; 3],
    spacing: [f64; 3],
    wanted: [f64; 3],
    to: [usize; 3],
    at: [usize; 3],
) -> f64 {
    let weights = |axis: usize| -> Vec<f64> {
        let (size, all) = (wanted[axis] / spacing[axis], count(from[axis]));
        let middle = all / 2.0 + (count(at[axis]) + 0.5 - count(to[axis]) / 2.0) * size;
        let of = |pixel: usize| {
            let centre = count(pixel) + 0.5;
            if size > 1.0 {
                let (low, high) = (middle - size / 2.0, middle + size / 2.0);
                (high.min(centre + 0.5) - low.max(centre - 0.5)).max(0.0) / size
            } else if middle < 0.0 || middle > all {
                0.0
            } else {
                (1.0 - (middle.clamp(0.5, all - 0.5) - centre).abs()).max(0.0)
            }
        };
        (0..from[axis]).map(of).collect()
    };
    let [deep, down, across] = [weights(0), weights(1), weights(2)];
    let mut sum = 0.0;
    for (place, value) in values.iter().enumerate() {
        let (z, y, x) = (place / (from[1] * from[2]), place / from[2] % from[1], place % from[2]);
        sum += deep[z] * down[y] * across[x] * f64::from(*value);
    }
    sum
}

#[test]
fn resampling_is_what_its_definition_says() {
    let mut random = Random::new("resampling", &[]);
    for (from, spacing, wanted, to) in [
        ([5, 7, 9], [3.0, 1.0, 0.7], [1.5, 1.3, 1.3], [8, 5, 6]),
        ([4, 12, 6], [1.0, 0.5, 2.0], [2.5, 1.9, 0.8], [3, 4, 20]),
        ([1, 11, 8], [1.0, 0.31, 0.31], [1.0, 0.7, 0.2], [1, 6, 9]),
    ] {
        #[expect(clippy::cast_possible_truncation, reason = "test values")]
        let values: Vec<f32> = (0..from.iter().product()).map(|_| random.normal() as f32).collect();
        #[expect(clippy::cast_possible_truncation, reason = "test values")]
        let (known, small) = (spacing.map(|side| side as f32), to.map(|side: usize| side as u16));
        let preparation = preparation(small, Fit::Centre, Some(wanted));
        let sides = preparation.sides(from, Some(known)).expect("sides");
        let found = fitted(&values, &sides);
        let known = known.map(f64::from);
        for (place, found) in found.iter().enumerate() {
            let at = [place / (to[1] * to[2]), place / to[2] % to[1], place % to[2]];
            let expected = by_definition(&values, from, known, wanted, to, at);
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{at:?}: {found} {expected}");
        }
    }
}

#[test]
fn a_ball_stays_round_whatever_its_slices_are_apart_and_its_mask_with_it() {
    let (from, spacing) = ([10, 30, 24], [3.0_f32, 1.0, 1.25]);
    let inside = |place: usize, radius: f64| {
        let at = [place / 720, place / 24 % 30, place % 24];
        let apart = [0, 1, 2].map(|axis| {
            (count(at[axis]) + 0.5 - count(from[axis]) / 2.0) * f64::from(spacing[axis])
        });
        apart.iter().map(|side| side * side).sum::<f64>().sqrt() < radius
    };
    let mask: Vec<u8> = (0..7200).map(|place| u8::from(inside(place, 10.0))).collect();
    let values: Vec<f32> = mask.iter().map(|label| f32::from(*label)).collect();
    let preparation = preparation([16, 16, 16], Fit::Centre, Some([2.0; 3]));
    let sides = preparation.sides(from, Some(spacing)).expect("sides");
    let (image, mask) = (fitted(&values, &sides), fitted_mask(&mask, &sides));
    let (mut shades, mut labels) = (0.0, 0.0);
    for (place, (shade, label)) in image.iter().zip(&mask).enumerate() {
        let apart = [place / 256, place / 16 % 16, place % 16];
        let apart = apart.map(|at| (count(at) - 7.5) * 2.0);
        let apart = apart.iter().map(|side| side * side).sum::<f64>().sqrt();
        // A voxel's diagonal off the surface there is no doubt.
        if apart < 7.5 {
            assert_eq!((*shade > 0.5, *label), (true, 1), "{place}");
        } else if apart > 12.5 {
            assert_eq!((*shade > 0.5, *label), (false, 0), "{place}");
        }
        shades += f64::from(*shade);
        labels += f64::from(*label);
    }
    // A ball of 10 mm in voxels of 8 cubic millimetres.
    let volume = 4.0 / 3.0 * std::f64::consts::PI * 1000.0 / 8.0;
    assert!((shades / volume - 1.0).abs() < 0.05, "{shades} {volume}");
    assert!((labels / volume - 1.0).abs() < 0.05, "{labels} {volume}");
}

#[test]
fn what_cannot_be_resampled_is_refused() {
    let preparation = preparation([1, 4, 4], Fit::Centre, Some([1.0; 3]));
    assert!(preparation.sides([1, 5, 5], None).is_err());
    for spacing in [1e-9_f32, 1e9, f32::MIN_POSITIVE] {
        assert!(preparation.sides([1, 5, 5], Some([1.0, spacing, 1.0])).is_err(), "{spacing}");
    }
    // What single precision leaves of a spacing changes nothing.
    let sides = preparation.sides([1, 4, 4], Some([1.0, 1.000_001, 0.999_999])).expect("sides");
    let values = counted(16);
    assert_eq!(fitted(&values, &sides), values);
}

#[test]
fn nothing_in_between_is_larger_than_what_is_stored_or_what_becomes_of_it() {
    let lengths = [1_usize, 40, 32_767];
    let every = |at: usize| [lengths[at % 3], lengths[at / 3 % 3], lengths[at / 9]];
    for (from, to) in (0..27).flat_map(|from| (0..27).map(move |to| (from, to))) {
        let (from, to) = (every(from), every(to));
        let side = |axis: usize| Side::of_length(from[axis], to[axis], count(from[axis]));
        let mut now = from;
        let most = from.iter().product::<usize>().max(to.iter().product());
        for axis in order(&[0, 1, 2].map(side)) {
            now[axis] = to[axis];
            assert!(now.iter().product::<usize>() <= most, "{from:?} {to:?}: {now:?}");
        }
        assert_eq!(now, to);
    }
}

#[test]
fn ordinary_images_are_gone_through_by_rows_first_and_by_slices_last() {
    for (from, to) in [([1, 2500, 2000], [1, 256, 256]), ([30, 512, 512], [64, 128, 128])] {
        let side = |axis: usize| Side::of_length(from[axis], to[axis], count(from[axis]));
        assert_eq!(order(&[0, 1, 2].map(side)), [2, 1, 0], "{from:?}");
    }
}

#[test]
fn an_image_of_one_long_line_takes_as_long_as_it_has_pixels() {
    let many = 3_000_000;
    for from in [[many, 1, 1], [1, many, 1], [1, 1, many]] {
        let sides = preparation([32, 64, 64], Fit::Stretch, None).sides(from, None);
        let fitted = fitted(&vec![0.5; many], &sides.expect("sides"));
        assert_eq!(fitted.len(), 32 * 64 * 64);
        assert!(fitted.iter().all(|shade| (shade - 0.5).abs() < 0.01), "{from:?}");
    }
}

#[test]
fn slices_that_nothing_is_made_of_do_not_matter() {
    let values: Vec<f32> =
        (0..40).map(|at| if (12..28).contains(&at) { 1.0 } else { 9.0 }).collect();
    let sides = preparation([4, 2, 2], Fit::Centre, None).sides([10, 2, 2], None).expect("sides");
    assert_eq!(fitted(&values, &sides), [1.0; 16]);
    // Beyond the last one there is nothing.
    let sides = preparation([12, 2, 2], Fit::Centre, None).sides([4, 2, 2], None).expect("sides");
    let padded = fitted(&values[12..28], &sides);
    assert_eq!(padded, [&[0.0; 16][..], &[1.0; 16], &[0.0; 16]].concat());
}
