//! One DICOM file: the pixels as stored, and the picture they make.
//!
//! Only attributes that decide pixels are looked at; no text of the header leaves this room. What the
//! header claims is compared with our limit, and with the bytes that are there, before memory is set
//! aside for it.
//!
//! Every transfer syntax that decodes without a native library is decoded; the [crate]'s page says
//! which those are, and what is refused with [`Fault::UnsupportedTransferSyntax`] and
//! [`Fault::Unsupported`].

mod elements;
mod frames;
mod picture;
mod rle;
mod series;

use elements::{DOUBLE_PIXELS, Elements, FLOAT_PIXELS, File, PIXELS};

pub use picture::{Picture, Shown};
pub use series::{Place, volume_of};

use crate::file::limited;
use crate::{Fault, Limit, MAX_PIXEL_BYTES, Whole};

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
    /// Bits to a value in memory: 8, 16, 32 or 64. One-bit images are unpacked to 8.
    pub bits_allocated: u16,
    /// Bits that carry the value.
    pub bits_stored: u16,
    /// What a value is.
    pub kind: Kind,
    /// Little-endian values: frame, row, column, sample.
    pub data: Vec<u8>,
    /// The kind of machine, as one of the standard's codes.
    pub modality: &'static str,
    /// Whether the header says that text is burned into the pixels.
    pub burned_in: bool,
    /// Where the image lies in the patient; in a multi-frame file, its first frame.
    pub place: Place,
    meaning: picture::Meaning,
    /// The highest of the bits that carry the value, where the header says which.
    high_bit: Option<u16>,
}

/// What a stored value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number that is not negative.
    Unsigned,
    /// A whole number in two's complement.
    Signed,
    /// A floating-point number.
    Float,
}

/// The photometric interpretations, so that no header text is carried along.
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
    /// Luma, and chroma at half the resolution across; as a codec gives it back, at full.
    YbrFull422,
    /// Luma and chroma, whose transform the codec undoes (irreversible).
    YbrIct,
    /// Luma and chroma, whose transform the codec undoes (reversible).
    YbrRct,
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
            "YBR_FULL_422" => Self::YbrFull422,
            "YBR_ICT" => Self::YbrIct,
            "YBR_RCT" => Self::YbrRct,
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
            Self::YbrFull422 => "YBR_FULL_422",
            Self::YbrIct => "YBR_ICT",
            Self::YbrRct => "YBR_RCT",
            Self::Palette => "PALETTE COLOR",
            Self::Other => "other",
        }
    }
}

/// The modalities of the standard that have images (PS3.3 C.7.3.1.1.1), and `none` and `other`.
const MODALITIES: [&str; 43] = [
    "BI", "BMD", "CR", "CT", "DG", "DX", "ECG", "ES", "GM", "IO", "IVOCT", "IVUS", "LS", "MG",
    "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPV", "OT", "PT", "PX", "RF", "RG", "RTDOSE",
    "RTIMAGE", "RTSTRUCT", "SC", "SEG", "SM", "SR", "TG", "US", "XA", "XC", "AR", "CFM", "OPTBSV",
    "OPTENF", "PA",
];

/// Whether these bytes begin like a DICOM file, with a preamble or without one.
#[must_use]
pub fn begins_so(bytes: &[u8]) -> bool {
    elements::start(bytes).is_some()
}

impl Stored {
    /// Decodes a whole file.
    ///
    /// # Errors
    /// The one [`Fault`] that describes it best.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let file = File::open(bytes)?;
        let elements = file.elements()?;
        let mut stored = Self::header(&elements)?;
        let count = stored.count()?;
        stored.data = frames::all(&mut stored, &file.syntax, &elements, count)?;
        if stored.bits_allocated == 1 {
            stored.bits_allocated = 8;
        }
        Ok(stored)
    }

    fn header(elements: &Elements<'_>) -> Result<Self, Fault> {
        let whole = |tag| elements.word(tag);
        let floating = [FLOAT_PIXELS, DOUBLE_PIXELS].map(|tag| elements.value(tag).is_some());
        if elements.fragments.is_none()
            && elements.value(PIXELS).is_none()
            && floating == [false; 2]
        {
            return Err(Fault::NotAnImage("there is no pixel data in it"));
        }
        let need = |tag, without| whole(tag).ok_or(Fault::NotAnImage(without));
        let rows = need((0x28, 0x10), "its header has no rows")?;
        let columns = need((0x28, 0x11), "its header has no columns")?;
        let bits_allocated = need((0x28, 0x100), "its header has no bits allocated")?;
        let bits_stored = whole((0x28, 0x101)).unwrap_or(bits_allocated);
        let samples = whole((0x28, 2)).unwrap_or(1);
        let frames = match elements.text((0x28, 8)) {
            None | Some("") => 1,
            // Writers of single images say 0.
            Some(word) => frames_of(word)
                .ok_or(Fault::Unreadable("its number of frames is not a sensible number"))?
                .max(1),
        };
        let kind = match (floating, bits_allocated) {
            ([true, _], 32) | ([_, true], 64) => Kind::Float,
            ([false, false], 1 | 8 | 16 | 32) if whole((0x28, 0x103)) == Some(1) => Kind::Signed,
            ([false, false], 1 | 8 | 16 | 32) => Kind::Unsigned,
            ([false, false], 64) => return Err(Fault::Unsupported("integers of 64 bits")),
            _ => return Err(Fault::Unreadable("bits allocated and stored make no sense")),
        };
        if bits_stored == 0 || bits_stored > bits_allocated {
            return Err(Fault::Unreadable("bits allocated and stored make no sense"));
        }
        if rows == 0 || columns == 0 || samples == 0 {
            return Err(Fault::NotAnImage("its header says that it has no pixels"));
        }
        let photometric = elements.text((0x28, 4)).map_or(Photometric::Other, Photometric::parse);
        let modality = elements.text((8, 0x60)).map_or("none", |word| {
            MODALITIES.into_iter().find(|known| *known == word).unwrap_or("other")
        });
        let mut meaning = picture::Meaning::read(elements, picture::ends(kind, bits_stored));
        if kind == Kind::Float {
            // Floating-point pixels are meant as they are.
            meaning.without_padding();
        }
        Ok(Self {
            rows,
            columns,
            frames,
            samples,
            photometric,
            bits_allocated,
            bits_stored,
            kind,
            data: Vec::new(),
            modality,
            burned_in: elements.text((0x28, 0x301)) == Some("YES"),
            place: Place::read(elements),
            meaning,
            high_bit: whole((0x28, 0x102)),
        })
    }

    /// Values that the header claims; refused above the limit, as are those of one frame that no picture
    /// could be made of.
    fn count(&self) -> Result<usize, Fault> {
        limited(&[self.rows, self.columns, self.samples].map(usize::from))?;
        let size = u64::from(self.bits_allocated.div_ceil(8));
        let values = [self.rows, self.columns, self.samples]
            .into_iter()
            .fold(u64::from(self.frames), |values, side| values.saturating_mul(side.into()));
        let bytes = values.saturating_mul(size);
        usize::try_from(values)
            .ok()
            .filter(|_| bytes <= MAX_PIXEL_BYTES)
            .ok_or(Fault::TooLarge(Limit::Pixels(bytes)))
    }

    /// Values of one frame.
    fn frame_values(&self) -> usize {
        usize::from(self.rows) * usize::from(self.columns) * usize::from(self.samples)
    }

    /// Bytes to a value in memory.
    fn value_bytes(&self) -> usize {
        usize::from(self.bits_allocated.div_ceil(8))
    }

    /// The values in order.
    pub fn each(&self, value: &mut dyn FnMut(f64)) {
        each(&self.data, self.value_bytes(), self.kind, value);
    }

    /// The sum of whole values without rounding; `None` for floats.
    #[must_use]
    pub fn whole_sum(&self) -> Option<i128> {
        self.whole().map(|whole| whole.sum)
    }

    /// What whole values are, without rounding; `None` for floats.
    #[must_use]
    pub fn whole(&self) -> Option<Whole> {
        Some(match (self.value_bytes(), self.kind) {
            (_, Kind::Float) => return None,
            (1, Kind::Signed) => Whole::over(self.data.iter().map(|byte| byte.cast_signed())),
            (1, Kind::Unsigned) => Whole::over(self.data.iter().copied()),
            (2, Kind::Signed) => Whole::over(words(&self.data).map(i16::from_le_bytes)),
            (2, Kind::Unsigned) => Whole::over(words(&self.data).map(u16::from_le_bytes)),
            (_, Kind::Signed) => Whole::over(words(&self.data).map(i32::from_le_bytes)),
            (_, Kind::Unsigned) => Whole::over(words(&self.data).map(u32::from_le_bytes)),
        })
    }
}

/// A number of frames; some write it as a decimal.
fn frames_of(word: &str) -> Option<u32> {
    let (whole, fraction) = word.split_once('.').unwrap_or((word, ""));
    whole.parse().ok().filter(|_| fraction.bytes().all(|digit| digit == b'0'))
}

/// Little-endian values of one kind, each made into something else.
fn mapped<T>(data: &[u8], bytes: usize, kind: Kind, to: impl Fn(f64) -> T) -> Vec<T> {
    match (bytes, kind) {
        (1, Kind::Signed) => data.iter().map(|byte| to(byte.cast_signed().into())).collect(),
        (1, _) => data.iter().map(|byte| to(f64::from(*byte))).collect(),
        (2, Kind::Signed) => words(data).map(|word| to(i16::from_le_bytes(word).into())).collect(),
        (2, _) => words(data).map(|word| to(u16::from_le_bytes(word).into())).collect(),
        _ => {
            let mut all = Vec::with_capacity(data.len() / bytes);
            each(data, bytes, kind, |value| all.push(to(value)));
            all
        }
    }
}

/// Little-endian values of one kind, in turn.
fn each(data: &[u8], bytes: usize, kind: Kind, mut value: impl FnMut(f64)) {
    match (bytes, kind) {
        (1, Kind::Signed) => data.iter().for_each(|byte| value(byte.cast_signed().into())),
        (1, _) => data.iter().for_each(|byte| value(f64::from(*byte))),
        (2, Kind::Signed) => words(data).for_each(|word| value(i16::from_le_bytes(word).into())),
        (2, _) => words(data).for_each(|word| value(u16::from_le_bytes(word).into())),
        (4, Kind::Signed) => words(data).for_each(|word| value(i32::from_le_bytes(word).into())),
        (4, Kind::Float) => words(data).for_each(|word| value(f32::from_le_bytes(word).into())),
        (4, Kind::Unsigned) => words(data).for_each(|word| value(u32::from_le_bytes(word).into())),
        _ => words(data).for_each(|word| value(f64::from_le_bytes(word))),
    }
}

fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.as_chunks::<N>().0.iter().copied()
}

#[cfg(test)]
mod tests;
