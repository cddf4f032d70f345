//! The ledger's properties, each over many histories made from one seed.

mod crash;

use super::*;
use crate::privacy::charge::{ChargeParts, Mode};
use crate::units::{NoiseMultiplier, SamplingRate};

fn purse() -> Digest {
    Digest::new([8; 32])
}

fn study(number: u8) -> StudyId {
    StudyId::new(Digest::new([number; 32]))
}

fn epsilon(value: f64) -> Epsilon {
    Epsilon::new(value).expect("an epsilon")
}

fn caps(study: f64, lifetime: f64) -> Caps {
    let cap = |planned: f64| Cap { planned: epsilon(planned), solo: epsilon(planned * 20.0) };
    Caps {
        study: cap(study),
        lifetime: cap(lifetime),
        delta: Delta::new(1e-5).expect("a delta"),
        accountant: Accountant::Rdp,
    }
}

fn charge(noise: f64, rate: f64) -> Charge {
    let noise = NoiseMultiplier::new(noise).expect("noise");
    let rate = SamplingRate::new(rate).expect("a rate");
    Charge::new(Mode::Distributed, noise, rate, 4, 1, 464_700).expect("a charge")
}

fn entry(number: u8, slot: u64, charge: Charge) -> Entry {
    let round = RoundId::after(u32::try_from(slot).expect("small"));
    Entry { study: study(number), round, slot: SlotId::new(slot), charge }
}

/// Numbers from one seed.
struct Numbers(blake3::OutputReader);

impl Numbers {
    fn new(seed: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        Self(hasher.finalize_xof())
    }

    fn below(&mut self, bound: u32) -> u32 {
        let mut word = [0; 4];
        self.0.fill(&mut word);
        u32::from_le_bytes(word) % bound
    }
}

/// A history of up to so many charges and releases over three studies, and the file it leaves.
fn history(seed: u32, length: u32) -> (Ledger, Vec<u8>) {
    let mut numbers = Numbers::new(seed);
    let mut ledger = Ledger::new(purse());
    let mut file = Vec::new();
    let generous = caps(1e6, 1e6);
    let charges = [charge(1.5, 0.05), charge(4.0, 1.0), charge(2.25, 0.125)];
    let mut slots = [0_u64; 3];
    for _ in 0..length {
        let which = usize::try_from(numbers.below(3)).expect("small");
        let number = u8::try_from(which).expect("small");
        let waiting = ledger.waiting().next().copied();
        let record = match waiting {
            Some(entry) if numbers.below(2) == 0 => ledger.release(entry.study, entry.slot),
            Some(_) | None => {
                slots[which] += 1 + u64::from(numbers.below(3));
                ledger.charge(&entry(number, slots[which], charges[which]), &generous)
            }
        };
        let record = record.expect("allowed");
        file.extend(record.encode());
        ledger.append(record).expect("made by this ledger");
    }
    (ledger, file)
}

fn read(bytes: &[u8]) -> Result<Reading, Broken> {
    Ledger::read(purse(), bytes)
}

#[test]
fn what_is_written_is_what_is_read() {
    for seed in 0..50 {
        let (ledger, file) = history(seed, seed);
        assert_eq!(read(&file), Ok(Reading { ledger: ledger.clone(), torn: 0 }), "seed {seed}");
        assert_eq!(ledger.head().seq, u64::from(seed));
        let other = Ledger::read(Digest::new([9; 32]), &file);
        assert_eq!(other.is_err(), seed > 0, "another purse's ledger was accepted");
    }
}

/// Any flipped bit shows: as a value, a hash, or a place in the chain.
#[test]
fn a_changed_record_is_found() {
    let (_, file) = history(1, 6);
    for byte in 0..file.len() {
        for bit in [0, 3, 7] {
            let mut changed = file.clone();
            changed[byte] ^= 1 << bit;
            assert!(read(&changed).is_err(), "byte {byte}, bit {bit}");
        }
    }
    // Swapped, doubled and dropped records.
    let (a, b) = (&file[..RECORD_BYTES], &file[RECORD_BYTES..2 * RECORD_BYTES]);
    assert_eq!(read(&[b, a].concat()), Err(Broken::Sequence { expected: 1, found: 2 }));
    assert_eq!(read(&[a, a].concat()), Err(Broken::Sequence { expected: 2, found: 1 }));
    let (_, other) = history(2, 6);
    assert_eq!(
        read(&[a, &other[RECORD_BYTES..2 * RECORD_BYTES]].concat()),
        Err(Broken::Chain { seq: 2 })
    );
}

/// D-23: there is one way to write a record: what stands past its end is zero.
#[test]
fn nothing_hides_past_a_record() {
    let (_, mut file) = history(1, 2);
    file[RECORD_BYTES - 1] = 1;
    assert_eq!(read(&file), Err(Broken::Value { seq: 1, what: "bytes past its end" }));
}

/// D-21: cut anywhere, as by a crash while writing, the whole records remain, and never one that
/// was not written.
#[test]
fn a_torn_end_is_told_and_loses_only_itself() {
    let (_, file) = history(3, 5);
    for length in 0..=file.len() {
        let reading = read(&file[..length]).expect("a prefix of a ledger");
        assert_eq!(reading.torn, length % RECORD_BYTES);
        assert_eq!(reading.ledger.records().len(), length / RECORD_BYTES);
        // The file system had already made room.
        let padded: Vec<u8> =
            file[..length - reading.torn].iter().copied().chain([0; RECORD_BYTES]).collect();
        let padded = read(&padded).expect("zeros at the end");
        assert_eq!((padded.torn, padded.ledger), (RECORD_BYTES, reading.ledger));
    }
    // Nor are more zeros than one write leaves: charges that were wiped out are missed.
    let mut wiped = file.clone();
    let length = wiped.len();
    wiped[length - 2 * RECORD_BYTES..].fill(0);
    assert!(read(&wiped).is_err());
    // Zeros in the middle are no torn end.
    let mut holed = file.clone();
    holed[RECORD_BYTES..2 * RECORD_BYTES].fill(0);
    assert!(read(&holed).is_err());
}

/// D-23: every earlier state is recognised as one, every other history too.
#[test]
fn a_ledger_that_went_back_is_found() {
    let (ledger, file) = history(4, 9);
    let mut heads = vec![Ledger::new(purse()).head()];
    let mut rebuilt = Ledger::new(purse());
    for record in ledger.records() {
        rebuilt.append(*record).expect("made by this ledger");
        heads.push(rebuilt.head());
    }
    for restored in 0..heads.len() {
        let old = read(&file[..restored * RECORD_BYTES]).expect("a prefix").ledger;
        for (seen, head) in heads.iter().enumerate() {
            let found = old.check(head);
            if seen <= restored {
                assert_eq!(found, Ok(()));
            } else {
                let missing = RolledBack::Missing { seen: count(seen), found: count(restored) };
                assert_eq!(found, Err(missing));
            }
        }
    }
    let (other, _) = history(5, 9);
    assert_eq!(other.check(&ledger.head()), Err(RolledBack::Forked { seq: 9 }));
    let elsewhere = Ledger::new(Digest::new([9; 32]));
    assert_eq!(elsewhere.check(&heads[0]), Err(RolledBack::Forked { seq: 0 }));
    let far = Head { seq: u64::MAX, hash: purse() };
    assert!(ledger.check(&far).is_err());
    let text = Ledger::new(purse()).check(&heads[2]).map_err(|e| e.to_string());
    assert!(
        text.is_err_and(|text| text.starts_with("the log has seen 2 ledger records; here are 0"))
    );
}

/// D-22: releases cost nothing and give nothing back; every charge counts.
#[test]
fn charges_count_and_releases_do_not() {
    let caps = caps(1e6, 1e6);
    for seed in 10..16 {
        let (ledger, _) = history(seed, 30);
        let mut expected = Spending::new();
        let mut so_far = Ledger::new(purse());
        for record in ledger.records() {
            let before = so_far.epsilon(Scope::Lifetime, study(0), &caps);
            so_far.append(*record).expect("made by this ledger");
            let after = so_far.epsilon(Scope::Lifetime, study(0), &caps);
            match record.state() {
                State::Charged => {
                    expected.add(&record.entry().charge, 1);
                    assert!(after.planned > before.planned && after.solo > before.solo);
                }
                State::Released => assert_eq!(after, before),
            }
        }
        assert_eq!(ledger.spending(Scope::Lifetime, study(0)), expected);
        let lifetime = ledger.epsilon(Scope::Lifetime, study(0), &caps);
        for number in 0..3 {
            assert!(ledger.epsilon(Scope::Study, study(number), &caps).planned <= lifetime.planned);
        }
    }
}

/// D-24: whatever is asked in whatever order, no cap is ever crossed, and what was declined
/// changes nothing.
#[test]
fn no_cap_is_ever_crossed() {
    for seed in 0..6 {
        let mut numbers = Numbers::new(1_000 + seed);
        let caps = caps(1.5, 2.5);
        let mut ledger = Ledger::new(purse());
        let mut declined = [0; 2];
        for slot in 1..40 {
            let number = u8::try_from(numbers.below(3)).expect("small");
            let noise = 1.0 + f64::from(numbers.below(5)) / 2.0;
            let entry = entry(number, slot, charge(noise, 0.05));
            let before = ledger.clone();
            match ledger.charge(&entry, &caps) {
                Ok(record) => ledger.append(record).expect("made by this ledger"),
                Err(why) => {
                    let own = matches!(why, Declined::Cap { scope: Scope::Study, .. });
                    let all = matches!(why, Declined::Cap { scope: Scope::Lifetime, .. });
                    assert!(own || all, "{why}");
                    declined[usize::from(all)] += 1;
                    assert_eq!(ledger, before);
                }
            }
            let total = ledger.epsilon(Scope::Lifetime, study(number), &caps);
            assert!(total.planned.within(caps.lifetime.planned));
            assert!(total.solo.within(caps.lifetime.solo));
            let own = ledger.epsilon(Scope::Study, study(number), &caps);
            assert!(own.planned.within(caps.study.planned) && own.solo.within(caps.study.solo));
        }
        assert!(declined[0] + declined[1] > 0, "seed {seed} never came near a cap");
    }
}

#[test]
fn a_cap_that_would_be_crossed_is_named() {
    let ledger = Ledger::new(purse());
    let dear = entry(1, 1, charge(0.6, 0.5));
    let names = |caps: &Caps| match ledger.charge(&dear, caps) {
        Err(Declined::Cap { figure, scope, .. }) => Some((figure, scope)),
        Ok(_) | Err(Declined::SlotUsed { .. } | Declined::NotCharged { .. }) => None,
    };
    assert_eq!(names(&caps(1.0, 100.0)), Some(("planned", Scope::Study)));
    assert_eq!(names(&caps(100.0, 1.0)), Some(("planned", Scope::Lifetime)));
    let mut tight = caps(100.0, 100.0);
    tight.study.solo = epsilon(2.0);
    assert_eq!(names(&tight), Some(("solo", Scope::Study)));
    tight.study.solo = epsilon(100.0);
    tight.lifetime.solo = epsilon(2.0);
    assert_eq!(names(&tight), Some(("solo", Scope::Lifetime)));
    let text = ledger.charge(&dear, &caps(1.0, 100.0)).map_err(|e| e.to_string());
    let text = text.expect_err("declined");
    assert!(
        text.starts_with("the planned epsilon of this study may be 1; with this round it would be"),
        "{text}"
    );
}

/// A slot pays once; what was never charged is not released.
#[test]
fn slots_ascend_and_are_released_once() {
    let caps = caps(100.0, 100.0);
    let mut ledger = Ledger::new(purse());
    let first = entry(1, 5, charge(2.0, 0.1));
    let record = ledger.charge(&first, &caps).expect("allowed");
    ledger.append(record).expect("made by this ledger");
    for slot in [5, 4] {
        let again = ledger.charge(&entry(1, slot, charge(2.0, 0.1)), &caps);
        let (last, found) = (SlotId::new(5), SlotId::new(slot));
        assert_eq!(again, Err(Declined::SlotUsed { last, found }));
    }
    // Another study's slots are its own.
    assert!(ledger.charge(&entry(2, 1, charge(2.0, 0.1)), &caps).is_ok());
    let unknown = SlotId::new(6);
    assert_eq!(ledger.release(study(1), unknown), Err(Declined::NotCharged { slot: unknown }));
    assert_eq!(ledger.waiting().collect::<Vec<_>>(), [&first]);
    let released = ledger.release(study(1), first.slot).expect("charged");
    // A release at another price than the charge is no release.
    let mut cheaper = first;
    cheaper.charge = charge(9.0, 0.1);
    let forged = Record::new(2, ledger.head().hash, cheaper, State::Released);
    assert!(matches!(ledger.append(forged), Err(Broken::Order { seq: 2, .. })));
    ledger.append(released).expect("made by this ledger");
    assert_eq!(ledger.waiting().count(), 0);
    assert!(ledger.release(study(1), first.slot).is_err());
    assert!(ledger.append(released).is_err());
}

/// What is left buys exactly as many rounds as it says.
#[test]
fn rounds_left_are_rounds_that_are_allowed() {
    let price = charge(3.0, 0.05);
    for (own, lifetime) in [(1.0, 5.0), (5.0, 1.0), (0.4, 0.4)] {
        let caps = caps(own, lifetime);
        let mut ledger = Ledger::new(purse());
        let left = ledger.rounds_left(study(1), &price, &caps);
        assert!(left > 3, "{left}");
        let already = left.saturating_sub(3);
        // Most of it in one go: a charge of many steps.
        let parts = ChargeParts { steps: already, ..price.parts() };
        let bulk = Charge::from_parts(parts).expect("a charge");
        let record = ledger.charge(&entry(1, 1, bulk), &caps).expect("allowed");
        ledger.append(record).expect("made by this ledger");
        assert_eq!(ledger.rounds_left(study(1), &price, &caps), 3);
        for slot in 2..=4 {
            let record = ledger.charge(&entry(1, slot, price), &caps).expect("allowed");
            ledger.append(record).expect("made by this ledger");
        }
        assert_eq!(ledger.rounds_left(study(1), &price, &caps), 0);
        assert!(ledger.charge(&entry(1, 5, price), &caps).is_err());
    }
    let ledger = Ledger::new(purse());
    let hopeless = charge(0.1, 1.0);
    assert_eq!(ledger.rounds_left(study(1), &hopeless, &caps(1.0, 1.0)), 0);
}

/// Bytes from anywhere never panic, and are hardly ever a ledger.
#[test]
fn random_bytes_are_refused() {
    let mut numbers = Numbers::new(77);
    for length in [1, 255, 256, 257, 512, 1_000] {
        for _ in 0..200 {
            let bytes: Vec<u8> =
                (0..length).map(|_| u8::try_from(numbers.below(256)).expect("small")).collect();
            let reading = read(&bytes);
            assert!(reading.is_err() || length < RECORD_BYTES);
        }
    }
}
