//! Blur it, count what was spent, and say no.
//!
//! The unit is a patient: all that one hospital holds about one person, present or absent. From
//! wish to wire:
//!
//! - [`plan`] turns what a study asks for into numbers that every site computes for itself;
//! - [`sampling`] tosses each patient's coin;
//! - [`grid`] takes the clipped gradients' sum out of the floats, [`noise`] blurs it;
//! - [`charge`] is what that costs, [`accountant`] adds costs up to an epsilon, and [`ledger`]
//!   remembers them and says when it is enough.
//!
//! Rules `D-..` are in `PROTOCOL-PRIVACY.md`. Seeds are arguments; nothing here asks for
//! randomness. What a study asks for is [`crate::study::PrivacyRules`]; clipping is the trainer's.

pub mod accountant;
pub mod charge;
pub mod grid;
pub mod ledger;
pub mod noise;
pub mod plan;
pub mod sampling;
mod stream;
