//! Group normalisation on the CPU in one go: the statistics, the affine map and, where wanted, the
//! rectifier forwards; and all three gradients backwards. On plain slices of
//! `[images, pixels, channels]`, an image at a time: what is done to one pixel's channels is done
//! side by side, whatever their groups.

use rayon::prelude::*;

/// Pixels whose values are added up in single precision before the sum is added to the whole.
const RUN: usize = 64;

/// What a normalisation is of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Channels of an image, in so many groups, neither of them zero.
    pub(super) channels: usize,
    pub(super) groups: usize,
    /// Pixels of an image, more than none.
    pub(super) pixels: usize,
    /// Whether what would be negative becomes zero.
    pub(super) rectified: bool,
}

/// A vector per channel, either one for all images or one for each.
#[derive(Clone, Copy, Debug)]
pub(super) struct PerChannel<'a> {
    values: &'a [f32],
    channels: usize,
}

impl<'a> PerChannel<'a> {
    pub(super) fn new(values: &'a [f32], channels: usize) -> Self {
        Self { values, channels }
    }

    fn of_image(self, image: usize) -> &'a [f32] {
        let row = if self.values.len() == self.channels { 0 } else { image };
        &self.values[row * self.channels..][..self.channels]
    }
}

/// The statistics of one image, each for every channel.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    mean: Vec<f32>,
    /// One over the deviation.
    inverse: Vec<f32>,
}

/// The gradients of a normalisation.
#[derive(Debug)]
pub(super) struct Slopes {
    /// As the images.
    pub(super) x: Vec<f32>,
    /// `[images, channels]`.
    pub(super) scale: Vec<f32>,
    /// `[images, channels]`.
    pub(super) shift: Vec<f32>,
}

impl Shape {
    /// Values of an image.
    fn values(&self) -> usize {
        self.channels * self.pixels
    }

    /// Normalises images; `epsilon` is added to each variance. The moments are what
    /// [`Self::slopes`] needs.
    pub(super) fn normalise(
        &self,
        x: &[f32],
        scale: PerChannel<'_>,
        shift: PerChannel<'_>,
        epsilon: f64,
    ) -> (Vec<f32>, Vec<Moments>) {
        let mut normed = vec![0.0; x.len()];
        let images = x.par_chunks_exact(self.values());
        let images = images.zip(normed.par_chunks_exact_mut(self.values())).enumerate();
        let moments = images.map(|(image, (x, normed))| {
            let moments = self.moments(x, epsilon);
            let lines = Lines::new(&moments, scale.of_image(image), shift.of_image(image));
            let pixels = x.chunks_exact(self.channels);
            for (x, normed) in pixels.zip(normed.chunks_exact_mut(self.channels)) {
                lines.run(x, normed);
                if self.rectified {
                    for value in normed {
                        // Not `max`, which would make a number of what is none.
                        *value = if *value < 0.0 { 0.0 } else { *value };
                    }
                }
            }
            moments
        });
        let moments = moments.collect();
        (normed, moments)
    }

    /// The gradients, given those at the output.
    pub(super) fn slopes(
        &self,
        x: &[f32],
        (scale, shift): (PerChannel<'_>, PerChannel<'_>),
        moments: &[Moments],
        slope: &[f32],
    ) -> Slopes {
        let (values, channels) = (self.values(), self.channels);
        let vectors = vec![0.0; moments.len() * channels];
        let mut slopes = Slopes { x: vec![0.0; x.len()], scale: vectors.clone(), shift: vectors };
        let inputs = x.par_chunks_exact(values).zip(slope.par_chunks_exact(values)).zip(moments);
        let of_vectors = slopes.scale.par_chunks_exact_mut(channels);
        let of_vectors = of_vectors.zip(slopes.shift.par_chunks_exact_mut(channels));
        let outputs = slopes.x.par_chunks_exact_mut(values).zip(of_vectors);
        inputs.zip(outputs).enumerate().for_each(|(image, (((x, slope), moments), of))| {
            let affine = (scale.of_image(image), shift.of_image(image));
            let (of_x, of_vectors) = of;
            self.of_image(x, slope, moments, affine, of_x, of_vectors);
        });
        slopes
    }

    fn of_image(
        &self,
        x: &[f32],
        slope: &[f32],
        moments: &Moments,
        (scale, shift): (&[f32], &[f32]),
        of_x: &mut [f32],
        (of_scale, of_shift): (&mut [f32], &mut [f32]),
    ) {
        let channels = self.channels;
        let Moments { mean, inverse } = moments;
        // What reaches the normed values, and its sums over the pixels: by itself, and times the
        // distance from the mean.
        if self.rectified {
            let lines = Lines::new(moments, scale, shift);
            let pixels = x.chunks_exact(channels).zip(slope.chunks_exact(channels));
            for ((x, slope), passed) in pixels.zip(of_x.chunks_exact_mut(channels)) {
                lines.run(x, passed);
                for (passed, slope) in passed.iter_mut().zip(slope) {
                    // As forwards: what became zero passes nothing on.
                    *passed = if *passed <= 0.0 { 0.0 } else { *slope };
                }
            }
        } else {
            of_x.copy_from_slice(slope);
        }
        let plain = self.sums(of_x, x, |sum, slope, _, _| *sum += slope);
        let along =
            self.sums(of_x, x, |sum, slope, x, channel| *sum += slope * (x - mean[channel]));
        for channel in 0..channels {
            of_shift[channel] = narrow(plain[channel]);
            of_scale[channel] = narrow(along[channel] * f64::from(inverse[channel]));
        }
        // What moving the group's mean and deviation takes back.
        let weigh = |sums: &[f64]| {
            let weighed = sums.iter().zip(scale).map(|(sum, scale)| sum * f64::from(*scale));
            self.over_groups(weighed)
        };
        let (level, tilt) = (weigh(&plain), weigh(&along));
        let back = |of_group: &[f64], power: i32| -> Vec<f32> {
            let each = of_group.iter().zip(inverse);
            each.map(|(mean, inverse)| narrow(mean * f64::from(*inverse).powi(power))).collect()
        };
        let (level, tilt) = (back(&level, 1), back(&tilt, 3));
        let steep: Vec<f32> = inverse.iter().zip(scale).map(|(i, scale)| i * scale).collect();
        for (x, of_x) in x.chunks_exact(channels).zip(of_x.chunks_exact_mut(channels)) {
            let vectors = steep.iter().zip(&level).zip(tilt.iter().zip(mean));
            for ((of_x, x), ((steep, level), (tilt, mean))) in of_x.iter_mut().zip(x).zip(vectors) {
                *of_x = *of_x * steep - level - (x - mean) * tilt;
            }
        }
    }

    fn moments(&self, x: &[f32], epsilon: f64) -> Moments {
        let sums = self.sums(x, x, |sum, value, _, _| *sum += value);
        let mean: Vec<f32> = self.over_groups(sums.into_iter()).into_iter().map(narrow).collect();
        let squares = self.sums(x, x, |sum, value, _, channel| {
            let apart = value - mean[channel];
            *sum += apart * apart;
        });
        let variances = self.over_groups(squares.into_iter());
        let inverse = variances.into_iter().map(|v| narrow(1.0 / (v + epsilon).sqrt())).collect();
        Moments { mean, inverse }
    }

    /// For each channel, what `add` adds up over the pixels of two images.
    fn sums(&self, a: &[f32], b: &[f32], add: impl Fn(&mut f32, f32, f32, usize)) -> Vec<f64> {
        let mut sums = vec![0.0; self.channels];
        let mut run = vec![0.0; self.channels];
        let of_run = RUN * self.channels;
        for (a, b) in a.chunks(of_run).zip(b.chunks(of_run)) {
            run.fill(0.0);
            for (a, b) in a.chunks_exact(self.channels).zip(b.chunks_exact(self.channels)) {
                for (channel, ((sum, a), b)) in run.iter_mut().zip(a).zip(b).enumerate() {
                    add(sum, *a, *b, channel);
                }
            }
            sums.iter_mut().zip(&run).for_each(|(sum, run)| *sum += f64::from(*run));
        }
        sums
    }

    /// Of a sum for each channel, the mean over all values of its group, for each channel.
    fn over_groups(&self, sums: impl Iterator<Item = f64>) -> Vec<f64> {
        let sums: Vec<f64> = sums.collect();
        let of_group = self.channels / self.groups;
        let mean = |group: &[f64]| group.iter().sum::<f64>() / real(of_group * self.pixels);
        sums.chunks_exact(of_group).flat_map(|group| vec![mean(group); of_group]).collect()
    }
}

/// What happens to the values of each channel of one image.
struct Lines<'a> {
    mean: &'a [f32],
    steep: Vec<f32>,
    shift: &'a [f32],
}

impl<'a> Lines<'a> {
    fn new(Moments { mean, inverse }: &'a Moments, scale: &[f32], shift: &'a [f32]) -> Self {
        let steep = inverse.iter().zip(scale).map(|(inverse, scale)| inverse * scale).collect();
        Self { mean, steep, shift }
    }

    fn run(&self, x: &[f32], y: &mut [f32]) {
        let vectors = self.mean.iter().zip(&self.steep).zip(self.shift);
        for ((y, x), ((mean, steep), shift)) in y.iter_mut().zip(x).zip(vectors) {
            *y = (x - mean) * steep + shift;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "an image has far fewer than 2^53 values")]
const fn real(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to single precision is meant")]
const fn narrow(value: f64) -> f32 {
    value as f32
}
