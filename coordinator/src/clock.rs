//! The only file of this program that asks the machine for the time.
//!
//! Everything else is handed a [`Timestamp`], so that rules about time can be tested without waiting.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aggregation::units::Timestamp;
use tokio::sync::watch;

/// The time by this machine's clock. A clock before 1970 reads as 1970.
#[expect(clippy::disallowed_methods, reason = "this is the file that may ask")]
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The clock by which studies are driven. A test can put it forward: a deadline then passes when the
/// test says so, and not because the machine was busy.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// How far it is put forward: nothing, outside of tests.
    ahead: watch::Sender<Duration>,
}

impl Clock {
    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        now().saturating_add(*self.ahead.borrow())
    }

    /// Waits until `moment`; at once if it has passed, for ever if there is none.
    pub(crate) async fn wait_until(&self, moment: Option<Timestamp>) {
        let Some(moment) = moment else { return std::future::pending().await };
        let mut ahead = self.ahead.subscribe();
        while moment > self.now() {
            tokio::select! {
                () = wait_for(moment.since(self.now())) => {}
                _ = ahead.changed() => {}
            }
        }
    }

    /// Puts the clock forward, for whoever waits too.
    #[cfg(test)]
    pub(crate) fn put_forward(&self, by: Duration) {
        self.ahead.send_modify(|ahead| *ahead += by);
    }
}

/// Waits for `span`.
pub(crate) async fn wait_for(span: Duration) {
    tokio::time::sleep(span).await;
}

/// A moment as people write it: RFC 3339, UTC, whole seconds.
pub(crate) fn written(moment: Timestamp) -> String {
    let since = Duration::from_millis(moment.as_millis());
    match UNIX_EPOCH.checked_add(since) {
        // The formatter's last year is 9999.
        Some(time) if moment.as_millis() < 253_402_300_800_000 => {
            humantime::format_rfc3339_seconds(time).to_string()
        }
        Some(_) | None => format!("{} ms after 1970", moment.as_millis()),
    }
}
