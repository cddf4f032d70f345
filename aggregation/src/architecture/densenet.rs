//! `DenseNet-121` (\[HLMW17\] table 1) with group normalisation: torchvision's names and order.

use super::{FULL_RESOLUTION, TensorSpec, affine, convolution, head};
use crate::study::InputShape;

/// Layers of each dense block.
pub(super) const BLOCKS: [usize; 4] = [6, 12, 24, 16];
/// Channels that each layer adds.
const GROWTH: usize = 32;
/// Channels between a layer's two convolutions.
const BOTTLENECK: usize = 4 * GROWTH;
/// Channels of the stem.
const STEM: usize = 64;

pub(super) fn tensors(input: &InputShape, classes: usize) -> Vec<TensorSpec> {
    let side = if input.height.max(input.width) <= FULL_RESOLUTION { 3 } else { 7 };
    let stem = [side, side];
    let mut tensors = vec![convolution("features.conv0", input.channels.into(), STEM, &stem)];
    tensors.extend(affine("features.norm0", STEM));
    let mut channels = STEM;
    for (block, layers) in (1..).zip(BLOCKS) {
        for layer in 1..=layers {
            let name = |part: &str| format!("features.denseblock{block}.denselayer{layer}.{part}");
            tensors.extend(affine(&name("norm1"), channels));
            tensors.push(convolution(&name("conv1"), channels, BOTTLENECK, &[1, 1]));
            tensors.extend(affine(&name("norm2"), BOTTLENECK));
            tensors.push(convolution(&name("conv2"), BOTTLENECK, GROWTH, &[3, 3]));
            channels += GROWTH;
        }
        if block < BLOCKS.len() {
            let name = |part: &str| format!("features.transition{block}.{part}");
            tensors.extend(affine(&name("norm"), channels));
            tensors.push(convolution(&name("conv"), channels, channels / 2, &[1, 1]));
            channels /= 2;
        }
    }
    tensors.extend(affine("features.norm5", channels));
    tensors.extend(head(("classifier.weight", "classifier.bias"), channels, classes));
    tensors
}

// [HLMW17]: see the parent.
