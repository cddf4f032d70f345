//! How we know that the log is what it promises: tampering of every kind, power lost at every step,
//! the auditor's program, and verifiers that we did not write.

mod crash;
mod epsilon;
mod exports;
mod fixture;
mod foreign;
mod least;
mod memory;
mod online;
mod program;
mod python;
mod recompute;
mod report;
mod rotation;
mod story;
mod tamper;
mod tampered_folder;
mod witnesses;
