//! Whole federations of the real state machines, each decided by one number.
//!
//! A seed says how many hospitals there are and how many of them have to be in a sum; what the
//! network loses, doubles, delays and reorders; who crashes at which write and starts again from
//! what was written; who vanishes in the middle of a round; and who means ill. Hospitals and
//! coordinator are the machines of `aggregation` with as little around them as a shell needs, and
//! the watch sees everything that leaves any of them. After every step the invariants hold, or the
//! seed is printed, and plays the same federation again, line by line.

pub mod flaw;

mod cast;
mod chance;
mod coordinator;
mod disk;
mod evil;
mod federation;
mod hospital;
mod many;
mod mischief;
mod ready;
mod scenario;
mod spoil;
mod stage;
mod trace;
mod watch;
mod words;

pub use federation::{Options, Played, play};
pub use many::{Many, play_many};
pub use scenario::Ill;
pub use stage::Counts;
pub use watch::{Invariant, Violation};
