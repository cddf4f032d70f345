//! From coefficients to samples: the integer inverse transform that most readers use (jidctint of
//! the reference implementation, after \[LLM89\]), and chroma brought to full resolution by its
//! triangle filter.

use std::num::Wrapping;

use super::{BROKEN, Component, Frame};
use crate::Fault;

/// The place in a block of each coefficient, in the order of a codestream.
pub(super) const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The whole image: row, column, component.
pub(super) fn image(frame: &Frame, tables: &[Option<[u16; 64]>; 4]) -> Result<Vec<u16>, Fault> {
    let count = frame.components.len();
    let mut values = vec![0; frame.width * frame.height * count];
    for (place, component) in frame.components.iter().enumerate() {
        let table = tables[component.quantisation].as_ref().ok_or(BROKEN)?;
        let plane = plane(component, table, frame.precision);
        let stride = 8 * component.blocks.0;
        let whole = upsampled(frame, component, &plane, stride);
        let (samples, stride) = match &whole {
            Some(samples) => (samples, frame.width),
            None => (&plane, stride),
        };
        for (row, line) in values.chunks_exact_mut(frame.width * count).enumerate() {
            let from = &samples[row * stride..][..frame.width];
            if count == 1 {
                line.copy_from_slice(from);
                continue;
            }
            for (pixel, value) in line.chunks_exact_mut(count).zip(from) {
                pixel[place] = *value;
            }
        }
    }
    Ok(values)
}

/// A component's samples, whole blocks.
fn plane(component: &Component, table: &[u16; 64], precision: u32) -> Vec<u16> {
    let stride = 8 * component.blocks.0;
    let mut plane = vec![0; stride * 8 * component.blocks.1];
    let (blocks, _) = component.coefficients.as_chunks::<64>();
    for (index, block) in blocks.iter().enumerate() {
        let (y, x) = (index / component.blocks.0, index % component.blocks.0);
        let start = 8 * (y * stride + x);
        inverse(block, table, precision, &mut plane[start..], stride);
    }
    plane
}

type W = Wrapping<i32>;

fn w(value: i32) -> W {
    Wrapping(value)
}

/// Eight points; even and odd halves apart, in 13 bits of fraction.
fn points(d: &[W; 8]) -> [W; 8] {
    let shared = (d[2] + d[6]) * w(4433);
    let (even2, even3) = (shared - d[6] * w(15_137), shared + d[2] * w(6270));
    let (even0, even1) = ((d[0] + d[4]) << 13, (d[0] - d[4]) << 13);
    let (e0, e3, e1, e2) = (even0 + even3, even0 - even3, even1 + even2, even1 - even2);
    let (z1, z2, z3, z4) = (d[7] + d[1], d[5] + d[3], d[7] + d[3], d[5] + d[1]);
    let z5 = (z3 + z4) * w(9633);
    let (z1, z2) = (z1 * w(-7373), z2 * w(-20_995));
    let (z3, z4) = (z3 * w(-16_069) + z5, z4 * w(-3196) + z5);
    let o0 = d[7] * w(2446) + z1 + z3;
    let o1 = d[5] * w(16_819) + z2 + z4;
    let o2 = d[3] * w(25_172) + z2 + z3;
    let o3 = d[1] * w(12_299) + z1 + z4;
    [e0 + o3, e1 + o2, e2 + o1, e3 + o0, e3 - o0, e2 - o1, e1 - o2, e0 - o3]
}

fn descaled(value: W, bits: usize) -> W {
    (value + (w(1) << (bits - 1))) >> bits
}

fn inverse(block: &[i16; 64], table: &[u16; 64], precision: u32, out: &mut [u16], stride: usize) {
    // 12-bit samples leave room for one bit of fraction between the passes, 8-bit ones for two.
    let between = if precision > 8 { 1 } else { 2 };
    let (centre, most) = (1 << (precision - 1), (1 << precision) - 1);
    let shade = |value: W| {
        let value = value.0.saturating_add(centre).clamp(0, most);
        u16::try_from(value).unwrap_or_default()
    };
    if block[1..].iter().all(|value| *value == 0) {
        // A flat block: what the passes would give for a constant.
        let value = (w(block[0].into()) * w(table[0].into())) << between;
        let flat = shade(descaled(value, between + 3));
        for row in 0..8 {
            out[row * stride..][..8].fill(flat);
        }
        return;
    }
    let mut work = [w(0); 64];
    for column in 0..8 {
        let at = |row: usize| {
            let at = 8 * row + column;
            w(block[at].into()) * w(table[at].into())
        };
        let column_of = points(&[at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)]);
        for row in 0..8 {
            work[8 * row + column] = descaled(column_of[row], 13 - between);
        }
    }
    let (rows, _) = work.as_chunks::<8>();
    for (row, d) in rows.iter().enumerate() {
        let line = &mut out[row * stride..][..8];
        for (value, out) in points(d).iter().zip(line) {
            *out = shade(descaled(*value, 13 + between + 3));
        }
    }
}

/// A component at the image's resolution; `None` when it is there already.
fn upsampled(
    frame: &Frame,
    component: &Component,
    plane: &[u16],
    stride: usize,
) -> Option<Vec<u16>> {
    let (most, factors) = (frame.most, component.factors);
    if most == factors {
        return None;
    }
    let (width, height) = component.size;
    let row = |y: usize| &plane[y.min(height - 1) * stride..][..width];
    let mut whole = Vec::with_capacity(frame.width * frame.height);
    let doubled = most.0 == 2 * factors.0 && width > 2;
    for y in 0..frame.height {
        if doubled && most.1 == factors.1 {
            let line: Vec<u32> = row(y).iter().map(|value| u32::from(*value)).collect();
            widened(&line, frame.width, (2, [1, 2], false), &mut whole);
        } else if doubled && most.1 == 2 * factors.1 {
            let (near, far) =
                if y % 2 == 0 { (y / 2, (y / 2).saturating_sub(1)) } else { (y / 2, y / 2 + 1) };
            let line: Vec<u32> = row(near)
                .iter()
                .zip(row(far))
                .map(|(near, far)| 3 * u32::from(*near) + u32::from(*far))
                .collect();
            widened(&line, frame.width, (4, [8, 7], true), &mut whole);
        } else {
            let from = row(y * factors.1 / most.1);
            whole.extend((0..frame.width).map(|x| from[(x * factors.0 / most.0).min(width - 1)]));
        }
    }
    Some(whole)
}

/// Twice as many samples: three parts of the nearer neighbour and one of the farther, with the
/// reference implementation's rounding.
fn widened(
    line: &[u32],
    width: usize,
    (bits, bias, summed): (u32, [u32; 2], bool),
    out: &mut Vec<u16>,
) {
    let last = line.len() - 1;
    out.extend((0..width).map(|x| {
        let at = (x / 2).min(last);
        let odd = x % 2;
        let neighbour = if odd == 0 { at.checked_sub(1) } else { (at < last).then_some(at + 1) };
        let value = match neighbour {
            Some(neighbour) => (3 * line[at] + line[neighbour] + bias[odd]) >> bits,
            None if !summed => line[at],
            None => (4 * line[at] + bias[odd]) >> bits,
        };
        u16::try_from(value).unwrap_or(u16::MAX)
    }));
}

// [LLM89]: Loeffler, Ligtenberg, Moschytz: Practical Fast 1-D DCT Algorithms with 11
// Multiplications, ICASSP 1989.
