//! The only file of this program that asks the machine for the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aggregation::units::Timestamp;

/// The present moment, UTC. A machine set before 1970 reads as 1970; `doctor` and the coordinator's
/// greeting tell its administrator.
#[must_use]
pub(crate) fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the file that asks")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A moment as people and log files write it, or its bare milliseconds where no calendar reaches.
#[must_use]
pub(crate) fn rfc3339(at: Timestamp) -> String {
    UNIX_EPOCH
        .checked_add(Duration::from_millis(at.as_millis()))
        .filter(|_| at.as_millis() < 253_402_300_800_000)
        .map_or_else(
            || format!("{} ms", at.as_millis()),
            |moment| humantime::format_rfc3339_seconds(moment).to_string(),
        )
}
