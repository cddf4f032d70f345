//! Volumes, and turning stored axes into the patient's: which axis is which, and which run the other
//! way.

/// One volume with its axes along the patient's.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// Voxels along depth (towards the head), height (towards the front), width (to the right).
    pub shape: [usize; 3],
    /// Millimetres between voxel centres, along the same axes, where the file says so.
    pub spacing: Option<[f32; 3]>,
    /// Values after slope and intercept; width fastest.
    pub values: Vec<f32>,
    /// The least and the greatest value that there could be, where the file says so by a number type
    /// of which it uses all.
    pub full: Option<(f32, f32)>,
    /// Whether low values are shown bright (MONOCHROME1).
    pub inverted: bool,
    /// Where voxels lie, where the file says so.
    pub grid: Option<Grid>,
}

/// A volume whose values are names of structures.
#[derive(Clone, Debug, PartialEq)]
pub struct Labels {
    /// Voxels along depth, height and width, as in [`Volume`].
    pub shape: [usize; 3],
    /// The label of each voxel; width fastest.
    pub values: Vec<u32>,
    /// Where voxels lie, where the file says so.
    pub grid: Option<Grid>,
}

/// Where the centres of voxels lie in the patient, in millimetres to the right, to the front, up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// The first voxel.
    first: [f64; 3],
    /// From a voxel to the next along depth, height and width.
    steps: [[f64; 3]; 3],
}

/// Half a voxel, and a little for what tools round.
const HALF: f64 = 0.51;

impl Grid {
    /// Whether a volume with these sides lies by the one as by the other, to half a voxel of the other:
    /// so do its corners then. Along an axis of no length nothing is said.
    #[must_use]
    pub fn lies_on(&self, other: &Self, shape: [usize; 3]) -> bool {
        (0..8).all(|corner| {
            let voxel = [0, 1, 2].map(|axis| shape[axis].saturating_sub(1) * (corner >> axis & 1));
            let (one, other_one) = (self.place(voxel), other.place(voxel));
            let apart = [0, 1, 2].map(|world| one[world] - other_one[world]);
            other.steps.iter().all(|step| dot(apart, *step).abs() <= HALF * dot(*step, *step))
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "a place along a side")]
    fn place(&self, voxel: [usize; 3]) -> [f64; 3] {
        let along = |world: usize| -> f64 {
            self.steps.iter().zip(voxel).map(|(step, at)| step[world] * at as f64).sum()
        };
        [0, 1, 2].map(|world| self.first[world] + along(world))
    }

    /// Whether it is in reach: what headers of nonsense say is nowhere.
    fn is_near(&self) -> bool {
        self.first.iter().chain(self.steps.as_flattened()).all(|part| part.abs() < 1e9)
    }
}

/// How one volume of a file is turned.
pub(crate) struct Turn {
    /// Voxels along depth, height, width once turned.
    pub(crate) shape: [usize; 3],
    /// Millimetres along the same, where there are some to every neighbour; 1 where there is none.
    pub(crate) spacing: Option<[f32; 3]>,
    /// Where voxels lie once turned, where that is anywhere.
    pub(crate) grid: Option<Grid>,
    /// For depth, height, width: how far apart neighbours are in the file's order.
    strides: [isize; 3],
    /// Where the first turned voxel is in the file's order.
    first: usize,
}

impl Turn {
    /// From voxels along the stored axes, the fastest first, and where they are in millimetres to the
    /// right, to the front, up.
    pub(crate) fn new(stored: &[usize], affine: &[[f64; 4]; 3]) -> Self {
        let sides = [0, 1, 2].map(|axis| stored.get(axis).copied().unwrap_or(1));
        let steps = [1, sides[0], sides[0] * sides[1]];
        let mut turn = Self { shape: [1; 3], spacing: None, grid: None, strides: [0; 3], first: 0 };
        let (mut spacing, mut known) = ([1.0; 3], true);
        let mut grid = Grid { first: affine.map(|row| row[3]), steps: [[0.0; 3]; 3] };
        for (world, (axis, backwards)) in closest(affine).into_iter().enumerate() {
            // Right, front, up are width, height, depth.
            let place = 2 - world;
            turn.shape[place] = sides[axis];
            let step = affine.map(|row| row[axis]);
            #[expect(clippy::cast_possible_truncation, reason = "millimetres")]
            let along = dot(step, step).sqrt() as f32;
            if along.is_finite() && along > 0.0 {
                spacing[place] = along;
            } else {
                known &= sides[axis] == 1;
            }
            let stride = steps[axis].cast_signed();
            turn.strides[place] = if backwards { -stride } else { stride };
            grid.steps[place] = step;
            if backwards {
                turn.first += steps[axis] * (sides[axis] - 1);
                // From the other end.
                let mut last = [0; 3];
                last[place] = sides[axis] - 1;
                grid.first = grid.place(last);
                grid.steps[place] = step.map(|part| -part);
            }
        }
        turn.spacing = known.then_some(spacing);
        turn.grid = Some(grid).filter(Grid::is_near);
        turn
    }

    /// The values of one volume, in the turned order.
    pub(crate) fn apply<T: Copy>(&self, values: &[T]) -> Vec<T> {
        let [depth, height, width] = self.shape;
        if self.first == 0 && self.strides[2] == 1 && self.strides[1].unsigned_abs() == width {
            return values.to_vec();
        }
        let mut turned = Vec::with_capacity(values.len());
        let mut slice = self.first;
        for _ in 0..depth {
            let mut row = slice;
            for _ in 0..height {
                let mut voxel = row;
                for _ in 0..width {
                    turned.push(values[voxel]);
                    // A step past the last voxel is never read.
                    voxel = voxel.wrapping_add_signed(self.strides[2]);
                }
                row = row.wrapping_add_signed(self.strides[1]);
            }
            slice = slice.wrapping_add_signed(self.strides[0]);
        }
        turned
    }
}

/// For right, front and up: the stored axis that runs along it most, and whether backwards. Each
/// stored axis is used once; the clearest directions choose first.
fn closest(affine: &[[f64; 4]; 3]) -> [(usize, bool); 3] {
    let mut scores = Vec::with_capacity(9);
    for axis in 0..3 {
        let length = affine.iter().map(|row| row[axis] * row[axis]).sum::<f64>().sqrt();
        for (world, row) in affine.iter().enumerate() {
            let cosine = row[axis] / length;
            // An axis of no length says nothing, and keeps its place where it can.
            let nothing = if axis == world { 1e-9 } else { 0.0 };
            let cosine = if cosine.is_finite() { cosine } else { nothing };
            scores.push((cosine, world, axis));
        }
    }
    // A stable sort: equal ones stay in the order of axes.
    scores.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
    let mut chosen: [Option<(usize, bool)>; 3] = [None; 3];
    for (cosine, world, axis) in scores {
        let taken = chosen.iter().flatten().any(|(other, _)| *other == axis);
        if chosen[world].is_none() && !taken {
            chosen[world] = Some((axis, cosine < 0.0));
        }
    }
    // Nine scores leave no direction and no axis out.
    [0, 1, 2].map(|world| chosen[world].unwrap_or((world, false)))
}

pub(crate) fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What stands upright on two directions.
pub(crate) fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}
