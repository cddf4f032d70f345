//! From the mean over all examples to a direction that an optimiser goes against.

use crate::study::Strategy;
use crate::vector::Total;

/// The mean's coordinates as a gradient. A mean of moves points where the model should go, so it
/// is the negative of one (\[RCZ+21\] algorithm 1: "pseudo-gradient").
pub(super) fn gradient(strategy: Strategy, total: &Total) -> impl Iterator<Item = f64> {
    let sign = match strategy {
        Strategy::FedAvg => -1.0,
        Strategy::FedSgd | Strategy::DpFedSgd => 1.0,
    };
    total.update.iter().map(move |mean| sign * mean)
}

// [RCZ+21]: Reddi et al.: Adaptive Federated Optimization, ICLR 2021, arXiv 2003.00295.
