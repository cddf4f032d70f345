//! What a round is.
//!
//! Hospitals train one model together: each sends a vector, the coordinator learns the sum. This
//! crate is that protocol and nothing else: state machines that take inputs and give outputs, and
//! the arithmetic under them. It opens no file and no socket, asks no clock, draws no randomness
//! and spawns nothing, so the same inputs at the same moments give the same outputs, byte for byte.
//!
//! **Promised today**, by the numbered rules of `PROTOCOL.md`: a sum is exact and over exactly the
//! hospitals that it names; every hospital that is missing from it is named too; a round below its
//! quorum releases nothing; nothing is counted twice, and nothing is counted for another round or
//! another model. A hospital takes its parameters from the study that it approved, never from a
//! message. The coordinator learns the sum and no update of a hospital, together with up to t
//! hospitals, whoever drops out when. The sum of a private study is differentially private for each
//! patient, and what that costs is counted by each hospital itself; a study without is spelt
//! [`study::Privacy::DangerNone`].
//!
//! **Reading order**: [`study`] and [`message`] say what is agreed and what is said; [`round`] and
//! [`participant`] are one round seen from either end, phase by phase under the same names;
//! [`setup`] is what comes before the first, and [`keys`] and [`masking`] what it makes;
//! [`vector`] and [`evaluation`] are what an update consists of; [`strategy`] is what a sum
//! becomes; [`privacy`] is the noise of private studies, and the account of it.

pub mod architecture;
pub mod charter;
pub mod checkpoint;
pub mod context;
pub mod evaluation;
pub mod ids;
pub mod keys;
pub mod life;
pub mod masking;
pub mod message;
pub mod participant;
pub mod privacy;
pub mod recount;
pub mod refusal;
pub mod round;
pub mod secret;
pub mod setup;
pub mod strategy;
pub mod study;
pub mod transcript;
pub mod units;
pub mod vector;

#[cfg(test)]
mod rehearsal;
