//! The models that a study may pick from, as declared facts.
//!
//! Names and shapes only, so that the coordinator can lay out, draw and store a model without
//! being able to run one. The trainer's networks are built to match; a test there compares.
//! Conventions are PyTorch's: a linear weight is `[out, in]`, a convolution's `[out, in, kh, kw]`.

mod convolutional;
mod densenet;
pub mod scattering;
mod unet;
mod vit;

use std::fmt;

use crate::ids::Digest;
use crate::study::{InputShape, StudyFault};
use crate::transcript::Transcript;

/// The most parameters that a model may have: 1 GiB as 32-bit numbers.
pub const MAX_PARAMETERS: usize = 1 << 28;

/// A model of the compiled-in zoo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    /// Three 3x3 convolutions with group normalisation, global mean and maximum, one linear layer.
    /// Few parameters, so that noise for privacy moves little.
    CnnTiny,
    /// Five 3x3 convolutions with group normalisation, global mean and maximum, one linear layer.
    CnnSmall,
    /// `ResNet-18` (\[He+16\] table 1) with group normalisation in place of batch normalisation, its
    /// tensors named as torchvision names them. Small inputs meet a 3x3 stem and no max-pooling.
    Resnet18Gn,
    /// `DenseNet-121` (\[HLMW17\] table 1) in the same way.
    DenseNet121Gn,
    /// A vision transformer of twelve blocks 192 wide (\[DBK+21\]; the size is timm's `vit_tiny`),
    /// its tensors named as timm names them.
    VitTiny,
    /// A U-shaped network for images (\[RFB15\]), with group normalisation: a class for each pixel.
    Unet2d,
    /// The same for volumes (\[CAL+16\]), with half as many channels: a class for each voxel.
    Unet3d,
    /// One linear layer on the pixels: what any better model must beat.
    Linear,
    /// One linear layer on the image's scattering transform ([`scattering`]), which has no parameters
    /// and has learnt from nobody: the best of the zoo for small images at a small epsilon
    /// (\[TB21\]).
    ScatterLinear,
}

/// Longest side, in pixels, at which a network's stem keeps every pixel.
pub const FULL_RESOLUTION: u16 = 40;

/// A linear layer that starts at even scores.
fn linear(features: usize, classes: usize) -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("head.weight", &[classes, features], Init::Zeros),
        TensorSpec::new("head.bias", &[classes], Init::Zeros),
    ]
}

impl Architecture {
    /// Whether training may move images about: not where they are transformed once and for all.
    #[must_use]
    pub const fn can_augment(self) -> bool {
        match self {
            Self::ScatterLinear => false,
            Self::CnnTiny
            | Self::CnnSmall
            | Self::Resnet18Gn
            | Self::DenseNet121Gn
            | Self::VitTiny
            | Self::Unet2d
            | Self::Unet3d
            | Self::Linear => true,
        }
    }

    /// Every model of the zoo.
    pub const ALL: [Self; 9] = [
        Self::CnnTiny,
        Self::CnnSmall,
        Self::Resnet18Gn,
        Self::DenseNet121Gn,
        Self::VitTiny,
        Self::Unet2d,
        Self::Unet3d,
        Self::Linear,
        Self::ScatterLinear,
    ];

    /// The name that a manifest gives.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CnnTiny => "cnn-tiny",
            Self::CnnSmall => "cnn-small",
            Self::Resnet18Gn => "resnet18-gn",
            Self::DenseNet121Gn => "densenet121-gn",
            Self::VitTiny => "vit-tiny",
            Self::Unet2d => "unet2d",
            Self::Unet3d => "unet3d",
            Self::Linear => "linear",
            Self::ScatterLinear => "scatter-linear",
        }
    }

    /// The model of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|arch| arch.name() == name)
    }

    /// Whether it gives scores to each pixel or voxel, rather than to a whole image.
    #[must_use]
    pub const fn segments(self) -> bool {
        match self {
            Self::Unet2d | Self::Unet3d => true,
            Self::CnnTiny
            | Self::CnnSmall
            | Self::Resnet18Gn
            | Self::DenseNet121Gn
            | Self::VitTiny
            | Self::Linear
            | Self::ScatterLinear => false,
        }
    }

    /// What the model takes: channels, slices, and pixels to a side, each from fewest to most; and
    /// of what number every side is a multiple.
    fn limits(self, input: &InputShape) -> Limits {
        let flat =
            |sides: (u16, u16), step: u16| Limits { channels: (1, 4), depth: (1, 1), sides, step };
        match self {
            Self::CnnTiny | Self::CnnSmall | Self::Resnet18Gn | Self::DenseNet121Gn => {
                flat((16, 512), 1)
            }
            Self::VitTiny => flat((16, 512), vit_patch(input)),
            Self::Unet2d => flat((16, 1024), unet::STEP),
            Self::Unet3d => {
                let sides = (16, 256);
                Limits { channels: (1, 4), depth: sides, sides, step: unet::STEP }
            }
            Self::Linear => {
                Limits { channels: (1, 64), depth: (1, 512), sides: (1, 4096), step: 1 }
            }
            Self::ScatterLinear => flat((16, scattering::LONGEST), 1),
        }
    }

    /// In which ways the input does not fit this model.
    #[must_use]
    pub fn input_faults(self, input: &InputShape) -> Vec<StudyFault> {
        let Limits { channels, depth, sides, step } = self.limits(input);
        [
            ("task.input.channels", input.channels, channels, 1),
            ("task.input.depth", input.depth, depth, if depth.1 > 1 { step } else { 1 }),
            ("task.input.height", input.height, sides, step),
            ("task.input.width", input.width, sides, step),
        ]
        .into_iter()
        .filter(|(_, found, (low, high), step)| {
            !(low..=high).contains(&found) || !found.is_multiple_of(*step)
        })
        .map(|(key, found, (low, high), step)| StudyFault {
            key: key.to_owned(),
            found: match (key, found) {
                ("task.input.depth", 1) => "1, an image without depth".to_owned(),
                _ => found.to_string(),
            },
            allowed: match (low == high, step) {
                (true, _) => format!("{low} for {self}"),
                (false, 1) => format!("{low} to {high} for {self}"),
                (false, _) => format!("a multiple of {step} from {low} to {high} for {self}"),
            },
        })
        .collect()
    }

    /// The tensors of this model for such an input and so many classes.
    #[must_use]
    pub fn layout(self, input: &InputShape, classes: usize) -> ModelLayout {
        let tensors = match self {
            Self::CnnTiny => convolutional::tiny(input, classes),
            Self::CnnSmall => convolutional::small(input, classes),
            Self::Resnet18Gn => convolutional::resnet18(input, classes),
            Self::DenseNet121Gn => densenet::tensors(input, classes),
            Self::VitTiny => vit::tensors(input, classes),
            Self::Unet2d => unet::tensors(unet::FLAT, 2, input, classes),
            Self::Unet3d => unet::tensors(unet::SOLID, 3, input, classes),
            Self::Linear => {
                let InputShape { channels, depth, height, width } = *input;
                linear([channels, depth, height, width].map(usize::from).iter().product(), classes)
            }
            Self::ScatterLinear => linear(scattering::features(input), classes),
        };
        ModelLayout { tensors }
    }
}

/// What a model takes, each from fewest to most.
struct Limits {
    channels: (u16, u16),
    depth: (u16, u16),
    sides: (u16, u16),
    /// Sides are multiples of it.
    step: u16,
}

/// The linear layer that gives scores. A sixteenth of the usual variance: the first scores are close
/// to even, whatever the features are.
fn head((weight, bias): (&str, &str), features: usize, classes: usize) -> [TensorSpec; 2] {
    let init = Init::KaimingNormal { fan_in: 16 * features };
    [
        TensorSpec::new(weight, &[classes, features], init),
        TensorSpec::new(bias, &[classes], Init::Zeros),
    ]
}

/// The scale and the shift of a normalisation.
fn affine(name: &str, channels: usize) -> [TensorSpec; 2] {
    [
        TensorSpec::new(format!("{name}.weight"), &[channels], Init::Ones),
        TensorSpec::new(format!("{name}.bias"), &[channels], Init::Zeros),
    ]
}

/// The weight of a convolution with so many pixels along each of its window's sides.
fn convolution(name: &str, from: usize, to: usize, window: &[usize]) -> TensorSpec {
    let shape: Vec<usize> = [to, from].iter().chain(window).copied().collect();
    let fan_in = from * window.iter().product::<usize>();
    TensorSpec::new(format!("{name}.weight"), &shape, Init::KaimingNormal { fan_in })
}

/// Channels of a U-shaped network at each of its resolutions, the finest first.
#[must_use]
pub const fn unet_channels(solid: bool) -> [usize; 4] {
    if solid { unet::SOLID } else { unet::FLAT }
}

/// The layers of `DenseNet-121`'s four dense blocks.
pub const DENSE_BLOCKS: [usize; 4] = densenet::BLOCKS;

/// Pixels to a side of what is one token to the transformer: 4 up to [`FULL_RESOLUTION`], 8 up to
/// 128, 16 above.
#[must_use]
pub const fn vit_patch(input: &InputShape) -> u16 {
    let side = if input.height > input.width { input.height } else { input.width };
    if side <= FULL_RESOLUTION {
        4
    } else if side <= 128 {
        8
    } else {
        16
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
    pub name: String,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
}

impl TensorSpec {
    fn new(name: impl Into<String>, shape: &[usize], init: Init) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), init }
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
                    let mut normal = Normal::new(seed, &tensor.name);
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
            transcript.text(&tensor.name).list(tensor.shape.len());
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
// [He+16]: He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, arXiv 1512.03385.
// [TB21]: Tramèr, Boneh: Differentially Private Learning Needs Better Features (or Much More Data),
//   ICLR 2021, arXiv 2011.11660.
// [HLMW17]: Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, CVPR 2017, arXiv 1608.06993.
// [DBK+21]: Dosovitskiy et al.: An Image is Worth 16x16 Words, ICLR 2021, arXiv 2010.11929.
// [RFB15]: Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, arXiv 1505.04597.
// [CAL+16]: Çiçek et al.: 3D U-Net, MICCAI 2016, arXiv 1606.06650.

#[cfg(test)]
mod tests {
    use super::*;

    const RADIOGRAPH: InputShape = InputShape { channels: 1, depth: 1, height: 64, width: 64 };

    #[test]
    fn layouts_have_the_parameters_that_their_tables_say() {
        // 16*9 + 16*32*9 + 32*32*9 + 32*64*9 + 64*64*9 weights, 2 * 208 affine, 2 * 64 + 2 in the head.
        let cnn = Architecture::CnnSmall.layout(&RADIOGRAPH, 2);
        assert_eq!(cnn.parameters(), 144 + 4_608 + 9_216 + 18_432 + 36_864 + 416 + 258);
        let tiny = Architecture::CnnTiny.layout(&RADIOGRAPH, 2);
        assert_eq!(tiny.parameters(), 144 + 4_608 + 9_216 + 160 + 130);
        let linear = Architecture::Linear.layout(&RADIOGRAPH, 3);
        assert_eq!(linear.parameters(), 3 * 4_096 + 3);
        assert_ne!(cnn.digest(), linear.digest());
    }

    #[test]
    fn the_residual_network_is_torchvisions_but_for_the_stem() {
        // torchvision counts 11,689,512 parameters for 3 channels and 1,000 classes.
        let colour = InputShape { channels: 3, depth: 1, height: 224, width: 224 };
        let layout = Architecture::Resnet18Gn.layout(&colour, 1_000);
        assert_eq!((layout.tensors.len(), layout.parameters()), (62, 11_689_512));
        let small = InputShape { channels: 3, depth: 1, height: 40, width: 28 };
        let small = Architecture::Resnet18Gn.layout(&small, 1_000);
        assert_eq!(small.parameters(), 11_689_512 - 64 * 3 * (49 - 9));
        let shape = |name: &str| {
            let named = layout.tensors.iter().find(|tensor| tensor.name == name);
            named.map(|tensor| tensor.shape.clone())
        };
        assert_eq!(shape("conv1.weight"), Some(vec![64, 3, 7, 7]));
        assert_eq!(shape("layer3.0.downsample.0.weight"), Some(vec![256, 128, 1, 1]));
        assert_eq!(shape("layer4.1.bn2.bias"), Some(vec![512]));
        assert_eq!(shape("fc.weight"), Some(vec![1_000, 512]));
    }

    /// torchvision counts 7,978,856 parameters of its `densenet121`, timm 5,717,416 of its
    /// `vit_tiny_patch16_224`, both for 3 channels and 1,000 classes.
    #[test]
    fn networks_that_others_know_have_as_many_parameters_there() {
        let colour = InputShape { channels: 3, depth: 1, height: 224, width: 224 };
        let dense = Architecture::DenseNet121Gn.layout(&colour, 1_000);
        assert_eq!((dense.tensors.len(), dense.parameters()), (364, 7_978_856));
        let vit = Architecture::VitTiny.layout(&colour, 1_000);
        assert_eq!((vit.tensors.len(), vit.parameters()), (152, 5_717_416));
    }

    #[test]
    fn names_of_tensors_are_distinct() {
        for arch in Architecture::ALL {
            let layout = arch.layout(&RADIOGRAPH, 2);
            let names: std::collections::BTreeSet<_> =
                layout.tensors.iter().map(|t| t.name.as_str()).collect();
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
        let tiny = InputShape { channels: 0, depth: 1, height: 15, width: 513 };
        let flat = InputShape { channels: 1, depth: 1, height: 32, width: 30 };
        let faults = Architecture::Unet3d.input_faults(&flat);
        assert_eq!(
            faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "task.input.depth: found 1, an image without depth, allowed is a multiple of 8 from \
                 16 to 256 for unet3d",
                "task.input.width: found 30, allowed is a multiple of 8 from 16 to 256 for unet3d",
            ]
        );
        let deep = InputShape { depth: 16, ..flat };
        let faults = Architecture::VitTiny.input_faults(&deep);
        assert_eq!(faults[0].to_string(), "task.input.depth: found 16, allowed is 1 for vit-tiny");
        assert_eq!(faults.len(), 2);
        let faults = Architecture::CnnSmall.input_faults(&tiny);
        assert_eq!(faults.len(), 3);
        assert_eq!(
            faults[1].to_string(),
            "task.input.height: found 15, allowed is 16 to 512 for cnn-small"
        );
        assert!(
            Architecture::Linear
                .input_faults(&InputShape { channels: 1, depth: 1, height: 1, width: 1 })
                .is_empty()
        );
        assert_eq!(
            Architecture::Linear
                .input_faults(&InputShape { channels: 1, depth: 1, height: 0, width: 1 })
                .len(),
            1
        );
    }
}
