//! The exact bytes that are signed or hashed.
//!
//! Every field is written behind its length and every transcript starts with a label of its own,
//! so no two different things, and no two uses, can share one encoding (PROTOCOL R-01).

use crate::ids::Digest;

/// An unambiguous encoding under construction.
#[derive(Debug, Clone)]
pub struct Transcript {
    encoded: Vec<u8>,
}

impl Transcript {
    /// Starts a transcript for one use. Labels end in a version: `consilium/terms/1`.
    #[must_use]
    pub fn new(label: &'static str) -> Self {
        let mut transcript = Self { encoded: Vec::with_capacity(256) };
        transcript.text(label);
        transcript
    }

    /// Adds bytes.
    pub fn bytes(&mut self, field: &[u8]) -> &mut Self {
        self.encoded.extend_from_slice(&crate::units::count(field.len()).to_le_bytes());
        self.encoded.extend_from_slice(field);
        self
    }

    /// Adds a text as its UTF-8 bytes.
    pub fn text(&mut self, field: &str) -> &mut Self {
        self.bytes(field.as_bytes())
    }

    /// Adds a number as 4 bytes, little-endian.
    pub fn u32(&mut self, field: u32) -> &mut Self {
        self.bytes(&field.to_le_bytes())
    }

    /// Adds a number as 8 bytes, little-endian.
    pub fn u64(&mut self, field: u64) -> &mut Self {
        self.bytes(&field.to_le_bytes())
    }

    /// Adds a number as the 8 bytes of its IEEE 754 form, little-endian.
    pub fn f64(&mut self, field: f64) -> &mut Self {
        self.bytes(&field.to_bits().to_le_bytes())
    }

    /// Says that a list of so many entries follows.
    pub fn list(&mut self, entries: usize) -> &mut Self {
        self.u64(crate::units::count(entries))
    }

    /// The bytes so far.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        self.encoded.clone()
    }

    /// SHA-256 of the bytes so far.
    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest::sha256(&self.encoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_cannot_slide_into_its_neighbour() {
        let encode = |a: &str, b: &str| Transcript::new("t/1").text(a).text(b).encoded();
        assert_ne!(encode("ab", "c"), encode("a", "bc"));
        assert_ne!(encode("", "abc"), encode("abc", ""));
        let one = Transcript::new("t/1").list(1).text("a").text("b").finish();
        let two = Transcript::new("t/1").list(2).text("a").text("b").finish();
        assert_ne!(one, two);
    }

    #[test]
    fn another_label_is_another_digest() {
        assert_ne!(Transcript::new("a/1").u32(1).finish(), Transcript::new("b/1").u32(1).finish());
    }

    #[test]
    fn the_encoding_is_the_documented_one() {
        let mut transcript = Transcript::new("t/1");
        transcript.bytes(&[7]).u32(2).u64(3).f64(1.0).list(4);
        let expected = [
            &[3, 0, 0, 0, 0, 0, 0, 0][..],
            b"t/1",
            &[1, 0, 0, 0, 0, 0, 0, 0, 7],
            &[4, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0],
            &[8, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0],
            &[8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f],
            &[8, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(transcript.encoded(), expected);
        assert_eq!(transcript.finish(), Digest::sha256(&expected));
    }
}
