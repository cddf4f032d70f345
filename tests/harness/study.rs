//! A study from proposal to export, as the operator and the sites' administrators see it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::consortium::{Consortium, text};
use crate::manifests::Manifest;
use crate::patience::wait_for;
use crate::{Outcome, Trouble};

/// What `study show` says.
#[derive(Debug, Clone, Deserialize)]
pub struct StudyView {
    /// Hexadecimal.
    pub digest: String,
    /// Where it stands.
    pub state: String,
    /// Rounds so far, released and abandoned, in order.
    pub history: Vec<RoundView>,
    /// Why nothing happens right now.
    #[serde(default)]
    pub waiting_for: String,
}

/// One round of a study.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RoundView {
    /// From 1.
    pub round: u32,
    /// Which attempt, counted over the study.
    pub slot: u64,
    /// Whether its sum was released.
    pub released: bool,
    /// Why not, if not.
    #[serde(default)]
    pub reason: String,
    /// Who is in the sum.
    #[serde(rename = "sites")]
    pub contributed: Vec<String>,
    /// Who was invited or awaited, and is not.
    pub dropped: Vec<String>,
    /// Who said that it was ready.
    #[serde(default)]
    pub ready: Vec<String>,
    /// Over all examples of all of them.
    pub loss: Option<f64>,
    /// Likewise.
    pub auroc: Option<f64>,
    /// Likewise.
    pub accuracy: Option<f64>,
    /// Of a segmentation.
    pub dice: Option<f64>,
    /// Spent so far in a private study, as planned.
    pub epsilon: Option<f64>,
    /// From the announcement to the close.
    pub seconds: f64,
    /// The model after it.
    pub model: String,
}

impl RoundView {
    /// Whose masks were taken out by the others' shares: on the roster, and not in the sum.
    pub fn recovered(&self) -> impl Iterator<Item = &String> {
        self.ready.iter().filter(|site| self.released && !self.contributed.contains(*site))
    }
}

impl StudyView {
    /// The rounds whose sums were released.
    pub fn released(&self) -> impl DoubleEndedIterator<Item = &RoundView> {
        self.history.iter().filter(|round| round.released)
    }

    /// The newest model.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.released().next_back().map(|round| round.model.as_str())
    }
}

impl Consortium {
    /// Writes a manifest to a file of its own.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_manifest(&self, name: &str, text: &str) -> Outcome<PathBuf> {
        let path = self.dir().join(format!("{name}.toml"));
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Proposes a study; gives its digest.
    ///
    /// # Errors
    /// When the command fails.
    pub fn propose(&self, manifest: &Manifest) -> Outcome<String> {
        let path = self.write_manifest(&manifest.name, &manifest.text())?;
        let data = self.operator(["study", "propose"]).arg(path).data()?;
        text(&data, "digest")
    }

    /// Proposes a study, lets every site approve it, and starts it; gives its digest.
    ///
    /// # Errors
    /// When a command fails.
    pub fn begin(&self, manifest: &Manifest) -> Outcome<String> {
        let digest = self.propose(manifest)?;
        for site in &self.sites {
            site.approve(&digest)?;
        }
        self.operator(["study", "start", &digest]).data()?;
        Ok(digest)
    }

    /// What the operator sees of a study.
    ///
    /// # Errors
    /// When the command fails.
    pub fn study(&self, study: &str) -> Outcome<StudyView> {
        let data = self.operator(["study", "show", study]).data()?;
        serde_json::from_value(data.clone())
            .map_err(|error| Trouble::new(format!("`study show`: {error} in {data}")))
    }

    /// Waits until a study is as the story needs it. A coordinator that is down is waited for.
    ///
    /// # Errors
    /// When it does not come to that in time, with how the study stood.
    pub fn await_study(
        &self,
        study: &str,
        limit: Duration,
        seen: impl Fn(&StudyView) -> bool,
    ) -> Outcome<StudyView> {
        let mut last = None;
        let waited = wait_for("a study", limit, || {
            match self.study(study) {
                Ok(view) if seen(&view) => return Ok(Some(view)),
                other => last = Some(other),
            }
            Ok(None)
        });
        waited.map_err(|late| Trouble::new(format!("{late}; it stood at {last:?}")))
    }

    /// Waits for a study's good end.
    ///
    /// # Errors
    /// When it ends otherwise, or not in time.
    pub fn await_completion(&self, study: &str, limit: Duration) -> Outcome<StudyView> {
        let over = |view: &StudyView| ["completed", "failed", "stopped"].contains(&&*view.state);
        let view = self.await_study(study, limit, over)?;
        if view.state == "completed" {
            return Ok(view);
        }
        Err(Trouble::new(format!("expected a completed study, found {view:?}")))
    }

    /// Exports the newest model.
    ///
    /// # Errors
    /// When the command fails.
    pub fn export(&self, study: &str, to: &Path) -> Outcome<()> {
        self.operator(["model", "export", "--study", study, "--out"]).arg(to).data().map(|_| ())
    }
}
