//! A small transformer for pictures (Dosovitskiy et al. 2021): its projections are the slots.

use super::backbone::{Backbone, Draft, Op};
use crate::error::{Result, invalid};

/// Height and width of a patch: 49 tokens of a 28×28 picture.
const PATCH: i64 = 4;
const N_BLOCKS: usize = 3;
pub const N_HEADS: i64 = 4;
/// The hidden layer of a block's MLP is so many times as wide as the tokens.
const MLP_RATIO: i64 = 4;

/// Patches of 4×4 pixels as tokens of `width` channels with learned positions, three pre-norm blocks (self-attention of four heads,
/// then an MLP with ReLU, each added to what it reads), the mean over tokens and a linear classifier. Twelve slots: each block's
/// fused queries, keys and values (`qkv`), `out`, `fc1` and `fc2`, without bias. Errors: a width that heads do not divide, a picture
/// smaller than a patch.
pub fn transformer_small(width: i64, input: [i64; 3], n_classes: i64) -> Result<Backbone> {
    if !(1..=4096).contains(&width) || width % N_HEADS != 0 {
        return invalid(format!("transformer-small of width {width}: the width must be a multiple of {N_HEADS}, up to 4096"));
    }
    let mut d = Draft::new(input);
    let x = d.push("input", Op::Input, &[]);
    let embed = Op::Conv2d { c_in: input[0], c_out: width, kernel: PATCH, stride: PATCH, padding: 0, groups: 1 };
    let x = d.push("embed", embed, &[x]);
    let mut x = d.push("tokens", Op::Tokens, &[x]);
    for block in 1..=N_BLOCKS {
        let name = |part: &str| format!("block{block}.{part}");
        let y = d.push(&name("norm1"), Op::LayerNorm, &[x]);
        let y = d.projection(&name("qkv"), y, 3 * width);
        let y = d.push(&name("attention"), Op::Attention { n_heads: N_HEADS }, &[y]);
        let y = d.projection(&name("out"), y, width);
        x = d.push(&name("add1"), Op::Add, &[y, x]);
        let y = d.push(&name("norm2"), Op::LayerNorm, &[x]);
        let y = d.projection(&name("fc1"), y, MLP_RATIO * width);
        let y = d.push(&name("relu"), Op::Relu, &[y]);
        let y = d.projection(&name("fc2"), y, width);
        x = d.push(&name("add2"), Op::Add, &[y, x]);
    }
    let x = d.push("norm", Op::LayerNorm, &[x]);
    let x = d.push("pool", Op::GlobalAvgPool, &[x]);
    d.push("classifier", Op::Linear { c_in: width, c_out: n_classes }, &[x]);
    d.end(format!("transformer-small-{width}"), n_classes)
}
