//! The models that a study may pick from, as networks that can be run and trained.
//!
//! Their tensors, names and shapes are declared in `aggregation::architecture`; here is what
//! happens between them. Parameters come as one flat vector in the layout's order and their
//! gradients go the same way.

mod convolution;
mod cpu;
mod ghost;
mod groups;
pub mod layers;
mod networks;
mod normalisation;
mod patches;
mod private;

use aggregation::architecture::{Architecture, FULL_RESOLUTION, ModelLayout};
use aggregation::study::Task;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};

use layers::{Parameters, Walk};
pub use private::{ClippedSum, Loaded};

/// The most images in one pass: what passes through a layer then stays near the processor, and a
/// batch of any size takes the memory of so many.
const PASS: usize = 32;

/// A model of the zoo for one study.
#[derive(Debug)]
pub struct Network {
    architecture: Architecture,
    layout: ModelLayout,
    input: [usize; 3],
    classes: usize,
    /// Whether the images are so small that a stem keeps every pixel.
    full: bool,
    device: Device,
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
        let classes = task.classes.len();
        let input = task.input;
        Self {
            architecture,
            layout: architecture.layout(&input, classes),
            input: [input.channels.into(), input.height.into(), input.width.into()],
            classes,
            full: input.height.max(input.width) <= FULL_RESOLUTION,
            device,
        }
    }

    /// Its tensors.
    #[must_use]
    pub fn layout(&self) -> &ModelLayout {
        &self.layout
    }

    /// Logits of a batch of images, row by row.
    ///
    /// # Errors
    /// [`BackendFault`] when the backend fails.
    pub fn logits(&self, model: &[f32], images: Vec<f32>) -> Result<Vec<f32>, BackendFault> {
        let parameters = Parameters::constant(model, &self.layout, &self.device);
        let images = self.batch(images);
        self.forward(&mut parameters.walk(), images)
            .try_into_vec_as::<f32>()
            .map_err(|_| BackendFault("logits"))
    }

    /// The mean gradient of the softmax cross-entropy over a batch. No images give zeros.
    ///
    /// # Errors
    /// [`BackendFault`] when the backend fails.
    pub fn gradient(
        &self,
        model: &[f32],
        images: Vec<f32>,
        classes: &[usize],
    ) -> Result<Gradient, BackendFault> {
        let parameters = Parameters::tracked(model, &self.layout, &self.device);
        let of_image = self.input.iter().product::<usize>().max(1);
        let mut sum: Option<Gradient> = None;
        for (images, of_pass) in images.chunks(PASS * of_image).zip(classes.chunks(PASS)) {
            let logits = self.forward(&mut parameters.walk(), self.batch(images.to_vec()));
            let loss = self.loss(logits, of_pass).div_scalar(count(classes.len()));
            let mut gradients = loss.backward();
            let mean = parameters.gradients(&mut gradients).ok_or(BackendFault("a gradient"))?;
            let loss = loss.try_into_scalar::<f32>().map_err(|_| BackendFault("a loss"))?;
            sum = Some(match sum {
                None => Gradient { mean, loss },
                Some(mut sum) => {
                    sum.mean.iter_mut().zip(&mean).for_each(|(sum, part)| *sum += part);
                    sum.loss += loss;
                    sum
                }
            });
        }
        let nothing = || Gradient { mean: vec![0.0; self.layout.parameters()], loss: 0.0 };
        Ok(sum.unwrap_or_else(nothing))
    }

    fn batch(&self, images: Vec<f32>) -> Tensor<4> {
        let [channels, height, width] = self.input;
        let count = images.len() / (channels * height * width).max(1);
        Tensor::from_data(TensorData::new(images, [count, channels, height, width]), &self.device)
    }

    fn forward(&self, at: &mut Walk<'_>, images: Tensor<4>) -> Tensor<2> {
        networks::scores(self.architecture, self.full, at, images)
    }

    /// The softmax cross-entropy, summed over the batch.
    fn loss(&self, logits: Tensor<2>, classes: &[usize]) -> Tensor<1> {
        let mut chosen = vec![0.0_f32; classes.len() * self.classes];
        for (row, class) in chosen.chunks_exact_mut(self.classes).zip(classes) {
            row[*class] = 1.0;
        }
        let chosen = Tensor::<2>::from_data(
            TensorData::new(chosen, [classes.len(), self.classes]),
            &self.device,
        );
        (log_softmax(logits, 1) * chosen).sum().neg()
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes of batches are far below 2^24")]
fn count(n: usize) -> f32 {
    n.max(1) as f32
}

#[cfg(test)]
mod tests {
    use aggregation::study::{Fit, InputShape, Normalise, Preprocess, Window};

    use super::layers::{conv3x3, group_norm};
    use super::*;
    use crate::random::Random;

    pub(super) fn network(architecture: Architecture, side: u16) -> Network {
        let task = Task {
            classes: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
            input: InputShape { channels: 1, height: side, width: side },
            preprocess: Preprocess {
                window: Window::Full,
                fit: Fit::Stretch,
                normalise: Normalise::Fixed,
                mean: 0.0,
                sd: 1.0,
            },
        };
        Network::new(architecture, &task, Device::flex())
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
                let network = network(architecture, side);
                let model = model_of(&network);
                let pixels = usize::from(side) * usize::from(side);
                let images = normals("images", 2 * pixels);
                let logits = network.logits(&model, images.clone()).expect("the CPU computes");
                assert_eq!(logits.len(), 6);
                // A tensor that the network does not use has no gradient, one of another shape
                // does not multiply.
                let gradient = network.gradient(&model, images, &[0, 2]).expect("the CPU computes");
                assert_eq!(gradient.mean.len(), network.layout().parameters());
                let mut rest = gradient.mean.as_slice();
                for tensor in &network.layout().tensors {
                    let (of_tensor, after) = rest.split_at(tensor.values());
                    rest = after;
                    assert!(of_tensor.iter().any(|value| *value != 0.0), "{}", tensor.name);
                }
            }
        }
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        for architecture in Architecture::ALL {
            let network = network(architecture, 16);
            let model = model_of(&network);
            let images = normals("images", 4 * 256);
            let classes = [0, 1, 2, 1];
            let at = network.gradient(&model, images.clone(), &classes).expect("computed");
            let size = at.mean.iter().map(|g| g * g).sum::<f32>().sqrt();
            let step = 0.02;
            let loss_along = |by: f32| {
                let moved: Vec<f32> =
                    model.iter().zip(&at.mean).map(|(w, g)| w + by * g / size).collect();
                network.gradient(&moved, images.clone(), &classes).expect("computed").loss
            };
            let slope = (loss_along(step) - loss_along(-step)) / (2.0 * step);
            assert!((slope - size).abs() < 0.02 * size, "{architecture}: {slope} against {size}");
        }
    }

    #[test]
    fn group_normalisation_leaves_mean_zero_and_variance_one() {
        let layout =
            Architecture::CnnSmall.layout(&InputShape { channels: 1, height: 28, width: 28 }, 2);
        let device = Device::flex();
        let parameters = Parameters::constant(&layout.initial(1), &layout, &device);
        let mut walk = parameters.walk();
        let images = TensorData::new(normals("images", 2 * 36), [2, 6, 6, 1]);
        let stem = conv3x3(&mut walk, Tensor::from_data(images, &device), 1);
        let normed = group_norm(&mut walk, stem, 4).permute([0, 3, 1, 2]);
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
        let together = network.logits(&model, images.clone()).expect("computed");
        let alone = network.logits(&model, images[784..1568].to_vec()).expect("computed");
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
