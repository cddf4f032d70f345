//! What a JPEG 2000 codestream claims, and what that would make the decoder set aside.
//!
//! The decoder keeps a record for each precinct and each code block before it reads a byte of them, and
//! a place for each packet that there could be. How small and how many they are a codestream says in a
//! few bytes (ITU-T T.800 annexes A.5, A.6 and B), so that all headers are walked through here, in the
//! decoder's own way, and the sum is compared with the picture's size first.

use std::collections::BTreeSet;

use super::BROKEN;
use crate::Fault;

/// Values of one codestream. The decoder takes eight bytes for each, and a few bytes are enough to
/// say that all are alike.
const MAX_VALUES: u64 = 1 << 26;
/// What the decoder may be made to hold in tiles.
const MAX_TILES: u64 = 1 << 16;
/// The markers in front of a tile (A.4.2 and A.4.3).
const TILE_BYTES: u64 = 14;
/// Grey, colours, and one more; pictures have no others.
const MAX_COMPONENTS: u64 = 4;

/// Bytes that the decoder's records of one codestream may take, whatever it is of...
const ROOM: u64 = 64 << 20;
/// ...and for each of its values: blocks of 8 by 8 all over fit, and writers make those of 32 or 64.
const ROOM_PER_VALUE: u64 = 10;

/// What the decoder takes for a tile with as many parts as there can be, and for each component of it.
const TILE_RECORD: u64 = 12 << 10;
const COMPONENT_RECORD: u64 = 1200;
/// For a precinct of one band, with its two trees.
const PRECINCT_RECORD: u64 = 256;
/// For a code block, with its segments and its share of the trees.
const BLOCK_RECORD: u64 = 400;
/// For what a layer adds to a block, in a list that is doubled when it is full.
const PIECE_RECORD: u64 = 32;
/// For a packet that there could be.
const PACKET_RECORD: u64 = 2;

/// SOT, SOD, EOC, COD and COC (A.2).
const TILE_PART: u16 = 0xff90;
const DATA: u16 = 0xff93;
const END: u16 = 0xffd9;
const STYLE: u16 = 0xff52;
const COMPONENT_STYLE: u16 = 0xff53;

/// Compares what a codestream says with the limits: it may have so many values.
pub(super) fn check(bytes: &[u8], most_values: usize) -> Result<(), Fault> {
    let size = Size::read(bytes)?;
    let values = size
        .values()
        .filter(|values| *values <= most_values as u64)
        .ok_or(Fault::WrongShape("a codestream larger than its header says"))?;
    if values > MAX_VALUES {
        return Err(Fault::Unsupported("a frame of more than 64 million values in JPEG 2000"));
    }
    if size.components > MAX_COMPONENTS {
        return Err(Fault::Unsupported("JPEG 2000 with more than four components"));
    }
    let tiles = size.tiles();
    if tiles > MAX_TILES {
        return Err(BROKEN);
    }
    if tiles * TILE_BYTES > bytes.len() as u64 {
        return Err(Fault::Truncated);
    }
    let headers = Headers::read(bytes)?;
    if (headers.tiles.len() as u64) < tiles {
        return Err(Fault::Truncated);
    }
    if records(&size, &headers, bytes.len() as u64) > ROOM + ROOM_PER_VALUE * values {
        return Err(Fault::Unsupported(
            "JPEG 2000 in far smaller blocks, or with more layers, than a picture of its size has",
        ));
    }
    Ok(())
}

/// What the first segment says (A.5.1).
struct Size {
    /// Where the image ends and begins, across and down.
    ends: [u64; 2],
    begins: [u64; 2],
    /// How large tiles are, and where the first begins.
    tile: [u64; 2],
    first: [u64; 2],
    components: u64,
}

impl Size {
    fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let words = bytes.get(8..40).ok_or(Fault::Truncated)?.as_chunks::<4>().0;
        let pair = |place: usize| [0, 1].map(|at| u32::from_be_bytes(words[place + at]).into());
        let components = word(bytes, 40).ok_or(Fault::Truncated)?.into();
        let [ends, begins, tile, first] = [pair(0), pair(2), pair(4), pair(6)];
        let size = Self { ends, begins, tile, first, components };
        let sound = (0..2).all(|axis| {
            ends[axis] > begins[axis]
                && first[axis] <= begins[axis]
                && first[axis] + tile[axis] > begins[axis]
        });
        if sound && components > 0 { Ok(size) } else { Err(BROKEN) }
    }

    fn sides(&self) -> [u64; 2] {
        [0, 1].map(|axis| self.ends[axis] - self.begins[axis])
    }

    fn values(&self) -> Option<u64> {
        let [width, height] = self.sides();
        width.checked_mul(height)?.checked_mul(self.components)
    }

    fn tiles(&self) -> u64 {
        [0, 1]
            .map(|axis| (self.ends[axis] - self.first[axis]).div_ceil(self.tile[axis]))
            .iter()
            .fold(1, |all, tiles| all.saturating_mul(*tiles))
    }
}

/// What the headers of the codestream and of its tile parts say.
#[derive(Debug, Default)]
struct Headers {
    styles: BTreeSet<Style>,
    layers: u64,
    /// The tiles of which there is at least one part. The decoder gives the others one shade.
    tiles: BTreeSet<[u8; 2]>,
}

/// How a component is divided (A.6.1 and A.6.2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Style {
    levels: u8,
    /// Exponents of the sides of a code block.
    block: [u8; 2],
    /// For each resolution, the exponents of its precincts' sides.
    precincts: Vec<[u8; 2]>,
}

impl Style {
    /// From the number of levels on; `own` when the sizes of precincts follow.
    fn read(segment: &[u8], own: bool) -> Option<Self> {
        let (&[levels, width, height, _, _], rest) = segment.split_first_chunk::<5>()?;
        let resolutions = usize::from(levels) + 1;
        let precincts = if own {
            rest.get(..resolutions)?.iter().map(|sides| [sides & 15, sides >> 4]).collect()
        } else {
            vec![[15; 2]; resolutions]
        };
        let sound = levels <= 32 && width <= 8 && height <= 8;
        sound.then(|| Self { levels, block: [width + 2, height + 2], precincts })
    }
}

impl Headers {
    /// Walks through all markers but those within the data.
    fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let mut headers = Self::default();
        let mut at = 2;
        loop {
            match word(bytes, at).ok_or(Fault::Truncated)? {
                TILE_PART => break,
                marker if is_known(marker) => at = headers.segment(bytes, at, marker)?,
                // Unknown ones are passed by until a known one comes, as the decoder does it.
                _ => at += 2,
            }
        }
        while word(bytes, at) == Some(TILE_PART) {
            at = headers.tile_part(bytes, at)?;
        }
        Ok(headers)
    }

    /// One tile part; gives the place behind it.
    fn tile_part(&mut self, bytes: &[u8], start: usize) -> Result<usize, Fault> {
        let header = bytes.get(start + 2..start + 12).ok_or(Fault::Truncated)?;
        let &[0, 10, high, low, a, b, c, d, _, _] = header else { return Err(BROKEN) };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| BROKEN)?;
        self.tiles.insert([high, low]);
        let mut at = start + 12;
        loop {
            match word(bytes, at).ok_or(Fault::Truncated)? {
                DATA => break,
                TILE_PART | END => return Err(BROKEN),
                marker => at = self.segment(bytes, at, marker)?,
            }
        }
        // The last one goes to the end when it does not say how long it is.
        if length == 0 {
            return Ok(bytes.len());
        }
        // Of a part without data the decoder passes by the marker that it counts to none.
        let rest = (start + length).checked_sub(at).ok_or(BROKEN)?;
        Ok(at + 2 + if rest >= 2 { rest - 2 } else { rest })
    }

    /// One segment of a header; gives the place behind it.
    fn segment(&mut self, bytes: &[u8], at: usize, marker: u16) -> Result<usize, Fault> {
        let length = usize::from(word(bytes, at + 2).ok_or(Fault::Truncated)?);
        let end = at + 2 + length;
        let segment =
            bytes.get(at + 4..end).ok_or(if length < 2 { BROKEN } else { Fault::Truncated })?;
        let style = match (marker, segment) {
            (STYLE, [own, _, high, low, _, rest @ ..]) => {
                self.layers = self.layers.max(u16::from_be_bytes([*high, *low]).into());
                Style::read(rest, own & 1 == 1)
            }
            // Of few components, their numbers have one byte.
            (COMPONENT_STYLE, [_, own, rest @ ..]) => Style::read(rest, own & 1 == 1),
            (STYLE | COMPONENT_STYLE, _) => None,
            _ => return Ok(end),
        };
        self.styles.insert(style.ok_or(BROKEN)?);
        Ok(end)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk::<2>()?))
}

/// The markers of main headers that the decoder knows, and the start of a tile part.
fn is_known(marker: u16) -> bool {
    matches!(marker, 0xff50..=0xff53 | 0xff55 | 0xff57..=0xff59 | 0xff5c..=0xff61)
        || matches!(marker, 0xff63 | 0xff64 | 0xff74 | 0xff75 | 0xff77 | 0xff78 | 0xff90..=0xff93)
        || marker == END
}

/// Bytes that the decoder would take for its records; never fewer. It goes through the tiles one after
/// the other and keeps what the largest of each kind needed, so that all styles count for a tile.
fn records(size: &Size, headers: &Headers, bytes: u64) -> u64 {
    let sides = size.sides();
    let tile = [0, 1].map(|axis| sides[axis].min(size.tile[axis]));
    let parts: Vec<Parts> = headers.styles.iter().map(|style| Parts::of(style, tile)).collect();
    let sum = |of: fn(&Parts) -> u64| size.components * parts.iter().map(of).sum::<u64>();
    let most = |of: fn(&Parts) -> u64| parts.iter().map(of).max().unwrap_or(0);
    let (precincts, blocks) = (sum(|parts| parts.precincts), sum(|parts| parts.blocks));
    // A layer says of a block that it adds something in six bits at least.
    let pieces = (blocks * headers.layers).min(2 * bytes);
    let packets = size.components
        * most(|parts| parts.resolutions)
        * most(|parts| parts.most_precincts)
        * (headers.layers + 1);
    size.tiles() * (TILE_RECORD + COMPONENT_RECORD * size.components)
        + PRECINCT_RECORD * precincts
        + BLOCK_RECORD * blocks
        + PIECE_RECORD * pieces
        + PACKET_RECORD * packets
}

/// How many parts a component of a tile has; counted up where that depends on where the tile lies.
struct Parts {
    resolutions: u64,
    /// Of all bands.
    precincts: u64,
    blocks: u64,
    /// Of the resolution that has most.
    most_precincts: u64,
}

impl Parts {
    fn of(style: &Style, tile: [u64; 2]) -> Self {
        let mut all = Self { resolutions: 0, precincts: 0, blocks: 0, most_precincts: 0 };
        // From the smallest resolution, which is one band, to the tile itself; each of the others adds
        // three bands of half its sides (B.5 to B.7).
        for (level, sides) in (0..=style.levels).rev().zip(&style.precincts) {
            let smallest = level == style.levels;
            let bands = if smallest { 1 } else { 3 };
            let halved = u8::from(!smallest);
            let (mut precincts, mut blocks) = (1, bands);
            for axis in 0..2 {
                let side = tile[axis].div_ceil(1 << level);
                precincts *= side.div_ceil(1 << sides[axis]) + 1;
                let block = style.block[axis].min(sides[axis].saturating_sub(halved));
                blocks *= tile[axis].div_ceil(1 << (level + halved)).div_ceil(1 << block) + 1;
            }
            all.resolutions += 1;
            all.precincts += bands * precincts;
            all.blocks += blocks;
            all.most_precincts = all.most_precincts.max(precincts);
        }
        all
    }
}
