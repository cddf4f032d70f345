//! Anything may be killed at any moment; the study goes on.

use std::time::Duration;

use aggregation::architecture::model_digest;
use aggregation::ids::RoundId;
use harness::Outcome;
use harness::consortium::Consortium;
use harness::manifests::Manifest;
use harness::site::Work;
use harness::stand_in::model_after;
use harness::study::StudyView;

const LIMIT: Duration = Duration::from_secs(120);
const STAND_INS: [Work; 3] = [Work::StandIn, Work::StandIn, Work::StandIn];

/// Every planned round was released once and in order, and the model is what exactly those
/// contributions, each counted once, add up to.
pub(crate) fn assert_nothing_lost_or_doubled(
    manifest: &Manifest,
    sites: usize,
    view: &StudyView,
) -> Outcome<()> {
    let study = proto::manifest::parse(&manifest.text())?;
    let released: Vec<_> = view.released().collect();
    let numbers: Vec<u32> = released.iter().map(|round| round.round).collect();
    assert_eq!(numbers, (1..=manifest.rounds + 1).collect::<Vec<_>>(), "{view:?}");
    let rounds = released.iter().map(|round| {
        let work = study.work_in(RoundId::new(round.round).expect("rounds are counted from 1"));
        (work, round.contributed.as_slice())
    });
    let expected = model_digest(&model_after(&study, sites, rounds)?).to_string();
    assert_eq!(view.model(), Some(expected.as_str()));
    Ok(())
}

#[test]
fn a_coordinator_killed_three_times_in_a_running_study_takes_it_to_its_end() -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &STAND_INS)?;
    // Large enough that rounds take a while, so that the kills fall into them.
    let manifest = Manifest { rounds: 60, ..Manifest::linear(300, 300) };
    let digest = house.begin(&manifest)?;
    for released in [2, 10, 25] {
        house.await_study(&digest, LIMIT, |view| view.released().count() >= released)?;
        house.crash()?;
        house.serve()?;
    }
    let view = house.await_completion(&digest, LIMIT)?;
    assert_nothing_lost_or_doubled(&manifest, STAND_INS.len(), &view)
}

#[test]
fn a_killed_node_is_named_left_out_and_taken_back() -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &STAND_INS)?;
    let manifest = Manifest {
        // More than there is time for: the story stops it.
        rounds: 1000,
        round_deadline: "3s".to_owned(),
        upload_deadline: "3s".to_owned(),
        ..Manifest::linear(300, 300)
    };
    let digest = house.begin(&manifest)?;
    let all =
        |view: &StudyView| view.released().next_back().is_some_and(|r| r.contributed.len() == 3);
    let before = house.await_study(&digest, LIMIT, all)?;
    house.sites[2].crash()?;
    let without = house.await_study(&digest, LIMIT, |view| {
        view.released().next_back().is_some_and(|round| round.contributed == ["site-1", "site-2"])
    })?;
    let named = without.released().next_back().expect("it was waited for");
    assert_eq!(named.dropped, ["site-3"]);
    assert!(without.history.len() > before.history.len());

    house.sites[2].start()?;
    house.await_study(&digest, LIMIT, all)?;
    house.operator(["study", "stop", &digest]).data()?;
    let view = house.await_study(&digest, LIMIT, |view| view.state == "stopped")?;
    for round in view.released() {
        assert!(round.contributed.len() >= 2, "no silent quorum: {round:?}");
        assert_eq!(
            round.contributed.len() + round.dropped.len(),
            3,
            "everybody is named: {round:?}"
        );
    }
    Ok(())
}

#[test]
fn below_the_quorum_nothing_is_released_and_the_study_waits_for_its_hospitals() -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &STAND_INS)?;
    let manifest = Manifest {
        rounds: 30,
        quorum: 3,
        round_deadline: "3s".to_owned(),
        upload_deadline: "3s".to_owned(),
        ..Manifest::linear(300, 300)
    };
    let digest = house.begin(&manifest)?;
    house.await_study(&digest, LIMIT, |view| view.released().count() >= 2)?;
    house.sites[0].crash()?;
    let stuck = house.await_study(&digest, LIMIT, |view| !view.waiting_for.is_empty())?;
    assert!(stuck.waiting_for.contains("quorum"), "{}", stuck.waiting_for);
    let again = house.study(&digest)?;
    assert_eq!(again.released().count(), stuck.released().count());
    house.sites[0].start()?;
    let view = house.await_completion(&digest, LIMIT)?;
    for round in view.history.iter().filter(|round| !round.released) {
        assert!(!round.reason.is_empty(), "{round:?}");
    }
    assert_nothing_lost_or_doubled(&manifest, STAND_INS.len(), &view)
}

#[test]
fn a_node_killed_again_and_again_never_sends_two_updates_for_one_round() -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &STAND_INS)?;
    let manifest = Manifest {
        rounds: 40,
        round_deadline: "20s".to_owned(),
        upload_deadline: "20s".to_owned(),
        ..Manifest::linear(300, 300)
    };
    let digest = house.begin(&manifest)?;
    for (released, victim) in [(1, 0), (4, 1), (8, 2), (12, 0)] {
        house.await_study(&digest, LIMIT, |view| view.released().count() >= released)?;
        house.sites[victim].crash()?;
        house.sites[victim].start()?;
    }
    let view = house.await_completion(&digest, LIMIT)?;
    assert_nothing_lost_or_doubled(&manifest, STAND_INS.len(), &view)
}

#[test]
fn asked_to_stop_every_program_ends_well_and_the_study_goes_on_afterwards() -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &STAND_INS)?;
    let manifest = Manifest { rounds: 30, ..Manifest::linear(300, 300) };
    let digest = house.begin(&manifest)?;
    house.await_study(&digest, LIMIT, |view| view.released().count() >= 2)?;
    house.sites[1].stop()?;
    house.stop()?;
    house.serve()?;
    house.sites[1].start()?;
    let view = house.await_completion(&digest, LIMIT)?;
    assert_nothing_lost_or_doubled(&manifest, STAND_INS.len(), &view)
}
