//! `coordinator model`: what has been learnt.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use aggregation::ids::Digest;
use clap::Subcommand;
use proto::cli::Failure;
use proto::federation as wire;
use serde::Serialize;

use super::link::{answer, operator, refused};
use super::out::{Out, table};

/// What can be done with models.
#[derive(Debug, Subcommand)]
pub(super) enum ModelCommand {
    /// List the released models of a study, newest last.
    List {
        /// The study's digest, a start of it, or its name.
        #[arg(long)]
        study: String,
    },
    /// Write a model as a safetensors file with a model card in its metadata.
    Export {
        /// The study's digest, a start of it, or its name.
        #[arg(long)]
        study: String,
        /// The model after this round; by default the newest.
        #[arg(long)]
        round: Option<std::num::NonZeroU32>,
        /// The file to write; an existing one is replaced.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Serialize)]
struct ModelData {
    round: u32,
    model: String,
    sites: Vec<String>,
}

/// Runs a model command.
pub(super) async fn run(command: ModelCommand, config: &Path, out: Out) -> Result<(), Failure> {
    match command {
        ModelCommand::List { study } => {
            let mut operator = operator(config).await?;
            let listed = answer(operator.list_models(wire::StudyRequest { study })).await?;
            let models: Vec<ModelData> = listed
                .models
                .into_iter()
                .map(|one| ModelData { round: one.round, model: one.model, sites: one.contributed })
                .collect();
            let rows: Vec<Vec<String>> = models
                .iter()
                .map(|one| {
                    vec![one.round.to_string(), one.sites.len().to_string(), one.model.clone()]
                })
                .collect();
            let text = if rows.is_empty() {
                "no round has been released yet".to_owned()
            } else {
                table(&["ROUND", "SITES", "MODEL"], &rows)
            };
            out.result(&serde_json::json!({ "models": models }), &text)
        }
        ModelCommand::Export { study, round, out: file } => {
            export(study, round, &file, config, out).await
        }
    }
}

async fn export(
    study: String,
    round: Option<std::num::NonZeroU32>,
    file: &Path,
    config: &Path,
    out: Out,
) -> Result<(), Failure> {
    let mut operator = operator(config).await?;
    let request =
        wire::ExportModelRequest { study, round: round.map_or(0, std::num::NonZeroU32::get) };
    let mut chunks = answer(operator.export_model(request)).await?;
    let trouble = |fault: std::io::Error| {
        Failure::failed("not_written", format!("{}: {fault}", file.display()))
    };
    // Written beside the target and renamed, so that a broken export leaves no half a model.
    let folder =
        file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = tempfile::NamedTempFile::new_in(folder).map_err(trouble)?;
    let mut whole = Vec::new();
    loop {
        let next = chunks.message().await.map_err(|status| refused(&status))?;
        let Some(chunk) = next else { break };
        beside.write_all(&chunk.data).map_err(trouble)?;
        whole.extend_from_slice(&chunk.data);
    }
    beside.as_file().sync_all().map_err(trouble)?;
    beside.persist(file).map_err(|fault| trouble(fault.error))?;
    let digest = Digest::sha256(&whole);
    let name = file.display();
    let mut data =
        serde_json::json!({ "file": file, "bytes": whole.len(), "sha256": digest.to_string() });
    let mut text = format!("{name} written, {} bytes\nsha256  {digest}", whole.len());
    if let Some((header, values)) = values(&whole) {
        let model = Digest::sha256(values).to_string();
        text = format!(
            "{text}\nmodel   {model}\n        as the log names it, of the file's values:\n        \
             tail -c +{} {name} | sha256sum",
            header + 1
        );
        data["model_digest"] = model.into();
    }
    out.result(&data, &text)
}

/// How long the header of a safetensors file is, its own length with it, and the values behind it, which
/// are what the log has the digest of.
fn values(file: &[u8]) -> Option<(usize, &[u8])> {
    let (length, _) = file.split_first_chunk::<8>()?;
    let header = usize::try_from(u64::from_le_bytes(*length)).ok()?.checked_add(8)?;
    Some((header, file.get(header..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_a_model_are_what_stands_behind_its_header() {
        let values_of =
            |file: &[u8]| values(file).map(|(header, values)| (header, values.to_vec()));
        let file = [&3_u64.to_le_bytes()[..], b"{ }", &[1, 2, 3, 4]].concat();
        assert_eq!(values_of(&file), Some((11, vec![1, 2, 3, 4])));
        assert_eq!(values_of(&file[..10]), None);
        assert_eq!(values_of(&[0xff; 9]), None);
        assert_eq!(values_of(&[1]), None);
    }
}
