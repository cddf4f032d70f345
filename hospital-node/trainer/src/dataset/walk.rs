//! A walk over the element headers of a DICOM file before the real reader sees it.
//!
//! The reader sets memory aside for as many bytes as a header claims, up to 4 GiB, and calls itself
//! once for every level of nested sequences. So nothing goes to it that claims more bytes than the
//! file has, or that nests deeper than any real file does. What is wrong in other ways is left for
//! the reader to find.

use dicom_core::VR;
use dicom_core::dictionary::{DataDictionary as _, DataDictionaryEntry as _};
use dicom_core::header::Tag;
use dicom_dictionary_std::{StandardDataDictionary, tags, uids};

use super::Fault;

/// Sequences within sequences; real files stay below ten.
const MAX_DEPTH: usize = 64;
/// An item of a sequence, or a fragment of compressed pixels.
const ITEM: Tag = Tag(0xFFFE, 0xE000);
/// The end of an item of undefined length.
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
/// The end of a sequence of undefined length.
const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);
/// A length that is given by a delimiter instead.
const UNDEFINED: u32 = u32::MAX;

/// Checks the lengths of a file whose first element is at `start`.
///
/// # Errors
/// [`Fault::Truncated`] for a length that goes past the end, [`Fault::Unreadable`] for sequences
/// that nest too deep.
pub(super) fn check(bytes: &[u8], start: usize) -> Result<(), Fault> {
    let mut walk = Walk { bytes, at: start, open: Vec::new(), fragments: false };
    let Some(encoding) = walk.meta()? else { return Ok(()) };
    walk.data_set(encoding)
}

#[derive(Clone, Copy, PartialEq)]
enum Encoding {
    Implicit,
    Explicit,
    BigEndian,
}

/// A sequence that the walk is inside of.
struct Level {
    /// The encoding to go back to.
    outside: Encoding,
    /// Where it ends, unless a delimiter says so.
    end: Option<usize>,
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    open: Vec<Level>,
    fragments: bool,
}

struct Header {
    tag: Tag,
    vr: Option<VR>,
    length: u32,
}

impl Walk<'_> {
    /// Goes along the file's meta group; the encoding of what follows, where it can be walked.
    fn meta(&mut self) -> Result<Option<Encoding>, Fault> {
        let mut encoding = Some(Encoding::Implicit);
        while self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(&[2, 0])) {
            let Some(Header { tag, length, .. }) = self.header(Encoding::Explicit) else { break };
            let value = self.skip(length)?;
            if tag == tags::TRANSFER_SYNTAX_UID {
                let uid =
                    value.trim_ascii_end().strip_suffix(b"\0").unwrap_or(value.trim_ascii_end());
                encoding = if uid == uids::IMPLICIT_VR_LITTLE_ENDIAN.as_bytes() {
                    Some(Encoding::Implicit)
                } else if uid == b"1.2.840.10008.1.2.2" {
                    Some(Encoding::BigEndian)
                } else if uid == uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN.as_bytes() {
                    None
                } else {
                    Some(Encoding::Explicit)
                };
            }
        }
        Ok(encoding)
    }

    fn data_set(&mut self, mut encoding: Encoding) -> Result<(), Fault> {
        loop {
            while let Some(Level { outside, .. }) =
                self.open.pop_if(|level| level.end.is_some_and(|end| self.at >= end))
            {
                encoding = outside;
            }
            let Some(Header { tag, vr, length }) = self.header(encoding) else { return Ok(()) };
            match tag {
                ITEM if self.fragments => {
                    self.skip(length)?;
                }
                ITEM if length == UNDEFINED => {}
                ITEM => self.fits(length).map(drop)?,
                ITEM_END => {}
                SEQUENCE_END if self.fragments => self.fragments = false,
                SEQUENCE_END => match self.open.pop() {
                    Some(Level { outside, .. }) => encoding = outside,
                    None => return Ok(()),
                },
                tags::PIXEL_DATA if length == UNDEFINED => self.fragments = true,
                _ if length == UNDEFINED => {
                    self.enter(Level { outside: encoding, end: None })?;
                    // An unknown value of undefined length is implicit inside (PS3.5 6.2.2).
                    if vr == Some(VR::UN) {
                        encoding = Encoding::Implicit;
                    }
                }
                _ if vr == Some(VR::SQ) => {
                    let end = self.fits(length)?;
                    self.enter(Level { outside: encoding, end: Some(end) })?;
                }
                _ => {
                    self.skip(length)?;
                }
            }
        }
    }

    fn enter(&mut self, level: Level) -> Result<(), Fault> {
        if self.open.len() == MAX_DEPTH {
            return Err(Fault::Unreadable("its sequences nest too deep"));
        }
        self.open.push(level);
        Ok(())
    }

    /// Where a value of this length ends, when the file goes that far.
    fn fits(&self, length: u32) -> Result<usize, Fault> {
        usize::try_from(length)
            .ok()
            .and_then(|length| self.at.checked_add(length))
            .filter(|end| *end <= self.bytes.len())
            .ok_or(Fault::Truncated)
    }

    fn skip(&mut self, length: u32) -> Result<&[u8], Fault> {
        let end = self.fits(length)?;
        let value = &self.bytes[self.at..end];
        self.at = end;
        Ok(value)
    }

    /// The next element's header; `None` at the end, or where this is no header any more.
    fn header(&mut self, encoding: Encoding) -> Option<Header> {
        let big = encoding == Encoding::BigEndian;
        let short = |bytes: [u8; 2]| {
            if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
        };
        let long = |bytes: [u8; 4]| {
            if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
        };
        let rest = self.bytes.get(self.at..)?;
        let (group, rest) = rest.split_first_chunk::<2>()?;
        let (element, rest) = rest.split_first_chunk::<2>()?;
        let (word, after) = rest.split_first_chunk::<4>()?;
        let tag = Tag(short(*group), short(*element));
        // Items and delimiters have no VR in any encoding.
        if encoding == Encoding::Implicit || tag.group() == 0xFFFE {
            self.at += 8;
            let vr = StandardDataDictionary.by_tag(tag).and_then(|entry| entry.vr().exact());
            return Some(Header { tag, vr, length: long(*word) });
        }
        let vr = VR::from_binary([word[0], word[1]])?;
        let length = match vr {
            VR::OB
            | VR::OD
            | VR::OF
            | VR::OL
            | VR::OV
            | VR::OW
            | VR::SQ
            | VR::SV
            | VR::UC
            | VR::UN
            | VR::UR
            | VR::UT
            | VR::UV => {
                let (length, _) = after.split_first_chunk::<4>()?;
                self.at += 12;
                long(*length)
            }
            VR::AE
            | VR::AS
            | VR::AT
            | VR::CS
            | VR::DA
            | VR::DS
            | VR::DT
            | VR::FL
            | VR::FD
            | VR::IS
            | VR::LO
            | VR::LT
            | VR::PN
            | VR::SH
            | VR::SL
            | VR::SS
            | VR::ST
            | VR::TM
            | VR::UI
            | VR::UL
            | VR::US => {
                self.at += 8;
                u32::from(short([word[2], word[3]]))
            }
        };
        Some(Header { tag, vr: Some(vr), length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A meta group that says explicit VR little endian, then these bytes.
    fn file(data_set: &[u8]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0x10, 0, b'U', b'I', 20, 0];
        bytes.extend_from_slice(b"1.2.840.10008.1.2.1\0");
        bytes.extend_from_slice(data_set);
        bytes
    }

    #[test]
    fn a_length_beyond_the_end_is_found_wherever_it_is() {
        let plain = [0x28, 0, 0x10, 0, b'U', b'S', 2, 0, 4, 0];
        assert_eq!(check(&file(&plain), 0), Ok(()));
        let huge = [0xE0, 0x7F, 0x10, 0, b'O', b'W', 0, 0, 0xFE, 0xFF, 0xFF, 0xFF, 1, 2];
        assert_eq!(check(&file(&huge), 0), Err(Fault::Truncated));
        // The same in an item of a sequence of undefined length.
        let mut nested = vec![8, 0, 0x40, 0x11, b'S', b'Q', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF];
        nested.extend([0xFE, 0xFF, 0, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF]);
        nested.extend(huge);
        assert_eq!(check(&file(&nested), 0), Err(Fault::Truncated));
        // A fragment of compressed pixels.
        let mut fragment = vec![0xE0, 0x7F, 0x10, 0, b'O', b'B', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF];
        fragment.extend([0xFE, 0xFF, 0, 0xE0, 0xFF, 0xFF, 0xFF, 0x7F]);
        assert_eq!(check(&file(&fragment), 0), Err(Fault::Truncated));
    }

    #[test]
    fn sequences_that_nest_without_end_are_refused() {
        let level = [
            8, 0, 0x40, 0x11, b'S', b'Q', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, 0xFF, 0, 0xE0, 0xFF,
            0xFF, 0xFF, 0xFF,
        ];
        assert_eq!(check(&file(&level.repeat(10)), 0), Ok(()));
        assert!(matches!(check(&file(&level.repeat(100_000)), 0), Err(Fault::Unreadable(_))));
    }

    #[test]
    fn any_bytes_at_all_come_to_an_end() {
        let mut random = crate::random::Random::new("walk", &[]);
        for _ in 0..2000 {
            let noise: Vec<u8> = (0..200).map(|_| random.bits().to_le_bytes()[0] & 0x7F).collect();
            // Whatever it says, it says it without a panic.
            let _ = check(&file(&noise), 0);
        }
    }
}
