//! Time, as the harness needs it: the only file here that looks at a clock or sleeps.
//!
//! The processes under test live in real time, so a story waits for what it can see from outside,
//! looking often and giving up late. No story is decided by how long a pause was.

#![expect(clippy::disallowed_methods, reason = "the harness's only file that asks for time")]

use std::thread;
use std::time::{Duration, Instant};

use crate::{Outcome, Trouble};

/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a step may take before the story fails; generous, for two loaded cores.
pub const STEP: Duration = Duration::from_secs(60);

/// Looks until `look` sees what it waits for.
///
/// # Errors
/// When `limit` is over, with what was awaited; or as soon as `look` fails.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Outcome<Option<T>>,
) -> Outcome<T> {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look()? {
            return Ok(seen);
        }
        if begun.elapsed() > limit {
            return Err(Trouble::new(format!("waited {} s for {what}", limit.as_secs())));
        }
        thread::sleep(LOOK);
    }
}

/// Lets that much time pass: for spans that are themselves what a story is about.
pub fn pass(span: Duration) {
    thread::sleep(span);
}

/// Seconds that `work` took, and what came of it.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let came = work();
    (came, begun.elapsed())
}
