//! One instance, from the archive to a file without its identity, in one pass and in little memory:
//! what is not on the allow-list is dropped before anything touches the disk, pixel data go through
//! as they were sent.
//!
//! What comes from the archive is not trusted. A length is compared with what holds it and with what
//! is taken at most; no memory is set aside for it, values are copied in small pieces. The elements'
//! encoding stays what it was; only a deflated data set is written inflated, as explicit VR little
//! endian.

mod classes;
mod stream;

use std::io::{self, BufReader, Cursor, Read, Write};

use flate2::read::DeflateDecoder;

use crate::charset;
use crate::fault::Fault;
use crate::keep::{Keep, Rule, Tag};
use crate::names::Names;
use classes::{Kind, is_well_known};
pub use stream::is_uid;
use stream::{Encoding, Header, Stream, UNDEFINED};

/// Bytes of one instance that are taken, as many as the trainer's reader takes.
pub const MOST: u64 = 2 << 30;
/// Bytes of a value that is read to be replaced.
const MOST_TEXT: u32 = 1 << 10;
/// Sequences within sequences; real files stay below ten.
const MAX_DEPTH: usize = 64;

const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
const IMPLICIT: &str = "1.2.840.10008.1.2";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
/// Who wrote these files: a UUID of ours under the arc for UUIDs.
pub(crate) const IMPLEMENTATION: &str = "2.25.329411530164427590246203178650311927114";

const CHARACTER_SET: Tag = (0x0008, 0x0005);
const CLASS: Tag = (0x0008, 0x0016);
const INSTANCE: Tag = (0x0008, 0x0018);
const MODALITY: Tag = (0x0008, 0x0060);
const PATIENT: Tag = (0x0010, 0x0020);
const ISSUER: Tag = (0x0010, 0x0021);
const STUDY: Tag = (0x0020, 0x000d);
const SERIES: Tag = (0x0020, 0x000e);
const PIXELS: [Tag; 3] = [(0x7fe0, 0x0008), (0x7fe0, 0x0009), (0x7fe0, 0x0010)];
const ITEM: Tag = (0xfffe, 0xe000);
const ITEM_END: Tag = (0xfffe, 0xe00d);
const SEQUENCE_END: Tag = (0xfffe, 0xe0dd);

/// How an instance arrives.
#[derive(Clone, Copy, Debug)]
pub enum Form<'a> {
    /// As a file, with its preamble.
    File,
    /// As a bare data set.
    DataSet {
        /// The transfer syntax of the presentation context that it came in.
        syntax: &'a str,
        /// Its SOP class.
        class: &'a str,
    },
}

/// What was asked for; anything else is refused.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The study's UID.
    pub study: &'a str,
    /// The series' UID.
    pub series: &'a str,
    /// The instance's UID.
    pub instance: &'a str,
}

/// How it is sieved.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// What is kept.
    pub keep: &'a Keep,
    /// What names become.
    pub names: &'a Names,
    /// What was asked for.
    pub asked: Asked<'a>,
    /// Whether this patient was asked for; the identifier goes nowhere else.
    pub patient: &'a dyn Fn(&str) -> bool,
    /// Bytes that are taken at most.
    pub most: u64,
}

impl std::fmt::Debug for Rules<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("keep", self.keep).finish_non_exhaustive()
    }
}

/// What is known of an instance that went through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sieved {
    /// The patient's pseudonym.
    pub patient: String,
    /// The patient's identifier, in memory only: the list of patients may have a label for it.
    pub patient_id: String,
    /// The modality, one of the standard's codes or empty.
    pub modality: String,
}

/// Reads one instance and writes it without its identity.
///
/// # Errors
/// Why it is not taken; what was written so far is of no use then.
pub fn sieve(
    from: &mut dyn Read,
    form: Form<'_>,
    to: &mut dyn Write,
    rules: &Rules<'_>,
) -> Result<Sieved, Fault> {
    let mut from = BufReader::with_capacity(64 << 10, from);
    let (syntax, class, ahead) = match form {
        Form::File => stream::file_meta(&mut from)?,
        Form::DataSet { syntax, class } => (syntax.to_owned(), class.to_owned(), Vec::new()),
    };
    let from = Cursor::new(ahead).chain(from);
    let deflated = syntax == DEFLATED;
    let mut body: Box<dyn Read + '_> =
        if deflated { Box::new(Inflated(DeflateDecoder::new(from))) } else { Box::new(from) };
    let mut first = Vec::new();
    body.by_ref().take(8).read_to_end(&mut first).map_err(Fault::reading)?;
    // Some writers announce implicit VR and write explicit. The first element tells.
    let explicit = syntax != IMPLICIT || stream::looks_explicit(&first);
    let encoding = Encoding { explicit, big_endian: syntax == BIG_ENDIAN };
    let written = if deflated || (explicit && syntax == IMPLICIT) { EXPLICIT } else { &syntax };
    write_meta(to, written, &class, &rules.names.uid(rules.asked.instance))
        .map_err(|error| Fault::writing(&error))?;
    let stream = Stream::new(BufReader::new(Cursor::new(first).chain(body)), rules.most);
    let seen = Seen { class, ..Seen::default() };
    let mut sieve = Sieve { from: stream, to, rules, seen, owed: false };
    sieve.data_set(encoding, None, 0)?;
    sieve.seen.judge(rules)
}

/// A deflated data set, whose damage is the object's fault and not the connection's.
struct Inflated<R>(DeflateDecoder<R>);

impl<R: io::BufRead> Read for Inflated<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(|error| {
            // So says the decoder; what it reads from has other words.
            if error.kind() == io::ErrorKind::InvalidInput {
                return Fault::Header("its deflated data set is damaged").into();
            }
            error
        })
    }
}

/// The preamble and the meta group (PS3.10 7.1); nothing of the archive's own.
fn write_meta(to: &mut dyn Write, syntax: &str, class: &str, instance: &str) -> io::Result<()> {
    let encoding = Encoding { explicit: true, big_endian: false };
    let mut group = vec![2, 0, 1, 0, b'O', b'B', 0, 0, 2, 0, 0, 0, 0, 1];
    for (element, value) in [(2, class), (3, instance), (0x10, syntax), (0x12, IMPLEMENTATION)] {
        // A class that is not known is left out.
        if !value.is_empty() {
            stream::write_text(&mut group, encoding, (2, element), *b"UI", value)?;
        }
    }
    to.write_all(&[0; 128])?;
    to.write_all(b"DICM")?;
    to.write_all(&[2, 0, 0, 0, b'U', b'L', 4, 0])?;
    let length = u32::try_from(group.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&group)
}

/// The values by which an instance is known.
#[derive(Default)]
struct Seen {
    /// As it was told beside the data set, until it is found in it.
    class: String,
    character_set: Vec<u8>,
    patient: Option<Vec<u8>>,
    issuer: Vec<u8>,
    modality: String,
    study: Option<String>,
    series: Option<String>,
    instance: Option<String>,
    pixels: bool,
}

impl Seen {
    /// Text in the instance's character set.
    fn text(&self, bytes: &[u8]) -> Result<String, Fault> {
        charset::text(&self.character_set, bytes)
            .ok_or(Fault::Header("its patient's identifier is not written in its character set"))
    }

    fn patient(&self) -> Result<(String, String), Fault> {
        let patient = self.text(self.patient.as_deref().unwrap_or_default())?;
        if patient.is_empty() {
            return Err(Fault::NoPatient);
        }
        Ok((patient, self.text(&self.issuer)?))
    }

    /// Whether it is what was asked for comes first: nothing that another object lacks says anything
    /// about this one.
    fn judge(self, rules: &Rules<'_>) -> Result<Sieved, Fault> {
        let Asked { study, series, instance } = rules.asked;
        for (seen, asked, what) in [
            (&self.instance, instance, "instance"),
            (&self.series, series, "series"),
            (&self.study, study, "study"),
        ] {
            if seen.as_deref() != Some(asked) {
                return Err(Fault::Another(what));
            }
        }
        if !self.pixels {
            return Err(match Kind::of(&self.class) {
                Kind::Image => Fault::NoPixels,
                Kind::Other => Fault::NotAnImage { standard: true },
                Kind::Makers => Fault::NotAnImage { standard: false },
            });
        }
        let (patient_id, issuer) = self.patient()?;
        if !(rules.patient)(&patient_id) {
            return Err(Fault::Another("patient"));
        }
        let patient = rules.names.patient(&patient_id, &issuer);
        Ok(Sieved { patient, patient_id, modality: self.modality })
    }
}

struct Sieve<'a, R> {
    from: Stream<R>,
    to: &'a mut dyn Write,
    rules: &'a Rules<'a>,
    seen: Seen,
    /// The patient's identifier was read, and the pseudonym is not written yet: it depends on the
    /// issuer, which comes next.
    owed: bool,
}

impl<R: Read> Sieve<'_, R> {
    /// Elements up to `end`, or to the end of an item; at the outermost level up to the pixels.
    fn data_set(&mut self, how: Encoding, end: Option<u64>, depth: usize) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::Header("its sequences nest too deep"));
        }
        loop {
            let header = self.from.header(how, end)?;
            if depth == 0 && header.as_ref().is_none_or(|header| header.tag > ISSUER) {
                self.pay(how)?;
            }
            let Some(header) = header else {
                return if depth > 0 && end.is_none() { Err(Fault::Cut) } else { Ok(()) };
            };
            let Header { tag, length, .. } = header;
            if depth == 0 && PIXELS.contains(&tag) {
                self.pixels(how, header)?;
                if self.seen.pixels {
                    return Ok(());
                }
                continue;
            }
            match tag {
                ITEM_END if depth > 0 => return Ok(()),
                ITEM | ITEM_END | SEQUENCE_END if length == UNDEFINED => {
                    return Err(Fault::Header("an item where none can be"));
                }
                // Stray items are stepped over as if they were elements.
                ITEM | ITEM_END | SEQUENCE_END => self.from.skip(length)?,
                PATIENT | ISSUER if depth == 0 => self.identity(tag, length)?,
                _ => match self.rules.keep.rule(tag).filter(|rule| fits(*rule, header)) {
                    Some(Rule::Sequence) => self.sequence(how, header, depth)?,
                    Some(Rule::Uids) => self.uids(how, header, depth)?,
                    Some(Rule::Copy) => self.value(how, header, depth)?,
                    None if length == UNDEFINED => {
                        self.from.skip_items(within(how, header), None, depth + 1)?;
                    }
                    None => self.from.skip(length)?,
                },
            }
        }
    }

    fn identity(&mut self, tag: Tag, length: u32) -> Result<(), Fault> {
        let value = self.from.value(length, MOST_TEXT)?;
        if tag == ISSUER {
            self.seen.issuer = value;
            return Ok(());
        }
        if self.seen.patient.replace(value).is_some() {
            return Err(Fault::Header("it names two patients"));
        }
        self.owed = true;
        Ok(())
    }

    /// Writes the patient's pseudonym in the identifier's place.
    fn pay(&mut self, how: Encoding) -> Result<(), Fault> {
        if !std::mem::take(&mut self.owed) {
            return Ok(());
        }
        let (patient, issuer) = self.seen.patient()?;
        let pseudonym = self.rules.names.patient(&patient, &issuer);
        stream::write_text(&mut self.to, how, PATIENT, *b"LO", &pseudonym)
            .map_err(|error| Fault::writing(&error))
    }

    fn uids(&mut self, how: Encoding, header: Header, depth: usize) -> Result<(), Fault> {
        if depth > 0 && header.length > MOST_TEXT {
            return self.from.skip(header.length);
        }
        let value = self.from.value(header.length, MOST_TEXT)?;
        let text = String::from_utf8_lossy(&value);
        let text = text.trim_matches(|c: char| c == '\0' || c.is_ascii_whitespace());
        if depth == 0 {
            match header.tag {
                STUDY => self.seen.study = Some(text.to_owned()),
                SERIES => self.seen.series = Some(text.to_owned()),
                INSTANCE => self.seen.instance = Some(text.to_owned()),
                _ => {}
            }
        }
        // What an object, a series or a study is called is nobody's but theirs, however it begins.
        let names_it = [INSTANCE, SERIES, STUDY].contains(&header.tag);
        let renamed = |uid: &str| match uid.trim() {
            "" => String::new(),
            uid if !names_it && is_well_known(uid) => uid.to_owned(),
            uid => self.rules.names.uid(uid),
        };
        let renamed: Vec<String> = text.split('\\').map(renamed).collect();
        let vr = header.vr.unwrap_or(*b"UI");
        stream::write_text(&mut self.to, how, header.tag, vr, &renamed.join("\\"))
            .map_err(|error| Fault::writing(&error))
    }

    fn value(&mut self, how: Encoding, header: Header, depth: usize) -> Result<(), Fault> {
        let writing = |error: io::Error| Fault::writing(&error);
        stream::write_header(&mut self.to, how, header).map_err(writing)?;
        if depth > 0 || ![CHARACTER_SET, CLASS, MODALITY].contains(&header.tag) {
            return self.from.copy(header.length, &mut self.to);
        }
        let value = self.from.value(header.length, MOST_TEXT)?;
        self.to.write_all(&value).map_err(writing)?;
        let text = value.trim_ascii();
        match header.tag {
            MODALITY if text.len() <= 16 && text.iter().all(u8::is_ascii_alphanumeric) => {
                self.seen.modality = String::from_utf8_lossy(text).into_owned();
            }
            CHARACTER_SET => self.seen.character_set = value,
            CLASS => {
                let text = String::from_utf8_lossy(&value);
                text.trim_matches([' ', '\0']).clone_into(&mut self.seen.class);
            }
            _ => {}
        }
        Ok(())
    }

    fn sequence(&mut self, how: Encoding, header: Header, depth: usize) -> Result<(), Fault> {
        let writing = |error: io::Error| Fault::writing(&error);
        let within = within(how, header);
        let end = self.from.end_of(header.length);
        // What is dropped makes items shorter: their ends are marked instead of counted.
        let open = Header { length: UNDEFINED, ..header };
        stream::write_header(&mut self.to, how, open).map_err(writing)?;
        loop {
            let Some(Header { tag, length, .. }) = self.from.header(within, end)? else {
                if end.is_none() {
                    return Err(Fault::Cut);
                }
                break;
            };
            match tag {
                ITEM => {
                    let mark = Header { tag: ITEM, vr: None, length: UNDEFINED };
                    stream::write_header(&mut self.to, within, mark).map_err(writing)?;
                    let item_end = self.from.end_of(length).or(end);
                    let whole = length != UNDEFINED;
                    self.data_set(within, item_end, depth + 1)?;
                    if whole && item_end.is_some_and(|end| self.from.at() < end) {
                        return Err(Fault::Header("an item that ends before its end"));
                    }
                    let mark = Header { tag: ITEM_END, vr: None, length: 0 };
                    stream::write_header(&mut self.to, within, mark).map_err(writing)?;
                }
                SEQUENCE_END => break,
                _ => return Err(Fault::Header("a sequence of something else than items")),
            }
        }
        let mark = Header { tag: SEQUENCE_END, vr: None, length: 0 };
        stream::write_header(&mut self.to, how, mark).map_err(writing)
    }

    /// Pixels as they were sent: native, or fragment by fragment.
    fn pixels(&mut self, how: Encoding, header: Header) -> Result<(), Fault> {
        let writing = |error: io::Error| Fault::writing(&error);
        stream::write_header(&mut self.to, how, header).map_err(writing)?;
        if header.length != UNDEFINED {
            self.seen.pixels = header.length > 0;
            return self.from.copy(header.length, &mut self.to);
        }
        // Some files lack the end; what is there counts.
        while let Some(Header { tag, length, .. }) = self.from.header(how, None)? {
            match tag {
                SEQUENCE_END => break,
                ITEM if length != UNDEFINED => {}
                ITEM => return Err(Fault::Header("a fragment without a length")),
                _ => return Err(Fault::Header("fragments of something else than items")),
            }
            self.seen.pixels |= length > 0;
            let mark = Header { tag: ITEM, vr: None, length };
            stream::write_header(&mut self.to, how, mark).map_err(writing)?;
            self.from.copy(length, &mut self.to)?;
        }
        let mark = Header { tag: SEQUENCE_END, vr: None, length: 0 };
        stream::write_header(&mut self.to, how, mark).map_err(writing)
    }
}

/// Whether an element is what the list takes it for. One that is not is dropped.
fn fits(rule: Rule, header: Header) -> bool {
    let undefined = header.length == UNDEFINED;
    match (rule, header.vr.as_ref()) {
        (Rule::Sequence, None | Some(b"SQ")) => true,
        // An unknown value of undefined length is a sequence (PS3.5 6.2.2).
        (Rule::Sequence, Some(vr)) => vr == b"UN" && undefined,
        (Rule::Uids | Rule::Copy, _) if undefined => false,
        (Rule::Uids, vr) => vr.is_none_or(|vr| vr == b"UI"),
        (Rule::Copy, vr) => {
            vr.is_none_or(|vr| ![b"SQ", b"PN", b"UI"].contains(&vr) || is_class(header))
        }
    }
}

/// The SOP class is the one UID that is copied: it is the standard's, or a maker's.
fn is_class(header: Header) -> bool {
    header.tag == CLASS
}

/// How a sequence's items are written: unknown ones are implicit inside (PS3.5 6.2.2).
fn within(how: Encoding, header: Header) -> Encoding {
    if header.vr == Some(*b"UN") { Encoding { explicit: false, big_endian: false } } else { how }
}

#[cfg(test)]
mod tests;
