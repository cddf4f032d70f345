//! The models that a study may pick from, as declared facts.
//!
//! Names and shapes only, so that the coordinator can lay out, draw and store a model without
//! being able to run one. The trainer's networks are built to match; a test there compares.
//! Conventions are PyTorch's: a linear weight is `[out, in]`, a convolution's `[out, in, kh, kw]`.

use std::fmt;

use crate::ids::Digest;
use crate::study::{InputShape, StudyFault};
use crate::transcript::Transcript;

/// The most parameters that a model may have: 1 GiB as 32-bit numbers.
pub const MAX_PARAMETERS: usize = 1 << 28;

/// A model of the compiled-in zoo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    /// Five 3x3 convolutions with group normalisation, global mean and maximum, one linear layer.
    CnnSmall,
    /// One linear layer on the pixels: what any better model must beat.
    Linear,
}

/// One 3x3 convolution of [`Architecture::CnnSmall`], each followed by a group normalisation.
/// Strides and groups are the network's own affair; a parameter vector does not show them.
struct Block {
    conv: &'static str,
    scale: &'static str,
    shift: &'static str,
    /// Channels in; the stem takes as many as the image has.
    from: Option<usize>,
    /// Channels out.
    to: usize,
}

/// The layers of [`Architecture::CnnSmall`] in the order of the flat vector.
const CNN_SMALL: [Block; 5] = [
    Block {
        conv: "stem.conv.weight",
        scale: "stem.norm.weight",
        shift: "stem.norm.bias",
        from: None,
        to: 16,
    },
    Block {
        conv: "block1.conv.weight",
        scale: "block1.norm.weight",
        shift: "block1.norm.bias",
        from: Some(16),
        to: 32,
    },
    Block {
        conv: "block2.conv.weight",
        scale: "block2.norm.weight",
        shift: "block2.norm.bias",
        from: Some(32),
        to: 32,
    },
    Block {
        conv: "block3.conv.weight",
        scale: "block3.norm.weight",
        shift: "block3.norm.bias",
        from: Some(32),
        to: 64,
    },
    Block {
        conv: "block4.conv.weight",
        scale: "block4.norm.weight",
        shift: "block4.norm.bias",
        from: Some(64),
        to: 64,
    },
];

/// Features that the head of [`Architecture::CnnSmall`] sees: the mean and the greatest value of
/// each channel over the image.
const CNN_SMALL_FEATURES: usize = 128;

impl Architecture {
    /// Every model of the zoo.
    pub const ALL: [Self; 2] = [Self::CnnSmall, Self::Linear];

    /// The name that a manifest gives.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CnnSmall => "cnn-small",
            Self::Linear => "linear",
        }
    }

    /// The model of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|arch| arch.name() == name)
    }

    /// Channels and pixels to a side, fewest and most, that the model takes.
    const fn limits(self) -> ((u16, u16), (u16, u16)) {
        match self {
            Self::CnnSmall => ((1, 4), (16, 512)),
            Self::Linear => ((1, 64), (1, 4096)),
        }
    }

    /// In which ways the input does not fit this model.
    #[must_use]
    pub fn input_faults(self, input: &InputShape) -> Vec<StudyFault> {
        let ((fewest, most), (shortest, longest)) = self.limits();
        [
            ("task.input.channels", input.channels, fewest, most),
            ("task.input.height", input.height, shortest, longest),
            ("task.input.width", input.width, shortest, longest),
        ]
        .into_iter()
        .filter(|(_, found, low, high)| !(low..=high).contains(&found))
        .map(|(key, found, low, high)| StudyFault {
            key: key.to_owned(),
            found: found.to_string(),
            allowed: format!("{low} to {high} for {self}"),
        })
        .collect()
    }

    /// The tensors of this model for such an input and so many classes.
    #[must_use]
    pub fn layout(self, input: &InputShape, classes: usize) -> ModelLayout {
        let channels = usize::from(input.channels);
        let tensors = match self {
            Self::CnnSmall => CNN_SMALL
                .iter()
                .flat_map(|block| {
                    let from = block.from.unwrap_or(channels);
                    let init = Init::KaimingNormal { fan_in: from * 9 };
                    [
                        TensorSpec::new(block.conv, &[block.to, from, 3, 3], init),
                        TensorSpec::new(block.scale, &[block.to], Init::Ones),
                        TensorSpec::new(block.shift, &[block.to], Init::Zeros),
                    ]
                })
                .chain([
                    TensorSpec::new(
                        "head.weight",
                        &[classes, CNN_SMALL_FEATURES],
                        // A sixteenth of the usual variance: the first scores are close to even,
                        // whatever the features are.
                        Init::KaimingNormal { fan_in: 16 * CNN_SMALL_FEATURES },
                    ),
                    TensorSpec::new("head.bias", &[classes], Init::Zeros),
                ])
                .collect(),
            Self::Linear => {
                let pixels = channels * usize::from(input.height) * usize::from(input.width);
                vec![
                    TensorSpec::new("head.weight", &[classes, pixels], Init::Zeros),
                    TensorSpec::new("head.bias", &[classes], Init::Zeros),
                ]
            }
        };
        ModelLayout { tensors }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a tensor starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Normal, mean 0, variance 2 / `fan_in` (\[He+15\] equation 10).
    KaimingNormal {
        /// Inputs to one output.
        fan_in: usize,
    },
}

/// One tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name, as in an exported file.
    pub name: &'static str,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
}

impl TensorSpec {
    fn new(name: &'static str, shape: &[usize], init: Init) -> Self {
        Self { name, shape: shape.to_vec(), init }
    }

    /// The number of its values.
    #[must_use]
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// All tensors of a model, in the order of its flat vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelLayout {
    /// The tensors.
    pub tensors: Vec<TensorSpec>,
}

impl ModelLayout {
    /// The length of the flat vector.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.tensors.iter().map(TensorSpec::values).sum()
    }

    /// The model that every site starts from. The coordinator draws it once and offers it by
    /// digest, so sites need not be able to draw the same bits.
    #[must_use]
    pub fn initial(&self, seed: u64) -> Vec<f32> {
        let mut model = Vec::with_capacity(self.parameters());
        for tensor in &self.tensors {
            match tensor.init {
                Init::Zeros => model.resize(model.len() + tensor.values(), 0.0),
                Init::Ones => model.resize(model.len() + tensor.values(), 1.0),
                Init::KaimingNormal { fan_in } => {
                    let sd = (2.0 / crate::units::real(crate::units::count(fan_in.max(1)))).sqrt();
                    let mut normal = Normal::new(seed, tensor.name);
                    model.extend((0..tensor.values()).map(|_| narrow(normal.draw() * sd)));
                }
            }
        }
        model
    }

    /// Stands for names, shapes and order.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut transcript = Transcript::new("consilium/layout/1");
        transcript.list(self.tensors.len());
        for tensor in &self.tensors {
            transcript.text(tensor.name).list(tensor.shape.len());
            for &extent in &tensor.shape {
                transcript.u64(crate::units::count(extent));
            }
        }
        transcript.finish()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a normal draw is well inside f32's range; rounding is wanted"
)]
const fn narrow(value: f64) -> f32 {
    value as f32
}

/// Standard normal numbers from a seed: BLAKE3's output stream through Box and Muller's transform.
/// Good enough to start a model from; never to be used as privacy noise.
struct Normal {
    stream: blake3::OutputReader,
    spare: Option<f64>,
}

impl Normal {
    fn new(seed: u64, tensor: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("consilium 2026 initial weights 1");
        hasher.update(&seed.to_le_bytes()).update(tensor.as_bytes());
        Self { stream: hasher.finalize_xof(), spare: None }
    }

    /// Uniform in (0, 1]: 53 bits, never 0, so that its logarithm exists.
    fn uniform(&mut self) -> f64 {
        let mut word = [0; 8];
        self.stream.fill(&mut word);
        crate::units::real((u64::from_le_bytes(word) >> 11) + 1) / crate::units::real(1 << 53)
    }

    fn draw(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let angle = std::f64::consts::TAU * self.uniform();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Bytes that are not a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidModel {
    /// Not whole numbers of four bytes.
    #[error("a model is a whole number of 4-byte values; found {found} bytes")]
    Length {
        /// The number of bytes found.
        found: usize,
    },
    /// A value is infinite or not a number.
    #[error("a model has finite values only; value {index} is not")]
    NotFinite {
        /// Which one, from 0.
        index: usize,
    },
}

/// The flat little-endian bytes of a model: what is stored, sent and hashed.
#[must_use]
pub fn model_bytes(model: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; 4 * model.len()];
    for (place, value) in bytes.as_chunks_mut().0.iter_mut().zip(model) {
        *place = value.to_le_bytes();
    }
    bytes
}

/// Reads what [`model_bytes`] wrote.
///
/// # Errors
/// When the length is not a multiple of four, or a value is not finite.
pub fn model_from_bytes(bytes: &[u8]) -> Result<Vec<f32>, InvalidModel> {
    let (values, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(InvalidModel::Length { found: bytes.len() });
    }
    let model: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
    match model.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(InvalidModel::NotFinite { index }),
        None => Ok(model),
    }
}

/// The digest by which terms name a model: SHA-256 of its bytes.
#[must_use]
pub fn model_digest(model: &[f32]) -> Digest {
    Digest::sha256(&model_bytes(model))
}

// [He+15]: He, Zhang, Ren, Sun: Delving Deep into Rectifiers, arXiv 1502.01852.

#[cfg(test)]
mod tests {
    use super::*;

    const RADIOGRAPH: InputShape = InputShape { channels: 1, height: 64, width: 64 };

    #[test]
    fn layouts_have_the_parameters_that_their_tables_say() {
        // 16*9 + 16*32*9 + 32*32*9 + 32*64*9 + 64*64*9 weights, 2 * 208 affine, 2 * 64 + 2 in the head.
        let cnn = Architecture::CnnSmall.layout(&RADIOGRAPH, 2);
        assert_eq!(cnn.parameters(), 144 + 4_608 + 9_216 + 18_432 + 36_864 + 416 + 258);
        let linear = Architecture::Linear.layout(&RADIOGRAPH, 3);
        assert_eq!(linear.parameters(), 3 * 4_096 + 3);
        assert_ne!(cnn.digest(), linear.digest());
    }

    #[test]
    fn names_of_tensors_are_distinct() {
        for arch in Architecture::ALL {
            let layout = arch.layout(&RADIOGRAPH, 2);
            let names: std::collections::BTreeSet<_> =
                layout.tensors.iter().map(|t| t.name).collect();
            assert_eq!(names.len(), layout.tensors.len());
            assert_eq!(Architecture::from_name(arch.name()), Some(arch));
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_model_and_another_seed_another() {
        let layout = Architecture::CnnSmall.layout(&RADIOGRAPH, 2);
        let model = layout.initial(7);
        assert_eq!(model.len(), layout.parameters());
        assert_eq!(model_bytes(&model), model_bytes(&layout.initial(7)));
        assert_ne!(model_digest(&model), model_digest(&layout.initial(8)));
    }

    #[test]
    fn drawn_weights_have_the_declared_mean_and_variance() {
        let layout = Architecture::CnnSmall.layout(&RADIOGRAPH, 2);
        let model = layout.initial(1);
        let mut start = 0;
        for tensor in &layout.tensors {
            let values = &model[start..start + tensor.values()];
            start += tensor.values();
            match tensor.init {
                Init::Zeros => assert!(values.iter().all(|v| v.to_bits() == 0)),
                Init::Ones => assert!(values.iter().all(|v| v.to_bits() == 1.0_f32.to_bits())),
                Init::KaimingNormal { fan_in } if values.len() > 4_000 => {
                    let n = crate::units::real(crate::units::count(values.len()));
                    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
                    let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
                    let variance = 2.0 / crate::units::real(crate::units::count(fan_in));
                    assert!(
                        mean.abs() < 5.0 * (variance / n).sqrt(),
                        "{} has mean {mean}",
                        tensor.name
                    );
                    assert!(
                        (square / variance - 1.0).abs() < 0.1,
                        "{} has variance {square}",
                        tensor.name
                    );
                }
                Init::KaimingNormal { .. } => assert!(values.iter().any(|v| v.abs() > 0.0)),
            }
        }
    }

    #[test]
    fn models_survive_their_bytes_and_damaged_ones_are_refused() {
        let model = vec![0.0, -0.0, 1.5, f32::MIN_POSITIVE, f32::MAX];
        let bytes = model_bytes(&model);
        assert_eq!(model_from_bytes(&bytes).map(|m| model_bytes(&m)), Ok(bytes.clone()));
        assert_eq!(model_from_bytes(&bytes[1..]), Err(InvalidModel::Length { found: 19 }));
        let damaged = model_bytes(&[1.0, f32::NAN]);
        assert_eq!(model_from_bytes(&damaged), Err(InvalidModel::NotFinite { index: 1 }));
    }

    #[test]
    fn an_input_that_does_not_fit_is_named() {
        let tiny = InputShape { channels: 0, height: 15, width: 513 };
        let faults = Architecture::CnnSmall.input_faults(&tiny);
        assert_eq!(faults.len(), 3);
        assert_eq!(
            faults[1].to_string(),
            "task.input.height: found 15, allowed is 16 to 512 for cnn-small"
        );
        assert!(
            Architecture::Linear
                .input_faults(&InputShape { channels: 1, height: 1, width: 1 })
                .is_empty()
        );
        assert_eq!(
            Architecture::Linear
                .input_faults(&InputShape { channels: 1, height: 0, width: 1 })
                .len(),
            1
        );
    }
}
