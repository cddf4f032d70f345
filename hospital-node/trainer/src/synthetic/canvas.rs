//! Soft shapes added onto a square of grey values.

/// A square image; the middle is (0, 0) and the edges are at -1 and 1, `down` growing downwards.
pub(super) struct Canvas {
    size: usize,
    /// Grey values, row by row.
    pub(super) pixels: Vec<f32>,
    shift: (f32, f32),
    scale: f32,
}

/// A place on the canvas: to the right, and down.
pub(super) type Place = (f32, f32);

impl Canvas {
    /// An even canvas whose drawing is shifted and scaled.
    pub(super) fn new(size: u16, grey: f32, shift: Place, scale: f32) -> Self {
        let size = usize::from(size);
        Self { size, pixels: vec![grey; size * size], shift, scale }
    }

    /// Adds what `shade` says for each place within `reach` of a centre.
    pub(super) fn add(&mut self, centre: Place, reach: Place, shade: impl Fn(f32, f32) -> f32) {
        let columns = self.span(centre.0, reach.0, self.shift.0);
        let rows = self.span(centre.1, reach.1, self.shift.1);
        for y in rows {
            let down = self.place(y, self.shift.1);
            for x in columns.clone() {
                let right = self.place(x, self.shift.0);
                self.pixels[y * self.size + x] += shade(right, down);
            }
        }
    }

    /// An ellipse with a soft edge; `edge` is the part of the radius over which it fades.
    pub(super) fn ellipse(&mut self, centre: Place, radii: Place, edge: f32, amount: f32) {
        let far = 1.0 + edge;
        self.add(centre, (radii.0 * far, radii.1 * far), |right, down| {
            let (a, b) = ((right - centre.0) / radii.0, (down - centre.1) / radii.1);
            let distance = (a * a + b * b).sqrt();
            amount * fade((far - distance) / (2.0 * edge))
        });
    }

    /// A bump with the profile of a normal density.
    pub(super) fn bump(&mut self, centre: Place, radii: Place, amount: f32) {
        self.add(centre, (3.0 * radii.0, 3.0 * radii.1), |right, down| {
            let (a, b) = ((right - centre.0) / radii.0, (down - centre.1) / radii.1);
            amount * (-0.5 * (a * a + b * b)).exp()
        });
    }

    /// A ring of this radius and width.
    pub(super) fn ring(&mut self, centre: Place, radius: f32, width: f32, amount: f32) {
        let reach = radius + 3.0 * width;
        self.add(centre, (reach, reach), |right, down| {
            let distance = (right - centre.0).hypot(down - centre.1);
            let off = (distance - radius) / width;
            amount * (-0.5 * off * off).exp()
        });
    }

    /// A curve that goes from left to right, `height` giving its place in each column.
    pub(super) fn curve(
        &mut self,
        (from, to): (f32, f32),
        height: impl Fn(f32) -> f32,
        width: f32,
        amount: f32,
    ) {
        for x in self.span((from + to) / 2.0, (to - from).abs() / 2.0, self.shift.0) {
            let right = self.place(x, self.shift.0);
            let centre = height(right);
            for y in self.span(centre, 3.0 * width, self.shift.1) {
                let off = (self.place(y, self.shift.1) - centre) / width;
                self.pixels[y * self.size + x] += amount * (-0.5 * off * off).exp();
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "at most 1024 pixels to a side")]
    fn place(&self, pixel: usize, shift: f32) -> f32 {
        ((pixel as f32 + 0.5) * 2.0 / self.size as f32 - 1.0 - shift) / self.scale
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the pixels of one side"
    )]
    fn span(&self, centre: f32, reach: f32, shift: f32) -> std::ops::Range<usize> {
        let side = self.size as f32;
        let pixel = |place: f32| (place * self.scale + shift + 1.0) * side / 2.0;
        let from = pixel(centre - reach).floor().clamp(0.0, side);
        let to = pixel(centre + reach).ceil().clamp(from, side);
        from as usize..to as usize
    }
}

/// 0 below 0, 1 above 1, smooth between.
pub(super) fn fade(x: f32) -> f32 {
    let x = x.clamp(0.0, 1.0);
    x * x * (3.0 - 2.0 * x)
}
