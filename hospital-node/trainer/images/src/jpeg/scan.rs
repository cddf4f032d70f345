//! Scans of coefficients (T.81 annexes F and G), sequential and progressive.

use super::bits::Bits;
use super::dct::ZIGZAG;
use super::huffman::Table;
use super::{BROKEN, Frame, Kind, Scan};
use crate::Fault;

type Tables<'t> = (&'t [Option<Table>; 4], &'t [Option<Table>; 4]);

/// What goes from one block to the next.
struct State {
    predicted: Vec<i32>,
    /// Blocks that have nothing more in this band.
    ended: u32,
}

/// Reads one scan's coefficients into the frame.
pub(super) fn scan(
    frame: &mut Frame,
    scan: &Scan,
    tables: Tables<'_>,
    restart: usize,
    bits: &mut Bits<'_>,
) -> Result<(), Fault> {
    let (first, last) = scan.band;
    let dc_alone = first == 0 && last == 0;
    let progressive = frame.kind == Kind::Progressive;
    let band = if progressive {
        dc_alone || (first > 0 && first <= last && last < 64 && scan.components.len() == 1)
    } else {
        true
    };
    if !band || scan.low > 13 {
        return Err(BROKEN);
    }
    let mut state = State { predicted: vec![0; scan.components.len()], ended: 0 };
    // Alone, a component's blocks come row by row; together, MCU by MCU.
    let alone = scan.components.len() == 1;
    let whole = frame.components.first().ok_or(BROKEN)?;
    let mcus = if alone {
        let (width, height) = frame.components[scan.components[0].0].size;
        (width.div_ceil(8), height.div_ceil(8))
    } else {
        (whole.blocks.0 / whole.factors.0, whole.blocks.1 / whole.factors.1)
    };
    for mcu in 0..mcus.0 * mcus.1 {
        if restart > 0 && mcu > 0 && mcu.is_multiple_of(restart) {
            bits.restart()?;
            state.predicted.fill(0);
            state.ended = 0;
        }
        let (row, column) = (mcu / mcus.0, mcu % mcus.0);
        for (index, (place, dc, ac)) in scan.components.iter().enumerate() {
            let component = &mut frame.components[*place];
            let (across, down) = if alone { (1, 1) } else { component.factors };
            for block in 0..across * down {
                let x = column * across + block % across;
                let y = row * down + block / across;
                let start = 64 * (y * component.blocks.0 + x);
                let block = component
                    .coefficients
                    .get_mut(start..start + 64)
                    .and_then(|block| block.as_mut_array::<64>())
                    .ok_or(BROKEN)?;
                let dc = || tables.0[*dc].as_ref().ok_or(BROKEN);
                let ac = || tables.1[*ac].as_ref().ok_or(BROKEN);
                if !progressive {
                    let predicted = &mut state.predicted[index];
                    direct(block, first_of(bits, dc()?, predicted)?, 0);
                    sequential(block, ac()?, bits)?;
                } else if dc_alone {
                    if scan.high == 0 {
                        let predicted = &mut state.predicted[index];
                        direct(block, first_of(bits, dc()?, predicted)?, scan.low);
                    } else if bits.take(1)? == 1 {
                        block[0] |= 1 << scan.low;
                    }
                } else if scan.high == 0 {
                    state.ended = band_of(block, scan, ac()?, state.ended, bits)?;
                } else {
                    state.ended = refined(block, scan, ac()?, state.ended, bits)?;
                }
            }
        }
    }
    Ok(())
}

fn first_of(bits: &mut Bits<'_>, table: &Table, predicted: &mut i32) -> Result<i32, Fault> {
    let size = table.symbol(bits)?;
    if size > 16 {
        return Err(BROKEN);
    }
    *predicted = predicted.wrapping_add(bits.signed(size.into())?);
    Ok(*predicted)
}

#[expect(clippy::cast_possible_truncation, reason = "a broken codestream may say anything")]
fn direct(block: &mut [i16; 64], value: i32, low: u32) {
    block[0] = value.wrapping_shl(low) as i16;
}

#[expect(clippy::cast_possible_truncation, reason = "at most 15 bits and a sign")]
fn sequential(block: &mut [i16; 64], table: &Table, bits: &mut Bits<'_>) -> Result<(), Fault> {
    let mut place = 1;
    while place < 64 {
        let symbol = table.symbol(bits)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run < 15 {
                break;
            }
            place += 16;
            continue;
        }
        place += run;
        let value = bits.signed(size)? as i16;
        *ZIGZAG.get(place).and_then(|at| block.get_mut(*at)).ok_or(BROKEN)? = value;
        place += 1;
    }
    Ok(())
}

/// The first look at a band (G.1.2.2); how many further blocks have nothing in it.
#[expect(clippy::cast_possible_truncation, reason = "at most 15 bits and a sign, then shifted")]
fn band_of(
    block: &mut [i16; 64],
    scan: &Scan,
    table: &Table,
    ended: u32,
    bits: &mut Bits<'_>,
) -> Result<u32, Fault> {
    if ended > 0 {
        return Ok(ended - 1);
    }
    let (mut place, last) = scan.band;
    while place <= last {
        let symbol = table.symbol(bits)?;
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run < 15 {
                return Ok((1 << run) - 1 + bits.take(run)?);
            }
            place += 16;
            continue;
        }
        place += run as usize;
        if place > last {
            return Err(BROKEN);
        }
        block[ZIGZAG[place]] = bits.signed(size)?.wrapping_shl(scan.low) as i16;
        place += 1;
    }
    Ok(0)
}

/// One more bit of a band (G.1.2.3).
fn refined(
    block: &mut [i16; 64],
    scan: &Scan,
    table: &Table,
    ended: u32,
    bits: &mut Bits<'_>,
) -> Result<u32, Fault> {
    let (mut place, last) = scan.band;
    let bit = 1_i16 << scan.low;
    if ended > 0 {
        skip_zeros(block, (place, last), usize::MAX, bit, bits)?;
        return Ok(ended - 1);
    }
    while place <= last {
        let symbol = table.symbol(bits)?;
        let (run, size) = (u32::from(symbol >> 4), symbol & 15);
        let value = match size {
            0 if run < 15 => {
                let ended = (1 << run) - 1 + bits.take(run)?;
                skip_zeros(block, (place, last), usize::MAX, bit, bits)?;
                return Ok(ended);
            }
            0 => 0,
            1 if bits.take(1)? == 1 => bit,
            1 => -bit,
            _ => return Err(BROKEN),
        };
        place = skip_zeros(block, (place, last), run as usize, bit, bits)?;
        if value != 0 {
            if place > last {
                return Err(BROKEN);
            }
            block[ZIGZAG[place]] = value;
        }
        place += 1;
    }
    Ok(0)
}

/// Goes past so many coefficients that are zero, refining those that are not; where it stopped.
fn skip_zeros(
    block: &mut [i16; 64],
    (from, last): (usize, usize),
    mut zeros: usize,
    bit: i16,
    bits: &mut Bits<'_>,
) -> Result<usize, Fault> {
    for place in from..=last {
        let value = &mut block[ZIGZAG[place]];
        if *value == 0 {
            if zeros == 0 {
                return Ok(place);
            }
            zeros -= 1;
        } else if bits.take(1)? == 1 && *value & bit == 0 {
            *value = value.wrapping_add(if *value > 0 { bit } else { -bit });
        }
    }
    Ok(last + 1)
}
