//! Stories about whole federations, each told with the real programs.

mod command_line;
mod data;
mod determinism;
mod disk;
mod house;
mod identity;
mod log;
mod manifests;
mod masked;
mod one_round;
mod restart;
mod secrets;
mod simulation;
mod wire;
