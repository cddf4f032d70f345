//! What the noise looks like from outside: its spread, its tails and its last bits.

use super::table::tests::probability;
use super::*;

/// The standard deviation of one coordinate's noise, in fine units.
const SIGMA: f64 = 1_048_704.023_4;

fn noise(seed: u8) -> Noise {
    Noise::new(NoiseSeed::new(Secret::new([seed; 32])))
}

#[test]
fn a_seed_gives_one_noise_whatever_the_batches() {
    let mut whole = vec![0; 3_000];
    noise(1).fill(&mut whole);
    let mut again = vec![0; 3_000];
    noise(1).fill(&mut again);
    assert_eq!(whole, again);
    for size in [1, 100, 681, 682, 683, 2_047] {
        let mut pieces = vec![0; 3_000];
        let mut noise = noise(1);
        pieces.chunks_mut(size).for_each(|piece| noise.fill(piece));
        assert_eq!(whole, pieces, "in pieces of {size}");
    }
    let mut other = vec![0; 3_000];
    noise(2).fill(&mut other);
    assert_ne!(whole, other);
    assert_eq!(
        format!("{:?} {:?}", noise(1), NoiseSeed::new(Secret::new([1; 32]))),
        "Noise(..) NoiseSeed(Secret(..))"
    );
}

#[test]
fn the_wire_value_is_the_clamped_and_noised_sum_without_its_low_bits() {
    let clamp = Clamp::new(100).expect("100 is allowed");
    let sums: Vec<i64> = (0..2_000).map(|i| (i - 1_000) * 10_007).collect();
    let mut lanes = vec![0; sums.len()];
    let clamped = noise(3).to_wire(&sums, clamp, &mut lanes);
    let mut draws = vec![0; sums.len()];
    noise(3).fill(&mut draws);
    let limit = 100 * 65_536_i64;
    for ((sum, draw), lane) in sums.iter().zip(&draws).zip(&lanes) {
        let exact = (*sum).clamp(-limit, limit) + i64::from(*draw);
        let expected = (exact + 32_768).div_euclid(65_536);
        assert_eq!(i64::from(lane.cast_signed()), expected);
    }
    let beyond = sums.iter().filter(|sum| sum.abs() > limit).count();
    assert_eq!(clamped, crate::units::count(beyond));
    assert!(beyond > 100);
}

/// PROTOCOL-NOTES tests 7 and 9: extremes stay within the plan's bound, and nothing is noised too.
#[test]
fn extremes_are_held_and_an_empty_sum_is_noised() {
    let clamp = Clamp::new(1_000).expect("1,000 is allowed");
    for extreme in [i64::MAX, i64::MIN] {
        let mut lanes = vec![0; 5_000];
        assert_eq!(noise(4).to_wire(&vec![extreme; 5_000], clamp, &mut lanes), 5_000);
        assert!(lanes.iter().all(|lane| lane.cast_signed().unsigned_abs() <= 1_000 + 220));
    }
    let mut lanes = vec![0; 5_000];
    assert_eq!(noise(5).to_wire(&vec![0; 5_000], clamp, &mut lanes), 0);
    let moved = lanes.iter().filter(|lane| **lane != 0).count();
    assert!(moved > 4_500, "only {moved} of 5,000 coordinates were noised");
    assert_eq!(GREATEST, 3_456 * 4_161);
    assert_eq!(round(i64::from(GREATEST)), 219);
    assert_eq!(round(-i64::from(GREATEST)).cast_signed(), -219);
    assert_eq!(Clamp::new(0), None);
    assert_eq!(Clamp::new(1 << 31), None);
    assert_eq!(Clamp::new(2).map(|c| (c.wire_units(), c.fine_units())), Some((2, 131_072)));
}

/// PROTOCOL-NOTES test 10: moments, tails and low bits of 2^24 draws.
#[test]
#[expect(clippy::cast_precision_loss, reason = "statistics need no more than 53 bits")]
fn the_noise_is_gaussian_in_its_middle_its_tails_and_its_last_bits() {
    const DRAWS: usize = 1 << 24;
    let mut draws = vec![0; 1 << 16];
    let mut noise = noise(6);
    let (mut sum, mut square, mut cube, mut fourth) = (0.0, 0.0, 0.0, 0.0);
    let mut beyond = [0_u32; 7];
    let mut low = vec![0_u32; 1 << 16];
    for _ in 0..DRAWS / draws.len() {
        noise.fill(&mut draws);
        for &draw in &draws {
            let x = f64::from(draw) / SIGMA;
            sum += x;
            square += x * x;
            cube += x * x * x;
            fourth += x * x * x * x;
            for (count, sds) in beyond.iter_mut().zip(0_u8..) {
                *count += u32::from(x.abs() > f64::from(sds));
            }
            let [a, b, _, _] = draw.to_le_bytes();
            low[usize::from(u16::from_le_bytes([a, b]))] += 1;
        }
    }
    let n = DRAWS as f64;
    // Each within four of its standard errors: 1, sqrt 2, sqrt 15, sqrt 96 over sqrt n.
    assert!((sum / n).abs() < 4.0 / n.sqrt());
    assert!((square / n - 1.0).abs() < 4.0 * (2.0 / n).sqrt());
    assert!((cube / n).abs() < 4.0 * (15.0 / n).sqrt());
    assert!((fourth / n - 3.0).abs() < 4.0 * (96.0 / n).sqrt());
    for (sds, &count) in beyond.iter().enumerate().skip(1) {
        let expected = n * libm::erfc(sds as f64 / std::f64::consts::SQRT_2);
        let off = (f64::from(count) - expected).abs();
        assert!(off <= 4.0 * expected.sqrt() + 1.0, "{count} beyond {sds} sd, {expected} expected");
    }
    let expected = n / 65_536.0;
    let chi_square: f64 =
        low.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
    let deviation = (chi_square - 65_535.0) / (2.0_f64 * 65_535.0).sqrt();
    assert!(deviation.abs() < 4.0, "the low 16 bits are not uniform: {deviation} sd");
}

/// The tail at 6 standard deviations is too rare to be sampled here, so it is added up from the
/// table itself: the distribution of 64 x2 + x1, and for each of its values the chance that x0
/// carries the sum past the mark.
#[test]
fn the_tail_is_exact_to_seven_standard_deviations() {
    let last = usize::from(table::LAST);
    let width = 2 * last + 1;
    let single: Vec<f64> = (0..width)
        .map(|index| match index.abs_diff(last) {
            0 => probability(0),
            k => probability(k) / 2.0,
        })
        .collect();
    // above[i] = P(x0 >= i - last)
    let mut above = vec![0.0; width + 1];
    for index in (0..width).rev() {
        above[index] = above[index + 1] + single[index];
    }
    let mut coarse = vec![0.0; 64 * (width - 1) + width];
    for (x2, weight) in single.iter().enumerate() {
        for (sum, p) in coarse[64 * x2..].iter_mut().zip(&single) {
            *sum += weight * p;
        }
    }
    let index = |value: usize| i64::try_from(value).expect("small");
    // floor(k sd) for k = 4, 6, 7, and the Gaussian's tail erfc((mark + 1/2) / (sd sqrt 2)) / 2
    // by mpmath with 300 bits.
    for (mark, expected) in [
        (4_194_816, 3.167_118_998_815_948e-5),
        (6_292_224, 9.865_855_628_272_73e-10),
        (7_340_928, 1.279_809_617_536_203e-12),
    ] {
        let mut tail = 0.0;
        for (y, weight) in coarse.iter().enumerate() {
            let needed = mark + 1 - 64 * (index(y) - 65 * index(last)) + index(last);
            let needed = needed.clamp(0, index(width));
            tail += weight * above[usize::try_from(needed).expect("clamped")];
        }
        assert!((tail / expected - 1.0).abs() < 1e-8, "beyond {mark}: {tail}, {expected}");
    }
}
