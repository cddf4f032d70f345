//! The number types that files store, and their values.

use crate::Whole;

/// The number types of voxels and of arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datatype {
    /// Unsigned, 8 bits.
    Uint8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Single precision.
    Float32,
    /// Double precision.
    Float64,
    /// Signed, 8 bits.
    Int8,
    /// Unsigned, 16 bits.
    Uint16,
    /// Unsigned, 32 bits.
    Uint32,
    /// Signed, 64 bits.
    Int64,
    /// Unsigned, 64 bits.
    Uint64,
    /// Half precision; in arrays only.
    Float16,
}

impl Datatype {
    /// As other readers call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uint8 => "uint8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Int8 => "int8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Int64 => "int64",
            Self::Uint64 => "uint64",
            Self::Float16 => "float16",
        }
    }

    /// Bytes to a value.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Uint8 | Self::Int8 => 1,
            Self::Int16 | Self::Uint16 | Self::Float16 => 2,
            Self::Int32 | Self::Uint32 | Self::Float32 => 4,
            Self::Int64 | Self::Uint64 | Self::Float64 => 8,
        }
    }

    /// What whole numbers of at most 16 bits can be: files that hold such use all of it.
    pub(crate) fn range(self) -> Option<(f32, f32)> {
        match self {
            Self::Uint8 => Some((0.0, 255.0)),
            Self::Int8 => Some((-128.0, 127.0)),
            Self::Uint16 => Some((0.0, 65_535.0)),
            Self::Int16 => Some((-32_768.0, 32_767.0)),
            Self::Int32
            | Self::Uint32
            | Self::Int64
            | Self::Uint64
            | Self::Float16
            | Self::Float32
            | Self::Float64 => None,
        }
    }

    /// The little-endian values of `data` in turn.
    #[expect(
        clippy::cast_precision_loss,
        reason = "64-bit labels stay below 2^53; `whole` is exact"
    )]
    pub(crate) fn each(self, data: &[u8], value: &mut dyn FnMut(f64)) {
        match self {
            Self::Uint8 => data.iter().for_each(|byte| value(f64::from(*byte))),
            Self::Int8 => data.iter().for_each(|byte| value(f64::from(byte.cast_signed()))),
            Self::Int16 => words(data).for_each(|word| value(f64::from(i16::from_le_bytes(word)))),
            Self::Uint16 => words(data).for_each(|word| value(f64::from(u16::from_le_bytes(word)))),
            Self::Int32 => words(data).for_each(|word| value(f64::from(i32::from_le_bytes(word)))),
            Self::Uint32 => words(data).for_each(|word| value(f64::from(u32::from_le_bytes(word)))),
            Self::Float32 => {
                words(data).for_each(|word| value(f64::from(f32::from_le_bytes(word))));
            }
            Self::Int64 => words(data).for_each(|word| value(i64::from_le_bytes(word) as f64)),
            Self::Uint64 => words(data).for_each(|word| value(u64::from_le_bytes(word) as f64)),
            Self::Float64 => words(data).for_each(|word| value(f64::from_le_bytes(word))),
            Self::Float16 => words(data).for_each(|word| value(half(u16::from_le_bytes(word)))),
        }
    }

    pub(crate) fn whole(self, data: &[u8]) -> Option<Whole> {
        Some(match self {
            Self::Float16 | Self::Float32 | Self::Float64 => return None,
            Self::Uint8 => Whole::over(data.iter().copied()),
            Self::Int8 => Whole::over(data.iter().map(|byte| byte.cast_signed())),
            Self::Int16 => Whole::over(words(data).map(i16::from_le_bytes)),
            Self::Uint16 => Whole::over(words(data).map(u16::from_le_bytes)),
            Self::Int32 => Whole::over(words(data).map(i32::from_le_bytes)),
            Self::Uint32 => Whole::over(words(data).map(u32::from_le_bytes)),
            Self::Int64 => Whole::over(words(data).map(i64::from_le_bytes)),
            Self::Uint64 => Whole::over(words(data).map(u64::from_le_bytes)),
        })
    }
}

fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.as_chunks::<N>().0.iter().copied()
}

/// A number of half precision (IEEE 754 binary16).
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if bits & 1023 == 0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_what_the_standard_says() {
        let bits = [0x0000, 0x0001, 0x3555, 0x3c00, 0xc000, 0x7bff, 0x7c00, 0xfc00];
        let known = [
            0.0,
            5.960_464_477_539_063e-8,
            0.333_251_953_125,
            1.0,
            -2.0,
            65_504.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ];
        assert_eq!(bits.map(|bits| half(bits).to_bits()), known.map(f64::to_bits));
        assert!(half(0x7e00).is_nan());
    }
}
