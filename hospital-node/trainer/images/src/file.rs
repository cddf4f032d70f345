//! Files from the disk, and how much of them is taken in.

use std::io::{ErrorKind, Read};
use std::path::Path;

use flate2::read::GzDecoder;

use super::Fault;

/// Bytes of decoded pixels that one file may have.
pub const MAX_PIXEL_BYTES: u64 = 1 << 30;
/// Bytes of one file.
pub const MAX_FILE_BYTES: u64 = 2 << 30;
/// The most bytes that one byte of a deflate stream can become (258 from two bits).
const MAX_INFLATION: u64 = 1032;

/// Reads a file whole.
///
/// # Errors
/// [`Fault::Missing`], [`Fault::TooLarge`], or [`Fault::Unreadable`] with the kind of failure.
pub fn bytes(path: &Path) -> Result<Vec<u8>, Fault> {
    let file = std::fs::File::open(path).map_err(|error| reason(&error))?;
    let about = file.metadata().map_err(|error| reason(&error))?;
    if !about.is_file() {
        return Err(Fault::Unreadable("not a regular file"));
    }
    if about.len() > MAX_FILE_BYTES {
        return Err(Fault::TooLarge);
    }
    at_most(file, MAX_FILE_BYTES)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the system may add kinds; all have one answer")]
fn reason(error: &std::io::Error) -> Fault {
    match error.kind() {
        ErrorKind::NotFound => Fault::Missing,
        ErrorKind::PermissionDenied => Fault::Unreadable("permission denied"),
        _ => Fault::Unreadable("the disk reports an error"),
    }
}

fn at_most(from: impl Read, limit: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    from.take(limit + 1).read_to_end(&mut bytes).map_err(|error| reason(&error))?;
    if bytes.len() as u64 > limit { Err(Fault::TooLarge) } else { Ok(bytes) }
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
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(Fault::Truncated),
        Err(_) => Err(Fault::Unreadable("its compressed data is damaged")),
    }
}

/// The most that a compressed file may become when nothing inside says how long it is.
const MAX_GUNZIPPED: u64 = 256 << 20;

/// What a whole gzip file holds.
///
/// # Errors
/// [`Fault::TooLarge`], or [`Fault::Unreadable`] for a damaged stream.
pub(crate) fn gunzipped(file: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    GzDecoder::new(file)
        .take(MAX_GUNZIPPED + 1)
        .read_to_end(&mut bytes)
        .map_err(|_| Fault::Unreadable("its compressed data is damaged"))?;
    if bytes.len() as u64 > MAX_GUNZIPPED { Err(Fault::TooLarge) } else { Ok(bytes) }
}

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
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
    fn more_than_was_packed_is_never_asked_for() {
        assert_eq!(inflated(std::io::repeat(0), 1, 1033), Err(Fault::Truncated));
        assert_eq!(inflated(&b"abc"[..], 3, 2), Ok(b"ab".to_vec()));
        assert_eq!(inflated(&b"abc"[..], 3, 4), Err(Fault::Truncated));
    }
}
