//! What one made-up patient looks like, and what the machine makes of it.

use super::canvas::{Canvas, Place, fade};
use crate::random::Random;

/// The greatest value that is stored: 12 bits.
pub(super) const WHITE: f64 = 4095.0;
/// What a grey of 1 is stored as: the detector has room above it.
pub(super) const FULL: f64 = 0.85 * WHITE;

/// How a hospital takes and stores its images.
pub(super) struct Technique {
    /// Multiplies brightness.
    pub(super) exposure: f64,
    /// The exponent of the tone curve.
    pub(super) contrast: f64,
    /// Standard deviation of the noise of one pixel, at 128 pixels to a side.
    pub(super) noise: f64,
    /// Stored as MONOCHROME1.
    pub(super) inverted: bool,
    /// Digital radiography rather than a scanned plate.
    pub(super) digital: bool,
    /// The rescale slope.
    pub(super) slope: f64,
}

/// One patient's anatomy, and the lesion if there is one. All images of the patient share them.
pub(super) struct Patient {
    lungs: [Lung; 2],
    heart: (Place, Place),
    diaphragm: f32,
    ribs: Vec<Rib>,
    tissue: Vec<Mark>,
    distractors: Vec<Mark>,
    lesion: Option<Mark>,
    depth: f32,
}

struct Lung {
    centre: Place,
    radii: Place,
}

impl Lung {
    /// A place inside, not too near the edge.
    fn place(&self, random: &mut Random) -> Place {
        loop {
            let (a, b) = (within(random, -1.0, 1.0), within(random, -1.0, 1.0));
            if a.hypot(b) <= 1.0 {
                let keep = 0.8;
                return (
                    self.centre.0 + keep * a * self.radii.0,
                    self.centre.1 + keep * b * self.radii.1,
                );
            }
        }
    }
}

struct Rib {
    side: f32,
    top: f32,
    slope: f32,
    width: f32,
}

/// Something with a place and a shape.
enum Mark {
    Disc { at: Place, radius: f32, edge: f32, amount: f32 },
    Bump { at: Place, radii: Place, amount: f32 },
    Ring { at: Place, radius: f32, width: f32, amount: f32 },
    Wire { from: f32, to: f32, start: f32, slope: f32, bend: f32, width: f32, amount: f32 },
}

impl Mark {
    fn draw(&self, canvas: &mut Canvas) {
        match *self {
            Self::Disc { at, radius, edge, amount } => {
                canvas.ellipse(at, (radius, radius), edge, amount);
            }
            Self::Bump { at, radii, amount } => canvas.bump(at, radii, amount),
            Self::Ring { at, radius, width, amount } => canvas.ring(at, radius, width, amount),
            Self::Wire { from, to, start, slope, bend, width, amount } => {
                let height = |x: f32| start + slope * (x - from) + bend * (x - from) * (x - from);
                canvas.curve((from, to), height, width, amount);
            }
        }
    }
}

impl Patient {
    /// Draws a patient.
    pub(super) fn draw(lesion: bool, random: &mut Random) -> Self {
        let lung = |side: f32, random: &mut Random| Lung {
            centre: (side * within(random, 0.36, 0.44), within(random, -0.16, -0.04)),
            radii: (within(random, 0.25, 0.32), within(random, 0.50, 0.62)),
        };
        let lungs = [lung(-1.0, random), lung(1.0, random)];
        let heart_at = (within(random, 0.06, 0.16), within(random, 0.20, 0.32));
        let heart = (heart_at, (within(random, 0.22, 0.34), within(random, 0.24, 0.32)));
        let ribs = (0..14_u8)
            .map(|index| Rib {
                side: if index % 2 == 0 { -1.0 } else { 1.0 },
                top: -0.72 + 0.19 * f32::from(index / 2) + within(random, -0.02, 0.02),
                slope: within(random, 0.25, 0.45),
                width: within(random, 0.020, 0.032),
            })
            .collect();
        let tissue = (0..10)
            .map(|_| Mark::Bump {
                at: (within(random, -0.8, 0.8), within(random, -0.8, 0.8)),
                radii: (within(random, 0.12, 0.35), within(random, 0.12, 0.35)),
                amount: within(random, -0.06, 0.06),
            })
            .collect();
        let distractors = distractors(&lungs, random);
        let lesion = lesion.then(|| {
            // From obvious to nearly invisible, evenly on a logarithmic scale.
            let visibility = (within(random, 0.16_f32.ln(), 0.95_f32.ln())).exp();
            Mark::Disc {
                at: lungs[random.below(2)].place(random),
                radius: within(random, 0.13, 0.21),
                edge: within(random, 0.30, 0.5),
                amount: visibility,
            }
        });
        let depth = within(random, 0.28, 0.40);
        let diaphragm = within(random, 0.50, 0.60);
        Self { lungs, heart, diaphragm, ribs, tissue, distractors, lesion, depth }
    }

    /// Takes one image: stored values, row by row.
    pub(super) fn image(&self, size: u16, technique: &Technique, random: &mut Random) -> Vec<u16> {
        let shift = (within(random, -0.07, 0.07), within(random, -0.07, 0.07));
        let mut canvas = Canvas::new(size, 0.06, shift, within(random, 0.92, 1.06));
        self.anatomy(&mut canvas);
        for mark in self.tissue.iter().chain(&self.distractors).chain(&self.lesion) {
            mark.draw(&mut canvas);
        }
        let exposure = technique.exposure * random.within(0.88, 1.12);
        let tone = technique.contrast * random.within(0.9, 1.1);
        // Noise is per area, so that files of another size are as hard.
        let noise = technique.noise * f64::from(size) / 128.0;
        canvas
            .pixels
            .iter()
            .map(|grey| {
                let seen =
                    (f64::from(*grey).max(0.0) * exposure).powf(tone) + noise * random.normal();
                let shown = if technique.inverted { 1.0 - seen } else { seen };
                stored(shown)
            })
            .collect()
    }

    fn anatomy(&self, canvas: &mut Canvas) {
        canvas.ellipse((0.0, 0.15), (0.86, 1.05), 0.12, 0.52);
        for lung in &self.lungs {
            canvas.ellipse(lung.centre, lung.radii, 0.16, -self.depth);
        }
        canvas.ellipse(self.heart.0, self.heart.1, 0.22, 0.24);
        canvas.bump((0.0, 0.0), (0.07, 0.9), 0.14);
        let edge = self.diaphragm;
        canvas.add((0.0, 0.8), (0.8, 0.5), |right, down| {
            let dome = edge + 0.18 * (right.abs() - 0.4).powi(2);
            0.2 * fade((down - dome) / 0.08)
        });
        for Rib { side, top, slope, width } in &self.ribs {
            let ends = (0.1_f32.min(side * 0.72), (side * 0.72).max(-0.1));
            let height = |x: f32| {
                let out = x * side;
                top + slope * out - 0.22 * (out - 0.35) * (out - 0.35)
            };
            canvas.curve(ends, height, *width, 0.055);
        }
        for side in [-1.0_f32, 1.0] {
            let ends = ((side * 0.05).min(side * 0.65), (side * 0.05).max(side * 0.65));
            canvas.curve(ends, |x| -0.70 - 0.12 * x.abs(), 0.03, 0.10);
        }
    }
}

/// Things that both kinds of images show, and that are no lesion.
fn distractors(lungs: &[Lung; 2], random: &mut Random) -> Vec<Mark> {
    let mut marks = Vec::new();
    let lung = |random: &mut Random| lungs[random.below(2)].place(random);
    // Hazy, wide opacities in the lungs.
    for _ in 0..random.below(3) {
        marks.push(Mark::Bump {
            at: lung(random),
            radii: (within(random, 0.14, 0.24), within(random, 0.14, 0.24)),
            amount: within(random, 0.04, 0.14),
        });
    }
    // Vessels: short and bright, but long and thin.
    for _ in 0..1 + random.below(3) {
        let at = lung(random);
        let length = within(random, 0.18, 0.36);
        marks.push(Mark::Wire {
            from: at.0 - length / 2.0,
            to: at.0 + length / 2.0,
            start: at.1,
            slope: within(random, -0.8, 0.8),
            bend: within(random, -0.8, 0.8),
            width: within(random, 0.018, 0.03),
            amount: within(random, 0.06, 0.2),
        });
    }
    // Calcified points: bright, but far smaller than a lesion.
    for _ in 0..random.below(4) {
        let radius = within(random, 0.016, 0.026);
        let amount = within(random, 0.15, 0.4);
        marks.push(Mark::Bump { at: lung(random), radii: (radius, radius), amount });
    }
    // Rings of a lesion's size, hollow.
    if random.chance(0.4) {
        marks.push(Mark::Ring {
            at: lung(random),
            radius: within(random, 0.12, 0.19),
            width: within(random, 0.014, 0.022),
            amount: within(random, 0.08, 0.25),
        });
    }
    // Gas below the diaphragm: round and large, but dark.
    for _ in 0..random.below(3) {
        let radii = (within(random, 0.08, 0.2), within(random, 0.05, 0.12));
        let at = (within(random, -0.7, 0.7), within(random, 0.72, 0.95));
        marks.push(Mark::Bump { at, radii, amount: -within(random, 0.05, 0.2) });
    }
    // A tube or a wire across.
    if random.chance(0.3) {
        marks.push(Mark::Wire {
            from: within(random, -0.9, -0.3),
            to: within(random, 0.2, 0.9),
            start: within(random, -0.7, 0.2),
            slope: within(random, -0.4, 0.6),
            bend: within(random, -0.3, 0.3),
            width: 0.014,
            amount: within(random, 0.12, 0.3),
        });
    }
    marks
}

#[expect(clippy::cast_possible_truncation, reason = "coordinates need no more than f32")]
fn within(random: &mut Random, low: f32, high: f32) -> f32 {
    random.within(low.into(), high.into()) as f32
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to twelve bits"
)]
fn stored(grey: f64) -> u16 {
    (grey * FULL).round().clamp(0.0, WHITE) as u16
}
