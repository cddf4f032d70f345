//! The files of a log after C2SP [tlog-tiles]: where each lies, and what its bytes mean.
//!
//! A tile is up to 256 hashes of one level of the tree; level 0 holds leaf hashes, and each hash of
//! a higher level is the root of a full tile below. An entry bundle is the entries of one level-0
//! tile. Names and contents are read strictly: one file has one spelling.
//!
//! [tlog-tiles]: https://c2sp.org/tlog-tiles

use std::fmt;
use std::str::FromStr;

use crate::text::decimal;
use crate::tree::Hash;

/// How many hashes a full tile has, and how many entries a full bundle.
pub const TILE_WIDTH: u64 = 256;

/// The size of a full tile.
pub const TILE_BYTES: usize = 8_192;

/// The largest entry: its length is written in two bytes.
pub const MAX_ENTRY_BYTES: usize = 65_535;

/// The largest entry bundle.
pub const MAX_BUNDLE_BYTES: usize = 256 * (2 + MAX_ENTRY_BYTES);

/// The highest level of tiles that tlog-tiles has names for.
const MAX_LEVEL: u8 = 63;

/// What a file of the tree holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Row {
    /// Entries, length-prefixed.
    Entries,
    /// Hashes of this level.
    Hashes(u8),
}

/// Names one tile or entry bundle; displayed as its path within the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    row: Row,
    index: u64,
    width: u16,
}

impl Tile {
    /// The tile or bundle with this index in a tree of `size` leaves: full, or as wide as that tree
    /// makes it. `None` when the tree does not reach there.
    #[must_use]
    pub fn of(size: u64, row: Row, index: u64) -> Option<Self> {
        let hashes = row.hashes(size);
        if index < hashes / TILE_WIDTH {
            return Some(Self { row, index, width: 256 });
        }
        let width = u16::try_from(hashes % TILE_WIDTH).ok()?;
        (index == hashes / TILE_WIDTH && width > 0).then_some(Self { row, index, width })
    }

    /// The rightmost tile of a row in a tree of `size` leaves if it is partial.
    #[must_use]
    pub fn partial_of(size: u64, row: Row) -> Option<Self> {
        Self::of(size, row, row.hashes(size) / TILE_WIDTH)
    }

    /// A full tile.
    #[must_use]
    pub fn full(row: Row, index: u64) -> Self {
        Self { row, index, width: 256 }
    }

    /// What it holds.
    #[must_use]
    pub fn row(&self) -> Row {
        self.row
    }

    /// Its place in its row.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many hashes or entries it holds, 1 to 256.
    #[must_use]
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Whether it has room for more.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        u64::from(self.width) < TILE_WIDTH
    }

    /// The full tile at its place, which takes over from a partial one.
    #[must_use]
    pub fn filled(&self) -> Self {
        Self { width: 256, ..*self }
    }

    /// The most bytes that the file can have.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        let width = usize::from(self.width);
        match self.row {
            Row::Entries => width * (2 + MAX_ENTRY_BYTES),
            Row::Hashes(_) => width * size_of::<Hash>(),
        }
    }
}

impl Row {
    /// How many hashes (or entries) this row has in a tree of `size` leaves.
    fn hashes(self, size: u64) -> u64 {
        match self {
            Self::Entries => size,
            Self::Hashes(level) => size.checked_shr(8 * u32::from(level)).unwrap_or(0),
        }
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row {
            Row::Entries => f.write_str("tile/entries")?,
            Row::Hashes(level) => write!(f, "tile/{level}")?,
        }
        let mut groups = vec![self.index % 1_000];
        let mut rest = self.index / 1_000;
        while rest > 0 {
            groups.push(rest % 1_000);
            rest /= 1_000;
        }
        for (left, group) in groups.iter().enumerate().rev() {
            write!(f, "/{}{group:03}", if left == 0 { "" } else { "x" })?;
        }
        if self.is_partial() { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

/// A path that names no tile and no entry bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the path of a tile or entry bundle, found {0:?}")]
pub struct NotATile(String);

impl FromStr for Tile {
    type Err = NotATile;

    fn from_str(path: &str) -> Result<Self, NotATile> {
        let refused = || NotATile(path.chars().take(100).collect());
        let rest = path.strip_prefix("tile/").ok_or_else(refused)?;
        let (row, rest) = rest.split_once('/').ok_or_else(refused)?;
        let row = if row == "entries" {
            Row::Entries
        } else {
            let level = decimal(row).and_then(|level| u8::try_from(level).ok());
            Row::Hashes(level.filter(|level| *level <= MAX_LEVEL).ok_or_else(refused)?)
        };
        let (index, width) = match rest.split_once(".p/") {
            None => (rest, 256),
            Some((index, width)) => {
                let width = decimal(width).and_then(|width| u16::try_from(width).ok());
                (index, width.filter(|width| (1..256).contains(width)).ok_or_else(refused)?)
            }
        };
        let index = parse_index(index).ok_or_else(refused)?;
        Ok(Self { row, index, width })
    }
}

fn parse_index(text: &str) -> Option<u64> {
    let mut index = 0_u64;
    let mut groups = text.split('/').peekable();
    let mut first = true;
    while let Some(group) = groups.next() {
        let last = groups.peek().is_none();
        let digits = if last { group } else { group.strip_prefix('x')? };
        if digits.len() != 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        // A leading group of zeroes would be a second name for the same tile.
        if first && !last && digits == "000" {
            return None;
        }
        first = false;
        index = index.checked_mul(1_000)?.checked_add(digits.parse().ok()?)?;
    }
    Some(index)
}

/// The bytes of a tile.
#[must_use]
pub fn encode_hashes(hashes: &[Hash]) -> Vec<u8> {
    hashes.concat()
}

/// The hashes of a tile; `None` when the bytes are not a whole number of them.
#[must_use]
pub fn decode_hashes(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks();
    rest.is_empty().then(|| hashes.to_vec())
}

/// An entry of more than [`MAX_ENTRY_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an entry of at most {MAX_ENTRY_BYTES} bytes, found {0}")]
pub struct EntryTooLong(pub usize);

/// Appends one entry to the bytes of a bundle.
///
/// # Errors
/// When it is too long; the bundle is then unchanged.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), EntryTooLong> {
    let length = u16::try_from(entry.len()).map_err(|_| EntryTooLong(entry.len()))?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// The bytes of a bundle do not divide into entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleFault {
    /// It ends within an entry.
    #[error("entry {entry} of the bundle, at byte {byte}, runs past its end")]
    Truncated {
        /// Which entry of the bundle.
        entry: usize,
        /// Where that entry starts.
        byte: usize,
    },
    /// It has another number of entries than its name says.
    #[error("expected {expected} entries in the bundle, found {found}")]
    Count {
        /// How many the name promises.
        expected: u16,
        /// How many were found; one more than expected may stand for many.
        found: usize,
    },
}

/// The entries of a bundle that should have `width` of them.
///
/// # Errors
/// When the bytes do not divide into exactly that many.
pub fn decode_entries(bytes: &[u8], width: u16) -> Result<Vec<&[u8]>, BundleFault> {
    let mut entries = Vec::with_capacity(usize::from(width));
    let mut rest = bytes;
    while !rest.is_empty() {
        if entries.len() == usize::from(width) {
            return Err(BundleFault::Count { expected: width, found: entries.len() + 1 });
        }
        let truncated =
            BundleFault::Truncated { entry: entries.len(), byte: bytes.len() - rest.len() };
        let (length, after) = rest.split_first_chunk().ok_or(truncated)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, after) = after.split_at_checked(length).ok_or(truncated)?;
        entries.push(entry);
        rest = after;
    }
    if entries.len() != usize::from(width) {
        return Err(BundleFault::Count { expected: width, found: entries.len() });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let path = |row, index| Tile::full(row, index).to_string();
        assert_eq!(path(Row::Hashes(0), 1_234_067), "tile/0/x001/x234/067");
        assert_eq!(path(Row::Hashes(3), 0), "tile/3/000");
        assert_eq!(path(Row::Hashes(1), 999), "tile/1/999");
        assert_eq!(path(Row::Entries, 1_000), "tile/entries/x001/000");
        let partial = Tile::of(70_000, Row::Entries, 273).expect("the last bundle");
        assert_eq!(partial.to_string(), "tile/entries/273.p/112");
    }

    #[test]
    fn a_path_that_is_read_is_written_the_same() {
        for path in
            ["tile/0/000", "tile/63/x018/x446/x744/x073/x709/x551/615", "tile/entries/001.p/255"]
        {
            assert_eq!(path.parse::<Tile>().map(|tile| tile.to_string()).as_deref(), Ok(path));
        }
        for wrong in [
            "",
            "tile",
            "tile/",
            "tile/0",
            "tile/0/",
            "tile/00/000",
            "tile/64/000",
            "tile/0/00",
            "tile/0/0000",
            "tile/0/x001",
            "tile/0/001/234",
            "tile/0/x000/001",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/",
            "tile/0/000.p",
            "tile/0/x001/x234",
            "/tile/0/000",
            "tile/0/000/",
            "tile/-1/000",
            "tile/0/x999/x999/x999/x999/x999/x999/999",
            "tile/0/../000",
            "tile/0/0\u{661}0",
        ] {
            assert!(wrong.parse::<Tile>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_tree_of_70_000_has_the_tiles_that_the_specification_lists() {
        let widths = |row: Row, last: u64| {
            assert_eq!(Tile::of(70_000, row, last + 1), None);
            (0..=last)
                .filter_map(|index| Tile::of(70_000, row, index))
                .map(|tile| tile.width)
                .collect::<Vec<_>>()
        };
        let level_0 = widths(Row::Hashes(0), 273);
        assert_eq!((level_0.len(), level_0[0], level_0[272], level_0[273]), (274, 256, 256, 112));
        assert_eq!(widths(Row::Hashes(1), 1), [256, 17]);
        assert_eq!(widths(Row::Hashes(2), 0), [1]);
        assert_eq!(Tile::of(70_000, Row::Hashes(3), 0), None);
        assert_eq!(Tile::of(256, Row::Hashes(0), 0).map(|tile| tile.width), Some(256));
        assert_eq!(Tile::of(256, Row::Hashes(0), 1), None);
        assert_eq!(Tile::of(256, Row::Hashes(1), 0).map(|tile| tile.width), Some(1));
        assert_eq!(Tile::of(0, Row::Entries, 0), None);
        assert_eq!(Tile::of(u64::MAX, Row::Hashes(8), 0), None);
        assert_eq!(Tile::partial_of(256, Row::Hashes(0)), None);
    }

    #[test]
    fn entries_survive_their_bundle_and_a_wrong_bundle_says_where() {
        let longest = vec![7; MAX_ENTRY_BYTES];
        let mut bundle = Vec::new();
        for entry in [b"".as_slice(), b"one", &longest] {
            push_entry(&mut bundle, entry).expect("short enough");
        }
        assert_eq!(decode_entries(&bundle, 3), Ok(vec![b"".as_slice(), b"one", &longest]));
        assert_eq!(push_entry(&mut bundle, &[0; 65_536]), Err(EntryTooLong(65_536)));
        assert_eq!(decode_entries(&bundle, 4), Err(BundleFault::Count { expected: 4, found: 3 }));
        assert_eq!(decode_entries(&bundle, 2), Err(BundleFault::Count { expected: 2, found: 3 }));
        let cut = &bundle[..bundle.len() - 1];
        assert_eq!(decode_entries(cut, 3), Err(BundleFault::Truncated { entry: 2, byte: 7 }));
        assert_eq!(decode_entries(&[0], 1), Err(BundleFault::Truncated { entry: 0, byte: 0 }));
        assert_eq!(decode_hashes(&[0; 33]), None);
        assert_eq!(decode_hashes(&[1; 64]), Some(vec![[1; 32]; 2]));
    }
}
