//! What is in one DICOM file, as facts about its stored pixels: shape, range, sum and digest. No
//! header text.

use std::fmt;
use std::path::Path;

use data_encoding::HEXLOWER;
use serde::Serialize;

use crate::dataset::Fault;
use crate::dataset::dicom::{self, Stored};

/// Facts of stored pixels: after decompression, before rescale, window and palette.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// Rows of pixels.
    pub rows: u16,
    /// Columns of pixels.
    pub cols: u16,
    /// Frames.
    pub frames: u32,
    /// Values to a pixel.
    pub samples: u16,
    /// What the values mean.
    pub photometric: &'static str,
    /// Bits that carry a value.
    pub bits_stored: u16,
    /// The least value.
    pub min: i64,
    /// The greatest value.
    pub max: i64,
    /// The sum of all values.
    pub sum: i64,
    /// SHA-256 over the values as little-endian bytes: frame, row, column, sample.
    pub sha256_pixels: String,
}

/// Reads a file and states the facts.
///
/// # Errors
/// The [`Fault`] that keeps it from being read.
pub fn show(path: &Path) -> Result<Facts, Fault> {
    let stored = Stored::decode(&dicom::bytes(path)?)?;
    let (mut min, mut max, mut sum) = (i64::MAX, i64::MIN, 0_i64);
    for value in stored.values() {
        min = min.min(value);
        max = max.max(value);
        sum = sum.saturating_add(value);
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, &stored.data);
    Ok(Facts {
        rows: stored.rows,
        cols: stored.columns,
        frames: stored.frames,
        samples: stored.samples,
        photometric: stored.photometric.name(),
        bits_stored: stored.bits_stored,
        min,
        max,
        sum,
        sha256_pixels: HEXLOWER.encode(digest.as_ref()),
    })
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, cols, frames, samples, photometric, bits_stored, min, max, sum, .. } =
            self;
        writeln!(f, "rows           {rows}")?;
        writeln!(f, "cols           {cols}")?;
        writeln!(f, "frames         {frames}")?;
        writeln!(f, "samples        {samples}")?;
        writeln!(f, "photometric    {photometric}")?;
        writeln!(f, "bits stored    {bits_stored}")?;
        writeln!(f, "min            {min}")?;
        writeln!(f, "max            {max}")?;
        writeln!(f, "sum            {sum}")?;
        writeln!(f, "sha256 pixels  {}", self.sha256_pixels)
    }
}
