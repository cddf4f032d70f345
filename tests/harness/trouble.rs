//! Why a story could not be told to its end.

use std::fmt;

/// One line: what was expected and what was found.
pub struct Trouble(String);

/// What most steps of a story return.
pub type Outcome<T> = Result<T, Trouble>;

impl Trouble {
    /// Says what went wrong.
    #[must_use]
    pub fn new(said: impl Into<String>) -> Self {
        Self(said.into())
    }
}

/// A failing test shows the line itself, not the name of a type around it.
impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// So that `?` takes every error a step can meet; hence `Trouble` itself is no `Error`.
impl<E: std::error::Error> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self(proto::cli::chain(&error))
    }
}
