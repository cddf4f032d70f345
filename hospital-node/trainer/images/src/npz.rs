//! MedMNIST-style NPZ: `{train,val,test}_images` and `_labels`. Images are flat, `(n, h, w)` or
//! `(n, h, w, c)`, or volumes, `(n, d, h, w)` or `(n, d, h, w, 1)`; labels are one number to an image,
//! `(n,)` or `(n, 1)`, or a truth for each class, `(n, k)`.
//!
//! An array's own header is read first, and its size compared with the file's and with our limit before
//! memory is set aside for it.

use std::io::{Read, Seek, SeekFrom};

use ndarray::{ArrayViewD, IxDyn, ShapeBuilder as _};
use zip::ZipArchive;

use crate::file::{MAX_INFLATION, limited};
use crate::nifti::Volume;
use crate::{Datatype, MAX_PIXEL_BYTES, Picture};

/// Bytes of an array's header.
const MAX_HEADER: usize = 64 << 10;
/// Axes that an array can have.
const MAX_AXES: usize = 8;

/// What the names of the three parts' arrays start with.
pub const PREFIXES: [&str; 3] = ["train", "val", "test"];

/// What is wrong with such a file, as what was expected and what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NpzFault(pub String);

/// How such a file begins, and one without entries.
const ZIP: [[u8; 4]; 2] = [*b"PK\x03\x04", *b"PK\x05\x06"];

/// Whether these bytes begin like such a file.
#[must_use]
pub fn begins_so(bytes: &[u8]) -> bool {
    ZIP.iter().any(|begin| bytes.starts_with(begin))
}

/// Numbers side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Places along each axis.
    pub shape: Vec<usize>,
    /// The number type.
    pub datatype: Datatype,
    /// Little-endian values, the last axis fastest.
    pub data: Vec<u8>,
}

impl Array {
    /// How long the first axis is.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    /// The bytes at one place of the first axis; none where there is no such place.
    #[must_use]
    pub fn row(&self, index: usize) -> &[u8] {
        let size = self.data.len() / self.rows().max(1);
        self.data.get(index * size..(index + 1) * size).unwrap_or_default()
    }

    #[expect(clippy::cast_possible_truncation, reason = "f32 is what models are shown")]
    fn values(&self, index: usize) -> Vec<f32> {
        let row = self.row(index);
        let mut values = Vec::with_capacity(row.len() / self.datatype.bytes());
        self.datatype.each(row, &mut |value| values.push(value as f32));
        values
    }
}

/// One part of such a file: images and, row by row, their labels.
#[derive(Debug)]
pub struct Arrays {
    /// One of [`PREFIXES`].
    pub prefix: &'static str,
    /// No side 0.
    pub images: Array,
    /// As many rows as there are images, each of at least one number.
    pub labels: Array,
    /// Depth, height and width of each image; a flat one has depth 1.
    pub sides: [usize; 3],
    /// Values to a pixel: 1, or 3 for red, green, blue.
    pub samples: usize,
}

impl Arrays {
    /// How many images there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.images.rows()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A flat image. Its full range is what its number type can hold; of numbers with more than 16
    /// bits or a fraction, of which nobody uses all, what the image itself has.
    #[must_use]
    pub fn picture(&self, index: usize) -> Picture {
        let values = self.images.values(index);
        let own = || {
            let ends = (f32::INFINITY, f32::NEG_INFINITY);
            values.iter().fold(ends, |ends, value| (ends.0.min(*value), ends.1.max(*value)))
        };
        let full = self.images.datatype.range().unwrap_or_else(own);
        let [_, rows, columns] = self.sides;
        let (samples, spacing, shown) = (self.samples, None, None);
        Picture { rows, columns, samples, spacing, values, full, shown, inverted: false }
    }

    /// A volume, its axes as they are stored: nothing says where they point. Its full range is that of
    /// a flat image.
    #[must_use]
    pub fn volume(&self, index: usize) -> Volume {
        let full = self.images.datatype.range();
        let (shape, values) = (self.sides, self.images.values(index));
        Volume { shape, spacing: None, values, full, inverted: false, grid: None }
    }

    /// The numbers of one image's label; none in place of what is below 0 or has a fraction.
    #[must_use]
    pub fn label(&self, index: usize) -> Vec<Option<u32>> {
        let mut label = Vec::new();
        self.labels.datatype.each(self.labels.row(index), &mut |value| {
            let is_label = value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "whole and in range"
            )]
            label.push(is_label.then_some(value as u32));
        });
        label
    }

    fn kind(&self) -> ([usize; 3], usize, Datatype) {
        (self.sides, self.samples, self.images.datatype)
    }
}

/// Reads the parts that the file has.
///
/// # Errors
/// What is not a zip of such arrays, with what was expected and what was found.
pub fn read(mut file: impl Read + Seek) -> Result<Vec<Arrays>, NpzFault> {
    let no_zip =
        || wrong("expected a zip archive of arrays, found something else, or a cut-off one");
    let packed = file.seek(SeekFrom::End(0)).map_err(|_| no_zip())?;
    let archive = ZipArchive::new(file).map_err(|_| no_zip())?;
    let mut archive = Archive { archive, packed, room: MAX_PIXEL_BYTES };
    let mut parts = Vec::new();
    for prefix in PREFIXES {
        let names = [format!("{prefix}_images"), format!("{prefix}_labels")];
        let there = names.each_ref().map(|name| archive.entry(name));
        match there {
            [None, None] => {}
            [Some(images), Some(labels)] => {
                let images = archive.array(images, &names[0])?;
                let labels = archive.array(labels, &names[1])?;
                parts.push(matched(prefix, images, labels)?);
            }
            _ => return Err(wrong(format!("{} and {} come in pairs", names[0], names[1]))),
        }
    }
    if parts.is_empty() && !archive.archive.file_names().any(|name| name.ends_with(".npy")) {
        return Err(wrong("expected an NPZ file, found another zip archive: unpack it"));
    }
    if parts.is_empty() {
        return Err(wrong("expected arrays named train_images and train_labels, found neither"));
    }
    if parts.iter().any(|part| part.kind() != parts[0].kind()) {
        return Err(wrong("expected images of one shape and number type, found several"));
    }
    if parts.iter().all(Arrays::is_empty) {
        return Err(wrong("expected images, found arrays without any"));
    }
    Ok(parts)
}

/// An archive, and how much of it may still be unpacked.
struct Archive<R> {
    archive: ZipArchive<R>,
    /// Bytes of the file.
    packed: u64,
    room: u64,
}

impl<R: Read + Seek> Archive<R> {
    fn entry(&self, name: &str) -> Option<usize> {
        let with_end = self.archive.index_for_name(&format!("{name}.npy"));
        with_end.or_else(|| self.archive.index_for_name(name))
    }

    fn array(&mut self, index: usize, name: &str) -> Result<Array, NpzFault> {
        let mut entry = self.archive.by_index(index).map_err(|_| {
            wrong(format!("{name}: expected a stored or deflated entry, found another"))
        })?;
        let damaged = || wrong(format!("{name}: the entry is cut off or damaged"));
        let expected = |found| {
            let text = "expected an array of numbers with all its values";
            wrong(format!("{name}: {text}, found {found}"))
        };
        let header = header(&mut entry).map_err(|_| damaged())?;
        let header = header.ok_or_else(|| expected("something else"))?;
        if number_type(&header).is_none() {
            let text = "expected an array of truths, integers or floats of up to 64 bits";
            return Err(wrong(format!("{name}: {text}, found another type")));
        }
        let Header { datatype, big_endian, shape, columns_first } =
            Header::parse(&header).ok_or_else(|| expected("no shape of one"))?;
        let few = || expected("too few");
        let size = shape
            .iter()
            .try_fold(datatype.bytes(), |all, side| all.checked_mul(*side))
            .filter(|size| {
                let packed = self.packed.min(entry.compressed_size());
                *size as u64 <= packed.saturating_mul(MAX_INFLATION)
            })
            .ok_or_else(few)?;
        self.room = self.room.checked_sub(size as u64).ok_or_else(|| {
            let most = MAX_PIXEL_BYTES >> 20;
            wrong(format!("{name}: its arrays are more than {most} MiB when unpacked"))
        })?;
        let mut data = Vec::with_capacity(size);
        let read = (&mut entry).take(size as u64).read_to_end(&mut data);
        // The entry's checksum is compared when it has come to its end.
        let after = read.and_then(|_| entry.read(&mut [0])).map_err(|_| damaged())?;
        if data.len() != size {
            return Err(few());
        }
        if after != 0 {
            return Err(expected("more of them"));
        }
        if big_endian {
            data.chunks_exact_mut(datatype.bytes()).for_each(<[u8]>::reverse);
        }
        if columns_first {
            data = match datatype.bytes() {
                1 => rows_first::<1>(&shape, &data),
                2 => rows_first::<2>(&shape, &data),
                4 => rows_first::<4>(&shape, &data),
                _ => rows_first::<8>(&shape, &data),
            }
            .ok_or_else(few)?;
        }
        Ok(Array { shape, datatype, data })
    }
}

/// Values of `N` bytes whose first axis is fastest, with the last one fastest.
fn rows_first<const N: usize>(shape: &[usize], data: &[u8]) -> Option<Vec<u8>> {
    let columns_first = IxDyn(shape).set_f(true);
    let array = ArrayViewD::from_shape(columns_first, data.as_chunks::<N>().0).ok()?;
    Some(array.iter().flatten().copied().collect())
}

/// The text of an array's header, versions 1 to 3 of NumPy's format; `None` for something else.
fn header(entry: &mut impl Read) -> std::io::Result<Option<String>> {
    let mut begin = [0; 8];
    entry.read_exact(&mut begin)?;
    let [magic @ .., version, _] = begin;
    let length = match (&magic, version) {
        (b"\x93NUMPY", 1) => {
            let mut length = [0; 2];
            entry.read_exact(&mut length)?;
            u32::from(u16::from_le_bytes(length))
        }
        (b"\x93NUMPY", 2 | 3) => {
            let mut length = [0; 4];
            entry.read_exact(&mut length)?;
            u32::from_le_bytes(length)
        }
        _ => return Ok(None),
    };
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= MAX_HEADER) else {
        return Ok(None);
    };
    let mut text = vec![0; length];
    entry.read_exact(&mut text)?;
    Ok(String::from_utf8(text).ok())
}

/// What a header says of an array of numbers.
#[derive(Debug, PartialEq)]
struct Header {
    datatype: Datatype,
    big_endian: bool,
    shape: Vec<usize>,
    columns_first: bool,
}

impl Header {
    /// Reads a dictionary as NumPy writes it: `{'descr': '|u1', 'fortran_order': False, 'shape': (2,
    /// 3), }`.
    fn parse(text: &str) -> Option<Self> {
        let (datatype, big_endian) = number_type(text)?;
        let text = text.trim().strip_prefix('{')?.strip_suffix('}')?.replace('"', "'");
        let order = after(&text, "'fortran_order'")?;
        let columns_first = order.starts_with("True");
        if !columns_first && !order.starts_with("False") {
            return None;
        }
        let sides = after(&text, "'shape'")?.strip_prefix('(')?.split(')').next()?.trim();
        let sides = sides.strip_suffix(',').unwrap_or(sides);
        // No side at all is a single value, which is no image and no labels.
        let shape: Option<Vec<usize>> = sides
            .split(',')
            .take(MAX_AXES + 1)
            .map(|side| side.trim().trim_end_matches('L').parse().ok())
            .collect();
        let shape = shape.filter(|shape| shape.len() <= MAX_AXES)?;
        Some(Self { datatype, big_endian, shape, columns_first })
    }
}

/// What follows a key in such a dictionary.
fn after<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let at = text.find(key)? + key.len();
    text[at..].trim_start().strip_prefix(':').map(str::trim_start)
}

/// The number type that a header names, and whether its numbers are big-endian.
fn number_type(text: &str) -> Option<(Datatype, bool)> {
    let text = text.replace('"', "'");
    let kind = after(&text, "'descr'")?.strip_prefix('\'')?.split('\'').next()?;
    let datatype = datatype_of(kind.trim_start_matches(['|', '<', '>', '=']))?;
    Some((datatype, kind.starts_with('>')))
}

/// The number type of NumPy's word for it. Truths are bytes of 0 and 1.
fn datatype_of(word: &str) -> Option<Datatype> {
    Some(match word {
        "u1" | "B" | "b1" | "?" => Datatype::Uint8,
        "i1" | "b" => Datatype::Int8,
        "u2" => Datatype::Uint16,
        "i2" => Datatype::Int16,
        "u4" => Datatype::Uint32,
        "i4" => Datatype::Int32,
        "u8" => Datatype::Uint64,
        "i8" => Datatype::Int64,
        "f2" => Datatype::Float16,
        "f4" => Datatype::Float32,
        "f8" => Datatype::Float64,
        _ => return None,
    })
}

fn matched(prefix: &'static str, images: Array, labels: Array) -> Result<Arrays, NpzFault> {
    // A last axis that is as short as this is of channels: no scan is three voxels wide.
    let (sides, samples) = match *images.shape {
        [_, h, w] => ([1, h, w], 1),
        [_, h, w, samples @ (1 | 3)] => ([1, h, w], samples),
        [_, d, h, w] if !matches!(w, 2 | 4) => ([d, h, w], 1),
        [_, d, h, w, 1] => ([d, h, w], 1),
        _ => ([0; 3], 1),
    };
    if sides.contains(&0) {
        let text = "expected (n, height, width), with 1 or 3 channels after them, or \
                    (n, depth, height, width)";
        return Err(wrong(format!("{prefix}_images: {text}, found {:?}", images.shape)));
    }
    let [depth, rows, columns] = sides;
    limited(&[depth, rows, columns, samples])
        .map_err(|fault| wrong(format!("{prefix}_images: each image is {fault}")))?;
    let count = images.rows();
    if !matches!(*labels.shape, [n] if n == count)
        && !matches!(*labels.shape, [n, classes] if n == count && classes > 0)
    {
        let text = format!("expected ({count}, 1) or ({count}, classes) as there are images");
        return Err(wrong(format!("{prefix}_labels: {text}, found {:?}", labels.shape)));
    }
    Ok(Arrays { prefix, images, labels, sides, samples })
}

fn wrong(text: impl Into<String>) -> NpzFault {
    NpzFault(text.into())
}

#[cfg(test)]
mod tests;
