//! What is trained here is used elsewhere: an export loads into PyTorch's own networks and scores
//! alike there.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use aggregation::architecture::Architecture;
use aggregation::study::{InputShape, Preprocess, Task, TaskKind};
use harness::{Outcome, Trouble};
use hospital_trainer::backend;
use hospital_trainer::random::Random;
use hospital_trainer::zoo::Network;
use safetensors::tensor::{Dtype, TensorView};

/// What the script says when it lacks torch or what else a model needs.
const LACKS: Option<i32> = Some(3);

fn task(architecture: Architecture, side: u16) -> Task {
    let depth = if architecture == Architecture::Unet3d { side } else { 1 };
    Task {
        kind: if architecture.segments() {
            TaskKind::Segmentation
        } else {
            TaskKind::Classification
        },
        classes: ["a", "b", "c"].map(str::to_owned).into(),
        class_weights: Vec::new(),
        input: InputShape { channels: 1, depth, height: side, width: side },
        preprocess: Preprocess::PLAIN,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "values of a test")]
fn normals(label: &str, count: usize) -> Vec<f32> {
    let mut random = Random::new(label, &[]);
    (0..count).map(|_| random.normal() as f32).collect()
}

/// Writes an export, and what it gives for two images.
fn write(folder: &Path, architecture: Architecture, side: u16) -> Outcome<()> {
    let task = task(architecture, side);
    let fault = |error: &dyn std::fmt::Display| Trouble::new(error.to_string());
    let device = backend::device("cpu").map_err(|error| fault(&error))?;
    let network = Network::new(architecture, &task, device);
    let layout = network.layout();
    // Away from where it starts: scales that are not 1 and shifts that are not 0.
    let moved = normals("moved", layout.parameters());
    let model: Vec<f32> =
        layout.initial(3).iter().zip(moved).map(|(value, by)| value + 0.02 * by).collect();
    let bytes: Vec<u8> = model.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut rest = bytes.as_slice();
    let mut tensors = BTreeMap::new();
    for spec in &layout.tensors {
        let (own, after) = rest.split_at(4 * spec.values());
        rest = after;
        tensors.insert(&spec.name, TensorView::new(Dtype::F32, spec.shape.clone(), own)?);
    }
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(tensors, None)?)?;
    let InputShape { channels, depth, height, width } = task.input;
    let input = [channels, depth, height, width];
    let images = normals("images", 2 * input.map(usize::from).iter().product::<usize>());
    let scores = network.logits(&model, &images).map_err(|error| fault(&error))?;
    let probe = serde_json::json!({
        "arch": architecture.name(), "classes": 3, "input": input, "images": images, "scores": scores,
    });
    Ok(std::fs::write(folder.join("probe.json"), probe.to_string())?)
}

/// The mapping is in `tests/python/zoo.py`. With another Python than the system's:
/// `PATH=venv/bin:$PATH cargo test --release --test scenarios -- pytorch`.
#[test]
#[expect(clippy::print_stderr, reason = "says why nothing was tried, or how close it came")]
fn exports_load_into_pytorch_by_name_and_score_alike() -> Outcome<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/zoo.py");
    let Ok(asked) = Command::new("python3").args([script, "--help"]).output() else {
        eprintln!("skipped: there is no python3");
        return Ok(());
    };
    if !asked.status.success() {
        eprintln!("skipped: {}", String::from_utf8_lossy(&asked.stderr).trim());
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    for (architecture, side) in [
        (Architecture::CnnTiny, 28),
        (Architecture::CnnSmall, 48),
        (Architecture::Resnet18Gn, 28),
        (Architecture::Resnet18Gn, 64),
        (Architecture::DenseNet121Gn, 28),
        (Architecture::DenseNet121Gn, 64),
        (Architecture::VitTiny, 28),
        (Architecture::VitTiny, 64),
        (Architecture::Unet2d, 32),
        (Architecture::Unet3d, 16),
    ] {
        write(folder.path(), architecture, side)?;
        let (model, probe) =
            (folder.path().join("model.safetensors"), folder.path().join("probe.json"));
        let run = Command::new("python3").args([script, "check"]).arg(model).arg(probe).output()?;
        let said = String::from_utf8_lossy(&run.stderr);
        if run.status.code() == LACKS {
            eprintln!("skipped {architecture}: {}", said.trim());
            continue;
        }
        let found = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{architecture} at {side}: {found}{said}");
        eprintln!("{architecture} at {side} px: {}", found.trim());
    }
    Ok(())
}
