//! Which identity keys a hospital believes, and how its administrator sees and decides that.

use std::fs;
use std::time::Duration;

use harness::Outcome;
use harness::consortium::{Consortium, text};
use harness::manifests::Manifest;
use harness::site::{Site, Work};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(150);

/// What `doctor` says of one thing; whether all is well is another matter.
fn doctor(site: &Site, check: &str) -> Outcome<Option<(String, String)>> {
    let said = site.order(["doctor"]).run()?;
    let envelope = said.envelope()?;
    let checks = &envelope["data"]["checks"];
    let found = checks.as_array().into_iter().flatten().find(|found| found["check"] == check);
    found.map(|found| Ok((text(found, "result")?, text(found, "found")?))).transpose()
}

fn states(list: &Value) -> Vec<(&str, &str)> {
    let sites = list["sites"].as_array().into_iter().flatten();
    sites.filter_map(|row| Some((row["site"].as_str()?, row["state"].as_str()?))).collect()
}

#[test]
fn a_house_that_asks_first_believes_no_key_before_its_administrator_does() -> Outcome<()> {
    let mut house = Consortium::found("north")?;
    house.serve()?;
    house.settle(&[Work::StandIn, Work::StandIn, Work::StandIn])?;
    for site in house.sites.iter().take(1) {
        let config = fs::read_to_string(site.config())?;
        let asks = config.replace("[policy]\n", "[policy]\nnew_sites = \"ask\"\n");
        fs::write(site.config(), asks)?;
    }
    house.start_sites()?;
    let first = &house.sites[0];

    // Nobody was met yet.
    let list = first.order(["roster", "list"]).data()?;
    let own = text(&house.site_view("site-1")?, "identity_fingerprint")?;
    assert_eq!((&list["own_fingerprint"], states(&list)), (&Value::from(own), vec![]));
    let refused =
        first.order(["roster", "accept", "--site", "site-2", "--yes"]).run()?.refused(1)?;
    assert!(refused.message.contains("site-2"), "{refused:?}");

    // The study names them, and until they are accepted it cannot be approved.
    let manifest = Manifest { rounds: 2, quorum: 3, masked: true, ..Manifest::linear(30, 30) };
    let digest = house.propose(&manifest)?;
    let refused = first.order(["study", "approve", &digest, "--yes"]).run()?.refused(1)?;
    assert_eq!(refused.code, "identity_not_accepted");
    let list = first.order(["roster", "list"]).data()?;
    assert_eq!(states(&list), [("site-2", "new"), ("site-3", "new")]);
    let (result, found) = doctor(first, "identities")?.expect("there is a journal");
    assert_eq!((&*result, &*found), ("fail", "0 pinned; new or changed: site-2, site-3"));

    // Another fingerprint than the site's own is not taken; nor is a third site's.
    let fingerprint = |name: &str| text(&house.site_view(name)?, "identity_fingerprint");
    let accept = |name: &str, said: &str| {
        first.order(["roster", "accept", "--site", name, "--fingerprint", said]).run()
    };
    let refused = accept("site-2", &fingerprint("site-3")?)?.refused(1)?;
    assert!(refused.message.contains(&fingerprint("site-2")?), "{refused:?}");
    assert!(refused.hint.contains("ask the site itself"), "{refused:?}");
    accept("site-2", "sha256:12")?.refused(4)?;
    let taken = accept("site-2", &fingerprint("site-2")?)?.data()?;
    assert_eq!((&taken["state"], &taken["site"]), (&"pinned".into(), &"site-2".into()));
    let again = accept("site-2", &fingerprint("site-2")?)?.data()?;
    assert_eq!(again["since"], taken["since"], "said twice, it is answered as the first time");
    let list = first.order(["roster", "list"]).data()?;
    assert_eq!(states(&list), [("site-2", "pinned"), ("site-3", "new")]);
    first.order(["study", "approve", &digest, "--yes"]).run()?.refused(1)?;
    first.order(["roster", "accept", "--site", "site-3", "--yes"]).data()?;
    let (result, found) = doctor(first, "identities")?.expect("there is a journal");
    assert_eq!((&*result, &*found), ("ok", "2 pinned"));

    // The others pin what they find. Once all have approved, the keys are made.
    for site in &house.sites {
        site.approve(&digest)?;
    }
    let (result, found) = doctor(first, "keys of story")?.expect("an approved study that masks");
    assert_eq!((&*result, found.contains("does not run yet")), ("skipped", true), "{found}");
    house.operator(["study", "start", &digest]).data()?;
    house.await_study(&digest, LIMIT, |view| view.released().count() > 0)?;
    let (result, found) = doctor(first, "keys of story")?.expect("an approved study that masks");
    let agreed = found.contains("slots left") || found.contains("is over");
    assert!(["ok", "skipped"].contains(&&*result) && agreed, "{result} {found}");
    house.await_completion(&digest, LIMIT)?;
    Ok(())
}
