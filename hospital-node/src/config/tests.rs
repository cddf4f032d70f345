//! What may stand in the file, and what is said of the rest.

use super::*;

fn faults(text: &str) -> Vec<String> {
    match Config::parse(text, Path::new("/etc/node.toml")) {
        Err(ConfigError::Faults { faults, .. }) => faults.iter().map(|f| f.key.clone()).collect(),
        Err(other) => vec![other.to_string()],
        Ok(_) => Vec::new(),
    }
}

#[test]
fn the_sample_is_valid_and_private() {
    let config = Config::parse(SAMPLE, Path::new("/etc/node/node.toml")).expect("the sample");
    assert_eq!(config.state, Path::new("/etc/node/state"));
    assert_eq!(config.policy.min_cohort, 3);
    assert!(!config.policy.danger_allow_no_privacy);
    assert!(!config.policy.danger_accept_unmasked_updates);
    assert_eq!(config.policy.new_sites, NewSites::Pin);
    assert!(config.trainer.program.ends_with("hospital-trainer"));
}

#[test]
fn paths_are_relative_to_the_file_and_absolute_ones_stay() {
    let text = "state = \"s\"\n[data.a]\nkind = \"npz\"\npath = \"/srv/a.npz\"\n[data.b]\nkind = \"dicom\"\npath = \"b\"\nmanifest = \"b/m.csv\"\n";
    let config = Config::parse(text, Path::new("/etc/node.toml")).expect("valid");
    assert_eq!(config.data["a"].path, Path::new("/srv/a.npz"));
    assert_eq!(config.data["b"].path, Path::new("/etc/b"));
    assert_eq!(config.data["b"].manifest.as_deref(), Some(Path::new("/etc/b/m.csv")));
}

#[test]
fn what_is_fetched_is_passed_on_as_it_is_written() {
    let text = "state = \"s\"\n[pull.chest]\nfrom = \"https://pacs/\"\nanything = 3\n";
    let config = Config::parse(text, Path::new("/etc/node.toml")).expect("valid");
    assert_eq!(config.pull["chest"].len(), 2);
    let wrong = "state = \"s\"\n[pull]\nchest = 3\n[pull.Chest]\n";
    assert_eq!(faults(wrong), ["pull.Chest", "pull.chest"]);
}

#[test]
fn every_fault_is_told_in_one_run() {
    let text = r#"
        stat = "x"
        [network]
        proxy = "http://user:secret@proxy:1"
        colour = 1
        [policy]
        danger_allow_no_privacy = "yes"
        danger_accept_unmasked_updates = 1
        new_sites = "trust"
        max_rounds = 0
        epsilon_per_study = 0
        solo_epsilon_lifetime = inf
        delta = 1
        accountant = "guess"
        danger_allow_image_level_privacy = "no"
        min_cohort = 1
        hours = ["22:00-06:00", "25:00-1"]
        [trainer]
        threads = -1
        device = "abacus"
        [data.Chest]
        kind = "jpeg"
        [data.b]
        kind = "images"
        path = ""
        [data.c]
        kind = "npz"
        path = "c.npz"
        manifest = "m.csv"
    "#;
    let found = faults(text);
    let expected = [
        "state",
        "data.Chest",
        "data.Chest.kind",
        "data.Chest.path",
        "data.b.path",
        "data.b.manifest",
        "data.c.manifest",
        "stat",
        "network.proxy",
        "policy.hours[1]",
        "policy.new_sites",
        "policy.epsilon_per_study",
        "policy.solo_epsilon_lifetime",
        "policy.delta",
        "policy.accountant",
        "policy.danger_allow_image_level_privacy",
        "policy.danger_accept_unmasked_updates",
        "policy.danger_allow_no_privacy",
        "policy.max_rounds",
        "policy.min_cohort",
        "trainer.threads",
        "trainer.device",
        "network.colour",
    ];
    assert_eq!(found, expected);
    let error = Config::parse(text, Path::new("node.toml")).expect_err("faults");
    assert!(!error.to_string().contains("secret"), "a password is not repeated");
}

#[test]
fn what_is_not_toml_says_the_line() {
    let error =
        Config::parse("state = \"a\"\n[network\n", Path::new("n.toml")).expect_err("syntax");
    assert!(error.to_string().contains("line 2"), "{error}");
}
