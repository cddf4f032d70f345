//! The same seed gives the same model.

use std::path::Path;
use std::thread;
use std::time::Duration;

use harness::consortium::Consortium;
use harness::data::TINY;
use harness::manifests::Manifest;
use harness::programs::Programs;
use harness::{Outcome, Trouble};

fn final_model(images: &Path, seed: u64) -> Outcome<String> {
    let work = TINY.for_sites(&Programs::find()?, 3, images)?;
    let house = Consortium::with_sites("north", &work)?;
    let digest = house.begin(&Manifest { rounds: 2, seed, ..Manifest::cnn(32) })?;
    let view = house.await_completion(&digest, Duration::from_secs(150))?;
    view.model().map(str::to_owned).ok_or_else(|| Trouble::new("a completed study has a model"))
}

#[test]
fn the_same_seed_gives_the_same_model_and_another_seed_another() -> Outcome<()> {
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?];
    let models = thread::scope(|scope| {
        let runs = [1, 1, 2].into_iter().zip(&folders);
        let running: Vec<_> = runs
            .map(|(seed, folder)| scope.spawn(move || final_model(folder.path(), seed)))
            .collect();
        let joined = running.into_iter().map(|run| {
            run.join().map_err(|_| Trouble::new("a thread ended badly")).and_then(|model| model)
        });
        joined.collect::<Outcome<Vec<String>>>()
    })?;
    assert_eq!(models[0], models[1]);
    assert_ne!(models[0], models[2]);
    Ok(())
}
