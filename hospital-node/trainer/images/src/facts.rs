//! What is in one file, as facts about its stored pixels: shape, range, sum and digest.

use std::io::Cursor;
use std::path::Path;

use crate::file::Digest;
use crate::npz::{self, Array, Arrays};
use crate::{Fault, Image, bytes, dicom, sha256};

/// Facts of stored pixels: after decompression, before rescale, window and palette.
#[derive(Clone, Debug)]
pub struct Facts {
    /// dicom, nifti, png-or-jpeg, or npz.
    pub format: &'static str,
    /// Rows of pixels.
    pub rows: usize,
    /// Columns of pixels.
    pub cols: usize,
    /// Frames, or slices of all volumes; in an NPZ file those of all its images.
    pub frames: usize,
    /// Values to a pixel.
    pub samples: usize,
    /// What the values mean.
    pub photometric: &'static str,
    /// Bits that carry a value.
    pub bits_stored: usize,
    /// The number type of a value.
    pub dtype: &'static str,
    /// The least value, rounded to what a float can be.
    pub min: f64,
    /// The greatest value, rounded to what a float can be.
    pub max: f64,
    /// The sum of all values; exact for whole numbers.
    pub sum: Sum,
    /// Where values are whole numbers, all three without rounding.
    pub whole: Option<Whole>,
    /// SHA-256 over the values as little-endian bytes: frame, row, column, sample. For NIfTI that is
    /// the file's order, first axis fastest; for NPZ the images for training, validation and tests.
    pub sha256: [u8; 32],
    /// Of an NPZ file, each array by itself; of others none.
    pub arrays: Vec<ArrayFacts>,
}

/// Facts of one array of an NPZ file.
#[derive(Clone, Debug)]
pub struct ArrayFacts {
    /// What the file calls it.
    pub name: String,
    /// Places along each axis.
    pub shape: Vec<usize>,
    /// The number type of a value.
    pub dtype: &'static str,
    /// The least value, rounded to what a float can be.
    pub min: f64,
    /// The greatest value, rounded to what a float can be.
    pub max: f64,
    /// The sum of all values; exact for whole numbers.
    pub sum: Sum,
    /// Where values are whole numbers, all three without rounding.
    pub whole: Option<Whole>,
    /// SHA-256 over the values as little-endian bytes, the last axis fastest.
    pub sha256: [u8; 32],
}

impl ArrayFacts {
    fn of(name: String, array: &Array) -> Self {
        let range = Range::over(|value| array.datatype.each(&array.data, value));
        let whole = array.datatype.whole(&array.data).filter(|_| array.rows() > 0);
        Self {
            name,
            shape: array.shape.clone(),
            dtype: array.datatype.name(),
            min: range.least,
            max: range.greatest,
            sum: range.sum(whole),
            whole,
            sha256: sha256(&array.data),
        }
    }
}

/// A sum, exact where values are whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sum {
    /// Of whole numbers.
    Whole(i128),
    /// Of floating-point numbers.
    Float(f64),
}

/// The ends and the sum of whole numbers, none of them rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The least value.
    pub least: i128,
    /// The greatest value.
    pub greatest: i128,
    /// The sum of all values.
    pub sum: i128,
}

impl Whole {
    fn and(self, other: Self) -> Self {
        Self {
            least: self.least.min(other.least),
            greatest: self.greatest.max(other.greatest),
            sum: self.sum + other.sum,
        }
    }

    pub(crate) fn over<T: Into<i128>>(values: impl Iterator<Item = T>) -> Self {
        let none = Self { least: i128::MAX, greatest: i128::MIN, sum: 0 };
        values.fold(none, |so_far, value| {
            let value = value.into();
            Self {
                least: so_far.least.min(value),
                greatest: so_far.greatest.max(value),
                sum: so_far.sum + value,
            }
        })
    }
}

impl Facts {
    /// Reads a file and states the facts.
    ///
    /// # Errors
    /// The [`Fault`] that keeps it from being read.
    pub fn of(path: &Path) -> Result<Self, Fault> {
        let file = bytes(path)?;
        if npz::begins_so(&file) {
            return npz::read(Cursor::new(file))
                .map(|parts| Self::npz(&parts))
                .map_err(Fault::Arrays);
        }
        Ok(match &Image::of(path, &file)? {
            Image::Dicom(stored) => Self::dicom(stored),
            Image::Nifti(stored) => {
                let shape = &stored.header.shape;
                let side = |axis: usize| shape.get(axis).copied().unwrap_or(1);
                let datatype = stored.header.datatype;
                let range = Range::over(|value| stored.each(value));
                let whole = stored.whole();
                Self {
                    format: "nifti",
                    rows: side(1),
                    cols: side(0),
                    frames: shape.iter().skip(2).product(),
                    samples: 1,
                    photometric: "MONOCHROME2",
                    bits_stored: 8 * datatype.bytes(),
                    dtype: datatype.name(),
                    min: range.least,
                    max: range.greatest,
                    sum: range.sum(whole),
                    whole,
                    sha256: sha256(&stored.data),
                    arrays: Vec::new(),
                }
            }
            Image::Raster(stored) => {
                let range =
                    Range::over(|value| stored.values.iter().for_each(|v| value((*v).into())));
                let narrow = stored.bits <= 8;
                let bytes: Vec<u8> = stored
                    .values
                    .iter()
                    .flat_map(|value| {
                        value.to_le_bytes().into_iter().take(if narrow { 1 } else { 2 })
                    })
                    .collect();
                let whole = Some(Whole::over(stored.values.iter().copied()));
                Self {
                    format: "png-or-jpeg",
                    rows: stored.rows,
                    cols: stored.columns,
                    frames: 1,
                    samples: stored.samples,
                    photometric: stored.photometric(),
                    bits_stored: stored.bits.into(),
                    dtype: if narrow { "uint8" } else { "uint16" },
                    min: range.least,
                    max: range.greatest,
                    sum: range.sum(whole),
                    whole,
                    sha256: sha256(&bytes),
                    arrays: Vec::new(),
                }
            }
        })
    }

    fn dicom(stored: &dicom::Stored) -> Self {
        let range = Range::over(|value| stored.each(value));
        let whole = stored.whole();
        let dtype = match (stored.kind, stored.bits_allocated) {
            (dicom::Kind::Unsigned, 8) => "uint8",
            (dicom::Kind::Unsigned, 16) => "uint16",
            (dicom::Kind::Unsigned, _) => "uint32",
            (dicom::Kind::Signed, 8) => "int8",
            (dicom::Kind::Signed, 16) => "int16",
            (dicom::Kind::Signed, _) => "int32",
            (dicom::Kind::Float, 32) => "float32",
            (dicom::Kind::Float, _) => "float64",
        };
        Self {
            format: "dicom",
            rows: stored.rows.into(),
            cols: stored.columns.into(),
            frames: usize::try_from(stored.frames).unwrap_or(usize::MAX),
            samples: stored.samples.into(),
            photometric: stored.photometric.name(),
            bits_stored: stored.bits_stored.into(),
            dtype,
            min: range.least,
            max: range.greatest,
            sum: range.sum(whole),
            whole,
            sha256: sha256(&stored.data),
            arrays: Vec::new(),
        }
    }

    /// Of a file with at least one part, all of one shape.
    fn npz(parts: &[Arrays]) -> Self {
        let images = || parts.iter().map(|part| &part.images).filter(|images| images.rows() > 0);
        let range = Range::over(|value| {
            for array in images() {
                array.datatype.each(&array.data, value);
            }
        });
        let whole = images()
            .map(|array| array.datatype.whole(&array.data))
            .reduce(|one, other| one.zip(other).map(|(one, other)| one.and(other)))
            .flatten();
        let mut digest = Digest::default();
        images().for_each(|array| digest.update(&array.data));
        let both = parts.iter().flat_map(|part| [(part, "images"), (part, "labels")]);
        let arrays = both.map(|(part, what)| {
            let array = if what == "images" { &part.images } else { &part.labels };
            ArrayFacts::of(format!("{}_{what}", part.prefix), array)
        });
        let Arrays { sides: [depth, rows, cols], samples, images: Array { datatype, .. }, .. } =
            parts[0];
        Self {
            format: "npz",
            rows,
            cols,
            frames: parts.iter().map(Arrays::len).sum::<usize>() * depth,
            samples,
            photometric: if samples == 3 { "RGB" } else { "MONOCHROME2" },
            bits_stored: 8 * datatype.bytes(),
            dtype: datatype.name(),
            min: range.least,
            max: range.greatest,
            sum: range.sum(whole),
            whole,
            sha256: digest.finish(),
            arrays: arrays.collect(),
        }
    }
}

struct Range {
    least: f64,
    greatest: f64,
    sum: f64,
}

impl Range {
    fn over(each: impl FnOnce(&mut dyn FnMut(f64))) -> Self {
        let mut range = Self { least: f64::INFINITY, greatest: f64::NEG_INFINITY, sum: 0.0 };
        each(&mut |value| {
            range.least = range.least.min(value);
            range.greatest = range.greatest.max(value);
            range.sum += value;
        });
        range
    }

    fn sum(&self, whole: Option<Whole>) -> Sum {
        whole.map_or(Sum::Float(self.sum), |whole| Sum::Whole(whole.sum))
    }
}
