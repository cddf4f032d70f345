//! A moment in UTC as leaves spell it: RFC 3339 with milliseconds and `Z`, one spelling each.

use std::fmt;
use std::str::FromStr;

const DAY: u64 = 86_400_000;

/// The first moment of the year 10000, which has no spelling.
const END: u64 = 253_402_300_800_000;

/// Milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UtcTime(u64);

/// Not a moment between the years 1970 and 9999 in the one spelling.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a time like 2026-11-22T08:30:00.000Z, found {0:?}")]
pub struct NotATime(String);

impl UtcTime {
    /// A moment by its milliseconds since 1970; `None` after the year 9999.
    #[must_use]
    pub fn from_millis(millis: u64) -> Option<Self> {
        (millis < END).then_some(Self(millis))
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        self.0
    }
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, rest) = (self.0 / DAY, self.0 % DAY);
        // Counted from March, the leap day is the last of its year and months have a formula.
        let from_march = days + 719_468;
        let era = from_march / 146_097;
        let day_of_era = from_march % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
        let (second, milli) = (rest / 1_000 % 60, rest % 1_000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

impl FromStr for UtcTime {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        let read = || {
            let number = |from: usize, to: usize| -> Option<u64> {
                let digits = text.get(from..to)?;
                digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
            };
            let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
            if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
                return None;
            }
            let (year, march_month) =
                if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
            let (era, year_of_era) = (year / 400, year % 400);
            let day_of_year = (153 * march_month + 2) / 5 + day - 1;
            let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
            let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
            let (hour, minute) = (number(11, 13)?, number(14, 16)?);
            let (second, milli) = (number(17, 19)?, number(20, 23)?);
            let rest = ((hour * 60 + minute) * 60 + second) * 1_000 + milli;
            // Whatever is out of range or wrongly punctuated is written otherwise.
            Self::from_millis(days * DAY + rest).filter(|time| time.to_string() == text)
        };
        read().ok_or_else(|| NotATime(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_spelt_right() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_679_315_147_000, "2023-03-20T12:25:47.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (END - 1, "9999-12-31T23:59:59.999Z"),
        ] {
            let time = UtcTime::from_millis(millis).expect("within range");
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse(), Ok(time));
        }
        assert_eq!(UtcTime::from_millis(END), None);
    }

    #[test]
    fn every_day_is_read_as_it_is_written() {
        for day in (0..END / DAY).step_by(17) {
            let time = UtcTime::from_millis(day * DAY + day % DAY).expect("within range");
            assert_eq!(time.to_string().parse(), Ok(time));
        }
    }

    #[test]
    fn another_spelling_is_refused() {
        for wrong in [
            "",
            "2026-11-22",
            "2026-11-22T08:30:00Z",
            "2026-11-22T08:30:00.000+00:00",
            "2026-11-22t08:30:00.000z",
            "2026-11-22 08:30:00.000Z",
            "2026-02-29T08:30:00.000Z",
            "2026-04-31T08:30:00.000Z",
            "2026-13-01T08:30:00.000Z",
            "2026-11-22T24:00:00.000Z",
            "2026-11-22T08:60:00.000Z",
            "2026-11-22T08:30:60.000Z",
            "2026-11-22T08:30:00.0000Z",
            "1969-12-31T23:59:59.999Z",
            "+026-11-22T08:30:00.000Z",
        ] {
            assert!(wrong.parse::<UtcTime>().is_err(), "{wrong:?}");
        }
    }
}
