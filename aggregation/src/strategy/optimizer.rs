//! The server's optimisers, and what they remember from one round to the next.

use crate::strategy::StrategyError;
use crate::study::{ServerOptimizer, Training};
use crate::units::{count, real};

/// What the server's optimiser remembers.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerState {
    parameters: usize,
    steps: u64,
    memory: Memory,
    /// The running average of the models, where the study wants one.
    average: Option<Vec<f32>>,
}

/// One optimiser's memory.
#[derive(Debug, Clone, PartialEq)]
enum Memory {
    Sgd,
    Momentum { velocity: Vec<f32> },
    Adam { first: Vec<f32>, second: Vec<f32> },
}

/// Bytes that are not the state of this study's optimiser.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidState {
    /// A length that does not fit optimiser and parameters.
    #[error("the state of this optimiser has {expected} bytes; found {found}")]
    Length {
        /// The bytes that were expected.
        expected: usize,
        /// The bytes that were found.
        found: usize,
    },
    /// The state of another optimiser.
    #[error("the state is of optimiser {expected}; found {found}")]
    Optimizer {
        /// The optimiser's number.
        expected: u8,
        /// The number found.
        found: u8,
    },
    /// A value is infinite or not a number.
    #[error("the state has finite values only; value {index} is not")]
    NotFinite {
        /// Which one, from 0.
        index: usize,
    },
}

impl ServerState {
    /// Nothing remembered yet.
    #[must_use]
    pub fn new(training: &Training, parameters: usize) -> Self {
        let zeros = || vec![0.0; parameters];
        let memory = match training.optimizer {
            ServerOptimizer::Sgd => Memory::Sgd,
            ServerOptimizer::Momentum { .. } => Memory::Momentum { velocity: zeros() },
            ServerOptimizer::Adam { .. } => Memory::Adam { first: zeros(), second: zeros() },
        };
        let average = (training.weight_average > 0.0).then(zeros);
        Self { parameters, steps: 0, memory, average }
    }

    pub(super) const fn parameters(&self) -> usize {
        self.parameters
    }

    /// The state and the model after one step against the gradient. After the study's last step the
    /// model is the average, if there is one.
    pub(super) fn step(
        &self,
        training: &Training,
        model: &[f32],
        gradient: impl Iterator<Item = f64>,
    ) -> Result<(Self, Vec<f32>), StrategyError> {
        let rate = training.learning_rate;
        let steps = self.steps.saturating_add(1);
        let mut next = Vec::with_capacity(model.len());
        let memory = match (training.optimizer, &self.memory) {
            (ServerOptimizer::Sgd, Memory::Sgd) => {
                next.extend(
                    model.iter().zip(gradient).map(|(w, g)| narrow(f64::from(*w) - rate * g)),
                );
                Memory::Sgd
            }
            (ServerOptimizer::Momentum { momentum }, Memory::Momentum { velocity }) => {
                let mut faster = Vec::with_capacity(velocity.len());
                for ((w, v), g) in model.iter().zip(velocity).zip(gradient) {
                    let v = momentum * f64::from(*v) + g;
                    faster.push(narrow(v));
                    next.push(narrow(f64::from(*w) - rate * v));
                }
                Memory::Momentum { velocity: faster }
            }
            (ServerOptimizer::Adam { beta1, beta2, epsilon }, Memory::Adam { first, second }) => {
                let power = i32::try_from(steps).unwrap_or(i32::MAX);
                let (unbias1, unbias2) = (1.0 - beta1.powi(power), 1.0 - beta2.powi(power));
                let (mut m_next, mut v_next) =
                    (Vec::with_capacity(first.len()), Vec::with_capacity(second.len()));
                for (((w, m), v), g) in model.iter().zip(first).zip(second).zip(gradient) {
                    let m = beta1 * f64::from(*m) + (1.0 - beta1) * g;
                    let v = beta2 * f64::from(*v) + (1.0 - beta2) * g * g;
                    let step = rate * (m / unbias1) / ((v / unbias2).sqrt() + epsilon);
                    m_next.push(narrow(m));
                    v_next.push(narrow(v));
                    next.push(narrow(f64::from(*w) - step));
                }
                Memory::Adam { first: m_next, second: v_next }
            }
            (
                ServerOptimizer::Sgd
                | ServerOptimizer::Momentum { .. }
                | ServerOptimizer::Adam { .. },
                Memory::Sgd | Memory::Momentum { .. } | Memory::Adam { .. },
            ) => return Err(StrategyError::OtherOptimizer),
        };
        let average = self.average.as_ref().map(|average| {
            // A plain mean until it covers as many models as the decay remembers.
            let remains = (1.0 - 1.0 / real(steps)).min(training.weight_average);
            let mix = |(a, w): (&f32, &f32)| {
                narrow(remains * f64::from(*a) + (1.0 - remains) * f64::from(*w))
            };
            average.iter().zip(&next).map(mix).collect::<Vec<f32>>()
        });
        let state = Self { parameters: self.parameters, steps, memory, average };
        // A moment beyond f32 is as much a divergence as a weight; both belong to a parameter.
        let broken = next.iter().chain(state.values()).position(|value| !value.is_finite());
        match broken {
            Some(index) => {
                Err(StrategyError::NotFinite { index: count(index % model.len().max(1)) })
            }
            None => match &state.average {
                Some(average) if steps == u64::from(training.rounds) => {
                    next.clone_from(average);
                    Ok((state, next))
                }
                Some(_) | None => Ok((state, next)),
            },
        }
    }

    /// All remembered values, in the order in which they are stored.
    fn values(&self) -> impl Iterator<Item = &f32> {
        let (first, second): (&[f32], &[f32]) = match &self.memory {
            Memory::Sgd => (&[], &[]),
            Memory::Momentum { velocity } => (velocity, &[]),
            Memory::Adam { first, second } => (first, second),
        };
        first.iter().chain(second).chain(self.average.iter().flatten())
    }

    /// Which optimiser.
    const fn kind(&self) -> u8 {
        match &self.memory {
            Memory::Sgd => 0,
            Memory::Momentum { .. } => 1,
            Memory::Adam { .. } => 2,
        }
    }

    /// The bytes to store: optimiser, steps, values; all little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind()];
        bytes.extend(self.steps.to_le_bytes());
        bytes.extend(self.values().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote for the same study.
    ///
    /// # Errors
    /// When the bytes are not the state of this study's optimiser for so many parameters.
    pub fn from_bytes(
        training: &Training,
        parameters: usize,
        bytes: &[u8],
    ) -> Result<Self, InvalidState> {
        let (expected_kind, vectors) = match training.optimizer {
            ServerOptimizer::Sgd => (0, 0),
            ServerOptimizer::Momentum { .. } => (1, 1),
            ServerOptimizer::Adam { .. } => (2, 2),
        };
        let averaged = training.weight_average > 0.0;
        let expected = (vectors + usize::from(averaged)) * parameters * 4 + 9;
        let wrong_length = InvalidState::Length { expected, found: bytes.len() };
        if bytes.len() != expected {
            return Err(wrong_length);
        }
        let Some(([found_kind, steps @ ..], values)) = bytes.split_first_chunk::<9>() else {
            return Err(wrong_length);
        };
        if *found_kind != expected_kind {
            return Err(InvalidState::Optimizer { expected: expected_kind, found: *found_kind });
        }
        let mut values: Vec<f32> =
            values.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(InvalidState::NotFinite { index });
        }
        let average = averaged.then(|| values.split_off(vectors * parameters));
        let memory = match training.optimizer {
            ServerOptimizer::Sgd => Memory::Sgd,
            ServerOptimizer::Momentum { .. } => Memory::Momentum { velocity: values },
            ServerOptimizer::Adam { .. } => {
                let second = values.split_off(parameters);
                Memory::Adam { first: values, second }
            }
        };
        Ok(Self { parameters, steps: u64::from_le_bytes(*steps), memory, average })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding is wanted, and what overflows is infinite and refused"
)]
const fn narrow(value: f64) -> f32 {
    value as f32
}

// Momentum: Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution, arXiv 1909.06335.
// Adam: Kingma, Ba: Adam, ICLR 2015, arXiv 1412.6980, algorithm 1 (with its bias correction).

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::apply;
    use crate::strategy::tests::training;
    use crate::study::Strategy;
    use crate::vector::Total;

    /// The models after each of these gradients, from 1.
    fn course(optimizer: ServerOptimizer, rate: f64, gradients: &[f64]) -> Vec<f64> {
        let training = training(Strategy::FedSgd, optimizer, rate);
        let mut state = ServerState::new(&training, 1);
        let mut model = [1.0];
        gradients
            .iter()
            .map(|gradient| {
                let total = Total { weight: 1, update: vec![*gradient], metrics: None };
                apply(&training, &mut state, &mut model, &total).expect("the step is finite");
                // What is stored is what goes on.
                let bytes = state.to_bytes();
                assert_eq!(ServerState::from_bytes(&training, 1, &bytes), Ok(state.clone()));
                model[0].into()
            })
            .collect()
    }

    fn assert_near(found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len());
        for (f, w) in found.iter().zip(wanted) {
            assert!((f - w).abs() < 2e-7, "{found:?} is not {wanted:?}");
        }
    }

    #[test]
    fn momentum_matches_a_hand_computed_course() {
        // v: 1, 0.9 + 2 = 2.9, 2.61 - 1 = 1.61; w: 1 - 0.1, - 0.29, - 0.161.
        let models = course(ServerOptimizer::Momentum { momentum: 0.9 }, 0.1, &[1.0, 2.0, -1.0]);
        assert_near(&models, &[0.9, 0.61, 0.449]);
    }

    #[test]
    fn adam_matches_a_hand_computed_course() {
        // beta1 = 0.5, beta2 = 0.75, epsilon = 0.1, rate = 0.1.
        // step 1: g = 2: m = 1, v = 1; unbiased 2 and 4; 0.1 * 2 / (2 + 0.1).
        // step 2: g = -1: m = 0, so nothing moves; v = 0.75 + 0.25 = 1.
        // step 3: g = 3: m = 1.5, v = 0.75 + 2.25 = 3; unbiased 1.5 / 0.875 and 3 / 0.578125.
        let adam = ServerOptimizer::Adam { beta1: 0.5, beta2: 0.75, epsilon: 0.1 };
        let first = 1.0 - 0.1 * 2.0 / 2.1;
        let third = first - 0.1 * (1.5 / 0.875) / ((3.0_f64 / 0.578_125).sqrt() + 0.1);
        assert_near(&course(adam, 0.1, &[2.0, -1.0, 3.0]), &[first, first, third]);
    }

    #[test]
    fn the_last_model_is_the_average_where_a_study_wants_one() {
        let mut training = training(Strategy::FedSgd, ServerOptimizer::Sgd, 1.0);
        training.weight_average = 0.5;
        training.rounds = 4;
        let mut state = ServerState::new(&training, 1);
        let mut model = [0.0];
        let mut models = Vec::new();
        for _ in 0..4 {
            let total = Total { weight: 1, update: vec![-1.0], metrics: None };
            apply(&training, &mut state, &mut model, &total).expect("the step is finite");
            state = ServerState::from_bytes(&training, 1, &state.to_bytes()).expect("as stored");
            models.push(f64::from(model[0]));
        }
        // Averages: 1; (1 + 2) / 2; then half of the one before and half of the model: 2.25, 3.125.
        assert_near(&models, &[1.0, 2.0, 3.0, 3.125]);
        let plain = super::super::tests::training(Strategy::FedSgd, ServerOptimizer::Sgd, 1.0);
        assert!(ServerState::from_bytes(&plain, 1, &state.to_bytes()).is_err());
    }

    #[test]
    fn the_state_of_another_optimiser_or_size_is_refused() {
        let adam = ServerOptimizer::Adam { beta1: 0.9, beta2: 0.99, epsilon: 1e-8 };
        let training_adam = training(Strategy::FedAvg, adam, 0.1);
        let training_momentum =
            training(Strategy::FedAvg, ServerOptimizer::Momentum { momentum: 0.9 }, 0.1);
        let bytes = ServerState::new(&training_adam, 3).to_bytes();
        assert_eq!(bytes.len(), 9 + 3 * 8);
        assert_eq!(
            ServerState::from_bytes(&training_adam, 4, &bytes),
            Err(InvalidState::Length { expected: 41, found: 33 })
        );
        assert!(ServerState::from_bytes(&training_adam, 3, &[]).is_err());
        // Six parameters of momentum take as many bytes as three of Adam.
        assert_eq!(
            ServerState::from_bytes(&training_momentum, 6, &bytes),
            Err(InvalidState::Optimizer { expected: 1, found: 2 })
        );
        let mut damaged = bytes;
        damaged[9..13].copy_from_slice(&f32::INFINITY.to_le_bytes());
        assert_eq!(
            ServerState::from_bytes(&training_adam, 3, &damaged),
            Err(InvalidState::NotFinite { index: 0 })
        );
    }
}
