//! What the processor itself counts: CPU time of single threads, so that a loaded machine measures
//! about what an idle one does.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time, user and system, that the thread that asks has had so far.
pub(crate) fn of_this_thread() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    // The clock begins at zero with the thread and is normalised: neither conversion can fail.
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// CPU seconds that `work` took on this thread, and what came of it.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begun = of_this_thread();
    let came = work();
    (came, of_this_thread().saturating_sub(begun).as_secs_f64())
}

/// Does each piece of work on a thread of its own, all at once, and says how many CPU seconds the
/// slowest took.
pub(crate) fn together<W: FnOnce() + Send>(works: Vec<W>) -> f64 {
    let start = Barrier::new(works.len());
    let run = |work: W| {
        start.wait();
        timed(work).1
    };
    thread::scope(|scope| {
        let threads: Vec<_> = works.into_iter().map(|work| scope.spawn(|| run(work))).collect();
        let seconds = threads.into_iter().filter_map(|thread| thread.join().ok());
        seconds.fold(0.0, f64::max)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_all_threads_counts_and_only_its_own_work() {
        let spin = |times: u64| move || (0..times).for_each(|turn| _ = std::hint::black_box(turn));
        let short = together(vec![spin(1_000)]);
        let long = together(vec![spin(1_000), spin(20_000_000), spin(1_000)]);
        assert!(long > short, "{long} s for much, {short} s for little");
        let idle = timed(|| together(vec![spin(20_000_000)])).1;
        assert!(idle < long, "another thread's work counted here: {idle} s");
    }
}
