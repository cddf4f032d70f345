//! The setup of keys in which somebody does what the rules forbid, at either end.

mod federation;

use std::collections::{BTreeMap, BTreeSet};

use aggregation::charter::Charter;
use aggregation::ids::{HospitalId, SlotId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::{Identity, IdentityKey, Signature};
use aggregation::keys::provision::slots_per_batch;
use aggregation::keys::roll::Roll;
use aggregation::secret::Secret;
use aggregation::setup::gathering::{Awaited, Gathering};
use aggregation::setup::keyring::{Announced, Keyring};
use aggregation::setup::{SetupRefused, SignedAnnounce, SignedBatch};
use federation::{federation, seed, site, study};

const SITES: usize = 4;

struct Setup {
    roll: Roll,
    identities: Vec<Identity>,
    gathering: Gathering,
    announced: Vec<Announced>,
}

fn announced(roll: &Roll, identities: &[Identity], index: usize, salt: &str) -> Announced {
    let nonce = GraphNonce::new(*seed(&format!("nonce {index} {salt}")).expose());
    let agreement = seed(&format!("agreement {index} {salt}"));
    Announced::new(roll, &site(index), &identities[index], &agreement, nonce)
}

/// Nothing has been said yet.
fn begin() -> Setup {
    let charter = Charter::new(study(3, 1), (0..SITES).map(site).collect()).expect("a good study");
    let identity = |i| Identity::from_seed(&seed(&format!("identity {i}"))).expect("a seed");
    let identities: Vec<Identity> = (0..SITES).map(identity).collect();
    let pinned: BTreeMap<HospitalId, IdentityKey> =
        identities.iter().enumerate().map(|(i, id)| (site(i), id.key())).collect();
    let roll = Roll::new(&charter, &pinned).expect("all are pinned");
    let announced = (0..SITES).map(|i| announced(&roll, &identities, i, "")).collect();
    Setup { gathering: Gathering::new(roll.clone()), roll, identities, announced }
}

/// Everyone has announced itself.
fn all_announced() -> Setup {
    let mut setup = begin();
    for (i, said) in setup.announced.iter().enumerate() {
        assert_eq!(setup.gathering.announce(&site(i), said.said().clone()), Ok(true));
    }
    setup
}

fn rule<T: std::fmt::Debug>(result: Result<T, SetupRefused>) -> &'static str {
    result.map_err(|refused| refused.rule()).expect_err("it is refused")
}

/// Breaks M-08, M-26 and M-27 at the coordinator.
#[test]
fn only_the_roll_announces_itself_under_its_identity_and_once() {
    let mut setup = begin();
    let said = setup.announced[0].said().clone();
    assert_eq!(rule(setup.gathering.announce(&site(9), said.clone())), "M-26");
    assert_eq!(rule(setup.gathering.announce(&site(1), said.clone())), "M-27");
    let mut forged = said.clone();
    forged.signature = Signature::new([1; 64]);
    assert_eq!(rule(setup.gathering.announce(&site(0), forged)), "M-08");
    let mut other_charter = said.clone();
    other_charter.announce.charter = aggregation::ids::Digest::sha256(b"other");
    assert_eq!(rule(setup.gathering.announce(&site(0), other_charter)), "M-08");
    let nonce = GraphNonce::new([1; 32]);
    assert_eq!(rule(setup.gathering.reveal(&site(0), nonce)), "M-27", "before its time");
    assert_eq!(setup.gathering.announce(&site(0), said.clone()), Ok(true));
    assert_eq!(setup.gathering.announce(&site(0), said), Ok(false));
    let second = announced(&setup.roll, &setup.identities, 0, "again").said().clone();
    assert_eq!(rule(setup.gathering.announce(&site(0), second)), "M-27", "another than before");
    let silent = (1..SITES).map(site).collect();
    assert_eq!(setup.gathering.awaited(), Awaited::Announcements(silent));
}

/// Breaks M-25 at the coordinator.
#[test]
fn a_nonce_is_the_one_that_was_committed_to_or_none() {
    let mut setup = all_announced();
    let said = setup.gathering.announced().clone();
    assert_eq!(rule(setup.gathering.reveal(&site(0), GraphNonce::new([1; 32]))), "M-25");
    assert_eq!(rule(setup.gathering.reveal(&site(9), GraphNonce::new([1; 32]))), "M-26");
    let nonce = setup.announced[0].reveal(&setup.roll, &said).expect("all are there");
    assert_eq!(setup.gathering.reveal(&site(0), nonce), Ok(true));
    assert_eq!(setup.gathering.reveal(&site(0), nonce), Ok(false));
    assert_eq!(rule(setup.gathering.reveal(&site(0), GraphNonce::new([1; 32]))), "M-27");
    assert_eq!(setup.gathering.provision(), None);
    assert!(matches!(setup.gathering.awaited(), Awaited::Nonces(silent) if silent.len() == 3));
}

/// Breaks M-08 at a hospital: a coordinator that puts a key of its own in another's place, leaves
/// one out, adds one, or changes this hospital's own.
#[test]
fn a_hospital_reveals_nothing_to_announcements_that_do_not_hold() {
    let setup = all_announced();
    let good = setup.gathering.announced().clone();
    let me = &setup.announced[0];
    me.reveal(&setup.roll, &good).expect("they hold");
    let coordinator = Identity::from_seed(&seed("coordinator")).expect("a seed");
    type Spoil<'a> = Box<dyn Fn(&mut BTreeMap<HospitalId, SignedAnnounce>) + 'a>;
    let cases: [(&str, Spoil<'_>); 5] = [
        (
            "M-08",
            Box::new(|said| {
                let theirs = said.get_mut(&site(1)).expect("it is there");
                theirs.announce.agreement = setup.announced[2].said().announce.agreement;
            }),
        ),
        (
            "M-08",
            Box::new(|said| {
                let theirs = said.get_mut(&site(1)).expect("it is there");
                theirs.announce.agreement = setup.announced[2].said().announce.agreement;
                theirs.signature = coordinator.sign(&theirs.announce);
            }),
        ),
        ("M-27", Box::new(|said| drop(said.remove(&site(3))))),
        (
            "M-26",
            Box::new(|said| {
                let theirs = said.get(&site(3)).expect("it is there").clone();
                said.insert(site(9), theirs);
            }),
        ),
        (
            "M-27",
            Box::new(|said| {
                let other = announced(&setup.roll, &setup.identities, 0, "again");
                said.insert(site(0), other.said().clone());
            }),
        ),
    ];
    for (number, spoil) in cases {
        let mut said = good.clone();
        spoil(&mut said);
        assert_eq!(rule(me.reveal(&setup.roll, &said)), number);
    }
}

/// A hospital that has agreed with all others, and the coordinator.
fn agreed() -> (Setup, Vec<Keyring>) {
    let mut setup = all_announced();
    let said = setup.gathering.announced().clone();
    for (i, announced) in setup.announced.iter().enumerate() {
        let nonce = announced.reveal(&setup.roll, &said).expect("all are there");
        setup.gathering.reveal(&site(i), nonce).expect("as committed");
    }
    let nonces = setup.gathering.nonces().clone();
    let announced = std::mem::take(&mut setup.announced);
    let agree = |announced: Announced| {
        let agreed = announced.agree(&setup.roll, &said, &nonces).map_err(|(_, why)| why);
        agreed.expect("honest keys").1
    };
    let keyrings = announced.into_iter().map(agree).collect();
    (setup, keyrings)
}

/// Breaks M-25 at a hospital; it keeps its secret and can go on when the nonces come right.
#[test]
fn a_hospital_agrees_with_nobody_over_nonces_that_were_not_committed_to() {
    let (setup, _) = agreed();
    let said = setup.gathering.announced().clone();
    let good = setup.gathering.nonces().clone();
    let mut missing = good.clone();
    missing.remove(&site(2));
    let mut swapped = good.clone();
    swapped.insert(site(2), good[&site(3)]);
    let mut strange = good.clone();
    strange.insert(site(9), good[&site(3)]);
    let mut me = announced(&setup.roll, &setup.identities, 0, "");
    for nonces in [missing, swapped, strange] {
        let (again, refused) = me.agree(&setup.roll, &said, &nonces).expect_err("refused");
        assert_eq!(refused.rule(), "M-25");
        me = again;
    }
    assert!(me.agree(&setup.roll, &said, &good).is_ok());
}

fn batch(setup: &Setup, keyrings: &[Keyring], index: usize, number: u64) -> SignedBatch {
    let provision = setup.gathering.provision().expect("the graph is drawn");
    let id = [u8::try_from(index).expect("few"); 16];
    let secret = seed(&format!("slots {index} {number}"));
    let made = keyrings[index].make(provision, &setup.identities[index], number, id, secret);
    made.expect("it is due").batch
}

/// Breaks M-18 and M-27 at the coordinator and at a hospital.
#[test]
fn a_batch_is_its_owners_and_of_the_slots_that_are_due() {
    let (mut setup, keyrings) = agreed();
    let good = batch(&setup, &keyrings, 1, 0);
    let next = batch(&setup, &keyrings, 1, 1);
    let gathering = &mut setup.gathering;
    assert_eq!(rule(gathering.batch(&site(9), 0, good.clone())), "M-26");
    assert_eq!(rule(gathering.batch(&site(2), 0, good.clone())), "M-18");
    assert_eq!(rule(gathering.batch(&site(1), 0, next.clone())), "M-18", "of other slots");
    let forged = SignedBatch { signature: next.signature, ..good.clone() };
    assert_eq!(rule(gathering.batch(&site(1), 0, forged.clone())), "M-18");
    assert_eq!(rule(gathering.opened(&site(1), 0, &[site(2)].into())), "M-27");
    assert_eq!(gathering.batch(&site(1), 0, good.clone()), Ok(true));
    assert_eq!(gathering.batch(&site(1), 0, good.clone()), Ok(false));
    assert_eq!(rule(gathering.opened(&site(1), 0, &[site(2)].into())), "M-27", "not left yet");
    let provision = setup.gathering.provision().expect("the graph is drawn").clone();
    let other = batch(&setup, &keyrings, 1, 1);
    assert_eq!(rule(setup.gathering.batch(&site(1), 0, other)), "M-18");
    for (number, said, owner) in [(0, &forged, site(1)), (0, &next, site(1)), (0, &good, site(2))] {
        assert_eq!(rule(keyrings[0].open(&provision, &owner, number, said)), "M-18");
    }
    assert_eq!(rule(keyrings[0].open(&provision, &site(9), 0, &good)), "M-26");
    let opened = keyrings[0].open(&provision, &site(1), 0, &good).expect("honest");
    assert_eq!(opened.len(), usize::try_from(provision.batch_slots()).expect("few"));
    // No batch for slots that are past, nor for a far future.
    let make = |keyring: &Keyring, number| {
        let id = [0; 16];
        keyring.make(&provision, &setup.identities[0], number, id, seed("slots")).map(drop)
    };
    assert_eq!(rule(make(&keyrings[0], 2)), "M-27");
    let (_, mut keyrings) = agreed();
    let slots = u64::from(provision.batch_slots());
    keyrings[0].pass(SlotId::new(slots)).expect("near");
    assert_eq!(keyrings[0].next(), SlotId::new(slots + 1));
    assert_eq!(rule(make(&keyrings[0], 0)), "M-27");
    assert_eq!(make(&keyrings[0], 2), Ok(()));
}

#[test]
fn only_those_are_able_whose_batches_all_the_others_have_opened() {
    let (mut setup, keyrings) = agreed();
    let all: BTreeSet<HospitalId> = (0..SITES).map(site).collect();
    let slot = SlotId::new(1);
    for index in 0..SITES {
        let said = batch(&setup, &keyrings, index, 0);
        setup.gathering.batch(&site(index), 0, said).expect("honest");
    }
    let others = |index: usize| -> BTreeSet<HospitalId> {
        all.iter().filter(|id| **id != site(index)).cloned().collect()
    };
    for index in 0..3 {
        setup.gathering.opened(&site(index), 0, &others(index)).expect("they are there");
    }
    // The fourth has opened nothing: the others can do without it.
    assert_eq!(setup.gathering.able(slot, &all), (0..3).map(site).collect());
    assert_eq!(setup.gathering.opened(&site(3), 0, &[site(0)].into()), Ok(true));
    assert_eq!(setup.gathering.able(slot, &all), (0..3).map(site).collect());
    assert_eq!(setup.gathering.opened(&site(3), 0, &others(3)), Ok(true));
    assert_eq!(setup.gathering.opened(&site(3), 0, &others(3)), Ok(false));
    assert_eq!(setup.gathering.able(slot, &all), all);
    assert_eq!(setup.gathering.able(slot, &[site(1)].into()), [site(1)].into());
    let later = SlotId::new(1 + u64::from(slots_per_batch(SITES - 1)));
    assert!(setup.gathering.able(later, &all).is_empty(), "no batch covers that slot yet");
    assert!(setup.gathering.masks(later).is_none());
    assert_eq!(setup.gathering.masks(slot).map(|masks| masks.batches.len()), Some(SITES));
    setup.gathering.forget_before(1);
    assert!(setup.gathering.masks(slot).is_none());
}

#[test]
fn a_batch_fits_in_about_a_mebibyte() {
    for (neighbours, slots) in [(2, 256), (9, 256), (36, 255), (99, 93), (127, 73), (9_999, 16)] {
        assert_eq!(slots_per_batch(neighbours), slots);
    }
}

/// Breaks M-01 and M-11: what is kept resumes, what is damaged does not, and nothing shows.
#[test]
fn a_keyring_comes_back_from_what_it_keeps_and_from_nothing_else() {
    let federation = federation(3, 1, 3);
    let hospital = &federation.sites[0];
    let kept = hospital.keyring.secrets();
    let back = Keyring::resume(&hospital.provision, &hospital.id, &kept).expect("its own");
    assert_eq!(back, hospital.keyring);
    let bytes = kept.expose();
    for damaged in [&bytes[1..], &bytes[..bytes.len() - 72], &[]] {
        let damaged = aggregation::secret::SecretBytes::new(damaged.to_vec());
        assert!(Keyring::resume(&hospital.provision, &hospital.id, &damaged).is_none());
    }
    assert!(Keyring::resume(&hospital.provision, &site(9), &kept).is_none());
    let hex: String = bytes[8..24].iter().map(|byte| format!("{byte:02x}")).collect();
    let shown = format!("{:?}", hospital.keyring);
    assert!(!shown.contains(&hex) && !shown.contains(&format!("{:?}", &bytes[8..16])));
    let announced = announced(&begin().roll, &begin().identities, 0, "");
    let secret = Secret::<32>::new(*seed("agreement 0 ").expose());
    assert!(!format!("{announced:?}").contains(&format!("{:?}", secret.expose())));
}
