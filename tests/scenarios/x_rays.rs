//! X-rays as three sources of a public collection have them: PNG files, a list with the collection's
//! own words, classes in other shares at each. Skipped with a printed reason where it is not at hand.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use harness::Outcome;
use harness::consortium::Consortium;
use harness::manifests::Manifest;
use harness::site::Work;

use crate::shared_data::shared;

const LIMIT: Duration = Duration::from_secs(150);
const SITES: [&str; 3] = ["hannover", "radiopaedia", "eurorad"];

/// A site's images and its part of the list, as a hospital would copy them.
fn copied(collection: &Path, site: &str, to: &Path) -> Outcome<()> {
    std::fs::create_dir_all(to.join(site))?;
    let list = std::fs::read_to_string(collection.join("labels.csv"))?;
    // The first four columns have no quotes: file, site, patient_id, label.
    let mut kept = "file,patient_id,label\n".to_owned();
    for line in list.lines().skip(1) {
        let mut fields = line.split(',');
        let [Some(file), Some(of), Some(patient), Some(label)] =
            [fields.next(), fields.next(), fields.next(), fields.next()]
        else {
            continue;
        };
        if of == site {
            std::fs::copy(collection.join(file), to.join(file))?;
            writeln!(kept, "{file},{patient},{label}")?;
        }
    }
    std::fs::write(to.join("manifest.csv"), kept)?;
    Ok(())
}

#[test]
fn three_sources_of_x_rays_train_one_model_on_png_files() -> Outcome<()> {
    let Some(collection) = shared("xray/derived-128") else { return Ok(()) };
    let images = tempfile::tempdir()?;
    let mut work = Vec::new();
    for site in SITES {
        let folder = images.path().join(format!("of-{site}"));
        copied(&collection, site, &folder)?;
        work.push(Work::Dicom(folder));
    }
    let house = Consortium::with_sites("x-rays", &work)?;
    let digest = house.begin(&Manifest { rounds: 2, ..Manifest::cnn(64) })?;
    let view = house.await_completion(&digest, LIMIT)?;
    assert_eq!(view.history.len(), 3, "two rounds train, one scores the result: {view:?}");
    for round in &view.history {
        assert!(round.released && round.contributed.len() == 3, "{round:?}");
        assert!(round.loss.is_some_and(f64::is_finite), "{round:?}");
    }
    Ok(())
}
