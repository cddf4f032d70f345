//! HTML that texts from a log cannot break out of.
//!
//! Markup is `&'static str`: only what is written in this program's source can be markup. Everything
//! else goes through [`Html::text`], which escapes it, for elements and quoted attributes alike.

use std::fmt::Write as _;

use transparency::time::UtcTime;

/// A page, or a part of one.
#[derive(Default)]
pub(super) struct Html(String);

impl Html {
    /// Markup of our own.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text from anywhere.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // Control characters, and those that turn the direction of the text around them.
                c if c.is_control() || is_invisible(c) => {
                    let _ = write!(self.0, "\\u{{{:x}}}", u32::from(c));
                }
                c => self.0.push(c),
            }
        }
        self
    }

    /// A whole number, in groups of three digits.
    pub(super) fn count(&mut self, number: u64) -> &mut Self {
        let digits = number.to_string();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                self.0.push(',');
            }
            self.0.push(digit);
        }
        self
    }

    /// A coordinate of a drawing.
    pub(super) fn at(&mut self, number: f64) -> &mut Self {
        let _ = write!(self.0, "{:.1}", if number.is_finite() { number } else { 0.0 });
        self
    }

    /// A measured value, with as many places as it takes to tell it.
    pub(super) fn value(&mut self, value: f64) -> &mut Self {
        self.text(&value_text(value))
    }

    /// `2026-11-22 08:30:05 UTC`, with an element that machines understand.
    pub(super) fn time(&mut self, time: UtcTime) -> &mut Self {
        let full = time.to_string();
        let (day, rest) = full.split_at(10);
        self.raw("<time datetime=\"").text(&full).raw("\">").text(day).raw(" ");
        self.text(rest.get(1..9).unwrap_or_default()).raw("</time>")
    }

    /// A digest of which the beginning is shown and the whole is in the title.
    pub(super) fn short(&mut self, digest: &str) -> &mut Self {
        self.raw("<code title=\"").text(digest).raw("\">");
        self.text(digest.get(..12).unwrap_or(digest)).raw("</code>")
    }

    /// A part that was made elsewhere.
    pub(super) fn part(&mut self, part: &Self) -> &mut Self {
        self.0.push_str(&part.0);
        self
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A measured value as text.
pub(super) fn value_text(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude > 0.0 && !(1e-3..1e6).contains(&magnitude) {
        format!("{value:e}")
    } else {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let mut html = Html::default();
        html.raw("<b title=\"").text("\"><script>'&\u{202e}\n").raw("\">");
        assert_eq!(
            html.into_string(),
            "<b title=\"&quot;&gt;&lt;script&gt;&#39;&amp;\\u{202e}\\u{a}\">"
        );
    }

    #[test]
    fn numbers_are_written_for_people() {
        let mut html = Html::default();
        html.count(0).raw(" ").count(999).raw(" ").count(1_234_567).raw(" ").value(0.5);
        html.raw(" ").value(3.0).raw(" ").value(1e-5).raw(" ").at(f64::NAN);
        assert_eq!(html.into_string(), "0 999 1,234,567 0.5 3 1e-5 0.0");
    }
}
