//! The one part of a `multipart/related` answer (RFC 2046), as it arrives.
//!
//! A boundary is looked for in a window of fixed size. An answer that ends without its last boundary
//! was cut off; one with more parts than the one that was asked for is refused.

use std::io::{self, Read};

use crate::fault::Fault;

/// Bytes that are looked at together.
const WINDOW: usize = 64 << 10;
/// Bytes before the part, and of its headers.
const MOST_AROUND: usize = 8 << 10;

/// The boundary of a content type; `None` where it has none that may be.
#[must_use]
pub fn boundary(content_type: &str) -> Option<String> {
    let mut parameters = content_type.split(';');
    let kind = parameters.next()?.trim();
    if !kind.eq_ignore_ascii_case("multipart/related") {
        return None;
    }
    let found = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    })?;
    let fits = (1..=70).contains(&found.len()) && found.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| found.to_owned())
}

/// What is between the boundaries.
pub struct Part<R> {
    from: R,
    /// With the line end and the dashes in front.
    delimiter: Vec<u8>,
    window: Vec<u8>,
    /// What of the window is unread.
    at: usize,
    have: usize,
    /// Where the delimiter is, once it was seen.
    ends: Option<usize>,
}

impl<R> std::fmt::Debug for Part<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Part(..)")
    }
}

impl<R: Read> Part<R> {
    /// Reads as far as the part's content.
    ///
    /// # Errors
    /// What has no such boundary, or ends.
    pub fn open(from: R, boundary: &str) -> Result<Self, Fault> {
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        // The first boundary need not have a line end in front.
        let mut window = b"\r\n".to_vec();
        window.resize(WINDOW, 0);
        let mut part = Self { from, delimiter, window, at: 0, have: 2, ends: None };
        let delimiter = part.delimiter.clone();
        part.pass(&delimiter, "a multipart answer")?;
        part.pass(b"\r\n", "a multipart answer")?;
        // A part without headers begins with an empty line.
        if !part.starts_with(b"\r\n")? {
            part.pass(b"\r\n\r\n", "a part with headers")?;
        } else {
            part.at += 2;
        }
        Ok(part)
    }

    fn unread(&self) -> &[u8] {
        &self.window[self.at..self.have]
    }

    /// Takes in more; `false` at the end.
    fn fill(&mut self) -> Result<bool, Fault> {
        self.window.copy_within(self.at..self.have, 0);
        self.have -= self.at;
        self.at = 0;
        let read = loop {
            match self.from.read(&mut self.window[self.have..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(Fault::reading)?,
            }
        };
        self.have += read;
        Ok(read > 0)
    }

    fn starts_with(&mut self, mark: &[u8]) -> Result<bool, Fault> {
        while self.unread().len() < mark.len() {
            if !self.fill()? {
                return Err(Fault::Cut);
            }
        }
        Ok(self.unread().starts_with(mark))
    }

    /// Passes over what comes before `mark`, and it.
    fn pass(&mut self, mark: &[u8], expected: &'static str) -> Result<(), Fault> {
        let mut passed = 0;
        loop {
            if let Some(place) = find(self.unread(), mark) {
                self.at += place + mark.len();
                return Ok(());
            }
            let over = self.unread().len().saturating_sub(mark.len() - 1);
            self.at += over;
            passed += over;
            if passed > MOST_AROUND {
                return Err(Fault::Answer(expected));
            }
            if !self.fill()? {
                return Err(Fault::Cut);
            }
        }
    }

    /// Reads to the end: of the content, of the answer.
    ///
    /// # Errors
    /// What has another part, or ends too early or too late.
    pub fn close(mut self) -> Result<(), Fault> {
        let mut rest = [0; 4096];
        while self.read(&mut rest).map_err(Fault::reading)? > 0 {}
        self.at += self.delimiter.len();
        if !self.starts_with(b"--")? {
            return Err(Fault::Answer("one object in the answer"));
        }
        // With the answer read to its end its connection can be used again.
        self.at = self.have;
        let mut after = 0;
        while self.fill()? {
            after += self.have;
            self.at = self.have;
            if after > MOST_AROUND {
                return Err(Fault::Answer("the end of the answer"));
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Part<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let ready = match self.ends {
                Some(end) => end - self.at,
                None => match find(self.unread(), &self.delimiter) {
                    Some(place) => {
                        self.ends = Some(self.at + place);
                        place
                    }
                    // The window's last bytes may be the delimiter's first.
                    None => self.unread().len().saturating_sub(self.delimiter.len() - 1),
                },
            };
            if ready > 0 || self.ends.is_some() {
                let count = ready.min(into.len());
                into[..count].copy_from_slice(&self.window[self.at..self.at + count]);
                self.at += count;
                return Ok(count);
            }
            if !self.fill()? {
                return Err(Fault::Cut.into());
            }
        }
    }
}

fn find(within: &[u8], mark: &[u8]) -> Option<usize> {
    let first = *mark.first()?;
    let mut from = 0;
    while let Some(place) = within.get(from..)?.iter().position(|byte| *byte == first) {
        if within[from + place..].starts_with(mark) {
            return Some(from + place);
        }
        from += place + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so many bytes at a time.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(into.len()).min(self.0.len());
            let (now, later) = self.0.split_at(count);
            into[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    fn content(answer: &[u8], at_a_time: usize) -> Result<Vec<u8>, Fault> {
        let mut part = Part::open(Dribble(answer, at_a_time), "b-1")?;
        let mut content = Vec::new();
        part.read_to_end(&mut content).map_err(Fault::reading)?;
        part.close()?;
        Ok(content)
    }

    #[test]
    fn the_content_is_what_is_between_boundaries_however_it_arrives() {
        let mut expected = vec![7; 200_000];
        expected.extend_from_slice(b"\r\n--b-\r\n--b\r\r\n-");
        for head in [
            "--b-1\r\nContent-Type: application/dicom\r\n\r\n",
            "--b-1\r\n\r\n",
            "hi\r\n--b-1 \r\nA: b\r\nC: d\r\n\r\n",
        ] {
            let mut answer = head.as_bytes().to_vec();
            answer.extend_from_slice(&expected);
            answer.extend_from_slice(b"\r\n--b-1--\r\nbye");
            for at_a_time in [1, 3, 8191, 1 << 20] {
                assert!(
                    content(&answer, at_a_time) == Ok(expected.clone()),
                    "{head:?} {at_a_time}"
                );
            }
        }
        assert_eq!(content(b"--b-1\r\n\r\n\r\n--b-1--", 5), Ok(Vec::new()));
    }

    #[test]
    fn an_answer_that_is_cut_off_endless_or_of_several_parts_is_refused() {
        let whole = b"--b-1\r\nA: b\r\n\r\nxyz\r\n--b-1--";
        for length in 0..whole.len() {
            assert_eq!(content(&whole[..length], 7), Err(Fault::Cut), "{length}");
        }
        let two = b"--b-1\r\n\r\nx\r\n--b-1\r\n\r\ny\r\n--b-1--";
        assert!(matches!(content(two, 9), Err(Fault::Answer(_))));
        let endless = vec![b'x'; 1 << 20];
        assert!(matches!(content(&endless, 4096), Err(Fault::Answer(_))));
        let mut headers = b"--b-1\r\n".to_vec();
        headers.extend(std::iter::repeat_n(b"A: b\r\n", 10_000).flatten());
        assert!(matches!(content(&headers, 4096), Err(Fault::Answer(_))));
        let mut tail = whole.to_vec();
        tail.extend_from_slice(&endless);
        assert!(matches!(content(&tail, 4096), Err(Fault::Answer(_))));
    }

    #[test]
    fn a_boundary_is_found_quoted_and_bare() {
        for (text, expected) in [
            ("multipart/related; type=\"application/dicom\"; boundary=abc", Some("abc")),
            ("Multipart/Related;BOUNDARY=\"a b\"", None),
            ("multipart/related; boundary=\"a-1\"; type=x", Some("a-1")),
            ("multipart/related", None),
            ("multipart/related; boundary=", None),
            ("application/dicom", None),
        ] {
            assert_eq!(boundary(text).as_deref(), expected, "{text}");
        }
    }
}
