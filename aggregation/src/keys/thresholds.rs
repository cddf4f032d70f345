//! How many hospitals it takes: n provisioned, t of whom may collude with the coordinator, T to
//! share and to sign, m to release (PROTOCOL M-21 to M-23).
//!
//! `T = floor((n + t) / 2) + 1`. Then two different final sets cannot both collect T signatures
//! unless an honest hospital signs twice, and a coordinator with t colluders never collects T
//! shares of both secrets of one hospital: honest ones give at most n - t shares in all, colluders
//! at most 2 t, and 2 T > n + t.
//!
//! Source: [BIK+17], against an active server; the same rule for a full graph is in
//! [google-parfait/federated-compute], `CheckFullGraphParameters`, for its semi-malicious server.
//!
//! [BIK+17]: https://doi.org/10.1145/3133956.3133982
//! [google-parfait/federated-compute]: https://github.com/google-parfait/federated-compute

use crate::vector::MAX_SITES;

/// Thresholds that hold together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    provisioned: u16,
    colluding: u16,
    least: u16,
    shares: u16,
}

/// Thresholds under which an update could be seen, or no round could ever end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadThresholds {
    /// One or two hospitals.
    #[error(
        "a sum is released for at least 3 hospitals; found {provisioned}: a sum of two tells each the other's update"
    )]
    TooFew {
        /// The hospitals there are.
        provisioned: u16,
    },
    /// More colluders than can be defended against.
    #[error(
        "with {colluding} of {provisioned} hospitals colluding, {shares} would have to share and sign; there are {provisioned}"
    )]
    TooManyColluding {
        /// The hospitals there are.
        provisioned: u16,
        /// Those that may collude.
        colluding: u16,
        /// T.
        shares: u32,
    },
    /// A final set that is too small to hide in or to be signed, or that there are not hospitals for.
    #[error(
        "the smallest final set is {least_allowed} to {provisioned} hospitals (3, {colluding} colluding + 2, T = {shares}); found {least}"
    )]
    FinalSet {
        /// The hospitals there are.
        provisioned: u16,
        /// Those that may collude.
        colluding: u16,
        /// T.
        shares: u16,
        /// The smallest m.
        least_allowed: u16,
        /// The m found.
        least: u16,
    },
}

impl BadThresholds {
    /// The rule that was broken.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::TooFew { .. } => "M-21",
            Self::TooManyColluding { .. } => "M-22",
            Self::FinalSet { .. } => "M-23",
        }
    }
}

impl Thresholds {
    /// Thresholds for n provisioned hospitals, t of whom may collude with the coordinator, and
    /// final sets of at least m.
    ///
    /// # Errors
    /// When n is below 3 (M-21), T would be above n (M-22), or m is below 3, t + 2 or T, or above
    /// n (M-23).
    pub fn new(provisioned: u16, colluding: u16, least: u16) -> Result<Self, BadThresholds> {
        if provisioned < 3 {
            return Err(BadThresholds::TooFew { provisioned });
        }
        let wide = (u32::from(provisioned) + u32::from(colluding)) / 2 + 1;
        let shares = u16::try_from(wide).ok().filter(|shares| *shares <= provisioned);
        let Some(shares) = shares else {
            return Err(BadThresholds::TooManyColluding { provisioned, colluding, shares: wide });
        };
        // T at most n bounds t: the sum cannot wrap.
        let least_allowed = shares.max(3).max(colluding + 2);
        if !(least_allowed..=provisioned).contains(&least) {
            return Err(BadThresholds::FinalSet {
                provisioned,
                colluding,
                shares,
                least_allowed,
                least,
            });
        }
        Ok(Self { provisioned, colluding, least, shares })
    }

    /// n: the hospitals of the charter, online or not.
    #[must_use]
    pub const fn provisioned(&self) -> u16 {
        self.provisioned
    }

    /// t: those that may collude with the coordinator.
    #[must_use]
    pub const fn colluding(&self) -> u16 {
        self.colluding
    }

    /// m: the smallest final set.
    #[must_use]
    pub const fn least(&self) -> u16 {
        self.least
    }

    /// T: shares that recover a secret where everyone holds one, and signatures that a final set
    /// needs in any case.
    #[must_use]
    pub const fn shares(&self) -> u16 {
        self.shares
    }

    /// h: honest hospitals in any final set.
    #[must_use]
    pub const fn honest(&self) -> u16 {
        self.least - self.colluding
    }
}

const _: () = assert!(MAX_SITES == u16::MAX as usize, "hospitals are counted in 16 bits");

#[cfg(test)]
mod tests {
    use super::*;

    /// The table that the protocol was decided with: n, t, T, m, and how many may go missing
    /// between upload and unmasking.
    #[test]
    fn thresholds_are_those_of_the_table() {
        let table = [
            (3, 1, 3, 3, 0),
            (4, 1, 3, 3, 1),
            (5, 1, 4, 4, 1),
            (7, 2, 5, 5, 2),
            (10, 2, 7, 8, 3),
            (30, 6, 19, 24, 11),
            (100, 20, 61, 80, 39),
        ];
        for (n, t, shares, m, spare) in table {
            let thresholds = Thresholds::new(n, t, m).expect("the table holds together");
            assert_eq!(thresholds.shares(), shares);
            assert_eq!(n - shares, spare);
            assert_eq!(thresholds.honest(), m - t);
            assert_eq!((thresholds.provisioned(), thresholds.colluding()), (n, t));
        }
    }

    /// M-22 and M-23, by their reasons and not by their formula.
    #[test]
    fn no_two_sets_and_no_two_secrets_can_both_reach_the_threshold() {
        for n in 3..=60_u32 {
            for t in 0..n {
                for m in 0..=n {
                    let [n16, t16, m16] = [n, t, m].map(|x| u16::try_from(x).expect("small"));
                    let Ok(thresholds) = Thresholds::new(n16, t16, m16) else { continue };
                    let shares = u32::from(thresholds.shares());
                    // Honest hospitals sign one set or give one kind of share; colluders both.
                    assert!((n - t) + 2 * t < 2 * shares);
                    assert!(shares <= m && m <= n, "a smallest final set can sign and unmask");
                    assert!(m >= t + 2, "an honest hospital is never alone among colluders");
                }
            }
        }
    }

    #[test]
    fn thresholds_that_protect_nobody_are_refused_by_their_rule() {
        let rule = |n, t, m| Thresholds::new(n, t, m).map_err(|e| e.rule());
        // M-21
        let two = Thresholds::new(2, 0, 2).map_err(|e| e.to_string());
        assert!(two.is_err_and(|text| text.contains("a sum of two tells each the other's update")));
        for n in 0..3 {
            assert_eq!(rule(n, 0, 3), Err("M-21"));
        }
        // M-22
        assert_eq!(rule(3, 3, 3), Err("M-22"));
        assert_eq!(rule(10, 10, 10), Err("M-22"));
        assert_eq!(rule(u16::MAX, u16::MAX, u16::MAX), Err("M-22"));
        // M-23: T could be reached, but one honest hospital would be alone among colluders.
        assert_eq!(rule(3, 2, 3), Err("M-23"));
        assert_eq!(rule(10, 9, 10), Err("M-23"));
        for m in [0, 1, 2, 6, 11] {
            assert_eq!(rule(10, 2, m), Err("M-23"), "{m}");
        }
        assert_eq!(rule(4, 0, 2), Err("M-23"));
        assert!(rule(3, 0, 3).is_ok());
    }
}
