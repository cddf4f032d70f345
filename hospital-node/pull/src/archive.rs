//! What any archive can be asked, however it is spoken with.

use std::io::Read;
use std::time::Duration;

use crate::fault::Fault;
use crate::sieve::{Asked, Form};

/// Answers to one question that are taken.
pub const MOST_ANSWERS: usize = 1_000_000;

/// What studies must have; the archive need not heed all of it, its answers are looked at again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<'a> {
    /// One patient's identifier.
    pub patient: Option<&'a str>,
    /// A date or a range of dates, as `YYYYMMDD-YYYYMMDD`.
    pub dates: Option<&'a str>,
    /// A modality that they have series of.
    pub modality: Option<&'a str>,
}

/// A study that was found.
#[derive(Clone, Debug, Default)]
pub struct Study {
    /// Its UID.
    pub uid: String,
    /// Its patient's identifier, where it is told.
    pub patient: Option<String>,
    /// Its date, where it is told.
    pub date: Option<String>,
}

/// A series that was found.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Its UID.
    pub uid: String,
    /// Its modality, where it is told.
    pub modality: Option<String>,
    /// Its description, where it is told; it is compared, and kept nowhere.
    pub description: Option<String>,
}

/// An instance that was found.
#[derive(Clone, Debug, Default)]
pub struct Instance {
    /// Its UID.
    pub uid: String,
    /// Its SOP class, where it is told.
    pub class: Option<String>,
}

/// What takes an instance as it arrives.
pub type Taker<'a> = dyn FnMut(&mut dyn Read, Form<'_>) -> Result<(), Fault> + 'a;

/// An archive of images.
pub trait Archive {
    /// Looks for studies.
    ///
    /// # Errors
    /// Why there is no answer.
    fn studies(&mut self, query: Query<'_>) -> Result<Vec<Study>, Fault>;

    /// The series of a study.
    ///
    /// # Errors
    /// Why there is no answer.
    fn series(&mut self, study: &str) -> Result<Vec<Series>, Fault>;

    /// The instances of a series.
    ///
    /// # Errors
    /// Why there is no answer.
    fn instances(&mut self, study: &str, series: &str) -> Result<Vec<Instance>, Fault>;

    /// Fetches one instance and gives it to `take`, once.
    ///
    /// # Errors
    /// Why it did not come, or what `take` says.
    fn fetch(
        &mut self,
        asked: Asked<'_>,
        class: Option<&str>,
        take: &mut Taker<'_>,
    ) -> Result<(), Fault>;
}

/// How long is waited for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the archive to say anything at all.
    pub silence: Duration,
    /// For one answer from its start to its end.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            // A tape library has to find the tape.
            silence: Duration::from_secs(120),
            answer: Duration::from_secs(900),
        }
    }
}
