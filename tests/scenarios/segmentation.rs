//! A study that finds regions in volumes: what no site tells, all of them can add up.

use std::fs;
use std::path::Path;
use std::time::Duration;

use harness::Outcome;
use harness::consortium::Consortium;
use harness::manifests::Manifest;
use harness::site::Work;

use crate::shared_data::shared;

/// Rounds of half a minute each on two cores that are idle.
const LIMIT: Duration = Duration::from_secs(1_800);
/// Patients of all three hospitals together. Every fifth is held out.
const PATIENTS: usize = 75;

/// Hippocampi with their parts marked, from the Medical Segmentation Decathlon's fourth task: images
/// and labels.
const HIPPOCAMPI: &str = "nifti/udacity+nd320-c3-3d-imaging-starter/TrainingSet";

/// A third of the patients in a folder with its list.
fn hospital(shared: &Path, place: usize, folder: &Path) -> Outcome<Work> {
    let mut names: Vec<String> = fs::read_dir(shared.join("labels"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Outcome<_>>()?;
    names.retain(|name| shared.join("images").join(name).is_file());
    names.sort();
    let mut list = "path,mask,patient_id,split\n".to_owned();
    for kind in ["images", "labels"] {
        fs::create_dir_all(folder.join(kind))?;
    }
    for (index, name) in names.iter().take(PATIENTS).skip(place).step_by(3).enumerate() {
        for kind in ["images", "labels"] {
            fs::copy(shared.join(kind).join(name), folder.join(kind).join(name))?;
        }
        let part = if index % 5 == 0 { "test" } else { "train" };
        list.push_str(&format!("images/{name},labels/{name},{name},{part}\n"));
    }
    fs::write(folder.join("manifest.csv"), list)?;
    Ok(Work::Nifti(folder.to_owned()))
}

/// Prints its figures; `cargo test --release --test scenarios -- --ignored --nocapture hippocampi`.
#[test]
#[ignore = "keeps all cores busy for many minutes; the README names its command"]
#[expect(clippy::print_stderr, reason = "says why nothing was tried, or how well it went")]
fn three_hospitals_learn_to_find_the_parts_of_hippocampi() -> Outcome<()> {
    let Some(shared) = shared(HIPPOCAMPI) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let work = (0..3)
        .map(|place| hospital(&shared, place, &folder.path().join(place.to_string())))
        .collect::<Outcome<Vec<_>>>()?;
    let house = Consortium::with_sites("north", &work)?;
    let manifest = Manifest {
        arch: "unet3d",
        rounds: 8,
        epochs: 4,
        batch_size: 2,
        learning_rate: 5e-3,
        quorum: 3,
        masked: true,
        every: 2,
        round_deadline: "600s".to_owned(),
        upload_deadline: "600s".to_owned(),
        task: Some(
            "kind = \"segmentation\"\nclasses = [\"background\", \"anterior\", \"posterior\"]\n\
             input = { channels = 1, depth = 24, height = 32, width = 24 }\n\
             preprocess = { window = \"percentile\", low = 1.0, high = 99.0 }\n"
                .to_owned(),
        ),
        ..Manifest::linear(1, 1)
    };
    let digest = house.begin(&manifest)?;
    let view = house.await_completion(&digest, LIMIT)?;
    let mut dice = Vec::new();
    for round in &view.history {
        assert!(round.released, "{round:?}");
        assert_eq!((round.auroc, round.accuracy), (None, None), "these are not of regions");
        if let Some(of_round) = round.dice {
            eprintln!("round {}: Dice {of_round:.3}, loss {:?}", round.round, round.loss);
            dice.push(of_round);
        }
    }
    let last = dice.last().copied().unwrap_or_default();
    assert!(last > 0.7, "held-out patients are segmented at a Dice of {dice:?}");
    Ok(())
}
