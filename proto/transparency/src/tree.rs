//! The Merkle tree of RFC 9162 section 2.1: hashes, roots, inclusion and consistency proofs.
//!
//! Two prefixes keep a leaf from being taken for a node (section 2.1.1). Proofs are made from any
//! [`Nodes`], a list of leaves in memory or tiles on a disk, and verified from a few hashes alone.

use ring::digest::{Context, SHA256, digest};

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// The most hashes that a proof in a tree of `u64` leaves can have.
pub const MAX_PROOF: usize = 64;

/// The hash of a leaf: `SHA-256(0x00 || leaf)`.
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[0x00]);
    context.update(leaf);
    to_hash(context.finish().as_ref())
}

/// The hash of an inner node: `SHA-256(0x01 || left || right)`.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [0x01; 65];
    bytes[1..33].copy_from_slice(left);
    bytes[33..].copy_from_slice(right);
    to_hash(digest(&SHA256, &bytes).as_ref())
}

/// The root of the tree without leaves: `SHA-256("")`.
#[must_use]
pub fn empty_root() -> Hash {
    to_hash(digest(&SHA256, &[]).as_ref())
}

/// The root over leaf hashes in order (RFC 9162 section 2.1.1).
#[must_use]
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        [left, right] => node_hash(left, right),
        more => {
            // The largest power of two below the length.
            let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
            node_hash(&root(left), &root(right))
        }
    }
}

/// Where proofs take their hashes from.
pub trait Nodes {
    /// Why a hash could not be had.
    type Error;

    /// The hash of the perfect subtree of `2^height` leaves that starts at leaf `index * 2^height`.
    /// Asked only for subtrees that lie within the tree.
    ///
    /// # Errors
    /// When the hash cannot be had.
    fn node(&mut self, height: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// Leaf hashes in memory.
#[derive(Clone, Copy, Debug)]
pub struct Leaves<'a>(pub &'a [Hash]);

/// A proof was asked about leaves that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a leaf or size within the tree")]
pub struct OutsideTheTree;

impl Nodes for Leaves<'_> {
    type Error = OutsideTheTree;

    fn node(&mut self, height: u32, index: u64) -> Result<Hash, OutsideTheTree> {
        let length = 1_usize.checked_shl(height).ok_or(OutsideTheTree)?;
        let index = usize::try_from(index).map_err(|_| OutsideTheTree)?;
        let start = index.checked_mul(length).ok_or(OutsideTheTree)?;
        let end = start.checked_add(length).ok_or(OutsideTheTree)?;
        self.0.get(start..end).map(root).ok_or(OutsideTheTree)
    }
}

/// The root of the first `size` leaves.
///
/// # Errors
/// When `nodes` cannot give a hash.
pub fn root_of<N: Nodes>(nodes: &mut N, size: u64) -> Result<Hash, N::Error> {
    if size == 0 { Ok(empty_root()) } else { range_root(nodes, 0, size) }
}

/// The inclusion proof of leaf `index` in the tree of the first `size` leaves, nearest sibling first
/// (RFC 9162 section 2.1.3.1); `None` when there is no such leaf.
///
/// # Errors
/// When `nodes` cannot give a hash.
pub fn inclusion_proof<N: Nodes>(
    nodes: &mut N,
    index: u64,
    size: u64,
) -> Result<Option<Vec<Hash>>, N::Error> {
    if index >= size {
        return Ok(None);
    }
    let (mut start, mut end) = (0, size);
    let mut siblings = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            siblings.push((middle, end));
            end = middle;
        } else {
            siblings.push((start, middle));
            start = middle;
        }
    }
    siblings
        .into_iter()
        .rev()
        .map(|(start, end)| range_root(nodes, start, end))
        .collect::<Result<_, _>>()
        .map(Some)
}

/// The proof that the tree of `new` leaves begins with the tree of `old` leaves (RFC 9162 section
/// 2.1.4.1). It is empty for `old` of 0, from which every tree grows, and for `old` equal to `new`;
/// `None` when `old` is larger.
///
/// # Errors
/// When `nodes` cannot give a hash.
pub fn consistency_proof<N: Nodes>(
    nodes: &mut N,
    old: u64,
    new: u64,
) -> Result<Option<Vec<Hash>>, N::Error> {
    if old > new {
        return Ok(None);
    }
    if old == 0 {
        return Ok(Some(Vec::new()));
    }
    let (mut start, mut end) = (0, new);
    let mut ranges = Vec::new();
    while end != old {
        let middle = start + split(end - start);
        if old <= middle {
            ranges.push((middle, end));
            end = middle;
        } else {
            ranges.push((start, middle));
            start = middle;
        }
    }
    // The verifier knows the old root itself, but not the root of a part of the old tree.
    if start != 0 {
        ranges.push((start, end));
    }
    ranges
        .into_iter()
        .rev()
        .map(|(start, end)| range_root(nodes, start, end))
        .collect::<Result<_, _>>()
        .map(Some)
}

/// The root that a leaf and its proof lead to (RFC 9162 section 2.1.3.2); `None` when the proof has
/// the wrong length for this leaf and size.
#[must_use]
pub fn root_from_inclusion(leaf: Hash, index: u64, size: u64, proof: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut position, mut last) = (index, size - 1);
    let mut hash = leaf;
    for sibling in proof {
        if last == 0 {
            return None;
        }
        if position & 1 == 1 || position == last {
            hash = node_hash(sibling, &hash);
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// A tree head: how many leaves, and their root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// How many leaves.
    pub size: u64,
    /// Their root.
    pub root: Hash,
}

/// Whether `proof` shows that the tree of `new` begins with the tree of `old` (RFC 9162 section
/// 2.1.4.2). An empty `old` and equal sizes need, and admit, no proof.
#[must_use]
pub fn is_consistent(old: Head, new: Head, proof: &[Hash]) -> bool {
    if old.size == 0 {
        return proof.is_empty() && old.root == empty_root();
    }
    if old.size >= new.size {
        return proof.is_empty() && old == new;
    }
    let (mut position, mut last) = (old.size - 1, new.size - 1);
    while position & 1 == 1 {
        position >>= 1;
        last >>= 1;
    }
    let mut siblings = proof.iter();
    // An old tree that is perfect is itself the first node; otherwise the proof names that node.
    let first = if old.size.is_power_of_two() { Some(&old.root) } else { siblings.next() };
    let Some(&first) = first else { return false };
    let (mut old_root, mut new_root) = (first, first);
    for sibling in siblings {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            old_root = node_hash(sibling, &old_root);
            new_root = node_hash(sibling, &new_root);
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            new_root = node_hash(&new_root, sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    last == 0 && old_root == old.root && new_root == new.root
}

/// The root over leaves `start..end`, a range of the recursion of RFC 9162 section 2.1.1.
fn range_root<N: Nodes>(nodes: &mut N, start: u64, end: u64) -> Result<Hash, N::Error> {
    let length = end - start;
    if length.is_power_of_two() {
        return nodes.node(length.trailing_zeros(), start / length);
    }
    let middle = start + split(length);
    let left = range_root(nodes, start, middle)?;
    let right = range_root(nodes, middle, end)?;
    Ok(node_hash(&left, &right))
}

/// The largest power of two below `n`, for `n` of at least 2.
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

fn to_hash(bytes: &[u8]) -> Hash {
    bytes.try_into().expect("SHA-256 yields 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::hex;

    /// The eight leaves of the RFC 6962 reference implementation.
    fn leaves() -> Vec<Hash> {
        let leaves: [&[u8]; 8] = [
            &[],
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[
                0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d,
                0x6e, 0x6f,
            ],
        ];
        leaves.iter().map(|leaf| leaf_hash(leaf)).collect()
    }

    fn many(count: u16) -> Vec<Hash> {
        (0..count).map(|number| leaf_hash(&number.to_be_bytes())).collect()
    }

    fn head(leaves: &[Hash], size: usize) -> Head {
        Head { size: size as u64, root: root(&leaves[..size]) }
    }

    #[test]
    fn roots_are_those_of_the_reference_implementation() {
        let leaves = leaves();
        for (size, expected) in [
            (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
            (7, "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
            (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
        ] {
            assert_eq!(hex(&root(&leaves[..size])), expected, "size {size}");
            let from_nodes = root_of(&mut Leaves(&leaves), size as u64).expect("leaves are there");
            assert_eq!(hex(&from_nodes), expected, "size {size}");
        }
    }

    #[test]
    fn proofs_are_those_of_the_reference_implementation() {
        let leaves = leaves();
        let starts = |proof: &[Hash]| proof.iter().map(|hash| hex(&hash[..8])).collect::<Vec<_>>();
        let inclusion = inclusion_proof(&mut Leaves(&leaves), 5, 8).expect("in memory");
        assert_eq!(
            starts(&inclusion.expect("leaf 5 is there")),
            ["bc1a0643b12e4d2d", "ca854ea128ed050b", "d37ee418976dd957"]
        );
        let consistency = consistency_proof(&mut Leaves(&leaves), 6, 8).expect("in memory");
        assert_eq!(
            starts(&consistency.expect("6 is not above 8")),
            ["0ebc5d3437fbe2db", "ca854ea128ed050b", "d37ee418976dd957"]
        );
    }

    #[test]
    fn every_inclusion_proof_leads_to_the_root_and_no_other_leaf_does() {
        let leaves = many(70);
        for size in 1..=leaves.len() {
            let expected = root(&leaves[..size]);
            for index in 0..size {
                let (at, of) = (index as u64, size as u64);
                let proof = inclusion_proof(&mut Leaves(&leaves), at, of)
                    .expect("in memory")
                    .expect("the leaf is there");
                assert_eq!(root_from_inclusion(leaves[index], at, of, &proof), Some(expected));
                assert_ne!(root_from_inclusion([9; 32], at, of, &proof), Some(expected));
                let longer = [proof.as_slice(), &[[7; 32]]].concat();
                assert_eq!(root_from_inclusion(leaves[index], at, of, &longer), None);
                assert_eq!(root_from_inclusion(leaves[index], of, of, &proof), None);
                if let Some((_, shorter)) = proof.split_last() {
                    assert_ne!(root_from_inclusion(leaves[index], at, of, shorter), Some(expected));
                }
            }
        }
        assert_eq!(inclusion_proof(&mut Leaves(&leaves), 70, 70), Ok(None));
        assert_eq!(inclusion_proof(&mut Leaves(&leaves), 3, 71), Err(OutsideTheTree));
    }

    #[test]
    fn every_consistency_proof_holds_for_its_two_trees_and_for_no_others() {
        let leaves = many(70);
        for new in 0..=leaves.len() {
            for old in 0..=new {
                let proof = consistency_proof(&mut Leaves(&leaves), old as u64, new as u64)
                    .expect("in memory")
                    .expect("old is not above new");
                let (from, to) = (head(&leaves, old), head(&leaves, new));
                assert!(is_consistent(from, to, &proof), "{old} to {new}");
                let longer = [proof.as_slice(), &[[7; 32]]].concat();
                assert!(!is_consistent(from, to, &longer), "{old} to {new}");
                assert!(!is_consistent(Head { root: [9; 32], ..from }, to, &proof));
                if old > 0 {
                    assert!(!is_consistent(from, Head { root: [9; 32], ..to }, &proof));
                }
                for at in 0..proof.len() {
                    let mut flipped = proof.clone();
                    flipped[at][0] ^= 1;
                    assert!(!is_consistent(from, to, &flipped), "{old} to {new}, hash {at}");
                    let mut shorter = proof.clone();
                    shorter.remove(at);
                    assert!(!is_consistent(from, to, &shorter), "{old} to {new}, hash {at}");
                }
            }
        }
        assert_eq!(consistency_proof(&mut Leaves(&leaves), 8, 7), Ok(None));
    }

    #[test]
    fn sizes_at_the_end_of_the_numbers_neither_panic_nor_pass() {
        let huge = Head { size: u64::MAX, root: [1; 32] };
        let proof = [[2; 32]; MAX_PROOF];
        assert!(!is_consistent(Head { size: 1 << 63, root: [1; 32] }, huge, &proof));
        assert!(!is_consistent(Head { size: u64::MAX - 1, root: [1; 32] }, huge, &proof));
        let _ = root_from_inclusion([0; 32], u64::MAX - 1, u64::MAX, &proof);
        assert_eq!(split(u64::MAX), 1 << 63);
        assert_eq!((split(2), split(3), split(4), split(5)), (1, 2, 2, 4));
    }
}
