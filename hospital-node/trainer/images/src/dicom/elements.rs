//! The elements of a DICOM data set that decide pixels, and no others.
//!
//! A reader of our own in front of the decoders: it takes what is on a short list and steps over the
//! rest, so that patients' names are never even copied, a length that the file does not have is
//! refused before memory is set aside for it, and what is odd in elements that nobody needs does not
//! keep a sound image from being read. (`dicom-object` reads all of a file, sets aside what a header
//! claims, and refuses eight sound files of our collection for such oddities.)

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read as _;

use flate2::read::DeflateDecoder;

use crate::{Fault, Limit};

/// Sequences within sequences; real files stay below ten.
const MAX_DEPTH: usize = 64;
/// A length that is given by a delimiter instead.
const UNDEFINED: u32 = u32::MAX;
/// Items and fragments of one file that are kept: some for each frame of a large one.
const MAX_ITEMS: usize = 1 << 20;

/// Bytes of a deflated data set that are inflated to see whether it is one.
const DEFLATED_START: u64 = 1 << 20;
/// Bytes that it may become.
const MAX_DEFLATED: u64 = 256 << 20;

/// Group and element.
pub(super) type Tag = (u16, u16);

const ITEM: Tag = (0xfffe, 0xe000);
const ITEM_END: Tag = (0xfffe, 0xe00d);
const SEQUENCE_END: Tag = (0xfffe, 0xe0dd);
pub(super) const PIXELS: Tag = (0x7fe0, 0x0010);
pub(super) const FLOAT_PIXELS: Tag = (0x7fe0, 0x0008);
pub(super) const DOUBLE_PIXELS: Tag = (0x7fe0, 0x0009);

/// How the elements are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoding {
    explicit: bool,
    big_endian: bool,
}

const EXPLICIT: Encoding = Encoding { explicit: true, big_endian: false };
const IMPLICIT: Encoding = Encoding { explicit: false, big_endian: false };

/// A file taken apart as far as its transfer syntax.
#[derive(Debug)]
pub(super) struct File<'a> {
    /// The transfer syntax, without padding.
    pub(super) syntax: Cow<'a, str>,
    encoding: Encoding,
    body: Cow<'a, [u8]>,
}

/// Values by tag; sequences by where their items are.
#[derive(Debug, Default)]
pub(super) struct Elements<'a> {
    values: BTreeMap<Tag, (Option<Vr>, &'a [u8])>,
    sequences: BTreeMap<Tag, Vec<Self>>,
    big_endian: bool,
    /// Whether native pixels are written in words of 16 bits.
    pub(super) in_words: bool,
    /// Compressed pixels, fragment by fragment, the offset table first.
    pub(super) fragments: Option<Vec<&'a [u8]>>,
    /// Whether the end of those is marked.
    pub(super) ended: bool,
}

impl<'a> File<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, Fault> {
        if bytes.is_empty() {
            return Err(Fault::NotAnImage("the file is empty"));
        }
        let start = start(bytes).ok_or(Fault::NotAnImage("it does not begin like a DICOM file"))?;
        let mut reader = Reader::new(bytes, start);
        let mut syntax = Cow::Borrowed("");
        while reader.rest().starts_with(&[2, 0]) {
            let Some(header) = reader.header(EXPLICIT) else { break };
            let value = reader.take(header.length)?;
            if header.tag == (2, 0x10) {
                let is_padding = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace();
                let length =
                    value.iter().rposition(|byte| !is_padding(byte)).map_or(0, |at| at + 1);
                syntax = String::from_utf8_lossy(&value[..length]);
            }
        }
        let rest = &bytes[reader.at..];
        let body = match &*syntax {
            "1.2.840.10008.1.2.1.99" => Cow::Owned(inflated(rest)?),
            _ => Cow::Borrowed(rest),
        };
        let encoding = match &*syntax {
            "1.2.840.10008.1.2.2" => Encoding { explicit: true, big_endian: true },
            "1.2.840.10008.1.2.1.99" => EXPLICIT,
            // Writers announce the one encoding and write the other, both ways round.
            _ => Encoding { explicit: looks_explicit(&body), big_endian: false },
        };
        Ok(Self { syntax, encoding, body })
    }

    pub(super) fn elements(&self) -> Result<Elements<'_>, Fault> {
        Reader::new(&self.body, 0).data_set(self.encoding, self.body.len(), 0)
    }
}

/// Where the elements of a DICOM file begin.
pub(super) fn start(bytes: &[u8]) -> Option<usize> {
    if bytes.get(128..132) == Some(b"DICM") {
        Some(132)
    } else if bytes.starts_with(b"DICM") {
        Some(4)
    } else {
        begins_bare(bytes).then_some(0)
    }
}

/// A deflated data set: what does not begin like elements is not inflated to its end. Whether it is
/// complete its elements tell, so that a damaged end behind them is nobody's concern.
fn inflated(packed: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut decoder = DeflateDecoder::new(packed);
    let mut bytes = Vec::new();
    let read = (&mut decoder).take(DEFLATED_START).read_to_end(&mut bytes);
    if read.is_err() || (bytes.len() as u64) < DEFLATED_START {
        return Ok(bytes);
    }
    match Reader::new(&bytes, 0).data_set(EXPLICIT, bytes.len(), 0) {
        Ok(found) if found.has_pixels() => return Ok(bytes),
        Ok(_) | Err(Fault::Truncated) => {}
        Err(fault) => return Err(fault),
    }
    let room = MAX_DEFLATED - DEFLATED_START + 1;
    let _ = decoder.take(room).read_to_end(&mut bytes);
    if bytes.len() as u64 > MAX_DEFLATED {
        return Err(Fault::TooLarge(Limit::Unpacked(MAX_DEFLATED)));
    }
    Ok(bytes)
}

/// Whether there is a meta group or the identifying group right at the start: files from before the
/// preamble. Others that begin with bytes like these are told apart by a sane length.
fn begins_bare(bytes: &[u8]) -> bool {
    let Some(start) = bytes.first_chunk::<8>() else { return false };
    let [group, 0, element, 0, a, b, c, d] = *start else { return false };
    let known = matches!((group, element), (2, 0..=0x16) | (8, 0 | 1 | 5 | 8 | 0x12..=0x18));
    let explicit = a.is_ascii_uppercase() && b.is_ascii_uppercase();
    known && (explicit || u32::from_le_bytes([a, b, c, d]) <= 1024)
}

/// Whether the first element has a VR, a known one or one to come. In its place are the lower bytes
/// of a length otherwise, and no first element is that long.
fn looks_explicit(bytes: &[u8]) -> bool {
    bytes.get(4..6).is_some_and(|vr| vr.iter().all(u8::is_ascii_uppercase))
}

/// What of a VR decides how an element is read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Vr {
    Short,
    /// Two bytes with a sign.
    Signed,
    Long,
    Words,
    Sequence,
    Unknown,
}

fn vr_of(word: [u8; 2]) -> Option<Vr> {
    Some(match &word {
        b"AE" | b"AS" | b"AT" | b"CS" | b"DA" | b"DS" | b"DT" | b"FL" | b"FD" | b"IS" | b"LO"
        | b"LT" | b"PN" | b"SH" | b"SL" | b"ST" | b"TM" | b"UI" | b"UL" | b"US" => Vr::Short,
        b"SS" => Vr::Signed,
        b"OW" => Vr::Words,
        b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"SV" | b"UC" | b"UR" | b"UT" | b"UV" => Vr::Long,
        b"SQ" => Vr::Sequence,
        b"UN" => Vr::Unknown,
        _ => return None,
    })
}

/// Values that are taken along.
fn is_wanted(tag: Tag) -> bool {
    match tag {
        // What kind of object, and the one warning about burned-in text.
        (0x0008, 0x0060) | (0x0028, 0x0301) => true,
        // Where a slice lies, and how far pixels are apart.
        (0x0018, 0x0050 | 0x0088 | 0x1164 | 0x2010)
        | (0x0020, 0x000e | 0x0013 | 0x0032 | 0x0037) => true,
        // What pixels are.
        (0x0028, 0x0002..=0x0011 | 0x0030 | 0x0100..=0x0103 | 0x0120 | 0x0121) => true,
        // What they mean.
        (0x0028, 0x1050..=0x1056 | 0x1101..=0x1103 | 0x1201..=0x1203 | 0x1221..=0x1223) => true,
        (0x0028, 0x3002 | 0x3006) => true,
        (0x7fe0, 0x0001 | 0x0002 | 0x0008 | 0x0009 | 0x0010) => true,
        _ => false,
    }
}

/// Sequences that are looked into.
fn is_wanted_sequence(tag: Tag) -> bool {
    matches!(
        tag,
        // Modality and VOI tables; functional groups and what in them decides pixels.
        (0x0028, 0x3000 | 0x3010 | 0x9110 | 0x9132 | 0x9145)
            | (0x5200, 0x9229 | 0x9230)
            | (0x0020, 0x9113 | 0x9116)
    )
}

/// Without a VR, what a wanted sequence's tag says is believed.
fn is_sequence(vr: Option<Vr>) -> bool {
    vr.is_none_or(|vr| vr == Vr::Sequence)
}

struct Header {
    tag: Tag,
    vr: Option<Vr>,
    length: u32,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Items and fragments that may still be kept.
    room: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, room: MAX_ITEMS }
    }

    fn keep_one(&mut self) -> Result<(), Fault> {
        const TOO_MANY: Fault = Fault::Unsupported("more than a million items or fragments");
        self.room = self.room.checked_sub(1).ok_or(TOO_MANY)?;
        Ok(())
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, length: u32) -> Result<&'a [u8], Fault> {
        let length = usize::try_from(length).map_err(|_| Fault::Truncated)?;
        let value = self.rest().get(..length).ok_or(Fault::Truncated)?;
        self.at += length;
        Ok(value)
    }

    /// The next element's header; `None` at the end, or where this is no header any more.
    fn header(&mut self, encoding: Encoding) -> Option<Header> {
        let big = encoding.big_endian;
        let short =
            |word: [u8; 2]| if big { u16::from_be_bytes(word) } else { u16::from_le_bytes(word) };
        let long =
            |word: [u8; 4]| if big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) };
        let (start, after) = self.rest().split_first_chunk::<8>()?;
        let [g0, g1, e0, e1, a, b, c, d] = *start;
        let tag = (short([g0, g1]), short([e0, e1]));
        // Items and delimiters have no VR in any encoding.
        if !encoding.explicit || tag.0 == 0xfffe {
            self.at += 8;
            return Some(Header { tag, vr: None, length: long([a, b, c, d]) });
        }
        let after = after.first_chunk::<4>().map(|length| long(*length));
        let vr = match vr_of([a, b]) {
            Some(vr) => vr,
            // VRs to come have long lengths (PS3.5 6.2); what others make up has mostly short ones.
            None if a.is_ascii_uppercase() && b.is_ascii_uppercase() => {
                let room = u32::try_from(self.rest().len().saturating_sub(12)).unwrap_or(u32::MAX);
                let long = [c, d] == [0, 0] && after.is_some_and(|length| length <= room);
                if long { Vr::Long } else { Vr::Short }
            }
            None => return None,
        };
        let length = match vr {
            Vr::Short | Vr::Signed => {
                self.at += 8;
                u32::from(short([c, d]))
            }
            Vr::Long | Vr::Words | Vr::Sequence | Vr::Unknown => {
                let length = after?;
                self.at += 12;
                length
            }
        };
        Some(Header { tag, vr: Some(vr), length })
    }

    /// Elements up to `end`, or to the end of an item.
    fn data_set(
        &mut self,
        encoding: Encoding,
        end: usize,
        depth: usize,
    ) -> Result<Elements<'a>, Fault> {
        let mut found = Elements { big_endian: encoding.big_endian, ..Elements::default() };
        while self.at < end {
            match self.element(encoding, depth, &mut found) {
                Ok(true) => {}
                Ok(false) => break,
                // At the outermost level what follows the pixels is nobody's concern.
                Err(_) if depth == 0 && found.has_pixels() => break,
                Err(fault) => return Err(fault),
            }
        }
        Ok(found)
    }

    /// One element; false at the end of an item, and behind compressed pixels.
    fn element(
        &mut self,
        encoding: Encoding,
        depth: usize,
        found: &mut Elements<'a>,
    ) -> Result<bool, Fault> {
        let Some(Header { tag, vr, length }) = self.header(encoding) else {
            return Err(broken(self));
        };
        let wanted = is_wanted_sequence(tag);
        match tag {
            ITEM_END | SEQUENCE_END if depth > 0 => return Ok(false),
            // Stray items are stepped over as if they were elements.
            ITEM | ITEM_END | SEQUENCE_END => {
                if length != UNDEFINED {
                    self.take(length)?;
                }
            }
            PIXELS if length == UNDEFINED => {
                let (fragments, ended) = self.fragments(encoding)?;
                (found.fragments, found.ended) = (Some(fragments), ended);
                return Ok(depth > 0);
            }
            _ if length == UNDEFINED || (wanted && is_sequence(vr)) => {
                // An unknown value of undefined length is implicit inside (PS3.5 6.2.2).
                let inside = if vr == Some(Vr::Unknown) { IMPLICIT } else { encoding };
                let items = self.items(inside, length, depth + 1, wanted)?;
                if wanted {
                    found.sequences.insert(tag, items);
                }
            }
            _ if wanted && vr == Some(Vr::Unknown) => {
                // So is one that was written without a dictionary; or it is no sequence after all.
                let mut inside = Reader { bytes: self.take(length)?, at: 0, room: self.room };
                if let Ok(items) = inside.items(IMPLICIT, length, depth + 1, true) {
                    found.sequences.insert(tag, items);
                }
                self.room = inside.room;
            }
            _ => {
                let value = self.take(length)?;
                if is_wanted(tag) {
                    found.in_words |= tag == PIXELS && vr == Some(Vr::Words);
                    found.values.insert(tag, (vr, value));
                }
            }
        }
        Ok(true)
    }

    fn items(
        &mut self,
        encoding: Encoding,
        length: u32,
        depth: usize,
        wanted: bool,
    ) -> Result<Vec<Elements<'a>>, Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::Unreadable("its sequences nest too deep"));
        }
        let end = self.ends(length)?;
        let mut items = Vec::new();
        while self.at < end {
            let Some(Header { tag, length, .. }) = self.header(encoding) else {
                return Err(broken(self));
            };
            match tag {
                ITEM => {
                    let end = self.ends(length)?;
                    let item = self.data_set(self.as_it_looks(encoding), end, depth)?;
                    if wanted {
                        self.keep_one()?;
                        items.push(item);
                    }
                }
                SEQUENCE_END => return Ok(items),
                _ => return Err(Fault::Unreadable("broken DICOM structure")),
            }
        }
        Ok(items)
    }

    /// The encoding of an item: some writers put one encoding into the other, and its first element
    /// tells.
    fn as_it_looks(&self, encoding: Encoding) -> Encoding {
        match *self.rest() {
            [0xfe, 0xff, ..] => encoding,
            [_, _, _, _, a, b, ..] if !encoding.big_endian => {
                let explicit = if encoding.explicit {
                    a.is_ascii_uppercase() && b.is_ascii_uppercase()
                } else {
                    vr_of([a, b]).is_some()
                };
                Encoding { explicit, ..encoding }
            }
            _ => encoding,
        }
    }

    /// Where a value of this length ends; the end of the file when a delimiter says so.
    fn ends(&self, length: u32) -> Result<usize, Fault> {
        if length == UNDEFINED {
            return Ok(self.bytes.len());
        }
        usize::try_from(length)
            .ok()
            .and_then(|length| self.at.checked_add(length))
            .filter(|end| *end <= self.bytes.len())
            .ok_or(Fault::Truncated)
    }

    /// The fragments, and whether their end is marked.
    fn fragments(&mut self, encoding: Encoding) -> Result<(Vec<&'a [u8]>, bool), Fault> {
        let mut fragments = Vec::new();
        while let Some(Header { tag, length, .. }) = self.header(encoding) {
            match tag {
                ITEM => {
                    self.keep_one()?;
                    fragments.push(self.take(length)?);
                }
                // Some files lack the end; what is there counts.
                _ => return Ok((fragments, tag == SEQUENCE_END)),
            }
        }
        Ok((fragments, false))
    }
}

fn broken(reader: &Reader<'_>) -> Fault {
    if reader.rest().len() < 12 {
        Fault::Truncated
    } else {
        Fault::Unreadable("broken DICOM structure")
    }
}

impl<'a> Elements<'a> {
    fn has_pixels(&self) -> bool {
        self.fragments.is_some()
            || [PIXELS, FLOAT_PIXELS, DOUBLE_PIXELS].iter().any(|tag| self.values.contains_key(tag))
    }

    pub(super) fn value(&self, tag: Tag) -> Option<&'a [u8]> {
        self.values.get(&tag).map(|(_, value)| *value)
    }

    /// Whether the value has a VR, and that of numbers of two bytes with a sign.
    pub(super) fn is_signed(&self, tag: Tag) -> bool {
        self.values.get(&tag).is_some_and(|(vr, _)| *vr == Some(Vr::Signed))
    }

    /// Whether the value has a VR.
    pub(super) fn has_vr(&self, tag: Tag) -> bool {
        self.values.get(&tag).is_some_and(|(vr, _)| vr.is_some())
    }

    pub(super) fn items(&self, tag: Tag) -> &[Self] {
        self.sequences.get(&tag).map_or(&[], Vec::as_slice)
    }

    /// 16-bit words.
    pub(super) fn words(&self, tag: Tag) -> Option<Vec<u16>> {
        let (words, _) = self.value(tag)?.as_chunks::<2>();
        let word = |word: &[u8; 2]| {
            if self.big_endian { u16::from_be_bytes(*word) } else { u16::from_le_bytes(*word) }
        };
        Some(words.iter().map(word).collect())
    }

    pub(super) fn word(&self, tag: Tag) -> Option<u16> {
        let word = *self.value(tag)?.first_chunk::<2>()?;
        Some(if self.big_endian { u16::from_be_bytes(word) } else { u16::from_le_bytes(word) })
    }

    /// Text without padding.
    pub(super) fn text(&self, tag: Tag) -> Option<&'a str> {
        let text = std::str::from_utf8(self.value(tag)?).ok()?;
        Some(text.trim_matches(|c: char| c == '\0' || c.is_ascii_whitespace()))
    }

    /// The numbers of a decimal string; those that are none, or not finite, are left out.
    pub(super) fn decimals(&self, tag: Tag) -> Vec<f64> {
        let words = self.text(tag).unwrap_or_default().split('\\');
        let numbers = words.filter_map(|word| word.trim().parse::<f64>().ok());
        numbers.filter(|number| number.is_finite()).collect()
    }

    pub(super) fn decimal(&self, tag: Tag) -> Option<f64> {
        self.decimals(tag).first().copied()
    }

    pub(super) fn is_big_endian(&self) -> bool {
        self.big_endian
    }
}

#[cfg(test)]
mod tests;
