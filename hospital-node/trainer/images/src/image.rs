//! A file of any of the formats, told apart by how it begins.

use std::path::Path;

use crate::file::{Digest, GZIP};
use crate::{Fault, Picture, bytes, dicom, nifti, raster};

/// A decoded file.
#[derive(Clone, Debug)]
pub enum Image {
    /// DICOM.
    Dicom(Box<dicom::Stored>),
    /// NIfTI-1 or NIfTI-2.
    Nifti(nifti::Stored),
    /// PNG or JPEG.
    Raster(raster::Stored),
}

/// What a file is that is not read here, as far as its first bytes say: what people try, and what a
/// failed download leaves.
fn found_instead(file: &[u8]) -> &'static str {
    const KNOWN: [(&[u8], &str); 20] = [
        (b"PK\x03\x04", "a zip archive; unpack it, or name it as an NPZ file"),
        (b"\x93NUMPY", "an array of NumPy by itself; arrays are read from NPZ files"),
        (b"II*\0", "a TIFF file; PNG is read"),
        (b"MM\0*", "a TIFF file; PNG is read"),
        (b"GIF8", "a GIF file; PNG is read"),
        (b"RIFF", "a WebP file or a video; PNG is read"),
        (b"\0\0\0\x0cjP  ", "a JPEG 2000 file by itself; such pixels are read from DICOM"),
        (b"\xff\x4f\xff\x51", "a JPEG 2000 file by itself; such pixels are read from DICOM"),
        (b"BZh", "compressed with bzip2; gzip is read"),
        (b"\xfd7zXZ", "compressed with xz; gzip is read"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd; gzip is read"),
        (b"7z\xbc\xaf", "a 7z archive; unpack it"),
        (b"Rar!", "a RAR archive; unpack it"),
        (b"%PDF", "a PDF file"),
        (b"NRRD", "an NRRD file; NIfTI is read"),
        (b"ObjectType", "a MetaImage file; NIfTI is read"),
        (b"\x89HDF", "an HDF5 file, such as MINC; NIfTI is read"),
        (b"<!DOCTYPE", "a web page, as a failed download leaves it"),
        (b"<!doctype", "a web page, as a failed download leaves it"),
        (b"<html", "a web page, as a failed download leaves it"),
    ];
    // An Analyze header is as long as it says, and a NIfTI one has a name in it besides.
    if file.len() == 348 && matches!(file, [0x5c, 1, 0, 0, ..] | [0, 0, 1, 0x5c, ..]) {
        return "an Analyze 7.5 header; NIfTI is read";
    }
    if matches!(file, [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..]) {
        return "a BMP file; PNG is read";
    }
    KNOWN.iter().find(|(begin, _)| file.trim_ascii_start().starts_with(begin)).map_or(
        "it begins like no image that is read here: DICOM, NIfTI, PNG, JPEG, NPZ",
        |(_, found)| found,
    )
}

const NO_LABELS: Fault = Fault::WrongShape("expected a label map of whole numbers");

impl Image {
    /// Reads a file: its bytes as they are on the disk, and what they decode to. Of a NIfTI pair, the
    /// bytes are those of the named half.
    ///
    /// # Errors
    /// The one [`Fault`] that describes it best.
    pub fn read(path: &Path) -> Result<(Vec<u8>, Self), Fault> {
        let file = bytes(path)?;
        let image = Self::of(path, &file)?;
        Ok((file, image))
    }

    /// Decodes the bytes of a file, and the other half of a NIfTI pair, whose name says where it is.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn of(path: &Path, file: &[u8]) -> Result<Self, Fault> {
        match nifti::Stored::of_pair(path, file)? {
            Some(pair) => Ok(Self::Nifti(pair)),
            None => Self::decode(file),
        }
    }

    /// Decodes a whole file.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn decode(file: &[u8]) -> Result<Self, Fault> {
        if file.is_empty() {
            return Err(Fault::NotAnImage("the file is empty"));
        }
        if raster::begins_so(file) {
            return raster::Stored::decode(file).map(Self::Raster);
        }
        // A DICOM file may carry another header in its preamble.
        if dicom::begins_so(file) {
            return dicom::Stored::decode(file).map(Box::new).map(Self::Dicom);
        }
        if nifti::begins_so(file) {
            return nifti::Stored::decode(file).map(Self::Nifti);
        }
        if file.starts_with(&GZIP) {
            let inside = crate::file::gunzipped(file)?;
            if dicom::begins_so(&inside) {
                return dicom::Stored::decode(&inside).map(Box::new).map(Self::Dicom);
            }
            return Err(Fault::NotAnImage("a compressed file without an image in it"));
        }
        Err(Fault::NotAnImage(found_instead(file)))
    }

    /// The two-dimensional picture that it is.
    ///
    /// # Errors
    /// [`Fault::WrongShape`] for what has several frames or slices, or unusual colours.
    pub fn picture(&self) -> Result<Picture, Fault> {
        match self {
            Self::Dicom(stored) => stored.picture(),
            Self::Raster(stored) => Ok(stored.picture()),
            Self::Nifti(stored) => {
                let volume = stored.volume(0)?;
                let [depth, rows, columns] = volume.shape;
                if depth != 1 || stored.volumes() != 1 {
                    return Err(Fault::WrongShape("expected one image, found a volume"));
                }
                let full = volume
                    .values
                    .iter()
                    .fold((f32::INFINITY, f32::NEG_INFINITY), |f, v| (f.0.min(*v), f.1.max(*v)));
                let spacing = volume.spacing.map(|[_, rows, columns]| [rows, columns]);
                let (values, shown, inverted) = (volume.values, None, false);
                Ok(Picture { rows, columns, samples: 1, spacing, values, full, shown, inverted })
            }
        }
    }

    /// The volume that it is: a NIfTI volume, or a multi-frame DICOM file.
    ///
    /// # Errors
    /// [`Fault::WrongShape`] for a single picture, and as [`dicom::volume_of`].
    pub fn volume(&self) -> Result<nifti::Volume, Fault> {
        match self {
            Self::Nifti(stored) if stored.volumes() == 1 => stored.volume(0),
            Self::Nifti(_) => Err(Fault::WrongShape("expected one volume, found several")),
            Self::Dicom(stored) if stored.frames > 1 => {
                dicom::volume_of(std::slice::from_ref(stored.as_ref()))
            }
            Self::Dicom(_) | Self::Raster(_) => {
                Err(Fault::WrongShape("expected a volume, found one image"))
            }
        }
    }

    /// The label map that it is; a PNG's grey values, or its palette's numbers, are its labels.
    ///
    /// # Errors
    /// [`Fault::WrongShape`] for colours and values that are no labels.
    pub fn labels(&self) -> Result<nifti::Labels, Fault> {
        match self {
            Self::Nifti(stored) if stored.volumes() == 1 => stored.labels(0),
            Self::Raster(stored) => {
                let grey = Some(&stored.values).filter(|_| stored.samples == 1);
                let numbers = stored.indices.as_ref().or(grey).ok_or(NO_LABELS)?;
                Ok(nifti::Labels {
                    shape: [1, stored.rows, stored.columns],
                    values: numbers.iter().map(|value| u32::from(*value)).collect(),
                    grid: None,
                })
            }
            Self::Nifti(_) | Self::Dicom(_) => Err(NO_LABELS),
        }
    }

    /// The label map that it is of another image, turned as that image is when it is read. A picture
    /// without a word on where its rows and columns run lies on its image as both are stored: the first
    /// row on the first. A NIfTI mask of a picture is taken for an axial slice as it is looked at, the
    /// picture's rows to the patient's left and its columns to the back, as ITK takes it too.
    ///
    /// # Errors
    /// As [`Self::labels`], and [`Fault::WrongShape`] for a picture of other sides than a NIfTI image.
    pub fn labels_of(&self, image: &Self) -> Result<nifti::Labels, Fault> {
        match (self, image) {
            (Self::Nifti(mask), _) if mask.volumes() != 1 => Err(NO_LABELS),
            (Self::Nifti(mask), Self::Dicom(stored)) if stored.frames == 1 => {
                let [across, down] = stored.place.directions();
                mask.labels_along(0, across, down)
            }
            (Self::Nifti(mask), Self::Raster(_)) => {
                let [across, down] = dicom::Place::default().directions();
                mask.labels_along(0, across, down)
            }
            (Self::Nifti(mask), Self::Nifti(stored)) => mask.labels_of(stored),
            (Self::Raster(_), Self::Nifti(stored)) => stored.turned_with(&self.labels()?),
            _ => self.labels(),
        }
    }

    /// The kind of machine, for a warning about mixtures: a DICOM modality, or the format.
    #[must_use]
    pub fn modality(&self) -> &'static str {
        match self {
            Self::Dicom(stored) => stored.modality,
            Self::Nifti(_) => "NIfTI",
            Self::Raster(_) => "picture",
        }
    }

    /// Sides in voxels, for a warning about mixtures: the fastest last.
    #[must_use]
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Dicom(stored) => {
                let frames = usize::try_from(stored.frames).unwrap_or(usize::MAX);
                let sides = [frames, stored.rows.into(), stored.columns.into()];
                sides[usize::from(frames == 1)..].to_vec()
            }
            Self::Nifti(stored) => stored.header.shape.iter().rev().copied().collect(),
            Self::Raster(stored) => vec![stored.rows, stored.columns],
        }
    }

    /// Whether the file says that text is burned into its pixels.
    #[must_use]
    pub fn is_burned_in(&self) -> bool {
        match self {
            Self::Dicom(stored) => stored.burned_in,
            Self::Nifti(_) | Self::Raster(_) => false,
        }
    }

    /// A digest of the pixels and their shape: the same image under another header is the same image.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Digest::default();
        for side in self.shape() {
            digest.update(&(side as u64).to_le_bytes());
        }
        match self {
            Self::Dicom(stored) => {
                digest.update(&stored.samples.to_le_bytes());
                digest.update(&stored.bits_allocated.to_le_bytes());
                digest.update(&stored.data);
            }
            Self::Nifti(stored) => {
                digest.update(stored.header.datatype.name().as_bytes());
                digest.update(&stored.data);
            }
            Self::Raster(stored) => {
                digest.update(&stored.bits.to_le_bytes());
                for values in stored.values.chunks(1 << 12) {
                    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                    digest.update(&bytes);
                }
            }
        }
        digest.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_here_is_named() {
        let mut analyze = vec![0; 348];
        analyze[..4].copy_from_slice(&348_i32.to_le_bytes());
        for (file, text) in [
            (&b"II*\0\x08\0\0\0"[..], "a TIFF file"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 file by itself"),
            (b"BZh91AY&SY", "bzip2"),
            (b"\n <!DOCTYPE html>", "a web page"),
            (b"PK\x03\x04", "a zip archive; unpack it"),
            (&analyze, "Analyze"),
            (b"BM\x46\0\0\0\0\0\0\0", "a BMP file"),
            (b"BMI,age,sex", "DICOM, NIfTI, PNG, JPEG, NPZ"),
            (b"something else", "DICOM, NIfTI, PNG, JPEG, NPZ"),
        ] {
            let fault = Image::decode(file).expect_err("no image");
            assert!(fault.to_string().contains(text), "{fault}");
            assert_eq!(fault.code(), "not_an_image");
        }
    }
}
