//! The log as a round names it (PROTOCOL R-25): so many leaves, and the root over them.
//!
//! Whether a hospital's own view of the log has that head in its past is for its shell to check: it
//! takes proofs and a network. Here the head is what everybody in a round must agree on.

use crate::ids::Digest;
use crate::transcript::Transcript;

/// The head of a log: size and root (RFC 9162 section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogHead {
    /// How many leaves.
    pub size: u64,
    /// The root of their tree, SHA-256.
    pub root: Digest,
}

impl LogHead {
    /// The log without leaves. Its root is the SHA-256 of nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self { size: 0, root: Digest::sha256(b"") }
    }

    /// What stands for it in the context of masks (PROTOCOL M-19).
    #[must_use]
    pub fn digest(&self) -> Digest {
        let Self { size, root } = self;
        Transcript::new("consilium/log-head/1").u64(*size).bytes(root.as_bytes()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_root_change_the_digest() {
        let head = LogHead::empty();
        let longer = LogHead { size: 1, ..head };
        let other = LogHead { root: Digest::sha256(b"other"), ..head };
        assert_ne!(head.digest(), longer.digest());
        assert_ne!(head.digest(), other.digest());
    }
}
