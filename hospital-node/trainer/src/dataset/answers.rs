//! What a record should be answered with, and what batches of records should.

use aggregation::study::TaskKind;

use super::{Fault, class_of};
use crate::zoo::Targets;

/// Between the labels of one record that has several.
const BETWEEN: char = '|';

/// What one record should be answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A class, by its place among the study's.
    Class(usize),
    /// For each class, whether the record has it.
    Labels(Vec<bool>),
    /// For each pixel or voxel of the prepared image, its class.
    Mask(Vec<u8>),
}

impl Answer {
    /// What a label says: a class, or classes with `|` between them, where none at all is an answer
    /// too. Without classes any label that is not empty will do.
    ///
    /// # Errors
    /// [`Fault::WrongLabel`] for what is none of the classes, and where a mask is wanted.
    pub fn read(label: &str, kind: TaskKind, classes: Option<&[String]>) -> Result<Self, Fault> {
        match (kind, classes) {
            (TaskKind::Classification, _) | (TaskKind::MultiLabel, None) => {
                class_of(label, classes).map(Self::Class)
            }
            (TaskKind::MultiLabel, Some(classes)) => {
                let mut labels = vec![false; classes.len()];
                for one in label.split(BETWEEN).map(str::trim).filter(|one| !one.is_empty()) {
                    labels[class_of(one, Some(classes))?] = true;
                }
                Ok(Self::Labels(labels))
            }
            (TaskKind::Segmentation, _) => Err(Fault::WrongLabel),
        }
    }
}

/// The answers of a batch, side by side.
#[derive(Clone, Debug)]
pub enum Batch {
    /// Of a classification.
    Classes(Vec<usize>),
    /// Of labels that go together, image by image.
    Labels(Vec<bool>),
    /// Of a segmentation, image by image.
    Masks(Vec<u8>),
}

impl Batch {
    /// None yet, of such a task.
    #[must_use]
    pub const fn new(kind: TaskKind) -> Self {
        match kind {
            TaskKind::Classification => Self::Classes(Vec::new()),
            TaskKind::MultiLabel => Self::Labels(Vec::new()),
            TaskKind::Segmentation => Self::Masks(Vec::new()),
        }
    }

    /// Adds the answer of one more image. One of another kind adds nothing: the network then misses
    /// it and says so.
    pub fn push(&mut self, answer: &Answer) {
        match (self, answer) {
            (Self::Classes(all), Answer::Class(class)) => all.push(*class),
            (Self::Labels(all), Answer::Labels(labels)) => all.extend_from_slice(labels),
            (Self::Masks(all), Answer::Mask(mask)) => all.extend_from_slice(mask),
            (
                Self::Classes(_) | Self::Labels(_) | Self::Masks(_),
                Answer::Class(_) | Answer::Labels(_) | Answer::Mask(_),
            ) => {}
        }
    }

    /// As a network takes them.
    #[must_use]
    pub fn targets(&self) -> Targets<'_> {
        match self {
            Self::Classes(all) => Targets::Classes(all),
            Self::Labels(all) => Targets::Labels(all),
            Self::Masks(all) => Targets::Masks(all),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_labels_are_read_by_name_or_number_and_none_is_an_answer() {
        let classes = ["effusion", "mass", "nodule"].map(str::to_owned);
        let read = |label, kind| Answer::read(label, kind, Some(&classes));
        let labels = |found| Ok(Answer::Labels(found));
        let several = TaskKind::MultiLabel;
        assert_eq!(read("mass| effusion", several), labels(vec![true, true, false]));
        assert_eq!(read("2", several), labels(vec![false, false, true]));
        assert_eq!(read("", several), labels(vec![false; 3]));
        assert_eq!(read("mass|cyst", several), Err(Fault::WrongLabel));
        assert_eq!(read("mass", TaskKind::Classification), Ok(Answer::Class(1)));
        assert_eq!(read("mass|nodule", TaskKind::Classification), Err(Fault::WrongLabel));
        assert_eq!(read("mass", TaskKind::Segmentation), Err(Fault::WrongLabel));
    }
}
