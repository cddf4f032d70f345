//! What is in one file, as facts about its stored pixels: shape, range, sum and digest. No header
//! text.

use std::fmt;
use std::path::Path;

use data_encoding::HEXLOWER;
use hospital_images::Sum;
use serde::Serialize;

use crate::dataset::Fault;

/// Facts of stored pixels: after decompression, before rescale, window and palette.
#[derive(Clone, Debug, Serialize)]
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
    /// The least value.
    pub min: Number,
    /// The greatest value.
    pub max: Number,
    /// The sum of all values; exact for whole numbers.
    pub sum: Number,
    /// SHA-256 over the values as little-endian bytes: frame, row, column, sample.
    pub sha256_pixels: String,
    /// The same of a NIfTI file, by the name that the format's tools use: the file's order, first
    /// axis fastest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256_raw_le_fortran: Option<String>,
    /// Of an NPZ file, each array by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arrays: Vec<Array>,
}

/// Facts of one array.
#[derive(Clone, Debug, Serialize)]
pub struct Array {
    /// What the file calls it.
    pub name: String,
    /// Places along each axis.
    pub shape: Vec<usize>,
    /// The number type of a value.
    pub dtype: &'static str,
    /// The least value.
    pub min: Number,
    /// The greatest value.
    pub max: Number,
    /// The sum of all values; exact for whole numbers.
    pub sum: Number,
    /// SHA-256 over the values as little-endian bytes, the last axis fastest.
    pub sha256: String,
}

/// A value as it is: whole, or with a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Number {
    /// Of whole values.
    Whole(i128),
    /// Of floating-point values.
    Float(f64),
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
        }
    }
}

/// Reads a file of any format and states the facts.
///
/// # Errors
/// The [`Fault`] that keeps it from being read.
pub fn show(path: &Path) -> Result<Facts, Fault> {
    let facts = hospital_images::Facts::of(path)?;
    let number =
        |whole: Option<i128>, rounded: f64| whole.map_or(Number::Float(rounded), Number::Whole);
    let sum = |sum: Sum| match sum {
        Sum::Whole(sum) => Number::Whole(sum),
        Sum::Float(sum) => Number::Float(sum),
    };
    let arrays = facts.arrays.into_iter().map(|array| Array {
        name: array.name,
        shape: array.shape,
        dtype: array.dtype,
        min: number(array.whole.map(|whole| whole.least), array.min),
        max: number(array.whole.map(|whole| whole.greatest), array.max),
        sum: sum(array.sum),
        sha256: HEXLOWER.encode(&array.sha256),
    });
    let arrays = arrays.collect();
    let digest = HEXLOWER.encode(&facts.sha256);
    Ok(Facts {
        format: facts.format,
        rows: facts.rows,
        cols: facts.cols,
        frames: facts.frames,
        samples: facts.samples,
        photometric: facts.photometric,
        bits_stored: facts.bits_stored,
        dtype: facts.dtype,
        min: number(facts.whole.map(|whole| whole.least), facts.min),
        max: number(facts.whole.map(|whole| whole.greatest), facts.max),
        sum: sum(facts.sum),
        sha256_raw_le_fortran: (facts.format == "nifti").then(|| digest.clone()),
        sha256_pixels: digest,
        arrays,
    })
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, cols, frames, samples, photometric, bits_stored, .. } = self;
        writeln!(f, "format         {}", self.format)?;
        writeln!(f, "rows           {rows}")?;
        writeln!(f, "cols           {cols}")?;
        writeln!(f, "frames         {frames}")?;
        writeln!(f, "samples        {samples}")?;
        writeln!(f, "photometric    {photometric}")?;
        writeln!(f, "bits stored    {bits_stored}")?;
        writeln!(f, "number type    {}", self.dtype)?;
        writeln!(f, "min            {}", self.min)?;
        writeln!(f, "max            {}", self.max)?;
        writeln!(f, "sum            {}", self.sum)?;
        writeln!(f, "sha256 pixels  {}", self.sha256_pixels)?;
        for Array { name, shape, dtype, min, max, .. } in &self.arrays {
            writeln!(f, "{name:<14} {shape:?} {dtype}, {min} to {max}")?;
        }
        Ok(())
    }
}
