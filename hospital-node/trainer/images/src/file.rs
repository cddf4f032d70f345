//! Files from the disk, and how much of them is taken in.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use flate2::bufread::GzDecoder;

use super::{Fault, Limit};

/// Bytes of decoded pixels that one file may have.
pub const MAX_PIXEL_BYTES: u64 = 1 << 30;
/// Bytes of one file.
pub const MAX_FILE_BYTES: u64 = 2 << 30;
/// Bytes to a value once it is more than a stored one: as models are shown it, and to a label.
const VALUE_BYTES: u64 = 4;

/// Refuses a picture or a volume with values along such sides that would be more than may be decoded,
/// however few bytes each is stored in.
///
/// # Errors
/// [`Fault::TooLarge`].
pub(crate) fn limited(sides: &[usize]) -> Result<(), Fault> {
    let bytes = sides.iter().fold(VALUE_BYTES, |bytes, side| bytes.saturating_mul(*side as u64));
    if bytes > MAX_PIXEL_BYTES { Err(Fault::TooLarge(Limit::Pixels(bytes))) } else { Ok(()) }
}

/// The most bytes that one byte of a deflate stream can become (258 from two bits).
pub(crate) const MAX_INFLATION: u64 = 1032;

/// Reads a file whole.
///
/// # Errors
/// [`Fault::Missing`], [`Fault::TooLarge`], or [`Fault::Unreadable`] with the kind of failure.
pub fn bytes(path: &Path) -> Result<Vec<u8>, Fault> {
    // What it is can be told only once it is open, and a pipe would not open before somebody writes.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| reason(&error))?;
    let about = file.metadata().map_err(|error| reason(&error))?;
    if !about.is_file() {
        return Err(Fault::Unreadable("not a regular file"));
    }
    let too_large = |length| Fault::TooLarge(Limit::File(length));
    if about.len() > MAX_FILE_BYTES {
        return Err(too_large(about.len()));
    }
    // As long as it is on the disk; what is added meanwhile comes along.
    let length = usize::try_from(about.len()).map_err(|_| too_large(about.len()))?;
    let mut bytes = Vec::with_capacity(length + 1);
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| reason(&error))?;
    let length = bytes.len() as u64;
    if length > MAX_FILE_BYTES { Err(too_large(length)) } else { Ok(bytes) }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the system may add kinds; all have one answer")]
fn reason(error: &io::Error) -> Fault {
    match error.kind() {
        ErrorKind::NotFound => Fault::Missing,
        ErrorKind::PermissionDenied => Fault::Unreadable("permission denied"),
        _ => Fault::Unreadable("the disk reports an error"),
    }
}

/// The start of what a compressed stream of `packed` bytes becomes: exactly `wanted` bytes.
///
/// # Errors
/// [`Fault::Truncated`] when there are fewer, or so few bytes could never become so many.
pub(crate) fn inflated(from: impl Read, packed: usize, wanted: usize) -> Result<Vec<u8>, Fault> {
    if wanted as u64 > (packed as u64).saturating_mul(MAX_INFLATION) {
        return Err(Fault::Truncated);
    }
    let mut bytes = Vec::new();
    // What is wrong with a stream after the last wanted byte is nobody's concern.
    let read = from.take(wanted as u64).read_to_end(&mut bytes);
    match read {
        _ if bytes.len() == wanted => Ok(bytes),
        Ok(_) => Err(Fault::Truncated),
        Err(error) => Err(damage(&error)),
    }
}

fn damage(error: &io::Error) -> Fault {
    if error.kind() == ErrorKind::UnexpectedEof { Fault::Truncated } else { DAMAGED }
}

const DAMAGED: Fault = Fault::Unreadable("its compressed data is damaged");

/// How a gzip stream begins (RFC 1952).
pub(crate) const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What a gzip file becomes: all of its members, one after the other (RFC 1952 section 2.2), as
/// tools that pack block by block write them. What follows the last of them is ignored.
pub(crate) struct Gunzip<'a>(GzDecoder<&'a [u8]>);

impl<'a> Gunzip<'a> {
    pub(crate) fn new(file: &'a [u8]) -> Self {
        Self(GzDecoder::new(file))
    }
}

impl Read for Gunzip<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.0.read(into)?;
            let rest = *self.0.get_ref();
            if read > 0 || into.is_empty() || !rest.starts_with(&GZIP) {
                return Ok(read);
            }
            self.0 = GzDecoder::new(rest);
        }
    }
}

/// The most that a compressed file may become when nothing inside says how long it is, and the most
/// that may follow where something does.
const MAX_GUNZIPPED: u64 = 256 << 20;

/// The start of what a gzip file becomes, exactly `wanted` bytes. The rest is unpacked too, and
/// thrown away: only then have the file's checksums been compared.
///
/// # Errors
/// As [`inflated`]; [`Fault::Unreadable`] for a damaged file, or one with too much in it.
pub(crate) fn gunzipped_start(file: &[u8], wanted: usize) -> Result<Vec<u8>, Fault> {
    let mut from = Gunzip::new(file);
    let bytes = inflated(from.by_ref(), file.len(), wanted)?;
    let rest = io::copy(&mut from.take(MAX_GUNZIPPED + 1), &mut io::sink());
    match rest {
        Ok(rest) if rest > MAX_GUNZIPPED => {
            Err(Fault::Unreadable("far more is packed in it than its header says"))
        }
        Ok(_) => Ok(bytes),
        Err(error) => Err(damage(&error)),
    }
}

/// What a whole gzip file holds.
///
/// # Errors
/// [`Fault::TooLarge`]; [`Fault::Truncated`] or [`Fault::Unreadable`] for a damaged stream.
pub(crate) fn gunzipped(file: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    Gunzip::new(file)
        .take(MAX_GUNZIPPED + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| damage(&error))?;
    if bytes.len() as u64 > MAX_GUNZIPPED {
        return Err(Fault::TooLarge(Limit::Unpacked(MAX_GUNZIPPED)));
    }
    Ok(bytes)
}

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = Digest::default();
    digest.update(bytes);
    digest.finish()
}

/// SHA-256 of parts, one after the other.
pub(crate) struct Digest(ring::digest::Context);

impl Default for Digest {
    fn default() -> Self {
        Self(ring::digest::Context::new(&ring::digest::SHA256))
    }
}

impl Digest {
    pub(crate) fn update(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.0.finish().as_ref());
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_none_have_their_reason() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        assert_eq!(bytes(&folder.path().join("none")), Err(Fault::Missing));
        assert_eq!(bytes(folder.path()), Err(Fault::Unreadable("not a regular file")));
        let path = folder.path().join("some");
        std::fs::write(&path, b"some").expect("written");
        assert_eq!(bytes(&path), Ok(b"some".to_vec()));
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(bytes(&path)));
        let answer = told.recv_timeout(std::time::Duration::from_secs(60)).expect("an answer");
        assert_eq!(answer, Err(Fault::Unreadable("not a regular file")));
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        io::Write::write_all(&mut packer, bytes).expect("memory does not fail");
        packer.finish().expect("memory does not fail")
    }

    #[test]
    fn all_members_of_a_gzip_file_are_read_and_what_follows_is_not() {
        let parts = [packed(b"one "), packed(b""), packed(b"two")].concat();
        for end in [&[][..], &[0; 100], b"more"] {
            let file = [&parts, end].concat();
            assert_eq!(gunzipped(&file), Ok(b"one two".to_vec()));
            assert_eq!(gunzipped_start(&file, 5), Ok(b"one t".to_vec()));
        }
        assert_eq!(gunzipped_start(&parts, 8), Err(Fault::Truncated));
        assert_eq!(gunzipped(&parts[..parts.len() - 1]), Err(Fault::Truncated));
    }

    #[test]
    fn a_changed_byte_is_found_by_the_checksum() {
        let file = packed(b"wanted and not wanted");
        let text = file.windows(6).position(|word| word == b"wanted").expect("as it is");
        for place in [text, text + 15, file.len() - 8] {
            let mut changed = file.clone();
            changed[place] ^= 1;
            assert_eq!(gunzipped_start(&changed, 6), Err(DAMAGED), "{place}");
        }
        assert_eq!(gunzipped_start(&file[..file.len() - 3], 6), Err(Fault::Truncated));
    }

    #[test]
    fn more_than_was_packed_is_never_asked_for() {
        assert_eq!(inflated(io::repeat(0), 1, 1033), Err(Fault::Truncated));
        assert_eq!(inflated(&b"abc"[..], 3, 2), Ok(b"ab".to_vec()));
        assert_eq!(inflated(&b"abc"[..], 3, 4), Err(Fault::Truncated));
    }
}
