//! What any archive can be asked, however it is spoken with.

use std::io::Read;
use std::time::Duration;

use crate::fault::Fault;
use crate::sieve::{Asked, Form};

/// Answers to one question that are taken.
pub const MOST_ANSWERS: usize = 1_000_000;
/// Bytes of them that are kept in memory.
const MOST_KEPT: usize = 256 << 20;
/// What an answer needs beside its text.
const AROUND: usize = 128;

/// The answers to a question.
#[derive(Clone, Debug)]
pub struct Found<T> {
    /// Each that says what it is about.
    pub rows: Vec<T>,
    /// How many do not.
    pub nameless: usize,
}

/// What the answers to one question come to so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    answers: usize,
    bytes: usize,
}

impl Tally {
    /// Takes in one more, with so many bytes of text.
    pub(crate) const fn add(&mut self, text: usize) -> Result<(), Fault> {
        self.answers += 1;
        self.bytes = self.bytes.saturating_add(text).saturating_add(AROUND);
        if self.answers > MOST_ANSWERS || self.bytes > MOST_KEPT {
            return Err(Fault::TooLarge("the archive's list"));
        }
        Ok(())
    }
}

/// An answer whose text can be counted.
pub(crate) trait Weighed {
    /// Bytes of its text.
    fn weight(&self) -> usize;
}

fn length(text: Option<&String>) -> usize {
    text.map_or(0, String::len)
}

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

impl Weighed for Study {
    fn weight(&self) -> usize {
        self.uid.len() + length(self.patient.as_ref()) + length(self.date.as_ref())
    }
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

impl Weighed for Series {
    fn weight(&self) -> usize {
        self.uid.len() + length(self.modality.as_ref()) + length(self.description.as_ref())
    }
}

/// An instance that was found.
#[derive(Clone, Debug, Default)]
pub struct Instance {
    /// Its UID.
    pub uid: String,
    /// Its SOP class, where it is told.
    pub class: Option<String>,
}

impl Weighed for Instance {
    fn weight(&self) -> usize {
        self.uid.len() + length(self.class.as_ref())
    }
}

/// What takes an instance as it arrives.
pub type Taker<'a> = dyn FnMut(&mut dyn Read, Form<'_>) -> Result<(), Fault> + 'a;

/// An archive of images.
pub trait Archive {
    /// Looks for studies.
    ///
    /// # Errors
    /// Why there is no answer.
    fn studies(&mut self, query: Query<'_>) -> Result<Found<Study>, Fault>;

    /// The series of a study.
    ///
    /// # Errors
    /// Why there is no answer.
    fn series(&mut self, study: &str) -> Result<Found<Series>, Fault>;

    /// The instances of a series.
    ///
    /// # Errors
    /// Why there is no answer.
    fn instances(&mut self, study: &str, series: &str) -> Result<Found<Instance>, Fault>;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_where_it_would_fill_the_memory() {
        let fill = |text: usize| {
            let mut tally = Tally::default();
            (0..=MOST_ANSWERS).take_while(|_| tally.add(text).is_ok()).count()
        };
        assert_eq!(fill(100), MOST_ANSWERS);
        assert_eq!(fill(1 << 20), (MOST_KEPT / ((1 << 20) + AROUND)));
        assert_eq!(fill(usize::MAX), 0);
    }
}
