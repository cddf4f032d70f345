//! `hospital-node`: guards one hospital's data. It speaks with the coordinator, keeps to this
//! house's policy, and has a trainer do the work; it never sees a record itself.
//!
//! Reading order: [`config`], [`policy`], [`identity`], [`journal`], then [`driver`] with [`link`]
//! on its one side and [`worker`] on its other.

mod cli;
mod clock;
mod config;
mod cpu;
mod driver;
mod entropy;
mod identity;
mod journal;
mod link;
mod policy;
mod proposal;
mod purse;
mod state;
mod syslog;
mod telemetry;
mod witness;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
