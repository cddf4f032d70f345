//! Networks that are convolutions one after the other, and a linear layer on what is left of the
//! image: names and shapes.

use super::{FULL_RESOLUTION, Init, TensorSpec};
use crate::study::InputShape;

/// One square convolution, followed by a group normalisation. Strides and groups are the
/// network's own affair; a parameter vector does not show them.
struct Block {
    conv: &'static str,
    scale: &'static str,
    shift: &'static str,
    from: Inputs,
    /// Channels out.
    to: usize,
    /// Pixels to a side of the window.
    side: Side,
}

/// Channels that a convolution takes.
#[derive(Clone, Copy)]
enum Inputs {
    /// As many as the image has.
    Image,
    Channels(usize),
}

/// The window of a convolution.
#[derive(Clone, Copy)]
enum Side {
    Pixels(usize),
    /// 3 pixels up to [`FULL_RESOLUTION`], 7 above.
    Stem,
}

/// A block by the names of its convolution and its normalisation.
macro_rules! block {
    ($conv:literal, $norm:literal, $from:expr, $to:literal, $side:expr) => {
        Block {
            conv: concat!($conv, ".weight"),
            scale: concat!($norm, ".weight"),
            shift: concat!($norm, ".bias"),
            from: $from,
            to: $to,
            side: $side,
        }
    };
}

const THREE: Side = Side::Pixels(3);
const ONE: Side = Side::Pixels(1);

/// The layers of the tiny network in the order of the flat vector.
const CNN_TINY: &[Block] = &[
    block!("stem.conv", "stem.norm", Inputs::Image, 16, THREE),
    block!("block1.conv", "block1.norm", Inputs::Channels(16), 32, THREE),
    block!("block2.conv", "block2.norm", Inputs::Channels(32), 32, THREE),
];

/// The layers of the small one in the order of the flat vector.
const CNN_SMALL: &[Block] = &[
    block!("stem.conv", "stem.norm", Inputs::Image, 16, THREE),
    block!("block1.conv", "block1.norm", Inputs::Channels(16), 32, THREE),
    block!("block2.conv", "block2.norm", Inputs::Channels(32), 32, THREE),
    block!("block3.conv", "block3.norm", Inputs::Channels(32), 64, THREE),
    block!("block4.conv", "block4.norm", Inputs::Channels(64), 64, THREE),
];

/// The layers of the residual network in the order of the flat vector, which is
/// torchvision's.
const RESNET18: &[Block] = &[
    block!("conv1", "bn1", Inputs::Image, 64, Side::Stem),
    block!("layer1.0.conv1", "layer1.0.bn1", Inputs::Channels(64), 64, THREE),
    block!("layer1.0.conv2", "layer1.0.bn2", Inputs::Channels(64), 64, THREE),
    block!("layer1.1.conv1", "layer1.1.bn1", Inputs::Channels(64), 64, THREE),
    block!("layer1.1.conv2", "layer1.1.bn2", Inputs::Channels(64), 64, THREE),
    block!("layer2.0.conv1", "layer2.0.bn1", Inputs::Channels(64), 128, THREE),
    block!("layer2.0.conv2", "layer2.0.bn2", Inputs::Channels(128), 128, THREE),
    block!("layer2.0.downsample.0", "layer2.0.downsample.1", Inputs::Channels(64), 128, ONE),
    block!("layer2.1.conv1", "layer2.1.bn1", Inputs::Channels(128), 128, THREE),
    block!("layer2.1.conv2", "layer2.1.bn2", Inputs::Channels(128), 128, THREE),
    block!("layer3.0.conv1", "layer3.0.bn1", Inputs::Channels(128), 256, THREE),
    block!("layer3.0.conv2", "layer3.0.bn2", Inputs::Channels(256), 256, THREE),
    block!("layer3.0.downsample.0", "layer3.0.downsample.1", Inputs::Channels(128), 256, ONE),
    block!("layer3.1.conv1", "layer3.1.bn1", Inputs::Channels(256), 256, THREE),
    block!("layer3.1.conv2", "layer3.1.bn2", Inputs::Channels(256), 256, THREE),
    block!("layer4.0.conv1", "layer4.0.bn1", Inputs::Channels(256), 512, THREE),
    block!("layer4.0.conv2", "layer4.0.bn2", Inputs::Channels(512), 512, THREE),
    block!("layer4.0.downsample.0", "layer4.0.downsample.1", Inputs::Channels(256), 512, ONE),
    block!("layer4.1.conv1", "layer4.1.bn1", Inputs::Channels(512), 512, THREE),
    block!("layer4.1.conv2", "layer4.1.bn2", Inputs::Channels(512), 512, THREE),
];

/// Convolutions and a linear head, as tensors.
fn convolutional(
    blocks: &[Block],
    head: (&'static str, &'static str),
    features: usize,
    input: &InputShape,
    classes: usize,
) -> Vec<TensorSpec> {
    let small = input.height.max(input.width) <= FULL_RESOLUTION;
    let of_block = |block: &Block| {
        let from = match block.from {
            Inputs::Image => usize::from(input.channels),
            Inputs::Channels(channels) => channels,
        };
        let side = match block.side {
            Side::Pixels(side) => side,
            Side::Stem if small => 3,
            Side::Stem => 7,
        };
        let init = Init::KaimingNormal { fan_in: from * side * side };
        [
            TensorSpec::new(block.conv, &[block.to, from, side, side], init),
            TensorSpec::new(block.scale, &[block.to], Init::Ones),
            TensorSpec::new(block.shift, &[block.to], Init::Zeros),
        ]
    };
    blocks.iter().flat_map(of_block).chain(super::head(head, features, classes)).collect()
}

/// The head sees the mean and the greatest value of each channel over the image.
pub(super) fn tiny(input: &InputShape, classes: usize) -> Vec<TensorSpec> {
    convolutional(CNN_TINY, ("head.weight", "head.bias"), 64, input, classes)
}

/// As in [`tiny`].
pub(super) fn small(input: &InputShape, classes: usize) -> Vec<TensorSpec> {
    convolutional(CNN_SMALL, ("head.weight", "head.bias"), 128, input, classes)
}

/// The head sees the mean alone.
pub(super) fn resnet18(input: &InputShape, classes: usize) -> Vec<TensorSpec> {
    convolutional(RESNET18, ("fc.weight", "fc.bias"), 512, input, classes)
}
