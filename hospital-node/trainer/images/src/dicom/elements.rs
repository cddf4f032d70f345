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

use crate::Fault;

/// Sequences within sequences; real files stay below ten.
const MAX_DEPTH: usize = 64;
/// A length that is given by a delimiter instead.
const UNDEFINED: u32 = u32::MAX;
/// Items of one sequence that are looked at: one for each frame of a large file.
const MAX_ITEMS: usize = 1 << 20;

/// Bytes of a deflated data set that are inflated before it is looked at again.
const DEFLATED_STEPS: [u64; 3] = [1 << 20, 16 << 20, 256 << 20];

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
    values: BTreeMap<Tag, &'a [u8]>,
    sequences: BTreeMap<Tag, Vec<Self>>,
    big_endian: bool,
    /// Whether native pixels are written in words of 16 bits.
    pub(super) in_words: bool,
    /// Compressed pixels, fragment by fragment, the offset table first.
    pub(super) fragments: Option<Vec<&'a [u8]>>,
}

impl<'a> File<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, Fault> {
        if bytes.is_empty() {
            return Err(Fault::NotAnImage("the file is empty"));
        }
        let start = if bytes.get(128..132) == Some(b"DICM") {
            132
        } else if bytes.starts_with(b"DICM") {
            4
        } else if begins_bare(bytes) {
            0
        } else {
            return Err(Fault::NotAnImage("it does not begin like a DICOM file"));
        };
        let explicit = Encoding { explicit: true, big_endian: false };
        let mut reader = Reader { bytes, at: start };
        let mut syntax = Cow::Borrowed("");
        while reader.rest().starts_with(&[2, 0]) {
            let Some(header) = reader.header(explicit) else { break };
            let value = reader.take(header.length)?;
            if header.tag == (2, 0x10) {
                let value = value.trim_ascii_end();
                let value = value.strip_suffix(b"\0").unwrap_or(value);
                syntax = String::from_utf8_lossy(value);
            }
        }
        let rest = &bytes[reader.at..];
        let encoding = match &*syntax {
            // Without a word on it, the default of the standard, unless it looks otherwise.
            "" => Encoding { explicit: looks_explicit(rest), big_endian: false },
            "1.2.840.10008.1.2" => Encoding { explicit: looks_explicit(rest), big_endian: false },
            "1.2.840.10008.1.2.2" => Encoding { explicit: true, big_endian: true },
            _ => explicit,
        };
        let deflated = matches!(&*syntax, "1.2.840.10008.1.2.1.99");
        let body =
            if deflated { Cow::Owned(inflated(rest, encoding)?) } else { Cow::Borrowed(rest) };
        Ok(Self { syntax, encoding, body })
    }

    pub(super) fn elements(&self) -> Result<Elements<'_>, Fault> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        reader.data_set(self.encoding, self.body.len(), 0)
    }
}

/// A deflated data set, as far as it can be read as one: what does not begin like elements is not
/// inflated to its end.
fn inflated(packed: &[u8], encoding: Encoding) -> Result<Vec<u8>, Fault> {
    let mut decoder = DeflateDecoder::new(packed);
    let mut bytes = Vec::new();
    for step in DEFLATED_STEPS {
        let room = step - bytes.len() as u64;
        let read = (&mut decoder).take(room).read_to_end(&mut bytes);
        let ended = (bytes.len() as u64) < step;
        let parsed = Reader { bytes: &bytes, at: 0 }.data_set(encoding, bytes.len(), 0);
        match (parsed.err(), read) {
            (Some(Fault::Truncated), Ok(_)) if !ended => {}
            (Some(fault), _) => return Err(fault),
            // Complete elements before a damaged end are good enough.
            (None, _) => return Ok(bytes),
        }
    }
    Err(Fault::TooLarge)
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

/// Some writers announce implicit VR and write explicit. The first element tells.
fn looks_explicit(bytes: &[u8]) -> bool {
    bytes.get(4..6).is_some_and(|vr| vr_of([vr[0], vr[1]]).is_some())
}

/// How a VR's length is written.
#[derive(Clone, Copy, PartialEq)]
enum Vr {
    Short,
    Long,
    Words,
    Sequence,
    Unknown,
}

fn vr_of(word: [u8; 2]) -> Option<Vr> {
    Some(match &word {
        b"AE" | b"AS" | b"AT" | b"CS" | b"DA" | b"DS" | b"DT" | b"FL" | b"FD" | b"IS" | b"LO"
        | b"LT" | b"PN" | b"SH" | b"SL" | b"SS" | b"ST" | b"TM" | b"UI" | b"UL" | b"US" => {
            Vr::Short
        }
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
        // Where a slice lies.
        (0x0018, 0x0050 | 0x0088) | (0x0020, 0x000e | 0x0013 | 0x0032 | 0x0037) => true,
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
}

impl<'a> Reader<'a> {
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
        let vr = vr_of([a, b])?;
        let length = match vr {
            Vr::Short => {
                self.at += 8;
                u32::from(short([c, d]))
            }
            Vr::Long | Vr::Words | Vr::Sequence | Vr::Unknown => {
                let (length, _) = after.split_first_chunk::<4>()?;
                self.at += 12;
                long(*length)
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
            let Some(Header { tag, vr, length }) = self.header(encoding) else {
                // At the outermost level what follows the pixels is nobody's concern.
                return if depth == 0 && found.has_pixels() {
                    Ok(found)
                } else {
                    Err(broken(self))
                };
            };
            match tag {
                ITEM_END | SEQUENCE_END if depth > 0 => return Ok(found),
                // Stray items are stepped over as if they were elements.
                ITEM | ITEM_END | SEQUENCE_END => {
                    if length != UNDEFINED {
                        self.take(length)?;
                    }
                }
                PIXELS if length == UNDEFINED => {
                    found.fragments = Some(self.fragments(encoding)?);
                    if depth == 0 {
                        return Ok(found);
                    }
                }
                _ if length == UNDEFINED || (is_wanted_sequence(tag) && is_sequence(vr)) => {
                    // An unknown value of undefined length is implicit inside (PS3.5 6.2.2).
                    let inside = if vr == Some(Vr::Unknown) {
                        Encoding { explicit: false, big_endian: false }
                    } else {
                        encoding
                    };
                    let wanted = is_wanted_sequence(tag);
                    let items = self.items(inside, length, depth + 1, wanted)?;
                    if wanted {
                        found.sequences.insert(tag, items);
                    }
                }
                _ => {
                    let value = self.take(length)?;
                    if is_wanted(tag) {
                        found.in_words |= tag == PIXELS && vr == Some(Vr::Words);
                        found.values.insert(tag, value);
                    }
                }
            }
        }
        Ok(found)
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
            if items.len() == MAX_ITEMS {
                return Err(Fault::TooLarge);
            }
            let Some(Header { tag, length, .. }) = self.header(encoding) else {
                return Err(broken(self));
            };
            match tag {
                ITEM => {
                    let end = self.ends(length)?;
                    let item = self.data_set(encoding, end, depth)?;
                    if wanted {
                        items.push(item);
                    }
                }
                SEQUENCE_END => return Ok(items),
                _ => return Err(Fault::Unreadable("broken DICOM structure")),
            }
        }
        Ok(items)
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

    fn fragments(&mut self, encoding: Encoding) -> Result<Vec<&'a [u8]>, Fault> {
        let mut fragments = Vec::new();
        while let Some(Header { tag, length, .. }) = self.header(encoding) {
            match tag {
                ITEM => fragments.push(self.take(length)?),
                // Some files lack the end; what is there counts.
                _ => break,
            }
        }
        Ok(fragments)
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
        self.values.get(&tag).copied()
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
