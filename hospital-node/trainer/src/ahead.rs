//! While one batch is computed with, the next is made ready.

use std::sync::mpsc::sync_channel;

/// Makes things on a thread of its own, each while the one before it is used, and uses them in their
/// order. `make` is given what hands a thing over; it says no once nobody takes any more, which is
/// when a use has failed.
///
/// # Errors
/// The first failure of a use, or else that of the making, after what was made before it was used.
pub fn ahead<T: Send, E: Send>(
    make: impl FnOnce(&mut dyn FnMut(T) -> bool) -> Result<(), E> + Send,
    mut used: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    std::thread::scope(|scope| {
        // Without room between them: at most one is ready while another is used.
        let (give, take) = sync_channel(0);
        let making = scope.spawn(move || make(&mut |thing| give.send(thing).is_ok()));
        // Taken by value: when a use fails, nobody is left to take.
        let outcome = take.into_iter().try_for_each(&mut used);
        match making.join() {
            Ok(made) => outcome.and(made),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn things_are_used_in_order_and_at_most_one_waits() {
        let (made, mut seen) = (AtomicUsize::new(0), Vec::new());
        let outcome: Result<(), ()> = ahead(
            |give| {
                for thing in 0..50 {
                    made.fetch_add(1, Ordering::SeqCst);
                    assert!(give(thing));
                }
                Ok(())
            },
            |thing: usize| {
                assert!(made.load(Ordering::SeqCst) <= thing + 2);
                seen.push(thing);
                Ok(())
            },
        );
        assert_eq!(outcome, Ok(()));
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_use_that_fails_ends_the_making() {
        let endless = |give: &mut dyn FnMut(usize) -> bool| {
            let mut thing = 0;
            while give(thing) {
                thing += 1;
            }
            Ok(())
        };
        let used = |thing| if thing == 3 { Err("full") } else { Ok(()) };
        assert_eq!(ahead(endless, used), Err("full"));
    }

    #[test]
    fn what_was_made_before_a_failure_is_used() {
        let mut seen = 0;
        let making = |give: &mut dyn FnMut(usize) -> bool| {
            assert!(give(1) && give(2));
            Err("gone")
        };
        let outcome = ahead(making, |thing| {
            seen += thing;
            Ok(())
        });
        assert_eq!((outcome, seen), (Err("gone"), 3));
    }
}
