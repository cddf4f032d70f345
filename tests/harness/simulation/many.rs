//! Many seeds, on as many threads as there are cores: one federation on a thread at a time.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::simulation::federation::{Options, Played, play};
use crate::simulation::stage::Counts;

/// Failures after which no further seed is begun: something is broken, and that is clear by now.
const ENOUGH_FAILURES: usize = 20;

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Many {
    /// Seeds that were played.
    pub seeds: u64,
    /// What happened, in numbers.
    pub counts: Counts,
    /// Those in which an invariant did not hold, the lowest seed first.
    pub failures: Vec<Played>,
}

impl Many {
    /// Adds what came of a seed.
    pub fn add(&mut self, played: Played) {
        self.seeds += 1;
        self.counts.add(&played.counts);
        if played.violation.is_some() {
            self.failures.push(played);
        }
    }

    fn join(&mut self, mut other: Self) {
        self.seeds += other.seeds;
        self.counts.add(&other.counts);
        self.failures.append(&mut other.failures);
    }
}

/// Plays so many seeds, from the first on.
#[must_use]
pub fn play_many(first: u64, seeds: u64, options: Options) -> Many {
    let next = AtomicU64::new(0);
    let enough = AtomicBool::new(false);
    let work = || {
        let mut mine = Many::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= seeds || enough.load(Ordering::Relaxed) {
                return mine;
            }
            mine.add(play(first.wrapping_add(number), options));
            if mine.failures.len() >= ENOUGH_FAILURES {
                enough.store(true, Ordering::Relaxed);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let mut all = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = Many::default();
        for thread in running {
            match thread.join() {
                Ok(mine) => all.join(mine),
                // What panics in a federation is caught there; this is none of that.
                Err(panic) => resume_unwind(panic),
            }
        }
        all
    });
    all.failures.sort_by_key(|played| played.seed);
    all
}
