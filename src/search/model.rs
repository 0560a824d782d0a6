//! A whole model as a list of fused kernels: what is tuned, compiled and run as one program.
//!
//! Each convolution, slot or projection takes the batch norm, residual sum and ReLU that follow it into its kernel. A
//! kernel's parameters are tensors of the model or constants made from trained values.

use super::sequence;
use crate::error::{Result, invalid};
use crate::lower::index::Index;
use crate::lower::layout::Stored;
use crate::lower::{self, Access, Epilogue, Expr, Guard, Loop, LoopNest, Reduction, Role, Stage, Tensor, layout};
use crate::synth::{Binding, Operator, stable_hash};
use crate::train::backbone::{Backbone, Kind, Op, Slot};
use crate::train::request::check_slot;
use std::collections::BTreeMap;

/// Added to the variance by batch norm, as in torch.
const BATCH_NORM_EPSILON: f32 = 1e-5;

/// Trained values by name, row-major, as the trainer saves them.
pub type Values = BTreeMap<String, Vec<f32>>;

/// One kernel of a model.
#[derive(Clone, Debug)]
pub struct Call {
    /// The layer it begins with.
    pub layer: String,
    /// The slot it fills.
    pub slot: Option<usize>,
    pub nest: LoopNest,
    /// The model's tensors that the nest's inputs are, in the nest's order.
    pub inputs: Vec<usize>,
    /// What its weights are made of, in the nest's order.
    pub weights: Vec<Constant>,
    /// The model's tensor that it writes.
    pub output: usize,
}

/// A constant parameter of a kernel.
#[derive(Clone, Debug)]
pub enum Constant {
    /// A trained tensor, scaled along one axis by the batch norm of that name; `None` for how it is stored is row-major.
    Weight { name: String, shape: Vec<i64>, scaled: Option<(usize, String)>, stored: Option<Stored> },
    /// A trained vector.
    Vector { name: String },
    /// γ/√(σ² + ε) of a batch norm.
    Scale { norm: String },
    /// β − μ·γ/√(σ² + ε) of a batch norm.
    Shift { norm: String },
}

/// A model: tensors (0 is the input, the last call's output the result) and the kernels that fill them, in order.
/// Images are stored channels last, `[n, h, w, c]`; sequences are `[n, t, c]`.
#[derive(Clone, Debug)]
pub struct Model {
    pub shapes: Vec<Vec<i64>>,
    pub calls: Vec<Call>,
}

impl Call {
    /// What the kernel is tuned as: equal for equal nests, whatever layer they stand in.
    pub fn workload(&self) -> String {
        workload(&self.nest)
    }
}

/// The name under which a nest's measurements are kept: 16 hexadecimal digits.
pub fn workload(nest: &LoopNest) -> String {
    let anonymous = LoopNest { name: String::new(), ..nest.clone() };
    format!("{:016x}", stable_hash(serde_json::to_string(&anonymous).unwrap_or_default().as_bytes()))
}

/// Values of an operator's variables in one slot: batch, channels, image or tokens, and the spec's coefficients.
pub fn binding(slot: &Slot, batch: i64, coefficients: &BTreeMap<String, u32>) -> Binding {
    let mut binding = Binding::of(&[("N", batch), ("Ci", slot.c_in), ("Co", slot.c_out)]);
    let places = match slot.kind {
        Kind::Conv => vec![("H", slot.h), ("W", slot.w)],
        Kind::Projection => vec![("L", slot.h)],
    };
    binding.0.extend(places.into_iter().map(|(name, value)| (name.into(), value)));
    if slot.c_in == slot.c_out {
        binding.0.insert("C".into(), slot.c_in);
    }
    binding.0.extend(coefficients.iter().map(|(name, &value)| (name.clone(), i64::from(value))));
    binding
}

/// The nest of the convolution or projection that a slot is in place of.
pub fn original(slot: &Slot, batch: i64) -> LoopNest {
    match slot.kind {
        Kind::Conv => conv(&slot.input(batch), slot.c_out, 3, slot.stride, 1, 1),
        Kind::Projection => sequence::projection(&slot.input(batch), slot.c_out),
    }
}

impl Model {
    /// The kernels of a backbone with one operator in the chosen slots and what the original has in the others.
    ///
    /// # Errors
    /// A slot that the operator's sizes do not fit (slot and size are named).
    pub fn new(backbone: &Backbone, replaced: &dyn Fn(&Slot) -> Option<(Operator, Binding)>, batch: i64) -> Result<Model> {
        let layers = &backbone.layers;
        let slots = backbone.slots();
        let consumers = |i: usize| (0..layers.len()).filter(|&j| layers[j].inputs.contains(&i)).collect::<Vec<_>>();
        let mut model = Model { shapes: Vec::new(), calls: Vec::new() };
        let mut tensor_of: BTreeMap<usize, usize> = BTreeMap::new();
        for (i, layer) in layers.iter().enumerate() {
            if tensor_of.contains_key(&i) {
                continue;
            }
            let shape = |l: usize| std::iter::once(batch).chain(layers[l].shape.iter().copied()).collect::<Vec<_>>();
            if layer.op == Op::Input {
                model.shapes.push(channels_last(shape(i)));
                tensor_of.insert(i, model.shapes.len() - 1);
                continue;
            }
            let input = |l: usize| match tensor_of.get(&layers[i].inputs[l]) {
                Some(&t) => Ok(t),
                None => invalid(format!("layer {} reads a tensor that is fused away: this backbone's graph is not supported", layer.name)),
            };
            let mut inputs = vec![input(0)?];
            let read = channels_first(&model.shapes[inputs[0]]);
            let mut weights = Vec::new();
            let mut slot = None;
            // which weight has the output's channel as an axis, and which axis that is
            let mut scalable = None;
            let weight = |index: usize| match layer.op {
                Op::Slot { .. } => format!("{}.w{index}", layer.name),
                Op::LayerNorm if index == 1 => format!("{}.bias", layer.name),
                _ => format!("{}.weight", layer.name),
            };
            let nest = match layer.op {
                Op::Input => continue,
                Op::Conv2d { c_out, kernel, stride, padding, groups, .. } => {
                    scalable = Some((0, 0));
                    conv(&read, c_out, kernel, stride, padding, groups)
                }
                Op::Slot { index, .. } => {
                    slot = Some(index);
                    match replaced(&slots[index]) {
                        None => {
                            scalable = Some((0, 0));
                            original(&slots[index], batch)
                        }
                        Some((operator, binding)) => {
                            let channel = operator.outputs()[layout::channel(operator.outputs().len())];
                            let place = |axes: &Vec<_>| axes.iter().position(|&d| d == channel);
                            scalable = operator.weights().iter().enumerate().find_map(|(w, axes)| Some((w, place(axes)?)));
                            let nest = lower::lower(&operator, &binding)?;
                            check_slot(&slots[index], &nest, batch)?;
                            nest
                        }
                    }
                }
                Op::AvgPool { size } => pool(&read, size, Reduction::Sum),
                Op::MaxPool { size } => pool(&read, size, Reduction::Max),
                Op::GlobalAvgPool if read.len() == 3 => sequence::mean(&read),
                Op::GlobalAvgPool => global_average(&read),
                Op::Linear { c_out, .. } if read.len() == 3 => sequence::projection(&read, c_out),
                Op::Linear { c_out, .. } => linear(read[0], read[1], c_out),
                Op::Tokens => sequence::tokens(&read),
                Op::LayerNorm => sequence::layer_norm(&read),
                Op::Attention { n_heads } => sequence::attention(&read, n_heads),
                Op::BatchNorm | Op::Relu | Op::Add => copy(&read),
            };
            let learned = nest.tensors.iter().filter(|t| t.role == Role::Weight);
            weights.extend(learned.enumerate().map(|(w, t)| Constant::Weight {
                name: weight(w),
                shape: t.shape.clone(),
                scaled: None,
                stored: None,
            }));
            let mut epilogue = Epilogue::default();
            let mut last = i;
            // element-wise layers stand for themselves where nothing before them could take them in
            let mut next = match layer.op {
                Op::BatchNorm | Op::Relu | Op::Add => Some(i),
                _ => None,
            };
            if matches!(layer.op, Op::Linear { .. }) {
                epilogue.bias = true;
                weights.push(Constant::Vector { name: format!("{}.bias", layer.name) });
            }
            loop {
                let at = match next.take() {
                    Some(own) => own,
                    None => match consumers(last)[..] {
                        [one] => one,
                        _ => break,
                    },
                };
                let name = layers[at].name.clone();
                match layers[at].op {
                    Op::BatchNorm if !epilogue.bias && !epilogue.residual && !epilogue.relu => {
                        epilogue.bias = true;
                        match scalable {
                            Some((w, axis)) => {
                                if let Some(Constant::Weight { scaled, .. }) = weights.get_mut(w) {
                                    *scaled = Some((axis, name.clone()));
                                }
                            }
                            None => {
                                epilogue.scale = true;
                                weights.push(Constant::Scale { norm: name.clone() });
                            }
                        }
                        weights.push(Constant::Shift { norm: name });
                    }
                    Op::Add if !epilogue.residual && !epilogue.relu => {
                        let sums = &layers[at].inputs;
                        let other = if at == i { sums.get(1) } else { sums.iter().find(|&&l| l != last) };
                        let Some(&tensor) = other.and_then(|l| tensor_of.get(l)) else { break };
                        epilogue.residual = true;
                        inputs.push(tensor);
                    }
                    Op::Relu if !epilogue.relu => epilogue.relu = true,
                    _ => break,
                }
                last = at;
            }
            let channel = layout::channel(nest.tensors[nest.output()].shape.len());
            let (nest, layouts) = layout::for_cpu(&nest.with_epilogue(epilogue, channel), layout::BLOCK);
            let constants = (0..nest.tensors.len()).filter(|&t| nest.tensors[t].role == Role::Weight);
            for (constant, t) in weights.iter_mut().zip(constants) {
                if let Constant::Weight { stored, .. } = constant {
                    *stored = Some(layouts[t].clone());
                }
            }
            model.shapes.push(nest.tensors[nest.output()].shape.clone());
            let output = model.shapes.len() - 1;
            tensor_of.insert(last, output);
            // what was fused has no tensor of its own
            let mut fused = i;
            while fused != last {
                tensor_of.entry(fused).or_insert(usize::MAX);
                fused = consumers(fused)[0];
            }
            model.calls.push(Call { layer: layer.name.clone(), slot, nest, inputs, weights, output });
        }
        Ok(model)
    }

    /// The tensor that holds the model's answer.
    pub fn result(&self) -> usize {
        self.calls.last().map_or(0, |c| c.output)
    }

    /// Multiply-adds of the calls that fill slots.
    pub fn slot_macs(&self) -> u64 {
        let main = |c: &Call| c.nest.stages.iter().filter(|s| s.factors().is_some()).map(Stage::n_macs).sum::<u64>();
        self.calls.iter().filter(|c| c.slot.is_some()).map(main).sum()
    }

    /// Elements of the weights of the calls that fill slots, batch norm left out.
    pub fn slot_params(&self) -> u64 {
        let elements = |c: &Constant| match c {
            Constant::Weight { shape, .. } => shape.iter().product::<i64>() as u64,
            _ => 0,
        };
        self.calls.iter().filter(|c| c.slot.is_some()).flat_map(|c| &c.weights).map(elements).sum()
    }

    /// Distinct workloads with the first call that has each, in order.
    pub fn workloads(&self) -> Vec<(String, &Call)> {
        let mut found: Vec<(String, &Call)> = Vec::new();
        for call in &self.calls {
            let key = call.workload();
            if !found.iter().any(|f| f.0 == key) {
                found.push((key, call));
            }
        }
        found
    }
}

impl Constant {
    /// The values, row-major.
    ///
    /// # Errors
    /// A name that the trained values lack, or one of another size.
    pub fn values(&self, trained: &Values) -> Result<Vec<f32>> {
        let read = |name: &str| match trained.get(name) {
            Some(values) => Ok(values),
            None => invalid(format!("the trained model has no {name}: train it with this version")),
        };
        let scale = |norm: &str| -> Result<Vec<f32>> {
            let (gamma, variance) = (read(&format!("{norm}.weight"))?, read(&format!("{norm}.running_var"))?);
            Ok(gamma.iter().zip(variance).map(|(g, v)| g / (v + BATCH_NORM_EPSILON).sqrt()).collect())
        };
        match self {
            Constant::Vector { name } => Ok(read(name)?.clone()),
            Constant::Scale { norm } => scale(norm),
            Constant::Shift { norm } => {
                let (beta, mean) = (read(&format!("{norm}.bias"))?, read(&format!("{norm}.running_mean"))?);
                Ok(scale(norm)?.iter().zip(beta).zip(mean).map(|((s, b), m)| b - m * s).collect())
            }
            Constant::Weight { name, shape, scaled, stored } => {
                let mut values = read(name)?.clone();
                if values.len() as i64 != shape.iter().product::<i64>() {
                    return invalid(format!(
                        "the trained {name} has {} values, its shape is {shape:?}: train it with this operator",
                        values.len()
                    ));
                }
                if let Some((axis, norm)) = scaled {
                    let scale = scale(norm)?;
                    let inner: usize = shape[axis + 1..].iter().product::<i64>() as usize;
                    for (i, v) in values.iter_mut().enumerate() {
                        *v *= scale[i / inner % scale.len()];
                    }
                }
                Ok(stored.as_ref().map_or_else(|| values.clone(), |s| s.values(&values, shape)))
            }
        }
    }
}

fn channels_last(shape: Vec<i64>) -> Vec<i64> {
    if shape.len() == 4 { vec![shape[0], shape[2], shape[3], shape[1]] } else { shape }
}

fn channels_first(shape: &[i64]) -> Vec<i64> {
    if shape.len() == 4 { vec![shape[0], shape[3], shape[1], shape[2]] } else { shape.to_vec() }
}

pub(super) fn tensor(name: &str, shape: Vec<i64>, role: Role) -> Tensor {
    Tensor { name: name.into(), shape, role }
}

fn loops(parts: &[(&str, i64)]) -> Vec<Loop> {
    parts.iter().map(|&(name, extent)| Loop { name: name.into(), extent }).collect()
}

pub(super) fn load(tensor: usize, index: Vec<Index>) -> Expr {
    Expr::Load(Access { tensor, index })
}

pub(super) fn one_stage(
    name: &str,
    tensors: Vec<Tensor>,
    axes: &[(&str, i64)],
    sums: &[(&str, i64)],
    reduction: Reduction,
    guards: Vec<Guard>,
    body: Expr,
) -> LoopNest {
    let output = tensors.len() - 1;
    let stage = Stage { output, axes: loops(axes), sums: loops(sums), reduction, guards, body };
    LoopNest { name: name.into(), tensors, stages: vec![stage] }
}

/// x[n, ci, h, w], w1[co, ci/groups, k, k] → y[n, co, h', w'].
pub fn conv(x: &[i64], c_out: i64, kernel: i64, stride: i64, padding: i64, groups: i64) -> LoopNest {
    let (n, c_in, h, w) = (x[0], x[1], x[2], x[3]);
    let out = |size: i64| (size + 2 * padding - kernel) / stride + 1;
    let v = Index::Var;
    let (row, column) = (v(2).times(stride).add(v(5)).plus(-padding), v(3).times(stride).add(v(6)).plus(-padding));
    let channel = if groups == 1 { v(4) } else { v(1).over(c_out / groups).times(c_in / groups).add(v(4)) };
    let data = load(0, vec![v(0), channel, row.clone(), column.clone()]);
    let weight = load(1, vec![v(1), v(4), v(5), v(6)]);
    let guards = if padding > 0 { vec![Guard { index: row, extent: h }, Guard { index: column, extent: w }] } else { vec![] };
    let y = [n, c_out, out(h), out(w)];
    let tensors = vec![
        tensor("x", x.to_vec(), Role::Input),
        tensor("w1", vec![c_out, c_in / groups, kernel, kernel], Role::Weight),
        tensor("y", y.to_vec(), Role::Output),
    ];
    let axes = [("n", n), ("o", c_out), ("h", y[2]), ("w", y[3])];
    let sums = [("c", c_in / groups), ("i", kernel), ("j", kernel)];
    one_stage("conv", tensors, &axes, &sums, Reduction::Sum, guards, Expr::Mul(vec![data, weight]))
}

/// Windows of `size`×`size` that do not overlap; `Sum` gives the mean.
fn pool(x: &[i64], size: i64, reduction: Reduction) -> LoopNest {
    let y = [x[0], x[1], x[2] / size, x[3] / size];
    let v = Index::Var;
    let data = load(0, vec![v(0), v(1), v(2).times(size).add(v(4)), v(3).times(size).add(v(5))]);
    let body = match reduction {
        Reduction::Max => data,
        Reduction::Sum => Expr::Mul(vec![data, Expr::Const(1.0 / (size * size) as f32)]),
    };
    let tensors = vec![tensor("x", x.to_vec(), Role::Input), tensor("y", y.to_vec(), Role::Output)];
    let axes = [("n", y[0]), ("o", y[1]), ("h", y[2]), ("w", y[3])];
    one_stage("pool", tensors, &axes, &[("i", size), ("j", size)], reduction, vec![], body)
}

fn global_average(x: &[i64]) -> LoopNest {
    let v = Index::Var;
    let body = Expr::Mul(vec![load(0, (0..4).map(v).collect()), Expr::Const(1.0 / (x[2] * x[3]) as f32)]);
    let tensors = vec![tensor("x", x.to_vec(), Role::Input), tensor("y", x[..2].to_vec(), Role::Output)];
    one_stage("average", tensors, &[("n", x[0]), ("o", x[1])], &[("h", x[2]), ("w", x[3])], Reduction::Sum, vec![], body)
}

fn linear(n: i64, c_in: i64, c_out: i64) -> LoopNest {
    let v = Index::Var;
    let body = Expr::Mul(vec![load(0, vec![v(0), v(2)]), load(1, vec![v(1), v(2)])]);
    let tensors = vec![
        tensor("x", vec![n, c_in], Role::Input),
        tensor("w1", vec![c_out, c_in], Role::Weight),
        tensor("y", vec![n, c_out], Role::Output),
    ];
    one_stage("linear", tensors, &[("n", n), ("o", c_out)], &[("c", c_in)], Reduction::Sum, vec![], body)
}

/// The identity, for element-wise layers that stand alone: they become its epilogue.
fn copy(x: &[i64]) -> LoopNest {
    let names = ["n", "o", "h", "w"];
    let axes: Vec<_> = names.into_iter().zip(x.iter().copied()).collect();
    let tensors = vec![tensor("x", x.to_vec(), Role::Input), tensor("y", x.to_vec(), Role::Output)];
    one_stage("copy", tensors, &axes, &[], Reduction::Sum, vec![], load(0, (0..x.len()).map(Index::Var).collect()))
}
