//! The one step of a round that takes long: the masks are taken out of the sum, on every core.

use std::num::NonZero;
use std::thread::available_parallelism;

use aggregation::masking::masks::{Masks, Tiles};
use aggregation::refusal::Refusal;
use aggregation::round::{Input, Output, Round};
use aggregation::units::Timestamp;

/// Gives the round an input and, if that recovers the secrets, takes the masks out at once: whoever
/// journals the input keeps with it all that it leads to.
///
/// # Errors
/// What the round refuses.
pub(super) fn step(round: &mut Round, at: Timestamp, input: Input) -> Result<Vec<Output>, Refusal> {
    let mut outputs = round.handle(at, input)?;
    outputs.extend(round.combine(take_out));
    Ok(outputs)
}

/// Masks can be made tile by tile in any order (PROTOCOL M-02), so each core has a part of the
/// lanes to itself.
fn take_out(masks: &Masks, lanes: Tiles<'_>) {
    let cores = available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    std::thread::scope(|scope| {
        let mut parts = lanes.split(cores);
        // The last one is for this thread.
        let own = parts.pop();
        for part in parts {
            scope.spawn(move || masks.apply(part));
        }
        if let Some(part) = own {
            masks.apply(part);
        }
    });
}
