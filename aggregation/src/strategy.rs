//! What a sum becomes: the next model.
//!
//! The mean over all examples is taken as a gradient, and the server's optimiser turns that into a
//! step. Everything is computed in 64 bits and stored in 32, one coordinate after the other, so
//! the same totals always give the same model.

mod averaging;
mod optimizer;

pub use optimizer::{InvalidState, ServerState};

use crate::study::Training;
use crate::units::count;
use crate::vector::Total;

/// Why a sum cannot become a model. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrategyError {
    /// Model, state and sum are not of one length.
    #[error("a model of {model} parameters cannot take a sum of {sum} and a state of {state}")]
    Length {
        /// The model's parameters.
        model: u64,
        /// The sum's coordinates.
        sum: u64,
        /// The parameters that the state was made for.
        state: u64,
    },
    /// A sum over no examples.
    #[error("the sum is over no examples")]
    NoExamples,
    /// The state was made for another optimiser.
    #[error("the state was made for another optimiser")]
    OtherOptimizer,
    /// The step would leave the numbers that can be stored: training has diverged.
    #[error("the new model must be finite; parameter {index} is not")]
    NotFinite {
        /// Which one, from 0.
        index: u64,
    },
}

/// Moves the model by one sum (PROTOCOL R-20).
///
/// # Errors
/// When lengths or optimiser do not fit together, the sum is over no examples, or the new model
/// would not be finite. Then neither model nor state has changed.
pub fn apply(
    training: &Training,
    state: &mut ServerState,
    model: &mut [f32],
    total: &Total,
) -> Result<(), StrategyError> {
    if total.weight == 0 {
        return Err(StrategyError::NoExamples);
    }
    if total.update.len() != model.len() || state.parameters() != model.len() {
        return Err(StrategyError::Length {
            model: count(model.len()),
            sum: count(total.update.len()),
            state: count(state.parameters()),
        });
    }
    let gradient = averaging::gradient(training.strategy, total);
    let (next_state, next_model) = state.step(training, model, gradient)?;
    *state = next_state;
    model.copy_from_slice(&next_model);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::tests::example;
    use crate::study::{ServerOptimizer, Strategy};

    pub(super) fn training(strategy: Strategy, optimizer: ServerOptimizer, rate: f64) -> Training {
        Training { strategy, optimizer, learning_rate: rate, ..example().training }
    }

    fn total(update: &[f64]) -> Total {
        Total { weight: 10, update: update.to_vec(), metrics: None }
    }

    /// The values are exact in binary.
    fn assert_is(model: &[f32], wanted: &[f32]) {
        assert_eq!(model, wanted);
    }

    #[test]
    fn averaging_moves_the_model_by_the_mean_and_a_gradient_moves_it_against_itself() {
        for (strategy, sign) in [(Strategy::FedAvg, 1.0), (Strategy::FedSgd, -1.0)] {
            let training = training(strategy, ServerOptimizer::Sgd, 0.5);
            let mut state = ServerState::new(&training, 2);
            let mut model = [1.0, -2.0];
            apply(&training, &mut state, &mut model, &total(&[0.25, -4.0])).expect("it fits");
            assert_is(&model, &[1.0 + sign * 0.125, -2.0 - sign * 2.0]);
        }
    }

    /// Breaks R-20, and shows that a refusal leaves everything as it was.
    #[test]
    fn what_cannot_become_a_model_changes_nothing() {
        let training = training(Strategy::FedAvg, ServerOptimizer::Momentum { momentum: 0.5 }, 1.0);
        let mut state = ServerState::new(&training, 2);
        let mut model = [1.0, 2.0];
        let before = state.to_bytes();
        let cases = [
            (Total { weight: 0, ..total(&[1.0, 1.0]) }, StrategyError::NoExamples),
            (total(&[1.0]), StrategyError::Length { model: 2, sum: 1, state: 2 }),
            (total(&[1.0, f64::MAX]), StrategyError::NotFinite { index: 1 }),
            (total(&[f64::NAN, 1.0]), StrategyError::NotFinite { index: 0 }),
        ];
        for (bad, why) in cases {
            assert_eq!(apply(&training, &mut state, &mut model, &bad), Err(why));
            assert_is(&model, &[1.0, 2.0]);
            assert_eq!(state.to_bytes(), before);
        }
        let other = Training { optimizer: ServerOptimizer::Sgd, ..training };
        assert_eq!(
            apply(&other, &mut state, &mut model, &total(&[1.0, 1.0])),
            Err(StrategyError::OtherOptimizer)
        );
    }
}
