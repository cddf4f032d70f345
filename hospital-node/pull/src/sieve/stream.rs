//! Elements as they go by: their headers read and written, their values copied or passed over.

use std::io::{self, Read, Write};

use crate::fault::Fault;
use crate::keep::Tag;

use super::{ITEM, ITEM_END, MAX_DEPTH, SEQUENCE_END};

/// A length that is given by a delimiter instead.
pub(super) const UNDEFINED: u32 = u32::MAX;

/// Bytes of a file's meta group that are looked at.
const MOST_META: u64 = 64 << 10;

/// How elements are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoding {
    /// With their VRs.
    pub(super) explicit: bool,
    /// With the greatest byte first.
    pub(super) big_endian: bool,
}

/// One element's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) tag: Tag,
    pub(super) vr: Option<[u8; 2]>,
    pub(super) length: u32,
}

/// Whether this is a UID, which may stand in an address or a file.
#[must_use]
pub fn is_uid(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && !text.starts_with('.')
        && !text.ends_with('.')
        && !text.contains("..")
}

/// Whether the first element has a VR.
pub(super) fn looks_explicit(first: &[u8]) -> bool {
    first.get(4..6).is_some_and(|vr| is_long([vr[0], vr[1]]).is_some())
}

/// Whether the length of a value with this VR has 32 bits; `None` for what is no VR.
fn is_long(vr: [u8; 2]) -> Option<bool> {
    Some(match &vr {
        b"AE" | b"AS" | b"AT" | b"CS" | b"DA" | b"DS" | b"DT" | b"FL" | b"FD" | b"IS" | b"LO"
        | b"LT" | b"PN" | b"SH" | b"SL" | b"SS" | b"ST" | b"TM" | b"UI" | b"UL" | b"US" => false,
        b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR"
        | b"UT" | b"UV" => true,
        _ => return None,
    })
}

/// Reads preamble and meta group: the transfer syntax, the SOP class if it is told, and the bytes of
/// the data set that had to be read to see where it begins.
pub(super) fn file_meta(from: &mut impl Read) -> Result<(String, String, Vec<u8>), Fault> {
    let mut start = [0; 132];
    from.read_exact(&mut start).map_err(Fault::reading)?;
    if !start.ends_with(b"DICM") {
        return Err(Fault::Answer("a DICOM file"));
    }
    let explicit = Encoding { explicit: true, big_endian: false };
    let mut stream = Stream::new(from, MOST_META);
    let (mut syntax, mut class) = (String::new(), String::new());
    loop {
        let mut ahead = Vec::new();
        stream.from.by_ref().take(8).read_to_end(&mut ahead).map_err(Fault::reading)?;
        if !ahead.starts_with(&[2, 0]) {
            if !is_uid(&syntax) {
                return Err(Fault::Header("its transfer syntax is not told"));
            }
            return Ok((syntax, class, ahead));
        }
        let start = <[u8; 8]>::try_from(ahead.as_slice()).map_err(|_| Fault::Cut)?;
        stream.at += 8;
        let Header { tag, length, .. } = stream.header_from(start, explicit, None)?;
        match tag.1 {
            2 | 0x10 => {
                let value = stream.value(length, 128)?;
                let text = String::from_utf8_lossy(&value);
                let text = text.trim_matches(|c: char| c == '\0' || c == ' ');
                if tag.1 == 0x10 {
                    text.clone_into(&mut syntax);
                } else if is_uid(text) {
                    text.clone_into(&mut class);
                }
            }
            _ => stream.skip(length)?,
        }
    }
}

/// The archive's bytes, counted.
pub(super) struct Stream<R> {
    from: R,
    at: u64,
    most: u64,
}

impl<R: Read> Stream<R> {
    pub(super) const fn new(from: R, most: u64) -> Self {
        Self { from, at: 0, most }
    }

    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// Where a value of this length ends; `None` when a delimiter says so.
    pub(super) fn end_of(&self, length: u32) -> Option<u64> {
        (length != UNDEFINED).then(|| self.at + u64::from(length))
    }

    /// The next element's header; `None` at `end`, or at the end of all when there is no `end`.
    pub(super) fn header(
        &mut self,
        how: Encoding,
        end: Option<u64>,
    ) -> Result<Option<Header>, Fault> {
        match end {
            Some(end) if self.at == end => return Ok(None),
            Some(end) if self.at > end => {
                return Err(Fault::Header("an element is longer than what holds it"));
            }
            Some(_) | None => {}
        }
        let mut start = [0; 8];
        let mut have = 0;
        while have < start.len() {
            match self.from.read(&mut start[have..]) {
                Ok(0) if have == 0 && end.is_none() => return Ok(None),
                Ok(0) => return Err(Fault::Cut),
                Ok(read) => have += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::reading(error)),
            }
        }
        self.at += 8;
        self.header_from(start, how, end).map(Some)
    }

    fn header_from(
        &mut self,
        start: [u8; 8],
        how: Encoding,
        end: Option<u64>,
    ) -> Result<Header, Fault> {
        let big = how.big_endian;
        let short =
            |word: [u8; 2]| if big { u16::from_be_bytes(word) } else { u16::from_le_bytes(word) };
        let long =
            |word: [u8; 4]| if big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) };
        let [g0, g1, e0, e1, a, b, c, d] = start;
        let tag = (short([g0, g1]), short([e0, e1]));
        // Items and delimiters have no VR in any encoding.
        let (vr, length) = if !how.explicit || tag.0 == 0xfffe {
            (None, long([a, b, c, d]))
        } else if is_long([a, b]).ok_or(Fault::Header("an element without a known VR"))? {
            let mut length = [0; 4];
            self.from.read_exact(&mut length).map_err(Fault::reading)?;
            self.at += 4;
            (Some([a, b]), long(length))
        } else {
            (Some([a, b]), u32::from(short([c, d])))
        };
        let after = self.end_of(length).unwrap_or(self.at);
        if end.is_some_and(|end| after > end) {
            return Err(Fault::Header("an element is longer than what holds it"));
        }
        if after > self.most {
            return Err(Fault::TooLarge("the instance"));
        }
        Ok(Header { tag, vr, length })
    }

    /// Reads a short value.
    pub(super) fn value(&mut self, length: u32, most: u32) -> Result<Vec<u8>, Fault> {
        if length > most {
            return Err(Fault::Header("a name that is too long"));
        }
        let mut value = Vec::new();
        self.copy(length, &mut value)?;
        Ok(value)
    }

    /// Copies a value, however long, in small pieces.
    pub(super) fn copy(&mut self, length: u32, to: &mut dyn Write) -> Result<(), Fault> {
        let mut piece = [0; 16 << 10];
        let mut left = u64::from(length);
        while left > 0 {
            let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match self.from.read(&mut piece[..most]) {
                Ok(0) => return Err(Fault::Cut),
                Ok(read) => {
                    to.write_all(&piece[..read]).map_err(|error| Fault::writing(&error))?;
                    self.at += read as u64;
                    left -= read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::reading(error)),
            }
        }
        Ok(())
    }

    /// Passes over a value.
    pub(super) fn skip(&mut self, length: u32) -> Result<(), Fault> {
        self.copy(length, &mut io::sink())
    }

    /// Passes over a sequence or fragments up to `end`, or to the delimiter.
    pub(super) fn skip_items(
        &mut self,
        how: Encoding,
        end: Option<u64>,
        depth: usize,
    ) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::Header("its sequences nest too deep"));
        }
        loop {
            match self.header(how, end)?.ok_or(Fault::Cut)? {
                Header { tag: ITEM, length: UNDEFINED, .. } => self.skip_item(how, depth)?,
                Header { tag: ITEM, length, .. } => self.skip(length)?,
                Header { tag: SEQUENCE_END, .. } => return Ok(()),
                Header { .. } => {
                    return Err(Fault::Header("a sequence of something else than items"));
                }
            }
        }
    }

    fn skip_item(&mut self, how: Encoding, depth: usize) -> Result<(), Fault> {
        loop {
            let header = self.header(how, None)?.ok_or(Fault::Cut)?;
            match header {
                Header { tag: ITEM_END, .. } => return Ok(()),
                Header { length: UNDEFINED, .. } => {
                    self.skip_items(super::within(how, header), None, depth + 1)?;
                }
                Header { length, .. } => self.skip(length)?,
            }
        }
    }
}

/// Writes an element's header.
pub(super) fn write_header(
    to: &mut (impl Write + ?Sized),
    how: Encoding,
    header: Header,
) -> io::Result<()> {
    let Header { tag, vr, length } = header;
    let short = |word: u16| if how.big_endian { word.to_be_bytes() } else { word.to_le_bytes() };
    let long = |word: u32| if how.big_endian { word.to_be_bytes() } else { word.to_le_bytes() };
    to.write_all(&short(tag.0))?;
    to.write_all(&short(tag.1))?;
    match vr.filter(|_| how.explicit && tag.0 != 0xfffe) {
        None => to.write_all(&long(length)),
        Some(vr) if is_long(vr) == Some(true) => {
            to.write_all(&vr)?;
            to.write_all(&[0; 2])?;
            to.write_all(&long(length))
        }
        Some(vr) => {
            to.write_all(&vr)?;
            to.write_all(&short(u16::try_from(length).map_err(io::Error::other)?))
        }
    }
}

/// Writes a short text of ASCII, padded to an even length.
pub(super) fn write_text(
    to: &mut (impl Write + ?Sized),
    how: Encoding,
    tag: Tag,
    vr: [u8; 2],
    text: &str,
) -> io::Result<()> {
    let odd = text.len() % 2;
    let length = u32::try_from(text.len() + odd).map_err(io::Error::other)?;
    write_header(to, how, Header { tag, vr: Some(vr), length })?;
    to.write_all(text.as_bytes())?;
    let padding: &[u8] = if vr == *b"UI" { b"\0" } else { b" " };
    to.write_all(&padding[..odd])
}
