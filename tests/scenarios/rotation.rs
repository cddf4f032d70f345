//! Another key for the log between two studies: whoever was told goes on, whoever was not raises an alarm.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::Outcome;
use harness::command::Order;
use harness::consortium::{Consortium, text};
use harness::manifests::Manifest;
use harness::site::{Site, Work};
use transparency::folder::CHECKPOINT;
use transparency::note::Signer;

use crate::evidence::alarmed;
use crate::log::{audit, await_log, folder, policy};

const LIMIT: Duration = Duration::from_secs(120);
const STAND_INS: [Work; 3] = [Work::StandIn, Work::StandIn, Work::StandIn];

fn rotate(house: &Consortium, new_key: &Path) -> Order {
    house.operator(["log", "rotate", "--new-key"]).arg(new_key)
}

/// The administrator writes the log's keys down, the newest first.
fn write_down(site: &Site, keys: &[&str]) -> Outcome<()> {
    let file = site.home().join("state/witness.log");
    assert!(file.exists(), "it has witnessed the log");
    Ok(fs::write(file, format!("{}\n", keys.join("\n")))?)
}

/// A study of all three, to its end.
fn run(house: &Consortium, name: &str) -> Outcome<()> {
    let name = name.to_owned();
    let manifest = Manifest { name, rounds: 2, quorum: 3, ..Manifest::linear(30, 30) };
    let digest = house.begin(&manifest)?;
    let view = house.await_completion(&digest, LIMIT)?;
    assert!(view.released().count() >= 2, "{view:?}");
    await_log(house, 3).map(drop)
}

/// A policy with these log lines in front of the witnesses of another.
fn with_keys(house: &Consortium, name: &str, policy: &Path, keys: &[&str]) -> Outcome<PathBuf> {
    let lines = fs::read_to_string(policy)?;
    let rest: Vec<&str> = lines.lines().filter(|line| !line.starts_with("log ")).collect();
    let keys: Vec<String> = keys.iter().map(|key| format!("log {key}")).collect();
    let path = house.dir().join(name);
    fs::write(&path, format!("{}\n{}\n", keys.join("\n"), rest.join("\n")))?;
    Ok(path)
}

#[test]
fn a_log_has_another_key_and_who_was_told_goes_on() -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &STAND_INS)?;
    run(&house, "before")?;
    let (log, new_key) = (folder(&house), house.home().join("log-2.key"));
    let old_policy = house.dir().join("old-policy.txt");
    fs::copy(policy(&house)?, &old_policy)?;
    let kept = house.dir().join("kept-checkpoint");
    fs::copy(log.join(CHECKPOINT), &kept)?;

    let refused = rotate(&house, &new_key).run()?.refused(1)?;
    assert_eq!(refused.code, "not_rotated", "the coordinator runs: {refused:?}");
    for site in &mut house.sites {
        site.stop()?;
    }
    house.stop()?;
    let config = fs::read_to_string(house.config())?;
    let same = rotate(&house, &house.home().join("log.key")).run()?.refused(4)?;
    assert_eq!(same.code, "bad_key", "{same:?}");
    // Broken off while the key is written, it leaves nothing in the way.
    fs::remove_file(&new_key)?;
    let full = rotate(&house, &new_key).on_a_disk_of_kib(0).run()?;
    assert!(full.exit != Some(0) && !new_key.exists(), "{full:?}");
    let said = rotate(&house, &new_key).data()?;
    let (old, new) = (text(&said, "old_key")?, text(&said, "new_key")?);
    // Typed again, it finds nothing left to do.
    assert_eq!(rotate(&house, &new_key).data()?, said);
    let unchanged = house.serve_order().args(["--format", "json"]).run()?.refused(1)?;
    assert!(unchanged.message.contains("signed by this log"), "{unchanged:?}");
    fs::write(house.config(), config.replace("\"log.key\"", "\"log-2.key\""))?;

    // The first hospital was told, the second was not, the third was told something else.
    write_down(&house.sites[0], &[&new, &old])?;
    let wrong = Signer::from_seed("consilium/north", &[9; 32])?.key().to_string();
    write_down(&house.sites[2], &[&wrong, &old])?;
    house.serve()?;
    house.start_sites()?;
    for (site, expected) in [(1, &old), (2, &wrong)] {
        let said = alarmed(&house, site)?;
        assert!(
            said.contains(&format!("expected the log's key {expected}, found {new}")),
            "{said}"
        );
        assert!(said.contains("witness.log"), "it says what to do: {said}");
    }
    let first = house.sites[0].order(["doctor"]).run()?.envelope()?.to_string();
    assert!(first.contains(&new) && !first.contains("ALARM"), "{first}");
    for site in [1, 2] {
        let site = &mut house.sites[site];
        site.stop()?;
        write_down(site, &[&new, &old])?;
        fs::remove_file(site.home().join("state/witness.alarm"))?;
        site.start()?;
    }
    house.token("somebody", &[])?;
    await_log(&house, 3)?;
    run(&house, "after")?;

    // What auditors find, with what they were given.
    let new_policy = policy(&house)?;
    let both = with_keys(&house, "both-policy.txt", &new_policy, &[&new, &old])?;
    let since = |policy: &Path| audit(&house, "verify", &log, policy).arg("--since").arg(&kept);
    let report = since(&both).data()?;
    assert_eq!(report["verified"], true, "{report}");
    assert_eq!(report["cosigned_by"].as_array().map(Vec::len), Some(3), "{report}");
    assert_eq!(audit(&house, "verify", &log, &new_policy).data()?["verified"], true);
    // Name and id; what follows may have a plus of its own.
    let label = |key: &str| key.splitn(3, '+').take(2).collect::<Vec<_>>().join("+");
    for (policy, missing) in [(&old_policy, &old), (&new_policy, &new)] {
        let refused = since(policy).run()?.refused(1)?;
        let missing = label(missing);
        assert!(
            refused.message.contains(&format!("expected a signature by {missing}")),
            "{missing}: {refused:?}"
        );
    }
    Ok(())
}
