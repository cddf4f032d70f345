//! Who trains: the only place where a hospital's records are seen.
//!
//! The agent starts this program and speaks with it over stdin and stdout. It gives up the network
//! ([`confine`]) before it opens the first record, reads a data set ([`dataset`]), prepares its
//! images as the study declares ([`preprocess`]), trains a model of the compiled-in zoo ([`zoo`],
//! [`step`]; [`noised`] in a private study; [`views`] of augmented images, made [`ahead`]) and scores it
//! ([`evaluate`], [`surface`]), and gives back lanes of fixed-point integers. No float of an update leaves the process ([`serve`]).
//!
//! Beside that it checks data sets for the administrator ([`dataset::scan`], [`show`]) and makes
//! data to try things with ([`synthetic`], [`split`]).

pub mod ahead;
pub mod backend;
pub mod confine;
pub mod dataset;
pub mod entropy;
pub mod evaluate;
pub mod memory;
pub mod noised;
pub mod preprocess;
pub mod random;
pub mod scattering;
pub mod serve;
pub mod show;
pub mod split;
pub mod step;
pub mod surface;
pub mod synthetic;
pub mod views;
pub mod zoo;
