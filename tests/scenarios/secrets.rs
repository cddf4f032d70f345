//! Canaries: what must never be written down is planted, a study is run with every program as
//! talkative as it can be, and everything that was written is searched.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aggregation::message::Work as Task;
use aggregation::vector::VectorFormat;
use harness::consortium::Consortium;
use harness::data::{TINY, damaged};
use harness::manifests::Manifest;
use harness::patience::{STEP, wait_for};
use harness::programs::Programs;
use harness::site::Work;
use harness::stand_in;
use harness::{Outcome, Trouble};

const LIMIT: Duration = Duration::from_secs(150);
pub(crate) const PATIENT: &str = "CANARYPATIENT";
pub(crate) const RECORD: &str = "canaryrecord";

/// Every file below a folder.
pub(crate) fn files(folder: &Path, found: &mut Vec<PathBuf>) -> Outcome<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// Where, of all that lies below `folder`, something that must not be there was found.
pub(crate) fn traces(folder: &Path, canaries: &[(String, Vec<u8>)]) -> Outcome<Vec<String>> {
    let mut all = Vec::new();
    files(folder, &mut all)?;
    let mut traces = Vec::new();
    for path in all {
        // A file may be gone by now: staged uploads are.
        let Ok(bytes) = fs::read(&path) else { continue };
        for (name, canary) in canaries {
            if bytes.windows(canary.len()).any(|window| window == canary.as_slice()) {
                traces.push(format!("{name} in {}", path.display()));
            }
        }
    }
    Ok(traces)
}

/// A secret as it is and as it might be printed.
pub(crate) fn printed(name: &str, secret: &[u8]) -> Vec<(String, Vec<u8>)> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<String> = secret.iter().map(u8::to_string).collect();
    vec![
        (name.to_owned(), secret.to_vec()),
        (format!("{name}, in hex"), hex.into_bytes()),
        (format!("{name}, as a list"), list.join(", ").into_bytes()),
    ]
}

/// The longest line of a PEM file's body.
pub(crate) fn body(pem: &str) -> Outcome<Vec<u8>> {
    pem.lines()
        .filter(|line| !line.starts_with('-'))
        .max_by_key(|line| line.len())
        .map(|line| line.as_bytes().to_vec())
        .ok_or_else(|| Trouble::new("expected a PEM file"))
}

/// Renames every record and every patient of a generated folder after canaries.
pub(crate) fn plant(folder: &Path) -> Outcome<()> {
    let list = folder.join("manifest.csv");
    let text = fs::read_to_string(&list)?;
    let mut lines = text.lines();
    let mut planted = format!("{}\n", lines.next().unwrap_or_default());
    for line in lines {
        let (file, rest) = line.split_once(',').unwrap_or((line, ""));
        let (patient, rest) = rest.split_once(',').unwrap_or((rest, ""));
        let named = match file.strip_prefix("../") {
            Some(outside) => format!("../{RECORD}-{outside}"),
            None => format!("{RECORD}-{}", file.replace('/', "-")),
        };
        if folder.join(file).exists() {
            fs::rename(folder.join(file), folder.join(&named))?;
        }
        let patient =
            if patient.is_empty() { String::new() } else { format!("{PATIENT}-{patient}") };
        planted.push_str(&format!("{named},{patient},{rest}\n"));
    }
    fs::write(&list, planted)?;
    Ok(())
}

/// A consortium at this work, canaries in every folder of images, every program as talkative as it
/// can be.
pub(crate) fn talkative(work: &[Work]) -> Outcome<Consortium> {
    for one in work {
        if let Work::Dicom(folder) = one {
            plant(folder)?;
        }
    }
    let mut house = Consortium::found("north")?;
    house.log("trace");
    house.serve()?;
    house.settle(work)?;
    for site in &mut house.sites {
        site.log("trace");
    }
    house.start_sites()?;
    Ok(house)
}

#[test]
fn patients_and_records_are_named_nowhere_outside_their_folder() -> Outcome<()> {
    let programs = Programs::find()?;
    let images = tempfile::tempdir()?;
    let mut work = TINY.for_sites(&programs, 4, images.path())?;
    // One hospital's folder is damaged, and three train: errors are where names slip out.
    let spoilt = images.path().join("spoilt");
    damaged(&programs, &spoilt)?;
    work[0] = Work::Dicom(spoilt);
    let house = talkative(&work)?;
    let rounds = Manifest { rounds: 2, ..Manifest::linear(32, 32) };
    let digest = house.begin(&rounds)?;
    house.await_completion(&digest, LIMIT)?;
    let private = Manifest { name: "private".to_owned(), quorum: 3, masked: true, ..rounds };
    let digest = house.begin(&Manifest { epsilon: Some(2.0), ..private })?;
    house.await_completion(&digest, LIMIT)?;

    let canaries = vec![
        ("a patient".to_owned(), PATIENT.into()),
        ("a record's name".to_owned(), RECORD.into()),
        // The generator's own patients and files carry these in their headers.
        ("a damaged patient".to_owned(), b"DAMAGED-".to_vec()),
    ];
    // All logs, all state, the database: of the coordinator and of every site.
    assert_eq!(traces(house.dir(), &canaries)?, Vec::<String>::new());
    // The search itself works: at home the canaries are there.
    assert!(!traces(images.path(), &canaries)?.is_empty());
    Ok(())
}

/// A loss by its millionths over all examples.
#[expect(clippy::cast_precision_loss, reason = "a few millions")]
fn mean(micro: u64, examples: u64) -> f64 {
    micro as f64 / 1e6 / examples as f64
}

/// Digits of a loss that nothing else has.
fn printed_loss(loss: f64) -> Vec<u8> {
    loss.to_string().into_bytes().into_iter().take(10).collect()
}

#[test]
fn keys_tokens_and_updates_are_written_down_nowhere() -> Outcome<()> {
    let house = talkative(&[Work::StandIn, Work::StandIn])?;
    let manifest = Manifest { rounds: 4, ..Manifest::linear(64, 64) };
    let study = proto::manifest::parse(&manifest.text())?;
    let unused = house.token("later", &[])?;
    let digest = house.begin(&manifest)?;
    house.await_completion(&digest, LIMIT)?;

    let mut elsewhere: Vec<(String, Vec<u8>)> = Vec::new();
    let mut update_canaries = Vec::new();
    for site in &house.sites {
        let state = site.home().join("state");
        let (identity, _) = site.identity()?;
        elsewhere.push((format!("{}'s TLS key", site.name), body(&identity.key_pem)?));
        for file in ["identity.key", "pseudonym.key"] {
            let secret = fs::read(state.join(file))?;
            let secret = match std::str::from_utf8(&secret) {
                Ok(pem) if pem.starts_with('-') => body(pem)?,
                _ => secret,
            };
            elsewhere.extend(printed(&format!("{}'s {file}", site.name), &secret));
        }
        let packed = stand_in::update(&study, 2, Task::TrainAndEvaluate, &site.name)?.packed;
        // From the middle of the model's lanes: nothing else looks like it.
        let piece = packed.get(1000..1048).unwrap_or_default();
        update_canaries.extend(printed(&format!("{}'s update", site.name), piece));
    }
    // What all sites together lose is told; what one of them loses is not.
    let format = VectorFormat::for_work(&study, 2, Task::TrainAndEvaluate)?;
    let tallies = house.sites.iter().filter_map(|site| {
        let metrics = stand_in::contribution(&site.name, &format).metrics?;
        Some((site.name.clone(), metrics.loss_micro, metrics.examples))
    });
    let tallies: Vec<_> = tallies.collect();
    for (name, loss, examples) in &tallies {
        let loss = mean(*loss, *examples);
        elsewhere.push((format!("{name}'s loss"), printed_loss(loss)));
        elsewhere.push((format!("{name}'s loss, in binary"), loss.to_le_bytes().to_vec()));
    }
    let both = tallies.iter().fold((0, 0), |sum, (_, loss, n)| (sum.0 + loss, sum.1 + n));
    let told = [("the loss of both".to_owned(), printed_loss(mean(both.0, both.1)))];
    elsewhere.push(("a token".to_owned(), unused.token.clone().into_bytes()));
    let secret = unused.token.rsplit('.').next().unwrap_or_default();
    elsewhere.push(("a token's secret".to_owned(), secret.as_bytes().to_vec()));

    wait_for("the loss of both to be in the log", STEP, || {
        Ok((!traces(&house.home().join("state/log"), &told)?.is_empty()).then_some(()))
    })?;
    // The coordinator's folder: nothing of any site, and of updates nothing once the round is over.
    let mut all = elsewhere.clone();
    all.extend(update_canaries.clone());
    wait_for("the last upload to be swept away", STEP, || {
        Ok(traces(&house.home(), &all)?.is_empty().then_some(()))
    })
    .map_err(|_| Trouble::new(format!("found {:?}", traces(&house.home(), &all))))?;
    // The sites' logs: not even their own.
    for site in &house.sites {
        let log = fs::read(site.log_file())?;
        for (name, canary) in all.iter().chain(&update_canaries) {
            let found = log.windows(canary.len()).any(|window| window == canary.as_slice());
            assert!(!found, "{name} in the log of {}", site.name);
        }
        // Trace was on.
        assert!(log.len() > 1000);
    }
    let ca_key = body(&fs::read_to_string(house.home().join("ca.key"))?)?;
    let log = fs::read(house.log_file())?;
    assert!(!log.windows(ca_key.len()).any(|window| window == ca_key.as_slice()));
    Ok(())
}
