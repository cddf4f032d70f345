//! What happened, line by line: hashed as it happens, and kept when somebody wants to read it.

use std::fmt::{self, Write as _};

/// Who a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// The coordinator.
    Coordinator,
    /// A hospital, by its place on the roll.
    Site(usize),
    /// Nobody: the network, the end of the trouble.
    World,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => f.write_str("coordinator"),
            Self::Site(index) => write!(f, "site-{index:02}"),
            Self::World => f.write_str("world"),
        }
    }
}

/// The trace of one federation.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: blake3::Hasher,
    line: String,
    kept: Option<Vec<String>>,
}

impl Trace {
    /// An empty trace, whose lines are kept or only hashed.
    pub(crate) fn new(keep: bool) -> Self {
        Self { hash: blake3::Hasher::new(), line: String::new(), kept: keep.then(Vec::new) }
    }

    /// Adds a line.
    pub(crate) fn say(&mut self, at: u64, who: Who, what: fmt::Arguments<'_>) {
        self.line.clear();
        let written = write!(self.line, "{at:>8} {who:<12} {what}");
        debug_assert!(written.is_ok(), "a String takes whatever is written to it");
        self.hash.update(self.line.as_bytes()).update(b"\n");
        if let Some(kept) = &mut self.kept {
            kept.push(self.line.clone());
        }
    }

    /// The first 16 digits of the digest of all lines.
    pub(crate) fn digest(&self) -> String {
        let mut text = self.hash.finalize().to_hex().to_string();
        text.truncate(16);
        text
    }

    /// The lines, if they were kept.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.kept.unwrap_or_default()
    }
}
