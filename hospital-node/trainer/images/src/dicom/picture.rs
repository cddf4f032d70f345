//! From stored values to what they mean: modality table or rescale, padding, palette, colours, and
//! what the file declares to be shown as dark and as bright.

use super::elements::{Elements, Tag};
use super::{Kind, Photometric, Stored};
use crate::Fault;
use crate::file::limited;

/// A decoded image, before anything that a study asks for.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Rows of pixels.
    pub rows: usize,
    /// Columns of pixels.
    pub columns: usize,
    /// Values to a pixel: 1, or 3 for red, green, blue.
    pub samples: usize,
    /// Millimetres between rows and between columns, where the file says so.
    pub spacing: Option<[f32; 2]>,
    /// Rescaled values: row, column, sample.
    pub values: Vec<f32>,
    /// What the least and the greatest stored value become by the rescale.
    pub full: (f32, f32),
    /// How the file declares that it is to be shown.
    pub shown: Option<Shown>,
    /// Whether low values are shown bright (MONOCHROME1).
    pub inverted: bool,
}

/// How values become shades (PS3.3 C.11.2).
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// A straight line between the darkest value and the brightest.
    Line {
        /// Shown as 0, and all below.
        low: f32,
        /// Shown as 1, and all above.
        high: f32,
    },
    /// An S.
    Sigmoid {
        /// Shown half bright.
        center: f32,
        /// How slowly it rises.
        width: f32,
    },
    /// A table of shades from 0 to 1; values below and above take the first and the last.
    Table {
        /// The value of the first entry.
        first: f32,
        /// The shades.
        shades: Vec<f32>,
    },
}

impl Shown {
    /// The shade of a value, from 0 to 1.
    #[must_use]
    pub fn shade(&self, value: f32) -> f32 {
        match self {
            Self::Line { low, high } if high > low => {
                ((value - low) / (high - low)).clamp(0.0, 1.0)
            }
            Self::Line { .. } => 0.0,
            Self::Sigmoid { center, width } => {
                1.0 / (1.0 + (-4.0 * (value - center) / width).exp())
            }
            Self::Table { first, shades } => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a float becomes the nearest place that there is"
                )]
                let place = (value - first).round().max(0.0) as usize;
                shades.get(place).or(shades.last()).copied().unwrap_or(0.0)
            }
        }
    }
}

/// A look-up table of the standard: values from `first` on become its entries.
#[derive(Clone, Debug)]
struct Table {
    first: i32,
    bits: u16,
    entries: Vec<u16>,
}

impl Table {
    /// From a descriptor of three numbers and the entries, bytes or words. Whether the second number
    /// has a sign is for the caller to say, who is given it without.
    fn read(
        elements: &Elements<'_>,
        descriptor: Tag,
        data: Tag,
        signed: impl FnOnce(u16) -> bool,
    ) -> Option<Self> {
        let &[count, first, bits] = elements.words(descriptor)?.first_chunk::<3>()?;
        let count = if count == 0 { 1 << 16 } else { usize::from(count) };
        let value = elements.value(data)?;
        let entries = if bits <= 8 && value.len() < 2 * count {
            value.get(..count)?.iter().map(|byte| u16::from(*byte)).collect()
        } else {
            elements.words(data)?.get(..count)?.to_vec()
        };
        let first = if signed(first) { first.cast_signed().into() } else { i32::from(first) };
        Some(Self { first, bits: bits.clamp(1, 16), entries })
    }

    fn at(&self, value: f64) -> u16 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float becomes the nearest place that there is"
        )]
        let place = (value - f64::from(self.first)).max(0.0) as usize;
        self.entries.get(place).or(self.entries.last()).copied().unwrap_or(0)
    }

    fn most(&self) -> f64 {
        f64::from((1_u32 << self.bits) - 1)
    }
}

/// What stored values mean.
#[derive(Clone, Debug)]
pub(super) struct Meaning {
    slope: f64,
    intercept: f64,
    /// Where frames differ: the slope and intercept of each.
    frames: Vec<(f64, f64)>,
    table: Option<Table>,
    shown: Option<Shown>,
    /// Stored values that are no pixels, from one to the other.
    padding: Option<(f64, f64)>,
    palette: Option<[Table; 3]>,
    segmented: bool,
}

impl Meaning {
    /// `ends` are the least and the greatest value that can be stored.
    pub(super) fn read(elements: &Elements<'_>, ends: (f64, f64)) -> Self {
        let signed = elements.word((0x28, 0x103)) == Some(1);
        let shared = elements.items((0x5200, 0x9229)).first();
        let within = |tag| shared.and_then(|groups| groups.items(tag).first());
        let (slope, intercept) =
            rescale(within((0x28, 0x9145)).unwrap_or(elements)).unwrap_or((1.0, 0.0));
        let per_frame = elements.items((0x5200, 0x9230));
        let frames: Option<Vec<(f64, f64)>> = per_frame
            .iter()
            .map(|groups| groups.items((0x28, 0x9145)).first().and_then(rescale))
            .collect();
        let (descriptor, data) = ((0x28, 0x3002), (0x28, 0x3006));
        let table = elements.items((0x28, 0x3000)).first().and_then(|item| {
            Table::read(item, descriptor, data, |_| signed || item.is_signed(descriptor))
        });
        // Its first value is a rescaled one, and the VR says whether it has a sign. Without a VR, or
        // with one that would put it above all values, it has one where values can be negative.
        let (one, other) = match &table {
            Some(table) => (0.0, table.most()),
            None => (ends.0 * slope + intercept, ends.1 * slope + intercept),
        };
        let voi = elements.items((0x28, 0x3010)).first().and_then(|item| {
            Table::read(item, descriptor, data, |first| {
                let beyond = f64::from(first) > one.max(other);
                item.is_signed(descriptor)
                    || (one.min(other) < 0.0 && (beyond || !item.has_vr(descriptor)))
            })
        });
        let windows = within((0x28, 0x9132))
            .or_else(|| per_frame.first().and_then(|groups| groups.items((0x28, 0x9132)).first()));
        let shown = window(windows.unwrap_or(elements)).or_else(|| voi.as_ref().map(shades));
        let padding = elements.word((0x28, 0x120)).map(|from| {
            let to = elements.word((0x28, 0x121)).unwrap_or(from);
            let value = |word: u16| {
                if signed { f64::from(word.cast_signed()) } else { f64::from(word) }
            };
            (value(from).min(value(to)), value(from).max(value(to)))
        });
        let palette = |color: u16| {
            Table::read(elements, (0x28, 0x1100 + color), (0x28, 0x1200 + color), |_| false)
        };
        let palette = palette(1)
            .zip(palette(2))
            .zip(palette(3))
            .map(|((red, green), blue)| [red, green, blue]);
        let segmented = elements.value((0x28, 0x1221)).is_some();
        let frames = frames.unwrap_or_default();
        Self { slope, intercept, frames, table, shown, padding, palette, segmented }
    }

    pub(super) fn without_padding(&mut self) {
        self.padding = None;
    }

    fn rescaled(&self, value: f64, frame: usize) -> f64 {
        if let Some(table) = &self.table {
            return f64::from(table.at(value));
        }
        let (slope, intercept) =
            self.frames.get(frame).copied().unwrap_or((self.slope, self.intercept));
        value * slope + intercept
    }
}

/// Slope and intercept, when the file has a slope that is one.
fn rescale(elements: &Elements<'_>) -> Option<(f64, f64)> {
    let slope = elements.decimal((0x28, 0x1053)).filter(|slope| *slope != 0.0);
    let intercept = elements.decimal((0x28, 0x1052));
    if slope.is_none() && intercept.is_none() {
        return None;
    }
    Some((slope.unwrap_or(1.0), intercept.unwrap_or(0.0)))
}

/// The first window, by the function that goes with it.
#[expect(clippy::cast_possible_truncation, reason = "f32 is what models are shown")]
fn window(elements: &Elements<'_>) -> Option<Shown> {
    let (center, width) = elements.decimal((0x28, 0x1050)).zip(elements.decimal((0x28, 0x1051)))?;
    if width <= 0.0 {
        return None;
    }
    Some(match elements.text((0x28, 0x1056)) {
        Some("SIGMOID") => Shown::Sigmoid { center: center as f32, width: width as f32 },
        Some("LINEAR_EXACT") => line(center - width / 2.0, center + width / 2.0),
        // LINEAR, which is meant by nothing too (C.11.2.1.2.1).
        _ if width < 1.0 => return None,
        _ => {
            let low = center - 0.5 - (width - 1.0) / 2.0;
            line(low, low + width - 1.0)
        }
    })
}

/// A line that rises even where single precision, or a width of 1, leaves it no room: there it is
/// the step that the standard means.
#[expect(clippy::cast_possible_truncation, reason = "f32 is what models are shown")]
fn line(low: f64, high: f64) -> Shown {
    let high = high.max(low + 1e-6) as f32;
    let low = low as f32;
    Shown::Line { low, high: high.max(low.next_up()) }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "f32 is what models are shown"
)]
fn shades(table: &Table) -> Shown {
    let most = table.most();
    let shade = |entry: &u16| (f64::from(*entry) / most).min(1.0) as f32;
    Shown::Table { first: table.first as f32, shades: table.entries.iter().map(shade).collect() }
}

/// The least and the greatest value that so many bits can store.
pub(super) fn ends(kind: Kind, bits: u16) -> (f64, f64) {
    let bits = i32::from(bits);
    match kind {
        Kind::Signed => (-2_f64.powi(bits - 1), 2_f64.powi(bits - 1) - 1.0),
        Kind::Unsigned => (0.0, 2_f64.powi(bits) - 1.0),
        Kind::Float => (0.0, 1.0),
    }
}

impl Stored {
    /// The picture that a study can be shown, of a file with one frame.
    ///
    /// # Errors
    /// [`Fault::WrongShape`] for several frames and unusual colour spaces.
    pub fn picture(&self) -> Result<Picture, Fault> {
        if self.frames != 1 {
            return Err(Fault::WrongShape("expected one frame, found several"));
        }
        self.frame(0)
    }

    /// The picture of one frame.
    ///
    /// # Errors
    /// [`Fault::WrongShape`] when there is no such frame, and for unusual colour spaces.
    pub fn frame(&self, index: usize) -> Result<Picture, Fault> {
        let size = self.frame_values() * self.value_bytes();
        // Values are floats from here on, and a palette's colours three of them.
        let values = if self.photometric == Photometric::Palette { 3 } else { 1 };
        limited(&[values, self.frame_values()])?;
        let data = index
            .checked_mul(size)
            .and_then(|start| self.data.get(start..start.checked_add(size)?))
            .ok_or(Fault::WrongShape("it has fewer frames than that"))?;
        let grey = |inverted| Ok(self.grey(index, data, inverted));
        match (self.photometric, self.samples) {
            (Photometric::Monochrome1, 1) => grey(true),
            (Photometric::Monochrome2, 1) => grey(false),
            (Photometric::Palette, 1) => self.colored(data),
            (Photometric::Rgb, 3) => Ok(self.rgb(self.plain(data))),
            (Photometric::YbrFull | Photometric::YbrFull422, 3) if self.bits_allocated == 8 => {
                let mut values = self.plain(data);
                for pixel in values.as_chunks_mut::<3>().0 {
                    // PS3.3 C.7.6.3.1.2, solved for red, green, blue.
                    let [y, blue, red] = *pixel;
                    let (blue, red) = (blue - 128.0, red - 128.0);
                    *pixel = [
                        (y + 1.402 * red).clamp(0.0, 255.0),
                        (y - 0.344_136 * blue - 0.714_136 * red).clamp(0.0, 255.0),
                        (y + 1.772 * blue).clamp(0.0, 255.0),
                    ];
                }
                Ok(self.rgb(values))
            }
            _ => Err(Fault::WrongShape("expected grey or red-green-blue pixels")),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "f32 is what models are shown")]
    fn plain(&self, data: &[u8]) -> Vec<f32> {
        super::mapped(data, self.value_bytes(), self.kind, |value| value as f32)
    }

    #[expect(clippy::cast_possible_truncation, reason = "f32 is what models are shown")]
    fn grey(&self, frame: usize, data: &[u8], inverted: bool) -> Picture {
        let meaning = &self.meaning;
        let mut padded = Vec::new();
        let bytes = self.value_bytes();
        let mut values = match (&meaning.table, meaning.padding) {
            (None, None) => {
                let (slope, intercept) = meaning
                    .frames
                    .get(frame)
                    .copied()
                    .unwrap_or((meaning.slope, meaning.intercept));
                let to = |value| (value * slope + intercept) as f32;
                super::mapped(data, bytes, self.kind, to)
            }
            (_, padding) => {
                let mut values = Vec::with_capacity(self.frame_values());
                super::each(data, bytes, self.kind, |value| {
                    if padding.is_some_and(|(from, to)| from <= value && value <= to) {
                        padded.push(values.len());
                    }
                    values.push(meaning.rescaled(value, frame) as f32);
                });
                values
            }
        };
        if !padded.is_empty() && padded.len() < values.len() {
            darken(&mut values, &padded, inverted);
        }
        let (least, greatest) = ends(self.kind, self.bits_stored);
        let mut ends =
            (meaning.rescaled(least, frame) as f32, meaning.rescaled(greatest, frame) as f32);
        if let Some(table) = &meaning.table {
            ends = (0.0, table.most() as f32);
        } else if self.kind == Kind::Float {
            ends = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |ends, value| {
                (ends.0.min(*value), ends.1.max(*value))
            });
        }
        Picture {
            rows: self.rows.into(),
            columns: self.columns.into(),
            samples: 1,
            spacing: self.place.pixel_spacing(),
            values,
            full: (ends.0.min(ends.1), ends.0.max(ends.1)),
            shown: meaning.shown.clone(),
            inverted,
        }
    }

    fn rgb(&self, values: Vec<f32>) -> Picture {
        #[expect(clippy::cast_possible_truncation, reason = "f32 is what models are shown")]
        let most = ends(self.kind, self.bits_stored).1 as f32;
        Picture {
            rows: self.rows.into(),
            columns: self.columns.into(),
            samples: 3,
            spacing: self.place.pixel_spacing(),
            values,
            full: (0.0, most),
            shown: None,
            inverted: false,
        }
    }

    fn colored(&self, data: &[u8]) -> Result<Picture, Fault> {
        let Some(palette) = &self.meaning.palette else {
            return Err(if self.meaning.segmented {
                Fault::Unsupported("a palette in segments")
            } else {
                Fault::WrongShape("a palette image without its palette")
            });
        };
        let mut values = Vec::with_capacity(3 * self.frame_values());
        super::each(data, self.value_bytes(), self.kind, |value| {
            values.extend(palette.each_ref().map(|table| f32::from(table.at(value))));
        });
        // Eight-bit colours are sometimes kept in the upper halves of words.
        let most = if palette.iter().any(|table| table.entries.iter().any(|entry| *entry > 255)) {
            65_535.0
        } else {
            255.0
        };
        Ok(Picture { full: (0.0, most), ..self.rgb(values) })
    }
}

/// Gives what is no pixel the darkest value of those that are.
fn darken(values: &mut [f32], padded: &[usize], inverted: bool) {
    let mut is_padded = padded.iter().peekable();
    let mut darkest = if inverted { f32::NEG_INFINITY } else { f32::INFINITY };
    for (place, value) in values.iter().enumerate() {
        if is_padded.next_if(|next| **next == place).is_none() {
            darkest = if inverted { darkest.max(*value) } else { darkest.min(*value) };
        }
    }
    for place in padded {
        values[*place] = darkest;
    }
}
