//! Federations of the state machines alone: what is promised holds in each of them, and would be
//! missed if it did not.

use std::collections::BTreeSet;
use std::process::Command;

use harness::simulation::flaw::Flaw;
use harness::simulation::{Ill, Invariant, Many, Options, play, play_many};
use harness::{Outcome, Trouble};

/// A tenth of what `consilium-bench simulate` plays, and that a hundredth of a proper search.
const SEEDS: u64 = 400;

#[test]
fn every_invariant_holds_whatever_goes_wrong_and_whoever_means_ill() {
    let many = play_many(1_000_000, SEEDS, Options::default());
    let failed: Vec<_> = many.failures.iter().map(|f| (f.seed, f.violation.as_ref())).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(many.seeds, SEEDS);
    // Much went wrong, and yet much was done.
    let counts = many.counts;
    assert!(counts.crashes > SEEDS && counts.drops > SEEDS, "{counts:?}");
    assert!(counts.released > SEEDS && counts.alarms > SEEDS, "{counts:?}");
    assert!(counts.attempts > counts.released + SEEDS / 2, "{counts:?}");
}

/// The meta-test: or no failure could be looked into.
#[test]
fn the_same_seed_plays_the_same_federation_and_another_seed_another() {
    let seeds = 2_000_000..2_000_024;
    let first: Vec<_> = seeds.map(|seed| play(seed, Options::default())).collect();
    // In another order, with other federations beside it, and with its trace kept.
    let traced = Options { trace: true, ..Options::default() };
    let beside = std::thread::spawn(|| play_many(2_000_100, 24, Options::default()));
    for first in first.iter().rev() {
        let again = play(first.seed, traced);
        let seen = (&again.digest, again.counts);
        assert_eq!(seen, (&first.digest, first.counts), "seed {}", first.seed);
        assert_eq!(again.violation, first.violation);
        assert!(first.trace.is_empty() && !again.trace.is_empty());
    }
    assert!(beside.join().is_ok());
    // On as many threads as there are, they come to the same as one after the other.
    let mut one_by_one = Many::default();
    first.iter().cloned().for_each(|played| one_by_one.add(played));
    let together = play_many(2_000_000, 24, Options::default());
    assert_eq!((together.seeds, together.counts), (one_by_one.seeds, one_by_one.counts));
    let digests: BTreeSet<_> = first.iter().map(|played| &played.digest).collect();
    assert_eq!(digests.len(), first.len());
}

/// Each invariant with a bug that breaks it, and with whom as the adversary it shows.
const PLANTED: [(Invariant, Flaw, Ill); 19] = [
    (Invariant::ExactSum, Flaw::SlipsALane, Ill::Nobody),
    (Invariant::OneKindEach, Flaw::AnswersEverySet, Ill::Coordinator),
    (Invariant::OneKindTogether, Flaw::OneColludesMore, Ill::Coordinator),
    (Invariant::Quorum, Flaw::LowersTheQuorum, Ill::Nobody),
    (Invariant::OneSet, Flaw::SignsBeforeKeeping, Ill::Coordinator),
    (Invariant::SignedFirst, Flaw::AnswersUnsigned, Ill::Coordinator),
    (Invariant::OneUpdate, Flaw::ForgetsItsUpdate, Ill::Coordinator),
    (Invariant::Masked, Flaw::SendsUnmasked, Ill::Nobody),
    (Invariant::SameAgain, Flaw::ForgetsItsOwnShare, Ill::Coordinator),
    (Invariant::NoAlarm, Flaw::TellsBeforeKeeping, Ill::Nobody),
    (Invariant::NoAlarm, Flaw::LosesAPage, Ill::Nobody),
    (Invariant::NoFalseAccusation, Flaw::BlamesAnother, Ill::Nobody),
    (Invariant::ConfirmedIsKept, Flaw::AnswersBeforeKeeping, Ill::Nobody),
    (Invariant::EveryoneIsNamed, Flaw::SilentQuorum, Ill::Nobody),
    (Invariant::KeysAgree, Flaw::PinsNothing, Ill::Coordinator),
    (Invariant::Progress, Flaw::ErasesTooMuch, Ill::Nobody),
    (Invariant::Progress, Flaw::ErasesTooMuch, Ill::Hospitals),
    (Invariant::JournalReplays, Flaw::LosesAPage, Ill::Nobody),
    (Invariant::NoPanic, Flaw::Panics, Ill::Nobody),
];

#[test]
fn each_invariant_can_fail_and_a_bug_that_breaks_it_is_found() {
    for (invariant, flaw, ill) in PLANTED {
        // Keys can only disagree where they are agreed on.
        let live_setup = (invariant == Invariant::KeysAgree).then_some(true);
        let options =
            Options { flaw: Some(flaw), ill: Some(ill), live_setup, ..Options::default() };
        let broken = |seed: &u64| {
            play(*seed, options).violation.is_some_and(|found| found.invariant == invariant)
        };
        let found = (0..2_000).find(broken);
        assert!(found.is_some(), "{flaw:?} is never seen to break {invariant:?}");
    }
    let covered: BTreeSet<_> = PLANTED.iter().map(|(invariant, ..)| *invariant).collect();
    assert!(Invariant::ALL.iter().all(|invariant| covered.contains(invariant)));
    let planted: BTreeSet<_> = PLANTED.iter().map(|(_, flaw, _)| *flaw).collect();
    assert!(Flaw::ALL.iter().all(|flaw| planted.contains(flaw)));
}

/// Those of the rules that no hospital is seen to refuse anything by, under a coordinator that means ill.
fn not_refused_by(seeds: u64, live_setup: bool, wanted: &[&'static str]) -> BTreeSet<&'static str> {
    let options = Options {
        trace: true,
        flaw: None,
        ill: Some(Ill::Coordinator),
        live_setup: Some(live_setup),
    };
    let mut missing: BTreeSet<_> = wanted.iter().copied().collect();
    for seed in 0..seeds {
        if missing.is_empty() {
            break;
        }
        for line in play(seed, options).trace.iter().filter(|line| line.contains("ALARM")) {
            missing.retain(|rule| !line.contains(rule));
        }
    }
    missing
}

/// An adversary that never gets as far as a rule says nothing of it.
#[test]
fn the_coordinator_that_means_ill_breaks_every_rule_that_a_hospital_checks() {
    let rounds = ["R-02", "R-05", "R-07", "R-08", "R-13", "R-21", "R-22", "charter"];
    assert_eq!(not_refused_by(400, false, &rounds), BTreeSet::new());
    let setup = ["M-08", "M-10", "M-18", "M-25", "M-26", "M-27"];
    assert_eq!(not_refused_by(400, true, &setup), BTreeSet::new());
}

#[test]
fn a_failing_seed_prints_itself_and_is_played_again_line_by_line() -> Outcome<()> {
    let bench = env!("CARGO_BIN_EXE_consilium-bench");
    let simulate = |more: &[&str]| {
        let fixed = ["simulate", "--plant", "SendsUnmasked", "--format", "json"];
        Command::new(bench).args(fixed).args(more).output()
    };
    let out = simulate(&["--first", "7", "--seeds", "3"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("error: seed 7: no update leaves an honest hospital without"), "{said}");
    assert!(said.contains("--first 7 --seeds 1 --trace"), "{said}");
    let first = String::from_utf8_lossy(&out.stdout).lines().next().map(str::to_owned);
    let first = first.ok_or_else(|| Trouble::new("a summary comes before the failure"))?;
    let summary: serde_json::Value = serde_json::from_str(&first)?;
    assert_eq!((&summary["seeds"], &summary["failures"]), (&3.into(), &3.into()));
    let out = simulate(&["--first", "7", "--seeds", "1", "--trace"])?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("BROKEN: no update leaves an honest hospital without"), "{text}");
    let out = Command::new(bench).args(["simulate", "--seeds", "20"]).output()?;
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}
