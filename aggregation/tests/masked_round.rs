//! Masked rounds from end to end, in which hospitals vanish at every point where they can.

mod federation;

use std::collections::BTreeSet;

use aggregation::ids::HospitalId;
use aggregation::message::{Abandoned, Outcome, Said};
use aggregation::round::Fact;
use federation::{Federation, Play, federation, site};

/// The last thing that a hospital does in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Last {
    Nothing,
    Ready,
    Upload,
    Sign,
    Unmask,
}

const LASTS: [Last; 5] = [Last::Nothing, Last::Ready, Last::Upload, Last::Sign, Last::Unmask];

const fn step_of(said: &Said) -> Last {
    match said {
        Said::Ready { .. } | Said::Declined { .. } => Last::Ready,
        Said::Update { .. } => Last::Upload,
        Said::Signed { .. } => Last::Sign,
        Said::Unmask { .. } => Last::Unmask,
    }
}

/// Plays one round to its end; everyone stops after the last thing given for them.
fn play(federation: &mut Federation, slot: u64, lasts: &[Last]) -> Play {
    let mut play = federation.open(slot);
    let may = |index: usize, said: &Said| step_of(said) <= lasts[index];
    loop {
        federation.until(&mut play, "closed", may);
        if play.outcome().is_some() {
            return play;
        }
        let outputs = play.deadline();
        federation.tell(&mut play, &outputs, may);
    }
}

/// What must have come of it: the exact sum over those who uploaded, or nothing.
fn check(n: usize, m: usize, t: usize, lasts: &[Last], play: &Play) {
    let summed: BTreeSet<HospitalId> =
        (0..n).filter(|i| lasts[*i] >= Last::Upload).map(site).collect();
    let shares = (n + t) / 2 + 1;
    let at_least = |last| lasts.iter().filter(|l| **l >= last).count();
    let possible =
        summed.len() >= m && at_least(Last::Sign) >= shares && at_least(Last::Unmask) >= shares;
    let outcome = play.outcome().expect("it has ended");
    assert_eq!(*outcome == Outcome::Released, possible, "{lasts:?}: {outcome:?}");
    assert!(!play.facts().any(|fact| matches!(fact, Fact::Alarm { .. })), "{lasts:?}");
    let Some(release) = play.release() else {
        assert!(!possible);
        return;
    };
    assert_eq!(release.contributed, summed, "{lasts:?}");
    let count = f64::from(u32::try_from(summed.len()).expect("few"));
    for (index, mean) in release.total.update.iter().enumerate() {
        let wanted = if index < n && summed.contains(&site(index)) { 0.5 } else { 0.0 };
        assert!((mean * count - wanted).abs() < 1e-4, "{lasts:?}: {index} is {mean}");
    }
}

/// Breaks M-15 and R-11 if they can be broken: every combination of last deeds of a few hospitals.
#[test]
fn a_masked_sum_is_exact_or_there_is_none_whoever_drops_out_when() {
    for (n, t, m) in [(3, 1, 3), (4, 1, 3), (4, 1, 4)] {
        let [t16, m16] = [t, m].map(|x| u16::try_from(x).expect("few"));
        let mut federation = federation(n, t16, m16);
        let mut slot = 0;
        for mut number in 0..5_usize.pow(u32::try_from(n).expect("few")) {
            let mut lasts = Vec::new();
            for _ in 0..n {
                lasts.push(LASTS[number % 5]);
                number /= 5;
            }
            if slot == 256 {
                federation = federation::federation(n, t16, m16);
                slot = 0;
            }
            slot += 1;
            let play = play(&mut federation, slot, &lasts);
            check(n, m, t, &lasts, &play);
        }
    }
}

/// Every drop pattern of the thresholds' table for larger federations, one hospital per deed.
#[test]
fn five_to_ten_hospitals_lose_as_many_as_they_may_and_not_one_more() {
    for (n, t, m) in [(5, 1, 4), (6, 1, 4), (7, 2, 5), (8, 2, 6), (9, 2, 6), (10, 2, 8)] {
        let [t16, m16] = [t, m].map(|x| u16::try_from(x).expect("few"));
        let mut federation = federation(n, t16, m16);
        let mut slot = 0;
        for dropped in 0..=n - m + 1 {
            for last in [Last::Nothing, Last::Ready, Last::Upload, Last::Sign] {
                for first in 0..3 {
                    let mut lasts = vec![Last::Unmask; n];
                    (0..dropped).for_each(|i| lasts[(first * 3 + i) % n] = last);
                    slot += 1;
                    let play = play(&mut federation, slot, &lasts);
                    check(n, m, t, &lasts, &play);
                }
            }
        }
    }
}

/// What the coordinator stages is uniform: what was trained cannot be seen in it.
#[test]
fn what_is_uploaded_is_not_what_was_trained() {
    let mut federation = federation(3, 1, 3);
    let play = play(&mut federation, 1, &[Last::Unmask; 3]);
    assert!(play.release().is_some());
    for hospital in &federation.sites {
        let zeros = hospital.packed.iter().filter(|byte| **byte == 0).count();
        assert!(zeros < hospital.packed.len() / 64, "the trained update is nearly all zeros");
    }
}

#[test]
fn too_few_signatures_or_shares_end_the_round_with_that_reason() {
    let mut federation = federation(4, 1, 3);
    let [upload, sign, unmask] = [Last::Upload, Last::Sign, Last::Unmask];
    let ended = play(&mut federation, 1, &[sign, sign, upload, upload]);
    let why = Abandoned::TooFewSignatures { signed: 2, needed: 3 };
    assert_eq!(ended.outcome(), Some(&Outcome::Abandoned(why)));
    let ended = play(&mut federation, 2, &[unmask, unmask, sign, sign]);
    let why = Abandoned::TooFewShares { answered: 2 };
    assert_eq!(ended.outcome(), Some(&Outcome::Abandoned(why)));
}
