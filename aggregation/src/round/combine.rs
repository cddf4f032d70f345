//! The secrets are recovered. What is left is arithmetic: the masks are taken out of the sum, and
//! the sum is looked at before it leaves.

use std::sync::Arc;

use crate::masking::keystream::KeyedMask;
use crate::masking::masks::{Masks, Tiles};
use crate::message::{Abandoned, Said};
use crate::refusal::Refusal;
use crate::round::mask::Mask;
use crate::round::{Input, Output, Round, Step};

/// The masks are known.
#[derive(Debug, Clone)]
pub struct Combine {
    pub(super) mask: Mask,
    masks: Arc<Masks>,
    /// The same by their keys, for whoever keeps the round.
    recovered: Arc<[KeyedMask]>,
}

impl Combine {
    pub(super) const NAME: &'static str = "combine";

    pub(super) fn open(mask: Mask, recovered: Vec<KeyedMask>, outputs: Vec<Output>) -> Step {
        let modulus = mask.attempt().plan.format.modulus();
        let masks = Arc::new(Masks::new(modulus, recovered.iter().map(KeyedMask::mask)));
        let next = Round::Combine(Self { mask, masks, recovered: recovered.into() });
        Step { outputs, next: Some(next) }
    }

    pub(super) fn handle(&mut self, input: Input) -> Result<Step, Refusal> {
        match input {
            Input::Said { from, said } => {
                self.mask.attempt().admit(&from, &said)?;
                match said {
                    // Enough have signed and answered; what comes now is not needed.
                    Said::Signed { .. } | Said::Unmask { .. } => Ok(Step::stay(Vec::new())),
                    Said::Ready { .. } | Said::Declined { .. } | Said::Update { .. } => {
                        self.mask.answer(&from, &said).map(|()| Step::stay(Vec::new()))
                    }
                }
            }
            Input::Stop { reason } => Ok(self.mask.abandon(Abandoned::Stopped(reason))),
            Input::Deadline | Input::Resumed | Input::Removed { .. } | Input::Lost { .. } => {
                Ok(Step::stay(Vec::new()))
            }
        }
    }

    /// Takes the masks out and ends the round.
    pub(super) fn combine(&mut self, how: impl FnOnce(&Masks, Tiles<'_>)) -> Step {
        how(&self.masks, self.mask.tiles());
        self.mask.release(&self.recovered)
    }
}
