//! `consilium-bench sampler`: what noise costs, and the whole way of a private sum from a
//! trainer's floats to the bytes on the wire. One core, no processes.

#![expect(clippy::disallowed_methods, reason = "a stopwatch is what this is")]

use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use aggregation::masking::group::Modulus;
use aggregation::privacy::grid::FineGrid;
use aggregation::privacy::noise::{Clamp, Noise, NoiseSeed};
use aggregation::secret::Secret;
use clap::Args;
use harness::{Outcome, Trouble};
use serde::Serialize;

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct SamplerArgs {
    /// Parameters of the model
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    params: u32,
    /// Times to take the median over
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeats: u32,
}

/// What came out. Medians; the fastest beside them tell how busy the machine was.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    parameters: u32,
    repeats: u32,
    /// One coordinate's noise: three draws from the table.
    ns_per_sample: f64,
    fastest_ns_per_sample: f64,
    /// A float to the grid, clamped, noised, rounded to a lane and packed.
    ns_per_parameter_to_wire: f64,
    fastest_ns_per_parameter_to_wire: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "{name:<34} {value:>12}");
        line("parameters", self.parameters.to_string())?;
        line("repeats", self.repeats.to_string())?;
        line("noise, ns a sample", format!("{:.1}", self.ns_per_sample))?;
        line("  fastest", format!("{:.1}", self.fastest_ns_per_sample))?;
        line("to the wire, ns a parameter", format!("{:.1}", self.ns_per_parameter_to_wire))?;
        line("  fastest", format!("{:.1}", self.fastest_ns_per_parameter_to_wire))
    }
}

/// Draws and measures.
pub(crate) fn measure(arguments: &SamplerArgs) -> Outcome<Measured> {
    let length = usize::try_from(arguments.params)
        .map_err(|_| Trouble::new("there is no room for so many parameters".to_owned()))?;
    let grid = FineGrid::for_noise(1.0)
        .ok_or_else(|| Trouble::new("a grid for noise of 1 was expected".to_owned()))?;
    // Ten sites at multiplier 1, 64 patients expected: 16-bit lanes, as in a small study.
    let clamp = Clamp::new(2_509)
        .ok_or_else(|| Trouble::new("a clamp of 2,509 was expected".to_owned()))?;
    let gradient: Vec<f32> = (0..arguments.params).map(coordinate).collect();
    let (mut samples, mut to_wire) = (Vec::new(), Vec::new());
    let mut noise = vec![0_i32; length];
    let (mut sums, mut lanes) = (vec![0_i64; length], vec![0_u32; length]);
    let mut packed = Vec::with_capacity(length * Modulus::Bits16.bytes());
    for repeat in 0..arguments.repeats {
        let started = Instant::now();
        Noise::new(seed(repeat, 0)).fill(&mut noise);
        black_box(&noise);
        samples.push(started.elapsed().as_secs_f64());

        sums.fill(0);
        packed.clear();
        let started = Instant::now();
        grid.add(&gradient, &mut sums).map_err(|error| Trouble::new(error.to_string()))?;
        Noise::new(seed(repeat, 1)).to_wire(&sums, clamp, &mut lanes);
        Modulus::Bits16.pack(&lanes, &mut packed);
        black_box(&packed);
        to_wire.push(started.elapsed().as_secs_f64());
    }
    let each = |seconds: f64| seconds * 1e9 / f64::from(arguments.params);
    let (sample, fastest_sample) = median_and_fastest(samples);
    let (wire, fastest_wire) = median_and_fastest(to_wire);
    Ok(Measured {
        parameters: arguments.params,
        repeats: arguments.repeats,
        ns_per_sample: each(sample),
        fastest_ns_per_sample: each(fastest_sample),
        ns_per_parameter_to_wire: each(wire),
        fastest_ns_per_parameter_to_wire: each(fastest_wire),
    })
}

/// A gradient that is nothing special: from -1 to 1 in steps that repeat late.
fn coordinate(place: u32) -> f32 {
    let [a, b, _, _] = place.wrapping_mul(0x9e37_79b9).to_be_bytes();
    f32::from(i16::from_be_bytes([a, b])) / 32_768.0
}

fn seed(repeat: u32, use_of: u8) -> NoiseSeed {
    let mut seed = [use_of; 32];
    seed[..4].copy_from_slice(&repeat.to_le_bytes());
    NoiseSeed::new(Secret::new(seed))
}

fn median_and_fastest(mut seconds: Vec<f64>) -> (f64, f64) {
    seconds.sort_by(f64::total_cmp);
    let fastest = seconds.first().copied().unwrap_or_default();
    (super::round::median(&seconds), fastest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_measurement_has_all_figures() {
        let measured =
            measure(&SamplerArgs { params: 10_000, repeats: 3 }).expect("nothing is in the way");
        assert!(measured.fastest_ns_per_sample > 0.0);
        assert!(measured.ns_per_sample >= measured.fastest_ns_per_sample);
        assert!(measured.ns_per_parameter_to_wire >= measured.fastest_ns_per_parameter_to_wire);
        let json = serde_json::to_value(&measured).expect("plain numbers");
        for field in ["ns_per_sample", "ns_per_parameter_to_wire"] {
            assert!(json[field].as_f64().is_some_and(|ns| ns > 0.0), "{field}");
        }
        assert_eq!(measured.to_string().lines().count(), 6);
    }
}
