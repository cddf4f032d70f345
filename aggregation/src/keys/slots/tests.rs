//! Batches made, read, opened, altered and compared with another implementation's.

use super::*;
use crate::context::Context;
use crate::ids::{Digest, RoundId, StudyId};
use crate::keys::announce::{AgreementKey, AgreementSecret, KeyAnnounce};
use crate::keys::graph::{Graph, GraphNonce, GraphSeed};
use crate::keys::identity::{Identity, IdentityKey, Signature};
use crate::keys::thresholds::Thresholds;
use crate::masking::group::Modulus;
use crate::masking::keystream::TILE_LANES;
use crate::masking::masks::{Masks, Tiles};
use crate::secret::unhex;

const VECTORS: &str = include_str!("../../../../tests/vectors/slots.txt");

fn known(name: &str) -> Vec<u8> {
    let find = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| unhex(value))
    };
    VECTORS.lines().find_map(find).expect("the vector is in the file")
}

fn known_array<const N: usize>(name: &str) -> [u8; N] {
    known(name).try_into().expect("the vector has the length of its kind")
}

fn seed(text: &str) -> Secret<32> {
    Secret::new(*Digest::sha256(text.as_bytes()).as_bytes())
}

fn study() -> StudyId {
    StudyId::new(Digest::sha256(b"study"))
}

fn charter() -> Digest {
    Digest::sha256(b"charter")
}

fn name(text: &str) -> HospitalId {
    HospitalId::new(text).expect("a name")
}

fn agreement(id: &str) -> AgreementSecret {
    AgreementSecret::new(&seed(&format!("agreement {id}")))
}

fn identity(id: &str) -> Identity {
    Identity::from_seed(&seed(&format!("identity {id}"))).expect("32 bytes are a seed")
}

fn announce(id: &str) -> KeyAnnounce {
    KeyAnnounce {
        study: study(),
        charter: charter(),
        hospital: name(id),
        agreement: agreement(id).key(),
        graph_nonce: GraphNonce::new([1; 32]).commitment(study(), charter(), &name(id)),
    }
}

/// Chains of a pair start at slot 5.
fn pair(ours: &str, theirs: &str) -> PairKeys {
    let root = agreement(ours).root(&announce(ours), &announce(theirs)).expect("honest keys");
    let (chain, shares) = root.into_keys(SlotId::new(5));
    PairKeys { chain, shares }
}

fn drawn(n: u16, t: u16, m: u16) -> Graph {
    let ids = (0..n).map(|i| name(&char::from(b'a' + u8::try_from(i).expect("few")).to_string()));
    let ids: Vec<HospitalId> = ids.collect();
    let nonce = GraphNonce::new([1; 32]);
    let commit = |id: &HospitalId| (id.clone(), nonce.commitment(study(), charter(), id));
    let commitments = ids.iter().map(commit).collect();
    let nonces = ids.iter().map(|id| (id.clone(), nonce)).collect();
    let seed = GraphSeed::from_nonces(study(), charter(), &commitments, &nonces);
    let thresholds = Thresholds::new(n, t, m).expect("the thresholds hold together");
    Graph::new(&ids.into_iter().collect(), &thresholds, &seed.expect("honest nonces"))
        .expect("there is a graph")
}

fn hood(graph: &Graph, id: &str) -> Neighbourhood {
    graph.neighbourhood(&name(id)).expect("a member has a neighbourhood")
}

fn scope(owner: &str) -> BatchScope {
    let mut batch = [0; 16];
    batch.copy_from_slice(&Digest::sha256(b"batch").as_bytes()[..16]);
    let first = SlotId::new(7);
    BatchScope { study: study(), charter: charter(), owner: name(owner), batch, first }
}

fn keys_of(hood: &Neighbourhood) -> BTreeMap<HospitalId, PairKeys> {
    let owner = hood.owner().hospital.as_str();
    let pair =
        |m: &crate::keys::graph::Member| (m.hospital.clone(), pair(owner, m.hospital.as_str()));
    hood.neighbours().iter().map(pair).collect()
}

fn made(hood: &Neighbourhood, slots: u32) -> (PrekeyBatch, OwnSlots) {
    let scope = scope(hood.owner().hospital.as_str());
    make(&scope, slots, hood, &keys_of(hood), seed("batch seed")).expect("the batch can be made")
}

const SEVEN: SlotId = SlotId::new(7);
const EIGHT: SlotId = SlotId::new(8);

/// M-09 to M-20, against another implementation: see the head of the file.
#[test]
fn a_batch_is_that_of_another_implementation() {
    for id in ["a", "b", "c"] {
        let secret =
            AgreementSecret::new(&Secret::new(known_array(&format!("agreement-seed-{id}"))));
        assert_eq!(secret.key(), AgreementKey::new(known_array(&format!("agreement-key-{id}"))));
    }
    for (one, other) in [("a", "b"), ("b", "a")] {
        let seed = pair(one, other).chain.take(SEVEN).expect("the slot is ahead");
        assert_eq!(seed.secret().expose(), &known_array("seed-ab-7"));
    }
    let seed_ac = pair("c", "a").chain.take(EIGHT).expect("the slot is ahead");
    assert_eq!(seed_ac.secret().expose(), &known_array("seed-ac-8"));

    let (batch, mut own) = made(&hood(&drawn(3, 1, 3), "a"), 2);
    assert_eq!(scope("a").batch, known_array("batch-id"));
    assert_eq!(batch.encoded(), known("batch"));
    let identity_a = identity("a");
    assert_eq!(identity_a.sign(&batch), Signature::new(known_array("batch-signature")));
    for (slot, number) in [(SEVEN, 7), (EIGHT, 8)] {
        let kept = own.take(slot).expect("the slot was made");
        let secret = kept.secret().secret().expose();
        assert_eq!(secret, &known_array(&format!("self-{number}")));
        let share = kept.share().value().secret().expose();
        assert_eq!(share, &known_array(&format!("own-share-{number}")));
    }

    let key = |id| (name(id), IdentityKey::new(known_array(&format!("identity-key-{id}"))));
    let context = Context {
        study: study(),
        charter: charter(),
        epoch: 2,
        slot: SEVEN,
        round: RoundId::new(9).expect("not 0"),
        model: Digest::sha256(b"model"),
        plan: Digest::sha256(b"plan"),
        roster: ["a", "b", "c"].map(key).into(),
        graph: Digest::sha256(b"graph"),
        checkpoint: Digest::sha256(b"checkpoint"),
    };
    let digest = context.digest();
    assert_eq!(digest.digest().as_bytes(), &known_array("context"));
    let own = SecretScalar::from_canonical(Secret::new(known_array("self-7"))).expect("canonical");
    let seed = pair("a", "b").chain.take(SEVEN).expect("the slot is ahead");
    // The two masks, one at a time; the vectors are of tile 3.
    for (vector, masks) in [
        ("self-mask-a-7", digest.masks_of(&name("a"), &own, [])),
        (
            "pair-mask-ab-7",
            digest.pair_masks(&name("a"), [(&name("b"), &seed)]).map(|pair| pair.mask()).collect(),
        ),
    ] {
        let mut lanes = vec![0; 3 * TILE_LANES + 16];
        Masks::new(Modulus::Bits32, masks).apply(Tiles::new(&mut lanes));
        let bytes: Vec<u8> =
            lanes[3 * TILE_LANES..].iter().flat_map(|lane| lane.to_le_bytes()).collect();
        assert_eq!(bytes, known(vector));
    }
}

/// M-13, M-14: T shares recover and are held against the commitment; T - 1, or a wrong one, are
/// found out.
#[test]
fn secrets_come_back_from_enough_right_shares_only() {
    let graph = drawn(5, 1, 4);
    let owner = hood(&graph, "b");
    let (batch, mut own) = made(&owner, 1);
    let batch = PrekeyBatch::decode(batch.encoded().to_vec()).expect("the batch is well-formed");
    let mut shares = BTreeMap::new();
    for kind in [Kind::Own, Kind::Recovery] {
        let open = |member: &crate::keys::graph::Member| {
            let root = pair(member.hospital.as_str(), "b").shares;
            let mut held = batch.open(&owner, member, &root).expect("the shares open");
            let (slot, held) = held.pop().expect("one slot");
            assert_eq!((slot, held.holder()), (SEVEN, member.holder));
            let resumed = HeldShares::resume(held.holder(), &held.secrets());
            assert_eq!(resumed.as_ref(), Some(&held));
            held.release(kind)
        };
        shares.insert(kind, owner.neighbours().iter().map(open).collect::<Vec<Share>>());
    }
    let slot = own.take(SEVEN).expect("the slot was made");
    assert_eq!(graph.threshold(), 4);
    for (kind, shares) in &shares {
        let recover_from = |shares: &[&Share]| {
            let holders: Vec<Holder> = shares.iter().map(|share| share.holder()).collect();
            let holders = Recovery::from_holders(&holders).expect("distinct");
            recover(&batch, SEVEN, *kind, &holders, shares)
        };
        let all: Vec<&Share> = shares.iter().collect();
        let secret = recover_from(&all).expect("four shares are enough");
        let other = Err(SlotRefused::OtherSecret { owner: name("b"), slot: SEVEN, kind: *kind });
        assert_eq!(recover_from(&all[1..]), other);
        let wrong = Share::new(all[0].holder(), SecretScalar::from_wide(&Secret::new([9; 64])));
        assert_eq!(recover_from(&[&wrong, all[1], all[2], all[3]]), other);
        match kind {
            Kind::Own => {
                assert_eq!(&secret, slot.secret());
                // The owner's share of its own secret is as good as any.
                let with_own = [slot.share(), all[1], all[2], all[3]];
                assert_eq!(recover_from(&with_own).as_ref(), Ok(slot.secret()));
            }
            Kind::Recovery => {
                let seeds = batch.open_escrow(SEVEN, &secret).expect("the escrow opens");
                for (member, seed) in owner.neighbours().iter().zip(&seeds) {
                    let mut chain = pair(member.hospital.as_str(), "b").chain;
                    assert_eq!(Ok(seed), chain.take(SEVEN).as_ref());
                }
                assert_eq!(seeds.len(), 4);
            }
        }
    }
    // One kind's shares are of no use for the other kind, nor for another slot.
    let holders: Vec<Holder> = shares[&Kind::Own].iter().map(Share::holder).collect();
    let holders = Recovery::from_holders(&holders).expect("distinct");
    let own_shares: Vec<&Share> = shares[&Kind::Own].iter().collect();
    assert!(recover(&batch, SEVEN, Kind::Recovery, &holders, &own_shares).is_err());
    assert!(recover(&batch, EIGHT, Kind::Own, &holders, &own_shares).is_err());
}

/// M-17, and what issue 3 counts: 112 k + 80 bytes a slot.
#[test]
fn a_batch_has_exactly_the_bytes_of_its_slots() {
    for n in [3_u16, 7] {
        let owner = hood(&drawn(n, 1, n), "c");
        let k = usize::from(n) - 1;
        let size = |slots| made(&owner, slots).0.encoded().len();
        assert_eq!(size(2) - size(1), 112 * k + 80);
        assert_eq!(size(9) - size(1), 8 * (112 * k + 80));
        assert_eq!(PrekeyBatch::size(&owner.owner().hospital, 9, k), Some(size(9)));
    }
}

/// M-17: cut short, made longer, or with any number in its head changed.
#[test]
fn what_is_not_exactly_a_batch_is_refused() {
    let (batch, _) = made(&hood(&drawn(3, 1, 3), "a"), 2);
    let good = batch.encoded();
    assert_eq!(PrekeyBatch::decode(good.to_vec()).as_ref(), Ok(&batch));
    for length in 0..good.len() {
        let refused = PrekeyBatch::decode(good[..length].to_vec());
        assert_eq!(refused.map_err(|refused| refused.rule()), Err("M-17"), "{length}");
    }
    assert!(PrekeyBatch::decode([good, &[0]].concat()).is_err());
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.to_vec();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        PrekeyBatch::decode(changed).map_err(|refused| refused.rule())
    };
    let malformed = Err("M-17");
    assert_eq!(with(7, b"2"), malformed);
    // The first slot, so high that the last one has no number.
    assert_eq!(with(88, &(u64::MAX - 1).to_le_bytes()), malformed);
    // Slots and neighbours: absurd ones allocate nothing.
    for slots in [0, 1, 3, MAX_SLOTS + 1, u32::MAX] {
        assert_eq!(with(96, &slots.to_le_bytes()), malformed);
    }
    for neighbours in [0_u16, 1, 3, u16::MAX] {
        assert_eq!(with(100, &neighbours.to_le_bytes()), malformed);
    }
    for length in [0, 2, 255] {
        assert_eq!(with(102, &[length]), malformed);
    }
    assert_eq!(with(103, b"A"), malformed);
    assert_eq!(with(103, &[0xff]), malformed);
}

/// M-18
#[test]
fn a_batch_of_another_scope_or_signer_is_refused() {
    let graph = drawn(4, 1, 3);
    let owner = hood(&graph, "a");
    let (batch, _) = made(&owner, 1);
    let key = identity("a").key();
    let signature = identity("a").sign(&batch);
    let other = Digest::sha256(b"other");
    let check = |batch: &PrekeyBatch, study, charter, first, hood, key, signature| {
        batch.check(study, charter, first, hood, key, signature).map_err(|r| r.to_string())
    };
    assert_eq!(check(&batch, study(), charter(), SEVEN, &owner, &key, &signature), Ok(()));
    let refused =
        |what: &str| Err(format!("the prekey batch of a is for another {what} than expected"));
    let elsewhere = StudyId::new(other);
    assert_eq!(
        check(&batch, elsewhere, charter(), SEVEN, &owner, &key, &signature),
        refused("study")
    );
    assert_eq!(check(&batch, study(), other, SEVEN, &owner, &key, &signature), refused("charter"));
    assert_eq!(
        check(&batch, study(), charter(), EIGHT, &owner, &key, &signature),
        refused("first slot")
    );
    let smaller = hood(&drawn(3, 1, 3), "a");
    assert_eq!(
        check(&batch, study(), charter(), SEVEN, &smaller, &key, &signature),
        refused("number of neighbours")
    );
    let stranger = identity("b").sign(&batch);
    let forged = check(&batch, study(), charter(), SEVEN, &owner, &key, &stranger);
    assert!(forged.is_err_and(|text| text.starts_with("the prekey batch of a is not its own")));
    let bs = hood(&graph, "b");
    assert!(check(&batch, study(), charter(), SEVEN, &bs, &key, &signature).is_err());
}

/// M-14, M-15, M-18: any flipped bit is seen by the signature, and whoever it concerns.
#[test]
fn what_was_altered_on_the_way_does_not_open() {
    let graph = drawn(3, 1, 3);
    let owner = hood(&graph, "a");
    let b = owner.neighbours()[0].clone();
    let (batch, _) = made(&owner, 1);
    let signature = identity("a").sign(&batch);
    let recovery = SecretScalar::from_canonical(Secret::new(known_array("recovery-7")));
    let recovery = recovery.expect("canonical");
    assert!(batch.open_escrow(SEVEN, &recovery).is_ok());
    let start = batch.encoded().len() - (112 * 2 + 80);
    for at in 0..batch.encoded().len() {
        let mut changed = batch.encoded().to_vec();
        changed[at] ^= 1 << (at % 8);
        let Ok(changed) = PrekeyBatch::decode(changed) else { continue };
        let key = identity("a").key();
        let signed = changed.check(study(), charter(), SEVEN, &owner, &key, &signature);
        assert!(signed.is_err(), "byte {at}");
        let shares = changed.open(&owner, &b, &pair("b", "a").shares).map_err(|r| r.rule());
        let escrow = changed.open_escrow(SEVEN, &recovery).map_err(|r| r.rule());
        match at.checked_sub(start) {
            // In the scope: nothing opens any more.
            None => assert!(shares.is_err() && escrow.is_err(), "byte {at}"),
            Some(0..32) => assert!(shares.is_ok() && escrow.is_ok()),
            Some(32..64) => assert_eq!(escrow.err(), Some("M-13")),
            Some(64..144) => assert_eq!(shares.err(), Some("M-14")),
            Some(144..224) => assert!(shares.is_ok() && escrow.is_ok(), "of the other neighbour"),
            Some(_) => assert_eq!((shares.is_ok(), escrow.err()), (true, Some("M-15"))),
        }
    }
}

/// M-14: a sealed share opens in its own place only.
#[test]
fn a_share_moved_to_another_slot_or_neighbour_does_not_open() {
    let owner = hood(&drawn(3, 1, 3), "a");
    let (batch, _) = made(&owner, 2);
    let [b, c] = [0, 1].map(|at| owner.neighbours()[at].clone());
    let length = 112 * 2 + 80;
    let start = batch.encoded().len() - 2 * length;
    let moved = |from: usize, to: usize| {
        let mut changed = batch.encoded().to_vec();
        changed.copy_within(start + from..start + from + SHARES, start + to);
        PrekeyBatch::decode(changed).expect("its layout is as before")
    };
    const SHARES: usize = 80;
    let root = |id| pair(id, "a").shares;
    let rule = |r: Result<Vec<(SlotId, HeldShares)>, SlotRefused>| r.map_err(|r| r.rule()).err();
    let later = moved(64, 64 + length);
    assert_eq!(rule(later.open(&owner, &b, &root("b"))), Some("M-14"));
    assert_eq!(rule(later.open(&owner, &c, &root("c"))), None);
    let sideways = moved(64, 64 + SHARES);
    assert_eq!(rule(sideways.open(&owner, &c, &root("c"))), Some("M-14"));
    // Nor with another neighbour's key, nor for a stranger.
    assert_eq!(rule(batch.open(&owner, &b, &root("c"))), Some("M-14"));
    assert_eq!(rule(batch.open(&owner, owner.owner(), &root("b"))), Some("M-18"));
}

/// M-14: the same node, restored from a backup, makes its batch again under a new id: no key, and
/// so no nonce, is used twice.
#[test]
fn another_batch_id_leaves_nothing_the_same() {
    let owner = hood(&drawn(3, 1, 3), "a");
    let (batch, _) = made(&owner, 1);
    let again = BatchScope { batch: [9; 16], ..scope("a") };
    let (again, _) = make(&again, 1, &owner, &keys_of(&owner), seed("batch seed")).expect("made");
    let body = batch.encoded().len() - (112 * 2 + 80);
    let blocks =
        |batch: &PrekeyBatch| -> Vec<[u8; 16]> { batch.encoded()[body..].as_chunks().0.to_vec() };
    let first = blocks(&batch);
    assert!(blocks(&again).iter().all(|block| !first.contains(block)));
}

/// M-16
#[test]
fn a_slot_is_taken_once_and_takes_those_before_it_along() {
    let (_, mut own) = made(&hood(&drawn(3, 1, 3), "a"), 5);
    assert_eq!(own.slots().map(SlotId::get).collect::<Vec<_>>(), [7, 8, 9, 10, 11]);
    assert!(own.take(SlotId::new(9)).is_some());
    for gone in [7, 8, 9, 12] {
        assert_eq!(own.take(SlotId::new(gone)), None);
        if gone == 12 {
            assert_eq!(own.slots().count(), 0);
        } else {
            assert_eq!(own.slots().map(SlotId::get).collect::<Vec<_>>(), [10, 11]);
        }
    }
}

#[test]
fn a_batch_that_cannot_be_is_not_made() {
    let owner = hood(&drawn(3, 1, 3), "a");
    let rule = |scope: &BatchScope, slots, keys: &_| {
        make(scope, slots, &owner, keys, seed("batch seed")).map_err(|refused| refused.rule()).err()
    };
    let keys = keys_of(&owner);
    for slots in [0, MAX_SLOTS + 1, u32::MAX] {
        assert_eq!(rule(&scope("a"), slots, &keys), Some("M-17"));
    }
    assert_eq!(rule(&scope("b"), 1, &keys), Some("M-18"));
    let before = BatchScope { first: SlotId::new(4), ..scope("a") };
    assert_eq!(rule(&before, 1, &keys), Some("M-11"));
    let mut fewer = keys_of(&owner);
    let c = fewer.remove(&name("c")).expect("c is a neighbour");
    assert_eq!(rule(&scope("a"), 1, &fewer), Some("M-18"));
    fewer.insert(name("x"), c);
    assert_eq!(rule(&scope("a"), 1, &fewer), Some("M-18"));
}

#[test]
fn nothing_secret_shows() {
    let (batch, own) = made(&hood(&drawn(3, 1, 3), "a"), 1);
    let shown = format!("{own:?} {:?} {batch:?}", pair("a", "b"));
    let secret: String = known("self-7").iter().map(|byte| format!("{byte}, ")).collect();
    assert!(!shown.contains(secret.trim_end_matches(", ")));
    assert!(shown.contains("Secret(..)"));
}
