//! The model: a graph of ATen-like layers, with slots where operators go.

use super::transformer::transformer_small;
use crate::error::{Result, invalid};
use serde::{Deserialize, Serialize};

/// What a layer does. Shapes are `[channels, height, width]`, of a sequence `[tokens, channels]`, or, after global pooling,
/// `[channels]`; the batch comes before them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    Input,
    /// Square kernel, no bias.
    Conv2d {
        c_in: i64,
        c_out: i64,
        kernel: i64,
        stride: i64,
        padding: i64,
        groups: i64,
    },
    BatchNorm,
    Relu,
    Add,
    /// `size`×`size` windows that do not overlap; rows and columns left over are dropped.
    AvgPool {
        size: i64,
    },
    MaxPool {
        size: i64,
    },
    /// The mean over height and width, or over tokens.
    GlobalAvgPool,
    /// With bias.
    Linear {
        c_in: i64,
        c_out: i64,
    },
    /// The places of a picture, row by row, as a sequence; each has a learned vector that is added.
    Tokens,
    /// Over channels, with weight and bias.
    LayerNorm,
    /// Softmax attention of each token to all; reads queries, keys and values, `[tokens, 3·channels]`.
    Attention {
        n_heads: i64,
    },
    /// An operator in place of a 3×3 convolution of padding 1, whose stride divides the image, or of a projection of a sequence
    /// without bias (its stride is 1): the i-th of [`Backbone::slots`].
    Slot {
        index: usize,
        c_in: i64,
        c_out: i64,
        stride: i64,
    },
}

/// One layer; inputs are earlier layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    pub name: String,
    #[serde(flatten)]
    pub op: Op,
    pub inputs: Vec<usize>,
    /// Of the output, without the batch.
    pub shape: Vec<i64>,
}

/// A model whose last layer gives `n_classes` logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backbone {
    pub name: String,
    /// Channels, height, width.
    pub input: [i64; 3],
    pub n_classes: i64,
    pub layers: Vec<Layer>,
}

/// What stands in a slot of the original model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A convolution: reads `[c_in, stride·h, stride·w]`, writes `[c_out, h, w]`.
    Conv,
    /// A projection of a sequence: reads `[tokens, c_in]`, writes `[tokens, c_out]`.
    Projection,
}

/// A hole in a backbone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    pub name: String,
    pub layer: usize,
    pub kind: Kind,
    pub c_in: i64,
    pub c_out: i64,
    /// Height and width; of a sequence its tokens and 1.
    pub h: i64,
    pub w: i64,
    pub stride: i64,
}

impl Slot {
    /// The shape of what it reads, for a batch of `n`.
    pub fn input(&self, n: i64) -> Vec<i64> {
        match self.kind {
            Kind::Conv => vec![n, self.c_in, self.stride * self.h, self.stride * self.w],
            Kind::Projection => vec![n, self.h, self.c_in],
        }
    }

    /// The shape of what it writes, for a batch of `n`.
    pub fn output(&self, n: i64) -> Vec<i64> {
        match self.kind {
            Kind::Conv => vec![n, self.c_out, self.h, self.w],
            Kind::Projection => vec![n, self.h, self.c_out],
        }
    }
}

/// Backbones that [`Backbone::named`] knows.
pub const NAMES: &[&str] = &["resnet-small", "resnet-strided", "transformer-small"];

impl Backbone {
    /// A built-in backbone. Errors: an unknown name (lists what is known), sizes that do not fit.
    pub fn named(name: &str, width: i64, input: [i64; 3], n_classes: i64) -> Result<Backbone> {
        match name {
            "resnet-small" => resnet_small(width, input, n_classes),
            "transformer-small" => transformer_small(width, input, n_classes),
            "resnet-strided" => resnet_strided(width, input, n_classes),
            _ => invalid(format!("there is no backbone `{name}`: use one of {}", NAMES.join(", "))),
        }
    }

    /// The slots in order of layers.
    pub fn slots(&self) -> Vec<Slot> {
        let slot = |(layer, l): (usize, &Layer)| match l.op {
            Op::Slot { c_in, c_out, stride, .. } => {
                let (kind, h, w) = match l.shape[..] {
                    [_, h, w] => (Kind::Conv, h, w),
                    _ => (Kind::Projection, l.shape[0], 1),
                };
                Some(Slot { name: l.name.clone(), layer, kind, c_in, c_out, h, w, stride })
            }
            _ => None,
        };
        self.layers.iter().enumerate().filter_map(slot).collect()
    }

    /// The backbone with its original convolutions and projections (these with a bias) in the slots.
    pub fn original(&self) -> Backbone {
        let mut whole = self.clone();
        for l in &mut whole.layers {
            if let Op::Slot { c_in, c_out, stride, .. } = l.op {
                let conv = Op::Conv2d { c_in, c_out, kernel: 3, stride, padding: 1, groups: 1 };
                l.op = if l.shape.len() == 3 { conv } else { Op::Linear { c_in, c_out } };
            }
        }
        whole
    }

    /// Checks that every layer's inputs come before it, that shapes follow from the operations, that slots are numbered in order and
    /// that the last layer gives `n_classes` logits. Errors name the layer.
    pub fn validate(&self) -> Result<()> {
        let mut n_slots = 0;
        if self.input.iter().any(|&s| s < 1) || self.n_classes < 2 {
            return invalid(format!(
                "backbone {}: an input of {:?} and {} classes: sizes must be ≥ 1, classes ≥ 2",
                self.name, self.input, self.n_classes
            ));
        }
        for (i, l) in self.layers.iter().enumerate() {
            let refuse = |why: String| invalid(format!("backbone {}: layer {} ({}): {why}", self.name, l.name, op_name(&l.op)));
            if let Some(&late) = l.inputs.iter().find(|&&j| j >= i) {
                return refuse(format!("reads layer {late}, which does not come before it: list layers in order of execution"));
            }
            if self.layers[..i].iter().any(|m| m.name == l.name) {
                return refuse("its name is taken: give every layer its own".into());
            }
            let wanted = if l.op == Op::Input {
                0
            } else if l.op == Op::Add {
                2
            } else {
                1
            };
            if l.inputs.len() != wanted {
                return refuse(format!("has {} inputs where {wanted} are needed", l.inputs.len()));
            }
            if let Op::Slot { index, .. } = l.op {
                if index != n_slots {
                    return refuse(format!("is slot {index} where {n_slots} is next: number slots in order of layers"));
                }
                n_slots += 1;
            }
            match self.infer(l) {
                Ok(shape) if shape == l.shape => {}
                Ok(shape) => return refuse(format!("declares shape {:?}, its inputs give {shape:?}: correct the shape", l.shape)),
                Err(why) => return refuse(why),
            }
        }
        match self.layers.last() {
            Some(l) if l.shape == [self.n_classes] => Ok(()),
            Some(l) => {
                invalid(format!("backbone {}: the last layer {} gives {:?}, not {} logits", self.name, l.name, l.shape, self.n_classes))
            }
            None => invalid(format!("backbone {} has no layers", self.name)),
        }
    }

    fn infer(&self, l: &Layer) -> Result<Vec<i64>, String> {
        let inputs: Vec<&[i64]> = l.inputs.iter().map(|&i| &self.layers[i].shape[..]).collect();
        let picture =
            |s: &[i64]| <[i64; 3]>::try_from(s).map_err(|_| format!("its input has shape {s:?}: channels, height and width are needed"));
        let takes = |c_in: i64, c: i64| if c == c_in { Ok(()) } else { Err(format!("takes {c_in} channels, its input has {c}")) };
        let channels = |s: [i64; 3], c_in: i64| takes(c_in, s[0]);
        let sequence =
            |s: &[i64]| <[i64; 2]>::try_from(s).map_err(|_| format!("its input has shape {s:?}: tokens and channels are needed"));
        match l.op {
            Op::Input => Ok(self.input.to_vec()),
            Op::BatchNorm | Op::Relu => Ok(inputs[0].to_vec()),
            Op::Add if inputs[0] == inputs[1] => Ok(inputs[0].to_vec()),
            Op::Add => Err(format!("adds {:?} and {:?}: the shapes must be equal", inputs[0], inputs[1])),
            Op::Conv2d { c_in, c_out, kernel, stride, padding, groups } => {
                let s = picture(inputs[0])?;
                channels(s, c_in)?;
                if kernel < 1 || stride < 1 || padding < 0 || groups < 1 || c_in % groups != 0 || c_out % groups != 0 {
                    return Err(format!(
                        "kernel {kernel}, stride {stride}, padding {padding}, groups {groups} do not fit {c_in} to {c_out} channels"
                    ));
                }
                let out = |size: i64| (size + 2 * padding - kernel).div_euclid(stride) + 1;
                if out(s[1]) < 1 || out(s[2]) < 1 {
                    return Err(format!("a kernel of {kernel} does not fit {}×{}", s[1], s[2]));
                }
                Ok(vec![c_out, out(s[1]), out(s[2])])
            }
            Op::Slot { c_in, c_out, stride: 1, .. } if inputs[0].len() == 2 && c_out > 0 => {
                takes(c_in, inputs[0][1])?;
                Ok(vec![inputs[0][0], c_out])
            }
            Op::Tokens => picture(inputs[0]).map(|[c, h, w]| vec![h * w, c]),
            Op::LayerNorm => sequence(inputs[0]).map(Vec::from),
            Op::Attention { n_heads } => {
                let [tokens, c] = sequence(inputs[0])?;
                if n_heads < 1 || c % (3 * n_heads) != 0 {
                    return Err(format!("{c} channels are no queries, keys and values of {n_heads} heads: give 3 × heads × their size"));
                }
                Ok(vec![tokens, c / 3])
            }
            Op::Slot { c_in, c_out, stride, .. } => {
                let s = picture(inputs[0])?;
                channels(s, c_in)?;
                if c_out < 1 || stride < 1 {
                    return Err(format!("gives {c_out} channels at stride {stride}: both must be at least 1"));
                }
                if s[1] % stride != 0 || s[2] % stride != 0 {
                    return Err(format!(
                        "its stride {stride} does not divide the {}×{} picture that it reads: use pictures that every stride divides",
                        s[1], s[2]
                    ));
                }
                Ok(vec![c_out, s[1] / stride, s[2] / stride])
            }
            Op::AvgPool { size } | Op::MaxPool { size } => {
                let s = picture(inputs[0])?;
                if size < 1 || s[1] < size || s[2] < size {
                    return Err(format!("a window of {size} does not fit {}×{}: use a larger picture or fewer pools", s[1], s[2]));
                }
                Ok(vec![s[0], s[1] / size, s[2] / size])
            }
            Op::GlobalAvgPool if inputs[0].len() == 2 => Ok(vec![inputs[0][1]]),
            Op::GlobalAvgPool => Ok(vec![picture(inputs[0])?[0]]),
            Op::Linear { c_in, c_out } if inputs[0].len() == 2 => {
                takes(c_in, inputs[0][1])?;
                Ok(vec![inputs[0][0], c_out])
            }
            Op::Linear { c_in, c_out } if inputs[0] == [c_in] => Ok(vec![c_out]),
            Op::Linear { c_in, .. } => Err(format!("takes [{c_in}], its input is {:?}", inputs[0])),
        }
    }
}

/// The name that errors and files use.
pub fn op_name(op: &Op) -> &'static str {
    match op {
        Op::Input => "input",
        Op::Conv2d { .. } => "conv2d",
        Op::BatchNorm => "batch_norm",
        Op::Relu => "relu",
        Op::Add => "add",
        Op::AvgPool { .. } => "avg_pool",
        Op::MaxPool { .. } => "max_pool",
        Op::GlobalAvgPool => "global_avg_pool",
        Op::Linear { .. } => "linear",
        Op::Tokens => "tokens",
        Op::LayerNorm => "layer_norm",
        Op::Attention { .. } => "attention",
        Op::Slot { .. } => "slot",
    }
}

/// A backbone in the making.
pub(super) struct Draft {
    input: [i64; 3],
    layers: Vec<Layer>,
    n_slots: usize,
}

impl Draft {
    pub fn new(input: [i64; 3]) -> Draft {
        Draft { input, layers: vec![], n_slots: 0 }
    }

    /// The backbone, if it is sound.
    pub fn end(self, name: String, n_classes: i64) -> Result<Backbone> {
        let backbone = Backbone { name, input: self.input, n_classes, layers: self.layers };
        backbone.validate()?;
        Ok(backbone)
    }

    pub fn push(&mut self, name: &str, op: Op, inputs: &[usize]) -> usize {
        let shape = match (&op, inputs.first().map(|&i| &self.layers[i].shape[..])) {
            (Op::Conv2d { c_out, kernel, stride, padding, .. }, Some(&[_, h, w])) => {
                let out = |size: i64| (size + 2 * padding - kernel).div_euclid(*stride) + 1;
                vec![*c_out, out(h), out(w)]
            }
            (Op::Tokens, Some(&[c, h, w])) => vec![h * w, c],
            (Op::Attention { .. }, Some(&[t, c])) => vec![t, c / 3],
            (Op::Slot { c_out, .. }, Some(&[t, _])) => vec![t, *c_out],
            (Op::GlobalAvgPool, Some(&[_, c])) => vec![c],
            (Op::Slot { c_out, stride, .. }, Some(&[_, h, w])) => vec![*c_out, h / stride, w / stride],
            (Op::AvgPool { size }, Some(&[c, h, w])) => vec![c, h / size, w / size],
            (Op::GlobalAvgPool, Some(&[c, ..])) => vec![c],
            (Op::Linear { c_out, .. }, _) => vec![*c_out],
            (_, Some(same)) => same.to_vec(),
            (_, None) => self.input.to_vec(),
        };
        self.layers.push(Layer { name: name.into(), op, inputs: inputs.to_vec(), shape });
        self.layers.len() - 1
    }

    /// A slot on a sequence.
    pub fn projection(&mut self, name: &str, x: usize, c_out: i64) -> usize {
        let c_in = self.layers[x].shape.last().copied().unwrap_or(0);
        let op = Op::Slot { index: self.n_slots, c_in, c_out, stride: 1 };
        self.n_slots += 1;
        self.push(name, op, &[x])
    }

    fn slot(&mut self, name: &str, x: usize, c_out: i64, stride: i64, residual: Option<usize>) -> usize {
        let op = Op::Slot { index: self.n_slots, c_in: self.layers[x].shape[0], c_out, stride };
        self.n_slots += 1;
        let mut x = self.push(name, op, &[x]);
        x = self.push(&format!("{name}.bn"), Op::BatchNorm, &[x]);
        if let Some(other) = residual {
            x = self.push(&format!("{name}.add"), Op::Add, &[x, other]);
        }
        self.push(&format!("{name}.relu"), Op::Relu, &[x])
    }

    fn block(&mut self, stage: usize, x: usize) -> usize {
        let c = self.layers[x].shape[0];
        let y = self.slot(&format!("block{stage}.conv1"), x, c, 1, None);
        self.slot(&format!("block{stage}.conv2"), y, c, 1, Some(x))
    }
}

/// A stem, three residual blocks at `width`, 2·`width`, 4·`width` channels with 2×2 average pooling and a widening slot between them,
/// and a linear classifier: eight slots. Errors: width < 1, a picture smaller than 4×4.
pub fn resnet_small(width: i64, input: [i64; 3], n_classes: i64) -> Result<Backbone> {
    resnet("resnet-small", false, width, input, n_classes)
}

/// [`resnet_small`] with widening slots of stride 2 in place of the pooling. Errors: as there; a picture that 4 does not divide.
pub fn resnet_strided(width: i64, input: [i64; 3], n_classes: i64) -> Result<Backbone> {
    resnet("resnet-strided", true, width, input, n_classes)
}

fn resnet(name: &str, strided: bool, width: i64, input: [i64; 3], n_classes: i64) -> Result<Backbone> {
    if !(1..=4096).contains(&width) {
        return invalid(format!("{name} of width {width}: the width must be 1 to 4096"));
    }
    let mut d = Draft::new(input);
    let x = d.push("input", Op::Input, &[]);
    let stem = Op::Conv2d { c_in: input[0], c_out: width, kernel: 3, stride: 1, padding: 1, groups: 1 };
    let x = d.push("stem", stem, &[x]);
    let x = d.push("stem.bn", Op::BatchNorm, &[x]);
    let mut x = d.push("stem.relu", Op::Relu, &[x]);
    for stage in 1..=3 {
        if stage > 1 {
            if !strided {
                x = d.push(&format!("pool{stage}"), Op::AvgPool { size: 2 }, &[x]);
            }
            let c = d.layers[x].shape[0];
            x = d.slot(&format!("widen{stage}"), x, 2 * c, if strided { 2 } else { 1 }, None);
        }
        x = d.block(stage, x);
    }
    let x = d.push("pool", Op::GlobalAvgPool, &[x]);
    d.push("classifier", Op::Linear { c_in: 4 * width, c_out: n_classes }, &[x]);
    d.end(format!("{name}-{width}"), n_classes)
}
