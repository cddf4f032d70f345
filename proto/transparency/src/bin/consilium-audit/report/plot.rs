//! Drawings: who took part, and values over rounds. They are SVG in the page, drawn with classes of
//! the style sheet, and tell by shape what they tell by colour, so that they print in black.

use std::iter;

use super::history::{History, Part};
use super::html::{Html, value_text};

/// Attempts in one band of the participation drawing.
const BAND: usize = 64;
/// Lines that an axis has at most.
const MOST_TICKS: u32 = 24;

/// Width of every drawing, in its own units.
const WIDTH: f64 = 760.0;

/// As a coordinate.
fn real(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::from(u32::MAX), f64::from)
}

/// A round's number as a coordinate.
fn round_at(round: u64) -> f64 {
    u32::try_from(round).map_or(f64::from(u32::MAX), f64::from)
}

/// Site by attempt; empty when there is no attempt.
pub(super) fn participation(history: &History, sites: &[String]) -> Html {
    let mut html = Html::default();
    let attempts: Vec<_> = history.attempts.values().collect();
    // Bands of about the same length, with marks of one size.
    let width = attempts.len().div_ceil(attempts.len().div_ceil(BAND).max(1)).max(1);
    let (left, right, row, top) = (132.0, WIDTH - 12.0, 20.0, 20.0);
    let step = ((right - left) / real(width.max(24))).min(22.0);
    let size = (step - 2.0).clamp(2.0, 14.0);
    let every = labelled_every(history.rounds(), step);
    for band in attempts.chunks(width) {
        let height = top + row * real(sites.len()) + 4.0;
        html.raw("<svg class=\"plot\" role=\"img\" aria-label=\"participation by site and round\" viewBox=\"0 0 760 ");
        html.at(height).raw("\">");
        let mut labelled = None;
        for (at, attempt) in band.iter().enumerate() {
            let middle = left + step * (real(at) + 0.5);
            let wanted = attempt.round == 1 || attempt.round.is_multiple_of(every);
            if wanted && labelled != Some(attempt.round) {
                labelled = Some(attempt.round);
                html.raw("<text class=\"tick mid\" x=\"").at(middle).raw("\" y=\"12\">");
                html.count(attempt.round).raw("</text>");
            }
            if !attempt.released() {
                html.raw("<rect class=\"void\" x=\"").at(middle - step / 2.0);
                html.raw("\" y=\"").at(top - 3.0).raw("\" width=\"").at(step);
                html.raw("\" height=\"").at(row * real(sites.len())).raw("\"/>");
            }
        }
        for (line, site) in sites.iter().enumerate() {
            let y = top + row * real(line);
            html.raw("<text class=\"name\" x=\"0\" y=\"").at(y + 11.0).raw("\">");
            html.text(&clipped(site, 20)).raw("</text>");
            for (at, attempt) in band.iter().enumerate() {
                let x = left + step * real(at) + (step - size) / 2.0;
                mark(&mut html, attempt.part(site), (x, y + (14.0 - size) / 2.0), size);
            }
        }
        html.raw("</svg>");
    }
    html
}

/// Every how many rounds a number has room, so that no two run into each other.
fn labelled_every(rounds: u64, step: f64) -> u64 {
    let wide = 7.0 * real(rounds.to_string().len()) + 5.0;
    let fits = |every: &u64| step * round_at(*every) >= wide;
    NICE.into_iter().find(fits).unwrap_or(1_000)
}

/// Steps in which people count.
const NICE: [u64; 12] = [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1_000];

/// One mark: its shape says what its colour says.
pub(super) fn mark(html: &mut Html, part: Part, (x, y): (f64, f64), size: f64) {
    let rectangle = |html: &mut Html, class: &'static str| {
        html.raw("<rect class=\"").raw(class).raw("\" x=\"").at(x).raw("\" y=\"").at(y);
        html.raw("\" width=\"").at(size).raw("\" height=\"").at(size).raw("\" rx=\"1.5\"/>");
    };
    let line = |html: &mut Html, class: &'static str, from: (f64, f64), to: (f64, f64)| {
        html.raw("<line class=\"").raw(class).raw("\" x1=\"").at(from.0);
        html.raw("\" y1=\"").at(from.1).raw("\" x2=\"").at(to.0).raw("\" y2=\"").at(to.1);
        html.raw("\"/>");
    };
    let (far_x, far_y, middle) = (x + size, y + size, y + size / 2.0);
    match part {
        Part::InSum => rectangle(html, "insum"),
        Part::InVain => rectangle(html, "invain"),
        Part::Dropped => {
            line(html, "dropped", (x, y), (far_x, far_y));
            line(html, "dropped", (x, far_y), (far_x, y));
        }
        Part::Declined => {
            rectangle(html, "declined");
            line(html, "declined", (x, far_y), (far_x, y));
        }
        Part::Absent => line(html, "absent", (x, middle), (far_x, middle)),
        Part::None => {}
    }
}

/// A name that fits beside a drawing.
pub(super) fn clipped(name: &str, most: usize) -> String {
    if name.chars().count() <= most {
        return name.to_owned();
    }
    name.chars().take(most.saturating_sub(1)).chain(['\u{2026}']).collect()
}

/// A cap of more than so many times the largest value is not drawn: the curve would be flat.
const FAR: f64 = 10.0;

/// One curve: its name, its points by round, and a line that it should not cross.
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(u64, f64)>,
    pub(super) cap: Option<f64>,
}

/// Values over rounds, with the names of the curves below when there are several.
/// `promised` is a line for all of them.
pub(super) fn curves(
    label: &str,
    curves: &[Curve],
    rounds: u64,
    from_zero: bool,
    promised: Option<f64>,
) -> Html {
    let mut html = Html::default();
    let values = || curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.1));
    let largest = values().fold(f64::NEG_INFINITY, f64::max);
    let near = |cap: &f64| *cap <= FAR * largest;
    let cap_of = |curve: &Curve| curve.cap.filter(near);
    let promised = promised.filter(near);
    let most = curves.iter().filter_map(cap_of).chain(promised).fold(largest, f64::max);
    let least = if from_zero { 0.0 } else { values().fold(f64::INFINITY, f64::min) };
    if !(most.is_finite() && least.is_finite()) {
        return html;
    }
    // Values that differ by less than what can be read off an axis are one.
    let span = (most - least).max(most.abs().max(least.abs()) * 1e-6);
    let step = tick_step(span);
    let (low, high) = ((least / step).floor() * step, (most / step).ceil() * step);
    let high = if high > low { high } else { low + step };
    if !(low.is_finite() && high.is_finite()) {
        return html;
    }
    // Half of the last round's number stands right of the axis.
    let (left, right, top, bottom) = (44.0, 360.0, 10.0, 168.0);
    let last = round_at(rounds.max(2));
    let x = |round: u64| left + (right - left) * (round_at(round) - 1.0) / (last - 1.0);
    let y = |value: f64| bottom - (bottom - top) * (value - low) / (high - low);
    let rows = curves.len().div_ceil(2);
    let height = if curves.len() > 1 { 196.0 + 15.0 * real(rows) } else { 200.0 };
    html.raw("<svg class=\"plot half\" role=\"img\" aria-label=\"").text(label);
    html.raw("\" viewBox=\"0 0 376 ").at(height).raw("\">");
    for tick in 0..=MOST_TICKS {
        let value = low + step * f64::from(tick);
        if value > high + step / 2.0 {
            break;
        }
        html.raw("<line class=\"grid\" x1=\"").at(left).raw("\" x2=\"").at(right).raw("\" y1=\"");
        html.at(y(value)).raw("\" y2=\"").at(y(value)).raw("\"/><text class=\"tick end\" x=\"");
        html.at(left - 6.0).raw("\" y=\"").at(y(value) + 3.5).raw("\">");
        html.text(&value_text((value / step).round() * step)).raw("</text>");
    }
    let every = (rounds / 6).max(1);
    let every = NICE.into_iter().find(|nice| *nice >= every).unwrap_or(every);
    let after_first = (1..=rounds).filter(|round| *round > 1 && round.is_multiple_of(every));
    for round in iter::once(1).chain(after_first) {
        html.raw("<text class=\"tick mid\" x=\"").at(x(round)).raw("\" y=\"183\">");
        html.count(round).raw("</text>");
    }
    if let Some(promised) = promised {
        html.raw("<line class=\"promised\" x1=\"").at(left).raw("\" x2=\"").at(right);
        html.raw("\" y1=\"").at(y(promised)).raw("\" y2=\"").at(y(promised)).raw("\"/>");
    }
    for (at, curve) in curves.iter().enumerate() {
        let class = CLASSES[at % CLASSES.len()];
        if let Some(cap) = cap_of(curve) {
            html.raw("<line class=\"cap ").raw(class).raw("\" x1=\"").at(left).raw("\" x2=\"");
            html.at(right).raw("\" y1=\"").at(y(cap)).raw("\" y2=\"").at(y(cap)).raw("\"/>");
        }
        html.raw("<polyline class=\"curve ").raw(class).raw("\" points=\"");
        for (round, value) in &curve.points {
            html.at(x(*round)).raw(",").at(y(*value)).raw(" ");
        }
        html.raw("\"/>");
        if curve.points.len() <= 40 {
            for (round, value) in &curve.points {
                html.raw("<circle class=\"dot ").raw(class).raw("\" r=\"2\" cx=\"").at(x(*round));
                html.raw("\" cy=\"").at(y(*value)).raw("\"/>");
            }
        }
    }
    if curves.len() > 1 {
        for (at, curve) in curves.iter().enumerate() {
            let (x, y) = (left + 164.0 * real(at % 2), 202.0 + 15.0 * real(at / 2));
            html.raw("<line class=\"curve ").raw(CLASSES[at % CLASSES.len()]).raw("\" x1=\"");
            html.at(x).raw("\" x2=\"").at(x + 14.0).raw("\" y1=\"").at(y - 3.5).raw("\" y2=\"");
            html.at(y - 3.5).raw("\"/><text class=\"tick\" x=\"").at(x + 19.0).raw("\" y=\"");
            html.at(y).raw("\">").text(&clipped(&curve.name, 24)).raw("</text>");
        }
    }
    html.raw("</svg>");
    html
}

/// Colours and dashes that stay apart in print and to the colour-blind.
const CLASSES: [&str; 8] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"];

/// A step of 1, 2 or 5 times a power of ten that divides a range into about five.
fn tick_step(range: f64) -> f64 {
    if range <= 0.0 {
        return 1.0;
    }
    let rough = range / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= rough);
    step.unwrap_or(10.0) * power
}

/// How much of a cap is spent, as a bar, with a notch at what the study promised.
pub(super) fn gauge(spent: f64, cap: Option<f64>, promised: Option<f64>) -> Html {
    let mut html = Html::default();
    let Some(cap) = cap.filter(|cap| *cap > 0.0) else { return html };
    let share = (spent / cap).clamp(0.0, 1.0);
    html.raw("<svg class=\"gauge\" viewBox=\"0 0 120 8\"><rect class=\"track\" width=\"120\" height=\"8\" rx=\"4\"/>");
    html.raw("<rect class=\"");
    html.raw(if spent > cap {
        "over"
    } else if share > 0.9 {
        "near"
    } else {
        "fill"
    });
    html.raw("\" width=\"").at(120.0 * share).raw("\" height=\"8\" rx=\"4\"/>");
    if let Some(promised) = promised.filter(|promised| *promised < cap) {
        html.raw("<rect class=\"notch\" width=\"1.6\" height=\"8\" x=\"")
            .at(120.0 * promised / cap);
        html.raw("\"/>");
    }
    html.raw("</svg>");
    html
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::history::Attempt;
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        for (range, step) in [(10.0, 2.0), (0.6, 0.2), (3.0, 1.0), (2.4, 0.5), (0.0, 1.0)] {
            assert!((tick_step(range) - step).abs() < 1e-9, "{range}");
        }
    }

    #[test]
    fn a_curve_of_one_point_and_of_none_can_be_drawn() {
        let one = Curve { name: "a".to_owned(), points: vec![(1, 0.5)], cap: None };
        let drawn = curves("x", &[one], 1, false, None).into_string();
        assert!(drawn.contains("points=\"44.0,"), "{drawn}");
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        let none = Curve { name: "a".to_owned(), points: vec![], cap: None };
        assert_eq!(curves("x", &[none], 5, false, None).into_string(), "");
    }

    #[test]
    fn a_cap_that_is_far_away_does_not_flatten_the_curve() {
        let drawn = |cap| {
            let one = Curve { name: "a".to_owned(), points: vec![(1, 1.0), (2, 2.0)], cap };
            curves("x", &[one], 2, true, None).into_string()
        };
        assert!(
            drawn(Some(3.0)).contains("class=\"cap ")
                && !drawn(Some(30.0)).contains("class=\"cap ")
        );
        assert_eq!(drawn(Some(30.0)), drawn(None));
    }

    #[test]
    fn numbers_of_rounds_do_not_run_into_each_other() {
        for (rounds, step, every) in [(9, 22.0, 1), (48, 12.0, 2), (101, 12.0, 5), (1_000, 9.0, 5)]
        {
            assert_eq!(labelled_every(rounds, step), every, "{rounds}");
        }
    }

    #[test]
    fn marks_have_one_size_in_every_band() {
        let mut history = History::default();
        for slot in 1..=101 {
            let mut attempt = Attempt { round: slot, slot, ..Attempt::default() };
            attempt.declined.insert("a".to_owned());
            history.attempts.insert(slot, attempt);
        }
        let drawn = participation(&history, &["a".to_owned()]).into_string();
        assert_eq!(drawn.matches("<svg").count(), 2, "{drawn}");
        let marks = drawn.split("<rect class=\"declined\"").skip(1);
        let width = |mark: &str| mark.split("width=\"").nth(1).map(|rest| rest[..4].to_owned());
        let widths: BTreeSet<_> = marks.map(width).collect();
        assert_eq!(widths.len(), 1, "{widths:?}");
        let second = drawn.rsplit("<svg").next().unwrap_or_default();
        assert_eq!(second.matches("<rect class=\"declined\"").count(), 50);
    }

    #[test]
    fn a_long_name_is_clipped() {
        assert_eq!(clipped("abcdef", 6), "abcdef");
        assert_eq!(clipped("abcdefg", 6), "abcde\u{2026}");
    }
}
