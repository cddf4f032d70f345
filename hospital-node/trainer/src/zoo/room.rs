//! How much is computed at once: bounded everywhere, and on a device with memory of its own less
//! whenever that runs out.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Device;

use super::BackendFault;

/// How many images, or patients, go through a network at once.
#[derive(Debug)]
pub(super) struct Room {
    most: AtomicUsize,
    /// Where memory may run out.
    on: Option<Device>,
}

impl Room {
    /// At most so many at once. `on` a device with memory of its own, a pass that fails is tried again
    /// with about half as many, for a device whose memory is full says so in the middle of a pass, and
    /// no sooner; what went through then is the most from there on.
    pub(super) const fn new(most: usize, on: Option<Device>) -> Self {
        Self { most: AtomicUsize::new(most), on }
    }

    /// Calls `pass` with one range after the other until all are done.
    ///
    /// # Errors
    /// The first that halving did not help against.
    pub(super) fn passes(
        &self,
        all: usize,
        mut pass: impl FnMut(Range<usize>) -> Result<(), BackendFault>,
    ) -> Result<(), BackendFault> {
        let mut from = 0;
        while from < all {
            let size = self.most.load(Ordering::Relaxed).clamp(1, all - from);
            let Some(device) = &self.on else {
                pass(from..from + size)?;
                from += size;
                continue;
            };
            // Some drivers' faults come as panics. Nothing of a pass that was broken off is kept.
            let outcome = catch_unwind(AssertUnwindSafe(|| pass(from..from + size)))
                .unwrap_or(Err(BackendFault("an end to a pass")));
            match outcome {
                Ok(()) => from += size,
                Err(_) if size > 1 => {
                    // Powers of two: kernels are compiled for few sizes.
                    let most = size.next_power_of_two() / 2;
                    self.most.fetch_min(most, Ordering::Relaxed);
                    // Without a size, which tells how many patients were drawn (PROTOCOL D-17).
                    tracing::warn!("a pass failed on the device: smaller ones from here on");
                    // Another pass' leavings may be what is in the way.
                    let _ = catch_unwind(AssertUnwindSafe(|| device.memory_cleanup()));
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device with room for so many, and how it says that there is no more.
    fn run(room: &Room, all: usize, fits: usize, panics: bool) -> Result<Vec<usize>, BackendFault> {
        let mut done = Vec::new();
        room.passes(all, |range| {
            if range.len() > fits {
                assert!(!panics, "out of memory");
                return Err(BackendFault("memory"));
            }
            done.extend(range);
            Ok(())
        })?;
        Ok(done)
    }

    #[test]
    fn a_pass_that_does_not_fit_is_halved_until_it_does() {
        let everything: Vec<usize> = (0..100).collect();
        for panics in [false, true] {
            let room = Room::new(32, Some(Device::flex()));
            assert_eq!(run(&room, 100, 5, panics).expect("it fits in fours"), everything);
            assert_eq!(room.most.load(Ordering::Relaxed), 4);
            assert_eq!(run(&room, 100, 4, panics).expect("and is remembered"), everything);
            assert!(run(&room, 100, 0, panics).is_err(), "not even one fits");
        }
    }

    #[test]
    fn what_is_logged_of_a_halved_pass_has_no_number() {
        let log = tempfile::NamedTempFile::new().expect("a scratch file");
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_ansi(false)
            .with_writer(log.reopen().expect("open"))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let room = Room::new(29, Some(Device::flex()));
            assert!(run(&room, 29, 7, false).is_ok());
        });
        let text = std::fs::read_to_string(log.path()).expect("text");
        assert!(text.contains("smaller ones"), "{text}");
        assert!(!text.contains(|letter: char| letter.is_ascii_digit()), "{text}");
    }

    #[test]
    fn a_room_that_does_not_adapt_gives_the_fault_at_once() {
        let room = Room::new(32, None);
        assert_eq!(run(&room, 100, 32, false).expect("it fits").len(), 100);
        assert!(run(&room, 100, 31, false).is_err());
        assert_eq!(room.most.load(Ordering::Relaxed), 32);
    }
}
