//! Pulls from archives of a few lines, well-behaved and not.

mod dimse;
mod held;
mod house;
mod killed;
mod proxy;
mod scp;
mod server;
mod tls;
mod web;
