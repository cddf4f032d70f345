//! How fast: appends leaves as a busy coordinator would, verifies them on one core, proves some.
//!
//! `cargo run --release -p transparency --example million [LEAVES] [LEAVES PER CHECKPOINT]`

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use serde_json::json;
use transparency::folder::{Folder, Reader, Writer};
use transparency::leaf::Leaf;
use transparency::note::Signer;
use transparency::policy::Policy;
use transparency::time::UtcTime;
use transparency::tree::leaf_hash;
use transparency::verify::verify;

fn leaf(number: u64) -> Result<Vec<u8>, Box<dyn Error>> {
    let data = json!({
        "study": "5c1f2b3ad94e7c8105b2c4a1f0e9d8c7b6a5948372615049382716f5e4d3c2b1",
        "round": number / 7, "site": format!("hospital-{}", number % 7), "bytes": 2_000_000 + number,
        "digest": format!("{number:064x}"), "epsilon": 0.125,
    });
    let time = UtcTime::from_millis(1_795_000_000_000 + number).ok_or("a late time")?;
    let data = data.as_object().cloned().unwrap_or_default();
    Ok(Leaf::new("round_contribution", time, data)?.bytes().to_vec())
}

#[expect(clippy::disallowed_methods, reason = "a measurement is of this machine's time")]
fn now() -> Instant {
    Instant::now()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|word| word.parse::<u64>());
    let leaves = arguments.next().transpose()?.unwrap_or(1_000_000);
    let batch = arguments.next().transpose()?.unwrap_or(1_000).max(1);
    let scratch = tempfile::tempdir()?;
    let signer = || Signer::from_seed("log.example", &[1; 32]);
    let policy = Policy::threshold(&signer()?.key(), &[], 0)?;
    let mut out = std::io::stdout();

    let mut writer = Writer::open(Folder::create(scratch.path())?, signer()?, None)?;
    let mut spent = 0.0;
    let mut bytes = 0;
    for from in (0..leaves).step_by(usize::try_from(batch)?) {
        let entries = (from..leaves.min(from + batch)).map(leaf).collect::<Result<Vec<_>, _>>()?;
        bytes += entries.iter().map(Vec::len).sum::<usize>();
        let start = now();
        let signed = writer.append(&entries)?;
        writer.publish(&signed)?;
        spent += start.elapsed().as_secs_f64();
    }
    let per_second = u32::try_from(leaves).map_or(f64::MAX, f64::from) / spent;
    writeln!(out, "leaves                {leaves}, {bytes} bytes, {batch} a checkpoint")?;
    writeln!(out, "appended per second   {per_second:.0} ({spent:.1} s, each checkpoint durable)")?;
    drop(writer);

    let start = now();
    let writer = Writer::open(Folder::open(scratch.path())?, signer()?, None)?;
    writeln!(out, "opened again          {:.3} s", start.elapsed().as_secs_f64())?;
    drop(writer);

    let folder = Folder::open(scratch.path())?;
    let start = now();
    let report = verify(&folder, &policy, &[])?;
    writeln!(
        out,
        "verified              {} in {:.2} s",
        report.verified,
        start.elapsed().as_secs_f64()
    )?;

    let (reader, _) = Reader::open(folder, &policy)?;
    let proofs = 2_000;
    let start = now();
    for number in 0..proofs {
        let index = number * 7_919_777 % leaves;
        let (entry, proof) = reader.prove(index)?;
        if leaf_hash(&entry) == [0; 32] || proof.verify(&entry, &policy).is_err() {
            return Err("expected a proof that holds".into());
        }
    }
    let micros = start.elapsed().as_secs_f64() * 1e6 / 2_000.0;
    writeln!(out, "proof                 {micros:.0} us, made from the folder and verified")?;
    Ok(())
}
