//! `coordinator demo` as a newcomer runs it: it ends with evidence that holds without it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::command::Order;
use harness::programs::Programs;
use harness::{Outcome, Trouble};
use serde_json::Value;

use crate::evidence::{leaves, models_accept, strangers_agree};

const LIMIT: Duration = Duration::from_secs(400);

fn demo(programs: &Programs, dir: &Path) -> Order {
    let order = Order::new(programs.coordinator()).args(["demo", "--hospitals", "3"]);
    order.args(["--rounds", "2", "--dir"]).arg(dir).patience(LIMIT)
}

/// Runs a line as it was printed, and gives what the program said.
fn by_hand(programs: &Programs, line: &str) -> Outcome<String> {
    let words = line.trim().strip_prefix("consilium-audit ");
    let words = words.ok_or_else(|| Trouble::new(format!("expected a line, found {line:?}")))?;
    let ran = Order::new(programs.audit()).args(words.split(' ')).run()?;
    assert_eq!(ran.exit, Some(0), "{line}: {ran:?}");
    Ok(ran.stdout)
}

/// The line of a text that begins with a word, from its end on.
fn after<'a>(text: &'a str, word: &str) -> Outcome<(&'a str, &'a str)> {
    let mut lines = text.lines().skip_while(|line| !line.trim_start().starts_with(word));
    let found = lines.next().zip(lines.next());
    found.ok_or_else(|| Trouble::new(format!("expected a line with {word}, found {text}")))
}

#[test]
fn a_plain_demo_prints_the_lines_that_check_it_again() -> Outcome<()> {
    let (programs, scratch) = (Programs::find()?, tempfile::tempdir()?);
    let dir = scratch.path().join("demo");
    let ran = demo(&programs, &dir).run()?;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    let (said, line) = after(&ran.stdout, "log ")?;
    assert!(said.contains("verified; again by hand:"), "{said}");
    let verified = by_hand(&programs, line)?;
    assert!(verified.ends_with("\nverified\n"), "{verified}");
    assert!(verified.contains("asked for: 2 of the 3"), "{verified}");
    let (sums, line) = after(&ran.stdout, "sums ")?;
    assert!(sums.contains("added up again, and as the log has it"), "{sums}");
    by_hand(&programs, line)?;
    // Nothing else is left of it: what is verified is what an auditor is given.
    assert!(!dir.join("coordinator").exists(), "the consortium itself is gone");
    let bundle = dir.join("log/tile/entries/000.p");
    let bundle = fs::read_dir(bundle)?.next().ok_or_else(|| Trouble::new("no entries"))??.path();
    let mut bytes = fs::read(&bundle)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&bundle, bytes)?;
    let [log, policy] = ["log", "policy.txt"].map(|name| dir.join(name));
    let refused = Order::new(programs.audit()).arg("verify").arg("--log").arg(log);
    assert_eq!(refused.arg("--policy").arg(policy).run()?.exit, Some(1));
    Ok(())
}

#[test]
fn a_private_demo_ends_with_a_log_that_strangers_accept() -> Outcome<()> {
    let (programs, scratch) = (Programs::find()?, tempfile::tempdir()?);
    let dir = scratch.path().join("demo");
    let ran = demo(&programs, &dir).args(["--epsilon", "3", "--format", "json"]).run()?;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    let lines = ran.stdout.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let done = lines.last().ok_or_else(|| Trouble::new("it said nothing"))?;
    assert_eq!((&done["event"], &done["rounds"]), (&"done".into(), &2.into()), "{done}");
    assert_eq!((&done["log_verified"], &done["mode"]), (&true.into(), &"distributed".into()));
    assert!(done["epsilon"].as_f64().is_some_and(|spent| spent > 0.0 && spent <= 3.0), "{done}");
    let path = |key: &str| done[key].as_str().map(PathBuf::from).unwrap_or_default();
    let [log, policy, report] = ["log", "policy", "report"].map(path);
    let page = fs::read_to_string(report)?;
    let study = done["study"].as_str().unwrap_or_default();
    assert!(study.len() == 64 && page.contains(study) && page.contains("</html>"));
    let line = format!(
        "consilium-audit verify --log {} --policy {} --format json",
        log.display(),
        policy.display()
    );
    let verified: Value = serde_json::from_str(&by_hand(&programs, &line)?)?;
    assert_eq!(verified["data"]["verified"], true, "{verified}");
    strangers_agree(&log, &policy)?;
    let events = dir.join("events.ndjson");
    let export = line.replacen("verify", "export --to fhir", 1);
    by_hand(&programs, &format!("{export} --out {}", events.display()))?;
    models_accept(&events, leaves(&log, &policy)?.len())
}
