//! `verify-proof`: a receipt, checked against nothing but a policy.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use transparency::proof::{MAX_PROOF_BYTES, Proof};
use transparency::tile::MAX_ENTRY_BYTES;

use crate::entries::{Item, read_file, read_policy};
use crate::output::{Failure, Output, chain, visible};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The receipt.
    #[arg(long, value_name = "FILE")]
    proof: PathBuf,
    /// The policy file: the log's key, the witnesses' keys, and how many of them.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The entry's bytes, if you have them from elsewhere; otherwise those in the receipt.
    #[arg(long, value_name = "FILE")]
    entry: Option<PathBuf>,
}

#[derive(Serialize)]
struct Proven<'a> {
    origin: &'a str,
    size: u64,
    cosigned_by: Vec<&'a str>,
    entry: Item,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let policy = read_policy(&arguments.policy)?;
    let bytes = read_file(&arguments.proof, MAX_PROOF_BYTES)?;
    let refused = |error| Failure::failed("verification_failed", visible(&chain(&error)));
    let proof = Proof::parse(&bytes).map_err(refused)?;
    let entry = match &arguments.entry {
        Some(path) => read_file(path, MAX_ENTRY_BYTES)?,
        None => proof.entry().map(<[u8]>::to_vec).ok_or_else(|| {
            Failure::usage(
                "no_entry",
                "expected --entry FILE, since the receipt has no entry inside",
            )
        })?,
    };
    let verdict = proof.verify(&entry, &policy).map_err(refused)?;
    let checkpoint = proof.signed().checkpoint();
    let item = Item::new(proof.index(), &entry);
    let cosigned = verdict.witnesses.iter().filter(|witness| witness.cosigned.is_ok());
    let cosigned: Vec<&str> = cosigned.map(|witness| witness.name.as_str()).collect();
    output.line(&item.text())?;
    output.line(&format!(
        "verified: entry {} of {} in a log of {} entries, cosigned by {}",
        proof.index(),
        visible(checkpoint.origin()),
        checkpoint.size(),
        if cosigned.is_empty() {
            "nobody, as the policy allows".to_owned()
        } else {
            cosigned.join(", ")
        }
    ))?;
    Ok(output.data(&Proven {
        origin: checkpoint.origin(),
        size: checkpoint.size(),
        cosigned_by: cosigned,
        entry: item,
    })?)
}
