//! What an auditor reads: checkpoints, notes, tiles, entries, leaves, policies, proofs.

use transparency::checkpoint::{Checkpoint, SignedCheckpoint};
use transparency::cosignature::{Cosigner, CosignerKey};
use transparency::leaf::Leaf;
use transparency::note::{Note, Signer, VerifierKey};
use transparency::policy::Policy;
use transparency::proof::Proof;
use transparency::tile::{Tile, decode_entries, decode_hashes, encode_hashes, push_entry};
use transparency::time::UtcTime;
use transparency::tree::{Head, leaf_hash};
use transparency::witness::Offer;

/// Reads what the first byte names from the others.
#[must_use]
pub(crate) fn run(data: &[u8]) -> bool {
    let Some((kind, bytes)) = data.split_first() else { return false };
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    match kind % 12 {
        0 => Note::parse(bytes).is_ok_and(|note| {
            let again = Note::parse(note.to_string().as_bytes());
            assert_eq!(again.as_ref(), Ok(&note));
            true
        }),
        1 => SignedCheckpoint::parse(bytes).is_ok_and(|signed| {
            assert_eq!(SignedCheckpoint::parse(signed.to_string().as_bytes()), Ok(signed.clone()));
            // What verifies is what was signed, to the letter.
            let believed = signed.verify(&signer().key()).is_ok();
            assert!(!believed || signed.checkpoint().size() == 3, "a forged checkpoint");
            true
        }),
        2 => text.parse::<Tile>().is_ok_and(|tile| tile.to_string().parse() == Ok(tile)),
        3 => decode_hashes(bytes).is_some_and(|hashes| {
            assert_eq!(encode_hashes(&hashes), bytes);
            true
        }),
        4 => {
            let Some((width, bundle)) = bytes.split_first() else { return false };
            let Ok(entries) = decode_entries(bundle, u16::from(*width)) else { return false };
            let mut again = Vec::new();
            for entry in &entries {
                push_entry(&mut again, entry).expect("it came out of a bundle");
            }
            assert_eq!((again.as_slice(), entries.len()), (bundle, usize::from(*width)));
            true
        }
        5 => Leaf::decode(bytes).is_ok_and(|leaf| {
            assert_eq!(leaf.bytes(), bytes, "a leaf has one spelling");
            true
        }),
        6 => Policy::parse(bytes).is_ok_and(|policy| {
            let again = Policy::parse(policy.to_string().as_bytes());
            assert!(again.is_ok_and(|again| again == policy), "a policy does not come back");
            true
        }),
        7 => Proof::parse(bytes).is_ok_and(|proof| {
            let again = Proof::parse(proof.to_string().as_bytes());
            assert!(again.is_ok_and(|again| again == proof), "a proof does not come back");
            true
        }),
        8 => Offer::parse(bytes).is_ok_and(|offer| {
            let again = Offer::parse(offer.to_string().as_bytes());
            assert!(again.is_ok_and(|again| again == offer), "an offer does not come back");
            true
        }),
        9 => text.parse::<VerifierKey>().is_ok_and(|key| key.to_string().parse() == Ok(key)),
        10 => text.parse::<CosignerKey>().is_ok_and(|key| key.to_string().parse() == Ok(key)),
        _ => text.parse::<UtcTime>().is_ok_and(|time| time.to_string().parse() == Ok(time)),
    }
}

fn signer() -> Signer {
    Signer::from_seed("log.example/study", &[1; 32]).expect("32 bytes are a seed")
}

fn checkpoint() -> String {
    let head = Head { size: 3, root: leaf_hash(b"root") };
    let checkpoint = Checkpoint::new("log.example/study", head).expect("a good origin");
    SignedCheckpoint::sign(checkpoint, &signer()).expect("its own origin").to_string()
}

/// One of each.
#[must_use]
pub(crate) fn examples() -> Vec<Vec<u8>> {
    let mut bundle = vec![2];
    for entry in [b"one".as_slice(), b"another"] {
        push_entry(&mut bundle, entry).expect("a short entry");
    }
    let time = UtcTime::from_millis(1_700_000_000_000).expect("a moment of this century");
    let mut data = serde_json::Map::new();
    data.insert("round".to_owned(), 3.into());
    let leaf = Leaf::new("round_announced", time, data).expect("a good leaf");
    let signed = SignedCheckpoint::parse(checkpoint().as_bytes()).expect("it was just made");
    let hashes = vec![leaf_hash(b"a"), leaf_hash(b"b")];
    let proof = Proof::new(1, hashes.clone(), signed.clone()).with_entry(b"an entry");
    let cosigner = Cosigner::from_seed("site.example/north", &[2; 32]).expect("a seed");
    let policy = Policy::threshold(&signer().key(), &[("north".to_owned(), cosigner.key())], 1);
    let offer = Offer { old_size: 1, proof: hashes.clone(), signed };
    let texts = [
        (0, checkpoint()),
        (1, checkpoint()),
        (2, "tile/0/x001/067".to_owned()),
        (2, "tile/entries/003.p/17".to_owned()),
        (7, proof.to_string()),
        (8, offer.to_string()),
        (9, signer().key().to_string()),
        (10, cosigner.key().to_string()),
        (11, time.to_string()),
    ];
    let mut examples: Vec<Vec<u8>> =
        texts.into_iter().map(|(kind, text)| [&[kind], text.as_bytes()].concat()).collect();
    examples.push([&[3], encode_hashes(&hashes).as_slice()].concat());
    examples.push([&[4], bundle.as_slice()].concat());
    examples.push([&[5], leaf.bytes()].concat());
    if let Ok(policy) = policy {
        examples.push([&[6], policy.to_string().as_bytes()].concat());
    }
    examples
}
