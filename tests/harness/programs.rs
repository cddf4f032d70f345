//! Where the programs under test are: beside the test or bench that runs.

use std::path::PathBuf;

use crate::{Outcome, Trouble};

/// The folder that cargo builds programs into.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
}

const COORDINATOR: &str = "coordinator";
const NODE: &str = "hospital-node";
const TRAINER: &str = "hospital-trainer";
const BENCH: &str = "consilium-bench";
const AUDIT: &str = "consilium-audit";

impl Programs {
    /// Looks beside this process's own program; tests lie one folder deeper, in `deps`.
    ///
    /// # Errors
    /// When one of them has not been built.
    pub fn find() -> Outcome<Self> {
        let own = std::env::current_exe()?;
        let mut folder = own.parent().map(PathBuf::from).unwrap_or_default();
        if folder.ends_with("deps") {
            folder.pop();
        }
        let missing: Vec<&str> = [COORDINATOR, NODE, TRAINER, BENCH, AUDIT]
            .into_iter()
            .filter(|name| !folder.join(name).is_file())
            .collect();
        if missing.is_empty() {
            return Ok(Self { folder });
        }
        Err(Trouble::new(format!(
            "expected {} in {}, found none; `cargo build --release` builds them",
            missing.join(", "),
            folder.display()
        )))
    }

    /// The server and the operator's command line.
    #[must_use]
    pub fn coordinator(&self) -> PathBuf {
        self.folder.join(COORDINATOR)
    }

    /// The hospital's agent.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        self.folder.join(NODE)
    }

    /// The program that sees images.
    #[must_use]
    pub fn trainer(&self) -> PathBuf {
        self.folder.join(TRAINER)
    }

    /// The auditor's program.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.folder.join(AUDIT)
    }

    /// Speaks the trainer's protocol without training: see [`crate::stand_in`].
    #[must_use]
    pub fn stand_in(&self) -> PathBuf {
        self.folder.join(BENCH)
    }
}
