//! A log on a disk: the files of tlog-tiles, plus `checkpoint.signed`.
//!
//! `checkpoint` is what the world sees. `checkpoint.signed` is what the log has committed to: it is
//! written before the checkpoint is shown to a witness and may be ahead of `checkpoint` while
//! cosignatures are gathered.
//!
//! - [`Source`] and [`Disk`] are what a log needs of a disk; [`Folder`] is a real one.
//! - [`Reader`] hands out entries and proofs that lead to the checkpoint's root, or an error.
//! - [`Writer`] appends. After power was lost at any instant, opening it again finds a log that is
//!   consistent with every checkpoint that it ever returned.

mod disk;
mod reader;
mod rotate;
mod writer;

pub use disk::{Disk, Folder, Source};
pub use reader::{ReadError, Reader};
pub(crate) use reader::{read_file, read_hashes, read_tile};
pub use rotate::rotate;
pub use writer::{WriteError, Writer};

/// The checkpoint that is published, with its cosignatures.
pub const CHECKPOINT: &str = "checkpoint";

/// The newest checkpoint that the log signed.
pub const SIGNED: &str = "checkpoint.signed";

/// The file that a writer holds locked.
pub const LOCK: &str = "writer.lock";

/// What a file that is being written ends in.
pub const TEMPORARY: &str = ".tmp";
