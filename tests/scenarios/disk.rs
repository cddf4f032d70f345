//! A disk that is full: nothing is lost, it is said plainly, and it goes on when there is room.

use std::time::Duration;

use aggregation::architecture::model_digest;
use aggregation::ids::RoundId;
use harness::Outcome;
use harness::consortium::Consortium;
use harness::manifests::Manifest;
use harness::patience;
use harness::site::Work;
use harness::stand_in::model_after;

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_coordinator_without_room_for_models_waits_and_loses_nothing() -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &[Work::StandIn, Work::StandIn])?;
    // A model of 1.4 MiB, updates of half that.
    let manifest = Manifest {
        rounds: 12,
        round_deadline: "3s".to_owned(),
        upload_deadline: "3s".to_owned(),
        ..Manifest::linear(400, 450)
    };
    let digest = house.begin(&manifest)?;
    house.await_study(&digest, LIMIT, |view| view.released().count() >= 2)?;
    house.crash()?;
    let cramped = house.serve_order().on_a_disk_of_kib(512);
    house.serve_as(&cramped)?;
    let stuck = house.study(&digest)?;
    patience::pass(Duration::from_secs(6));
    let later = house.study(&digest)?;
    assert_eq!(later.released().count(), stuck.released().count(), "no room, no model");
    assert_eq!(later.state, "running");
    let log = house.server()?.said();
    assert!(!log.contains("panicked"), "{log}");
    assert!(log.contains("ERROR"), "a full disk wants a person: {log}");
    house.crash()?;
    house.serve()?;
    let view = house.await_completion(&digest, LIMIT)?;
    let study = proto::manifest::parse(&manifest.text())?;
    let rounds = view.released().map(|round| {
        let number = RoundId::new(round.round).expect("rounds are counted from 1");
        (study.work_in(number), round.contributed.as_slice())
    });
    let expected = model_digest(&model_after(&study, 2, rounds)?).to_string();
    assert_eq!(view.model(), Some(expected.as_str()));
    Ok(())
}
