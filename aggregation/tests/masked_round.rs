//! Masked rounds from end to end, in which hospitals vanish at every point where they can.

mod federation;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use aggregation::ids::HospitalId;
use aggregation::message::{Abandoned, Outcome, Said};
use aggregation::round::Fact;
use federation::{Federation, Play, federation, site, small_federation};

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

/// How many shares of each hospital's two secrets left the others: of the self secret, of the
/// recovery secret.
type Given = BTreeMap<HospitalId, (usize, usize)>;

/// Plays one round to its end; everyone stops after the last thing given for them.
fn play(federation: &mut Federation, slot: u64, lasts: &[Last]) -> (Play, Given) {
    let mut play = federation.open(slot);
    play.vanished = Some(BTreeSet::new());
    let given = RefCell::new(Given::new());
    let may = |index: usize, said: &Said| {
        let may = step_of(said) <= lasts[index];
        if let (true, Said::Unmask { shares, .. }) = (may, said) {
            let mut given = given.borrow_mut();
            for id in shares.own.keys() {
                given.entry(id.clone()).or_default().0 += 1;
            }
            for id in shares.recovery.keys() {
                given.entry(id.clone()).or_default().1 += 1;
            }
        }
        may
    };
    loop {
        federation.until(&mut play, "closed", may);
        if play.outcome().is_some() {
            return (play, given.into_inner());
        }
        let outputs = play.deadline();
        federation.tell(&mut play, &outputs, may);
    }
}

/// What must have come of it: the exact sum over those who uploaded, or nothing, and then too few
/// shares of anything have left for the coordinator and its colluders to take a mask away.
fn check(n: usize, m: usize, t: usize, lasts: &[Last], (play, given): &(Play, Given)) {
    let summed: BTreeSet<HospitalId> =
        (0..n).filter(|i| lasts[*i] >= Last::Upload).map(site).collect();
    let shares = (n + t) / 2 + 1;
    let at_least = |last| lasts.iter().filter(|l| **l >= last).count();
    let possible =
        summed.len() >= m && at_least(Last::Sign) >= shares && at_least(Last::Unmask) >= shares;
    let outcome = play.outcome().expect("it has ended");
    assert_eq!(*outcome == Outcome::Released, possible, "{lasts:?}: {outcome:?}");
    assert!(!play.facts().any(|fact| matches!(fact, Fact::Alarm { .. })), "{lasts:?}");
    for (id, (own, recovery)) in given {
        assert!(*own == 0 || *recovery == 0, "{lasts:?}: both kinds of {id} were given");
        assert_eq!(*own > 0, summed.contains(id), "{lasts:?}: the other kind of {id} was given");
    }
    let Some(release) = play.release() else {
        assert!(!possible);
        assert!(given.values().all(|(own, recovery)| own + recovery < shares), "{lasts:?}");
        return;
    };
    assert_eq!(release.contributed, summed, "{lasts:?}");
    let count = f64::from(u32::try_from(summed.len()).expect("few"));
    for (index, mean) in release.total.update.iter().enumerate() {
        let wanted = if index < n && summed.contains(&site(index)) { 0.5 } else { 0.0 };
        assert!((mean * count - wanted).abs() < 1e-4, "{lasts:?}: {index} is {mean}");
    }
}

/// A federation of this size, founded again whenever its slots are used up.
struct House {
    thresholds: (usize, usize, usize),
    federation: Federation,
    slot: u64,
}

/// Slots that a federation of a few hospitals makes at its setup.
const SLOTS: u64 = 256;

impl House {
    fn new(n: usize, t: usize, m: usize) -> Self {
        let [t16, m16] = [t, m].map(|x| u16::try_from(x).expect("few"));
        Self { thresholds: (n, t, m), federation: small_federation(n, t16, m16), slot: 0 }
    }

    /// Plays one pattern and checks what came of it.
    fn suffers(&mut self, lasts: &[Last]) {
        let (n, t, m) = self.thresholds;
        if self.slot == SLOTS {
            *self = Self::new(n, t, m);
        }
        self.slot += 1;
        let played = play(&mut self.federation, self.slot, lasts);
        check(n, m, t, lasts, &played);
    }

    /// Every way in which each hospital can stop after one of these.
    fn suffers_all(&mut self, from: &[Last]) {
        let n = self.thresholds.0;
        for mut number in 0..from.len().pow(u32::try_from(n).expect("few")) {
            let mut lasts = Vec::new();
            for _ in 0..n {
                lasts.push(from[number % from.len()]);
                number /= from.len();
            }
            self.suffers(&lasts);
        }
    }
}

/// Breaks M-15 and R-11 if they can be broken: every combination of last deeds of a few hospitals.
#[test]
fn a_masked_sum_is_exact_or_there_is_none_whoever_drops_out_when() {
    for (n, t, m) in [(3, 1, 3), (4, 1, 3), (4, 1, 4)] {
        House::new(n, t, m).suffers_all(&LASTS);
    }
}

/// Of those who are on the roster: gone before the upload, before the signature, before the shares,
/// or not at all.
const ON_THE_ROSTER: [Last; 4] = [Last::Ready, Last::Upload, Last::Sign, Last::Unmask];

#[test]
fn five_or_six_hospitals_may_each_vanish_in_any_phase() {
    for (n, t, m) in [(5, 1, 4), (6, 1, 4)] {
        House::new(n, t, m).suffers_all(&ON_THE_ROSTER);
    }
}

#[test]
fn seven_hospitals_may_each_vanish_in_any_phase() {
    House::new(7, 2, 5).suffers_all(&ON_THE_ROSTER);
}

/// Every subset of a larger federation's roster, all of it gone in the same phase.
fn every_subset_in_each_phase(n: usize, t: usize, m: usize) {
    let mut house = House::new(n, t, m);
    for last in [Last::Ready, Last::Upload, Last::Sign] {
        for subset in 0..1_u32 << n {
            let last_of = |i| if subset >> i & 1 == 1 { last } else { Last::Unmask };
            house.suffers(&(0..n).map(last_of).collect::<Vec<_>>());
        }
    }
}

#[test]
fn any_of_eight_or_nine_hospitals_may_vanish_together_in_each_phase() {
    every_subset_in_each_phase(8, 2, 6);
    every_subset_in_each_phase(9, 2, 6);
}

#[test]
fn any_of_ten_hospitals_may_vanish_together_in_each_phase() {
    every_subset_in_each_phase(10, 2, 8);
}

/// Every way to divide eight to ten hospitals over the phases, by numbers; who it is turns from one
/// to the next, so that each place is the first to vanish in some.
#[test]
fn eight_to_ten_hospitals_may_vanish_in_all_phases_of_one_round() {
    for (n, t, m) in [(8, 2, 6), (9, 2, 6), (10, 2, 8)] {
        let mut house = House::new(n, t, m);
        let mut turn = 0;
        for ready in 0..=n {
            for upload in 0..=n - ready {
                for sign in 0..=n - ready - upload {
                    let mut lasts = vec![Last::Unmask; n];
                    let gone = [(Last::Ready, ready), (Last::Upload, upload), (Last::Sign, sign)];
                    let gone = gone.into_iter().flat_map(|(last, k)| vec![last; k]);
                    // Without a divisor in common with n, so that all places are different.
                    let step = if n == 9 { 7 } else { 3 };
                    gone.enumerate().for_each(|(i, last)| lasts[(turn + i * step) % n] = last);
                    turn += 1;
                    house.suffers(&lasts);
                }
            }
        }
    }
}

/// What the coordinator stages is uniform: what was trained cannot be seen in it.
#[test]
fn what_is_uploaded_is_not_what_was_trained() {
    let mut federation = federation(3, 1, 3);
    let (play, _) = play(&mut federation, 1, &[Last::Unmask; 3]);
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
    let (ended, _) = play(&mut federation, 1, &[sign, sign, upload, upload]);
    let why = Abandoned::TooFewSignatures { signed: 2, needed: 3 };
    assert_eq!(ended.outcome(), Some(&Outcome::Abandoned(why)));
    let (ended, _) = play(&mut federation, 2, &[unmask, unmask, sign, sign]);
    let why = Abandoned::TooFewShares { answered: 2 };
    assert_eq!(ended.outcome(), Some(&Outcome::Abandoned(why)));
}
