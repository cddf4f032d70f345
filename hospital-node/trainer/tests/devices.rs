//! Other devices than the CPU compute the same, but for rounding. Built with the feature `wgpu` or
//! `cuda`; where the machine has no such device, a line says so.

#![cfg(any(feature = "wgpu", feature = "cuda"))]
#![expect(clippy::print_stderr, reason = "says which device was tried, or that there was none")]

use aggregation::architecture::Architecture;
use aggregation::study::{Fit, InputShape, Normalise, Preprocess, Task, TaskKind, Window};
use aggregation::units::ClipNorm;
use burn::tensor::Device;
use hospital_trainer::backend;
use hospital_trainer::random::Random;
use hospital_trainer::zoo::{Network, Targets};

fn task(architecture: Architecture, side: u16) -> Task {
    let depth = if architecture == Architecture::Unet3d { side } else { 1 };
    Task {
        kind: if architecture.segments() {
            TaskKind::Segmentation
        } else {
            TaskKind::Classification
        },
        classes: ["a", "b", "c"].map(str::to_owned).into(),
        class_weights: vec![1.0, 2.0, 0.5],
        input: InputShape { channels: 1, depth, height: side, width: side },
        preprocess: Preprocess {
            window: Window::Full,
            spacing: None,
            fit: Fit::Stretch,
            normalise: Normalise::Fixed,
            mean: 0.0,
            sd: 1.0,
        },
    }
}

#[expect(clippy::cast_possible_truncation, reason = "values of a test")]
fn normals(label: &str, count: usize) -> Vec<f32> {
    let mut random = Random::new(label, &[]);
    (0..count).map(|_| random.normal() as f32).collect()
}

/// The relative distance of two vectors.
fn apart(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let apart: f64 = pairs.clone().map(|(a, b)| (a - b).powi(2)).sum();
    (apart / pairs.map(|(_, b)| b.powi(2)).sum::<f64>()).sqrt()
}

fn compare(name: &str, device: &Device) {
    for (architecture, side) in [
        (Architecture::Linear, 16),
        (Architecture::CnnTiny, 28),
        (Architecture::CnnSmall, 48),
        (Architecture::Resnet18Gn, 16),
        (Architecture::DenseNet121Gn, 16),
        (Architecture::VitTiny, 16),
        (Architecture::Unet2d, 16),
        (Architecture::Unet3d, 16),
    ] {
        let task = task(architecture, side);
        let on = |device| Network::new(architecture, &task, device);
        let (here, there) = (on(Device::flex()), on(device.clone()));
        let moved = normals("moved", here.layout().parameters());
        let model: Vec<f32> =
            here.layout().initial(3).iter().zip(moved).map(|(w, by)| w + 0.05 * by).collect();
        let InputShape { channels, depth, height, width } = task.input;
        let values: usize = [channels, depth, height, width].map(usize::from).iter().product();
        let images = normals("images", 4 * values);
        let masks: Vec<u8> = [0, 0, 1, 2, 1].into_iter().cycle().take(4 * values).collect();
        let targets = || match task.kind {
            TaskKind::Segmentation => Targets::Masks(&masks),
            TaskKind::Classification | TaskKind::MultiLabel => Targets::Classes(&[0, 1, 2, 1]),
        };
        let logits = |network: &Network| network.logits(&model, images.clone()).expect("computed");
        let scores = apart(&logits(&there), &logits(&here));
        let mean = |network: &Network| {
            network.gradient(&model, images.clone(), targets()).expect("computed").mean
        };
        let mean = apart(&mean(&there), &mean(&here));
        let clip = ClipNorm::new(0.5).expect("above zero");
        let clipped = |network: &Network| {
            network.clipped_sum(&model, images.clone(), targets(), 2, clip).expect("computed").sum
        };
        let clipped = apart(&clipped(&there), &clipped(&here));
        eprintln!("{name}, {architecture}: {scores:.1e} {mean:.1e} {clipped:.1e}");
        for (what, apart) in [("scores", scores), ("gradient", mean), ("clipped sum", clipped)] {
            assert!(apart < 2e-3, "{architecture} on {name}: the {what} is {apart} off");
        }
    }
}

#[test]
fn every_network_computes_on_other_devices_as_on_the_cpu() {
    for name in ["wgpu", "cuda:0"] {
        match backend::device(name) {
            Ok(device) => compare(name, &device),
            Err(why) => eprintln!("not tried: {why}"),
        }
    }
}
