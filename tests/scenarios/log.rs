//! The log: every hospital cosigns it, an auditor believes nobody, and nothing is taken back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use harness::collector::Collector;
use harness::command::Order;
use harness::consortium::{Consortium, text};
use harness::manifests::Manifest;
use harness::patience::{STEP, wait_for};
use harness::site::Work;
use harness::{Outcome, Trouble};
use serde_json::Value;
use transparency::checkpoint::SignedCheckpoint;
use transparency::fact::{Fact, Told};
use transparency::folder::{Folder, Reader};
use transparency::leaf::Leaf;
use transparency::policy::Policy;
use transparency::tile::TILE_WIDTH;

const LIMIT: Duration = Duration::from_secs(120);
const STAND_INS: [Work; 3] = [Work::StandIn, Work::StandIn, Work::StandIn];

/// Where the coordinator keeps its log.
pub(crate) fn folder(house: &Consortium) -> PathBuf {
    house.home().join("state/log")
}

/// What the operator sees of the log.
fn status(house: &Consortium) -> Outcome<Value> {
    house.operator(["log", "status"]).data()
}

/// Waits until everything that happened is published, cosigned by so many hospitals.
pub(crate) fn await_log(house: &Consortium, cosigned: u64) -> Outcome<Value> {
    wait_for("the log to be cosigned", STEP, || {
        let status = status(house)?;
        let done = status["published"] == status["facts"] && status["cosigned"] == cosigned;
        Ok(done.then_some(status))
    })
}

/// The policy file, as the operator hands it to an auditor.
pub(crate) fn policy(house: &Consortium) -> Outcome<PathBuf> {
    let path = house.dir().join("policy.txt");
    house.operator(["log", "policy", "--out"]).arg(&path).data()?;
    Ok(path)
}

/// `consilium-audit` on a folder, with a policy alone.
pub(crate) fn audit(house: &Consortium, command: &str, log: &Path, policy: &Path) -> Order {
    Order::new(house.programs().audit())
        .args(["--format", "json", command, "--log"])
        .arg(log)
        .arg("--policy")
        .arg(policy)
}

/// The same over the network, as somebody with this certificate of the consortium.
fn online(house: &Consortium, who: &str, policy: &Path) -> Order {
    let file = |name: &str| house.home().join(name);
    Order::new(house.programs().audit())
        .args(["--format", "json", "verify", "--log", &format!("{}/log", house.url()), "--ca"])
        .arg(file("ca.pem"))
        .arg("--client-cert")
        .arg(file(&format!("{who}.pem")))
        .arg("--client-key")
        .arg(file(&format!("{who}.key")))
        .arg("--policy")
        .arg(policy)
}

/// What every leaf of the published log says, and how often each kind is there.
pub(crate) fn facts(
    house: &Consortium,
    policy: &Path,
) -> Outcome<(Vec<Told>, BTreeMap<String, usize>)> {
    let policy = Policy::parse(&fs::read(policy)?)?;
    let (reader, _) = Reader::open(Folder::open(&folder(house))?, &policy)?;
    let (mut told, mut kinds) = (Vec::new(), BTreeMap::new());
    for bundle in 0..reader.size().div_ceil(TILE_WIDTH) {
        for entry in reader.entries(bundle)? {
            let leaf = Leaf::decode(&entry)?;
            *kinds.entry(leaf.kind().to_owned()).or_default() += 1;
            // A known kind that lacks a field is an error here.
            told.push(Told::read(&leaf)?);
        }
    }
    Ok((told, kinds))
}

#[test]
fn every_hospital_cosigns_and_an_auditor_with_the_policy_alone_verifies_all_of_it() -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &STAND_INS)?;
    let manifest = Manifest { rounds: 4, quorum: 3, masked: true, ..Manifest::linear(30, 30) };
    let digest = house.begin(&manifest)?;
    house.await_completion(&digest, LIMIT)?;
    house.export(&digest, &house.dir().join("model.safetensors"))?;
    house.token("late", &[])?;
    let status = await_log(&house, 3)?;
    assert_eq!(status["quorum"], 2);

    // The policy is all that an auditor trusts, and the identities in it are the hospitals' own.
    let policy = policy(&house)?;
    let said = fs::read_to_string(&policy)?;
    for site in &house.sites {
        let own = site.order(["roster", "list"]).data()?;
        let identity = text(&own, "own_fingerprint")?;
        assert!(said.contains(&format!("# {}: identity {identity}", site.name)), "{said}");
        let doctor = site.order(["doctor"]).run()?.envelope()?;
        let checks = doctor["data"]["checks"].to_string();
        let key =
            said.lines().find_map(|line| line.strip_prefix(&format!("witness {} ", site.name)));
        assert!(key.is_some_and(|key| checks.contains(key)), "{checks}");
    }
    for who in ["auditor", "operator"] {
        let report = online(&house, who, &policy).data()?;
        assert_eq!(report["verified"], true, "{report}");
        assert_eq!(report["size"], status["facts"], "{report}");
        assert_eq!(report["cosigned_by"].as_array().map(Vec::len), Some(3), "{report}");
    }
    // Nobody without a certificate of the consortium reads along.
    let stranger = Order::new(house.programs().audit())
        .args(["--format", "json", "verify", "--log", &format!("{}/log", house.url()), "--ca"])
        .arg(house.home().join("ca.pem"))
        .arg("--policy")
        .arg(&policy)
        .run()?;
    assert_eq!(stranger.exit, Some(2), "{stranger:?}");

    // Every leaf is of a kind that the page documents, and lacks nothing.
    let (told, kinds) = facts(&house, &policy)?;
    assert!(told.iter().all(|told| told.fact != Fact::Unknown), "{kinds:?}");
    for kind in [
        "site_invited",
        "site_enrolled",
        "site_approved",
        "witness_announced",
        "study_proposed",
        "study_decided",
        "study_changed",
        "key_announced",
        "key_nonce",
        "prekey_batch",
        "round_announced",
        "round_ready",
        "round_frozen",
        "round_contribution",
        "round_final_set",
        "round_set_signed",
        "round_shares",
        "round_released",
        "round_evaluated",
        "model_changed",
        "model_exported",
    ] {
        assert!(kinds.contains_key(kind), "{kind} is not in {kinds:?}");
    }
    assert!(!kinds.contains_key("alarm"), "{kinds:?}");

    // What was written while it ended is published the next time.
    house.stop()?;
    audit(&house, "verify", &folder(&house), &policy).data()?;
    Ok(())
}

/// The newest checkpoints that the folder shows, if they can be read whole.
fn shown(house: &Consortium) -> Vec<Vec<u8>> {
    let read = |name: &str| fs::read(folder(house).join(name)).ok();
    let whole = |bytes: &Vec<u8>| SignedCheckpoint::parse(bytes).is_ok();
    ["checkpoint", "checkpoint.signed"].into_iter().filter_map(read).filter(whole).collect()
}

/// Keeps what the folder shows, moment by moment; after so many looks the coordinator is killed, and
/// there is one more.
fn watch_it_die(house: &mut Consortium, looks: u32, kept: &mut Vec<Vec<u8>>) -> Outcome<()> {
    let mut left = looks;
    wait_for("a moment", STEP, || {
        kept.extend(shown(house));
        left -= 1;
        Ok((left == 0).then_some(()))
    })?;
    house.crash()?;
    kept.extend(shown(house));
    Ok(())
}

#[test]
fn killed_at_any_moment_the_log_grows_out_of_everything_that_it_ever_showed() -> Outcome<()> {
    let mut house = Consortium::found("north")?;
    house.serve()?;
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for (kill, looks) in [3, 9, 1, 14, 5, 21, 7, 12].into_iter().enumerate() {
        // One fact and one checkpoint after the other, until the coordinator is gone.
        let orders: Vec<Order> = (0..40)
            .flat_map(|at| {
                let site = format!("invited-{kill}-{at}");
                [house.operator(["site", "token", &site]), house.operator(["log", "status"])]
            })
            .collect();
        let busy =
            thread::spawn(move || orders.iter().take_while(|order| order.data().is_ok()).count());
        watch_it_die(&mut house, looks, &mut kept)?;
        busy.join().map_err(|_| Trouble::new("a thread ended badly"))?;
        house.serve()?;
    }
    house.settle(&STAND_INS)?;
    house.start_sites()?;
    let manifest = Manifest { rounds: 1_000, ..Manifest::linear(300, 300) };
    let digest = house.begin(&manifest)?;
    for looks in [2, 5] {
        let released = house.study(&digest)?.released().count();
        house.await_study(&digest, LIMIT, |view| view.released().count() > released)?;
        watch_it_die(&mut house, looks, &mut kept)?;
        house.serve()?;
    }
    house.operator(["study", "stop", &digest]).data()?;
    await_log(&house, 3)?;
    let policy = policy(&house)?;
    kept.sort();
    kept.dedup();
    let mut order = audit(&house, "verify", &folder(&house), &policy);
    let mut before = 0;
    // The published ones have cosignatures of their time, perhaps fewer than the policy asks for;
    // whether the log grew out of them does not hang on that.
    for (index, checkpoint) in kept.iter().enumerate() {
        let path = house.dir().join(format!("kept-{index}"));
        fs::write(&path, checkpoint)?;
        order = order.arg("--since").arg(path);
        before += 1;
    }
    assert!(before > 10, "only {before} checkpoints were seen");
    let report = order.data()?;
    assert_eq!(report["verified"], true, "{report}");
    let (_, kinds) = facts(&house, &policy)?;
    let view = house.study(&digest)?;
    let released = view.released().count();
    assert_eq!(kinds.get("round_released"), Some(&released), "a leaf if and only if the effect");
    assert_eq!(kinds.get("model_changed"), Some(&released));
    // The log's end is the state's end, and no hospital saw a contradiction.
    for site in &house.sites {
        let doctor = site.order(["doctor"]).run()?.envelope()?.to_string();
        assert!(!doctor.contains("ALARM"), "{doctor}");
    }
    Ok(())
}

pub(crate) fn copy(from: &Path, to: &Path) -> Outcome<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        } else {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

#[test]
fn a_log_that_was_set_back_is_an_alarm_at_every_hospital_and_is_not_continued() -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &STAND_INS)?;
    let manifest = Manifest {
        rounds: 1_000,
        round_deadline: "3s".to_owned(),
        upload_deadline: "3s".to_owned(),
        ..Manifest::linear(300, 300)
    };
    let digest = house.begin(&manifest)?;
    house.await_study(&digest, LIMIT, |view| view.released().count() >= 1)?;
    house.operator(["study", "pause", &digest]).data()?;
    await_log(&house, 3)?;
    let (state, backup) = (house.home().join("state"), house.home().join("backup"));
    house.stop()?;
    copy(&state, &backup)?;
    house.serve()?;
    house.operator(["study", "resume", &digest]).data()?;
    house.await_study(&digest, LIMIT, |view| view.released().count() >= 4)?;
    house.operator(["study", "pause", &digest]).data()?;
    await_log(&house, 3)?;

    // The coordinator takes back what the hospitals have cosigned, and tells another story.
    house.stop()?;
    fs::remove_dir_all(&state)?;
    fs::rename(&backup, &state)?;
    house.serve()?;
    for site in &house.sites {
        let doctor = wait_for("the alarm", STEP, || {
            let doctor = site.order(["doctor"]).run()?;
            let said = doctor.envelope()?["data"]["checks"].to_string();
            Ok(said.contains("ALARM").then_some(doctor))
        })?;
        assert_eq!(doctor.exit, Some(1));
        let evidence = fs::read(site.home().join("state/witness.alarm"))?;
        let evidence: Value = serde_json::from_slice(&evidence)?;
        let signed = evidence["cosigned"].as_str().ok_or_else(|| Trouble::new("no evidence"))?;
        SignedCheckpoint::parse(signed.as_bytes())?;
        let words = fs::read_to_string(site.log_file())?;
        assert!(words.contains("ALARM"), "its log tells it, too");
    }
    // The hospitals have shown it what they cosigned: it goes no further, and says why.
    let before = house.study(&digest)?.history.len();
    let alarm = status(&house)?;
    let told = fs::read_to_string(house.sites[0].log_file())?;
    let set_back = alarm["alarm"].as_str().is_some_and(|alarm| alarm.contains("set back"));
    assert!(set_back, "{alarm} {told}");
    house.operator(["study", "resume", &digest]).data()?;
    let stuck =
        house.await_study(&digest, LIMIT, |view| view.waiting_for.contains("was set back"))?;
    assert_eq!(stuck.history.len(), before, "no round is opened any more: {stuck:?}");
    assert_eq!(status(&house)?["signed"], alarm["signed"], "nothing is appended");
    house.stop()?;
    // It does not start again, and whoever collects what happens is told.
    let mut collector = Collector::new(&house.dir().join("collector"))?;
    let config = fs::read_to_string(house.config())?;
    fs::write(house.config(), format!("{config}{}", collector.section()))?;
    collector.listen()?;
    let refused = house.serve_order().args(["--format", "json"]).run()?.refused(1)?;
    assert_eq!(refused.code, "log_disagrees", "{refused:?}");
    wait_for("the collector to be told", STEP, || {
        let heard = collector.heard();
        let words = heard.iter().map(|line| String::from_utf8_lossy(line));
        Ok(words.into_iter().any(|line| line.contains("ALARM: the log was set back")).then_some(()))
    })
}

#[test]
fn a_folder_and_a_table_that_disagree_are_refused_before_anything_is_served() -> Outcome<()> {
    let mut house = Consortium::with_sites("north", &[Work::StandIn])?;
    await_log(&house, 1)?;
    house.stop()?;
    let database = house.home().join("state/coordinator.sqlite");
    let backup = house.dir().join("backup.sqlite");
    fs::copy(&database, &backup)?;
    house.serve()?;
    house.token("another", &[])?;
    await_log(&house, 1)?;
    house.stop()?;
    // The database alone is set back.
    fs::copy(&backup, &database)?;
    let refused = house.serve_order().args(["--format", "json"]).run()?.refused(1)?;
    assert_eq!(refused.code, "log_disagrees");
    assert!(refused.message.contains("entries"), "{refused:?}");
    Ok(())
}
