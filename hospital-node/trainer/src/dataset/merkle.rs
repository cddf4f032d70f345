//! One digest for a whole data set: the Merkle tree of RFC 9162 section 2.1.1 over its records.
//!
//! Leaves are sorted, so the root does not depend on the order of a manifest; a pseudonym, a file's
//! digest and a label's digest make a leaf, so the root binds all three and shows none.

use ring::digest::{Context, SHA256};

use super::{Record, sha256};

/// The root over these records; of none, the digest of the empty string.
#[must_use]
pub fn root(records: &[Record]) -> [u8; 32] {
    let mut leaves: Vec<[u8; 96]> = records.iter().map(leaf).collect();
    leaves.sort_unstable();
    let mut level: Vec<[u8; 32]> = leaves.iter().map(|leaf| hash(0, &[leaf])).collect();
    if level.is_empty() {
        return sha256(b"");
    }
    // Pairing neighbours and carrying an odd last node up gives the RFC's tree, whose left half is
    // the largest power of two below the number of leaves.
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => hash(1, &[left, right]),
                single => single[0],
            })
            .collect();
    }
    level[0]
}

fn leaf(record: &Record) -> [u8; 96] {
    let mut leaf = [0; 96];
    leaf[..32].copy_from_slice(record.patient.as_bytes());
    leaf[32..64].copy_from_slice(&record.file);
    leaf[64..].copy_from_slice(&sha256(record.label.as_bytes()));
    leaf
}

fn hash(domain: u8, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(&[domain]);
    for part in parts {
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::super::{Part, SiteSecret};
    use super::*;
    use crate::dataset::answers::Answer;

    fn record(number: u8) -> Record {
        Record {
            patient: SiteSecret::new([0; 32]).pseudonym(&number.to_string(), ""),
            part: Part::Train,
            label: "normal".to_owned(),
            answer: Answer::Class(0),
            file: [number; 32],
            image: None,
        }
    }

    /// The definition of RFC 9162, by recursion.
    fn by_definition(leaves: &[[u8; 96]]) -> [u8; 32] {
        match leaves {
            [] => sha256(b""),
            [leaf] => hash(0, &[leaf]),
            more => {
                let split = more.len().next_power_of_two() / 2;
                let (left, right) = more.split_at(split);
                hash(1, &[&by_definition(left), &by_definition(right)])
            }
        }
    }

    #[test]
    fn the_root_is_that_of_the_rfc_for_every_small_size() {
        for size in 0..20 {
            let records: Vec<Record> = (0..size).map(record).collect();
            let mut leaves: Vec<[u8; 96]> = records.iter().map(leaf).collect();
            leaves.sort_unstable();
            assert_eq!(root(&records), by_definition(&leaves), "{size} leaves");
        }
    }

    #[test]
    fn the_order_of_records_does_not_matter_and_every_field_does() {
        let mut records: Vec<Record> = (0..5).map(record).collect();
        let before = root(&records);
        records.reverse();
        assert_eq!(root(&records), before);
        records[2].label = "pneumonia".to_owned();
        assert_ne!(root(&records), before);
    }
}
