//! The bytes that a study's digest is taken over (PROTOCOL R-01).
//!
//! Structs are taken apart by name, so a field that is added and not encoded breaks the build.

use std::time::Duration;

use crate::study::{
    Augment, CohortRules, EvaluationRules, Fit, InitialModel, InputShape, Local, LocalOptimizer,
    Normalise, Preprocess, Privacy, PrivacyRules, ServerOptimizer, Split, Strategy, Study, Task,
    Training, Window,
};
use crate::transcript::Transcript;

pub(super) fn of(study: &Study) -> Transcript {
    let Study { name, task, model, training, privacy, cohort, evaluation } = study;
    let mut out = Transcript::new("consilium/study/1");
    out.text(name);
    self::task(&mut out, task);
    out.text(model.name());
    self::training(&mut out, training);
    self::privacy(&mut out, privacy);
    self::cohort(&mut out, cohort);
    let EvaluationRules { every, split, danger_exact } = evaluation;
    out.u32(*every).text(match split {
        Split::Validation => "validation",
        Split::Test => "test",
    });
    out.u32((*danger_exact).into());
    out
}

fn privacy(out: &mut Transcript, privacy: &Privacy) {
    let rules = match privacy {
        Privacy::DangerNone => {
            out.text("danger-none");
            return;
        }
        Privacy::Patients(rules) => rules,
    };
    let PrivacyRules {
        mode,
        unit,
        epsilon,
        delta,
        accountant,
        solo_cap,
        clipping_norm,
        sampling_rate,
        patients,
        spare_rounds,
        views,
    } = *rules;
    out.text(mode.name()).text(unit.name()).f64(epsilon).f64(delta).text(accountant.name());
    out.f64(solo_cap).f64(clipping_norm).f64(sampling_rate).u32(patients).u32(views.into());
    out.u32(spare_rounds);
}

fn task(out: &mut Transcript, task: &Task) {
    let Task { kind, classes, class_weights, input, preprocess } = task;
    out.text(kind.name()).list(classes.len());
    for class in classes {
        out.text(class);
    }
    out.list(class_weights.len());
    for weight in class_weights {
        out.f64(*weight);
    }
    let InputShape { channels, depth, height, width } = *input;
    out.u32(channels.into()).u32(depth.into()).u32(height.into()).u32(width.into());
    let Preprocess { window, spacing, fit, normalise, mean, sd } = *preprocess;
    match window {
        Window::Full => out.text("full"),
        Window::FromFile => out.text("from-file"),
        Window::Values { low, high } => out.text("values").f64(low).f64(high),
        Window::Percentile { low, high } => out.text("percentile").f64(low).f64(high),
    };
    match spacing {
        None => out.text("any-spacing"),
        Some([depth, height, width]) => out.text("spacing").f64(depth).f64(height).f64(width),
    };
    out.text(match fit {
        Fit::Stretch => "stretch",
        Fit::Crop => "crop",
        Fit::Pad => "pad",
        Fit::Centre => "centre",
    });
    out.text(match normalise {
        Normalise::Fixed => "fixed",
        Normalise::Image => "image",
    });
    out.f64(mean.into()).f64(sd.into());
}

fn training(out: &mut Transcript, training: &Training) {
    let Training {
        rounds,
        strategy,
        optimizer,
        learning_rate,
        seed,
        weight_average,
        local,
        update_range,
        weight_cap,
        initial,
    } = training;
    out.u32(*rounds).text(match strategy {
        Strategy::FedAvg => "fedavg",
        Strategy::FedSgd => "fedsgd",
        Strategy::DpFedSgd => "dp-fedsgd",
    });
    match *optimizer {
        ServerOptimizer::Sgd => out.text("sgd"),
        ServerOptimizer::Momentum { momentum } => out.text("momentum").f64(momentum),
        ServerOptimizer::Adam { beta1, beta2, epsilon } => {
            out.text("adam").f64(beta1).f64(beta2).f64(epsilon)
        }
    };
    out.f64(*learning_rate).u64(*seed).f64(*weight_average);
    self::local(out, local);
    out.f64(*update_range).u32(*weight_cap);
    match initial {
        InitialModel::Seeded => out.text("seeded"),
        InitialModel::File(digest) => out.text("file").bytes(digest.as_bytes()),
    };
}

fn local(out: &mut Transcript, local: &Local) {
    let Local { epochs, batch_size, learning_rate, optimizer, weight_decay, augment } = *local;
    out.u32(epochs).u32(batch_size).f64(learning_rate);
    match optimizer {
        LocalOptimizer::Sgd => out.text("sgd"),
        LocalOptimizer::Momentum { momentum } => out.text("momentum").f64(momentum),
        LocalOptimizer::Adam => out.text("adam"),
    };
    out.f64(weight_decay);
    let Augment { flip, shift, rotate_degrees, intensity_scale, intensity_shift } = augment;
    out.u32(flip.into()).f64(shift).f64(rotate_degrees).f64(intensity_scale).f64(intensity_shift);
}

fn cohort(out: &mut Transcript, cohort: &CohortRules) {
    let CohortRules {
        sites,
        quorum,
        colluding,
        danger_unmasked,
        round_deadline,
        grace,
        upload_deadline,
    } = cohort;
    out.list(sites.len());
    for site in sites {
        out.text(site.as_str());
    }
    out.u32((*quorum).into()).u32((*colluding).into()).u32((*danger_unmasked).into());
    duration(out, *round_deadline);
    duration(out, *grace);
    duration(out, *upload_deadline);
}

fn duration(out: &mut Transcript, duration: Duration) {
    out.u64(duration.as_secs()).u32(duration.subsec_nanos());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Architecture;
    use crate::ids::{Digest, HospitalId};
    use crate::privacy::accountant::Accountant;
    use crate::privacy::charge::Mode;
    use crate::study::privacy::tests::rules;
    use crate::study::tests::example;
    use crate::study::{TaskKind, Unit};

    /// One change to a study.
    type Change = fn(&mut Study);

    fn site(name: &str) -> HospitalId {
        HospitalId::new(name).expect("the test's names are valid")
    }

    fn private(study: &mut Study, change: fn(&mut PrivacyRules)) {
        let mut rules = rules(Mode::Distributed);
        change(&mut rules);
        study.privacy = Privacy::Patients(rules);
    }

    /// Breaks R-01: any field that a digest leaves out would let two studies pass for one.
    #[test]
    fn every_field_changes_the_digest() {
        let changes: &[(&str, Change)] = &[
            ("name", |s| s.name.push('x')),
            ("classes", |s| s.task.classes.push("other".to_owned())),
            ("class name", |s| s.task.classes[0].push('x')),
            ("class order", |s| s.task.classes.reverse()),
            ("several labels", |s| s.task.kind = TaskKind::MultiLabel),
            ("segmentation", |s| s.task.kind = TaskKind::Segmentation),
            ("weights", |s| s.task.class_weights = vec![1.0, 2.0]),
            ("other weights", |s| s.task.class_weights = vec![2.0, 1.0]),
            ("depth", |s| s.task.input.depth += 1),
            ("channels", |s| s.task.input.channels += 1),
            ("height", |s| s.task.input.height += 1),
            ("width", |s| s.task.input.width += 1),
            ("window from file", |s| s.task.preprocess.window = Window::FromFile),
            ("window percentile", |s| {
                s.task.preprocess.window = Window::Percentile { low: 1.0, high: 99.0 }
            }),
            ("window low", |s| {
                s.task.preprocess.window = Window::Percentile { low: 2.0, high: 99.0 }
            }),
            ("window high", |s| {
                s.task.preprocess.window = Window::Percentile { low: 1.0, high: 98.0 }
            }),
            ("window of values", |s| {
                s.task.preprocess.window = Window::Values { low: 1.0, high: 99.0 }
            }),
            ("fit by cropping", |s| s.task.preprocess.fit = Fit::Crop),
            ("fit by padding", |s| s.task.preprocess.fit = Fit::Pad),
            ("fit to the middle", |s| s.task.preprocess.fit = Fit::Centre),
            ("spacing", |s| s.task.preprocess.spacing = Some([1.0, 1.0, 1.0])),
            ("spacing in depth", |s| s.task.preprocess.spacing = Some([2.0, 1.0, 1.0])),
            ("spacing in height", |s| s.task.preprocess.spacing = Some([1.0, 2.0, 1.0])),
            ("spacing in width", |s| s.task.preprocess.spacing = Some([1.0, 1.0, 2.0])),
            ("normalise", |s| s.task.preprocess.normalise = Normalise::Image),
            ("mean", |s| s.task.preprocess.mean += 0.25),
            ("sd", |s| s.task.preprocess.sd += 0.25),
            ("model", |s| s.model = Architecture::CnnSmall),
            ("rounds", |s| s.training.rounds += 1),
            ("strategy", |s| s.training.strategy = Strategy::FedSgd),
            ("server momentum", |s| {
                s.training.optimizer = ServerOptimizer::Momentum { momentum: 0.9 }
            }),
            ("server momentum value", |s| {
                s.training.optimizer = ServerOptimizer::Momentum { momentum: 0.8 }
            }),
            ("adam", |s| {
                s.training.optimizer =
                    ServerOptimizer::Adam { beta1: 0.9, beta2: 0.99, epsilon: 1e-3 }
            }),
            ("beta1", |s| {
                s.training.optimizer =
                    ServerOptimizer::Adam { beta1: 0.8, beta2: 0.99, epsilon: 1e-3 }
            }),
            ("beta2", |s| {
                s.training.optimizer =
                    ServerOptimizer::Adam { beta1: 0.9, beta2: 0.98, epsilon: 1e-3 }
            }),
            ("epsilon", |s| {
                s.training.optimizer =
                    ServerOptimizer::Adam { beta1: 0.9, beta2: 0.99, epsilon: 1e-4 }
            }),
            ("learning rate", |s| s.training.learning_rate *= 2.0),
            ("seed", |s| s.training.seed += 1),
            ("epochs", |s| s.training.local.epochs += 1),
            ("batch size", |s| s.training.local.batch_size += 1),
            ("local learning rate", |s| s.training.local.learning_rate *= 2.0),
            ("local momentum", |s| {
                s.training.local.optimizer = LocalOptimizer::Momentum { momentum: 0.9 }
            }),
            ("local momentum value", |s| {
                s.training.local.optimizer = LocalOptimizer::Momentum { momentum: 0.8 }
            }),
            ("local adam", |s| s.training.local.optimizer = LocalOptimizer::Adam),
            ("weight decay", |s| s.training.local.weight_decay += 0.01),
            ("flip", |s| s.training.local.augment.flip = true),
            ("shift", |s| s.training.local.augment.shift = 0.1),
            ("rotation", |s| s.training.local.augment.rotate_degrees = 0.1),
            ("intensity scale", |s| s.training.local.augment.intensity_scale = 0.1),
            ("intensity shift", |s| s.training.local.augment.intensity_shift = 0.1),
            ("update range", |s| s.training.update_range *= 2.0),
            ("weight cap", |s| s.training.weight_cap += 1),
            ("initial file", |s| s.training.initial = InitialModel::File(Digest::new([1; 32]))),
            ("initial file digest", |s| {
                s.training.initial = InitialModel::File(Digest::new([2; 32]))
            }),
            ("sites", |s| s.cohort.sites.push(site("a"))),
            ("another site", |s| s.cohort.sites.push(site("b"))),
            ("two sites", |s| s.cohort.sites.extend([site("a"), site("b")])),
            ("quorum", |s| s.cohort.quorum += 1),
            ("colluding", |s| s.cohort.colluding += 1),
            ("unmasked", |s| s.cohort.danger_unmasked = true),
            ("round deadline", |s| s.cohort.round_deadline += Duration::from_millis(1)),
            ("grace", |s| s.cohort.grace += Duration::from_millis(1)),
            ("upload deadline", |s| s.cohort.upload_deadline += Duration::from_millis(1)),
            ("every", |s| s.evaluation.every += 1),
            ("split", |s| s.evaluation.split = Split::Test),
            ("exact scores", |s| s.evaluation.danger_exact = true),
            ("weight average", |s| s.training.weight_average = 0.9),
            ("private strategy", |s| s.training.strategy = Strategy::DpFedSgd),
            ("distributed", |s| private(s, |_| {})),
            ("silo", |s| private(s, |rules| rules.mode = Mode::Silo)),
            ("unit", |s| private(s, |rules| rules.unit = Unit::DangerImage)),
            ("privacy epsilon", |s| private(s, |rules| rules.epsilon = 4.0)),
            ("delta", |s| private(s, |rules| rules.delta = 1e-6)),
            ("accountant", |s| private(s, |rules| rules.accountant = Accountant::Pld)),
            ("solo cap", |s| private(s, |rules| rules.solo_cap = 4.0)),
            ("clipping norm", |s| private(s, |rules| rules.clipping_norm = 2.0)),
            ("sampling rate", |s| private(s, |rules| rules.sampling_rate = 0.2)),
            ("patients", |s| private(s, |rules| rules.patients += 1)),
            ("spare rounds", |s| private(s, |rules| rules.spare_rounds += 1)),
            ("views", |s| private(s, |rules| rules.views += 1)),
        ];
        let mut seen = vec![("nothing", example().digest())];
        for (what, change) in changes {
            let mut study = example();
            change(&mut study);
            let digest = study.digest();
            for (earlier, other) in &seen {
                assert_ne!(digest, *other, "{what} and {earlier} give one digest");
            }
            seen.push((what, digest));
        }
    }

    #[test]
    fn the_same_study_has_the_same_digest() {
        assert_eq!(example().digest(), example().digest());
        let mut slower = example();
        slower.cohort.round_deadline += Duration::from_nanos(1);
        assert_ne!(slower.digest(), example().digest());
    }
}
