//! The arithmetic of updates, knowing nothing of rounds: floats end in [`fixed_point`], and past
//! it there are only elements of the [`group`].

pub mod fixed_point;
pub mod group;
pub mod keystream;
pub mod masks;
pub mod sharing;
