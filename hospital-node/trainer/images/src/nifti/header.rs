//! The two headers: 348 bytes of NIfTI-1, 540 of NIfTI-2, in the byte order of whoever wrote them.

use crate::{Datatype, Fault};

/// Bytes of the smaller header.
pub(super) const SMALLEST: usize = 348;
/// Bytes of the larger header.
pub(super) const LARGEST: usize = 540;
/// Axes that an image can have.
pub const MAX_AXES: usize = 7;

/// What a header says, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// 1 or 2.
    pub version: u8,
    /// Whether the file's numbers are big-endian.
    pub big_endian: bool,
    /// Voxels along each of 1 to 7 axes, none of them 0.
    pub shape: Vec<usize>,
    /// The number type.
    pub datatype: Datatype,
    /// What stored values are multiplied by; 1 when the file has no scaling.
    pub slope: f64,
    /// What is added then.
    pub intercept: f64,
    /// Voxel indices to millimetres right, to the front, up: three rows of three factors and an
    /// offset.
    pub affine: [[f64; 4]; 3],
    /// Whether the file says where its axes point; if not, `affine` takes them for the patient's.
    pub oriented: bool,
    /// Whether the file says how far voxels are from their neighbours; if not, `affine` takes them for
    /// a millimetre apart.
    pub(super) sized: bool,
    /// Whether the voxels are in a file of their own.
    pub(super) paired: bool,
    /// Where the voxels begin.
    pub(super) offset: usize,
}

impl Header {
    /// Bytes of all voxels, or the most that can be said.
    pub(super) fn data_bytes(&self) -> usize {
        self.shape.iter().fold(self.datatype.bytes(), |size, axis| size.saturating_mul(*axis))
    }

    /// Reads a header from the front of a file.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let size: [u8; 4] = *bytes.first_chunk().ok_or(NOT_NIFTI)?;
        let (version, big_endian) = match (u32::from_le_bytes(size), u32::from_be_bytes(size)) {
            (348, _) => (1, false),
            (_, 348) => (1, true),
            (540, _) => (2, false),
            (_, 540) => (2, true),
            _ => return Err(NOT_NIFTI),
        };
        let fields = Fields { bytes, big_endian };
        if version == 1 { one(&fields) } else { two(&fields) }
    }
}

pub(super) const NOT_NIFTI: Fault = Fault::NotAnImage("it does not begin like a NIfTI file");

struct Fields<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl Fields<'_> {
    fn at<const N: usize>(&self, place: usize) -> Result<[u8; N], Fault> {
        let mut field: [u8; N] = self
            .bytes
            .get(place..)
            .and_then(|rest| rest.first_chunk::<N>())
            .copied()
            .ok_or(Fault::Truncated)?;
        if self.big_endian {
            field.reverse();
        }
        Ok(field)
    }

    fn short(&self, place: usize) -> Result<i16, Fault> {
        self.at(place).map(i16::from_le_bytes)
    }

    fn int(&self, place: usize) -> Result<i32, Fault> {
        self.at(place).map(i32::from_le_bytes)
    }

    fn long(&self, place: usize) -> Result<i64, Fault> {
        self.at(place).map(i64::from_le_bytes)
    }

    fn single(&self, place: usize) -> Result<f64, Fault> {
        self.at(place).map(|bytes| f64::from(f32::from_le_bytes(bytes)))
    }

    fn double(&self, place: usize) -> Result<f64, Fault> {
        self.at(place).map(f64::from_le_bytes)
    }

    fn has(&self, place: usize, word: &[u8]) -> bool {
        self.bytes.get(place..).is_some_and(|rest| rest.starts_with(word))
    }
}

/// What the two headers say in the same words.
struct Said {
    version: u8,
    paired: bool,
    dims: [i64; 8],
    datatype: i16,
    pixdim: [f64; 8],
    offset: f64,
    slope: f64,
    intercept: f64,
    units: i32,
    qform: i32,
    sform: i32,
    quaternion: [f64; 6],
    rows: [[f64; 4]; 3],
}

impl Said {
    /// How far voxels are apart along an axis, the first being 1. A sign means nothing, as other readers
    /// have it too.
    fn size(&self, axis: usize) -> Option<f64> {
        Some(self.pixdim[axis].abs()).filter(|size| size.is_finite() && *size > 0.0)
    }
}

fn each<const N: usize, T: Copy + Default>(
    value: impl Fn(usize) -> Result<T, Fault>,
) -> Result<[T; N], Fault> {
    let mut all = [T::default(); N];
    for (place, one) in all.iter_mut().enumerate() {
        *one = value(place)?;
    }
    Ok(all)
}

fn one(fields: &Fields<'_>) -> Result<Header, Fault> {
    let paired = fields.has(344, b"ni1\0");
    if !paired && !fields.has(344, b"n+1\0") {
        return Err(NOT_NIFTI);
    }
    judged(
        fields.big_endian,
        Said {
            version: 1,
            paired,
            dims: each(|i| fields.short(40 + 2 * i).map(i64::from))?,
            datatype: fields.short(70)?,
            pixdim: each(|i| fields.single(76 + 4 * i))?,
            offset: fields.single(108)?,
            slope: fields.single(112)?,
            intercept: fields.single(116)?,
            units: i32::from(fields.at::<1>(123)?[0]),
            qform: fields.short(252)?.into(),
            sform: fields.short(254)?.into(),
            quaternion: each(|i| fields.single(256 + 4 * i))?,
            rows: each(|row| each(|i| fields.single(280 + 16 * row + 4 * i)))?,
        },
    )
}

fn two(fields: &Fields<'_>) -> Result<Header, Fault> {
    let paired = fields.has(4, b"ni2\0");
    if !paired && !fields.has(4, b"n+2\0") {
        return Err(NOT_NIFTI);
    }
    #[expect(clippy::cast_precision_loss, reason = "a place in a file, checked below")]
    let offset = fields.long(168)? as f64;
    judged(
        fields.big_endian,
        Said {
            version: 2,
            paired,
            dims: each(|i| fields.long(16 + 8 * i))?,
            datatype: fields.short(12)?,
            pixdim: each(|i| fields.double(104 + 8 * i))?,
            offset,
            slope: fields.double(176)?,
            intercept: fields.double(184)?,
            units: fields.int(500)?,
            qform: fields.int(344)?,
            sform: fields.int(348)?,
            quaternion: each(|i| fields.double(352 + 8 * i))?,
            rows: each(|row| each(|i| fields.double(400 + 32 * row + 8 * i)))?,
        },
    )
}

/// The type of the standard's code (`nifti1.h`, DT_*), and of no other.
fn datatype_of(code: i16) -> Option<Datatype> {
    Some(match code {
        2 => Datatype::Uint8,
        4 => Datatype::Int16,
        8 => Datatype::Int32,
        16 => Datatype::Float32,
        64 => Datatype::Float64,
        256 => Datatype::Int8,
        512 => Datatype::Uint16,
        768 => Datatype::Uint32,
        1024 => Datatype::Int64,
        1280 => Datatype::Uint64,
        _ => return None,
    })
}

/// What is said is taken as other readers do: the bits to a voxel are those of the number type.
fn judged(big_endian: bool, said: Said) -> Result<Header, Fault> {
    let axes = usize::try_from(said.dims[0]).ok().filter(|axes| (1..=MAX_AXES).contains(axes));
    let axes = axes.ok_or(Fault::Unreadable("expected 1 to 7 axes"))?;
    // Writers leave an axis beyond the third at 0 that they do not use; it is 1 (`nifti1_io.c`).
    let shape = (1..=axes)
        .map(|axis| said.dims[axis].max(i64::from(axis > 3 && said.dims[axis] == 0)))
        .map(|side| usize::try_from(side).ok().filter(|side| *side > 0))
        .collect::<Option<Vec<usize>>>()
        .ok_or(Fault::NotAnImage("its header says that it has no voxels"))?;
    let mut long = (1..=axes.min(3)).filter(|axis| shape[axis - 1] > 1);
    let sized = said.sform > 0 || long.all(|axis| said.size(axis).is_some());
    let datatype = datatype_of(said.datatype)
        .ok_or(Fault::Unsupported("voxels that are not plain numbers"))?;
    // In one file the voxels come after the header and four bytes that announce extensions.
    let least = match (said.paired, said.version) {
        (true, _) => 0.0,
        (false, 1) => 352.0,
        (false, _) => 544.0,
    };
    let offset = if said.offset < least { least } else { said.offset };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "between 0 and the largest file"
    )]
    let offset = if offset.is_finite() && offset <= crate::MAX_FILE_BYTES as f64 {
        offset as usize
    } else {
        return Err(Fault::Truncated);
    };
    // A slope of 0 says that there is no scaling.
    let scaled = said.slope != 0.0 && said.slope.is_finite();
    let intercept = if said.intercept.is_finite() { said.intercept } else { 0.0 };
    Ok(Header {
        version: said.version,
        big_endian,
        shape,
        datatype,
        slope: if scaled { said.slope } else { 1.0 },
        intercept: if scaled { intercept } else { 0.0 },
        affine: affine(&said),
        oriented: said.sform > 0 || said.qform > 0,
        sized,
        paired: said.paired,
        offset,
    })
}

/// The header's best word on where voxels are: the general form, else the rigid one, else none and
/// the axes are taken as the patient's (methods 3, 2 and 1 of `nifti1.h`).
fn affine(said: &Said) -> [[f64; 4]; 3] {
    let millimetres = match said.units & 7 {
        1 => 1000.0,
        3 => 0.001,
        _ => 1.0,
    };
    let size = |axis| said.size(axis).unwrap_or(1.0);
    let mut affine = [[0.0; 4]; 3];
    if said.sform > 0 {
        affine = said.rows;
    } else if said.qform > 0 {
        let [b, c, d, ..] = said.quaternion;
        let a = (1.0 - (b * b + c * c + d * d)).max(0.0).sqrt();
        let rotation = [
            [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
            [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
            [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ];
        let handed = if said.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
        let sizes = [size(1), size(2), size(3) * handed];
        for (row, (turned, offset)) in
            affine.iter_mut().zip(rotation.iter().zip(&said.quaternion[3..]))
        {
            for axis in 0..3 {
                row[axis] = turned[axis] * sizes[axis];
            }
            row[3] = *offset;
        }
    } else {
        for (axis, row) in affine.iter_mut().enumerate() {
            row[axis] = size(axis + 1);
        }
    }
    affine.map(|row| row.map(|factor| factor * millimetres))
}
