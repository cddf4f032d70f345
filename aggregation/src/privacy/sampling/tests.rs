//! Who is drawn, over many seeds, and what a batch shows.

use super::*;
use crate::units::real;

fn rate(q: f64) -> SamplingRate {
    SamplingRate::new(q).expect("a rate")
}

/// So many patients with one record each.
fn people(count: u32) -> Patients {
    Patients::group((0..count).map(|p| Some(p.to_le_bytes()))).expect("patients")
}

fn sampler(number: u32) -> Sampler {
    let mut seed = [9; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    Sampler::new(SamplingSeed::new(Secret::new(seed)))
}

#[test]
fn coins_are_exact() {
    assert_eq!(Coin::new(rate(1.0)), Coin::Always);
    assert_eq!(Coin::new(rate(0.5)), Coin::Below(1 << 127));
    assert_eq!(Coin::new(rate(0.75)), Coin::Below(3 << 126));
    let tenth = 0xccc_cccc_cccc_cd00_0000_0000_0000_0000_u128;
    assert_eq!(Coin::new(rate(0.1)), Coin::Below(tenth << 1));
    assert_eq!(Coin::new(rate(2.0_f64.powi(-75))), Coin::Below(1 << 53));
    assert_eq!(Coin::new(rate(2.0_f64.powi(-128))), Coin::Below(1));
    assert_eq!(Coin::new(rate(1.999 * 2.0_f64.powi(-128))), Coin::Below(1));
    assert_eq!(Coin::new(rate(2.0_f64.powi(-129))), Coin::Below(0));
    assert_eq!(Coin::new(rate(5e-324)), Coin::Below(0));
    // The largest rate below 1.
    let below_one = Coin::new(rate(1.0 - f64::EPSILON / 2.0));
    assert_eq!(below_one, Coin::Below(u128::MAX << 75));
}

/// D-15, PROTOCOL-NOTES test 9: sizes, single coins and pairs over 10^5 steps.
#[test]
fn batches_are_poisson_samples() {
    const STEPS: u32 = 100_000;
    const PATIENTS: u32 = 40;
    let q = 0.15;
    let people = people(PATIENTS);
    let (mut sum, mut square, mut greatest) = (0.0, 0.0, 0);
    let mut alone = [0_u32; 40];
    let mut together = 0_u32;
    let mut across = 0_u32;
    let mut before = false;
    for step in 0..STEPS {
        let batch = sampler(step).draw(&people, rate(q));
        let size = batch.patients().len();
        greatest = greatest.max(size);
        let size = real(count(size));
        sum += size;
        square += size * size;
        for patient in batch.patients() {
            alone[patient] += 1;
        }
        let has = |patient| batch.patients().any(|p| p == patient);
        together += u32::from(has(3) && has(4));
        across += u32::from(before && has(0));
        before = has(0);
    }
    let n = f64::from(STEPS);
    let mean = sum / n;
    let variance = square / n - mean * mean;
    let expected = 40.0 * q * (1.0 - q);
    assert!((mean - 40.0 * q).abs() < 4.0 * (expected / n).sqrt(), "{mean}");
    assert!((variance / expected - 1.0).abs() < 4.0 * (2.0 / n).sqrt() * 1.1, "{variance}");
    let within = |seen: u32, p: f64| (f64::from(seen) - n * p).abs() < 4.5 * (n * p).sqrt();
    assert!(alone.iter().all(|seen| within(*seen, q)), "{alone:?}");
    assert!(within(together, q * q), "{together} of {STEPS} steps have both");
    assert!(within(across, q * q), "{across} of {STEPS} steps follow each other");
    // No cap: a batch of three times the expectation does occur.
    assert!(greatest >= 16, "the largest of {STEPS} batches has {greatest}");
}

/// D-16: a rate so small that nobody comes; everybody; one patient only.
#[test]
fn empty_and_full_batches_are_batches() {
    let nobody = sampler(1).draw(&people(1_000), rate(1e-12));
    assert!(nobody.is_empty());
    let everybody = sampler(1).draw(&people(1_000), rate(1.0));
    assert_eq!(everybody.patients().collect::<Vec<_>>(), (0..1_000).collect::<Vec<_>>());
    let one = people(1);
    let came = |step| !sampler(step).draw(&one, rate(0.25)).is_empty();
    let came: u32 = (0..10_000).map(|step| u32::from(came(step))).sum();
    assert!((2_300..2_700).contains(&came), "one patient came {came} times");
}

/// D-17: neither the batch nor the sampler shows who was drawn.
#[test]
fn batches_are_not_printed() {
    let mut sampler = sampler(1);
    let batch = sampler.draw(&people(10), rate(1.0));
    let printed = format!("{batch:?} {sampler:?} {:?}", people(10));
    assert_eq!(printed, "Batch(..) Sampler(..) Patients(..)");
}

#[test]
fn a_seed_gives_one_batch() {
    let draw = |number| sampler(number).draw(&people(200), rate(0.3));
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn a_patient_with_many_images_gives_one() {
    let mut sampler = sampler(7);
    assert!((0..100).all(|_| sampler.record(&[17]) == Some(17)));
    assert_eq!(sampler.record(&[]), None);
    let images: Vec<usize> = (5..10_005).collect();
    let mut seen = vec![0_u32; 10_000];
    for _ in 0..400_000 {
        seen[sampler.record(&images).expect("there are some") - 5] += 1;
    }
    let chi_square: f64 = seen.iter().map(|n| (f64::from(*n) - 40.0).powi(2) / 40.0).sum();
    assert!((chi_square - 9_999.0).abs() < 4.0 * (2.0_f64 * 9_999.0).sqrt(), "{chi_square}");
}

/// D-18: a patient's micro-batch depends on nobody else, and the load is even.
#[test]
fn patients_do_not_push_each_other() {
    let batches = MicroBatches::new(Secret::new([3; 32]), 256);
    assert_eq!(batches.count().get(), 8);
    let places: Vec<u32> =
        (0..8_000_u32).map(|patient| batches.of(&patient.to_le_bytes())).collect();
    for batch in 0..8 {
        let held = places.iter().filter(|place| **place == batch).count();
        assert!((850..1_150).contains(&held), "micro-batch {batch} holds {held} of 8,000");
    }
    let other = MicroBatches::new(Secret::new([4; 32]), 256);
    assert!((0..100_u32).any(|p| other.of(&p.to_le_bytes()) != batches.of(&p.to_le_bytes())));
    assert_eq!(MicroBatches::new(Secret::new([3; 32]), 0).count().get(), 1);
}
