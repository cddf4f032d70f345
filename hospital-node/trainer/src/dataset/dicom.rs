//! One DICOM file: the pixels as stored, and the picture they make.
//!
//! Only attributes that decide pixels are looked at; no text of the header leaves this file. What
//! the header claims is compared with our limit, and with the bytes that are there, before memory
//! is set aside for it.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use dicom_core::Tag;
use dicom_core::value::Value;
use dicom_dictionary_std::tags;
use dicom_object::DefaultDicomObject;
use dicom_object::file::{OpenFileOptions, ReadPreamble};
use dicom_pixeldata::PixelDecoder as _;
use dicom_transfer_syntax_registry::{TransferSyntaxIndex as _, TransferSyntaxRegistry};

use hospital_images::MAX_PIXEL_BYTES;

use super::{Fault, walk};
use crate::preprocess::Picture;

/// Pixels as the file stores them, after decompression: no rescale, no window, no palette.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Rows of pixels.
    pub rows: u16,
    /// Columns of pixels.
    pub columns: u16,
    /// Frames.
    pub frames: u32,
    /// Values to a pixel.
    pub samples: u16,
    /// The photometric interpretation of `data`.
    pub photometric: Photometric,
    /// Bits to a value in memory: 8, 16 or 32. One-bit images are unpacked to 8.
    pub bits_allocated: u16,
    /// Bits that carry the value.
    pub bits_stored: u16,
    /// Whether values are signed.
    pub signed: bool,
    /// Little-endian values: frame, row, column, sample.
    pub data: Vec<u8>,
    slope: f64,
    intercept: f64,
    window: Option<(f64, f64)>,
}

/// The photometric interpretations that matter here, so that no header text is carried along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Photometric {
    /// Low values are bright.
    Monochrome1,
    /// Low values are dark.
    Monochrome2,
    /// Red, green, blue.
    Rgb,
    /// Luma and chroma at full resolution.
    YbrFull,
    /// Indices into a table of colours.
    Palette,
    /// Another one.
    Other,
}

impl Photometric {
    fn parse(word: &str) -> Self {
        match word {
            "MONOCHROME1" => Self::Monochrome1,
            "MONOCHROME2" => Self::Monochrome2,
            "RGB" => Self::Rgb,
            "YBR_FULL" => Self::YbrFull,
            "PALETTE COLOR" => Self::Palette,
            _ => Self::Other,
        }
    }

    /// The standard's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Monochrome1 => "MONOCHROME1",
            Self::Monochrome2 => "MONOCHROME2",
            Self::Rgb => "RGB",
            Self::YbrFull => "YBR_FULL",
            Self::Palette => "PALETTE COLOR",
            Self::Other => "other",
        }
    }
}

pub use hospital_images::bytes;

impl Stored {
    /// Decodes a whole file.
    ///
    /// # Errors
    /// The one [`Fault`] that describes it best.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        // The readers of compressed formats are other people's; a panic there is a bad file here.
        catch_unwind(AssertUnwindSafe(|| Self::decode_inner(bytes)))
            .unwrap_or(Err(Fault::Unreadable("its pixels do not decode")))
    }

    fn decode_inner(bytes: &[u8]) -> Result<Self, Fault> {
        let object = open(bytes)?;
        let syntax = TransferSyntaxRegistry
            .get(object.meta().transfer_syntax())
            .ok_or(Fault::UnsupportedTransferSyntax("not a registered one"))?;
        let pixels = object
            .get(tags::PIXEL_DATA)
            .ok_or(Fault::NotAnImage("there is no pixel data in it"))?;
        let mut stored = Self::header(&object)?;
        let one_bit = stored.bits_allocated == 1;
        let claimed = stored.claimed_bytes(one_bit)?;
        stored.data = match pixels.value() {
            Value::Primitive(native) => stored.native(&native.to_bytes(), one_bit, claimed)?,
            Value::PixelSequence(_) if syntax.is_unsupported_pixel_encapsulation() => {
                return Err(Fault::UnsupportedTransferSyntax(syntax.name()));
            }
            Value::PixelSequence(fragments) => {
                if fragments.fragments().iter().all(|fragment| fragment.is_empty()) {
                    return Err(Fault::Truncated);
                }
                stored.compressed(&object, one_bit, claimed)?
            }
            Value::Sequence(_) => return Err(Fault::Unreadable("pixel data that is a sequence")),
        };
        if one_bit {
            stored.bits_allocated = 8;
        }
        Ok(stored)
    }

    fn header(object: &DefaultDicomObject) -> Result<Self, Fault> {
        let number = |tag| whole(object, tag);
        let need = |tag, without| number(tag).ok_or(Fault::NotAnImage(without));
        let rows = need(tags::ROWS, "its header has no rows")?;
        let columns = need(tags::COLUMNS, "its header has no columns")?;
        let bits_allocated = need(tags::BITS_ALLOCATED, "its header has no bits allocated")?;
        let bits_stored = number(tags::BITS_STORED).unwrap_or(bits_allocated);
        let samples = number(tags::SAMPLES_PER_PIXEL).unwrap_or(1);
        let frames = object
            .get(tags::NUMBER_OF_FRAMES)
            .and_then(|element| element.to_int::<u32>().ok())
            .unwrap_or(1);
        if !matches!(bits_allocated, 1 | 8 | 16 | 32)
            || bits_stored == 0
            || bits_stored > bits_allocated
        {
            return Err(Fault::Unreadable("bits allocated and stored make no sense"));
        }
        if rows == 0 || columns == 0 || samples == 0 || frames == 0 {
            return Err(Fault::NotAnImage("its header says that it has no pixels"));
        }
        let photometric = object
            .get(tags::PHOTOMETRIC_INTERPRETATION)
            .and_then(|element| element.to_str().ok())
            .map_or(Photometric::Other, |word| Photometric::parse(word.trim()));
        let real = |tag| real(object, tag);
        let window = real(tags::WINDOW_CENTER).zip(real(tags::WINDOW_WIDTH));
        Ok(Self {
            rows,
            columns,
            frames,
            samples,
            photometric,
            bits_allocated,
            bits_stored,
            signed: number(tags::PIXEL_REPRESENTATION) == Some(1),
            data: Vec::new(),
            slope: real(tags::RESCALE_SLOPE).filter(|slope| *slope != 0.0).unwrap_or(1.0),
            intercept: real(tags::RESCALE_INTERCEPT).unwrap_or(0.0),
            window: window.filter(|(_, width)| *width >= 1.0),
        })
    }

    /// Bytes that the header claims, decoded; refused above the limit.
    fn claimed_bytes(&self, one_bit: bool) -> Result<usize, Fault> {
        let values = u64::from(self.rows)
            * u64::from(self.columns)
            * u64::from(self.samples)
            * u64::from(self.frames);
        let each = if one_bit { 1 } else { u64::from(self.bits_allocated / 8) };
        values
            .checked_mul(each)
            .filter(|claimed| *claimed <= MAX_PIXEL_BYTES)
            .and_then(|claimed| usize::try_from(claimed).ok())
            .ok_or(Fault::TooLarge)
    }

    fn native(&self, bytes: &[u8], one_bit: bool, claimed: usize) -> Result<Vec<u8>, Fault> {
        if one_bit {
            let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| (byte >> bit) & 1));
            let unpacked: Vec<u8> = bits.take(claimed).collect();
            return if unpacked.len() == claimed { Ok(unpacked) } else { Err(Fault::Truncated) };
        }
        let Some(whole) = bytes.get(..claimed) else { return Err(Fault::Truncated) };
        Ok(whole.to_vec())
    }

    fn compressed(
        &mut self,
        object: &DefaultDicomObject,
        one_bit: bool,
        claimed: usize,
    ) -> Result<Vec<u8>, Fault> {
        if one_bit {
            return Err(Fault::UnsupportedTransferSyntax("compressed one-bit pixels"));
        }
        let decoded = object
            .decode_pixel_data()
            .map_err(|_| Fault::Unreadable("its pixels do not decode"))?;
        if decoded.data().len() < claimed {
            return Err(Fault::Truncated);
        }
        if self.samples == 3 {
            // The decoders give red, green, blue whatever the codestream holds.
            self.photometric = Photometric::Rgb;
        }
        let mut data = decoded.into_data();
        data.truncate(claimed);
        Ok(data)
    }

    /// The values in order, as integers.
    pub fn values(&self) -> Box<dyn Iterator<Item = i64> + '_> {
        let data = &self.data;
        match (self.bits_allocated, self.signed) {
            (8, false) => Box::new(data.iter().map(|b| i64::from(*b))),
            (8, true) => Box::new(data.iter().map(|b| i64::from(b.cast_signed()))),
            (16, false) => Box::new(words(data).map(|w| i64::from(u16::from_le_bytes(w)))),
            (16, true) => Box::new(words(data).map(|w| i64::from(i16::from_le_bytes(w)))),
            (_, false) => Box::new(words(data).map(|w| i64::from(u32::from_le_bytes(w)))),
            (_, true) => Box::new(words(data).map(|w| i64::from(i32::from_le_bytes(w)))),
        }
    }

    /// The picture that a study can be shown.
    ///
    /// # Errors
    /// [`Fault::WrongShape`] for several frames, palettes and unusual colour spaces.
    pub fn picture(&self) -> Result<Picture, Fault> {
        if self.frames != 1 {
            return Err(Fault::WrongShape("expected one frame, found several"));
        }
        let samples = match (self.photometric, self.samples) {
            (Photometric::Monochrome1 | Photometric::Monochrome2, 1) => 1,
            (Photometric::Rgb, 3) => 3,
            _ => return Err(Fault::WrongShape("expected grey or red-green-blue pixels")),
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "f32 is what models are shown; stored values have at most 32 bits"
        )]
        let rescaled = |value: i64| (value as f64 * self.slope + self.intercept) as f32;
        let bits = u32::from(self.bits_stored);
        let (least, greatest) = if self.signed {
            (-(1_i64 << (bits - 1)), (1_i64 << (bits - 1)) - 1)
        } else {
            (0, (1_i64 << bits) - 1)
        };
        let ends = (rescaled(least), rescaled(greatest));
        #[expect(clippy::cast_possible_truncation, reason = "f32 is what models are shown")]
        let window = self.window.map(|(center, width)| {
            // PS3.3 C.11.2.1.2.1, the linear function.
            let low = center - 0.5 - (width - 1.0) / 2.0;
            (low as f32, (low + (width - 1.0).max(1e-6)) as f32)
        });
        Ok(Picture {
            rows: self.rows.into(),
            columns: self.columns.into(),
            samples,
            values: self.values().map(rescaled).collect(),
            full: (ends.0.min(ends.1), ends.0.max(ends.1)),
            window,
            inverted: self.photometric == Photometric::Monochrome1,
        })
    }
}

fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.chunks_exact(N).map(|chunk| {
        let mut word = [0; N];
        word.copy_from_slice(chunk);
        word
    })
}

fn open(bytes: &[u8]) -> Result<DefaultDicomObject, Fault> {
    if bytes.is_empty() {
        return Err(Fault::NotAnImage("the file is empty"));
    }
    let (preamble, start) = if bytes.get(128..132) == Some(b"DICM") {
        (ReadPreamble::Always, 132)
    } else if bytes.starts_with(b"DICM") {
        (ReadPreamble::Never, 4)
    } else {
        // A bare meta group would be readable, but no archive hands out such files, and what
        // begins with these bytes is more often something else.
        return Err(Fault::NotAnImage("it does not begin like a DICOM file"));
    };
    walk::check(bytes, start)?;
    OpenFileOptions::new().read_preamble(preamble).from_reader(Cursor::new(bytes)).map_err(
        |error| {
            if ends_early(&error) {
                Fault::Truncated
            } else {
                Fault::Unreadable("broken DICOM structure")
            }
        },
    )
}

/// Whether the end of the file is at the bottom of this error.
fn ends_early(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::UnexpectedEof;
        }
        next = error.source();
    }
    false
}

fn whole(object: &DefaultDicomObject, tag: Tag) -> Option<u16> {
    object.get(tag)?.to_int::<u16>().ok()
}

/// The first of the attribute's values, when it is a finite number.
fn real(object: &DefaultDicomObject, tag: Tag) -> Option<f64> {
    object.get(tag)?.to_float64().ok().filter(|value| value.is_finite())
}
