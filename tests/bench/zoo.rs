//! `consilium-bench zoo`: what each model of the zoo costs, with and without a clipped gradient for
//! each patient. Each model is measured in a process of its own, so that its memory is its own.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aggregation::architecture::Architecture;
use clap::Args;
use harness::command::Order;
use harness::{Outcome, Trouble};
use serde::Serialize;
use serde_json::Value;

/// The longest that one model may take.
const LONGEST: Duration = Duration::from_hours(2);

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct ZooArgs {
    /// Models of the zoo; all of them when none is given
    #[arg(long = "model", value_name = "ARCH", value_parser = super::dp_step::architecture)]
    models: Vec<Architecture>,
    /// Pixels to a side of the images
    #[arg(long, default_value_t = 28, value_name = "PX")]
    size: u16,
    /// Voxels to a side of the volumes; and pixels to a side for `unet2d`
    #[arg(long, default_value_t = 32, value_name = "PX")]
    volume: u16,
    /// Patients in a step
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    batch: u16,
    /// Pairs of steps to take the median over
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    repeats: u16,
    /// What to compute on: auto, cpu, wgpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// A Python that has torch, torchvision and timm: the same steps by it, with one thread each
    #[arg(long, value_name = "PYTHON")]
    against: Option<PathBuf>,
}

/// One line for each model.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    models: Vec<Value>,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<16} {:>4} {:>11} {:>14} {:>12} {:>12} {:>12} {:>9} {:>9} {:>14}",
            "model",
            "px",
            "parameters",
            "plain, CPU ms",
            "private",
            "plain a s",
            "private a s",
            "overhead",
            "MiB",
            "over PyTorch's"
        )?;
        for model in &self.models {
            let number = |key: &str| model[key].as_f64().unwrap_or(f64::NAN);
            writeln!(
                f,
                "{:<16} {:>4} {:>11} {:>14.1} {:>12.1} {:>12.1} {:>12.1} {:>9.2} {:>9.0} {:>14}",
                model["model"].as_str().unwrap_or("-"),
                model["size"],
                model["parameters"],
                number("plain_cpu_ms"),
                number("dp_cpu_ms"),
                number("plain_samples_per_second"),
                number("dp_samples_per_second"),
                number("overhead_ratio"),
                number("peak_mib"),
                model["over_pytorch"].as_f64().map_or("-".to_owned(), |of| format!("{of:.2}")),
            )?;
        }
        Ok(())
    }
}

/// Measures one model after the other.
pub(crate) fn measure(arguments: &ZooArgs) -> Outcome<Measured> {
    let all = if arguments.models.is_empty() { &Architecture::ALL[..] } else { &arguments.models };
    let program = std::env::current_exe()?;
    let mut models = Vec::new();
    for model in all {
        let size = if model.segments() { arguments.volume } else { arguments.size };
        let mut order = Order::new(&program);
        if arguments.against.is_some() {
            order = order.env("RAYON_NUM_THREADS", "1");
        }
        let line = order
            .args(["--format", "json", "dp-step", "--model", model.name()])
            .args(["--size", &size.to_string(), "--batch", &arguments.batch.to_string()])
            .args(["--repeats", &arguments.repeats.to_string(), "--device", &arguments.device])
            .patience(LONGEST)
            .run()?;
        let mut of_model: Value = object(&line.stdout, model.name())?;
        if of_model["status"] == "error" {
            let why = of_model["message"].as_str().unwrap_or("it says no more");
            return Err(Trouble::new(format!("{}: {why}", model.name())));
        }
        if let Some(python) = &arguments.against {
            let ours = of_model["plain_cpu_ms"].as_f64().unwrap_or(f64::NAN);
            let ours = f64::from(arguments.batch) / ours * 1e3;
            let theirs = by_pytorch(python, *model, size, arguments)?;
            of_model["samples_per_cpu_second"] = ours.into();
            of_model["pytorch_samples_per_cpu_second"] = theirs.into();
            of_model["over_pytorch"] = theirs.map(|theirs| ours / theirs).into();
        }
        models.push(of_model);
    }
    Ok(Measured { models })
}

/// Samples in a second of CPU time by PyTorch; none of a model that it does not have.
fn by_pytorch(
    python: &Path,
    model: Architecture,
    size: u16,
    arguments: &ZooArgs,
) -> Outcome<Option<f64>> {
    if matches!(model, Architecture::Linear | Architecture::ScatterLinear) {
        return Ok(None);
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/zoo.py");
    let line = Order::new(python)
        .args([script, "time", "--model", model.name(), "--size", &size.to_string()])
        .args(["--batch", &arguments.batch.to_string()])
        .args(["--repeats", &arguments.repeats.to_string()])
        .patience(LONGEST)
        .run()?;
    Ok(object(&line.stdout, "PyTorch")?["samples_per_cpu_second"].as_f64())
}

fn object(text: &str, of: &str) -> Outcome<Value> {
    serde_json::from_str(text.trim())
        .map_err(|_| Trouble::new(format!("{of}: expected one JSON object, found {text:?}")))
}
