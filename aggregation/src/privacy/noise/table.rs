//! The table behind every draw: the folded discrete Gaussian N_Z(0, 256^2).
//!
//! Entry k of `table.bin` is `round(2^127 P(|X| <= k))` for k from 0 to 3,456, which is 13.5
//! standard deviations; `make_table.py` beside it computes it with 400 bits. A uniform number of 127 bits
//! draws the least k whose entry is above it, and one more bit gives the sign. Each probability is
//! off by at most 2^-127, all of them together by less than 2^-116 (PROTOCOL D-06).
//!
//! Speed: a guide table on the first 12 bits says where to start, and the first 32 decide all but
//! one draw in forty, with one comparison that is no branch. The rest are searched with 63 bits,
//! and one draw in 2^51 takes all 127. This is not constant-time: how long a draw takes depends a
//! little on its size.

/// The greatest magnitude of a draw.
pub(super) const LAST: u16 = 3_456;

/// The generated table.
const BYTES: &[u8; 16 * (LAST as usize + 1)] = include_bytes!("table.bin");

/// Room for all entries; a power of two, so that a masked index needs no check.
const ROOM: usize = 4_096;

/// Bits of a word that choose the guide's cell, and the cells.
const GUIDE_BITS: u32 = 12;

/// Bits of the first comparison.
const TOP_BITS: u32 = 32;

/// Bits of the second one.
const HIGH_BITS: u32 = 63;

/// The upper 32 bits of each entry, as far as they fit.
#[expect(clippy::cast_possible_truncation, reason = "checked just before")]
static TOP: [u32; ROOM] = {
    let mut top = [u32::MAX; ROOM];
    let mut k = 0;
    while k <= LAST as usize {
        let bits = half(k, 8) >> (HIGH_BITS - TOP_BITS);
        top[k] = if bits < u32::MAX as u64 { bits as u32 } else { u32::MAX };
        k += 1;
    }
    top
};

/// The upper 63 bits of each entry, 2^63 being possible; never exceeded past the last one.
static HIGH: [u64; ROOM] = {
    let mut high = [1 << HIGH_BITS; ROOM];
    let mut k = 0;
    while k <= LAST as usize {
        high[k] = half(k, 8);
        k += 1;
    }
    high
};

/// The lower 64 bits of each entry.
static LOW: [u64; ROOM] = {
    let mut low = [0; ROOM];
    let mut k = 0;
    while k <= LAST as usize {
        low[k] = half(k, 0);
        k += 1;
    }
    low
};

/// For each cell the draw of its least number: no draw from the cell is less.
static GUIDE: [u16; 1 << GUIDE_BITS] = {
    let mut guide = [0; 1 << GUIDE_BITS];
    let mut k = 0;
    let mut cell = 0;
    while cell < guide.len() {
        let least = (cell as u64) << (HIGH_BITS - GUIDE_BITS);
        while !below(least, 0, half(k as usize, 8), half(k as usize, 0)) {
            k += 1;
        }
        guide[cell] = k;
        cell += 1;
    }
    guide
};

/// Eight bytes of entry k.
const fn half(k: usize, from: usize) -> u64 {
    let mut word = 0;
    let mut byte = 8;
    while byte > 0 {
        byte -= 1;
        word = word << 8 | BYTES[16 * k + from + byte] as u64;
    }
    word
}

const fn below(high: u64, low: u64, entry_high: u64, entry_low: u64) -> bool {
    high < entry_high || (high == entry_high && low < entry_low)
}

/// One draw from a uniform word: the sign from its last bit, the magnitude from the others, and
/// from one more word of `ties` when these do not decide.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "32, 12 and 1 bits, cut before"
)]
pub(super) fn draw(word: u64, ties: impl FnOnce() -> u64) -> i32 {
    let top = (word >> TOP_BITS) as u32;
    let mut k = usize::from(GUIDE[(top >> (TOP_BITS - GUIDE_BITS)) as usize]);
    // Without a branch, because this one would be mispredicted in one draw of ten.
    k += usize::from(top > TOP[k % ROOM]);
    if top >= TOP[k % ROOM] {
        k = search(k, word >> 1, ties);
    }
    let sign = (word & 1) as i32;
    ((k % ROOM) as i32 ^ -sign) + sign
}

/// The draw when 32 bits do not decide, or the cell holds more than two; k is not above it.
#[inline(never)]
fn search(mut k: usize, high: u64, ties: impl FnOnce() -> u64) -> usize {
    while high > HIGH[k % ROOM] {
        k += 1;
    }
    if high == HIGH[k % ROOM] {
        let low = ties();
        while !below(high, low, HIGH[k % ROOM], LOW[k % ROOM]) {
            k += 1;
        }
    }
    k
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::float_arithmetic, reason = "statistics, not noise")]

    use super::*;
    use crate::ids::Digest;

    /// P(|X| <= k), scaled by 2^127.
    fn cumulative(k: usize) -> u128 {
        u128::from(HIGH[k]) << 64 | u128::from(LOW[k])
    }

    /// P(|X| = k) as the table has it.
    #[expect(clippy::cast_precision_loss, reason = "statistics need no more than 53 bits")]
    pub(in super::super) fn probability(k: usize) -> f64 {
        let before = if k == 0 { 0 } else { cumulative(k - 1) };
        (cumulative(k) - before) as f64 / 2_f64.powi(127)
    }

    /// Breaks D-06: another table than the one that the script makes.
    #[test]
    fn the_table_is_the_one_that_the_script_makes() {
        assert_eq!(
            Digest::sha256(BYTES).to_string(),
            "8b73ed55ffd88340cf638bb25863329a1749a5116fe29624ee20f9ece11e243d"
        );
        assert_eq!(cumulative(usize::from(LAST)), 1 << 127);
        assert!((1..=usize::from(LAST)).all(|k| cumulative(k) >= cumulative(k - 1)));
    }

    /// The closed form, in f64: a second way to the same numbers, to 1e-12.
    #[test]
    fn the_table_is_the_discrete_gaussian() {
        let weight = |k: f64| (-k * k / (2.0 * 65_536.0)).exp();
        let total: f64 = 1.0 + 2.0 * (1..20_000).map(|k| weight(f64::from(k))).sum::<f64>();
        for k in 0..2_000_u16 {
            let expected = if k == 0 { 1.0 } else { 2.0 } * weight(f64::from(k)) / total;
            let found = probability(usize::from(k));
            assert!((found / expected - 1.0).abs() < 1e-12, "{k}: {found}, {expected}");
        }
    }

    /// The guide and the branchless step against the definition: the least k whose entry is above.
    #[test]
    fn a_draw_is_the_least_entry_above_the_number() {
        let by_search = |u: u128| {
            let entries: Vec<u128> = (0..=usize::from(LAST)).map(cumulative).collect();
            entries.partition_point(|entry| *entry <= u)
        };
        let check = |high: u64, low: u64| {
            let expected = by_search(u128::from(high) << 64 | u128::from(low));
            let expected = i32::try_from(expected).expect("at most 3,456");
            assert_eq!(draw(high << 1, || low), expected, "{high:x} {low:x}");
            assert_eq!(draw(high << 1 | 1, || low), -expected, "{high:x} {low:x}");
        };
        for k in (0..2_400).step_by(7).chain([3_000, 3_456]) {
            let (high, low) = (HIGH[k], LOW[k]);
            for (high, low) in [
                (high, low),
                (high, low.wrapping_sub(1)),
                (high, low.wrapping_add(1)),
                (high.saturating_sub(1), 0),
                (high + 1, u64::MAX),
            ] {
                if high < 1 << 63 {
                    check(high, low);
                }
            }
        }
        for cell in 0..4_096_u64 {
            check(cell << 51, 0);
            check(cell << 51 | ((1 << 51) - 1), u64::MAX);
        }
    }

    /// D-06, PROTOCOL-NOTES test 10: chi-square of 2^23 draws against the table.
    #[test]
    fn draws_have_the_distribution_of_the_table() {
        const DRAWS: u32 = 1 << 23;
        let mut xof = blake3::Hasher::new_keyed(&[5; 32]).finalize_xof();
        let mut word = [0; 8];
        let mut seen = vec![0_u32; 2 * usize::from(LAST) + 1];
        for _ in 0..DRAWS {
            xof.fill(&mut word);
            let x = draw(u64::from_le_bytes(word), || 0) + i32::from(LAST);
            seen[usize::try_from(x).expect("within the table")] += 1;
        }
        // Values expected fewer than 20 times are counted together.
        let (mut chi_square, mut cells) = (0.0, 0_u32);
        let (mut rare_seen, mut rare_expected) = (0.0, 0.0);
        for (index, &count) in seen.iter().enumerate() {
            let k = index.abs_diff(usize::from(LAST));
            let expected = probability(k) * f64::from(DRAWS) / if k == 0 { 1.0 } else { 2.0 };
            if expected < 20.0 {
                rare_seen += f64::from(count);
                rare_expected += expected;
            } else {
                chi_square += (f64::from(count) - expected).powi(2) / expected;
                cells += 1;
            }
        }
        chi_square += f64::powi(rare_seen - rare_expected, 2) / rare_expected;
        // The cells with the rare one, less one for the total: mean f, variance 2 f.
        let freedom = f64::from(cells);
        let deviation = (chi_square - freedom) / (2.0 * freedom).sqrt();
        assert!(deviation.abs() < 4.0, "chi-square {chi_square} on {freedom} degrees of freedom");
        assert!(cells > 1_500, "{cells} cells are too few to see anything");
    }
}
