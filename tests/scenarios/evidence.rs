//! A real study's log, seen by those who believe nobody: every file of it with a bit flipped, judged by
//! strangers' programs, and searched for what must not be in it; and a coordinator that tells two
//! stories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::command::Order;
use harness::consortium::Consortium;
use harness::data::TINY;
use harness::manifests::Manifest;
use harness::patience::{STEP, wait_for};
use harness::programs::Programs;
use harness::site::Work;
use harness::study::StudyView;
use harness::{Outcome, Trouble};
use serde_json::Value;
use sqlx::{ConnectOptions as _, Connection as _};
use transparency::checkpoint::SignedCheckpoint;
use transparency::folder::{CHECKPOINT, Folder, Reader};
use transparency::leaf::Leaf;
use transparency::policy::Policy;
use transparency::tile::TILE_WIDTH;

use crate::log::{await_log, copy, folder, policy};
use crate::python::environment;
use crate::secrets::{PATIENT, RECORD, body, files, printed, talkative, traces};

const LIMIT: Duration = Duration::from_secs(150);
const STAND_INS: [Work; 3] = [Work::StandIn, Work::StandIn, Work::StandIn];

/// `consilium-audit`, as talkative as it can be.
fn audit(house: &Consortium, command: &str, log: &Path, policy: &Path) -> Order {
    let order = Order::new(house.programs().audit()).env("RUST_LOG", "trace");
    order.arg(command).arg("--log").arg(log).arg("--policy").arg(policy)
}

/// A study of real images, masked, with every program at trace level.
fn real_study(images: &Path) -> Outcome<(Consortium, String)> {
    let work = TINY.for_sites(&Programs::find()?, 3, images)?;
    let house = talkative(&work)?;
    let manifest = Manifest { rounds: 3, quorum: 3, masked: true, ..Manifest::linear(32, 32) };
    let digest = house.begin(&manifest)?;
    house.await_completion(&digest, LIMIT)?;
    await_log(&house, 3)?;
    Ok((house, digest))
}

/// What must be in nothing that an auditor is given: keys of every party, tokens, the keys of masks.
pub(crate) fn secrets(house: &Consortium, unused: &str) -> Outcome<Vec<(String, Vec<u8>)>> {
    let mut all = vec![
        ("a patient".to_owned(), PATIENT.into()),
        ("a record's name".to_owned(), RECORD.into()),
        ("a token".to_owned(), unused.as_bytes().to_vec()),
    ];
    let mut homes = vec![("the coordinator".to_owned(), house.home())];
    homes.extend(house.sites.iter().map(|site| (site.name.clone(), site.home().join("state"))));
    for (whose, home) in homes {
        for entry in fs::read_dir(home)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "key") {
                continue;
            }
            let secret = fs::read(&path)?;
            let secret = match std::str::from_utf8(&secret) {
                Ok(pem) if pem.starts_with('-') => body(pem)?,
                _ => secret,
            };
            all.extend(printed(&format!("{} of {whose}", path.display()), &secret));
        }
    }
    let mut kept = Vec::new();
    files(&house.home().join("state/kept"), &mut kept)?;
    for record in kept.iter().filter(|path| path.ends_with("record.json")) {
        let record: Value = serde_json::from_slice(&fs::read(record)?)?;
        for mask in record["masks"].as_array().into_iter().flatten() {
            let key = mask["key"].as_str().unwrap_or_default();
            all.push(("the key of a mask".to_owned(), key.as_bytes().to_vec()));
        }
    }
    assert!(all.len() > 30, "{}", all.len());
    Ok(all)
}

#[test]
fn a_real_log_holds_against_flipped_bits_strangers_and_a_search_for_secrets() -> Outcome<()> {
    let images = tempfile::tempdir()?;
    let (mut house, digest) = real_study(images.path())?;
    let unused = house.token("later", &[])?.token;
    let policy = policy(&house)?;
    await_log(&house, 3)?;
    house.stop()?;
    let given = house.dir().join("given");
    let log = given.join("log");
    copy(&folder(&house), &log)?;

    // All that an auditor can make of it, with whatever the program says meanwhile.
    let out = |name: &str| given.join(name);
    let mut orders = vec![
        ("verify", audit(&house, "verify", &log, &policy)),
        ("show", audit(&house, "show", &log, &policy).args(["--last", "10000"])),
        ("search", audit(&house, "search", &log, &policy)),
        (
            "report",
            audit(&house, "report", &log, &policy)
                .args(["--study", &digest, "--out"])
                .arg(out("report.html")),
        ),
        (
            "recompute",
            audit(&house, "recompute", &log, &policy)
                .arg("--kept")
                .arg(house.home().join("state/kept")),
        ),
    ];
    for format in ["fhir", "ocsf", "csv", "jsonl"] {
        orders.push((format, audit(&house, "export", &log, &policy).args(["--to", format])));
    }
    for (name, order) in orders {
        let ran = order.run()?;
        assert_eq!(ran.exit, Some(0), "{name}: {ran:?}");
        fs::write(out(&format!("{name}.out")), format!("{}{}", ran.stdout, ran.stderr))?;
    }
    let secrets = secrets(&house, &unused)?;
    assert_eq!(traces(&given, &secrets)?, Vec::<String>::new());
    for words in house.sites.iter().map(|site| site.log_file()).chain([house.log_file()]) {
        let words = fs::read(words)?;
        for (name, secret) in &secrets {
            let found = words.windows(secret.len()).any(|window| window == secret.as_slice());
            assert!(!found, "{name} in what a program said");
        }
    }
    // The names of the classes, too, are in no leaf; and a figure is over all sites together.
    let labels = [("a label".to_owned(), b"pneumonia".to_vec())];
    assert_eq!(traces(&given, &labels)?, Vec::<String>::new());
    for leaf in leaves(&log, &policy)? {
        let data = leaf.data();
        let figures = ["loss", "auroc", "accuracy"].iter().any(|key| data.contains_key(*key));
        let together = leaf.kind() == "round_evaluated" && data["sites"] == 3;
        assert!(!figures || together && !data.contains_key("site"), "{leaf:?}");
    }

    // One bit in every tile and every bundle, one after the other.
    let mut tiles = Vec::new();
    files(&log.join("tile"), &mut tiles)?;
    assert!(tiles.len() > 4, "{tiles:?}");
    for (number, tile) in tiles.iter().enumerate() {
        let good = fs::read(tile)?;
        let mut bad = good.clone();
        let at = (number * 7_919) % bad.len();
        bad[at] ^= 1 << (number % 8);
        fs::write(tile, bad)?;
        let refused = audit(&house, "verify", &log, &policy).args(["--format", "json"]).run()?;
        let refused = refused.refused(1)?;
        assert_eq!(refused.code, "verification_failed", "{}", tile.display());
        let place = tile.strip_prefix(&log)?.display().to_string();
        assert!(refused.message.contains(&place), "{place}: {refused:?}");
        fs::write(tile, good)?;
    }
    let again = audit(&house, "verify", &log, &policy).run()?;
    assert_eq!(again.exit, Some(0), "{again:?}");
    strangers_agree(&log, &policy)?;
    let events = out("events.ndjson");
    audit(&house, "export", &log, &policy)
        .args(["--to", "fhir", "--out"])
        .arg(&events)
        .args(["--format", "json"])
        .data()?;
    models_accept(&events, leaves(&log, &policy)?.len())
}

/// `fhir.resources` from PyPI, where it can be had, accepts every event.
pub(crate) fn models_accept(events: &Path, count: usize) -> Outcome<()> {
    use std::io::Write as _;
    let wanted = ["fhir.resources==8.3.0"];
    let python = match environment("fhir-models", "import fhir.resources.R4B.auditevent", &wanted) {
        Ok(python) => python,
        Err(why) => {
            writeln!(std::io::stderr(), "fhir.resources: not asked: {why}")?;
            return Ok(());
        }
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../proto/transparency/tests/log/fhir_models.py");
    let answer = Command::new(python).arg(script).arg(events).output()?;
    let words = String::from_utf8_lossy(&answer.stderr);
    let said = String::from_utf8_lossy(&answer.stdout);
    assert_eq!(said, format!("{count} accepted, 0 refused\n"), "{words}");
    Ok(())
}

pub(crate) fn leaves(log: &Path, policy: &Path) -> Outcome<Vec<Leaf>> {
    let policy = Policy::parse(&fs::read(policy)?)?;
    let (reader, _) = Reader::open(Folder::open(log)?, &policy)?;
    let mut leaves = Vec::new();
    for bundle in 0..reader.size().div_ceil(TILE_WIDTH) {
        for entry in reader.entries(bundle)? {
            leaves.push(Leaf::decode(&entry)?);
        }
    }
    Ok(leaves)
}

/// `aics-tlog` and `pymerkle` from PyPI, where they can be had.
pub(crate) fn strangers_agree(log: &Path, policy_file: &Path) -> Outcome<()> {
    let packages = ["aics-tlog==0.2.1", "pymerkle==7.0.0"];
    let python = match environment("foreign-verifiers", "import aics_tlog, pymerkle", &packages) {
        Ok(python) => python,
        Err(why) => {
            use std::io::Write as _;
            writeln!(std::io::stderr(), "foreign verifiers: not asked: {why}")?;
            return Ok(());
        }
    };
    let text = fs::read_to_string(policy_file)?;
    let keys = |word: &str| -> Vec<String> {
        let of = |line: &str| Some(line.strip_prefix(word)?.split(' ').next_back()?.to_owned());
        text.lines().filter_map(of).collect()
    };
    let policy = Policy::parse(text.as_bytes())?;
    let (reader, _) = Reader::open(Folder::open(log)?, &policy)?;
    let (entry, proof) = reader.prove(reader.size() / 2)?;
    let scratch = tempfile::tempdir()?;
    let [old, leaf] = ["old", "leaf"].map(|name| scratch.path().join(name));
    fs::write(&old, fs::read(log.join(CHECKPOINT))?)?;
    fs::write(&leaf, entry)?;
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/transparency/tests/log/foreign.py");
    let answer = Command::new(python)
        .arg(script)
        .arg(log)
        .arg(keys("log ").concat())
        .arg(keys("witness ").join(","))
        .arg("2")
        .args([&old, &leaf])
        .arg(proof.index().to_string())
        .output()?;
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    let root: String =
        reader.signed().checkpoint().root().iter().map(|byte| format!("{byte:02x}")).collect();
    for line in ["checkpoint: ok", "consistency: ok", "inclusion: ok", &format!("root: {root}")] {
        let words = String::from_utf8_lossy(&answer.stderr);
        assert!(said.contains(line), "{line}: {said}{words}");
    }
    assert!(said.contains("audit_tiles: ") && !said.contains("refused"), "{said}");
    Ok(())
}

/// Waits until this hospital's own administrator is told of an alarm.
pub(crate) fn alarmed(house: &Consortium, site: usize) -> Outcome<String> {
    let site = house.sites.get(site).ok_or_else(|| Trouble::new("three sites"))?;
    wait_for("the alarm", STEP, || {
        let doctor = site.order(["doctor"]).run()?;
        let said = doctor.envelope()?["data"]["checks"].to_string();
        let found = said.contains("ALARM");
        assert!(!found || doctor.exit == Some(1), "{doctor:?}");
        Ok(found.then_some(said))
    })
}

fn slow(rounds: u32) -> Manifest {
    Manifest {
        rounds,
        quorum: 2,
        round_deadline: "3s".to_owned(),
        upload_deadline: "3s".to_owned(),
        ..Manifest::linear(300, 300)
    }
}

/// Once a paused study is resumed, nothing may be released any more: the hospitals decline, or the
/// coordinator has been shown that its log was set back, and opens no round.
fn no_further_round(house: &Consortium, digest: &str) -> Outcome<()> {
    // The round that was open when it was paused may still end well.
    let paused = |view: &StudyView| {
        view.waiting_for.starts_with("paused") || view.waiting_for.contains("was set back")
    };
    let before = house.await_study(digest, LIMIT, paused)?.released().count();
    house.operator(["study", "resume", digest]).data()?;
    let stuck = house.await_study(digest, LIMIT, |view| {
        let abandoned = view.history.iter().rev().take_while(|round| !round.released);
        abandoned.count() >= 2 || view.waiting_for.contains("was set back")
    })?;
    assert_eq!(stuck.released().count(), before, "{stuck:?}");
    Ok(())
}

#[test]
fn two_histories_shown_to_two_hospitals_are_an_alarm_as_soon_as_one_sees_the_other() -> Outcome<()>
{
    let mut house = Consortium::with_sites("north", &STAND_INS)?;
    let digest = house.begin(&slow(1_000))?;
    house.await_study(&digest, LIMIT, |view| view.released().count() >= 1)?;
    house.operator(["study", "pause", &digest]).data()?;
    await_log(&house, 3)?;
    let (state, first, second) =
        (house.home().join("state"), house.home().join("first"), house.home().join("second"));
    house.stop()?;
    house.sites[2].crash()?;
    copy(&state, &second)?;

    // The first two hospitals see one history, and cosign it.
    house.serve()?;
    for invited in ["one", "another", "a-third"] {
        house.token(invited, &[])?;
    }
    await_log(&house, 2)?;
    house.stop()?;
    for site in [0, 1] {
        house.sites[site].crash()?;
    }
    fs::rename(&state, &first)?;

    // The third sees the other, and finds nothing wrong with it: it grew out of what it knows.
    fs::rename(&second, &state)?;
    house.serve()?;
    house.token("somebody-else", &[])?;
    house.sites[2].start()?;
    wait_for("the third hospital's cosignature", STEP, || {
        let status = house.operator(["log", "status"]).data()?;
        let cosigned =
            status["witnesses"].as_array().into_iter().flatten().any(|witness| {
                witness["site"] == "site-3" && witness["cosigned"] == status["facts"]
            });
        Ok(cosigned.then_some(()))
    })?;
    let doctor = house.sites[2].order(["doctor"]).run()?.envelope()?.to_string();
    assert!(!doctor.contains("ALARM"), "{doctor}");

    // A hospital that has cosigned the first meets the second; then the other way round.
    for site in [0, 1] {
        house.sites[site].start()?;
        let said = alarmed(&house, site)?;
        assert!(said.contains("fork") || said.contains("rollback"), "{said}");
    }
    no_further_round(&house, &digest)?;
    house.stop()?;
    fs::remove_dir_all(&state)?;
    fs::rename(&first, &state)?;
    house.serve()?;
    let said = alarmed(&house, 2)?;
    assert!(said.contains("fork") || said.contains("rollback"), "{said}");
    for site in &house.sites {
        let evidence = fs::read(site.home().join("state/witness.alarm"))?;
        let evidence: Value = serde_json::from_slice(&evidence)?;
        let signed = evidence["cosigned"].as_str().ok_or_else(|| Trouble::new("no evidence"))?;
        SignedCheckpoint::parse(signed.as_bytes())?;
    }
    Ok(())
}

/// From now on the coordinator's table keeps something else than what it takes in of the first hospital:
/// in place of its updates another fact, or updates with another digest.
async fn falsify(house: &Consortium, omit: bool) -> Outcome<()> {
    let database: PathBuf = house.home().join("state/coordinator.sqlite");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
    let mut database = options.connect().await?;
    let change = if omit {
        // A gap would be noticed by the coordinator itself.
        "kind = 'round_resumed',
         leaf = replace(leaf, '\"kind\":\"round_contribution\"', '\"kind\":\"round_resumed\"')"
    } else {
        // A digest keeps its length.
        "leaf = substr(leaf, 1, instr(leaf, '\"digest\":\"') + 9) || '0000'
             || substr(leaf, instr(leaf, '\"digest\":\"') + 14)"
    };
    let order = format!(
        "CREATE TRIGGER falsify AFTER INSERT ON facts
         WHEN NEW.kind = 'round_contribution' AND NEW.leaf LIKE '%\"site\":\"site-1\"%'
         BEGIN UPDATE facts SET {change} WHERE id = NEW.id; END"
    );
    sqlx::query(sqlx::AssertSqlSafe(order)).execute(&mut database).await?;
    Ok(database.close().await?)
}

async fn a_falsified_fact_is_an_alarm(omit: bool, word: &str) -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &STAND_INS)?;
    let manifest = Manifest { upload_deadline: "6s".to_owned(), quorum: 3, ..slow(1_000) };
    let digest = house.begin(&manifest)?;
    house.await_study(&digest, LIMIT, |view| view.released().count() >= 1)?;
    house.crash()?;
    falsify(&house, omit).await?;
    house.serve()?;
    let said = alarmed(&house, 0)?;
    assert!(said.contains(word), "{said}");
    let evidence = fs::read_to_string(house.sites[0].home().join("state/witness.alarm"))?;
    assert!(evidence.contains(word), "{evidence}");
    let log = fs::read_to_string(house.sites[0].log_file())?;
    assert!(log.contains("ALARM"), "its log tells it, too");
    // The quorum is three, and the first hospital takes no part.
    house.operator(["study", "pause", &digest]).data()?;
    no_further_round(&house, &digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_the_coordinator_leaves_out_of_its_log_is_an_alarm_at_its_hospital()
-> Outcome<()> {
    a_falsified_fact_is_an_alarm(true, "omitted").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_the_coordinator_alters_in_its_log_is_an_alarm_at_its_hospital()
-> Outcome<()> {
    a_falsified_fact_is_an_alarm(false, "altered").await
}
