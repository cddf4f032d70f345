//! Augmentation: an image as it might also have been taken, with its answer.

use aggregation::study::{InputShape, Study};

use crate::dataset::Examples;
use crate::dataset::answers::{Answer, Batch};
use crate::random::Random;

/// The furthest that augmentation shifts an image, as a part of its side.
const SHIFT: f64 = 0.08;

/// Images and their answers, side by side, as a network takes them.
#[derive(Debug)]
pub struct Views<'a> {
    study: &'a Study,
    /// The images.
    pub images: Vec<f32>,
    /// Their answers.
    pub answers: Batch,
}

impl<'a> Views<'a> {
    /// None yet.
    #[must_use]
    pub const fn of(study: &'a Study) -> Self {
        Self { study, images: Vec::new(), answers: Batch::new(study.task.kind) }
    }

    /// Adds an example: as it is, or moved if the study augments.
    pub fn add(&mut self, examples: &Examples, index: usize, random: &mut Random) {
        let (image, answer) = (examples.image(index), &examples.answers[index]);
        if !self.study.training.local.augment {
            self.images.extend_from_slice(image);
            self.answers.push(answer);
            return;
        }
        let moved = Moved::draw(&self.study.task.input, random);
        moved.apply(image, &mut self.images);
        match answer {
            Answer::Class(_) | Answer::Labels(_) => self.answers.push(answer),
            Answer::Mask(mask) => {
                let mut of_moved = Vec::with_capacity(mask.len());
                moved.apply(mask, &mut of_moved);
                self.answers.push(&Answer::Mask(of_moved));
            }
        }
    }
}

/// A shift by up to [`SHIFT`] of the sides, and half of the time a flip left to right. What moves in
/// from outside repeats the edge. All slices of a volume move alike.
#[derive(Clone, Copy, Debug)]
struct Moved {
    height: usize,
    width: usize,
    flip: bool,
    down: isize,
    right: isize,
}

impl Moved {
    fn draw(input: &InputShape, random: &mut Random) -> Self {
        let (height, width) = (usize::from(input.height), usize::from(input.width));
        let flip = random.chance(0.5);
        Self { height, width, flip, down: shift(height, random), right: shift(width, random) }
    }

    fn apply<T: Copy>(&self, image: &[T], moved: &mut Vec<T>) {
        let Self { height, width, flip, down, right } = *self;
        for plane in image.chunks_exact(height * width) {
            for y in 0..height {
                let row = &plane[displaced(y, down, height) * width..][..width];
                moved.extend((0..width).map(|x| {
                    let from = displaced(x, right, width);
                    row[if flip { width - 1 - from } else { from }]
                }));
            }
        }
    }
}

/// A whole number of pixels within the allowed shift, either way.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a few pixels of a side of at most 65535"
)]
fn shift(side: usize, random: &mut Random) -> isize {
    let most = (SHIFT * side as f64).floor();
    random.within(-most - 0.5, most + 0.5).round() as isize
}

fn displaced(at: usize, by: isize, side: usize) -> usize {
    at.saturating_add_signed(by).min(side.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn augmentation_moves_pixels_and_invents_none() {
        let input = InputShape { channels: 1, depth: 2, height: 16, width: 8 };
        let image: Vec<f32> = (0..=255_u8).map(f32::from).collect();
        let mask: Vec<u8> = (0..=255).collect();
        let mut random = Random::new("views", &[]);
        let mut changed = 0;
        for _ in 0..50 {
            let moved = Moved::draw(&input, &mut random);
            let (mut of_image, mut of_mask) = (Vec::new(), Vec::new());
            moved.apply(&image, &mut of_image);
            moved.apply(&mask, &mut of_mask);
            assert_eq!(of_image.len(), 256);
            assert!(of_image.iter().all(|value| image.contains(value)));
            // The mask goes where the image goes, and every slice stays where it was.
            let alike = |(value, mask): (&f32, &u8)| value.total_cmp(&f32::from(*mask)).is_eq();
            assert!(of_image.iter().zip(&of_mask).all(alike));
            assert!(of_mask[..128].iter().all(|value| *value < 128));
            changed += usize::from(of_image != image);
        }
        assert!(changed > 25, "{changed} of 50 were moved");
    }
}
