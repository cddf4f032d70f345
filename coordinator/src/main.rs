//! `coordinator`: keeps the rounds of a consortium's studies going, and is its operator's command
//! line.
//!
//! A thin shell around `aggregation`: it decodes, journals, steps the machine, sends, and traces.
//! Reading order: [`config`], [`identity`] (who may call what), [`service`] (gRPC in and out),
//! [`driver`] (the loop of one study), [`setup`] (the keys for its masks), [`store`] (what survives),
//! [`log`] (what the world may see of it), [`cli`] (what people type).

mod board;
mod cli;
mod clock;
mod config;
mod coordinator;
mod driver;
mod entropy;
mod identity;
mod log;
mod model_file;
mod proposal;
mod refused;
#[cfg(test)]
mod rehearsal;
mod service;
mod setup;
mod store;
mod syslog;
mod telemetry;

fn main() -> std::process::ExitCode {
    cli::main()
}
