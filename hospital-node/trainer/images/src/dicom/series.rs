//! Where slices lie, and a series of them as one volume.

use std::cmp::Ordering;

use super::Stored;
use super::elements::Elements;
use crate::file::limited;
use crate::volume::{Turn, Volume, cross, dot};
use crate::{Fault, Limit, Misfit, sha256};

/// Where an image lies in the patient.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// A digest of the series' number.
    pub series: Option<[u8; 32]>,
    /// Where in its series the image says that it is.
    pub number: Option<i32>,
    /// The centre of the first voxel of each frame: millimetres to the left, to the back, up.
    pub positions: Vec<[f64; 3]>,
    /// The directions in which columns and rows count up.
    pub orientation: Option<[f64; 6]>,
    /// Whether the frames of the file have several orientations, of which that is the first.
    pub turns: bool,
    /// Millimetres between rows and between columns.
    pub spacing: Option<[f64; 2]>,
    /// Millimetres between slices, where the file says so.
    pub between: Option<f64>,
}

/// Where rows and columns run when a file does not say: as an axial slice is looked at, to the
/// patient's left and to the back.
const AXIAL: [f64; 6] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0];

impl Place {
    /// The directions in which columns and rows count up, in millimetres to the right, to the front,
    /// up: DICOM counts to the left and back.
    pub(crate) fn directions(&self) -> [[f64; 3]; 2] {
        let [a, b, c, d, e, f] = self.orientation.filter(are_directions).unwrap_or(AXIAL);
        [[-a, -b, c], [-d, -e, f]]
    }

    /// Millimetres between rows and between columns, if the file has sizes that can be.
    #[expect(clippy::cast_possible_truncation, reason = "millimetres")]
    pub(crate) fn pixel_spacing(&self) -> Option<[f32; 2]> {
        let spacing = self.spacing?.map(|between| between as f32);
        spacing.iter().all(|between| between.is_finite() && *between > 0.0).then_some(spacing)
    }

    pub(super) fn read(elements: &Elements<'_>) -> Self {
        let shared = elements.items((0x5200, 0x9229)).first();
        let frames = elements.items((0x5200, 0x9230));
        let group = |tag| {
            shared
                .and_then(|groups| groups.items(tag).first())
                .or_else(|| frames.first().and_then(|groups| groups.items(tag).first()))
                .unwrap_or(elements)
        };
        let position =
            |groups: &Elements<'_>| groups.decimals((0x20, 0x32)).first_chunk::<3>().copied();
        let measures = group((0x28, 0x9110));
        let per_frame: Option<Vec<[f64; 3]>> = frames
            .iter()
            .map(|groups| groups.items((0x20, 0x9113)).first().and_then(position))
            .collect();
        let positions = match per_frame {
            Some(positions) if !positions.is_empty() => positions,
            _ => position(group((0x20, 0x9113))).into_iter().collect(),
        };
        let orientation =
            |groups: &Elements<'_>| groups.decimals((0x20, 0x37)).first_chunk::<6>().copied();
        let mut turned =
            frames.iter().filter_map(|f| f.items((0x20, 0x9116)).first().and_then(orientation));
        let turns = turned.next().is_some_and(|first| !turned.all(|other| is_along(first, other)));
        Self {
            series: elements.value((0x20, 0x0e)).map(sha256),
            number: elements.decimal((0x20, 0x13)).and_then(whole),
            positions,
            orientation: orientation(group((0x20, 0x9116))),
            turns,
            // Of projections that at the detector, or that of a scanned film.
            spacing: [(0x28, 0x30), (0x18, 0x1164), (0x18, 0x2010)]
                .into_iter()
                .find_map(|tag| measures.decimals(tag).first_chunk().copied()),
            between: measures
                .decimal((0x18, 0x88))
                .or_else(|| measures.decimal((0x18, 0x50)))
                .filter(|between| *between > 0.0),
        }
    }
}

fn are_directions(orientation: &[f64; 6]) -> bool {
    let has_length = |direction: &[f64]| {
        let length: f64 = direction.iter().map(|part| part * part).sum();
        length.is_finite() && length > 0.0
    };
    has_length(&orientation[..3]) && has_length(&orientation[3..])
}

/// How much a direction's parts may differ from slice to slice: half a degree, more than rounding.
const TURN: f64 = 0.01;

fn is_along(one: [f64; 6], other: [f64; 6]) -> bool {
    one.iter().zip(other).all(|(one, other)| (one - other).abs() <= TURN)
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be in range")]
fn whole(number: f64) -> Option<i32> {
    (number.abs() < 2e9).then_some(number as i32)
}

/// Slices of one volume; those of scanners are a few thousand.
const MAX_SLICES: u64 = 1 << 16;

/// One slice: its frame, where it is along the normal, and its number.
struct Slice<'s> {
    stored: &'s Stored,
    frame: usize,
    position: Option<[f64; 3]>,
    along: f64,
    number: i64,
}

/// The volume that the images of one series make, ordered by position along their normal, else by
/// their numbers; axes turned to the patient's, values rescaled.
///
/// # Errors
/// [`Fault::WrongShape`] for slices of several sizes, of several series, of several orientations, of
/// several at one place, without order, or in colour; [`Fault::Slices`] where one is missing, or has
/// pixels of another size than the others; [`Fault::TooLarge`].
pub fn volume_of(images: &[Stored]) -> Result<Volume, Fault> {
    let images = by_place(images);
    let first = *images.first().ok_or(Fault::WrongShape("expected slices, found none"))?;
    let size = (usize::from(first.rows), usize::from(first.columns));
    let same = |image: &&Stored| {
        (usize::from(image.rows), usize::from(image.columns)) == size
            && image.place.series == first.place.series
    };
    if !images.iter().all(same) {
        return Err(Fault::WrongShape("expected slices of one series and one size"));
    }
    let orientation = first.place.orientation.unwrap_or(AXIAL);
    alike(&images, first, orientation)?;
    let [across, down] = [[0, 1, 2], [3, 4, 5]].map(|places| places.map(|p| orientation[p]));
    let normal = cross(across, down);
    // Before anything is set aside for a frame.
    let frames: u64 = images.iter().map(|image| u64::from(image.frames)).sum();
    if frames > MAX_SLICES {
        return Err(Fault::TooLarge(Limit::Slices(frames, MAX_SLICES)));
    }
    limited(&[usize::try_from(frames).unwrap_or(usize::MAX), size.0, size.1])?;
    let mut slices = Vec::new();
    for stored in images {
        for index in 0..stored.frames {
            let frame = usize::try_from(index).unwrap_or(usize::MAX);
            let position = match stored.place.positions.as_slice() {
                [only] if stored.frames == 1 => Some(*only),
                several => several.get(frame).filter(|_| several.len() > 1).copied(),
            };
            let number = i64::from(index) + i64::from(stored.place.number.unwrap_or(0));
            let along = position.map_or(0.0, |position| dot(position, normal));
            slices.push(Slice { stored, frame, position, along, number });
        }
    }
    let positioned = slices.iter().all(|slice| slice.position.is_some());
    if positioned {
        slices.sort_by(|a, b| a.along.total_cmp(&b.along).then(a.number.cmp(&b.number)));
        if slices.windows(2).any(|pair| (pair[1].along - pair[0].along).abs() < 1e-3) {
            return Err(Fault::WrongShape("several slices at one place"));
        }
        evenly_spaced(&slices)?;
    } else {
        slices.sort_by_key(|slice| slice.number);
        if slices.windows(2).any(|pair| pair[0].number == pair[1].number) {
            return Err(Fault::WrongShape("slices without a place and with one number"));
        }
    }
    let mut inverted = false;
    let mut stacked = Vec::with_capacity(size.0 * size.1 * slices.len());
    for slice in &slices {
        let picture = slice.stored.frame(slice.frame)?;
        if picture.samples != 1 {
            return Err(Fault::WrongShape("a volume of slices in colour"));
        }
        // As all are: their photometric interpretations are one.
        inverted = picture.inverted;
        stacked.extend_from_slice(&picture.values);
    }
    let affine = affine(first, &slices, across, down, normal);
    let turn = Turn::new(&[size.1, size.0, slices.len()], &affine);
    let between = slices.len() == 1 || positioned || first.place.between.is_some();
    let spacing = first.place.pixel_spacing().filter(|_| between).and(turn.spacing);
    let placed = positioned && first.place.orientation.is_some() && spacing.is_some();
    let (shape, grid) = (turn.shape, turn.grid.filter(|_| placed));
    Ok(Volume { shape, spacing, values: turn.apply(&stacked), full: None, inverted, grid })
}

/// The images by where their first pixels lie, one of the outermost first: what the others are compared
/// with, and where a volume takes its distances from, is the same in whatever order they come.
fn by_place(images: &[Stored]) -> Vec<&Stored> {
    let mut images: Vec<&Stored> = images.iter().collect();
    images.sort_by(|a, b| {
        let (a, b) = (&a.place, &b.place);
        let order = a.positions.partial_cmp(&b.positions).unwrap_or(Ordering::Equal);
        order.then(a.number.cmp(&b.number))
    });
    images
}

/// Slices of one volume are parallel, and have pixels of one size and one meaning (PS3.3 C.7.6.2.1.1).
fn alike(images: &[&Stored], first: &Stored, orientation: [f64; 6]) -> Result<(), Fault> {
    for image in images {
        let place = &image.place;
        if place.turns || !is_along(orientation, place.orientation.unwrap_or(AXIAL)) {
            return Err(Fault::WrongShape("slices of several orientations in one series"));
        }
        if image.photometric != first.photometric {
            return Err(Fault::WrongShape("slices of several photometric interpretations"));
        }
        let Some((expected, found)) = first.place.spacing.zip(place.spacing) else { continue };
        if expected.iter().zip(found).any(|(one, other)| (one - other).abs() > FAR * one.abs()) {
            let ([a, b], [c, d]) = (expected, found);
            return Err(Fault::Slices(Misfit(format!(
                "expected pixels {a:.3} by {b:.3} mm apart as in another slice, found {c:.3} by {d:.3}"
            ))));
        }
    }
    Ok(())
}

/// By which share distances between pixels may differ from slice to slice.
const FAR: f64 = 0.01;
/// By which share a step from slice to slice may differ from most of the others: where one is missing,
/// it is twice as long.
const UNEVEN: f64 = 0.25;

/// Refuses slices that are not as far from each other as most are. A volume has one distance between
/// slices, and what is between two of them that are apart nobody knows.
fn evenly_spaced(slices: &[Slice<'_>]) -> Result<(), Fault> {
    let steps = || slices.windows(2).map(|pair| pair[1].along - pair[0].along);
    let mut sorted: Vec<f64> = steps().collect();
    sorted.sort_by(f64::total_cmp);
    let Some(&usual) = sorted.get(sorted.len().saturating_sub(1) / 2) else { return Ok(()) };
    match steps().find(|step| (step - usual).abs() > UNEVEN * usual) {
        None => Ok(()),
        Some(step) => Err(Fault::Slices(Misfit(format!(
            "expected slices {usual:.2} mm apart as most are, found two {step:.2} mm apart"
        )))),
    }
}

/// Column, row and slice to millimetres right, to the front, up: DICOM counts to the left and back.
fn affine(
    first: &Stored,
    slices: &[Slice<'_>],
    across: [f64; 3],
    down: [f64; 3],
    normal: [f64; 3],
) -> [[f64; 4]; 3] {
    let [between_rows, between_columns] = first.place.spacing.unwrap_or([1.0, 1.0]);
    let last = slices.len() - 1;
    let ends = slices[0].position.zip(slices[last].position).filter(|_| last > 0);
    #[expect(clippy::cast_precision_loss, reason = "a number of slices")]
    let step = match ends {
        Some((from, to)) => [0, 1, 2].map(|axis| (to[axis] - from[axis]) / last as f64),
        None => normal.map(|part| part * first.place.between.unwrap_or(1.0)),
    };
    let origin = slices[0].position.unwrap_or_default();
    [0, 1, 2].map(|axis| {
        let sign = if axis < 2 { -1.0 } else { 1.0 };
        [across[axis] * between_columns, down[axis] * between_rows, step[axis], origin[axis]]
            .map(|part| sign * part)
    })
}
