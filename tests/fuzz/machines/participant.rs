//! A hospital's participant, told anything at all by its coordinator.

use std::collections::BTreeSet;

use aggregation::ids::{Digest, HospitalId, RoundId, SlotId, StudyId};
use aggregation::keys::identity::Signature;
use aggregation::message::{
    ClosedNotice, DeclineReason, FinalSet, Roster, SetStatement, SignedSet, Terms, Work,
};
use aggregation::participant::Event;
use aggregation::units::Timestamp;

use super::super::input::Reader;
use super::house::House;
use super::party::Party;

/// Tells one hospital what the bytes describe. Whether it has given shares in the end.
#[must_use]
pub(crate) fn run(data: &[u8]) -> bool {
    let house = House::shared();
    let mut party = Party::new(house, 0);
    let mut reader = Reader::new(data);
    let mut steps = 0;
    while !reader.is_done() && steps < 200 {
        let event = event(house, &mut reader);
        // Refused or not: what matters is what it does.
        let _refused = party.hear(event);
        check(&party);
        steps += 1;
    }
    !party.gave.is_empty()
}

/// Courses that a coordinator can take: to the end, twice over, and astray.
pub(crate) fn examples() -> Vec<Vec<u8>> {
    let offer = |slot: u8| [slot, 0, 15];
    let freeze = |slot: u8| [slot, 3, 7];
    let fix = |slot: u8| [slot, 5, 7];
    let unmask = |slot: u8| [slot, 6, 7, 0];
    let round = |slot: u8| {
        let first = [offer(slot), freeze(slot), fix(slot)].concat();
        [first.as_slice(), unmask(slot).as_slice()].concat()
    };
    // A set of three of four, after the whole one; and a list with one true signature.
    let other = [0, 5, 1, 1, 0, 0, 6, 1, 1, 0, 0];
    let forged = [0, 6, 7, 0b1110];
    vec![
        round(0),
        [round(0), round(1), round(2)].concat(),
        [round(0).as_slice(), other.as_slice()].concat(),
        [[offer(0), freeze(0), fix(0)].concat().as_slice(), forged.as_slice()].concat(),
    ]
}

/// One final set in a slot, and of each hospital shares of one secret.
fn check(party: &Party) {
    for (slot, set) in &party.signed {
        assert!(party.signed.iter().all(|(other, also)| other != slot || also == set));
        assert!(set.len() >= 3, "a set below the quorum was signed");
    }
    for (slot, shares) in &party.gave {
        assert!(shares.own.keys().all(|id| !shares.recovery.contains_key(id)));
        assert!(shares.own.len() >= 3, "shares were given below the quorum");
        assert!(party.gave.iter().all(|(other, also)| other != slot || also == shares));
    }
}

fn event(house: &House, reader: &mut Reader<'_>) -> Event {
    let slot = SlotId::new(u64::from(reader.byte() % 3) + 1);
    let honest = house.terms(slot.get());
    match reader.byte() % 11 {
        0 | 1 => Event::Offered(terms(honest, reader)),
        2 => Event::Barred { terms: honest, reason: DeclineReason::OutsideHours },
        3 | 4 => Event::Frozen(roster(house, honest, reader)),
        5 => Event::Fixed(set(house, &honest, reader)),
        6 | 7 => {
            let set = set(house, &honest, reader);
            Event::Unmask(signed(house, &honest, set, reader))
        }
        8 => Event::Closed(ClosedNotice {
            study: honest.study,
            round: honest.round,
            slot,
            released: reader.byte().is_multiple_of(2),
            reason: String::new(),
            contributed: BTreeSet::new(),
            dropped: BTreeSet::new(),
        }),
        9 => match reader.byte() % 4 {
            0 => Event::Uploaded { slot },
            1 => Event::Signed { slot },
            2 => Event::Unmasked { slot },
            _ => Event::TrainerFailed { slot },
        },
        _ => Event::Reconnected,
    }
}

fn terms(mut terms: Terms, reader: &mut Reader<'_>) -> Terms {
    match reader.byte() % 16 {
        0 => terms.study = StudyId::new(Digest::new(reader.array())),
        1 => terms.round = RoundId::after(reader.byte().into()),
        2 => terms.slot = SlotId::new(u64::from_le_bytes(reader.array())),
        3 => terms.work = Work::Evaluate,
        4 => terms.model = Digest::new(reader.array()),
        5 => members(&mut terms.invited, reader),
        6 => terms.ready_by = Timestamp::from_millis(u64::from_le_bytes(reader.array())),
        _ => {}
    }
    terms
}

fn members(members: &mut BTreeSet<HospitalId>, reader: &mut Reader<'_>) {
    for _ in 0..=reader.place(3) {
        let name = format!("site-{}", reader.byte() % 6);
        if let Ok(id) = HospitalId::new(&name)
            && !members.remove(&id)
        {
            members.insert(id);
        }
    }
}

fn roster(house: &House, of: Terms, reader: &mut Reader<'_>) -> Roster {
    let Terms { study, round, slot, .. } = of;
    let mut roster = Roster {
        study,
        round,
        slot,
        terms: of.digest(),
        members: house.everybody(),
        upload_by: Timestamp::from_millis(9),
    };
    match reader.byte() % 8 {
        0 => roster.terms = Digest::new(reader.array()),
        1 | 2 => members(&mut roster.members, reader),
        _ => {}
    }
    roster
}

fn set(house: &House, of: &Terms, reader: &mut Reader<'_>) -> FinalSet {
    let Terms { study, round, slot, .. } = *of;
    let mut set = FinalSet { study, round, slot, terms: of.digest(), members: house.everybody() };
    match reader.byte() % 8 {
        0 => set.terms = Digest::new(reader.array()),
        1 | 2 => members(&mut set.members, reader),
        _ => {}
    }
    set
}

/// The set, with true signatures of some hospitals, and others that are none.
fn signed(house: &House, of: &Terms, set: FinalSet, reader: &mut Reader<'_>) -> SignedSet {
    let format = house.charter().format(of.work).expect("a work of the study");
    let context = house.provision().context(of, &house.everybody(), &format);
    let context = context.expect("everybody is on the roll");
    let statement = SetStatement { context, members: set.members.clone() };
    let true_ones = reader.byte();
    let mut signatures = std::collections::BTreeMap::new();
    for site in 0..house.sites() {
        let signature = if true_ones >> site & 1 == 0 {
            house.identity(site).sign(&statement)
        } else {
            Signature::new(reader.array())
        };
        signatures.insert(house.name(site).clone(), signature);
    }
    SignedSet { set, signatures }
}
