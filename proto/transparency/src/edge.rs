//! The tree while it grows: at each tile level the hashes that no full tile covers yet.
//!
//! This is all that a writer keeps between two appends and a verifier between two entries, at most
//! 255 hashes a level, however long the log.

use std::convert::Infallible;

use crate::tile::TILE_WIDTH;
use crate::tree::{self, Hash};

/// The right edge of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

/// A tile that has just become full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullTile {
    /// Its level: 0 holds leaf hashes.
    pub level: u8,
    /// Its place within the level.
    pub index: u64,
    /// Its 256 hashes.
    pub hashes: Vec<Hash>,
}

impl Edge {
    /// The edge of the tree without leaves.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The edge of a tree of `size` leaves, given the hashes of its partial tiles from level 0
    /// upwards; `None` when their numbers are not those of this size.
    #[must_use]
    pub fn from_levels(size: u64, levels: Vec<Vec<Hash>>) -> Option<Self> {
        let mut rest = size;
        for hashes in &levels {
            if hashes.len() as u64 != rest % TILE_WIDTH {
                return None;
            }
            rest /= TILE_WIDTH;
        }
        (rest == 0).then_some(Self { size, levels })
    }

    /// How many leaves the tree has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of the partial tile of each level, from level 0 upwards; a level may have none.
    #[must_use]
    pub fn levels(&self) -> &[Vec<Hash>] {
        &self.levels
    }

    /// Appends one leaf; what comes back are the tiles that it completed, lowest first.
    pub fn push(&mut self, leaf: Hash) -> Vec<FullTile> {
        let mut full = Vec::new();
        let Ok(()) = self.push_with(leaf, |level, index, hashes| {
            let hash = tree::root(&hashes);
            full.push(FullTile { level, index, hashes });
            Ok::<_, Infallible>(hash)
        });
        full
    }

    /// Appends one leaf; `on_full` is told of each tile that it completes, by level, index and
    /// hashes, and says which hash stands for that tile in the level above. A verifier that found
    /// the tile altered goes on with what the parent claims.
    ///
    /// # Errors
    /// Those of `on_full`; the edge is then of no further use.
    pub fn push_with<E>(
        &mut self,
        leaf: Hash,
        mut on_full: impl FnMut(u8, u64, Vec<Hash>) -> Result<Hash, E>,
    ) -> Result<(), E> {
        self.size += 1;
        let mut hash = leaf;
        for level in 0_u8.. {
            let place = usize::from(level);
            if place == self.levels.len() {
                self.levels.push(Vec::new());
            }
            self.levels[place].push(hash);
            if (self.levels[place].len() as u64) < TILE_WIDTH {
                break;
            }
            let hashes = std::mem::take(&mut self.levels[place]);
            let index = (self.size >> (8 * (u32::from(level) + 1))) - 1;
            hash = on_full(level, index, hashes)?;
        }
        Ok(())
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        // At each level the partial tile, followed by what lies below to its right, is a list of
        // subtrees of which only the last may be smaller: RFC 9162 splits it like a list of leaves.
        let mut below: Option<Hash> = None;
        for hashes in &self.levels {
            below = match (hashes.as_slice(), below) {
                ([], below) => below,
                (hashes, None) => Some(tree::root(hashes)),
                (hashes, Some(last)) => Some(tree::root(&[hashes, &[last]].concat())),
            };
        }
        below.unwrap_or_else(tree::empty_root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_has_the_root_of_the_leaves_at_every_size() {
        let leaves: Vec<Hash> =
            (0..70_000_u32).map(|number| tree::leaf_hash(&number.to_be_bytes())).collect();
        let mut edge = Edge::new();
        assert_eq!(edge.root(), tree::empty_root());
        for (at, leaf) in leaves.iter().enumerate() {
            let full = edge.push(*leaf);
            let size = at + 1;
            assert_eq!(full.len(), usize::from(size % 256 == 0) + usize::from(size % 65_536 == 0));
            for tile in &full {
                assert_eq!(tile.hashes.len(), 256);
                let span = if tile.level == 0 { 256 } else { 65_536 };
                assert_eq!(tile.index, (size / span - 1) as u64);
            }
            if size < 600 || size % 7_919 == 0 || size % 65_536 < 3 || size == 70_000 {
                assert_eq!(edge.root(), tree::root(&leaves[..size]), "size {size}");
            }
        }
        // The example of tlog-tiles: 70,000 leaves.
        let widths: Vec<usize> = edge.levels().iter().map(Vec::len).collect();
        assert_eq!(widths, [112, 17, 1]);
        let again = Edge::from_levels(70_000, edge.levels().to_vec()).expect("the right widths");
        assert_eq!(again, edge);
        assert_eq!(Edge::from_levels(70_001, edge.levels().to_vec()), None);
        assert_eq!(Edge::from_levels(112, edge.levels().to_vec()), None);
        assert_eq!(Edge::from_levels(256, Vec::new()), None);
    }
}
