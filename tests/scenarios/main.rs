//! Stories about whole federations, each told with the real programs.

mod archive;
mod canaries;
mod command_line;
mod data;
mod demo;
mod determinism;
mod disk;
mod evidence;
mod fuzz;
mod house;
mod identity;
mod log;
mod manifests;
mod masked;
mod one_round;
mod private;
#[path = "../../proto/transparency/tests/log/python.rs"]
mod python;
mod pytorch;
mod recompute;
mod restart;
mod rosters;
mod rotation;
mod secrets;
mod segmentation;
mod shared_data;
mod simulation;
mod syslog;
mod wire;
mod x_rays;
