//! `consilium-bench log`: what the log costs.
//!
//! Leaves like those of contributions are appended in batches, each batch durable and its checkpoint
//! signed and published before the next begins. Then everything is verified as an auditor does it,
//! and entries from all over the log are proven and their proofs checked. All on one thread.

use std::error::Error;
use std::fmt;
use std::time::Instant;

use clap::Args;
use harness::{Outcome, Trouble};
use serde::Serialize;
use serde_json::{Value, json};
use transparency::folder::{Folder, Reader, Writer};
use transparency::leaf::Leaf;
use transparency::note::Signer;
use transparency::policy::Policy;
use transparency::time::UtcTime;
use transparency::verify::verify;

/// Proofs that are made and checked.
const PROOFS: u32 = 2_000;
/// What is asked for at least: leaves appended in a second.
const LEAST_APPENDED: f64 = 5_000.0;
/// And at most: seconds of one core to verify a million leaves, and microseconds of a proof.
const MOST_VERIFY_SECONDS: f64 = 20.0;
const MOST_PROOF_MICROSECONDS: f64 = 1_000.0;

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Leaves
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    leaves: u32,
    /// Leaves of one checkpoint
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
}

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    leaves: u32,
    /// Of all leaves together.
    bytes: u64,
    batch: u32,
    /// Each batch durable, signed and published.
    append_per_second: f64,
    /// How many times what is asked for.
    append_ratio: f64,
    /// Opening the log again, as after a restart.
    open_seconds: f64,
    /// Every hash of every entry and tile.
    verify_seconds: f64,
    /// Of what so many leaves may take: 20 s a million.
    verify_ratio: f64,
    /// One entry: its proof made from the folder, and checked.
    proof_microseconds: f64,
    /// Of what it may take: a millisecond.
    proof_ratio: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "{name:<34} {value:>12}");
        line("leaves", self.leaves.to_string())?;
        line("their bytes", self.bytes.to_string())?;
        line("leaves a checkpoint", self.batch.to_string())?;
        line("appended a second", format!("{:.0}", self.append_per_second))?;
        line("  times the least, 5,000", format!("{:.2}", self.append_ratio))?;
        line("opened again, s", format!("{:.3}", self.open_seconds))?;
        line("verified, s", format!("{:.2}", self.verify_seconds))?;
        line("  of the most, 20 s a million", format!("{:.3}", self.verify_ratio))?;
        line("one proof, microseconds", format!("{:.0}", self.proof_microseconds))?;
        line("  of the most, 1 ms", format!("{:.3}", self.proof_ratio))
    }
}

/// Writes, verifies and proves.
pub(crate) fn measure(arguments: &LogArgs) -> Outcome<Measured> {
    play(arguments).map_err(|error| Trouble::new(proto::cli::chain(error.as_ref())))
}

#[expect(clippy::disallowed_methods, reason = "a measurement is of this machine's time")]
fn now() -> Instant {
    Instant::now()
}

fn leaf(number: u32) -> Result<Vec<u8>, Box<dyn Error>> {
    let Value::Object(data) = json!({
        "study": "5c1f2b3ad94e7c8105b2c4a1f0e9d8c7b6a5948372615049382716f5e4d3c2b1",
        "round": number / 7, "slot": number / 7, "site": format!("hospital-{}", number % 7),
        "bytes": 2_000_000 + u64::from(number), "digest": format!("{number:064x}"),
    }) else {
        return Err("expected an object".into());
    };
    let time = UtcTime::from_millis(1_795_000_000_000 + u64::from(number)).ok_or("a late time")?;
    Ok(Leaf::new("round_contribution", time, data)?.bytes().to_vec())
}

fn play(arguments: &LogArgs) -> Result<Measured, Box<dyn Error>> {
    let LogArgs { leaves, batch } = *arguments;
    let scratch = tempfile::tempdir()?;
    let signer = || Signer::from_seed("log.example", &[1; 32]);
    let policy = Policy::threshold(&signer()?.key(), &[], 0)?;

    let mut writer = Writer::open(Folder::create(scratch.path())?, signer()?, None)?;
    let (mut spent, mut bytes, mut from) = (0.0, 0_u64, 0);
    while from < leaves {
        let until = leaves.min(from.saturating_add(batch));
        let entries = (from..until).map(leaf).collect::<Result<Vec<_>, _>>()?;
        for entry in &entries {
            bytes += u64::try_from(entry.len())?;
        }
        let start = now();
        let signed = writer.append(&entries)?;
        writer.publish(&signed)?;
        spent += start.elapsed().as_secs_f64();
        from = until;
    }
    drop(writer);

    let start = now();
    drop(Writer::open(Folder::open(scratch.path())?, signer()?, None)?);
    let open_seconds = start.elapsed().as_secs_f64();

    let folder = Folder::open(scratch.path())?;
    let start = now();
    let report = verify(&folder, &policy, &[])?;
    let verify_seconds = start.elapsed().as_secs_f64();
    if !report.verified {
        return Err(format!("expected a log that is verified, found {:?}", report.findings).into());
    }

    let (reader, _) = Reader::open(folder, &policy)?;
    let start = now();
    for number in 0..PROOFS {
        let index = u64::from(number) * 7_919_777 % u64::from(leaves);
        let (entry, proof) = reader.prove(index)?;
        proof.verify(&entry, &policy)?;
    }
    let proof_microseconds = start.elapsed().as_secs_f64() * 1e6 / f64::from(PROOFS);
    let append_per_second = f64::from(leaves) / spent;
    Ok(Measured {
        leaves,
        bytes,
        batch,
        append_per_second,
        append_ratio: append_per_second / LEAST_APPENDED,
        open_seconds,
        verify_seconds,
        verify_ratio: verify_seconds / (MOST_VERIFY_SECONDS * f64::from(leaves) / 1e6),
        proof_microseconds,
        proof_ratio: proof_microseconds / MOST_PROOF_MICROSECONDS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_log_is_measured() {
        let measured = measure(&LogArgs { leaves: 700, batch: 300 }).expect("a good log");
        assert!(measured.append_per_second > 0.0 && measured.proof_microseconds > 0.0);
        assert_eq!(u64::from(measured.leaves), 700);
        assert!(measured.bytes > 700 * 200);
        let json = serde_json::to_value(&measured).expect("JSON");
        for field in ["append_per_second", "verify_seconds", "proof_microseconds"] {
            assert!(json[field].is_number(), "{field}");
        }
        // 700 leaves may take 14 ms, and 5,000 a second are one times the least.
        let near = |ratio: f64, expected: f64| (ratio / expected - 1.0).abs() < 1e-9;
        assert!(near(measured.append_ratio, measured.append_per_second / 5_000.0));
        assert!(near(measured.verify_ratio, measured.verify_seconds / 0.014));
        assert!(near(measured.proof_ratio, measured.proof_microseconds / 1_000.0));
        let shown = measured.to_string();
        for limit in ["5,000", "20 s a million", "1 ms"] {
            assert!(shown.contains(limit), "{limit}: {shown}");
        }
    }
}
