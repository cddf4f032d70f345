//! Text in the character set that its data set names (PS3.3 C.12.1.1.2).

use dicom_encoding::text::{SpecificCharacterSet, TextCodec as _};

/// Text without padding; `None` where it is not written in that character set.
#[must_use]
pub(crate) fn text(character_set: &[u8], bytes: &[u8]) -> Option<String> {
    let trimmed =
        |text: &str| text.trim_matches(|c: char| c == '\0' || c.is_ascii_whitespace()).to_owned();
    if let Ok(text) = std::str::from_utf8(bytes).map(trimmed)
        && (text.is_ascii() || character_set.is_empty())
    {
        return Some(text);
    }
    let code = String::from_utf8_lossy(character_set);
    // Of several sets the first that is not the default is the one that goes beyond it.
    let mut codes =
        code.split('\\').map(|code| code.trim_matches(['\0', ' '])).filter(|code| !code.is_empty());
    codes
        .find_map(SpecificCharacterSet::from_code)
        .and_then(|set| set.decode(bytes).ok())
        .map(|text| trimmed(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_in_the_set_that_is_named() {
        for (set, bytes, expected) in [
            (&b""[..], &b" plain "[..], Some("plain")),
            (b"ISO_IR 100", b"R\xf6ntgen", Some("R\u{f6}ntgen")),
            (b"\\ISO_IR 100 ", b"R\xf6ntgen", Some("R\u{f6}ntgen")),
            (b"ISO_IR 192", "R\u{f6}ntgen".as_bytes(), Some("R\u{f6}ntgen")),
            (b"", b"R\xf6ntgen", None),
            (b"NO SUCH", b"R\xf6ntgen", None),
        ] {
            assert_eq!(text(set, bytes).as_deref(), expected, "{set:?}");
        }
    }
}
