//! A manifest that will not do is refused before anything happens, with every fault in one report.

use std::path::Path;

use harness::Outcome;
use harness::command::Refused;
use harness::consortium::Consortium;
use harness::manifests::Manifest;

use crate::house::shared;

fn refused(house: &Consortium, command: &str, file: &Path) -> Outcome<Refused> {
    house.operator(["study", command]).arg(file).run()?.refused(4)
}

#[test]
fn every_fault_of_a_manifest_is_named_at_once_by_check_and_by_propose() -> Outcome<()> {
    let house = shared()?;
    let text = Manifest { name: "faulty".to_owned(), rounds: 0, quorum: 0, ..Manifest::cnn(8) }
        .text()
        .replace("strategy = \"fedavg\"", "strategy = \"fedavg\"\ncolour = \"red\"");
    let file = house.write_manifest("faulty", &(text + "\n[extra]\nkey = 1\n"))?;
    for command in ["check", "propose"] {
        let told = refused(&house, command, &file)?;
        let told = format!("{} {}", told.message, told.hint);
        for key in ["train.rounds", "train.colour", "cohort.quorum", "task.input", "extra"] {
            assert!(told.contains(key), "{command} does not name {key}: {told}");
        }
    }
    Ok(())
}

#[test]
fn words_that_mean_nothing_and_fields_that_are_missing_are_named_together() -> Outcome<()> {
    let house = shared()?;
    let text = Manifest { name: "words".to_owned(), ..Manifest::linear(4, 4) }
        .text()
        .replace("\"linear\"", "\"oracle\"")
        .replace("\"fedavg\"", "\"fedmagic\"")
        .replace("quorum = 2\n", "")
        .replace("\"danger_no_privacy\"", "\"please\"");
    let file = house.write_manifest("words", &text)?;
    for command in ["check", "propose"] {
        let told = refused(&house, command, &file)?.message;
        for key in ["model.arch", "train.strategy", "cohort.quorum", "privacy.mode"] {
            assert!(told.contains(key), "{command} does not name {key}: {told}");
        }
    }
    Ok(())
}

#[test]
fn a_quorum_above_the_sites_is_refused() -> Outcome<()> {
    let house = shared()?;
    let named = Manifest {
        name: "named".to_owned(),
        quorum: 3,
        sites: vec!["site-1".to_owned(), "site-2".to_owned()],
        ..Manifest::linear(4, 4)
    };
    let file = house.write_manifest("named", &named.text())?;
    assert!(refused(&house, "propose", &file)?.message.contains("cohort.quorum"));
    // Without a list the roster is known only to the coordinator.
    let unnamed = Manifest { name: "unnamed".to_owned(), quorum: 999, ..Manifest::linear(4, 4) };
    let file = house.write_manifest("unnamed", &unnamed.text())?;
    assert!(refused(&house, "propose", &file)?.message.contains("cohort.quorum"));
    Ok(())
}

#[test]
fn a_site_that_nobody_knows_a_file_that_is_no_toml_and_no_file_at_all_are_refused() -> Outcome<()> {
    let house = shared()?;
    let stranger = Manifest {
        name: "stranger".to_owned(),
        sites: vec!["site-1".to_owned(), "site-2".to_owned(), "atlantis".to_owned()],
        ..Manifest::linear(4, 4)
    };
    let file = house.write_manifest("stranger", &stranger.text())?;
    assert!(refused(&house, "propose", &file)?.message.contains("atlantis"));
    let noise = house.write_manifest("noise", "name = \"x\n[[[")?;
    let huge = house.write_manifest("huge", &"# much\n".repeat(20_000))?;
    for file in [noise, huge, house.dir().join("absent.toml")] {
        refused(&house, "check", &file)?;
        refused(&house, "propose", &file)?;
    }
    Ok(())
}

#[test]
fn the_same_manifest_twice_is_the_same_study_and_check_tells_its_digest() -> Outcome<()> {
    let house = shared()?;
    let manifest = Manifest { name: "twice".to_owned(), ..Manifest::linear(4, 4) };
    let file = house.write_manifest("twice", &manifest.text())?;
    let checked = house.operator(["study", "check"]).arg(&file).data()?;
    let expected = proto::manifest::parse(&manifest.text())?.digest().to_string();
    assert_eq!(checked["digest"], expected);
    assert_eq!(house.propose(&manifest)?, expected);
    let again = house.operator(["study", "propose"]).arg(&file).run()?;
    match again.exit {
        Some(0) => assert_eq!(again.data()?["digest"], expected),
        _ => assert!(again.refused(1)?.message.contains("twice")),
    }
    Ok(())
}
