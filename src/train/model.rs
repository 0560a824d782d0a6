//! A backbone in libtorch with one operator per slot.

use super::backbone::{Backbone, Layer, Op};
use super::fold::{fold_scale, scale_and_shift};
use super::tokens;
use super::weights::Weight;
use crate::error::{Error, Result, invalid};
use crate::lower::torch::TorchOp;
use crate::lower::{LoopNest, Role};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use tch::{Device, Kind, TchError, Tensor};

const EPSILON: f64 = 1e-5;
/// Of the new batch in running statistics.
const STATISTICS_MOMENTUM: f64 = 0.1;

/// Of the vectors that tell tokens their places, at the start (Dosovitskiy et al. 2021).
const PLACE_STD: f64 = 0.02;

pub(super) fn failed(e: TchError) -> Error {
    Error::Library(format!("libtorch: {e}"))
}

/// A parameter or a statistic.
pub(super) struct Variable {
    pub tensor: Tensor,
    pub trained: bool,
    /// Whether weight decay applies: weights yes, biases and batch norms no.
    pub decays: bool,
}

pub(super) struct Model {
    backbone: Backbone,
    nests: Vec<LoopNest>,
    ops: Vec<TorchOp>,
    pub variables: BTreeMap<String, Variable>,
}

/// Standard normal numbers that depend on (seed, name) alone, so that what two models share starts equal.
fn normal(seed: u64, name: &str, n: usize) -> Vec<f32> {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ hash);
    let one = |_| {
        let (radius, angle) = (1.0 - rng.random::<f64>(), rng.random::<f64>() * std::f64::consts::TAU);
        ((-2.0 * radius.ln()).sqrt() * angle.cos()) as f32
    };
    (0..n).map(one).collect()
}

impl Model {
    /// Fresh weights from a seed. Errors: a nest that cannot be lowered.
    pub fn new(backbone: &Backbone, nests: &[LoopNest], seed: u64, device: Device) -> Result<Model> {
        let ops = nests.iter().map(TorchOp::new).collect::<Result<Vec<_>>>()?;
        let mut model = Model { backbone: backbone.clone(), nests: nests.to_vec(), ops, variables: BTreeMap::new() };
        for layer in &backbone.layers {
            let c = layer.shape[0];
            let name = |part: &str| format!("{}.{part}", layer.name);
            let mut add = |part: &str, shape: &[i64], fill: Fill, trained, decays| {
                let n = shape.iter().product::<i64>() as usize;
                let data = match fill {
                    Fill::Constant(v) => vec![v; n],
                    Fill::Normal(std) => normal(seed, &name(part), n).into_iter().map(|v| v * std as f32).collect(),
                };
                let mut tensor = Tensor::from_slice(&data).f_view(shape).map_err(failed)?.to_device(device);
                if shape.len() == 4 && matches!(layer.op, Op::Conv2d { .. }) {
                    tensor = channels_last(&tensor).map_err(failed)?;
                }
                let tensor = tensor.set_requires_grad(trained);
                model.variables.insert(name(part), Variable { tensor, trained, decays });
                Ok::<(), Error>(())
            };
            match layer.op {
                Op::Conv2d { c_in, c_out, kernel, groups, .. } => {
                    let fan = (c_in / groups * kernel * kernel) as f64;
                    add("weight", &[c_out, c_in / groups, kernel, kernel], Fill::Normal((2.0 / fan).sqrt()), true, true)?;
                }
                Op::Linear { c_in, c_out } => {
                    add("weight", &[c_out, c_in], Fill::Normal((1.0 / c_in as f64).sqrt()), true, true)?;
                    add("bias", &[c_out], Fill::Constant(0.0), true, false)?;
                }
                Op::BatchNorm => {
                    add("weight", &[c], Fill::Constant(1.0), true, false)?;
                    add("bias", &[c], Fill::Constant(0.0), true, false)?;
                    add("running_mean", &[c], Fill::Constant(0.0), false, false)?;
                    add("running_var", &[c], Fill::Constant(1.0), false, false)?;
                }
                Op::Slot { index, .. } => {
                    let nest = &nests[index];
                    for (i, t) in nest.tensors.iter().filter(|t| t.role == Role::Weight).enumerate() {
                        add(&format!("w{i}"), &t.shape, Fill::Normal(nest.weight_std()), true, true)?;
                    }
                }
                Op::Tokens => add("weight", &layer.shape, Fill::Normal(PLACE_STD), true, false)?,
                Op::LayerNorm => {
                    let c = layer.shape[1];
                    add("weight", &[c], Fill::Constant(1.0), true, false)?;
                    add("bias", &[c], Fill::Constant(0.0), true, false)?;
                }
                Op::Input | Op::Relu | Op::Add | Op::AvgPool { .. } | Op::MaxPool { .. } | Op::GlobalAvgPool | Op::Attention { .. } => {}
            }
        }
        Ok(model)
    }

    pub fn device(&self) -> Device {
        self.variables.values().next().map_or(Device::Cpu, |v| v.tensor.device())
    }

    fn variable(&self, layer: &Layer, part: &str) -> &Tensor {
        &self.variables[&format!("{}.{part}", layer.name)].tensor
    }

    fn slot_weights(&self, layer: &Layer, index: usize) -> Vec<&Tensor> {
        let n = self.nests[index].tensors.iter().filter(|t| t.role == Role::Weight).count();
        (0..n).map(|i| self.variable(layer, &format!("w{i}"))).collect()
    }

    /// Logits `[n, classes]`, f32, of pictures `[n, c, h, w]`. In training, batch norms use and update batch statistics.
    /// `kind` is what convolutions, operators and activations compute in; variables, statistics and the classifier stay f32.
    pub fn forward(&self, x: &Tensor, training: bool, kind: Kind) -> Result<Tensor> {
        let x = &channels_last(x).map_err(failed)?.to_kind(kind);
        let mut values: Vec<Tensor> = Vec::with_capacity(self.backbone.layers.len());
        for layer in &self.backbone.layers {
            let at = |i: usize| &values[layer.inputs[i]];
            let value = match layer.op {
                Op::BatchNorm => {
                    let part = |name| Some(self.variable(layer, name));
                    at(0)
                        .f_batch_norm(
                            part("weight"),
                            part("bias"),
                            part("running_mean"),
                            part("running_var"),
                            training,
                            STATISTICS_MOMENTUM,
                            EPSILON,
                            true,
                        )
                        .map_err(failed)?
                }
                Op::Conv2d { stride, padding, groups, .. } => {
                    let weight = self.variable(layer, "weight").to_kind(kind);
                    at(0).f_conv2d(&weight, None::<&Tensor>, [stride], [padding], [1], groups).map_err(failed)?
                }
                Op::Slot { index, .. } => {
                    let weights: Vec<Tensor> = self.slot_weights(layer, index).into_iter().map(|w| w.to_kind(kind)).collect();
                    let mut arguments = vec![at(0)];
                    arguments.extend(&weights);
                    self.ops[index].forward(&arguments)?
                }
                Op::Linear { .. } => at(0)
                    .to_kind(Kind::Float)
                    .f_linear(self.variable(layer, "weight"), Some(self.variable(layer, "bias")))
                    .map_err(failed)?,
                Op::Relu => at(0).f_relu().map_err(failed)?,
                _ => self.rest(layer, x, at).map_err(failed)?,
            };
            values.push(value);
        }
        values.pop().map_or_else(|| invalid("a backbone without layers gives nothing: add layers"), Ok)
    }

    /// Layers of sequences, and those without variables.
    fn rest<'a>(&self, layer: &Layer, x: &Tensor, at: impl Fn(usize) -> &'a Tensor) -> Result<Tensor, TchError> {
        let input = layer.inputs.first().map_or(x, |_| at(0));
        match tokens::forward(&layer.op, input, |part| self.variable(layer, part))? {
            Some(value) => Ok(value),
            None => plain(layer, x, at),
        }
    }

    /// All variables on the CPU, in order of names.
    pub fn weights(&self) -> Result<Vec<Weight>> {
        let one = |(name, v): (&String, &Variable)| {
            let flat = v.tensor.detach().to_device(Device::Cpu).f_reshape([-1]).map_err(failed)?;
            Ok(Weight { name: name.clone(), shape: v.tensor.size(), values: Vec::try_from(flat).map_err(failed)? })
        };
        self.variables.iter().map(one).collect()
    }

    /// Replaces every variable. Errors: a name or shape that differs.
    pub fn load(&mut self, weights: &[Weight]) -> Result<()> {
        for (name, v) in &mut self.variables {
            let Some(w) = weights.iter().find(|w| w.name == *name) else {
                return invalid(format!("the saved weights have no {name}: they belong to another model"));
            };
            if w.shape != v.tensor.size() {
                return invalid(format!(
                    "the saved {name} has shape {:?}, the model needs {:?}: they belong to another model",
                    w.shape,
                    v.tensor.size()
                ));
            }
            let loaded = Tensor::from_slice(&w.values).f_view(&w.shape[..]).map_err(failed)?.to_device(v.tensor.device());
            v.tensor = loaded.set_requires_grad(v.trained);
        }
        Ok(())
    }

    /// The model for inference: batch norms folded into the layers before them.
    pub fn folded(&self) -> Result<Folded<'_>> {
        let mut steps = Vec::new();
        let layers = &self.backbone.layers;
        let cpu = |t: &Tensor| Vec::<f32>::try_from(t.detach().to_device(Device::Cpu).f_reshape([-1])?);
        let mut skipped = vec![None; layers.len()];
        for (i, layer) in layers.iter().enumerate() {
            let readers: Vec<usize> = (0..layers.len()).filter(|&j| layers[j].inputs.contains(&i)).collect();
            let norm = readers.first().filter(|&&j| readers.len() == 1 && layers[j].op == Op::BatchNorm).copied();
            let step = match (&layer.op, norm) {
                (Op::BatchNorm, _) if skipped[i].is_some() => Step::Same,
                (Op::BatchNorm, _) => Step::Norm,
                (Op::Conv2d { .. } | Op::Slot { .. }, norm) => {
                    let weights = match layer.op {
                        Op::Slot { index, .. } => self.slot_weights(layer, index),
                        _ => vec![self.variable(layer, "weight")],
                    };
                    let mut data = weights.iter().map(|w| cpu(w)).collect::<Result<Vec<_>, _>>().map_err(failed)?;
                    let (mut scale, mut bias) = (None, None);
                    if let Some(j) = norm {
                        skipped[j] = Some(i);
                        let part = |name| cpu(self.variable(&layers[j], name)).map_err(failed);
                        let (factors, shifts) = scale_and_shift(
                            &part("weight")?,
                            &part("bias")?,
                            &part("running_mean")?,
                            &part("running_var")?,
                            EPSILON as f32,
                        );
                        let folded = match layer.op {
                            Op::Slot { index, .. } => fold_scale(&self.nests[index], &mut data, &factors),
                            _ => {
                                let row = data[0].len() / factors.len();
                                data[0].chunks_exact_mut(row).zip(&factors).for_each(|(row, s)| row.iter_mut().for_each(|w| *w *= s));
                                true
                            }
                        };
                        scale = (!folded).then(|| Tensor::from_slice(&factors).view([1, -1, 1, 1]));
                        bias = Some(Tensor::from_slice(&shifts));
                    }
                    let shaped = |(d, w): (&Vec<f32>, &&Tensor)| Tensor::from_slice(d).f_view(&w.size()[..]);
                    let weights = data.iter().zip(&weights).map(shaped).collect::<Result<Vec<_>, _>>().map_err(failed)?;
                    Step::Weighted { weights, scale, bias }
                }
                _ => Step::Plain,
            };
            steps.push(step);
        }
        Ok(Folded { model: self, steps })
    }
}

enum Fill {
    Constant(f32),
    Normal(f64),
}

enum Step {
    /// The value of its input (a batch norm that was folded away).
    Same,
    Norm,
    Weighted {
        weights: Vec<Tensor>,
        scale: Option<Tensor>,
        bias: Option<Tensor>,
    },
    Plain,
}

/// A model for inference on the CPU.
pub(super) struct Folded<'a> {
    model: &'a Model,
    steps: Vec<Step>,
}

impl Folded<'_> {
    /// Logits `[n, classes]`. Values that nobody reads again are overwritten or freed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let layers = &self.model.backbone.layers;
        let mut values: Vec<Option<Tensor>> = Vec::with_capacity(layers.len());
        for (i, (layer, step)) in layers.iter().zip(&self.steps).enumerate() {
            let at = |k: usize| values[layer.inputs[k]].as_ref().unwrap_or(x);
            let last_use = |j: usize| !layers[i + 1..].iter().any(|l| l.inputs.contains(&j));
            let value = match (step, &layer.op) {
                (Step::Same, _) => at(0).shallow_clone(),
                (Step::Norm, _) => {
                    let part = |name| Some(self.model.variable(layer, name));
                    at(0)
                        .f_batch_norm(part("weight"), part("bias"), part("running_mean"), part("running_var"), false, 0.1, EPSILON, true)
                        .map_err(failed)?
                }
                (Step::Weighted { weights, bias, .. }, Op::Conv2d { stride, padding, groups, .. }) => {
                    at(0).f_conv2d(&weights[0], bias.as_ref(), [*stride], [*padding], [1], *groups).map_err(failed)?
                }
                (Step::Weighted { weights, scale, bias }, Op::Slot { index, .. }) => {
                    let mut arguments = vec![at(0)];
                    arguments.extend(weights);
                    let mut y = self.model.ops[*index].forward(&arguments)?;
                    if let Some(scale) = scale {
                        y = y.f_mul(scale).map_err(failed)?;
                    }
                    match bias {
                        Some(bias) => y.f_add(&bias.view([1, -1, 1, 1])).map_err(failed)?,
                        None => y,
                    }
                }
                (_, Op::Linear { .. }) => {
                    at(0).f_linear(self.model.variable(layer, "weight"), Some(self.model.variable(layer, "bias"))).map_err(failed)?
                }
                (_, Op::Relu) if last_use(layer.inputs[0]) && matches!(layers[layer.inputs[0]].op, Op::BatchNorm | Op::Add) => {
                    at(0).shallow_clone().f_relu_().map_err(failed)?
                }
                (_, Op::Relu) => at(0).f_relu().map_err(failed)?,
                _ => self.model.rest(layer, x, at).map_err(failed)?,
            };
            values.push(Some(value));
            for &j in &layer.inputs {
                if last_use(j) {
                    values[j] = None;
                }
            }
        }
        values.pop().flatten().map_or_else(|| invalid("a backbone without layers gives nothing: add layers"), Ok)
    }
}

/// The same pictures with channels innermost in memory, which libtorch's convolutions prefer (1.2 to 1.3 times as fast in training).
pub(super) fn channels_last(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])
}

/// Layers without variables.
fn plain<'a>(layer: &Layer, x: &Tensor, at: impl Fn(usize) -> &'a Tensor) -> Result<Tensor, TchError> {
    match layer.op {
        Op::Add => at(0).f_add(at(1)),
        Op::AvgPool { size } => at(0).f_avg_pool2d([size, size], [size, size], [0, 0], false, true, None),
        Op::MaxPool { size } => at(0).f_max_pool2d([size, size], [size, size], [0, 0], [1, 1], false),
        Op::GlobalAvgPool => at(0).f_mean_dim(&[2i64, 3][..], false, Kind::Float),
        _ => Ok(x.shallow_clone()),
    }
}
