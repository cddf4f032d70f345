//! NIfTI-1 and NIfTI-2, alone or in a pair, compressed or not, of either byte order.
//!
//! [`Stored`] is what the file holds, in the file's order; [`Volume`] and [`Labels`] are one of its
//! three-dimensional volumes with the axes turned to the patient's: depth goes from inferior to
//! superior, height from posterior to anterior, width from left to right (RAS+), whatever order the
//! scanner stored. Nothing is interpolated: axes are swapped and flipped, an oblique scan stays
//! oblique.
//!
//! A reader of our own: the crate `nifti` sets memory aside for what a header claims before it looks
//! whether the bytes are there, and it leaves orientation to its caller. What is needed of the format
//! is the two headers and ten number types.

mod header;

use std::path::{Path, PathBuf};

pub use header::{Header, MAX_AXES};

pub use crate::numbers::Datatype;
pub use crate::volume::{Grid, Labels, Volume};

use crate::file::{GZIP, Gunzip, bytes, gunzipped_start, inflated, limited};
use crate::volume::{Turn, cross};
use crate::{Fault, Limit, MAX_FILE_BYTES, MAX_PIXEL_BYTES, Whole};

/// Voxels as the file stores them: no slope, no intercept, no turning.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What the header says about them.
    pub header: Header,
    /// Little-endian values, first axis fastest.
    pub data: Vec<u8>,
}

const ALONE: Fault = Fault::NotAnImage("the header of a pair without its .img file");

impl Stored {
    /// Reads a file, and the other half of a `.hdr` and `.img` pair.
    ///
    /// # Errors
    /// The one [`Fault`] that describes it best.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        let file = bytes(path)?;
        match Self::of_pair(path, &file)? {
            Some(pair) => Ok(pair),
            None => Self::decode(&file),
        }
    }

    /// The pair that a file with these bytes is one half of, if its name says so and the header that
    /// goes with it: other formats end in `.img` too.
    pub(crate) fn of_pair(path: &Path, file: &[u8]) -> Result<Option<Self>, Fault> {
        let (_, extension, _) = parts(path);
        match extension.as_str() {
            "hdr" if announces_pair(file) => match bytes(&other_half(path, "img")) {
                Ok(image) => Self::decode_pair(file, &image).map(Some),
                // What is missing is not the file that was named.
                Err(Fault::Missing) => Err(ALONE),
                Err(fault) => Err(fault),
            },
            "img" => match bytes(&other_half(path, "hdr")) {
                Ok(header) if announces_pair(&header) => Self::decode_pair(&header, file).map(Some),
                Ok(_) | Err(Fault::Missing) => Ok(None),
                Err(fault) => Err(fault),
            },
            _ => Ok(None),
        }
    }

    /// Decodes a file that holds header and voxels.
    ///
    /// # Errors
    /// As [`Self::read`]; [`Fault::NotAnImage`] for the header of a pair.
    pub fn decode(file: &[u8]) -> Result<Self, Fault> {
        let header = Header::parse(&start(file)?)?;
        if header.paired {
            return Err(ALONE);
        }
        Self::voxels(header, file)
    }

    /// Decodes the two files of a pair.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_pair(header: &[u8], image: &[u8]) -> Result<Self, Fault> {
        let header = Header::parse(&start(header)?)?;
        if !header.paired {
            return Err(Fault::NotAnImage("one of a pair whose header says that it is none"));
        }
        Self::voxels(header, image)
    }

    fn voxels(header: Header, file: &[u8]) -> Result<Self, Fault> {
        let size = header.data_bytes();
        if size as u64 > MAX_PIXEL_BYTES {
            return Err(Fault::TooLarge(Limit::Pixels(size as u64)));
        }
        let end = header.offset.saturating_add(size);
        if end as u64 > MAX_FILE_BYTES {
            return Err(Fault::TooLarge(Limit::File(end as u64)));
        }
        let mut data = if file.starts_with(&GZIP) {
            let mut all = gunzipped_start(file, end)?;
            all.drain(..header.offset);
            all
        } else {
            file.get(header.offset..end).ok_or(Fault::Truncated)?.to_vec()
        };
        if header.big_endian {
            for word in data.chunks_exact_mut(header.datatype.bytes()) {
                word.reverse();
            }
        }
        Ok(Self { header, data })
    }

    /// The stored values in the file's order.
    pub fn each(&self, value: &mut dyn FnMut(f64)) {
        self.header.datatype.each(&self.data, value);
    }

    /// The sum of integer values without rounding; `None` for floats.
    #[must_use]
    pub fn whole_sum(&self) -> Option<i128> {
        self.whole().map(|whole| whole.sum)
    }

    /// What integer values are, without rounding; `None` for floats.
    #[must_use]
    pub fn whole(&self) -> Option<Whole> {
        self.header.datatype.whole(&self.data)
    }

    /// Volumes along the axes beyond the third.
    #[must_use]
    pub fn volumes(&self) -> usize {
        self.header.shape.iter().skip(3).product()
    }

    /// One of the volumes, scaled and turned.
    ///
    /// # Errors
    /// [`Fault::WrongShape`] when there is no such volume; [`Fault::TooLarge`] when its values are more
    /// than may be decoded.
    pub fn volume(&self, index: usize) -> Result<Volume, Fault> {
        let turn = self.turn();
        let Header { slope, intercept, datatype, .. } = &self.header;
        let stored = self.one(index)?;
        let mut scaled = Vec::with_capacity(stored.len() / datatype.bytes());
        #[expect(clippy::cast_possible_truncation, reason = "f32 is what models are shown")]
        datatype.each(stored, &mut |value| scaled.push((value * slope + intercept) as f32));
        let spacing = turn.spacing.filter(|_| self.header.sized);
        let (shape, grid) = (turn.shape, self.grid(&turn));
        let values = turn.apply(&scaled);
        Ok(Volume { shape, spacing, values, full: None, inverted: false, grid })
    }

    /// One of the volumes as labels: scaled values that must be whole and not negative.
    ///
    /// # Errors
    /// [`Fault::WrongShape`] when there is no such volume, or a value is no label; [`Fault::TooLarge`]
    /// as for [`Self::volume`].
    pub fn labels(&self, index: usize) -> Result<Labels, Fault> {
        let turn = self.turn();
        let grid = self.grid(&turn);
        Ok(Labels { grid, ..self.turned_labels(index, &turn)? })
    }

    /// The first of the volumes as labels of another file's. Where one of the two does not say where
    /// its axes point, and both have the same sides, their voxels lie on each other as they are stored.
    ///
    /// # Errors
    /// As [`Self::labels`].
    pub(crate) fn labels_of(&self, image: &Self) -> Result<Labels, Fault> {
        let one_says = self.header.oriented != image.header.oriented;
        let as_stored = one_says && self.sides() == image.sides();
        if as_stored { self.turned_labels(0, &image.turn()) } else { self.labels(0) }
    }

    /// Labels of a flat image that say nothing of where they lie, turned as this file is: their rows are
    /// its second axis, or which it has in its place, and their columns its first.
    ///
    /// # Errors
    /// [`Fault::WrongShape`] when their sides are others than this file's.
    pub(crate) fn turned_with(&self, picture: &Labels) -> Result<Labels, Fault> {
        let [_, rows, columns] = picture.shape;
        // A slice may be stored with its axis of one voxel anywhere.
        let long = |sides: &[usize]| {
            sides.iter().copied().filter(|side| *side != 1).collect::<Vec<usize>>()
        };
        if long(&[columns, rows]) != long(&self.sides()) {
            return Err(Fault::WrongShape("a mask of another size than its image"));
        }
        let turn = self.turn();
        Ok(Labels { shape: turn.shape, values: turn.apply(&picture.values), grid: None })
    }

    fn turn(&self) -> Turn {
        Turn::new(&self.header.shape, &self.header.affine)
    }

    /// Where voxels lie once turned, if the file says which way its axes point and how long they are.
    fn grid(&self, turn: &Turn) -> Option<Grid> {
        turn.grid.filter(|_| self.header.oriented && self.header.sized)
    }

    /// Voxels along the first three axes, as they are stored.
    fn sides(&self) -> [usize; 3] {
        [0, 1, 2].map(|axis| self.header.shape.get(axis).copied().unwrap_or(1))
    }

    /// One of the volumes as labels of a flat image: width along its rows and height along its columns,
    /// as those of the image run, which say so in millimetres to the right, to the front, up. A file
    /// that does not say where its axes point has a row's pixels along its first axis, and rows along
    /// its second.
    ///
    /// # Errors
    /// As [`Self::labels`].
    pub fn labels_along(
        &self,
        index: usize,
        across: [f64; 3],
        down: [f64; 3],
    ) -> Result<Labels, Fault> {
        let rows = &self.header.affine;
        let beside = if self.header.oriented {
            // Where an axis goes in the image's own directions rather than in the patient's.
            [across, down, cross(across, down)].map(|direction| {
                [0, 1, 2, 3]
                    .map(|axis| (0..3).map(|world| direction[world] * rows[world][axis]).sum())
            })
        } else {
            *rows
        };
        self.turned_labels(index, &Turn::new(&self.header.shape, &beside))
    }

    fn turned_labels(&self, index: usize, turn: &Turn) -> Result<Labels, Fault> {
        let Header { slope, intercept, datatype, .. } = &self.header;
        let stored = self.one(index)?;
        let (mut labels, mut whole) = (Vec::with_capacity(stored.len() / datatype.bytes()), true);
        datatype.each(stored, &mut |value| {
            let label = value * slope + intercept;
            // Slopes of single precision leave a little behind.
            whole &= (label - label.round()).abs() < 1e-3 && (-0.5..4e9).contains(&label);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked in the line above"
            )]
            labels.push(label.round().max(0.0) as u32);
        });
        if !whole {
            return Err(Fault::WrongShape("a label map with values that are not whole numbers"));
        }
        Ok(Labels { shape: turn.shape, values: turn.apply(&labels), grid: None })
    }

    /// The stored bytes of one of the volumes, whose values there is room for.
    fn one(&self, index: usize) -> Result<&[u8], Fault> {
        let volumes = self.volumes();
        if index >= volumes {
            return Err(Fault::WrongShape("it has fewer volumes than that"));
        }
        limited(&self.sides())?;
        let size = self.data.len() / volumes;
        Ok(&self.data[index * size..(index + 1) * size])
    }
}

/// Whether these bytes begin like a NIfTI file, compressed or not.
#[must_use]
pub fn begins_so(file: &[u8]) -> bool {
    start(file).is_ok_and(|start| Header::parse(&start) != Err(header::NOT_NIFTI))
}

/// Whether a name is that of one half of a pair.
#[must_use]
pub fn is_paired(path: &Path) -> bool {
    matches!(parts(path).1.as_str(), "hdr" | "img")
}

/// Whether a name ends as NIfTI files do.
#[must_use]
pub fn is_named_so(path: &Path) -> bool {
    let (_, extension, _) = parts(path);
    matches!(extension.as_str(), "nii" | "hdr" | "img")
}

/// Name, extension in lower case, and whether `.gz` follows.
fn parts(path: &Path) -> (PathBuf, String, bool) {
    let extension = |path: &Path| {
        path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase()
    };
    let packed = extension(path) == "gz";
    let path = if packed { path.with_extension("") } else { path.to_path_buf() };
    (path.with_extension(""), extension(&path), packed)
}

/// Where the half of a pair is that was not named: in capitals where the name is, compressed or not,
/// whatever the other is.
fn other_half(path: &Path, extension: &str) -> PathBuf {
    let (stem, _, packed) = parts(path);
    let capitals =
        path.extension().is_some_and(|e| e.to_string_lossy().contains(char::is_uppercase));
    let upper = extension.to_ascii_uppercase();
    let extensions = if capitals { [upper.as_str(), extension] } else { [extension, &upper] };
    let ends = if packed { [".gz", ".GZ", ""] } else { ["", ".gz", ".GZ"] };
    let names = extensions.iter().flat_map(|extension| {
        ends.map(|end| {
            let mut name = stem.clone().into_os_string();
            name.push(format!(".{extension}{end}"));
            PathBuf::from(name)
        })
    });
    let names: Vec<PathBuf> = names.collect();
    names.iter().find(|name| name.is_file()).unwrap_or(&names[0]).clone()
}

/// Whether a file is the header of a pair.
fn announces_pair(file: &[u8]) -> bool {
    start(file).and_then(|start| Header::parse(&start)).is_ok_and(|header| header.paired)
}

/// The bytes in front that a header can be in.
fn start(file: &[u8]) -> Result<Vec<u8>, Fault> {
    if !file.starts_with(&GZIP) {
        return Ok(file[..file.len().min(header::LARGEST)].to_vec());
    }
    // A header of the smaller kind may be all there is.
    inflated(Gunzip::new(file), file.len(), header::LARGEST)
        .or_else(|_| inflated(Gunzip::new(file), file.len(), header::SMALLEST))
        .map_err(|_| Fault::NotAnImage("a compressed file too short for a NIfTI header"))
}

#[cfg(test)]
mod tests;
