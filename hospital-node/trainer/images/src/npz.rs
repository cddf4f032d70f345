//! MedMNIST-style NPZ: `{train,val,test}_images` and `_labels`, unsigned bytes, images `(n, h, w)` or
//! `(n, h, w, 3)`. An array's own header is read first, and its size compared with the file's and with
//! our limit before memory is set aside for it.

use std::io::{Read, Seek, SeekFrom};

use ndarray::{ArrayD, IxDyn, ShapeBuilder as _};
use zip::ZipArchive;

use crate::MAX_PIXEL_BYTES;
use crate::file::MAX_INFLATION;

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

/// One part of such a file: images and, row by row, their labels.
#[derive(Debug)]
pub struct Arrays {
    /// One of [`PREFIXES`].
    pub prefix: &'static str,
    /// `(n, h, w)` or `(n, h, w, 3)`, no side 0.
    pub images: ArrayD<u8>,
    /// One label per image.
    pub labels: Vec<u8>,
}

impl Arrays {
    fn shape(&self) -> &[usize] {
        &self.images.shape()[1..]
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
                parts.push(matched(prefix, images, &labels)?);
            }
            _ => return Err(wrong(format!("{} and {} come in pairs", names[0], names[1]))),
        }
    }
    if parts.is_empty() {
        return Err(wrong("expected arrays named train_images and train_labels, found neither"));
    }
    if parts.iter().any(|part| part.shape() != parts[0].shape()) {
        return Err(wrong("expected images of one shape, found several"));
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

    fn array(&mut self, index: usize, name: &str) -> Result<ArrayD<u8>, NpzFault> {
        let mut entry = self.archive.by_index(index).map_err(|_| {
            wrong(format!("{name}: expected a stored or deflated entry, found another"))
        })?;
        let damaged = || wrong(format!("{name}: the entry is cut off or damaged"));
        let other =
            || wrong(format!("{name}: expected an array of unsigned bytes with all its values"));
        let header = header(&mut entry).map_err(|_| damaged())?;
        let Header { shape, columns_first } =
            header.and_then(|text| Header::parse(&text)).ok_or_else(other)?;
        let count = shape.iter().try_fold(1_usize, |all, side| all.checked_mul(*side));
        let packed = self.packed.min(entry.compressed_size());
        let count = count
            .filter(|count| *count as u64 <= packed.saturating_mul(MAX_INFLATION))
            .ok_or_else(other)?;
        self.room = self.room.checked_sub(count as u64).ok_or_else(|| {
            let most = MAX_PIXEL_BYTES >> 20;
            wrong(format!("{name}: its arrays are more than {most} MiB when unpacked"))
        })?;
        let mut values = Vec::with_capacity(count);
        let read = (&mut entry).take(count as u64).read_to_end(&mut values);
        // The entry's checksum is compared when it has come to its end.
        let after = read.and_then(|_| entry.read(&mut [0])).map_err(|_| damaged())?;
        if values.len() != count || after != 0 {
            return Err(other());
        }
        let shape = IxDyn(&shape).set_f(columns_first);
        let array = ArrayD::from_shape_vec(shape, values).map_err(|_| other())?;
        Ok(if array.is_standard_layout() { array } else { array.as_standard_layout().into_owned() })
    }
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

/// What a header says of an array of unsigned bytes.
#[derive(Debug, PartialEq)]
struct Header {
    shape: Vec<usize>,
    columns_first: bool,
}

impl Header {
    /// Reads a dictionary as NumPy writes it: `{'descr': '|u1', 'fortran_order': False, 'shape': (2,
    /// 3), }`.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().strip_prefix('{')?.strip_suffix('}')?.replace('"', "'");
        let after = |key: &str| {
            let at = text.find(key)? + key.len();
            text[at..].trim_start().strip_prefix(':').map(str::trim_start)
        };
        let kind = after("'descr'")?.strip_prefix('\'')?.split('\'').next()?;
        if !matches!(kind, "|u1" | "u1" | "<u1" | ">u1" | "=u1" | "B") {
            return None;
        }
        let order = after("'fortran_order'")?;
        let columns_first = order.starts_with("True");
        if !columns_first && !order.starts_with("False") {
            return None;
        }
        let sides = after("'shape'")?.strip_prefix('(')?.split(')').next()?.trim();
        let sides = sides.strip_suffix(',').unwrap_or(sides);
        // No side at all is a single value, which is no image and no labels.
        let shape: Option<Vec<usize>> = sides
            .split(',')
            .take(MAX_AXES + 1)
            .map(|side| side.trim().trim_end_matches('L').parse().ok())
            .collect();
        let shape = shape.filter(|shape| shape.len() <= MAX_AXES)?;
        Some(Self { shape, columns_first })
    }
}

fn matched(
    prefix: &'static str,
    images: ArrayD<u8>,
    labels: &ArrayD<u8>,
) -> Result<Arrays, NpzFault> {
    match *images.shape() {
        [_, h, w] | [_, h, w, 3] if h > 0 && w > 0 => {}
        ref other => {
            let text = "expected (n, height, width) or (n, height, width, 3)";
            return Err(wrong(format!("{prefix}_images: {text}, found {other:?}")));
        }
    }
    let count = images.shape()[0];
    if !matches!(*labels.shape(), [n] | [n, 1] if n == count) {
        let found = labels.shape();
        let text = format!("expected ({count}, 1) as there are images, found {found:?}");
        return Err(wrong(format!("{prefix}_labels: {text}")));
    }
    Ok(Arrays { prefix, images, labels: labels.iter().copied().collect() })
}

fn wrong(text: impl Into<String>) -> NpzFault {
    NpzFault(text.into())
}

#[cfg(test)]
mod tests;
