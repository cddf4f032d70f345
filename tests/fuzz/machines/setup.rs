//! The setup of the keys: a gathering that anybody may speak to, and a hospital that is handed any
//! batch.

use aggregation::ids::Digest;
use aggregation::keys::announce::AgreementKey;
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::Signature;
use aggregation::keys::slots::PrekeyBatch;
use aggregation::secret::SecretBytes;
use aggregation::setup::gathering::{Awaited, Gathering};
use aggregation::setup::keyring::Keyring;
use aggregation::setup::{SignedAnnounce, SignedBatch};

use super::super::input::Reader;
use super::house::House;

/// Says to a gathering what the bytes describe. Whether the graph was drawn in the end.
#[must_use]
pub(crate) fn run(data: &[u8]) -> bool {
    let house = House::shared();
    let mut gathering = Gathering::new(house.roll().clone());
    let mut reader = Reader::new(data);
    let mut steps = 0;
    while !reader.is_done() && steps < 120 {
        say(house, &mut gathering, &mut reader);
        steps += 1;
    }
    // What it holds is what the hospitals have said, and nothing else.
    for (id, said) in gathering.announced() {
        let site = (0..house.sites()).find(|site| house.name(*site) == id).expect("on the roll");
        assert_eq!(*said, house.announcement(site));
    }
    gathering.awaited() == Awaited::Nothing
}

/// Courses of a setup: to its end, and in another order.
pub(crate) fn examples() -> Vec<Vec<u8>> {
    let all = |kind: u8| (0..4).flat_map(move |site| [kind, site, site]);
    let whole: Vec<u8> = all(0).chain(all(3)).chain(all(6)).chain(all(7)).collect();
    let mut turned = whole.clone();
    turned.reverse();
    let changed = all(0).chain(all(3)).chain(all(5)).chain([0x45, 1, 3, 9, 0x25, 2]).collect();
    vec![whole.clone(), [turned, whole].concat(), changed]
}

fn say(house: &House, gathering: &mut Gathering, reader: &mut Reader<'_>) {
    let kind = reader.byte();
    let site = reader.place(house.sites());
    let of = if kind >> 4 == 0 { reader.place(house.sites()) } else { site };
    let from = house.name(site);
    let before = gathering.clone();
    let said = match kind % 8 {
        0..=2 => gathering.announce(from, announcement(house.announcement(of), kind, reader)),
        3 | 4 => {
            let nonce = house.nonce(of);
            let odd = kind >> 5 == 1;
            gathering.reveal(from, if odd { GraphNonce::new(reader.array()) } else { nonce })
        }
        5 => {
            let batch = batch(house.signed_batch(of), kind, reader);
            open(house, of, &batch);
            gathering.batch(from, u64::from(reader.byte() % 2), batch)
        }
        6 => gathering.batch(from, 0, house.signed_batch(of).clone()),
        _ => gathering.opened(from, 0, &[house.name(of).clone()].into()),
    };
    if said.is_err() {
        assert_eq!(*gathering, before, "a refusal changed the gathering");
    }
}

fn announcement(mut said: SignedAnnounce, kind: u8, reader: &mut Reader<'_>) -> SignedAnnounce {
    match kind >> 5 {
        1 => said.announce.agreement = AgreementKey::new(reader.array()),
        2 => said.announce.graph_nonce = Digest::new(reader.array()),
        3 => said.signature = Signature::new(reader.array()),
        _ => {}
    }
    said
}

/// A batch in which something may have been changed.
fn batch(honest: &SignedBatch, kind: u8, reader: &mut Reader<'_>) -> SignedBatch {
    let mut changed = honest.clone();
    if kind >> 5 == 1 {
        changed.signature = Signature::new(reader.array());
    } else if kind >> 5 == 2 {
        let mut bytes = honest.batch.encoded().to_vec();
        let at = usize::from(u16::from_le_bytes(reader.array()));
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= reader.byte();
        }
        if let Ok(batch) = PrekeyBatch::decode(bytes) {
            changed.batch = batch;
        }
    }
    changed
}

/// A hospital opens a batch if it is the one that its owner has made, and no other.
fn open(house: &House, of: usize, said: &SignedBatch) {
    let me = (of + 1) % house.sites();
    let secrets = SecretBytes::new(house.keyring_bytes(me).to_vec());
    let keyring = Keyring::resume(house.provision(), house.name(me), &secrets);
    let keyring = keyring.expect("it is what was kept");
    let opened = keyring.open(house.provision(), house.name(of), 0, said);
    assert_eq!(opened.is_ok(), said == house.signed_batch(of), "another batch was opened");
}
