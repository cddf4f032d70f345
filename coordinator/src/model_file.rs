//! Models as safetensors files: in from an operator's file, out with a model card.

use std::collections::BTreeMap;
use std::path::Path;

use aggregation::architecture::{ModelLayout, model_from_bytes};
use aggregation::ids::Digest;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

/// Why a file cannot be the first model of a study.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelFileError {
    /// The file is not where it should be.
    #[error("expected the initial model at {path} on the coordinator")]
    Missing {
        /// Where.
        path: String,
    },
    /// The file has another digest.
    #[error("the initial model's file has the SHA-256 {found}, expected {expected}")]
    OtherDigest {
        /// Of the file.
        found: Digest,
        /// In the manifest.
        expected: Digest,
    },
    /// The file is not safetensors, or its numbers are no model.
    #[error("the initial model's file cannot be read: {0}")]
    Unreadable(String),
    /// A tensor is missing or has another type or shape.
    #[error(
        "the initial model: expected a tensor {name} of f32 and shape {shape:?}, found {found}"
    )]
    Tensor {
        /// Which.
        name: String,
        /// What it must have.
        shape: Vec<usize>,
        /// What is there.
        found: String,
    },
    /// The file has tensors that the layout does not know.
    #[error("the initial model: expected {expected} tensors, found {found}")]
    Count {
        /// In the layout.
        expected: usize,
        /// In the file.
        found: usize,
    },
}

/// Reads the flat vector of a layout from the file that a manifest names by its SHA-256.
///
/// # Errors
/// When the file is not there, not that file, or does not have exactly the layout's tensors.
pub(crate) fn read(
    state: &Path,
    digest: Digest,
    layout: &ModelLayout,
) -> Result<Vec<f32>, ModelFileError> {
    let path = state.join("initial").join(format!("{digest}.safetensors"));
    let bytes = std::fs::read(&path)
        .map_err(|_| ModelFileError::Missing { path: path.display().to_string() })?;
    let found = Digest::sha256(&bytes);
    if found != digest {
        return Err(ModelFileError::OtherDigest { found, expected: digest });
    }
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|fault| ModelFileError::Unreadable(fault.to_string()))?;
    if file.len() != layout.tensors.len() {
        return Err(ModelFileError::Count { expected: layout.tensors.len(), found: file.len() });
    }
    let mut flat = Vec::with_capacity(layout.parameters() * size_of::<f32>());
    for spec in &layout.tensors {
        let wrong = |found: String| ModelFileError::Tensor {
            name: spec.name.clone(),
            shape: spec.shape.clone(),
            found,
        };
        let tensor = file.tensor(&spec.name).map_err(|_| wrong("none".to_owned()))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != spec.shape {
            return Err(wrong(format!("{:?} and shape {:?}", tensor.dtype(), tensor.shape())));
        }
        flat.extend_from_slice(tensor.data());
    }
    model_from_bytes(&flat).map_err(|fault| ModelFileError::Unreadable(fault.to_string()))
}

/// Writes the flat vector of a layout as safetensors with a card in its metadata. The same model
/// and card give the same bytes: an auditor can compare files.
///
/// # Errors
/// A sentence, when the vector is not the layout's.
pub(crate) fn write(
    layout: &ModelLayout,
    model: &[u8],
    card: BTreeMap<String, String>,
) -> Result<Vec<u8>, String> {
    let expected = layout.parameters() * size_of::<f32>();
    if model.len() != expected {
        return Err(format!("the model has {} bytes, its layout {expected}", model.len()));
    }
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), Map::from_iter(card_fields(card)).into());
    let mut from = 0;
    for spec in &layout.tensors {
        let to = from + spec.values() * size_of::<f32>();
        let tensor = json!({ "dtype": "F32", "shape": spec.shape, "data_offsets": [from, to] });
        header.insert(spec.name.clone(), tensor);
        from = to;
    }
    let mut header = Value::from(header).to_string().into_bytes();
    // The format wants the numbers to begin at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = u64::try_from(header.len()).map_err(|fault| fault.to_string())?;
    let mut file = Vec::with_capacity(size_of::<u64>() + header.len() + model.len());
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(&header);
    file.extend_from_slice(model);
    Ok(file)
}

fn card_fields(card: BTreeMap<String, String>) -> impl Iterator<Item = (String, Value)> {
    card.into_iter().map(|(key, value)| (key, Value::from(value)))
}

#[cfg(test)]
mod tests {
    use aggregation::architecture::{Architecture, model_bytes};
    use aggregation::study::InputShape;

    use super::*;

    fn layout() -> ModelLayout {
        Architecture::Linear.layout(&InputShape { channels: 1, depth: 1, height: 8, width: 8 }, 2)
    }

    #[test]
    fn a_model_that_was_written_reads_back_as_an_initial_model() {
        let folder = tempfile::tempdir().expect("a folder");
        let model = layout().initial(7);
        let card = BTreeMap::from([("study".to_owned(), "x".to_owned())]);
        let file = write(&layout(), &model_bytes(&model), card.clone()).expect("written");
        assert_eq!(
            write(&layout(), &model_bytes(&model), card),
            Ok(file.clone()),
            "the same bytes"
        );
        let (_, header) = SafeTensors::read_metadata(&file).expect("a header");
        let told = header.metadata().as_ref().and_then(|card| card.get("study"));
        assert_eq!(told.map(String::as_str), Some("x"));
        let digest = Digest::sha256(&file);
        std::fs::create_dir(folder.path().join("initial")).expect("made");
        let path = folder.path().join("initial").join(format!("{digest}.safetensors"));
        std::fs::write(&path, &file).expect("written");
        assert_eq!(read(folder.path(), digest, &layout()).expect("read"), model);
        std::fs::write(&path, b"something else").expect("written");
        let refused = read(folder.path(), digest, &layout());
        assert!(matches!(refused, Err(ModelFileError::OtherDigest { .. })));
        let refused = read(folder.path(), Digest::sha256(b"none"), &layout());
        assert!(matches!(refused, Err(ModelFileError::Missing { .. })));
    }

    #[test]
    fn a_vector_of_another_length_is_no_model() {
        let short = vec![0; 12];
        assert!(write(&layout(), &short, BTreeMap::new()).is_err());
    }
}
