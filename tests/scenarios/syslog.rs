//! A collector that the coordinator and a hospital's node feed, and that is away for a while.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use harness::Outcome;
use harness::collector::Collector;
use harness::consortium::Consortium;
use harness::data::TINY;
use harness::manifests::Manifest;
use harness::patience::wait_for;
use harness::programs::Programs;
use harness::rfc5424::Line;
use harness::site::{Site, Work};
use serde_json::Value;

use crate::evidence::{leaves, secrets};
use crate::log::{await_log, folder, policy};
use crate::secrets::plant;

/// Longer than the longest pause between two attempts to connect.
const LIMIT: Duration = Duration::from_secs(150);

fn add(config: &Path, section: &str) -> Outcome<()> {
    let text = fs::read_to_string(config)?;
    Ok(fs::write(config, format!("{text}{section}"))?)
}

/// What `doctor` says of the collector: how it ended, what was found, what to do.
fn doctor(site: &Site) -> Outcome<(String, String, String)> {
    let said = site.order(["doctor"]).run()?.envelope()?;
    let checks = said["data"]["checks"].as_array().cloned().unwrap_or_default();
    let check = checks.iter().find(|check| check["check"] == "syslog");
    let text =
        |key: &str| check.and_then(|check| check[key].as_str()).unwrap_or_default().to_owned();
    Ok((text("result"), text("found"), text("fix")))
}

/// The numbers in a file, if they can be read.
fn numbers(file: &Path) -> Vec<u64> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Waits until nothing waits for the collector any more.
fn await_delivery(house: &Consortium) -> Outcome<()> {
    wait_for("everything to be delivered", LIMIT, || {
        let facts = house.operator(["log", "status"]).data()?["facts"].as_u64();
        let told = numbers(&house.home().join("state/syslog.delivered"));
        let spool = house.sites[0].home().join("state/syslog");
        let [file, bytes] = numbers(&spool.join("delivered"))[..] else { return Ok(None) };
        let newest = fs::metadata(spool.join(format!("{file:012}.spool")));
        let done = newest.is_ok_and(|found| found.len() == bytes) && told.first() == facts.as_ref();
        Ok(done.then_some(()))
    })
}

fn study(house: &Consortium, name: &str) -> Outcome<()> {
    let name = name.to_owned();
    let manifest =
        Manifest { name, rounds: 2, quorum: 3, masked: true, ..Manifest::linear(32, 32) };
    let digest = house.begin(&manifest)?;
    house.await_completion(&digest, LIMIT)?;
    await_log(house, 3).map(drop)
}

/// The coordinator's lines are the log's facts, one for one.
fn are_the_facts(lines: &[Line], log: &Path, policy: &Path) -> Outcome<()> {
    let leaves = leaves(log, policy)?;
    let kinds = |lines: &[Line]| lines.iter().map(|line| line.kind.clone()).collect::<Vec<_>>();
    let told: Vec<String> = leaves.iter().map(|leaf| leaf.kind().to_owned()).collect();
    assert_eq!(kinds(lines), told);
    for (line, leaf) in lines.iter().zip(&leaves) {
        assert_eq!(line.time.as_deref(), Some(leaf.time().to_string().as_str()), "{line:?}");
        for (name, value) in leaf.data() {
            if let Value::String(text) = value {
                assert_eq!(line.field(name), Some(text.as_str()), "{line:?}");
            }
        }
    }
    Ok(())
}

/// A node's lines are those of its own log at info and above, each as often as there.
fn are_the_words(lines: &[Line], log: &Path) -> Outcome<()> {
    let mut words: BTreeMap<String, i64> = BTreeMap::new();
    for line in fs::read_to_string(log)?.lines() {
        let said: Value = serde_json::from_str(line)?;
        if said["target"].as_str().is_some_and(|target| target.starts_with("hospital_node")) {
            *words.entry(said["message"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    assert!(words.len() > 5, "{words:?}");
    for line in lines {
        *words.entry(line.text.clone()).or_default() -= 1;
    }
    let differ: Vec<_> = words.iter().filter(|(_, count)| **count != 0).collect();
    assert!(differ.is_empty(), "said, and not told so often: {differ:?}");
    // Times are taken before lines are put in order; two at once may change places.
    let times: Vec<&str> = lines.iter().filter_map(|line| line.time.as_deref()).collect();
    assert_eq!(times.len(), lines.len());
    for pair in times.windows(2) {
        let [before, after] = [pair[0], pair[1]].map(|time| time.get(..18).unwrap_or_default());
        assert!(before <= after, "{pair:?}");
    }
    Ok(())
}

#[test]
fn a_collector_that_was_away_gets_what_happened_meanwhile_once_and_in_order() -> Outcome<()> {
    let images = tempfile::tempdir()?;
    let work = TINY.for_sites(&Programs::find()?, 3, images.path())?;
    for one in &work {
        if let Work::Dicom(folder) = one {
            plant(folder)?;
        }
    }
    let mut house = Consortium::found("north")?;
    let mut collector = Collector::new(&house.dir().join("collector"))?;
    add(&house.config(), &collector.section())?;
    house.operator(["check"]).data()?;
    house.serve()?;
    house.settle(&work)?;
    let unused = house.token("later", &[])?.token;
    add(house.sites[0].config(), &collector.section())?;
    house.sites[0].log_as_json();
    let (result, found, fix) = doctor(&house.sites[0])?;
    assert!(result == "fail" && found.contains("nobody answers") && !fix.is_empty(), "{found}");
    collector.listen()?;
    let (result, found, _) = doctor(&house.sites[0])?;
    assert_eq!(result, "ok", "{found}");
    house.start_sites()?;
    study(&house, "before")?;
    await_delivery(&house)?;
    let before = collector.heard().len();
    assert!(before > 40, "{before}");

    // While it is away a study is run, the coordinator is restarted, and the node is killed.
    collector.leave();
    study(&house, "meanwhile")?;
    house.stop()?;
    house.serve()?;
    house.sites[0].crash()?;
    house.sites[0].start()?;
    house.await_site("site-1", |view| view["connected"] == true)?;
    study(&house, "still")?;
    assert_eq!(collector.heard().len(), before);
    collector.listen()?;
    await_delivery(&house)?;
    house.token("last", &[])?;
    await_log(&house, 3)?;
    await_delivery(&house)?;

    let heard = collector.heard();
    let lines: Vec<Line> =
        heard.iter().map(|line| Line::parse(line)).collect::<Outcome<Vec<_>>>()?;
    assert!(lines.iter().all(|line| line.facility == 13), "log audit");
    let of = |program: &str| -> Vec<Line> {
        lines.iter().filter(|line| line.program == program).cloned().collect()
    };
    let (facts, words) = (of("coordinator"), of("hospital-node"));
    assert_eq!(facts.len() + words.len(), lines.len());
    are_the_facts(&facts, &folder(&house), &policy(&house)?)?;
    are_the_words(&words, &house.sites[0].log_file())?;
    for (name, secret) in secrets(&house, &unused)? {
        let told = heard
            .iter()
            .find(|line| line.windows(secret.len()).any(|window| window == secret.as_slice()));
        assert!(told.is_none(), "{name} in what the collector heard");
    }

    // A collector with other certificates is told apart from one that is away.
    Collector::new(&house.dir().join("other"))?;
    let site = &house.sites[0];
    let config = fs::read_to_string(site.config())?;
    let strange = config.replace("collector/ca.pem", "other/ca.pem");
    fs::write(site.config(), &strange)?;
    let (result, found, fix) = doctor(site)?;
    assert!(
        result == "fail" && found.contains("syslog.ca") && fix.contains("syslog.ca"),
        "{found}"
    );
    let strange = config.replace("collector/client", "other/client");
    fs::write(site.config(), strange)?;
    let (result, found, fix) = doctor(site)?;
    assert!(result == "fail" && fix.contains("syslog.certificate"), "{found}");
    Ok(())
}
