//! `consilium-bench dp-step`: what clipping each patient's gradient costs on top of a step that
//! clips none. Both steps take turns, so that a busy machine slows both, and are compared by the
//! processor's time; on another device by the clock on the wall.

#![expect(clippy::disallowed_methods, reason = "a stopwatch is what this is")]

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use aggregation::architecture::Architecture;
use aggregation::privacy::grid::FineGrid;
use aggregation::study::{InputShape, Preprocess, Task, TaskKind};
use aggregation::units::ClipNorm;
use clap::Args;
use harness::{Outcome, Trouble};
use hospital_trainer::backend;
use hospital_trainer::dataset::answers::{Answer, Batch};
use hospital_trainer::zoo::Network;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::round::median;

/// The most patients that are clipped at once before their sum becomes integers.
const MICRO_BATCH: usize = 32;

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct DpStepArgs {
    /// Model of the zoo
    #[arg(long, default_value = "cnn-small", value_name = "ARCH", value_parser = architecture)]
    model: Architecture,
    /// Pixels to a side of the images
    #[arg(long, default_value_t = 28, value_name = "PX")]
    size: u16,
    /// Patients in a step
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    batch: u16,
    /// Augmented views of each patient's image
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    views: u8,
    /// Pairs of steps to take the median over
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    repeats: u16,
    /// What to compute on: auto, cpu, wgpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
}

pub(crate) fn architecture(name: &str) -> Result<Architecture, String> {
    Architecture::from_name(name).ok_or_else(|| {
        let known: Vec<_> = Architecture::ALL.iter().map(|known| known.name()).collect();
        format!("expected one of {}", known.join(", "))
    })
}

/// What came out: medians.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    model: &'static str,
    /// What computed, as asked for.
    device: String,
    size: u16,
    batch: u16,
    views: u8,
    repeats: u16,
    parameters: usize,
    /// Patients a second of a step that takes the mean gradient.
    plain_samples_per_second: f64,
    /// The same of a step that clips each patient's gradient and sums them up as integers.
    dp_samples_per_second: f64,
    /// The processor's time, over all cores, that a step of each kind took.
    plain_cpu_ms: f64,
    dp_cpu_ms: f64,
    /// What of the latter went into making the micro-batches' sums integers.
    integers_cpu_ms: f64,
    /// The median over pairs of steps of how many times the plain step's time the private one took:
    /// the processor's time, or the wall's where another device computes.
    overhead_ratio: f64,
    /// The most memory that this process has held, in MiB.
    peak_mib: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "{name:<34} {value:>12}");
        line("model", self.model.to_owned())?;
        line("device", self.device.clone())?;
        line("pixels to a side", self.size.to_string())?;
        line("patients in a step", self.batch.to_string())?;
        line("views of each", self.views.to_string())?;
        line("parameters", self.parameters.to_string())?;
        line("plain, patients a second", format!("{:.1}", self.plain_samples_per_second))?;
        line("private, patients a second", format!("{:.1}", self.dp_samples_per_second))?;
        line("plain, CPU ms a step", format!("{:.1}", self.plain_cpu_ms))?;
        line("private, CPU ms a step", format!("{:.1}", self.dp_cpu_ms))?;
        line("  of that, to integers", format!("{:.1}", self.integers_cpu_ms))?;
        line("private over plain", format!("{:.3}", self.overhead_ratio))?;
        line("most memory held, MiB", format!("{:.0}", self.peak_mib))
    }
}

/// What one step took.
#[derive(Clone, Copy)]
struct Cost {
    cpu: f64,
    wall: f64,
}

/// Steps and measures.
pub(crate) fn measure(arguments: &DpStepArgs) -> Outcome<Measured> {
    let &DpStepArgs { model: architecture, size, batch, views, repeats, device: ref name } =
        arguments;
    let depth = if architecture == Architecture::Unet3d { size } else { 1 };
    let input = InputShape { channels: 1, depth, height: size, width: size };
    if let Some(fault) = architecture.input_faults(&input).first() {
        return Err(Trouble::new(fault.to_string()));
    }
    let kind =
        if architecture.segments() { TaskKind::Segmentation } else { TaskKind::Classification };
    let task = Task {
        kind,
        classes: vec!["without".to_owned(), "with".to_owned()],
        class_weights: Vec::new(),
        input,
        preprocess: Preprocess::PLAIN,
    };
    let device = backend::device(name).map_err(|error| Trouble::new(error.to_string()))?;
    let network = Network::new(architecture, &task, device);
    let model = network.layout().initial(1);
    let clip = ClipNorm::new(1.0).map_err(|error| Trouble::new(error.to_string()))?;
    let grid = FineGrid::for_noise(1.0)
        .ok_or_else(|| Trouble::new("a grid for noise of 1 was expected".to_owned()))?;

    let views = usize::from(views);
    // What the network is shown: of `scatter-linear`, features.
    let of_image = network.values();
    let of_patient = views * of_image;
    let images: Vec<f32> = (0_u32..).take(of_patient * usize::from(batch)).map(pixel).collect();
    // Equal answers for all views of a patient; of a mask, stripes.
    let answers = |from: usize, count: usize| {
        let mut answers = Batch::new(kind);
        for image in from..from + count {
            let class = image / views % 2;
            answers.push(&match kind {
                TaskKind::Segmentation => Answer::Mask(stripes(of_image, class)),
                TaskKind::Classification | TaskKind::MultiLabel => Answer::Class(class),
            });
        }
        answers
    };
    let all = answers(0, usize::from(batch) * views);

    let mut plain = || -> Outcome<()> {
        let gradient = network.gradient(&model, images.clone(), all.targets());
        black_box(gradient.map_err(|error| Trouble::new(error.to_string()))?);
        Ok(())
    };
    let mut sums = vec![0_i64; model.len()];
    let mut to_integers = Vec::new();
    let mut private = || -> Outcome<()> {
        sums.fill(0);
        let mut integers = 0.0;
        let loaded = network.load(&model);
        for (micro_batch, images) in images.chunks(MICRO_BATCH * of_patient).enumerate() {
            let answers = answers(micro_batch * MICRO_BATCH * views, images.len() / of_image);
            let clipped = loaded.clipped_sum(images.to_vec(), answers.targets(), views, clip);
            let clipped = clipped.map_err(|error| Trouble::new(error.to_string()))?;
            let begun = of_this_process();
            grid.add(&clipped.sum, &mut sums).map_err(|error| Trouble::new(error.to_string()))?;
            integers += of_this_process().saturating_sub(begun).as_secs_f64();
        }
        to_integers.push(integers);
        black_box(&sums);
        Ok(())
    };
    // The first of each pays for pages and threads.
    plain()?;
    private()?;
    let mut pairs = Vec::new();
    for repeat in 0..repeats {
        // Neither always runs in the other's wake.
        pairs.push(if repeat % 2 == 0 {
            let first = timed(&mut plain)?;
            (first, timed(&mut private)?)
        } else {
            let first = timed(&mut private)?;
            (timed(&mut plain)?, first)
        });
    }
    to_integers.sort_by(f64::total_cmp);
    let over = |figure: &dyn Fn(&(Cost, Cost)) -> f64| {
        let mut figures: Vec<f64> = pairs.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        median(&figures)
    };
    let on_cpu = network.is_on_cpu();
    let time = |cost: &Cost| if on_cpu { cost.cpu } else { cost.wall };
    Ok(Measured {
        model: architecture.name(),
        device: name.clone(),
        size,
        batch,
        views: arguments.views,
        repeats,
        parameters: model.len(),
        plain_samples_per_second: f64::from(batch) / over(&|(plain, _)| plain.wall),
        dp_samples_per_second: f64::from(batch) / over(&|(_, private)| private.wall),
        plain_cpu_ms: 1e3 * over(&|(plain, _)| plain.cpu),
        dp_cpu_ms: 1e3 * over(&|(_, private)| private.cpu),
        integers_cpu_ms: 1e3 * median(&to_integers),
        overhead_ratio: over(&|(plain, private)| time(private) / time(plain)),
        peak_mib: peak_mib()?,
    })
}

fn timed(step: &mut dyn FnMut() -> Outcome<()>) -> Outcome<Cost> {
    let (cpu, wall) = (of_this_process(), Instant::now());
    step()?;
    let wall = wall.elapsed().as_secs_f64();
    Ok(Cost { cpu: of_this_process().saturating_sub(cpu).as_secs_f64(), wall })
}

/// CPU time, user and system, that all threads of this process have had so far.
fn of_this_process() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    // The clock begins at zero with the process and is normalised: neither conversion can fail.
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// The kernel's own high-water mark of this process.
fn peak_mib() -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kib = kib.and_then(|kib| kib.trim().parse::<u32>().ok());
    kib.map(|kib| f64::from(kib) / 1024.0)
        .ok_or_else(|| Trouble::new("the kernel does not say how much memory is held".to_owned()))
}

/// A mask whose class changes every few voxels.
fn stripes(voxels: usize, first: usize) -> Vec<u8> {
    (0..voxels).map(|voxel| u8::from((voxel / 5 + first) % 2 == 1)).collect()
}

/// An image that is nothing special: from -1 to 1 in steps that repeat late.
fn pixel(place: u32) -> f32 {
    let [a, b, _, _] = place.wrapping_mul(0x9e37_79b9).to_be_bytes();
    f32::from(i16::from_be_bytes([a, b])) / 32_768.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(model: Architecture, size: u16) -> DpStepArgs {
        DpStepArgs { model, size, batch: 18, views: 1, repeats: 3, device: "cpu".to_owned() }
    }

    #[test]
    fn a_short_measurement_has_all_figures() {
        // One that is shown images, and one that is shown features.
        for (model, size) in [(Architecture::CnnTiny, 16), (Architecture::ScatterLinear, 32)] {
            let measured = measure(&arguments(model, size)).expect("computed");
            let json = serde_json::to_value(&measured).expect("plain numbers");
            for field in
                ["plain_samples_per_second", "dp_samples_per_second", "overhead_ratio", "peak_mib"]
            {
                assert!(json[field].as_f64().is_some_and(|figure| figure > 0.0), "{field}");
            }
            assert_eq!(measured.to_string().lines().count(), 13);
        }
    }

    #[test]
    fn an_input_that_the_model_does_not_take_is_named() {
        let error = measure(&arguments(Architecture::CnnTiny, 8)).expect_err("too small");
        assert!(error.to_string().contains("16 to 512"), "{error}");
    }
}
