//! What hospitals know each other by, and the secrets they mask with: made once per study, used
//! once per slot.
//!
//! In the order of a study's life: every hospital has an [`identity`] that the others pinned; it
//! [`announce`]s a key for agreement, and each pair agrees on a root; from the root grows a
//! [`chain`] that gives one seed per slot and forgets the last; the [`graph`] says who is whose
//! neighbour; and with its [`slots`] a hospital leaves, sealed with its neighbours, what it takes
//! to finish a round without it. The [`thresholds`] say how many of them that takes. With the key
//! of [`witness`] it cosigns the log.

pub mod announce;
pub mod chain;
pub mod graph;
pub mod identity;
pub mod provision;
pub mod roll;
pub mod slots;
pub mod thresholds;
pub mod witness;
