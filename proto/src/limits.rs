//! The sizes that both ends keep to. A peer's number is compared with these before it is believed.

/// Bytes of data in a chunk that we send.
pub const CHUNK: usize = 256 * 1024;
/// Bytes of data in a chunk that we accept.
pub const MAX_CHUNK: usize = 1024 * 1024;
/// Bytes of any one gRPC message, and of a frame between agent and trainer.
pub const MAX_MESSAGE: usize = 2 * 1024 * 1024;
/// Bytes of a study manifest.
pub const MAX_MANIFEST: usize = 64 * 1024;
/// Bytes of a certificate signing request.
pub const MAX_CSR: usize = 8 * 1024;
/// Characters of an enrolment token.
pub const MAX_TOKEN: usize = 128;
/// Characters of a version string.
pub const MAX_VERSION: usize = 64;
/// Bytes of a checkpoint with its proof.
pub const MAX_OFFER: usize = 64 * 1024;
/// Facts of one site in one slot that are proven at once.
pub const MAX_FACTS: usize = 16;
/// Bytes of one of them.
pub const MAX_LEAF: usize = 65_535;
/// Bytes of a log's key, and of a signature line.
pub const MAX_LINE: usize = 1024;
/// Sites in one study.
pub const MAX_SITES: usize = 4096;
/// Bytes of a model: 2^31 parameters would be 8 GiB; nothing in the zoo comes near.
pub const MAX_MODEL: u64 = 4 * 1024 * 1024 * 1024;
