//! The harness: plays whole federations from the outside.
//!
//! The programs that hospitals and operators run are started as they are, each its own process,
//! over mTLS on loopback, and driven through their command lines. Only [`player`] speaks the wire
//! itself, to say what an honest program never would. [`simulation`] plays federations of another
//! kind: the state machines alone, thousands of them, each decided by a seed. Whatever is started here is ended here:
//! every process dies with the value that stands for it, every folder with its consortium.

pub mod canaries;
pub mod collector;
pub mod command;
pub mod consortium;
pub mod data;
pub mod forge;
/// What is fuzzed; a workspace of its own builds the same files for `cargo fuzz`.
#[path = "../fuzz/bodies.rs"]
pub mod fuzz;
pub mod manifests;
pub mod patience;
pub mod player;
pub mod proc;
pub mod programs;
pub mod relay;
pub mod rfc5424;
pub mod running;
pub mod simulation;
pub mod site;
pub mod stand_in;
pub mod study;
pub mod trouble;

pub use self::trouble::{Outcome, Trouble};
