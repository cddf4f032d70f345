//! Other devices than the CPU compute the same, but for rounding. Built with the feature `wgpu` or
//! `cuda`; where the machine has no such device, a line says so.

#![cfg(any(feature = "wgpu", feature = "cuda"))]
#![expect(clippy::print_stderr, reason = "says which device was tried, or that there was none")]

mod process;

use std::panic::{AssertUnwindSafe, catch_unwind};

use aggregation::architecture::Architecture;
use aggregation::ids::RoundId;
use aggregation::message::Work;
use aggregation::privacy::noise::NoiseSeed;
use aggregation::privacy::sampling::{MicroBatches, Patients, SamplingSeed};
use aggregation::secret::Secret;
use aggregation::study::{InputShape, Preprocess, Study, Task, TaskKind};
use aggregation::units::ClipNorm;
use aggregation::vector::{Accumulator, VectorFormat, encode_noised};
use burn::tensor::{Device, Tensor};
use hospital_trainer::backend;
use hospital_trainer::dataset::Examples;
use hospital_trainer::noised::{NoisedStep, Seeds};
use hospital_trainer::random::Random;
use hospital_trainer::step::Trainer;
use hospital_trainer::zoo::{Network, Targets};

/// The devices beside the CPU that this build and this machine have, and how far apart from it they
/// may be.
fn devices() -> Vec<(&'static str, Device, f64)> {
    // Vulkan's single precision is exact but for divisions and roots. NVIDIA's matrix products have
    // factors of eleven bits (TF32), and a network several of them in a row.
    let wanted = [("wgpu", 1e-4), ("cuda:0", 3e-2)];
    let found = wanted.into_iter().filter_map(|(name, within)| match backend::device(name) {
        Ok(device) => Some((name, device, within)),
        Err(why) => {
            eprintln!("not tried: {why}");
            None
        }
    });
    found.collect()
}

fn task(architecture: Architecture, kind: TaskKind, side: u16) -> Task {
    let depth = if architecture == Architecture::Unet3d { side } else { 1 };
    Task {
        kind,
        classes: ["a", "b", "c"].map(str::to_owned).into(),
        class_weights: vec![1.0, 2.0, 0.5],
        input: InputShape { channels: 1, depth, height: side, width: side },
        preprocess: Preprocess::PLAIN,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "values of a test")]
fn normals(label: &str, count: usize) -> Vec<f32> {
    let mut random = Random::new(label, &[]);
    (0..count).map(|_| random.normal() as f32).collect()
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// The relative distance of two vectors.
fn apart(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let apart = norm(found.iter().zip(expected).map(|(a, b)| a - b));
    apart / norm(expected.iter().copied())
}

/// The CPU's norms of patients' gradients are bounds from above, which may be so far over
/// (PROTOCOL D-11); others form the gradients.
const NORMS_OVER: f64 = 1e-2;

/// Scores, mean gradient, and the sums of gradients as they are and clipped, of four images, two each
/// of a patient.
fn computed(
    (architecture, task): (Architecture, &Task),
    model: &[f32],
    device: &Device,
) -> [Vec<f64>; 4] {
    const CHOSEN: [usize; 4] = [0, 1, 2, 1];
    let network = Network::new(architecture, task, device.clone());
    let images = normals("images", CHOSEN.len() * network.values());
    let masks: Vec<u8> = [0, 0, 1, 2, 1].into_iter().cycle().take(images.len()).collect();
    let labels: Vec<bool> = (0..12).map(|label| label % 5 < 2).collect();
    let targets = || match task.kind {
        TaskKind::Segmentation => Targets::Masks(&masks),
        TaskKind::Classification => Targets::Classes(&CHOSEN),
        TaskKind::MultiLabel => Targets::Labels(&labels),
    };
    let scores = network.logits(model, &images).expect("computed");
    let mean = network.gradient(model, images.clone(), targets()).expect("computed").mean;
    let [whole, clipped] = [1e9, 0.5].map(|most| {
        let clip = ClipNorm::new(most).expect("above zero");
        network.clipped_sum(model, images.clone(), targets(), 2, clip).expect("computed").sum
    });
    [scores, mean, whole, clipped].map(|values| doubles(&values))
}

#[test]
fn every_network_computes_on_other_devices_as_on_the_cpu() {
    use TaskKind::{Classification, MultiLabel, Segmentation};
    for (name, device, within) in devices() {
        for (architecture, kind, side) in [
            (Architecture::Linear, Classification, 16),
            (Architecture::ScatterLinear, Classification, 32),
            (Architecture::CnnTiny, Classification, 28),
            (Architecture::CnnTiny, MultiLabel, 17),
            (Architecture::CnnSmall, Classification, 48),
            (Architecture::Resnet18Gn, Classification, 16),
            (Architecture::DenseNet121Gn, Classification, 16),
            (Architecture::VitTiny, Classification, 16),
            (Architecture::Unet2d, Segmentation, 16),
            (Architecture::Unet3d, Segmentation, 16),
        ] {
            let task = task(architecture, kind, side);
            let layout = architecture.layout(&task.input, task.classes.len());
            let bounds = [within, within, within, within + NORMS_OVER];
            // Where a value lies within rounding of a kink (ReLU, pooling), a gradient jumps; it does so in
            // one model and not in the next.
            let is_same = ["moved", "otherwise", "a third way"].into_iter().any(|way| {
                let moved = normals(way, layout.parameters());
                let model: Vec<f32> =
                    layout.initial(3).iter().zip(moved).map(|(w, by)| w + 0.05 * by).collect();
                let here = computed((architecture, &task), &model, &Device::flex());
                let there = computed((architecture, &task), &model, &device);
                let off = [0, 1, 2, 3].map(|of| apart(&there[of], &here[of]));
                let [scores, gradient, sum, clipped] = off;
                eprintln!(
                    "{name}, {architecture}: scores {scores:.1e}, gradient {gradient:.1e}, \
                     sum {sum:.1e}, clipped sum {clipped:.1e} off"
                );
                off.iter().zip(bounds).all(|(off, bound)| *off < bound)
            });
            assert!(is_same, "{architecture} on {name} computes something else");
        }
    }
}

/// What a pass that is tried again in halves rests on.
#[test]
fn a_device_that_was_asked_for_too_much_memory_goes_on() {
    for (name, device, _) in devices() {
        let ones = |count: usize| {
            catch_unwind(AssertUnwindSafe(|| {
                Tensor::<1>::ones([count], &device).sum().try_into_scalar::<f32>()
            }))
        };
        // Sixteen TiB.
        let failed = !matches!(ones(1 << 42), Ok(Ok(_)));
        assert!(failed, "{name} has more memory than any");
        assert!(matches!(ones(1 << 10), Ok(Ok(sum)) if sum.to_bits() == 1024_f32.to_bits()));
    }
}

fn study(train: &str, privacy: &str) -> Study {
    let manifest = format!(
        "name = \"test\"\n[task]\nkind = \"classification\"\nclasses = [\"a\", \"b\"]\n\
         input = {{ channels = 1, height = 16, width = 16 }}\n\
         preprocess = {{ window = \"full\", mean = 0.5, sd = 0.25 }}\n\
         [model]\narch = \"cnn-tiny\"\n[train]\nrounds = 3\nseed = 5\n{train}\n\
         [privacy]\n{privacy}\n[cohort]\nquorum = 3\n[evaluate]\nevery = 0\n"
    );
    proto::manifest::parse(&manifest).expect("a valid manifest")
}

fn examples() -> Examples {
    Examples::classified(&normals("examples", 24 * 256), &[0, 1].repeat(12)).expect("memory")
}

#[test]
fn a_round_of_training_on_other_devices_is_that_of_the_cpu() {
    let local = "local = { epochs = 2, batch_size = 8, learning_rate = 0.05, augment = true }";
    let study = study(&format!("strategy = \"fedavg\"\n{local}"), "mode = \"danger_no_privacy\"");
    let (examples, offered) = (examples(), study.layout().initial(5));
    let update = |device: Device| {
        let network = Network::new(study.model, &study.task, device);
        let trainer =
            Trainer { study: &study, network: &network, examples: &examples, site: "here" };
        let round = RoundId::new(1).expect("not zero");
        doubles(&trainer.train(round, &offered, &mut |_| ()).expect("computed").update)
    };
    let here = update(Device::flex());
    for (name, device, within) in devices() {
        let apart = apart(&update(device), &here);
        eprintln!("{name}, a round: {apart:.1e}");
        // Six steps, each from where the last one led.
        assert!(apart < 10.0 * within, "{name}: the update is {apart} off");
    }
}

/// The same coins and the same noise: what is left between two devices is rounding.
#[test]
fn a_private_step_on_other_devices_is_that_of_the_cpu() {
    let study = study(
        "strategy = \"dp-fedsgd\"\nlearning_rate = 1.0",
        "mode = \"distributed\"\nepsilon = 8.0\nsampling_rate = 0.5\npatients = 24\n\
         solo_epsilon_cap = 1000.0",
    );
    let plan = study.noise_plan(3).expect("a plan").expect("private");
    let (examples, offered) = (examples(), study.layout().initial(5));
    let patients = Patients::group((0..24_u8).map(|owner| Some([owner / 2])));
    let patients = patients.expect("everybody has one");
    let micro_batches = MicroBatches::new(Secret::new([5; 32]), 8);
    let format = VectorFormat::planned(&study, 3, Work::Train, Some(&plan)).expect("three sites");
    let read = |device: Device| {
        let network = Network::new(study.model, &study.task, device);
        let step = NoisedStep {
            study: &study,
            plan: &plan,
            network: &network,
            examples: &examples,
            patients: &patients,
            micro_batches: &micro_batches,
        };
        let seeds = Seeds {
            sampling: SamplingSeed::new(Secret::new([1; 32])),
            noise: NoiseSeed::new(Secret::new([2; 32])),
            augmentation: Secret::new([3; 32]),
        };
        let lanes = step.lanes(seeds, &offered).expect("computed");
        let mut sum = Accumulator::new(&format);
        sum.add(&encode_noised(&format, &lanes, None).expect("it fits")).expect("its length");
        let batch = study.privacy.rules().expect("private").batch();
        let mean = sum.finish().expect("plausible").update;
        mean.iter().map(|mean| mean * batch).collect::<Vec<f64>>()
    };
    let here = read(Device::flex());
    for (name, device, within) in devices() {
        let there = read(device);
        let apart = norm(there.iter().zip(&here).map(|(a, b)| a - b));
        eprintln!("{name}, a private step: {apart:.1e}");
        // A dozen patients at the most, each of them clipped to that.
        let most = 12.0 * plan.wanted().clip.get();
        assert!(apart < within * most, "{name}: the sum is {apart} off, of {most}");
    }
}
