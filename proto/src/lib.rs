//! How it is said: the schema, one decoder, one encoder, the study manifest, and the channel.
//!
//! Nothing here decides anything. [`decode`] checks sizes, counts and presence once; what comes out
//! of it are the types of `aggregation`, which decides. Reading order: [`federation`] (the
//! messages), [`decode`], [`encode`], [`manifest`], then, for the network programs, `channel`,
//! `identity` and `status`.

pub mod cli;
pub mod decode;
pub mod encode;
pub mod federation;
pub mod frames;
pub mod ledger;
pub mod limits;
pub mod manifest;
pub mod masks;
pub mod trainer;

#[cfg(feature = "grpc")]
pub mod channel;
#[cfg(feature = "grpc")]
pub mod identity;
#[cfg(feature = "grpc")]
pub mod status;
#[cfg(feature = "grpc")]
pub mod syslog;

/// The schema as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
