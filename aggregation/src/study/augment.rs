//! How training may change an image.

/// How an image is changed each time that it is trained on: as it might also have been taken. What is
/// drawn for one is drawn evenly and by itself; a mask moves as its image does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Augment {
    /// Whether left and right change places, half of the time.
    pub flip: bool,
    /// How far it is moved along each side, at most, either way: a part of the side.
    pub shift: f64,
    /// How far it is turned in the plane of its slices, at most, either way: in degrees.
    pub rotate_degrees: f64,
    /// How much more or less than 1 prepared values are multiplied by, at most.
    pub intensity_scale: f64,
    /// What is then added to them, at most, either way.
    pub intensity_shift: f64,
}

impl Augment {
    /// Images are trained on as they are.
    pub const NONE: Self = Self {
        flip: false,
        shift: 0.0,
        rotate_degrees: 0.0,
        intensity_scale: 0.0,
        intensity_shift: 0.0,
    };

    /// Flips, and shifts by a twelfth of a side: what `augment = true` means.
    pub const USUAL: Self = Self { flip: true, shift: 0.08, ..Self::NONE };

    /// Whether it changes anything.
    #[must_use]
    pub fn changes(&self) -> bool {
        *self != Self::NONE
    }
}
