//! Patterns as DICOM's queries have them (PS3.4 C.2.2.2.4).

/// Whether a text fits a pattern with `*` and `?`, in whatever case.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let [pattern, text] =
        [pattern, text].map(|text| text.to_lowercase().chars().collect::<Vec<char>>());
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and where the text was then.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            Some(_) | None => match &mut star {
                None => return false,
                Some((at, from)) => {
                    *from += 1;
                    (p, t) = (*at + 1, *from);
                }
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_as_the_standard_says() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("", "", true),
            ("", "x", false),
            ("*thorax*", "CT Thorax nativ", true),
            ("*thorax", "CT Thorax nativ", false),
            ("t?orax", "THORAX", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("**a", "ba", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
