//! The one step of a round that takes long: the masks are taken out of the sum, on every core.

use std::num::NonZero;
use std::thread::available_parallelism;

use aggregation::masking::group::Modulus;
use aggregation::masking::keystream::{self, Mask, TILE_LANES};
use aggregation::refusal::Refusal;
use aggregation::round::{Input, Output, Round};
use aggregation::units::Timestamp;

/// Tiles that are worth a thread of their own.
const LEAST_TILES: usize = 8;

/// Gives the round an input and, if that recovers the secrets, takes the masks out at once: whoever
/// journals the input keeps with it all that it leads to.
///
/// # Errors
/// What the round refuses.
pub(super) fn step(round: &mut Round, at: Timestamp, input: Input) -> Result<Vec<Output>, Refusal> {
    let mut outputs = round.handle(at, input)?;
    let threads = available_parallelism().map_or(1, NonZero::get);
    outputs.extend(round.combine(|masks, modulus, lanes| take_out(masks, modulus, lanes, threads)));
    Ok(outputs)
}

/// Masks can be made tile by tile in any order (PROTOCOL M-02), so each thread has a part of the
/// lanes to itself.
fn take_out(masks: &[Mask], modulus: Modulus, lanes: &mut [u32], threads: usize) {
    let tiles = lanes.len().div_ceil(TILE_LANES);
    let part = tiles.div_ceil(threads.max(1)).max(LEAST_TILES);
    std::thread::scope(|scope| {
        let mut first = 0_u32;
        let mut parts = lanes.chunks_mut(part * TILE_LANES).peekable();
        while let Some(lanes) = parts.next() {
            let begin = first;
            // No sum has as many lanes as tiles can be numbered for.
            first = u32::try_from(part).map_or(u32::MAX, |part| first.saturating_add(part));
            if parts.peek().is_none() {
                keystream::apply(masks, modulus, begin, lanes);
            } else {
                scope.spawn(move || keystream::apply(masks, modulus, begin, lanes));
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use aggregation::masking::keystream::{MaskKey, Sign};
    use aggregation::secret::Secret;

    use super::*;

    #[test]
    fn however_many_threads_take_the_masks_out_the_sum_is_the_same() {
        let mask = |byte, sign| Mask::new(&MaskKey::new(Secret::new([byte; 32])), sign);
        let masks = [mask(1, Sign::Add), mask(2, Sign::Subtract)];
        for lanes in [1, TILE_LANES, 40 * TILE_LANES + 17] {
            let mut alone = vec![7; lanes];
            keystream::apply(&masks, Modulus::Bits32, 0, &mut alone);
            for threads in [1, 2, 3, 64] {
                let mut together = vec![7; lanes];
                take_out(&masks, Modulus::Bits32, &mut together, threads);
                assert_eq!(alone, together, "{lanes} lanes on {threads} threads");
            }
        }
    }
}
