//! The models that a study may pick from, as networks that can be run and trained.
//!
//! Their tensors, names and shapes are declared in `aggregation::architecture`; here is what
//! happens between them. Parameters come as one flat vector in the layout's order and their
//! gradients go the same way.

mod convolution;
mod cpu;
mod densenet;
mod ghost;
mod groups;
pub mod layers;
mod loss;
mod networks;
mod normalisation;
mod patches;
mod private;
mod room;
mod tokens;
mod unet;
mod vit;

use aggregation::architecture::{Architecture, ModelLayout};
use aggregation::study::{InputShape, Task};
use burn::tensor::{Device, Tensor, TensorData};

use crate::scattering::Scattering;
use layers::{Parameters, Walk};
use loss::Loss;
pub use loss::Targets;
use networks::Size;
pub use private::{ClippedSum, Loaded};
use room::Room;

use crate::backend;

/// The most images in one pass: what passes through a layer then stays near the processor, and a
/// batch of any size takes the memory of so many.
const PASS: usize = 32;
/// The most values of images in one pass, unless one image has more.
const VALUES: usize = 1 << 19;

/// A model of the zoo for one study.
#[derive(Debug)]
pub struct Network {
    architecture: Architecture,
    layout: ModelLayout,
    /// Channels, depth, height and width.
    input: [usize; 4],
    size: Size,
    loss: Loss,
    /// What images become before the network sees them, where that is fixed.
    front: Option<Scattering>,
    device: Device,
    /// For scores and for mean gradients, in images, and for clipped sums, in patients.
    scores: Room,
    passes: Room,
    micro_batches: Room,
}

/// What one batch says about the parameters.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// The mean over the batch, in the layout's order.
    pub mean: Vec<f32>,
    /// The mean loss.
    pub loss: f32,
}

/// The network computed something that it cannot: a fault of ours or of the backend's.
#[derive(Debug, thiserror::Error)]
#[error("the backend did not give {0}")]
pub struct BackendFault(pub(crate) &'static str);

impl Network {
    /// The network that a study names, for its input and its classes.
    #[must_use]
    pub fn new(architecture: Architecture, task: &Task, device: Device) -> Self {
        cpu::keep_freed_memory();
        let InputShape { channels, depth, height, width } = task.input;
        let of_image = [channels, depth, height, width].map(usize::from);
        let front =
            (architecture == Architecture::ScatterLinear).then(|| Scattering::new(task.input));
        let input = front.as_ref().map_or(of_image, |front| [1, 1, 1, front.features()]);
        let values = input.iter().product::<usize>().max(1);
        let on = (!backend::is_cpu(&device)).then(|| device.clone());
        Self {
            architecture,
            layout: architecture.layout(&task.input, task.classes.len()),
            input,
            size: Size::of(&task.input),
            loss: Loss::new(task, of_image[1..].iter().product()),
            front,
            device,
            scores: Room::new(usize::MAX, on.clone()),
            passes: Room::new((VALUES / values).clamp(1, PASS), on.clone()),
            micro_batches: Room::new(usize::MAX, on),
        }
    }

    /// What each image has to go through once, before any round, and without which the network
    /// cannot take it; `None` when it takes images as they are prepared.
    #[must_use]
    pub fn front(&self) -> Option<&Scattering> {
        self.front.as_ref()
    }

    /// The values that it takes for one image.
    #[must_use]
    pub fn values(&self) -> usize {
        self.input.iter().product::<usize>().max(1)
    }

    /// Whether the processor computes it.
    #[must_use]
    pub fn is_on_cpu(&self) -> bool {
        backend::is_cpu(&self.device)
    }

    /// Its tensors.
    #[must_use]
    pub fn layout(&self) -> &ModelLayout {
        &self.layout
    }

    /// Logits of a batch of images, row by row: one row for each image, or for each of its voxels.
    ///
    /// # Errors
    /// [`BackendFault`] when an image is not whole, or the backend fails.
    pub fn logits(&self, model: &[f32], images: &[f32]) -> Result<Vec<f32>, BackendFault> {
        let of_image = self.values();
        if !images.len().is_multiple_of(of_image) {
            return Err(BackendFault("whole images"));
        }
        let parameters = Parameters::constant(model, &self.layout, &self.device);
        let mut logits = Vec::new();
        self.scores.passes(images.len() / of_image, |pass| {
            let images = images[pass.start * of_image..pass.end * of_image].to_vec();
            let of_pass = self.forward(&mut parameters.walk(), self.batch(images));
            let of_pass = of_pass.try_into_vec_as::<f32>().map_err(|_| BackendFault("logits"))?;
            logits.extend(of_pass);
            Ok(())
        })?;
        Ok(logits)
    }

    /// The mean gradient of the study's loss over a batch. No images give zeros.
    ///
    /// # Errors
    /// [`BackendFault`] when the targets are not the images', or the backend fails.
    pub fn gradient<'t>(
        &self,
        model: &[f32],
        images: Vec<f32>,
        targets: impl Into<Targets<'t>>,
    ) -> Result<Gradient, BackendFault> {
        let targets = targets.into();
        let all = self.loss.images(targets);
        let of_image = self.values();
        if images.len() != all * of_image {
            return Err(BackendFault("targets for each image"));
        }
        let parameters = Parameters::tracked(model, &self.layout, &self.device);
        let mut sum: Option<Gradient> = None;
        self.passes.passes(all, |pass| {
            let of_pass = self.loss.part(targets, pass.start, pass.end);
            let wanted = self.loss.wanted(of_pass, &self.device)?;
            let images = images[pass.start * of_image..pass.end * of_image].to_vec();
            let scores = self.forward(&mut parameters.walk(), self.batch(images));
            let loss = self.loss.of(scores, wanted).div_scalar(count(all));
            let mut gradients = loss.backward();
            let mean = parameters.gradients(&mut gradients).ok_or(BackendFault("a gradient"))?;
            let loss = loss.try_into_scalar::<f32>().map_err(|_| BackendFault("a loss"))?;
            match &mut sum {
                None => sum = Some(Gradient { mean, loss }),
                Some(sum) => {
                    sum.mean.iter_mut().zip(&mean).for_each(|(sum, part)| *sum += part);
                    sum.loss += loss;
                }
            }
            Ok(())
        })?;
        let nothing = || Gradient { mean: vec![0.0; self.layout.parameters()], loss: 0.0 };
        Ok(sum.unwrap_or_else(nothing))
    }

    /// The study's loss of scores that [`Self::logits`] gave, summed over the images; by the processor,
    /// which has them.
    ///
    /// # Errors
    /// [`BackendFault`] when the targets are not those of as many images, or the backend fails.
    pub fn loss<'t>(
        &self,
        logits: &[f32],
        targets: impl Into<Targets<'t>>,
    ) -> Result<f32, BackendFault> {
        let here = Device::flex();
        let wanted = self.loss.wanted(targets.into(), &here)?;
        let classes = self.loss.classes();
        let places = logits.len() / (wanted.images() * classes).max(1);
        let shape = [wanted.images(), places, classes];
        if shape.iter().product::<usize>() != logits.len() {
            return Err(BackendFault("targets for each image"));
        }
        let scores = Tensor::from_data(TensorData::new(logits.to_vec(), shape), &here);
        let loss = self.loss.of(scores, wanted);
        loss.try_into_scalar::<f32>().map_err(|_| BackendFault("a loss"))
    }

    fn batch(&self, images: Vec<f32>) -> Tensor<5> {
        let [channels, depth, height, width] = self.input;
        let shape = [images.len() / self.values(), channels, depth, height, width];
        Tensor::from_data(TensorData::new(images, shape), &self.device)
    }

    fn forward(&self, at: &mut Walk<'_>, images: Tensor<5>) -> Tensor<3> {
        networks::scores(self.architecture, self.size, at, images)
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes of batches are far below 2^24")]
fn count(n: usize) -> f32 {
    n.max(1) as f32
}

#[cfg(test)]
mod tests {
    use aggregation::study::{InputShape, Preprocess, TaskKind};

    use super::layers::{conv3x3, group_norm};
    use super::*;
    use crate::random::Random;

    /// Three classes of what an architecture is for, in images, or volumes, of so many pixels to a
    /// side.
    pub(super) fn task(architecture: Architecture, side: u16) -> Task {
        let depth = if architecture == Architecture::Unet3d { side } else { 1 };
        let segments = architecture.segments();
        Task {
            kind: if segments { TaskKind::Segmentation } else { TaskKind::Classification },
            classes: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
            class_weights: Vec::new(),
            input: InputShape { channels: 1, depth, height: side, width: side },
            preprocess: Preprocess::PLAIN,
        }
    }

    pub(super) fn network(architecture: Architecture, side: u16) -> Network {
        Network::new(architecture, &task(architecture, side), Device::flex())
    }

    /// Answers for so many images.
    pub(super) enum Answers {
        Classes(Vec<usize>),
        Masks(Vec<u8>),
    }

    impl Answers {
        pub(super) fn of(network: &Network, images: usize) -> Self {
            if network.architecture.segments() {
                let voxels = images * network.values();
                let class = |at: usize| u8::try_from(at / 7 % 3).expect("below three");
                return Self::Masks((0..voxels).map(class).collect());
            }
            Self::Classes((0..images).map(|image| (image * 2) % 3).collect())
        }

        pub(super) fn targets(&self) -> Targets<'_> {
            match self {
                Self::Classes(classes) => Targets::Classes(classes),
                Self::Masks(masks) => Targets::Masks(masks),
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "test values")]
    pub(super) fn normals(label: &str, count: usize) -> Vec<f32> {
        let mut random = Random::new(label, &[]);
        (0..count).map(|_| random.normal() as f32).collect()
    }

    /// The layout's initial values, moved a little so that no gradient is zero by symmetry.
    pub(super) fn model_of(network: &Network) -> Vec<f32> {
        let moved = normals("moved", network.layout().parameters());
        let initial = network.layout().initial(3);
        initial.iter().zip(moved).map(|(value, by)| value + 0.05 * by).collect()
    }

    #[test]
    fn every_tensor_of_the_layout_is_used_in_its_declared_shape() {
        for architecture in Architecture::ALL {
            for side in [16, 48] {
                if architecture == Architecture::Unet3d && side > 16 {
                    continue;
                }
                let network = network(architecture, side);
                let model = model_of(&network);
                let images = normals("images", 2 * network.values());
                let logits = network.logits(&model, &images).expect("the CPU computes");
                let places = if architecture.segments() { network.values() } else { 1 };
                assert_eq!(logits.len(), 6 * places);
                // A tensor that the network does not use has no gradient, one of another shape
                // does not multiply.
                let answers = Answers::of(&network, 2);
                let gradient = network.gradient(&model, images, answers.targets());
                let gradient = gradient.expect("the CPU computes");
                assert_eq!(gradient.mean.len(), network.layout().parameters());
                let mut rest = gradient.mean.as_slice();
                for tensor in &network.layout().tensors {
                    let (of_tensor, after) = rest.split_at(tensor.values());
                    rest = after;
                    assert!(of_tensor.iter().any(|value| *value != 0.0), "{}", tensor.name);
                }
                let loss = network.loss(&logits, answers.targets()).expect("computed");
                assert!((loss / 2.0 - gradient.loss).abs() < 1e-3 * loss);
            }
        }
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        for architecture in Architecture::ALL {
            let network = network(architecture, 16);
            let model = model_of(&network);
            let images = normals("images", 4 * network.values());
            let answers = Answers::of(&network, 4);
            let at = network.gradient(&model, images.clone(), answers.targets()).expect("computed");
            let size = at.mean.iter().map(|g| g * g).sum::<f32>().sqrt();
            let step = 0.005;
            let loss_along = |by: f32| {
                let moved: Vec<f32> =
                    model.iter().zip(&at.mean).map(|(w, g)| w + by * g / size).collect();
                network.gradient(&moved, images.clone(), answers.targets()).expect("computed").loss
            };
            let slope = (loss_along(step) - loss_along(-step)) / (2.0 * step);
            assert!((slope - size).abs() < 0.02 * size, "{architecture}: {slope} against {size}");
        }
    }

    #[test]
    fn group_normalisation_leaves_mean_zero_and_variance_one() {
        let layout = Architecture::CnnSmall
            .layout(&InputShape { channels: 1, depth: 1, height: 28, width: 28 }, 2);
        let device = Device::flex();
        let parameters = Parameters::constant(&layout.initial(1), &layout, &device);
        let mut walk = parameters.walk();
        let images = TensorData::new(normals("images", 2 * 36), [2, 1, 6, 6, 1]);
        let stem = conv3x3(&mut walk, Tensor::from_data(images, &device), 1);
        let normed = group_norm(&mut walk, stem, 4).permute([0, 1, 4, 2, 3]);
        let normed = normed.try_into_vec_as::<f32>().expect("computed");
        for group in normed.chunks_exact(4 * 36) {
            let mean = group.iter().sum::<f32>() / 144.0;
            let variance = group.iter().map(|v| v * v).sum::<f32>() / 144.0;
            assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-2, "{mean} {variance}");
        }
    }

    #[test]
    fn an_image_is_scored_by_itself_whoever_else_is_in_the_batch() {
        let network = network(Architecture::CnnSmall, 28);
        let model = model_of(&network);
        let images = normals("images", 3 * 784);
        let together = network.logits(&model, &images).expect("computed");
        let alone = network.logits(&model, &images[784..1568]).expect("computed");
        for (a, b) in together[3..6].iter().zip(&alone) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let network = network(Architecture::CnnSmall, 64);
        let model = model_of(&network);
        let images = normals("images", 16 * 64 * 64);
        let classes = [0, 1].repeat(8);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let gradient = pool
                .expect("threads start")
                .install(|| network.gradient(&model, images.clone(), &classes));
            let gradient = gradient.expect("computed");
            gradient.mean.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        let alone = with(1);
        assert_eq!(alone, with(1));
        assert_eq!(alone, with(2));
        assert_eq!(alone, with(3));
    }
}
