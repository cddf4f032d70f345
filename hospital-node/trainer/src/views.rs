//! Augmentation: an image as it might also have been taken, with its answer.

use std::io;

use aggregation::study::{Augment, InputShape, Study};

use crate::dataset::Examples;
use crate::dataset::answers::{Answer, Batch};
use crate::random::Random;

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

    /// Adds an example, so many times: as it is, or changed each time if the study augments.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn add(
        &mut self,
        examples: &Examples,
        index: usize,
        times: usize,
        random: &mut Random,
    ) -> io::Result<()> {
        let mut image = Vec::with_capacity(examples.values());
        let answer = examples.read(index, &mut image)?;
        let augment = &self.study.training.local.augment;
        for _ in 0..times {
            if !augment.changes() {
                self.images.extend_from_slice(&image);
                self.answers.push(&answer);
                continue;
            }
            let view = View::draw(augment, &self.study.task.input, random);
            view.of_image(&image, &mut self.images);
            match &answer {
                Answer::Class(_) | Answer::Labels(_) => self.answers.push(&answer),
                Answer::Mask(mask) => {
                    let mut of_mask = Vec::with_capacity(mask.len());
                    view.of_mask(mask, &mut of_mask);
                    self.answers.push(&Answer::Mask(of_mask));
                }
            }
        }
        Ok(())
    }
}

/// What is done to one image. All its slices and channels move alike; what moves in from outside
/// repeats the edge.
#[derive(Clone, Copy, Debug)]
struct View {
    height: usize,
    width: usize,
    flip: bool,
    down: isize,
    right: isize,
    /// In radians; none where pixels stay whole.
    turn: Option<f64>,
    times: f32,
    plus: f32,
}

impl View {
    #[expect(clippy::cast_possible_truncation, reason = "values are of single precision")]
    fn draw(augment: &Augment, input: &InputShape, random: &mut Random) -> Self {
        let Augment { flip, shift, rotate_degrees, intensity_scale, intensity_shift } = *augment;
        let (height, width) = (usize::from(input.height), usize::from(input.width));
        let flip = flip && random.chance(0.5);
        let mut either_way = |most: f64| {
            if most > 0.0 { random.within(-most, most) } else { 0.0 }
        };
        // A whole number of pixels: half a one more each way, so that all numbers are as likely.
        let mut pixels = |side: usize| {
            let most = (shift * count(side)).floor();
            either_way(most + if most > 0.0 { 0.5 } else { 0.0 }).round().clamp(-most, most)
                as isize
        };
        let (down, right) = (pixels(height), pixels(width));
        let turn = (rotate_degrees > 0.0).then(|| either_way(rotate_degrees).to_radians());
        let times = (1.0 + either_way(intensity_scale)) as f32;
        let plus = either_way(intensity_shift) as f32;
        Self { height, width, flip, down, right, turn, times, plus }
    }

    fn of_image(&self, image: &[f32], out: &mut Vec<f32>) {
        let start = out.len();
        match self.turn {
            None => self.moved(image, out),
            Some(turn) => {
                let places = self.places(turn);
                for plane in image.chunks_exact(self.height * self.width) {
                    out.extend(places.iter().map(|place| self.between(plane, *place)));
                }
            }
        }
        let (times, plus) = (self.times, self.plus);
        for value in &mut out[start..] {
            *value = *value * times + plus;
        }
    }

    fn of_mask(&self, mask: &[u8], out: &mut Vec<u8>) {
        let Some(turn) = self.turn else { return self.moved(mask, out) };
        let places = self.places(turn);
        for plane in mask.chunks_exact(self.height * self.width) {
            out.extend(
                places.iter().map(|[y, x]| plane[floor(y + 0.5) * self.width + floor(x + 0.5)]),
            );
        }
    }

    /// Pixels elsewhere, each what it was.
    fn moved<T: Copy>(&self, image: &[T], out: &mut Vec<T>) {
        let Self { height, width, flip, down, right, .. } = *self;
        for plane in image.chunks_exact(height * width) {
            for y in 0..height {
                let row = &plane[displaced(y, down, height) * width..][..width];
                out.extend((0..width).map(|x| {
                    let from = displaced(x, right, width);
                    row[if flip { width - 1 - from } else { from }]
                }));
            }
        }
    }

    /// Row and column that each pixel of a slice comes from, turned about the middle.
    fn places(&self, turn: f64) -> Vec<[f64; 2]> {
        let middle = [self.height, self.width].map(|side| (count(side) - 1.0) / 2.0);
        let last = middle.map(|middle| 2.0 * middle);
        let (sine, cosine) = turn.sin_cos();
        let [down, right] = [self.down, self.right].map(|by| {
            #[expect(clippy::cast_precision_loss, reason = "a few pixels")]
            let by = by as f64;
            by
        });
        let place = |index: usize| {
            let y = count(index / self.width) - middle[0] + down;
            let x = count(index % self.width) - middle[1] + right;
            let across = cosine * x - sine * y;
            let turned = [sine * x + cosine * y, if self.flip { -across } else { across }];
            [0, 1].map(|axis| (turned[axis] + middle[axis]).clamp(0.0, last[axis]))
        };
        (0..self.height * self.width).map(place).collect()
    }

    /// The value at a place within a slice, linear between the four pixels around it.
    #[expect(clippy::cast_possible_truncation, reason = "values are of single precision")]
    fn between(&self, plane: &[f32], [y, x]: [f64; 2]) -> f32 {
        let (top, left) = (floor(y), floor(x));
        let below = (top + 1).min(self.height - 1) * self.width;
        let beside = (left + 1).min(self.width - 1);
        let (down, right) = (y.fract() as f32, x.fract() as f32);
        let row =
            |start: usize| plane[start + left] * (1.0 - right) + plane[start + beside] * right;
        row(top * self.width) * (1.0 - down) + row(below) * down
    }
}

fn displaced(at: usize, by: isize, side: usize) -> usize {
    at.saturating_add_signed(by).min(side.saturating_sub(1))
}

#[expect(clippy::cast_precision_loss, reason = "a side of at most 65535, or a pixel of a slice")]
fn count(number: usize) -> f64 {
    number as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place within an image, not below 0"
)]
fn floor(place: f64) -> usize {
    place as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURNED: Augment = Augment { rotate_degrees: 20.0, ..Augment::USUAL };

    fn input(depth: u16, height: u16, width: u16) -> InputShape {
        InputShape { channels: 1, depth, height, width }
    }

    fn both(view: &View, image: &[f32], mask: &[u8]) -> (Vec<f32>, Vec<u8>) {
        let (mut of_image, mut of_mask) = (Vec::new(), Vec::new());
        view.of_image(image, &mut of_image);
        view.of_mask(mask, &mut of_mask);
        (of_image, of_mask)
    }

    #[test]
    fn flips_and_shifts_move_pixels_and_invent_none() {
        let image: Vec<f32> = (0..=255_u8).map(f32::from).collect();
        let mask: Vec<u8> = (0..=255).collect();
        let mut random = Random::new("views", &[]);
        let mut changed = 0;
        for _ in 0..50 {
            let view = View::draw(&Augment::USUAL, &input(2, 16, 8), &mut random);
            let (of_image, of_mask) = both(&view, &image, &mask);
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

    /// A slope stays one whichever way it is turned, and says how far.
    #[test]
    fn a_turned_slope_is_as_steep_as_before_and_points_elsewhere() {
        let (height, width) = (31, 21);
        let slope = |y: f64, x: f64| 3.0 * y - 2.0 * x;
        #[expect(clippy::cast_possible_truncation, reason = "test values")]
        let image: Vec<f32> = (0..2 * height * width)
            .map(|at| slope(count(at / width % height), count(at % width)) as f32)
            .collect();
        let mut random = Random::new("slopes", &[]);
        for _ in 0..20 {
            let view = View::draw(&TURNED, &input(2, 31, 21), &mut random);
            let turn = view.turn.expect("turned");
            assert!(turn.abs() < 20_f64.to_radians());
            let (turned, _) = both(&view, &image, &[]);
            for plane in turned.chunks_exact(height * width) {
                // By the middle, where nothing comes from the edge.
                for (dy, dx) in [(-4.0, -3.0), (0.0, 0.0), (2.0, 3.0)] {
                    let (y, x) = (dy + 15.0, dx + 10.0);
                    #[expect(clippy::cast_precision_loss, reason = "a few pixels")]
                    let (v, u) = (dy + view.down as f64, dx + view.right as f64);
                    let across = u * turn.cos() - v * turn.sin();
                    let across = if view.flip { -across } else { across };
                    let expected = slope(u * turn.sin() + v * turn.cos() + 15.0, across + 10.0);
                    let found = plane[floor(y) * width + floor(x)];
                    assert!((f64::from(found) - expected).abs() < 1e-4, "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_mask_turns_with_its_image() {
        // A bar off the middle, of two slices of which one is empty.
        let inside = |at: usize| at < 1024 && (6..14).contains(&(at / 32)) && at % 32 > 9;
        let mask: Vec<u8> = (0..2048).map(|at| if inside(at) { 3 } else { 0 }).collect();
        let image: Vec<f32> = mask.iter().map(|label| f32::from(*label) / 3.0).collect();
        let mut random = Random::new("bars", &[]);
        for _ in 0..20 {
            let view = View::draw(&TURNED, &input(2, 32, 32), &mut random);
            let (of_image, of_mask) = both(&view, &image, &mask);
            assert!(of_mask[1024..].iter().all(|label| *label == 0));
            for (shade, label) in of_image.iter().zip(&of_mask) {
                assert!(matches!(label, 0 | 3));
                // Whoever is nearest has at least a quarter of the say.
                assert!(
                    if *label == 3 { *shade > 0.249 } else { *shade < 0.751 },
                    "{shade} {label}"
                );
            }
            let kept = of_mask.iter().filter(|label| **label == 3).count();
            assert!((120..=256).contains(&kept), "{kept}");
        }
    }

    #[test]
    fn intensities_change_within_their_bounds_and_masks_do_not() {
        let augment = Augment { intensity_scale: 0.25, intensity_shift: 2.0, ..Augment::NONE };
        let mut random = Random::new("shades", &[]);
        let (mut times, mut plus) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            let view = View::draw(&augment, &input(1, 1, 2), &mut random);
            let (image, mask) = both(&view, &[0.0, 1.0], &[0, 7]);
            assert_eq!(mask, [0, 7]);
            plus.push(image[0]);
            times.push(image[1] - image[0]);
        }
        let ends = |values: &[f32]| {
            values.iter().fold((f32::MAX, f32::MIN), |ends, v| (ends.0.min(*v), ends.1.max(*v)))
        };
        let (least, most) = ends(&times);
        assert!((0.75..0.78).contains(&least) && (1.22..1.2501).contains(&most), "{least} {most}");
        let (least, most) = ends(&plus);
        assert!((-2.0..-1.8).contains(&least) && (1.8..2.0).contains(&most), "{least} {most}");
    }
}
