//! Every fault of a study, one by one and all at once.

use super::*;
use crate::architecture::Architecture;
use crate::ids::HospitalId;

fn site(name: &str) -> HospitalId {
    HospitalId::new(name).expect("a valid name")
}
use crate::privacy::charge::Mode;
use crate::study::privacy::tests::private;
use crate::study::tests::example;
use crate::study::{Privacy, PrivacyRules};

type Change = fn(&mut Study);

fn ruled(study: &mut Study, change: fn(&mut PrivacyRules)) {
    *study = private(Mode::Distributed);
    if let Privacy::Patients(rules) = &mut study.privacy {
        change(rules);
    }
}

#[test]
fn the_example_has_no_faults() {
    assert_eq!(example().faults(), []);
    let mut sgd = example();
    sgd.training.strategy = Strategy::FedSgd;
    sgd.training.local.epochs = 0;
    sgd.training.local.batch_size = 0;
    assert_eq!(sgd.faults(), []);
    assert_eq!(private(Mode::Distributed).faults(), []);
    assert_eq!(private(Mode::Silo).faults(), []);
}

#[test]
fn each_fault_is_found_and_named() {
    let cases: &[(&str, Change)] = &[
        ("name", |s| s.name = "Chest".to_owned()),
        ("task.classes", |s| s.task.classes.truncate(1)),
        ("task.classes", |s| s.task.classes = (0..257).map(|c| c.to_string()).collect()),
        ("task.classes", |s| s.task.classes[1] = "normal".to_owned()),
        ("task.classes", |s| s.task.classes[1] = " ".to_owned()),
        ("task.classes", |s| s.task.classes[1] = "a\nb".to_owned()),
        ("task.classes", |s| s.task.classes[1] = "x".repeat(65)),
        ("task.class_weights", |s| s.task.class_weights = vec![1.0]),
        ("task.class_weights", |s| s.task.class_weights = vec![1.0, 0.0]),
        ("task.class_weights", |s| s.task.class_weights = vec![f64::NAN, 1.0]),
        ("model.arch", |s| s.task.kind = TaskKind::Segmentation),
        ("model.arch", |s| {
            s.model = Architecture::Unet2d;
            s.task.input.height = 16;
            s.task.input.width = 16;
        }),
        ("task.input.depth", |s| {
            s.model = Architecture::Unet3d;
            s.task.kind = TaskKind::Segmentation;
            s.task.input.height = 16;
            s.task.input.width = 16;
        }),
        ("task.input.width", |s| {
            s.model = Architecture::Unet2d;
            s.task.kind = TaskKind::Segmentation;
            s.task.input.height = 16;
            s.task.input.width = 20;
        }),
        ("task.input.channels", |s| s.task.input.channels = 0),
        ("task.input.height", |s| s.task.input.height = 4097),
        ("task.input.width", |s| {
            s.model = Architecture::CnnSmall;
            s.task.input.height = 16;
            s.task.input.width = 8;
        }),
        ("model.arch", |s| {
            s.task.input.channels = 64;
            s.task.input.height = 4096;
            s.task.input.width = 4096;
        }),
        ("task.preprocess.window", |s| {
            s.task.preprocess.window = Window::Percentile { low: 5.0, high: 5.0 }
        }),
        ("task.preprocess.window", |s| {
            s.task.preprocess.window = Window::Percentile { low: f64::NAN, high: 5.0 }
        }),
        ("task.preprocess.window", |s| {
            s.task.preprocess.window = Window::Values { low: 7.0, high: 7.0 }
        }),
        ("task.preprocess.window", |s| {
            s.task.preprocess.window = Window::Values { low: 7.0, high: f64::INFINITY }
        }),
        ("task.preprocess.fit", |s| s.task.preprocess.spacing = Some([1.0; 3])),
        ("task.preprocess.spacing_mm", |s| {
            s.task.preprocess.fit = Fit::Centre;
            s.task.preprocess.spacing = Some([1.0, 0.0, 1.0]);
        }),
        ("task.preprocess.spacing_mm", |s| {
            s.task.preprocess.fit = Fit::Centre;
            s.task.preprocess.spacing = Some([1.0, 1.0, f64::NAN]);
        }),
        ("train.local.augment.shift", |s| s.training.local.augment.shift = -0.1),
        ("train.local.augment.rotate_degrees", |s| s.training.local.augment.rotate_degrees = 90.0),
        ("train.local.augment.intensity_scale", |s| {
            s.training.local.augment.intensity_scale = f64::NAN
        }),
        ("train.local.augment.intensity_shift", |s| {
            s.training.local.augment.intensity_shift = f64::INFINITY
        }),
        ("task.preprocess.mean", |s| s.task.preprocess.mean = f32::NAN),
        ("task.preprocess.sd", |s| s.task.preprocess.sd = 0.0),
        ("task.preprocess.sd", |s| s.task.preprocess.sd = f32::INFINITY),
        ("train.rounds", |s| s.training.rounds = 0),
        ("train.rounds", |s| s.training.rounds = MAX_ROUNDS + 1),
        ("train.momentum", |s| s.training.optimizer = ServerOptimizer::Momentum { momentum: 1.0 }),
        ("train.beta1", |s| {
            s.training.optimizer = ServerOptimizer::Adam { beta1: -0.1, beta2: 0.9, epsilon: 1e-8 }
        }),
        ("train.beta2", |s| {
            s.training.optimizer = ServerOptimizer::Adam { beta1: 0.9, beta2: 1.0, epsilon: 1e-8 }
        }),
        ("train.epsilon", |s| {
            s.training.optimizer = ServerOptimizer::Adam { beta1: 0.9, beta2: 0.9, epsilon: 0.0 }
        }),
        ("train.learning_rate", |s| s.training.learning_rate = f64::NAN),
        ("train.learning_rate", |s| s.training.learning_rate = 0.0),
        ("train.local.epochs", |s| s.training.local.epochs = 0),
        ("train.local.batch_size", |s| s.training.local.batch_size = 0),
        ("train.local.learning_rate", |s| s.training.local.learning_rate = -1.0),
        ("train.local.momentum", |s| {
            s.training.local.optimizer = LocalOptimizer::Momentum { momentum: 2.0 }
        }),
        ("train.local.weight_decay", |s| s.training.local.weight_decay = -0.5),
        ("train.weight_average", |s| s.training.weight_average = 1.0),
        ("train.strategy", |s| s.training.strategy = Strategy::DpFedSgd),
        ("train.strategy", |s| {
            *s = private(Mode::Silo);
            s.training.strategy = Strategy::FedSgd;
        }),
        ("cohort.danger_unmasked_updates", |s| {
            *s = private(Mode::Silo);
            s.cohort.danger_unmasked = true;
        }),
        ("privacy.epsilon", |s| ruled(s, |rules| rules.epsilon = 0.0)),
        ("privacy.epsilon", |s| ruled(s, |rules| rules.epsilon = f64::NAN)),
        ("privacy.delta", |s| ruled(s, |rules| rules.delta = 1.0)),
        ("privacy.delta", |s| ruled(s, |rules| rules.delta = -1e-5)),
        ("privacy.delta", |s| ruled(s, |rules| rules.delta = 0.1)),
        ("privacy.clipping_norm", |s| ruled(s, |rules| rules.clipping_norm = 1e-9)),
        ("privacy.sampling_rate", |s| ruled(s, |rules| rules.sampling_rate = 1e-4)),
        ("privacy.spare_rounds", |s| ruled(s, |rules| rules.spare_rounds = MAX_ROUNDS + 1)),
        ("privacy.solo_epsilon_cap", |s| ruled(s, |rules| rules.solo_cap = f64::INFINITY)),
        ("privacy.clipping_norm", |s| ruled(s, |rules| rules.clipping_norm = 0.0)),
        ("privacy.sampling_rate", |s| ruled(s, |rules| rules.sampling_rate = 0.0)),
        ("privacy.sampling_rate", |s| ruled(s, |rules| rules.sampling_rate = 1.1)),
        ("privacy.patients", |s| ruled(s, |rules| rules.patients = 0)),
        ("train.local.augment", |s| {
            s.model = Architecture::ScatterLinear;
            s.task.input.height = 16;
            s.task.input.width = 16;
            s.training.local.augment = Augment::USUAL;
        }),
        ("privacy.augmentation_multiplicity", |s| ruled(s, |rules| rules.views = 0)),
        ("privacy.augmentation_multiplicity", |s| ruled(s, |rules| rules.views = 2)),
        ("evaluate.danger_exact_metrics", |s| {
            *s = private(Mode::Silo);
            s.evaluation.every = 1;
        }),
        ("train.update_range", |s| s.training.update_range = 0.0),
        ("train.update_range", |s| s.training.update_range = f64::INFINITY),
        ("train.weight_cap", |s| s.training.weight_cap = 0),
        ("cohort.sites", |s| {
            s.cohort.sites = ["a", "a", "b", "c"].map(site).into();
        }),
        // Breaks M-21 to M-23.
        ("cohort.sites", |s| {
            s.cohort.quorum = 2;
            s.cohort.sites = ["a", "b"].map(site).into();
        }),
        ("cohort.quorum", |s| s.cohort.quorum = 2),
        ("cohort.quorum", |s| s.cohort.colluding = 2),
        ("cohort.quorum", |s| {
            s.cohort.sites = ["a", "b", "c", "d", "e"].map(site).into();
        }),
        ("cohort.tolerate_colluding", |s| {
            s.cohort.colluding = 3;
            s.cohort.quorum = 4;
            s.cohort.sites = ["a", "b", "c", "d"].map(site).into();
        }),
        ("cohort.quorum", |s| s.cohort.quorum = 0),
        ("cohort.quorum", |s| s.cohort.sites.push(HospitalId::new("a").expect("a valid name"))),
        ("cohort.round_deadline", |s| s.cohort.round_deadline = Duration::ZERO),
        ("cohort.upload_deadline", |s| s.cohort.upload_deadline = Duration::MAX),
    ];
    for (key, change) in cases {
        let mut study = example();
        change(&mut study);
        let faults = study.faults();
        assert_eq!(faults.len(), 1, "for {key}: {faults:?}");
        assert_eq!(&faults[0].key, key, "{faults:?}");
    }
}

#[test]
fn all_faults_are_reported_in_one_run() {
    let mut study = example();
    study.training.rounds = 0;
    study.cohort.quorum = 0;
    study.task.preprocess.sd = -1.0;
    let text: Vec<String> = study.faults().iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "task.preprocess.sd: found -1, allowed is a number from 0.000001 to 1000000",
            "train.rounds: found 0, allowed is 1 to 100000",
            "cohort.quorum: found 0, allowed is at least 1",
        ]
    );
}
