//! Shamir's secret sharing: a secret is cut into shares of which any T give it back, and of which
//! T - 1 say nothing at all (PROTOCOL M-05).
//!
//! The field is the integers modulo 2^252 + 27742317777372353535851937790883648493, the order of
//! the group of Curve25519, for its constant-time implementation. A secret is the constant term of
//! a polynomial of degree T - 1 whose other coefficients are drawn from a seed; holder x has its
//! value at x.
//!
//! Recovery cannot tell right shares from wrong ones, nor too few from enough: what it returns
//! must be compared with a commitment to the secret before it is used (PROTOCOL M-06).
//!
//! Source: [Sha79].
//!
//! [Sha79]: https://doi.org/10.1145/359168.359176

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU16;

use curve25519_dalek::Scalar;
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::transcript::Transcript;

/// A secret element of the field.
#[derive(Debug, PartialEq, Eq)]
pub struct SecretScalar(Secret<32>);

impl SecretScalar {
    /// The element that 64 random bytes stand for, uniform to within 2^-259.
    #[must_use]
    pub fn from_wide(wide: &Secret<64>) -> Self {
        Self::from_scalar(&Zeroizing::new(Scalar::from_bytes_mod_order_wide(wide.expose())))
    }

    /// The element with this canonical encoding, if it is one.
    #[must_use]
    pub fn from_canonical(bytes: Secret<32>) -> Option<Self> {
        let scalar: Option<Scalar> = Scalar::from_canonical_bytes(*bytes.expose()).into();
        scalar.map(|scalar| {
            drop(Zeroizing::new(scalar));
            Self(bytes)
        })
    }

    /// The canonical encoding, 32 bytes, little-endian.
    #[must_use]
    pub const fn secret(&self) -> &Secret<32> {
        &self.0
    }

    fn from_scalar(scalar: &Scalar) -> Self {
        Self(Secret::filled(|bytes| bytes.copy_from_slice(scalar.as_bytes())))
    }

    fn scalar(&self) -> Zeroizing<Scalar> {
        Zeroizing::new(Scalar::from_bytes_mod_order(*self.0.expose()))
    }
}

/// Where on the polynomial a holder's share lies. Never 0, where the secret lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder(NonZeroU16);

impl Holder {
    /// The holder with this number, counted from 1.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    fn scalar(self) -> Scalar {
        Scalar::from(self.get())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What one holder has of a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct Share {
    holder: Holder,
    value: SecretScalar,
}

impl Share {
    /// The share of this holder with this value.
    #[must_use]
    pub const fn new(holder: Holder, value: SecretScalar) -> Self {
        Self { holder, value }
    }

    /// Whose it is.
    #[must_use]
    pub const fn holder(&self) -> Holder {
        self.holder
    }

    /// The polynomial's value.
    #[must_use]
    pub const fn value(&self) -> &SecretScalar {
        &self.value
    }
}

/// Why a secret cannot be shared or recovered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharingError {
    /// The threshold cannot be met, or means nothing.
    #[error("a threshold is 1 to the number of holders, here {holders}; found {threshold}")]
    Threshold {
        /// The threshold found.
        threshold: u16,
        /// The holders there are.
        holders: usize,
    },
    /// One holder twice.
    #[error("each holder has one share; found holder {holder} twice")]
    Repeated {
        /// The holder found twice.
        holder: Holder,
    },
    /// No share at all.
    #[error("a secret is recovered from at least one share; found none")]
    Empty,
    /// Shares of other holders than those that were prepared for.
    #[error(
        "shares are expected of the prepared holders in their order; holder {expected} has none"
    )]
    OtherHolders {
        /// The first holder without its share.
        expected: Holder,
    },
}

impl SharingError {
    /// The rule that was broken.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::Threshold { .. } => "M-05",
            Self::Repeated { .. } | Self::Empty | Self::OtherHolders { .. } => "M-06",
        }
    }
}

fn distinct(holders: &[Holder]) -> Result<(), SharingError> {
    let mut seen = BTreeSet::new();
    match holders.iter().find(|holder| !seen.insert(**holder)) {
        Some(holder) => Err(SharingError::Repeated { holder: *holder }),
        None => Ok(()),
    }
}

/// Cuts a secret into one share for each holder. The seed must be used for this one secret only.
///
/// # Errors
/// When the threshold is 0 or above the number of holders, or a holder is named twice.
pub fn split(
    secret: &SecretScalar,
    threshold: u16,
    holders: &[Holder],
    seed: &Secret<32>,
) -> Result<Vec<Share>, SharingError> {
    if threshold == 0 || usize::from(threshold) > holders.len() {
        return Err(SharingError::Threshold { threshold, holders: holders.len() });
    }
    distinct(holders)?;
    // The highest coefficient first, the secret last: Horner's order.
    let mut polynomial = Zeroizing::new(Vec::with_capacity(threshold.into()));
    for degree in (1..threshold).rev() {
        polynomial.push(*coefficient(seed, degree).scalar());
    }
    polynomial.push(*secret.scalar());
    let share = |holder: &Holder| {
        let x = holder.scalar();
        let mut value = Zeroizing::new(Scalar::ZERO);
        for coefficient in polynomial.iter() {
            *value = *value * x + coefficient;
        }
        Share { holder: *holder, value: SecretScalar::from_scalar(&value) }
    };
    Ok(holders.iter().map(share).collect())
}

fn coefficient(seed: &Secret<32>, degree: u16) -> SecretScalar {
    let mut purpose = Transcript::new("consilium/coefficient/1");
    SecretScalar::from_wide(&seed.derive(purpose.u32(degree.into())))
}

/// What is computed once for a set of holders and then recovers any number of secrets: the value
/// at 0 of each holder's Lagrange polynomial. Nothing in it is secret.
#[derive(Debug, Clone)]
pub struct Recovery {
    weights: Vec<(Holder, Scalar)>,
}

impl Recovery {
    /// Prepares for shares of these holders, of all of them and in this order.
    ///
    /// # Errors
    /// When there is none, or one is named twice.
    pub fn from_holders(holders: &[Holder]) -> Result<Self, SharingError> {
        if holders.is_empty() {
            return Err(SharingError::Empty);
        }
        distinct(holders)?;
        // The weight of x_i is the product of x_j / (x_j - x_i) over all others j, which is the
        // product of all x over x_i times the product of the differences. No denominator is zero,
        // for the holders are distinct and not 0.
        let x: Vec<Scalar> = holders.iter().map(|holder| holder.scalar()).collect();
        let product: Scalar = x.iter().product();
        let denominator = |(i, x_i): (usize, &Scalar)| {
            let others = x.iter().enumerate().filter(|(j, _)| *j != i);
            others.fold(*x_i, |product, (_, x_j)| product * (x_j - x_i))
        };
        let mut inverse: Vec<Scalar> = x.iter().enumerate().map(denominator).collect();
        Scalar::invert_batch_alloc(&mut inverse);
        let weights = inverse.iter().map(|inverse| product * inverse);
        Ok(Self { weights: holders.iter().copied().zip(weights).collect() })
    }

    /// The secret, if these are enough shares of it and all are right; some other element if not.
    ///
    /// # Errors
    /// When these are not the shares of the holders that were prepared for, in their order.
    pub fn recover(&self, shares: &[&Share]) -> Result<SecretScalar, SharingError> {
        let mut shares = shares.iter();
        let mut secret = Zeroizing::new(Scalar::ZERO);
        for (holder, weight) in &self.weights {
            let share = shares.next().filter(|share| share.holder == *holder);
            let share = share.ok_or(SharingError::OtherHolders { expected: *holder })?;
            *secret += *share.value.scalar() * weight;
        }
        match shares.next() {
            Some(extra) => Err(SharingError::OtherHolders { expected: extra.holder }),
            None => Ok(SecretScalar::from_scalar(&secret)),
        }
    }
}

/// Recovers one secret. See [`Recovery`] for several of the same holders.
///
/// # Errors
/// When there is no share, or two of one holder.
pub fn recover(shares: &[&Share]) -> Result<SecretScalar, SharingError> {
    let holders: Vec<Holder> = shares.iter().map(|share| share.holder).collect();
    Recovery::from_holders(&holders)?.recover(shares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::secret::unhex_array;

    const VECTORS: &str = include_str!("../../../tests/vectors/sharing.txt");

    fn holders(n: u16) -> Vec<Holder> {
        (1..=n).filter_map(Holder::new).collect()
    }

    fn secret(byte: u8) -> SecretScalar {
        SecretScalar::from_wide(&Secret::new([byte; 64]))
    }

    fn shares(byte: u8, threshold: u16, n: u16) -> Vec<Share> {
        split(&secret(byte), threshold, &holders(n), &Secret::new([byte + 1; 32]))
            .expect("the threshold is within the holders")
    }

    /// M-05, against another implementation: see the head of the file.
    #[test]
    fn shares_are_those_of_another_implementation() {
        let mut cases = 0;
        for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
            let mut fields = line.split_whitespace();
            let mut next = || fields.next().expect("a line has all its fields");
            let threshold = next().parse().expect("the threshold is a number");
            let secret = SecretScalar::from_wide(&Secret::new(unhex_array(next())));
            let seed = Secret::new(unhex_array(next()));
            assert_eq!(secret.secret().expose(), &unhex_array(next()));
            let (x, y): (Vec<Holder>, Vec<[u8; 32]>) = fields
                .map(|field| {
                    let (x, y) = field.split_once(':').expect("a share is holder:value");
                    let x = x.parse().ok().and_then(Holder::new);
                    (x.expect("a holder is a number from 1"), unhex_array(y))
                })
                .unzip();
            let shares = split(&secret, threshold, &x, &seed).expect("the case is valid");
            for (share, y) in shares.iter().zip(&y) {
                assert_eq!(share.value().secret().expose(), y);
            }
            let all: Vec<&Share> = shares.iter().collect();
            assert_eq!(recover(&all), Ok(secret));
            cases += 1;
        }
        assert!(cases >= 5);
    }

    /// M-06: any T shares do, T - 1 never.
    #[test]
    fn any_threshold_of_shares_recovers_and_one_fewer_does_not() {
        for n in 1..=8_u16 {
            for threshold in 1..=n {
                let shares = shares(9, threshold, n);
                for chosen in 1..1_u32 << n {
                    let some: Vec<&Share> = shares
                        .iter()
                        .filter(|s| chosen >> (s.holder().get() - 1) & 1 == 1)
                        .collect();
                    let right = recover(&some) == Ok(secret(9));
                    assert_eq!(right, chosen.count_ones() >= threshold.into(), "{n} {threshold}");
                }
            }
        }
    }

    #[test]
    fn a_corrupted_share_gives_another_secret_than_was_committed_to() {
        let commitment = Digest::sha256(secret(9).secret().expose());
        let mut shares = shares(9, 3, 5);
        let (good, rest) = shares.split_at_mut(2);
        let corrupted = Share::new(rest[0].holder(), secret(77));
        let recovered =
            recover(&[&good[0], &good[1], &corrupted]).expect("the shares are distinct");
        assert_ne!(Digest::sha256(recovered.secret().expose()), commitment);
    }

    #[test]
    fn recovery_refuses_repeated_missing_and_other_holders() {
        let shares = shares(1, 2, 4);
        let two = Holder::new(2).expect("2 is not 0");
        let repeated = Err(SharingError::Repeated { holder: two });
        assert_eq!(recover(&[&shares[1], &shares[0], &shares[1]]), repeated);
        assert_eq!(recover(&[]), Err(SharingError::Empty));
        let prepared = Recovery::from_holders(&holders(2)).expect("two holders");
        for other in [&[&shares[0]][..], &[&shares[1], &shares[0]], &[&shares[0], &shares[2]]] {
            let refused = prepared.recover(other);
            assert!(matches!(refused, Err(SharingError::OtherHolders { .. })), "{refused:?}");
        }
        let more = prepared.recover(&[&shares[0], &shares[1], &shares[2]]);
        assert!(matches!(more, Err(SharingError::OtherHolders { .. })));
        assert_eq!(prepared.recover(&[&shares[0], &shares[1]]), Ok(secret(1)));
    }

    #[test]
    fn thresholds_and_holders_are_checked_before_anything_is_shared() {
        let seed = Secret::new([0; 32]);
        for threshold in [0, 4] {
            let refused = split(&secret(1), threshold, &holders(3), &seed);
            assert_eq!(refused, Err(SharingError::Threshold { threshold, holders: 3 }));
        }
        let [one, two] = [1, 2].map(|x| Holder::new(x).expect("not 0"));
        let refused = split(&secret(1), 2, &[one, two, one], &seed);
        assert_eq!(refused, Err(SharingError::Repeated { holder: one }));
        assert_eq!(Holder::new(0), None);
    }

    #[test]
    fn only_canonical_encodings_are_elements() {
        // The order itself, little-endian, and everything above it.
        let order = unhex_array("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
        assert_eq!(SecretScalar::from_canonical(Secret::new(order)), None);
        assert_eq!(SecretScalar::from_canonical(Secret::new([0xff; 32])), None);
        let mut below = order;
        below[0] -= 1;
        assert!(SecretScalar::from_canonical(Secret::new(below)).is_some());
    }
}
