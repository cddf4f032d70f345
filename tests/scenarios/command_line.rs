//! What scripts rely on: exit codes, one envelope on stdout, one line on stderr.

use std::fs;
use std::net::TcpListener;

use harness::Outcome;
use harness::command::Order;
use harness::consortium::Consortium;
use harness::programs::Programs;
use harness::site::{Site, Work};

use crate::house::shared;

#[test]
fn without_a_configuration_every_command_says_so_and_ends_with_4() -> Outcome<()> {
    let programs = Programs::find()?;
    let folder = tempfile::tempdir()?;
    let json = ["--format", "json"];
    for command in [
        &["serve"][..],
        &["check"],
        &["site", "list"],
        &["study", "list"],
        &["model", "list", "--study", "x"],
    ] {
        let order = Order::new(programs.coordinator()).in_folder(folder.path()).args(json);
        let refused = order.args(command).run()?.refused(4)?;
        assert!(refused.message.contains("coordinator.toml"), "{command:?}: {refused:?}");
        assert!(refused.hint.contains("--config"), "{command:?}: {refused:?}");
    }
    for command in [&["run"][..], &["renew"], &["study", "list"], &["data", "scan"]] {
        let order = Order::new(programs.node()).in_folder(folder.path()).args(json);
        let refused = order.args(command).run()?.refused(4)?;
        assert!(refused.message.contains("node.toml"), "{command:?}: {refused:?}");
        assert!(refused.hint.contains("--config"), "{command:?}: {refused:?}");
    }
    Ok(())
}

#[test]
fn arguments_that_are_not_understood_end_with_4_and_help_with_0() -> Outcome<()> {
    let programs = Programs::find()?;
    for program in [programs.coordinator(), programs.node()] {
        for arguments in [
            &["--no-such-flag"][..],
            &["no-such-command"],
            &["study", "show"],
            &["study"],
            &["--format", "yaml", "study", "list"],
        ] {
            let plain = Order::new(&program).args(arguments).run()?;
            assert_eq!(plain.exit, Some(4), "{arguments:?}: {plain:?}");
            assert!(
                plain.stdout.is_empty() && !plain.stderr.is_empty(),
                "{arguments:?}: {plain:?}"
            );
        }
        Order::new(&program).args(["--format", "json", "--no-such-flag"]).run()?.refused(4)?;
        for asked in ["--help", "--version"] {
            let told = Order::new(&program).arg(asked).run()?;
            assert_eq!(told.exit, Some(0), "{told:?}");
            assert!(told.stderr.is_empty() && !told.stdout.is_empty(), "{told:?}");
        }
    }
    let trainer = Order::new(programs.trainer()).args(["--format", "json", "scan", "--colour"]);
    assert_eq!(trainer.run()?.exit, Some(4));
    Ok(())
}

#[test]
fn every_fault_of_a_configuration_is_named_at_once() -> Outcome<()> {
    let house = Consortium::found("north")?;
    let good = fs::read_to_string(house.config())?;
    let bad = good
        .replace("listen = \"127.0.0.1", "listen = \"nowhere")
        .replace("connections = 1024", "connections = 0\ncolour = \"red\"")
        .replace("upload_idle = \"30s\"", "upload_idle = \"soon\"");
    fs::write(house.config(), bad)?;
    for command in [&["check"][..], &["serve"], &["site", "list"]] {
        let refused = house.operator(command).run()?.refused(4)?;
        for key in ["listen", "limits.connections", "limits.colour", "limits.upload_idle"] {
            assert!(refused.message.contains(key), "{command:?} does not name {key}: {refused:?}");
        }
    }
    fs::write(house.config(), &good)?;
    house.operator(["check"]).data()?;
    fs::remove_file(house.home().join("ca.key"))?;
    let refused = house.operator(["check"]).run()?.refused(4)?;
    assert!(refused.message.contains("ca.key"), "{refused:?}");
    house.operator(["serve"]).run()?.refused(4)?;

    let site = Site::settle(house.programs(), &house.dir().join("site"), "site-1", &Work::StandIn)?;
    let good = fs::read_to_string(site.config())?;
    let bad = good.replace("min_cohort = 2", "min_cohort = 0\nmax_rounds = \"many\"\ncolour = 1");
    fs::write(site.config(), bad)?;
    for command in [&["run"][..], &["study", "list"]] {
        let refused = site.order(command).run()?.refused(4)?;
        for key in ["policy.min_cohort", "policy.max_rounds", "policy.colour"] {
            assert!(refused.message.contains(key), "{command:?} does not name {key}: {refused:?}");
        }
    }
    Ok(())
}

#[test]
fn a_port_in_use_is_told_with_its_number_and_nothing_is_touched() -> Outcome<()> {
    let house = Consortium::found("north")?;
    let _taken = TcpListener::bind(("127.0.0.1", house.port()))?;
    let refused = house.operator(["serve"]).run()?.refused(1)?;
    assert!(refused.message.contains(&house.port().to_string()), "{refused:?}");
    assert!(!refused.hint.is_empty());
    assert!(!house.home().join("state").exists(), "no state before the port is ours");
    Ok(())
}

#[test]
fn a_second_coordinator_or_node_on_the_same_state_is_refused() -> Outcome<()> {
    let mut house = Consortium::found("north")?;
    house.serve()?;
    house.settle(&[Work::StandIn])?;
    house.start_sites()?;
    let refused = house.sites[0].order(["run"]).run()?.refused(1)?;
    assert!(
        refused.message.contains("state") || refused.message.contains("running"),
        "{refused:?}"
    );
    let config = fs::read_to_string(house.config())?;
    let moved = config.replace(&format!(":{}", house.port()), ":1").replace(
        "listen = \"127.0.0.1:1\"",
        &format!("listen = \"127.0.0.1:{}\"", harness::consortium::free_port()?),
    );
    let second = house.home().join("second.toml");
    fs::write(&second, moved)?;
    let order = Order::new(house.programs().coordinator()).arg("--config").arg(&second);
    order.args(["--format", "json", "serve"]).run()?.refused(1)?;
    assert_eq!(house.site_view("site-1")?["connected"], true);
    Ok(())
}

#[test]
fn a_coordinator_that_is_not_there_ends_every_command_with_2() -> Outcome<()> {
    let house = Consortium::found("north")?;
    for command in [&["site", "list"][..], &["site", "token", "a"], &["study", "list"]] {
        let refused = house.operator(command).run()?.refused(2)?;
        assert!(refused.message.contains(&house.port().to_string()), "{refused:?}");
    }
    let site = Site::settle(house.programs(), &house.dir().join("site"), "site-1", &Work::StandIn)?;
    let token = harness::consortium::Token {
        token: "any".to_owned(),
        ca_fingerprint: format!("sha256:{}", "00".repeat(32)),
    };
    house.enroll(&site, &token, &house.url()).run()?.refused(2)?;
    // Not enrolled is not a matter of connection: nothing was tried.
    let refused = site.order(["study", "list"]).run()?;
    let refused = refused.refused(refused.exit.unwrap_or_default())?;
    assert!(refused.hint.contains("enroll") || refused.message.contains("enroll"), "{refused:?}");
    Ok(())
}

#[test]
fn what_does_not_exist_is_named_in_the_refusal() -> Outcome<()> {
    let house = shared()?;
    for command in [
        &["study", "show", "no-such-study"][..],
        &["study", "start", "no-such-study"],
        &["study", "stop", "no-such-study"],
        &["study", "watch", "no-such-study"],
        &["model", "list", "--study", "no-such-study"],
        &["model", "export", "--study", "no-such-study", "--out", "/dev/null"],
        &["site", "approve", "no-such-site"],
        &["site", "revoke", "no-such-site"],
    ] {
        let refused = house.operator(command).run()?.refused(1)?;
        assert!(refused.message.contains("no-such-"), "{command:?}: {refused:?}");
    }
    let site = &house.sites[0];
    for command in [
        &["study", "show", "no-such-study"][..],
        &["study", "approve", "no-such-study", "--yes"],
        &["study", "refuse", "no-such-study", "--yes"],
    ] {
        let refused = site.order(command).run()?.refused(1)?;
        assert!(refused.message.contains("no-such-study"), "{command:?}: {refused:?}");
    }
    for name in ["Upper", "-dash", "a/b", "", "a b"] {
        house.operator(["site", "token", "--", name]).run()?.refused(4)?;
    }
    Ok(())
}

#[test]
fn nothing_is_decided_without_a_yes() -> Outcome<()> {
    let house = shared()?;
    let manifest = harness::manifests::Manifest {
        name: "undecided".to_owned(),
        ..harness::manifests::Manifest::linear(4, 4)
    };
    let digest = house.propose(&manifest)?;
    let refused = house.sites[0].order(["study", "approve", &digest]).run()?.refused(4)?;
    assert!(refused.hint.contains("--yes"), "{refused:?}");
    let shown = house.sites[0].order(["study", "show", &digest]).data()?;
    assert!(shown["decision"].is_null(), "{shown}");
    Ok(())
}

#[test]
fn a_consortium_is_not_set_up_over_another_one() -> Outcome<()> {
    let house = Consortium::found("north")?;
    let before = fs::read(house.home().join("ca.key"))?;
    let order = Order::new(house.programs().coordinator())
        .args(["--format", "json", "init", "--consortium", "south"])
        .args(["--url", "https://127.0.0.1:1", "--dir"])
        .arg(house.home());
    assert_eq!(order.run()?.exit, Some(4));
    assert_eq!(fs::read(house.home().join("ca.key"))?, before);
    Ok(())
}
