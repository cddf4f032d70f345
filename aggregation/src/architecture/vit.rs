//! A vision transformer (\[DBK+21\] section 3.1): timm's names and order.

use super::{Init, TensorSpec, affine, head, vit_patch};
use crate::study::InputShape;

/// Numbers to a token.
const WIDTH: usize = 192;
/// Blocks of attention and two linear layers.
const BLOCKS: usize = 12;
/// Numbers to a token between a block's two linear layers.
const HIDDEN: usize = 4 * WIDTH;
/// A standard deviation of 0.02, as the authors' places and class token start with.
const FAINT: Init = Init::KaimingNormal { fan_in: 5_000 };

pub(super) fn tensors(input: &InputShape, classes: usize) -> Vec<TensorSpec> {
    let patch = usize::from(vit_patch(input));
    let along = |side: u16| usize::from(side) / patch;
    let tokens = along(input.height) * along(input.width) + 1;
    let channels = usize::from(input.channels);
    // Variance 1 over the inputs: what comes out is as large as what goes in.
    let even = |fan_in: usize| Init::KaimingNormal { fan_in: 2 * fan_in };
    let linear = |name: String, from: usize, to: usize| {
        [
            TensorSpec::new(format!("{name}.weight"), &[to, from], even(from)),
            TensorSpec::new(format!("{name}.bias"), &[to], Init::Zeros),
        ]
    };
    let embed = even(channels * patch * patch);
    let mut tensors = vec![
        TensorSpec::new("cls_token", &[1, 1, WIDTH], FAINT),
        TensorSpec::new("pos_embed", &[1, tokens, WIDTH], FAINT),
        TensorSpec::new("patch_embed.proj.weight", &[WIDTH, channels, patch, patch], embed),
        TensorSpec::new("patch_embed.proj.bias", &[WIDTH], Init::Zeros),
    ];
    for block in 0..BLOCKS {
        let name = |part: &str| format!("blocks.{block}.{part}");
        tensors.extend(affine(&name("norm1"), WIDTH));
        tensors.extend(linear(name("attn.qkv"), WIDTH, 3 * WIDTH));
        tensors.extend(linear(name("attn.proj"), WIDTH, WIDTH));
        tensors.extend(affine(&name("norm2"), WIDTH));
        tensors.extend(linear(name("mlp.fc1"), WIDTH, HIDDEN));
        tensors.extend(linear(name("mlp.fc2"), HIDDEN, WIDTH));
    }
    tensors.extend(affine("norm", WIDTH));
    tensors.extend(head(("head.weight", "head.bias"), WIDTH, classes));
    tensors
}

// [DBK+21]: see the parent.
