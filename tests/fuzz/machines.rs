//! The state machines, fed with anything at all: true words at the wrong time, words that were
//! turned round, and noise.

pub(crate) mod participant;
pub(crate) mod round;
pub(crate) mod setup;

mod house;
mod party;

pub(crate) use house::House;
