//! `consilium-bench mask`: the two loops that a round's speed rests on, against the speed at which
//! this machine copies memory.
//!
//! A node puts its masks on one update: its own and one for each neighbour. The coordinator adds an
//! update to the sum when it arrives, and takes the self masks out when the set is fixed, those of
//! all hospitals in one pass; so its loop, for one update, is one addition and one mask's share of
//! that pass. Both are the library's own functions, over vectors far larger than any cache.
//!
//! Rates are in bytes of 32-bit lanes, four to a parameter, as PROTOCOL-NOTES 1.6 counts them; the
//! ratios per byte of the wire, two to four to a parameter, are told beside. They are to bytes
//! copied in a second, measured in turn with the loops; each is the best of several runs, in CPU
//! time. On all cores every thread has its part of the same vectors, and is held against copying on
//! all cores.

use std::fmt;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use aggregation::masking::group::Modulus;
use aggregation::masking::keystream::{Mask, MaskKey, Sign};
use aggregation::masking::masks::{Masks, Tiles};
use aggregation::secret::Secret;
use clap::Args;
use harness::manifests::Manifest;
use harness::{Outcome, Trouble};
use serde::Serialize;

use crate::cpu::together;

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct MaskArgs {
    /// Neighbours of a node, and fewer by one than the hospitals in a sum
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(2..=127))]
    neighbours: u8,
    /// MiB that are copied; the vectors have half as much
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=4096))]
    mib: u32,
    /// Runs, of which the best counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
}

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    neighbours: u8,
    cores: usize,
    memcpy_gbps: f64,
    memcpy_gbps_all_cores: f64,
    /// The width that a study of so many hospitals has; the three ratios are for it.
    bits: u32,
    coordinator_loop_ratio: f64,
    coordinator_loop_ratio_all_cores: f64,
    node_mask_ratio: f64,
    widths: Vec<Width>,
}

/// What came out for one width of lanes.
#[derive(Debug, Serialize)]
pub(crate) struct Width {
    bits: u32,
    /// Adding one packed update to the sum.
    add_gbps: f64,
    /// Taking one self mask out of the sum, of as many at a time as there are hospitals.
    remove_gbps: f64,
    /// Both.
    coordinator_loop_gbps: f64,
    coordinator_loop_ratio: f64,
    coordinator_loop_ratio_wire: f64,
    coordinator_loop_gbps_all_cores: f64,
    coordinator_loop_ratio_all_cores: f64,
    /// How many times as fast all cores are as one.
    coordinator_scaling: f64,
    /// One of the masks that a node puts on its update.
    node_mask_gbps: f64,
    node_mask_ratio: f64,
    node_mask_ratio_wire: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, memcpy_gbps, memcpy_gbps_all_cores, neighbours, bits, .. } = self;
        writeln!(
            f,
            "memcpy, GB/s copied: one core {memcpy_gbps:.1}, all {cores} {memcpy_gbps_all_cores:.1}"
        )?;
        writeln!(f, "GB/s of 32-bit lanes, and the ratio to memcpy; {neighbours} neighbours")?;
        writeln!(f)?;
        writeln!(
            f,
            "bits    add  remove  coordinator  ratio  all cores  ratio  scaling  node mask  ratio"
        )?;
        for width in &self.widths {
            write!(f, "{:>4} {:>6.2} {:>7.2}", width.bits, width.add_gbps, width.remove_gbps)?;
            write!(
                f,
                " {:>12.2} {:>6.2}",
                width.coordinator_loop_gbps, width.coordinator_loop_ratio
            )?;
            write!(f, " {:>10.2}", width.coordinator_loop_gbps_all_cores)?;
            write!(f, " {:>6.2}", width.coordinator_loop_ratio_all_cores)?;
            write!(f, " {:>8.2}", width.coordinator_scaling)?;
            writeln!(f, " {:>10.2} {:>6.2}", width.node_mask_gbps, width.node_mask_ratio)?;
        }
        writeln!(f)?;
        writeln!(f, "a study of {} hospitals has {bits} bits:", u16::from(*neighbours) + 1)?;
        writeln!(f, "  coordinator's loop {:.3} of memcpy", self.coordinator_loop_ratio)?;
        writeln!(f, "  on all cores {:.3}", self.coordinator_loop_ratio_all_cores)?;
        writeln!(f, "  a node's mask {:.3}", self.node_mask_ratio)
    }
}

/// Runs the loops and measures them.
pub(crate) fn measure(arguments: &MaskArgs) -> Outcome<Measured> {
    let study = proto::manifest::parse(&Manifest::linear(1, 1).text())
        .map_err(|faults| Trouble::new(format!("the bench's own manifest: {faults:?}")))?;
    let hospitals = usize::from(arguments.neighbours) + 1;
    let used = study.vector_format(hospitals).map_err(|fault| Trouble::new(fault.to_string()))?;
    let cores = available_parallelism()?;

    let mut vectors = Vectors::new(usize::try_from(arguments.mib)? << 20);
    let mut best: Vec<Best> =
        Modulus::ALL.into_iter().map(|modulus| Best::new(modulus, arguments.neighbours)).collect();
    let mut copy = [f64::INFINITY; 2];
    for _ in 0..arguments.runs {
        for (copy, threads) in copy.iter_mut().zip([NonZeroUsize::MIN, cores]) {
            *copy = copy.min(vectors.copy(threads));
        }
        for best in &mut best {
            best.run(&mut vectors, cores)?;
        }
    }

    let bytes = giga(vectors.from.len());
    let [memcpy_gbps, memcpy_gbps_all_cores] = copy.map(|seconds| bytes / seconds);
    let widths: Vec<Width> = (best.iter())
        .map(|best| best.rated(giga(4 * vectors.sums.len()), memcpy_gbps, memcpy_gbps_all_cores))
        .collect();
    let width = widths.iter().find(|width| width.bits == used.modulus().bits());
    let width = width.ok_or_else(|| Trouble::new("a study has a width that is not measured"))?;
    Ok(Measured {
        neighbours: arguments.neighbours,
        cores: cores.get(),
        memcpy_gbps,
        memcpy_gbps_all_cores,
        bits: width.bits,
        coordinator_loop_ratio: width.coordinator_loop_ratio,
        coordinator_loop_ratio_all_cores: width.coordinator_loop_ratio_all_cores,
        node_mask_ratio: width.node_mask_ratio,
        widths,
    })
}

/// Everything that the loops go over.
struct Vectors {
    from: Vec<u8>,
    to: Vec<u8>,
    sums: Vec<u32>,
    /// Room for the widest; a narrower update takes the beginning.
    packed: Vec<u8>,
}

impl Vectors {
    /// For copying so many bytes, and for vectors of half as much. Nothing is left at zero: pages
    /// that were never written would all be one.
    fn new(copied: usize) -> Self {
        let half = copied / 2;
        Self {
            from: vec![1; copied],
            to: vec![2; copied],
            sums: vec![3; half / 4],
            packed: vec![4; half],
        }
    }

    /// Seconds to copy everything on so many threads.
    fn copy(&mut self, threads: NonZeroUsize) -> f64 {
        let each = self.from.len().div_ceil(threads.get());
        let parts = self.to.chunks_mut(each).zip(self.from.chunks(each));
        let copy = |(to, from): (&mut [u8], &[u8])| {
            to.copy_from_slice(black_box(from));
            black_box(to);
        };
        together(parts.map(|part| move || copy(part)).collect())
    }
}

/// The best seconds so far for one width; pairs are on one core and on all.
struct Best {
    modulus: Modulus,
    masks: usize,
    /// Applied by a node.
    put: Masks,
    /// Applied by the coordinator.
    removed: Masks,
    add: [f64; 2],
    remove: [f64; 2],
    node: f64,
}

impl Best {
    fn new(modulus: Modulus, neighbours: u8) -> Self {
        let masks = |sign: &dyn Fn(u8) -> Sign| {
            let mask = |key| Mask::new(&MaskKey::new(Secret::new([key; 32])), sign(key));
            Masks::new(modulus, (0..=neighbours).map(mask))
        };
        Self {
            modulus,
            masks: usize::from(neighbours) + 1,
            // A node in the middle of the roster adds one half of its masks.
            put: masks(&|key| if key.is_multiple_of(2) { Sign::Add } else { Sign::Subtract }),
            removed: masks(&|_| Sign::Subtract),
            add: [f64::INFINITY; 2],
            remove: [f64::INFINITY; 2],
            node: f64::INFINITY,
        }
    }

    fn run(&mut self, vectors: &mut Vectors, cores: NonZeroUsize) -> Outcome<()> {
        let Self { modulus, put, removed, .. } = self;
        let lanes = vectors.sums.len();
        let packed = &mut vectors.packed[..lanes * modulus.bytes()];
        for (at, threads) in [NonZeroUsize::MIN, cores].into_iter().enumerate() {
            let each = lanes.div_ceil(threads.get());
            let parts = vectors.sums.chunks_mut(each).zip(packed.chunks(each * modulus.bytes()));
            let mut refused = Vec::new();
            refused.resize_with(parts.len(), || Ok(()));
            let add = parts.zip(&mut refused).map(|((sums, packed), refused)| {
                || *refused = modulus.add_packed(black_box(sums), black_box(packed))
            });
            self.add[at] = self.add[at].min(together(add.collect()));
            refused.into_iter().collect::<Result<(), _>>()?;

            let parts = Tiles::new(black_box(&mut vectors.sums)).split(threads);
            let remove = parts.into_iter().map(|part| || removed.apply(part));
            self.remove[at] = self.remove[at].min(together(remove.collect()));
        }
        let mut masked = Ok(());
        let node = together(vec![|| masked = put.pass(lanes).mask(black_box(packed))]);
        self.node = self.node.min(node);
        Ok(masked?)
    }

    /// What the best seconds come to, for so many GB of lanes.
    fn rated(&self, lanes: f64, memcpy: f64, memcpy_all_cores: f64) -> Width {
        let masks = f64::from(u32::try_from(self.masks).unwrap_or(u32::MAX));
        let [one, all] = [0, 1].map(|at| lanes / (self.add[at] + self.remove[at] / masks));
        let node = lanes / (self.node / masks);
        let wire = giga(self.modulus.bytes()) / giga(4);
        Width {
            bits: self.modulus.bits(),
            add_gbps: lanes / self.add[0],
            remove_gbps: lanes / (self.remove[0] / masks),
            coordinator_loop_gbps: one,
            coordinator_loop_ratio: one / memcpy,
            coordinator_loop_ratio_wire: one / memcpy * wire,
            coordinator_loop_gbps_all_cores: all,
            coordinator_loop_ratio_all_cores: all / memcpy_all_cores,
            coordinator_scaling: all / one,
            node_mask_gbps: node,
            node_mask_ratio: node / memcpy,
            node_mask_ratio_wire: node / memcpy * wire,
        }
    }
}

/// Bytes in GB. Exact: nobody measures with more than 2^32 of them.
fn giga(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_measures_every_width_and_tells_the_one_that_is_used() {
        let arguments = MaskArgs { neighbours: 3, mib: 16, runs: 1 };
        let measured = measure(&arguments).expect("there is nothing that could refuse");
        let bits: Vec<u32> = measured.widths.iter().map(|width| width.bits).collect();
        assert_eq!(bits, [16, 24, 32]);
        assert!(bits.contains(&measured.bits));
        for width in &measured.widths {
            let both = 1.0 / width.coordinator_loop_gbps;
            let parts = 1.0 / width.add_gbps + 1.0 / width.remove_gbps;
            assert!((both - parts).abs() < 1e-9 * both, "{width:?}");
            for rate in [width.coordinator_loop_ratio_all_cores, width.node_mask_ratio] {
                assert!(rate > 0.0 && rate.is_finite(), "{width:?}");
            }
        }
        assert_eq!(measured.to_string().lines().count(), 12);
    }
}
