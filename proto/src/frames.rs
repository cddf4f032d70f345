//! Frames between agent and trainer: a little-endian `u32` length, then one protobuf message.

use std::io::{self, Read, Write};

use bytes::Bytes;
use prost::Message;

use crate::limits::{CHUNK, MAX_MESSAGE};

/// The parts, of [`CHUNK`] bytes at most, that a model or an update travels in: all share its memory.
pub fn parts(whole: Vec<u8>) -> impl Iterator<Item = Bytes> {
    let whole = Bytes::from(whole);
    (0..whole.len())
        .step_by(CHUNK)
        .map(move |from| whole.slice(from..whole.len().min(from + CHUNK)))
}

/// Writes one frame and flushes it.
///
/// # Errors
/// The writer's own; `InvalidInput` when the message is larger than [`MAX_MESSAGE`].
pub fn write_frame(to: &mut impl Write, message: &impl Message) -> io::Result<()> {
    to.write_all(&encoded(message)?)?;
    to.flush()
}

/// Reads one frame; `None` when the other side has closed before a new one.
///
/// # Errors
/// The reader's own; `InvalidData` for a length above [`MAX_MESSAGE`], a message cut off or one
/// that does not decode.
pub fn read_frame<M: Message + Default>(from: &mut impl Read) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    let mut have = 0;
    while have < length.len() {
        match from.read(&mut length[have..])? {
            0 if have == 0 => return Ok(None),
            0 => return Err(cut_off()),
            n => have += n,
        }
    }
    let mut body = vec![0; checked(length)?];
    from.read_exact(&mut body)?;
    decoded(body).map(Some)
}

fn encoded(message: &impl Message) -> io::Result<Vec<u8>> {
    let size = message.encoded_len();
    let length = u32::try_from(size).ok().filter(|_| size <= MAX_MESSAGE).ok_or_else(|| {
        let text = format!("a frame of {size} bytes; at most {MAX_MESSAGE} are allowed");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    let mut out = Vec::with_capacity(4 + size);
    out.extend_from_slice(&length.to_le_bytes());
    message.encode(&mut out).map_err(io::Error::other)?;
    Ok(out)
}

fn checked(length: [u8; 4]) -> io::Result<usize> {
    usize::try_from(u32::from_le_bytes(length)).ok().filter(|size| *size <= MAX_MESSAGE).ok_or_else(
        || {
            let found = u32::from_le_bytes(length);
            invalid(format!("a frame that claims {found} bytes; at most {MAX_MESSAGE} are allowed"))
        },
    )
}

/// Large fields of the message go on sharing the frame's memory.
fn decoded<M: Message + Default>(body: Vec<u8>) -> io::Result<M> {
    M::decode(Bytes::from(body)).map_err(|_| invalid("a frame that does not decode".to_owned()))
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a frame cut off in its length")
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::{FromTrainer, Progress, from_trainer};

    fn progress() -> FromTrainer {
        let progress = Progress { permille: 7 };
        FromTrainer { message: Some(from_trainer::Message::Progress(progress)) }
    }

    #[test]
    fn frames_come_back_in_order_and_the_end_is_told_apart_from_a_cut() {
        let mut wire = Vec::new();
        write_frame(&mut wire, &progress()).expect("memory");
        write_frame(&mut wire, &progress()).expect("memory");
        let mut from = wire.as_slice();
        for _ in 0..2 {
            let frame: FromTrainer = read_frame(&mut from).expect("whole").expect("there");
            assert!(frame == progress());
        }
        assert!(read_frame::<FromTrainer>(&mut from).expect("clean end").is_none());
        for cut in 1..wire.len() / 2 {
            assert!(read_frame::<FromTrainer>(&mut &wire[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn parts_put_together_are_the_whole_and_none_is_empty() {
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let whole: Vec<u8> = (0_u8..=250).cycle().take(size).collect();
            let parts: Vec<Bytes> = parts(whole.clone()).collect();
            assert!(parts.iter().all(|part| !part.is_empty() && part.len() <= CHUNK), "{size}");
            assert_eq!(parts.len(), size.div_ceil(CHUNK));
            assert!(parts.concat() == whole, "{size}");
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_allocated() {
        let wire = u32::MAX.to_le_bytes();
        let error = read_frame::<FromTrainer>(&mut wire.as_slice()).err().expect("too long");
        assert!(error.to_string().contains("4294967295"));
    }
}
