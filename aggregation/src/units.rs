//! How much and when: quantities that are checked once, where they are made.

use std::fmt;
use std::time::Duration;

/// A moment: milliseconds since the Unix epoch, UTC. Always an argument, never asked for here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment so many milliseconds after the epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The moment `later` after this one, or none past the end of time.
    #[must_use]
    pub fn checked_add(self, later: Duration) -> Option<Self> {
        let millis = u64::try_from(later.as_millis()).ok()?;
        self.0.checked_add(millis).map(Self)
    }

    /// The moment `later` after this one, at most the end of time.
    #[must_use]
    pub fn saturating_add(self, later: Duration) -> Self {
        self.checked_add(later).unwrap_or(Self(u64::MAX))
    }

    /// How long this moment is after `earlier`; nothing if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// A quantity outside of what its kind allows.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{unit} must be {allowed}; found {found}")]
pub struct OutOfRange {
    /// What it was to be.
    pub unit: &'static str,
    /// What is allowed.
    pub allowed: &'static str,
    /// What was found.
    pub found: f64,
}

macro_rules! quantity {
    ($(#[$about:meta])* $name:ident, $unit:literal, $allowed:literal, $test:expr) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
        pub struct $name(f64);

        impl $name {
            #[doc = concat!("Takes a value that is ", $allowed, ".")]
            ///
            /// # Errors
            /// When the value is anything else, or not a number.
            pub fn new(value: f64) -> Result<Self, OutOfRange> {
                let test: fn(f64) -> bool = $test;
                if value.is_finite() && test(value) {
                    Ok(Self(value))
                } else {
                    Err(OutOfRange { unit: $unit, allowed: $allowed, found: value })
                }
            }

            /// The value.
            #[must_use]
            pub const fn get(self) -> f64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

quantity!(
    /// The privacy loss bound of (epsilon, delta)-differential privacy.
    Epsilon, "epsilon", "above 0 and finite", |v| v > 0.0
);
quantity!(
    /// The failure probability of (epsilon, delta)-differential privacy.
    Delta, "delta", "above 0 and below 1", |v| v > 0.0 && v < 1.0
);
quantity!(
    /// The greatest L2 norm that one patient's gradient may have.
    ClipNorm, "the clipping norm", "above 0 and finite", |v| v > 0.0
);
quantity!(
    /// The probability with which a patient takes part in a step.
    SamplingRate, "the sampling rate", "above 0 and at most 1", |v| v > 0.0 && v <= 1.0
);
quantity!(
    /// The noise's standard deviation as a multiple of the clipping norm.
    NoiseMultiplier, "the noise multiplier", "above 0 and finite", |v| v > 0.0
);

/// A count as a real number.
#[expect(
    clippy::cast_precision_loss,
    reason = "counters stay below 2^48, and f64 is exact to 2^53"
)]
pub(crate) const fn real(count: u64) -> f64 {
    count as f64
}

/// A length as a count. `as`, because `try_from` is not const; no target has a wider `usize`.
pub(crate) const fn count(length: usize) -> u64 {
    length as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_add_and_subtract_without_wrapping() {
        let noon = Timestamp::from_millis(1_000);
        let later = noon.saturating_add(Duration::from_millis(250));
        assert_eq!(later.as_millis(), 1_250);
        assert_eq!(later.since(noon), Duration::from_millis(250));
        assert_eq!(noon.since(later), Duration::ZERO);
        assert_eq!(noon.checked_add(Duration::MAX), None);
        assert_eq!(noon.saturating_add(Duration::MAX).as_millis(), u64::MAX);
    }

    #[test]
    fn quantities_refuse_what_they_cannot_be() {
        assert!(Epsilon::new(3.0).is_ok_and(|e| e.to_string() == "3"));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Epsilon::new(bad).is_err());
            assert!(ClipNorm::new(bad).is_err());
            assert!(NoiseMultiplier::new(bad).is_err());
            assert!(Delta::new(bad).is_err());
            assert!(SamplingRate::new(bad).is_err());
        }
        assert!(Delta::new(1.0).is_err());
        assert!(SamplingRate::new(1.0).is_ok());
        assert_eq!(
            SamplingRate::new(1.5).map_err(|e| e.to_string()),
            Err("the sampling rate must be above 0 and at most 1; found 1.5".to_owned())
        );
    }
}
