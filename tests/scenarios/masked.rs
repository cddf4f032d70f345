//! Masked rounds of real processes: exact sums whoever is killed, and no update on any disk but its
//! own hospital's.

use std::time::Duration;

use aggregation::message::Work as Task;
use harness::consortium::Consortium;
use harness::manifests::Manifest;
use harness::site::Work;
use harness::{Outcome, stand_in};

use crate::restart::assert_nothing_lost_or_doubled;
use crate::secrets::{printed, talkative, traces};

const LIMIT: Duration = Duration::from_secs(150);

fn stand_ins(sites: usize) -> Vec<Work> {
    vec![Work::StandIn; sites]
}

fn masked(sites: usize, rounds: u32) -> Manifest {
    let quorum = sites.min(3);
    Manifest { rounds, quorum, masked: true, ..Manifest::linear(200, 200) }
}

#[test]
fn a_masked_study_gives_the_exact_model_and_says_that_nobody_dropped() -> Outcome<()> {
    let house = Consortium::with_sites("north", &stand_ins(4))?;
    let manifest = masked(4, 5);
    let digest = house.begin(&manifest)?;
    let view = house.await_completion(&digest, LIMIT)?;
    assert!(view.history.iter().all(|round| round.dropped.is_empty()), "{view:?}");
    assert_nothing_lost_or_doubled(&manifest, 4, &view)
}

#[test]
fn a_coordinator_killed_in_masked_rounds_loses_none_and_reveals_none() -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &stand_ins(3))?;
    let manifest = masked(3, 25);
    let digest = house.begin(&manifest)?;
    for released in [1, 6, 14] {
        house.await_study(&digest, LIMIT, |view| view.released().count() >= released)?;
        house.crash()?;
        house.serve()?;
    }
    let view = house.await_completion(&digest, LIMIT)?;
    assert_nothing_lost_or_doubled(&manifest, 3, &view)
}

#[test]
fn hospitals_killed_in_masked_rounds_are_named_and_come_back_with_their_keys() -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &stand_ins(4))?;
    let manifest = Manifest {
        round_deadline: "5s".to_owned(),
        upload_deadline: "5s".to_owned(),
        ..masked(4, 40)
    };
    let digest = house.begin(&manifest)?;
    for (killed, released) in [(3, 2), (0, 8), (1, 15)] {
        house.await_study(&digest, LIMIT, |view| view.released().count() >= released)?;
        let site = house.sites.get_mut(killed).expect("four sites");
        site.crash()?;
        let name = site.name.clone();
        house.await_study(&digest, LIMIT, |view| {
            view.released().next_back().is_some_and(|round| round.dropped == [name.clone()])
        })?;
        house.sites.get_mut(killed).expect("four sites").start()?;
        house.await_study(&digest, LIMIT, |view| {
            view.released().next_back().is_some_and(|round| round.contributed.len() == 4)
        })?;
    }
    let view = house.await_completion(&digest, LIMIT)?;
    assert_nothing_lost_or_doubled(&manifest, 4, &view)
}

#[test]
fn no_update_is_ever_on_the_coordinators_disk_or_in_a_log() -> Outcome<()> {
    let house = talkative(&stand_ins(3))?;
    let manifest = masked(3, 12);
    let study = proto::manifest::parse(&manifest.text())?;
    let mut canaries = Vec::new();
    for site in &house.sites {
        let packed = stand_in::update(&study, 3, Task::TrainAndEvaluate, &site.name)?.packed;
        let piece = packed.get(9_000..9_048).unwrap_or_default();
        canaries.extend(printed(&format!("{}'s update", site.name), piece));
    }
    let digest = house.begin(&manifest)?;
    // While uploads are staged, too: what is staged is masked.
    for released in 1..=12 {
        assert_eq!(traces(&house.home(), &canaries)?, Vec::<String>::new());
        house.await_study(&digest, LIMIT, |view| view.released().count() >= released)?;
    }
    house.await_completion(&digest, LIMIT)?;
    assert_eq!(traces(&house.home(), &canaries)?, Vec::<String>::new());
    for site in &house.sites {
        let log = std::fs::read(site.log_file())?;
        for (name, canary) in &canaries {
            let found = log.windows(canary.len()).any(|window| window == canary.as_slice());
            assert!(!found, "{name} in the log of {}", site.name);
        }
    }
    Ok(())
}

#[test]
fn two_hospitals_are_too_few_to_mask_and_the_screen_says_why() -> Outcome<()> {
    let house = Consortium::with_sites("north", &stand_ins(2))?;
    let manifest = Manifest { quorum: 3, ..masked(3, 2) };
    let file = house.write_manifest("two.toml", &manifest.text())?;
    let refused = house
        .operator([
            std::ffi::OsStr::new("study"),
            std::ffi::OsStr::new("propose"),
            file.as_os_str(),
        ])
        .run()?
        .refused(4)?;
    assert!(refused.message.contains("cohort."), "{refused:?}");
    Ok(())
}
