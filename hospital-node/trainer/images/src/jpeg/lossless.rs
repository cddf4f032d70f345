//! The lossless process (T.81 annex H): each sample is predicted from its neighbours.

use super::bits::Bits;
use super::huffman::Table;
use super::{BROKEN, Frame, Scan};
use crate::Fault;

/// The values of the one scan: row, column, component.
pub(super) fn scan(
    frame: &Frame,
    scan: &Scan,
    tables: &[Option<Table>; 4],
    restart: usize,
    bits: &mut Bits<'_>,
) -> Result<Vec<u16>, Fault> {
    let count = frame.components.len();
    if scan.components.len() != count || frame.most != (1, 1) {
        return Err(Fault::Unsupported("lossless JPEG with components of several resolutions"));
    }
    let (predictor, low) = (scan.band.0, scan.low);
    if !(1..=7).contains(&predictor) || low >= frame.precision {
        return Err(BROKEN);
    }
    // No code is shorter than a bit.
    let values = frame.width * frame.height * count;
    let start = 1_i32 << (frame.precision - low - 1);
    let row = frame.width * count;
    let mut tables_of = Vec::with_capacity(count);
    for (place, table, _) in &scan.components {
        tables_of.push((*place, tables[*table].as_ref().ok_or(BROKEN)?));
    }
    let mut decoded: Vec<u16> = Vec::new();
    // The row of pixels after which the last restart came.
    let mut first_row = 0;
    for y in 0..frame.height {
        decoded.resize((y + 1) * row, 0);
        for x in 0..frame.width {
            let pixel = y * frame.width + x;
            if restart > 0 && pixel > 0 && pixel.is_multiple_of(restart) {
                bits.restart()?;
                first_row = y;
            }
            for (place, table) in &tables_of {
                let at = y * row + x * count + place;
                let left = || i32::from(decoded[at - count]);
                let above = || i32::from(decoded[at - row]);
                let predicted = match (x > 0, y > first_row) {
                    (false, false) => start,
                    (true, false) => left(),
                    (false, true) => above(),
                    (true, true) => {
                        let (a, b, c) = (left(), above(), i32::from(decoded[at - row - count]));
                        match predictor {
                            1 => a,
                            2 => b,
                            3 => c,
                            4 => a + b - c,
                            5 => a + ((b - c) >> 1),
                            6 => b + ((a - c) >> 1),
                            _ => (a + b) >> 1,
                        }
                    }
                };
                let difference = match table.symbol(bits)? {
                    16 => 32_768,
                    size @ 0..=15 => bits.signed(size.into())?,
                    _ => return Err(BROKEN),
                };
                let [low, high, ..] = (predicted + difference).to_le_bytes();
                decoded[at] = u16::from_le_bytes([low, high]);
            }
        }
    }
    debug_assert_eq!(decoded.len(), values);
    if low > 0 {
        for value in &mut decoded {
            *value <<= low;
        }
    }
    Ok(decoded)
}
