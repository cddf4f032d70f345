//! How it is remembered: an append-only log in a public format, and its verification by whoever
//! trusts none of the parties.
//!
//! The format is that of C2SP: [tlog-tiles], [tlog-checkpoint], [signed-note], [tlog-cosignature],
//! [tlog-witness], [tlog-proof] and [tlog-policy], over the Merkle tree of RFC 9162 section 2.1.
//! Tools that we did not write read the same files.
//!
//! What is promised: a log that [`verify::verify`] accepts has exactly the entries that its
//! checkpoint commits to, every hash of every tile was derived again from the entries, the
//! checkpoint is signed as the policy file demands, and nothing else was assumed. What is not: that
//! the entries are true. A log shows what was said, when, in which order, and that nobody took it
//! back.
//!
//! Reading order:
//! - [`tree`]: hashes, roots, proofs. [`edge`]: the same tree while it grows.
//! - [`tile`]: the files that hold it. [`leaf`]: what an entry is. [`fact`]: what it says.
//! - [`note`], [`checkpoint`], [`cosignature`]: who vouches for a root.
//! - [`witness`]: the one who cosigns, and refuses a fork. [`policy`]: whom the auditor believes.
//! - [`proof`]: a receipt for one entry, valid without the log at hand.
//! - [`recompute`]: which sums an auditor adds up again, and from what.
//! - [`folder`]: all of it on a disk that may lose power at any instant.
//! - [`verify`]: the auditor's question, answered from nothing but files and a policy.
//!
//! There is neither a clock nor randomness here: times and keys are arguments.
//!
//! [tlog-tiles]: https://c2sp.org/tlog-tiles
//! [tlog-checkpoint]: https://c2sp.org/tlog-checkpoint
//! [signed-note]: https://c2sp.org/signed-note
//! [tlog-cosignature]: https://c2sp.org/tlog-cosignature
//! [tlog-witness]: https://c2sp.org/tlog-witness
//! [tlog-proof]: https://c2sp.org/tlog-proof
//! [tlog-policy]: https://c2sp.org/tlog-policy

pub mod checkpoint;
pub mod cosignature;
pub mod edge;
pub mod fact;
pub mod folder;
pub mod key;
pub mod leaf;
pub mod note;
pub mod policy;
pub mod proof;
pub mod recompute;
mod text;
pub mod tile;
pub mod time;
pub mod tree;
pub mod verify;
pub mod witness;
