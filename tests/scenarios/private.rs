//! Private studies of real processes: what is spent is counted by each hospital itself, before
//! anything leaves it, and no hospital spends more than it allows.

use std::fs;
use std::time::Duration;

use harness::consortium::Consortium;
use harness::manifests::Manifest;
use harness::patience::wait_for;
use harness::site::{Site, Work};
use harness::study::StudyView;
use harness::{Outcome, Trouble};
use serde::Deserialize;
use transparency::fact::{Fact, Told};

use crate::log::{await_log, facts, policy};
use crate::restart::assert_nothing_lost_or_doubled;

const LIMIT: Duration = Duration::from_secs(150);
const SITES: usize = 4;

/// What `hospital-node ledger` says.
#[derive(Debug, Deserialize)]
struct Spent {
    studies: Vec<OfStudy>,
    epsilon_planned: f64,
    epsilon_solo: f64,
    records: u64,
    alarm: Option<String>,
}

/// Its line for one study.
#[derive(Debug, Deserialize)]
struct OfStudy {
    charged: usize,
    released: usize,
    epsilon_planned: f64,
    rounds_left: u32,
}

fn spent(site: &Site) -> Outcome<Spent> {
    Ok(serde_json::from_value(site.order(["ledger"]).data()?)?)
}

fn of_study(site: &Site) -> Outcome<OfStudy> {
    let mut spent = spent(site)?;
    spent.studies.pop().ok_or_else(|| Trouble::new(format!("{} has spent nothing", site.name)))
}

fn private(rounds: u32, epsilon: f64) -> Manifest {
    Manifest {
        rounds,
        quorum: 3,
        masked: true,
        epsilon: Some(epsilon),
        round_deadline: "5s".to_owned(),
        upload_deadline: "5s".to_owned(),
        ..Manifest::linear(60, 60)
    }
}

fn stand_ins() -> Vec<Work> {
    vec![Work::StandIn; SITES]
}

/// In how many attempts an update of this site was complete.
fn uploads(view: &StudyView, site: &str) -> usize {
    let in_it = |round: &&harness::study::RoundView| round.contributed.iter().any(|of| of == site);
    view.history.iter().filter(in_it).count()
}

#[test]
fn every_hospital_counts_for_itself_what_a_private_study_spends() -> Outcome<()> {
    let house = Consortium::with_sites("north", &stand_ins())?;
    let manifest = private(6, 2.0);
    let digest = house.begin(&manifest)?;
    let view = house.await_completion(&digest, LIMIT)?;
    assert_nothing_lost_or_doubled(&manifest, SITES, &view)?;
    // Epsilon grows from round to round and ends below its target by what a spare round costs.
    let told: Vec<f64> = view.released().filter_map(|round| round.epsilon).collect();
    assert!(told.len() == 7 && told.is_sorted(), "{told:?}");
    let last = told.last().copied().unwrap_or(f64::NAN);
    assert!(last < 2.0 && last > 1.7, "{told:?}");
    for site in &house.sites {
        let spent = spent(site)?;
        let [study] = spent.studies.as_slice() else {
            return Err(Trouble::new(format!("expected one study: {spent:?}")));
        };
        assert_eq!((study.charged, study.released, spent.records), (6, 6, 12), "{spent:?}");
        assert!((study.epsilon_planned - last).abs() < 1e-9, "{spent:?}");
        assert!(spent.epsilon_solo > spent.epsilon_planned, "{spent:?}");
        assert!(spent.alarm.is_none() && study.rounds_left > 0, "{spent:?}");
    }
    // The log says the same with each release.
    await_log(&house, 4)?;
    let (facts, kinds) = facts(&house, &policy(&house)?)?;
    let spent = |told: &Told| {
        let Fact::RoundReleased { epsilon, .. } = &told.fact else { return None };
        *epsilon
    };
    assert_eq!(facts.iter().filter_map(spent).collect::<Vec<_>>(), told);
    assert_eq!((kinds["ledger_charge"], kinds.get("round_refused")), (6 * SITES, None));
    Ok(())
}

/// D-21: whenever a hospital is killed, no update of it was seen that its ledger does not pay for.
#[test]
fn hospitals_that_are_killed_have_paid_for_all_that_was_seen_of_them() -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &stand_ins())?;
    let manifest = private(25, 1.0);
    let digest = house.begin(&manifest)?;
    for (turn, released) in [1, 3, 5, 8, 11, 14, 17].into_iter().enumerate() {
        house.await_study(&digest, LIMIT, |view| view.released().count() >= released)?;
        let site = house.sites.get_mut(turn % SITES).expect("four sites");
        site.crash()?;
        site.start()?;
    }
    let view = house.await_completion(&digest, LIMIT)?;
    assert_nothing_lost_or_doubled(&manifest, SITES, &view)?;
    for site in &house.sites {
        // The last round only scores, and costs nothing.
        let seen = uploads(&view, &site.name).saturating_sub(1);
        let of_study = of_study(site)?;
        assert!(of_study.charged >= seen, "{}: {seen} uploads, {of_study:?}", site.name);
        assert!(of_study.epsilon_planned <= 3.0, "{of_study:?}");
    }
    Ok(())
}

/// D-24: the caps are the hospital's, whatever the study plans.
#[test]
fn a_hospital_declines_the_round_that_would_cross_its_cap_and_the_others_go_on() -> Outcome<()> {
    let house = Consortium::with_sites("north", &stand_ins())?;
    let careful = house.sites.first().expect("four sites");
    let text = fs::read_to_string(careful.config())?;
    let lower = text.replace("min_cohort = 2", "min_cohort = 2\nepsilon_lifetime = 0.8");
    fs::write(careful.config(), lower)?;
    let log = careful.log_file();
    wait_for("the changed configuration", LIMIT, || {
        Ok(fs::read_to_string(&log)?.contains("configuration read again").then_some(()))
    })?;
    let manifest = private(10, 1.5);
    let digest = house.begin(&manifest)?;
    let view = house.await_completion(&digest, LIMIT)?;
    let without = view.released().filter(|round| round.dropped == [careful.name.clone()]).count();
    let spent = spent(careful)?;
    let of_study = of_study(careful)?;
    assert_eq!(of_study.charged + without, 10, "{of_study:?}, {view:?}");
    assert!(of_study.charged > 0 && without > 0, "{of_study:?}");
    assert!(spent.epsilon_planned <= 0.8 && of_study.rounds_left == 0, "{spent:?}");
    let log = fs::read_to_string(careful.log_file())?;
    assert!(log.contains("all studies together may be 0.8"), "the log says which cap");
    // A study that plans to cross the cap of a single study is not even approved.
    let text = fs::read_to_string(careful.config())?;
    let lower = text.replace("epsilon_lifetime = 0.8", "epsilon_per_study = 0.5");
    fs::write(careful.config(), lower)?;
    let second = house.propose(&Manifest { name: "second".to_owned(), ..private(5, 1.0) })?;
    let refused = careful.order(["study", "approve", &second, "--yes"]).run()?;
    assert_eq!(refused.exit, Some(1), "{refused:?}");
    assert!(format!("{refused:?}").contains("policy.epsilon_per_study"), "{refused:?}");
    Ok(())
}

/// D-23: whoever puts back an old copy of the ledger spends nothing from it.
#[test]
fn a_hospital_with_a_restored_ledger_refuses_and_says_why() -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &stand_ins())?;
    let manifest = private(400, 2.5);
    let digest = house.begin(&manifest)?;
    house.await_study(&digest, LIMIT, |view| view.released().count() >= 2)?;
    let site = house.sites.first_mut().expect("four sites");
    let (name, ledger) = (site.name.clone(), site.home().join("state/ledger"));
    site.stop()?;
    let old = fs::read(&ledger)?;
    site.start()?;
    let contributes = |view: &StudyView, from: u32| {
        view.released().any(|round| round.round > from && round.contributed.contains(&name))
    };
    let view = house.await_study(&digest, LIMIT, |view| contributes(view, 5))?;
    let site = house.sites.first_mut().expect("four sites");
    site.stop()?;
    let newest = fs::read(&ledger)?;
    assert!(newest.len() > old.len() && newest.starts_with(&old), "a ledger only grows");
    fs::write(&ledger, &old)?;
    let from = view.released().next_back().map_or(0, |round| round.round);
    let site = house.sites.first_mut().expect("four sites");
    site.start()?;
    let log = site.log_file();
    house.await_study(&digest, LIMIT, |view| {
        view.released().any(|round| round.round > from + 3 && !round.contributed.contains(&name))
            && fs::read_to_string(&log).is_ok_and(|log| log.contains("this is an old copy"))
    })?;
    let site = house.sites.first_mut().expect("four sites");
    let told = site.order(["ledger"]).run()?;
    assert_eq!(told.exit, Some(1), "{told:?}");
    assert!(format!("{told:?}").contains("old copy"), "{told:?}");
    let doctor = site.order(["doctor"]).run()?;
    assert!(doctor.exit == Some(1) && format!("{doctor:?}").contains("old copy"), "{doctor:?}");
    assert_eq!(fs::read(&ledger)?, old, "nothing was spent from it");
    // The newest copy makes it good again.
    site.stop()?;
    fs::write(&ledger, &newest)?;
    let view = house.study(&digest)?;
    let from = view.released().next_back().map_or(0, |round| round.round);
    house.sites.first_mut().expect("four sites").start()?;
    house.await_study(&digest, LIMIT, |view| contributes(view, from))?;
    let site = house.sites.first_mut().expect("four sites");
    assert!(spent(site)?.alarm.is_none());
    Ok(())
}
