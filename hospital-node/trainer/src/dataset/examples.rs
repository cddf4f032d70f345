//! The prepared images of one part of a data set, with what each should be answered with.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::answers::Answer;
use super::shelf::{Shelf, Size, Slot};

/// Images that are changed together.
const TOGETHER: usize = 256;

/// The images of one part, in the source's order.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    shelf: Option<Arc<Shelf>>,
    /// Where each image lies, and its answer; a mask lies with its image, and is empty here.
    all: Vec<(Slot, Answer)>,
}

impl Examples {
    /// Images one after the other (channel, row, column of each), held in memory.
    ///
    /// # Errors
    /// When the system has no memory, or the answers do not go with the images.
    pub fn new(images: &[f32], answers: Vec<Answer>) -> io::Result<Self> {
        let Some(first) = answers.first() else { return Ok(Self::default()) };
        let size = Size { values: images.len() / answers.len(), labels: labels(first).len() };
        let shelf = Arc::new(Shelf::in_memory(size)?);
        let mut examples = Self::default();
        for (image, answer) in images.chunks_exact(size.values.max(1)).zip(answers) {
            let slot = shelf.put(image, labels(&answer))?;
            examples.push(&shelf, slot, answer);
        }
        Ok(examples)
    }

    /// The same, with a class each.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn classified(images: &[f32], classes: &[usize]) -> io::Result<Self> {
        Self::new(images, classes.iter().map(|class| Answer::Class(*class)).collect())
    }

    /// One more of the same shelf.
    pub(crate) fn push(&mut self, shelf: &Arc<Shelf>, slot: Slot, answer: Answer) {
        self.shelf.get_or_insert_with(|| Arc::clone(shelf));
        let answer = match answer {
            Answer::Mask(_) => Answer::Mask(Vec::new()),
            Answer::Class(_) | Answer::Labels(_) => answer,
        };
        self.all.push((slot, answer));
    }

    /// The same with every image changed, on another shelf; `change` is given several, one after the other.
    pub(crate) fn changed(
        &self,
        shelf: &Arc<Shelf>,
        change: impl Fn(&[f32]) -> Vec<f32>,
    ) -> io::Result<Self> {
        let mut changed = Self::default();
        for first in (0..self.len()).step_by(TOGETHER) {
            let (images, answers) = self.several(first..self.len().min(first + TOGETHER))?;
            let images = change(&images);
            for (image, answer) in images.chunks_exact(shelf.size().values.max(1)).zip(answers) {
                let slot = shelf.put(image, labels(&answer))?;
                changed.push(shelf, slot, answer);
            }
        }
        Ok(changed)
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Where they lie.
    pub(super) fn shelf(&self) -> Option<&Shelf> {
        self.shelf.as_deref()
    }

    /// Values of each image.
    #[must_use]
    pub fn values(&self) -> usize {
        self.shelf.as_ref().map_or(0, |shelf| shelf.size().values)
    }

    /// Labels of each mask.
    pub(crate) fn labels(&self) -> usize {
        self.shelf.as_ref().map_or(0, |shelf| shelf.size().labels)
    }

    /// Adds an image to others, and gives its answer.
    ///
    /// # Errors
    /// When there is none of this number, or it cannot be read.
    pub fn read(&self, index: usize, images: &mut Vec<f32>) -> io::Result<Answer> {
        let known = self.all.get(index).zip(self.shelf.as_ref());
        let ((slot, answer), shelf) = known.ok_or(io::ErrorKind::NotFound)?;
        let mask = shelf.read(*slot, images)?;
        Ok(match answer {
            Answer::Mask(_) => Answer::Mask(mask),
            Answer::Class(_) | Answer::Labels(_) => answer.clone(),
        })
    }

    /// The same of several, one after the other.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn several(&self, indices: Range<usize>) -> io::Result<(Vec<f32>, Vec<Answer>)> {
        let mut images = Vec::with_capacity(indices.len() * self.values());
        let answers =
            indices.map(|index| self.read(index, &mut images)).collect::<Result<_, _>>()?;
        Ok((images, answers))
    }

    /// An image without its answer.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn image(&self, index: usize) -> io::Result<Vec<f32>> {
        let mut image = Vec::with_capacity(self.values());
        self.read(index, &mut image)?;
        Ok(image)
    }
}

/// The labels of a mask; of any other answer none.
pub(crate) fn labels(answer: &Answer) -> &[u8] {
    match answer {
        Answer::Mask(mask) => mask,
        Answer::Class(_) | Answer::Labels(_) => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_comes_back_with_its_answer() {
        let masks = [vec![1, 2], vec![3, 4]].map(Answer::Mask);
        let examples = Examples::new(&[0.5, 1.5, 2.5, 3.5], masks.to_vec()).expect("memory");
        assert_eq!((examples.len(), examples.values(), examples.labels()), (2, 2, 2));
        assert_eq!(examples.image(1).expect("there"), [2.5, 3.5]);
        let (images, answers) = examples.several(0..2).expect("there");
        assert_eq!((images.len(), answers.as_slice()), (4, masks.as_slice()));
        assert!(examples.read(2, &mut Vec::new()).is_err());
        assert!(Examples::new(&[0.0; 4], vec![Answer::Class(0), masks[0].clone()]).is_err());
        assert!(Examples::default().is_empty());
    }
}
