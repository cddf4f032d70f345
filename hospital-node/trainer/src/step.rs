//! One round's training at one hospital: from the offered model to how it moved (`fedavg`), or to
//! one mean gradient (`fedsgd`). The same study, round, site and data give the same bits.

use std::io;

use aggregation::ids::RoundId;
use aggregation::study::{Local, LocalOptimizer, Strategy, Study};

use crate::ahead::ahead;
use crate::dataset::Examples;
use crate::dataset::answers::Batch;
use crate::random::Random;
use crate::views::Views;
use crate::zoo::{BackendFault, Network};

/// Adam's published constants ([KB15] section 2).
const ADAM: (f32, f32, f32) = (0.9, 0.999, 1e-8);
/// The most images that one pass through a network holds; larger batches are summed up.
const PASS: usize = 256;
/// The most values of images in one pass, unless one image has more: volumes go few by few. While one pass
/// is computed, the next is there too.
const VALUES: usize = 1 << 26;

/// A step did not work.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The backend's fault.
    #[error(transparent)]
    Backend(#[from] BackendFault),
    /// The system's reason.
    #[error("cannot read the prepared images back")]
    Images(#[from] io::Error),
}

/// What a hospital computed in one round.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Examples that it rests on.
    pub examples: u64,
    /// `local - offered`, or the mean gradient.
    pub update: Vec<f32>,
}

/// Everything that a step is made of, besides the model.
#[derive(Debug)]
pub struct Trainer<'a> {
    /// The approved study.
    pub study: &'a Study,
    /// Its network.
    pub network: &'a Network,
    /// The hospital's training images.
    pub examples: &'a Examples,
    /// The hospital's name; it enters the seed.
    pub site: &'a str,
}

impl Trainer<'_> {
    /// Trains in one round; `progress` is told thousandths.
    ///
    /// # Errors
    /// [`StepError`] when the backend fails, or an image cannot be read.
    pub fn train(
        &self,
        round: RoundId,
        offered: &[f32],
        progress: &mut dyn FnMut(u32),
    ) -> Result<Trained, StepError> {
        let mut random = self.random(round);
        match self.study.training.strategy {
            Strategy::FedAvg => self.many_steps(&mut random, offered, progress),
            Strategy::FedSgd | Strategy::DpFedSgd => {
                self.one_gradient(&mut random, offered, progress)
            }
        }
    }

    /// Shuffles and augmentation follow from the study, the round and the site.
    fn random(&self, round: RoundId) -> Random {
        let study = self.study.digest().digest();
        let inputs =
            [study.as_bytes().as_slice(), &round.get().to_le_bytes(), self.site.as_bytes()];
        Random::new("consilium/local-training/1", &inputs)
    }

    fn many_steps(
        &self,
        random: &mut Random,
        offered: &[f32],
        progress: &mut dyn FnMut(u32),
    ) -> Result<Trained, StepError> {
        let local = &self.study.training.local;
        let mut model = offered.to_vec();
        let mut optimizer = Optimizer::new(local, model.len());
        let mut order: Vec<usize> = (0..self.examples.len()).collect();
        let batch = size(local.batch_size).clamp(1, order.len().max(1));
        let batches = order.len().div_ceil(batch).max(1);
        let all = batches * size(local.epochs);
        let mut mean = vec![0.0; model.len()];
        ahead(
            |give| {
                for epoch in 0..size(local.epochs) {
                    random.shuffle(&mut order);
                    // Batches of nearly one size: the last is not left with a handful.
                    for index in 0..batches {
                        let (from, to) =
                            (order.len() * index / batches, order.len() * (index + 1) / batches);
                        let done = permille(epoch * batches + index + 1, all);
                        if !self.give_passes(random, &order[from..to], done, give)? {
                            return Ok(());
                        }
                    }
                }
                Ok::<_, StepError>(())
            },
            |pass| {
                let ends = pass.ends;
                self.add_gradient(&model, pass, &mut mean)?;
                if let Some(done) = ends {
                    optimizer.step(&mut model, &mean);
                    mean.fill(0.0);
                    progress(done);
                }
                Ok(())
            },
        )?;
        let update = model.iter().zip(offered).map(|(local, offered)| local - offered).collect();
        Ok(Trained { examples: self.examples.len() as u64, update })
    }

    fn one_gradient(
        &self,
        random: &mut Random,
        offered: &[f32],
        progress: &mut dyn FnMut(u32),
    ) -> Result<Trained, StepError> {
        let mut order: Vec<usize> = (0..self.examples.len()).collect();
        random.shuffle(&mut order);
        match size(self.study.training.local.batch_size) {
            0 => {}
            batch => order.truncate(batch),
        }
        let mut update = vec![0.0; offered.len()];
        ahead(
            |give| self.give_passes(random, &order, 1000, give).map(|_| ()),
            |pass| self.add_gradient(offered, pass, &mut update),
        )?;
        let decay = single(self.study.training.local.weight_decay);
        for (gradient, value) in update.iter_mut().zip(offered) {
            *gradient += decay * value;
        }
        progress(1000);
        Ok(Trained { examples: order.len() as u64, update })
    }

    /// Makes the passes of a batch; whether more are wanted.
    fn give_passes(
        &self,
        random: &mut Random,
        chosen: &[usize],
        done: u32,
        give: &mut dyn FnMut(Pass) -> bool,
    ) -> Result<bool, StepError> {
        let most = images_in_a_pass(self.examples.values());
        let last = chosen.len().div_ceil(most);
        for (number, pass) in (1..).zip(chosen.chunks(most)) {
            let mut views = Views::of(self.study);
            for index in pass {
                views.add(self.examples, *index, 1, random)?;
            }
            let Views { images, answers, .. } = views;
            let share = ratio(pass.len(), chosen.len());
            let ends = (number == last).then_some(done);
            if !give(Pass { images, answers, share, ends }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Adds a pass's share of its batch's mean gradient.
    fn add_gradient(&self, model: &[f32], pass: Pass, mean: &mut [f32]) -> Result<(), StepError> {
        let Pass { images, answers, share, .. } = pass;
        let gradient = self.network.gradient(model, images, answers.targets())?;
        for (sum, value) in mean.iter_mut().zip(&gradient.mean) {
            *sum += share * value;
        }
        Ok(())
    }
}

/// What goes through the network at once, a batch or a part of one.
struct Pass {
    images: Vec<f32>,
    answers: Batch,
    /// Of its batch.
    share: f32,
    /// Thousandths of the round that are done when it is the last of its batch.
    ends: Option<u32>,
}

/// The local optimiser over a flat vector; its state lasts for one round.
struct Optimizer<'a> {
    local: &'a Local,
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
}

impl<'a> Optimizer<'a> {
    fn new(local: &'a Local, parameters: usize) -> Self {
        let (first, second) = match local.optimizer {
            LocalOptimizer::Sgd => (0, 0),
            LocalOptimizer::Momentum { .. } => (parameters, 0),
            LocalOptimizer::Adam => (parameters, parameters),
        };
        Self { local, first: vec![0.0; first], second: vec![0.0; second], steps: 0 }
    }

    fn step(&mut self, model: &mut [f32], gradient: &[f32]) {
        let rate = single(self.local.learning_rate);
        let decay = single(self.local.weight_decay);
        self.steps = self.steps.saturating_add(1);
        match self.local.optimizer {
            LocalOptimizer::Sgd => {
                for (value, gradient) in model.iter_mut().zip(gradient) {
                    *value -= rate * (gradient + decay * *value);
                }
            }
            LocalOptimizer::Momentum { momentum } => {
                let momentum = single(momentum);
                let along = model.iter_mut().zip(gradient).zip(&mut self.first);
                for ((value, gradient), velocity) in along {
                    *velocity = momentum * *velocity + gradient + decay * *value;
                    *value -= rate * *velocity;
                }
            }
            // Weight decay apart from the moments ([LH19] algorithm 2).
            LocalOptimizer::Adam => {
                let (beta1, beta2, epsilon) = ADAM;
                let bias1 = 1.0 - beta1.powi(self.steps);
                let bias2 = 1.0 - beta2.powi(self.steps);
                let moments = self.first.iter_mut().zip(&mut self.second);
                for ((value, gradient), (first, second)) in
                    model.iter_mut().zip(gradient).zip(moments)
                {
                    *first = beta1 * *first + (1.0 - beta1) * gradient;
                    *second = beta2 * *second + (1.0 - beta2) * gradient * gradient;
                    let step = (*first / bias1) / ((*second / bias2).sqrt() + epsilon);
                    *value -= rate * (step + decay * *value);
                }
            }
        }
    }
}

/// With so many values each.
fn images_in_a_pass(values: usize) -> usize {
    (VALUES / values.max(1)).clamp(1, PASS)
}

fn permille(done: usize, all: usize) -> u32 {
    u32::try_from(done * 1000 / all.max(1)).unwrap_or(1000)
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "training runs in single precision")]
fn single(value: f64) -> f32 {
    value as f32
}

#[expect(clippy::cast_precision_loss, reason = "numbers of images in one batch")]
fn ratio(part: usize, whole: usize) -> f32 {
    part as f32 / whole.max(1) as f32
}

// [KB15]: Kingma, Ba: Adam, ICLR 2015, arXiv 1412.6980.
// [LH19]: Loshchilov, Hutter: Decoupled Weight Decay Regularization, ICLR 2019, arXiv 1711.05101.

#[cfg(test)]
mod tests {
    use aggregation::study::Study;
    use burn::tensor::Device;

    use super::*;
    use crate::serve::tests::manifest;

    fn study(train: &str) -> Study {
        proto::manifest::parse(&manifest("linear", 8, train)).expect("a valid manifest")
    }

    /// Images that are bright for class 1 and dark for class 0, with noise.
    fn examples(count: usize) -> Examples {
        let mut random = Random::new("examples", &[]);
        let classes: Vec<usize> = (0..count).map(|index| index % 2).collect();
        let mut images = Vec::new();
        for class in &classes {
            let centre = if *class == 1 { 0.5 } else { -0.5 };
            images.extend((0..64).map(|_| single(centre + random.normal())));
        }
        Examples::classified(&images, &classes).expect("memory")
    }

    fn train(study: &Study, examples: &Examples, round: u32, site: &str) -> Trained {
        let network = Network::new(study.model, &study.task, Device::flex());
        let model = network.layout().initial(study.training.seed);
        let round = RoundId::new(round).expect("not zero");
        let mut told = 0;
        let trained = Trainer { study, network: &network, examples, site }
            .train(round, &model, &mut |permille| told = permille)
            .expect("the CPU computes");
        assert_eq!(told, 1000);
        trained
    }

    const AVERAGED: &str =
        "strategy = \"fedavg\"\nlocal = { epochs = 3, batch_size = 8, learning_rate = 0.1 }";

    #[test]
    fn the_same_round_at_the_same_site_gives_the_same_bits_and_another_does_not() {
        let (study, examples) = (study(AVERAGED), examples(50));
        let bits = |trained: Trained| -> Vec<u32> {
            trained.update.iter().map(|value| value.to_bits()).collect()
        };
        let first = bits(train(&study, &examples, 1, "a"));
        assert_eq!(first, bits(train(&study, &examples, 1, "a")));
        assert_ne!(first, bits(train(&study, &examples, 2, "a")));
        assert_ne!(first, bits(train(&study, &examples, 1, "b")));
    }

    #[test]
    fn each_local_optimiser_learns_what_is_easy() {
        let examples = examples(60);
        for optimizer in ["sgd", "momentum", "adam"] {
            let local = format!(
                "strategy = \"fedavg\"\nlocal = {{ epochs = 10, batch_size = 16, \
                 learning_rate = 0.02, optimizer = \"{optimizer}\", augment = true }}"
            );
            let study = study(&local);
            let trained = train(&study, &examples, 1, "a");
            assert_eq!(trained.examples, 60);
            let network = Network::new(study.model, &study.task, Device::flex());
            let initial = network.layout().initial(study.training.seed);
            let model: Vec<f32> =
                initial.iter().zip(&trained.update).map(|(model, by)| model + by).collect();
            let tally = crate::evaluate::evaluate(&study, &network, &model, &examples);
            let tally = tally.expect("scored");
            assert!(tally.accuracy() > Some(0.95), "{optimizer}: {:?}", tally.accuracy());
        }
    }

    #[test]
    fn a_single_gradient_is_the_mean_over_the_chosen_examples() {
        let train_all = "strategy = \"fedsgd\"\nlearning_rate = 0.1";
        let (study, examples) = (study(train_all), examples(PASS + 70));
        let trained = train(&study, &examples, 1, "a");
        assert_eq!(trained.examples, (PASS + 70) as u64);
        let network = Network::new(study.model, &study.task, Device::flex());
        let model = network.layout().initial(study.training.seed);
        let direct = network
            .gradient(
                &model,
                examples.several(0..PASS + 70).expect("there").0,
                &[0, 1].repeat(PASS)[..PASS + 70],
            )
            .expect("the CPU computes");
        for (a, b) in trained.update.iter().zip(&direct.mean) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn a_pass_holds_few_large_images_and_as_many_small_ones_as_ever() {
        for small in [1, 3 * 224 * 224, 512 * 512] {
            assert_eq!(images_in_a_pass(small), PASS);
        }
        assert_eq!(images_in_a_pass(128 * 128 * 128), 32);
        assert_eq!(images_in_a_pass(VALUES + 1), 1);
        assert_eq!(images_in_a_pass(0), PASS);
    }

    #[test]
    fn a_batch_size_bounds_the_examples_of_a_single_gradient() {
        let some = "strategy = \"fedsgd\"\nlearning_rate = 0.1\nlocal = { batch_size = 20 }";
        assert_eq!(train(&study(some), &examples(50), 1, "a").examples, 20);
    }
}
