//! MedMNIST-style NPZ: `{train,val,test}_images` and `_labels`, unsigned bytes, images `(n, h, w)` or
//! `(n, h, w, 3)`. Sizes are checked against the zip's and ours before anything is allocated for them.

use std::io::{Read, Seek};

use ndarray::{ArrayD, ArrayViewD};
use ndarray_npy::ViewNpyExt as _;
use zip::ZipArchive;

/// Bytes of one array, unpacked.
const MAX_ARRAY: u64 = 2 << 30;
/// Room for the array's header beside its values.
const HEADER: u64 = 64 << 10;

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
pub fn read(file: impl Read + Seek) -> Result<Vec<Arrays>, NpzFault> {
    let mut archive = ZipArchive::new(file).map_err(|_| {
        wrong("expected a zip archive of arrays, found something else, or a cut-off one")
    })?;
    let mut parts = Vec::new();
    for prefix in PREFIXES {
        let names = [format!("{prefix}_images"), format!("{prefix}_labels")];
        let there = names.each_ref().map(|name| entry(&archive, name));
        match there {
            [None, None] => {}
            [Some(images), Some(labels)] => {
                let images = array(&mut archive, images, &names[0])?;
                let labels = array(&mut archive, labels, &names[1])?;
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

fn entry(archive: &ZipArchive<impl Read + Seek>, name: &str) -> Option<usize> {
    archive.index_for_name(&format!("{name}.npy")).or_else(|| archive.index_for_name(name))
}

fn array(
    archive: &mut ZipArchive<impl Read + Seek>,
    index: usize,
    name: &str,
) -> Result<ArrayD<u8>, NpzFault> {
    let entry = archive.by_index(index).map_err(|_| {
        wrong(format!("{name}: expected a stored or deflated entry, found another"))
    })?;
    // The declared size sizes nothing; the entry is read until it ends or passes the limit.
    let mut bytes = Vec::new();
    entry
        .take(MAX_ARRAY + HEADER + 1)
        .read_to_end(&mut bytes)
        .map_err(|_| wrong(format!("{name}: the entry is cut off or damaged")))?;
    if bytes.len() as u64 > MAX_ARRAY + HEADER {
        let most = MAX_ARRAY >> 20;
        return Err(wrong(format!("{name}: more than {most} MiB when unpacked")));
    }
    // A view checks the header's shape against the bytes that are there.
    let view = ArrayViewD::<u8>::view_npy(&bytes).map_err(|_| {
        wrong(format!("{name}: expected an array of unsigned bytes with all its values"))
    })?;
    Ok(view.as_standard_layout().into_owned())
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
