//! U-shaped networks (\[RFB15\] figure 1, \[CAL+16\] figure 2) with group normalisation: names and
//! shapes. A stride of 2 takes the place of pooling, and a transposed convolution comes back up.

use super::{Init, TensorSpec, affine, convolution};
use crate::study::InputShape;

/// Channels at each resolution of the network for images, the finest first.
pub(super) const FLAT: [usize; 4] = [16, 32, 64, 128];
/// The same for volumes.
pub(super) const SOLID: [usize; 4] = [8, 16, 32, 64];
/// Each resolution halves the one before: sides are multiples of this.
pub(super) const STEP: u16 = 8;

/// Of windows with so many dimensions.
pub(super) fn tensors(
    channels: [usize; 4],
    dimensions: usize,
    input: &InputShape,
    classes: usize,
) -> Vec<TensorSpec> {
    let (three, two, one) = (vec![3; dimensions], vec![2; dimensions], vec![1; dimensions]);
    let twice = |name: String, from: usize, to: usize| {
        let first = convolution(&format!("{name}.conv1"), from, to, &three);
        let second = convolution(&format!("{name}.conv2"), to, to, &three);
        let norms = [affine(&format!("{name}.norm1"), to), affine(&format!("{name}.norm2"), to)];
        let [norm1, norm2] = norms;
        [vec![first], norm1.into(), vec![second], norm2.into()].concat()
    };
    let mut tensors = Vec::new();
    let mut from = usize::from(input.channels);
    for (level, to) in channels.into_iter().enumerate() {
        tensors.extend(twice(format!("encoder.{level}"), from, to));
        from = to;
    }
    for (level, to) in channels.into_iter().enumerate().rev().skip(1) {
        // One value of the finer image comes from one of the coarser: the fan is the channels.
        let shape: Vec<usize> = [from, to].iter().chain(&two).copied().collect();
        let init = Init::KaimingNormal { fan_in: from };
        tensors.push(TensorSpec::new(format!("decoder.{level}.up.weight"), &shape, init));
        tensors.extend(twice(format!("decoder.{level}"), 2 * to, to));
        from = to;
    }
    let shape: Vec<usize> = [classes, from].iter().chain(&one).copied().collect();
    tensors.push(TensorSpec::new("head.weight", &shape, Init::KaimingNormal { fan_in: 16 * from }));
    tensors.push(TensorSpec::new("head.bias", &[classes], Init::Zeros));
    tensors
}

// [RFB15], [CAL+16]: see the parent.
