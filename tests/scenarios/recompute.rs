//! Rounds that are added up again: real uploads, real masks, a coordinator that is killed, hospitals
//! that vanish, and an auditor who reads over the network or from a copied folder.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use harness::Outcome;
use harness::command::Order;
use harness::consortium::Consortium;
use harness::manifests::Manifest;
use harness::patience::{STEP, wait_for};
use harness::site::Work;
use serde_json::Value;

use crate::secrets::files;

const LIMIT: Duration = Duration::from_secs(150);

/// Four hospitals, and a coordinator that keeps this share of rounds.
fn house_that_keeps(section: &str) -> Outcome<Consortium> {
    let mut house = Consortium::found("north")?;
    let config = fs::read_to_string(house.config())?;
    let (before, _) = config.split_once("[recompute]").unwrap_or((&config, ""));
    fs::write(house.config(), format!("{before}[recompute]\n{section}\n"))?;
    house.serve()?;
    house.settle(&[Work::StandIn, Work::StandIn, Work::StandIn, Work::StandIn])?;
    house.start_sites()?;
    Ok(house)
}

fn manifest(rounds: u32) -> Manifest {
    Manifest {
        rounds,
        quorum: 3,
        masked: true,
        round_deadline: "5s".to_owned(),
        upload_deadline: "5s".to_owned(),
        ..Manifest::linear(200, 200)
    }
}

/// Waits until everything that happened is published, and writes the policy file.
fn published(house: &Consortium) -> Outcome<PathBuf> {
    wait_for("the log to be cosigned", STEP, || {
        let status = house.operator(["log", "status"]).data()?;
        let done = status["published"] == status["facts"] && status["cosigned"] == 4;
        Ok(done.then_some(()))
    })?;
    let path = house.dir().join("policy.txt");
    house.operator(["log", "policy", "--out"]).arg(&path).data()?;
    Ok(path)
}

fn recompute(house: &Consortium, policy: &PathBuf) -> Order {
    Order::new(house.programs().audit())
        .args(["--format", "json", "recompute", "--policy"])
        .arg(policy)
}

/// With the coordinator's folders at hand.
fn offline(house: &Consortium, policy: &PathBuf) -> Order {
    let state = house.home().join("state");
    recompute(house, policy)
        .arg("--log")
        .arg(state.join("log"))
        .arg("--kept")
        .arg(state.join("kept"))
}

/// Over the network, with the certificate in these files.
fn online(house: &Consortium, policy: &PathBuf, certificate: PathBuf, key: PathBuf) -> Order {
    recompute(house, policy)
        .args(["--log", &format!("{}/log", house.url()), "--ca"])
        .arg(house.home().join("ca.pem"))
        .arg("--client-cert")
        .arg(certificate)
        .arg("--client-key")
        .arg(key)
}

/// Folders of rounds that are kept on disk.
fn kept(house: &Consortium, study: &str) -> Outcome<Vec<PathBuf>> {
    let folder = house.home().join("state/kept").join(study);
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    entries.collect()
}

#[test]
fn every_sum_adds_up_again_though_hospitals_vanish_and_the_coordinator_is_killed() -> Outcome<()> {
    let mut house = house_that_keeps("share = 1")?;
    let digest = house.begin(&manifest(14))?;
    house.await_study(&digest, LIMIT, |view| view.released().count() >= 2)?;
    let site = house.sites.get_mut(3).expect("four sites");
    site.crash()?;
    house.await_study(&digest, LIMIT, |view| {
        view.released().next_back().is_some_and(|round| round.contributed.len() == 3)
    })?;
    house.sites.get_mut(3).expect("four sites").start()?;
    for released in [5, 8, 10] {
        house.await_study(&digest, LIMIT, |view| view.released().count() >= released)?;
        house.crash()?;
        house.serve()?;
    }
    let view = house.await_completion(&digest, LIMIT)?;
    let released = view.released().count();
    let policy = published(&house)?;
    let home = house.home();
    let report =
        online(&house, &policy, home.join("auditor.pem"), home.join("auditor.key")).data()?;
    assert_eq!((&report["same"], &report["wrong"]), (&released.into(), &0.into()), "{report}");
    assert_eq!(offline(&house, &policy).data()?, report);
    let masks = |round: &Value| round["masks"].as_u64().unwrap_or(0);
    let rounds = report["rounds"].as_array().cloned().unwrap_or_default();
    // Where somebody vanished after the roster was frozen, there are pair masks besides.
    assert!(rounds.iter().all(|round| masks(round) >= 3), "{report}");
    assert!(rounds.iter().any(|round| round["updates"] == 3), "{report}");
    assert_eq!(kept(&house, &digest)?.len(), released);
    // Uploads that came too late, or were cut off when the coordinator was killed, are gone, too.
    wait_for("the last upload to be swept away", STEP, || {
        let mut staged = Vec::new();
        let folder = home.join("state/blobs/staged");
        if folder.exists() {
            files(&folder, &mut staged)?;
        }
        Ok(staged.is_empty().then_some(()))
    })?;

    // A hospital reads the log, and nothing that is kept.
    let site = house.sites.first().expect("four sites").home().join("state");
    let (certificate, key) = (site.join("certificate.pem"), site.join("tls.key"));
    let refused = online(&house, &policy, certificate, key).run()?;
    assert_eq!(refused.exit, Some(1), "{refused:?}");
    assert!(refused.envelope()?.to_string().contains("403"), "{refused:?}");

    // One bit of one update, and one update less.
    let folder = kept(&house, &digest)?.pop().expect("some are kept");
    let update = folder.join("site-1.update");
    let good = fs::read(&update)?;
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&update, bad)?;
    let caught = offline(&house, &policy).run()?.refused(1)?;
    assert_eq!(caught.code, "recompute_failed");
    assert!(caught.message.contains("the update of site-1 is not the one that arrived"));
    fs::remove_file(&update)?;
    let caught = offline(&house, &policy).run()?.refused(1)?;
    assert!(caught.message.contains("the update of site-1 is missing"), "{caught:?}");
    fs::write(&update, good)?;
    assert_eq!(offline(&house, &policy).data()?, report);
    Ok(())
}

#[test]
fn what_does_not_fit_is_forgotten_and_the_log_says_so() -> Outcome<()> {
    // An update of the smallest model is larger than nothing.
    let house = house_that_keeps("share = 1\nspace = \"0MiB\"")?;
    let digest = house.begin(&manifest(3))?;
    house.await_completion(&digest, LIMIT)?;
    let policy = published(&house)?;
    let refused = offline(&house, &policy).run()?;
    assert_eq!(refused.exit, Some(1), "what was drawn and is not there is no success");
    let report = &refused.envelope()?["data"];
    assert_eq!((&report["same"], &report["wrong"]), (&0.into(), &0.into()), "{report}");
    assert!(report["rounds"][0]["reasons"].to_string().contains("size cap"), "{report}");
    assert_eq!(kept(&house, &digest)?.len(), 0);
    let asked = offline(&house, &policy).args(["--round", "1"]).run()?.refused(1)?;
    assert_eq!(asked.code, "not_kept");
    Ok(())
}
