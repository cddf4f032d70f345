//! A study from the proposal to a file that others can open.

use std::time::Duration;

use aggregation::architecture::model_digest;
use harness::Outcome;
use harness::consortium::{Consortium, text};
use harness::data::TINY;
use harness::manifests::Manifest;
use harness::programs::Programs;
use harness::site::Work;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

const LIMIT: Duration = Duration::from_secs(150);

#[test]
fn three_hospitals_train_one_model_on_dicom_files_and_others_can_open_it() -> Outcome<()> {
    let images = tempfile::tempdir()?;
    let work = TINY.for_sites(&Programs::find()?, 3, images.path())?;
    let house = Consortium::with_sites("north", &work)?;
    let manifest = Manifest { rounds: 2, ..Manifest::cnn(32) };
    let digest = house.begin(&manifest)?;
    let view = house.await_completion(&digest, LIMIT)?;

    let sites = ["site-1", "site-2", "site-3"];
    assert_eq!(view.history.len(), 3, "two rounds train, one scores the result: {view:?}");
    for round in &view.history {
        assert!(round.released && round.dropped.is_empty(), "{round:?}");
        assert_eq!(round.contributed, sites);
        for metric in [round.loss, round.auroc, round.accuracy] {
            let value = metric.unwrap_or(f64::NAN);
            assert!((0.0..=100.0).contains(&value), "{round:?}");
        }
        assert!(round.seconds > 0.0);
    }

    let file = house.dir().join("model.safetensors");
    house.export(&digest, &file)?;
    let bytes = std::fs::read(&file)?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let study = proto::manifest::parse(&manifest.text())?;
    let mut flat = Vec::new();
    for spec in &study.layout().tensors {
        let tensor = tensors.tensor(&spec.name)?;
        assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, &*spec.shape), "{}", spec.name);
        flat.extend(
            tensor
                .data()
                .chunks_exact(4)
                .map(|four| f32::from_le_bytes(four.try_into().expect("chunks of four bytes"))),
        );
    }
    assert_eq!(tensors.len(), study.layout().tensors.len());
    assert_eq!(Some(model_digest(&flat).to_string().as_str()), view.model());
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let card = header.metadata().clone().unwrap_or_default();
    assert_eq!(card.get("study"), Some(&digest));
    assert_eq!(card.get("contributed").map(String::as_str), Some("site-1,site-2,site-3"));
    assert!(card.contains_key("auroc"), "{card:?}");
    Ok(())
}

#[test]
fn nothing_runs_before_every_hospital_has_approved_and_two_studies_run_at_once() -> Outcome<()> {
    let house = Consortium::with_sites("north", &[Work::StandIn, Work::StandIn, Work::StandIn])?;
    let first = Manifest { name: "first".to_owned(), ..Manifest::linear(4, 4) };
    let digest = house.propose(&first)?;
    for site in house.sites.iter().take(2) {
        site.approve(&digest)?;
    }
    let refused = house.operator(["study", "start", &digest]).run()?.refused(1)?;
    assert!(refused.message.contains("proposed"), "{refused:?}");
    let waiting = house.study(&digest)?;
    assert_eq!((waiting.state.as_str(), waiting.history.len()), ("proposed", 0));
    assert!(waiting.waiting_for.contains("site-3"), "{waiting:?}");
    house.sites[2].approve(&digest)?;
    house.operator(["study", "start", &digest]).data()?;
    let second = Manifest { name: "second".to_owned(), seed: 7, ..Manifest::linear(5, 5) };
    let other = house.begin(&second)?;
    assert_ne!(digest, other);
    for (study, manifest) in [(&digest, &first), (&other, &second)] {
        let view = house.await_completion(study, LIMIT)?;
        let named = house.study(&manifest.name)?;
        assert_eq!(named.digest, view.digest);
        assert_eq!(view.released().count(), 4);
    }
    Ok(())
}

#[test]
fn a_hospital_that_refuses_or_forbids_is_not_made_to_take_part() -> Outcome<()> {
    let house = Consortium::with_sites("north", &[Work::StandIn, Work::StandIn, Work::StandIn])?;
    let digest = house.propose(&Manifest { name: "no".to_owned(), ..Manifest::linear(4, 4) })?;
    house.sites[0].approve(&digest)?;
    house.sites[1].order(["study", "refuse", &digest, "--yes"]).data()?;
    let config = std::fs::read_to_string(house.sites[2].config())?;
    let strict = config.replace("danger_allow_no_privacy = true", "max_rounds = 2");
    std::fs::write(house.sites[2].config(), strict)?;
    let forbidden =
        house.sites[2].order(["study", "approve", &digest, "--yes"]).run()?.refused(1)?;
    for cap in ["danger_allow_no_privacy", "max_rounds"] {
        assert!(forbidden.message.contains(cap), "{forbidden:?}");
    }
    house.operator(["study", "start", &digest]).run()?.refused(1)?;
    let shown = house.operator(["study", "show", &digest]).data()?;
    assert_eq!(text(&shown, "state")?, "proposed");
    Ok(())
}
