//! How many neighbours are enough (PROTOCOL M-24).
//!
//! Of n hospitals, c collude with the coordinator and d drop out, and all were placed on the ring
//! of a Harary graph at random. A degree k and a share threshold T will do when
//!
//! 1. the hospitals that are left are still connected, but for a chance of 2^-41. Cutting a Harary
//!    graph takes k / 2 successive removed hospitals in each of two places; there are
//!    n (n - k - 1) / 2 pairs of places, and a given set of k hospitals is removed with the chance
//!    of drawing it: C(n - k, c + d - k) / C(n, c + d);
//! 2. no hospital has T or more colluding neighbours, but for a chance of 2^-41: their number is
//!    hypergeometric, and n hospitals each get 2^-41 / n of it;
//! 3. no hospital is left with fewer than T neighbours that answer, but for a chance of 2^-20 over
//!    all n, which costs the round and no privacy.
//!
//! The smallest k is taken, and for it the smallest T. Everyone agrees on one final set (by T of
//! n signatures, see [`crate::keys::thresholds`]), so a coordinator cannot ask one neighbour for
//! one secret and another for the other; that is why the bounds for a curious server suffice.
//!
//! Source: [BBG+20]; the bad events and how the chances are divided between
//! them follow [google-parfait/federated-compute], `graph_parameter_finder.cc`, whose published
//! expectations are tested here.
//!
//! [BBG+20]: https://doi.org/10.1145/3372297.3417885
//! [google-parfait/federated-compute]: https://github.com/google-parfait/federated-compute

use std::f64::consts::LN_2;

/// A degree and a threshold that will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Design {
    degree: u16,
    threshold: u16,
}

/// There is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no graph of {sites} hospitals is both private against {colluding} colluding ones and sturdy against {missing} missing ones"
)]
pub struct Infeasible {
    /// All hospitals.
    pub sites: u16,
    /// Those that collude.
    pub colluding: u16,
    /// Those that drop out.
    pub missing: u16,
}

/// Chances as powers of two: each of the two events that cost privacy, and the one that does not.
const PRIVACY_PER_EVENT: f64 = 41.0;
const STURDINESS: f64 = 20.0;

impl Design {
    /// The smallest degree that will do.
    ///
    /// # Errors
    /// When not even all but one as neighbours would.
    pub fn find(sites: u16, colluding: u16, missing: u16) -> Result<Self, Infeasible> {
        let infeasible = Infeasible { sites, colluding, missing };
        let (n, c, d) = (u32::from(sites), u32::from(colluding), u32::from(missing));
        let (degree, threshold) =
            find(n, c, d, |most_colluding, _| most_colluding).ok_or(infeasible)?;
        let narrow = |wide| u16::try_from(wide).map_err(|_| infeasible);
        Ok(Self { degree: narrow(degree)?, threshold: narrow(threshold)? })
    }

    /// k, an even number.
    #[must_use]
    pub const fn degree(&self) -> u16 {
        self.degree
    }

    /// T, for the shares of one neighbourhood.
    #[must_use]
    pub const fn threshold(&self) -> u16 {
        self.threshold
    }
}

/// Tries one degree after another. `raise` makes of the greatest number of colluding neighbours,
/// and the degree, what the threshold must exceed.
fn find(n: u32, c: u32, d: u32, raise: impl Fn(u32, u32) -> u32) -> Option<(u32, u32)> {
    if c.checked_add(d)? >= n {
        return None;
    }
    let table = LogFactorials::up_to(n);
    let ln_n = f64::from(n).ln();
    let privacy = (-PRIVACY_PER_EVENT * LN_2 - ln_n).exp();
    let sturdiness = (-STURDINESS * LN_2 - ln_n).exp();
    (2..n.saturating_sub(1)).step_by(2).find_map(|k| {
        if table.ln_chance_of_a_cut(n, c + d, k) >= -PRIVACY_PER_EVENT * LN_2 {
            return None;
        }
        // Of k neighbours, fewer than this many do not collude with too small a chance to count.
        let honest = table.lower_tail(n, n - c, k, privacy);
        let must_exceed = raise(k - honest, k);
        let answering = table.lower_tail(n, n - d, k, sturdiness);
        (must_exceed < answering).then(|| (k, (must_exceed + 1).max(2)))
    })
}

/// ln(0!) to ln(n!).
struct LogFactorials(Vec<f64>);

impl LogFactorials {
    fn up_to(n: u32) -> Self {
        let mut sum = 0.0;
        let next = |i: u32| {
            sum += f64::from(i.max(1)).ln();
            sum
        };
        Self((0..=n).map(next).collect())
    }

    /// The logarithm of the number of ways to choose; of none, minus infinity.
    fn ln_choose(&self, n: u32, k: u32) -> f64 {
        let ln = |i: u32| self.0.get(i as usize).copied();
        let rest = n.checked_sub(k).and_then(ln);
        match (ln(n), ln(k), rest) {
            (Some(n), Some(k), Some(rest)) => n - k - rest,
            _ => f64::NEG_INFINITY,
        }
    }

    /// The first of the three conditions.
    fn ln_chance_of_a_cut(&self, n: u32, removed: u32, k: u32) -> f64 {
        let Some(left) = removed.checked_sub(k) else { return f64::NEG_INFINITY };
        let pairs = f64::from(n).ln() + f64::from(n - k - 1).ln() - LN_2;
        pairs + self.ln_choose(n - k, left) - self.ln_choose(n, removed)
    }

    /// The smallest x for which k draws without replacement, of n of whom some are marked, give at
    /// most x marked ones with a chance of at least `chance`: fewer than x come too seldom to count.
    fn lower_tail(&self, n: u32, marked: u32, k: u32, chance: f64) -> u32 {
        let mut sum = 0.0;
        let all = self.ln_choose(n, k);
        let reached = |x: &u32| {
            let ways = self.ln_choose(marked, *x) + self.ln_choose(n - marked, k - x);
            sum += (ways - all).exp();
            sum >= chance
        };
        (0..=k).find(reached).unwrap_or(k)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that may ask different neighbours for different secrets: then 2 T must exceed the
    /// neighbours plus the colluding ones. For comparison only; our signed final set rules it out.
    fn semi_malicious(most_colluding: u32, k: u32) -> u32 {
        // The source's ceil((t + k - 1.25) / 2), in whole numbers.
        u32::midpoint(most_colluding, k)
    }

    fn curious(most_colluding: u32, _: u32) -> u32 {
        most_colluding
    }

    /// Rates are rounded down, as the sources do.
    fn rate(n: u32, percent: u32) -> u32 {
        n * percent / 100
    }

    /// The table that the protocol was decided with.
    #[test]
    fn degrees_and_thresholds_are_those_of_the_table() {
        let table = [
            (128, (24, 13), (36, 24), (48, 26), (50, 38)),
            (300, (36, 21), (52, 34), (74, 41), (94, 70)),
            (1_000, (48, 27), (68, 44), (98, 54), (140, 104)),
            (10_000, (54, 31), (80, 51), (122, 67), (184, 136)),
            (38_000, (56, 32), (84, 53), (128, 70), (194, 143)),
        ];
        for (n, few, many_colluding, many, semi) in table {
            let of = |c, d| find(n, rate(n, c), rate(n, d), curious);
            assert_eq!(of(10, 10), Some(few), "{n}");
            assert_eq!(of(20, 10), Some(many_colluding), "{n}");
            assert_eq!(of(20, 20), Some(many), "{n}");
            assert_eq!(find(n, rate(n, 20), rate(n, 10), semi_malicious), Some(semi), "{n}");
        }
    }

    /// The expectations of `graph_parameter_finder_test.cc`, all of them to a million clients:
    /// clients, percent adversarial, percent dropping out, degree, threshold.
    #[test]
    fn degrees_and_thresholds_are_those_that_others_published() {
        const CURIOUS: [(u32, u32, u32, u32, u32); 36] = [
            (100, 45, 45, 92, 46),
            (1_000, 45, 45, 822, 417),
            (10_000, 45, 45, 3_494, 1_771),
            (10, 33, 33, 8, 4),
            (100, 33, 33, 68, 34),
            (1_000, 33, 33, 286, 150),
            (10_000, 33, 33, 422, 221),
            (100_000, 33, 33, 480, 251),
            (1_000_000, 33, 33, 518, 270),
            (10, 5, 33, 4, 2),
            (100, 5, 33, 28, 6),
            (1_000, 5, 33, 72, 24),
            (10_000, 5, 33, 86, 29),
            (100_000, 5, 33, 96, 32),
            (10, 33, 5, 4, 4),
            (100, 33, 5, 34, 29),
            (1_000, 33, 5, 78, 60),
            (10_000, 33, 5, 92, 70),
            (100_000, 33, 5, 102, 77),
            (10, 5, 5, 2, 2),
            (100, 5, 5, 12, 6),
            (1_000, 5, 5, 30, 17),
            (10_000, 5, 5, 34, 20),
            (100_000, 5, 5, 36, 21),
            (1_000_000, 5, 5, 38, 22),
            (10, 33, 0, 4, 4),
            (100, 33, 0, 26, 25),
            (1_000, 33, 0, 38, 36),
            (10_000, 33, 0, 42, 40),
            (100_000, 33, 0, 46, 44),
            (10, 0, 33, 4, 2),
            (100, 0, 33, 26, 2),
            (1_000, 0, 33, 38, 2),
            (10_000, 0, 33, 42, 2),
            (100_000, 0, 33, 46, 2),
            (10_000, 0, 0, 2, 2),
        ];
        const SEMI_MALICIOUS: [(u32, u32, u32, u32, u32); 18] = [
            (100, 30, 30, 92, 62),
            (1_000, 30, 30, 872, 584),
            (10_000, 30, 30, 4_822, 3_230),
            (10, 5, 33, 8, 5),
            (100, 5, 33, 72, 39),
            (1_000, 5, 33, 398, 223),
            (10_000, 5, 33, 746, 420),
            (100_000, 5, 33, 882, 496),
            (10, 33, 5, 4, 4),
            (100, 33, 5, 42, 37),
            (1_000, 33, 5, 132, 109),
            (10_000, 33, 5, 178, 146),
            (100, 5, 5, 16, 11),
            (1_000, 5, 5, 52, 37),
            (100, 33, 0, 26, 26),
            (1_000, 33, 0, 38, 37),
            (100, 0, 33, 68, 35),
            (1_000, 0, 33, 228, 115),
        ];
        for (n, c, d, degree, threshold) in CURIOUS {
            let found = find(n, rate(n, c), rate(n, d), curious);
            assert_eq!(found, Some((degree, threshold)), "{n} {c} {d}");
        }
        for (n, c, d, degree, threshold) in SEMI_MALICIOUS {
            let found = find(n, rate(n, c), rate(n, d), semi_malicious);
            assert_eq!(found, Some((degree, threshold)), "semi-malicious {n} {c} {d}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (sites, colluding, missing) in
            [(200, 100, 100), (200, u16::MAX, 1), (0, 0, 0), (150, 74, 75)]
        {
            let infeasible = Infeasible { sites, colluding, missing };
            assert_eq!(Design::find(sites, colluding, missing), Err(infeasible));
        }
        let found = Design::find(300, 60, 60).map(|design| (design.degree(), design.threshold()));
        assert_eq!(found, Ok((74, 41)));
    }
}
